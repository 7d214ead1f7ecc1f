//! What the client sends.

use std::{ops::Range, sync::Arc};

use super::{
    Login, Shared,
    commands::Command,
    pending::{Answer, Database, Pending},
    wire::{self, Fields, Numbers, Packet},
};
use crate::{
    frames::Frame,
    session::{Event, Facts, Key, Part, Side},
    sql::{Backslash, Dialect, Prepared, Rules, Statement},
    text::Text,
};

/// Most statements that are kept, and their bytes.
const STATEMENTS_MAX: (usize, usize) = (256, 32 * 1024);
const DATABASE_BYTES_MAX: usize = 128;
/// MariaDB: the statement that was prepared last.
const LAST_PREPARED: u32 = u32::MAX;

/// State of the client's side.
#[derive(Debug)]
pub(super) struct Requests {
    statements: Prepared<u32>,
    /// What was prepared last, perhaps without an answer yet.
    last: Option<Arc<Statement>>,
    /// A request that goes on: in further packets, or with a file.
    open: Option<Open>,
    /// The packet before was as long as a packet can be: the next one continues it.
    continued: Option<u8>,
}

#[derive(Debug)]
struct Open {
    range: Range<u64>,
    /// The server asks for a file.
    file: bool,
}

impl Default for Requests {
    fn default() -> Self {
        Self { statements: Prepared::new(STATEMENTS_MAX.0, STATEMENTS_MAX.1), last: None, open: None, continued: None }
    }
}

impl Requests {
    /// Where a request that is still to be told began.
    pub fn open_from(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.range.start)
    }

    /// Framing was lost.
    pub fn lose(&mut self) {
        (self.open, self.continued) = (None, None);
    }

    /// Which number the next packet may have.
    pub fn expected(&self, shared: &Shared) -> Numbers {
        let file = self.open.as_ref().is_some_and(|open| open.file);
        let login = !matches!(shared.login, Login::Done)
            || shared.queue.current().is_some_and(|pending| pending.answer == Answer::Login);
        match self.continued {
            Some(before) => Numbers::One(before.wrapping_add(1)),
            None if file || login || shared.sends_file => Numbers::Any,
            None => Numbers::One(0),
        }
    }

    /// The next packet.
    pub fn packet(&mut self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(packet) = Packet::new(frame) else { return };
        let continues = self.continued.take().is_some();
        self.continued = packet.is_continued().then_some(packet.number);
        if continues {
            return self.go_on(frame, out);
        }
        match (&shared.login, packet.number) {
            (Login::Unseen | Login::Asked, 1) => self.login(frame, &packet, shared, out),
            (_, 0) => {
                if shared.login == Login::Unseen {
                    shared.login = Login::Done;
                }
                self.command(frame, &packet, shared, out);
            }
            _ => self.file(frame, &packet, out),
        }
    }

    /// More packets of the same request.
    fn go_on(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let Some(open) = &mut self.open else { return };
        open.range.end = frame.end;
        if self.continued.is_none() && !open.file {
            self.finish_open(out);
        }
    }

    /// A file's bytes; an empty packet ends it.
    fn file(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, out: &mut Vec<Event>) {
        if let Some(open) = self.open.as_mut().filter(|open| open.file) {
            open.range.end = frame.end;
            if packet.length == 0 {
                self.finish_open(out);
            }
        }
    }

    /// The client's answer to the greeting, or a request for encryption instead of it.
    fn login(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(handshake) = wire::handshake(packet) else { return };
        if handshake.encrypts {
            shared.over = true;
            return out.push(Event::Switched);
        }
        shared.ends_marked = Some(handshake.ends_marked);
        shared.database =
            handshake.database.filter(|name| name.len() <= DATABASE_BYTES_MAX).map(|name| Text::from(name).shared());
        shared.login = Login::Answered { range: frame.start..frame.end, compressed: handshake.compressed };
    }

    /// A log-in that failed is told as a request after all.
    pub fn failed_login(&self, range: Range<u64>, shared: &Shared, out: &mut Vec<Event>) {
        let facts = plain("LOGIN", shared);
        out.push(Event::Part(Part::whole(Side::Client, Key::InOrder, range, facts)));
    }

    fn command(&mut self, frame: &Frame<'_>, packet: &Packet<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some((first, contents)) = packet.contents.split_first() else { return };
        let Some(command) = Command::of(*first) else { return };
        let mut fields = Fields::new(contents);
        self.finish_open(out);
        let whole = !frame.hidden && !packet.is_continued() && contents.len() + 1 == packet.length;
        let mut streams_in = false;
        let (facts, pending) = match command {
            Command::Silent => return,
            Command::Replication => return shared.over = true,
            Command::Close => return self.close(fields.long()),
            Command::Query => {
                let mut statement = read(wire::query_text(contents), whole, shared);
                streams_in = statement.streams_in;
                let database = match statement.database.take() {
                    Some(database) => Database::Becomes(database.shared()),
                    None if statement.uses => Database::Unknown,
                    None => Database::Stays,
                };
                let facts = Facts { trace: statement.trace, ..facts(statement, shared) };
                (facts, Pending { database, ..Pending::default() })
            }
            Command::Prepare => self.prepare(read(contents, whole, shared), shared),
            Command::Execute => (self.of_statement(fields.long(), shared), Pending::default()),
            Command::Fetch => {
                let facts = self.of_statement(fields.long(), shared);
                (prefixed("FETCH", facts), Pending { answer: Answer::Rows, ..Pending::default() })
            }
            Command::InitDb => {
                let name = String::from_utf8_lossy(contents).into_owned();
                let kept = whole && name.len() <= DATABASE_BYTES_MAX;
                let database = if kept { Database::Becomes(Text::from(name).shared()) } else { Database::Unknown };
                (plain("INIT_DB", shared), Pending { database, ..Pending::default() })
            }
            Command::ChangeUser => {
                // It names a database behind the authentication, or leaves none.
                let (answer, database) = (Answer::Login, Database::Unknown);
                (plain("CHANGE_USER", shared), Pending { answer, database, ..Pending::default() })
            }
            Command::Named(name, answer) => (plain(name, shared), Pending { answer, ..Pending::default() }),
        };
        let part = Part::whole(Side::Client, Key::InOrder, frame.start..frame.end, facts);
        let open = streams_in || packet.is_continued();
        out.push(Event::Part(if open { part.open() } else { part }));
        if open {
            self.open = Some(Open { range: frame.start..frame.end, file: streams_in });
        }
        shared.asked(pending);
    }

    fn close(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.statements.remove(&id);
        }
    }

    fn prepare(&mut self, statement: Statement, shared: &Shared) -> (Facts, Pending) {
        let statement = statement.shared();
        let facts = Facts { trace: statement.trace, ..prefixed("PREPARE", facts(statement.clone(), shared)) };
        let statement = Arc::new(Statement { trace: None, ..statement });
        self.last = Some(statement.clone());
        (facts, Pending { answer: Answer::Prepared, statement: Some(statement), ..Pending::default() })
    }

    fn of_statement(&mut self, id: Option<u32>, shared: &Shared) -> Facts {
        let known = match id {
            Some(LAST_PREPARED) => self.last.clone(),
            Some(id) => self.statements.get(&id),
            None => None,
        };
        facts(known.as_deref().cloned().unwrap_or_default(), shared)
    }

    /// A statement has its number.
    pub fn prepared(&mut self, id: u32, statement: Arc<Statement>) {
        self.statements.insert(id, statement);
    }

    /// The rest of a request ended, or will not be sent.
    pub fn finish_open(&mut self, out: &mut Vec<Event>) {
        if let Some(open) = self.open.take() {
            out.push(Event::Part(Part::whole(Side::Client, Key::InOrder, open.range, Facts::default())));
        }
    }
}

fn read(text: &[u8], whole: bool, shared: &Shared) -> Statement {
    let backslash = match shared.backslash_plain {
        Some(true) => Backslash::Plain,
        Some(false) => Backslash::Escapes,
        None => Backslash::Unknown,
    };
    Statement::read(text, whole, Rules { dialect: Dialect::Mysql, backslash })
}

fn facts(statement: Statement, shared: &Shared) -> Facts {
    let mut facts = statement.facts(shared.system());
    if let Some(database) = &shared.database {
        facts.attributes.push(("db.namespace", database.clone().into()));
    }
    facts
}

/// A command that is no statement.
fn plain(operation: &'static str, shared: &Shared) -> Facts {
    prefixed(operation, facts(Statement::default(), shared))
}

/// Something is done with a statement.
fn prefixed(operation: &'static str, mut facts: Facts) -> Facts {
    facts.name = Some(facts.name.map_or(operation.into(), |name| [operation, " ", &name].concat().into()));
    facts.with("db.operation.name", operation)
}
