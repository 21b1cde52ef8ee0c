//! One core: its loop, its links, its produce and fetch lanes.
