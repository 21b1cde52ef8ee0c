//! The broker on the simulated network: one party, virtual time, no threads.
//!
//! ```text
//!  SimBroker (handle: tests hold clones) ── core behind a lock ── SimDriver (the party's actor): accepts, reads
//!                                                                 frames, handles, resumes, writes; one turn at a time
//! ```
//! Nodes that tests stop or start through the core are followed at the driver's next turn.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::cluster::Node;
use super::core::{BrokerCore, ConnId, Outcome};
use super::counters::CloseReason;
use super::options::Options;
use crate::base::time::{Now, Time};
use crate::testkit::net::{Party, ReadResult, SimListener, SimNet, SimStream};
use crate::wire::frame::{FrameReader, PREFIX_BYTES};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// The port of every node; each has an address of its own.
const PORT: u16 = 9092;

/// A broker of a simulation. Cheap to clone.
#[derive(Clone)]
pub struct SimBroker {
    core: Arc<Mutex<BrokerCore>>,
    net: SimNet,
    party: Party,
}

impl std::fmt::Debug for SimBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimBroker({})", self.bootstrap())
    }
}

impl SimBroker {
    /// A broker on `net`, and the actor to give to `party`. Node n listens on 10.0.0.(n+1):9092 from the first turn on.
    pub fn new(net: &SimNet, party: Party, options: Options) -> io::Result<(Self, SimDriver)> {
        let mut core = BrokerCore::new(options).map_err(|refusal| io::Error::other(refusal.message))?;
        let mut listeners = Vec::new();
        for (nth, node) in core.cluster.nodes.iter_mut().enumerate() {
            let last = u8::try_from(nth + 1).map_err(|_| io::Error::other("more than 254 nodes"))?;
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), PORT);
            (node.host, node.port) = (address.ip().to_string(), PORT);
            listeners.push((address, Some(SimListener::bind(net, address, party)?)));
        }
        let frames = FrameReader::new(core.options.request_bytes_max);
        let broker = Self { core: Arc::new(Mutex::new(core)), net: net.clone(), party };
        let scratch = vec![0; READ_BYTES];
        let driver = SimDriver { broker: broker.clone(), listeners, conns: BTreeMap::new(), frames, scratch };
        Ok((broker, driver))
    }

    fn lock(&self) -> MutexGuard<'_, BrokerCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does anything to the core; the driver has a turn soon after.
    pub fn with<R>(&self, work: impl FnOnce(&mut BrokerCore) -> R) -> R {
        let result = work(&mut self.lock());
        self.net.schedule().wake_at(self.party, self.net.schedule().time());
        result
    }

    /// Looks at the core without giving the driver a turn.
    pub fn look<R>(&self, work: impl FnOnce(&BrokerCore) -> R) -> R {
        work(&self.lock())
    }

    /// `host:port` of all nodes, with commas.
    pub fn bootstrap(&self) -> String {
        let core = self.lock();
        let nodes: Vec<String> = core.cluster.nodes.iter().map(|node| format!("{}:{}", node.host, node.port)).collect();
        nodes.join(",")
    }

    /// Where a node listens.
    pub fn address(&self, node: i32) -> Option<SocketAddr> {
        let core = self.lock();
        let node = core.cluster.node(node)?;
        Some(SocketAddr::new(node.host.parse().ok()?, node.port))
    }

    /// Makes `to` the leader of a partition, with the next leader epoch.
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) -> bool {
        self.with(|core| core.move_leader(topic, partition, to))
    }

    /// Stops a node: from the driver's next turn on its address refuses and its connections are closed.
    pub fn stop_node(&self, node: i32) -> bool {
        self.with(|core| core.set_up(node, false))
    }

    /// Starts a stopped node.
    pub fn start_node(&self, node: i32) -> bool {
        self.with(|core| core.set_up(node, true))
    }

    /// A partition's batches as they lie in its log, oldest first.
    pub fn log(&self, topic: &str, partition: i32) -> Vec<Bytes> {
        self.lock().log(topic, partition)
    }
}

struct Conn {
    node: i32,
    stream: SimStream,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    /// A request is under way; ask again at this time.
    parked: Option<Time>,
    /// Close once `out` is sent.
    closing: Option<CloseReason>,
    ended: bool,
}

/// The actor of a [`SimBroker`].
pub struct SimDriver {
    broker: SimBroker,
    listeners: Vec<(SocketAddr, Option<SimListener>)>,
    conns: BTreeMap<ConnId, Conn>,
    frames: FrameReader,
    /// What is read goes through here: making room for it in every connection's input would clear that much each time.
    scratch: Vec<u8>,
}

impl SimDriver {
    /// Does all that can be done now. Returns when it wants a turn at the latest.
    pub fn turn(&mut self, now: Now) -> Option<Time> {
        let broker = self.broker.clone();
        let mut core = broker.lock();
        self.follow_nodes(&mut core, now);
        self.accept(&mut core, now);
        core.tick(now);
        let mut woken = core.take_woken();
        let due = |conn: &Conn| conn.parked.is_none_or(|until| until <= now.mono);
        let ready: Vec<ConnId> = self.conns.iter().filter(|(_, conn)| due(conn)).map(|(id, _)| *id).collect();
        ready.into_iter().for_each(|id| self.serve(&mut core, now, id));
        // What was handled may have answered others: they have their step in the same turn.
        woken.extend(core.take_woken());
        while !woken.is_empty() {
            woken.into_iter().for_each(|id| self.serve(&mut core, now, id));
            woken = core.take_woken();
        }
        let parked = self.conns.values().filter_map(|conn| conn.parked).min();
        let next = parked.into_iter().chain(core.next_deadline()).min()?;
        (next != Time::NEVER).then_some(next)
    }

    fn follow_nodes(&mut self, core: &mut BrokerCore, now: Now) {
        for (nth, (address, listener)) in self.listeners.iter_mut().enumerate() {
            // A node that was given another place listens there from now on; its connections stay.
            let place = |node: &Node| Some(SocketAddr::new(node.host.parse().ok()?, node.port));
            if let Some(place) = core.cluster.nodes.get(nth).and_then(place).filter(|place| place != address) {
                (*address, *listener) = (place, None);
            }
            let up = core.cluster.nodes.get(nth).is_some_and(|node| node.up);
            match (up, listener.is_some()) {
                // Binding fails only while the address is taken, which it is not.
                (true, false) => *listener = SimListener::bind(&self.broker.net, *address, self.broker.party).ok(),
                (false, true) => *listener = None,
                _ => {}
            }
            if !up {
                self.conns.retain(|id, conn| {
                    let stays = conn.node != nth as i32;
                    if !stays {
                        core.disconnect(now, *id, CloseReason::NodeStopped);
                    }
                    stays
                });
            }
        }
    }

    fn accept(&mut self, core: &mut BrokerCore, now: Now) {
        for (nth, (_, listener)) in self.listeners.iter().enumerate() {
            while let Some(stream) = listener.as_ref().and_then(SimListener::accept) {
                let node = nth as i32;
                let id = core.connect(now, node, &stream.peer().ip().to_string());
                let conn = Conn {
                    node,
                    stream,
                    input: Vec::new(),
                    out: Vec::new(),
                    sent: 0,
                    parked: None,
                    closing: None,
                    ended: false,
                };
                self.conns.insert(id, conn);
            }
        }
    }

    fn serve(&mut self, core: &mut BrokerCore, now: Now, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Some(reason) = conn.serve(core, now, id, self.frames, &mut self.scratch) {
            self.conns.remove(&id);
            core.disconnect(now, id, reason);
        }
    }
}

impl Conn {
    /// Goes on until it must wait. A reason: the connection is over.
    fn serve(
        &mut self,
        core: &mut BrokerCore,
        now: Now,
        id: ConnId,
        frames: FrameReader,
        scratch: &mut [u8],
    ) -> Option<CloseReason> {
        loop {
            while self.sent < self.out.len() {
                match self.stream.write(&self.out[self.sent..]) {
                    Ok(0) => return None,
                    Ok(count) => self.sent += count,
                    Err(_) => return Some(CloseReason::Client),
                }
            }
            self.out.clear();
            self.sent = 0;
            if self.closing.is_some() {
                return self.closing;
            }
            let outcome = if self.parked.is_some() {
                // While an answer is owed nothing is read, but a reset is noticed.
                core.resume(now, id, &mut self.out)
            } else {
                match frames.frame(&self.input) {
                    Err(_) => return Some(CloseReason::FrameSize),
                    Ok(Some(frame)) => {
                        let frame = Bytes::copy_from_slice(frame);
                        self.input.drain(..PREFIX_BYTES + frame.len());
                        core.handle(now, id, &frame, &mut self.out)
                    }
                    Ok(None) if self.ended => return Some(CloseReason::Client),
                    Ok(None) => {
                        match self.stream.read(scratch) {
                            ReadResult::Data(count) => {
                                self.input.extend_from_slice(&scratch[..count]);
                                continue;
                            }
                            ReadResult::Pending => return None,
                            ReadResult::Ended => self.ended = true,
                            ReadResult::Reset => return Some(CloseReason::Client),
                        }
                        continue;
                    }
                }
            };
            self.parked = None;
            match outcome {
                Outcome::Answered | Outcome::NoAnswer => {}
                Outcome::Parked { until } => {
                    self.parked = Some(until);
                    return None;
                }
                Outcome::Close(reason) => self.closing = Some(reason),
            }
        }
    }
}
