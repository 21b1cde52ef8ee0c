//! Topic names and their numbers.

use std::sync::Arc;

use crate::base::hash::Map;
use crate::base::ids::TopicIx;
use crate::base::sync::{Mutex, lock};

/// The most topics one engine interns. Numbers are never reused, so this bounds what a loop over made-up names can cost.
pub const TOPICS_MAX: usize = 1 << 20;

/// Kafka's limit for a topic's name, in characters (all of one byte).
const NAME_BYTES_MAX: usize = 249;

/// Why a name cannot be a topic's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Kafka's rule for names.
    #[error("a topic name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', and is not '.' or '..'")]
    Invalid,
    /// [`TOPICS_MAX`] names are interned already.
    #[error("too many different topics in one engine")]
    TooMany,
}

/// All topic names an engine has met, shared by its threads. Names are hashed once, at [`TopicNames::intern`].
#[derive(Debug, Default)]
pub struct TopicNames {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: Map<Arc<str>, TopicIx>,
    names: Vec<Arc<str>>,
}

impl TopicNames {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }

    /// The topic's number, new or known.
    pub fn intern(&self, name: &str) -> Result<TopicIx, NameError> {
        let mut table = lock(&self.table);
        if let Some(ix) = table.by_name.get(name) {
            return Ok(*ix);
        }
        if !is_valid(name) {
            return Err(NameError::Invalid);
        }
        if table.names.len() >= TOPICS_MAX {
            return Err(NameError::TooMany);
        }
        // Below TOPICS_MAX, so it fits.
        let ix = TopicIx(table.names.len() as u32);
        let name: Arc<str> = name.into();
        table.names.push(Arc::clone(&name));
        table.by_name.insert(name, ix);
        Ok(ix)
    }

    /// The number of a name that was interned before.
    pub fn get(&self, name: &str) -> Option<TopicIx> {
        lock(&self.table).by_name.get(name).copied()
    }

    /// The name of a number.
    pub fn name(&self, ix: TopicIx) -> Option<Arc<str>> {
        lock(&self.table).names.get(ix.0 as usize).cloned()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        lock(&self.table).names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_valid(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != "." && name != ".." && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_once() {
        let names = TopicNames::new();
        assert_eq!(names.intern("a"), Ok(TopicIx(0)));
        assert_eq!(names.intern("b"), Ok(TopicIx(1)));
        assert_eq!(names.intern("a"), Ok(TopicIx(0)));
        assert_eq!((names.get("b"), names.get("c"), names.len()), (Some(TopicIx(1)), None, 2));
        assert_eq!(names.name(TopicIx(1)).as_deref(), Some("b"));
    }

    #[test]
    fn names_that_kafka_refuses_are_refused_here() {
        let names = TopicNames::new();
        for bad in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert_eq!(names.intern(bad), Err(NameError::Invalid), "{bad}");
        }
        assert!(names.intern(&"x".repeat(249)).is_ok());
    }
}
