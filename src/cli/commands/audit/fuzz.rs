//! Hostile bytes for what an audit reads: values of records, its own files, and other people's dumps. (Beside the code,
//! because the program's rooms are not public.)

use std::path::PathBuf;

use bolero::check;

use super::check::{from_consumed, from_dumps};
use super::fuzz_support::{Recipe, iterations};
use super::ledger::Ledger;
use super::value::Value;
use crate::cli::output::Output;

/// A file of its own, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ottla-fuzz-audit-{}-{name}", std::process::id())))
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        std::fs::write(&self.0, bytes).unwrap();
        self.0.clone()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn value(seq: u64, partition: Option<i32>, key: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Value { run: "r", producer: 3, seq, topic: "t1", partition, key, txn: None, payload }.write(&mut out);
    out
}

#[test]
fn fuzz_values() {
    let corpus = [
        value(0, None, None, b""),
        value(7, Some(2), None, b"some payload"),
        value(u64::MAX, None, Some("k17"), b"x y"),
    ];
    check!().with_iterations(iterations(20_000)).with_type::<Recipe>().for_each(|recipe| {
        let input = recipe.cook(&corpus);
        let read = Value::parse(&input);
        assert!(!recipe.is_plain() || read.is_ok());
        if let Ok(said) = read {
            assert!(input.ends_with(said.payload));
            let mut again = Vec::new();
            said.write(&mut again);
            assert_eq!(Value::parse(&again), Ok(said));
        }
        let _ = Value::of_record("t1", 2, Some(b"k17"), Some(&input));
    });
}

const PRODUCED: [&str; 2] = [
    concat!(
        "{\"run\":\"r\",\"mode\":\"idempotent\",\"partitioner\":\"java\",\"topics\":{\"t1\":3,\"t2\":2}}\n",
        "{\"p\":0,\"s\":0,\"t\":\"t1\",\"k\":\"k1\",\"o\":\"ok\",\"part\":1,\"off\":0}\n",
        "{\"p\":0,\"s\":1,\"t\":\"t2\",\"o\":\"fail\"}\n{\"p\":4,\"s\":0,\"t\":\"t1\",\"o\":\"unknown\"}\n",
        "{\"p\":0,\"s\":18446744073709551615,\"t\":\"t1\",\"o\":\"ok\",\"part\":2,\"off\":9223372036854775807}\n",
        "{\"x\":\"a\",\"o\":\"committed\"}\n"
    ),
    concat!(
        "{\"run\":\"r\",\"mode\":\"atleast\",\"topics\":{\"t\\u0031\":1}}\n",
        "{\"p\":4294967295,\"s\":18446744073709551615,\"t\":\"t1\",\"o\":\"ok\",\"part\":0,\"off\":5}\n",
        "{\"p\":4294967295,\"s\":18446744073709551614,\"t\":\"t1\",\"o\":\"ok\"}\n{\"p\":1,\"s\":18446744073709551615,",
        "\"t\":\"t1\",\"o\":\"ok\"}\n{\"p\":1,\"s\":3,\"t\":\"t1\",\"o\":\"ok\"}"
    ),
];

const SEEN: [&str; 3] = [
    concat!(
        "{\"r\":\"r\",\"c\":0,\"e\":0,\"t\":\"t1\",\"part\":1,\"off\":0,\"p\":0,\"s\":0}\n",
        "{\"r\":\"r\",\"c\":\"name\",\"e\":[1,{}],\"t\":\"t1\",\"part\":1,\"off\":0,\"p\":0,\"s\":0}\n",
        "{\"r\":\"r\",\"c\":0,\"commit\":true,\"t\":\"t1\",\"part\":1,\"off\":1}\n"
    ),
    concat!(
        "{\"r\":\"r\",\"c\":0,\"e\":0,\"t\":\"t1\",\"part\":2,\"off\":9223372036854775807,\"p\":0,\"s\":18446744073709551615}\n",
        "{\"r\":\"q\",\"t\":\"t1\",\"part\":-1,\"off\":-1,\"p\":1,\"s\":2}\n{\"t\":\"\\u001b\",\"part\":0,\"off\":1,\"bad\":\"crc\"}\n"
    ),
    concat!(
        "{\"topic\":\"t1\",\"partition\":1,\"offset\":0,\"key\":\"k1\",\"payload\":\"HV1 r 0 0 t1 1 k1 - 1 93ad1061 a\"}\n",
        "{\"topic\":\"t1\",\"partition\":0,\"offset\":1,\"key\":null,\"payload\":null}\n"
    ),
];

#[test]
fn fuzz_files() {
    let output = Output::silent();
    let (told, seen) = (File::new("produced"), File::new("seen"));
    for produced in PRODUCED {
        assert!(Ledger::read(&told.write(produced.as_bytes()), &output).is_ok());
    }
    let ledger = Ledger::read(&told.write(PRODUCED[0].as_bytes()), &output).unwrap();
    assert!(from_consumed(&ledger, &[seen.write(SEEN[0].as_bytes())], &output).is_ok());
    assert!(from_dumps(&ledger, &[seen.write(SEEN[2].as_bytes())], &output).is_ok());
    check!().with_iterations(iterations(600)).with_type::<(Recipe, Recipe)>().for_each(|(first, second)| {
        let Ok(ledger) = Ledger::read(&told.write(&first.cook(&PRODUCED)), &output) else { return };
        assert!(ledger.ok + ledger.fail + ledger.unknown == ledger.records && ledger.examples.len() <= 10);
        let paths = [seen.write(&second.cook(&SEEN))];
        let both = [from_consumed(&ledger, &paths, &output), from_dumps(&ledger, &paths, &output)];
        for found in both.into_iter().flatten() {
            assert!(found.lost <= ledger.ok && found.examples.len() <= 10);
        }
    });
}
