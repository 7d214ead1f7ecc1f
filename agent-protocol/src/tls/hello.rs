//! ClientHello and ServerHello (RFC 8446, 4.1), as far as they were captured.

use super::Event;

pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;

/// Most protocol names kept of a client's offer.
const PROTOCOLS_MAX: usize = 16;
/// Most versions kept of a client's offer.
const VERSIONS_MAX: usize = 16;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_PROTOCOLS: u16 = 16;
const EXTENSION_VERSIONS: u16 = 43;
/// RFC 8446, 4.1.3: the random of a server hello that asks for another client hello.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a client offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Host name that it wants to speak to (RFC 6066, 3).
    pub server_name: Option<String>,
    /// Application protocols that it offers (RFC 7301), in its order.
    pub protocols: Vec<String>,
    /// Versions that it offers; none if what says so was not captured.
    pub versions: Vec<u16>,
    /// Whether it was captured to its end.
    pub complete: bool,
}

/// What a server chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerHello {
    /// The version; `None` if the extension that may name another one was not captured.
    pub version: Option<u16>,
    /// The application protocol, where it is in clear (not in TLS 1.3).
    pub protocol: Option<String>,
    /// Whether it asks for another client hello (HelloRetryRequest).
    pub retry: bool,
    /// Whether it was captured to its end.
    pub complete: bool,
}

/// The handshake message at the begin of a record of `record_length` bytes, if it is a hello. What was not captured is
/// missing. If the record may be encrypted, only what fills it exactly is believed.
pub(super) fn read(record: &[u8], record_length: usize, maybe_encrypted: bool) -> Option<Event> {
    let mut message = Bytes(record);
    let kind = message.number::<1>()?;
    let length = message.number::<3>()? as usize;
    if maybe_encrypted && length + 4 != record_length {
        return None;
    }
    let complete = message.0.len() >= length;
    let body = Bytes(&message.0[..message.0.len().min(length)]);
    match kind as u8 {
        CLIENT_HELLO => Some(Event::ClientHello(client(body, complete))),
        SERVER_HELLO => Some(Event::ServerHello(server(body, complete))),
        _ => None,
    }
}

fn client(mut body: Bytes<'_>, complete: bool) -> ClientHello {
    let mut hello = ClientHello { complete, ..ClientHello::default() };
    let mut legacy = None;
    // What is missing at the end ends the reading, and what was read stays.
    let mut fields = || -> Option<()> {
        legacy = body.number::<2>().map(|version| version as u16);
        body.take(32)?;
        body.counted::<1>()?;
        body.counted::<2>()?;
        body.counted::<1>()?;
        body.number::<2>()?;
        while let Some((kind, data)) = body.extension() {
            client_extension(&mut hello, kind, data);
        }
        Some(())
    };
    let _ = fields();
    // The old field counts if no extension says otherwise.
    if hello.versions.is_empty() && complete {
        hello.versions.extend(legacy);
    }
    hello
}

fn client_extension(hello: &mut ClientHello, kind: u16, mut data: Bytes<'_>) {
    match kind {
        EXTENSION_SERVER_NAME => hello.server_name = host_name(data),
        EXTENSION_PROTOCOLS if data.number::<2>().is_some() => {
            while let Some(protocol) = data.counted::<1>().and_then(text) {
                if hello.protocols.len() < PROTOCOLS_MAX {
                    hello.protocols.push(protocol);
                }
            }
        }
        EXTENSION_VERSIONS if data.number::<1>().is_some() => {
            while let Some(version) = data.number::<2>().filter(|_| hello.versions.len() < VERSIONS_MAX) {
                hello.versions.push(version as u16);
            }
        }
        _ => {}
    }
}

/// host_name is the only type of name that is defined.
fn host_name(mut data: Bytes<'_>) -> Option<String> {
    data.number::<2>()?;
    let kind = data.number::<1>()?;
    data.counted::<2>().filter(|_| kind == 0).and_then(text)
}

fn server(mut body: Bytes<'_>, complete: bool) -> ServerHello {
    let mut hello = ServerHello { complete, ..ServerHello::default() };
    let mut legacy = None;
    let mut fields = || -> Option<()> {
        legacy = Some(body.number::<2>()? as u16);
        hello.retry = body.take(32)? == RETRY;
        body.counted::<1>()?;
        body.take(3)?;
        // Up to TLS 1.2 there need not be extensions.
        if body.0.is_empty() && complete {
            return Some(());
        }
        body.number::<2>()?;
        while let Some((kind, mut data)) = body.extension() {
            match kind {
                EXTENSION_VERSIONS => hello.version = data.number::<2>().map(|version| version as u16),
                EXTENSION_PROTOCOLS => {
                    hello.protocol = data.number::<2>().and_then(|_| data.counted::<1>()).and_then(text);
                }
                _ => {}
            }
        }
        Some(())
    };
    let _ = fields();
    // As for clients.
    if hello.version.is_none() && complete {
        hello.version = legacy;
    }
    hello
}

/// Names are printable ASCII in practice; others are not told.
fn text(bytes: &[u8]) -> Option<String> {
    let printable = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    printable.then(|| bytes.iter().map(|byte| char::from(*byte)).collect())
}

/// What is left to be read.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of `N` bytes, at most 4.
    fn number<const N: usize>(&mut self) -> Option<u32> {
        Some(self.take(N)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// Bytes after their length, which has `N` bytes.
    fn counted<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.number::<N>()? as usize;
        self.take(length)
    }

    fn extension(&mut self) -> Option<(u16, Self)> {
        let kind = self.number::<2>()? as u16;
        self.counted::<2>().map(|data| (kind, Self(data)))
    }
}
