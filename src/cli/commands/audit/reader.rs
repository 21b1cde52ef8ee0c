//! Reads assigned partitions from their beginning, until time, an end, or whoever started us says stop.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::admin::OffsetSpec;
use crate::cli::connect::Session;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{ConsumerSettings, IsolationLevel, StartAt};
use crate::consumer::{ConsumeError, Record};

/// How long to wait for records before looking at the clock.
const WAIT: Duration = Duration::from_millis(100);
/// How long the partitions' ends are asked for, again and again.
const ENDS_TIME: Duration = Duration::from_secs(60);

/// When reading is over. Whatever comes first.
pub struct Until {
    /// At this time.
    pub time: Option<Instant>,
    /// At the end that the partitions have when this is set.
    pub end: Option<Arc<AtomicBool>>,
}

impl Until {
    /// At the end that the partitions have now.
    pub fn end() -> Self {
        Self { time: None, end: Some(Arc::new(AtomicBool::new(true))) }
    }
}

/// A flag that is set when standard input ends.
pub fn stdin_ended() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        let mut sink = [0; 256];
        let mut input = io::stdin().lock();
        while !matches!(input.read(&mut sink), Ok(0) | Err(_)) {}
        flag.store(true, Ordering::Relaxed);
    });
    ended
}

/// Gives every record of the partitions to `each`. A partition that is refused for now is told and tried again.
pub fn read(
    session: &Session,
    settings: ConsumerSettings,
    assignment: &[(String, i32)],
    until: &Until,
    output: &Output,
    mut each: impl FnMut(&Record<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let isolation = settings.isolation_level;
    let starts = assignment.iter().map(|(topic, partition)| (topic.as_str(), *partition, StartAt::Earliest));
    let mut consumer = session.consumer().settings(settings).assign(starts).build().map_err(Failure::failed)?;
    let mut ends: Option<BTreeMap<(String, i32), i64>> = None;
    loop {
        if until.time.is_some_and(|time| Instant::now() >= time) {
            return Ok(());
        }
        if ends.is_none() && until.end.as_ref().is_some_and(|end| end.load(Ordering::Relaxed)) {
            ends = Some(ends_now(session, assignment, isolation)?);
        }
        if let Some(ends) = &mut ends {
            ends.retain(|(topic, partition), end| {
                !matches!(consumer.position(topic, *partition), Ok(Some(position)) if position >= *end)
            });
            // What was read beyond an end is told too: it is there.
            if ends.is_empty() {
                return Ok(());
            }
        }
        match consumer.next(WAIT) {
            Ok(Some(batch)) => {
                for record in &batch {
                    each(&record)?;
                }
            }
            Ok(None) => {}
            Err(ConsumeError::Refused { stopped: false, topic, partition, why }) => {
                output.note(&format!("{topic}-{partition}: {why}; trying again"));
            }
            Err(error) => return Err(Failure::failed(error)),
        }
    }
}

/// Where each partition ends now. A partition without a leader is asked again for a while.
fn ends_now(
    session: &Session,
    assignment: &[(String, i32)],
    isolation: IsolationLevel,
) -> Result<BTreeMap<(String, i32), i64>, Failure> {
    let deadline = Instant::now() + ENDS_TIME;
    let mut ends = BTreeMap::new();
    loop {
        let missing = assignment.iter().filter(|key| !ends.contains_key(*key));
        let specs: Vec<_> = missing.map(|(topic, index)| (topic.as_str(), *index, OffsetSpec::Latest)).collect();
        if specs.is_empty() {
            return Ok(ends);
        }
        let mut problem = None;
        match session.admin().list_offsets(specs, isolation).wait() {
            Ok(listed) => {
                for (key, end) in listed {
                    match end {
                        Ok(end) => {
                            ends.insert(key, end.offset.unwrap_or(0));
                        }
                        Err(error) => problem = Some(error),
                    }
                }
            }
            Err(error) => problem = Some(error),
        }
        if let Some(problem) = problem {
            if Instant::now() >= deadline {
                return Err(Failure::failed(problem));
            }
            std::thread::sleep(WAIT);
        }
    }
}
