//! `ottla bench`: the workload of features §6.1, sent, read back, every record compared.
//!
//! ```text
//!  broker in a process of its own (or -b) ◄── produce phase ── consume phase ──► verifier ──► table or JSON
//! ```
//! What is timed: from the first record to the end of the flush; from the first poll to the last record. CPU is that of
//! this process over the phase, the broker's is apart.

mod child;
mod meter;
mod pace;
mod phases;
mod report;
mod sum;
mod verify;

use std::time::Duration;

use crate::admin::{AdminError, NewTopic, OffsetSpec};
use crate::cli::args::{BenchArgs, Phase};
use crate::cli::connect::{Session, engine, engine_local};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{IsolationLevel, Layers, Source};
use crate::wire::ErrorCode;
use child::BrokerChild;
use report::Report;

/// What a phase needs to know.
struct Plan<'a> {
    args: &'a BenchArgs,
    layers: &'a Layers,
    output: &'a Output,
    partitions: i32,
    broker_pid: Option<u32>,
}

impl Plan<'_> {
    fn stall(&self) -> Duration {
        Duration::from_secs(self.args.stall_seconds.max(1))
    }
}

/// Settings of the workload where the user gave none of his own.
fn defaults(args: &BenchArgs, layers: &mut Layers) -> Result<(), Failure> {
    let linger = args.linger_ms.map(|linger| linger.to_string());
    let count = args.batch_messages.map(|count| count.to_string());
    let settings = [
        ("compression.type", "--compression", args.compression.as_deref(), "lz4"),
        ("acks", "--acks", args.acks.as_deref(), "all"),
        ("linger.ms", "--linger-ms", linger.as_deref(), "100"),
        ("batch.num.messages", "--batch-messages", count.as_deref(), "10000"),
    ];
    for (key, flag, given, default) in settings {
        match given {
            Some(value) => layers.set(key, value, Source::Flag(flag.into()))?,
            None if !layers.is_set(key) => layers.set(key, default, Source::Flag("bench".into()))?,
            None => {}
        }
    }
    Ok(())
}

pub fn run(args: &BenchArgs, layers: &mut Layers, output: &Output) -> Result<(), Failure> {
    defaults(args, layers)?;
    layers.producer()?;
    layers.consumer()?;
    if args.local && args.lanes > 1 {
        return Err(Failure::Usage("bench --local: one thread sends, so there is one lane".into()));
    }
    if args.lanes > 1 && (args.rate.is_some() || args.waited) {
        return Err(Failure::Usage("bench --rate and --waited send from one lane".into()));
    }
    if args.catch_up && args.phase != Phase::Consume {
        return Err(Failure::Usage("bench --catch-up: others write, so it goes with consume".into()));
    }
    let child = if args.bootstrap.is_none() && !layers.is_set("bootstrap.servers") {
        if args.phase == Phase::Consume {
            return Err(Failure::Usage("bench consume: an embedded broker would be empty; give -b HOST:PORT".into()));
        }
        let child = BrokerChild::start(false)?;
        layers.set("bootstrap.servers", child.bootstrap(), Source::Flag("embedded broker".into()))?;
        Some(child)
    } else {
        None
    };
    let session = if args.local { engine_local(layers)? } else { engine(layers)? };
    let (partitions, starts) = topic(&session, args)?;
    let broker_pid = child.as_ref().map(BrokerChild::pid).or(args.broker_pid);
    let plan = Plan { args, layers, output, partitions, broker_pid };
    let mut report = Report::new(&plan, &session)?;
    let mut base_ms = None;
    if args.phase != Phase::Consume {
        let (row, base) = phases::produce(&plan, &session)?;
        base_ms = Some(base);
        report.add(row);
    }
    let mut verdict = Ok(());
    if args.phase != Phase::Produce {
        let starts = if args.phase == Phase::Both { starts } else { vec![None; starts.len()] };
        let (row, checked) = phases::consume(&plan, &session, &starts, base_ms)?;
        report.add(row);
        verdict = checked;
    }
    report.print(output)?;
    drop(session);
    if let Some(child) = child.filter(|_| args.keep_broker) {
        keep(&child, args, output);
    }
    verdict.map_err(Failure::Check)
}

/// Lets others look at the broker until whoever started us closes our standard input.
fn keep(child: &BrokerChild, args: &BenchArgs, output: &Output) {
    output.note(&format!(
        "the broker stays at {}, topic {}, until standard input ends (Ctrl-D)",
        child.bootstrap(),
        args.topic
    ));
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
}

/// The topic's partitions, created if need be, and where each ends now.
fn topic(session: &Session, args: &BenchArgs) -> Result<(i32, Vec<Option<i64>>), Failure> {
    let admin = session.admin();
    let wanted = NewTopic::new(args.topic.as_str(), i32::try_from(args.partitions).unwrap_or(i32::MAX));
    let describe = || -> Result<Option<i32>, Failure> {
        let described = admin.describe_topics([args.topic.as_str()]).wait().map_err(Failure::failed)?;
        match described.into_iter().next().map(|(_, outcome)| outcome) {
            Some(Ok(info)) => Ok(Some(i32::try_from(info.partitions.len()).unwrap_or(i32::MAX))),
            Some(Err(AdminError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. })) | None => Ok(None),
            Some(Err(error)) => Err(Failure::failed(error)),
        }
    };
    let partitions = match describe()? {
        Some(partitions) => partitions,
        None => {
            let created = admin.create_topics([wanted], false).wait().map_err(Failure::failed)?;
            for (_, outcome) in created {
                match outcome {
                    // Somebody made it a moment ago, and the broker that was asked had not heard of it yet.
                    Ok(_) | Err(AdminError::Broker { code: ErrorCode::TopicAlreadyExists, .. }) => {}
                    Err(error) => return Err(Failure::failed(error)),
                }
            }
            // Creation takes a moment to reach every broker; this waits for the metadata that the phases need anyway.
            let info = session.topic_info(&args.topic, session.settings().default_api_timeout);
            info.map_err(Failure::failed)?.partition_count()
        }
    };
    let specs: Vec<_> = (0..partitions).map(|index| (args.topic.as_str(), index, OffsetSpec::Latest)).collect();
    let ends = admin.list_offsets(specs, IsolationLevel::ReadUncommitted).wait().map_err(Failure::failed)?;
    let mut starts = Vec::with_capacity(ends.len());
    for (_, end) in ends {
        starts.push(end.map_err(Failure::failed)?.offset);
    }
    Ok((partitions, starts))
}
