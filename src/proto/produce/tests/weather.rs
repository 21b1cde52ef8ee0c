//! Batches of any size through any order of answers, timeouts and cut connections, by seed: the log is what was sent.

use super::super::*;
use super::model::*;
use crate::base::rng::Rng;

/// One partition, up to five requests on one connection, whose broker takes them in order. Nothing here spends an epoch.
fn run(seed: u64, start: i32) -> (usize, ProduceStats) {
    let mut rng = Rng::new(seed);
    let mut rig = Rig::granted(ProducerSettings { linger: ms(1_000), ..Default::default() });
    let ix = rig.produce.partition(P, tp(0));
    rig.produce.part(ix).next_sequence = start;
    rig.logs.entry(0).or_default().forget(7, if start == 0 { i32::MAX } else { start - 1 });
    let (mut sent, mut out) = (0, VecDeque::new());
    for _ in 0..120 {
        let count = 1 + rng.below(9) as usize;
        rig.send_records(0, sent..sent + count);
        sent += count;
        rig.produce.flush(P);
        out.extend(rig.call(B1));
        if rng.percent(30) {
            continue;
        }
        rig.pass(ms(rng.below(150)));
        match rng.below(10) {
            0 => {
                // The connection is cut; the broker took some of what was on it.
                let taken = rng.below(out.len() as u64 + 1) as usize;
                for (at, call) in std::mem::take(&mut out).iter().enumerate() {
                    if at < taken {
                        rig.swallow(call);
                    } else {
                        rig.produce.on_lost(rig.now, call.call, true, &mut rig.out);
                    }
                }
            }
            1 => {
                if let Some(call) = out.pop_front() {
                    rig.refuse(&call, ErrorCode::NotEnoughReplicas);
                }
            }
            2 => {
                if let Some(call) = out.pop_front() {
                    let _ = rig.logs.entry(0).or_default().append(&call.bytes(0));
                    rig.refuse(&call, ErrorCode::NotEnoughReplicasAfterAppend);
                }
            }
            _ => {
                if let Some(call) = out.pop_front() {
                    rig.accept(&call);
                }
            }
        }
    }
    out.iter().for_each(|call| rig.accept(call));
    rig.run(B1);
    assert_eq!(rig.log(0), (0..sent).map(|i| i.to_string()).collect::<Vec<_>>(), "seed {seed}");
    assert!(rig.outcomes(0).iter().all(|(_, outcome)| delivered(outcome)), "seed {seed}");
    rig.check_end();
    (sent, rig.produce.stats())
}

#[test]
fn d1_02_batches_of_any_size_arrive_once_and_in_order_whatever_the_broker_answers() {
    let (mut records, mut batches, mut retries) = (0, 0, 0);
    for seed in 0..150 {
        // Every third run passes 2^31 - 1 on its way, as a rule inside a batch.
        let start = if seed % 3 == 0 { i32::MAX - 100 - seed as i32 } else { 0 };
        let (sent, stats) = run(seed, start);
        assert_eq!(stats.bumps, 0, "seed {seed}: no epoch was needed");
        records += sent as u64;
        batches += stats.batches;
        retries += stats.retries;
    }
    assert!(records > 2 * batches, "batches of several records: {records} in {batches}");
    assert!(retries > 150 * 20, "{retries} retries");
}
