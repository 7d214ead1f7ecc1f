//! Which time of the wall clock a moment of the kernel's records was.
//!
//! Both clocks are read; how far they are apart is kept for a while, so that spans of one moment are compared exactly, and taken anew
//! at once when the wall clock was set, or the machine was suspended, in which the other one stands still.

use std::time::{SystemTime, UNIX_EPOCH};

use agent_core::{
    pipeline::ClockOffset,
    span::{MonotonicNs, UnixNs},
};

use super::monotonic_ns;

/// It follows slow adjustments of the wall clock this often.
const INTERVAL_NS: u64 = 1_000_000_000;
/// More than this is no slow adjustment.
const STEP_NS: u64 = 1_000_000;

/// See the module.
pub(super) struct Wall {
    offset: ClockOffset,
    taken_ns: u64,
}

impl Wall {
    /// As it is now.
    pub fn now() -> Self {
        let reading = Reading::now();
        Self { offset: reading.offset(), taken_ns: reading.after_ns }
    }

    /// What is in use.
    pub fn offset(&self) -> ClockOffset {
        self.offset
    }

    /// Looks whether there is another one to use.
    pub fn refresh(&mut self) {
        self.take(Reading::now());
    }

    fn take(&mut self, reading: Reading) {
        let offset = reading.offset();
        let has_stepped = offset.0.abs_diff(self.offset.0) > STEP_NS + reading.length_ns();
        if has_stepped || reading.after_ns.saturating_sub(self.taken_ns) >= INTERVAL_NS {
            *self = Self { offset, taken_ns: reading.after_ns };
        }
    }
}

/// The wall clock is read between two readings of the other one, which bounds the error by their distance.
#[derive(Clone, Copy)]
struct Reading {
    before_ns: u64,
    unix_ns: u64,
    after_ns: u64,
}

impl Reading {
    fn now() -> Self {
        let before_ns = monotonic_ns();
        let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        Self { before_ns, unix_ns, after_ns: monotonic_ns() }
    }

    fn offset(self) -> ClockOffset {
        ClockOffset::between(MonotonicNs(self.before_ns.midpoint(self.after_ns)), UnixNs(self.unix_ns))
    }

    fn length_ns(self) -> u64 {
        self.after_ns.saturating_sub(self.before_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_700_000_000_000_000_000;

    /// The wall clock, `ahead_ns` of where it was, at a moment of the other one; reading both took this long.
    fn reading(at_ns: u64, ahead_ns: u64, length_ns: u64) -> Reading {
        Reading { before_ns: at_ns, unix_ns: START_NS + at_ns + length_ns / 2 + ahead_ns, after_ns: at_ns + length_ns }
    }

    fn after(readings: &[Reading]) -> i64 {
        let mut wall = Wall { offset: ClockOffset(START_NS as i64), taken_ns: 0 };
        readings.iter().for_each(|reading| wall.take(*reading));
        wall.offset().0 - START_NS as i64
    }

    #[test]
    fn a_step_counts_at_once_and_slow_changes_once_a_second() {
        assert_eq!(after(&[reading(1_000, 3_600_000_000_000, 100)]), 3_600_000_000_000);
        assert_eq!(after(&[reading(1_000, 500_000, 100)]), 0);
        assert_eq!(after(&[reading(1_000, 500_000, 100), reading(INTERVAL_NS, 700_000, 100)]), 700_000);
    }

    #[test]
    fn an_interrupted_reading_is_no_step() {
        let interrupted = Reading { before_ns: 0, unix_ns: START_NS, after_ns: 20_000_000 };
        assert_eq!(after(&[interrupted]), 0);
    }
}
