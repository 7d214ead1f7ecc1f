//! Values that are secrets, or say who somebody is, by their looks.
//!
//! In: any text. Out: the same with placeholders, if there is something to hide. Called for every text of a span. Never: copies a
//! text in which nothing is found, or takes more than time proportional to its length. Limits: what is encoded (base64, URL
//! encoding but for `%40`) is not looked into, and a secret without a known form is not recognised.
//!
//! | placeholder | what |
//! |---|---|
//! | `{card}` | 12 to 19 digits, perhaps in groups, with an issuer's beginning and length and a right check digit ([`card`]) |
//! | `{token}` | JSON web tokens, what follows `Bearer`, keys of AWS, Google, GitHub, GitLab, Slack, Stripe ([`token`]) |
//! | `{private_key}` | PEM, from `-----BEGIN … PRIVATE KEY-----` to its end |
//! | `{email}` | local part, `@` or `%40`, and a domain of at least two labels |
//! | `{credentials}` | what stands before `@` in a URL's authority |

mod address;
mod card;
mod token;

use std::ops::Range;

pub(super) use self::card::{NUMBER_MIN as CARD_NUMBER_MIN, is_card_number};

/// Something to hide.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    range: Range<usize>,
    placeholder: &'static str,
}

/// Finds and replaces.
#[derive(Clone, Debug)]
pub(super) struct Patterns {
    tokens: token::Tokens,
}

impl Patterns {
    pub fn new() -> Self {
        Self { tokens: token::Tokens::new() }
    }

    /// Writes the text with placeholders and returns how many; 0: there is nothing to hide and nothing was written.
    #[inline]
    pub fn redact(&self, text: &[u8], out: &mut Vec<u8>) -> usize {
        let glance = Glance::at(text);
        if !(glance.has_at || glance.digits >= card::DIGITS_MIN || text.len() >= token::BYTES_MIN) {
            return 0;
        }
        self.look(text, &glance, out)
    }

    fn look(&self, text: &[u8], glance: &Glance, out: &mut Vec<u8>) -> usize {
        let mut findings = Vec::new();
        if text.len() >= token::BYTES_MIN {
            self.tokens.find(text, &mut findings);
        }
        if glance.has_at {
            address::find(text, &mut findings);
        }
        if glance.digits >= card::DIGITS_MIN {
            card::find(text, &mut findings);
        }
        if findings.is_empty() {
            return 0;
        }
        // Of two that overlap the longer one that begins first counts; the rest of the other is hidden too.
        findings.sort_by_key(|finding| (finding.range.start, usize::MAX - finding.range.end));
        replace(text, &findings, out)
    }
}

fn replace(text: &[u8], findings: &[Finding], out: &mut Vec<u8>) -> usize {
    let (mut done, mut count) = (0, 0);
    for finding in findings {
        if finding.range.start < done {
            done = done.max(finding.range.end);
            continue;
        }
        out.extend_from_slice(&text[done..finding.range.start]);
        out.extend_from_slice(finding.placeholder.as_bytes());
        done = finding.range.end;
        count += 1;
    }
    out.extend_from_slice(&text[done..]);
    count
}

/// What can be seen of a text in one pass, which compilers make one of 16 bytes at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Glance {
    /// An `@`, or a `%` that may begin `%40`.
    has_at: bool,
    /// At most; exact up to 255 per 16 bytes.
    digits: usize,
}

impl Glance {
    #[inline]
    fn at(text: &[u8]) -> Self {
        let (chunks, rest) = text.as_chunks::<16>();
        let mut glance = Self::default();
        for chunk in chunks {
            glance.add(chunk);
        }
        glance.add(rest);
        glance
    }

    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        let (mut at, mut digits) = (0_u8, 0_u8);
        for byte in bytes {
            at |= u8::from(*byte == b'@') | u8::from(*byte == b'%');
            digits += u8::from(byte.wrapping_sub(b'0') < 10);
        }
        self.has_at |= at != 0;
        self.digits += usize::from(digits);
    }
}

#[cfg(test)]
mod tests;
