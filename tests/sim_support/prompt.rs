//! A backend that is watched: whoever hands it a write must not sleep in the turn that takes the write to the kernel, whose
//! completion would be there at once.

use std::io;
use std::net::SocketAddr;

use ottla::base::time::Now;
use ottla::ring::{Backend, BackendKind, BackendStats, Events, SendChain, Sock, SocketOptions, Wait};

pub struct Prompt<B> {
    inner: B,
    /// Handed over since the last turn.
    written: bool,
}

impl<B> Prompt<B> {
    pub fn new(inner: B) -> Self {
        Self { inner, written: false }
    }
}

impl<B: Backend> Backend for Prompt<B> {
    type Waker = B::Waker;

    fn open(&mut self, address: SocketAddr, options: &SocketOptions) -> io::Result<Sock> {
        self.inner.open(address, options)
    }

    fn send(&mut self, sock: Sock, chain: SendChain) -> Result<(), SendChain> {
        self.inner.send(sock, chain)?;
        self.written = true;
        Ok(())
    }

    fn receive(&mut self, sock: Sock, on: bool) {
        self.inner.receive(sock, on);
    }

    fn close(&mut self, sock: Sock) {
        self.inner.close(sock);
    }

    fn turn(&mut self, wait: Wait, events: &mut dyn Events) -> io::Result<()> {
        assert!(!std::mem::take(&mut self.written) || wait == Wait::Poll, "a shard slept on a write: {wait:?}");
        self.inner.turn(wait, events)
    }

    fn waker(&self) -> B::Waker {
        self.inner.waker()
    }

    fn now(&self) -> Now {
        self.inner.now()
    }

    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn stats(&self) -> BackendStats {
        self.inner.stats()
    }
}
