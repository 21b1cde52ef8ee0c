//! The same behaviour from every backend, shown on real loopback sockets. `suite` is generic; the last lines of this file
//! run all of it on epoll and on io_uring.

#![allow(clippy::unwrap_used)] // a test's helpers are tests too

mod ring_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ottla::base::chunk::{ChunkPool, Piece};
use ottla::ring::uring::UringBackend;
use ottla::ring::{Backend, BackendKind, RingSettings, SendChain, Sock, SocketOptions, Wait, Wake};
use ring_support::{Log, chain_of, connect, listen, pattern, run_until, spill_listener};

const MIB: usize = 1 << 20;

mod suite {
    use super::*;

    pub fn a_connection_is_reported_once_and_carries_bytes_both_ways<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        for host in ["127.0.0.1", "::1"] {
            let (listener, address) = listen(host);
            let peer = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&request).unwrap();
                stream
            });
            let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
            let sock = connect(&mut backend, &mut log, address);
            let pool = ChunkPool::new(0);
            backend.send(sock, chain_of(&pool, &[b"ping"])).unwrap();
            run_until(&mut backend, &mut log, |log| log.received(sock) == b"ping" && log.sent.len() == 1);
            assert_eq!((log.connected.len(), log.closed.len()), (1, 0));
            drop(peer.join().unwrap());
        }
    }

    pub fn a_refused_connection_ends_closed<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        drop(listener);
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = backend.open(address, &SocketOptions::default()).unwrap();
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        let closed = log.closed(sock);
        assert_eq!((closed.kind, closed.unsent.is_none(), closed.written), (ErrorKind::ConnectionRefused, true, 0));
        assert!(log.connected.is_empty());
    }

    pub fn a_connect_without_answer_can_be_closed<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (_full, address) = spill_listener();
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = backend.open(address, &SocketOptions::default()).unwrap();
        backend.turn(Wait::Until(backend.now().mono + Duration::from_millis(20)), &mut log).unwrap();
        assert!(log.connected.is_empty() && log.closed.is_empty());
        let pool = ChunkPool::new(0);
        assert!(backend.send(sock, chain_of(&pool, &[b"early"])).is_err(), "a send before the connection");
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        assert_eq!(log.closed(sock).kind, ErrorKind::ConnectionAborted);
        assert!(log.connected.is_empty());
    }

    /// 8 MiB in 500 pieces of uneven sizes out, the same back.
    pub fn long_chains_arrive_exactly_both_ways<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = vec![0; 8 * MIB];
            stream.read_exact(&mut all).unwrap();
            stream.write_all(&all).unwrap();
            stream
        });
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let bytes = pattern(8 * MIB, 7);
        let pool = ChunkPool::new(0);
        backend.send(sock, cut(&pool, &bytes, 500)).unwrap();
        run_until(&mut backend, &mut log, |log| log.received(sock).len() >= bytes.len());
        assert!(log.received(sock) == bytes, "the bytes that came back are not the bytes that went out");
        assert_eq!(log.sent.len(), 1);
        assert!(log.closed.is_empty());
        drop(peer.join().unwrap());
    }

    /// More pieces than one system call takes.
    pub fn a_chain_of_3000_pieces_arrives_exactly<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let peer = thread::spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let bytes = pattern(MIB, 9);
        let pool = ChunkPool::new(0);
        backend.send(sock, cut(&pool, &bytes, 3000)).unwrap();
        run_until(&mut backend, &mut log, |log| log.sent.len() == 1);
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| log.closed.len() == 1);
        assert!(peer.join().unwrap() == bytes);
    }

    pub fn one_send_is_in_flight_and_the_chain_comes_back<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        let pool = ChunkPool::new(0);
        let chain = chain_of(&pool, &[b"first, ", b"", b"whole. "]);
        let memory = chain.pieces.as_ptr();
        backend.send(sock, chain).unwrap();
        let refused = backend.send(sock, chain_of(&pool, &[b"second"])).unwrap_err();
        assert_eq!(refused.pieces[0].bytes(), b"second");
        run_until(&mut backend, &mut log, |log| log.sent.len() == 1);
        let (from, chain) = log.sent.pop().unwrap();
        assert_eq!((from, chain.pieces.len(), chain.pieces.as_ptr()), (sock, 3, memory));
        backend.send(sock, refused).unwrap();
        run_until(&mut backend, &mut log, |log| log.sent.len() == 1);
        let mut got = [0; 20];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"first, whole. second");
    }

    pub fn a_chain_without_bytes_is_sent_at_once<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let _peer = listener.accept().unwrap().0;
        let pool = ChunkPool::new(0);
        for chain in [SendChain::default(), chain_of(&pool, &[b"", b""])] {
            backend.send(sock, chain).unwrap();
            run_until(&mut backend, &mut log, |log| log.sent.len() == 1);
            log.sent.clear();
        }
        backend.send(sock, SendChain::default()).unwrap();
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| log.closed.len() == 1);
    }

    pub fn the_peers_last_bytes_come_before_its_end<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let bytes = pattern(300_000, 3);
        let mut peer = listener.accept().unwrap().0;
        let writer = thread::spawn({
            let bytes = bytes.clone();
            move || peer.write_all(&bytes).unwrap()
        });
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        writer.join().unwrap();
        assert!(log.received(sock) == bytes);
        assert_eq!(log.closed(sock).kind, ErrorKind::UnexpectedEof);
        assert_eq!(log.data_after_close, 0);
    }

    /// The peer takes a part of a chain and resets the connection.
    pub fn a_reset_in_a_send_gives_the_chain_back_with_its_count<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut vec![0; MIB]).unwrap();
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        });
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let pool = ChunkPool::new(0);
        let bytes = pattern(32 * MIB, 1);
        backend.send(sock, cut(&pool, &bytes, 64)).unwrap();
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        peer.join().unwrap();
        let closed = log.closed(sock);
        assert!(
            matches!(closed.kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof),
            "{:?}",
            closed.kind
        );
        assert_eq!(closed.unsent.as_ref().unwrap().pieces.len(), 64);
        assert!((MIB..bytes.len()).contains(&closed.written), "{}", closed.written);
        assert!(log.sent.is_empty());
        log.closed.clear();
        assert_eq!(pool.out_bytes(), 0);
    }

    pub fn close_ends_an_armed_receive_once<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        backend.turn(Wait::Poll, &mut log).unwrap();
        peer.write_all(b"too late").unwrap();
        backend.close(sock);
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        backend.close(sock);
        backend.turn(Wait::Poll, &mut log).unwrap();
        backend.turn(Wait::Poll, &mut log).unwrap();
        assert_eq!(log.closed.len(), 1);
        assert_eq!(log.closed(sock).kind, ErrorKind::ConnectionAborted);
        assert!(log.received(sock).is_empty(), "data came after close");
        // The end reaches the peer: the socket is really gone (unread data makes it a reset).
        let end = peer.read(&mut [0; 8]);
        assert!(
            matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
    }

    /// The kernel holds the chain until `closed`, and nobody holds it after.
    pub fn close_ends_a_send_that_a_stalled_peer_blocks<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let peer = listener.accept().unwrap().0;
        let pool = ChunkPool::new(0);
        let bytes = pattern(64 * MIB, 5);
        backend.send(sock, cut(&pool, &bytes, 128)).unwrap();
        let out = pool.out_bytes();
        backend.turn(Wait::Poll, &mut log).unwrap();
        backend.turn(Wait::Until(backend.now().mono + Duration::from_millis(30)), &mut log).unwrap();
        backend.close(sock);
        assert!(log.sent.is_empty() && log.closed.is_empty());
        assert_eq!(pool.out_bytes(), out, "memory was freed before the kernel let go");
        run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
        backend.turn(Wait::Poll, &mut log).unwrap();
        assert_eq!(log.closed.len(), 1);
        let closed = log.closed(sock);
        assert_eq!(closed.kind, ErrorKind::ConnectionAborted);
        let written = closed.written;
        assert!(closed.unsent.is_some() && written > 0 && written < bytes.len(), "{written}");
        assert_eq!(backend.stats().sent_bytes, written as u64);
        log.closed.clear();
        assert_eq!(pool.out_bytes(), 0, "somebody still holds a piece after closed");
        // What the kernel took is a prefix of the chain.
        let mut got = Vec::new();
        let mut peer = peer;
        let _ = peer.read_to_end(&mut got);
        assert!(got.len() <= written && got[..] == bytes[..got.len()]);
    }

    pub fn a_wake_before_the_wait_counts<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let waker = backend.waker();
        let start = Instant::now();
        for _ in 0..3 {
            thread::spawn({
                let waker = waker.clone();
                move || waker.wake()
            })
            .join()
            .unwrap();
            backend.turn(Wait::Until(backend.now().mono + Duration::from_secs(30)), &mut log).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(25));
        assert!((1..=3).contains(&backend.stats().wakes));
    }

    pub fn a_wake_ends_a_wait<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let (done, waits) = mpsc::channel::<()>();
        let waker = backend.waker();
        // Wakes until the main thread says that it is through: no moment of the wait is missed.
        let other = thread::spawn(move || {
            while waits.recv_timeout(Duration::from_millis(1)).is_err_and(|e| e == mpsc::RecvTimeoutError::Timeout) {
                waker.wake();
            }
        });
        let mut seen = 0;
        while backend.stats().wakes < 50 {
            backend.turn(Wait::Forever, &mut log).unwrap();
            seen += 1;
            assert!(seen < 10_000, "turns return without a wake");
        }
        drop(done);
        other.join().unwrap();
    }

    pub fn a_wake_of_a_dropped_backend_is_harmless<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let backend = make(&RingSettings::default());
        let waker = backend.waker();
        drop(backend);
        waker.wake();
        let _second = make(&RingSettings::default());
        waker.wake();
    }

    pub fn a_wait_ends_at_its_time_and_not_before<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        // Leave behind what the start made.
        backend.turn(Wait::Poll, &mut log).unwrap();
        for wait in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(40)] {
            let start = Instant::now();
            let until = backend.now().mono + wait;
            backend.turn(Wait::Until(until), &mut log).unwrap();
            assert!(backend.now().mono >= until, "returned early from {wait:?}");
            assert!(start.elapsed() < wait + Duration::from_secs(2));
        }
        // A time in the past is no wait at all.
        backend.turn(Wait::Until(ottla::base::time::Time::ZERO), &mut log).unwrap();
    }

    /// 200 sockets share 8 buffers; every stream stays whole although the ring runs dry again and again.
    pub fn two_hundred_sockets_share_eight_buffers<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        const SOCKETS: usize = 200;
        const BYTES: usize = 200_000;
        let (listener, address) = listen("127.0.0.1");
        let settings = RingSettings { buffer_count: 8, buffer_bytes: 4 << 10, ..RingSettings::default() };
        let (mut backend, mut log) = (make(&settings), Log::default());
        let peer = thread::spawn(move || {
            let mut streams: Vec<TcpStream> = (0..SOCKETS).map(|_| listener.accept().unwrap().0).collect();
            // The number of the stream comes first, so that each side knows which bytes to expect.
            let patterns: Vec<Vec<u8>> = (0..SOCKETS).map(|i| pattern(BYTES, i as u64)).collect();
            for at in (0..BYTES).step_by(20_000) {
                for (stream, bytes) in streams.iter_mut().zip(&patterns) {
                    stream.write_all(&bytes[at..(at + 20_000).min(BYTES)]).unwrap();
                }
            }
            for stream in &streams {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            streams
        });
        let socks: Vec<Sock> =
            (0..SOCKETS).map(|_| backend.open(address, &SocketOptions::default()).unwrap()).collect();
        run_until(&mut backend, &mut log, |log| log.closed.len() == SOCKETS);
        drop(peer.join().unwrap());
        // Loopback accepts in the order of the handshakes, which need not be the order of `open`: compare as a set.
        let mut left: Vec<Vec<u8>> = (0..SOCKETS).map(|i| pattern(BYTES, i as u64)).collect();
        for sock in &socks {
            let got = log.received(*sock);
            let at = left.iter().position(|bytes| *bytes == got);
            left.swap_remove(at.unwrap_or_else(|| panic!("{sock:?}: {} bytes that nobody sent", got.len())));
        }
        assert!(log.closed.iter().all(|closed| closed.kind == ErrorKind::UnexpectedEof));
        assert_eq!(backend.stats().received_bytes, (SOCKETS * BYTES) as u64);
        if backend.kind() == BackendKind::IoUring {
            assert!(backend.stats().starved > 0, "the ring never ran dry: the test proves nothing");
        }
    }

    /// Paused, at most what was on its way comes; resumed, everything comes in order.
    pub fn a_paused_socket_receives_nothing_until_resumed<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        let bytes = pattern(32 * MIB, 2);
        backend.receive(sock, false);
        // Let the pause reach the kernel, then send.
        for _ in 0..3 {
            backend.turn(Wait::Poll, &mut log).unwrap();
        }
        let writer = thread::spawn({
            let bytes = bytes.clone();
            move || {
                peer.write_all(&bytes[..MIB / 2]).unwrap();
                peer.write_all(&bytes[MIB / 2..]).unwrap();
                peer
            }
        });
        for _ in 0..20 {
            backend.turn(Wait::Until(backend.now().mono + Duration::from_millis(2)), &mut log).unwrap();
        }
        assert!(!writer.is_finished(), "32 MiB went into a socket nobody reads");
        assert!(log.received(sock).is_empty(), "{} bytes came while paused", log.received(sock).len());
        backend.receive(sock, true);
        run_until(&mut backend, &mut log, |log| log.received(sock).len() >= 2 * MIB);
        // Pause and resume within one turn, and again in the middle of a flood.
        backend.receive(sock, false);
        backend.receive(sock, true);
        backend.turn(Wait::Poll, &mut log).unwrap();
        backend.receive(sock, false);
        for _ in 0..50 {
            backend.turn(Wait::Until(backend.now().mono + Duration::from_micros(500)), &mut log).unwrap();
        }
        let held = log.received(sock).len();
        for _ in 0..20 {
            backend.turn(Wait::Until(backend.now().mono + Duration::from_millis(1)), &mut log).unwrap();
        }
        assert_eq!(log.received(sock).len(), held, "data came long after the pause");
        backend.receive(sock, true);
        run_until(&mut backend, &mut log, |log| log.received(sock).len() >= bytes.len());
        assert!(log.received(sock) == bytes);
        drop(writer.join().unwrap());
    }

    pub fn a_paused_socket_still_sends<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        backend.receive(sock, false);
        for _ in 0..3 {
            backend.turn(Wait::Poll, &mut log).unwrap();
        }
        peer.write_all(b"held").unwrap();
        let pool = ChunkPool::new(0);
        for _ in 0..3 {
            backend.send(sock, chain_of(&pool, &[b"out"])).unwrap();
            run_until(&mut backend, &mut log, |log| log.sent.len() == 1);
            log.sent.clear();
            let mut got = [0; 3];
            peer.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"out");
        }
        assert!(log.received(sock).is_empty(), "a send let data through the pause");
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| log.closed.len() == 1);
    }

    /// A socket paused before it is connected receives nothing either.
    pub fn a_pause_before_the_connection_holds<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = backend.open(address, &SocketOptions::default()).unwrap();
        backend.receive(sock, false);
        run_until(&mut backend, &mut log, |log| log.connected.len() == 1);
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"held").unwrap();
        for _ in 0..10 {
            backend.turn(Wait::Until(backend.now().mono + Duration::from_millis(1)), &mut log).unwrap();
        }
        assert!(log.received(sock).is_empty());
        backend.receive(sock, true);
        run_until(&mut backend, &mut log, |log| log.received(sock) == b"held");
    }

    pub fn a_reused_slot_is_another_socket<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let pool = ChunkPool::new(0);
        let mut old = connect(&mut backend, &mut log, address);
        for round in 1..=5u8 {
            let mut peer = listener.accept().unwrap().0;
            peer.write_all(&[round]).unwrap();
            run_until(&mut backend, &mut log, |log| log.received(old) == [round]);
            backend.close(old);
            run_until(&mut backend, &mut log, |log| log.closed.len() == round as usize);
            let new = connect(&mut backend, &mut log, address);
            assert_eq!(new.index, old.index, "the slot was not reused");
            assert_ne!(new, old);
            // The dead key reaches nothing of the new socket.
            assert!(backend.send(old, chain_of(&pool, &[b"x"])).is_err());
            backend.receive(old, false);
            backend.close(old);
            old = new;
        }
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"alive").unwrap();
        run_until(&mut backend, &mut log, |log| log.received(old) == b"alive");
        assert_eq!(log.closed.len(), 5);
    }

    pub fn what_happens_is_counted<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        let pool = ChunkPool::new(0);
        backend.send(sock, chain_of(&pool, &[b"12345"])).unwrap();
        peer.write_all(b"123").unwrap();
        backend.waker().wake();
        let before = backend.stats().turns;
        run_until(&mut backend, &mut log, |log| log.sent.len() == 1 && log.received(sock).len() == 3);
        backend.turn(Wait::Poll, &mut log).unwrap();
        backend.turn(Wait::Poll, &mut log).unwrap();
        let stats = backend.stats();
        assert_eq!((stats.sent_bytes, stats.received_bytes, stats.wakes), (5, 3, 1));
        assert!(stats.turns > before && stats.syscalls > 0);
    }

    /// Sends, receives and connects in flight, and the backend is dropped.
    pub fn a_dropped_backend_gives_all_memory_back<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let (_full, nowhere) = spill_listener();
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let pool = ChunkPool::new(0);
        let sock = connect(&mut backend, &mut log, address);
        let mut peer = listener.accept().unwrap().0;
        let bytes = pattern(32 * MIB, 8);
        backend.send(sock, cut(&pool, &bytes, 40)).unwrap();
        backend.open(nowhere, &SocketOptions::default()).unwrap();
        backend.turn(Wait::Poll, &mut log).unwrap();
        assert!(pool.out_bytes() > 0);
        let start = Instant::now();
        drop(backend);
        assert!(start.elapsed() < Duration::from_secs(3), "draining took {:?}", start.elapsed());
        assert_eq!(pool.out_bytes(), 0);
        let mut got = Vec::new();
        let _ = peer.read_to_end(&mut got);
        assert!(got.len() < bytes.len() && got[..] == bytes[..got.len()]);
    }

    /// The limit of a turn holds with several loud sockets, and a quiet one is heard beside them.
    pub fn a_turn_receives_no_more_than_it_may<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        const LOUD: usize = 3;
        const EACH: usize = 8 * MIB;
        let (listener, address) = listen("127.0.0.1");
        let settings = RingSettings { buffer_bytes: 16 << 10, turn_bytes_max: 64 << 10, ..RingSettings::default() };
        let (mut backend, mut log) = (make(&settings), Log::default());
        let mut louds = Vec::new();
        let mut writers = Vec::new();
        for _ in 0..LOUD {
            louds.push(connect(&mut backend, &mut log, address));
            let mut peer = listener.accept().unwrap().0;
            writers.push(thread::spawn(move || {
                peer.write_all(&pattern(EACH, 4)).unwrap();
                peer
            }));
        }
        let quiet = connect(&mut backend, &mut log, address);
        let mut quiet_peer = listener.accept().unwrap().0;
        run_until(&mut backend, &mut log, |log| log.received(louds[0]).len() > MIB / 2);
        quiet_peer.write_all(b"hello").unwrap();
        // Each loud socket may be served once before the quiet one and take all buffers, and so may the one that is
        // being served now; what it took is told in as many turns as their bytes fill, one more arms the next.
        let round = (usize::from(settings.buffer_count) * (16 << 10)).div_ceil(settings.turn_bytes_max) + 1;
        let unheard_max = (LOUD + 1) * round;
        let (mut unheard, mut there) = (0, false);
        let loudness = |log: &Log| louds.iter().map(|sock| log.received(*sock).len()).sum::<usize>();
        while log.received(quiet).is_empty() || loudness(&log) < LOUD * EACH {
            let before = (backend.stats().received_bytes, loudness(&log));
            backend.turn(Wait::Until(backend.now().mono + Duration::from_secs(10)), &mut log).unwrap();
            let taken = backend.stats().received_bytes - before.0;
            assert!(taken <= (64 << 10) + (16 << 10), "{taken} bytes in one turn");
            // Only turns count that the loud ones filled, and in which the bytes lay in the quiet socket already.
            let waits = log.received(quiet).is_empty() && loudness(&log) > before.1;
            unheard += usize::from(waits && there);
            there |= unacknowledged(&quiet_peer) == 0;
        }
        assert!(unheard <= unheard_max, "the quiet socket waited {unheard} turns of the loud ones");
        for writer in writers {
            drop(writer.join().unwrap());
        }
    }

    /// Four sockets have bytes waiting when their receives are armed, the one with five bytes last. The others have far
    /// more than all buffers hold, and yet each is served once at most before it.
    pub fn sockets_that_found_no_buffer_are_served_in_turn<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        const LOUD: usize = 3;
        const EACH: usize = 96 << 10;
        let (listener, address) = listen("127.0.0.1");
        let settings = RingSettings {
            buffer_count: 4,
            buffer_bytes: 4 << 10,
            turn_bytes_max: 16 << 10,
            ..RingSettings::default()
        };
        let (mut backend, mut log) = (make(&settings), Log::default());
        let options = SocketOptions { receive_buffer_bytes: Some(400_000), ..SocketOptions::default() };
        let mut socks = Vec::new();
        let mut peers = Vec::new();
        for i in 0..=LOUD {
            let sock = backend.open(address, &options).unwrap();
            backend.receive(sock, false);
            run_until(&mut backend, &mut log, |log| log.connected.contains(&sock));
            let mut peer = listener.accept().unwrap().0;
            peer.write_all(if i < LOUD { &[b'x'; EACH] } else { b"hello" }).unwrap();
            run_until(&mut backend, &mut log, |_| unacknowledged(&peer) == 0);
            socks.push(sock);
            peers.push(peer);
        }
        // Nothing is left of the connects, so that the receives are armed in this order.
        backend.turn(Wait::Poll, &mut log).unwrap();
        backend.turn(Wait::Poll, &mut log).unwrap();
        socks.iter().for_each(|sock| backend.receive(*sock, true));
        let quiet = socks[LOUD];
        run_until(&mut backend, &mut log, |log| !log.received(quiet).is_empty());
        for loud in &socks[..LOUD] {
            // Once through all buffers, and once more for what the kernel takes together with the quiet one's.
            let taken = log.received(*loud).len();
            assert!(taken <= 2 * (16 << 10), "{taken} bytes of a loud socket came before the quiet one's first");
        }
        run_until(&mut backend, &mut log, |log| socks[..LOUD].iter().all(|loud| log.received(*loud).len() == EACH));
    }

    /// Every other receive is into memory of the owner, which comes back with what it holds, also when the socket ends.
    pub fn bytes_land_where_their_owner_wants_them<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let all: Vec<u8> = (0..2 * MIB).map(|i| (i % 251) as u8).collect();
        for lends in [1, 1_000, 300_000] {
            let wanted = if lends == 1 { &all[..5_000] } else { &all[..] };
            let (mut backend, mut log) = (make(&RingSettings::default()), Log::lending(lends));
            let sock = backend.open(address, &SocketOptions { lands: true, ..SocketOptions::default() }).unwrap();
            run_until(&mut backend, &mut log, |log| !log.connected.is_empty());
            let mut peer = listener.accept().unwrap().0;
            let bytes = wanted.to_vec();
            let peer = thread::spawn(move || {
                peer.write_all(&bytes).unwrap();
                peer
            });
            run_until(&mut backend, &mut log, |log| log.received(sock).len() >= wanted.len());
            assert!(log.received(sock) == wanted && log.landed >= lends.min(wanted.len() / 3), "{}", log.landed);
            // One of the ends finds memory lent.
            match lends {
                1_000 => backend.close(sock),
                _ => drop(peer.join().unwrap()),
            }
            run_until(&mut backend, &mut log, |log| !log.closed.is_empty());
            assert_eq!(log.out, 0, "all of it came back");
        }
        // Dropped while some is lent.
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::lending(1_000));
        let sock = backend.open(address, &SocketOptions { lands: true, ..SocketOptions::default() }).unwrap();
        run_until(&mut backend, &mut log, |log| !log.connected.is_empty());
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"part").unwrap();
        run_until(&mut backend, &mut log, |log| !log.received(sock).is_empty());
    }

    /// Small requests and answers, many times over: no event is lost between turns.
    pub fn thousands_of_round_trips_lose_nothing<B: Backend>(make: impl Fn(&RingSettings) -> B) {
        let (listener, address) = listen("127.0.0.1");
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 64];
            while stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).unwrap();
            }
        });
        let (mut backend, mut log) = (make(&RingSettings::default()), Log::default());
        let sock = connect(&mut backend, &mut log, address);
        let pool = ChunkPool::new(1 << 20);
        for round in 1..=3_000usize {
            backend.send(sock, chain_of(&pool, &[&[round as u8; 64]])).unwrap();
            run_until(&mut backend, &mut log, |log| log.sent.len() == 1 && log.received(sock).len() == round * 64);
            log.sent.clear();
        }
        backend.close(sock);
        run_until(&mut backend, &mut log, |log| log.closed.len() == 1);
        peer.join().unwrap();
    }

    /// Bytes that the other side's kernel has not acknowledged yet; what it has lies in the other side's socket.
    fn unacknowledged(stream: &TcpStream) -> i32 {
        let mut bytes: libc::c_int = -1;
        // SAFETY: the call writes one integer, which lives across it, about a descriptor that is open.
        let done = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        bytes
    }

    fn cut(pool: &ChunkPool, bytes: &[u8], pieces: usize) -> SendChain {
        // Uneven on purpose: no boundary falls together with a power of two.
        let size = bytes.len() / pieces;
        let mut parts = Vec::new();
        let mut rest = bytes;
        for i in 0..pieces - 1 {
            let (part, tail) = rest.split_at((size - 7 + i % 13).min(rest.len()));
            parts.push(part);
            rest = tail;
        }
        parts.push(rest);
        chain_of(pool, &parts)
    }
}

/// All of the suite on one backend.
macro_rules! on {
    ($backend:ident, $make:expr, [$($name:ident),* $(,)?]) => {
        mod $backend {
            #[allow(unused_imports)] // one backend's constructor needs them
            use ottla::ring::uring::{TaskWork, UringBackend};

            $(#[test]
            fn $name() {
                super::suite::$name($make);
            })*
        }
    };
}

macro_rules! conformance {
    ($($backend:ident: $make:expr;)*) => {
        $(on!($backend, $make, [
            a_connection_is_reported_once_and_carries_bytes_both_ways,
            a_refused_connection_ends_closed,
            a_connect_without_answer_can_be_closed,
            long_chains_arrive_exactly_both_ways,
            a_chain_of_3000_pieces_arrives_exactly,
            one_send_is_in_flight_and_the_chain_comes_back,
            a_chain_without_bytes_is_sent_at_once,
            the_peers_last_bytes_come_before_its_end,
            a_reset_in_a_send_gives_the_chain_back_with_its_count,
            close_ends_an_armed_receive_once,
            close_ends_a_send_that_a_stalled_peer_blocks,
            a_wake_before_the_wait_counts,
            a_wake_ends_a_wait,
            a_wake_of_a_dropped_backend_is_harmless,
            a_wait_ends_at_its_time_and_not_before,
            two_hundred_sockets_share_eight_buffers,
            a_paused_socket_receives_nothing_until_resumed,
            a_paused_socket_still_sends,
            a_pause_before_the_connection_holds,
            a_reused_slot_is_another_socket,
            what_happens_is_counted,
            a_dropped_backend_gives_all_memory_back,
            a_turn_receives_no_more_than_it_may,
            sockets_that_found_no_buffer_are_served_in_turn,
            bytes_land_where_their_owner_wants_them,
            thousands_of_round_trips_lose_nothing,
        ]);)*
    };
}

conformance! {
    epoll: |settings| ottla::ring::epoll::EpollBackend::new(settings).unwrap();
    io_uring: |settings| ottla::ring::uring::UringBackend::new(settings).unwrap();
    io_uring_of_older_kernels: |settings| UringBackend::with_task_work(settings, TaskWork::Plain).unwrap();
}

/// Four entries to submit with and eight to complete with: both queues overflow all the time, and nothing is lost.
#[test]
fn io_uring_with_tiny_queues_loses_nothing() {
    let settings = RingSettings { submission_entries: 4, completion_entries: 8, ..RingSettings::default() };
    suite::two_hundred_sockets_share_eight_buffers(|asked| {
        UringBackend::new(&RingSettings {
            buffer_count: asked.buffer_count,
            buffer_bytes: asked.buffer_bytes,
            ..settings
        })
        .unwrap()
    });
    suite::long_chains_arrive_exactly_both_ways(|_| UringBackend::new(&settings).unwrap());
    suite::a_dropped_backend_gives_all_memory_back(|_| UringBackend::new(&settings).unwrap());
}

/// No time to drain: the memory is lost on purpose, because the kernel may still read it.
#[test]
fn io_uring_that_cannot_drain_gives_its_memory_up() {
    let settings = RingSettings { drain_time_max: Duration::ZERO, ..RingSettings::default() };
    let (listener, address) = listen("127.0.0.1");
    let (mut backend, mut log) = (UringBackend::new(&settings).unwrap(), Log::default());
    let sock = connect(&mut backend, &mut log, address);
    let mut peer = listener.accept().unwrap().0;
    let (pool, bytes) = (ChunkPool::new(0), pattern(32 * MIB, 6));
    let mut chunk = pool.take(bytes.len());
    chunk.put(&bytes);
    backend.send(sock, SendChain { pieces: vec![Piece::whole(chunk)] }).unwrap();
    backend.turn(Wait::Poll, &mut log).unwrap();
    drop(backend);
    assert_eq!(pool.out_bytes(), 32 * MIB, "freed under the kernel's hands");
    // What still arrives is what was sent, and the connection ends.
    let mut got = Vec::new();
    let _ = peer.read_to_end(&mut got);
    assert!(got[..] == bytes[..got.len()]);
}
