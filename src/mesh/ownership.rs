//! Which shard owns a partition: chosen at first use, kept across leader changes, read without a lock.
//!
//! ```text
//!   topic ix ──► block of slots (16, 32, 64 ..) ──► partition ──► block of owners (32, 64, 128 ..) ──► shard + 1, or 0
//! ```
//! Blocks are made once and never move, so a growing number of topics or partitions disturbs nobody. Since an owner never
//! changes, a handle may keep what it read.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::base::hash::Map;
use crate::base::ids::{BrokerId, ShardIx, Tp};

const FIRST_TOPICS: usize = 16;
const FIRST_PARTITIONS: usize = 32;
/// 16 * (2^24 - 1) topics.
const TOPIC_BLOCKS: usize = 24;
/// 32 * (2^18 - 1) partitions of one topic.
const PARTITION_BLOCKS: usize = 18;

/// A growing array whose elements never move.
struct Blocks<T, const N: usize> {
    blocks: [OnceLock<Box<[T]>>; N],
}

impl<T: Default, const N: usize> Blocks<T, N> {
    fn new() -> Self {
        Self { blocks: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Block and place of an index, when block `b` holds `first << b` elements.
    fn place(index: usize, first: usize) -> Option<(usize, usize)> {
        let block = (index / first + 1).ilog2() as usize;
        (block < N).then(|| (block, index - first * ((1 << block) - 1)))
    }

    fn get(&self, index: usize, first: usize) -> Option<&T> {
        let (block, at) = Self::place(index, first)?;
        self.blocks[block].get()?.get(at)
    }

    fn get_or_make(&self, index: usize, first: usize) -> Option<&T> {
        let (block, at) = Self::place(index, first)?;
        self.blocks[block].get_or_init(|| (0..first << block).map(|_| T::default()).collect()).get(at)
    }
}

impl<T: Default, const N: usize> Default for Blocks<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The engine's table.
pub struct OwnershipTable {
    topics: Blocks<Blocks<AtomicU16, PARTITION_BLOCKS>, TOPIC_BLOCKS>,
    /// Partitions owned, by shard.
    loads: Box<[AtomicU32]>,
    /// Partitions owned by leader at the time of choosing, by shard: who already has a link to which broker.
    by_leader: std::sync::Mutex<Map<BrokerId, Vec<u32>>>,
}

impl OwnershipTable {
    /// A table for `shards` shards, at least one; nothing is owned.
    pub fn new(shards: u16) -> Self {
        let loads = (0..shards.max(1)).map(|_| AtomicU32::new(0)).collect();
        Self { topics: Blocks::new(), loads, by_leader: std::sync::Mutex::default() }
    }

    /// The owner, if one was chosen. Lock-free.
    #[inline]
    pub fn owner(&self, tp: Tp) -> Option<ShardIx> {
        let partition = usize::try_from(tp.partition).ok()?;
        let owners = self.topics.get(tp.topic.0 as usize, FIRST_TOPICS)?;
        let owner = owners.get(partition, FIRST_PARTITIONS)?.load(Ordering::Acquire);
        owner.checked_sub(1).map(ShardIx)
    }

    /// The owner; at first use `choose` names one, and the first of several callers wins. Partition numbers that no cluster
    /// has (negative, above eight million) belong to shard 0.
    pub fn owner_or(&self, tp: Tp, choose: impl FnOnce() -> ShardIx) -> ShardIx {
        if let Some(owner) = self.owner(tp) {
            return owner;
        }
        let slot = usize::try_from(tp.partition).ok().and_then(|partition| {
            let owners = self.topics.get_or_make(tp.topic.0 as usize, FIRST_TOPICS)?;
            owners.get_or_make(partition, FIRST_PARTITIONS)
        });
        let Some(slot) = slot else { return ShardIx(0) };
        let chosen = choose();
        let chosen = ShardIx(chosen.0.min(self.shards() - 1));
        match slot.compare_exchange(0, chosen.0 + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.loads[usize::from(chosen.0)].fetch_add(1, Ordering::Relaxed);
                chosen
            }
            Err(owner) => ShardIx(owner - 1),
        }
    }

    /// The owner; at first use chosen by the standard rule: a shard that already has a link to the leader, until it owns a
    /// quarter more than its part; then the least loaded. Links so grow with brokers + shards.
    pub fn owner_for_leader(&self, tp: Tp, leader: BrokerId) -> ShardIx {
        if let Some(owner) = self.owner(tp) {
            return owner;
        }
        // Choosing is rare and must see the choices before it.
        let mut by_leader = self.by_leader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let linked = by_leader.entry(leader).or_insert_with(|| vec![0; self.loads.len()]);
        let mut won = None;
        let owner = self.owner_or(tp, || {
            let chosen = self.choose(linked);
            won = Some(chosen);
            chosen
        });
        if won == Some(owner) {
            linked[usize::from(owner.0)] += 1;
        }
        owner
    }

    fn choose(&self, linked: &[u32]) -> ShardIx {
        let loads: Vec<u32> = self.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect();
        let part = loads.iter().sum::<u32>() / loads.len() as u32;
        let loaded_from = part + part / 4 + 1;
        let with_link = (0..loads.len())
            .filter(|shard| linked[*shard] > 0 && loads[*shard] < loaded_from)
            .min_by_key(|s| loads[*s]);
        let chosen = with_link.or_else(|| (0..loads.len()).min_by_key(|shard| loads[*shard])).unwrap_or(0);
        ShardIx(u16::try_from(chosen).unwrap_or(0))
    }

    /// Partitions owned by a shard.
    pub fn load(&self, shard: ShardIx) -> u32 {
        self.loads.get(usize::from(shard.0)).map_or(0, |load| load.load(Ordering::Relaxed))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.loads.len()).unwrap_or(u16::MAX)
    }
}

impl fmt::Debug for OwnershipTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnershipTable").field("loads", &self.loads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::TopicIx;

    fn tp(topic: u32, partition: i32) -> Tp {
        Tp { topic: TopicIx(topic), partition }
    }

    #[test]
    fn an_owner_is_chosen_once_and_kept() {
        let table = OwnershipTable::new(4);
        assert_eq!(table.owner(tp(0, 0)), None);
        assert_eq!(table.owner_or(tp(0, 0), || ShardIx(2)), ShardIx(2));
        assert_eq!(table.owner_or(tp(0, 0), || unreachable!()), ShardIx(2));
        assert_eq!(table.owner_for_leader(tp(0, 0), BrokerId(7)), ShardIx(2));
        // Topics and partitions grow; nothing moves.
        for topic in [0, 1, 15, 16, 17, 47, 48, 5_000] {
            for partition in [1, 31, 32, 95, 96, 100_000] {
                let shard = ShardIx(((topic as i32 + partition) % 4) as u16);
                assert_eq!(table.owner_or(tp(topic, partition), || shard), shard);
            }
        }
        for topic in [0, 1, 15, 16, 17, 47, 48, 5_000] {
            for partition in [1, 31, 32, 95, 96, 100_000] {
                assert_eq!(table.owner(tp(topic, partition)), Some(ShardIx(((topic as i32 + partition) % 4) as u16)));
                assert_eq!(table.owner(tp(topic, partition + 1)).is_some(), [31, 95].contains(&partition));
            }
        }
        assert_eq!(table.owner_or(tp(0, -1), || ShardIx(3)), ShardIx(0), "no partition, no owner of its own");
        assert_eq!(table.owner_or(tp(0, i32::MAX), || ShardIx(3)), ShardIx(0));
        assert_eq!(table.owner_or(tp(9, 9), || ShardIx(77)), ShardIx(3), "a shard that exists");
    }

    #[test]
    fn links_grow_with_brokers_plus_shards() {
        let (shards, brokers) = (4u16, 100);
        let table = OwnershipTable::new(shards);
        let mut links = std::collections::BTreeSet::new();
        for partition in 0..2_000 {
            let leader = BrokerId(partition % brokers);
            links.insert((leader, table.owner_for_leader(tp(1, partition), leader)));
        }
        assert!(links.len() <= (brokers + i32::from(shards)) as usize + 20, "{} links", links.len());
        for shard in 0..shards {
            assert!((350..650).contains(&table.load(ShardIx(shard))), "{table:?}");
        }
        // One broker: all shards work for it.
        let table = OwnershipTable::new(shards);
        for partition in 0..100 {
            table.owner_for_leader(tp(1, partition), BrokerId(0));
        }
        assert!((0..shards).all(|shard| table.load(ShardIx(shard)) >= 20), "{table:?}");
    }

    #[test]
    fn threads_agree_on_owners() {
        let table = std::sync::Arc::new(OwnershipTable::new(2));
        let answers: Vec<Vec<ShardIx>> = (0..4u16)
            .map(|thread| {
                let table = table.clone();
                std::thread::spawn(move || {
                    (0..2_000).map(|partition| table.owner_or(tp(3, partition), || ShardIx(thread % 2))).collect()
                })
            })
            .map(|thread: std::thread::JoinHandle<Vec<ShardIx>>| thread.join().unwrap())
            .collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(table.load(ShardIx(0)) + table.load(ShardIx(1)), 2_000);
    }
}
