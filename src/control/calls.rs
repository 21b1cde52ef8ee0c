//! Calls over links: choosing a broker, sending, hearing back.

use std::sync::Arc;
use std::time::Duration;

use super::job::{CallLost, JobCall, JobError, Target};
use super::link::Link;
use super::{Control, Happened, Raw};
use crate::base::ids::BrokerId;
use crate::base::time::Time;
use crate::net::HostPort;
use crate::proto::connection::{Call, Failure, RefusedWhy, Reply, ReplyMode, ReplyPart, Sink, Then, Versions, Written};
use crate::ring::Backend;
use crate::wire::ApiKey;

/// A connection that owes an answer for so long is not asked for what others can tell as well.
const SUSPECT: Duration = Duration::from_secs(1);

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The refresh policy's question.
    Metadata(u64),
    /// A call of a job, by its place in the round.
    Job(u64, usize),
}

/// A call until it is answered or lost.
#[derive(Debug)]
pub(super) struct CallSlot {
    pub purpose: Purpose,
    /// Until when it may wait for its connection.
    pub deadline: Time,
    /// Not yet submitted.
    pub unsent: Option<JobCall>,
}

impl CallSlot {
    /// When it gives up waiting to be sent; once sent, its connection watches the time.
    pub fn waits_until(&self) -> Option<Time> {
        self.unsent.as_ref().map(|_| self.deadline)
    }
}

/// Hears a connection and keeps what it said.
struct Ear<'a> {
    broker: BrokerId,
    host: &'a HostPort,
    happened: &'a mut std::collections::VecDeque<Happened>,
}

impl Sink for Ear<'_> {
    fn ready(&mut self, versions: &Versions) {
        let features = versions.features().to_vec();
        self.happened.push_back(Happened::Ready { broker: self.broker, features, epoch: versions.features_epoch() });
    }
    fn reply(&mut self, reply: Reply<'_>) -> Then {
        let body = reply.body.to_vec();
        self.happened.push_back(Happened::Reply { call: reply.tag, version: reply.version, body });
        match throttle_time(reply.api, reply.version, reply.body) {
            Some(ms) => Then::Throttle(ms),
            None => Then::Continue,
        }
    }
    fn reply_part(&mut self, _: ReplyPart<'_>) -> Then {
        Then::Kill("a part that nobody asked for")
    }
    fn written(&mut self, _: u64, _: ApiKey) {}
    fn failed(&mut self, failure: Failure<'_>) {
        let lost = CallLost { written: failure.written, why: format!("{}: {}", self.host, failure.cause) };
        self.happened.push_back(Happened::Lost { call: failure.tag, lost });
    }
}

/// `throttle_time_ms` of an answer. In the calls control makes it comes first, from this version on.
fn throttle_time(api: ApiKey, version: i16, body: &[u8]) -> Option<i32> {
    let since = match api {
        ApiKey::Metadata => 3,
        ApiKey::CreateTopics | ApiKey::ListOffsets => 2,
        ApiKey::DeleteTopics => 1,
        ApiKey::CreatePartitions
        | ApiKey::InitProducerId
        | ApiKey::DescribeCluster
        | ApiKey::DescribeConfigs
        | ApiKey::DeleteRecords => 0,
        ApiKey::FindCoordinator => 1,
        _ => return None,
    };
    (version >= since).then(|| body.first_chunk::<4>().map(|ms| i32::from_be_bytes(*ms)))?
}

impl<B: Backend> Control<B> {
    /// Accepts a call; what becomes of it comes as a [`Happened`].
    pub(super) fn start_call(&mut self, now: Time, call: JobCall, purpose: Purpose, deadline: Time) {
        let number = self.next_number();
        let target = match call.to {
            Target::Any => self.choose_any(now),
            Target::Controller => match self.cluster.snapshot().controller {
                Some(id) if self.cluster.snapshot().broker(id).is_some() => Some(id),
                _ => self.choose_any(now),
            },
            Target::Broker(id) => Some(id),
        };
        self.calls.insert(number, CallSlot { purpose, deadline, unsent: Some(call) });
        match target.and_then(|id| self.link(id)) {
            Some(link) => link.waiting.push_back(number),
            None => {
                let lost = CallLost { written: Written::No, why: "the broker is not known".to_owned() };
                self.happened.push_back(Happened::Lost { call: number, lost });
            }
        }
    }

    /// The link of a broker or bootstrap server, made if needed.
    fn link(&mut self, id: BrokerId) -> Option<&mut Link> {
        if !self.links.contains_key(&id) {
            let host = match self.cluster.snapshot().broker(id) {
                // The builder let only sane hosts in; a name that no resolver would take is no broker.
                Some(broker) => HostPort::new(&broker.host, i32::from(broker.port)).ok()?,
                None => usize::try_from(-1 - i64::from(id.0)).ok().and_then(|at| self.seeds.get(at))?.clone(),
            };
            let key = self.next_number();
            let link = {
                let (settings, connect) = (&self.connection_settings, self.connect_settings);
                Link::new(id, key, host, settings, connect, &self.pool, self.troubles.clone())
            };
            self.links.insert(id, link);
        }
        self.links.get_mut(&id)
    }

    /// The bootstrap server at `index` as a link's id.
    fn seed_id(index: usize) -> BrokerId {
        BrokerId(-1 - i32::try_from(index).unwrap_or(i32::MAX - 1))
    }

    /// A broker for a call that any can answer: a ready and little used one, else one that is being connected, else one
    /// that has not failed; the bootstrap servers, in their order, only while no broker gives hope.
    fn choose_any(&mut self, now: Time) -> Option<BrokerId> {
        let snapshot = Arc::clone(self.cluster.snapshot());
        if !self.rebootstrap && !snapshot.brokers.is_empty() {
            let known = |link: &&Link| snapshot.broker(link.id).is_some();
            let lively = |link: &Link| link.connection.silent_for(now) < SUSPECT;
            let ready =
                self.links.values().filter(known).filter(|link| link.connection.free_slots(now) > 0 && lively(link));
            if let Some(link) = ready.min_by_key(|link| link.connection.unanswered() + link.waiting.len()) {
                return Some(link.id);
            }
            let mut untried = Vec::new();
            for broker in &snapshot.brokers {
                match self.links.get(&broker.id) {
                    Some(link) if link.failures() == 0 && !link.waiting.is_empty() => return Some(broker.id),
                    Some(link) if !link.is_hopeful(now) || !lively(link) => {}
                    Some(link) => untried.push((link.failures(), broker.id)),
                    None => untried.push((0, broker.id)),
                }
            }
            if let Some(fewest) = untried.iter().map(|(failures, _)| *failures).min() {
                untried.retain(|(failures, _)| *failures == fewest);
                // Never a fixed first: all engines would choose the same broker.
                let at = self.rng.below(untried.len() as u64);
                return usize::try_from(at).ok().and_then(|at| untried.get(at)).map(|(_, id)| *id);
            }
            // All that is left is silent or fails: one that is still connected, in case it is only slow.
            if let Some(link) = self.links.values().filter(known).find(|link| link.connection.free_slots(now) > 0) {
                return Some(link.id);
            }
        }
        // Fewest failures first, then in order; a server that waits for its retry is better than nothing.
        (0..self.seeds.len()).map(Self::seed_id).min_by_key(|id| {
            let link = self.links.get(id);
            (link.is_some_and(|link| !link.is_hopeful(now)), link.map_or(0, Link::failures))
        })
    }

    /// Whether some broker or bootstrap server can be tried at once.
    pub(super) fn has_hope(&self, now: Time) -> bool {
        let hopeful =
            |id: &BrokerId| self.links.get(id).is_none_or(|link| link.failures() == 0 && link.is_hopeful(now));
        (0..self.seeds.len()).map(Self::seed_id).any(|id| hopeful(&id))
            || self.cluster.snapshot().brokers.iter().any(|broker| hopeful(&broker.id))
    }

    pub(super) fn take_raw(&mut self, now: Time) {
        for raw in std::mem::take(&mut self.raw.0) {
            let (Raw::Connected(sock) | Raw::Data(sock, _) | Raw::Sent(sock, _) | Raw::Closed { sock, .. }) = &raw;
            let Some(id) = self.by_sock.get(sock).copied() else { continue };
            let Some(link) = self.links.get_mut(&id) else { continue };
            let host = link.host().clone();
            let mut ear = Ear { broker: id, host: &host, happened: &mut self.happened };
            match raw {
                Raw::Connected(_) => link.on_connected(now),
                Raw::Data(_, bytes) => link.connection.on_received(now, &bytes, &mut ear),
                Raw::Sent(_, chain) => {
                    link.connection.on_sent(now, &mut ear);
                    link.give_back(chain);
                }
                Raw::Closed { sock, why, written } => {
                    self.by_sock.remove(&sock);
                    let cause = link.connection.end_of(&why);
                    link.connection.on_closed(&why, written, &mut ear);
                    if link.on_gone(now, &cause, &mut self.rng) {
                        self.trouble = link.trouble();
                        tracing::debug!(broker = id.0, why = %self.trouble, "connection ended");
                        self.on_broker_trouble(now);
                    }
                    self.drop_if_gone(id);
                }
            }
        }
    }

    /// All that waits for a connection that cannot be had is lost; its owners try elsewhere.
    fn give_up_waiting(&mut self, id: BrokerId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let why = link.trouble();
        self.trouble.clone_from(&why);
        for call in std::mem::take(&mut link.waiting) {
            let lost = CallLost { written: Written::No, why: why.clone() };
            self.happened.push_back(Happened::Lost { call, lost });
        }
    }

    /// A broker that is gone from the cluster keeps no link; a bootstrap server none that is idle.
    fn drop_if_gone(&mut self, id: BrokerId) {
        let gone = id.0 >= 0 && self.cluster.snapshot().broker(id).is_none();
        if gone && self.links.get(&id).is_some_and(|link| link.sock.is_none()) {
            self.give_up_waiting(id);
            self.links.remove(&id);
        }
    }

    pub(super) fn take_names(&mut self, now: Time) {
        while let Some(resolution) = self.resolver.next(now) {
            if let Some(link) = self.links.values_mut().find(|link| link.key == resolution.key) {
                link.on_resolved(now, resolution, &mut self.rng);
            } else {
                self.answer_addresses(resolution);
            }
        }
    }

    pub(super) fn on_deadlines(&mut self, now: Time) {
        for link in self.links.values_mut() {
            if link.connection.next_deadline() <= now {
                let host = link.host().clone();
                let mut ear = Ear { broker: link.id, host: &host, happened: &mut self.happened };
                link.connection.on_deadline(now, &mut ear);
            }
        }
        let late = |slot: &CallSlot| slot.waits_until().is_some_and(|until| until <= now);
        let expired: Vec<u64> = self.calls.iter().filter(|(_, slot)| late(slot)).map(|(call, _)| *call).collect();
        for call in expired {
            for link in self.links.values_mut() {
                link.waiting.retain(|waiting| *waiting != call);
            }
            let lost = CallLost { written: Written::No, why: "no connection in time".to_owned() };
            self.happened.push_back(Happened::Lost { call, lost });
        }
    }

    /// Submits what waits, connects, writes, closes.
    pub(super) fn drive_links(&mut self, now: Time) {
        let ids: Vec<BrokerId> = self.links.keys().copied().collect();
        for id in ids {
            self.submit_waiting(now, id);
            let Some(link) = self.links.get_mut(&id) else { continue };
            let had = link.sock;
            let failed = link.drive(now, &mut self.backend, &self.socket_options, &mut self.resolver, &mut self.rng);
            if let (None, Some(sock)) = (had, link.sock) {
                self.by_sock.insert(sock, id);
            }
            if failed {
                self.give_up_waiting(id);
                self.on_broker_trouble(now);
            }
        }
    }

    fn submit_waiting(&mut self, now: Time, id: BrokerId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(versions) = link.connection.versions().cloned() else { return };
        while link.connection.free_slots(now) > 0
            && let Some(number) = link.waiting.pop_front()
        {
            let Some(slot) = self.calls.get_mut(&number) else { continue };
            let Some(call) = slot.unsent.take() else { continue };
            let api = call.request.api();
            let refuse = |why| Happened::Refused { call: number, broker: id, why };
            let Some(version) = call.version(&versions) else {
                self.happened.push_back(refuse(JobError::Unsupported(api)));
                continue;
            };
            self.scratch.clear();
            if let Err(error) = call.request.encode(version, &self.settings.client_id, &mut self.scratch) {
                self.happened.push_back(refuse(JobError::Unencodable(error.to_string())));
                continue;
            }
            let request = Call {
                tag: number,
                api,
                version,
                head: &self.scratch,
                inserts: link.connection.take_inserts(),
                timeout: None,
                reply: ReplyMode::Whole,
            };
            if let Err(refused) = link.connection.submit(now, request) {
                match refused.why {
                    RefusedWhy::Busy | RefusedWhy::NotReady => {
                        slot.unsent = Some(call);
                        link.waiting.push_front(number);
                        return;
                    }
                    RefusedWhy::Malformed => {
                        let why = JobError::Unencodable("a frame that is too large".to_owned());
                        self.happened.push_back(refuse(why));
                    }
                }
            }
        }
    }

    pub(super) fn act(&mut self, now: Time, happened: Happened) {
        match happened {
            Happened::Ready { broker, features, epoch } => self.on_ready(now, broker, epoch, &features),
            Happened::Reply { call, version, body } => {
                self.trouble.clear();
                let Some(slot) = self.calls.remove(&call) else { return };
                match slot.purpose {
                    Purpose::Metadata(number) => self.on_metadata(now, number, version, &body),
                    Purpose::Job(job, index) => self.on_job_reply(now, job, index, version, &body),
                }
            }
            Happened::Lost { call, lost } => {
                let Some(slot) = self.calls.remove(&call) else { return };
                match slot.purpose {
                    Purpose::Metadata(number) => self.on_metadata_lost(now, number),
                    Purpose::Job(job, index) => self.on_job_lost(now, job, index, &lost),
                }
            }
            Happened::Refused { call, broker, why } => {
                let Some(slot) = self.calls.remove(&call) else { return };
                // A bootstrap server need not be a broker (a controller's listener): others are asked first from now on.
                let useless = broker.0 < 0 && matches!(why, JobError::Unsupported(_));
                if let (true, Some(link)) = (useless, self.links.get_mut(&broker)) {
                    tracing::warn!(host = %link.host(), %why, "a bootstrap server is of no use");
                    link.on_useless();
                }
                match slot.purpose {
                    Purpose::Metadata(number) => self.on_metadata_lost(now, number),
                    Purpose::Job(job, index) if useless => {
                        let lost = CallLost { written: Written::No, why: why.to_string() };
                        self.on_job_lost(now, job, index, &lost);
                    }
                    Purpose::Job(job, _) => self.fail_job(job, why),
                }
            }
        }
    }

    fn on_ready(&mut self, _now: Time, broker: BrokerId, epoch: i64, features: &[(String, i16)]) {
        if let Some(link) = self.links.get_mut(&broker) {
            link.on_ready();
        }
        self.unreachable_since = Time::NEVER;
        self.cluster.on_features(epoch, features);
    }

    /// A broker cannot be reached: what is known may be old, and if this lasts, all of it (d4-75).
    fn on_broker_trouble(&mut self, now: Time) {
        self.refresh.on_doubt([]);
        if self.links.values().any(|link| link.connection.is_ready()) {
            return;
        }
        self.unreachable_since = self.unreachable_since.min(now);
        let lasting = self.unreachable_since + self.settings.metadata_rebootstrap_trigger <= now;
        let snapshot = self.cluster.snapshot();
        let failing = |id: BrokerId| self.links.get(&id).is_some_and(|link| link.failures() > 0);
        let all_failed = !snapshot.brokers.is_empty() && snapshot.brokers.iter().all(|broker| failing(broker.id));
        if (lasting || all_failed) && !self.rebootstrap && !snapshot.brokers.is_empty() {
            tracing::info!("no known broker can be reached: starting again from the bootstrap servers");
            self.start_over();
        }
    }

    /// Forgets what failures of bootstrap servers were seen, so that their names are looked up anew.
    pub(super) fn start_over(&mut self) {
        self.rebootstrap = true;
        self.links.retain(|id, link| id.0 >= 0 || link.sock.is_some() || !link.waiting.is_empty());
    }

    /// The connections of brokers that moved or left end (d4-74); what they had not answered is unknown.
    pub(super) fn on_brokers_moved(&mut self, moved: &[BrokerId]) {
        let snapshot = Arc::clone(self.cluster.snapshot());
        for id in moved {
            let Some(link) = self.links.get_mut(id) else { continue };
            match snapshot.broker(*id) {
                Some(broker) => {
                    if let Ok(host) = HostPort::new(&broker.host, i32::from(broker.port)) {
                        link.move_to(host);
                    }
                }
                None => {
                    link.connection.close("the broker left the cluster");
                    self.drop_if_gone(*id);
                }
            }
        }
        // Bootstrap links have served their purpose once brokers are known.
        if !snapshot.brokers.is_empty() {
            self.close_seeds();
        }
    }

    pub(super) fn close_seeds(&mut self) {
        for link in self.links.values_mut().filter(|link| link.id.0 < 0) {
            if link.waiting.is_empty() && link.connection.is_idle() && link.connection.is_ready() {
                link.connection.close("the brokers are known");
            }
        }
    }

    /// How long one call may wait for its connection.
    pub(super) fn call_time(&self) -> Duration {
        self.settings.request_timeout
    }
}
