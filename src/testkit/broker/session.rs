//! Fetch sessions of one node (KIP-227): which partitions a client fetches, so that it need not name them again, and
//! what it was told of them last, so that it need not be told again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::ids::Uuid;
use crate::base::time::Time;
use crate::wire::ErrorCode;

/// `session_epoch` of a request that ends its session or wants none.
pub const FINAL_EPOCH: i32 = -1;
/// `session_epoch` of a request that wants a new session.
pub const INITIAL_EPOCH: i32 = 0;

/// A partition as requests name it: by topic id from version 13 on, by name before.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Topic name; empty from version 13 on.
    pub topic: String,
    /// Topic id; zero before version 13.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
}

/// What a client asks of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// `fetch_offset`.
    pub offset: i64,
    /// `partition_max_bytes`.
    pub bytes_max: i32,
    /// `current_leader_epoch`, -1 when not given.
    pub leader_epoch: i32,
    /// `last_fetched_epoch`, -1 when not given.
    pub last_fetched_epoch: i32,
}

/// A partition in a session.
#[derive(Clone, Debug)]
struct Cached {
    want: Want,
    /// High watermark that the client was told last; -1 after an error, so that its end is told too.
    high_watermark: i64,
    log_start: i64,
    /// Place in the order in which partitions are served.
    order: u64,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    next_epoch: i32,
    last_used: Time,
    by_ids: bool,
    partitions: BTreeMap<Key, Cached>,
    order: BTreeMap<u64, Key>,
    next_order: u64,
}

/// What an answer says of a partition, as far as a session cares.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Its high watermark.
    pub high_watermark: i64,
    /// Its log start offset.
    pub log_start: i64,
    /// Whether there are records.
    pub has_records: bool,
    /// Whether there is an error or a diverging epoch.
    pub is_special: bool,
    /// Whether there is an error.
    pub is_error: bool,
}

impl Session {
    fn new(by_ids: bool, now: Time) -> Self {
        Self {
            next_epoch: 1,
            last_used: now,
            by_ids,
            partitions: BTreeMap::new(),
            order: BTreeMap::new(),
            next_order: 0,
        }
    }

    fn place(&mut self, key: &Key) -> u64 {
        let order = self.next_order;
        self.next_order += 1;
        self.order.insert(order, key.clone());
        order
    }

    /// Adds a partition or changes what is wanted of it.
    pub fn want(&mut self, key: Key, want: Want) {
        if let Some(cached) = self.partitions.get_mut(&key) {
            cached.want = want;
            return;
        }
        let order = self.place(&key);
        self.partitions.insert(key, Cached { want, high_watermark: -1, log_start: -1, order });
    }

    /// Forgets a partition.
    pub fn forget(&mut self, key: &Key) {
        if let Some(cached) = self.partitions.remove(key) {
            self.order.remove(&cached.order);
        }
    }

    /// All partitions with what is wanted of them, those served longest ago first.
    pub fn wants(&self) -> Vec<(Key, Want)> {
        self.order.values().filter_map(|key| Some((key.clone(), self.partitions.get(key)?.want))).collect()
    }

    /// Whether an incremental answer must name a partition; remembers what the client is told.
    pub fn must_tell(&mut self, key: &Key, told: Told) -> bool {
        let Some(cached) = self.partitions.get_mut(key) else { return true };
        let news = told.high_watermark != cached.high_watermark || told.log_start != cached.log_start;
        cached.high_watermark = if told.is_error { -1 } else { told.high_watermark };
        cached.log_start = told.log_start;
        if told.has_records {
            let old = cached.order;
            self.order.remove(&old);
            let fresh = self.place(key);
            if let Some(cached) = self.partitions.get_mut(key) {
                cached.order = fresh;
            }
        }
        news || told.has_records || told.is_special
    }

    /// How many partitions it holds.
    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Whether it holds no partition.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

/// The sessions of one node.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: BTreeMap<i32, Session>,
}

impl Sessions {
    /// Opens a session under a new id; `None` when all slots hold sessions in use. Also says whether one was evicted.
    pub fn open(
        &mut self,
        id: i32,
        by_ids: bool,
        slots: usize,
        idle: Duration,
        now: Time,
    ) -> Option<(&mut Session, bool)> {
        let mut evicted = false;
        if self.by_id.len() >= slots {
            let oldest =
                self.by_id.iter().min_by_key(|(_, session)| session.last_used).map(|(id, s)| (*id, s.last_used));
            match oldest {
                Some((oldest, last_used)) if last_used.until(now) >= idle => {
                    self.by_id.remove(&oldest);
                    evicted = true;
                }
                _ => return None,
            }
        }
        let session = self.by_id.entry(id).or_insert_with(|| Session::new(by_ids, now));
        Some((session, evicted))
    }

    /// Whether an id is taken.
    pub fn knows(&self, id: i32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The session that an incremental request continues.
    pub fn step(&mut self, id: i32, epoch: i32, by_ids: bool, now: Time) -> Result<&mut Session, ErrorCode> {
        let session = self.by_id.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.by_ids != by_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if session.next_epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.last_used = now;
        Ok(session)
    }

    /// The session with this id.
    pub fn get_mut(&mut self, id: i32) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    /// Ends a session.
    pub fn close(&mut self, id: i32) {
        self.by_id.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> Key {
        Key { topic: "t".into(), topic_id: Uuid::ZERO, partition }
    }

    const WANT: Want = Want { offset: 0, bytes_max: 100, leader_epoch: -1, last_fetched_epoch: -1 };

    #[test]
    fn epochs_must_follow_and_ids_must_be_known() {
        let mut sessions = Sessions::default();
        sessions.open(7, false, 10, Duration::ZERO, Time::ZERO).unwrap();
        let code = |result: Result<&mut Session, ErrorCode>| result.err();
        assert_eq!(code(sessions.step(8, 1, false, Time::ZERO)), Some(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(code(sessions.step(7, 2, false, Time::ZERO)), Some(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(code(sessions.step(7, 1, true, Time::ZERO)), Some(ErrorCode::FetchSessionTopicIdError));
        assert_eq!(code(sessions.step(7, 1, false, Time::ZERO)), None);
        assert_eq!(code(sessions.step(7, 1, false, Time::ZERO)), Some(ErrorCode::InvalidFetchSessionEpoch));
    }

    #[test]
    fn only_idle_sessions_are_evicted() {
        let mut sessions = Sessions::default();
        let idle = Duration::from_secs(1);
        sessions.open(1, false, 1, idle, Time::ZERO).unwrap();
        assert!(sessions.open(2, false, 1, idle, Time(5)).is_none());
        let (_, evicted) = sessions.open(2, false, 1, idle, Time::ZERO + idle).unwrap();
        assert!(evicted && !sessions.knows(1));
    }

    #[test]
    fn only_news_is_told_and_served_partitions_go_last() {
        let mut session = Session::new(false, Time::ZERO);
        (0..3).for_each(|p| session.want(key(p), WANT));
        let quiet = Told { high_watermark: 5, log_start: 0, has_records: false, is_special: false, is_error: false };
        assert!(session.must_tell(&key(0), quiet), "the first time everything is news");
        assert!(!session.must_tell(&key(0), quiet));
        assert!(session.must_tell(&key(0), Told { has_records: true, ..quiet }));
        assert!(session.must_tell(&key(1), Told { high_watermark: -1, is_special: true, is_error: true, ..quiet }));
        assert!(session.must_tell(&key(1), quiet), "the end of an error is news");
        let order: Vec<i32> = session.wants().iter().map(|(key, _)| key.partition).collect();
        assert_eq!(order, [1, 2, 0]);
        session.forget(&key(1));
        assert_eq!(session.len(), 2);
    }
}
