//! `ottla consume`: records of a topic's partitions, printed. Manual assignment: no group is involved.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::admin::OffsetSpec;
use crate::cli::args::{ConsumeArgs, Start};
use crate::cli::connect::{Session, engine};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::record_text::{Format, Shown};
use crate::config::{Layers, StartAt};
use crate::consumer::{ConsumeError, Record};

/// Bytes gathered before they are written.
const OUT_BYTES: usize = 64 << 10;

pub fn run(args: &ConsumeArgs, layers: &Layers, output: &Output) -> Result<(), Failure> {
    let format = Format::parse(&args.format).map_err(|error| Failure::Usage(format!("-f {error}")))?;
    let settings = layers.consumer()?;
    let isolation = settings.isolation_level;
    let session = engine(layers)?;
    let partitions = partitions(&session, &args.topic, args.partition)?;
    // Where each partition ends now; only looked at with -e.
    let mut open = BTreeMap::new();
    if args.exit {
        let specs = partitions.iter().map(|partition| (args.topic.as_str(), *partition, OffsetSpec::Latest));
        let ends =
            session.admin().list_offsets(specs.collect::<Vec<_>>(), isolation).wait().map_err(Failure::failed)?;
        for ((_, partition), end) in ends {
            open.insert(partition, end.map_err(Failure::failed)?.offset.unwrap_or(0));
        }
    }
    let start = match args.offset {
        Start::Beginning => StartAt::Earliest,
        Start::End => StartAt::Latest,
        Start::Offset(offset) => StartAt::Offset(offset),
        Start::Millis(millis) => StartAt::Timestamp(millis),
    };
    if args.exit && args.offset == Start::End || args.count == Some(0) {
        return Ok(());
    }
    let assignment = partitions.iter().map(|partition| (args.topic.as_str(), *partition, start));
    let mut consumer = session.consumer().settings(settings).assign(assignment).build().map_err(Failure::failed)?;
    let mut printer = Printer { format, json: output.json, out: Vec::with_capacity(OUT_BYTES), stdout: io::stdout() };
    let mut left = args.count;
    // Partitions that are at their end already send nothing: asked for their position when nothing comes.
    loop {
        if args.exit {
            open.retain(|partition, end| {
                !matches!(consumer.position(&args.topic, *partition), Ok(Some(position)) if position >= *end)
            });
            if open.is_empty() {
                break;
            }
        }
        let wait = if printer.out.is_empty() { Duration::from_millis(200) } else { Duration::ZERO };
        let batch = match consumer.next(wait) {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                printer.flush()?;
                continue;
            }
            Err(ConsumeError::Refused { stopped: false, topic, partition, why }) => {
                output.note(&format!("{topic}-{partition}: {why}; trying again"));
                continue;
            }
            Err(error) => {
                printer.flush()?;
                return Err(Failure::failed(error));
            }
        };
        for record in &batch {
            if args.exit && open.get(&record.partition()).is_none_or(|end| record.offset() >= *end) {
                continue;
            }
            printer.print(&record)?;
            if let Some(left) = &mut left {
                *left -= 1;
                if *left == 0 {
                    return printer.flush();
                }
            }
        }
    }
    printer.flush()
}

/// The partitions to read.
fn partitions(session: &Session, topic: &str, wanted: Option<i32>) -> Result<Vec<i32>, Failure> {
    // Described, not just named: asking must not create the topic.
    let described = session.admin().describe_topics([topic]).wait().map_err(Failure::failed)?;
    let info = match described.into_iter().next() {
        Some((_, outcome)) => outcome.map_err(Failure::failed)?,
        None => return Err(Failure::Failed(format!("{}: no answer", topic.escape_debug()))),
    };
    let count = i32::try_from(info.partitions.len()).unwrap_or(i32::MAX);
    match wanted {
        Some(partition) if (0..count).contains(&partition) => Ok(vec![partition]),
        Some(partition) => Err(Failure::Usage(format!("-p {partition}: {topic} has {count} partitions"))),
        None => Ok((0..count).collect()),
    }
}

struct Printer {
    format: Format,
    json: bool,
    out: Vec<u8>,
    stdout: io::Stdout,
}

impl Printer {
    fn print(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let headers = record.headers().map(|header| header.map(|header| (header.key, header.value)));
        let shown = Shown {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp: record.timestamp(),
            key: record.key(),
            value: record.value(),
            headers: headers.collect::<Result<_, _>>().map_err(Failure::failed)?,
        };
        if self.json {
            self.out.extend_from_slice(shown.to_json().to_string().as_bytes());
            self.out.push(b'\n');
        } else {
            self.format.write(&shown, &mut self.out);
        }
        if self.out.len() >= OUT_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(&self.out)?;
        stdout.flush()?;
        self.out.clear();
        Ok(())
    }
}
