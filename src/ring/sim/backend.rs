//! [`SimBackend`]: the trait's contract over the virtual network.

use std::io;
use std::net::SocketAddr;

use super::net::{Connecting, EndId, Network, ReadResult};
use super::schedule::{Party, Schedule};
use crate::base::time::{Clock, Now, Time};
use crate::ring::outgoing::Outgoing;
use crate::ring::slots::Slots;
use crate::ring::{
    Backend, BackendKind, BackendStats, Events, Landing, SendChain, Sock, SocketOptions, Wait, Wake, closed_by_us,
};
use std::time::Duration;

/// Bytes that one receive hands over at most: a buffer of the real ring.
const RECEIVE_BYTES: usize = 64 << 10;
/// Receives of one socket in one turn: others have their turn in between.
const RECEIVES_PER_TURN: usize = 4;

struct Socket {
    end: EndId,
    open: bool,
    closing: bool,
    receive: bool,
    lands: bool,
    outgoing: Option<Outgoing>,
    /// When the completion of a chain whose bytes are all taken is reported: the kernel may hold it a while longer.
    sent_at: Option<Time>,
}

/// One party's door to the virtual network.
pub struct SimBackend {
    network: Network,
    schedule: Schedule,
    party: Party,
    sockets: Slots<Socket>,
    order: Vec<Sock>,
    buffer: Box<[u8]>,
    stats: BackendStats,
}

impl SimBackend {
    /// A backend of `party` on `network`.
    pub fn new(network: &Network, party: Party) -> Self {
        Self {
            network: network.clone(),
            schedule: network.schedule().clone(),
            party,
            sockets: Slots::default(),
            order: Vec::new(),
            buffer: vec![0; RECEIVE_BYTES].into_boxed_slice(),
            stats: BackendStats::default(),
        }
    }

    /// Does what can be done for one socket now; true when something was reported.
    fn visit(&mut self, sock: Sock, events: &mut dyn Events) -> bool {
        let Some(socket) = self.sockets.get_mut(sock) else { return false };
        let end = socket.end;
        if socket.closing {
            self.end(sock, closed_by_us(), events);
            return true;
        }
        let mut active = false;
        if !socket.open {
            match self.network.connecting(end) {
                Connecting::Pending => return false,
                Connecting::Refused => {
                    self.end(sock, io::ErrorKind::ConnectionRefused.into(), events);
                    return true;
                }
                Connecting::Connected => {
                    socket.open = true;
                    active = true;
                    events.connected(sock);
                }
            }
        }
        let result = self.write(sock, events).and_then(|wrote| self.read(sock, events).map(|read| wrote || read));
        match result {
            Ok(moved) => active || moved,
            Err(why) => {
                self.end(sock, why, events);
                true
            }
        }
    }

    fn write(&mut self, sock: Sock, events: &mut dyn Events) -> io::Result<bool> {
        let Some(socket) = self.sockets.get_mut(sock) else { return Ok(false) };
        let Some(outgoing) = &mut socket.outgoing else { return Ok(false) };
        while !outgoing.is_done() {
            let Some(slice) = outgoing.rest().next() else { break };
            let count = self.network.write(socket.end, &slice)?;
            if count == 0 {
                return Ok(false);
            }
            self.stats.sent_bytes += count as u64;
            outgoing.advance(count);
        }
        let now = self.schedule.time();
        let due = match socket.sent_at {
            Some(due) => due,
            None => {
                // Half of the completions come at once, the others while the peer may already have answered.
                let late = self.schedule.below(2) == 0;
                let longest = self.network.rates().latency.1;
                let delay = if late { self.schedule.duration((Duration::ZERO, longest)) } else { Duration::ZERO };
                socket.sent_at = Some(now + delay);
                self.schedule.wake_at(self.party, now + delay);
                now + delay
            }
        };
        if due > now {
            return Ok(false);
        }
        socket.sent_at = None;
        if let Some((chain, _)) = socket.outgoing.take().map(Outgoing::into_parts) {
            events.sent(sock, chain);
        }
        Ok(true)
    }

    fn read(&mut self, sock: Sock, events: &mut dyn Events) -> io::Result<bool> {
        let Some(socket) = self.sockets.get_mut(sock) else { return Ok(false) };
        if !socket.receive {
            return Ok(false);
        }
        for round in 0..RECEIVES_PER_TURN {
            let mut landing = if socket.lands { events.landing(sock) } else { None };
            let room = landing.as_mut().map(Landing::room).filter(|room| !room.is_empty());
            let (in_place, room) = (room.is_some(), room.unwrap_or(&mut self.buffer[..]));
            let result = self.network.read(socket.end, room);
            if let Some(landing) = landing {
                let count = if let (true, ReadResult::Data(count)) = (in_place, &result) { *count } else { 0 };
                events.landed(sock, landing, count);
            }
            match result {
                ReadResult::Data(count) => {
                    self.stats.received_bytes += count as u64;
                    if !in_place {
                        events.data(sock, &self.buffer[..count]);
                    }
                }
                ReadResult::Pending => return Ok(round > 0),
                ReadResult::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                ReadResult::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
        Ok(true)
    }

    fn end(&mut self, sock: Sock, why: io::Error, events: &mut dyn Events) {
        let Some(socket) = self.sockets.remove(sock) else { return };
        self.network.close(socket.end);
        self.order.retain(|other| *other != sock);
        let (unsent, written) = match socket.outgoing.map(Outgoing::into_parts) {
            Some((chain, written)) => (Some(chain), written),
            None => (None, 0),
        };
        self.schedule.trace(why.kind() as u64);
        events.closed(sock, why, unsent, written);
    }
}

impl Backend for SimBackend {
    type Waker = SimWaker;

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock> {
        let end = self.network.connect(address, self.party);
        let sock = self.sockets.insert(Socket {
            end,
            open: false,
            closing: false,
            receive: true,
            lands: options.lands,
            outgoing: None,
            sent_at: None,
        });
        self.order.push(sock);
        Ok(sock)
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        match self.sockets.get_mut(sock) {
            Some(socket) if socket.open && !socket.closing && socket.outgoing.is_none() => {
                socket.outgoing = Some(Outgoing::new(chain));
                self.schedule.wake_at(self.party, self.schedule.time());
                Ok(())
            }
            _ => Err(chain),
        }
    }

    fn receive(&mut self, sock: Sock, on: bool) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.receive = on;
        if on {
            self.schedule.wake_at(self.party, self.schedule.time());
        }
    }

    fn close(&mut self, sock: Sock) {
        let Some(socket) = self.sockets.get_mut(sock) else { return };
        socket.closing = true;
        self.schedule.wake_at(self.party, self.schedule.time());
    }

    /// Reports what has happened by now. Where nothing has, notes the wait and returns; the party's next turn stands for
    /// the end of the wait.
    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        self.stats.turns += 1;
        // Between connections any order may happen.
        let count = self.order.len();
        let first = if count > 1 { self.schedule.below(count as u64) as usize } else { 0 };
        let mut active = false;
        for sock in self.order[first..].iter().chain(&self.order[..first]).copied().collect::<Vec<_>>() {
            active |= self.visit(sock, events);
        }
        match wait {
            _ if active => self.schedule.again(self.party),
            Wait::Poll => self.schedule.again(self.party),
            Wait::Until(time) => self.schedule.sleep_until(self.party, time),
            Wait::Forever => {}
        }
        Ok(())
    }

    fn waker(&self) -> SimWaker {
        SimWaker { schedule: self.schedule.clone(), party: self.party }
    }

    fn now(&self) -> Now {
        self.schedule.now()
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Sim
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }
}

impl Drop for SimBackend {
    fn drop(&mut self) {
        for socket in self.sockets.values_mut() {
            self.network.close(socket.end);
        }
    }
}

impl std::fmt::Debug for SimBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimBackend").field("party", &self.party).field("sockets", &self.sockets.len()).finish()
    }
}

/// Wakes a party of the simulation: late, and sometimes twice.
#[derive(Clone, Debug)]
pub struct SimWaker {
    schedule: Schedule,
    party: Party,
}

impl SimWaker {
    /// A waker of any party, for those without a backend.
    pub fn new(schedule: &Schedule, party: Party) -> Self {
        Self { schedule: schedule.clone(), party }
    }
}

impl Wake for SimWaker {
    fn wake(&self) {
        self.schedule.wake(self.party);
    }
}

impl std::task::Wake for SimWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.schedule.wake(self.party);
    }
}
