//! When a TLS handshake is done at this end, told from records alone.
//!
//! In: what both directions' record layers tell, in the order in which the bytes moved. Out: a [`State`]. Called by
//! [`super::Tls`].
//!
//! - TLS 1.3: the client's Finished is its first encrypted record after the server's hello (RFC 8446, 4.4.4). With a
//!   client certificate other records come before it; then it is the one of a Finished's length among those that follow.
//! - Before: each end's Finished is what follows its change of cipher specification (RFC 5246, 7.4.9); both are needed.
//! - If neither was seen: the first record of application data.
//!
//! An encrypted alert where a Finished should be has the length of an alert.

use agent_protocol::{
    session::Text,
    tls::{ClientHello, Event, Record, ServerHello, TLS_1_3, alert_name, content},
};

/// Length of an encrypted alert in TLS 1.3: two bytes, its type, and the tag (RFC 8446, 5.2).
pub(super) const ENCRYPTED_ALERT: u64 = 19;
/// Length of an encrypted Finished in TLS 1.3: header, hash (SHA-256, SHA-384), type and tag.
const ENCRYPTED_FINISHED: [u64; 2] = [4 + 32 + 1 + 16, 4 + 48 + 1 + 16];
/// A client's records up to its Finished, if it shows a certificate: that, its proof, and it.
const CERTIFICATE_RECORDS: u8 = 3;
const FATAL: u8 = 2;

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not done yet.
    Running,
    /// Done when the last byte of this record moved. `client`: it is one of the client's. If the record need not be the
    /// last one of the handshake, `sure` is false.
    Finished { client: bool, end: u64, sure: bool },
    /// Done before this record of application data began to move.
    Before { client: bool, start: u64 },
    /// It failed, by an alert.
    Failed(String),
    /// What was needed was not captured.
    Unknown,
}

/// What the hellos say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// The version that the server chose.
    pub version: Option<u16>,
    /// Host name that the client wants.
    pub server_name: Option<Text>,
    /// The application protocol that the server chose, where that is in clear.
    pub next_protocol: Option<Text>,
}

/// A handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    pub state: State,
    pub label: Label,
    /// Whether the server's records, beyond a request to try again, were seen or missed.
    answered: bool,
    /// By end, client first: a change of cipher specification was seen, and where the Finished after it ends.
    changed: [bool; 2],
    finished: [Option<u64>; 2],
    /// The client's encrypted records so far, if more of the handshake may follow.
    certificate_records: u8,
    /// The server's record after which the client's last one is sure to have been its Finished.
    pub doubt_ended_by: Option<Record>,
}

impl Default for Handshake {
    fn default() -> Self {
        Self {
            state: State::Running,
            label: Label::default(),
            answered: false,
            changed: [false; 2],
            finished: [None; 2],
            certificate_records: 0,
            doubt_ended_by: None,
        }
    }
}

impl Handshake {
    /// Whether the server chose TLS 1.3.
    pub fn is_1_3(&self) -> bool {
        self.label.version == Some(TLS_1_3)
    }

    /// Takes what a direction tells; offsets are those of the stream.
    pub fn see(&mut self, client: bool, event: &Event) {
        match event {
            Event::ClientHello(hello) => self.client_hello(hello),
            Event::ServerHello(hello) => self.server_hello(hello),
            Event::Alert(FATAL, description) if self.is_open() => {
                self.state = State::Failed(alert_name(*description));
            }
            Event::Record(record) => self.record(client, record),
            // What a client said decides; of what a server said, enough may still come.
            Event::Lost if client && self.state == State::Running => self.state = State::Unknown,
            Event::Lost => self.answered |= !client,
            Event::NotMine if self.state == State::Running => self.state = State::Unknown,
            Event::Alert(..) | Event::NotMine => {}
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Finished { sure: false, .. })
    }

    fn client_hello(&mut self, hello: &ClientHello) {
        if self.label.server_name.is_none() {
            self.label.server_name = hello.server_name.clone().map(|name| Text::from(name).shared());
        }
    }

    fn server_hello(&mut self, hello: &ServerHello) {
        self.answered |= !hello.retry;
        self.label.version = hello.version.or(self.label.version);
        self.label.next_protocol = hello.protocol.clone().map(|name| Text::from(name).shared());
    }

    fn record(&mut self, client: bool, record: &Record) {
        if !self.is_open() {
            return;
        }
        let end = usize::from(!client);
        match record.kind {
            content::CHANGE_CIPHER_SPEC => self.changed[end] = true,
            content::HANDSHAKE if record.encrypted && self.changed[end] && !self.is_1_3() => {
                self.finished[end].get_or_insert(record.end);
                if self.finished.iter().all(Option::is_some) {
                    self.state = State::Finished { client, end: record.end, sure: true };
                }
            }
            content::APPLICATION_DATA => self.data(client, record),
            _ => {}
        }
    }

    fn data(&mut self, client: bool, record: &Record) {
        if !client {
            // TLS 1.3 hides the rest of the server's handshake here.
            if self.is_1_3() || self.label.version.is_none() {
                self.answered = true;
                if matches!(self.state, State::Finished { .. }) {
                    self.state = self.settled();
                    self.doubt_ended_by = Some(*record);
                }
            } else {
                self.state = State::Before { client, start: record.start };
            }
            return;
        }
        if self.label.version.is_some() && !self.is_1_3() {
            self.state = State::Before { client, start: record.start };
        } else if self.answered {
            self.client_flight(record);
        }
    }

    /// One of the client's encrypted records of a TLS 1.3 handshake, or behind it.
    fn client_flight(&mut self, record: &Record) {
        self.certificate_records += 1;
        let is_finished = ENCRYPTED_FINISHED.contains(&record.length());
        let first = self.certificate_records == 1;
        if first && record.length() == ENCRYPTED_ALERT {
            self.state = State::Failed("encrypted_alert".to_owned());
        } else if first || is_finished {
            self.state = State::Finished { client: true, end: record.end, sure: is_finished };
        }
        if self.certificate_records >= CERTIFICATE_RECORDS {
            self.state = self.settled();
        }
    }

    /// What was taken for the Finished is.
    fn settled(&self) -> State {
        match self.state.clone() {
            State::Finished { client, end, .. } => State::Finished { client, end, sure: true },
            other => other,
        }
    }
}
