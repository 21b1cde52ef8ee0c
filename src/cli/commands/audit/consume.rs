//! `ottla audit consume`: one line for every record, in the order of delivery.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::reader::{self, Until};
use super::value::Value;
use crate::cli::args::AuditConsumeArgs;
use crate::cli::connect::{Session, engine};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, grouped};
use crate::config::Layers;
use crate::consumer::Record;

/// Bytes gathered before they are written.
const OUT_BYTES: usize = 256 << 10;

pub fn run(args: &AuditConsumeArgs, layers: &Layers, output: &Output) -> Result<(), Failure> {
    if let Some(protocol) = args.protocol.as_deref().filter(|protocol| *protocol == "share") {
        return Err(Failure::Usage(format!("--protocol {protocol} comes later: share groups are not there yet")));
    }
    if args.group.is_some() || args.protocol.is_some() {
        return Err(Failure::Usage("--group comes later: consumer groups are not there yet; try --assign".into()));
    }
    let settings = layers.consumer()?;
    let session = engine(layers)?;
    let assignment = assignment(args, &session)?;
    let time = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let until = match (args.exit, args.exit_with_stdin) {
        (true, _) => Until { time, ..Until::end() },
        (_, true) => Until { time, end: Some(reader::stdin_ended()) },
        _ => Until { time, end: None },
    };
    let file = File::create(&args.out).map_err(|error| Failure::Failed(format!("{}: {error}", args.out.display())))?;
    let mut writer =
        Writer { consumer: args.consumer, out: BufWriter::with_capacity(OUT_BYTES, file), records: 0, bad: 0 };
    let read = reader::read(&session, settings, &assignment, &until, output, |record| writer.write(record));
    // What was read is written whatever ended the reading.
    writer.out.flush()?;
    read?;
    if output.json {
        output.json(&json!({"records": writer.records, "bad": writer.bad}))
    } else {
        output.text(&format!("{} records, {} of them bad", grouped(writer.records), grouped(writer.bad)))
    }
}

/// The partitions to read: those given, or all of the topics.
fn assignment(args: &AuditConsumeArgs, session: &Session) -> Result<Vec<(String, i32)>, Failure> {
    if !args.assign.is_empty() {
        return Ok(args.assign.clone());
    }
    let described = session.admin().describe_topics(args.topics.iter().cloned()).wait().map_err(Failure::failed)?;
    let mut all = Vec::new();
    for (topic, info) in described {
        let info = info.map_err(Failure::failed)?;
        all.extend(info.partitions.iter().map(|partition| (topic.clone(), partition.index)));
    }
    Ok(all)
}

struct Writer {
    consumer: u32,
    out: BufWriter<File>,
    records: u64,
    bad: u64,
}

impl Writer {
    fn write(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
        let Self { consumer, out, records, bad } = self;
        *records += 1;
        // Names of topics and runs need no escapes: Kafka allows letters, digits, . _ - and so do we. A manual assignment
        // is one session for good.
        match Value::of_record(topic, partition, record.key(), record.value()) {
            Ok(Value { run, producer, seq, .. })
                if run.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') =>
            {
                writeln!(
                    out,
                    r#"{{"r":"{run}","c":{consumer},"e":0,"t":"{topic}","part":{partition},"off":{offset},"p":{producer},"s":{seq}}}"#
                )?
            }
            said => {
                *bad += 1;
                let fault = said.map_or_else(|fault| fault.name(), |_| "format");
                writeln!(
                    out,
                    r#"{{"r":null,"c":{consumer},"e":0,"t":"{topic}","part":{partition},"off":{offset},"p":null,"s":null,"bad":"{fault}"}}"#
                )?;
            }
        }
        Ok(())
    }
}
