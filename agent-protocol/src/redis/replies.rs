//! What a server sends: answers, messages of channels, and what else nobody asked for.

use super::element::Element;

/// Something complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Offset of its first byte.
    pub start: u64,
    /// What it is.
    pub what: What,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An answer that is no error.
    Answer,
    /// The command waits for `EXEC`.
    Queued,
    /// The connection is as new.
    Reset,
    /// An error, or an answer with an error among its elements (a command of a transaction): its first word.
    Error(String),
    /// There is no such database.
    NoDatabase,
    /// A channel's subscription began or ended; so many are left. `pushed`: it can be nothing else.
    Subscription { left: u64, pushed: bool },
    /// A message of a channel, likewise.
    Message { pushed: bool },
    /// Something else that nobody asked for: an invalidation, a line of `MONITOR`.
    Notice,
    /// A replication stream follows.
    Replication,
}

/// The replies of a connection.
#[derive(Debug, Default)]
pub(super) struct Replies {
    open: Option<Open>,
}

/// A reply in progress.
#[derive(Debug)]
struct Open {
    start: u64,
    /// Elements that are to come.
    left: u64,
    /// Of those, what belongs to attributes in front of the reply.
    attributes: u64,
    /// What the reply itself is, and how many of its elements have come.
    top: Option<Top>,
    at: u64,
    word: Word,
    /// The last integer.
    integer: Option<u64>,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    Aggregate(u64),
    Push(u64),
    Scalar,
}

/// The first element of an array or push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Subscription,
    Message,
    PatternMessage,
    Other,
}

impl Word {
    fn of(text: &[u8]) -> Self {
        match text {
            b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => {
                Self::Subscription
            }
            b"message" | b"smessage" => Self::Message,
            b"pmessage" => Self::PatternMessage,
            _ => Self::Other,
        }
    }
}

impl Replies {
    /// Offset of the reply in progress.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.start)
    }

    /// Takes an element that begins at `start`; answers the reply that it completes.
    pub(super) fn take(&mut self, start: u64, element: Element<'_>) -> Option<Reply> {
        if self.open.is_none()
            && let Some(what) = line(element)
        {
            return Some(Reply { start, what });
        }
        let open = self.open.get_or_insert_with(|| Open::new(start));
        open.element(element);
        if open.left > 0 {
            return None;
        }
        self.open.take().map(|open| Reply { start: open.start, what: open.what() })
    }

    /// Gives up the reply in progress: where it began, if it was an answer.
    pub(super) fn abandon(&mut self) -> Option<u64> {
        let open = self.open.take()?;
        let answer = matches!(open.top, Some(Top::Aggregate(_) | Top::Scalar)) && open.error.is_none();
        answer.then_some(open.start)
    }
}

/// A reply of one line.
fn line(element: Element<'_>) -> Option<What> {
    Some(match element {
        Element::Status(b"QUEUED") => What::Queued,
        Element::Status(b"RESET") => What::Reset,
        Element::Status(text) if text.starts_with(b"FULLRESYNC ") || text.starts_with(b"CONTINUE") => What::Replication,
        Element::Status(text) if is_monitor(text) => What::Notice,
        Element::Error(b"ERR DB index is out of range" | b"ERR invalid DB index") => What::NoDatabase,
        Element::Error(text) => What::Error(code(text)),
        Element::Status(_) | Element::Bulk(_) | Element::Integer(_) | Element::Other => What::Answer,
        Element::Aggregate(_) | Element::Push(_) | Element::Attributes(_) => return None,
    })
}

impl Open {
    const fn new(start: u64) -> Self {
        let word = Word::Other;
        Self { start, left: 1, attributes: 0, top: None, at: 0, word, integer: None, error: None }
    }

    fn element(&mut self, element: Element<'_>) {
        let (own, children) = match element {
            Element::Aggregate(count) | Element::Push(count) => (1, count),
            Element::Attributes(count) => (0, count),
            _ => (1, 0),
        };
        self.left = (self.left - own).saturating_add(children);
        if self.top.is_none() && (self.attributes > 0 || own == 0) {
            self.attributes = self.attributes.saturating_sub(own).saturating_add(children);
            return;
        }
        match (self.top, element) {
            (None, Element::Aggregate(count)) => self.top = Some(Top::Aggregate(count)),
            (None, Element::Push(count)) => self.top = Some(Top::Push(count)),
            (None, element) => {
                self.top = Some(Top::Scalar);
                self.note(element);
            }
            (Some(_), element) => {
                if let (0, Element::Bulk(text)) = (self.at, element) {
                    self.word = Word::of(text);
                }
                self.at += 1;
                self.note(element);
            }
        }
    }

    fn note(&mut self, element: Element<'_>) {
        match element {
            Element::Error(text) if self.error.is_none() => self.error = Some(code(text)),
            Element::Integer(text) => self.integer = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            _ => {}
        }
    }

    fn what(self) -> What {
        let (count, pushed) = match self.top {
            Some(Top::Push(count)) => (count, true),
            Some(Top::Aggregate(count)) => (count, false),
            _ => (0, false),
        };
        match (self.word, count, self.integer) {
            (Word::Subscription, 3, Some(left)) if self.at == 3 => What::Subscription { left, pushed },
            (Word::Message, 3, _) | (Word::PatternMessage, 4, _) if self.at == count => What::Message { pushed },
            _ if pushed => What::Notice,
            _ => self.error.map_or(What::Answer, What::Error),
        }
    }
}

/// The first word of an error; scripts may answer any text, of which nothing is told.
fn code(text: &[u8]) -> String {
    const CODE_BYTES_MAX: usize = 24;
    let word = text.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).next().unwrap_or_default();
    let is_code = (1..=CODE_BYTES_MAX).contains(&word.len())
        && word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_');
    if is_code { String::from_utf8_lossy(word).into_owned() } else { super::names::OTHER.to_owned() }
}

/// `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
fn is_monitor(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b' ');
    let (time, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let number = time.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    number && time.contains(&b'.') && rest.starts_with(b"[")
}
