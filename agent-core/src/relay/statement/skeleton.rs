//! What two statements have in common if only the values in them differ.
//!
//! In: a text. Out: a key; texts with the same key become the same when their literals are taken out. It is the text without what is in
//! single quotes and with `0` for each number that stands by itself, if every quote in it can only be a literal's: else it is
//! the text itself. Costs a tenth of what reading the statement costs. Called by [`super::Statements`].

use agent_protocol::sql::Dialect;

/// Longer texts are their own key.
const BYTES_MAX: usize = 2048;

/// Bytes that may begin a comment, quote something else, or escape a quote; and what is not ASCII, which may be no text at all.
const fn is_special(byte: u8) -> bool {
    !byte.is_ascii() || matches!(byte, b'"' | b'`' | b'\\' | b'/' | b'#' | b'$')
}

/// Bytes that a number is a part of a word, or of another number, with.
const fn joins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}

/// What a byte is to the loop below.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Joins,
    Digit,
    Quote,
    Minus,
    Special,
}

const CLASSES: [Class; 256] = {
    let (mut classes, mut byte) = ([Class::Other; 256], 0);
    while byte < classes.len() {
        let character = byte as u8;
        classes[byte] = match character {
            b'\'' => Class::Quote,
            b'-' => Class::Minus,
            b'0'..=b'9' => Class::Digit,
            _ if is_special(character) => Class::Special,
            _ if joins(character) => Class::Joins,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// Writes the key of `text` to `out`.
pub(super) fn write(text: &[u8], dialect: Dialect, out: &mut Vec<u8>) {
    out.clear();
    // What begins otherwise may be no statement; `WITH` says only later whether it is one; a UUID of CQL begins as a number does.
    let begins_plainly = text.first().is_some_and(|first| first.is_ascii_alphabetic() && !matches!(first, b'w' | b'W'));
    let is_plain = begins_plainly && text.len() <= BYTES_MAX && dialect != Dialect::Cql && outline(text, out).is_some();
    if !is_plain {
        out.clear();
        out.extend_from_slice(text);
    }
}

/// Nothing if the text has a byte that may mean something else.
fn outline(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let class = |at: usize| text.get(at).map_or(Class::Other, |byte| CLASSES[usize::from(*byte)]);
    // What is before this is written, or left out.
    let (mut done, mut at) = (0, 0);
    while at < text.len() {
        // Words, and what is between them, say nothing, but that digits in a word are a part of it.
        at += run(&text[at..], |class| matches!(class, Class::Other | Class::Joins));
        match class(at) {
            Class::Digit if at > 0 && class(at - 1) == Class::Joins => at = word_end(text, at),
            Class::Digit => {
                let end = at + run(&text[at..], |class| class == Class::Digit);
                if class(end) == Class::Joins {
                    at = word_end(text, end);
                } else {
                    out.extend_from_slice(&text[done..at]);
                    out.push(b'0');
                    (done, at) = (end, end);
                }
            }
            Class::Quote => {
                let length = memchr::memchr(b'\'', &text[at + 1..]).unwrap_or(text.len() - at - 1);
                if text[at + 1..at + 1 + length].iter().any(|byte| is_special(*byte)) {
                    return None;
                }
                out.extend_from_slice(&text[done..=at]);
                done = at + 1 + length;
                at = done + 1;
            }
            Class::Minus if class(at + 1) == Class::Minus => return None,
            Class::Special => return None,
            Class::Minus | Class::Other | Class::Joins => at += 1,
        }
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default());
    Some(())
}

fn word_end(text: &[u8], at: usize) -> usize {
    at + run(&text[at..], |class| matches!(class, Class::Joins | Class::Digit))
}

fn run(text: &[u8], is_part: impl Fn(Class) -> bool) -> usize {
    text.iter().position(|byte| !is_part(CLASSES[usize::from(*byte)])).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let mut out = vec![1];
        write(text.as_bytes(), Dialect::Postgres, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_are_left_out() {
        check("SELECT a1 FROM t2 WHERE b=17 AND c = 'joe'", "SELECT a1 FROM t2 WHERE b=0 AND c = ''");
        check("SELECT 1,22 , (333)", "SELECT 0,0 , (0)");
        check("SELECT 'it''s', ''", "SELECT '''', ''");
        check("SELECT 'open", "SELECT '");
        check("SELECT -5, 1.5, 1e5, 0x12, a.5, 5a", "SELECT -0, 1.5, 1e5, 0x12, a.5, 5a");
    }

    #[test]
    fn doubtful_texts_are_their_own_key() {
        for text in [
            "",
            "1",
            "WITH a AS (SELECT 1) SELECT 2",
            "SELECT \"a 1\"",
            "SELECT `a 1`",
            "SELECT 1 -- 1",
            "SELECT 1 /* 1 */",
            "SELECT 1 # 1",
            "SELECT $1",
            "SELECT 'a\\' 1'",
            "SELECT 'ä', 1",
        ] {
            check(text, text);
        }
        let long = format!("SELECT {}", "1,".repeat(BYTES_MAX));
        check(&long, &long);
        let mut out = vec![];
        write(b"SELECT 12345678-1", Dialect::Cql, &mut out);
        assert_eq!(out, b"SELECT 12345678-1");
    }
}
