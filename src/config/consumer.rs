//! Settings of a consumer.

use std::time::Duration;

use super::{SettingError, check_range};

/// Where to read when there is no valid position (`auto.offset.reset`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AutoOffsetReset {
    /// The first record that still exists.
    Earliest,
    /// Only what comes from now on.
    #[default]
    Latest,
    /// An error to the application.
    None,
}

/// Where reading a partition starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// At this offset.
    Offset(i64),
    /// At the first record that still exists.
    Earliest,
    /// At the end: behind the last record, or the last stable one under `read_committed`.
    Latest,
    /// At the first record whose timestamp is this or later, in milliseconds since 1970; at the end if there is none.
    Timestamp(i64),
}

/// Which records of transactions are delivered (`isolation.level`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IsolationLevel {
    /// All, also of open and aborted transactions.
    ReadUncommitted,
    /// Only committed ones, up to the last stable offset.
    #[default]
    ReadCommitted,
}

impl IsolationLevel {
    /// The number in requests.
    pub const fn wire(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// What one consumer does.
#[derive(Clone, PartialEq, Debug)]
pub struct ConsumerSettings {
    /// `group.id`. Default none: manual assignment only.
    pub group_id: Option<String>,
    /// `auto.offset.reset`. Default latest.
    pub auto_offset_reset: AutoOffsetReset,
    /// `isolation.level`. Default read_committed (Java's default is read_uncommitted).
    pub isolation_level: IsolationLevel,
    /// `enable.auto.commit`. Default true.
    pub auto_commit: bool,
    /// `auto.commit.interval.ms`. Default 5 s.
    pub auto_commit_interval: Duration,
    /// `fetch.min.bytes`: a broker answers when it has this much. Default 1.
    pub fetch_min_bytes: i32,
    /// `fetch.max.bytes`: of one answer; a larger first batch still comes (KIP-74). Default 4 MiB.
    pub fetch_max_bytes: i32,
    /// `max.partition.fetch.bytes`: of one partition in one answer, to begin with. Default 1 MiB.
    pub max_partition_fetch_bytes: i32,
    /// What `max.partition.fetch.bytes` grows to while a partition keeps its link busy. Default 2 MiB.
    pub max_partition_fetch_bytes_grown: i32,
    /// `fetch.max.wait.ms`: how long a broker waits for `fetch.min.bytes`. Default 500 ms.
    pub fetch_max_wait: Duration,
    /// `max.poll.records`: records given out per `next`. Default: a batch as it comes.
    pub max_poll_records: Option<u32>,
    /// `check.crcs`: always on; kept so that a file that sets it to false is refused with words.
    pub check_crcs: bool,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            group_id: None,
            auto_offset_reset: AutoOffsetReset::Latest,
            isolation_level: IsolationLevel::ReadCommitted,
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            fetch_min_bytes: 1,
            fetch_max_bytes: 4 << 20,
            max_partition_fetch_bytes: 1 << 20,
            max_partition_fetch_bytes_grown: 2 << 20,
            fetch_max_wait: Duration::from_millis(500),
            max_poll_records: None,
            check_crcs: true,
        }
    }
}

impl ConsumerSettings {
    /// Checks every setting and their combination.
    pub fn validate(&self) -> Result<(), SettingError> {
        check_range("fetch.min.bytes", self.fetch_min_bytes, 0, i32::MAX)?;
        check_range("fetch.max.bytes", self.fetch_max_bytes, 1024, i32::MAX)?;
        check_range("max.partition.fetch.bytes", self.max_partition_fetch_bytes, 1024, i32::MAX)?;
        if self.max_partition_fetch_bytes_grown < self.max_partition_fetch_bytes {
            return Err(SettingError::new("max.partition.fetch.bytes", "is larger than what it may grow to"));
        }
        if !self.check_crcs {
            return Err(SettingError::new("check.crcs", "checksums are always verified"));
        }
        if self.max_poll_records == Some(0) {
            return Err(SettingError::new("max.poll.records", "must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_cannot_be_switched_off() {
        assert_eq!(ConsumerSettings::default().validate(), Ok(()));
        let off = ConsumerSettings { check_crcs: false, ..Default::default() };
        assert_eq!(off.validate().map_err(|e| e.key), Err("check.crcs"));
    }
}
