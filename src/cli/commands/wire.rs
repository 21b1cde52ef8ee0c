//! `ottla wire decode`: JSON lines of message bytes in, their fields out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use crate::cli::args::WireCommand;
use crate::cli::failure::Failure;

pub fn run(command: WireCommand) -> Result<(), Failure> {
    let WireCommand::Decode { file } = command;
    let input: Box<dyn BufRead> = match &file {
        Some(path) => Box::new(BufReader::new(
            File::open(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?,
        )),
        None => Box::new(io::stdin().lock()),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in input.lines() {
        let line = line?;
        if !line.trim().is_empty() {
            writeln!(out, "{}", crate::wire::any::decode_line(&line))?;
        }
    }
    out.flush()?;
    Ok(())
}
