//! What one peer cost in one round: the measuring rule.
//!
//! ```text
//!  CPU of the whole process
//!    ▲            ● long run           CPU per record = slope between the two
//!    │        ╱                        start-up       = where the line meets zero records
//!    │    ● short run
//!    │╱                                A plain run has one point: start-up is what the peer says it spent
//!    └──────────────► records          outside of its phase, and stays in the figure.
//! ```

use std::time::Duration;

use serde_json::Value;

use crate::fault::Fault;
use crate::peer::{Job, Peer, Phase, Step};
use crate::scenario::{Mode, Scenario};

/// One run of a peer's program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Take {
    /// Records sent or read.
    pub messages: u64,
    /// CPU time of the whole process up to the end of the phase.
    process_cpu_seconds: f64,
    /// The part of it inside the phase.
    phase_cpu_seconds: f64,
    /// Wall time of the phase.
    pub seconds: f64,
    pub max_rss_bytes: f64,
    /// Zero where the peer does not tell; so are the next two.
    pub batches: f64,
    pub requests: f64,
    pub wire_bytes: f64,
    pub context_switches: Option<f64>,
    pub broker_cpu_seconds: Option<f64>,
    /// Of the proxy in front of the broker, where there is one.
    pub proxy_cpu_seconds: Option<f64>,
    pub ack_us: Option<[f64; 3]>,
    /// Median of what it takes to wake a thread here, where the peer measures that.
    pub wake_us: Option<f64>,
    /// CPU time of the whole process in user space and in the kernel, until it ended.
    pub user_system_seconds: Option<[f64; 2]>,
    /// What a reader made of all it read.
    pub checksum: Option<u64>,
}

impl Take {
    /// Reads what a program printed: it must have done what it was asked to.
    pub fn read(job: &Job<'_>, phase: Phase, said: &Value, broker: Option<Duration>) -> Result<Self, Fault> {
        let row = &said["phases"][0];
        let number = |name: &str| {
            row[name].as_f64().ok_or_else(|| Fault::Failed(format!("its report has no figure {name}: {said}")))
        };
        let done = number("messages")? as u64;
        let as_asked = match job.scenario.mode {
            Mode::CatchUp(_) => done >= job.messages,
            Mode::KlifeAsync(_) => (1..=job.messages).contains(&done),
            _ => done == job.messages,
        };
        if row["phase"] != phase.to_string() || !as_asked {
            return Err(Fault::Check(format!("{} {done} records, not {phase} {}", row["phase"], job.messages)));
        }
        if row["verified"] == false {
            return Err(Fault::Check("what was read was not found to be what was sent".into()));
        }
        let ack = |name: &str| row["ack_us"][name].as_f64();
        let checksum = row["checksum"].as_str().map(|sum| u64::from_str_radix(sum, 16));
        Ok(Self {
            messages: done,
            process_cpu_seconds: number("process_cpu_seconds")?,
            phase_cpu_seconds: number("cpu_us_per_message")? * done as f64 / 1e6,
            seconds: number("seconds")?.max(1e-9),
            max_rss_bytes: number("max_rss_bytes")?,
            batches: row["batches"].as_f64().unwrap_or(0.0),
            requests: row["requests"].as_f64().unwrap_or(0.0),
            wire_bytes: row["wire_bytes"].as_f64().unwrap_or(0.0),
            context_switches: row["context_switches"].as_f64(),
            broker_cpu_seconds: broker.map(|cpu| cpu.as_secs_f64()),
            proxy_cpu_seconds: None,
            ack_us: ack("p50").zip(ack("p99")).zip(ack("p999")).map(|((p50, p99), p999)| [p50, p99, p999]),
            wake_us: row["wake_us"]["p50"].as_f64(),
            user_system_seconds: None,
            checksum: checksum.transpose().map_err(Fault::failed("its checksum"))?,
        })
    }
}

impl Take {
    /// The same program as it was seen from outside while it ran: its CPU time so far, and when that was.
    pub fn at(self, messages: u64, cpu: Duration, since_start: Duration, broker: Option<Duration>) -> Self {
        let (process_cpu_seconds, seconds) = (cpu.as_secs_f64(), since_start.as_secs_f64());
        let broker_cpu_seconds = broker.map(|cpu| cpu.as_secs_f64());
        // Of the one record that ended it.
        let (batches, wire_bytes) = (0.0, 0.0);
        Self { messages, process_cpu_seconds, seconds, broker_cpu_seconds, batches, wire_bytes, ..self }
    }
}

/// One phase of one peer in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Counted from 0.
    pub round: u32,
    /// What was sent or read.
    pub scenario: &'static Scenario,
    /// Who.
    pub peer: &'static Peer,
    /// What of it.
    pub step: &'static Step,
    /// `None` in a plain run.
    pub short: Option<Take>,
    /// The only run of a plain one.
    pub long: Take,
    /// What the peer says are its effective settings.
    pub settings: Value,
}

/// A figure of a sample, by its name in the report.
pub type Figure = (&'static str, fn(&Sample) -> Option<f64>);

/// Figures that results have, with their units in the name.
pub const FIGURES: &[Figure] = &[
    ("cpu_us_per_message", |sample| Some(sample.cpu_us())),
    ("user_us_per_message", |sample| Some(sample.user_system_us()?[0])),
    ("system_us_per_message", |sample| Some(sample.user_system_us()?[1])),
    ("messages_per_s", |sample| Some(sample.messages_per_s())),
    ("max_rss_bytes", |sample| Some(sample.max_rss_bytes())),
    ("start_cpu_seconds", |sample| Some(sample.start_cpu_seconds())),
    ("client_busy", |sample| Some(sample.client_busy())),
    ("broker_busy", Sample::broker_busy),
    ("broker_cpu_us_per_message", Sample::broker_cpu_us),
    ("proxy_busy", Sample::proxy_busy),
    ("batches_per_rtt", Sample::batches_per_rtt),
    ("messages_per_cpu_second", |sample| Some(1e6 / sample.cpu_us())),
    ("catch_up_seconds", Sample::catch_up_seconds),
    ("batches", |sample| Some(sample.long.batches)),
    ("requests", |sample| Some(sample.long.requests)),
    ("wire_bytes", |sample| Some(sample.long.wire_bytes)),
    ("context_switches", |sample| sample.long.context_switches),
    ("ack_us_p50", |sample| Some(sample.long.ack_us?[0])),
    ("ack_us_p99", |sample| Some(sample.long.ack_us?[1])),
    ("ack_us_p999", |sample| Some(sample.long.ack_us?[2])),
];

/// The figure of this name.
pub fn figure(name: &str) -> Option<fn(&Sample) -> Option<f64>> {
    FIGURES.iter().find(|(known, _)| *known == name).map(|(_, figure)| *figure)
}

impl Sample {
    /// Growth of something from the short run to the long one; in a plain run what it is there.
    fn growth(&self, of: impl Fn(&Take) -> f64) -> f64 {
        of(&self.long) - self.short.as_ref().map_or(0.0, of)
    }

    fn messages(&self) -> f64 {
        self.growth(|take| take.messages as f64)
    }

    /// Wall time that the growth took. Start-up is not in it either way.
    fn seconds(&self) -> f64 {
        self.growth(|take| take.seconds)
    }

    /// CPU time of the whole client process per record, in microseconds: the slope, or in a plain run all of it.
    pub fn cpu_us(&self) -> f64 {
        self.growth(|take| take.process_cpu_seconds) * 1e6 / self.messages()
    }

    /// The same in user space and in the kernel, as far as the kernel's ticks tell them apart; in a plain run with all that
    /// came before and behind the phase.
    pub fn user_system_us(&self) -> Option<[f64; 2]> {
        let short = self.short.map_or(Some([0.0; 2]), |take| take.user_system_seconds)?;
        let long = self.long.user_system_seconds?;
        Some([0, 1].map(|part| (long[part] - short[part]) * 1e6 / self.messages()))
    }

    /// CPU time that does not depend on how many records there are, in seconds.
    pub fn start_cpu_seconds(&self) -> f64 {
        let at = |take: &Take| take.process_cpu_seconds - self.cpu_us() * take.messages as f64 / 1e6;
        let outside = |take: &Take| take.process_cpu_seconds - take.phase_cpu_seconds;
        self.short.as_ref().map_or_else(|| outside(&self.long), at).max(0.0)
    }

    pub fn messages_per_s(&self) -> f64 {
        // On a busy machine a short run may take longer than a long one; what is left then is the long one alone.
        if self.seconds() > 0.0 {
            self.messages() / self.seconds()
        } else {
            self.long.messages as f64 / self.long.seconds
        }
    }

    pub fn max_rss_bytes(&self) -> f64 {
        self.short.map_or(0.0, |take| take.max_rss_bytes).max(self.long.max_rss_bytes)
    }

    /// The part of the time in which the client had a processor: 1 is one core.
    pub fn client_busy(&self) -> f64 {
        let cpu = |take: &Take| if self.short.is_some() { take.process_cpu_seconds } else { take.phase_cpu_seconds };
        self.per_second(self.growth(cpu), self.long.phase_cpu_seconds)
    }

    /// CPU time over the time that it took: of the growth, or of the long run alone where a short run took longer.
    fn per_second(&self, growth: f64, long: f64) -> f64 {
        if self.seconds() > 0.0 { growth / self.seconds() } else { long / self.long.seconds }
    }

    /// The same of the broker.
    pub fn broker_busy(&self) -> Option<f64> {
        Some(self.per_second(self.broker_cpu_growth()?, self.long.broker_cpu_seconds?))
    }

    /// The same of the proxy.
    pub fn proxy_busy(&self) -> Option<f64> {
        let long = self.long.proxy_cpu_seconds?;
        Some(self.per_second(self.growth(|take| take.proxy_cpu_seconds.unwrap_or(0.0)), long))
    }

    /// How many batches passed in one round trip; whoever waits for each batch before the next has one. `None` without a
    /// round trip worth the name, and where the peer does not count its batches.
    pub fn batches_per_rtt(&self) -> Option<f64> {
        let rtt_ms = self.scenario.rtt_ms;
        let batch = self.messages_per_batch().filter(|_| rtt_ms > 0)?;
        Some(self.messages_per_s() * f64::from(rtt_ms) / 1e3 / batch)
    }

    /// How long the long run took to read what was there and what came meanwhile.
    pub fn catch_up_seconds(&self) -> Option<f64> {
        matches!(self.scenario.mode, Mode::CatchUp(_)).then_some(self.long.seconds)
    }

    pub fn broker_cpu_us(&self) -> Option<f64> {
        Some(self.broker_cpu_growth()? * 1e6 / self.messages())
    }

    fn broker_cpu_growth(&self) -> Option<f64> {
        self.long.broker_cpu_seconds?;
        Some(self.growth(|take| take.broker_cpu_seconds.unwrap_or(0.0)))
    }

    /// Bytes of batches on the wire per record; `None` where the peer does not tell.
    pub fn wire_bytes_per_message(&self) -> Option<f64> {
        (self.long.wire_bytes > 0.0).then(|| self.long.wire_bytes / self.long.messages as f64)
    }

    /// Records in a batch, on average; `None` where the peer does not tell.
    pub fn messages_per_batch(&self) -> Option<f64> {
        (self.long.batches > 0.0).then(|| self.long.messages as f64 / self.long.batches)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{peer, scenario};
    use serde_json::json;

    /// What a program prints.
    pub fn said(phase: &str, messages: u64, process_cpu: f64, seconds: f64) -> Value {
        json!({"settings": {"version": "1"}, "phases": [{
            "phase": phase, "messages": messages, "seconds": seconds, "process_cpu_seconds": process_cpu,
            "cpu_us_per_message": (process_cpu - 0.000_1) * 1e6 / messages as f64, "max_rss_bytes": 1 << 20,
            "batches": 4, "requests": 2, "wire_bytes": 66 * messages, "context_switches": 17, "checksum": "00ff",
            "ack_us": {"p50": 1, "p99": 2, "p999": 3},
        }]})
    }

    fn job(messages: u64, scenario: usize) -> Job<'static> {
        Job { bootstrap: "b:1", topic: "t", messages, seconds: None, scenario: &scenario::ALL[scenario] }
    }

    /// A sample of made-up figures: runs are (records, CPU seconds, wall seconds); the broker is busy half of the time.
    pub fn sample(peer: &str, phase: Phase, place: usize, round: u32, runs: &[(u64, f64, f64)]) -> Sample {
        let peer = peer::named(&[peer.to_owned()]).unwrap()[0];
        let take = |&(messages, cpu, seconds): &(u64, f64, f64)| {
            let broker = Some(Duration::from_secs_f64(seconds / 2.0));
            Take::read(&job(messages, 0), phase, &said(&phase.to_string(), messages, cpu, seconds), broker).unwrap()
        };
        Sample {
            round,
            scenario: &scenario::ALL[0],
            peer,
            step: peer.steps.iter().filter(|step| step.phase == phase).nth(place).unwrap(),
            short: (runs.len() == 2).then(|| take(&runs[0])),
            long: take(runs.last().unwrap()),
            settings: json!({"linger_ms": "100"}),
        }
    }

    fn near(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 1e-9
    }

    #[test]
    fn cpu_per_record_is_the_slope_and_start_up_where_it_meets_zero() {
        // A JVM: 3 s to start and compile, then 1 us a record.
        let java = sample("franz-go", Phase::Produce, 0, 0, &[(2_000_000, 5.0, 4.0), (12_000_000, 15.0, 14.0)]);
        assert!(near(java.cpu_us(), 1.0) && near(java.start_cpu_seconds(), 3.0));
        assert!(near(java.messages_per_s(), 1e6) && near(java.client_busy(), 1.0));
        assert!(near(java.broker_busy().unwrap(), 0.5) && near(java.broker_cpu_us().unwrap(), 0.5));
    }

    #[test]
    fn batches_per_round_trip_are_those_of_the_long_runs_growth() {
        let rtt = scenario::named(&["rtt-20".to_owned()]).unwrap()[0];
        // 1,000 records a batch and 200,000 a second make 200 batches a second, 4 in 20 ms. Start-up is not in it.
        let mut one = sample("ottla", Phase::Produce, 0, 0, &[(400_000, 1.0, 7.0), (1_000_000, 2.0, 10.0)]);
        assert_eq!((one.batches_per_rtt(), one.proxy_busy()), (None, None));
        one.scenario = rtt;
        one.long.batches = 1_000.0;
        assert!(near(one.batches_per_rtt().unwrap(), 4.0), "{:?}", one.batches_per_rtt());
        (one.short.as_mut().unwrap().proxy_cpu_seconds, one.long.proxy_cpu_seconds) = (Some(0.1), Some(0.4));
        assert!(near(one.proxy_busy().unwrap(), 0.1));
        one.long.batches = 0.0;
        assert_eq!(one.batches_per_rtt(), None);
    }

    #[test]
    fn a_reader_seen_from_outside_costs_its_growth_per_second() {
        let said = said("consume", 1, 0.5, 30.0);
        let take = Take::read(&job(1, 0), Phase::Consume, &said, None).unwrap();
        let at = |seconds: u64, ms| {
            take.at(
                seconds,
                Duration::from_millis(ms),
                Duration::from_secs(seconds),
                Some(Duration::from_secs(seconds)),
            )
        };
        let mut idle = sample("ottla", Phase::Consume, 0, 0, &[(1, 0.1, 1.0)]);
        (idle.short, idle.long) = (Some(at(10, 300)), at(30, 340));
        assert!(
            near(idle.cpu_us(), 2_000.0) && near(idle.start_cpu_seconds(), 0.28) && near(idle.client_busy(), 0.002)
        );
    }

    #[test]
    fn a_plain_run_keeps_its_start_up_and_tells_it() {
        let plain = sample("ottla", Phase::Produce, 0, 0, &[(1_000, 0.002, 0.5)]);
        assert!(near(plain.cpu_us(), 2.0) && near(plain.start_cpu_seconds(), 0.000_1));
        assert!(near(plain.messages_per_s(), 2_000.0) && near(plain.client_busy(), 0.0038));
    }

    #[test]
    fn user_and_system_time_are_slopes_too() {
        let mut one = sample("ottla", Phase::Produce, 0, 0, &[(1_000_000, 1.0, 1.0), (3_000_000, 3.0, 3.0)]);
        assert_eq!(one.user_system_us(), None);
        one.long.user_system_seconds = Some([2.5, 0.5]);
        assert_eq!(one.user_system_us(), None, "half of it is not known");
        one.short.as_mut().unwrap().user_system_seconds = Some([0.9, 0.1]);
        let [user, system] = one.user_system_us().unwrap();
        assert!(near(user, 0.8) && near(system, 0.2), "{user} {system}");
        one.short = None;
        let [user, system] = one.user_system_us().unwrap();
        assert!(near(user, 2.5 / 3.0) && near(system, 0.5 / 3.0));
    }

    #[test]
    fn a_slower_short_run_makes_no_negative_rate() {
        let odd = sample("ottla", Phase::Produce, 0, 0, &[(1_000, 0.002, 9.0), (2_000, 0.003, 4.0)]);
        assert!(near(odd.messages_per_s(), 500.0), "{}", odd.messages_per_s());
        assert!(
            near(odd.client_busy(), 0.0029 / 4.0) && near(odd.broker_busy().unwrap(), 0.5),
            "{}",
            odd.client_busy()
        );
    }

    #[test]
    fn a_wrong_count_or_unverified_content_fails_the_check() {
        let read = |said: &Value| Take::read(&job(1_000, 0), Phase::Produce, said, None);
        let good = said("produce", 1_000, 0.1, 0.1);
        assert_eq!(read(&good).unwrap().checksum, Some(255));
        let mut wrong = good.clone();
        wrong["phases"][0]["messages"] = json!(999);
        assert!(matches!(read(&wrong), Err(Fault::Check(text)) if text.contains("999")));
        let mut wrong = good.clone();
        wrong["phases"][0]["verified"] = json!(false);
        assert!(matches!(read(&wrong), Err(Fault::Check(_))));
        assert!(matches!(read(&json!({"phases": []})), Err(Fault::Failed(text)) if text.contains("messages")));
        assert!(matches!(read(&said("consume", 1_000, 0.1, 0.1)), Err(Fault::Check(_))));
        // More than was there is read of what is still being written; less than was asked for is sent in a given time.
        let place = |name: &str| scenario::ALL.iter().position(|scenario| scenario.name == name).unwrap();
        let of = |name: &str, phase: Phase, count| {
            Take::read(&job(1_000, place(name)), phase, &said(&phase.to_string(), count, 0.1, 0.1), None)
        };
        assert_eq!(of("catch-up", Phase::Consume, 1_001).unwrap().messages, 1_001);
        assert!(of("catch-up", Phase::Consume, 999).is_err());
        assert_eq!(of("klife-async", Phase::Produce, 999).unwrap().messages, 999);
        assert!(of("klife-async", Phase::Produce, 1_001).is_err() && of("klife-async", Phase::Produce, 0).is_err());
    }
}
