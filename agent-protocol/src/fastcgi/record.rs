//! Records: header, content, padding (section 3.3).

use super::response;
use crate::{
    detect::Sign,
    frames::{Frame, Measure},
    session::Side,
};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// Length of the content of `FCGI_BEGIN_REQUEST` and `FCGI_END_REQUEST`.
const BODY_BYTES: usize = 8;
/// How much is wanted of a record: of parameters, of the head of a response.
const KEPT_BYTES: usize = HEADER_BYTES + 8 * 1024;

/// Types of records (section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    BeginRequest,
    AbortRequest,
    EndRequest,
    Params,
    Stdin,
    Stdout,
    Stderr,
    Data,
    /// Of the connection, not of a request.
    Management,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::BeginRequest,
            2 => Self::AbortRequest,
            3 => Self::EndRequest,
            4 => Self::Params,
            5 => Self::Stdin,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::Data,
            9..=11 => Self::Management,
            _ => return None,
        })
    }

    fn is_from(self, side: Side) -> bool {
        match self {
            Self::Management => true,
            Self::EndRequest | Self::Stdout | Self::Stderr => side == Side::Server,
            _ => side == Side::Client,
        }
    }
}

/// A record, as far as it was kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub kind: Kind,
    pub id: u16,
    /// Of the content.
    pub length: usize,
    pub content: &'a [u8],
    padding: usize,
}

impl<'a> Record<'a> {
    pub fn new(frame: &Frame<'a>) -> Option<Self> {
        Self::read(frame.kept)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, content) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [VERSION, kind, id_high, id_low, high, low, padding, _] = *header else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let content = &content[..content.len().min(length)];
        let id = u16::from_be_bytes([id_high, id_low]);
        Some(Self { kind: Kind::of(kind)?, id, length, content, padding: padding.into() })
    }
}

/// The length of a record.
pub(super) fn measure(bytes: &[u8], from: Side) -> Measure {
    match bytes {
        [VERSION] => return Measure::More,
        [VERSION, kind, ..] if Kind::of(*kind).is_some_and(|kind| kind.is_from(from)) => {}
        [] => return Measure::More,
        _ => return Measure::Malformed,
    }
    match Record::read(bytes) {
        Some(record) => {
            let bytes = (HEADER_BYTES + record.length + record.padding) as u64;
            // Bodies of requests are not wanted.
            let keep = if matches!(record.kind, Kind::Stdin | Kind::Data) { HEADER_BYTES } else { KEPT_BYTES };
            Measure::Frame { bytes, keep }
        }
        None if bytes.len() < HEADER_BYTES => Measure::More,
        None => Measure::Malformed,
    }
}

/// Whether the bytes that came last, behind a gap, are the record that ends the input of a request.
pub(super) fn ends_input(last: &[u8], id: u16) -> Option<()> {
    let [high, low] = id.to_be_bytes();
    last.ends_with(&[VERSION, 5, high, low, 0, 0, 0, 0]).then_some(())
}

/// How a client's first bytes look: the begin of a request, with a role and zeros behind its flags.
pub(super) fn check_client(bytes: &[u8]) -> Sign {
    let fits = |at: usize, byte: u8| match at {
        0 | 1 => byte == 1,
        4 | 6..=8 | 11.. => byte == 0,
        5 => byte == BODY_BYTES as u8,
        9 => (1..=3).contains(&byte),
        10 => byte <= 1,
        _ => true,
    };
    let begin = &bytes[..bytes.len().min(HEADER_BYTES + BODY_BYTES)];
    if !begin.iter().enumerate().all(|(at, byte)| fits(at, *byte)) || matches!(begin, [_, _, 0, 0, ..]) {
        return Sign::No;
    }
    if begin.len() == HEADER_BYTES + BODY_BYTES { Sign::Yes } else { Sign::Partial }
}

/// How a server's first bytes look: a response's head, or the end of a request.
pub(super) fn check_server(bytes: &[u8]) -> Sign {
    match bytes {
        [] | [VERSION] | [VERSION, 3 | 6 | 7] => return Sign::Partial,
        [VERSION, 3 | 6 | 7, 0, 0, ..] => return Sign::No,
        [VERSION, 3 | 6 | 7, ..] => {}
        _ => return Sign::No,
    }
    let Some(record) = Record::read(bytes) else { return Sign::Partial };
    match (record.kind, record.content) {
        (Kind::EndRequest, _) if record.length != BODY_BYTES => Sign::No,
        (Kind::EndRequest, content) => match content.get(4..) {
            Some([status, ..]) if *status > 3 => Sign::No,
            Some([_, 0, 0, 0]) => Sign::Yes,
            Some(rest) if rest.len() < 4 => Sign::Partial,
            None => Sign::Partial,
            Some(_) => Sign::Likely,
        },
        (Kind::Stdout, content) => response::check(content, record.length),
        _ => Sign::Likely,
    }
}
