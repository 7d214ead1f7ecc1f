//! Rust text without what is not code, so that the checks neither trip over comments nor over their own patterns.

/// Replaces comments and the content of string and character literals by spaces; lines keep their numbers.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => line_end(bytes, at),
            [b'/', b'*', ..] => block_comment_end(bytes, at),
            [b'"', ..] => string_end(bytes, at),
            [b'\'', ..] => character_end(bytes, at),
            [b'r', ..] if !continues_a_word(bytes, at) => raw_string_end(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    // Only ASCII was written in place of whole literals and comments, so this cannot fail on valid input.
    String::from_utf8_lossy(&out).into_owned()
}

/// The code in front of the tests at the end of a file.
pub fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]").map_or(code, |at| &code[..at])
}

/// Words of code, each with its line number and what follows on the same line.
pub fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    code.lines().enumerate().flat_map(|(line, text)| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = text.char_indices().filter(move |(at, c)| is_word(*c) && !text[..*at].ends_with(is_word));
        starts.map(move |(at, _)| {
            let length = text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at);
            Word { line: line + 1, text: &text[at..at + length], before: &text[..at], after: &text[at + length..] }
        })
    })
}

/// One identifier or keyword.
pub struct Word<'a> {
    /// From 1.
    pub line: usize,
    /// The word.
    pub text: &'a str,
    /// The line in front of it.
    pub before: &'a str,
    /// The line after it.
    pub after: &'a str,
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A lifetime starts like a character literal: it is one only if a quote closes it.
fn character_end(bytes: &[u8], start: usize) -> usize {
    match &bytes[start + 1..] {
        [b'\\', _, rest @ ..] => rest.iter().position(|byte| *byte == b'\'').map_or(start, |length| start + length + 4),
        [first, ..] if !first.is_ascii() => {
            let length = bytes[start + 1..].iter().take(5).position(|byte| *byte == b'\'');
            length.map_or(start, |length| start + length + 2)
        }
        [_, b'\'', ..] => start + 3,
        _ => start,
    }
}

/// `r"…"`, `r#"…"#` and so on.
fn raw_string_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return start;
    }
    let body = start + 2 + hashes;
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = bytes[body..].windows(close.len()).position(|window| window == close);
    length.map_or(bytes.len(), |length| body + length + close.len())
}

/// Whether the byte belongs to a longer identifier. The `b` and `c` of `br"…"` and `cr"…"` do not count.
fn continues_a_word(bytes: &[u8], at: usize) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match (at.checked_sub(1).map(|i| bytes[i]), at.checked_sub(2).map(|i| bytes[i])) {
        (Some(b'b' | b'c'), before) => before.is_some_and(word),
        (Some(before), _) => word(before),
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let code = code_only(source);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn comments_and_literals_disappear() {
        check("a // unsafe\nb /* x /* y */ z */ c", "a b c");
        check("a(\"un\\\"safe\", b) r\"raw\\\" c r#\"x \"y\" z\"# d", "a( , b) c d");
        check("br\"bytes\" e var\"x\"", "b e var");
    }

    #[test]
    fn characters_are_told_from_lifetimes() {
        check("f::<'a>('\"', '\\'', 'x', '…') g", "f::<'a>( , , , ) g");
        check("&'static str", "&'static str");
    }

    #[test]
    fn words_carry_their_surroundings() {
        let found: Vec<_> = words("let x_1 = Foo {\nbar").map(|word| (word.line, word.text, word.after)).collect();
        assert_eq!(found, [(1, "let", " x_1 = Foo {"), (1, "x_1", " = Foo {"), (1, "Foo", " {"), (2, "bar", "")]);
    }
}
