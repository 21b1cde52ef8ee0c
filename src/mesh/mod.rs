//! Between cores: lanes, completions, commands, snapshots, the ownership table.

pub mod command;
pub mod entry;
