//! A table whose keys notice when their slot was reused: what turns a [`Sock`] into a socket's state.

use super::Sock;

/// A generation must fit beside kind and index in a completion's 64 bits of user data.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values under [`Sock`] keys. A removed value's key is dead until 2^24 reuses of its slot.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// The key the next [`Slots::insert`] returns.
    pub fn next_key(&self) -> Sock {
        match self.free.last() {
            Some(&index) => Sock { index, generation: self.entries[index as usize].generation },
            None => Sock { index: u32::try_from(self.entries.len()).unwrap_or(u32::MAX), generation: 1 },
        }
    }

    /// Stores a value under a key that no earlier value had.
    pub fn insert(&mut self, value: T) -> Sock {
        let sock = self.next_key();
        match self.free.pop() {
            Some(index) => self.entries[index as usize].value = Some(value),
            None => self.entries.push(Entry { generation: sock.generation, value: Some(value) }),
        }
        sock
    }

    /// The value of a key, unless it was removed.
    pub fn get_mut(&mut self, sock: Sock) -> Option<&mut T> {
        let entry = self.entries.get_mut(sock.index as usize)?;
        if entry.generation == sock.generation { entry.value.as_mut() } else { None }
    }

    /// Takes a value out; its key is dead from now on.
    pub fn remove(&mut self, sock: Sock) -> Option<T> {
        let entry = self.entries.get_mut(sock.index as usize)?;
        if entry.generation != sock.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(sock.index);
        Some(value)
    }

    /// All values, to end them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_is_a_different_socket() {
        let mut slots = Slots::default();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!((second.index, slots.len()), (first.index, 1));
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
    }

    #[test]
    fn a_generation_never_leaves_its_24_bits() {
        let mut slots = Slots::default();
        slots.insert(());
        slots.entries[0].generation = GENERATION_MASK;
        let last = Sock { index: 0, generation: GENERATION_MASK };
        assert_eq!(slots.remove(last), Some(()));
        assert_eq!(slots.insert(()).generation, 0);
        assert_eq!(slots.get_mut(last), None);
    }
}
