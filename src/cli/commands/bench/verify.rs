//! Whether what was read is what was sent: every record is made again from its index and compared.

use crate::cli::workload::{Content, HEADER_NAMES, Workload, claimed_index, timestamp};

/// Checks records of one workload as they arrive.
pub struct Verifier {
    workload: Workload,
    messages: u64,
    content: Content,
    /// One bit per index that was seen; not used where content repeats.
    seen: Vec<u64>,
    /// Last index by partition and sending lane, for order.
    last: Vec<Option<u64>>,
    partitions: usize,
    lanes: u64,
    base_ms: Option<i64>,
    counted: u64,
    faults: u64,
    first_fault: Option<String>,
}

/// What a record looks like to the verifier.
pub struct Seen<'a> {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl Verifier {
    /// For `messages` records of a workload over `partitions` partitions, sent by `lanes` lanes of neighbouring indices each.
    /// `base_ms` is the base of timestamps where it is known; else the first record tells.
    pub fn new(workload: Workload, messages: u64, partitions: usize, lanes: u64, base_ms: Option<i64>) -> Self {
        let words = if tells_identity(workload) { messages.div_ceil(64) } else { 0 };
        Self {
            workload,
            messages,
            content: Content::default(),
            seen: vec![0; usize::try_from(words).unwrap_or(0)],
            last: vec![None; partitions * usize::try_from(lanes).unwrap_or(1)],
            partitions,
            lanes,
            base_ms,
            counted: 0,
            faults: 0,
            first_fault: None,
        }
    }

    /// Compares one record. `headers` yields name and value in order.
    pub fn record<'a>(&mut self, seen: &Seen<'_>, headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) {
        self.counted += 1;
        if let Err(what) = self.compare(seen, headers) {
            self.faults += 1;
            if self.first_fault.is_none() {
                self.first_fault = Some(format!("partition {} offset {}: {what}", seen.partition, seen.offset));
            }
        }
    }

    fn compare<'a>(
        &mut self,
        seen: &Seen<'_>,
        mut headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), String> {
        let value = seen.value.ok_or("null value")?;
        let index = match claimed_index(self.workload, value) {
            Some(index) => index,
            // Short fixed values tell nothing: with one partition their order is their identity.
            None => match self.workload {
                Workload::Fixed(_) if self.last.len() == 1 => self.last[0].map_or(0, |last| last + 1),
                Workload::Fixed(size) => {
                    return if value.len() == size { Ok(()) } else { Err(format!("value of {} bytes", value.len())) };
                }
                _ => return Err("the value does not start with its index".into()),
            },
        };
        if index >= self.messages {
            return Err(format!("index {index} was never sent"));
        }
        self.content.make(self.workload, index);
        if self.content.value() != value {
            return Err(format!("value of index {index} differs"));
        }
        if self.content.key() != seen.key {
            return Err(format!("key of index {index} differs"));
        }
        if let Some(values) = self.content.header_values() {
            for (name, value) in HEADER_NAMES.iter().zip(values) {
                if headers.next() != Some((name.as_bytes(), Some(value))) {
                    return Err(format!("header {name} of index {index} differs"));
                }
            }
        }
        if headers.next().is_some() {
            return Err(format!("index {index} has more headers than were sent"));
        }
        self.identity(seen, index)
    }

    fn identity(&mut self, seen: &Seen<'_>, index: u64) -> Result<(), String> {
        let partition = usize::try_from(seen.partition).map_err(|_| "negative partition")?;
        let lane = lane_of(index, self.messages, self.lanes);
        let place =
            usize::try_from(lane).unwrap_or(usize::MAX).saturating_mul(self.partitions).saturating_add(partition);
        let known = partition < self.partitions;
        let last = self.last.get_mut(place).filter(|_| known).ok_or("partition out of range")?;
        let before = last.replace(index);
        if !tells_identity(self.workload) {
            return Ok(());
        }
        let base = *self.base_ms.get_or_insert(seen.timestamp - timestamp(0, index));
        if seen.timestamp != timestamp(base, index) {
            return Err(format!("timestamp {} of index {index}, expected {}", seen.timestamp, timestamp(base, index)));
        }
        if let Some(before) = before.filter(|before| *before >= index) {
            return Err(format!("index {index} behind index {before}"));
        }
        let (word, bit) = (usize::try_from(index / 64).unwrap_or(usize::MAX), index % 64);
        let word = self.seen.get_mut(word).ok_or("index out of range")?;
        if *word & (1 << bit) != 0 {
            return Err(format!("index {index} twice"));
        }
        *word |= 1 << bit;
        Ok(())
    }

    /// Records compared so far.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Whether all is as it was sent; in words what is not.
    pub fn verdict(&self) -> Result<(), String> {
        if let Some(first) = &self.first_fault {
            return Err(format!("{} of {} records differ; first: {first}", self.faults, self.counted));
        }
        if self.counted != self.messages {
            return Err(format!("{} records read, {} sent", self.counted, self.messages));
        }
        Ok(())
    }
}

/// The lane that sends record `index`: each sends a run of neighbouring indices, the first ones longer by one at most.
pub fn lane_of(index: u64, messages: u64, lanes: u64) -> u64 {
    let (short, longer) = (messages / lanes, messages % lanes);
    let edge = longer * (short + 1);
    if index < edge { index / (short + 1) } else { longer + (index - edge) / short.max(1) }
}

/// The indices that lane `lane` sends.
pub fn indices_of(lane: u64, messages: u64, lanes: u64) -> std::ops::Range<u64> {
    let (short, longer) = (messages / lanes, messages % lanes);
    let start = lane * short + lane.min(longer);
    start..start + short + u64::from(lane < longer)
}

/// Whether a record says which one it is, and with it its order and its timestamp. With several lanes or partitions the
/// order is that of each partition.
fn tells_identity(workload: Workload) -> bool {
    match workload {
        Workload::Telemetry => true,
        Workload::TelemetryPool => false,
        Workload::Fixed(size) => size >= 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sent {
        content: Content,
        timestamp: i64,
        offset: i64,
    }

    fn sent(index: u64) -> Sent {
        let mut content = Content::default();
        content.make(Workload::Telemetry, index);
        Sent { content, timestamp: timestamp(5_000, index), offset: index as i64 }
    }

    fn check(verifier: &mut Verifier, sent: &Sent) {
        let values = sent.content.header_values().unwrap();
        let headers = HEADER_NAMES.iter().zip(values).map(|(name, value)| (name.as_bytes(), Some(value)));
        let seen = Seen {
            partition: 0,
            offset: sent.offset,
            timestamp: sent.timestamp,
            key: sent.content.key(),
            value: Some(sent.content.value()),
        };
        verifier.record(&seen, headers);
    }

    fn verifier() -> Verifier {
        Verifier::new(Workload::Telemetry, 3, 1, 1, None)
    }

    #[test]
    fn what_was_sent_passes() {
        let mut verifier = verifier();
        for index in 0..3 {
            check(&mut verifier, &sent(index));
        }
        assert_eq!(verifier.verdict(), Ok(()));
    }

    #[test]
    fn loss_duplicates_disorder_and_damage_are_found() {
        let runs: [(&str, Vec<Sent>); 5] = [
            ("read", vec![sent(0), sent(1)]),
            ("behind", vec![sent(0), sent(1), sent(1)]),
            ("behind", vec![sent(0), sent(2), sent(1)]),
            ("timestamp", vec![sent(0), sent(1), Sent { timestamp: 7, ..sent(2) }]),
            ("never sent", vec![sent(0), sent(1), sent(3)]),
        ];
        for (word, records) in runs {
            let mut verifier = verifier();
            records.iter().for_each(|record| check(&mut verifier, record));
            let said = verifier.verdict().unwrap_err();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn lanes_share_all_indices_between_them() {
        for (messages, lanes) in [(10, 3), (2, 4), (1_000_000, 7), (0, 2)] {
            let mut next = 0;
            for lane in 0..lanes {
                for index in indices_of(lane, messages, lanes) {
                    assert_eq!((index, lane_of(index, messages, lanes)), (next, lane));
                    next += 1;
                }
            }
            assert_eq!(next, messages);
        }
    }

    #[test]
    fn a_changed_header_is_found() {
        let mut verifier = verifier();
        let record = sent(0);
        let headers = [("client_id", Some(b"other".as_slice()))];
        let seen = Seen {
            partition: 0,
            offset: 0,
            timestamp: 5_000,
            key: record.content.key(),
            value: Some(record.content.value()),
        };
        verifier.record(&seen, headers.iter().map(|(name, value)| (name.as_bytes(), *value)));
        assert!(verifier.verdict().unwrap_err().contains("header"));
    }
}
