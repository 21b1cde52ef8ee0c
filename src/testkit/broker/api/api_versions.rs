//! ApiVersions, versions 0 to 4 (KIP-35, KIP-511, KIP-584). A version above is answered in version 0 with
//! UNSUPPORTED_VERSION and the list of APIs.
//!
//! As Kafka 4: Produce is listed from version 0 although 0 to 2 are refused, because librdkafka before 2.8 takes a
//! higher minimum for a broker without compression support (KAFKA-18659). Finalized features: `metadata.version` and
//! `kraft.version` only; features whose APIs this broker lacks are not listed.

use super::super::core::{Answer, BrokerCore, Call};
use super::{SERVED, Served};
use crate::wire::messages::api_versions::response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use crate::wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::{ApiKey, ErrorCode};

/// `metadata.version` level of Kafka 4.3 (4.3-IV0).
const METADATA_VERSION: i16 = 30;

fn listed() -> Vec<ApiVersion> {
    let mut keys: Vec<ApiVersion> = SERVED
        .iter()
        .map(|(api, versions)| ApiVersion {
            api_key: *api as i16,
            min_version: if *api == ApiKey::Produce { 0 } else { versions.min },
            max_version: versions.max,
            ..ApiVersion::default()
        })
        .collect();
    keys.sort_by_key(|listed| listed.api_key);
    keys
}

/// The answer to a version that this broker does not know; encoded in version 0.
pub(crate) fn unsupported(core: &mut BrokerCore) -> ApiVersionsResponse {
    let code = ErrorCode::UnsupportedVersion.code();
    *core.counters.errors.entry((ApiKey::ApiVersions as i16, code)).or_default() += 1;
    ApiVersionsResponse { error_code: code, api_keys: listed(), ..ApiVersionsResponse::default() }
}

fn software_is_valid(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.bytes().all(inner) && edge(text.as_bytes().first()) && edge(text.as_bytes().last())
}

impl Served for ApiVersionsRequest {
    fn serve(core: &mut BrokerCore, call: &Call, request: Self) -> Answer<ApiVersionsResponse> {
        if let Some(code) = call.injected_for_all() {
            let error_code = core.error(call, code);
            return Answer::Now(ApiVersionsResponse { error_code, ..ApiVersionsResponse::default() });
        }
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        if call.version >= 3 && !(software_is_valid(name) && software_is_valid(version)) {
            let error_code = core.error(call, ErrorCode::InvalidRequest);
            return Answer::Now(ApiVersionsResponse { error_code, ..ApiVersionsResponse::default() });
        }
        core.set_software(call.conn, format!("{name} {version}"));
        let mut answer = ApiVersionsResponse { api_keys: listed(), ..ApiVersionsResponse::default() };
        if call.version >= 3 {
            // (name, lowest and highest supported level, finalized level)
            let features = [("kraft.version", 0, 1, 1), ("metadata.version", 7, METADATA_VERSION, METADATA_VERSION)];
            for (name, min_version, max_version, level) in features {
                // Version 4 on, a lowest level of 0 may be told; before, clients took it for an error (KIP-1022).
                if min_version > 0 || call.version >= 4 {
                    answer.supported_features.push(SupportedFeatureKey {
                        name: name.into(),
                        min_version,
                        max_version,
                        ..SupportedFeatureKey::default()
                    });
                }
                answer.finalized_features.push(FinalizedFeatureKey {
                    name: name.into(),
                    max_version_level: level,
                    min_version_level: level,
                    ..FinalizedFeatureKey::default()
                });
            }
            answer.finalized_features_epoch = 1;
        }
        Answer::Now(answer)
    }

    fn throttle(response: &mut ApiVersionsResponse, ms: i32) {
        response.throttle_time_ms = ms;
    }
}
