//! Asking for metadata, merging answers, publishing snapshots.

use std::sync::Arc;

use super::Control;
use super::calls::Purpose;
use super::job::{JobCall, Target};
use crate::base::ids::TopicIx;
use crate::base::time::Time;
use crate::mesh::command::ShardCommand;
use crate::proto::cluster::Change;
use crate::ring::Backend;
use crate::wire::messages::metadata::request::MetadataRequestTopic;
use crate::wire::messages::{MetadataRequest, MetadataResponse};
use crate::wire::{ErrorCode, Message, Reader, Verdict};

impl<B: Backend> Control<B> {
    pub(super) fn use_topic(&mut self, now: Time, topic: TopicIx) {
        if self.refresh.use_topic(now, topic) {
            self.cluster.on_wanted(now, topic, &self.topics);
        }
    }

    /// Asks what is due to be asked.
    pub(super) fn start_metadata(&mut self, now: Time) {
        if self.finishing {
            return;
        }
        let Some(ask) = self.refresh.next(now) else { return };
        let topics = ask
            .topics
            .iter()
            .filter_map(|topic| self.topics.name(*topic))
            .map(|name| MetadataRequestTopic { name: Some(name.to_string()), ..Default::default() })
            .collect();
        let create = self.settings.allow_auto_create_topics;
        let request = MetadataRequest { topics: Some(topics), allow_auto_topic_creation: create, ..Default::default() };
        // Version 0 would take no topics for all topics; before version 4 brokers create whatever they are asked for.
        let call = JobCall::new(Target::Any, request).within(if create { 1 } else { 4 }, i16::MAX);
        let deadline = now + self.call_time();
        self.start_call(now, call, Purpose::Metadata(ask.number), deadline);
    }

    pub(super) fn on_metadata(&mut self, now: Time, number: u64, version: i16, body: &[u8]) {
        let Ok(answer) = MetadataResponse::decode(version, &mut Reader::new(body)) else {
            tracing::warn!(version, "a malformed answer to Metadata");
            self.refresh.on_failed(now, number, &mut self.rng);
            return;
        };
        match self.cluster.on_metadata(now, &answer, &self.topics) {
            Ok(change) => {
                if !answer.brokers.is_empty() {
                    self.rebootstrap = false;
                }
                if change.other_cluster {
                    tracing::warn!(
                        cluster = answer.cluster_id.as_deref().unwrap_or_default(),
                        "the brokers belong to another cluster than before"
                    );
                }
                self.refresh.on_answer(now, number, &change.incomplete, &mut self.rng);
                self.on_change(&change);
                self.close_seeds();
            }
            Err(error) => {
                tracing::debug!(%error, "metadata refused");
                if error.0.verdict() == Verdict::Rebootstrap || error.0 == ErrorCode::RebootstrapRequired {
                    self.start_over();
                }
                self.refresh.on_failed(now, number, &mut self.rng);
            }
        }
    }

    pub(super) fn on_metadata_lost(&mut self, now: Time, number: u64) {
        self.refresh.on_failed(now, number, &mut self.rng);
        if self.has_hope(now) {
            // Another one can be asked at once.
            self.refresh.hurry(now);
        }
    }

    /// Acts on a merge.
    pub(super) fn on_change(&mut self, change: &Change) {
        if !change.brokers_moved.is_empty() {
            self.on_brokers_moved(&change.brokers_moved);
        }
    }

    /// Publishes the snapshot if there is a new one.
    pub(super) fn publish(&mut self) {
        let snapshot = self.cluster.snapshot();
        if snapshot.version == self.published {
            return;
        }
        self.published = snapshot.version;
        self.cell.publish(Arc::clone(snapshot));
        for shard in &self.shards {
            // A shard that is gone has no use for it.
            let _ = shard.send(ShardCommand::SnapshotChanged);
        }
    }
}
