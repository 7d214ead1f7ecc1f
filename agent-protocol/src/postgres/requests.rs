//! What the client sends.

use std::{ops::Range, sync::Arc};

use super::{
    Shared,
    batches::Batch,
    wire::{self, Fields},
};
use crate::{
    frames::Frame,
    session::{Event, Facts, Key, Part, Side},
    sql::{Backslash, Dialect, Prepared, Rules, Statement},
    text::Text,
};

/// Most statements that are kept, and their bytes.
const STATEMENTS_MAX: (usize, usize) = (256, 32 * 1024);
/// Most portals that are kept, and the bytes of their statements.
const PORTALS_MAX: (usize, usize) = (16, 8 * 1024);
/// Longer names of statements and portals are not kept.
const NAME_BYTES_MAX: usize = 63;
const DATABASE_BYTES_MAX: usize = 128;

/// State of the client's side.
#[derive(Debug)]
pub(super) struct Requests {
    database: Option<Text>,
    statements: Prepared<Box<[u8]>>,
    portals: Prepared<Box<[u8]>>,
    /// Where the next `Execute`'s exchange began: at its `Parse` or `Bind`.
    start: Option<u64>,
    /// What was parsed, and not bound, since the last `Sync`, and where.
    parsed: Option<(u64, Arc<Statement>)>,
    /// Statements parsed since the last `Sync` hold trace contexts of now.
    fresh: bool,
    /// A request that goes on with data.
    streaming: Option<Streaming>,
}

#[derive(Debug)]
struct Streaming {
    range: Range<u64>,
    /// By `Execute`: a `Sync` before the data's end is ignored by the server.
    extended: bool,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            database: None,
            statements: Prepared::new(STATEMENTS_MAX.0, STATEMENTS_MAX.1),
            portals: Prepared::new(PORTALS_MAX.0, PORTALS_MAX.1),
            start: None,
            parsed: None,
            fresh: false,
            streaming: None,
        }
    }
}

impl Requests {
    /// Where a request that is still to be told began.
    pub fn open_from(&self) -> Option<u64> {
        let parsed = self.parsed.as_ref().map(|(start, _)| *start);
        let streaming = self.streaming.as_ref().map(|streaming| streaming.range.start);
        self.start.into_iter().chain(parsed).chain(streaming).min()
    }

    /// Framing was lost: names may have been closed, and stand for something else now.
    pub fn lose(&mut self) {
        (self.start, self.parsed, self.streaming, self.fresh) = (None, None, None, false);
        self.statements.clear();
        self.portals.clear();
    }

    /// The next message.
    pub fn message(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some((&kind, _)) = frame.kept.split_first() else { return };
        if kind == 0 {
            return self.start_up(frame, shared, out);
        }
        let mut fields = Fields::new(frame.kept.get(5..).unwrap_or_default());
        match kind {
            b'Q' => self.query(frame, &mut fields, shared, out),
            b'P' => self.parse(frame, &mut fields, shared),
            b'B' => self.bind(frame, &mut fields),
            b'D' => _ = self.start.get_or_insert(frame.start),
            b'C' => self.close(&mut fields),
            b'E' => self.execute(frame, &mut fields, shared, out),
            b'S' => self.sync(frame, shared, out),
            b'H' => self.flush(frame, shared, out),
            b'F' => self.call(frame, shared, out),
            b'd' | b'c' | b'f' => self.data(frame, kind != b'd', out),
            _ => {}
        }
    }

    /// A message without a type: the first ones.
    fn start_up(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        match wire::code(frame.kept) {
            Some(wire::SSL_REQUEST | wire::GSSENC_REQUEST) => shared.encryption_asked = true,
            Some(wire::CANCEL_REQUEST) => self.cancel(frame, out),
            _ => {
                self.database = wire::database(frame.kept.get(8..).unwrap_or_default())
                    .filter(|name| name.len() <= DATABASE_BYTES_MAX)
                    .map(|name| Text::from(name).shared());
                shared.login = Some(frame.start..frame.end);
            }
        }
    }

    /// Nobody answers a request to cancel: how it ends is not known.
    fn cancel(&self, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let facts = Facts::named("CANCEL").with("db.system.name", wire::SYSTEM).with("db.operation.name", "CANCEL");
        out.push(Event::Part(Part::whole(Side::Client, Key::InOrder, frame.start..frame.end, facts)));
        out.push(Event::Cancelled { key: Key::InOrder, by: Side::Client, end: frame.end, error_type: None });
    }

    /// A log-in that failed is told as a request after all.
    pub fn login(&self, range: Range<u64>, out: &mut Vec<Event>) {
        let facts = Facts::named("LOGIN").with("db.operation.name", "LOGIN");
        self.tell(range, self.with_connection(facts), false, out);
    }

    fn query(&mut self, frame: &Frame<'_>, fields: &mut Fields<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let statement = read(fields.text(), !frame.hidden, shared);
        self.finish_streaming(out);
        let streams_in = statement.streams_in;
        let facts = Facts { trace: statement.trace, ..self.facts(statement) };
        self.tell(frame.start..frame.end, facts, streams_in, out);
        if streams_in {
            self.streaming = Some(Streaming { range: frame.start..frame.end, extended: false });
        }
        shared.batches.push(Batch { simple: true, exchanges: 1 });
    }

    fn parse(&mut self, frame: &Frame<'_>, fields: &mut Fields<'_>, shared: &mut Shared) {
        self.start.get_or_insert(frame.start);
        let name = fields.text();
        let statement = Arc::new(read(fields.text(), !frame.hidden, shared).shared());
        if name.len() <= NAME_BYTES_MAX {
            self.statements.insert(name.into(), statement.clone());
        }
        self.parsed.get_or_insert((frame.start, statement));
        self.fresh = true;
    }

    fn bind(&mut self, frame: &Frame<'_>, fields: &mut Fields<'_>) {
        self.start.get_or_insert(frame.start);
        let (portal, name) = (fields.text(), fields.text());
        match self.statements.get(name) {
            Some(statement) if portal.len() <= NAME_BYTES_MAX => self.portals.insert(portal.into(), statement),
            _ => self.portals.remove(portal),
        }
    }

    fn close(&mut self, fields: &mut Fields<'_>) {
        match fields.byte() {
            Some(b'S') => self.statements.remove(fields.text()),
            Some(b'P') => self.portals.remove(fields.text()),
            _ => {}
        }
    }

    fn execute(&mut self, frame: &Frame<'_>, fields: &mut Fields<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        self.finish_streaming(out);
        shared.batches.alone = self.start.is_none();
        let range = self.start.take().unwrap_or(frame.start)..frame.end;
        let statement = self.portals.get(fields.text());
        let mut facts = self.facts(statement.as_deref().cloned().unwrap_or_default());
        facts.trace = statement.as_ref().and_then(|statement| statement.trace).filter(|_| self.fresh);
        let streams_in = statement.is_some_and(|statement| statement.streams_in);
        self.tell(range.clone(), facts, streams_in, out);
        if streams_in {
            self.streaming = Some(Streaming { range, extended: true });
        }
        self.parsed = None;
        shared.batches.unsynced = shared.batches.unsynced.saturating_add(1);
    }

    fn sync(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        if self.streaming.as_ref().is_some_and(|streaming| streaming.extended) {
            return;
        }
        self.start = None;
        self.fresh = false;
        let prepared = self.prepared(frame, shared, out);
        shared.batches.sync(prepared);
    }

    /// What was asked for so far is answered, by itself.
    fn flush(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        self.start = None;
        if self.prepared(frame, shared, out) {
            shared.batches.unsynced = shared.batches.unsynced.saturating_add(1);
            shared.batches.prepared = shared.batches.prepared.saturating_add(1);
        }
    }

    /// Tells a batch that prepares and executes nothing.
    fn prepared(&mut self, frame: &Frame<'_>, shared: &Shared, out: &mut Vec<Event>) -> bool {
        let Some((start, statement)) = self.parsed.take().filter(|_| shared.batches.unsynced == 0) else {
            return false;
        };
        let mut facts = Facts { trace: statement.trace, ..self.facts(Statement::clone(&statement)) };
        facts.name = Some(facts.name.map_or("PREPARE".into(), |name| ["PREPARE ", &name].concat().into()));
        facts.set("db.operation.name", "PREPARE");
        self.tell(start..frame.end, facts, false, out);
        true
    }

    /// `FunctionCall`.
    fn call(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let facts = Facts::named("CALL").with("db.operation.name", "CALL");
        self.tell(frame.start..frame.end, self.with_connection(facts), false, out);
        shared.batches.push(Batch { simple: true, exchanges: 1 });
    }

    /// `CopyData`, `CopyDone`, `CopyFail`.
    fn data(&mut self, frame: &Frame<'_>, last: bool, out: &mut Vec<Event>) {
        if let Some(streaming) = &mut self.streaming {
            streaming.range.end = frame.end;
        }
        if last {
            self.finish_streaming(out);
        }
    }

    /// The data of a request ended, or will not be sent.
    pub fn finish_streaming(&mut self, out: &mut Vec<Event>) {
        if let Some(streaming) = self.streaming.take() {
            self.tell(streaming.range, Facts::default(), false, out);
        }
    }

    fn tell(&self, range: Range<u64>, facts: Facts, open: bool, out: &mut Vec<Event>) {
        let part = Part::whole(Side::Client, Key::InOrder, range, facts);
        out.push(Event::Part(if open { part.open() } else { part }));
    }

    fn facts(&self, statement: Statement) -> Facts {
        let mut facts = statement.facts(wire::SYSTEM);
        if let Some(database) = &self.database {
            facts.attributes.push(("db.namespace", database.clone().into()));
        }
        facts
    }

    fn with_connection(&self, mut facts: Facts) -> Facts {
        facts.attributes.extend(self.facts(Statement::default()).attributes);
        facts
    }
}

fn read(text: &[u8], whole: bool, shared: &Shared) -> Statement {
    let backslash = match shared.backslash_plain {
        Some(true) => Backslash::Plain,
        Some(false) => Backslash::Escapes,
        None => Backslash::Unknown,
    };
    Statement::read(text, whole, Rules { dialect: Dialect::Postgres, backslash })
}
