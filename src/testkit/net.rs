//! The simulated network as a server sees it. Everything is non-blocking: `Pending` means that the party that listens has a
//! turn when there is something to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;

pub use crate::ring::sim::net::{Network as SimNet, Rates, ReadResult};
pub use crate::ring::sim::schedule::Party;

use crate::ring::sim::net::EndId;

/// A listening address. Dropping it stops listening; accepted connections stay.
pub struct SimListener {
    net: SimNet,
    address: SocketAddr,
}

impl SimListener {
    /// Accepts connections to `address` on behalf of `party`, which has a turn when a connection, bytes or room come.
    /// Port 0 picks a free one.
    pub fn bind(net: &SimNet, address: SocketAddr, party: Party) -> io::Result<Self> {
        Ok(Self { address: net.listen(address, party)?, net: net.clone() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The oldest connection that is waiting.
    pub fn accept(&self) -> Option<SimStream> {
        let (end, peer) = self.net.accept(self.address)?;
        Some(SimStream { net: self.net.clone(), end, peer })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.stop_listening(self.address, false);
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener({})", self.address)
    }
}

/// The server's end of a connection. Dropping it closes it.
pub struct SimStream {
    net: SimNet,
    end: EndId,
    peer: SocketAddr,
}

impl SimStream {
    /// Reads what has arrived.
    pub fn read(&self, into: &mut [u8]) -> ReadResult {
        self.net.read(self.end, into)
    }

    /// Writes as much as there is room for and says how much; 0: none now. An error: the connection is reset.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.net.write(self.end, bytes)
    }

    /// Ends this direction; reading goes on (half-close).
    pub fn end_writing(&self) {
        self.net.end_writing(self.end);
    }

    /// Closes: the peer reads the rest, then the end. Dropping does the same.
    pub fn close(self) {}

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.close(self.end);
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStream(from {})", self.peer)
    }
}
