//! `ottla audit`: proof, from outside, that what was acknowledged is there, once, in order and unharmed.
//!
//! ```text
//!   produce ──records that tell who they are──► topics ──► consume, or anybody's client
//!      │                                          │             │
//!      ▼ what was told of each record             ▼ -b          ▼ what was delivered
//!   produced.jsonl ───────────────────────────► check ◄──── consumed.jsonl, dump.jsonl ──► table, exit code 3
//! ```
//! The files are the format of issue "Hold the line", Build 7, so that other people's programs can write or judge them.
//! The check shares no code with what it judges: value, checksum and partitioner are its own.

mod check;
mod consume;
mod files;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "../../../../tests/fuzz_support/mod.rs"]
mod fuzz_support;
mod ledger;
mod produce;
mod reader;
mod value;
mod view;

use crate::cli::args::AuditCommand;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::Layers;

/// The brokers that a command names.
pub fn bootstrap(command: &AuditCommand) -> Option<&str> {
    match command {
        AuditCommand::Produce(args) => args.bootstrap.as_deref(),
        AuditCommand::Consume(args) => args.bootstrap.as_deref(),
        AuditCommand::Check(args) => args.bootstrap.as_deref(),
    }
}

pub fn run(command: &AuditCommand, layers: &mut Layers, output: &Output) -> Result<(), Failure> {
    match command {
        AuditCommand::Produce(args) => produce::run(args, layers, output),
        AuditCommand::Consume(args) => consume::run(args, layers, output),
        AuditCommand::Check(args) => check::run(args, layers, output),
    }
}
