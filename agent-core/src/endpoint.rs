//! One end of a connection, as far as addresses name it.
//!
//! In: addresses of records. Out: a small value that both ends of a connection have the same words for. Called by
//! [`crate::flow`] and everything that tells of ends.

use std::{
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// `AF_UNIX`.
pub const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// Address and port.
    Inet(SocketAddr),
    /// Unix socket: its inode number, which no other socket of this host has at the same time. The name that the
    /// listening end is bound to is a fact of the connection, not of an end's identity.
    Unix(u64),
}

impl Endpoint {
    /// From the address of a record. IPv4 also where it is mapped into IPv6, so that both ends of a connection have the
    /// same words for it.
    pub fn new(family: u16, bytes: &[u8; 16], port: u16) -> Self {
        let ip = match family {
            AF_UNIX => {
                let [a, b, c, d, e, f, g, h, ..] = *bytes;
                return Self::Unix(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
            }
            AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            _ => IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical(),
        };
        Self::Inet(SocketAddr::new(ip, port))
    }

    /// Address and port, if it has them.
    pub fn inet(self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(address),
            Self::Unix(_) => None,
        }
    }

    /// The address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        self.inet().map(|address| address.ip())
    }

    /// The port, if it has one.
    pub fn port(self) -> Option<u16> {
        self.inet().map(|address| address.port())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// `127.0.0.1:80`, `[::1]:80`; a unix socket by its inode number, as in `/proc/<pid>/fd`.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(formatter),
            Self::Unix(inode) => write!(formatter, "unix:[{inode}]"),
        }
    }
}

/// An address as text, without an allocation: as `Display` writes it, but each span has several.
pub struct IpText {
    bytes: [u8; IP_TEXT_MAX],
    length: usize,
}

/// Bytes of the longest address: eight groups of four digits.
const IP_TEXT_MAX: usize = 39;

impl IpText {
    /// Of an address; one that is mapped into IPv6 as what it maps.
    pub fn new(address: IpAddr) -> Self {
        let mut text = Self { bytes: [0; IP_TEXT_MAX], length: 0 };
        match address.to_canonical() {
            IpAddr::V4(address) => text.dotted(address),
            // No address is longer, so there is room.
            IpAddr::V6(address) => drop(write!(text, "{address}")),
        }
        text
    }

    fn dotted(&mut self, address: Ipv4Addr) {
        for (index, octet) in address.octets().into_iter().enumerate() {
            if index > 0 {
                self.byte(b'.');
            }
            if octet >= 100 {
                self.byte(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.byte(b'0' + octet / 10 % 10);
            }
            self.byte(b'0' + octet % 10);
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Write for IpText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > IP_TEXT_MAX - self.length {
            return Err(fmt::Error);
        }
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

/// The name of a unix socket as it is shown: an abstract one (unix(7)) begins with `@`, its other zero bytes are `@` as
/// well, and what is no text is replaced. `None` if it has none.
pub fn unix_path(bytes: &[u8]) -> Option<Arc<str>> {
    let is_abstract = bytes.first() == Some(&0);
    // The name of a file ends at its first zero byte, whatever the length says.
    let length = if is_abstract { bytes.len() } else { bytes.iter().take_while(|byte| **byte != 0).count() };
    let text = String::from_utf8_lossy(&bytes[..length]).replace('\0', "@");
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_those_that_they_map() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[10, 0, 0, 1]);
        let four = Endpoint::new(2, &bytes, 80);
        let mapped = Endpoint::new(10, &"::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets(), 80);
        assert_eq!((four, four.to_string().as_str()), (mapped, "10.0.0.1:80"));
        assert_eq!(Endpoint::new(10, &Ipv6Addr::LOCALHOST.octets(), 80).to_string(), "[::1]:80");
    }

    #[test]
    fn an_address_as_text_is_as_displayed() {
        let longest = Ipv6Addr::from([0x1234; 8].map(|group: u16| group | 0x8888));
        for text in ["0.0.0.0", "1.20.255.9", "100.101.10.200", "::1", "fe80::12", &longest.to_string()] {
            assert_eq!(IpText::new(text.parse().unwrap()).as_str(), text);
        }
        assert_eq!(IpText::new("::ffff:10.0.0.1".parse().unwrap()).as_str(), "10.0.0.1");
    }

    #[test]
    fn a_unix_socket_is_its_inode() {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&77_u64.to_ne_bytes());
        let end = Endpoint::new(AF_UNIX, &bytes, 0);
        assert_eq!((end, end.inet(), end.to_string().as_str()), (Endpoint::Unix(77), None, "unix:[77]"));
    }

    #[test]
    fn names_of_unix_sockets_are_shown_as_text() {
        let check = |bytes: &[u8], expected: Option<&str>| assert_eq!(unix_path(bytes).as_deref(), expected);
        check(b"/run/app.sock", Some("/run/app.sock"));
        check(b"/run/app.sock\0\0", Some("/run/app.sock"));
        check(b"\0/tmp/.X11-unix/X0", Some("@/tmp/.X11-unix/X0"));
        check(b"\0a\0b", Some("@a@b"));
        check(b"/\xff", Some("/\u{fffd}"));
        check(b"", None);
    }
}
