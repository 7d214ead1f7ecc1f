//! Which protocol is this? From the first bytes of a connection, or, for one that is older than the agent, of calls.
//!
//! In: the first bytes of either direction, as far as they were seen; a late join may show only one. Out: a
//! [`Verdict`]. Called by `agent-core` until the verdict is final; it bounds how long it asks. Never guesses by port.

use crate::{
    dns,
    http1::{self, Kind, StartLine},
    tls,
};

/// Protocols with a parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// TLS, from its handshake on.
    Tls,
    /// DNS over TCP.
    Dns,
}

/// What the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This protocol: bytes of one direction say so, whatever the other's.
    Is(Protocol),
    /// No direction says so yet, and at least one may still do.
    NotYet,
    /// None that is known here.
    Unknown,
}

/// One line per protocol: how it recognises what clients and what servers send first.
const SIGNATURES: &[(Protocol, Signature, Signature)] = &[
    (Protocol::Http1, |sent| StartLine::check(Kind::Request, sent), |sent| StartLine::check(Kind::Response, sent)),
    (Protocol::Dns, dns::check_stream, |_| http1::Verdict::No),
    (Protocol::Tls, |sent| tls::check(sent, false), |sent| tls::check(sent, true)),
];

type Signature = fn(&[u8]) -> http1::Verdict;

/// Judges the first bytes of both directions; an empty slice is one that was not seen.
pub fn detect(client_to_server: &[u8], server_to_client: &[u8]) -> Verdict {
    let mut open = false;
    for (protocol, client, server) in SIGNATURES {
        let verdicts = [client(client_to_server), server(server_to_client)];
        if verdicts.contains(&http1::Verdict::Yes) {
            return Verdict::Is(*protocol);
        }
        let unseen = client_to_server.is_empty() && server_to_client.is_empty();
        let partial = |bytes: &[u8], verdict| !bytes.is_empty() && verdict == http1::Verdict::Partial;
        open |= unseen || partial(client_to_server, verdicts[0]) || partial(server_to_client, verdicts[1]);
    }
    if open { Verdict::NotYet } else { Verdict::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &[u8], server: &[u8], expected: Verdict) {
        assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
    }

    #[test]
    fn either_direction_is_enough() {
        let is = Verdict::Is(Protocol::Http1);
        check(b"GET / HTTP/1.1\r\n", b"", is);
        check(b"", b"HTTP/1.0 200 OK\r\n", is);
        check(b"\x00rest of a body", b"HTTP/1.1 200 OK\r\n", is);
        check(b"POST /x HTTP/1.1\r\n", b"rest of a body", is);
    }

    #[test]
    fn hellos_say_tls_and_which_end_is_which() {
        check(b"\x16\x03\x01\x02\x00\x01", b"", Verdict::Is(Protocol::Tls));
        check(b"", b"\x16\x03\x03\x00\x7a\x02", Verdict::Is(Protocol::Tls));
        check(b"", b"\x16\x03\x01\x02\x00\x01", Verdict::Unknown);
        check(b"\x16\x03\x01\x02\x00", b"", Verdict::NotYet);
    }

    #[test]
    fn too_few_bytes_are_not_yet_a_verdict() {
        check(b"", b"", Verdict::NotYet);
        check(b"GE", b"", Verdict::NotYet);
        check(b"", b"HTTP/1.", Verdict::NotYet);
        check(b"\x00\x01", b"HTT", Verdict::NotYet);
    }

    #[test]
    fn foreign_bytes_are_unknown() {
        check(b"\x17\x03\x03\x02\x00\x01", b"", Verdict::Unknown);
        check(b"\x16\x03\x01\x02\x00\x02", b"", Verdict::Unknown);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", Verdict::Unknown);
        check(b"", b"220 mail.test ESMTP\r\n", Verdict::Unknown);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::Unknown);
        check(b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n", Verdict::Unknown);
    }
}
