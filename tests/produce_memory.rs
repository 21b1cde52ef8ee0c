//! Memory of a producer whose brokers are a black hole, as the kernel counts it (design §3.8). The broker is a process of
//! its own that is stopped, so that nothing of it is counted and nothing of it answers.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ottla::config::EngineSettings;
use ottla::engine::Engine;
use ottla::producer::{Losses, Record, RejectReason};

const BUDGET: usize = 32 << 20;
const LANES: usize = 8;
const PARTITIONS: i32 = 16;
const LONG: Duration = Duration::from_secs(120);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn broker() -> (Running, String) {
    let topic = format!("t:{PARTITIONS}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["broker", "--listen", "127.0.0.1:0", "--json", "--exit-with-stdin", "--topic", &topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    (Running(child), ready["bootstrap"].as_str().unwrap().to_owned())
}

/// `VmRSS` or `VmHWM` of this process, in bytes.
fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn r08_a_black_hole_costs_the_budget_and_a_tenth_and_every_record_has_one_outcome() {
    let (broker, bootstrap) = broker();
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
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
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
