//! How many records a topic holds, by somebody who is no peer: kcat, or Kafka's own GetOffsetShell.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fault::Fault;

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// kcat, on librdkafka.
    Kcat,
    /// GetOffsetShell, by `ci/kafka tool`.
    Kafka,
}

impl Reader {
    /// kcat where it is installed, because Kafka's tool takes seconds of a core.
    pub fn find() -> Self {
        let kcat =
            Command::new("kcat").arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if kcat.is_ok_and(|status| status.success()) { Self::Kcat } else { Self::Kafka }
    }

    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kcat => "kcat",
            Self::Kafka => "GetOffsetShell",
        }
    }

    /// Whether the only partition of a topic holds telemetry records in the order in which they were made: each key has its
    /// record's number.
    pub fn check_order(self, bootstrap: &str, topic: &str, messages: u64) -> Result<(), Fault> {
        let mut command = Command::new("kcat");
        command.args(["-C", "-q", "-e", "-b", bootstrap, "-t", topic, "-p", "0", "-o", "beginning", "-f", "%o %k\n"]);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut kcat = started.map_err(Fault::failed("the order is compared with kcat: install it"))?;
        let lines = kcat.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines);
        let found = in_order(lines, messages);
        // It ends by itself where all was read, and else has nothing more to tell.
        let _ = kcat.kill();
        let _ = kcat.wait();
        found.map_err(|what| Fault::Check(format!("{topic}, by kcat: {what}")))
    }

    /// The sum of a topic's end offsets. Topics here are new and have no markers, so that is their number of records.
    pub fn count(self, root: &Path, bootstrap: &str, topic: &str, partitions: u32) -> Result<u64, Fault> {
        let mut command = match self {
            Self::Kcat => {
                let mut command = Command::new("kcat");
                command.args(["-Q", "-b", bootstrap]);
                for partition in 0..partitions {
                    command.args(["-t", &format!("{topic}:{partition}:-1")]);
                }
                command
            }
            Self::Kafka => {
                let mut command = Command::new(root.join("ci/kafka"));
                command.args(["tool", "GetOffsetShell", "--bootstrap-server", bootstrap, "--topic", topic]);
                command
            }
        };
        let hint = "install kcat, or Java 17 for ci/kafka";
        let said = command.stdin(Stdio::null()).output();
        let said = said.map_err(Fault::failed(format!("counting records with {} ({hint})", self.name())))?;
        if !said.status.success() {
            let words = String::from_utf8_lossy(&said.stderr);
            return Err(Fault::Failed(format!("counting records with {}: {} ({hint})", self.name(), words.trim())));
        }
        sum(&String::from_utf8_lossy(&said.stdout), partitions)
            .map_err(|what| Fault::Check(format!("{topic}, by {}: {what}", self.name())))
    }
}

/// Whether lines `OFFSET sensor_NUMBER` count up from 0, so many of them.
fn in_order(lines: impl Iterator<Item = std::io::Result<String>>, messages: u64) -> Result<(), String> {
    let mut next = 0;
    for line in lines {
        let line = line.map_err(|error| error.to_string())?;
        let pair = line.split_once(" sensor_").map(|(offset, number)| (offset.parse(), number.parse()));
        if pair != Some((Ok(next), Ok(next))) {
            return Err(format!("record {next} expected, found {line:?}: not the order in which they were sent"));
        }
        next += 1;
    }
    if next == messages { Ok(()) } else { Err(format!("{next} records, {messages} were sent")) }
}

/// Adds the offsets of `topic [0] offset 7` or `topic:0:7` lines; each partition must be there once.
fn sum(text: &str, partitions: u32) -> Result<u64, String> {
    let mut seen = vec![false; partitions as usize];
    let mut sum = 0;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let strange = || format!("cannot read {line:?}");
        let (partition, offset) = match line.split_once(" [") {
            Some((_, rest)) => rest.split_once("] offset ").ok_or_else(strange)?,
            None => line
                .rsplit_once(':')
                .and_then(|(rest, offset)| Some((rest.rsplit_once(':')?.1, offset)))
                .ok_or_else(strange)?,
        };
        let partition: usize = partition.parse().map_err(|_| strange())?;
        let place = seen.get_mut(partition).ok_or_else(strange)?;
        if std::mem::replace(place, true) {
            return Err(format!("partition {partition} twice"));
        }
        sum += offset.trim().parse::<u64>().map_err(|_| strange())?;
    }
    match seen.iter().position(|seen| !seen) {
        Some(missing) => Err(format!("no end offset for partition {missing}")),
        None => Ok(sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disorder_gaps_and_what_is_missing_are_found() {
        let check = |text: &str| in_order(text.lines().map(|line| Ok(line.to_owned())), 3);
        assert_eq!(check("0 sensor_0\n1 sensor_1\n2 sensor_2\n"), Ok(()));
        for wrong in [
            "0 sensor_1\n1 sensor_0\n2 sensor_2",
            "0 sensor_0\n1 sensor_0\n2 sensor_1",
            "0 sensor_0\n2 sensor_2",
            "0 sensor_0\n1 sensor_1",
            "0 sensor_0\n1 nothing\n2 sensor_2",
            "",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_readers_lines_are_understood() {
        assert_eq!(sum("t-1 [0] offset 7\nt-1 [1] offset 5\n", 2), Ok(12));
        assert_eq!(sum("t-1:0:7\nt-1:1:5\n", 2), Ok(12));
    }

    #[test]
    fn a_missing_partition_is_not_taken_for_an_empty_one() {
        assert_eq!(sum("t:0:7\n", 2), Err("no end offset for partition 1".into()));
        assert_eq!(sum("t:0:7\nt:0:7\n", 1), Err("partition 0 twice".into()));
        assert!(sum("t:1:7\n", 1).is_err());
        assert!(sum("t [0] offset -1001\n", 1).is_err());
    }
}
