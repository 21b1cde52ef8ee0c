//! `ottla produce`: lines from standard input, one record each.

use std::io::{self, BufRead};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::cli::args::ProduceArgs;
use crate::cli::connect::engine;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::record_text::Given;
use crate::config::{Layers, Source};
use crate::producer::{DeliveryError, DeliveryResult, Lane, Reason, Record};

/// A line longer than this is no record.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What came of the records so far.
#[derive(Default)]
struct Tally {
    delivered: u64,
    lost: u64,
    first_error: Option<DeliveryError>,
}

impl Tally {
    fn count(&mut self, result: &DeliveryResult) {
        match result {
            Ok(_) => self.delivered += 1,
            Err(error) => {
                self.lost += 1;
                self.first_error.get_or_insert(*error);
            }
        }
    }
}

pub fn run(args: &ProduceArgs, layers: &mut Layers, output: &Output) -> Result<(), Failure> {
    if let Some(codec) = &args.compression {
        layers.set("compression.type", codec, Source::Flag("-z".into()))?;
    }
    if args.partition.is_some_and(|partition| partition < 0) {
        return Err(Failure::Usage("-p: expected a partition of 0 or more".into()));
    }
    let settings = layers.producer()?;
    let headers: Vec<(String, Option<Vec<u8>>)> = args
        .headers
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.as_bytes().to_vec())),
            None => (text.clone(), None),
        })
        .collect();
    let session = engine(layers)?;
    let wait = settings.delivery_timeout + Duration::from_secs(1);
    let producer = session.producer().settings(settings).build().map_err(Failure::failed)?;
    let mut lane = producer.lane();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    let mut number = 0u64;
    let outcome = loop {
        line.clear();
        // One byte more than allowed tells a line that is too long from one that just fits.
        let limit = LINE_BYTES_MAX as u64 + 1;
        match io::Read::take(&mut input, limit).read_until(b'\n', &mut line) {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(Failure::Io(error)),
        }
        if line.len() > LINE_BYTES_MAX {
            break Err(Failure::Failed(format!("line {}: longer than {LINE_BYTES_MAX} bytes", number + 1)));
        }
        number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let given = if args.from_json {
            std::str::from_utf8(&line).map_err(|error| error.to_string()).and_then(Given::parse)
        } else {
            Ok(plain(args, &line))
        };
        let sent = given.and_then(|given| send(&mut lane, args, &headers, &given, &tally));
        if let Err(error) = sent {
            break Err(Failure::Failed(format!("line {number}: {error}")));
        }
        lane.poll();
    };
    let flushed = lane.flush(wait);
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if output.json {
        output.json(&json!({"sent": number, "delivered": tally.delivered, "lost": tally.lost}))?;
    }
    outcome?;
    flushed.map_err(Failure::failed)?;
    match &tally.first_error {
        Some(error) => {
            let lost = format!("{} of {number} records were not delivered; first: {error}", tally.lost);
            // What stood in the way when the time was up.
            let trouble = session.trouble().filter(|_| is_late(*error));
            Err(Failure::Failed(trouble.map_or(lost.clone(), |trouble| format!("{lost}; {trouble}"))))
        }
        None => Ok(()),
    }
}

/// Whether a record's time passed because nobody could be asked or answered.
fn is_late(error: DeliveryError) -> bool {
    let (DeliveryError::Failed(reason) | DeliveryError::Unknown(reason)) = error;
    matches!(reason, Reason::NoMetadata | Reason::Timeout(_) | Reason::ConnectionLost)
}

/// A record of a plain line.
fn plain(args: &ProduceArgs, line: &[u8]) -> Given {
    let split = args.key_separator.as_deref().filter(|separator| !separator.is_empty()).and_then(|separator| {
        let separator = separator.as_bytes();
        let at = line.windows(separator.len()).position(|window| window == separator)?;
        Some((line[..at].to_vec(), line[at + separator.len()..].to_vec()))
    });
    let (key, value) = match split {
        Some((key, value)) => (Some(key), value),
        None => (None, line.to_vec()),
    };
    let value = (!(args.empty_is_null && value.is_empty())).then_some(value);
    Given { key, value, ..Given::default() }
}

fn send(
    lane: &mut Lane,
    args: &ProduceArgs,
    headers: &[(String, Option<Vec<u8>>)],
    given: &Given,
    tally: &Arc<Mutex<Tally>>,
) -> Result<(), String> {
    let mut record =
        Record::to(args.topic.as_str()).key_or_null(given.key.as_deref()).value_or_null(given.value.as_deref());
    for (name, value) in headers.iter().chain(&given.headers) {
        record = record.header_or_null(name, value.as_deref());
    }
    if let Some(partition) = given.partition.or(args.partition) {
        record = record.partition(partition);
    }
    if let Some(timestamp) = given.timestamp {
        record = record.timestamp(timestamp);
    }
    let tally = Arc::clone(tally);
    let count = move |result: DeliveryResult| tally.lock().unwrap_or_else(PoisonError::into_inner).count(&result);
    lane.send_with(record, count).map_err(|rejected| rejected.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(separator: Option<&str>, empty_is_null: bool) -> ProduceArgs {
        ProduceArgs {
            bootstrap: None,
            topic: "t".into(),
            key_separator: separator.map(Into::into),
            headers: Vec::new(),
            compression: None,
            partition: None,
            from_json: false,
            empty_is_null,
        }
    }

    #[test]
    fn lines_are_split_at_the_first_separator() {
        let given = plain(&args(Some("::"), false), b"k::v::w");
        assert_eq!((given.key.as_deref(), given.value.as_deref()), (Some(b"k".as_slice()), Some(b"v::w".as_slice())));
        let given = plain(&args(Some(":"), true), b":");
        assert_eq!((given.key.as_deref(), given.value), (Some(b"".as_slice()), None));
        let given = plain(&args(None, false), b"");
        assert_eq!((given.key, given.value.as_deref()), (None, Some(b"".as_slice())));
    }
}
