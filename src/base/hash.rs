//! Hash maps that hash the same way in every process: an order that depends on a seed would make a simulation unrepeatable.

use foldhash::fast::FixedState;

/// A hash map with a fixed seed. Its keys must not come from an attacker who gains by collisions.
pub type Map<K, V> = hashbrown::HashMap<K, V, FixedState>;

/// A hash set with a fixed seed.
pub type Set<K> = hashbrown::HashSet<K, FixedState>;

/// The hash of one value with the fixed seed, for callers that keep their own tables.
pub fn hash_of<T: std::hash::Hash + ?Sized>(value: &T) -> u64 {
    use std::hash::BuildHasher;
    FixedState::default().hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_maps_iterate_alike() {
        let fill = || (0..1000u32).map(|i| (i.wrapping_mul(2_654_435_761), i)).collect::<Map<_, _>>();
        assert!(fill().iter().eq(fill().iter()));
        assert_eq!(hash_of("topic"), hash_of("topic"));
        assert_ne!(hash_of("topic"), hash_of("topid"));
    }
}
