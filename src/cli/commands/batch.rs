//! `ottla batch dump`: batches and records of a log segment, or of bytes, for human eyes or as JSON lines.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::batch::dump::{Dumped, dump};
use crate::cli::args::BatchCommand;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::wire::any::unhex;

/// A segment larger than this is not read: Kafka's own limit is 2 GiB.
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

pub fn run(command: BatchCommand, output: &Output) -> Result<(), Failure> {
    let BatchCommand::Dump { file } = command;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let bad = match &file {
        Some(path) => print(&segment(path)?, output.json, &mut out)?,
        None => {
            let mut bad = 0;
            for (number, line) in io::stdin().lock().lines().enumerate() {
                let line = line?;
                if line.trim().is_empty() {
                    continue;
                }
                match bytes_of(&line) {
                    Ok(bytes) => bad += print(&bytes, output.json, &mut out)?,
                    Err(error) => {
                        bad += 1;
                        if output.json {
                            writeln!(out, "{}", json!({"line": number + 1, "error": error}))?;
                        } else {
                            writeln!(out, "line {}: {error}", number + 1)?;
                        }
                    }
                }
            }
            bad
        }
    };
    out.flush()?;
    match bad {
        0 => Ok(()),
        bad => Err(Failure::Check(format!("{bad} batches are damaged or cut short"))),
    }
}

fn segment(path: &Path) -> Result<Vec<u8>, Failure> {
    let fail = |error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > SEGMENT_BYTES_MAX {
        return Err(Failure::Failed(format!("{}: {size} bytes are more than a segment holds", path.display())));
    }
    std::fs::read(path).map_err(fail)
}

/// The bytes of a line `{"hex":".."}`.
fn bytes_of(line: &str) -> Result<Vec<u8>, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let hex = value.get("hex").and_then(Value::as_str).ok_or("expected {\"hex\":\"..\"}")?;
    unhex(hex).ok_or_else(|| "expected an even number of hex digits".to_owned())
}

/// Prints all batches and says how many are not good.
fn print(bytes: &[u8], json: bool, out: &mut impl Write) -> Result<u64, Failure> {
    let mut bad = 0;
    for dumped in dump(bytes) {
        let good = match &dumped {
            Dumped::Batch(batch) => batch.crc_ok && batch.error.is_none(),
            // Preallocated segments end in zeros, active ones in a part of a batch: shown, and no damage.
            Dumped::Partial { .. } => true,
            Dumped::Bad { .. } => false,
        };
        bad += u64::from(!good);
        if json {
            writeln!(out, "{}", dumped.to_json())?;
        } else {
            writeln!(out, "{dumped}")?;
        }
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_lines_are_read_and_refused_with_words() {
        assert_eq!(bytes_of("{\"hex\":\"00fF\"}"), Ok(vec![0, 255]));
        for bad in ["{}", "{\"hex\":\"0\"}", "{\"hex\":\"zz\"}", "x"] {
            assert!(bytes_of(bad).is_err(), "{bad}");
        }
    }
}
