//! Messages as Kafka's own Java classes wrote them: `tests/golden`, by `ci/golden/Golden.java`.

use std::io::Read;

use ottla::wire::any::{self, Which};

/// A line of `tests/golden/messages.gz`.
pub struct Golden {
    /// Kafka's name of the message.
    pub name: String,
    pub which: Which,
    pub version: i16,
    pub case: String,
    pub bytes: Vec<u8>,
    json: String,
}

impl Golden {
    pub fn at(&self) -> String {
        format!("{} version {} case {}", self.name, self.version, self.case)
    }

    /// Java's JSON form.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.json).unwrap()
    }
}

/// The text of a file in `tests/golden`.
pub fn unpack(file: &str) -> String {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// Every message, version and case.
pub fn messages() -> Vec<Golden> {
    let line = |line: &str| {
        let parts: Vec<&str> = line.splitn(5, '|').collect();
        let [name, version, case, hex, json] = parts[..] else { panic!("not a golden line: {line}") };
        Golden {
            name: name.to_owned(),
            which: Which::Named(name.to_owned()),
            version: version.parse().unwrap(),
            case: case.to_owned(),
            bytes: any::unhex(hex).unwrap(),
            json: json.to_owned(),
        }
    };
    unpack("messages.gz").lines().map(line).collect()
}
