//! The simulator itself: same seed same run, bytes in order, lost wakes visible, faults counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::*;
use crate::base::chunk::{ChunkPool, Piece};
use crate::base::ids::LaneId;
use crate::base::rng::Rng;
use crate::base::sync::park_until;
use crate::mesh::{Budget, LaneSettings, Sleeper, completions, lane, sleeper};
use crate::ring::{Backend, Events, SendChain, Sock, SocketOptions, Wait, Wake};
use crate::testkit::net::{ReadResult, SimListener, SimStream};

fn address(port: u16) -> SocketAddr {
    SocketAddr::new([10, 0, 0, 1].into(), port)
}

/// A server that sends back what it gets, keeping what does not fit.
struct Echo {
    listener: SimListener,
    streams: Vec<(SimStream, VecDeque<u8>, bool)>,
}

impl Actor for Echo {
    fn turn(&mut self, _: Now) -> Option<Time> {
        while let Some(stream) = self.listener.accept() {
            self.streams.push((stream, VecDeque::new(), false));
        }
        self.streams.retain_mut(|(stream, kept, ended)| {
            let mut buffer = [0; 5_000];
            loop {
                match stream.read(&mut buffer) {
                    ReadResult::Data(count) => kept.extend(&buffer[..count]),
                    ReadResult::Pending => break,
                    ReadResult::Ended => {
                        *ended = true;
                        break;
                    }
                    ReadResult::Reset => return false,
                }
            }
            while !kept.is_empty() {
                match stream.write(kept.make_contiguous()) {
                    Ok(0) => break,
                    Ok(count) => drop(kept.drain(..count)),
                    Err(_) => return false,
                }
            }
            !(*ended && kept.is_empty())
        });
        None
    }
}

/// Sends numbered bytes over one connection and checks that they come back; reconnects when it is lost.
struct Client {
    backend: SimBackend,
    state: Rc<RefCell<ClientState>>,
    total: usize,
    /// What there was when it last changed, and when that was.
    progress: ((u32, usize), Time),
}

#[derive(Default)]
struct ClientState {
    sock: Option<Sock>,
    connected: bool,
    sending: bool,
    sent: usize,
    got: usize,
    lost: Vec<io::ErrorKind>,
    closed: u32,
    opened: u32,
}

impl Events for ClientState {
    fn connected(&mut self, sock: Sock) {
        assert_eq!(self.sock, Some(sock));
        self.connected = true;
    }
    fn data(&mut self, sock: Sock, bytes: &[u8]) {
        assert_eq!(self.sock, Some(sock));
        assert!(!bytes.is_empty());
        for byte in bytes {
            assert_eq!(*byte, (self.got % 251) as u8, "byte {} out of order", self.got);
            self.got += 1;
        }
        assert!(self.got <= self.sent);
    }
    fn sent(&mut self, _: Sock, chain: SendChain) {
        assert!(std::mem::take(&mut self.sending));
        assert!(!chain.pieces.is_empty());
    }
    fn closed(&mut self, sock: Sock, why: io::Error, unsent: Option<SendChain>, written: usize) {
        assert_eq!(self.sock.take(), Some(sock), "closed once");
        let len: usize = unsent.iter().flat_map(|chain| &chain.pieces).map(Piece::len).sum();
        assert!(written <= len);
        self.lost.push(why.kind());
        self.closed += 1;
        (self.connected, self.sending, self.sent, self.got) = (false, false, 0, 0);
    }
}

impl Actor for Client {
    fn turn(&mut self, now: Now) -> Option<Time> {
        let mut state = self.state.borrow_mut();
        if state.sock.is_none() && state.got < self.total {
            state.sock = self.backend.open(address(1), &SocketOptions::default()).ok();
            state.opened += 1;
        }
        if let Some(sock) = state.sock
            && state.connected
            && !state.sending
            && state.sent < self.total
        {
            let pool = ChunkPool::new(0);
            let mut pieces = Vec::new();
            for len in [10, 3_000, 1] {
                let mut chunk = pool.take(len);
                for _ in 0..len.min(self.total - state.sent) {
                    chunk.put(&[(state.sent % 251) as u8]);
                    state.sent += 1;
                }
                pieces.push(Piece::whole(chunk));
            }
            assert!(self.backend.send(sock, SendChain { pieces }).is_ok());
            assert!(self.backend.send(sock, SendChain::default()).is_err(), "one chain in flight");
            state.sending = true;
        }
        let wait = Wait::Until(now.mono + Duration::from_secs(3));
        self.backend.turn(wait, &mut *state).unwrap();
        let progress = (state.opened, state.got);
        if progress != self.progress.0 {
            self.progress = (progress, now.mono);
        }
        // Nothing came for a long time: a black hole. Give it up.
        if let Some(sock) = state.sock
            && now.mono.since(self.progress.1) > Duration::from_secs(6)
        {
            self.backend.close(sock);
        }
        None
    }
}

fn echo_world(seed: u64, rates: Rates) -> (World, Rc<RefCell<ClientState>>) {
    let mut world = World::new(seed, Climate::rough(), rates);
    let server = world.party("echo");
    let listener = SimListener::bind(world.net(), address(1), server).unwrap();
    world.spawn(server, Echo { listener, streams: Vec::new() });
    let client = world.party("client");
    let state = Rc::new(RefCell::new(ClientState::default()));
    let backend = world.backend(client);
    world.spawn(client, Client { backend, state: state.clone(), total: 200_000, progress: Default::default() });
    (world, state)
}

#[test]
fn bytes_come_back_in_order_through_fragments_and_stalls() {
    let rates = Rates { cut: 0, refuse: 0, black_hole: 0, ..Rates::rough() };
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..4 {
        let (mut world, state) = echo_world(seed, rates);
        let seen = state.clone();
        world.run(Duration::from_secs(600), || seen.borrow().got == 200_000);
        assert_eq!(state.borrow().lost, []);
        world.schedule().counts().into_iter().for_each(|(what, count)| *counts.entry(what).or_insert(0) += count);
    }
    for what in ["writes fragmented", "parties stalled", "writes stalled"] {
        assert!(counts.contains_key(what), "{what} never occurred: {counts:?}");
    }
}

#[test]
fn lost_connections_end_once_and_a_new_one_works() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let (mut world, state) = echo_world(seed, Rates { cut: 100, ..Rates::rough() });
        let seen = state.clone();
        world.run(Duration::from_secs(3_600), || seen.borrow().got == 200_000);
        let state = state.borrow();
        assert_eq!(state.opened, state.closed + 1);
        kinds.extend(state.lost.iter().map(|kind| format!("{kind:?}")));
    }
    assert!(kinds.contains("ConnectionReset") && kinds.contains("ConnectionRefused"), "{kinds:?}");
}

#[test]
fn r13_the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let (mut world, state) = echo_world(seed, Rates::rough());
        world.run(Duration::from_secs(3_600), || state.borrow().got == 200_000);
        world.report()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_held_host_delivers_nothing_until_released_and_then_everything() {
    let (mut world, state) = echo_world(3, Rates::calm());
    let seen = state.clone();
    world.run(Duration::from_secs(5), || seen.borrow().got > 20_000);
    world.net().hold(address(1), true);
    let held_at = state.borrow().got;
    let seen = state.clone();
    let now = world.schedule().time();
    assert_eq!(world.run_until(now + Duration::from_secs(4), || seen.borrow().got > held_at), Outcome::TimeUp);
    world.net().hold(address(1), false);
    world.run(Duration::from_secs(5), || seen.borrow().got == 200_000);
    assert_eq!(state.borrow().opened, 1);
    world.net().reset(address(1));
    let seen = state.clone();
    world.run(Duration::from_secs(5), || seen.borrow().closed == 1);
    assert_eq!(state.borrow().lost, [io::ErrorKind::ConnectionReset]);
}

#[test]
fn a_host_that_refuses_or_is_gone_is_reported() {
    let (mut world, state) = echo_world(3, Rates::calm());
    world.net().refuse(address(1), true);
    let seen = state.clone();
    world.run(Duration::from_secs(5), || seen.borrow().closed == 3);
    world.net().refuse(address(1), false);
    let seen = state.clone();
    world.run(Duration::from_secs(5), || seen.borrow().got > 1_000);
    // The server's process dies: connections end, attempts are refused.
    world.kill(Party(0));
    let seen = state.clone();
    let before = state.borrow().closed;
    world.run(Duration::from_secs(15), || seen.borrow().closed > before + 1);
    assert_eq!(state.borrow().lost.last(), Some(&io::ErrorKind::ConnectionRefused));
}

/// A shard-like reader, a handle-like writer, completions back, one budget: every number arrives in order, is answered, and
/// neither side ever sleeps through it, although pushes are seen late and wakes come late or twice.
struct Pair {
    got: Rc<Cell<u64>>,
    answered: Rc<Cell<u64>>,
}

fn mesh_world(seed: u64, total: u64, lose_wakes: bool) -> (World, Pair) {
    let mut world = World::new(seed, Climate::rough(), Rates::calm());
    let pair = Pair { got: Rc::default(), answered: Rc::default() };
    let (shard, app) = (world.party("shard"), world.party("app"));
    let budget = Budget::new(20_000);
    let waker = world.sim_waker(shard);
    let (mut sleeper, doorbell): (Sleeper, _) = sleeper(&world.medium(shard), move || {
        if !lose_wakes {
            waker.wake();
        }
    });
    let settings = LaneSettings { medium: world.medium(shard), ..Default::default() };
    let (mut writer, mut reader) = lane(LaneId(0), settings);
    let (mut outcomes, mut answers) = completions::<u64>(4, &world.medium(app));
    let mut backend = world.backend(shard);
    let (got, freed) = (pair.got.clone(), budget.clone());
    world.spawn(shard, move |_: Now| {
        sleeper.turn_begins();
        let mut taken = 0;
        for entry in reader.readable().chunks(100) {
            let number = u64::from_le_bytes(entry[..8].try_into().unwrap());
            assert_eq!(number, got.get(), "FIFO");
            got.set(number + 1);
            outcomes.push(number);
            taken += entry.len();
        }
        reader.consume(taken);
        freed.give_back(taken as u64);
        outcomes.flush();
        sleeper.prepare(Time::NEVER);
        let wait = if reader.has_readable() || outcomes.pending() > 0 { Wait::Poll } else { Wait::Forever };
        backend.turn(wait, &mut ClientState::default()).unwrap();
        sleeper.waited();
        None
    });
    let answered = pair.answered.clone();
    let waker = world.waker(app);
    let mut rng = Rng::new(seed);
    let (mut sent, mut take) = (0, None::<crate::mesh::budget::Take>);
    world.spawn(app, move |now: Now| {
        let context = &mut Context::from_waker(&waker);
        while let Poll::Ready(Some(number)) = answers.poll_pop(context) {
            assert_eq!(number, answered.get());
            answered.set(number + 1);
        }
        for _ in 0..rng.below(60) {
            if sent == total {
                break;
            }
            let ready = take.get_or_insert_with(|| budget.take(100, Time::NEVER)).poll_take(context);
            if ready.is_pending() {
                return None;
            }
            take = None;
            let entry = writer.reserve(100).unwrap();
            entry[..8].copy_from_slice(&u64::to_le_bytes(sent));
            writer.commit(100);
            sent += 1;
            doorbell.notify_now();
        }
        (sent < total).then(|| now.mono + Duration::from_micros(rng.below(300)))
    });
    (world, pair)
}

#[test]
fn r13_lanes_completions_and_budget_survive_late_pushes_and_wakes() {
    for seed in 0..8 {
        let (mut world, pair) = mesh_world(seed, 3_000, false);
        world.run(Duration::from_secs(60), || pair.answered.get() == 3_000);
        assert_eq!(pair.got.get(), 3_000);
        let schedule = world.schedule();
        assert!(schedule.counted("pushes seen late") > 0 && schedule.counted("wakes that came twice") > 0);
    }
}

#[test]
fn r13_a_lost_wake_is_found() {
    let (mut world, pair) = mesh_world(1, 3_000, true);
    let outcome = world.run_until(Time::ZERO + Duration::from_secs(600), || pair.answered.get() == 3_000);
    assert_eq!(outcome, Outcome::Stuck);
}

#[test]
fn tasks_sleep_in_virtual_time_and_the_wall_clock_may_jump() {
    let mut world = World::calm(9);
    let done = Rc::new(Cell::new(false));
    let (flag, sleep) = (done.clone(), world.sleep(Duration::from_secs(3_600)));
    world.spawn_task("app", async move {
        sleep.await;
        flag.set(true);
    });
    let before = world.clock().now();
    world.clock().jump_wall(-5_000);
    world.run(Duration::from_secs(3_601), || done.get());
    let after = world.clock().now();
    assert_eq!(after.mono.since(before.mono).as_secs(), 3_600);
    assert_eq!(after.wall_ms - before.wall_ms, 3_595_000);
}

/// Threads wait in virtual time, one runs at a time, and the same seed gives the same run.
#[test]
fn r13_threads_that_block_are_parties_like_others() {
    fn run(seed: u64) -> (Vec<(u32, u64)>, u64) {
        let mut world = World::rough(seed);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        for name in 0..3 {
            let (clock, seen) = (world.clock(), Arc::clone(&seen));
            world
                .spawn_thread("sleeper", move || {
                    for _ in 0..20 {
                        let until = clock.time() + Duration::from_millis(10);
                        assert_eq!(park_until::<()>(until, &clock, |_| Poll::Pending), None);
                        seen.lock().unwrap().push((name, clock.time().0));
                    }
                })
                .unwrap();
        }
        world.run(Duration::from_secs(60), || seen.lock().unwrap().len() == 60);
        let seen = seen.lock().unwrap().clone();
        (seen, world.schedule().trace_hash())
    }
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).1, run(4).1);
}

#[test]
fn r13_a_thread_hears_wakes_ends_with_its_world_and_panics_into_it() {
    let mut world = World::calm(1);
    let event = crate::mesh::Event::new();
    let heard = Arc::new(std::sync::Mutex::new(None));
    let (clock, waited, note) = (world.clock(), event.clone(), Arc::clone(&heard));
    world
        .spawn_thread("waits for a wake", move || {
            assert!(waited.wait(Time::NEVER, &clock));
            *note.lock().unwrap() = Some(clock.time());
        })
        .unwrap();
    let clock = world.clock();
    world.spawn_task("wakes", async move {
        clock.sleep(Duration::from_millis(7)).await;
        event.set();
    });
    world.run(Duration::from_secs(1), || heard.lock().unwrap().is_some());
    assert_eq!(heard.lock().unwrap().map(Time::as_millis), Some(7));

    struct Dropped(Arc<std::sync::Mutex<u32>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock().unwrap() += 1;
        }
    }
    let ended = Arc::new(std::sync::Mutex::new(0));
    let (clock, mine) = (world.clock(), Dropped(Arc::clone(&ended)));
    world
        .spawn_thread("waits for ever", move || {
            let _mine = mine;
            park_until::<()>(Time::NEVER, &clock, |_| Poll::Pending);
        })
        .unwrap();
    world.run_until(world.clock().time() + Duration::from_millis(1), || false);
    drop(world);
    assert_eq!(*ended.lock().unwrap(), 1, "the thread ended with its world");

    let mut world = World::calm(1);
    world.spawn_thread("panics", || std::panic::resume_unwind(Box::new("on purpose"))).unwrap();
    let run = std::panic::AssertUnwindSafe(|| world.run_until(Time(1_000_000), || false));
    let said = std::panic::catch_unwind(run).unwrap_err();
    assert_eq!(said.downcast_ref::<&str>(), Some(&"on purpose"));
}
