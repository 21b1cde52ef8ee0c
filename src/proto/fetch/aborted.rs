//! Which transactional batches `read_committed` hides (KIP-98).

use crate::base::hash::Set;
use crate::batch::Aborted;

/// The aborted transactions of one answer. Batches are shown to it in offset order.
#[derive(Clone, Debug, Default)]
pub struct AbortedRanges {
    /// Not begun yet, last first.
    ahead: Vec<Aborted>,
    /// Producers inside an aborted transaction.
    open: Set<i64>,
}

impl AbortedRanges {
    /// From an answer's list, in whatever order it came.
    pub fn new(mut list: Vec<Aborted>) -> Self {
        list.sort_unstable_by(|a, b| b.cmp(a));
        Self { ahead: list, open: Set::default() }
    }

    /// A transactional batch of this producer that ends at `last_offset`: whether it was aborted.
    pub fn hides(&mut self, producer_id: i64, last_offset: i64) -> bool {
        self.advance(last_offset);
        self.open.contains(&producer_id)
    }

    /// An abort marker: the producer's aborted transaction ends here.
    pub fn on_abort_marker(&mut self, producer_id: i64, last_offset: i64) {
        self.advance(last_offset);
        self.open.remove(&producer_id);
    }

    fn advance(&mut self, last_offset: i64) {
        while let Some(next) = self.ahead.last().copied().filter(|next| next.first_offset <= last_offset) {
            self.open.insert(next.producer_id);
            self.ahead.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(producer_id: i64, first_offset: i64) -> Aborted {
        Aborted { first_offset, producer_id }
    }

    #[test]
    fn d2_39_an_unordered_list_hides_the_same_batches() {
        let lists = [vec![range(1, 10), range(2, 20), range(1, 40)], vec![range(1, 40), range(1, 10), range(2, 20)]];
        for list in lists {
            let mut aborted = AbortedRanges::new(list);
            assert!(!aborted.hides(1, 9));
            assert!(aborted.hides(1, 10));
            assert!(!aborted.hides(2, 19));
            assert!(aborted.hides(2, 25));
            aborted.on_abort_marker(1, 26);
            assert!(!aborted.hides(1, 30), "committed in between");
            assert!(aborted.hides(1, 45));
            aborted.on_abort_marker(2, 46);
            assert!(!aborted.hides(2, 50));
            assert!(!aborted.hides(3, 50));
        }
    }
}
