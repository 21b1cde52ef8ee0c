//! Partitions for records that were sent before their topic was known (design §3.7).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::ids::{ProducerIx, TopicIx};
use crate::base::rng::Rng;
use crate::batch::varint::read_varint;
use crate::config::ProducerSettings;
use crate::mesh::command::Partitioner;
use crate::proto::cluster::TopicNames;
use crate::proto::produce::{LeaderFact, Placement, Sticky, keyed_partition};

#[derive(Debug)]
struct Choice {
    ignore_keys: bool,
    switch_bytes: usize,
    partitioner: Option<Arc<dyn Partitioner>>,
}

/// The home shard's partitioner: the same rules as the handles'.
#[derive(Debug)]
pub(super) struct Placer {
    topics: Arc<TopicNames>,
    rng: Rng,
    choices: BTreeMap<ProducerIx, Choice>,
    sticky: BTreeMap<(ProducerIx, TopicIx), Sticky>,
}

impl Placer {
    pub fn new(topics: Arc<TopicNames>, seed: u64) -> Self {
        Self { topics, rng: Rng::new(seed), choices: BTreeMap::new(), sticky: BTreeMap::new() }
    }

    pub fn add(
        &mut self,
        producer: ProducerIx,
        settings: &ProducerSettings,
        partitioner: Option<Arc<dyn Partitioner>>,
    ) {
        let choice =
            Choice { ignore_keys: settings.partitioner_ignore_keys, switch_bytes: settings.batch_size, partitioner };
        self.choices.insert(producer, choice);
    }
}

impl Placement for Placer {
    fn place(&mut self, producer: ProducerIx, topic: TopicIx, keyed: bool, body: &[u8], leaders: &[LeaderFact]) -> i32 {
        let Some(choice) = self.choices.get(&producer) else { return -1 };
        let count = i32::try_from(leaders.len()).unwrap_or(i32::MAX);
        let (key, value) = key_and_value(body);
        if let Some(partitioner) = &choice.partitioner {
            let Some(name) = self.topics.name(topic) else { return -1 };
            return partitioner.partition(&name, key, value, count);
        }
        if let Some(key) = key.filter(|_| keyed && !choice.ignore_keys) {
            return keyed_partition(key, count);
        }
        let sticky = self.sticky.entry((producer, topic)).or_default();
        let available = |partition: i32| leaders.get(partition as usize).is_some_and(|fact| fact.leader.is_some());
        sticky.partition(body.len(), choice.switch_bytes, count, &mut self.rng, available)
    }
}

/// The key and the value of a record's body.
fn key_and_value(body: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    let mut at = 0;
    let mut next = || {
        let len = usize::try_from(read_varint(body, &mut at).ok()?).ok()?;
        let field = body.get(at..at.checked_add(len)?)?;
        at += len;
        Some(field)
    };
    let key = next();
    (key, next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::encode_body;

    #[test]
    fn keys_and_values_are_found_in_a_body() {
        for (key, value) in
            [(Some(&b"k"[..]), Some(&b"value"[..])), (None, Some(&b"v"[..])), (Some(&b""[..]), None), (None, None)]
        {
            let mut body = Vec::new();
            encode_body(key, value, std::iter::once(("h", None)), &mut body);
            assert_eq!(key_and_value(&body), (key, value));
        }
    }
}
