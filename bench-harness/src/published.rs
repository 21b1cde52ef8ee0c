//! The floor of the last published runs: `bench-harness/runs/DATE-*.json`, of which the last by name that has a row counts.
//! A floor that became slower makes everybody look better, so it needs a reason.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::fault::Fault;
use crate::peer::FLOOR;

/// How much slower than published a floor may be without a reason: what the machine does by itself.
pub const SLOWER_MAX: f64 = 1.05;

/// The floor's published rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Floors(Vec<Row>);

#[derive(Clone, Debug, PartialEq)]
struct Row {
    /// Scenario, phase, variant.
    key: [String; 3],
    /// Median of CPU per record, in microseconds.
    cpu_us: f64,
}

impl Floors {
    /// Of the runs in `directory` that were made on this kind of processor, as slopes or not as `slopes` says.
    pub fn read(directory: &Path, processor: &Value, slopes: bool) -> Result<Self, Fault> {
        let what = || format!("published runs in {}", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(Fault::failed(what()))? {
            paths.push(entry.map_err(Fault::failed(what()))?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let mut floors = Self::default();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(Fault::failed(path.display()))?;
            let run: Value = serde_json::from_str(&text).map_err(Fault::failed(path.display()))?;
            floors.add(&run, processor, slopes);
        }
        Ok(floors)
    }

    /// One row.
    #[cfg(test)]
    pub fn of(key: [&str; 3], cpu_us: f64) -> Self {
        Self(vec![Row { key: key.map(str::to_owned), cpu_us }])
    }

    /// Rows of one run, instead of older ones.
    fn add(&mut self, run: &Value, processor: &Value, slopes: bool) {
        if run["machine"]["processor"] != *processor {
            return;
        }
        for result in run["results"].as_array().into_iter().flatten().filter(|result| result["peer"] == FLOOR) {
            let key = ["scenario", "phase", "variant"].map(|name| result[name].as_str().unwrap_or_default().to_owned());
            let is_slope = result.get("messages_short").is_some();
            if let Some(cpu_us) = result["cpu_us_per_message"]["median"].as_f64().filter(|_| is_slope == slopes) {
                self.0.retain(|row| row.key != key);
                self.0.push(Row { key, cpu_us });
            }
        }
    }

    /// What was published of this row, where `cpu_us` is more than [`SLOWER_MAX`] of it.
    pub fn faster_than(&self, key: [&str; 3], cpu_us: f64) -> Option<f64> {
        let row = self.0.iter().find(|row| row.key == key)?;
        (cpu_us > row.cpu_us * SLOWER_MAX).then_some(row.cpu_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(processor: &str, median: f64) -> Value {
        let row = json!({"scenario": "telemetry", "phase": "produce", "variant": "", "peer": "floor", "messages_short": 1,
            "cpu_us_per_message": {"min": 0.1, "median": median, "max": 9.0}});
        let mut other = row.clone();
        (other["peer"], other["cpu_us_per_message"]["median"]) = (json!("ottla"), json!(0.001));
        json!({"machine": {"processor": processor}, "results": [row, other]})
    }

    #[test]
    fn the_last_run_on_such_a_machine_counts() {
        let key = ["telemetry", "produce", ""];
        let mut floors = Floors::default();
        for (processor, median) in [("x", 2.0), ("x", 1.0), ("y", 0.1)] {
            floors.add(&run(processor, median), &json!("x"), true);
        }
        assert_eq!(floors.faster_than(key, 1.04), None);
        assert_eq!(floors.faster_than(key, 1.06), Some(1.0));
        assert_eq!(floors.faster_than(["telemetry", "consume", ""], 9.0), None);
        // A plain run has its start in it.
        floors.add(&run("x", 0.5), &json!("x"), false);
        assert_eq!(floors.faster_than(key, 1.04), None);
    }

    #[test]
    fn published_runs_can_be_read() {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        let floors = Floors::read(&runs, &json!("AMD EPYC"), true).unwrap();
        assert!(floors.faster_than(["telemetry-pool", "produce", ""], 100.0).is_some_and(|us| us < 1.0));
        assert!(matches!(Floors::read(Path::new("no/runs"), &json!("x"), true), Err(Fault::Failed(_))));
    }
}
