//! Memory of a producer whose brokers are a black hole, as the kernel counts it (design §3.8). The broker is a process of
//! its own that is stopped, so that nothing of it is counted and nothing of it answers.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

#[path = "common/process.rs"]
mod process;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ottla::config::EngineSettings;
use ottla::engine::Engine;
use ottla::producer::{Losses, Record, RejectReason};
use process::memory;

const BUDGET: usize = 32 << 20;
const LANES: usize = 8;
const PARTITIONS: i32 = 16;
const LONG: Duration = Duration::from_secs(120);

#[test]
fn r08_a_black_hole_costs_the_budget_and_a_tenth_and_every_record_has_one_outcome() {
    let (broker, bootstrap) = process::broker(&["--topic", &format!("t:{PARTITIONS}")]);
    let settings =
        EngineSettings { bootstrap_servers: vec![bootstrap], buffer_memory: BUDGET, ..EngineSettings::default() };
    let engine = Engine::builder().settings(settings).build().unwrap();
    let producer = engine
        .producer()
        .delivery_timeout(Duration::from_secs(8))
        .max_block(Duration::from_millis(100))
        .build()
        .unwrap();
    let (warm, go) = (Arc::new(Barrier::new(LANES + 1)), Arc::new(Barrier::new(LANES + 1)));
    let full = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..LANES)
        .map(|lane| {
            let (producer, warm, go, full) = (producer.clone(), Arc::clone(&warm), Arc::clone(&go), Arc::clone(&full));
            std::thread::spawn(move || {
                let mut handle = producer.lane();
                for partition in 0..PARTITIONS {
                    handle.send(Record::to("t").partition(partition).value("warm")).unwrap();
                }
                assert_eq!(handle.flush(LONG), Ok(Losses::default()));
                drop(producer);
                warm.wait();
                go.wait();
                // Small and large ones, until nothing was taken for a while.
                let value = "v".repeat(4_000);
                let (mut taken, mut refused) = (0u64, 0);
                while refused < 20 {
                    let len = (taken as usize * 37 + lane) % 4_000;
                    match handle.send(Record::to("t").partition(taken as i32 % PARTITIONS).value(&value[..len])) {
                        Ok(()) => (taken, refused) = (taken + 1, 0),
                        Err(rejected) => {
                            assert_eq!(rejected.reason, RejectReason::Timeout);
                            refused += 1;
                        }
                    }
                    if full.load(Ordering::Relaxed) {
                        break;
                    }
                }
                full.store(true, Ordering::Relaxed);
                let losses = handle.flush(LONG).unwrap();
                (taken, losses)
            })
        })
        .collect();
    warm.wait();
    let pid = broker.0.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    // The mark of the highest RSS starts anew here.
    process::forget_peak_memory();
    let idle = memory("VmRSS:");
    go.wait();
    let (mut taken, mut lost) = (0, 0);
    for thread in threads {
        let (accepted, losses) = thread.join().unwrap();
        taken += accepted;
        lost += losses.failed + losses.unknown;
    }
    let peak = memory("VmHWM:");
    println!("idle {} KiB, peak {} KiB, {taken} records", idle >> 10, peak >> 10);
    assert_eq!(lost, taken, "every accepted record has one outcome, and none was delivered");
    let stats = engine.stats();
    assert_eq!(stats.failed + stats.unknown, taken);
    assert!(peak <= idle + BUDGET + BUDGET / 10, "idle {idle}, peak {peak}");
    assert!(peak >= idle + BUDGET / 2, "the budget was used: idle {idle}, peak {peak}");
    drop(broker);
    engine.close(Duration::from_secs(5)).ok();
}
