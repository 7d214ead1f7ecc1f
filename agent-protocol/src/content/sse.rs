//! Server-sent events (WHATWG HTML, section 9.2): the data of each, as it comes.
//!
//! In: bytes and gaps of a body. Out: [`Step`]s. Called by `answered`. Keeps nothing but where it is. After a gap it passes over what is
//! left of the event in progress.

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Bytes of the event's data.
    Data(&'a [u8]),
    /// The event is complete.
    End,
}

const FIELD: &[u8; 5] = b"data:";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So many bytes of [`FIELD`] are behind the line's begin.
    Field(usize),
    /// Behind the field's name, where a space may stand.
    Space,
    /// In its value.
    Value,
    /// In a line of another field, or a comment.
    Other,
}

impl At {
    /// Behind a byte that ends no line.
    fn next(self, byte: u8) -> Self {
        match self {
            Self::Field(have) if FIELD[have] != byte => Self::Other,
            Self::Field(have) if have + 1 == FIELD.len() => Self::Space,
            Self::Field(have) => Self::Field(have + 1),
            Self::Space | Self::Value => Self::Value,
            Self::Other => Self::Other,
        }
    }
}

/// The events of a body.
#[derive(Debug)]
pub(super) struct Events {
    at: At,
    /// The byte before was a CR, whose LF ends no line of its own.
    behind_cr: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self { at: At::Field(0), behind_cr: false }
    }
}

impl Events {
    /// The next step; `None`: more bytes are needed.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Step<'a>> {
        while let Some(&first) = bytes.first() {
            let ends_line = matches!(first, b'\r' | b'\n');
            if self.at == At::Space && first != b' ' && !ends_line {
                self.at = At::Value;
            }
            if self.at == At::Value && !ends_line {
                let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
                let (value, rest) = bytes.split_at(end);
                (*bytes, self.behind_cr) = (rest, false);
                return Some(Step::Data(value));
            }
            *bytes = &bytes[1..];
            let behind_cr = std::mem::replace(&mut self.behind_cr, first == b'\r');
            if !ends_line {
                self.at = self.at.next(first);
            } else if !(behind_cr && first == b'\n')
                && let Some(step) = self.line_end()
            {
                return Some(step);
            }
        }
        None
    }

    fn line_end(&mut self) -> Option<Step<'static>> {
        match std::mem::replace(&mut self.at, At::Field(0)) {
            At::Field(0) => Some(Step::End),
            // Lines of data are joined by LF.
            At::Space | At::Value => Some(Step::Data(b"\n")),
            At::Field(_) | At::Other => None,
        }
    }

    /// Bytes that were not captured.
    pub fn skip(&mut self) {
        (self.at, self.behind_cr) = (At::Other, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        for size in 1..=text.len() {
            let (mut events, mut said) = (Events::default(), String::new());
            for mut bytes in text.as_bytes().chunks(size) {
                while let Some(step) = events.next(&mut bytes) {
                    match step {
                        Step::Data(bytes) => said.push_str(std::str::from_utf8(bytes).expect("ASCII")),
                        Step::End => said.push('|'),
                    }
                }
            }
            assert_eq!(said, expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn the_data_of_each_event_is_told() {
        check("data: {\"a\":1}\n\ndata:[DONE]\n\n", "{\"a\":1}\n|[DONE]\n|");
        check("event: x\r\ndata: a\r\ndata:  b\r\n\r\n: c\r\n", "a\n b\n|");
        check("data: a\r\rdatax: b\ndata\ndat: c\n\n", "a\n||");
    }

    #[test]
    fn what_a_gap_cut_is_passed_over_up_to_the_next_line() {
        let (mut events, mut said) = (Events::default(), Vec::new());
        for text in ["data: a", "data: b\n\ndata: c\n\n"] {
            let mut bytes = text.as_bytes();
            while let Some(step) = events.next(&mut bytes) {
                said.push(step);
            }
            events.skip();
        }
        assert_eq!(said, [Step::Data(b"a"), Step::End, Step::Data(b"c"), Step::Data(b"\n"), Step::End]);
    }
}
