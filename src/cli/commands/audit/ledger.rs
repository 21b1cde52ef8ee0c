//! What the producer was told of each record: 24 bytes a record, in pages by producer and sequence.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{self, LineError, Produced};
use super::value::java_partition;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Entries of one page: neighbouring sequences of one producer.
pub const PAGE: usize = 256;

/// A value for each record of each producer, in pages that exist where a record does.
pub struct Pages<T> {
    pages: BTreeMap<(u32, u64), Box<[T; PAGE]>>,
    blank: T,
}

impl<T: Copy> Pages<T> {
    pub fn new(blank: T) -> Self {
        Self { pages: BTreeMap::new(), blank }
    }

    pub fn get(&self, producer: u32, seq: u64) -> T {
        let page = self.pages.get(&(producer, seq / PAGE as u64));
        page.map_or(self.blank, |page| page[place(seq)])
    }

    pub fn at(&mut self, producer: u32, seq: u64) -> &mut T {
        let blank = self.blank;
        let page = self.pages.entry((producer, seq / PAGE as u64)).or_insert_with(|| Box::new([blank; PAGE]));
        &mut page[place(seq)]
    }

    /// Every place of every page, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64, &T)> {
        self.pages.iter().flat_map(|((producer, page), values)| {
            (0..).zip(values.iter()).map(move |(place, value)| (*producer, page * PAGE as u64 + place, value))
        })
    }
}

fn place(seq: u64) -> usize {
    (seq % PAGE as u64) as usize
}

/// What was told of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Told {
    /// Nothing: there is no line for it.
    #[default]
    Nothing,
    /// Delivered.
    Ok,
    /// Surely never written.
    Fail,
    /// Written or not.
    Unknown,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub told: Told,
    /// An index into [`Ledger::topics`].
    pub topic: u16,
    /// Where it was said to be; -1: not said.
    pub partition: i32,
    pub offset: i64,
    /// Where its key belongs; -1: anywhere.
    pub wanted: i32,
}

const BLANK: Entry = Entry { told: Told::Nothing, topic: 0, partition: -1, offset: -1, wanted: -1 };

/// A produce file in memory.
pub struct Ledger {
    pub run: String,
    pub mode: String,
    /// Names and partitions.
    pub topics: Vec<(String, i32)>,
    pub entries: Pages<Entry>,
    pub records: u64,
    pub ok: u64,
    pub fail: u64,
    pub unknown: u64,
    /// Records that have two lines.
    pub twice: u64,
    /// Sequences below a producer's last one without a line.
    pub untold: u64,
    pub examples: Vec<String>,
}

impl Ledger {
    /// Whether the mode promises each record once and in order.
    pub fn is_idempotent(&self) -> bool {
        self.mode != "atleast"
    }

    pub fn topic(&self, name: &str) -> Option<u16> {
        let index = self.topics.iter().position(|(known, _)| known == name)?;
        u16::try_from(index).ok()
    }

    /// Reads the file of `audit produce`.
    pub fn read(path: &Path, output: &Output) -> Result<Self, Failure> {
        let mut ledger: Option<Self> = None;
        files::read(path, output, |line| {
            let line: Produced<'_> = serde_json::from_slice(line)?;
            match &mut ledger {
                Some(ledger) => ledger.take(&line),
                None => {
                    ledger = Some(Self::begin(line)?);
                    Ok(())
                }
            }
        })?;
        let mut ledger = ledger.ok_or_else(|| Failure::Failed(format!("{}: empty", path.display())))?;
        ledger.find_untold();
        Ok(ledger)
    }

    fn begin(line: Produced<'_>) -> Result<Self, LineError> {
        let (Some(run), Some(mode), Some(topics)) = (line.run, line.mode, line.topics) else {
            return Err(LineError::Words("the first line must have run, mode and topics".into()));
        };
        if mode == "txn" {
            return Err(LineError::Failure(Failure::Usage(
                "mode txn comes later: transactions are not there yet".into(),
            )));
        }
        if mode != "idempotent" && mode != "atleast" {
            return Err(LineError::Words(format!("unknown mode {}", mode.escape_debug())));
        }
        if line.partitioner.is_some_and(|partitioner| partitioner != "java") {
            return Err(LineError::Words("the only partitioner known is java".into()));
        }
        if topics.len() > usize::from(u16::MAX) || topics.values().any(|count| *count < 1) {
            return Err(LineError::Words("topics: expected names with 1 or more partitions".into()));
        }
        Ok(Self {
            run: run.into_owned(),
            mode: mode.into_owned(),
            topics: topics.into_iter().collect(),
            entries: Pages::new(BLANK),
            records: 0,
            ok: 0,
            fail: 0,
            unknown: 0,
            twice: 0,
            untold: 0,
            examples: Vec::new(),
        })
    }

    fn take(&mut self, line: &Produced<'_>) -> Result<(), LineError> {
        let (Some(producer), Some(seq), Some(topic)) = (line.p, line.s, line.t.as_deref()) else {
            if line.x.is_some() && line.o.is_some() {
                return Ok(()); // a transaction's line
            }
            return Err(LineError::Words("expected p, s and t".into()));
        };
        let unknown_topic = || LineError::Words(format!("topic {} is not in the first line", topic.escape_debug()));
        let topic = self.topic(topic).ok_or_else(unknown_topic)?;
        let (told, count) = match line.o.as_deref() {
            Some("ok") => (Told::Ok, &mut self.ok),
            Some("fail") => (Told::Fail, &mut self.fail),
            Some("unknown") => (Told::Unknown, &mut self.unknown),
            _ => return Err(LineError::Words("o: expected ok, fail or unknown".into())),
        };
        *count += 1;
        self.records += 1;
        let partitions = self.topics[usize::from(topic)].1;
        let wanted = line.k.as_deref().map_or(-1, |key| java_partition(key.as_bytes(), partitions));
        let entry = self.entries.at(producer, seq);
        if entry.told != Told::Nothing {
            self.twice += 1;
            example(&mut self.examples, || format!("told twice: producer {producer} seq {seq}"));
        }
        let partition = line.part.unwrap_or(-1);
        *entry = Entry { told, topic, partition, offset: line.off.unwrap_or(-1), wanted };
        Ok(())
    }

    /// Sequences count from 0 without a gap: each one below a producer's last must have its line.
    fn find_untold(&mut self) {
        let Self { entries, untold, examples, .. } = self;
        let mut next: Option<(u32, u64)> = None;
        for (producer, seq, entry) in entries.iter() {
            if entry.told == Told::Nothing {
                continue;
            }
            let expected = next.filter(|(last, _)| *last == producer).map_or(0, |(_, seq)| seq);
            if seq > expected {
                *untold = untold.saturating_add(seq - expected);
                example(examples, || format!("no outcome: producer {producer} seq {expected} to {}", seq - 1));
            }
            next = Some((producer, seq.saturating_add(1)));
        }
    }
}

/// Keeps the first few.
pub fn example(examples: &mut Vec<String>, make: impl FnOnce() -> String) {
    const EXAMPLES_MAX: usize = 10;
    if examples.len() < EXAMPLES_MAX {
        examples.push(make());
    }
}
