//! InitProducerId, versions 0 to 5: a fresh producer id without transactional id, always (as Kafka); with one, the
//! same producer id under the next epoch, so that older instances are fenced.
//!
//! Deviations from Kafka: transactions themselves are not served yet, so there is never one to abort first.

use super::super::core::{Answer, BrokerCore, Call};
use super::Served;
use super::find_coordinator::wrong_coordinator;
use crate::wire::ErrorCode;
use crate::wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

/// `transaction.max.timeout.ms`.
const TRANSACTION_TIMEOUT_MS_MAX: i32 = 900_000;

impl Served for InitProducerIdRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<InitProducerIdResponse> {
        let (producer_id, producer_epoch, code) = match init(core, call, &request) {
            Ok((id, epoch)) => (id, epoch, ErrorCode::None),
            Err(code) => (-1, -1, code),
        };
        let error_code = core.error(call, code);
        Answer::Now(InitProducerIdResponse {
            error_code,
            producer_id,
            producer_epoch,
            ..InitProducerIdResponse::default()
        })
    }

    fn throttle(response: &mut InitProducerIdResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}

fn init(core: &mut BrokerCore, call: &Call, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    if let Some(code) = call.injected_for_all() {
        return Err(code);
    }
    let mut fresh = || {
        core.next_producer_id += 1;
        core.next_producer_id
    };
    let Some(transactional_id) = &request.transactional_id else { return Ok((fresh(), 0)) };
    if transactional_id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    if !(1..=TRANSACTION_TIMEOUT_MS_MAX).contains(&request.transaction_timeout_ms) {
        return Err(ErrorCode::InvalidTransactionTimeout);
    }
    let next = fresh();
    if let Some(code) = wrong_coordinator(core, call, transactional_id) {
        return Err(code);
    }
    let known = core.transactional_ids.get(transactional_id).copied();
    let given = (request.producer_id, request.producer_epoch);
    let granted = match known {
        // KIP-360: a client that names what it had must still be the newest instance.
        Some(known) if given.0 != -1 && given != known => return Err(ErrorCode::ProducerFenced),
        Some((id, epoch)) if epoch < i16::MAX - 1 => (id, epoch + 1),
        Some(_) | None => (next, 0),
    };
    core.transactional_ids.insert(transactional_id.clone(), granted);
    Ok(granted)
}
