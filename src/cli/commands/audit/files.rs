//! The JSON lines of an audit, read one at a time: a file may be larger than memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// A longer line is no line of ours.
const LINE_BYTES_MAX: u64 = 16 << 20;
const READ_BYTES: usize = 256 << 10;

/// A line of `audit produce`: the first one has `run` and the fields behind it, the others tell of a record (`p`, `s`) or of
/// a transaction (`x`, `o`).
#[derive(Deserialize)]
pub struct Produced<'a> {
    #[serde(borrow)]
    pub run: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub mode: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub partitioner: Option<Cow<'a, str>>,
    pub topics: Option<BTreeMap<String, i32>>,
    pub p: Option<u32>,
    pub s: Option<u64>,
    #[serde(borrow)]
    pub t: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub k: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub x: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub o: Option<Cow<'a, str>>,
    pub part: Option<i32>,
    pub off: Option<i64>,
}

/// A line of `audit consume`: a record, or with `commit` an acknowledged commit.
#[derive(Deserialize)]
pub struct Consumed<'a> {
    #[serde(borrow)]
    pub r: Option<Cow<'a, str>>,
    /// Which consumer; a number or a name.
    #[serde(default)]
    pub c: serde_json::Value,
    /// Which assignment of that consumer; a number or a name.
    #[serde(default)]
    pub e: serde_json::Value,
    #[serde(default)]
    pub commit: bool,
    #[serde(borrow)]
    pub t: Cow<'a, str>,
    pub part: i32,
    pub off: i64,
    pub p: Option<u32>,
    pub s: Option<u64>,
    /// What is wrong with the record, if anything.
    #[serde(borrow)]
    pub bad: Option<Cow<'a, str>>,
}

/// A line of `kcat -C -J`.
#[derive(Deserialize)]
pub struct Dumped<'a> {
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    pub partition: i32,
    pub offset: i64,
    #[serde(borrow)]
    pub key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub payload: Option<Cow<'a, str>>,
}

/// Calls `each` with every line of a file (`-`: standard input).
///
/// # Errors
/// Names file and line of what cannot be read. A last line without an end that makes no sense is what a killed program
/// leaves behind: it is skipped with a note.
pub fn read(path: &Path, output: &Output, mut each: impl FnMut(&[u8]) -> Result<(), LineError>) -> Result<(), Failure> {
    let place = |line: u64| format!("{}:{line}", path.display());
    let (source, bytes): (Box<dyn Read>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), 0)
    } else {
        let file = File::open(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
        let bytes = file.metadata()?.len();
        (Box::new(file), bytes)
    };
    let bar = output.progress_bytes(&path.file_name().unwrap_or_default().to_string_lossy(), bytes);
    let mut source = BufReader::with_capacity(READ_BYTES, source);
    let mut line = Vec::new();
    let (mut number, mut unshown) = (0u64, 0u64);
    loop {
        line.clear();
        let count = Read::take(&mut source, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        number += 1;
        unshown += count as u64;
        // The bar moves in steps: asking it for every line would cost more than the line.
        if number.is_multiple_of(1_024) {
            bar.inc(std::mem::take(&mut unshown));
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && count as u64 == LINE_BYTES_MAX {
            return Err(Failure::Failed(format!("{}: longer than {LINE_BYTES_MAX} bytes", place(number))));
        }
        if line.is_empty() {
            continue;
        }
        match each(&line) {
            Ok(()) => {}
            Err(LineError::Json(error)) if !whole => {
                output.note(&format!("{}: skipped, it has no end ({error})", place(number)));
            }
            Err(LineError::Json(error)) => return Err(Failure::Failed(format!("{}: {error}", place(number)))),
            Err(LineError::Words(words)) => return Err(Failure::Failed(format!("{}: {words}", place(number)))),
            Err(LineError::Failure(failure)) => return Err(failure),
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Why a line was not taken.
pub enum LineError {
    /// It is not the JSON that was expected.
    Json(serde_json::Error),
    /// Its content cannot be.
    Words(String),
    /// The command ends here.
    Failure(Failure),
}

impl From<serde_json::Error> for LineError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}
