//! Settings of a producer.

use std::time::Duration;

use super::{SettingError, check_range};

/// How many replicas must have a record before it counts as delivered (`acks`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// 0: nobody answers; a record counts as delivered when its bytes were written. Refuses idempotence.
    None,
    /// 1: the leader.
    Leader,
    /// -1: all in-sync replicas.
    #[default]
    All,
}

impl Acks {
    /// The number in Produce requests.
    pub const fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// `compression.type` by name. Whether a codec was compiled in is checked when a producer is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Records go out as they are.
    #[default]
    None,
    /// gzip, `compression.gzip.level` 1..=9.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard, `compression.zstd.level` -131072..=22.
    Zstd,
}

/// What one producer does. Memory (`buffer.memory`), `max.in.flight.requests.per.connection`, `request.timeout.ms` and
/// `retry.backoff.ms` are the engine's: see [`super::EngineSettings`].
#[derive(Clone, PartialEq, Debug)]
pub struct ProducerSettings {
    /// `acks`. Default all.
    pub acks: Acks,
    /// `enable.idempotence`: no duplicates, order kept per partition. Default true; needs acks=all.
    pub idempotence: bool,
    /// `transactional.id`. Default none.
    pub transactional_id: Option<String>,
    /// `linger.ms`: how long a batch that is not full may wait for more records. Default 5 ms.
    pub linger: Duration,
    /// `batch.size`: bytes of a batch on the wire with its 61-byte header. Default 1,000,000 (below the broker's default
    /// `max.message.bytes` of 1,048,588).
    pub batch_size: usize,
    /// `batch.raw.size.max`: bytes of a batch before compression. Default 4 MiB.
    pub batch_raw_size_max: usize,
    /// `batch.num.messages`: records per batch. Default no limit of its own.
    pub batch_count_max: Option<u32>,
    /// `max.request.size`: bytes of one record before compression, and of one request on the wire beyond which no further
    /// batch is added. Default 1,048,576.
    pub max_request_size: usize,
    /// `compression.type`. Default none.
    pub compression: Compression,
    /// `compression.<codec>.level`. Default: lz4 its fast mode, zstd 1, gzip 1.
    pub compression_level: Option<i32>,
    /// `delivery.timeout.ms`: from `send` to the outcome, whatever happens. Default 120 s.
    pub delivery_timeout: Duration,
    /// `max.block.ms`: how long `send` waits for memory, and for metadata of a topic it must know. Default 60 s.
    pub max_block: Duration,
    /// `partitioner.ignore.keys`: spread keyed records like unkeyed ones. Default false.
    pub partitioner_ignore_keys: bool,
    /// `transaction.timeout.ms`: after which the coordinator aborts an open transaction. Default 60 s.
    pub transaction_timeout: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: true,
            transactional_id: None,
            linger: Duration::from_millis(5),
            batch_size: 1_000_000,
            batch_raw_size_max: 4 << 20,
            batch_count_max: None,
            max_request_size: 1 << 20,
            compression: Compression::None,
            compression_level: None,
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(60),
            partitioner_ignore_keys: false,
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

impl ProducerSettings {
    /// Checks every setting and their combination.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.idempotence && self.acks != Acks::All {
            return Err(SettingError::new("enable.idempotence", "needs acks=all"));
        }
        if self.transactional_id.is_some() && !self.idempotence {
            return Err(SettingError::new("transactional.id", "needs enable.idempotence=true"));
        }
        check_range("batch.size", self.batch_size, 128, i32::MAX as usize - 1024)?;
        check_range("batch.raw.size.max", self.batch_raw_size_max, 1024, 1 << 30)?;
        check_range("batch.num.messages", self.batch_count_max.unwrap_or(1), 1, i32::MAX as u32)?;
        check_range("max.request.size", self.max_request_size, 128, i32::MAX as usize - 1024)?;
        if self.delivery_timeout < self.linger {
            return Err(SettingError::new("delivery.timeout.ms", "is less than linger.ms"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotence_needs_all_acks() {
        assert_eq!(ProducerSettings::default().validate(), Ok(()));
        let leader = ProducerSettings { acks: Acks::Leader, ..Default::default() };
        assert_eq!(leader.validate().map_err(|e| e.key), Err("enable.idempotence"));
        let plain = ProducerSettings { acks: Acks::None, idempotence: false, ..Default::default() };
        assert_eq!(plain.validate(), Ok(()));
    }
}
