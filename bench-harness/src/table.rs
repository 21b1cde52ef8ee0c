//! The report for a terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::report::{BUSY_MIN, Flag, Report, Row, WIRE_MAX, fact, grouped, mib};
use crate::sample::Sample;
use crate::scenario::Mode;
use crate::stats::Spread;

/// A column: its head and what stands in it.
pub type Column = (&'static str, fn(&Row<'_>) -> String);

/// The columns of the table and of the page, in this order; the first three are words.
pub const COLUMNS: &[Column] = &[
    ("scenario", |row| row.first.scenario.name.to_owned()),
    ("phase", |row| row.first.step.phase.to_string()),
    ("peer", |row| row.who()),
    ("CPU us/record", |row| spanned(row.of(|sample| Some(sample.cpu_us())), 3)),
    ("x franz-go", |row| spanned(row.to_reference, 2)),
    ("expected", |row| row.expected.map_or_else(none, |ratio| format!("{ratio:.2}"))),
    ("user + system us", |row| {
        let part = |part: usize| cell(row, |sample| Some(sample.user_system_us()?[part]), |us| format!("{us:.3}"));
        format!("{} + {}", part(0), part(1))
    }),
    ("x best peer", |row| row.to_best.map_or_else(none, |ratio| format!("{:.2}", ratio.median))),
    ("x bare", |row| row.to_bare.map_or_else(none, |ratio| format!("{:.2}", ratio.median))),
    ("x bare, records", |row| row.to_bare_with_records.map_or_else(none, |ratio| format!("{:.2}", ratio.median))),
    ("x floor", |row| row.to_floor.map_or_else(none, |ratio| format!("{:.2}", ratio.median))),
    ("start CPU ms", |row| cell(row, |sample| Some(sample.start_cpu_seconds() * 1e3), |ms| format!("{ms:.0}"))),
    ("peak RSS", |row| {
        let holds_pool = if row.flags.contains(&Flag::RssHoldsPool) { " with pool" } else { "" };
        cell(row, |sample| Some(sample.max_rss_bytes()), mib) + holds_pool
    }),
    ("records/s", |row| cell(row, |sample| Some(sample.messages_per_s()), grouped)),
    ("client/broker busy", |row| {
        let part = |value: f64| format!("{value:.2}");
        format!("{}/{}", cell(row, |sample| Some(sample.client_busy()), part), cell(row, Sample::broker_busy, part))
    }),
    ("what counts", aim),
    ("records/batch", |row| cell(row, Sample::messages_per_batch, grouped)),
    ("requests", |row| cell(row, |sample| (sample.long.requests > 0.0).then_some(sample.long.requests), grouped)),
    ("wire B/record", |row| cell(row, Sample::wire_bytes_per_message, |bytes| format!("{bytes:.1}"))),
    ("x median wire", |row| row.wire_to_median.map_or_else(none, |ratio| format!("{ratio:.3}"))),
    ("broker us/record", |row| cell(row, Sample::broker_cpu_us, |us| format!("{us:.2}"))),
    ("switches", |row| cell(row, |sample| sample.long.context_switches, grouped)),
    ("ack ms p50/p99/p99.9", |row| {
        let at = |place: usize| row.of(|sample| Some(sample.long.ack_us?[place] / 1e3));
        let all: Option<Vec<String>> = (0..3).map(|place| Some(short(at(place)?.median))).collect();
        all.map_or_else(none, |all| all.join("/"))
    }),
    ("flags", |row| row.flags.iter().map(Flag::name).collect::<Vec<_>>().join(" ")),
];

/// Heads of columns that only the page has: a terminal is not that wide.
const PAGE_ONLY: &[&str] = &["expected", "start CPU ms", "user + system us", "broker us/record", "switches"];

/// Those of the columns in which any row has something.
pub fn told<'c>(columns: &'c [Column], rows: &[&Row<'_>]) -> Vec<&'c Column> {
    let is_empty = |cell: String| cell.chars().all(|letter| "-+/ ".contains(letter));
    columns.iter().filter(|(_, cell)| rows.iter().any(|row| !is_empty(cell(row)))).collect()
}

/// The figure that a scenario is about, where that is not the CPU of a record.
fn aim(row: &Row<'_>) -> String {
    match row.first.scenario.mode {
        Mode::Idle(_) => {
            cell(row, |sample| Some(sample.client_busy() * 100.0), |busy| format!("{busy:.2} % of a core"))
        }
        Mode::CatchUp(_) => cell(row, Sample::catch_up_seconds, |seconds| format!("{seconds:.2} s to the end")),
        Mode::KlifeSync(_) | Mode::KlifeAsync(_) => {
            cell(row, |sample| Some(1e6 / sample.cpu_us()), |rate| format!("{} records/CPU s", grouped(rate)))
        }
        Mode::Waited => {
            let p50 = cell(row, |sample| Some(sample.long.ack_us?[0]), |us| format!("p50 {us:.1} us"));
            let beside = row
                .ack_to_bare
                .zip(row.wakes_over_bare)
                .map(|(ratio, wakes)| format!(", {:.2} x bare, {:.1} wakes over it", ratio.median, wakes.median));
            p50 + &beside.unwrap_or_default()
        }
        _ => cell(row, Sample::batches_per_rtt, |count| format!("{count:.2} batches/RTT")),
    }
}

fn none() -> String {
    "-".to_owned()
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

fn cell(row: &Row<'_>, figure: impl Fn(&Sample) -> Option<f64>, shown: impl Fn(f64) -> String) -> String {
    row.of(figure).map_or_else(none, |spread| shown(spread.median))
}

fn spanned(spread: Option<Spread>, digits: usize) -> String {
    let text = |Spread { min, median, max }| format!("{median:.digits$} ({min:.digits$}..{max:.digits$})");
    spread.map_or_else(none, text)
}

/// How it was measured, in sentences.
pub fn rules(report: &Report) -> Vec<String> {
    let facts = &report.facts;
    let machine = &facts["machine"];
    let messages: Vec<String> =
        facts["messages"].as_array().into_iter().flatten().filter_map(|n| Some(grouped(n.as_f64()?))).collect();
    let cpu = if messages.len() == 2 {
        "CPU per record is the whole client process's, as the slope between a run of the first and one of the second number \
         of records in the same round; start-up is where that line meets zero"
    } else {
        "CPU per record is the whole client process's, start-up included"
    };
    vec![
        format!(
            "{} records (fewer where a scenario or a group says so), {} rounds{}, peers in turn; {}; counts by {}; all read what {} \
             wrote, and the sum over every key, value and header is checked",
            messages.join(" and "),
            facts["runs"],
            if facts["groups"].is_array() { " at most" } else { "" },
            fact(&facts["broker"]),
            fact(&facts["counts_checked_by"]),
            fact(&facts["read_from"]),
        ),
        format!(
            "{} ({} processors), {}, kernel {}, load {} to {}; client on core {}, broker on core {}",
            fact(&machine["processor"]),
            machine["processors"],
            fact(&machine["memory"]),
            fact(&machine["kernel"]),
            machine["load_before"],
            machine["load_after"],
            machine["client_core"],
            machine["broker_core"],
        ),
        format!("median (least..most). {cpu}. Ratios are of runs of the same round"),
        format!(
            "latency-bound: neither client nor broker used {:.0} % of a core, so records/s says little. wire: more than \
             {WIRE_MAX} of the median peer's bytes. off-ratio: more than 15 % off what others measured of this peer \
             beside franz-go. slower-floor: more than 5 % over the last published run. The floor has no sockets, \
             and bare has nothing else",
            BUSY_MIN * 100.0
        ),
        waiting(report),
    ]
}

/// What no run is to be blamed for.
fn waiting(report: &Report) -> String {
    let mut names: Vec<&str> = Vec::new();
    for sample in &report.samples {
        if sample.scenario.busy(0.0, 0.0).is_none() && !names.contains(&sample.scenario.name) {
            names.push(sample.scenario.name);
        }
    }
    let waits = if names.is_empty() {
        String::new()
    } else {
        format!("{}: waiting is what is measured, so nothing there is latency-bound. ", names.join(", "))
    };
    waits + "Nobody joins a group: all readers are assigned their partitions, so start CPU is start-up and no join"
}

/// What must stand above figures of the sink.
const SINK: &str = "SINK MODE (the broker drops what it gets) and CANNED RESULTS (it replays one segment): clients only, not to be \
                    compared with what is above";

fn table_of(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new();
    let columns = told(COLUMNS, &rows.iter().collect::<Vec<_>>());
    let columns: Vec<_> = columns.into_iter().filter(|(head, _)| !PAGE_ONLY.contains(head)).collect();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(columns.iter().map(|(head, _)| *head));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| cell(row)));
    }
    for column in 3..columns.len() - usize::from(columns.last().is_some_and(|(head, _)| *head == "flags")) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

impl Report {
    /// All of it as text.
    pub fn text(&self) -> String {
        let (sink, real): (Vec<_>, Vec<_>) =
            self.rows().into_iter().partition(|row| matches!(row.first.scenario.mode, Mode::Sink(_)));
        let real = if real.is_empty() { String::new() } else { format!("{}\n", table_of(&real)) };
        let sink = if sink.is_empty() { String::new() } else { format!("{SINK}:\n{}\n", table_of(&sink)) };
        let notes: String = self.notes().into_iter().map(|note| note + "\n").collect();
        format!("{real}{sink}{}\n{notes}", rules(self).join(".\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn the_table_has_the_reports_figures_with_units() {
        let text = report().text();
        for part in [
            "2.000 (1.000..4.000)",
            "0.50 (0.25..0.50)",
            "1.0 MiB",
            "500,000",
            "66.0",
            "franz-go, pooled",
            "1.00/0.50",
            "2,000,000 and 12,000,000 records",
            "slope",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains("x bare"), "nobody is beside bare sockets here:\n{text}");
    }

    #[test]
    fn what_was_measured_with_the_sink_has_a_table_of_its_own() {
        let mut report = report();
        let count = |report: &Report| report.text().matches("records/batch").count();
        assert!(count(&report) == 1 && !report.text().contains("SINK MODE"));
        let mut one = report.samples[0].clone();
        one.scenario = crate::scenario::named(&["sink-produce".to_owned()]).unwrap()[0];
        report.samples.push(one.clone());
        let text = report.text();
        assert_eq!(count(&report), 2);
        assert!(text.find("SINK MODE").unwrap() < text.find("sink-produce").unwrap(), "{text}");
        assert!(text.find("telemetry").unwrap() < text.find("SINK MODE").unwrap());
        report.samples = vec![one];
        assert_eq!(count(&report), 1);
    }

    #[test]
    fn milliseconds_have_three_digits() {
        assert_eq!([0.123, 9.876, 12.34, 123.4].map(short), ["0.12", "9.88", "12.3", "123"]);
    }
}
