//! Query strings without their values.
//!
//! In: a URL, a path with a query, or a query. Out: the same with `{value}` for the value of every parameter, and a placeholder for
//! names that look like values themselves. A fragment is treated alike (OAuth 2.0, RFC 6749, 4.2.2, puts tokens there).

use crate::redact::placeholder;

/// What stands for a parameter's value.
const VALUE: &[u8] = b"{value}";

/// Names of parameters that came last and are no values, each by its length and last byte: the same come again and again.
#[derive(Default)]
pub(super) struct Names<'a> {
    clean: [&'a [u8]; NAMES],
}

/// A power of two.
const NAMES: usize = 16;

/// Writes the redacted text and returns true; or false, and nothing is written, if there is nothing to hide. `query_only`: the text
/// is a query.
pub(super) fn redact<'a>(text: &'a [u8], query_only: bool, names: &mut Names<'a>, out: &mut Vec<u8>) -> bool {
    let begin = if query_only { Some(0) } else { memchr::memchr2(b'?', b'#', text) };
    let Some(begin) = begin.filter(|begin| *begin < text.len()) else { return false };
    out.extend_from_slice(&text[..begin]);
    let mut at = begin;
    while at < text.len() {
        // A separator, then a parameter; a query of its own begins with a parameter.
        if b"?#&".contains(&text[at]) {
            out.push(text[at]);
            at += 1;
        }
        let end = memchr::memchr2(b'#', b'&', &text[at..]).map_or(text.len(), |length| at + length);
        parameter(&text[at..end], names, out);
        at = end;
    }
    if out == text {
        out.clear();
        return false;
    }
    true
}

fn parameter<'a>(text: &'a [u8], names: &mut Names<'a>, out: &mut Vec<u8>) {
    let (name, value) = match memchr::memchr(b'=', text) {
        Some(equals) => (&text[..equals], Some(&text[equals + 1..])),
        None => (text, None),
    };
    out.extend_from_slice(names.placeholder(name).map_or(name, str::as_bytes));
    if let Some(value) = value {
        out.push(b'=');
        out.extend_from_slice(if value.is_empty() { b"" } else { VALUE });
    }
}

impl<'a> Names<'a> {
    /// What stands for a name, if it looks like a value.
    fn placeholder(&mut self, name: &'a [u8]) -> Option<&'static str> {
        let place = (name.len() ^ usize::from(name.last().copied().unwrap_or_default())) % NAMES;
        if self.clean[place] == name {
            return None;
        }
        let found = placeholder_of(name);
        if found.is_none() {
            self.clean[place] = name;
        }
        found
    }
}

fn placeholder_of(name: &[u8]) -> Option<&'static str> {
    // What was made here before stays.
    let is_placeholder = name.starts_with(b"{") && name.ends_with(b"}");
    std::str::from_utf8(name).map_or(Some("{token}"), placeholder).filter(|_| !is_placeholder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, query_only: bool, expected: &str) {
        let mut out = Vec::new();
        let changed = redact(text.as_bytes(), query_only, &mut Names::default(), &mut out);
        assert_eq!(if changed { String::from_utf8(out).unwrap() } else { text.to_owned() }, expected);
        assert_eq!(changed, text != expected);
        out = Vec::new();
        assert!(
            !redact(expected.as_bytes(), query_only, &mut Names::default(), &mut out) && out.is_empty(),
            "{expected} stays"
        );
    }

    #[test]
    fn names_stay_and_values_go() {
        check(
            "https://shop.test/a/b?id=42&sort=&flag&q=a=b",
            false,
            "https://shop.test/a/b?id={value}&sort=&flag&q={value}",
        );
        check("/a?x=1#access_token=abc&y", false, "/a?x={value}#access_token={value}&y");
        check("/a/b", false, "/a/b");
        check("/a?", false, "/a?");
        check("x=1&y=2", true, "x={value}&y={value}");
        check("?x=1?2", true, "?x={value}");
        check("", true, "");
    }

    #[test]
    fn names_that_look_like_values_go_too() {
        check("/a?0123456789abcdef0123&jane@example.com=1", false, "/a?{id}&{email}={value}");
        check("/a?{odd}", false, "/a?{odd}");
    }

    #[test]
    fn what_is_remembered_of_names_is_what_would_be_found() {
        let names = [
            "",
            "a",
            "q",
            "page",
            "0123456789abcdef0123",
            "jane@example.com",
            "{odd}",
            "{id}",
            "\u{fc}",
            "access_token",
        ];
        let names: Vec<Vec<u8>> =
            names.iter().map(|name| name.as_bytes().to_vec()).chain([vec![0xff], vec![b'a'; 40]]).collect();
        let numbered: Vec<Vec<u8>> = (0..200).map(|number| format!("p{number}").into_bytes()).collect();
        let mut known = Names::default();
        for name in names.iter().chain(&numbered).chain(&names).chain(names.iter().rev()) {
            assert_eq!(known.placeholder(name), placeholder_of(name), "{name:?}");
            assert_eq!(known.placeholder(name), placeholder_of(name), "{name:?} again");
        }
    }
}
