//! `ottla audit`: what it writes, what it finds in it, and that each planted violation is found.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "common/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn ottla(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KAFKA_")) {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> (i32, Value, String) {
    let Output { status, stdout, stderr } = ottla(args).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), serde_json::from_slice(&stdout).unwrap_or(Value::Null), said)
}

/// A directory of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ottla-audit-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, lines: &[String]) -> String {
        let path = self.file(name);
        std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lines(path: impl AsRef<Path>) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_was_produced_is_consumed_and_every_promise_is_kept() {
    let (_broker, bootstrap) = process::broker(&[]);
    let folder = Folder::new("kept");
    let (produced, consumed) = (folder.file("produced"), folder.file("consumed"));
    for (mode, run_name) in [("idempotent", "a"), ("atleast", "b")] {
        let (code, said, error) = run(&[
            "audit",
            "produce",
            "-b",
            &bootstrap,
            "--topics",
            "t1:3,t2:2",
            "-n",
            "5001",
            "--mode",
            mode,
            "--run",
            run_name,
            "--producers",
            "2",
            "--out",
            &produced,
            "--json",
        ]);
        assert_eq!(
            (code, &said["ok"], &said["fail"], &said["unknown"]),
            (0, &json!(5001), &json!(0), &json!(0)),
            "{error}"
        );
        let told = parsed(&lines(&produced));
        let header = json!({"run": run_name, "mode": mode, "partitioner": "java", "topics": {"t1": 3, "t2": 2}});
        assert_eq!((told.len(), &told[0]), (5002, &header));
        // Producer and sequence name each record once; keys, given partitions and free ones all occur.
        let mut seen = BTreeMap::new();
        for line in &told[1..] {
            let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, ["p", "s", "t", "k", "x", "o", "part", "off"]);
            assert!(seen.insert((line["p"].as_u64().unwrap(), line["s"].as_u64().unwrap()), line).is_none());
        }
        assert!((0..2501).all(|seq| seen.contains_key(&(0, seq))) && (0..2500).all(|seq| seen.contains_key(&(1, seq))));
        assert!(told.iter().any(|line| line["k"].is_string()) && told.iter().any(|line| line["k"].is_null()));
        let (code, said, error) =
            run(&["audit", "consume", "-b", &bootstrap, "--topics", "t1,t2", "-e", "--out", &consumed, "--json"]);
        assert_eq!((code, &said["bad"]), (0, &json!(0)), "{error}");
        let delivered = parsed(&lines(&consumed));
        let fields: Vec<&str> = delivered[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["r", "c", "e", "t", "part", "off", "p", "s"]);
        let (code, said, error) = run(&[
            "audit",
            "check",
            "-b",
            &bootstrap,
            "--produced",
            &produced,
            "--consumed",
            &consumed,
            "--records",
            "5001",
            "--all-ok",
            "--json",
        ]);
        assert_eq!((code, &said["broken"]), (0, &json!([])), "{error}");
        for view in ["topics", "consumed"] {
            assert_eq!(said["views"][view]["records"], 5001, "{said}");
        }
        // The first run's records are still there when the second one is judged.
        assert_eq!(said["views"]["topics"]["other_runs"], if run_name == "a" { 0 } else { 5001 });
    }
    // Only some partitions: the rest is lost to that consumer, and the table says so.
    let args =
        ["audit", "consume", "-b", &bootstrap, "--assign", "t1:0,t2:1", "--seconds", "60", "-e", "--out", &consumed];
    assert_eq!(run(&args).0, 0);
    let parts: Vec<(Value, Value)> =
        parsed(&lines(&consumed)).into_iter().map(|line| (line["t"].clone(), line["part"].clone())).collect();
    assert!(parts.iter().all(|part| *part == (json!("t1"), json!(0)) || *part == (json!("t2"), json!(1))));
    let output = ottla(&["audit", "check", "--produced", &produced, "--consumed", &consumed]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    let lost = table.lines().find(|line| line.contains(" lost ")).unwrap();
    assert!(lost.contains("BROKEN") && table.contains("lost: producer"), "{table}");
}

/// Files of a small run as they should be: one topic of two partitions, ten records of one producer, even sequences in
/// partition 0.
fn good() -> (Vec<String>, Vec<String>) {
    let mut produced =
        vec![json!({"run": "r", "mode": "idempotent", "partitioner": "java", "topics": {"t": 2}}).to_string()];
    let mut consumed = Vec::new();
    for seq in 0..10 {
        let (part, off) = (seq % 2, seq / 2);
        produced.push(
            json!({"p": 0, "s": seq, "t": "t", "k": null, "x": null, "o": "ok", "part": part, "off": off}).to_string(),
        );
        consumed
            .push(json!({"r": "r", "c": 0, "e": 0, "t": "t", "part": part, "off": off, "p": 0, "s": seq}).to_string());
    }
    (produced, consumed)
}

/// What the check says is broken: names and counts of the consumed files' view, and of the produce file.
fn check(folder: &Folder, produced: &[String], consumed: &[String]) -> (i32, BTreeMap<String, u64>) {
    let (produced, consumed) = (folder.write("produced", produced), folder.write("consumed", consumed));
    let (code, said, error) = run(&["audit", "check", "--produced", &produced, "--consumed", &consumed, "--json"]);
    assert!(said.is_object(), "{error}");
    let mut counts = BTreeMap::new();
    for (name, count) in said["views"]["consumed"].as_object().unwrap() {
        counts.insert(name.clone(), count.as_u64().unwrap());
    }
    for name in ["untold", "twice"] {
        counts.insert(name.to_owned(), said["produced"][name].as_u64().unwrap());
    }
    let informal = ["records", "unknown_present", "again", "other_runs"];
    counts.retain(|name, count| *count > 0 && !informal.contains(&name.as_str()));
    (code, counts)
}

#[test]
fn every_planted_violation_is_found() {
    type Change = fn(&mut Vec<String>, &mut Vec<String>);
    type Plant<'a> = (&'a str, Change, &'a [(&'a str, u64)]);
    let folder = Folder::new("plants");
    let (produced, consumed) = good();
    assert_eq!(check(&folder, &produced, &consumed), (0, BTreeMap::new()));
    let plants: [Plant<'_>; 15] = [
        ("a delivered line dropped", |_, c| drop(c.remove(4)), &[("lost", 1)]),
        ("a delivered line doubled", |_, c| c.insert(5, c[4].clone()), &[("duplicated", 1)]),
        ("a record at two offsets", |_, c| c.push(c[9].replace("\"off\":4", "\"off\":5")), &[("duplicated", 1)]),
        ("two delivered lines swapped", |_, c| c.swap(4, 6), &[("reordered", 1)]),
        ("a bad checksum", |_, c| c[3] = bad(&c[3], "checksum"), &[("corrupt", 1), ("lost", 1)]),
        ("not in the partition asked for", |_, c| c[3] = bad(&c[3], "partition"), &[("lost", 1), ("misplaced", 1)]),
        (
            "a record in another topic",
            |_, c| c[3] = c[3].replace("\"t\":\"t\"", "\"t\":\"u\""),
            &[("corrupt", 1), ("lost", 1)],
        ),
        // murmur2("k1") is odd and murmur2("k0") too: both belong to one partition of two.
        ("a key elsewhere", |p, _| keyed(p), &[("misplaced", 1)]),
        ("fail, yet there", |p, _| p[4] = p[4].replace("\"ok\"", "\"fail\""), &[("fail_present", 1)]),
        ("another offset than told", |p, _| p[4] = p[4].replace("\"off\":1", "\"off\":2"), &[("elsewhere", 1)]),
        ("another partition than told", |p, _| p[4] = p[4].replace("\"part\":1", "\"part\":0"), &[("elsewhere", 1)]),
        ("no outcome", |p, _| drop(p.remove(4)), &[("unlisted", 1), ("untold", 1)]),
        ("no outcome of the last one", |p, _| drop(p.remove(10)), &[("unlisted", 1)]),
        ("two outcomes", |p, _| p.push(p[4].clone()), &[("twice", 1)]),
        ("all delivered lines dropped", |_, c| c.clear(), &[("lost", 10)]),
    ];
    for (name, change, wanted) in plants {
        let (mut produced, mut consumed) = (produced.clone(), consumed.clone());
        change(&mut produced, &mut consumed);
        let wanted = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(check(&folder, &produced, &consumed), (3, wanted), "{name}");
    }
}

fn bad(line: &str, fault: &str) -> String {
    let mut line: Value = serde_json::from_str(line).unwrap();
    for field in ["r", "p", "s"] {
        line[field] = Value::Null;
    }
    line["bad"] = fault.into();
    line.to_string()
}

/// Gives the neighbours 0 and 1, which are in different partitions, one key: one of them is wrong there.
fn keyed(produced: &mut [String]) {
    for line in &mut produced[1..=2] {
        *line = line.replace("\"k\":null", "\"k\":\"k1\"");
    }
}

#[test]
fn what_no_promise_forbids_is_counted_and_passes() {
    let folder = Folder::new("allowed");
    let (produced, consumed) = good();
    let (mut told, mut seen) = (produced.clone(), consumed.clone());
    // Unknown and there, unknown and not there.
    told[1] = told[1].replace("\"ok\"", "\"unknown\"").replace("\"off\":0", "\"off\":null");
    told[10] = told[10].replace("\"ok\"", "\"unknown\"").replace("\"off\":4", "\"off\":null");
    seen.pop();
    // Delivered again under another assignment; somebody else's record; a commit; a line that a killed program left.
    seen.push(seen[2].replace("\"e\":0", "\"e\":1"));
    seen.push(seen[2].replace("\"r\":\"r\"", "\"r\":\"q\""));
    seen.push(json!({"r": "r", "c": 0, "commit": true, "t": "t", "part": 0, "off": 3}).to_string());
    assert_eq!(check(&folder, &told, &seen), (0, BTreeMap::new()));
    let path = folder.write("torn", &seen);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"r\":\"r").unwrap();
    let args = ["audit", "check", "--produced", &folder.file("produced"), "--consumed", &path, "--json"];
    let (code, said, error) = run(&args);
    assert_eq!(code, 0, "{error}");
    let view = &said["views"]["consumed"];
    assert_eq!((&view["unknown_present"], &view["again"], &view["other_runs"]), (&json!(1), &json!(1), &json!(1)));
    // Told to be strict, the two unknown ones are a broken promise; so is a wrong number of records.
    for strict in [&["--all-ok"][..], &["--records", "9"]] {
        assert_eq!(run(&[&args[..], strict].concat()).0, 3, "{strict:?}");
    }
    // At least once: a record may be there twice and late, but not be missing.
    let (mut told, mut seen) = (produced, consumed);
    told[0] = told[0].replace("idempotent", "atleast");
    seen.insert(5, seen[4].replace("\"off\":2", "\"off\":7"));
    seen.swap(6, 8);
    let (produced, consumed) = (folder.write("produced", &told), folder.write("consumed", &seen));
    let args = ["audit", "check", "--produced", &produced, "--consumed", &consumed, "--json"];
    let (code, said, _) = run(&args);
    let view = &said["views"]["consumed"];
    assert_eq!((code, &view["duplicated"], &view["reordered"]), (0, &json!(1), &json!(1)), "{said}");
    folder.write("consumed", &seen[1..]);
    assert_eq!(run(&args).0, 3);
}

#[test]
fn somebody_elses_dump_is_judged_by_its_values() {
    let folder = Folder::new("dump");
    let produced = folder.write(
        "produced",
        &[
            json!({"run": "r", "mode": "idempotent", "partitioner": "java", "topics": {"t": 2}}).to_string(),
            json!({"p": 0, "s": 0, "t": "t", "k": null, "x": null, "o": "ok", "part": 1, "off": 0}).to_string(),
            json!({"p": 0, "s": 1, "t": "t", "k": "abc", "x": null, "o": "ok", "part": 1, "off": 1}).to_string(),
        ],
    );
    // As kcat -C -J prints; CRC-32C of "123456789" is e3069283; murmur2("abc") is odd.
    let line = |key: Value, partition: i32, offset: i32, payload: &str| {
        json!({"topic": "t", "partition": partition, "offset": offset, "tstype": "create", "ts": 1, "broker": 1,
               "headers": [], "key": key, "payload": payload})
        .to_string()
    };
    let first = line(Value::Null, 1, 0, "HV1 r 0 0 t 1 - - 9 e3069283 123456789");
    let second = line(json!("abc"), 1, 1, "HV1 r 0 1 t -1 abc - 9 e3069283 123456789");
    let cases: [(&str, Vec<String>, &[&str]); 7] = [
        ("as sent", vec![first.clone(), second.clone()], &[]),
        ("payload changed", vec![first.replace("123456789", "123456780"), second.clone()], &["corrupt", "lost"]),
        ("payload cut", vec![first.replace("123456789", "12345678"), second.clone()], &["corrupt", "lost"]),
        ("made for another topic", vec![first.clone(), second.replace("1 t -1", "1 u -1")], &["corrupt", "lost"]),
        ("another key", vec![first.clone(), second.replace("\"abc\"", "\"abd\"")], &["corrupt", "lost"]),
        (
            "asked for 1, in 0",
            vec![first.replace("\"partition\":1", "\"partition\":0"), second.clone()],
            &["misplaced", "lost"],
        ),
        (
            "key of 1 in 0",
            vec![first.clone(), second.replace("\"partition\":1", "\"partition\":0")],
            &["misplaced", "elsewhere"],
        ),
    ];
    for (name, lines, wanted) in cases {
        let dump = folder.write("dump", &lines);
        let (code, said, error) = run(&["audit", "check", "--produced", &produced, "--dump", &dump, "--json"]);
        assert_eq!(code, if wanted.is_empty() { 0 } else { 3 }, "{name}: {error}");
        for promise in
            ["lost", "duplicated", "reordered", "corrupt", "misplaced", "fail_present", "elsewhere", "unlisted"]
        {
            assert_eq!(said["views"]["dump"][promise], u64::from(wanted.contains(&promise)), "{name}: {promise}");
        }
    }
}

#[test]
fn with_no_broker_left_every_record_has_its_outcome_by_its_deadline() {
    let (broker, bootstrap) = process::broker(&[]);
    let folder = Folder::new("gone");
    let produced = folder.file("produced");
    let mut sender = ottla(&[
        "audit",
        "produce",
        "-b",
        &bootstrap,
        "--topics",
        "t1:3,t2:2",
        "-n",
        "1000000",
        "--rate",
        "2000",
        "--run",
        "gone",
        "--exit-with-stdin",
        "--out",
        &produced,
        "-X",
        "delivery.timeout.ms=2000",
        "-X",
        "request.timeout.ms=1000",
        "-X",
        "max.block.ms=500",
        "--json",
    ]);
    let mut sender = sender.stdin(Stdio::piped()).spawn().unwrap();
    // The file is written in pieces: once one is there, records were acknowledged.
    while std::fs::metadata(&produced).map_or(0, |data| data.len()) < 300_000 {
        assert!(sender.try_wait().unwrap().is_none(), "it ended");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    drop(broker);
    // Some more are taken with nobody there.
    std::thread::park_timeout(std::time::Duration::from_millis(500));
    drop(sender.stdin.take());
    let ended = sender.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let count = |name: &str| said[name].as_u64().unwrap();
    assert_eq!(count("ok") + count("fail") + count("unknown"), count("records"));
    assert!(count("ok") > 0 && count("fail") + count("unknown") > 0, "{said}");
    // Generous: a busy machine. The deadline itself is 2 s.
    assert!(count("slowest_loss_ms") < 10_000, "{said}");
    let told = parsed(&lines(&produced));
    assert_eq!(told.len() as u64, 1 + count("records"));
    assert!(told[1..].iter().all(|line| (line["o"] == "ok") == line["part"].is_number()));
}

#[test]
fn what_comes_later_and_what_makes_no_sense_end_with_2() {
    let folder = Folder::new("later");
    let out = folder.file("out");
    let produced = folder
        .write("txn", &[json!({"run": "r", "mode": "txn", "partitioner": "java", "topics": {"t": 2}}).to_string()]);
    let produce = ["audit", "produce", "-b", "localhost:1", "--topics", "t:1", "-n", "1", "--out", &out];
    let consume = ["audit", "consume", "-b", "localhost:1", "--topics", "t", "--seconds", "1", "--out", &out];
    let cases: [(&[&str], &[&str], &str); 8] = [
        (&produce, &["--run", "r", "--mode", "txn"], "later"),
        (&consume, &["--group", "g"], "later"),
        (&consume, &["--group", "g", "--protocol", "share"], "later"),
        (&["audit", "check", "--produced", &produced, "--dump", "-"], &[], "later"),
        (&["audit", "check", "--produced", &produced], &[], "--consumed"),
        (&produce, &["--run", "two words"], "letters"),
        (&produce, &["--run", "r", "--topics", "t:0"], "PARTITIONS"),
        (&["audit", "consume", "-b", "localhost:1", "--seconds", "1", "--out", &out], &[], "--topics"),
    ];
    for (args, more, word) in cases {
        let output = ottla(&[args, more].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

#[test]
fn files_that_are_no_files_of_ours_end_with_1_naming_the_line() {
    let folder = Folder::new("broken");
    let (produced, consumed) = good();
    let empty = folder.write("empty", &[]);
    let headless = folder.write("headless", &produced[1..]);
    let good = folder.write("good", &produced);
    let stray = folder.write("stray", &[consumed[0].clone(), "{\"r\":3".into(), consumed[1].clone()]);
    for (produced, consumed, word) in [
        (&empty, &stray, "empty"),
        (&headless, &stray, "headless:1"),
        (&good, &stray, "stray:2"),
        (&good, &good, "good:1"),
    ] {
        let (code, _, said) = run(&["audit", "check", "--produced", produced, "--consumed", consumed]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(word), "{said}");
    }
}
