//! Batches for human eyes: what `ottla batch dump` prints of a log segment or of bytes.

use std::fmt;

use super::codec::TimestampType;
use super::compress::{Decompressor, UNPACKED_BYTES_MAX, Unpacked};
use super::control::{ControlRecord, Marker};
use super::reader::{BatchView, PartialBatch, RecordSet};

/// One thing found in the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dumped {
    /// A whole batch, good or bad.
    Batch(DumpedBatch),
    /// Bytes that cannot be a batch; nothing behind them is read.
    Bad {
        /// Where in the bytes.
        position: usize,
        /// What is wrong.
        error: String,
    },
    /// The bytes end inside a batch.
    Partial {
        /// Where in the bytes.
        position: usize,
        /// What is there of it.
        partial: PartialBatch,
    },
}

/// A batch, decoded as far as it can be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpedBatch {
    /// Where in the bytes.
    pub position: usize,
    /// Bytes on the wire.
    pub size: usize,
    /// First offset (of the header; for v0/v1 of the first record).
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Records, as the header says; as found for v0/v1.
    pub count: i32,
    /// Format version.
    pub magic: i8,
    /// The codec's name, or its number when Kafka has none.
    pub codec: String,
    /// Who set the timestamps.
    pub timestamp_type: TimestampType,
    /// The header's base timestamp; -1 for v0/v1.
    pub base_timestamp: i64,
    /// The header's max timestamp; -1 for v0/v1.
    pub max_timestamp: i64,
    /// -1 without idempotence.
    pub producer_id: i64,
    /// -1 without idempotence.
    pub producer_epoch: i16,
    /// -1 without idempotence.
    pub base_sequence: i32,
    /// Epoch of the leader that appended it; -1 for v0/v1.
    pub partition_leader_epoch: i32,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it holds control records.
    pub control: bool,
    /// The CRC in the batch.
    pub crc: u32,
    /// Whether that is the CRC over its bytes.
    pub crc_ok: bool,
    /// The records that could be read.
    pub records: Vec<DumpedRecord>,
    /// Why not all of them could.
    pub error: Option<String>,
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DumpedRecord {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What a control record says.
    pub control: Option<ControlRecord>,
}

/// Walks `bytes` batch by batch.
pub fn dump(bytes: &[u8]) -> Dump<'_> {
    Dump {
        bytes,
        set: RecordSet::new(bytes),
        position: 0,
        decompressor: Decompressor::new(UNPACKED_BYTES_MAX),
        unpacked: Unpacked::new(),
        done: false,
    }
}

/// See [`dump`].
#[derive(Debug)]
pub struct Dump<'a> {
    bytes: &'a [u8],
    set: RecordSet<'a>,
    position: usize,
    decompressor: Decompressor,
    unpacked: Unpacked,
    done: bool,
}

impl Iterator for Dump<'_> {
    type Item = Dumped;

    fn next(&mut self) -> Option<Dumped> {
        if self.done {
            return None;
        }
        let position = self.position;
        match self.set.next() {
            Some(Ok(view)) => {
                self.position += view.bytes().len();
                Some(Dumped::Batch(self.batch(position, &view)))
            }
            Some(Err(bad)) => {
                self.done = true;
                Some(Dumped::Bad { position, error: bad.to_string() })
            }
            None => {
                self.done = true;
                let partial = self.set.partial()?;
                // Segments are preallocated: zeros to the end are no batch that was cut off.
                if self.bytes[position..].iter().all(|byte| *byte == 0) {
                    return None;
                }
                Some(Dumped::Partial { position, partial })
            }
        }
    }
}

impl Dump<'_> {
    fn batch(&mut self, position: usize, view: &BatchView<'_>) -> DumpedBatch {
        let header = view.header().copied().unwrap_or_default();
        let legacy = view.header().is_none();
        let (stored, computed) = view.crcs();
        let codec = match view.codec() {
            Ok(codec) => codec.name().to_owned(),
            Err(_) => (header.attributes & 7).to_string(),
        };
        let (records, error) = self.records(view);
        DumpedBatch {
            position,
            size: view.bytes().len(),
            base_offset: match records.first() {
                Some(first) if legacy => first.offset,
                _ => view.base_offset(),
            },
            last_offset: view.last_offset(),
            count: view.count().unwrap_or(records.len() as i32),
            magic: view.magic(),
            codec,
            timestamp_type: view.timestamp_type(),
            base_timestamp: if legacy { -1 } else { header.base_timestamp },
            max_timestamp: if legacy { -1 } else { header.max_timestamp },
            producer_id: view.producer_id(),
            producer_epoch: if legacy { -1 } else { header.producer_epoch },
            base_sequence: if legacy { -1 } else { header.base_sequence },
            partition_leader_epoch: if legacy { -1 } else { header.partition_leader_epoch },
            transactional: view.is_transactional(),
            control: view.is_control(),
            crc: stored,
            crc_ok: stored == computed,
            records,
            error,
        }
    }

    fn records(&mut self, view: &BatchView<'_>) -> (Vec<DumpedRecord>, Option<String>) {
        let mut found = Vec::new();
        let records = match view.records(&mut self.decompressor, &mut self.unpacked) {
            Ok(records) => records,
            Err(bad) => return (found, Some(bad.fault.to_string())),
        };
        for record in records {
            let record = match record {
                Ok(record) => record,
                Err(bad) => return (found, Some(bad.to_string())),
            };
            let mut headers = Vec::new();
            for header in record.headers() {
                match header {
                    Ok(header) => headers.push((header.key.to_vec(), header.value.map(<[u8]>::to_vec))),
                    Err(bad) => return (found, Some(bad.to_string())),
                }
            }
            found.push(DumpedRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key().map(<[u8]>::to_vec),
                value: record.value().map(<[u8]>::to_vec),
                headers,
                control: if view.is_control() { ControlRecord::read(&record) } else { None },
            });
        }
        (found, None)
    }
}

/// Bytes as text, or as hex when they are none.
struct Shown<'a>(Option<&'a [u8]>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("null") };
        match std::str::from_utf8(bytes) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "0x{}", hex(bytes)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn control_name(record: ControlRecord) -> String {
    match record {
        ControlRecord::End { marker: Marker::Commit, .. } => "commit".to_owned(),
        ControlRecord::End { marker: Marker::Abort, .. } => "abort".to_owned(),
        ControlRecord::Other { kind } => format!("type {kind}"),
    }
}

impl fmt::Display for Dumped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => batch.fmt(f),
            Self::Bad { position, error } => write!(f, "position {position}: {error}"),
            Self::Partial { position, partial } => {
                write!(f, "position {position}: cut off: {} bytes", partial.have)?;
                match partial.want {
                    Some(want) => write!(f, " of {want}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for DumpedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "baseOffset: {} lastOffset: {} count: {} baseSequence: {} producerId: {} producerEpoch: {} \
             partitionLeaderEpoch: {} isTransactional: {} isControl: {} position: {} {}: {} size: {} magic: {} \
             compresscodec: {} crc: {} isvalid: {}",
            self.base_offset,
            self.last_offset,
            self.count,
            self.base_sequence,
            self.producer_id,
            self.producer_epoch,
            self.partition_leader_epoch,
            self.transactional,
            self.control,
            self.position,
            self.timestamp_type.name(),
            self.max_timestamp,
            self.size,
            self.magic,
            self.codec,
            self.crc,
            self.crc_ok,
        )?;
        for record in &self.records {
            write!(f, "\n| offset: {} timestamp: {}", record.offset, record.timestamp)?;
            write!(f, " key: {}", Shown(record.key.as_deref()))?;
            if let Some(control) = record.control {
                write!(f, " control: {}", control_name(control))?;
                continue;
            }
            write!(f, " value: {}", Shown(record.value.as_deref()))?;
            if !record.headers.is_empty() {
                f.write_str(" headers: [")?;
                for (i, (key, value)) in record.headers.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}={}", Shown(Some(key)), Shown(value.as_deref()))?;
                }
                f.write_str("]")?;
            }
        }
        match &self.error {
            Some(error) => write!(f, "\n| error: {error}"),
            None => Ok(()),
        }
    }
}

#[cfg(feature = "json")]
mod json {
    use serde_json::{Value, json};

    use super::{Dumped, DumpedBatch, DumpedRecord, control_name, hex};

    impl Dumped {
        /// One JSON object. Keys, values and header values are strings, or `{"hex":".."}` when they are not UTF-8.
        pub fn to_json(&self) -> Value {
            match self {
                Self::Batch(batch) => batch.to_json(),
                Self::Bad { position, error } => json!({"position": position, "error": error}),
                Self::Partial { position, partial } => {
                    json!({"position": position, "partial": {"have": partial.have, "want": partial.want}})
                }
            }
        }
    }

    impl DumpedBatch {
        /// One JSON object.
        pub fn to_json(&self) -> Value {
            let mut object = json!({
                "position": self.position,
                "size": self.size,
                "base_offset": self.base_offset,
                "last_offset": self.last_offset,
                "count": self.count,
                "magic": self.magic,
                "codec": self.codec,
                "timestamp_type": self.timestamp_type.name(),
                "base_timestamp": self.base_timestamp,
                "max_timestamp": self.max_timestamp,
                "producer_id": self.producer_id,
                "producer_epoch": self.producer_epoch,
                "base_sequence": self.base_sequence,
                "partition_leader_epoch": self.partition_leader_epoch,
                "transactional": self.transactional,
                "control": self.control,
                "crc": self.crc,
                "crc_ok": self.crc_ok,
                "records": self.records.iter().map(record).collect::<Vec<_>>(),
            });
            if let Some(error) = &self.error {
                object["error"] = json!(error);
            }
            object
        }
    }

    fn record(record: &DumpedRecord) -> Value {
        let headers: Vec<Value> = record
            .headers
            .iter()
            .map(|(key, value)| json!({"key": text(Some(key)), "value": text(value.as_deref())}))
            .collect();
        let mut object = json!({
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": text(record.key.as_deref()),
            "value": text(record.value.as_deref()),
            "headers": headers,
        });
        if let Some(control) = record.control {
            object["control"] = json!(control_name(control));
        }
        object
    }

    fn text(bytes: Option<&[u8]>) -> Value {
        match bytes {
            None => Value::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => json!(text),
                Err(_) => json!({"hex": hex(bytes)}),
            },
        }
    }
}
