//! What others' code we take in, as `cargo deny` would judge it from the lock file (its advisory database is a clone that CI
//! machines may not reach: the versions that advisories ask for stand below, by hand): licences, sources, what must not be
//! there, one version of each library that we use ourselves, and what somebody compiles who only uses the library.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Compatible with Apache-2.0, without asking anything of a program's own source.
const LICENCES: [&str; 10] = [
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "Unlicense",
    "Apache-2.0 WITH LLVM-exception",
];

/// Not in any build, with the reason.
const BANNED: [(&str, &str); 9] = [
    ("openssl", "TLS is rustls with aws-lc-rs"),
    ("openssl-sys", "TLS is rustls with aws-lc-rs"),
    ("native-tls", "TLS is rustls with aws-lc-rs"),
    ("ring", "a second cryptography provider"),
    ("rsa", "RUSTSEC-2023-0071, not fixed"),
    ("serde_yml", "unsound"),
    ("serde_yaml", "no longer maintained"),
    ("lz4", "a second lz4"),
    ("lz4-sys", "a second lz4"),
];

/// What advisories say is mended, and since when.
const MENDED: [(&str, [u64; 3], &str); 6] = [
    ("lz4_flex", [0, 12, 1], "RUSTSEC-2026-0041"),
    ("rustls", [0, 23, 45], "RUSTSEC-2026-0285"),
    ("rustls-webpki", [0, 103, 13], "RUSTSEC-2026-0104"),
    ("crossbeam-epoch", [0, 9, 20], "RUSTSEC-2026-0204"),
    ("tracing-subscriber", [0, 3, 20], "RUSTSEC-2025-0055"),
    ("crossbeam-channel", [0, 5, 15], "RUSTSEC-2025-0024"),
];

/// Everything that a user of the library compiles, with the default features. A new line is a decision
/// (`docs/decisions.md`).
const LIBRARY: &str = "bitflags bytes cfg-if crc-fast crossbeam-channel crossbeam-utils crypto-common digest flate2 foldhash \
    generic-array hashbrown io-uring libc linux-raw-sys lz4_flex once_cell ottla pin-project-lite proc-macro2 quote rtrb \
    rustix smallvec snap spin syn thiserror thiserror-impl tracing tracing-core twox-hash typenum unicode-ident zlib-rs \
    zstd zstd-safe zstd-sys";

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every package of the workspace's lock file that Linux builds, for programs, tests and tools alike.
fn packages() -> Vec<Value> {
    let target = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let text =
        cargo(&[&["metadata", "--format-version", "1", "--locked", "--all-features"], target.as_slice()].concat());
    let metadata: Value = serde_json::from_str(&text).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Names of what `cargo tree` shows for the library alone.
fn tree(more: &[&str]) -> BTreeSet<String> {
    let text = cargo(&[&["tree", "-p", "ottla", "--prefix", "none", "--locked"], more].concat());
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Whether a licence expression can be met: `OR` (or an old `/`) offers, `AND` demands.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let plain = |text: &str| text.replace(['(', ')'], "").split_whitespace().collect::<Vec<_>>().join(" ");
    // In what is around, AND joins groups in brackets and alternatives stand inside of them.
    let demands = match expression.contains(") AND ") || expression.contains(" AND (") {
        true => expression.split(" AND ").map(str::to_owned).collect(),
        false => vec![expression],
    };
    let met = |licence: &str| licence.split(" AND ").all(|part| LICENCES.contains(&plain(part).as_str()));
    demands.iter().all(|demand| demand.split(" OR ").any(met))
}

#[test]
fn licences_and_sources_are_ones_that_we_may_use() {
    let packages = packages();
    assert!(packages.len() > 100);
    for package in &packages {
        let name = format!("{} {}", package["name"], package["version"]);
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(allowed(licence), "{name}: licence {licence:?}");
        let source = package["source"].as_str();
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        assert!(source.is_none_or(|source| source == registry), "{name} comes from {source:?}");
    }
    assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0") && allowed("GPL-3.0 OR MIT") && allowed("MIT/Apache-2.0"));
    assert!(!allowed("GPL-3.0") && !allowed("MIT AND GPL-3.0") && !allowed("(MIT OR ISC) AND GPL-2.0") && !allowed(""));
}

#[test]
fn nothing_banned_and_nothing_with_a_known_hole_is_there() {
    let all = packages();
    let found = all.iter().map(|package| (package["name"].as_str().unwrap(), package["version"].as_str().unwrap()));
    for (name, version) in found {
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            panic!("{name} {version} is banned: {why}");
        }
        if let Some((_, since, advisory)) = MENDED.iter().find(|(mended, ..)| *mended == name) {
            let parts: Vec<u64> = version.split(['.', '-', '+']).take(3).map_while(|part| part.parse().ok()).collect();
            assert!(parts.as_slice() >= since.as_slice(), "{name} {version}: {advisory} is mended in {since:?}");
        }
    }
}

#[test]
fn there_is_one_version_of_each_library_that_we_use_ourselves() {
    let all = packages();
    let ottla = all.iter().find(|package| package["name"] == "ottla").unwrap();
    let ours: BTreeSet<&str> = ottla["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        // What only tests need may have been taken in twice by tests' own dependencies.
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    assert!(ours.contains("io-uring") && !ours.contains("proptest"));
    // In what a program of ours is made of; tests and tools may bring older ones.
    let text = cargo(&["tree", "-p", "ottla", "--all-features", "-e", "normal", "--prefix", "none", "--locked"]);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        let [name, version, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        versions.entry(name).or_default().insert(version);
    }
    for name in ours.iter().filter(|name| **name != "loom") {
        assert_eq!(versions.get(name).map(BTreeSet::len), Some(1), "{name}: {:?}", versions.get(name));
    }
}

#[test]
fn who_uses_the_library_compiles_nothing_of_the_program_the_test_broker_or_the_tests() {
    let library: BTreeSet<String> = LIBRARY.split_whitespace().map(str::to_owned).collect();
    assert_eq!(tree(&["-e", "normal"]), library);
    // The test broker needs nothing more; the program does.
    assert_eq!(tree(&["-e", "normal", "--features", "testkit"]), library);
    assert!(tree(&["-e", "normal", "--features", "cli"]).contains("clap"));
}

#[test]
fn without_zstd_no_c_compiler_is_needed() {
    let features = ["-e", "normal,build", "--no-default-features", "--features", "lz4,snappy,gzip"];
    let without = tree(&features);
    assert!(without.contains("lz4_flex") && !without.contains("cc"), "{without:?}");
    assert!(without.iter().all(|name| !name.ends_with("-sys") || name == "linux-raw-sys"), "{without:?}");
    assert!(tree(&["-e", "normal,build"]).contains("cc"), "zstd does need one");
}
