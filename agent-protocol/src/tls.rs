//! TLS as far as it is in clear (RFC 8446, RFC 5246): records, hellos, alerts. One direction of a connection at a time.
//!
//! In: [`Input`] to [`Records`]. Out: [`Event`]s: where each record is and of what type, and what hellos and alerts that
//! are not encrypted say. Called by `agent-core`, which puts the two directions together. Never keeps keys, randoms or
//! session ids; decrypts nothing.
//!
//! Limits: [`HELLO_BYTES_MAX`] of one hello are kept while it arrives, and nothing of other records.
//!
//! Gaps: one within a record just advances, since its length is known; a hello that it cuts is told as far as it was
//! captured. One that hides the begin of a record is [`Event::Lost`]; the next record is looked for only at the first
//! byte of a later input, where a call of the application began.

mod hello;

pub use self::hello::{ClientHello, ServerHello};
use crate::input::Input;

/// Most bytes of a hello that are read.
pub const HELLO_BYTES_MAX: usize = 4096;
/// TLS 1.3 (RFC 8446, 4.1.2: only in an extension; the field itself says 1.2).
pub const TLS_1_3: u16 = 0x0304;

/// Content types (RFC 8446, 5.1).
pub mod content {
    /// Change of cipher specification; without meaning in TLS 1.3.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// Alert.
    pub const ALERT: u8 = 21;
    /// Handshake.
    pub const HANDSHAKE: u8 = 22;
    /// Application data; in TLS 1.3 everything that is encrypted.
    pub const APPLICATION_DATA: u8 = 23;
    /// Heartbeat (RFC 6520).
    pub const HEARTBEAT: u8 = 24;
}

const HEADER_BYTES: usize = 5;
/// RFC 5246, 6.2.3: 2^14 and 2048 for what encryption adds.
const RECORD_BYTES_MAX: u16 = (1 << 14) + 2048;

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset of its header.
    pub start: u64,
    /// Offset just past its last byte, which need not have moved yet.
    pub end: u64,
    /// One of [`content`].
    pub kind: u8,
    /// Whether what it holds may be encrypted: a change of cipher specification, which in TLS 1.3 has no meaning, or
    /// application data came before it.
    pub encrypted: bool,
}

impl Record {
    /// Bytes after the header.
    pub fn length(&self) -> u64 {
        self.end - self.start - HEADER_BYTES as u64
    }
}

/// What one direction has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record begins. What it holds, if that is told, follows.
    Record(Record),
    /// A client's hello.
    ClientHello(ClientHello),
    /// A server's hello.
    ServerHello(ServerHello),
    /// An alert in clear: its level (1 warning, 2 fatal) and description (RFC 8446, 6).
    Alert(u8, u8),
    /// Where the next record begins was not captured, or what is there is none.
    Lost,
    /// These bytes are not TLS. Final, and only before anything else.
    NotMine,
}

/// The record layer of one direction.
#[derive(Debug, Default)]
pub struct Records {
    offset: u64,
    state: State,
    encrypted: bool,
    any: bool,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; HEADER_BYTES], length: usize },
    Body { left: u64, length: usize, kind: u8, kept: Option<Vec<u8>> },
    Lost,
    Foreign,
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; HEADER_BYTES], length: 0 }
    }
}

impl Records {
    /// Feeds the next piece.
    pub fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        match input {
            Input::Bytes(bytes) => self.bytes(bytes, out),
            Input::Gap(gap) => self.gap(gap, out),
            Input::End => self.tell_kept(out),
        }
    }

    /// Whether it is not known where the next record begins.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Offset of the next input byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&mut self, mut bytes: &[u8], out: &mut Vec<Event>) {
        if matches!(self.state, State::Lost) && header(bytes).is_some() {
            self.state = State::default();
        }
        while !bytes.is_empty() {
            let used = self.step(bytes, out);
            self.offset = self.offset.saturating_add(used as u64);
            bytes = &bytes[used..];
        }
    }

    /// Takes at least one byte, and none beyond the header or body that it is in.
    fn step(&mut self, input: &[u8], out: &mut Vec<Event>) -> usize {
        match &mut self.state {
            State::Header { bytes, length } => {
                let used = input.len().min(HEADER_BYTES - *length);
                bytes[*length..*length + used].copy_from_slice(&input[..used]);
                *length += used;
                if *length == HEADER_BYTES {
                    let bytes = *bytes;
                    self.begin(&bytes, self.offset.checked_add(used as u64), out);
                }
                used
            }
            State::Body { left, kept, .. } => {
                let used = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                if let Some(kept) = kept {
                    let room = HELLO_BYTES_MAX - kept.len();
                    kept.extend_from_slice(&input[..used.min(room)]);
                }
                *left -= used as u64;
                self.end_body(out);
                used
            }
            State::Lost | State::Foreign => input.len(),
        }
    }

    /// `body`: offset just past the header; `None` if the stream is longer than can be counted.
    fn begin(&mut self, bytes: &[u8; HEADER_BYTES], body: Option<u64>, out: &mut Vec<Event>) {
        let end = |length: u16| body.and_then(|body| Some((body, body.checked_add(u64::from(length))?)));
        let header = header(bytes).and_then(|(kind, length)| Some((kind, length, end(length)?)));
        let Some((kind, length, (body, end))) = header else {
            self.state = if self.any { State::Lost } else { State::Foreign };
            return out.push(if self.any { Event::Lost } else { Event::NotMine });
        };
        self.any = true;
        self.encrypted |= kind == content::APPLICATION_DATA;
        let encrypted = self.encrypted && kind != content::CHANGE_CIPHER_SPEC;
        let start = body - HEADER_BYTES as u64;
        out.push(Event::Record(Record { start, end, kind, encrypted }));
        self.encrypted |= kind == content::CHANGE_CIPHER_SPEC;
        // A hello in clear may follow even then, if TLS 1.3 asked for another one.
        let told = kind == content::HANDSHAKE || (kind == content::ALERT && !encrypted);
        self.state =
            State::Body { left: u64::from(length), length: usize::from(length), kind, kept: told.then(Vec::new) };
        self.end_body(out);
    }

    /// If the body is complete, tells what it says, and goes on to the next header.
    fn end_body(&mut self, out: &mut Vec<Event>) {
        if matches!(self.state, State::Body { left: 0, .. }) {
            self.tell_kept(out);
            self.state = State::default();
        }
    }

    fn tell_kept(&mut self, out: &mut Vec<Event>) {
        let State::Body { length, kind, kept, .. } = &mut self.state else { return };
        let Some(kept) = kept.take() else { return };
        match (*kind, kept.as_slice()) {
            (content::ALERT, [level, description]) => out.push(Event::Alert(*level, *description)),
            (content::HANDSHAKE, message) => {
                let Some(hello) = hello::read(message, *length, self.encrypted) else { return };
                self.encrypted = false;
                out.push(hello);
            }
            _ => {}
        }
    }

    fn gap(&mut self, gap: u64, out: &mut Vec<Event>) {
        if gap == 0 {
            return;
        }
        self.offset = self.offset.saturating_add(gap);
        let beyond = match &mut self.state {
            State::Body { left, .. } => {
                let beyond = gap.saturating_sub(*left);
                *left = left.saturating_sub(gap);
                self.tell_kept(out);
                self.end_body(out);
                beyond
            }
            State::Header { .. } => gap,
            State::Lost | State::Foreign => 0,
        };
        if beyond > 0 {
            // Whether a change of cipher specification was among it is not known: nothing is read as if in clear.
            (self.state, self.encrypted, self.any) = (State::Lost, true, true);
            out.push(Event::Lost);
        }
    }
}

/// Content type and length, if these bytes begin with a header. TLS 1.0 to 1.3 have 3 and at most 4 as version.
fn header(bytes: &[u8]) -> Option<(u8, u16)> {
    let [kind, 3, 0..=4, high, low, ..] = *bytes else { return None };
    let length = u16::from_be_bytes([high, low]);
    let known = (content::CHANGE_CIPHER_SPEC..=content::HEARTBEAT).contains(&kind);
    let empty = length == 0 && kind != content::APPLICATION_DATA;
    (known && !empty && length <= RECORD_BYTES_MAX).then_some((kind, length))
}

/// Whether these are, or may yet become, the first bytes of a client (or, if `server`, of a server): a record that
/// begins with a hello.
pub(crate) fn check(bytes: &[u8], server: bool) -> crate::detect::Sign {
    use crate::detect::Sign;
    let message = if server { hello::SERVER_HELLO } else { hello::CLIENT_HELLO };
    let fits = |(index, byte): (usize, &u8)| match index {
        0 => *byte == content::HANDSHAKE,
        1 => *byte == 3,
        2 => *byte <= 4,
        3 => *byte <= (RECORD_BYTES_MAX >> 8) as u8,
        5 => *byte == message,
        _ => true,
    };
    match bytes.iter().take(6).enumerate().all(fits) {
        false => Sign::No,
        true if bytes.len() >= 6 => Sign::Yes,
        true => Sign::Partial,
    }
}

/// The version as OpenTelemetry writes it (`tls.protocol.version`); `None` for those before TLS 1.0 and drafts.
pub fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0301 => Some("1.0"),
        0x0302 => Some("1.1"),
        0x0303 => Some("1.2"),
        TLS_1_3 => Some("1.3"),
        _ => None,
    }
}

/// The name of an alert (RFC 8446, B.2); `alert_` and the number if it has none.
pub fn alert_name(description: u8) -> String {
    ALERTS
        .iter()
        .find(|(number, _)| *number == description)
        .map_or_else(|| format!("alert_{description}"), |(_, name)| (*name).to_owned())
}

const ALERTS: [(u8, &str); 34] = [
    (0, "close_notify"),
    (10, "unexpected_message"),
    (20, "bad_record_mac"),
    (21, "decryption_failed"),
    (22, "record_overflow"),
    (30, "decompression_failure"),
    (40, "handshake_failure"),
    (41, "no_certificate"),
    (42, "bad_certificate"),
    (43, "unsupported_certificate"),
    (44, "certificate_revoked"),
    (45, "certificate_expired"),
    (46, "certificate_unknown"),
    (47, "illegal_parameter"),
    (48, "unknown_ca"),
    (49, "access_denied"),
    (50, "decode_error"),
    (51, "decrypt_error"),
    (60, "export_restriction"),
    (70, "protocol_version"),
    (71, "insufficient_security"),
    (80, "internal_error"),
    (86, "inappropriate_fallback"),
    (90, "user_canceled"),
    (100, "no_renegotiation"),
    (109, "missing_extension"),
    (110, "unsupported_extension"),
    (111, "certificate_unobtainable"),
    (112, "unrecognized_name"),
    (113, "bad_certificate_status_response"),
    (114, "bad_certificate_hash_value"),
    (115, "unknown_psk_identity"),
    (116, "certificate_required"),
    (120, "no_application_protocol"),
];

#[cfg(test)]
mod tests;
