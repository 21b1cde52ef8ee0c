//! Faults by rule: a condition on a request and what happens to it. Rules are asked in the order they were added; the
//! first that fires decides.

use std::time::Duration;

use crate::base::rng::Rng;
use crate::wire::{ApiKey, ErrorCode};

/// What a rule does to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    /// Waits, then handles it.
    Delay(Duration),
    /// Handles it, then waits before the answer.
    DelayAnswer(Duration),
    /// Closes the connection without handling it.
    DropBefore,
    /// Handles it and closes the connection: the answer is lost.
    DropAfter,
    /// Does not handle the partitions (or the request) and answers with this error.
    Error(ErrorCode),
    /// Handles it and yet answers with this error.
    ErrorAfter(ErrorCode),
    /// Handles it and answers with a frame cut to this many bytes, its length prefix included, then closes.
    Truncate(usize),
    /// Handles it and flips the lowest bit of this byte of the frame, counted from the end when negative.
    FlipBit(isize),
    /// Handles it and answers with another correlation id.
    WrongCorrelation,
    /// Answers with this `throttle_time_ms` and then is deaf on that connection for as long (KIP-219).
    Throttle(Duration),
    /// Never answers; the connection stays open.
    BlackHole,
}

impl Reaction {
    /// A short name for counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::DelayAnswer(_) => "delay-answer",
            Self::DropBefore => "drop-before",
            Self::DropAfter => "drop-after",
            Self::Error(_) => "error",
            Self::ErrorAfter(_) => "error-after",
            Self::Truncate(_) => "truncate",
            Self::FlipBit(_) => "flip-bit",
            Self::WrongCorrelation => "wrong-correlation",
            Self::Throttle(_) => "throttle",
            Self::BlackHole => "black-hole",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    Nth(u64),
    Every(u64),
    Percent(u64),
}

/// A condition and a reaction. Conditions that are not set match everything.
#[derive(Clone, Debug)]
pub struct Rule {
    api: Option<ApiKey>,
    node: Option<i32>,
    topic: Option<String>,
    partition: Option<i32>,
    when: When,
    times: Option<u64>,
    reaction: Reaction,
}

impl Rule {
    /// Does `reaction` to every request.
    pub fn new(reaction: Reaction) -> Self {
        Self { api: None, node: None, topic: None, partition: None, when: When::Always, times: None, reaction }
    }

    /// Only requests of this API.
    pub fn api(mut self, api: ApiKey) -> Self {
        self.api = Some(api);
        self
    }

    /// Only at this node.
    pub fn node(mut self, node: i32) -> Self {
        self.node = Some(node);
        self
    }

    /// Only requests that name this topic; errors go to its partitions only.
    pub fn topic(mut self, topic: &str) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only requests that name this partition of the topic; errors go to it only.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Only the nth matching request, from 1.
    pub fn nth(mut self, nth: u64) -> Self {
        self.when = When::Nth(nth);
        self
    }

    /// Every nth matching request.
    pub fn every(mut self, n: u64) -> Self {
        self.when = When::Every(n.max(1));
        self
    }

    /// This many of a hundred matching requests, by the broker's seed.
    pub fn percent(mut self, percent: u64) -> Self {
        self.when = When::Percent(percent);
        self
    }

    /// At most this many times.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    fn covers(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| wanted == partition || partition < 0)
    }
}

/// Names a rule so that it can be removed or asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleId(u64);

#[derive(Debug)]
struct Kept {
    id: RuleId,
    rule: Rule,
    matched: u64,
    fired: u64,
}

/// A rule that fired for a request.
#[derive(Clone, Debug)]
pub struct Fired {
    /// What to do.
    pub reaction: Reaction,
    topic: Option<String>,
    partition: Option<i32>,
}

impl Fired {
    /// Whether the rule means this partition of the request.
    pub fn covers(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && self.partition.is_none_or(|wanted| wanted == partition || partition < 0)
    }
}

/// All rules of a broker.
#[derive(Debug)]
pub struct Faults {
    rules: Vec<Kept>,
    next_id: u64,
    rng: Rng,
}

impl Faults {
    /// No rules yet; percentages follow `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), next_id: 0, rng: Rng::new(seed ^ 0xFA_17) }
    }

    /// Adds a rule behind the others.
    pub fn add(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.next_id);
        self.next_id += 1;
        self.rules.push(Kept { id, rule, matched: 0, fired: 0 });
        id
    }

    /// Removes a rule and says how often it fired.
    pub fn remove(&mut self, id: RuleId) -> Option<u64> {
        let at = self.rules.iter().position(|kept| kept.id == id)?;
        Some(self.rules.remove(at).fired)
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// How often a rule fired.
    pub fn fired(&self, id: RuleId) -> u64 {
        self.rules.iter().find(|kept| kept.id == id).map_or(0, |kept| kept.fired)
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Asks the rules about a request that names these partitions (-1: the whole topic).
    pub fn fire(&mut self, api: ApiKey, node: i32, named: &[(String, i32)]) -> Option<Fired> {
        let rng = &mut self.rng;
        for kept in &mut self.rules {
            let rule = &kept.rule;
            let spent = rule.times.is_some_and(|times| kept.fired >= times);
            if spent || rule.api.is_some_and(|wanted| wanted != api) || rule.node.is_some_and(|wanted| wanted != node) {
                continue;
            }
            let narrow = rule.topic.is_some() || rule.partition.is_some();
            if narrow && !named.iter().any(|(topic, partition)| rule.covers(topic, *partition)) {
                continue;
            }
            kept.matched += 1;
            let fires = match rule.when {
                When::Always => true,
                When::Nth(nth) => kept.matched == nth,
                When::Every(n) => kept.matched % n == 0,
                When::Percent(percent) => rng.percent(percent),
            };
            if fires {
                kept.fired += 1;
                let (topic, partition) = (rule.topic.clone(), rule.partition);
                return Some(Fired { reaction: rule.reaction.clone(), topic, partition });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(topic: &str, partition: i32) -> Vec<(String, i32)> {
        vec![(topic.to_string(), partition)]
    }

    #[test]
    fn conditions_narrow_and_counts_are_of_matching_requests() {
        let mut faults = Faults::new(1);
        let id = faults.add(Rule::new(Reaction::DropAfter).api(ApiKey::Produce).topic("t").partition(1).nth(2));
        assert!(faults.fire(ApiKey::Fetch, 0, &named("t", 1)).is_none());
        assert!(faults.fire(ApiKey::Produce, 0, &named("t", 0)).is_none());
        assert!(faults.fire(ApiKey::Produce, 0, &named("t", 1)).is_none(), "the first of two");
        let fired = faults.fire(ApiKey::Produce, 0, &named("t", 1)).unwrap();
        assert!(fired.covers("t", 1) && !fired.covers("t", 0));
        assert!(faults.fire(ApiKey::Produce, 0, &named("t", 1)).is_none());
        assert_eq!(faults.remove(id), Some(1));
    }

    #[test]
    fn percent_follows_the_seed_and_times_ends_a_rule() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            faults.add(Rule::new(Reaction::DropBefore).percent(30).times(20));
            (0..200).map(|_| faults.fire(ApiKey::Fetch, 0, &[]).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
        assert_eq!(run(5).iter().filter(|fired| **fired).count(), 20);
    }
}
