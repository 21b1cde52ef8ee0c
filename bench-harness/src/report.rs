//! What the runs cost: medians and spans, ratios of runs of the same round, and what a reader must be warned of. The table,
//! the JSON and the page are made of the same rows.

use std::io::Write;

use serde_json::{Value, json};

use crate::expected;
use crate::explained::{self, Explained};
use crate::fault::Fault;
use crate::groups::Plan;
use crate::peer::{BARE, FLOOR, Phase, REFERENCE, WITH_RECORDS};
use crate::published::Floors;
use crate::sample::{FIGURES, Sample, figure};
use crate::stats::Spread;
use crate::workload::Workload;

/// A client or a broker that uses less of its core than this leaves open what it could do.
pub const BUSY_MIN: f64 = 0.95;
/// How many more bytes than the median peer a peer may send or read.
pub const WIRE_MAX: f64 = 1.02;

/// All samples, and what they were measured on.
#[derive(Default, Debug)]
pub struct Report {
    /// Every phase that was run, in that order.
    pub samples: Vec<Sample>,
    /// Machine, broker, how it was run.
    pub facts: Value,
    /// Peers that may be off their expected ratio, with the reason.
    pub accepted: Vec<(String, String)>,
    /// The reasons that are kept.
    pub explained: Explained,
    /// What the floor was when it was last published.
    pub floors: Floors,
    /// Who was asked for and has no part.
    pub skipped: Vec<Skipped>,
    /// Scenarios that ended with a fault, the round of it (from 0), and what it was.
    pub failed: Vec<(&'static str, u32, String)>,
}

/// A peer that cannot do a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    peer: &'static str,
    scenario: &'static str,
    why: &'static str,
}

impl Skipped {
    /// In words.
    pub fn text(&self) -> String {
        format!("{} is left out of {}: {}", self.peer, self.scenario, self.why)
    }
}

/// The samples of one scenario, phase, peer and variant, and what they come to.
#[derive(Debug)]
pub struct Row<'a> {
    /// The first of them.
    pub first: &'a Sample,
    samples: Vec<&'a Sample>,
    /// CPU per record over franz-go's in the same round: below 1 is less. `None` where it does not take part.
    pub to_reference: Option<Spread>,
    /// The same over the least of all clients that are not ours, with all their variants; `None` where there is none.
    pub to_best: Option<Spread>,
    /// The same over the floor's.
    pub to_floor: Option<Spread>,
    /// The same over that of bare sockets.
    pub to_bare: Option<Spread>,
    /// And over that of bare sockets that make records and look at them.
    pub to_bare_with_records: Option<Spread>,
    /// The median acknowledgement's time over that of bare sockets in the same round.
    pub ack_to_bare: Option<Spread>,
    /// By how many wakes of a thread, as measured beside the bare sockets, it is longer.
    pub wakes_over_bare: Option<Spread>,
    /// Wire bytes per record over the median of the peers.
    pub wire_to_median: Option<f64>,
    /// The ratio to franz-go that others measured.
    pub expected: Option<f64>,
    /// What a reader must know before comparing.
    pub flags: Vec<Flag>,
}

/// What a reader must know before comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Neither core was busy: it waited, so records per second say nothing about what it could do.
    LatencyBound,
    /// Over [`WIRE_MAX`] of the median peer's bytes: cheaper compression is not the same work.
    Wire,
    /// Further off its expected ratio to franz-go than it may be; with the accepted reason.
    OffRatio(Option<String>),
    /// A floor that is slower than the last published one; with the accepted reason.
    SlowerFloor(Option<String>),
    /// The pool of records is in the memory shown.
    RssHoldsPool,
}

impl Flag {
    /// In the report.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LatencyBound => "latency-bound",
            Self::Wire => "wire",
            Self::OffRatio(None) => "off-ratio",
            Self::OffRatio(Some(_)) => "off-ratio-accepted",
            Self::SlowerFloor(None) => "slower-floor",
            Self::SlowerFloor(Some(_)) => "slower-floor-accepted",
            Self::RssHoldsPool => "rss-holds-pool",
        }
    }
}

impl Row<'_> {
    /// Median and span of a figure, by its name; `None` where nobody told it.
    pub fn spread(&self, name: &str) -> Option<Spread> {
        self.of(figure(name)?)
    }

    /// Median and span of anything.
    pub fn of(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| figure(sample)))
    }

    /// Peer and variant.
    pub fn who(&self) -> String {
        let (peer, variant) = (self.first.peer.name, self.first.step.variant);
        if variant.is_empty() { peer.to_owned() } else { format!("{peer}, {variant}") }
    }

    fn key(&self) -> (&'static str, Phase, &'static str, &'static str) {
        key(self.first)
    }

    fn json(&self) -> Value {
        let first = self.first;
        let mut result = json!({
            "scenario": first.scenario.name,
            "peer": first.peer.name,
            "phase": first.step.phase.to_string(),
            "variant": first.step.variant,
            "runs": self.samples.len(),
            "messages": first.long.messages,
        });
        if let Some(short) = first.short {
            result["messages_short"] = json!(short.messages);
        }
        for (name, figure) in FIGURES {
            if let Some(spread) = self.of(figure) {
                result[*name] = spread.json();
            }
        }
        for (name, ratio) in [
            ("ratio_to_franz_go", self.to_reference),
            ("ratio_to_best_peer", self.to_best),
            ("ratio_to_floor", self.to_floor),
            ("ratio_to_bare", self.to_bare),
            ("ratio_to_bare_with_records", self.to_bare_with_records),
            ("ack_p50_to_bare", self.ack_to_bare),
            ("ack_p50_wakes_over_bare", self.wakes_over_bare),
        ] {
            if let Some(ratio) = ratio {
                result[name] = ratio.json();
            }
        }
        for (name, figure) in
            [("wire_bytes_to_median", self.wire_to_median), ("expected_ratio_to_franz_go", self.expected)]
        {
            if let Some(figure) = figure {
                result[name] = json!(figure);
            }
        }
        result["flags"] = json!(self.flags.iter().map(Flag::name).collect::<Vec<_>>());
        if let Some(reason) = self.flags.iter().find_map(|flag| match flag {
            Flag::OffRatio(reason) | Flag::SlowerFloor(reason) => reason.as_ref(),
            _ => None,
        }) {
            result["accepted"] = json!(reason);
        }
        result["settings"] = first.settings.clone();
        result
    }
}

fn key(sample: &Sample) -> (&'static str, Phase, &'static str, &'static str) {
    (sample.scenario.name, sample.step.phase, sample.peer.name, sample.step.variant)
}

impl Report {
    /// In the order of the first round: scenarios, phases, what all peers do, variants.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for sample in &self.samples {
            match rows.iter_mut().find(|row| row.key() == key(sample)) {
                Some(row) => row.samples.push(sample),
                None => rows.push(Row {
                    first: sample,
                    samples: vec![sample],
                    to_reference: None,
                    to_best: None,
                    to_floor: None,
                    to_bare: None,
                    to_bare_with_records: None,
                    ack_to_bare: None,
                    wakes_over_bare: None,
                    wire_to_median: None,
                    expected: None,
                    flags: Vec::new(),
                }),
            }
        }
        rows.sort_by_key(|row| {
            let scenario = self.samples.iter().position(|sample| sample.scenario.name == row.first.scenario.name);
            (scenario, row.first.step.phase, !row.first.step.variant.is_empty())
        });
        let medians: Vec<_> = rows.iter().map(|row| self.wire_median(&rows, row)).collect();
        for (row, median) in rows.iter_mut().zip(medians) {
            self.judge(row, median);
        }
        rows
    }

    fn judge(&self, row: &mut Row<'_>, wire_median: Option<f64>) {
        let first = row.first;
        row.to_reference = self.ratio(row, REFERENCE, "");
        row.to_best = self.to_best(row);
        row.to_floor = self.ratio(row, FLOOR, "");
        row.to_bare = self.ratio(row, BARE, "");
        row.to_bare_with_records = self.ratio(row, BARE, WITH_RECORDS);
        let p50 = |sample: &Sample| Some(sample.long.ack_us?[0]).filter(|us| *us > 0.0);
        row.ack_to_bare = self.beside(row, BARE, "", |own, bare| Some(p50(own)? / p50(bare)?));
        row.wakes_over_bare = self.beside(row, BARE, "", |own, bare| {
            let wake = bare.long.wake_us.filter(|us| *us > 0.0)?;
            Some((p50(own)? - p50(bare)?) / wake)
        });
        let accepted =
            || self.accepted.iter().find(|(peer, _)| peer == first.peer.name).map(|(_, reason)| reason.clone());
        if first.peer.name == FLOOR && slower_than(&self.floors, row).is_some() {
            row.flags.push(Flag::SlowerFloor(accepted()));
        }
        if !first.peer.is_client() {
            return;
        }
        let wire = row.of(Sample::wire_bytes_per_message);
        row.wire_to_median = wire.zip(wire_median).map(|(wire, median)| wire.median / median);
        if row.wire_to_median.is_some_and(|ratio| ratio > WIRE_MAX) {
            row.flags.push(Flag::Wire);
        }
        let busy = |sample: &Sample| sample.scenario.busy(sample.client_busy(), sample.broker_busy().unwrap_or(0.0));
        if row.of(busy).is_some_and(|busy| busy.median < BUSY_MIN) {
            row.flags.push(Flag::LatencyBound);
        }
        let step = first.step;
        row.expected = expected::ratio(first.scenario.name, step.phase, first.peer.name, step.variant);
        if let Some((found, expected)) = row.to_reference.zip(row.expected)
            && expected::is_off(found.median, expected)
        {
            let kept = || self.explained.of(row, found.median).map(explained::Line::text);
            row.flags.push(Flag::OffRatio(accepted().or_else(kept)));
        }
        if first.scenario.workload == Workload::TelemetryPool && step.phase == Phase::Produce {
            row.flags.push(Flag::RssHoldsPool);
        }
    }

    /// The median of what others put on the wire, or read of it, per record; each with what all do alike. Where nobody else
    /// takes part, of ours.
    fn wire_median(&self, rows: &[Row<'_>], of: &Row<'_>) -> Option<f64> {
        let like = |row: &&Row<'_>| {
            let (one, other) = (row.first, of.first);
            (one.scenario.name, one.step.phase) == (other.scenario.name, other.step.phase)
                && one.step.variant.is_empty()
                && one.peer.is_client()
        };
        let median = |ours: bool| {
            let these = rows.iter().filter(like).filter(|row| row.first.peer.is_ours() == ours);
            Spread::of(these.filter_map(|row| Some(row.of(Sample::wire_bytes_per_message)?.median)))
        };
        Some(median(false).or_else(|| median(true))?.median)
    }

    fn ratio(&self, row: &Row<'_>, reference: &str, variant: &str) -> Option<Spread> {
        // Runs that are too short for the clock come out at nothing.
        self.beside(row, reference, variant, |own, other| (other.cpu_us() > 0.0).then(|| own.cpu_us() / other.cpu_us()))
    }

    fn to_best(&self, row: &Row<'_>) -> Option<Spread> {
        Spread::of(row.samples.iter().filter_map(|sample| {
            let is_rival = |other: &&Sample| {
                other.peer.is_client()
                    && !other.peer.is_ours()
                    && (other.scenario.name, other.step.phase, other.round)
                        == (sample.scenario.name, sample.step.phase, sample.round)
            };
            let rivals = self.samples.iter().filter(is_rival).map(Sample::cpu_us).filter(|us| *us > 0.0);
            Some(sample.cpu_us() / rivals.min_by(f64::total_cmp)?)
        }))
    }

    /// A figure made of a row's samples and another peer's of the same round.
    fn beside(
        &self,
        row: &Row<'_>,
        reference: &str,
        variant: &str,
        figure: impl Fn(&Sample, &Sample) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(row.samples.iter().filter_map(|sample| {
            let same = |other: &&Sample| {
                key(other) == (sample.scenario.name, sample.step.phase, reference, variant)
                    && other.round == sample.round
            };
            figure(sample, self.samples.iter().find(same)?)
        }))
    }

    /// Notes who of a plan's peers cannot do what of its scenarios.
    pub fn skip(&mut self, plan: &Plan, say: impl Fn(&Skipped)) {
        for scenario in &plan.scenarios {
            for peer in plan.all_peers() {
                if let Some(why) = peer.why_not(scenario) {
                    let skipped = Skipped { peer: peer.name, scenario: scenario.name, why };
                    say(&skipped);
                    self.skipped.push(skipped);
                }
            }
        }
    }

    /// What a reader must know beside the rows: who was left out, what failed, which reasons were used, and which are not
    /// needed any more.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.skipped.iter().map(Skipped::text).collect();
        let failed = self.failed.iter();
        notes.extend(failed.map(|(scenario, round, why)| format!("FAILED: {scenario} in round {}: {why}", round + 1)));
        notes.extend(self.accepted.iter().map(|(peer, reason)| format!("accepted: {peer}: {reason}")));
        let rows = self.rows();
        for row in &rows {
            if let Some(line) = row.to_reference.and_then(|found| self.explained.of(row, found.median))
                && row.flags.iter().any(|flag| matches!(flag, Flag::OffRatio(_)))
            {
                notes.push(format!("explained: {}: {}", off_in_words(row), line.text()));
            }
        }
        notes.extend(self.explained.stale(&rows).map(|line| format!("{line}: it is not off any more: take it out")));
        notes
    }

    /// Whether the run may be published: nothing failed, nobody is off without a reason.
    pub fn check(&self) -> Result<(), Fault> {
        let ratios = self.check_ratios();
        if self.failed.is_empty() {
            return ratios;
        }
        let failed: Vec<_> = self.failed.iter().map(|(scenario, _, why)| format!("{scenario}: {why}")).collect();
        let ratios = ratios.err().map_or(String::new(), |fault| format!("; {}", fault.text()));
        Err(Fault::Failed(format!("{}{ratios}", failed.join("; "))))
    }

    /// Peers that are off their expected ratio without a reason, and a floor that became slower: such a run is not to be
    /// published.
    fn check_ratios(&self) -> Result<(), Fault> {
        let rows = self.rows();
        let mut off: Vec<String> =
            rows.iter().filter(|row| row.flags.contains(&Flag::OffRatio(None))).map(off_in_words).collect();
        let slower = rows.iter().filter(|row| row.flags.contains(&Flag::SlowerFloor(None)));
        off.extend(slower.filter_map(|row| {
            let (now, then) = slower_than(&self.floors, row)?;
            let (scenario, phase) = (row.first.scenario.name, row.first.step.phase);
            Some(format!("{scenario} {phase} {}: {now:.3} us a record, last published {then:.3}", row.who()))
        }));
        if off.is_empty() {
            return Ok(());
        }
        Err(Fault::Check(format!(
            "{}; explain in bench-harness/explained.txt or with --accept PEER=REASON",
            off.join("; ")
        )))
    }

    /// With one object per row.
    pub fn json(&self) -> Value {
        let mut report = self.facts.clone();
        let skipped = |one: &Skipped| json!({"peer": one.peer, "scenario": one.scenario, "why": one.why});
        report["skipped"] = self.skipped.iter().map(skipped).collect();
        let failed = |(scenario, round, why): &(&str, u32, String)| json!({"scenario": scenario, "round": round + 1, "why": why});
        report["failed"] = self.failed.iter().map(failed).collect();
        report["notes"] = json!(self.notes());
        report["results"] = json!(self.rows().iter().map(Row::json).collect::<Vec<_>>());
        report
    }
}

/// What a floor costs now, and what it cost when it was published, if that was less.
fn slower_than(floors: &Floors, row: &Row<'_>) -> Option<(f64, f64)> {
    let now = row.of(|sample| Some(sample.cpu_us()))?.median;
    let step = row.first.step;
    let then = floors.faster_than([row.first.scenario.name, &step.phase.to_string(), step.variant], now)?;
    Some((now, then))
}

fn off_in_words(row: &Row<'_>) -> String {
    format!(
        "{} {} {}: {:.2} of franz-go's CPU, {:.2} expected",
        row.first.scenario.name,
        row.first.step.phase,
        row.who(),
        row.to_reference.map_or(0.0, |ratio| ratio.median),
        row.expected.unwrap_or(0.0)
    )
}

/// Of bytes.
pub fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

/// With commas between thousands.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Text of a fact, without quotes.
pub fn fact(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Prints to standard output.
pub fn to_stdout(text: &str) -> Result<(), Fault> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Fault::failed("standard output"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sample::tests::sample;

    const M: u64 = 1_000_000;

    /// Round by round franz-go costs twice, four times and twice as much, while the machine gets slower. All have slopes.
    pub fn report() -> Report {
        let facts = json!({"messages": [2 * M, 12 * M], "runs": 3, "machine": {"processor": "a <fast> one"}});
        let mut report = Report { facts, ..Report::default() };
        for (round, (ottla, franz)) in (0..).zip([(1.0, 2.0), (2.0, 8.0), (4.0, 8.0)]) {
            let mut add = |peer: &str, phase, place, us: f64| {
                // One second of start-up, the slope is `us`; the client is always busy.
                let runs = [2 * M, 12 * M].map(|n| (n, 1.0 + us * n as f64 / 1e6, us * n as f64 / 1e6));
                report.samples.push(sample(peer, phase, place, round, &runs));
            };
            add("ottla", Phase::Produce, 0, ottla);
            add("franz-go", Phase::Produce, 0, franz);
            add("franz-go", Phase::Consume, 1, franz * 0.863);
            add("franz-go", Phase::Consume, 0, franz);
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
        assert_eq!(ottla["start_cpu_seconds"]["median"], 1.0);
        assert_eq!((&ottla["messages_per_s"]["median"], &ottla["broker_busy"]["median"]), (&json!(5e5), &json!(0.5)));
        assert_eq!(
            (&ottla["runs"], &ottla["messages"], &ottla["messages_short"]),
            (&json!(3), &json!(12 * M), &json!(2 * M))
        );
        assert_eq!((&ottla["ack_us_p99"]["median"], &ottla["context_switches"]["median"]), (&json!(2.0), &json!(17.0)));
        assert_eq!(ottla["flags"], json!([]));
    }

    #[test]
    fn the_best_peer_is_the_cheapest_of_the_round_with_its_variants_and_not_ours() {
        let report = report();
        let best = |place: usize| report.json()["results"][place]["ratio_to_best_peer"]["median"].clone();
        assert_eq!((best(0), best(1)), (json!(0.5), json!(1.0)));
        // "pooled" reads for less.
        assert_eq!(best(3), json!(1.0));
        assert!(best(2).as_f64().unwrap() > 1.15);
        let mut alone = Report::default();
        alone.samples.push(sample("ottla", Phase::Produce, 0, 0, &[(M, 1.0, 1.0)]));
        assert!(alone.json()["results"][0].get("ratio_to_best_peer").is_none());
    }

    #[test]
    fn without_franz_go_there_is_no_ratio() {
        let mut report = report();
        report.samples.retain(|sample| sample.peer.name == "ottla");
        assert!(report.json()["results"][0].get("ratio_to_franz_go").is_none());
    }

    /// Produce rows of one round that send so many bytes: their percents of the median, and whether that is a warning.
    fn wires(peers: &[(&str, f64)]) -> Vec<(f64, bool)> {
        let mut report = Report::default();
        for (name, wire_bytes) in peers {
            let mut one = sample(name, Phase::Produce, 0, 0, &[(1_000, 1.0, 1.0)]);
            one.long.wire_bytes = *wire_bytes;
            report.samples.push(one);
        }
        let percent = |row: &Row<'_>| row.wire_to_median.map_or(0.0, |ratio| (ratio * 100.0).round());
        report.rows().iter().map(|row| (percent(row), row.flags.contains(&Flag::Wire))).collect()
    }

    #[test]
    fn who_sends_more_than_the_median_peer_is_flagged() {
        assert_eq!(wires(&[("ottla", 101.9), ("franz-go", 100.0)]), [(102.0, false), (100.0, false)]);
        assert_eq!(wires(&[("ottla", 103.0), ("franz-go", 100.0)]), [(103.0, true), (100.0, false)]);
        // The median of two is between them.
        let three = wires(&[("ottla", 102.0), ("franz-go", 98.0), ("java", 102.0)]);
        assert_eq!(three, [(102.0, false), (98.0, false), (102.0, false)]);
    }

    #[test]
    fn the_median_is_of_the_others_unless_there_are_none() {
        let all = [("ottla", 110.0), ("ottla-lib", 110.0), ("franz-go", 100.0), ("floor", 1.0), ("bare", 1.0)];
        assert_eq!(wires(&all), [(110.0, true), (110.0, true), (100.0, false), (0.0, false), (0.0, false)]);
        assert_eq!(wires(&[("ottla", 110.0), ("ottla-lib", 90.0)]), [(110.0, true), (90.0, false)]);
    }

    #[test]
    fn whoever_waits_is_latency_bound() {
        let bound = |client: f64, seconds: f64| {
            let runs = [(M, client, seconds), (2 * M, 2.0 * client, 2.0 * seconds)];
            let mut report = Report::default();
            report.samples.push(sample("ottla", Phase::Produce, 0, 0, &runs));
            report.rows()[0].flags.contains(&Flag::LatencyBound)
        };
        assert!(!bound(0.96, 1.0) && bound(0.94, 1.0));
        // The broker of these figures is busy half of the time; one that is busy makes up for an idle client.
        let mut report = Report::default();
        let mut one = sample("ottla", Phase::Produce, 0, 0, &[(M, 0.1, 1.0)]);
        one.long.broker_cpu_seconds = Some(0.97);
        report.samples.push(one);
        assert_eq!(report.rows()[0].flags, []);
    }

    #[test]
    fn a_peer_off_its_ratio_fails_until_explained() {
        let mut report = report();
        assert_eq!(report.check_ratios(), Ok(()));
        let runs = [(2 * M, 1.0, 1.0), (12 * M, 6.0, 6.0)];
        for round in 0..3 {
            let mut pooled = sample("franz-go", Phase::Consume, 1, round, &runs);
            pooled.round = round + 3;
            report.samples.push(pooled);
            let mut plain = sample("franz-go", Phase::Consume, 0, round, &runs);
            plain.round = round + 3;
            report.samples.push(plain);
        }
        // Now the median of "pooled" is between 0.863 and 1.
        assert_eq!(report.check_ratios(), Ok(()));
        report.samples.retain(|sample| sample.round >= 3);
        let fault = report.check_ratios().unwrap_err();
        assert!(fault.text().contains("franz-go, pooled: 1.00 of franz-go's CPU, 0.86 expected"), "{fault:?}");
        report.accepted.push(("franz-go".into(), "records are small".into()));
        assert_eq!(report.check_ratios(), Ok(()));
        let json = report.json();
        let pooled = json["results"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&pooled["flags"], &pooled["accepted"]),
            (&json!(["off-ratio-accepted"]), &json!("records are small"))
        );
    }

    #[test]
    fn bare_sockets_are_what_others_are_multiples_of_in_cpu_and_latency() {
        let mut report = Report::default();
        for (peer, us, p50) in [("ottla", 3.0, 130.0), ("bare", 2.0, 100.0)] {
            let mut one = sample(peer, Phase::Produce, 0, 0, &[(M, us, us)]);
            one.long.ack_us = Some([p50, 200.0, 300.0]);
            one.long.wake_us = (peer == "bare").then_some(20.0);
            report.samples.push(one);
        }
        let json = report.json();
        let of = |place: usize, name: &str| json["results"][place][name]["median"].as_f64().unwrap();
        assert_eq!(
            [of(0, "ratio_to_bare"), of(0, "ack_p50_to_bare"), of(0, "ack_p50_wakes_over_bare")],
            [1.5, 1.3, 1.5]
        );
        assert_eq!(
            [of(1, "ratio_to_bare"), of(1, "ack_p50_to_bare"), of(1, "ack_p50_wakes_over_bare")],
            [1.0, 1.0, 0.0]
        );
        // It is no client: nobody expects a ratio of it, and what it does not wait for is no flaw.
        assert_eq!(json["results"][1]["flags"], json!([]));
    }

    #[test]
    fn a_slower_floor_fails_until_explained() {
        let mut report = Report::default();
        for round in 0..3 {
            let us = |us: f64| [2 * M, 12 * M].map(|n| (n, us * n as f64 / 1e6, us * n as f64 / 1e6));
            report.samples.push(sample("floor", Phase::Produce, 0, round, &us(0.30)));
        }
        let published = |us: f64| Floors::of(["telemetry", "produce", ""], us);
        for (us, slower) in [(0.29, false), (0.28, true)] {
            report.floors = published(us);
            assert_eq!(report.rows()[0].flags, if slower { vec![Flag::SlowerFloor(None)] } else { vec![] });
        }
        let fault = report.check_ratios().unwrap_err();
        assert!(fault.text().contains("telemetry produce floor: 0.300 us a record, last published 0.280"), "{fault:?}");
        report.accepted.push(("floor".into(), "it makes headers too".into()));
        assert_eq!(report.check_ratios(), Ok(()));
        assert_eq!(report.json()["results"][0]["accepted"], "it makes headers too");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0.0, 999.0, 1000.0, 1_234_567.8].map(grouped), ["0", "999", "1,000", "1,234,568"]);
    }
}
