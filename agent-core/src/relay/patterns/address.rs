//! Addresses of people, and users and passwords in URLs.

use memchr::{memchr, memrchr};

use super::Finding;

/// Finds everything that has an `@`, or `%40`, in it.
pub(super) fn find(text: &[u8], findings: &mut Vec<Finding>) {
    let mut at = 0;
    while let Some(sign) = next_sign(text, at) {
        if let Some(end) = credentials_end(text, at, sign) {
            findings.push(Finding { range: end.0..end.1, placeholder: "{credentials}" });
            at = end.1 + 1;
            continue;
        }
        let behind = sign + sign_length(text, sign);
        let (start, end) = (local_start(text, at, sign), domain_end(text, behind));
        if start < sign && is_domain(&text[behind..end]) {
            findings.push(Finding { range: start..end, placeholder: "{email}" });
        }
        at = behind;
    }
}

/// Where the next `@` or `%40` stands.
fn next_sign(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = text.get(at..)?;
        let found = at + memchr::memchr2(b'@', b'%', rest)?;
        if sign_length(text, found) > 0 {
            return Some(found);
        }
        at = found + 1;
    }
}

fn sign_length(text: &[u8], at: usize) -> usize {
    match text[at..] {
        [b'@', ..] => 1,
        [b'%', b'4', b'0', ..] => 3,
        _ => 0,
    }
}

/// RFC 3986, 3.2.1: user information stands between `//` and the authority's last `@`.
fn credentials_end(text: &[u8], from: usize, sign: usize) -> Option<(usize, usize)> {
    if text[sign] != b'@' {
        return None;
    }
    let slash = from + memrchr(b'/', &text[from..sign])?;
    let authority = text[..slash].ends_with(b":/") || (slash == 1 && text[0] == b'/');
    let start = slash + 1;
    if !authority || start == sign || text[start..sign].iter().any(|byte| is_outside_authority(*byte)) {
        return None;
    }
    let end = text[sign..].iter().position(|byte| is_outside_authority(*byte)).map_or(text.len(), |end| sign + end);
    let last = sign + memrchr(b'@', &text[sign..end])?;
    let already = &text[start..last] == b"{credentials}";
    (!already).then_some((start, last))
}

fn is_outside_authority(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"/?#\"'<>\\^`|,".contains(&byte)
}

fn local_start(text: &[u8], from: usize, sign: usize) -> usize {
    let is_local = |byte: &u8| byte.is_ascii_alphanumeric() || b".!*+-_'~".contains(byte) || *byte >= 0x80;
    text[from..sign].iter().rposition(|byte| !is_local(byte)).map_or(from, |place| from + place + 1)
}

fn domain_end(text: &[u8], from: usize) -> usize {
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte) || *byte >= 0x80;
    let end = text[from..].iter().position(|byte| !is_domain(byte)).map_or(text.len(), |length| from + length);
    // A sentence's full stop is not the domain's.
    end - text[from..end].iter().rev().take_while(|byte| b".-".contains(byte)).count()
}

/// At least two labels, the last of letters.
fn is_domain(domain: &[u8]) -> bool {
    let Some(dot) = memrchr(b'.', domain) else { return false };
    let last = &domain[dot + 1..];
    let letters = last.iter().all(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80) || last.starts_with(b"xn--");
    memchr(b'.', domain) != Some(0) && last.len() >= 2 && letters
}
