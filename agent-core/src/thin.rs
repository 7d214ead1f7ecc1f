//! How many exchanges of processes that nobody selected become spans.
//!
//! In: exchanges of which only sizes and times are known. Out: whether each becomes a span. Called by [`crate::pipeline`]. On a busy
//! host they are thousands in a second; all of them would leave the span log room for minutes of what is selected.
//!
//! In each second about as many stay as are allowed, chosen by the exchange's trace id, so that both its ends stay or go; what
//! failed, or took long, has as many places of its own. Never: leaves out what is selected, or whose other end is.

use crate::span::TraceId;

const SECOND_NS: u64 = 1_000_000_000;
/// What takes at least this long has places of its own.
pub(crate) const LONG_NS: u64 = 100_000_000;

/// Counts exchanges by the second.
#[derive(Debug)]
pub(crate) struct Thinner {
    /// Places in a second, of either kind; 0: as many as come.
    per_second: u32,
    second_ns: u64,
    /// Of the second so far: exchanges that came; those that stayed, ordinary and notable ones.
    came: u64,
    stayed: [u32; 2],
    /// Trace ids up to this stay: what of the second before there would have been room for.
    share: u64,
}

impl Thinner {
    /// Of so many; 0: of any number.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, second_ns: 0, came: 0, stayed: [0; 2], share: u64::MAX }
    }

    /// Whether an exchange becomes a span. `is_notable`: it failed, or took long.
    pub(crate) fn keeps(&mut self, trace_id: TraceId, is_notable: bool, now_ns: u64) -> bool {
        if self.per_second == 0 {
            return true;
        }
        if now_ns.saturating_sub(self.second_ns) >= SECOND_NS {
            let fits = self.came <= u64::from(self.per_second);
            self.share = if fits { u64::MAX } else { u64::MAX / self.came * u64::from(self.per_second) };
            (self.second_ns, self.came, self.stayed) = (now_ns, 0, [0; 2]);
        }
        self.came += 1;
        let [.., a, b, c, d, e, f, g, h] = trace_id.0;
        let has_share = u64::from_be_bytes([a, b, c, d, e, f, g, h]) <= self.share;
        if has_share && self.takes(0) {
            return true;
        }
        is_notable && self.takes(1)
    }

    fn takes(&mut self, kind: usize) -> bool {
        // Twice as many, so that in a second of more than the one before not only the first stay.
        let is_free = self.stayed[kind] < self.per_second.saturating_mul(2);
        self.stayed[kind] += u32::from(is_free);
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> TraceId {
        TraceId(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes())
    }

    /// How many of `count` in a second stay.
    fn second(thinner: &mut Thinner, second: u64, count: u64, is_notable: bool) -> usize {
        let stays = |number: &u64| thinner.keeps(id(*number), is_notable, second * SECOND_NS + *number);
        (0..count).filter(stays).count()
    }

    #[test]
    fn a_few_all_stay_and_of_many_about_as_many_as_are_allowed() {
        let mut thinner = Thinner::new(100);
        assert_eq!(second(&mut thinner, 1, 100, false), 100);
        assert_eq!(second(&mut thinner, 2, 10_000, false), 200, "the first that are too many end at twice the number");
        let then = second(&mut thinner, 3, 10_000, false);
        assert!((80..=120).contains(&then), "{then}");
        assert_eq!(second(&mut Thinner::new(0), 1, 10_000, false), 10_000);
    }

    #[test]
    fn what_failed_or_took_long_has_places_of_its_own() {
        let mut thinner = Thinner::new(100);
        second(&mut thinner, 1, 10_000, false);
        let ordinary = second(&mut thinner, 2, 5_000, false);
        let at_ns = 2 * SECOND_NS + 6_000;
        assert!((0..50).all(|number| thinner.keeps(id(number), true, at_ns)), "after {ordinary} others");
    }

    #[test]
    fn both_ends_of_an_exchange_stay_or_go() {
        let mut thinner = Thinner::new(100);
        for at in [1, 2] {
            second(&mut thinner, at, 4_000, false);
        }
        let alike = |number: &u64| {
            let at_ns = 3 * SECOND_NS + number;
            thinner.keeps(id(*number), false, at_ns) == thinner.keeps(id(*number), false, at_ns + 1)
        };
        assert_eq!((0..2_000).filter(alike).count(), 2_000);
    }
}
