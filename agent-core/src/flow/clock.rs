//! From the kernel's monotonic clock to wall-clock time.

use crate::span::{MonotonicNs, UnixNs};

/// What to add to `CLOCK_MONOTONIC` to get the time since the Unix epoch, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// The offset between two readings that were taken at the same moment.
    pub fn between(monotonic: MonotonicNs, unix: UnixNs) -> Self {
        Self(unix.0.wrapping_sub(monotonic.0) as i64)
    }

    /// The wall-clock time of `time`.
    pub fn unix(self, time: MonotonicNs) -> UnixNs {
        UnixNs(time.0.saturating_add_signed(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_of_two_readings_maps_one_to_the_other() {
        let offset = ClockOffset::between(MonotonicNs(1_000), UnixNs(1_700_000_000_000_000_000));
        assert_eq!(offset.unix(MonotonicNs(1_500)), UnixNs(1_700_000_000_000_000_500));
    }
}
