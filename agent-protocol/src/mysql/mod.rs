//! The client/server protocol of MySQL and MariaDB (<https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>,
//! <https://mariadb.com/kb/en/clientserver-protocol/>).
//!
//! In: the bytes of both directions. Out: an exchange per command that is answered, and a log-in that fails. Never told: rows,
//! parameters, messages of errors, file names, authentication.
//!
//! Written by hand: the crates for this protocol are clients, which own their connection. Here a packet is its header, and of the few
//! that matter the first bytes; rows are counted.
//!
//! Where a response ends depends on the command, and on what the packets hold, not on capabilities, so that a connection that was
//! joined late is read as well. Packets of one command are numbered: a wrong number means that framing is lost.
//!
//! After a gap over headers the response of a lone command goes on until the bytes that end rows, or until the next command
//! (inferred). What was pipelined cannot be told apart and is lost.
//!
//! Not followed: compressed connections (given up as [`Event::Switched`]), replication streams, texts of queries with
//! attributes, a server that refuses before the client said anything.

mod commands;
mod pending;
mod replies;
mod requests;
mod result;
mod wire;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::{
    pending::{Database, Pending, Queue},
    replies::Replies,
    requests::Requests,
};
use crate::{
    frames::{Frames, Heard, Trail},
    session::{Event, Input, Lost, Parser, Side},
    text::Text,
};

pub use self::wire::{check_client, check_server};

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Mysql>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Mysql {
    client: Frames,
    server: Frames,
    requests: Requests,
    replies: Replies,
    shared: Shared,
    trail: Trail,
}

/// What both directions need.
#[derive(Debug, Default)]
struct Shared {
    queue: Queue,
    login: Login,
    /// Value of `db.system.name`, as far as the server said what it is.
    system: Option<&'static str>,
    database: Option<Text>,
    /// What a backslash in a literal means, as the server said.
    backslash_plain: Option<bool>,
    /// Whether `EOF`s follow descriptions, if the client said so.
    ends_marked: Option<bool>,
    /// The server asked for a file, and the client sends it.
    sends_file: bool,
    /// What follows is not read.
    over: bool,
}

/// ```text
///   Unseen -greeting-> Asked -client's answer-> Answered -OK-> Done
///      +---a command (joined late)------------------------------^
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Login {
    #[default]
    Unseen,
    /// The server greeted.
    Asked,
    /// The client said who it is.
    Answered {
        /// Where.
        range: Range<u64>,
        /// What follows the log-in is compressed.
        compressed: bool,
    },
    Done,
}

impl Parser for Mysql {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        match from {
            _ if self.shared.over => {}
            Side::Client => self.client(input, out),
            Side::Server => self.server(input, out),
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        let login = match &self.shared.login {
            Login::Answered { range, .. } => Some(range.start),
            _ => None,
        };
        let (frames, open) = match from {
            Side::Client => (&self.client, self.requests.open_from().or(login)),
            Side::Server => (&self.server, self.replies.open_from()),
        };
        open.unwrap_or(u64::MAX).min(frames.pending_from())
    }
}

impl Mysql {
    fn client(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, server, requests, replies, shared, .. } = self;
        let mut feed = client.feed(input);
        loop {
            let expected = requests.expected(shared);
            match feed.next(|bytes| wire::measure_client(bytes, expected), wire::resumes_client) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    if wire::is_answered_command(frame.kept) {
                        replies.asked_again(server.offset(), shared, out);
                    }
                    requests.packet(&frame, shared, out);
                    if shared.over {
                        return;
                    }
                }
                Some(Heard::Lost { at, reason }) => {
                    out.push(Event::Lost { from: Side::Client, at, reason });
                    requests.lose();
                    shared.lose();
                }
            }
        }
    }

    fn server(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        self.shared.queue.client_seen = self.client.offset() > 0;
        let Some(input) = self.search(input, out) else { return };
        let Self { server, requests, replies, shared, .. } = self;
        let mut feed = server.feed(input);
        loop {
            let expected = replies.expected(shared);
            match feed.next(|bytes| wire::measure_server(bytes, expected), wire::resumes_server) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    replies.packet(&frame, requests, shared, out);
                    if shared.over {
                        return;
                    }
                }
                Some(Heard::Lost { at, reason }) => {
                    if reason != Lost::Gap || !replies.hide(at, shared) {
                        out.push(Event::Lost { from: Side::Server, at, reason });
                        replies.lose();
                        shared.lose();
                    }
                }
            }
        }
    }

    /// While it is not known where the server's packets begin, the end of rows is looked for; what follows it is left.
    fn search<'a>(&mut self, input: Input<'a>, out: &mut Vec<Event>) -> Option<Input<'a>> {
        let Self { server, requests, replies, shared, trail, .. } = self;
        let bytes = match input {
            Input::Bytes(bytes) if server.is_lost() => bytes,
            _ => {
                trail.clear();
                return Some(input);
            }
        };
        if !replies.is_hidden() && wire::resumes_server(bytes) {
            return Some(input);
        }
        let Some((used, number)) = trail.find(bytes, |trail| wire::ends_rows(trail, shared.backslash_plain)) else {
            server.skip(bytes);
            return None;
        };
        server.skip(&bytes[..used]);
        replies.found_end(server.offset(), number, requests, shared, out);
        server.resume();
        Some(Input::Bytes(&bytes[used..]))
    }
}

impl Shared {
    /// Framing was lost on one side.
    fn lose(&mut self) {
        self.queue.clear();
        self.database = None;
        (self.login, self.sends_file, self.backslash_plain) = (Login::Done, false, None);
    }

    fn system(&self) -> &'static str {
        self.system.unwrap_or("mysql")
    }

    /// A command was told.
    fn asked(&mut self, pending: Pending) {
        if self.queue.push(pending).is_some_and(|pending| pending.database != Database::Stays) {
            self.database = None;
        }
    }

    /// How the command turned out that `change` belongs to; `None`: that was not seen.
    fn change_database(&mut self, change: Database, worked: Option<bool>) {
        self.database = match (change, worked) {
            (Database::Stays, _) | (Database::Becomes(_), Some(false)) => return,
            (Database::Becomes(database), Some(true)) => Some(database),
            (Database::Becomes(_), None) | (Database::Unknown, _) => None,
        };
    }

    /// Takes the server's status flags.
    fn status(&mut self, status: u16) {
        self.backslash_plain = Some(status & wire::STATUS_NO_BACKSLASH_ESCAPES != 0);
    }
}
