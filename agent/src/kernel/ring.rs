//! Reads the ring buffer, with as few wake-ups as the traffic allows.
//!
//! Idle: the reader arms `WAKE` and sleeps; the next record clears it and wakes the reader, which costs the traced
//! program one wake-up. Busy: records are drained by time, without wake-ups, until a drain finds nothing.

use std::{os::fd::AsRawFd, time::Duration};

use aya::maps::{Array, MapData, RingBuf};

/// The sole reader of the ring.
pub struct Ring {
    records: RingBuf<MapData>,
    wake: Array<MapData, u32>,
}

impl Ring {
    /// Takes what [`super::load::load`] handed out.
    pub fn new(records: RingBuf<MapData>, wake: Array<MapData, u32>) -> Self {
        Self { records, wake }
    }

    /// Gives every record that is there to `take`, at most `most`; returns how many.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < most
            && let Some(record) = self.records.next()
        {
            take(&record);
            count += 1;
        }
        count
    }

    /// Sleeps until a record comes, `timeout` passes or `interrupt` (a descriptor) becomes readable.
    pub fn sleep_until_record(&mut self, timeout: Duration, interrupt: i32) {
        if self.wake.set(0, 1, 0).is_err() {
            return poll(&[interrupt], timeout.min(Duration::from_millis(10)));
        }
        // A record that came before arming would not wake anybody, but it makes the descriptor readable at once.
        poll(&[self.records.as_raw_fd(), interrupt], timeout);
        let _ = self.wake.set(0, 0, 0);
    }

    /// Sleeps this long, or until `interrupt` becomes readable; records do not wake it and cost nobody a wake-up.
    pub fn nap(&self, length: Duration, interrupt: i32) {
        poll(&[interrupt], length);
    }
}

fn poll(descriptors: &[i32], timeout: Duration) {
    let mut set: Vec<libc::pollfd> =
        descriptors.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `set` is a valid array of its own length for the duration of the call.
    unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, milliseconds) };
}
