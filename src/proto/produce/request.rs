//! The bytes of a Produce request around its batches: a head, and where the batches' pieces go into it.
//!
//! Versions 3 to 13: flexible from 9, topic ids instead of names from 13. The batches are never copied.

use super::*;
use crate::base::chunk::Piece;
use crate::base::ids::Uuid;
use crate::proto::cluster::TopicNames;
use crate::wire::ApiKey;
use crate::wire::frame::encode_request_header;

/// From this version on topics go by id.
const TOPIC_IDS_FROM: i16 = 13;

/// The newest version usable for these topics: 13 needs their ids.
pub(super) fn version_max(ids_known: bool) -> i16 {
    if ids_known { i16::MAX } else { TOPIC_IDS_FROM - 1 }
}

fn uvarint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn length(flexible: bool, count: usize, out: &mut Vec<u8>) {
    if flexible {
        uvarint(count as u32 + 1, out);
    } else {
        out.extend_from_slice(&(count as i32).to_be_bytes());
    }
}

fn string(flexible: bool, text: &str, out: &mut Vec<u8>) {
    if flexible {
        uvarint(text.len() as u32 + 1, out);
    } else {
        out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

impl Produce {
    /// The newest Produce version that this call can be sent in; the connection's own limit applies too.
    pub fn call_version_max(&self, call: CallIx) -> i16 {
        version_max(self.call_batches(call).all(|(_, id, _)| !id.is_zero()))
    }

    /// Whether a reply is expected (acks is not 0).
    pub fn call_is_answered(&self, call: CallIx) -> bool {
        self.calls.get(call.0 as usize).and_then(Option::as_ref).is_none_or(|call| call.acks != 0)
    }

    /// The broker a call goes to.
    pub fn call_broker(&self, call: CallIx) -> Option<BrokerId> {
        Some(self.calls.get(call.0 as usize)?.as_ref()?.broker)
    }

    /// Writes a call's request in `version`: into `head` the frame from its length prefix on (length and correlation id left
    /// to the connection), into `inserts` the batches' pieces and where in `head` they belong. False, and nothing usable,
    /// when a topic has no name.
    pub fn encode_call(
        &self,
        call: CallIx,
        version: i16,
        client_id: &str,
        names: &TopicNames,
        head: &mut Vec<u8>,
        inserts: &mut Vec<(u32, Piece)>,
    ) -> bool {
        let Some(state) = self.calls.get(call.0 as usize).and_then(Option::as_ref) else { return false };
        let Some(producer) = self.producers.get(usize::from(state.producer.0)).and_then(Option::as_ref) else {
            return false;
        };
        let flexible = ApiKey::Produce.is_flexible(version);
        head.clear();
        head.extend_from_slice(&[0; 4]);
        if encode_request_header(ApiKey::Produce, version, 0, Some(client_id), head).is_err() {
            return false;
        }
        match (&producer.key.transactional_id, flexible) {
            (Some(id), _) => string(flexible, id, head),
            (None, true) => head.push(0),
            (None, false) => head.extend_from_slice(&(-1i16).to_be_bytes()),
        }
        head.extend_from_slice(&producer.key.acks.to_be_bytes());
        head.extend_from_slice(&producer.key.timeout_ms.to_be_bytes());
        let topics = self.call_topics(state);
        length(flexible, topics, head);
        let mut rest = &state.parts[..];
        while let Some(first) = rest.first() {
            let topic = self.parts[first.part.0 as usize].tp.topic;
            let count = rest.iter().take_while(|e| self.parts[e.part.0 as usize].tp.topic == topic).count();
            let (these, others) = rest.split_at(count);
            rest = others;
            if version >= TOPIC_IDS_FROM {
                let id = self.topics.get(&topic).map_or(Uuid::ZERO, |topic| topic.id);
                head.extend_from_slice(&id.0);
            } else {
                let Some(name) = names.name(topic) else { return false };
                string(flexible, &name, head);
            }
            length(flexible, these.len(), head);
            for entry in these {
                let part = &self.parts[entry.part.0 as usize];
                let Some(at) = part.position_of(entry.no) else { return false };
                let sealed = &part.queue[at].sealed;
                head.extend_from_slice(&part.tp.partition.to_be_bytes());
                length(flexible, sealed.wire_len(), head);
                let at = head.len() as u32;
                inserts.extend(sealed.pieces().map(|piece| (at, piece.clone())));
                if flexible {
                    head.push(0);
                }
            }
            if flexible {
                head.push(0);
            }
        }
        if flexible {
            head.push(0);
        }
        true
    }

    fn call_topics(&self, call: &CallState) -> usize {
        let mut last = None;
        let mut count = 0;
        for entry in &call.parts {
            let topic = self.parts[entry.part.0 as usize].tp.topic;
            if last != Some(topic) {
                count += 1;
                last = Some(topic);
            }
        }
        count
    }
}
