//! What peers cost beside franz-go when others measured them with care on this kind of machine: a harness in which a peer
//! does much better or worse than that has something wrong in it, or something to explain.
//!
//! CPU per record over franz-go's in the same scenario: client on one core, a real broker on the other, medians of three,
//! steady state of the JVM. Measured with Apache Kafka 4.3.1, franz-go 1.22.2, kafka-clients 4.4.0, librdkafka 2.12.1
//! (confluent-kafka-go 2.11.1), krafka 0.28.1, rskafka 0.6.0.

use crate::peer::Phase;

/// How far a ratio may be off: 15 %.
pub const TOLERANCE: f64 = 0.15;

type Row = (&'static str, Phase, &'static str, &'static str, f64);

/// Scenario, phase, peer, variant, ratio.
const RATIOS: &[Row] = &[
    ("telemetry", Phase::Produce, "java", "", 1.185 / 1.180),
    ("telemetry", Phase::Produce, "librdkafka", "", 1.789 / 1.180),
    ("telemetry", Phase::Produce, "rust-rdkafka", "", 1.789 / 1.180),
    ("telemetry", Phase::Produce, "rskafka", "", 1.833 / 1.180),
    ("telemetry", Phase::Produce, "krafka", "", 1.841 / 1.180),
    ("telemetry", Phase::Produce, "confluent-kafka-go", "", 3.397 / 1.180),
    ("telemetry", Phase::Consume, "franz-go", "pooled", 0.440 / 0.510),
    ("telemetry", Phase::Consume, "librdkafka", "", 0.609 / 0.510),
    ("telemetry", Phase::Consume, "krafka", "", 0.762 / 0.510),
    ("telemetry", Phase::Consume, "rust-rdkafka", "", 0.852 / 0.510),
    ("telemetry", Phase::Consume, "rskafka", "", 1.565 / 0.510),
    ("telemetry", Phase::Consume, "confluent-kafka-go", "", 2.148 / 0.510),
    // Of runs against a sink, where it was measured without its start-up.
    ("telemetry", Phase::Consume, "java", "", 1.038 / 0.466),
    ("telemetry-12", Phase::Produce, "java", "", 2.150 / 1.569),
    ("telemetry-12", Phase::Produce, "rskafka", "", 2.937 / 1.569),
    ("telemetry-12", Phase::Produce, "librdkafka", "", 3.205 / 1.569),
    ("telemetry-12", Phase::Produce, "rust-rdkafka", "", 3.205 / 1.569),
    ("telemetry-12", Phase::Produce, "krafka", "", 3.817 / 1.569),
    ("telemetry-12", Phase::Consume, "librdkafka", "", 0.653 / 0.663),
    ("telemetry-12", Phase::Consume, "krafka", "", 1.589 / 0.663),
    ("telemetry-12", Phase::Consume, "rskafka", "", 1.624 / 0.663),
    ("r100", Phase::Produce, "rskafka", "", 0.285 / 0.445),
    ("r100", Phase::Produce, "librdkafka", "", 0.648 / 0.445),
    ("r100", Phase::Produce, "rust-rdkafka", "", 0.648 / 0.445),
    ("r100", Phase::Produce, "java", "", 1.030 / 0.445),
    ("r100", Phase::Produce, "krafka", "", 1.179 / 0.445),
    ("r100", Phase::Consume, "librdkafka", "", 0.245 / 0.348),
    ("r100", Phase::Consume, "rskafka", "", 0.249 / 0.348),
    ("r100", Phase::Consume, "krafka", "", 0.515 / 0.348),
    ("r1k", Phase::Produce, "krafka", "", 1.314 / 0.795),
    ("r1k", Phase::Produce, "rskafka", "", 1.775 / 0.795),
    ("r1k", Phase::Produce, "librdkafka", "", 1.932 / 0.795),
    ("r1k", Phase::Produce, "rust-rdkafka", "", 1.932 / 0.795),
    ("r1k", Phase::Consume, "krafka", "", 0.548 / 0.821),
    ("r1k", Phase::Consume, "librdkafka", "", 0.622 / 0.821),
    ("r1k", Phase::Consume, "rskafka", "", 0.851 / 0.821),
    // Of a sink like ours.
    ("sink-produce", Phase::Produce, "java", "", 1.023 / 1.113),
    ("sink-produce", Phase::Produce, "librdkafka", "", 1.772 / 1.113),
    ("sink-produce", Phase::Produce, "rust-rdkafka", "", 1.772 / 1.113),
    ("sink-produce", Phase::Produce, "krafka", "", 2.035 / 1.113),
    ("sink-consume", Phase::Consume, "franz-go", "pooled", 0.401 / 0.466),
    ("sink-consume", Phase::Consume, "librdkafka", "", 0.572 / 0.466),
    ("sink-consume", Phase::Consume, "krafka", "", 0.674 / 0.466),
    ("sink-consume", Phase::Consume, "java", "", 1.038 / 0.466),
];

/// The ratio to franz-go that a peer should have; `None` where nobody measured it.
pub fn ratio(scenario: &str, phase: Phase, peer: &str, variant: &str) -> Option<f64> {
    let wanted = (scenario, phase, peer, variant);
    RATIOS
        .iter()
        .find(|(scenario, phase, peer, variant, _)| (*scenario, *phase, *peer, *variant) == wanted)
        .map(|row| row.4)
}

/// Whether a ratio is further off than it may be.
pub fn is_off(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() > TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{peer, scenario};

    #[test]
    fn a_ratio_may_be_fifteen_percent_off_and_no_more() {
        assert!(!is_off(1.149, 1.0) && !is_off(0.851, 1.0));
        assert!(is_off(1.151, 1.0) && is_off(0.849, 1.0));
    }

    #[test]
    fn ratios_are_of_scenarios_and_steps_that_there_are() {
        for (scenario, phase, peer, variant, ratio) in RATIOS {
            assert!(scenario::ALL.iter().any(|one| one.name == *scenario), "{scenario}");
            let known = peer::ALL.iter().find(|one| one.name == *peer);
            // Peers that are not built yet have a line already.
            let step =
                |peer: &peer::Peer| peer.steps.iter().any(|step| (step.phase, step.variant) == (*phase, *variant));
            assert!(known.is_none_or(step), "{peer} {phase} {variant}");
            assert!(*ratio > 0.0);
        }
        assert!(ratio("telemetry", Phase::Produce, "java", "").is_some_and(|ratio| (ratio - 1.004).abs() < 0.001));
        assert_eq!(ratio("telemetry", Phase::Produce, "ottla", ""), None);
    }
}
