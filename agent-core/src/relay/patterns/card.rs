//! Numbers of payment cards (ISO/IEC 7812): an issuer's first digits and number of digits, and a check digit after Luhn.
//!
//! Of random numbers about one in forty passes; times in milliseconds, microseconds and nanoseconds, which begin with 1, never.

use super::Finding;

/// Digits of the shortest card number.
pub(super) const DIGITS_MIN: usize = 12;
const DIGITS_MAX: usize = 19;
/// The smallest number that may be one.
pub(in crate::relay) const NUMBER_MIN: i64 = 100_000_000_000;

/// Finds them in text: digits in one piece or in groups with one space or hyphen between, no letter, digit or decimal point beside them.
pub(super) fn find(text: &[u8], findings: &mut Vec<Finding>) {
    let mut at = 0;
    while let Some(begin) = text[at..].iter().position(u8::is_ascii_digit).map(|index| at + index) {
        at = group_end(text, begin);
        let may_be_long = at - begin >= DIGITS_MIN || goes_on(text, at);
        if let Some(end) = Some(begin).filter(|_| may_be_long).and_then(|begin| starting_at(text, begin)) {
            findings.push(Finding { range: begin..end, placeholder: "{card}" });
            at = end;
        }
    }
}

/// The end of the longest card number that begins here.
fn starting_at(text: &[u8], begin: usize) -> Option<usize> {
    let before = begin.checked_sub(1).map(|index| text[index]);
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
        return None;
    }
    let (mut digits, mut count, mut at, mut found) = ([0_u8; DIGITS_MAX], 0, begin, None);
    loop {
        let end = group_end(text, at);
        if count + (end - at) > DIGITS_MAX {
            return found;
        }
        for byte in &text[at..end] {
            digits[count] = byte - b'0';
            count += 1;
        }
        let next = text.get(end).copied();
        if !next.is_some_and(|byte| byte.is_ascii_alphanumeric()) && is_card(&digits[..count]) {
            found = Some(end);
        }
        if !goes_on(text, end) {
            return found;
        }
        at = end + 1;
    }
}

/// Whether another group of digits follows the one that ends here.
fn goes_on(text: &[u8], end: usize) -> bool {
    matches!(text.get(end), Some(b' ' | b'-')) && text.get(end + 1).is_some_and(u8::is_ascii_digit)
}

fn group_end(text: &[u8], begin: usize) -> usize {
    text[begin..].iter().position(|byte| !byte.is_ascii_digit()).map_or(text.len(), |length| begin + length)
}

/// Whether an integer may be one.
pub(in crate::relay) fn is_card_number(number: i64) -> bool {
    let (mut rest, mut digits, mut at) = (number, [0_u8; DIGITS_MAX], DIGITS_MAX);
    while rest > 0 && at > 0 {
        at -= 1;
        digits[at] = (rest % 10) as u8;
        rest /= 10;
    }
    is_card(&digits[at..])
}

fn is_card(digits: &[u8]) -> bool {
    digits.len() >= DIGITS_MIN && has_issuer(digits) && has_check_digit(digits)
}

/// First digits and lengths that are issued.
fn has_issuer(digits: &[u8]) -> bool {
    let first = |count: usize| digits[..count].iter().fold(0_u16, |number, digit| number * 10 + u16::from(*digit));
    match (first(1), first(2), first(4), digits.len()) {
        (4, .., 13 | 16 | 19) => true,                   // Visa
        (_, 51..=55, _, 16) => true,                     // Mastercard
        (_, _, 2221..=2720, 16) => true,                 // Mastercard
        (_, 34 | 37, _, 15) => true,                     // American Express
        (_, 36 | 38 | 39, _, 14..=19) => true,           // Diners Club
        (_, _, 3000..=3059, 14..=19) => true,            // Diners Club
        (_, _, 3528..=3589, 16..=19) => true,            // JCB
        (_, 62 | 64 | 65 | 81, _, 16..=19) => true,      // UnionPay, Discover
        (_, _, 6011, 16..=19) => true,                   // Discover
        (_, 50 | 56..=58 | 60..=69, _, 12..=19) => true, // Maestro, RuPay
        (_, _, 2200..=2204, 16..=19) => true,            // Mir
        _ => false,
    }
}

/// ISO/IEC 7812-1, annex B.
fn has_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match (index % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) => digit * 2 - if digit > 4 { 9 } else { 0 },
        })
        .sum();
    sum.is_multiple_of(10)
}
