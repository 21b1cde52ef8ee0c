//! `host:port` as users and brokers write it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use thiserror::Error;

/// Longest name the DNS knows, with its trailing dot.
const HOST_BYTES_MAX: usize = 254;

/// A host, by name or address, and a port. IPv6 addresses are held without brackets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

/// Why a text is no `host:port`.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum HostError {
    /// Nothing before the port.
    #[error("the host is missing")]
    NoHost,
    /// Nothing after the host, or no number.
    #[error("the port is missing: write host:port, or [address]:port for IPv6")]
    NoPort,
    /// Not between 1 and 65535.
    #[error("the port is not between 1 and 65535")]
    PortRange,
    /// An IPv6 address whose port cannot be told from its last group.
    #[error("an IPv6 address needs brackets: [address]:port")]
    Brackets,
    /// `PLAINTEXT://host:port` and the like.
    #[error("a protocol before the host is not understood: write host:port and set security.protocol")]
    Scheme,
    /// Longer than a DNS name can be.
    #[error("the host is longer than 254 bytes")]
    TooLong,
    /// A character that no host has; international names are written in their ASCII form.
    #[error("the host has a character that is not allowed (international names in their xn-- form)")]
    Character,
}

impl HostPort {
    /// From the parts, as a broker's metadata gives them.
    pub fn new(host: &str, port: i32) -> Result<Self, HostError> {
        let port = match u16::try_from(port) {
            Ok(0) | Err(_) => return Err(HostError::PortRange),
            Ok(port) => port,
        };
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        match host {
            "" | "." => return Err(HostError::NoHost),
            long if long.len() > HOST_BYTES_MAX => return Err(HostError::TooLong),
            _ => {}
        }
        if host.contains(':') {
            let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
            address.parse::<Ipv6Addr>().map_err(|_| HostError::Character)?;
            if zone.is_empty() || !is_name(zone) {
                return Err(HostError::Character);
            }
        } else if !is_name(host) {
            return Err(HostError::Character);
        }
        Ok(Self { host: host.into(), port })
    }

    /// The host as it was written: a name, perhaps with a trailing dot, or an address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that a certificate must carry and that goes into SNI: without the trailing dot, which only says that the
    /// name is complete, and without an IPv6 zone.
    pub fn tls_name(&self) -> &str {
        let host = self.host.strip_suffix('.').unwrap_or(&self.host);
        host.split_once('%').map_or(host, |(address, _)| address)
    }

    /// The address, when the host is one and no lookup is needed. A numeric IPv6 zone is kept, a named one needs a lookup.
    pub fn literal(&self) -> Option<SocketAddr> {
        if let Some((address, zone)) = self.host.split_once('%') {
            let (address, scope) = (address.parse().ok()?, zone.parse().ok()?);
            return Some(SocketAddr::V6(SocketAddrV6::new(address, self.port, 0, scope)));
        }
        self.host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, self.port))
    }
}

/// What names of hosts and of IPv6 zones (interfaces) are made of.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

impl FromStr for HostPort {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let text = text.trim();
        if text.contains("://") {
            return Err(HostError::Scheme);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(HostError::Brackets)?;
                if !host.contains(':') {
                    return Err(HostError::Character);
                }
                (host, rest.strip_prefix(':').ok_or(HostError::NoPort)?)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or(HostError::NoPort)?;
                if host.contains(':') {
                    return Err(HostError::Brackets);
                }
                (host, port)
            }
        };
        if host.is_empty() {
            return Err(HostError::NoHost);
        }
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostError::NoPort);
        }
        Self::new(host, port.parse().map_err(|_| HostError::PortRange)?)
    }
}

/// As it is parsed: IPv6 addresses in brackets.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<HostPort, HostError> {
        text.parse()
    }

    #[test]
    fn d4_81_names_addresses_and_trailing_dots_are_read() {
        for (text, host, port, tls_name, literal) in [
            ("localhost:9092", "localhost", 9092, "localhost", None),
            (" kafka_1.example-x.org:1 ", "kafka_1.example-x.org", 1, "kafka_1.example-x.org", None),
            ("broker.example.:65535", "broker.example.", 65535, "broker.example", None),
            ("10.0.0.7:9092", "10.0.0.7", 9092, "10.0.0.7", Some("10.0.0.7:9092")),
            ("[::1]:9092", "::1", 9092, "::1", Some("[::1]:9092")),
            ("[2001:db8::7]:443", "2001:db8::7", 443, "2001:db8::7", Some("[2001:db8::7]:443")),
            ("[fe80::1%3]:9092", "fe80::1%3", 9092, "fe80::1", Some("[fe80::1%3]:9092")),
            ("[fe80::1%eth0]:9092", "fe80::1%eth0", 9092, "fe80::1", None),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.host(), parsed.port(), parsed.tls_name()), (host, port, tls_name), "{text}");
            assert_eq!(parsed.literal(), literal.map(|text| text.parse().unwrap()), "{text}");
            assert_eq!(parsed.to_string(), text.trim());
        }
    }

    #[test]
    fn what_is_no_host_and_port_says_why() {
        for (text, error) in [
            ("", HostError::NoPort),
            ("localhost", HostError::NoPort),
            ("localhost:", HostError::NoPort),
            ("localhost:http", HostError::NoPort),
            ("localhost:+1", HostError::NoPort),
            (":9092", HostError::NoHost),
            (".:9092", HostError::NoHost),
            ("localhost:0", HostError::PortRange),
            ("localhost:65536", HostError::PortRange),
            ("localhost:99999999999999999999", HostError::PortRange),
            ("::1:9092", HostError::Brackets),
            ("[::1:9092", HostError::Brackets),
            ("[::1]", HostError::NoPort),
            ("[::1]9092", HostError::NoPort),
            ("[localhost]:9092", HostError::Character),
            ("[::zz]:9092", HostError::Character),
            ("PLAINTEXT://localhost:9092", HostError::Scheme),
            ("a b:9092", HostError::Character),
            ("a,b:9092", HostError::Character),
            ("b\u{fc}cher.example:9092", HostError::Character),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(HostPort::new(&"a".repeat(255), 1), Err(HostError::TooLong));
        assert_eq!(HostPort::new("a", -1), Err(HostError::PortRange));
        assert_eq!(HostPort::new("::1", 9092).unwrap().to_string(), "[::1]:9092");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_reads_again(text in "\\PC{0,40}|[\\[\\]:%.0-9a-f]{0,30}") {
            if let Ok(parsed) = parse(&text) {
                prop_assert_eq!(parse(&parsed.to_string()), Ok(parsed.clone()));
                prop_assert!(!parsed.tls_name().is_empty());
            }
        }
    }
}
