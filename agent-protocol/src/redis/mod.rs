//! Redis and Valkey: RESP2 and RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), inline commands.
//!
//! In: the bytes of both directions. Out: a request per command and its reply, in order; messages of channels, which nobody
//! asked for, as messages without an answer. The span is named after the command alone: that it ran in database 0 says little.
//! Never told: keys, channels, values, arguments, scripts, texts of errors. Of a command's first key there is a digest
//! ([`KEY_DIGEST`]), which is not to leave as it is: keys can be guessed.
//!
//! Hand-written, because the crates for RESP build whole replies in memory, and recurse: here an element is skipped as
//! soon as its length is known, and nesting is a counter.
//!
//! After a gap over elements' lengths a lone command, or a lone reply, ends with the gap (inferred); further bytes of the
//! reply are passed over until the next command. What was pipelined with it cannot be told apart and is lost.
//! Not followed: replication (silent from `PSYNC` on).

mod commands;
mod element;
mod keys;
mod names;
mod replies;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::VecDeque};

use self::{
    commands::{Command, Commands, Effect},
    replies::{Replies, Reply, What},
};
use crate::{
    detect::Sign,
    frames::{Frames, Heard, Measure},
    session::{Boundary, Event, Facts, Input, Key, Kind, Lost, Outcome, Parser, Part, Side, Text},
};

/// The attribute that holds the digest of a command's first key: of its length and its first 64 bytes. Who stores spans takes it out,
/// or puts in its place what only a secret can make of it.
pub const KEY_DIGEST: &str = "spantap.redis.key.hash";

/// Most `SELECT`s whose answers are waited for.
const SELECTS_MAX: usize = 64;
/// Most subscriptions whose confirmations are waited for.
const SUBSCRIPTIONS_MAX: usize = 64;

/// Errors that are the server's trouble; the others say that the request, or the way to ask it, was wrong.
const SERVER_ERRORS: &[&str] = &[
    "BUSY",
    "CLUSTERDOWN",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "TRYAGAIN",
    "UNKILLABLE",
];

/// Commands that wait for news, take or give leave, or are acknowledgements themselves.
const WAITING: [&str; 15] = [
    "SHUTDOWN",
    "REPLCONF",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BLMOVE",
    "BLMPOP",
    "BZPOPMIN",
    "BZPOPMAX",
    "BZMPOP",
    "XREAD",
    "XREADGROUP",
    "WAIT",
    "MONITOR",
    "QUIT",
];

/// How the first bytes look, if they are a client's.
pub fn check_client(bytes: &[u8]) -> Sign {
    commands::check(bytes)
}

/// How the first bytes look, if they are a server's.
pub fn check_server(bytes: &[u8]) -> Sign {
    element::check(bytes)
}

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Redis>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Redis {
    client: Frames,
    server: Frames,
    commands: Commands,
    replies: Replies,
    state: State,
}

/// What commands and replies did to the connection.
#[derive(Debug, Default)]
struct State {
    /// Commands that were told and are not answered.
    waiting: u32,
    /// How many of those came before each `SELECT` among them.
    selecting: VecDeque<u32>,
    /// Since the server's framing was lost no command came.
    unasked: bool,
    /// Database, once it is known.
    database: Option<u32>,
    /// Inside a transaction: the database before it.
    before_multi: Option<Option<u32>>,
    mute: Mute,
    /// How many confirmations subscriptions still wait for.
    subscribing: VecDeque<u64>,
    /// Channels that are subscribed to; `None`: it was not seen.
    subscribed: Option<u64>,
    /// Something was told.
    said: bool,
    /// What follows is not read.
    silent: bool,
}

/// What is not answered, by wish of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mute {
    #[default]
    Nothing,
    Next,
    All,
}

impl Parser for Redis {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        match from {
            Side::Client => self.client(input, out),
            Side::Server => self.server(input, out),
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        let (frames, open) = match from {
            Side::Client => (&self.client, self.commands.open_from()),
            Side::Server => (&self.server, self.replies.open_from()),
        };
        open.unwrap_or(frames.pending_from())
    }
}

impl Redis {
    fn client(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, commands, state, .. } = self;
        let end = client.offset().saturating_add(input.length());
        let mut feed = client.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { commands.measure(bytes) };
            let resumes = |bytes: &[u8]| !state.silent && check_client(bytes) == Sign::Yes;
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    if let Some(command) = commands.take(frame.start, frame.kept, frame.hidden) {
                        state.command(&command, frame.end, out);
                    }
                }
                Some(Heard::Lost { at, reason }) => state.client_lost(commands.abandon(), (at, end), reason, out),
            }
        }
    }

    fn server(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { server, replies, state, .. } = self;
        let end = server.offset().saturating_add(input.length());
        let mut feed = server.feed(input);
        loop {
            let measure = |bytes: &[u8]| if state.silent { Measure::Malformed } else { element::measure(bytes) };
            let resumes = |bytes: &[u8]| !state.silent && !state.unasked && matches!(check_server(bytes), Sign::Likely);
            match feed.next(measure, resumes) {
                None => return,
                Some(Heard::Frame(frame)) => {
                    if let Some(reply) = replies.take(frame.start, element::read(frame.kept)) {
                        state.reply(reply, frame.end, out);
                    }
                }
                Some(Heard::Lost { at, reason }) => state.server_lost(replies.abandon(), (at, end), reason, out),
            }
        }
    }
}

impl State {
    fn command(&mut self, command: &Command, end: u64, out: &mut Vec<Event>) {
        self.unasked = false;
        self.said = true;
        let answered = self.is_answered(command);
        if command.name == Some("DISCARD") {
            self.database = self.before_multi.take().unwrap_or(self.database);
        }
        let (range, facts) = (command.start..end, self.facts(command));
        if !answered {
            out.push(Event::Part(Part::one_way(Side::Client, range, facts)));
            return;
        }
        self.follow(command);
        self.waiting = self.waiting.saturating_add(1);
        out.push(Event::Part(Part::whole(Side::Client, Key::InOrder, range, facts)));
    }

    fn facts(&self, command: &Command) -> Facts {
        let facts = Facts { name: command.name.map(Into::into), ..Facts::default() }.with("db.system.name", "redis");
        let facts = match command.name {
            Some(name) => Facts { may_go_early: WAITING.contains(&name), ..facts.with("db.operation.name", name) },
            None => facts,
        };
        let facts = match self.database {
            Some(database) => facts.with("db.namespace", namespace(database)),
            None => facts,
        };
        match command.key {
            Some(key) => facts.with(KEY_DIGEST, key.cast_signed()),
            None => facts,
        }
    }

    /// `CLIENT REPLY` switches answers off, for good or for the next command.
    fn is_answered(&mut self, command: &Command) -> bool {
        let mute = self.mute;
        match command.effect {
            Effect::ReplyOn => self.mute = Mute::Nothing,
            Effect::ReplyOff => self.mute = Mute::All,
            Effect::ReplySkip if mute == Mute::Nothing => self.mute = Mute::Next,
            _ if mute == Mute::Next => self.mute = Mute::Nothing,
            _ => {}
        }
        match command.effect {
            Effect::ReplyOff | Effect::ReplySkip => false,
            Effect::ReplyOn => true,
            _ => mute == Mute::Nothing,
        }
    }

    /// What it changes, if the server agrees.
    fn follow(&mut self, command: &Command) {
        if let Effect::Select(database) = command.effect {
            self.database = database.filter(|_| self.selecting.len() < SELECTS_MAX);
            self.selecting.push_back(self.waiting);
            self.selecting.truncate(SELECTS_MAX);
        }
        match command.name {
            Some("MULTI") => self.before_multi = Some(self.database),
            // Whether it will be executed is not known: what it watches may have changed.
            Some("EXEC") if self.before_multi.take().is_some_and(|before| before != self.database) => {
                self.database = None;
            }
            Some("SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE")
                if self.subscribing.len() < SUBSCRIPTIONS_MAX =>
            {
                self.subscribing.push_back((command.words - 1).max(1))
            }
            _ => {}
        }
    }

    fn reply(&mut self, reply: Reply, end: u64, out: &mut Vec<Event>) {
        self.said = true;
        let answer = Part::whole(Side::Server, Key::InOrder, reply.start..end, Facts::default());
        match reply.what {
            What::Notice => {}
            What::Subscription { left, pushed } if pushed || !self.subscribing.is_empty() || self.is_subscriber() => {
                self.subscribed = Some(left);
                self.confirmed(answer, out);
            }
            What::Message { pushed } if pushed || self.is_subscriber() => {
                let facts = Facts { kind: Kind::Consume, ..Facts::named("deliver") }
                    .with("messaging.system", "redis")
                    .with("messaging.operation.name", "deliver")
                    .with("messaging.operation.type", "process");
                out.push(Event::Part(Part::one_way(Side::Server, answer.range, facts)));
            }
            what => self.answer(what, answer, out),
        }
    }

    /// In RESP2 a message looks like an answer: it is one if nothing was subscribed to, as far as that was seen.
    fn is_subscriber(&self) -> bool {
        self.subscribed.map_or(self.waiting == 0, |left| left > 0)
    }

    /// Each channel that a command names is confirmed on its own.
    fn confirmed(&mut self, mut answer: Part, out: &mut Vec<Event>) {
        // One `UNSUBSCRIBE` without channels may have many; the first one answers it.
        let Some(left) = self.subscribing.front_mut() else { return };
        *left -= 1;
        answer.facts.outcome = Some(Outcome::Ok);
        if *left > 0 {
            out.push(Event::Part(answer.open()));
            return;
        }
        self.subscribing.pop_front();
        self.answered();
        out.push(Event::Part(answer));
    }

    fn answer(&mut self, what: What, mut answer: Part, out: &mut Vec<Event>) {
        let selected = self.selecting.front() == Some(&0);
        if selected && matches!(what, What::Error(_) | What::NoDatabase) {
            self.database = None;
        }
        let ok = Facts::default().outcome(Outcome::Ok);
        answer.facts = match what {
            What::Error(code) => failed(code),
            What::NoDatabase => failed("ERR".to_owned()),
            What::Queued => ok.with("spantap.redis.queued", true),
            What::Reset => {
                (self.database, self.subscribed, self.before_multi) = (Some(0), Some(0), None);
                ok
            }
            What::Replication => {
                self.silent = true;
                ok
            }
            _ => ok,
        };
        self.answered();
        out.push(Event::Part(answer));
    }

    fn answered(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        self.selecting.pop_front_if(|before| *before == 0);
        self.selecting.iter_mut().for_each(|before| *before = before.saturating_sub(1));
        if self.waiting == 0 {
            self.subscribing.clear();
        }
    }

    fn client_lost(&mut self, open: Option<Command>, (at, end): (u64, u64), reason: Lost, out: &mut Vec<Event>) {
        if self.silent {
            return;
        }
        if !self.said && reason == Lost::Malformed {
            self.silent = true;
            out.push(Event::NotMine);
            return;
        }
        self.said = true;
        if let Some(command) = open.filter(|_| reason == Lost::Gap && self.waiting == 0) {
            self.command(&command, end, out);
            infer(out);
        }
        self.forget();
        out.push(Event::Lost { from: Side::Client, at, reason });
    }

    /// What was lost may have changed the database.
    fn forget(&mut self) {
        (self.database, self.before_multi) = (None, None);
        self.selecting.clear();
    }

    fn server_lost(&mut self, open: Option<u64>, (at, end): (u64, u64), reason: Lost, out: &mut Vec<Event>) {
        if self.silent {
            return;
        }
        self.said = true;
        if let Some(start) = open.filter(|_| reason == Lost::Gap && self.waiting == 1) {
            self.answer(What::Answer, Part::whole(Side::Server, Key::InOrder, start..end, Facts::default()), out);
            infer_answer(out);
        }
        self.unasked = true;
        self.waiting = 0;
        self.subscribing.clear();
        self.subscribed = None;
        self.forget();
        out.push(Event::Lost { from: Side::Server, at, reason });
    }
}

/// The last part is an answer whose end was not seen: it may be an error, or hold one.
fn infer_answer(out: &mut [Event]) {
    infer(out);
    if let Some(Event::Part(part)) = out.last_mut() {
        part.facts.outcome = None;
    }
}

/// The last part's end was not seen.
fn infer(out: &mut [Event]) {
    if let Some(Event::Part(part)) = out.last_mut() {
        part.boundary = Boundary::Inferred;
    }
}

/// A database's number as text; the usual configuration has sixteen of them.
fn namespace(database: u32) -> Text {
    const USUAL: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];
    USUAL.get(database as usize).map_or_else(|| database.to_string().into(), |text| (*text).into())
}

fn failed(code: String) -> Facts {
    let facts = Facts::default().with("db.response.status_code", code.clone());
    let is_servers = SERVER_ERRORS.contains(&code.as_str());
    let code = Cow::Owned(code);
    facts.outcome(if is_servers { Outcome::Error(code) } else { Outcome::ClientError(code) })
}
