//! Reply codes (AMQP 0-9-1, 1.2: constants), and whose fault they are.

use std::borrow::Cow;

use crate::session::Outcome;

const NAMES: [(u16, &str); 20] = [
    (311, "content-too-large"),
    (312, "no-route"),
    (313, "no-consumers"),
    (320, "connection-forced"),
    (402, "invalid-path"),
    (403, "access-refused"),
    (404, "not-found"),
    (405, "resource-locked"),
    (406, "precondition-failed"),
    (501, "frame-error"),
    (502, "syntax-error"),
    (503, "command-invalid"),
    (504, "channel-error"),
    (505, "unexpected-frame"),
    (506, "resource-error"),
    (530, "not-allowed"),
    (540, "not-implemented"),
    (541, "internal-error"),
    (310, "not-delivered"),
    (321, "internal-redirect"),
];
/// An operator closed the connection, something has run out, the server is at fault.
const OF_THE_SERVER: [u16; 3] = [320, 506, 541];
/// RabbitMQ and AMQP: all is well.
const SUCCESS: u16 = 200;

/// The name of a code; the number if it has none.
pub(super) fn name(code: u16) -> Cow<'static, str> {
    let known = NAMES.iter().find(|(known, _)| *known == code);
    known.map_or_else(|| code.to_string().into(), |(_, name)| (*name).into())
}

/// What a code says.
pub(super) fn outcome(code: u16) -> Outcome {
    match code {
        SUCCESS => Outcome::Ok,
        code if OF_THE_SERVER.contains(&code) => Outcome::Error(name(code)),
        code => Outcome::ClientError(name(code)),
    }
}
