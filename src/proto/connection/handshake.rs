//! Which ApiVersions version to try next. Lives as long as the link, across its connections.

use crate::wire::{ApiKey, VersionRange};

/// Resets during the handshake before a lower version is tried (d4-72: some brokers drop what they do not know).
const RESETS_MAX: u8 = 2;

/// What earlier handshakes with this broker have taught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handshake {
    version: i16,
    resets: u8,
}

impl Handshake {
    pub(super) fn new() -> Self {
        Self { version: ApiKey::ApiVersions.versions().max, resets: 0 }
    }

    /// The version to send now.
    pub(super) fn version(&self) -> i16 {
        self.version
    }

    /// The connection ended between ApiVersions and its answer.
    pub(super) fn on_reset(&mut self) {
        self.resets += 1;
        if self.resets >= RESETS_MAX {
            self.resets = 0;
            // From the lowest back to the highest: the resets may have had nothing to do with versions.
            let known = ApiKey::ApiVersions.versions();
            self.version = if self.version > known.min { known.min } else { known.max };
        }
    }

    /// The broker does not know `sent` and may have said what it knows. The version to send next, none if there is none.
    pub(super) fn on_unsupported(&mut self, sent: i16, offered: Option<VersionRange>) -> Option<i16> {
        let known = ApiKey::ApiVersions.versions();
        let next = offered.map_or(known.min, |range| range.max).min(known.max).max(known.min);
        // Always lower than what was refused, so this ends.
        let next = if next < sent { next } else { known.min };
        (next < sent).then_some(next)
    }

    /// A version was understood, and the broker said what it knows of ApiVersions. If that is more than was sent, the next
    /// connection starts from the highest again: the resets came from something else (a restart).
    pub(super) fn on_success(&mut self, offered: Option<VersionRange>) {
        self.resets = 0;
        let known = ApiKey::ApiVersions.versions();
        if offered.is_some_and(|range| range.max >= known.max) {
            self.version = known.max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_72_two_resets_lower_the_version_and_two_more_raise_it_again() {
        let mut handshake = Handshake::new();
        let highest = handshake.version();
        handshake.on_reset();
        assert_eq!(handshake.version(), highest);
        handshake.on_reset();
        assert_eq!(handshake.version(), 0);
        handshake.on_reset();
        handshake.on_reset();
        assert_eq!(handshake.version(), highest);
    }

    #[test]
    fn a_success_between_resets_starts_the_count_again() {
        let mut handshake = Handshake::new();
        let highest = handshake.version();
        handshake.on_reset();
        handshake.on_success(None);
        handshake.on_reset();
        assert_eq!(handshake.version(), highest);
    }
}
