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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineSettings;

    #[test]
    fn l_13_socket_options_are_the_users_and_keepalive_is_on_by_default() {
        let address = "127.0.0.1:1".parse().unwrap();
        let fd = tcp_socket(&address, &SocketOptions::new(&EngineSettings::default()), true).unwrap();
        assert!(sockopt::socket_keepalive(&fd).unwrap() && sockopt::tcp_nodelay(&fd).unwrap());
        let system = (sockopt::socket_send_buffer_size(&fd).unwrap(), sockopt::socket_recv_buffer_size(&fd).unwrap());
        let asked = EngineSettings {
            keepalive: false,
            nodelay: false,
            send_buffer_bytes: Some(20_000),
            receive_buffer_bytes: Some(30_000),
            ..EngineSettings::default()
        };
        let fd = tcp_socket(&address, &SocketOptions::new(&asked), false).unwrap();
        assert!(!sockopt::socket_keepalive(&fd).unwrap() && !sockopt::tcp_nodelay(&fd).unwrap());
        let sizes = (sockopt::socket_send_buffer_size(&fd).unwrap(), sockopt::socket_recv_buffer_size(&fd).unwrap());
        // Linux doubles what was asked for, as room for its own bookkeeping.
        assert_eq!(sizes, (40_000, 60_000));
        assert_ne!(sizes, system);
    }
}
