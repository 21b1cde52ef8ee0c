//! When to ask for metadata, and for which topics.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::backoff::{Backoff, BackoffRange};
use crate::base::ids::TopicIx;
use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::config::EngineSettings;

/// How often to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefreshSettings {
    /// Everything in use is asked for again at least this often.
    pub max_age: Duration,
    /// Between two questions, growing while answers are incomplete or fail.
    pub backoff: BackoffRange,
    /// A question that is not answered for so long does not keep another broker from being asked (d4-83).
    pub hedge: Duration,
}

impl RefreshSettings {
    /// From an engine's settings.
    pub fn new(settings: &EngineSettings) -> Self {
        Self {
            max_age: settings.metadata_max_age,
            backoff: BackoffRange { first: settings.retry_backoff, max: settings.retry_backoff_max },
            hedge: Duration::from_secs(2),
        }
    }
}

/// A Metadata request to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Number of the question, given back with its answer.
    pub number: u64,
    /// Which topics; none asks for brokers only.
    pub topics: Vec<TopicIx>,
}

/// Decides when to ask. One question is under way at a time, another only when it is overdue.
#[derive(Debug)]
pub struct Refresh {
    settings: RefreshSettings,
    /// Topics in use.
    used: BTreeSet<TopicIx>,
    /// Topics to ask for as soon as the backoff allows.
    wanted: BTreeSet<TopicIx>,
    /// Brokers (at least) are to be asked for as soon as the backoff allows.
    urgent: bool,
    /// Not before this.
    not_before: Time,
    /// All is asked for again at this time.
    due: Time,
    /// The question under way and since when.
    asking: Option<(u64, Time, Vec<TopicIx>)>,
    number: u64,
    backoff: Backoff,
}

impl Refresh {
    /// Nothing known: the first question is due at once.
    pub fn new(settings: RefreshSettings) -> Self {
        let backoff = Backoff::new(settings.backoff);
        Self {
            settings,
            used: BTreeSet::new(),
            wanted: BTreeSet::new(),
            urgent: false,
            not_before: Time::ZERO,
            due: Time::ZERO,
            asking: None,
            number: 0,
            backoff,
        }
    }

    /// A topic is in use from now on. A new one is asked for at once, whatever the backoff of others says. True if it is new.
    pub fn use_topic(&mut self, now: Time, topic: TopicIx) -> bool {
        let new = self.used.insert(topic);
        if new {
            self.wanted.insert(topic);
            if self.backoff.failures() == 0 {
                self.not_before = self.not_before.min(now);
            }
        }
        new
    }

    /// A topic is not in use any more.
    pub fn forget(&mut self, topic: TopicIx) {
        self.used.remove(&topic);
        self.wanted.remove(&topic);
    }

    /// Something was wrong with what is known of `topics` (all or none: of the brokers).
    pub fn on_doubt(&mut self, topics: impl IntoIterator<Item = TopicIx>) {
        self.urgent = true;
        self.wanted.extend(topics.into_iter().filter(|topic| self.used.contains(topic)));
    }

    /// The next question, if it is time. The caller sends it to some broker.
    pub fn next(&mut self, now: Time) -> Option<Ask> {
        if now < self.next_deadline() {
            return None;
        }
        if let Some((_, _, unanswered)) = self.asking.take() {
            self.wanted.extend(unanswered);
        }
        let topics: Vec<TopicIx> = if self.due <= now {
            self.wanted.clear();
            self.due = now + self.settings.max_age;
            self.used.iter().copied().collect()
        } else {
            std::mem::take(&mut self.wanted).into_iter().collect()
        };
        self.urgent = false;
        self.number += 1;
        self.asking = Some((self.number, now, topics.clone()));
        Some(Ask { number: self.number, topics })
    }

    /// A question was answered; `incomplete` names topics that still lack a leader or do not exist yet.
    pub fn on_answer(&mut self, now: Time, number: u64, incomplete: &[TopicIx], rng: &mut Rng) {
        let current = self.asking.as_ref().is_some_and(|(asking, ..)| *asking == number);
        if current {
            self.asking = None;
        }
        if incomplete.is_empty() {
            self.backoff.reset();
            // Doubts that arise right after an answer are about that answer: they wait one first backoff.
            self.not_before = now + self.settings.backoff.first;
        } else {
            self.wanted.extend(incomplete.iter().copied().filter(|topic| self.used.contains(topic)));
            self.not_before = now + self.backoff.next(rng);
        }
    }

    /// A question failed or could not be sent: its topics are asked for again after the backoff.
    pub fn on_failed(&mut self, now: Time, number: u64, rng: &mut Rng) {
        if self.asking.as_ref().is_none_or(|(asking, ..)| *asking != number) {
            return;
        }
        if let Some((_, _, topics)) = self.asking.take() {
            self.wanted.extend(topics);
        }
        self.urgent = true;
        self.not_before = now + self.backoff.next(rng);
    }

    /// There is somebody else to ask at once: the wait after a failure is not needed.
    pub fn hurry(&mut self, now: Time) {
        self.not_before = self.not_before.min(now);
    }

    /// When [`Refresh::next`] will have a question.
    pub fn next_deadline(&self) -> Time {
        let soonest =
            if self.urgent || !self.wanted.is_empty() { self.not_before } else { self.due.max(self.not_before) };
        match &self.asking {
            // An overdue question is asked again by itself, and no other comes before that.
            Some((_, since, _)) => *since + self.settings.hedge,
            None => soonest,
        }
    }

    /// Topics in use.
    pub fn used(&self) -> impl Iterator<Item = TopicIx> + '_ {
        self.used.iter().copied()
    }

    /// Whether a topic is in use.
    pub fn is_used(&self, topic: TopicIx) -> bool {
        self.used.contains(&topic)
    }
}
