//! Faults on real sockets: a TCP proxy in front of a broker that delays, holds, cuts and refuses.
//!
//! ```text
//!   client ──► accept ──► reader ─(due, bytes)─► writer ──► upstream       two threads per direction, so that a delay
//!          ◄── writer ◄─(due, bytes)─ reader ◄──────────────────────       takes time and not throughput
//! ```
//! Kafka names its listeners in Metadata answers: start it with `advertised.listeners` at the proxy's address.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const READ_BYTES: usize = 16 << 10;
/// Pieces on their way in one direction; beyond that the sender feels it, as with a full pipe.
const PIECES_MAX: usize = 1024;

/// A proxy. Dropping it cuts all connections and stops listening.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    delay: Duration,
    held: bool,
    refusing: bool,
    /// Bytes that may still pass until everything is cut; `None`: any number.
    bytes_left: Option<u64>,
    /// Somebody saw the last of these bytes pass and is about to cut.
    cutting: bool,
    stopped: bool,
    open: Vec<Open>,
    accepted: u64,
    passed_bytes: u64,
    cut: u64,
}

/// Both sides of a connection, to cut it.
#[derive(Debug)]
struct Open {
    id: u64,
    client: TcpStream,
    upstream: TcpStream,
    /// One direction has ended; when the other does too, it is forgotten.
    half: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl State {
    fn cut_all(&mut self) {
        for Open { client, upstream, .. } in self.open.drain(..) {
            self.cut += 1;
            // Either may have gone already.
            let _ = client.shutdown(Shutdown::Both);
            let _ = upstream.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// Listens on `listen` (port 0: any) and connects each client to `upstream`.
    pub fn start(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            for client in listener.incoming() {
                if accepting.lock().stopped {
                    return;
                }
                // A client that is gone, or an upstream that is: the other one learns it by the end of its connection.
                let _ = client.and_then(|client| accept(&accepting, client, upstream));
            }
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long every byte takes longer, each way, from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// A black hole (true): nothing passes and nobody is told; what came meanwhile passes afterwards (false).
    pub fn hold(&self, held: bool) {
        self.shared.change(|state| state.held = held);
    }

    /// Ends new connections as soon as they are made (true), or serves them again (false).
    pub fn refuse(&self, refusing: bool) {
        self.shared.change(|state| state.refusing = refusing);
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        self.shared.change(State::cut_all);
    }

    /// Ends all connections once, after `bytes` more have passed, both ways and all connections together: in the middle of
    /// whatever they belong to.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.change(|state| state.bytes_left = Some(bytes));
    }

    /// Connections accepted, and connections cut.
    pub fn connections(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.accepted, state.cut)
    }

    /// Bytes passed, both ways.
    pub fn passed_bytes(&self) -> u64 {
        self.shared.lock().passed_bytes
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.stopped = true;
            state.cut_all();
        });
        // Ends the acceptor's wait; when it has ended, the port is free again.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken.is_ok()) {
            // A panic of the acceptor is told by the tests that miss its connections.
            let _ = acceptor.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    if shared.lock().refusing {
        return client.shutdown(Shutdown::Both);
    }
    let upstream = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let id = {
        let mut state = shared.lock();
        state.accepted += 1;
        let id = state.accepted;
        state.open.push(Open { id, client: client.try_clone()?, upstream: upstream.try_clone()?, half: false });
        id
    };
    pump(shared, id, client.try_clone()?, upstream.try_clone()?)?;
    pump(shared, id, upstream, client)
}

/// Moves bytes one way, on two threads of its own.
fn pump(shared: &Arc<Shared>, id: u64, from: TcpStream, to: TcpStream) -> io::Result<()> {
    let (pieces, queue) = sync_channel(PIECES_MAX);
    let (reading, writing) = (Arc::clone(shared), Arc::clone(shared));
    thread::Builder::new().name("proxy-read".to_owned()).spawn(move || read(&reading, from, &pieces))?;
    thread::Builder::new().name("proxy-write".to_owned()).spawn(move || write(&writing, id, to, &queue))?;
    Ok(())
}

fn read(shared: &Shared, mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let due = Instant::now() + shared.lock().delay;
        if pieces.send((due, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
    // Dropping the sender tells the writer that this direction has ended.
}

fn write(shared: &Shared, id: u64, mut to: TcpStream, queue: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in queue {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut state = shared.lock();
        while state.held && !state.stopped {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // What a cut connection still had on its way is gone, and counts for no later cut.
        if !state.open.iter().any(|open| open.id == id) {
            break;
        }
        let count =
            state.bytes_left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        state.passed_bytes += count as u64;
        let cut = match &mut state.bytes_left {
            Some(left) => {
                *left -= count as u64;
                // One cuts: a second one would come late and undo the next `cut_after`.
                *left == 0 && !std::mem::replace(&mut state.cutting, true)
            }
            None => false,
        };
        drop(state);
        let written = to.write_all(&bytes[..count]);
        if cut {
            shared.change(|state| {
                state.bytes_left = None;
                state.cutting = false;
                state.cut_all();
            });
        }
        if written.is_err() {
            break;
        }
    }
    // Half-close is passed on. It fails on a connection that was cut, which is just as well.
    let _ = to.shutdown(Shutdown::Write);
    shared.lock().open.retain_mut(|open| open.id != id || !std::mem::replace(&mut open.half, true));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        });
        address
    }

    fn proxy() -> Proxy {
        Proxy::start(SocketAddr::new([127, 0, 0, 1].into(), 0), echo()).unwrap()
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(bytes)?;
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn bytes_pass_unchanged_and_late_by_the_delay_each_way() {
        let proxy = proxy();
        let mut stream = connect(&proxy);
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(ask(&mut stream, &bytes).unwrap(), bytes);
        proxy.set_delay(Duration::from_millis(30));
        let start = Instant::now();
        assert_eq!(ask(&mut stream, b"later").unwrap(), b"later");
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert_eq!(proxy.passed_bytes(), 2 * (50_000 + 5));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "half-close goes round");
        while !proxy.shared.lock().open.is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_cut_comes_in_the_middle_and_the_next_connection_works() {
        let proxy = proxy();
        let mut stream = connect(&proxy);
        proxy.cut_after(150);
        stream.write_all(&[7; 100]).unwrap();
        let mut got = Vec::new();
        // Cut: an end or a reset, after no more than the 50 bytes that were left.
        let _ = stream.read_to_end(&mut got);
        assert!(got.len() <= 50, "{}", got.len());
        assert_eq!(ask(&mut connect(&proxy), b"again").unwrap(), b"again");
        assert_eq!(proxy.connections(), (2, 1));
    }

    #[test]
    fn what_is_held_comes_after_and_what_is_refused_ends() {
        let proxy = proxy();
        let mut stream = connect(&proxy);
        proxy.hold(true);
        stream.write_all(b"held").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read(&mut [0; 8]).is_err(), "nothing comes");
        proxy.hold(false);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"held");
        proxy.refuse(true);
        assert!(ask(&mut connect(&proxy), b"no").is_err());
        proxy.refuse(false);
        assert!(ask(&mut connect(&proxy), b"yes").is_ok());
        proxy.cut();
        assert!(ask(&mut stream, b"cut").is_err());
    }
}
