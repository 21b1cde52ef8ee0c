//! Making a TCP socket with the user's options.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};

use super::SocketOptions;

/// A TCP socket for `address`, not connected. io_uring wants it blocking (the ring waits for it, and a non-blocking one
/// would answer `EAGAIN`), epoll non-blocking.
pub fn tcp_socket(address: &SocketAddr, options: &SocketOptions, non_blocking: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, non_blocking);
    let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&fd, options.nodelay)?;
    sockopt::set_socket_keepalive(&fd, options.keepalive)?;
    // Buffer sizes must be set before connecting: the window scale is settled in the handshake.
    if let Some(bytes) = options.send_buffer_bytes {
        sockopt::set_socket_send_buffer_size(&fd, bytes as usize)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        sockopt::set_socket_recv_buffer_size(&fd, bytes as usize)?;
    }
    Ok(fd)
}
