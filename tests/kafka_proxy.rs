//! A real Kafka behind a proxy that delays, cuts in the middle of frames, and stalls: `KAFKA_BOOTSTRAP` and `KAFKA_PROXIED`
//! as `ci/kafka start --proxied` prints them. What was told of each record is compared with what is read past the proxy.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::park_timeout;
use std::time::{Duration, Instant, SystemTime};

use ottla::base::rng::Rng;
use ottla::testkit::proxy::Proxy;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// The port that the node tells its clients is one for all tests: one at a time.
static PORT: Mutex<()> = Mutex::new(());

/// A proxy in front of a node, and a run of audit records through it.
struct Setting {
    proxy: Proxy,
    /// Past the proxy.
    direct: String,
    topics: [String; 2],
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Setting {
    /// If there is a Kafka with a listener to be proxied.
    fn new(name: &str) -> Option<Self> {
        let direct = std::env::var("KAFKA_BOOTSTRAP").ok()?.split(',').next()?.to_owned();
        let proxied = std::env::var("KAFKA_PROXIED").ok()?;
        let (listen, upstream) = proxied.split(',').next()?.split_once('/')?;
        let alone = PORT.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = Proxy::start(listen.parse().unwrap(), upstream.parse().unwrap()).unwrap();
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let folder = std::env::temp_dir().join(format!("ottla-proxy-{name}-{nanos}"));
        std::fs::create_dir_all(&folder).unwrap();
        let topics = ["a", "b"].map(|letter| format!("proxy-{name}-{letter}-{nanos}"));
        Some(Self { proxy, direct, topics, folder, _alone: alone })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Starts `ottla audit` through the proxy; it stops when its standard input ends.
    fn start(&self, args: &[&str]) -> Child {
        let mut command = ottla();
        command.args(["audit", args[0], "-b", &self.proxy.address().to_string(), "--exit-with-stdin", "--json"]);
        command.args(&args[1..]).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn produce(&self, more: &[&str]) -> Child {
        let topics = format!("{}:3,{}:2", self.topics[0], self.topics[1]);
        let out = self.file("produced");
        let args = ["produce", "--topics", &topics, "-n", "100000000", "--rate", "3000", "--run", "r", "--out", &out];
        let mut child = self.start(&[&args, more].concat());
        // The topics are there and records come back once something was written down.
        until(&mut child, || std::fs::metadata(&out).is_ok_and(|data| data.len() > 100_000));
        child
    }

    /// Compares with the topics, read past the proxy.
    fn check(&self, more: &[&str]) -> (i32, Value) {
        let produced = self.file("produced");
        let args = ["audit", "check", "-b", &self.direct, "--produced", &produced, "--json"];
        let output = ottla().args(args).args(more).output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn ottla() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KAFKA_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for something that a program does.
#[track_caller]
fn until(child: &mut Child, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        assert!(Instant::now() < deadline, "nothing happens");
        park_timeout(Duration::from_millis(10));
    }
}

/// Ends its standard input and reads what it says.
#[track_caller]
fn ended(mut child: Child) -> Value {
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn d1_01_behind_delays_and_cuts_in_the_middle_of_frames_everything_arrives_once_and_in_order() {
    let Some(setting) = Setting::new("cuts") else { return };
    let mut producer = setting.produce(&[]);
    let consumed = setting.file("consumed");
    let parts: Vec<String> = [(0, 3), (1, 2)]
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(|part| format!("{}:{part}", setting.topics[*topic])))
        .collect();
    let mut consumer = setting.start(&["consume", "--assign", &parts.join(","), "--out", &consumed]);
    until(&mut consumer, || std::fs::metadata(&consumed).is_ok_and(|data| data.len() > 100_000));
    let mut rng = Rng::new(7);
    for round in 0..25 {
        setting.proxy.set_delay(Duration::from_millis(rng.below(40)));
        let (_, cut) = setting.proxy.connections();
        // Heads, batches and answers are all of a few bytes up to some ten thousand.
        setting.proxy.cut_after(1 + rng.below(if round % 2 == 0 { 2_000 } else { 60_000 }));
        until(&mut producer, || setting.proxy.connections().1 > cut);
    }
    setting.proxy.set_delay(Duration::ZERO);
    let said = ended(producer);
    assert_eq!((&said["fail"], &said["unknown"]), (&0.into(), &0.into()), "{said}");
    assert_eq!(ended(consumer)["bad"], 0);
    let (code, said) = setting.check(&["--consumed", &consumed, "--all-ok"]);
    assert_eq!(code, 0, "{said}");
    for view in ["topics", "consumed"] {
        assert_eq!(said["views"][view]["records"], said["produced"]["records"], "{said}");
    }
}

#[test]
fn d1_12_behind_stalls_longer_than_the_delivery_timeout_nothing_is_misrouted_or_corrupt() {
    let Some(setting) = Setting::new("stalls") else { return };
    let producer = setting.produce(&[
        "-X",
        "delivery.timeout.ms=1000",
        "-X",
        "request.timeout.ms=900",
        "-X",
        "linger.ms=5",
        "-X",
        "max.block.ms=300",
    ]);
    for round in 0..3 {
        setting.proxy.hold(true);
        // The stall itself: beyond the delivery timeout of everything that is on its way.
        park_for(Duration::from_secs(3));
        if round == 1 {
            setting.proxy.cut();
        }
        setting.proxy.hold(false);
        park_for(Duration::from_secs(1));
    }
    let said = ended(producer);
    let count = |name: &str| said[name].as_u64().unwrap();
    assert_eq!(count("ok") + count("fail") + count("unknown"), count("records"));
    assert!(count("fail") + count("unknown") > 0, "the stalls cost something: {said}");
    // What was acknowledged is there, once, in order, where it belongs; what failed is not; nothing else came to be there.
    let (code, said) = setting.check(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(said["produced"]["ok"].as_u64().unwrap() > 0);
}

/// Parking may end early.
fn park_for(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        park_timeout(left);
    }
}
