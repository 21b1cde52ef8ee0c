//! The program as scripts see it: exit codes, streams, JSON.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn ottla(args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KAFKA_")) {
        command.env_remove(name);
    }
    let mut child = command.envs(env.iter().copied()).spawn().unwrap();
    // A program that ends before it has read everything is not an error here.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", out(output)))
}

#[test]
fn usage_errors_end_with_2_and_words_on_stderr() {
    for args in
        [&["no-such-command"][..], &["consume"], &["bench", "--partitions", "0"], &["consume", "-t", "x", "-o", "soon"]]
    {
        let output = ottla(args, &[], b"");
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{args:?}");
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn the_profiles_in_tuning_are_valid_and_each_key_takes_effect() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
    for profile in ["throughput", "latency", "memory"] {
        let path = folder.join(format!("{profile}.toml")).display().to_string();
        let shown = ottla(&["--config", &path, "--json", "config", "show"], &[], b"");
        assert_eq!(code(&shown), 0, "{profile}: {}", err(&shown));
        let shown = json(&shown);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() >= 5, "{profile}");
        for line in lines {
            let (key, value) = line.split_once(" = ").unwrap();
            let (key, value) = (key.trim_matches('"'), value.trim_matches('"'));
            assert_eq!(shown[key]["value"], value, "{profile}: {key}");
            assert!(shown[key]["source"].as_str().unwrap().contains("toml"), "{profile}: {key}: {}", shown[key]);
        }
    }
}

#[test]
fn unknown_and_ill_typed_keys_end_with_2_naming_key_value_and_source() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], [&'a str; 3]);
    let cases: [Case<'_>; 3] = [
        (&["-X", "lingr.ms=4", "config", "show"], &[], ["lingr.ms", "4", "-X"]),
        (&["config", "show"], &[("KAFKA_SETTING_LINGER_MS", "soon")], ["linger.ms", "soon", "KAFKA_SETTING_LINGER_MS"]),
        (&["-X", "acks=2", "config", "show"], &[], ["acks", "2", "all, -1, 1, 0"]),
    ];
    for (args, env, words) in cases {
        let output = ottla(args, env, b"");
        assert_eq!(code(&output), 2, "{args:?}");
        for word in words {
            assert!(err(&output).contains(word), "{word} is not in {}", err(&output));
        }
    }
}

#[test]
fn m2_secrets_never_appear() {
    for text in ["sasl.password=hunter2", "sasl.pasword=hunter2"] {
        let output = ottla(&["-X", text, "config", "show"], &[], b"");
        assert_eq!(code(&output), 2);
        assert!(!format!("{}{}", out(&output), err(&output)).contains("hunter2"));
    }
}

#[test]
fn settings_come_from_file_environment_and_options_in_that_order() {
    let folder = std::env::temp_dir().join(format!("ottla-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("client.yml");
    std::fs::write(&file, "settings:\n  linger.ms: \"1\"\n  batch.size: \"2048\"\n  acks: \"1\"\n").unwrap();
    let args = ["--config", file.to_str().unwrap(), "-X", "acks=0", "config", "show", "--json"];
    let output = ottla(&args, &[("KAFKA_SETTING_LINGER_MS", "2"), ("KAFKA_SETTING_ACKS", "all")], b"");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let shown = json(&output);
    assert_eq!(shown["batch.size"]["value"], "2048");
    assert_eq!(shown["linger.ms"]["value"], "2");
    assert_eq!(shown["acks"]["value"], "0");
    assert_eq!(shown["acks"]["source"], "option -X");
}

#[test]
fn config_list_and_explain_know_every_key_and_alias() {
    let list = json(&ottla(&["config", "list", "--json"], &[], b""));
    let keys = list.as_array().unwrap();
    assert!(keys.len() > 40);
    for key in keys {
        let explained = ottla(&["config", "explain", key["name"].as_str().unwrap(), "--json"], &[], b"");
        assert_eq!(json(&explained)["what"], key["what"]);
    }
    let alias = ottla(&["config", "explain", "queue.buffering.max.ms"], &[], b"");
    assert!(out(&alias).starts_with("linger.ms"), "{}", out(&alias));
    assert_eq!(code(&ottla(&["config", "explain", "nothing.of.the.kind"], &[], b"")), 2);
}

#[test]
fn doctor_reports_the_backend_memory_and_processors() {
    let output = ottla(&["doctor", "--json"], &[], b"");
    let report = json(&output);
    let checks: Vec<&str> = report["checks"].as_array().unwrap().iter().map(|c| c["check"].as_str().unwrap()).collect();
    for wanted in ["io backend", "locked memory", "processors"] {
        assert!(checks.contains(&wanted), "{checks:?}");
    }
    assert_eq!(code(&ottla(&["-X", "cpu.affinity=1000", "doctor"], &[], b"")), 3);
}

#[test]
fn wire_decode_prints_fields_and_the_same_bytes() {
    // ApiVersions request v3: software name "a", version "1", no tags.
    let lines = b"{\"key\":18,\"version\":3,\"kind\":\"request\",\"hex\":\"0261023100\"}\n{\"key\":18,\"version\":3,\"kind\":\"request\",\"hex\":\"02\"}\n";
    let output = ottla(&["wire", "decode"], &[], lines);
    let printed: Vec<serde_json::Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed[0]["json"]["clientSoftwareName"], "a");
    assert_eq!(printed[0]["hex"], "0261023100");
    assert!(printed[1]["error"].is_string());
}

#[test]
fn batch_dump_prints_records_and_ends_with_3_on_damage() {
    use ottla::base::chunk::ChunkPool;
    use ottla::batch::{BatchBuilder, BatchSettings, Codecs, Stamp, encode_body};
    let pool = ChunkPool::new(1 << 20);
    let codecs = Codecs::default();
    let mut builder = BatchBuilder::new(&BatchSettings::default(), &pool, &codecs).unwrap();
    let mut body = Vec::new();
    encode_body(Some(b"k"), Some(b"v"), [("h", None)].into_iter(), &mut body);
    assert!(matches!(builder.append(1_700_000_000_000, &body), ottla::batch::Append::Stored));
    let sealed = builder.seal(Stamp::NONE);
    let bytes: Vec<u8> = sealed.pieces().flat_map(|piece| piece.bytes().to_vec()).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = format!("{{\"hex\":\"{}\"}}\n", hex(&bytes));
    let output = ottla(&["batch", "dump", "--json"], &[], line.as_bytes());
    assert_eq!(code(&output), 0, "{}", err(&output));
    let batch = json(&output);
    assert_eq!((&batch["crc_ok"], &batch["count"]), (&true.into(), &1.into()));
    assert_eq!(batch["records"][0]["value"], "v");
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let output = ottla(&["batch", "dump", "--json"], &[], format!("{{\"hex\":\"{}\"}}\n", hex(&damaged)).as_bytes());
    assert_eq!((code(&output), &json(&output)["crc_ok"]), (3, &false.into()));
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["config", "list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[test]
fn the_proxy_delays_each_way_and_ends_with_its_standard_input() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["proxy", "--to", &to, "--delay-ms", "30", "--exit-with-stdin", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let mut client = TcpStream::connect(ready["address"].as_str().unwrap()).unwrap();
    let mut behind = server.accept().unwrap().0;
    let start = Instant::now();
    let mut got = [0; 4];
    client.write_all(b"ping").unwrap();
    behind.read_exact(&mut got).unwrap();
    behind.write_all(b"pong").unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"pong");
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(code(&ottla(&["proxy", "--to", "nowhere"], &[], b"")), 2);
}
