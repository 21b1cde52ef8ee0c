//! The control thread: metadata, producer ids; publishes snapshots.
