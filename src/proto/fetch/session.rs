//! A fetch session with one broker (KIP-227): the broker remembers the partitions, requests name what changed.
//!
//! ```text
//!   epoch 0: all partitions ──► id, epoch 1 ──► changed and forgotten ones ──► epoch 2 ──► ...
//!       ▲                        id 0: no session, all again                 │
//!       └──── lost, evicted, connection gone, topic ids against names ◄──────┘
//! ```

use std::collections::BTreeMap;

use crate::base::ids::{Tp, Uuid};
use crate::wire::messages::fetch::request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};

/// What a broker was asked for of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
    /// Of the record before `offset`; -1 when unknown or not sayable.
    pub(super) last_epoch: i32,
    pub(super) bytes_max: i32,
    pub(super) topic_id: Uuid,
    /// Ours; brokers don't hear of it.
    pub(super) generation: u32,
}

impl Asked {
    fn same_on_wire(&self, other: &Self) -> bool {
        let wire = |a: &Self| (a.offset, a.leader_epoch, a.last_epoch, a.bytes_max, a.topic_id);
        wire(self) == wire(other)
    }
}

#[derive(Debug, Default)]
pub(super) struct Session {
    id: i32,
    epoch: i32,
    /// What the broker knows, and while a request is in flight, what that asked for.
    pub(super) partitions: BTreeMap<Tp, Asked>,
    by_id: bool,
}

impl Session {
    /// The broker forgot, or will have: the next request names everything.
    pub(super) fn reset(&mut self) {
        if self.epoch != 0 {
            crate::base::edge::edge("fetch session: open -> lost");
        }
        *self = Self::default();
    }

    /// Whether the next request names everything.
    pub(super) fn is_new(&self) -> bool {
        self.epoch == 0
    }

    /// Puts the difference between what the broker knows and `wanted` into `request`.
    pub(super) fn fill(
        &mut self,
        wanted: BTreeMap<Tp, Asked>,
        by_id: bool,
        name: &impl Fn(Tp) -> String,
        request: &mut FetchRequest,
    ) {
        if self.by_id != by_id {
            // A session cannot change from names to ids or back.
            self.reset();
            self.by_id = by_id;
        }
        (request.session_id, request.session_epoch) = (self.id, self.epoch);
        for (tp, known) in &self.partitions {
            let gone = wanted.get(tp).is_none_or(|asked| asked.topic_id != known.topic_id);
            if gone && self.epoch != 0 {
                forget(request, *tp, known.topic_id, by_id, name);
            }
        }
        for (tp, asked) in &wanted {
            let known = self.partitions.get(tp);
            if self.epoch == 0 || known.is_none_or(|known| !known.same_on_wire(asked)) {
                ask(request, *tp, asked, by_id, name);
            }
        }
        self.partitions = wanted;
    }

    /// The broker answered without an error.
    pub(super) fn on_answer(&mut self, session_id: i32) {
        crate::base::edge::edge(match (session_id, self.epoch) {
            (0, _) => "fetch session: asked -> none granted",
            (_, 0) => "fetch session: asked -> open",
            _ => "fetch session: open -> continued",
        });
        if session_id == 0 {
            (self.id, self.epoch) = (0, 0);
            return;
        }
        self.id = session_id;
        // 0 means new: the epoch wraps to 1.
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }
}

fn ask(request: &mut FetchRequest, tp: Tp, asked: &Asked, by_id: bool, name: &impl Fn(Tp) -> String) {
    let partition = FetchPartition {
        partition: tp.partition,
        current_leader_epoch: asked.leader_epoch,
        fetch_offset: asked.offset,
        last_fetched_epoch: asked.last_epoch,
        partition_max_bytes: asked.bytes_max,
        ..FetchPartition::default()
    };
    // Partitions come sorted, so a topic's are together.
    let topic = if by_id { String::new() } else { name(tp) };
    let topic_id = if by_id { asked.topic_id } else { Uuid::ZERO };
    match request.topics.last_mut() {
        Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(partition),
        _ => request.topics.push(FetchTopic { topic, topic_id, partitions: vec![partition], ..FetchTopic::default() }),
    }
}

fn forget(request: &mut FetchRequest, tp: Tp, topic_id: Uuid, by_id: bool, name: &impl Fn(Tp) -> String) {
    let topic = if by_id { String::new() } else { name(tp) };
    let topic_id = if by_id { topic_id } else { Uuid::ZERO };
    match request.forgotten_topics_data.last_mut() {
        Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(tp.partition),
        _ => {
            let partitions = vec![tp.partition];
            request.forgotten_topics_data.push(ForgottenTopic {
                topic,
                topic_id,
                partitions,
                ..ForgottenTopic::default()
            });
        }
    }
}
