//! One socket: what it is doing, which operations the kernel has, and the memory that they point to.
//!
//! ```text
//!   New ── connect submitted ──► Connecting ── ok ──► Open ── close(), end, error ──► Closing ── last completion ──► gone
//!                                     └──────────── refused, close() ────────────────►
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use rustix::net::SocketAddrAny;

use super::super::outgoing::{Outgoing, VECTORS_MAX};
use super::buffers::GROUP;
use super::held::Held;

/// Where a socket stands.
#[derive(Debug)]
pub enum Phase {
    New,
    Connecting,
    Open,
    /// It ends with `why` as soon as the kernel has nothing of it. `told`: shut down, and operations asked to end.
    Closing {
        why: io::Error,
        told: bool,
    },
}

/// What operations in flight point to. Each part is left alone from the submission to the last completion of its
/// operation: the address while `connect` is set, vectors, message and chain while `send` is set.
#[derive(Debug)]
pub struct Operands {
    address: Option<SocketAddrAny>,
    pub outgoing: Option<Outgoing>,
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
}

/// A socket's state. A flag of an operation is set when its entry is pushed and cleared by its last completion.
#[derive(Debug)]
pub struct Socket {
    pub fd: OwnedFd,
    pub phase: Phase,
    pub operands: Held<Operands>,
    /// A connect is with the kernel.
    pub connect: bool,
    /// A send is with the kernel.
    pub send: bool,
    /// A multishot receive is with the kernel.
    pub receive: bool,
    /// That receive was asked to end.
    pub cancelled: bool,
    /// Flow control: the user wants data.
    pub wanted: bool,
    /// The last receive found no buffer; waits in a queue to be armed again.
    pub starved: bool,
    /// Something was received since the receive was armed.
    pub fed: bool,
    /// Is in the queue of sockets with something to submit.
    pub queued: bool,
}

impl Socket {
    /// A socket to be connected to `address`, or one that is connected already.
    pub fn new(fd: OwnedFd, address: Option<SocketAddrAny>) -> Self {
        // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value; a message of no vectors.
        let message: libc::msghdr = unsafe { std::mem::zeroed() };
        let phase = if address.is_some() { Phase::New } else { Phase::Open };
        let operands = Held::new(Operands { address, outgoing: None, vectors: Vec::new(), message });
        Self {
            fd,
            phase,
            operands,
            connect: false,
            send: false,
            receive: false,
            cancelled: false,
            wanted: true,
            starved: false,
            fed: false,
            queued: false,
        }
    }

    /// A receive was pushed.
    pub fn armed(&mut self) {
        (self.receive, self.fed) = (true, false);
    }

    /// Whether the kernel has any operation of it.
    pub fn is_held(&self) -> bool {
        self.connect || self.send || self.receive
    }

    /// The entry that connects it.
    pub fn connect_entry(&self) -> Entry {
        let operands = self.operands.address();
        // SAFETY: (owner) `self` owns the operands; (bounds) the field is inside them; (lifetime) the reference ends here.
        let (pointer, len) = match unsafe { &(*operands).address } {
            Some(address) => (address.as_ptr(), address.addr_len()),
            None => (std::ptr::null(), 0),
        };
        opcode::Connect::new(types::Fd(self.fd.as_raw_fd()), pointer.cast(), len).build()
    }

    /// The entry that receives until it is cancelled, into buffers of the kernel's choice.
    pub fn receive_entry(&self) -> Entry {
        opcode::RecvMulti::new(types::Fd(self.fd.as_raw_fd()), GROUP).build()
    }

    /// The entry that writes what is left of the chain, at most [`VECTORS_MAX`] parts. Must not be called while a send is
    /// in flight.
    pub fn send_entry(&mut self) -> Entry {
        debug_assert!(!self.send, "the vectors are with the kernel");
        let Operands { outgoing, vectors, message, .. } = &mut *self.operands;
        vectors.clear();
        let rest = outgoing.iter().flat_map(Outgoing::rest).take(VECTORS_MAX);
        vectors
            .extend(rest.map(|slice| libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() }));
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        let operands = self.operands.address();
        // SAFETY: (owner) `self` owns the operands; (bounds) this only computes the address of a field; (lifetime) the
        // pointer is used by the kernel until the send's completion, and the operands live longer.
        let message = unsafe { &raw const (*operands).message };
        opcode::SendMsg::new(types::Fd(self.fd.as_raw_fd()), message)
            .flags((libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32)
            .build()
    }
}
