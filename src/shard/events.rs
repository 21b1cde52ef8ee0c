//! What happens on a shard's sockets: from the backend to the link it belongs to, from its connection to the machines.

use std::io;

use super::fetch::{FetchLanes, LANDING_BYTES_MIN};
use super::link::Role;
use super::{Core, Settlements};
use crate::base::ids::BrokerId;
use crate::base::time::{Clock, Time};
use crate::mesh::command::ShardEvent;
use crate::proto::cluster::TopicNames;
use crate::proto::connection::{Failure, Reply, ReplyPart, Sink, Then, Versions, Written};
use crate::proto::produce::{CallIx, Produce};
use crate::ring::{Events, Landing, SendChain, Sock};
use crate::wire::messages::ProduceResponse;
use crate::wire::{ApiKey, Message, Reader};

impl<C: Clock> Events for Core<C> {
    fn connected(&mut self, sock: Sock) {
        self.stirred = true;
        self.with_link(sock, |now, link, _, _| link.on_connected(now));
    }

    fn data(&mut self, sock: Sock, bytes: &[u8]) {
        self.stirred = true;
        self.with_link(sock, |now, link, sink, _| link.connection.on_received(now, bytes, sink));
    }

    fn landing(&mut self, sock: Sock) -> Option<Landing> {
        let link = self.by_sock.get(&sock).and_then(|at| self.links.get(*at))?;
        let Role::Fetch(consumer) = link.role else { return None };
        let rest = link.connection.body_rest();
        if rest < LANDING_BYTES_MIN { None } else { self.fetch.lend((consumer, link.broker), rest) }
    }

    fn landed(&mut self, sock: Sock, landing: Landing, count: usize) {
        self.stirred = true;
        self.with_link(sock, |now, link, sink, _| {
            if let Role::Fetch(consumer) = link.role {
                sink.fetch.restore((consumer, link.broker), landing.memory);
            }
            if count > 0 {
                link.connection.on_landed(now, count, sink);
            }
        });
    }

    fn sent(&mut self, sock: Sock, chain: SendChain) {
        let mut goes_on = false;
        self.with_link(sock, |now, link, sink, _| {
            link.give_back(chain);
            goes_on = link.connection.on_sent(now, sink);
        });
        self.stirred |= goes_on;
    }

    fn closed(&mut self, sock: Sock, why: io::Error, _unsent: Option<SendChain>, written: usize) {
        self.stirred = true;
        let mut failed = None;
        self.with_link(sock, |now, link, sink, rng| {
            let cause = link.connection.end_of(&why);
            link.connection.on_closed(&why, written, sink);
            if link.on_gone(now, &cause, rng) {
                failed = Some((link.broker, link.trouble()));
            }
        });
        self.by_sock.remove(&sock);
        if let Some((broker, why)) = failed {
            self.link_failures += 1;
            tracing::debug!(broker = broker.0, %why, "a link failed");
            self.report(ShardEvent::LinkFailed { shard: self.shard, broker, why });
        }
    }
}

/// Where a link's replies go.
pub(super) struct LinkSink<'a> {
    pub(super) now: Time,
    pub(super) ready: bool,
    /// What the link is for was answered.
    pub(super) served: bool,
    pub(super) role: Role,
    pub(super) broker: BrokerId,
    pub(super) fetch: &'a mut FetchLanes,
    pub(super) produce: &'a mut Produce,
    pub(super) topics: &'a TopicNames,
    pub(super) settled: &'a mut Settlements,
}

fn call_of(tag: u64) -> CallIx {
    CallIx(u32::try_from(tag).unwrap_or(u32::MAX))
}

impl Sink for LinkSink<'_> {
    fn ready(&mut self, _: &Versions) {
        self.ready = true;
    }

    fn reply(&mut self, reply: Reply<'_>) -> Then {
        if let Role::Fetch(consumer) = self.role {
            return self.fetch.on_reply(self.now, consumer, self.broker, &reply);
        }
        let call = call_of(reply.tag);
        match ProduceResponse::decode(reply.version, &mut Reader::new(reply.body)) {
            Ok(answer) => {
                self.served = true;
                self.produce.on_answer(self.now, call, &answer, self.topics, self.settled);
                Then::Throttle(answer.throttle_time_ms)
            }
            Err(error) => {
                tracing::warn!(%error, "a Produce answer that cannot be decoded");
                self.produce.on_lost(self.now, call, true, self.settled);
                Then::Kill("a Produce answer that cannot be decoded")
            }
        }
    }

    fn reply_part(&mut self, part: ReplyPart<'_>) -> Then {
        if let Role::Fetch(consumer) = self.role {
            let then = self.fetch.on_part(self.now, consumer, self.broker, &part);
            self.served |= part.is_last() && !matches!(then, Then::Kill(_));
            return then;
        }
        // Produce replies come whole.
        self.produce.on_lost(self.now, call_of(part.tag), true, self.settled);
        Then::Kill("a reply in parts that nobody asked for")
    }

    fn written(&mut self, tag: u64, _: ApiKey) {
        self.produce.on_written(self.now, call_of(tag), self.settled);
    }

    fn failed(&mut self, failure: Failure<'_>) {
        if let Role::Fetch(consumer) = self.role {
            return self.fetch.on_failed(self.now, consumer, self.broker, &failure);
        }
        self.produce.on_lost(self.now, call_of(failure.tag), failure.written == Written::Maybe, self.settled);
    }
}
