//! What a user of the program sees when something else than a broker answers: one error that says who, what, what to try and
//! which setting ended the wait; one warning while it waits, none with `-q`; few tries; exit code 1.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

mod ring_support;
#[path = "common/stranger.rs"]
mod stranger;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stranger::{Stranger, handshake_or};

/// The defaults are a minute and two.
const BOUNDS: [&str; 4] = [
    "default.api.timeout.ms=2500",
    "delivery.timeout.ms=2500",
    "request.timeout.ms=2000",
    "socket.connection.setup.timeout.ms=500",
];

/// The lines on standard error of a program that must fail without a word on standard output.
fn fails(address: SocketAddr, args: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.args(args).args(["-b", &address.to_string(), "-X", "linger.ms=0"]);
    for bound in BOUNDS {
        command.args(["-X", bound]);
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KAFKA_")) {
        command.env_remove(name);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Only `produce` reads it.
    let _ = child.stdin.take().unwrap().write_all(b"hello\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}");
    String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect()
}

/// Four commands at a time. Says how long the slowest took.
fn judge(address: SocketAddr, words: [&str; 2]) -> Duration {
    let commands = [
        (&["produce", "-t", "x"][..], "delivery.timeout.ms"),
        (&["consume", "-t", "x"], "default.api.timeout.ms"),
        (&["topics", "list"], "default.api.timeout.ms"),
        (&["-q", "topics", "describe", "x"], "default.api.timeout.ms"),
    ];
    let start = Instant::now();
    let said = std::thread::scope(|scope| {
        let running: Vec<_> = commands.iter().map(|(args, _)| scope.spawn(|| fails(address, args))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let took = start.elapsed();
    // A minute would be the default; nothing here depends on how busy the machine is.
    assert!(took < Duration::from_secs(40), "{took:?}");
    for ((args, setting), said) in commands.into_iter().zip(said) {
        let (errors, others): (Vec<_>, Vec<_>) = said.iter().partition(|line| line.starts_with("ottla: "));
        assert_eq!(errors.len(), 1, "{args:?}: {said:#?}");
        let address = address.to_string();
        for word in [address.as_str(), words[0], words[1], setting] {
            assert!(errors[0].contains(word), "{args:?}: {:?} lacks {word:?}", errors[0]);
        }
        let warnings = usize::from(!args.contains(&"-q"));
        assert_eq!(others.len(), warnings, "{args:?}: {said:#?}");
        for line in others {
            for word in ["warning: ", address.as_str(), words[0], words[1]] {
                assert!(line.contains(word), "{args:?}: {line:?} lacks {word:?}");
            }
        }
    }
    took
}

fn judge_stranger(answer: fn(&[u8]) -> Vec<u8>, words: [&str; 2]) {
    let stranger = Stranger::new(answer);
    let took = judge(stranger.address, words);
    let (tries, most) = (stranger.accepted(), 4 * 20 * took.as_secs().max(1));
    assert!((4..=most).contains(&tries), "{tries} tries of four programs in {took:?}");
}

#[test]
fn d4_77_a_refused_port() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    judge(address, ["refused", "check bootstrap.servers"]);
}

#[test]
fn d4_77_a_black_hole() {
    let (_full, address) = ring_support::spill_listener();
    judge(address, ["set-up timeout (connecting)", "firewall"]);
}

#[test]
fn d4_77_a_listener_that_never_accepts() {
    let (_listener, address) = ring_support::listen("127.0.0.1");
    judge(address, ["set-up timeout (handshake)", "that Kafka runs there"]);
}

#[test]
fn d4_77_an_http_server() {
    judge_stranger(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), ["answers HTTP", "port"]);
}

#[test]
fn d4_77_a_tls_server() {
    judge_stranger(|_| vec![0x15, 3, 3, 0, 2, 2, 70], ["expects TLS", "security.protocol=SSL"]);
}

#[test]
fn d4_85_an_oversized_frame() {
    judge_stranger(
        |bytes| handshake_or(bytes, &[0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1]),
        ["frame of 2147483647 bytes", "receive.message.max.bytes"],
    );
}
