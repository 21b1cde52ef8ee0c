//! Which brokers cannot be used and why, engine-wide: so that people are told once, not once per link and try.
//!
//! ```text
//!   control's and shards' links ── occurred(now, host, words) ─► told already? ─► one warning
//!                               ── worked(at, host) ───────────► forgotten, if later than what was told
//! ```
//! A broker that goes away takes several links with it, and each notices at its own time: one may hear an answer, or of a
//! refused try, long after another one knew better. So times decide, not the order of calls: a call sent after the warning and
//! answered shows that the broker works again, a try begun after that and failed is news. Touched when connections begin and
//! end, never per call.

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
    /// When the last call was sent that was answered.
    worked_at: Time,
    words: String,
}

impl Trouble {
    fn is_over(&self) -> bool {
        self.worked_at > self.told_at
    }
}

impl Troubles {
    /// `host` cannot be used, as a try shows that began at `tried_at`. True when that is news: somebody is to be told.
    pub fn occurred(&self, now: Time, tried_at: Time, host: &str, words: &str) -> bool {
        let mut hosts = lock(&self.hosts);
        let Some(trouble) = hosts.get_mut(host) else {
            let trouble = Trouble { told_at: now, seen_at: now, worked_at: Time::ZERO, words: words.to_owned() };
            hosts.insert(host.to_owned(), trouble);
            return true;
        };
        if trouble.is_over() && tried_at <= trouble.worked_at {
            return false;
        }
        let news = trouble.is_over();
        if news {
            trouble.told_at = now;
        }
        trouble.seen_at = trouble.seen_at.max(now);
        words.clone_into(&mut trouble.words);
        news
    }

    /// `host` answered a call that was sent at this time: what was told before is over.
    pub fn worked(&self, sent_at: Time, host: &str) {
        if let Some(trouble) = lock(&self.hosts).get_mut(host) {
            trouble.worked_at = trouble.worked_at.max(sent_at);
        }
    }

    /// What was seen last of what is not known to be over: the broker, what happened, what to try.
    pub fn last(&self) -> Option<String> {
        let hosts = lock(&self.hosts);
        let present = hosts.values().filter(|trouble| !trouble.is_over());
        present.max_by_key(|trouble| trouble.seen_at).map(|trouble| trouble.words.clone())
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
        assert!(troubles.occurred(Time(10), Time(9), "a:1", "a is away"));
        assert!(!shared.occurred(Time(11), Time(10), "a:1", "a refuses"), "another link of the same broker");
        assert!(troubles.occurred(Time(12), Time(11), "b:1", "b is away"));
        assert_eq!(shared.last().as_deref(), Some("b is away"));
        // An answer that was heard late, to a call from before the warning.
        troubles.worked(Time(9), "a:1");
        assert!(!troubles.occurred(Time(13), Time(12), "a:1", "a refuses"));
        assert_eq!(troubles.last().as_deref(), Some("a refuses"));
        troubles.worked(Time(20), "a:1");
        assert_eq!(troubles.last().as_deref(), Some("b is away"));
        // A try that failed before it worked, and was heard of late.
        assert!(!troubles.occurred(Time(21), Time(19), "a:1", "a was away"));
        assert_eq!(troubles.last().as_deref(), Some("b is away"));
        assert!(troubles.occurred(Time(22), Time(21), "a:1", "a is away again"));
        assert!(!troubles.occurred(Time(23), Time(22), "a:1", "a is away again"));
    }
}
