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
mod glance;
mod token;

use std::ops::Range;

pub(super) use self::card::{NUMBER_MIN as CARD_NUMBER_MIN, is_card_number};
use self::glance::Glance;

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
        if !(glance.has_at || glance.digits >= card::DIGITS_MIN || glance.may_begin_token) {
            return 0;
        }
        self.look(text, &glance, out)
    }

    fn look(&self, text: &[u8], glance: &Glance, out: &mut Vec<u8>) -> usize {
        let mut findings = Vec::new();
        if glance.may_begin_token {
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

#[cfg(test)]
mod tests;
