//! One socket: what it is doing, which operations the kernel has, and the memory that they point to.
//!
//! ```text
//!   New ── connect submitted ──► Connecting ── ok ──► Open ── close(), end, error ──► Closing ── last completion ──► gone
//!                                     └──────────── refused, close() ────────────────►
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use rustix::net::SocketAddrAny;

use super::super::Landing;
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
/// operation: the address while `connect` is set, vectors, message and chain while `send` is set, the landing while
/// `receive` is set.
#[derive(Debug)]
pub struct Operands {
    address: Option<SocketAddrAny>,
    pub outgoing: Option<Outgoing>,
    /// Where the receive in flight writes, unless it is into a buffer of the ring.
    pub landing: Option<Landing>,
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
    /// A receive is with the kernel: multishot, or once where its owner lends memory.
    pub receive: bool,
    /// Its owner may lend memory: asked before each receive.
    pub lands: bool,
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
    pub fn new(fd: OwnedFd, address: Option<SocketAddrAny>, lands: bool) -> Self {
        // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value; a message of no vectors.
        let message: libc::msghdr = unsafe { std::mem::zeroed() };
        let phase = if address.is_some() { Phase::New } else { Phase::Open };
        let operands = Held::new(Operands { address, outgoing: None, landing: None, vectors: Vec::new(), message });
        Self {
            fd,
            phase,
            operands,
            connect: false,
            send: false,
            receive: false,
            lands,
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

    /// The entry that receives into buffers of the kernel's choice: until it is cancelled, or once where the next receive may
    /// be into memory of the owner.
    pub fn receive_entry(&self, buffer_bytes: u32) -> Entry {
        let fd = types::Fd(self.fd.as_raw_fd());
        if self.lands {
            let once = opcode::Recv::new(fd, std::ptr::null_mut(), buffer_bytes).buf_group(GROUP).build();
            return once.flags(Flags::BUFFER_SELECT);
        }
        opcode::RecvMulti::new(fd, GROUP).build()
    }

    /// The entry that receives once into `landing`, which is kept until its completion. Gives it back when it has no room.
    /// Must not be called while a receive is in flight.
    pub fn landing_entry(&mut self, mut landing: Landing) -> Result<Entry, Landing> {
        debug_assert!(!self.receive, "the memory is with the kernel");
        let room = landing.room();
        let (address, len) = (room.as_mut_ptr(), u32::try_from(room.len()).unwrap_or(u32::MAX));
        if len == 0 {
            return Err(landing);
        }
        // The vector's memory stays where it is while the vector is moved, and nobody touches it before the completion.
        self.operands.landing = Some(landing);
        Ok(opcode::Recv::new(types::Fd(self.fd.as_raw_fd()), address, len).build())
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
