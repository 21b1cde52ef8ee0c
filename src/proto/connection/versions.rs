//! What a broker can do: API version ranges and features, and how a version is chosen.

use crate::wire::{ApiKey, VersionRange};

/// API keys at or above this are ignored (Kafka 4.3 ends at 93).
const KEYS_MAX: usize = 256;

/// The first version of an API that names topics by id only. Such a version is used only when topic ids are known (d4-73).
const TOPIC_ID_ONLY_SINCE: [(ApiKey, i16); 4] =
    [(ApiKey::Produce, 13), (ApiKey::Fetch, 13), (ApiKey::OffsetCommit, 10), (ApiKey::OffsetFetch, 10)];

/// The first Metadata version whose answers carry topic ids.
const METADATA_WITH_TOPIC_IDS: i16 = 10;

/// A broker's answer to ApiVersions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    /// By API key; absent where min > max.
    ranges: Vec<VersionRange>,
    /// Finalized features of the cluster and their level, e.g. `transaction.version` 2. Sorted by name.
    features: Vec<(String, i16)>,
    /// Epoch of the finalized features; -1 when unknown.
    features_epoch: i64,
}

const ABSENT: VersionRange = VersionRange { min: 1, max: 0 };

impl Versions {
    /// From (key, min, max) as the broker sent them. Unknown keys and empty or negative ranges are left out.
    pub fn new(apis: impl IntoIterator<Item = (i16, i16, i16)>) -> Self {
        let mut ranges = Vec::new();
        for (key, min, max) in apis {
            let Ok(key) = usize::try_from(key) else { continue };
            if key >= KEYS_MAX || min > max || max < 0 {
                continue;
            }
            if key >= ranges.len() {
                ranges.resize(key + 1, ABSENT);
            }
            ranges[key] = VersionRange { min: min.max(0), max };
        }
        Self { ranges, features: Vec::new(), features_epoch: -1 }
    }

    /// Adds the finalized features.
    pub fn with_features(mut self, epoch: i64, features: impl IntoIterator<Item = (String, i16)>) -> Self {
        self.features = features.into_iter().collect();
        self.features.sort();
        self.features_epoch = epoch;
        self
    }

    /// What the broker offers of `api`.
    pub fn offered(&self, api: ApiKey) -> Option<VersionRange> {
        let range = usize::try_from(api as i16).ok().and_then(|key| self.ranges.get(key))?;
        (range.min <= range.max).then_some(*range)
    }

    /// The highest version that both sides know; none when the ranges do not meet. Never a test for equality: brokers add
    /// and remove versions (KIP-896). Versions that name topics by id only are left out where the broker gives no topic ids.
    pub fn pick(&self, api: ApiKey) -> Option<i16> {
        let known = api.versions();
        self.pick_within(api, known.min, known.max)
    }

    /// As [`Versions::pick`] when not every topic's id is known, so topics must be named.
    pub fn pick_by_name(&self, api: ApiKey) -> Option<i16> {
        let known = api.versions();
        self.pick_within(api, known.min, known.max.min(by_name_max(api)))
    }

    /// The highest version within `min..=max` that both sides know.
    pub fn pick_within(&self, api: ApiKey, min: i16, max: i16) -> Option<i16> {
        let offered = self.offered(api)?;
        let known = api.versions();
        let mut max = max.min(known.max).min(offered.max);
        if !self.has_topic_ids() {
            max = max.min(by_name_max(api));
        }
        (max >= min.max(known.min).max(offered.min)).then_some(max)
    }

    /// Whether Metadata answers of this broker carry topic ids.
    pub fn has_topic_ids(&self) -> bool {
        self.offered(ApiKey::Metadata).is_some_and(|range| range.max >= METADATA_WITH_TOPIC_IDS)
    }

    /// The finalized level of a feature; 0 when it is not finalized.
    pub fn feature(&self, name: &str) -> i16 {
        match self.features.binary_search_by(|(have, _)| have.as_str().cmp(name)) {
            Ok(at) => self.features[at].1,
            Err(_) => 0,
        }
    }

    /// All finalized features with their level, by name.
    pub fn features(&self) -> &[(String, i16)] {
        &self.features
    }

    /// Epoch of the finalized features; -1 when unknown.
    pub fn features_epoch(&self) -> i64 {
        self.features_epoch
    }
}

fn by_name_max(api: ApiKey) -> i16 {
    TOPIC_ID_ONLY_SINCE.iter().find(|(key, _)| *key == api).map_or(i16::MAX, |(_, since)| since - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(api: ApiKey) -> (i16, i16, i16) {
        (api as i16, 0, 1000)
    }

    #[test]
    fn d4_73_versions_are_chosen_by_range_and_capped_without_topic_ids() {
        let modern = Versions::new([full(ApiKey::Produce), full(ApiKey::Fetch), full(ApiKey::Metadata)]);
        assert_eq!(modern.pick(ApiKey::Produce), Some(ApiKey::Produce.versions().max));
        assert_eq!(modern.pick_by_name(ApiKey::Produce), Some(12));

        // High Produce and OffsetCommit, but Metadata too old for topic ids.
        let odd = Versions::new([full(ApiKey::Produce), full(ApiKey::OffsetCommit), (ApiKey::Metadata as i16, 0, 9)]);
        assert_eq!(odd.pick(ApiKey::Produce), Some(12));
        assert_eq!(odd.pick(ApiKey::OffsetCommit), Some(9));

        // The broker removed old versions, or is far newer than we are.
        let newer = Versions::new([(ApiKey::Produce as i16, 900, 1000)]);
        assert_eq!(newer.pick(ApiKey::Produce), None);
        assert_eq!(newer.pick(ApiKey::Fetch), None);
    }

    #[test]
    fn nonsense_ranges_are_left_out() {
        let versions = Versions::new([(-5, 0, 1), (3, 5, 2), (i16::MAX, 0, 1), (0, -1, 9)]);
        assert_eq!(versions.offered(ApiKey::Metadata), None);
        assert_eq!(versions.offered(ApiKey::Produce), Some(VersionRange { min: 0, max: 9 }));
    }

    #[test]
    fn features_are_found_by_name() {
        let versions = Versions::new([]).with_features(7, [("x".into(), 1), ("transaction.version".into(), 2)]);
        assert_eq!((versions.feature("transaction.version"), versions.feature("share.version")), (2, 0));
    }
}
