//! Durations, shares, rates and counts for people.

use super::view::grades;
use crate::span::{Evidence, Segment, SegmentName};

/// `12.345 ms`: always milliseconds, so that columns can be compared at a glance. Rounded half up to the microsecond.
pub fn ms(ns: u64) -> String {
    let us = (u128::from(ns) + 500) / 1_000;
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

/// `58 us` below a millisecond, else as [`ms`].
pub fn short(ns: u64) -> String {
    if ns < 999_500 { format!("{} us", (ns + 500) / 1_000) } else { ms(ns) }
}

/// `85.2 %`.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0.0 %".to_owned();
    }
    let tenths = (u128::from(part) * 2_000 + u128::from(whole)) / (u128::from(whole) * 2);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `1.5 MB`: powers of ten, as rates on the wire are told.
pub fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => {
            let tenths = u128::from(count) * 10 / u128::from(size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} bytes"),
    }
}

/// `1 span`, `2 spans`: `one` is the noun of one, whose plural has an `s` more.
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// The word that goes with so many: `was` or `were`.
pub fn verb<'a>(count: u64, of_one: &'a str, of_many: &'a str) -> &'a str {
    if count == 1 { of_one } else { of_many }
}

/// `measured`, or with shares if the tiles under a name are known differently.
pub fn evidence(segments: &[Segment], name: SegmentName) -> String {
    let grades = grades(segments, name);
    let all = [Evidence::Measured, Evidence::Derived, Evidence::Inferred];
    let present: Vec<_> = all.into_iter().filter(|evidence| grades[*evidence as usize] > 0).collect();
    let whole = grades.iter().fold(0_u64, |sum, ns| sum.saturating_add(*ns));
    match present.as_slice() {
        [] => "unknown".to_owned(),
        [one] => one.name().to_owned(),
        many => {
            let share = |it: &Evidence| format!("{} {}", percent(grades[*it as usize], whole), it.name());
            many.iter().map(share).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_without_an_s() {
        let told = [0, 1, 2].map(|count| format!("{} {}", counted(count, "span"), verb(count, "was", "were")));
        assert_eq!(told, ["0 spans were", "1 span was", "2 spans were"]);
    }
}
