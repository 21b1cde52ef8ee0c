//! Which brokers cannot be used and why, engine-wide: so that people are told once, not once per link and try.
//!
//! ```text
//!   control's and shards' links ── occurred(now, host, words) ─► told already? ─► one warning
//!                               ── worked(at, host) ───────────► forgotten, if later than what was told
//! ```
//! A broker that goes away takes several links with it. Each of them may have served until just before; only an answer that
//! came after the warning shows that the broker works again. Touched when connections end, never per call.

use std::collections::BTreeMap;

use crate::base::sync::{Arc, Mutex, lock};
use crate::base::time::Time;

/// What is known of the brokers' troubles. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    hosts: Arc<Mutex<BTreeMap<String, Trouble>>>,
}

#[derive(Debug)]
struct Trouble {
    /// When it was told.
    told_at: Time,
    /// When it was last seen.
    seen_at: Time,
    words: String,
}

impl Troubles {
    /// `host` cannot be used. True when that is news: somebody is to be told.
    pub fn occurred(&self, now: Time, host: &str, words: &str) -> bool {
        let mut hosts = lock(&self.hosts);
        if let Some(trouble) = hosts.get_mut(host) {
            trouble.seen_at = trouble.seen_at.max(now);
            words.clone_into(&mut trouble.words);
            return false;
        }
        hosts.insert(host.to_owned(), Trouble { told_at: now, seen_at: now, words: words.to_owned() });
        true
    }

    /// `host` answered last at this time: what was told before is over.
    pub fn worked(&self, at: Time, host: &str) {
        let mut hosts = lock(&self.hosts);
        if hosts.get(host).is_some_and(|trouble| trouble.told_at < at) {
            hosts.remove(host);
        }
    }

    /// What was seen last of what is not known to be over: the broker, what happened, what to try.
    pub fn last(&self) -> Option<String> {
        let hosts = lock(&self.hosts);
        hosts.values().max_by_key(|trouble| trouble.seen_at).map(|trouble| trouble.words.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_news_once_until_the_broker_answers_after_it() {
        let troubles = Troubles::default();
        let shared = troubles.clone();
        assert_eq!(troubles.last(), None);
        assert!(troubles.occurred(Time(10), "a:1", "a is away"));
        assert!(!shared.occurred(Time(11), "a:1", "a refuses"), "another link of the same broker");
        assert!(troubles.occurred(Time(12), "b:1", "b is away"));
        assert_eq!(shared.last().as_deref(), Some("b is away"));
        // A link that had been answered before it was lost too.
        troubles.worked(Time(9), "a:1");
        assert!(!troubles.occurred(Time(13), "a:1", "a refuses"));
        assert_eq!(troubles.last().as_deref(), Some("a refuses"));
        troubles.worked(Time(20), "a:1");
        assert_eq!(troubles.last().as_deref(), Some("b is away"));
        assert!(troubles.occurred(Time(21), "a:1", "a is away again"));
    }
}
