//! Tokens and keys that say by their first bytes what they are.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use super::Finding;

/// Shorter texts hold none, but for `Bearer` and a word.
pub(super) const BYTES_MIN: usize = 16;

/// How a kind of token goes on after its first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// This many or more of letters, digits and these.
    AtLeast(usize, &'static [u8]),
    /// Exactly this many capitals and digits.
    Capitals(usize),
    /// RFC 7519: base64url, a dot, base64url.
    Jwt,
    /// RFC 6750, 2.1; only what follows is hidden.
    Bearer,
    /// RFC 7468.
    Pem,
}

/// First bytes, and what follows them. [`super::glance`] has to see each.
pub(super) const KINDS: &[(&str, Rest)] = &[
    ("eyJ", Rest::Jwt),
    ("Bearer ", Rest::Bearer),
    ("bearer ", Rest::Bearer),
    ("AKIA", Rest::Capitals(16)),
    ("ASIA", Rest::Capitals(16)),
    ("AIza", Rest::AtLeast(35, b"-_")),
    ("ghp_", Rest::AtLeast(30, b"")),
    ("gho_", Rest::AtLeast(30, b"")),
    ("ghu_", Rest::AtLeast(30, b"")),
    ("ghs_", Rest::AtLeast(30, b"")),
    ("ghr_", Rest::AtLeast(30, b"")),
    ("github_pat_", Rest::AtLeast(22, b"_")),
    ("glpat-", Rest::AtLeast(20, b"-_")),
    ("xoxb-", Rest::AtLeast(10, b"-")),
    ("xoxp-", Rest::AtLeast(10, b"-")),
    ("xoxa-", Rest::AtLeast(10, b"-")),
    ("xoxs-", Rest::AtLeast(10, b"-")),
    ("sk_live_", Rest::AtLeast(16, b"")),
    ("rk_live_", Rest::AtLeast(16, b"")),
    ("-----BEGIN ", Rest::Pem),
];

/// Finds them, all kinds in one pass.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    /// Nothing only if the list above could not be compiled, which a test excludes.
    beginnings: Option<AhoCorasick>,
}

impl Tokens {
    pub fn new() -> Self {
        Self { beginnings: AhoCorasick::new(KINDS.iter().map(|(beginning, _)| beginning)).ok() }
    }

    pub fn find(&self, text: &[u8], findings: &mut Vec<Finding>) {
        let Some(beginnings) = &self.beginnings else { return };
        let mut done = 0;
        for found in beginnings.find_iter(text) {
            if found.start() < done {
                continue;
            }
            let (_, rest) = KINDS[found.pattern().as_usize()];
            let begins_word = found.start().checked_sub(1).is_none_or(|before| !text[before].is_ascii_alphanumeric());
            if !begins_word {
                continue;
            }
            if let Some(finding) = rest.finding(text, found.range()) {
                done = finding.range.end;
                findings.push(finding);
            }
        }
    }
}

impl Rest {
    fn finding(self, text: &[u8], beginning: Range<usize>) -> Option<Finding> {
        let token = |range| Some(Finding { range, placeholder: "{token}" });
        let (start, at) = (beginning.start, beginning.end);
        match self {
            Self::AtLeast(count, more) => {
                let end = run(text, at, more);
                if end - at >= count { token(start..end) } else { None }
            }
            Self::Capitals(count) => {
                let end = run(text, at, b"");
                let capitals = text[at..end].iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
                if end - at == count && capitals { token(start..end) } else { None }
            }
            Self::Jwt => token(start..jwt_end(text, at)?),
            Self::Bearer => token(at..bearer_end(text, at)?),
            Self::Pem => Some(Finding { range: start..pem_end(text, at)?, placeholder: "{private_key}" }),
        }
    }
}

/// The end of letters, digits and `more`.
fn run(text: &[u8], from: usize, more: &[u8]) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || more.contains(byte);
    text[from..].iter().position(|byte| !is_part(byte)).map_or(text.len(), |length| from + length)
}

/// Header, payload and perhaps more parts (a signature; five parts if it is encrypted).
fn jwt_end(text: &[u8], at: usize) -> Option<usize> {
    let header = run(text, at, b"-_");
    if header - at < 8 || text.get(header) != Some(&b'.') {
        return None;
    }
    let end = run(text, header + 1, b"-_.");
    (end - header > 4).then_some(end)
}

/// A word of a sentence ("bearer token") has no digit and is short.
fn bearer_end(text: &[u8], at: usize) -> Option<usize> {
    let end = run(text, at, b"-._~+/=");
    let token = &text[at..end];
    let is_token = token.len() >= 20 || (token.len() >= 6 && token.iter().any(u8::is_ascii_digit));
    is_token.then_some(end)
}

fn pem_end(text: &[u8], at: usize) -> Option<usize> {
    let label = text[at..].iter().take(64).position(|byte| *byte == b'-').map(|length| &text[at..at + length])?;
    if !label.ends_with(b"PRIVATE KEY") {
        return None;
    }
    let end = memchr::memmem::find(&text[at..], b"-----END ").map(|found| at + found + 9);
    // Without an end everything that follows is taken for it.
    Some(end.map_or(text.len(), |end| {
        let line = memchr::memmem::find(&text[end..], b"-----").map(|found| end + found + 5);
        line.unwrap_or(text.len())
    }))
}
