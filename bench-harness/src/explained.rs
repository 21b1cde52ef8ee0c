//! Why a peer's ratio to franz-go is not the one that others measured: reasons that are kept, in `bench-harness/explained.txt`,
//! so that nobody types them again. A reason is for the ratio that it was found for: a peer that moves on from there has to
//! be explained anew.

use std::fs;
use std::path::Path;

use crate::expected::is_off;
use crate::fault::Fault;
use crate::report::Row;

/// Where they are, from the repository's root.
const FILE: &str = "bench-harness/explained.txt";

/// All lines of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explained(Vec<Line>);

/// `scenario | phase | peer | variant | ratio | date | reason`; the ratio is one, or `LEAST..MOST` of several runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Scenario, phase, peer, variant.
    key: [String; 4],
    /// To franz-go, as it was found: the least and the most.
    ratio: [f64; 2],
    date: String,
    reason: String,
}

impl Line {
    /// The reason and since when.
    pub fn text(&self) -> String {
        let [least, most] = self.ratio;
        let ratio = if least < most { format!("{least:.2} to {most:.2}") } else { format!("{least:.2}") };
        format!("{} ({ratio}, {})", self.reason, self.date)
    }

    /// Whether it is about such a ratio.
    fn holds(&self, found: f64) -> bool {
        let [least, most] = self.ratio;
        (least..=most).contains(&found) || !is_off(found, least) || !is_off(found, most)
    }

    fn is_of(&self, row: &Row<'_>) -> bool {
        let (scenario, phase) = (row.first.scenario.name, row.first.step.phase.to_string());
        self.key == [scenario, &phase, row.first.peer.name, row.first.step.variant]
    }
}

impl Explained {
    /// The repository's.
    pub fn read(root: &Path) -> Result<Self, Fault> {
        let text = fs::read_to_string(root.join(FILE)).map_err(Fault::failed(FILE))?;
        Self::parse(&text).map_err(|what| Fault::Failed(format!("{FILE}: {what}")))
    }

    /// Of its lines; `#` begins a comment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let parsed = lines.map(|(place, line)| {
            let strange =
                || format!("line {}: expected scenario | phase | peer | variant | ratio | date | reason", place + 1);
            let mut parts = line.splitn(7, '|').map(|part| part.trim().to_owned());
            let mut next = || parts.next().ok_or_else(strange);
            let key = [next()?, next()?, next()?, next()?];
            let ratio = next()?;
            let (least, most) = ratio.split_once("..").unwrap_or((&ratio, &ratio));
            let number = |text: &str| text.parse::<f64>().map_err(|_| strange());
            let ratio = [number(least)?, number(most)?];
            let (date, reason) = (next()?, next()?);
            if date.is_empty() || reason.is_empty() {
                return Err(strange());
            }
            Ok(Line { key, ratio, date, reason })
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// The reason for a row's ratio, if that is still the one that was explained.
    pub fn of(&self, row: &Row<'_>, found: f64) -> Option<&Line> {
        self.0.iter().find(|line| line.is_of(row) && line.holds(found))
    }

    /// Reasons for rows that have become what was expected.
    pub fn stale(&self, rows: &[Row<'_>]) -> impl Iterator<Item = String> {
        let is_fine = |row: &&Row<'_>| {
            row.to_reference.zip(row.expected).is_some_and(|(found, expected)| !is_off(found.median, expected))
        };
        let stale = move |line: &&Line| rows.iter().filter(is_fine).any(|row| line.is_of(row));
        self.0.iter().filter(stale).map(|line| format!("stale reason for {}", line.key.join(" ").trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;
    use crate::{expected, peer, scenario};

    #[test]
    fn the_kept_reasons_are_for_rows_that_others_measured() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for line in Explained::read(&root).unwrap().0 {
            let [scenario, phase, peer, variant] = &line.key;
            let phase = if phase == "produce" { peer::Phase::Produce } else { peer::Phase::Consume };
            assert_eq!(phase.to_string(), line.key[1]);
            assert!(
                scenario::named(std::slice::from_ref(scenario)).is_ok()
                    && peer::named(std::slice::from_ref(peer)).is_ok()
            );
            let expected = expected::ratio(scenario, phase, peer, variant).unwrap();
            let off = line.ratio.iter().any(|ratio| is_off(*ratio, expected));
            assert!(off && line.ratio[0] <= line.ratio[1], "{line:?} needs no reason: {expected}");
        }
        assert!(Explained::read(Path::new("no/such")).is_err());
    }

    #[test]
    fn lines_that_say_nothing_are_told_by_their_number() {
        let good = "# why\n\ntelemetry | consume | java | | 1.3 | 2026-11-22 | a | b\n";
        assert_eq!(Explained::parse(good).unwrap().0[0].text(), "a | b (1.30, 2026-11-22)");
        for wrong in ["a | b", "a | b | c | d | much | e | f", "a|b|c|d|1|e|", "a|b|c|d|1|e"] {
            assert!(Explained::parse(&format!("#\n{wrong}")).is_err_and(|what| what.starts_with("line 2")), "{wrong}");
        }
    }

    /// franz-go's pooled reader is expected at 0.863 of the other.
    fn with(reason: &str, ratio: f64) -> crate::report::Report {
        let mut report = report();
        report.explained = Explained::parse(reason).unwrap();
        for sample in report.samples.iter_mut().filter(|sample| sample.step.variant == "pooled") {
            *sample = crate::sample::tests::sample(
                "franz-go",
                peer::Phase::Consume,
                1,
                sample.round,
                &[
                    (2_000_000, 1.0, 1.0),
                    (12_000_000, 1.0 + 10.0 * ratio * [2.0, 8.0, 8.0][sample.round as usize], 9.0),
                ],
            );
        }
        report
    }

    #[test]
    fn a_reason_is_for_the_ratio_it_was_found_for() {
        let reason = "telemetry | consume | franz-go | pooled | 0.6 | 2026-11-22 | records are large";
        let told = with(reason, 0.62);
        assert_eq!(told.check(), Ok(()));
        let pooled = told.json()["results"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(pooled["flags"], serde_json::json!(["off-ratio-accepted"]));
        assert_eq!(pooled["accepted"], "records are large (0.60, 2026-11-22)");
        assert!(
            told.text().contains("explained: telemetry consume franz-go, pooled: 0.62")
                && told.html().contains("records are large")
        );
        // It moved on: nobody knows why.
        assert!(with(reason, 0.4).check().is_err());
        assert!(with(&reason.replace("0.6", "0.4..0.7"), 0.5).check().is_ok());
        assert!(with(&reason.replace("0.6", "0.3..0.4"), 0.6).check().is_err());
        // Somebody else's reason.
        assert!(with(&reason.replace("pooled", ""), 0.62).check().is_err());
    }

    #[test]
    fn a_reason_that_is_not_needed_any_more_is_told() {
        let reason = "telemetry | consume | franz-go | pooled | 0.6 | 2026-11-22 | records are large";
        let stale = with(reason, 0.863);
        assert_eq!(stale.check(), Ok(()));
        assert_eq!(
            stale.notes(),
            ["stale reason for telemetry consume franz-go pooled: it is not off any more: take it out"]
        );
        assert_eq!(with(reason, 0.62).notes().len(), 1);
    }
}
