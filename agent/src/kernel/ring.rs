//! The ring buffers between kernel and agent: makes them, and reads them with as few wake-ups as the traffic allows.
//!
//! Each CPU writes to a ring of its own, so no CPU waits for another. The reader gives records in the order of their times,
//! up to [`SLICE_NS`]; the pipeline restores the rest.
//!
//! Idle: the reader arms `WAKE` and sleeps; the next record clears it and wakes the reader, which costs the traced
//! program one wake-up. Busy: records are drained by time, without wake-ups but for a record that finds its ring filled to a
//! quarter, until a drain finds nothing.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use agent_common::header::RecordHeader;
use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError, RingBuf};

/// A smaller ring would be full within a burst.
const RING_BYTES_MIN: u32 = 64 << 10;
/// Rings are read in turn for this much of their time: less than the pipeline holds records back to put them in order.
const SLICE_NS: u64 = 2_000_000;
/// `BPF_MAP_CREATE`, `BPF_MAP_TYPE_RINGBUF` (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_TYPE_RINGBUF: u32 = 27;

/// What the kernel programs find in `RECORDS`: a ring by CPU.
pub type Rings = ArrayOfMaps<MapData, RingBuf<MapData>>;

/// The rings that the kernel programs write to.
pub struct Records {
    rings: Vec<RingBuf<MapData>>,
    /// Of each.
    bytes: u32,
}

/// Makes rings of `total_bytes` altogether, one for each CPU that is online as far as that allows, and puts them where the
/// kernel programs look. CPUs beyond that, and those that come online later, share them.
pub fn make(places: &mut Rings, total_bytes: u32) -> Result<Records, MapError> {
    let online = aya::util::online_cpus().map_or(1, |cpus| cpus.len());
    let (count, bytes) = division(total_bytes, online);
    let rings = (0..count).map(|_| create(bytes)).collect::<Result<Vec<_>, _>>()?;
    for cpu in 0..places.len() {
        places.set(cpu, &rings[cpu as usize % count], 0)?;
    }
    Ok(Records { rings, bytes })
}

/// How many rings of which size `total_bytes` (a power of two) makes for `cpus`.
fn division(total_bytes: u32, cpus: usize) -> (usize, u32) {
    let count = cpus.clamp(1, (total_bytes / RING_BYTES_MIN).max(1) as usize);
    let share = total_bytes / count as u32;
    // The largest power of two that is not larger.
    (count, 1 << share.max(1).ilog2())
}

/// aya makes inner maps only as templates.
fn create(bytes: u32) -> Result<RingBuf<MapData>, MapError> {
    // The head of `union bpf_attr` as this command takes it: type, key size, value size, entries, flags, inner map, NUMA node,
    // and 16 bytes of name.
    let name = [*b"RECO", *b"RDS\0"].map(u32::from_ne_bytes);
    let request = [MAP_TYPE_RINGBUF, 0, 0, bytes, 0, 0, 0, name[0], name[1], 0, 0];
    // SAFETY: `request` is a valid, initialised head of the attributes of this command, of the size given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, request.as_ptr(), size_of_val(&request)) };
    if fd < 0 {
        return Err(MapError::CreateError { name: "RECORDS".into(), io_error: io::Error::last_os_error() });
    }
    // SAFETY: the call returned a new descriptor, which nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    RingBuf::try_from(Map::RingBuf(MapData::from_fd(fd)?))
}

/// One ring, and the record that was taken from it too early.
struct Source {
    records: RingBuf<MapData>,
    held: Vec<u8>,
    held_ns: Option<u64>,
}

/// What a drain gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Records.
    pub records: usize,
    /// Those made up to this time were given, of every ring; `CLOCK_MONOTONIC`.
    pub until_ns: u64,
}

/// The sole reader of the rings.
pub struct Ring {
    sources: Vec<Source>,
    wake: Array<MapData, u32>,
    /// Tells of wake-ups, where polling a ring would tell of records. Without it naps take their time.
    wake_ups: io::Result<OwnedFd>,
    /// With so many bytes in its ring a record ends a nap.
    nap_bytes_max: u32,
}

impl Ring {
    /// Takes what [`super::load::load`] handed out.
    pub fn new(records: Records, wake: Array<MapData, u32>) -> Self {
        let source = |records| Source { records, held: Vec::new(), held_ns: None };
        let wake_ups = wake_ups_of(&records.rings);
        let sources = records.rings.into_iter().map(source).collect();
        Self { sources, wake, wake_ups, nap_bytes_max: records.bytes / 4 }
    }

    /// Gives every record that is there and was made up to `now_ns` to `take`, at most about `most`. `now_ns` is not in the future: what comes
    /// while this works waits for a later call, since a ring that was looked at already may have older ones.
    pub fn drain(&mut self, now_ns: u64, most: usize, mut take: impl FnMut(&[u8])) -> Drained {
        let mut records = 0;
        loop {
            for source in &mut self.sources {
                source.look();
            }
            let first_ns = self.sources.iter().filter_map(|source| source.held_ns).min();
            let Some(first_ns) = first_ns.filter(|first_ns| *first_ns <= now_ns) else {
                return Drained { records, until_ns: now_ns };
            };
            if records >= most {
                return Drained { records, until_ns: first_ns.saturating_sub(1) };
            }
            let until_ns = first_ns.saturating_add(SLICE_NS).min(now_ns);
            for source in &mut self.sources {
                records += source.drain(until_ns, &mut take);
            }
        }
    }

    /// Sleeps until a record comes, `timeout` passes or `interrupt` (a descriptor) becomes readable.
    pub fn sleep_until_record(&mut self, timeout: Duration, interrupt: i32) {
        let held = self.sources.iter().any(|source| source.held_ns.is_some());
        if held || self.wake.set(0, 1, 0).is_err() {
            return poll([interrupt], timeout.min(Duration::from_millis(1)));
        }
        // A record that came before arming would not wake anybody, but it makes its ring's descriptor readable at once.
        let rings = self.sources.iter().map(|source| source.records.as_raw_fd());
        poll(rings.chain([interrupt]), timeout);
        self.awake();
    }

    /// Sleeps this long, or until a ring is filled to a quarter or `interrupt` becomes readable. Other records cost nobody a wake-up.
    pub fn nap(&mut self, length: Duration, interrupt: i32) {
        let wake_ups = self.wake_ups.as_ref().ok().map(AsRawFd::as_raw_fd);
        if wake_ups.is_some() {
            let _ = self.wake.set(0, self.nap_bytes_max, 0);
        }
        poll(wake_ups.into_iter().chain([interrupt]), length);
        self.awake();
    }

    /// Records wake nobody, and those that did are forgotten.
    fn awake(&mut self) {
        let _ = self.wake.set(0, 0, 0);
        let Ok(wake_ups) = &self.wake_ups else { return };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: `events` is a valid array of its own length for the duration of the call.
        unsafe { libc::epoll_wait(wake_ups.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 0) };
    }
}

/// A descriptor that is readable when a record woke the reader: edge-triggered, since a ring is readable whenever it has records.
fn wake_ups_of(rings: &[RingBuf<MapData>]) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor, which nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for ring in rings {
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        // SAFETY: both are descriptors of this process, and `event` is valid for reads.
        let result = unsafe { libc::epoll_ctl(fd.as_raw_fd(), libc::EPOLL_CTL_ADD, ring.as_raw_fd(), &raw mut event) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(fd)
}

impl Source {
    /// Holds the next record, if there is one.
    fn look(&mut self) {
        if self.held_ns.is_none()
            && let Some(record) = self.records.next()
        {
            hold(&mut self.held, &mut self.held_ns, &record);
        }
    }

    /// Gives the records up to `until_ns`; the one that is too young is held.
    fn drain(&mut self, until_ns: u64, take: &mut impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        match self.held_ns {
            Some(held_ns) if held_ns > until_ns => return 0,
            Some(_) => {
                take(&self.held);
                self.held_ns = None;
                count += 1;
            }
            None => {}
        }
        while let Some(record) = self.records.next() {
            if time_ns(&record) > until_ns {
                hold(&mut self.held, &mut self.held_ns, &record);
                break;
            }
            take(&record);
            count += 1;
        }
        count
    }
}

fn hold(held: &mut Vec<u8>, held_ns: &mut Option<u64>, record: &[u8]) {
    held.clear();
    held.extend_from_slice(record);
    *held_ns = Some(time_ns(record));
}

/// When a record was made; 0, so that it is given at once, if it has no header.
fn time_ns(record: &[u8]) -> u64 {
    agent_common::read::<RecordHeader>(record).map_or(0, |header| header.time_ns)
}

fn poll(descriptors: impl IntoIterator<Item = i32>, timeout: Duration) {
    let mut set: Vec<libc::pollfd> =
        descriptors.into_iter().map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `set` is a valid array of its own length for the duration of the call.
    unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, milliseconds) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rings_together_are_as_large_as_was_asked_and_none_is_tiny() {
        let check = |total, cpus, expected| assert_eq!(division(total, cpus), expected, "{total} for {cpus}");
        check(2 << 20, 1, (1, 2 << 20));
        check(2 << 20, 2, (2, 1 << 20));
        check(2 << 20, 3, (3, 512 << 10));
        check(2 << 20, 32, (32, 64 << 10));
        check(2 << 20, 128, (32, 64 << 10));
        check(64 << 10, 128, (1, 64 << 10));
        check(1, 4, (1, 1));
        check(2 << 20, 0, (1, 2 << 20));
    }

    #[test]
    fn a_record_without_a_header_is_not_held() {
        assert_eq!(time_ns(&[1, 2, 3]), 0);
    }
}
