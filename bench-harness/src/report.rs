//! What the runs cost: medians and spans, ratios of runs of the same round, as a table and as JSON with the same figures.

use std::io::Write;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::peer::{FLOOR, Job, Peer, Phase, REFERENCE, Step};
use crate::stats::Spread;

/// One phase of one peer in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Counted from 0.
    pub round: u32,
    scenario: &'static str,
    peer: &'static str,
    phase: Phase,
    variant: &'static str,
    messages: u64,
    /// CPU time of the whole client process from its start to the end of the phase, per record, in microseconds.
    cpu_us: f64,
    /// CPU time outside of the phase itself: start, connecting. In seconds.
    start_cpu_seconds: f64,
    seconds: f64,
    max_rss_bytes: f64,
    /// Zero where the peer does not tell.
    batches: f64,
    requests: f64,
    wire_bytes: f64,
    broker_cpu_seconds: Option<f64>,
    ack_us: Option<[f64; 3]>,
    checksum: Option<String>,
    settings: Value,
}

/// A figure of a sample, by its name in the report.
type Figure = (&'static str, fn(&Sample) -> Option<f64>);

/// Figures that every result has, with their units in the name.
const FIGURES: &[Figure] = &[
    ("cpu_us_per_message", |sample| Some(sample.cpu_us)),
    ("messages_per_s", |sample| Some(sample.messages_per_s())),
    ("max_rss_bytes", |sample| Some(sample.max_rss_bytes)),
    ("start_cpu_seconds", |sample| Some(sample.start_cpu_seconds)),
    ("client_busy", |sample| Some(sample.busy())),
    ("broker_busy", |sample| Some(sample.broker_cpu_seconds? / sample.seconds)),
    ("broker_cpu_us_per_message", |sample| Some(sample.broker_cpu_seconds? * 1e6 / sample.messages as f64)),
    ("batches", |sample| Some(sample.batches)),
    ("requests", |sample| Some(sample.requests)),
    ("wire_bytes", |sample| Some(sample.wire_bytes)),
    ("ack_us_p50", |sample| Some(sample.ack_us?[0])),
    ("ack_us_p99", |sample| Some(sample.ack_us?[1])),
    ("ack_us_p999", |sample| Some(sample.ack_us?[2])),
];

impl Sample {
    /// Reads what a peer printed and checks what it claims.
    pub fn read(peer: &Peer, step: &Step, job: Job<'_>, said: &Value, broker: Option<Duration>) -> Result<Self, Fault> {
        let row = &said["phases"][0];
        let number = |name: &str| {
            row[name].as_f64().ok_or_else(|| Fault::Failed(format!("its report has no figure {name}: {said}")))
        };
        let messages = number("messages")? as u64;
        if row["phase"] != step.phase.to_string() || messages != job.messages {
            return Err(Fault::Check(format!(
                "{} {messages} records, not {} {}",
                row["phase"], step.phase, job.messages
            )));
        }
        if step.phase == Phase::Consume && row["verified"] != true {
            return Err(Fault::Check("what was read was not found to be what was sent".into()));
        }
        let process_cpu = number("process_cpu_seconds")?;
        let seconds = number("seconds")?.max(1e-9);
        let ack = |name: &str| row["ack_us"][name].as_f64();
        let ack_us = ack("p50").zip(ack("p99")).zip(ack("p999")).map(|((p50, p99), p999)| [p50, p99, p999]);
        Ok(Self {
            round: 0,
            scenario: job.scenario.name,
            peer: peer.name,
            phase: step.phase,
            variant: step.variant,
            messages,
            cpu_us: process_cpu * 1e6 / messages as f64,
            start_cpu_seconds: (process_cpu - number("cpu_us_per_message")? * messages as f64 / 1e6).max(0.0),
            seconds,
            max_rss_bytes: number("max_rss_bytes")?,
            batches: row["batches"].as_f64().unwrap_or(0.0),
            requests: row["requests"].as_f64().unwrap_or(0.0),
            wire_bytes: row["wire_bytes"].as_f64().unwrap_or(0.0),
            broker_cpu_seconds: broker.map(|cpu| cpu.as_secs_f64()),
            ack_us,
            checksum: row["checksum"].as_str().map(str::to_owned),
            settings: said["settings"].clone(),
        })
    }

    fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// The part of the phase's time in which the client had a processor.
    fn busy(&self) -> f64 {
        (self.cpu_us * self.messages as f64 / 1e6 - self.start_cpu_seconds) / self.seconds
    }

    /// For progress.
    pub fn line(&self) -> String {
        let what = named(self.peer, self.variant);
        let (cpu, rss) = (self.cpu_us, mib(self.max_rss_bytes));
        let (scenario, phase, rate) = (self.scenario, self.phase, self.messages_per_s());
        format!("{scenario} {phase} {what}: {cpu:.3} us CPU a record, {rss}, {} records/s", grouped(rate))
    }
}

/// All samples, and what they were measured on.
#[derive(Default, Debug)]
pub struct Report {
    /// Every phase that was run, in that order.
    pub samples: Vec<Sample>,
    /// Machine, broker, how it was run.
    pub facts: Value,
}

/// The samples of one scenario, phase, peer and variant.
struct Group<'a> {
    first: &'a Sample,
    samples: Vec<&'a Sample>,
}

impl Report {
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for sample in &self.samples {
            let key = |sample: &Sample| (sample.scenario, sample.phase, sample.peer, sample.variant);
            match groups.iter_mut().find(|group| key(group.first) == key(sample)) {
                Some(group) => group.samples.push(sample),
                None => groups.push(Group { first: sample, samples: vec![sample] }),
            }
        }
        // In the order of the first round, phases and variants side by side.
        groups.sort_by_key(|group| {
            let scenario = self.samples.iter().position(|sample| sample.scenario == group.first.scenario);
            (scenario, group.first.phase, !group.first.variant.is_empty())
        });
        groups
    }

    /// CPU per record over that of a reference in the same round: below 1 is less. `None` where it does not take part.
    fn ratio(&self, group: &Group<'_>, reference: &str) -> Option<Spread> {
        let ratio = |sample: &Sample| {
            let same = |other: &&Sample| {
                (other.scenario, other.phase, other.round) == (sample.scenario, sample.phase, sample.round)
                    && other.peer == reference
                    && other.variant.is_empty()
            };
            self.samples.iter().find(same).map(|other| sample.cpu_us / other.cpu_us)
        };
        Spread::of(group.samples.iter().filter_map(|sample| ratio(sample)))
    }

    /// Prints a table, or JSON.
    pub fn print(&self, json: bool) -> Result<(), Fault> {
        self.check_sums()?;
        if json { to_stdout(&format!("{}\n", self.json())) } else { to_stdout(&self.text()) }
    }

    /// The records are a function of their index: who read as many read the same.
    fn check_sums(&self) -> Result<(), Fault> {
        let consumed = self.samples.iter().filter(|sample| sample.phase == Phase::Consume);
        let mut sums = consumed.filter_map(|sample| Some((sample.checksum.as_ref()?, sample)));
        let Some((expected, first)) = sums.next() else { return Ok(()) };
        match sums.find(|(sum, _)| *sum != expected) {
            Some((sum, other)) => {
                let text = format!("{} read the sum {expected}, {} read {sum}", first.peer, other.peer);
                Err(Fault::Check(text))
            }
            None => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let results: Vec<Value> = self
            .groups()
            .iter()
            .map(|group| {
                let first = group.first;
                let mut result = json!({
                    "scenario": first.scenario,
                    "peer": first.peer,
                    "phase": first.phase.to_string(),
                    "variant": first.variant,
                    "runs": group.samples.len(),
                    "messages": first.messages,
                });
                for (name, figure) in FIGURES {
                    if let Some(spread) = Spread::of(group.samples.iter().filter_map(|sample| figure(sample))) {
                        result[*name] = spread.json();
                    }
                }
                for (name, reference) in [("ratio_to_franz_go", REFERENCE), ("ratio_to_floor", FLOOR)] {
                    if let Some(ratio) = self.ratio(group, reference) {
                        result[name] = ratio.json();
                    }
                }
                result["settings"] = first.settings.clone();
                result
            })
            .collect();
        let mut report = self.facts.clone();
        report["results"] = json!(results);
        report
    }

    fn text(&self) -> String {
        let facts = &self.facts;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "scenario",
            "phase",
            "peer",
            "CPU us/record",
            "x franz-go",
            "x floor",
            "peak RSS",
            "records/s",
            "client/broker busy",
            "records/batch",
            "requests",
            "wire B/record",
            "broker us/record",
        ]);
        for group in self.groups() {
            table.add_row(self.row(&group));
        }
        for column in 3..13 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let machine = &facts["machine"];
        format!(
            "{} records, {} rounds, {}, counts by {}, all read what {} wrote\n{} ({} processors), kernel {}, load {} to {}; \
             client on core {}, broker on core {}\n{table}\nmedian (least..most); CPU is the whole client process', start \
             included; ratios are of runs of the same round\n",
            grouped(facts["messages"].as_f64().unwrap_or(0.0)),
            facts["runs"],
            text(&facts["broker"]),
            text(&facts["counts_checked_by"]),
            text(&facts["read_from"]),
            text(&machine["processor"]),
            machine["processors"],
            text(&machine["kernel"]),
            machine["load_before"],
            machine["load_after"],
            machine["client_core"],
            machine["broker_core"],
        )
    }

    fn row(&self, group: &Group<'_>) -> Vec<String> {
        let first = group.first;
        let spread =
            |figure: fn(&Sample) -> Option<f64>| Spread::of(group.samples.iter().filter_map(|sample| figure(sample)));
        let cell = |figure, shown: fn(f64) -> String| spread(figure).map_or_else(|| "-".into(), |of| shown(of.median));
        let spanned = |spread: Option<Spread>, digits: usize| {
            spread.map_or_else(
                || "-".into(),
                |Spread { min, median, max }| format!("{median:.digits$} ({min:.digits$}..{max:.digits$})"),
            )
        };
        let busy = cell(|sample| Some(sample.busy()), |value| format!("{value:.2}"));
        let broker_busy =
            cell(|sample| Some(sample.broker_cpu_seconds? / sample.seconds), |value| format!("{value:.2}"));
        vec![
            first.scenario.to_owned(),
            first.phase.to_string(),
            named(first.peer, first.variant),
            spanned(spread(|sample| Some(sample.cpu_us)), 3),
            spanned(self.ratio(group, REFERENCE), 2),
            self.ratio(group, FLOOR).map_or_else(|| "-".into(), |ratio| format!("{:.2}", ratio.median)),
            cell(|sample| Some(sample.max_rss_bytes), mib),
            cell(|sample| Some(sample.messages_per_s()), grouped),
            format!("{busy}/{broker_busy}"),
            cell(|sample| (sample.batches > 0.0).then(|| sample.messages as f64 / sample.batches), grouped),
            cell(|sample| Some(sample.requests), grouped),
            cell(|sample| Some(sample.wire_bytes / sample.messages as f64), |value| format!("{value:.1}")),
            cell(
                |sample| Some(sample.broker_cpu_seconds? * 1e6 / sample.messages as f64),
                |value| format!("{value:.2}"),
            ),
        ]
    }
}

fn named(peer: &str, variant: &str) -> String {
    if variant.is_empty() { peer.to_owned() } else { format!("{peer}, {variant}") }
}

fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Prints to standard output.
pub fn to_stdout(text: &str) -> Result<(), Fault> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Fault::failed("standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::ALL;
    use crate::scenario;

    fn said(phase: &str, process_cpu: f64, checksum: &str) -> Value {
        json!({"settings": {"version": "1"}, "phases": [{
            "phase": phase, "messages": 1000, "seconds": 0.5, "cpu_us_per_message": process_cpu * 1e3 - 0.1,
            "process_cpu_seconds": process_cpu, "max_rss_bytes": 1 << 20, "batches": 4, "requests": 2,
            "wire_bytes": 66_000, "verified": true, "checksum": checksum,
        }]})
    }

    fn sample(peer: usize, step: usize, round: u32, said: &Value) -> Result<Sample, Fault> {
        let job = Job { bootstrap: "b", topic: "t", messages: 1000, scenario: &scenario::ALL[0] };
        let broker = Some(Duration::from_millis(250));
        Sample::read(&ALL[peer], &ALL[peer].steps[step], job, said, broker).map(|sample| Sample { round, ..sample })
    }

    /// Round by round franz-go costs twice, four times and twice as much, while the machine gets slower.
    fn report() -> Report {
        let cpu = [(0.001, 0.002), (0.002, 0.008), (0.004, 0.008)];
        let mut report = Report { facts: json!({"messages": 1000, "runs": 3, "machine": {}}), ..Report::default() };
        for (round, (ottla, franz)) in (0..).zip(cpu) {
            report.samples.push(sample(0, 0, round, &said("produce", ottla, "")).unwrap());
            report.samples.push(sample(1, 0, round, &said("produce", franz, "")).unwrap());
            report.samples.push(sample(1, 2, round, &said("consume", franz, "5")).unwrap());
            report.samples.push(sample(1, 1, round, &said("consume", franz, "5")).unwrap());
        }
        report
    }

    #[test]
    fn results_have_spans_and_ratios_within_rounds() {
        let json = report().json();
        let results = json["results"].as_array().unwrap();
        let heads: Vec<_> = results
            .iter()
            .map(|result| ["phase", "peer", "variant"].map(|name| result[name].as_str().unwrap()).join(" "))
            .collect();
        assert_eq!(heads, ["produce ottla ", "produce franz-go ", "consume franz-go ", "consume franz-go pooled"]);
        let ottla = &results[0];
        assert_eq!(ottla["cpu_us_per_message"], json!({"min": 1.0, "median": 2.0, "max": 4.0}));
        assert_eq!(ottla["ratio_to_franz_go"], json!({"min": 0.25, "median": 0.5, "max": 0.5}));
        assert_eq!(results[3]["ratio_to_franz_go"]["median"], 1.0);
        assert_eq!(ottla["messages_per_s"]["median"], 2000.0);
        assert_eq!(ottla["broker_busy"]["median"], 0.5);
        assert_eq!(ottla["runs"], 3);
        assert!(ottla.get("ack_us_p50").is_none());
    }

    #[test]
    fn the_table_has_the_same_figures_with_units() {
        let text = report().text();
        for part in ["2.000 (1.000..4.000)", "0.50 (0.25..0.50)", "1.0 MiB", "2,000", "66.0", "franz-go, pooled"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn without_franz_go_there_is_no_ratio() {
        let mut report = report();
        report.samples.retain(|sample| sample.peer == "ottla");
        assert!(report.json()["results"][0].get("ratio_to_franz_go").is_none());
        assert!(report.text().contains(" - "));
    }

    #[test]
    fn a_wrong_count_or_unverified_content_fails_the_check() {
        let mut wrong = said("produce", 0.001, "");
        wrong["phases"][0]["messages"] = json!(999);
        assert!(matches!(sample(0, 0, 0, &wrong), Err(Fault::Check(text)) if text.contains("999")));
        let mut wrong = said("consume", 0.001, "");
        wrong["phases"][0]["verified"] = json!(false);
        assert!(matches!(sample(0, 2, 0, &wrong), Err(Fault::Check(_))));
        assert!(
            matches!(sample(0, 2, 0, &json!({"phases": []})), Err(Fault::Failed(text)) if text.contains("messages"))
        );
    }

    #[test]
    fn peers_that_read_different_sums_fail_the_check() {
        let mut report = report();
        report.samples.push(sample(0, 2, 0, &said("consume", 0.001, "6")).unwrap());
        assert!(matches!(report.print(true), Err(Fault::Check(text)) if text.contains("ottla read 6")));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.8].map(grouped), ["0", "999", "1,000", "1,234,568"]);
    }
}
