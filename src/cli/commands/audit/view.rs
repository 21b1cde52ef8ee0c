//! One reading of the topics, held against the ledger: by ourselves, by a consumer's files, or by somebody else's dump.

use std::collections::BTreeMap;

use super::ledger::{Entry, Ledger, Pages, Told, example};

/// Where and by whom a record was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub producer: u32,
    pub seq: u64,
    /// Which consumer under which assignment read it, as a number of the reader's choice. The same record again in the same
    /// session is a duplicate; in another one it is a redelivery.
    pub session: u32,
}

/// Where a record was first seen.
#[derive(Clone, Copy, Debug)]
struct Place {
    partition: i32,
    offset: i64,
    session: u32,
    /// It was seen where it was told to be.
    confirmed: bool,
}

const UNSEEN: Place = Place { partition: -1, offset: -1, session: 0, confirmed: false };

/// What one reading shows.
#[derive(Debug, Default)]
pub struct Findings {
    /// Records of this run that were read.
    pub records: u64,
    /// Acknowledged, and not there.
    pub lost: u64,
    /// The same record at two places, or twice in one session.
    pub duplicated: u64,
    /// Behind a later record of its producer in its partition.
    pub reordered: u64,
    /// Not what was sent: format, length, checksum, topic or key.
    pub corrupt: u64,
    /// In another partition than its key or the application says.
    pub misplaced: u64,
    /// Said to be surely never written, and there.
    pub fail_present: u64,
    /// Not where the acknowledgement says.
    pub elsewhere: u64,
    /// There without any outcome in the produce file.
    pub unlisted: u64,
    /// Outcome unknown, and there; no promise is broken.
    pub unknown_present: u64,
    /// Read again by another session; no promise is broken.
    pub again: u64,
    /// Of another run; not judged.
    pub other_runs: u64,
    pub examples: Vec<String>,
}

/// A reading under way.
pub struct View<'a> {
    ledger: &'a Ledger,
    places: Pages<Place>,
    /// Last sequence by session, producer, topic and partition.
    last: BTreeMap<(u32, u32, u16, i32), u64>,
    found: Findings,
}

impl<'a> View<'a> {
    pub fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, places: Pages::new(UNSEEN), last: BTreeMap::new(), found: Findings::default() }
    }

    /// The run that is judged.
    pub fn run(&self) -> &'a str {
        &self.ledger.run
    }

    pub fn other_run(&mut self) {
        self.found.other_runs += 1;
    }

    /// A record that is not what was sent. `what` names the fault.
    pub fn corrupt(&mut self, what: &str, topic: &str, partition: i32, offset: i64) {
        let Findings { corrupt, misplaced, examples, .. } = &mut self.found;
        let (count, word) = if what == "partition" { (misplaced, "misplaced") } else { (corrupt, "corrupt") };
        *count += 1;
        let topic = topic.escape_debug();
        example(examples, || format!("{word}: {topic}-{partition} offset {offset}: {}", what.escape_debug()));
    }

    /// A record that says who it is.
    pub fn see(&mut self, seen: &Sighting<'_>) {
        let Sighting { topic, partition, offset, producer, seq, session } = *seen;
        let entry = self.ledger.entries.get(producer, seq);
        let Some(index) = self.ledger.topic(topic) else {
            return self.corrupt("topic", topic, partition, offset);
        };
        let Self { places, last, found, .. } = self;
        found.records += 1;
        let examples = &mut found.examples;
        let mut note = |count: &mut u64, what: &str| {
            *count += 1;
            example(examples, || {
                format!("{what}: producer {producer} seq {seq} at {topic}-{partition} offset {offset}")
            });
        };
        match entry.told {
            Told::Nothing => return note(&mut found.unlisted, "no outcome, yet there"),
            Told::Fail => note(&mut found.fail_present, "fail, yet there"),
            Told::Ok | Told::Unknown => {}
        }
        if entry.topic != index {
            return note(&mut found.corrupt, "of another topic");
        }
        if entry.wanted >= 0 && entry.wanted != partition {
            note(&mut found.misplaced, "its key belongs elsewhere");
        }
        let place = places.at(producer, seq);
        place.confirmed |= confirms(&entry, partition, offset);
        if place.offset >= 0 {
            if (place.partition, place.offset) != (partition, offset) {
                return note(&mut found.duplicated, "duplicated");
            }
            if place.session == session {
                return note(&mut found.duplicated, "read twice");
            }
            found.again += 1;
        } else {
            *place = Place { partition, offset, session, confirmed: place.confirmed };
            found.unknown_present += u64::from(entry.told == Told::Unknown);
        }
        let last = last.entry((session, producer, index, partition)).or_insert(seq);
        if seq < *last {
            note(&mut found.reordered, "behind a later one");
        } else {
            *last = seq;
        }
    }

    /// Everything was read: looks for what was not seen.
    pub fn finish(mut self) -> Findings {
        let Findings { lost, elsewhere, examples, .. } = &mut self.found;
        for (producer, seq, entry) in self.ledger.entries.iter().filter(|(_, _, entry)| entry.told == Told::Ok) {
            let place = self.places.get(producer, seq);
            let told = || {
                let (topic, _) = &self.ledger.topics[usize::from(entry.topic)];
                format!("producer {producer} seq {seq} told at {topic}-{} offset {}", entry.partition, entry.offset)
            };
            if place.offset < 0 {
                *lost += 1;
                example(examples, || format!("lost: {}", told()));
            } else if !place.confirmed {
                *elsewhere += 1;
                example(examples, || format!("elsewhere: {}, seen at offset {}", told(), place.offset));
            }
        }
        self.found
    }
}

/// Whether a record was seen where it was told to be; a place that was not told agrees with every place.
fn confirms(entry: &Entry, partition: i32, offset: i64) -> bool {
    (entry.partition < 0 || entry.partition == partition) && (entry.offset < 0 || entry.offset == offset)
}
