//! Commands and events: many senders, one receiving thread, woken through its [`Doorbell`]. For rare things only; records
//! and outcomes have queues of their own. `crossbeam-channel` underneath, unbounded: what may be sent is bounded by the
//! protocol above (one command per topic, transaction step or call).

use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::sleep::Doorbell;
use crate::base::gate::{Gate, Medium};
use crate::base::sync::atomic::{Ordering, fence};

/// Makes a mailbox of the thread that `doorbell` wakes and whose medium `medium` is.
pub fn mailbox<T>(doorbell: Doorbell, medium: &Medium) -> (MailboxSender<T>, MailboxReceiver<T>) {
    let (items, queue) = crossbeam_channel::unbounded();
    let bell = doorbell.clone();
    let gate = medium.gate_waking(|| Waker::from(Arc::new(Nudge(bell))));
    (MailboxSender { items, doorbell, medium: medium.clone() }, MailboxReceiver { queue, taken: 0, gate })
}

/// A sending end.
pub struct MailboxSender<T> {
    items: crossbeam_channel::Sender<T>,
    doorbell: Doorbell,
    medium: Medium,
}

/// Rings the receiver when the simulator shows it more.
struct Nudge(Doorbell);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.0.force();
    }
}

impl<T> MailboxSender<T> {
    /// Sends and wakes the receiver. Gives the item back when the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), T> {
        self.items.send(item).map_err(|refused| refused.0)?;
        fence(Ordering::SeqCst);
        self.doorbell.notify_now();
        Ok(())
    }

    /// The receiver's doorbell.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The receiver's medium: for every other queue that the same thread reads.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), doorbell: self.doorbell.clone(), medium: self.medium.clone() }
    }
}

impl<T> fmt::Debug for MailboxSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MailboxSender({} queued)", self.items.len())
    }
}

/// The receiving end.
pub struct MailboxReceiver<T> {
    queue: crossbeam_channel::Receiver<T>,
    taken: u64,
    gate: Gate,
}

impl<T> MailboxReceiver<T> {
    /// The oldest item, if one is there. Order is kept per sender.
    pub fn take(&mut self) -> Option<T> {
        if self.gate.pass(self.taken + self.queue.len() as u64) <= self.taken {
            return None;
        }
        let item = self.queue.try_recv().ok()?;
        self.taken += 1;
        Some(item)
    }

    /// What lies between the senders and this receiver.
    pub fn medium(&self) -> Medium {
        self.gate.medium()
    }

    /// Whether [`MailboxReceiver::take`] would give something: the look after [`super::Sleeper::prepare`].
    pub fn has_items(&mut self) -> bool {
        self.gate.pass(self.taken + self.queue.len() as u64) > self.taken
    }
}

impl<T> fmt::Debug for MailboxReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MailboxReceiver({} queued, {} taken)", self.queue.len(), self.taken)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::gate::tests::Drizzle;
    use crate::base::time::Time;
    use crate::mesh::sleep::sleeper;

    #[test]
    fn r13_items_of_each_sender_stay_in_order_under_a_gate_and_the_sleeper_is_rung() {
        let weather = Drizzle::new(8);
        let medium = Medium::simulated(weather.clone());
        let (mut sleeper, doorbell) = sleeper(&medium, || {});
        let (sender, mut receiver) = mailbox(doorbell.clone(), &medium);
        let other = sender.clone();
        sleeper.prepare(Time::NEVER);
        let mut next = [0, 0];
        for round in 0..500 {
            sender.send((0, round)).unwrap();
            other.send((1, round)).unwrap();
            weather.advance();
            while let Some((from, number)) = receiver.take() {
                assert_eq!(number, next[from]);
                next[from] += 1;
            }
        }
        assert!(next[0] > 400 && next[0] < 500, "held back for a while: {next:?}");
        assert_eq!(doorbell.rings(), 1);
        drop(receiver);
        assert_eq!(sender.send((0, 0)), Err((0, 0)));
    }
}
