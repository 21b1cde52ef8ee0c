//! What shards ask for: metadata, leaders, producer ids, addresses; and how they end.

use std::sync::Arc;

use super::Control;
use super::job::{Job, JobCall, JobError, Next, Target};
use crate::base::ids::{BrokerId, ProducerIx, ShardIx};
use crate::base::time::Time;
use crate::mesh::MailboxSender;
use crate::mesh::command::{ProducerIdGrant, Refusal, ShardCommand, ShardEvent};
use crate::net::{HostPort, Resolution};
use crate::proto::cluster::Snapshot;
use crate::ring::Backend;
use crate::wire::messages::{InitProducerIdRequest, InitProducerIdResponse};
use crate::wire::{ApiKey, ErrorCode, Message, Reader};

impl<B: Backend> Control<B> {
    pub(super) fn on_shard_event(&mut self, now: Time, event: ShardEvent) {
        match event {
            ShardEvent::NeedMetadata { topics, why: _ } => {
                for topic in &topics {
                    self.use_topic(now, *topic);
                }
                self.refresh.on_doubt(topics);
            }
            ShardEvent::Leader(hint) => {
                let endpoint = hint.endpoint.as_ref().map(|(host, port)| (host.as_str(), *port));
                let change = self.cluster.on_leader_hint(hint.tp, hint.leader, hint.epoch, endpoint);
                self.refresh.on_doubt(change.incomplete.iter().copied());
                self.on_change(&change);
            }
            ShardEvent::NeedProducerId { shard, producer, previous: _ } => self.get_producer_id(now, shard, producer),
            ShardEvent::NeedAddresses { shard, broker, host, port } => {
                self.get_addresses(now, shard, broker, &host, port)
            }
            ShardEvent::LinkFailed { broker, .. } => self.doubt_leader(broker),
            ShardEvent::Stopped { shard } => self.on_shard_ended(shard),
            ShardEvent::Failed { shard, why } => {
                self.state.fail(&format!("shard {} failed: {why}", shard.0));
                self.on_shard_ended(shard);
                // Nothing more can be delivered in order: the others end at once, what is pending ends as unknown.
                self.close(now);
            }
        }
    }

    /// A broker cannot be reached: what it leads may be led by another one now, or soon. Nobody else would ask, since a
    /// broker that is gone refuses nothing.
    fn doubt_leader(&mut self, broker: BrokerId) {
        let snapshot = Arc::clone(self.cluster.snapshot());
        let led = snapshot.topics().filter(|topic| topic.partitions.iter().any(|one| one.leader == Some(broker)));
        self.refresh.on_doubt(led.map(|topic| topic.ix));
    }

    fn on_shard_ended(&mut self, shard: ShardIx) {
        if let Some(stopped) = self.stopped.get_mut(usize::from(shard.0)) {
            *stopped = true;
        }
    }

    /// A fresh producer id; an idempotent producer without transactions never needs the old one again, since shards bump
    /// epochs themselves and ask only when those ran out.
    fn get_producer_id(&mut self, now: Time, shard: ShardIx, producer: ProducerIx) {
        let Some(to) = self.shards.get(usize::from(shard.0)).cloned() else { return };
        let job = ProducerId { producer, to, got: None };
        let deadline = now + self.settings.default_api_timeout;
        self.add_job(now, Box::new(job), deadline);
    }

    fn get_addresses(&mut self, now: Time, shard: ShardIx, broker: BrokerId, host: &str, port: u16) {
        match HostPort::new(host, i32::from(port)) {
            Ok(host) => {
                let key = self.next_number();
                self.address_waits.insert(key, (shard, broker));
                self.resolver.resolve(key, host, now + self.settings.connection_setup_timeout);
            }
            Err(error) => self.tell(shard, ShardCommand::Addresses { broker, addresses: Err(error.to_string()) }),
        }
    }

    pub(super) fn answer_addresses(&mut self, resolution: Resolution) {
        if let Some((shard, broker)) = self.address_waits.remove(&resolution.key) {
            let addresses = resolution.result.map_err(|error| error.to_string());
            self.tell(shard, ShardCommand::Addresses { broker, addresses });
        }
    }

    fn tell(&self, shard: ShardIx, command: ShardCommand) {
        if let Some(to) = self.shards.get(usize::from(shard.0)) {
            // A shard that is gone needs no answer.
            let _ = to.send(command);
        }
    }
}

/// InitProducerId for one producer on one shard.
struct ProducerId {
    producer: ProducerIx,
    to: MailboxSender<ShardCommand>,
    got: Option<ProducerIdGrant>,
}

impl Job for ProducerId {
    fn calls(&mut self, _: &Snapshot) -> Vec<JobCall> {
        if self.got.is_some() {
            return Vec::new();
        }
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        vec![JobCall::new(Target::Any, request)]
    }

    fn on_reply(&mut self, _: usize, version: i16, body: &[u8]) -> Next {
        let Ok(answer) = InitProducerIdResponse::decode(version, &mut Reader::new(body)) else {
            return Next::Fail(JobError::Malformed(ApiKey::InitProducerId));
        };
        let code = ErrorCode::from(answer.error_code);
        if code.verdict().is_retriable() {
            return Next::AgainElsewhere;
        }
        if code != ErrorCode::None {
            return Next::Fail(JobError::Broker(code, String::new()));
        }
        if answer.producer_id < 0 || answer.producer_epoch < 0 {
            return Next::Fail(JobError::Malformed(ApiKey::InitProducerId));
        }
        self.got = Some(ProducerIdGrant { id: answer.producer_id, epoch: answer.producer_epoch });
        Next::Done
    }

    fn end(self: Box<Self>, outcome: Result<(), JobError>) {
        let refuse = |error: JobError| {
            let code = match &error {
                JobError::Broker(code, _) => code.code(),
                JobError::Unsupported(_) => ErrorCode::UnsupportedVersion.code(),
                _ => 0,
            };
            Refusal { code, message: error.to_string() }
        };
        let grant = match (outcome, self.got) {
            (Ok(()), Some(grant)) => Ok(grant),
            (Ok(()), None) => Err(refuse(JobError::Closed)),
            (Err(error), _) => Err(refuse(error)),
        };
        // A shard that is gone needs no id.
        let _ = self.to.send(ShardCommand::ProducerId { producer: self.producer, grant });
    }
}
