//! Between cores: lanes, completions, commands, snapshots, the ownership table.
