//! The `ottla` program: arguments → plan → command → output.
//!
//! ```text
//!  args (no side effects) ─► settings (file < KAFKA_* < -X) ─► commands/<name> ─► output (stdout: data, stderr: words)
//! ```
//! Uses the public API only. Exit codes are part of the interface: 0 done, 1 failed, 2 wrong usage or configuration,
//! 3 a check failed. A closed pipe is a normal end.

pub mod args;
mod commands;
mod connect;
mod failure;
mod log;
mod output;
mod record_text;
pub mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::config::Layers;
use args::{Cli, Command, Common};
use failure::Failure;
use output::Output;

/// Runs the program with the process' arguments.
pub fn main() -> ExitCode {
    // clap prints usage errors to stderr with exit code 2, help and version to stdout with 0.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe while printing help is a normal end too.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let output = Output::new(&cli.common);
    log::to_stderr(cli.common.quiet);
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output.error(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let common = &cli.common;
    let settings = |bootstrap: Option<&str>| layers(common, bootstrap, output);
    match cli.command {
        Command::Bench(args) => commands::bench::run(&args, &mut settings(args.bootstrap.as_deref())?, output),
        Command::Produce(args) => commands::produce::run(&args, &mut settings(args.bootstrap.as_deref())?, output),
        Command::Consume(args) => commands::consume::run(&args, &settings(args.bootstrap.as_deref())?, output),
        Command::Audit(args) => {
            let bootstrap = commands::audit::bootstrap(&args).map(str::to_owned);
            commands::audit::run(&args, &mut settings(bootstrap.as_deref())?, output)
        }
        Command::Topics(args) => {
            let bootstrap = commands::topics::brokers(&args).bootstrap.clone();
            commands::topics::run(args, &settings(bootstrap.as_deref())?, output)
        }
        Command::Broker(args) => commands::broker::run(&args, output),
        Command::Proxy(args) => commands::proxy::run(&args, output),
        Command::Config(args) => commands::config::run(args, &settings(None)?, output),
        Command::Doctor => commands::doctor::run(&settings(None)?, output),
        Command::Wire(args) => commands::wire::run(args),
        Command::Batch(args) => commands::batch::run(args, output),
    }
}

/// The settings from all sources. `bootstrap` is a command's own `-b`.
fn layers(common: &Common, bootstrap: Option<&str>, output: &Output) -> Result<Layers, Failure> {
    let mut layers = Layers::new();
    if let Some(path) = &common.config {
        layers.set_file(path)?;
    }
    layers.set_env(std::env::vars_os().filter_map(|(name, value)| {
        // Names that are not text are nobody's settings; a value that is not text is shown as such and refused by its type.
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    }))?;
    for text in &common.settings {
        layers.set_flag(text)?;
    }
    if let Some(servers) = bootstrap {
        layers.set("bootstrap.servers", servers, crate::config::Source::Flag("-b".into()))?;
    }
    for note in layers.notes() {
        output.note(note);
    }
    Ok(layers)
}
