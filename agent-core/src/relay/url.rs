//! Query strings without their values.
//!
//! In: a URL, a path with a query, or a query. Out: the same with `{value}` for the value of every parameter, and a placeholder for
//! names that look like values themselves. A fragment is treated alike (OAuth 2.0, RFC 6749, 4.2.2, puts tokens there).

use crate::redact::placeholder;

/// What stands for a parameter's value.
const VALUE: &[u8] = b"{value}";

/// Writes the redacted text and returns true; or false, and nothing is written, if there is nothing to hide. `query_only`: the text
/// is a query.
pub(super) fn redact(text: &[u8], query_only: bool, out: &mut Vec<u8>) -> bool {
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
        parameter(&text[at..end], out);
        at = end;
    }
    if out == text {
        out.clear();
        return false;
    }
    true
}

fn parameter(text: &[u8], out: &mut Vec<u8>) {
    let (name, value) = match memchr::memchr(b'=', text) {
        Some(equals) => (&text[..equals], Some(&text[equals + 1..])),
        None => (text, None),
    };
    // What was made here before stays.
    let is_placeholder = name.starts_with(b"{") && name.ends_with(b"}");
    let readable = std::str::from_utf8(name);
    match readable.map_or(Some("{token}"), placeholder).filter(|_| !is_placeholder) {
        Some(placeholder) => out.extend_from_slice(placeholder.as_bytes()),
        None => out.extend_from_slice(name),
    }
    if let Some(value) = value {
        out.push(b'=');
        out.extend_from_slice(if value.is_empty() { b"" } else { VALUE });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, query_only: bool, expected: &str) {
        let mut out = Vec::new();
        let changed = redact(text.as_bytes(), query_only, &mut out);
        assert_eq!(if changed { String::from_utf8(out).unwrap() } else { text.to_owned() }, expected);
        assert_eq!(changed, text != expected);
        out = Vec::new();
        assert!(!redact(expected.as_bytes(), query_only, &mut out) && out.is_empty(), "{expected} stays");
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
}
