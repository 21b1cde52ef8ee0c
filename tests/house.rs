//! The rules of the house, checked on every source file. Each rule is a function over (path, text), and each has a test
//! that plants a violation and demands that the rule fires. `docs/ARCHITECTURE.md` tells why the floors are as they are.

#[path = "common/source.rs"]
#[allow(dead_code)]
mod source;

use std::collections::BTreeSet;

use source::{Source, code_only, line_of, sources, test_modules, without_tests, words};

/// Every room and the rooms it may look at. A room not listed here doesn't exist.
///
/// Floors from below; within a floor wire is under batch and ring under net, while proto, mesh and ring/net stand
/// beside each other, as do shard and control. testkit stands beside the house: a test broker made from the client's
/// own state machines would be wrong together with them; of the ring it sees the simulated network only.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("telemetry", &["base", "config"]),
    ("wire", &["base", "config", "telemetry"]),
    ("batch", &["base", "config", "telemetry", "wire"]),
    ("proto", &["base", "config", "telemetry", "wire", "batch"]),
    ("ring", &["base", "config", "telemetry", "wire", "batch"]),
    ("net", &["base", "config", "telemetry", "wire", "batch", "ring"]),
    ("mesh", &["base", "config", "telemetry", "wire", "batch"]),
    ("shard", FLOORS_0_TO_2),
    ("control", FLOORS_0_TO_2),
    ("engine", FLOORS_0_TO_3),
    ("producer", FLOORS_0_TO_4),
    ("consumer", FLOORS_0_TO_4),
    ("share", FLOORS_0_TO_4),
    ("admin", FLOORS_0_TO_4),
    ("app", FLOORS_0_TO_5),
    ("cli", CLI),
    ("testkit", &["base", "config", "telemetry", "wire", "batch", "ring"]),
];

const FLOORS_0_TO_2: &[&str] = &["base", "config", "telemetry", "wire", "batch", "proto", "ring", "net", "mesh"];
const FLOORS_0_TO_3: &[&str] =
    &["base", "config", "telemetry", "wire", "batch", "proto", "ring", "net", "mesh", "shard", "control"];
const FLOORS_0_TO_4: &[&str] =
    &["base", "config", "telemetry", "wire", "batch", "proto", "ring", "net", "mesh", "shard", "control", "engine"];
const FLOORS_0_TO_5: &[&str] = &[
    "base",
    "config",
    "telemetry",
    "wire",
    "batch",
    "proto",
    "ring",
    "net",
    "mesh",
    "shard",
    "control",
    "engine",
    "producer",
    "consumer",
    "share",
    "admin",
];
/// The program is a user of everything public, and starts the embedded broker.
const CLI: &[&str] = &[
    "base",
    "config",
    "telemetry",
    "wire",
    "batch",
    "proto",
    "ring",
    "net",
    "mesh",
    "shard",
    "control",
    "engine",
    "producer",
    "consumer",
    "share",
    "admin",
    "app",
    "testkit",
];

/// What testkit may name of the ring besides the simulated one: the seam's plain types, which live in `ring/mod.rs`.
const RING_FOR_TESTKIT_NEVER: &[&str] = &["uring", "epoll", "probe", "AnyBackend", "UringBackend", "EpollBackend"];

/// Longest file, in lines. Generated messages are as long as their schema.
const LINES_MAX: usize = 900;

/// Where threads may hand each other something, start, or wait by other means than `base::sync` and `mesh`, which the
/// simulator puts its weather between (r13): the primitives themselves, the kernel's side, the thread that starts threads, the
/// helper for names (simulations have none), and what is no part of an engine.
const THREADS_OWN: &[&str] = &[
    "src/base/sync.rs",
    "src/mesh/",
    "src/ring/uring/",
    "src/ring/epoll/",
    "src/engine/threads.rs",
    "src/net/resolve.rs",
    "src/testkit/",
    "src/cli/",
    "src/bin/",
];

/// What threads meet by. Atomics and locks are not among them: they hold state, and nobody waits for it there.
const THREADS_MEET_BY: &[&str] =
    &["crossbeam_channel", "rtrb", "mpsc", "Condvar", "Barrier", "spawn", "park", "park_timeout", "sleep"];

/// A reason in `expect` shorter than this says nothing.
const REASON_CHARS_MIN: usize = 10;

type Rule = fn(&str, &str) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("rooms_only_look_down", rooms_only_look_down),
    ("unsafe_stays_in_its_rooms", unsafe_stays_in_its_rooms),
    ("no_way_to_give_up", no_way_to_give_up),
    ("rooms_introduce_themselves", rooms_introduce_themselves),
    ("files_stay_short", files_stay_short),
    ("hashers_are_not_seeded_at_random", hashers_are_not_seeded_at_random),
    ("nothing_tells_where_it_was_made", nothing_tells_where_it_was_made),
    ("no_test_is_skipped", no_test_is_skipped),
    ("threads_meet_in_the_mesh", threads_meet_in_the_mesh),
];

// ---------------------------------------------------------------------------------------------- the rules

/// The room of a source path, `None` for the front door (`lib.rs`) and everything outside `src`.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let (room, _) = inside.split_once('/')?;
    Some(room)
}

fn rooms_only_look_down(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room_of(path) else { return Vec::new() };
    if room == "bin" {
        return Vec::new(); // a user of the library
    }
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{path}: there is no room {room}; tests/house.rs lists them")];
    };
    let code = code_only(text);
    let mut out = Vec::new();
    for (offset, seen) in rooms_seen(path, &code) {
        let line = line_of(&code, offset);
        if seen != room && !may.contains(&seen.as_str()) {
            out.push(format!("{path}:{line}: {room} looks at {seen}, which is not below it"));
        }
        if room == "testkit" && seen == "ring" {
            let statement = code[offset..].split(';').next().unwrap_or_default();
            for never in words(statement).filter(|word| RING_FOR_TESTKIT_NEVER.contains(word)) {
                out.push(format!(
                    "{path}:{line}: testkit looks at ring::{never}; only the simulated network is its business"
                ));
            }
        }
    }
    out
}

/// Every first path segment after `crate::`, in groups too, and after `super::` chains that reach the crate's root.
fn rooms_seen(path: &str, code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("crate::") {
        let before = code[..offset].chars().next_back();
        if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
            continue;
        }
        let after = offset + "crate::".len();
        for name in first_segments(&code[after..]) {
            found.push((offset, name));
        }
    }
    // src/room/mod.rs is one below the root, src/room/file.rs two, ...
    let depth = path.trim_start_matches("src/").trim_end_matches("/mod.rs").trim_end_matches(".rs").split('/').count();
    let root_reached = vec!["super::"; depth].concat();
    for (offset, _) in code.match_indices(&root_reached) {
        let after = &code[offset + root_reached.len()..];
        let name = after.trim_start_matches("super::");
        found.extend(
            first_segments(name)
                .into_iter()
                .filter(|name| ROOMS.iter().any(|(room, _)| room == name))
                .map(|name| (offset, name)),
        );
    }
    found
}

fn first_segments(after: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
    };
    if !after.starts_with('{') {
        return vec![identifier(after)]
            .into_iter()
            .filter(|name| name.chars().next().is_some_and(char::is_lowercase))
            .collect();
    }
    let (mut depth, mut names, mut start) = (0, Vec::new(), 1);
    for (at, character) in after.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (character == ',' && depth == 1) || depth == 0 {
            names.push(identifier(&after[start..at]));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| name.chars().next().is_some_and(char::is_lowercase) && name != "self");
    names
}

fn unsafe_stays_in_its_rooms(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || path.starts_with("src/ring/") || path == "src/base/stream.rs" {
        return Vec::new();
    }
    let code = code_only(text);
    lines_with_word(&code, "unsafe")
        .map(|line| format!("{path}:{line}: unsafe outside src/ring and src/base/stream.rs"))
        .collect()
}

fn lines_with_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.lines().enumerate().filter(move |(_, line)| words(line).any(|found| found == word)).map(|(index, _)| index + 1)
}

/// Outside tests: no `unwrap()`, no `expect` or `unreachable!` without a reason, nothing left to do.
fn no_way_to_give_up(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") {
        return Vec::new();
    }
    let code = without_tests(&code_only(text));
    let mut out = Vec::new();
    let mut forbid = |needle: &str, what: &str| {
        for (offset, _) in code.match_indices(needle) {
            out.push(format!("{path}:{}: {what}", line_of(&code, offset)));
        }
    };
    forbid(".unwrap()", "unwrap() outside tests");
    forbid(".unwrap_err()", "unwrap_err() outside tests");
    forbid("todo!", "todo! outside tests");
    forbid("unimplemented!", "unimplemented! outside tests");
    forbid("unreachable!()", "unreachable!() without a reason");
    forbid("panic!()", "panic!() without a reason");
    forbid("dbg!", "dbg!");
    for (offset, _) in code.match_indices(".expect(") {
        let argument = text[offset + ".expect(".len()..].trim_start();
        let reason = argument.strip_prefix('"').and_then(|rest| rest.split('"').next()).unwrap_or_default();
        if reason.chars().count() < REASON_CHARS_MIN {
            out.push(format!("{path}:{}: expect without a reason why it can't fail", line_of(&code, offset)));
        }
    }
    out
}

fn rooms_introduce_themselves(path: &str, text: &str) -> Vec<String> {
    let opens = text.starts_with("//!");
    if path.starts_with("src/") && path.ends_with("/mod.rs") && !opens {
        return vec![format!(
            "{path}:1: a mod.rs opens with //! (what the room is for, what it never does, its invariants)"
        )];
    }
    Vec::new()
}

fn files_stay_short(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if !path.ends_with(".rs") || path.starts_with("src/wire/messages/") || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{path}: {lines} lines, more than {LINES_MAX}: split it by purpose")]
}

/// One seed must mean one run: a hasher that seeds itself changes the order of iteration.
fn hashers_are_not_seeded_at_random(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") {
        return Vec::new();
    }
    let code = without_tests(&code_only(text));
    let mut out = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let found: Vec<&str> = words(line).collect();
        let std_map = line.contains("collections::") && found.iter().any(|word| ["HashMap", "HashSet"].contains(word));
        if (std_map && line.contains("std::"))
            || found.iter().any(|word| ["RandomState", "DefaultHasher"].contains(word))
        {
            out.push(format!(
                "{path}:{}: a randomly seeded hasher; use hashbrown with foldhash's FixedState",
                index + 1
            ));
        }
    }
    out
}

/// No paths of the machine it was made on, no registry hosts.
fn nothing_tells_where_it_was_made(path: &str, text: &str) -> Vec<String> {
    let hosts = [
        ["repo1", "maven.org"],
        ["repo.maven", "apache.org"],
        ["proxy.golang", "org"],
        ["pypi", "org"],
        ["pythonhosted", "org"],
        ["registry.npmjs", "org"],
        ["deb.debian", "org"],
        ["static.crates", "io"],
        ["index.crates", "io"],
    ];
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for [name, domain] in hosts {
            if line.contains(&format!("{name}.{domain}")) {
                out.push(format!("{path}:{}: names a registry host", index + 1));
            }
        }
        for folder in ["work", "root", "home"] {
            let needle = format!("/{folder}/");
            let told = line.match_indices(&needle).any(|(at, _)| {
                line[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|before| !(before.is_alphanumeric() || "._-*}/$)~".contains(before)))
            });
            if told {
                out.push(format!("{path}:{}: a path of the machine it was written on", index + 1));
            }
        }
    }
    out
}

/// Determinism: a queue or a wait that the simulator does not know of would make a run differ from its seed.
fn threads_meet_in_the_mesh(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || THREADS_OWN.iter().any(|own| path.starts_with(own)) {
        return Vec::new();
    }
    let code = without_tests(&code_only(text));
    let mut out = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for word in words(line).filter(|word| THREADS_MEET_BY.contains(word)) {
            // Functions of these names are the standard library's only behind `thread`.
            let function = ["spawn", "park", "park_timeout", "sleep"].contains(&word);
            if !function || line.contains(&format!("thread::{word}")) {
                out.push(format!("{path}:{}: {word}: threads meet through base::sync and mesh only", index + 1));
            }
        }
    }
    out
}

fn no_test_is_skipped(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let code = code_only(text);
    code.match_indices("#[ignore")
        .map(|(offset, _)| format!("{path}:{}: an ignored test", line_of(&code, offset)))
        .collect()
}

// ---------------------------------------------------------------------------------------------- the house

/// A plant that no longer applies proves nothing any more: whoever changes the code under it adjusts the patch.
#[test]
fn every_plant_applies_and_names_a_test() {
    let checked =
        std::process::Command::new("python3").args(["ci/plants", "--check"]).current_dir(source::root()).output();
    let checked = checked.unwrap_or_else(|error| panic!("python3 ci/plants --check: {error}"));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

/// Whole files that only tests compile: `#[cfg(test)] mod name;` in the file that declares them.
fn test_only_files(every: &[Source]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for file in every.iter().filter(|file| file.path.starts_with("src/")) {
        let folder = match file.path.strip_suffix("/mod.rs") {
            Some(folder) => folder.to_owned(),
            None if file.path == "src/lib.rs" => "src".to_owned(),
            None => file.path.trim_end_matches(".rs").to_owned(),
        };
        for module in test_modules(&file.text) {
            // A #[path] counts from the folder of the declaring file, a name from the folder of its children.
            let (one, many) = match module.strip_suffix(".rs") {
                Some(_) => {
                    (format!("{}/{module}", file.path.rsplit_once('/').map_or("", |(folder, _)| folder)), String::new())
                }
                None => (format!("{folder}/{module}.rs"), format!("{folder}/{module}/")),
            };
            let belongs = |path: &str| path == one || (!many.is_empty() && path.starts_with(&many));
            out.extend(every.iter().map(|file| &file.path).filter(|path| belongs(path)).cloned());
        }
    }
    out
}

#[test]
fn files_that_only_tests_compile_are_known() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let every = [
        file(
            "src/a/mod.rs",
            "#[cfg(test)]\nmod tests;\n#[cfg(all(test, not(loom)))]\n#[path = \"x_tests.rs\"]\nmod x;\nmod y;",
        ),
        file("src/a/tests.rs", ""),
        file("src/a/tests/deep.rs", ""),
        file("src/a/x_tests.rs", ""),
        file("src/a/y.rs", "#[cfg(test)]\nmod inner;"),
        file("src/a/y/inner.rs", ""),
    ];
    let found: Vec<String> = test_only_files(&every).into_iter().collect();
    assert_eq!(found, ["src/a/tests.rs", "src/a/tests/deep.rs", "src/a/x_tests.rs", "src/a/y/inner.rs"]);
}

fn kept(path: &str) -> bool {
    let code = path.ends_with(".rs") || path.ends_with(".toml") || path.ends_with(".md");
    let script = path.starts_with("ci/") || path.starts_with(".ci/");
    (code || script) && !path.contains("/target/")
}

#[test]
fn every_file_keeps_the_rules() {
    let every = sources("", kept);
    assert!(every.iter().any(|file| file.path == "src/lib.rs"), "found no sources");
    let tests = test_only_files(&every);
    let mut broken = Vec::new();
    for file in &every {
        for (name, rule) in RULES {
            let test_file = tests.contains(&file.path);
            // Only these two speak about what a user runs.
            if test_file && ["no_way_to_give_up", "hashers_are_not_seeded_at_random"].contains(name) {
                continue;
            }
            // The simulator is shown by what it is for: the tests of testkit run the mesh in it.
            if test_file && *name == "rooms_only_look_down" && file.path.starts_with("src/testkit/") {
                continue;
            }
            broken.extend(rule(&file.path, &file.text).into_iter().map(|violation| format!("{name}: {violation}")));
        }
    }
    assert!(broken.is_empty(), "{} violations:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn floors_have_no_cycles() {
    // Who may look at whom is a strict order: no room may look, directly or through others, at itself.
    for (room, _) in ROOMS {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![*room]);
        while let Some(next) = todo.pop() {
            let (_, may) =
                ROOMS.iter().find(|(name, _)| *name == next).expect("every room that may be looked at is listed");
            for below in *may {
                assert_ne!(below, room, "{room} may look at itself through {next}");
                if seen.insert(*below) {
                    todo.push(below);
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------- planted violations

fn fires(rule: Rule, path: &str, text: &str) {
    assert!(!rule(path, text).is_empty(), "the rule is silent about {path}:\n{text}");
}

fn silent(rule: Rule, path: &str, text: &str) {
    assert_eq!(rule(path, text), Vec::<String>::new(), "{path}:\n{text}");
}

#[test]
fn planted_look_upwards_is_found() {
    let rule = rooms_only_look_down;
    fires(rule, "src/wire/frame.rs", "use crate::batch::Codec;");
    fires(rule, "src/base/ids.rs", "fn f() -> crate::wire::ApiKey { }");
    fires(rule, "src/ring/mod.rs", "use crate::{base::ids, net::Tcp};");
    fires(rule, "src/ring/mod.rs", "use crate::{\n    base::{ids, time},\n    net::Tcp,\n};");
    fires(rule, "src/proto/mod.rs", "use crate::ring::Backend;");
    fires(rule, "src/mesh/mod.rs", "use crate::proto::cluster::Snapshot;");
    fires(rule, "src/net/mod.rs", "use crate::mesh::Sleeper;");
    fires(rule, "src/shard/mod.rs", "use crate::control::Control;");
    fires(rule, "src/control/mod.rs", "pub(in crate::shard) fn f() {}");
    fires(rule, "src/engine/mod.rs", "use crate::producer::Producer;");
    fires(rule, "src/wire/mod.rs", "use super::batch::Codec;");
    fires(rule, "src/wire/frame.rs", "use super::super::batch::Codec;");
    fires(rule, "src/testkit/broker.rs", "use crate::proto::produce::Accumulator;");
    fires(rule, "src/testkit/broker.rs", "use crate::ring::uring::UringBackend;");
    fires(rule, "src/testkit/broker.rs", "use crate::ring::{sim::Net, EpollBackend};");
    fires(rule, "src/attic/mod.rs", "//! A room nobody planned.");
}

#[test]
fn looking_down_is_allowed() {
    let rule = rooms_only_look_down;
    silent(rule, "src/batch/mod.rs", "use crate::{base::ids, wire::Reader};\nuse super::wire::Writer;");
    silent(rule, "src/net/mod.rs", "use crate::ring::Backend;");
    silent(rule, "src/shard/mod.rs", "use crate::{proto::produce, ring::Backend, mesh::lane};");
    silent(rule, "src/testkit/sim.rs", "use crate::ring::sim::Net;\nuse crate::ring::Backend;");
    silent(rule, "src/cli/mod.rs", "use crate::testkit::broker::Broker;");
    silent(rule, "src/base/ids.rs", "// see crate::wire\nconst A: &str = \"crate::wire\"; /* crate::batch */");
    silent(rule, "src/lib.rs", "pub use crate::producer::Producer;");
    silent(rule, "src/proto/produce/retry.rs", "use super::super::produce::Sequence;");
}

#[test]
fn planted_unsafe_is_found() {
    fires(unsafe_stays_in_its_rooms, "src/shard/mod.rs", "fn f() { unsafe { g() } }");
    fires(unsafe_stays_in_its_rooms, "src/base/mod.rs", "unsafe impl Send for A {}");
    silent(unsafe_stays_in_its_rooms, "src/ring/uring/mod.rs", "fn f() { unsafe { g() } }");
    silent(unsafe_stays_in_its_rooms, "src/base/stream.rs", "fn f() { unsafe { g() } }");
    silent(
        unsafe_stays_in_its_rooms,
        "src/shard/mod.rs",
        "// unsafe\nconst A: &str = \"unsafe\";\nfn unsafe_looking() {}",
    );
}

#[test]
fn planted_ways_to_give_up_are_found() {
    let rule = no_way_to_give_up;
    for planted in [
        "fn f() { g().unwrap(); }",
        "fn f() { g().expect(\"ok\"); }",
        "fn f() { g().expect(message); }",
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"later\") }",
        "fn f() { unreachable!() }",
        "fn f() { panic!() }",
        "#[cfg(not(test))]\nfn f() { g().unwrap(); }",
        "#[cfg(test)]\nmod tests { fn a() {} }\nfn f() { g().unwrap(); }",
        "#[cfg(feature = \"test\")]\nfn f() { g().unwrap(); }",
    ] {
        fires(rule, "src/shard/mod.rs", planted);
    }
    silent(rule, "src/shard/mod.rs", "fn f() { g().expect(\"the loop above filled every slot\"); }");
    silent(
        rule,
        "src/shard/mod.rs",
        "/// `x.unwrap()`\nfn f() { g(\".unwrap()\") }\n#[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }",
    );
    silent(
        rule,
        "src/shard/mod.rs",
        "#[cfg(all(test, not(loom)))]\nfn f<'a>(c: char) { if c == '\"' { g().unwrap(); } }",
    );
    silent(rule, "tests/sim_produce.rs", "fn f() { g().unwrap(); }");
}

#[test]
fn planted_silent_room_is_found() {
    fires(rooms_introduce_themselves, "src/net/mod.rs", "pub mod tcp;");
    fires(rooms_introduce_themselves, "src/proto/fetch/mod.rs", "/// Not about the module.\npub mod session;");
    silent(rooms_introduce_themselves, "src/net/mod.rs", "//! Names to addresses.\npub mod tcp;");
    silent(rooms_introduce_themselves, "src/net/tcp.rs", "pub struct Tcp;");
}

#[test]
fn planted_long_file_is_found() {
    let long = "// line\n".repeat(LINES_MAX + 1);
    fires(files_stay_short, "src/net/tcp.rs", &long);
    fires(files_stay_short, "tests/sim_produce.rs", &long);
    silent(files_stay_short, "src/net/tcp.rs", &"// line\n".repeat(LINES_MAX));
    silent(files_stay_short, "src/wire/messages/fetch.rs", &long);
}

#[test]
fn planted_random_hasher_is_found() {
    let rule = hashers_are_not_seeded_at_random;
    fires(rule, "src/proto/mod.rs", "use std::collections::HashMap;");
    fires(rule, "src/proto/mod.rs", "use std::collections::{BTreeMap, HashSet};");
    fires(rule, "src/proto/mod.rs", "let state = RandomState::new();");
    silent(rule, "src/proto/mod.rs", "use hashbrown::HashMap;\nuse std::collections::BTreeMap;");
    silent(rule, "src/proto/mod.rs", "#[cfg(test)]\nmod tests { use std::collections::HashMap; }");
}

#[test]
fn planted_traces_of_a_machine_are_found() {
    let rule = nothing_tells_where_it_was_made;
    fires(rule, "docs/a.md", &format!("see {}work/notes", "/"));
    fires(rule, "ci/test", &format!("cd {}root/x", "/"));
    fires(rule, "ci/test", &["curl repo1", "maven.org"].join("."));
    silent(rule, "ci/test", "\"$dir/work/x\" ../work/y target/root/ src/home/mod.rs");
}

#[test]
fn planted_queue_between_threads_is_found() {
    let rule = threads_meet_in_the_mesh;
    fires(rule, "src/shard/a.rs", "use std::sync::mpsc;");
    fires(rule, "src/producer/a.rs", "fn a() { std::thread::sleep(d) }");
    fires(rule, "src/control/a.rs", "fn a() { let (a, b) = crossbeam_channel::unbounded::<u8>(); }");
    silent(rule, "src/mesh/a.rs", "use rtrb::Producer;");
    silent(rule, "src/shard/a.rs", "use std::sync::Arc; fn a(clock: C) { clock.sleep(d); }");
    silent(rule, "src/shard/a.rs", "#[cfg(test)]\nmod tests {\n    fn a() { std::thread::spawn(|| ()); }\n}");
}

#[test]
fn planted_ignored_test_is_found() {
    fires(no_test_is_skipped, "tests/a.rs", &format!("#[test]\n#[{}]\nfn a() {{}}", "ignore = \"slow\""));
    silent(no_test_is_skipped, "tests/a.rs", "// #[ignore]\n#[test]\nfn a() {}");
}
