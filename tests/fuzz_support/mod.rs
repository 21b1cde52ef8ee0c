//! Hostile input: valid bytes from a corpus, changed by a few steps that find what reads them off guard. Every harness is a
//! bolero target that runs under plain `cargo test`, a short time by default.
//!
//! `OTTLA_FUZZ=N` runs N times as many iterations (the lane `fuzz` does). A failure is shrunk and prints its seed;
//! `BOLERO_RANDOM_SEED=<seed> cargo test --all-features --test <file> <test>` runs that one first.

#![allow(dead_code)] // each test binary uses a part

use bolero::{TypeGenerator, produce};

/// How many inputs a harness tries: `usual` unless asked for more.
pub fn iterations(usual: usize) -> usize {
    let factor = std::env::var("OTTLA_FUZZ").ok().and_then(|text| text.parse::<usize>().ok());
    usual * factor.unwrap_or(1)
}

/// Places in an input are given in 65,536ths of its length, so that a recipe means something for any input.
fn place(at: u16, len: usize) -> usize {
    (usize::from(at) * len) >> 16
}

/// One change.
#[derive(Clone, Debug, TypeGenerator)]
pub enum Step {
    /// A bit is another.
    Flip(u16, #[generator(0..8)] u8),
    /// A byte is another.
    Set(u16, u8),
    /// Something that may be read as a length or a count is far too large, negative, zero or slightly wrong.
    Length(u16, #[generator(0..LENGTHS.len())] usize),
    /// A 32-bit number is a little larger or smaller.
    Nudge(u16, #[generator(-9i8..=9)] i8),
    /// A piece is missing.
    Cut(u16, #[generator(1..40u8)] u8),
    /// A piece stands twice.
    Twice(u16, #[generator(1..40u8)] u8),
    /// Bytes come in between.
    Insert(u16, #[generator(produce::<Vec<u8>>().with().len(1..12usize))] Vec<u8>),
    /// A piece of another valid input stands here.
    Graft(u16, u16, u16, u8),
    /// It ends here.
    End(u16),
}

const LENGTHS: [&[u8]; 14] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0, 0],
    &[0x7f, 0xff],
    &[0x80, 0],
    &[0, 0, 0, 0],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

/// How an input is made.
#[derive(Clone, Debug, TypeGenerator)]
pub struct Recipe {
    /// Which input of the corpus.
    pick: u16,
    /// What is changed; nothing in one of six.
    #[generator(produce::<Vec<Step>>().with().len(0..6usize))]
    steps: Vec<Step>,
    /// Instead of all that, in one of sixteen: any bytes.
    #[generator(0..16)]
    any: u8,
    #[generator(produce::<Vec<u8>>().with().len(0..64usize))]
    bytes: Vec<u8>,
}

impl Recipe {
    /// The input's place in a corpus of so many.
    pub fn index(&self, corpus: usize) -> usize {
        place(self.pick, corpus)
    }

    /// Whether the input is the corpus' own.
    pub fn is_plain(&self) -> bool {
        self.any != 0 && self.steps.is_empty()
    }

    /// The input.
    pub fn cook<T: AsRef<[u8]>>(&self, corpus: &[T]) -> Vec<u8> {
        if self.any == 0 {
            return self.bytes.clone();
        }
        let mut input = corpus[self.index(corpus.len())].as_ref().to_vec();
        for step in &self.steps {
            step.apply(&mut input, |pick| corpus[place(pick, corpus.len())].as_ref());
        }
        input
    }
}

impl Step {
    fn apply<'c>(&self, input: &mut Vec<u8>, other: impl Fn(u16) -> &'c [u8]) {
        if input.is_empty() {
            return;
        }
        let len = input.len();
        match self {
            Self::Flip(at, bit) => input[place(*at, len)] ^= 1 << bit,
            Self::Set(at, value) => input[place(*at, len)] = *value,
            Self::Length(at, which) => {
                let (at, bytes) = (place(*at, len), LENGTHS[*which]);
                let end = len.min(at + bytes.len());
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Self::Nudge(at, by) => {
                if let Some(word) = input[place(*at, len)..].first_chunk_mut::<4>() {
                    *word = u32::from_be_bytes(*word).wrapping_add_signed(i32::from(*by)).to_be_bytes();
                }
            }
            Self::Cut(at, count) => {
                let at = place(*at, len);
                input.drain(at..len.min(at + usize::from(*count)));
            }
            Self::Twice(at, count) => {
                let at = place(*at, len);
                let piece = input[at..len.min(at + usize::from(*count))].to_vec();
                input.splice(at..at, piece);
            }
            Self::Insert(at, bytes) => {
                let at = place(*at, len);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Graft(at, pick, from, count) => {
                let (at, other) = (place(*at, len), other(*pick));
                let from = place(*from, other.len());
                let piece = &other[from..other.len().min(from + usize::from(*count))];
                let end = len.min(at + piece.len());
                input.splice(at..end, piece.iter().copied());
            }
            Self::End(at) => input.truncate(place(*at, len)),
        }
    }
}
