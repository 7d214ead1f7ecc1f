//! What an answer says: whether it worked, and the error's code.

use super::{
    bson::{Document, Value},
    message::{self, Body},
};
use crate::{
    fields::name,
    session::{Facts, Outcome},
};

/// The first result of `bulkWrite` in a cursor that is an error.
fn failed_operation<'a>(cursor: &Document<'a>) -> Option<Document<'a>> {
    let batch = cursor.elements().find_map(|element| match element {
        (b"firstBatch", Value::Document(batch)) => Some(batch),
        _ => None,
    })?;
    let failed = |result: &Document<'a>| result.elements().any(|element| matches!(element, (b"ok", Value::Number(0))));
    batch
        .elements()
        .find_map(|(_, value)| if let Value::Document(result) = value { Some(result) } else { None }.filter(failed))
}

/// Codes that say something of the server's or the cluster's state rather than of the request.
const OF_THE_SERVER: [i64; 24] = [
    1,     // InternalError
    6,     // HostUnreachable
    7,     // HostNotFound
    8,     // UnknownError
    50,    // MaxTimeMSExpired
    64,    // WriteConcernTimeout
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    100,   // UnsatisfiableWriteConcern
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    175,   // QueryPlanKilled
    189,   // PrimarySteppedDown
    202,   // NetworkInterfaceExceededTimeLimit
    262,   // ExceededTimeLimit
    290,   // TransactionExceededLifetimeLimitSeconds
    9001,  // SocketException
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11601, // Interrupted
    11602, // InterruptedDueToReplStateChange
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
    14031, // OutOfDiskSpace
];
/// [`message::OP_REPLY`]: the cursor was not found, or the query failed.
const REPLY_FAILED: u32 = 0b11;

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Reply<'a> {
    ok: Option<bool>,
    code: Option<i64>,
    code_name: Option<&'a str>,
    /// Whether it holds errors of single writes, or of the write concern.
    write_error: bool,
    /// Whether it brings a cursor, which only an answer without error does, but for that to `bulkWrite`.
    cursor: bool,
    /// Whether it answers `hello`, as monitors of drivers ask for again and again.
    pub(super) hello: bool,
    /// Whether all of it was captured.
    whole: bool,
}

impl<'a> Reply<'a> {
    /// Reads an answer; `bulk`: to `bulkWrite`.
    pub(super) fn read(opcode: u32, body: &Body<'a>, bulk: bool) -> Self {
        let mut reply = Self::default();
        if let Some(document) = body.document {
            reply.document(&document);
        }
        // How many of its operations failed is said behind the cursor, which holds their errors.
        reply.cursor &= !bulk;
        if opcode == message::OP_REPLY && reply.ok.is_none() {
            reply.ok = (body.document.is_some() || body.reply_flags & REPLY_FAILED != 0)
                .then_some(body.reply_flags & REPLY_FAILED == 0);
        }
        reply
    }

    fn document(&mut self, document: &Document<'a>) {
        self.whole = document.whole;
        let mut failed = None;
        for element in document.elements() {
            match element {
                (b"ok", Value::Number(ok)) => self.ok = Some(ok != 0),
                (b"code", Value::Number(code)) => self.code = Some(code),
                (b"codeName", Value::Text(text)) => self.code_name = name(text),
                (b"cursor", Value::Document(cursor)) => {
                    self.cursor = true;
                    failed = failed_operation(&cursor);
                }
                (b"nErrors", Value::Number(1..)) => self.note_write_error(&failed.unwrap_or_default()),
                (b"maxWireVersion", _) => self.hello = true,
                (b"writeErrors", Value::Document(array)) => {
                    if let Some((_, Value::Document(first))) = array.elements().next() {
                        self.note_write_error(&first);
                    }
                }
                (b"writeConcernError", Value::Document(error)) => self.note_write_error(&error),
                _ => {}
            }
        }
    }

    /// The first counts.
    fn note_write_error(&mut self, error: &Document<'a>) {
        if std::mem::replace(&mut self.write_error, true) {
            return;
        }
        for element in error.elements() {
            match element {
                (b"code", Value::Number(code)) => self.code = Some(code),
                (b"codeName", Value::Text(text)) => self.code_name = name(text),
                _ => {}
            }
        }
    }

    /// `Ok` only if nothing that was not captured can say otherwise.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        if self.ok == Some(false) || self.write_error {
            let error = self.code.map_or_else(|| "_OTHER".to_owned(), |code| code.to_string());
            if self.code.is_some() {
                facts.set("db.response.status_code", error.clone());
            }
            if let Some(name) = self.code_name {
                facts.set("spantap.mongodb.code_name", name.to_owned());
            }
            let of_the_server = self.code.is_none_or(|code| OF_THE_SERVER.contains(&code));
            facts.outcome =
                Some(if of_the_server { Outcome::Error(error.into()) } else { Outcome::ClientError(error.into()) });
        } else if self.cursor || (self.ok == Some(true) && self.whole) {
            facts.outcome = Some(Outcome::Ok);
        }
        facts
    }
}
