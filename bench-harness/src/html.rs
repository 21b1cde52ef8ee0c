//! The report as a page: plots in SVG and all figures, in one file that asks nobody for anything.

use std::fmt::Write;

use crate::peer::{FLOOR, Phase};
use crate::report::{Flag, Report, Row, fact, grouped, mib};
use crate::scenario::Mode;
use crate::stats::Spread;
use crate::table::{COLUMNS, rules, told};

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1440px;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2.2rem 0 .2rem;border-top:1px solid #d8dee4;padding-top:1rem}\
p{max-width:60rem}.what,.note{color:#57606a}.plots{display:flex;flex-wrap:wrap;gap:1rem 2rem}figure{margin:.5rem 0}\
figcaption{font-weight:600;margin-bottom:.2rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:12px;white-space:nowrap}\
th,td{padding:.25rem .4rem;border-bottom:1px solid #d8dee4;text-align:right;font-variant-numeric:tabular-nums}\
th{text-align:right;vertical-align:bottom;white-space:normal;background:#f6f8fa}th:first-child,td:first-child,.flag{text-align:left}\
tr.own td{font-weight:600}td.flag{color:#9a3412;white-space:normal}details{margin:.6rem 0}pre{font-size:11px;white-space:pre-wrap;background:#f6f8fa;padding:.6rem}\
svg text{font:12px system-ui,sans-serif;fill:#1b1f24}svg .v{fill:#57606a}";

/// What is plotted of every phase, where anybody told it.
type Plot = (&'static str, fn(&Row<'_>) -> Option<Spread>, fn(f64) -> String);
const CPU: &str = "CPU per record, us (less is better)";
const RATE: &str = "records per second (more is better)";
const PLOTS: &[Plot] = &[
    (CPU, |row| row.spread("cpu_us_per_message"), |us| format!("{us:.3}")),
    (
        "peak memory (less is better)",
        |row| {
            row.spread("max_rss_bytes")
                .filter(|_| !row.flags.contains(&Flag::RssHoldsPool) && row.first.peer.name != FLOOR)
        },
        mib,
    ),
    (RATE, |row| row.spread("messages_per_s").filter(|_| row.first.peer.name != FLOOR), grouped),
    ("acknowledgement p50, ms (less is better)", |row| ack_ms(row, 0).filter(|_| is_about_latency(row)), ms),
    ("acknowledgement p99, ms (less is better)", |row| ack_ms(row, 1), ms),
    ("acknowledgement p99.9, ms (less is better)", |row| ack_ms(row, 2).filter(|_| is_about_latency(row)), ms),
];

fn ack_ms(row: &Row<'_>, place: usize) -> Option<Spread> {
    row.of(|sample| Some(sample.long.ack_us?[place] / 1e3))
}

fn ms(ms: f64) -> String {
    format!("{ms:.2}")
}

/// Where nobody sends as fast as it goes, latency is more than how much a client lets queue up.
fn is_about_latency(row: &Row<'_>) -> bool {
    matches!(row.first.scenario.mode, Mode::Waited | Mode::Paced(_) | Mode::KlifeSync(_))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One bar per row, with a whisker from the least to the greatest.
fn bars(out: &mut String, title: &str, bars: &[(&Row<'_>, Spread)], shown: fn(f64) -> String) {
    const BAR: f64 = 260.0;
    const LINE: f64 = 24.0;
    let most = bars.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    // Letters have some 6.4 pixels on average.
    let label = bars.iter().map(|(row, _)| row.who().len()).max().unwrap_or(0) as f64 * 6.4 + 14.0;
    let (width, height) = (label + BAR + 90.0, bars.len() as f64 * LINE + 6.0);
    let title = escaped(title);
    let _ = write!(
        out,
        "<figure><figcaption>{title}</figcaption><svg role=\"img\" aria-label=\"{title}\" width=\"{width}\" \
         height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    );
    for (place, (row, spread)) in bars.iter().enumerate() {
        let (y, at) = (place as f64 * LINE + 4.0, |value: f64| label + value.max(0.0) / most * BAR);
        let colour = match row.first.peer.name {
            "ottla" | "ottla-lib" => "#1a7f5a",
            FLOOR => "#c5ccd3",
            _ => "#6f86b5",
        };
        let (middle, bar_end, value) = (y + 8.0, at(spread.median), shown(spread.median));
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{label}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" rx=\"2\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle}H{:.1}M{:.1} {}v8M{:.1} {}v8\" stroke=\"#1b1f24\" fill=\"none\"/>\
             <text class=\"v\" x=\"{:.1}\" y=\"{}\">{}</text>",
            label - 8.0,
            y + 12.0,
            escaped(&row.who()),
            (bar_end - label).max(1.0),
            at(spread.min),
            at(spread.max),
            at(spread.min),
            y + 4.0,
            at(spread.max),
            y + 4.0,
            at(spread.max).max(bar_end) + 6.0,
            y + 12.0,
            escaped(&value),
        );
    }
    out.push_str("</svg></figure>");
}

fn table(out: &mut String, rows: &[&Row<'_>]) {
    // Scenario and phase stand above.
    let mut columns = told(&COLUMNS[2..], rows);
    // A warning that stands outside of the window warns nobody.
    if columns.last().is_some_and(|(head, _)| *head == "flags") {
        columns[1..].rotate_right(1);
    }
    out.push_str("<div class=\"wide\"><table><thead><tr>");
    for (head, _) in &columns {
        let class = if *head == "flags" { " class=\"flag\"" } else { "" };
        let _ = write!(out, "<th{class}>{}</th>", escaped(head));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str(if row.first.peer.is_ours() { "<tr class=\"own\">" } else { "<tr>" });
        for (head, cell) in &columns {
            let class = if *head == "flags" { " class=\"flag\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", escaped(&cell(row)));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

impl Report {
    /// All of it as one HTML file.
    pub fn html(&self) -> String {
        let rows = self.rows();
        let mut out = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>Ottla beside its peers</title><style>{STYLE}</style></head><body><h1>Ottla beside its peers</h1>"
        );
        for rule in rules(self) {
            let _ = write!(out, "<p class=\"note\">{}.</p>", escaped(&rule));
        }
        for note in self.notes() {
            let _ = write!(out, "<p class=\"note\">{}.</p>", escaped(&note));
        }
        let mut scenarios: Vec<_> = rows.iter().map(|row| row.first.scenario).collect();
        scenarios.dedup_by_key(|scenario| scenario.name);
        for scenario in scenarios {
            for phase in [Phase::Produce, Phase::Consume] {
                let mine = |row: &&Row<'_>| (row.first.scenario.name, row.first.step.phase) == (scenario.name, phase);
                let mut these: Vec<&Row<'_>> = rows.iter().filter(mine).collect();
                if these.is_empty() {
                    continue;
                }
                let first = these[0].first;
                let counts = [first.short, Some(first.long)].into_iter().flatten();
                let counts: Vec<String> = counts.map(|take| grouped(take.messages as f64)).collect();
                let what = format!("{}; {} records", scenario.what, counts.join(" and "));
                let _ = write!(out, "<h2>{}: {phase}</h2><p class=\"what\">{}</p>", scenario.name, escaped(&what));
                let cost = |row: &Row<'_>| row.spread("cpu_us_per_message").map_or(0.0, |spread| spread.median);
                these.sort_by(|one, other| cost(one).total_cmp(&cost(other)));
                out.push_str("<div class=\"plots\">");
                for (title, figure, shown) in PLOTS {
                    let mut told: Vec<_> = these.iter().filter_map(|row| Some((*row, figure(row)?))).collect();
                    // The best stands above.
                    told.sort_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
                    if *title == RATE {
                        told.reverse();
                    }
                    if !told.is_empty() {
                        bars(&mut out, title, &told, *shown);
                    }
                }
                out.push_str("</div>");
                table(&mut out, &these);
                out.push_str("<details><summary>effective settings</summary>");
                for row in these {
                    let settings = row.first.settings.as_object().into_iter().flatten();
                    let words: Vec<String> = settings.map(|(name, value)| format!("{name}={}", fact(value))).collect();
                    let _ = write!(out, "<pre>{}: {}</pre>", escaped(&row.who()), escaped(&words.join("  ")));
                }
                out.push_str("</details>");
            }
        }
        out.push_str("</body></html>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn the_page_has_every_row_and_asks_nobody() {
        let mut report = report();
        report.accepted.push(("java".into(), "a & b".into()));
        let page = report.html();
        for row in report.rows() {
            let who = format!("<td>{}</td>", row.who());
            assert!(page.contains(&who), "{who} is missing");
            for (_, cell) in told(COLUMNS, &[&row]) {
                assert!(page.contains(&escaped(&cell(&row))), "{}", cell(&row));
            }
        }
        // Nobody is beside bare sockets here.
        assert!(
            page.contains("<th>x franz-go</th>") && !page.contains("<th>x bare</th>"),
            "empty columns are left out"
        );
        for part in [
            "linger 100 ms; 2,000,000 and 12,000,000 records",
            "telemetry: produce",
            "telemetry: consume",
            "<svg",
            "linger_ms=100",
            "a &lt;fast&gt; one",
            "java: a &amp; b",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for part in ["http:", "https:", "src=", "href=", "url(", "<script", "@import", "NaN", "inf<"] {
            assert!(!page.contains(part), "{part} does not belong there");
        }
        // Four plots of each phase, a bar and a whisker for every row.
        assert_eq!(page.matches("<rect").count(), page.matches("<path").count());
        assert_eq!(page.matches("<rect").count(), 4 * report.rows().len());
    }
}
