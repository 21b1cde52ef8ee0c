//! `ottla audit check`: the produce file against each reading of the topics.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::files::{self, Consumed, Dumped};
use super::ledger::Ledger;
use super::reader::{self, Until};
use super::value::Value;
use super::view::{Findings, Sighting, View};
use crate::cli::args::AuditCheckArgs;
use crate::cli::connect::engine;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, grouped};
use crate::config::Layers;

/// A row of the table.
struct Line {
    name: &'static str,
    /// Whether the mode promises that it is 0.
    promised: bool,
    count: fn(&Findings) -> u64,
}

const fn line(name: &'static str, promised: bool, count: fn(&Findings) -> u64) -> Line {
    Line { name, promised, count }
}

fn lines(idempotent: bool) -> [Line; 12] {
    [
        line("records", false, |found| found.records),
        line("lost", true, |found| found.lost),
        line("duplicated", idempotent, |found| found.duplicated),
        line("reordered", idempotent, |found| found.reordered),
        line("corrupt", true, |found| found.corrupt),
        line("misplaced", true, |found| found.misplaced),
        line("fail_present", true, |found| found.fail_present),
        line("elsewhere", true, |found| found.elsewhere),
        line("unlisted", true, |found| found.unlisted),
        line("unknown_present", false, |found| found.unknown_present),
        line("again", false, |found| found.again),
        line("other_runs", false, |found| found.other_runs),
    ]
}

pub fn run(args: &AuditCheckArgs, layers: &Layers, output: &Output) -> Result<(), Failure> {
    if args.bootstrap.is_none() && args.consumed.is_empty() && args.dumps.is_empty() {
        return Err(Failure::Usage("nothing to compare with: give -b, --consumed or --dump".into()));
    }
    let ledger = Ledger::read(&args.produced, output)?;
    let mut views = Vec::new();
    if args.bootstrap.is_some() {
        views.push(("topics", from_topics(&ledger, layers, output)?));
    }
    if !args.dumps.is_empty() {
        views.push(("dump", from_dumps(&ledger, &args.dumps, output)?));
    }
    if !args.consumed.is_empty() {
        views.push(("consumed", from_consumed(&ledger, &args.consumed, output)?));
    }
    report(args, &ledger, &views, output)
}

fn report(
    args: &AuditCheckArgs,
    ledger: &Ledger,
    views: &[(&'static str, Findings)],
    output: &Output,
) -> Result<(), Failure> {
    let lines = lines(ledger.is_idempotent());
    let mut broken = Vec::new();
    let mut promise = |name: String, count: u64| {
        if count > 0 {
            broken.push(format!("{name} {}", grouped(count)));
        }
    };
    promise("records without an outcome".into(), ledger.untold);
    promise("records with two outcomes".into(), ledger.twice);
    if let Some(wanted) = args.records {
        promise("records more or fewer than --records".into(), ledger.records.abs_diff(wanted));
    }
    if args.all_ok {
        promise("fail".into(), ledger.fail);
        promise("unknown".into(), ledger.unknown);
    }
    for (view, found) in views {
        for line in lines.iter().filter(|line| line.promised) {
            promise(format!("{} ({view})", line.name), (line.count)(found));
        }
    }
    let examples = ledger.examples.iter().chain(views.iter().flat_map(|(_, found)| &found.examples));
    if output.json {
        let views: BTreeMap<_, BTreeMap<_, _>> = views
            .iter()
            .map(|(view, found)| (view, lines.iter().map(|line| (line.name, (line.count)(found))).collect()))
            .collect();
        output.json(&json!({
            "run": ledger.run,
            "mode": ledger.mode,
            "produced": {
                "records": ledger.records,
                "ok": ledger.ok,
                "fail": ledger.fail,
                "unknown": ledger.unknown,
                "untold": ledger.untold,
                "twice": ledger.twice,
            },
            "views": views,
            "broken": broken,
            "examples": examples.collect::<Vec<_>>(),
        }))?;
    } else {
        output.text(&format!(
            "run {}, {}: {} records produced: {} ok, {} fail, {} unknown, {} without an outcome",
            ledger.run,
            ledger.mode,
            grouped(ledger.records),
            grouped(ledger.ok),
            grouped(ledger.fail),
            grouped(ledger.unknown),
            grouped(ledger.untold)
        ))?;
        let header: Vec<&str> =
            std::iter::once("").chain(views.iter().map(|(view, _)| *view)).chain(["promise"]).collect();
        let rows = lines
            .iter()
            .map(|line| {
                let counts: Vec<u64> = views.iter().map(|(_, found)| (line.count)(found)).collect();
                let verdict = match (line.promised, counts.iter().all(|count| *count == 0)) {
                    (false, _) => "",
                    (true, true) => "kept",
                    (true, false) => "BROKEN",
                };
                let mut row = vec![line.name.replace('_', " ")];
                row.extend(counts.into_iter().map(grouped));
                row.push(verdict.to_owned());
                row
            })
            .collect();
        let right: Vec<usize> = (1..=views.len()).collect();
        output.table(&header, &right, rows)?;
        for example in examples {
            output.text(example)?;
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::Check(format!("promises broken: {}", broken.join(", ")))) }
}

/// Reads the topics from their beginning to the end that they have now.
fn from_topics(ledger: &Ledger, layers: &Layers, output: &Output) -> Result<Findings, Failure> {
    let session = engine(layers)?;
    let all = ledger.topics.iter().flat_map(|(topic, partitions)| (0..*partitions).map(|index| (topic.clone(), index)));
    let assignment: Vec<(String, i32)> = all.collect();
    let mut view = View::new(ledger);
    let bar = output.progress("topics", ledger.records);
    reader::read(&session, layers.consumer()?, &assignment, &Until::end(), output, |record| {
        let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
        judge(&mut view, topic, partition, offset, record.key(), record.value());
        if offset % 4_096 == 4_095 {
            bar.inc(4_096);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(view.finish())
}

/// A record with its value: read by the check itself.
fn judge(view: &mut View<'_>, topic: &str, partition: i32, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
    match Value::of_record(topic, partition, key, value) {
        Ok(said) if said.run != view.run() => view.other_run(),
        Ok(said) => {
            let (producer, seq) = (said.producer, said.seq);
            view.see(&Sighting { topic, partition, offset, producer, seq, session: 0 });
        }
        Err(fault) => view.corrupt(fault.name(), topic, partition, offset),
    }
}

pub(super) fn from_dumps(ledger: &Ledger, paths: &[PathBuf], output: &Output) -> Result<Findings, Failure> {
    let mut view = View::new(ledger);
    for path in paths {
        files::read(path, output, |line| {
            let line: Dumped<'_> = serde_json::from_slice(line)?;
            let (key, value) = (line.key.as_deref(), line.payload.as_deref());
            let (key, value) = (key.map(str::as_bytes), value.map(str::as_bytes));
            judge(&mut view, &line.topic, line.partition, line.offset, key, value);
            Ok(())
        })?;
    }
    Ok(view.finish())
}

pub(super) fn from_consumed(ledger: &Ledger, paths: &[PathBuf], output: &Output) -> Result<Findings, Failure> {
    let mut view = View::new(ledger);
    let mut sessions = Sessions::default();
    for (file, path) in paths.iter().enumerate() {
        files::read(path, output, |line| {
            let line: Consumed<'_> = serde_json::from_slice(line)?;
            if line.commit {
                return Ok(());
            }
            let (producer, seq) = match (&line.bad, line.p, line.s) {
                (None, Some(producer), Some(seq)) => (producer, seq),
                (bad, ..) => {
                    view.corrupt(bad.as_deref().unwrap_or("format"), &line.t, line.part, line.off);
                    return Ok(());
                }
            };
            if line.r.as_deref() != Some(view.run()) {
                view.other_run();
                return Ok(());
            }
            let session = sessions.number(file, &line);
            let Consumed { t: topic, part: partition, off: offset, .. } = &line;
            view.see(&Sighting { topic, partition: *partition, offset: *offset, producer, seq, session });
            Ok(())
        })?;
    }
    Ok(view.finish())
}

/// A number for each consumer and assignment of each file.
#[derive(Default)]
struct Sessions {
    numbers: BTreeMap<(usize, String, String), u32>,
    /// The one of the line before, which is mostly that of the next one too.
    last: Option<(usize, serde_json::Value, serde_json::Value, u32)>,
}

impl Sessions {
    fn number(&mut self, file: usize, line: &Consumed<'_>) -> u32 {
        match &self.last {
            Some((last, c, e, number)) if *last == file && *c == line.c && *e == line.e => *number,
            _ => {
                let count = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
                let number = *self.numbers.entry((file, line.c.to_string(), line.e.to_string())).or_insert(count);
                self.last = Some((file, line.c.clone(), line.e.clone(), number));
                number
            }
        }
    }
}
