//! Where plaintext lies in the stream of records, for one direction.
//!
//! In: records of application data as they begin, and the plaintext of each call of the library, in order. Out: the stream's
//! offset of a byte of plaintext. Called by [`super::inside`].
//!
//! A record holds as many bytes of plaintext as it is long, less what encryption adds: in TLS 1.3 a tag and a type (RFC 8446,
//! 5.2), before that what the first record shows. That tells session tickets, which only servers write, from data, and which records a call's bytes are in
//! if they moved on the socket before or after the call; a call's records are never older than what had moved before it. A call
//! during which a record's last byte moved ended with it.
//! Limits: as many records, calls and links as below; the oldest go.

use std::{collections::VecDeque, ops::Range};

use agent_protocol::tls::Record;

/// Most records, and calls, that wait for each other.
const WAITING_MAX: usize = 256;
/// Most links kept.
const LINKS_MAX: usize = 1024;
/// Most plaintext in a record (RFC 8446, 5.1).
const RECORD_PLAIN_MAX: u64 = 1 << 14;
const HEADER_BYTES: u64 = 5;
/// What the authenticated ciphers add to a record: tag; tag and type; nonce and tag.
const OVERHEADS: [u64; 3] = [16, TLS_1_3_OVERHEAD, 24];
const TLS_1_3_OVERHEAD: u64 = 17;

/// The plaintext of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Its offsets among all plaintext of the direction.
    pub plain: Range<u64>,
    /// The stream's bytes that moved inside it, if any did.
    pub moved: Option<Range<u64>>,
    /// Records that end here or before are not its own.
    pub after: u64,
    /// Whether the application could not take more, so that the record may hold more.
    pub filled: bool,
    /// Whether it was written.
    pub sends: bool,
}

#[derive(Clone, Debug)]
struct Link {
    plain: Range<u64>,
    stream: Range<u64>,
    /// Whether the stream's range begins with the header of a record.
    whole: bool,
}

/// How plaintext is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By records.
    Records,
    /// Where records begin is not known at the moment: by what moved since.
    Moved,
    /// By what is known now, whatever that is.
    Force,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Placing {
    records: VecDeque<Record>,
    /// Plaintext of the first record that calls have taken.
    taken: u64,
    calls: VecDeque<Call>,
    links: VecDeque<Link>,
    overhead: Option<u64>,
    /// Records are data, all of them: a client writes no tickets.
    only_data: bool,
}

impl Placing {
    /// The records are those of TLS 1.3.
    pub fn is_1_3(&mut self) {
        self.overhead = Some(TLS_1_3_OVERHEAD);
    }

    /// A record of application data begins; by the client or by the server of TLS.
    pub fn record(&mut self, record: Record, by_client: bool) {
        self.only_data = by_client;
        push_bounded(&mut self.records, record, WAITING_MAX);
    }

    /// A call returned; answers whether an older one had to be given up.
    pub fn call(&mut self, call: Call) -> bool {
        push_bounded(&mut self.calls, call, WAITING_MAX)
    }

    /// Places what can be. `fed`: the stream's bytes before it have been seen. `by`: what is known of records.
    pub fn place(&mut self, fed: u64, by: By) {
        while let Some(call) = self.calls.front().cloned() {
            if !self.place_one(&call, fed, by) {
                return;
            }
            self.calls.pop_front();
        }
    }

    fn place_one(&mut self, call: &Call, fed: u64, by: By) -> bool {
        let length = call.plain.end - call.plain.start;
        if let Some(moved) = &call.moved
            && moved.end > fed
            && by != By::Force
        {
            return false;
        }
        if !call.sends && call.moved.is_none() && self.taken > 0 {
            return self.take(0, length, call);
        }
        if self.taken > 0 {
            (self.taken, _) = (0, self.records.pop_front());
        }
        // Those of plaintext that was not told.
        while self.records.front().is_some_and(|record| record.end <= call.after) {
            self.records.pop_front();
        }
        match self.find(call, length) {
            Some(run) if call.sends => self.link_run(run, call),
            Some(run) => return self.take(run.start, length, call),
            // Its records come after it.
            None if call.sends
                && call.moved.is_none()
                && (by == By::Records || (by == By::Moved && fed <= call.after)) =>
            {
                return false;
            }
            None => self.link_moved(call, fed),
        }
        true
    }

    /// The records that hold a call's plaintext.
    fn find(&self, call: &Call, length: u64) -> Option<Range<usize>> {
        let last = call.moved.as_ref().and_then(|moved| self.records.iter().position(|record| record.end == moved.end));
        let Some(overhead) = self.overhead else {
            // Nothing but data looks like data before TLS 1.3.
            let count = if call.sends { length.div_ceil(RECORD_PLAIN_MAX) as usize } else { 1 };
            let until = last.map_or(count, |last| last + 1);
            let from = if call.sends { until.saturating_sub(count) } else { last.unwrap_or(0) };
            return (until <= self.records.len() && from < until).then_some(from..until);
        };
        let holds = |index: usize| self.records[index].length().saturating_sub(overhead);
        if !call.sends {
            let all = 0..self.records.len();
            let more = |index: &usize| call.filled && holds(*index) > length;
            let mut exact = all.clone().find(|index| holds(*index) == length);
            if self.only_data {
                // A later one that happens to be as long is not it.
                exact = exact.into_iter().chain(all.clone().find(more)).min();
            }
            let found = exact.or(last.filter(more)).or_else(|| all.clone().find(more)).or(last);
            return found.map(|index| index..index + 1);
        }
        let ends = last.map_or(0..self.records.len(), |last| last..last + 1);
        ends.into_iter().find_map(|last| {
            let mut sum = 0;
            let first = (0..=last).rev().find(|index| {
                sum += holds(*index);
                sum >= length
            });
            first.filter(|_| sum == length).map(|first| first..last + 1)
        })
    }

    /// A call took `length` bytes of the record at `index`, and none of those before it are data.
    fn take(&mut self, index: usize, length: u64, call: &Call) -> bool {
        self.records.drain(..index);
        let Some(record) = self.records.front().copied() else { return true };
        let fresh = self.taken == 0;
        if fresh && !call.filled {
            self.learn(&record, length);
        }
        let at = |taken: u64| (record.start + HEADER_BYTES + taken).min(record.end - 1);
        let start = if fresh { record.start } else { at(self.taken) };
        self.taken += length;
        let left = self.overhead.map(|overhead| record.length().saturating_sub(overhead).saturating_sub(self.taken));
        let done = left.map_or(!call.filled, |left| left == 0);
        let end = if done { record.end } else { at(self.taken).max(start + 1) };
        if done {
            (self.taken, _) = (0, self.records.pop_front());
        }
        self.link(Link { plain: call.plain.clone(), stream: start..end, whole: fresh });
        true
    }

    fn link_run(&mut self, run: Range<usize>, call: &Call) {
        let (first, last) = (self.records[run.start], self.records[run.end - 1]);
        if run.len() == 1 {
            self.learn(&first, call.plain.end - call.plain.start);
        }
        self.records.drain(..run.end);
        self.link(Link { plain: call.plain.clone(), stream: first.start..last.end, whole: true });
    }

    /// The records are not known: the bytes are somewhere in what moved.
    fn link_moved(&mut self, call: &Call, fed: u64) {
        let from = self.links.back().map_or(0, |link| link.stream.end).max(call.after);
        let stream = call.moved.clone().unwrap_or(from..fed.max(from));
        while self.records.front().is_some_and(|record| record.end <= stream.end) {
            self.records.pop_front();
        }
        if !stream.is_empty() {
            self.link(Link { plain: call.plain.clone(), stream, whole: false });
        } else if let Some(link) = self.links.back().cloned() {
            self.link(Link { plain: call.plain.clone(), stream: link.stream, whole: false });
        }
    }

    fn learn(&mut self, record: &Record, length: u64) {
        let overhead = record.length().saturating_sub(length);
        if self.overhead.is_none() && OVERHEADS.contains(&overhead) {
            self.overhead = Some(overhead);
        }
    }

    fn link(&mut self, link: Link) {
        push_bounded(&mut self.links, link, LINKS_MAX);
    }

    /// The stream's offset of the byte of plaintext at `offset`.
    pub fn first(&self, offset: u64) -> Option<u64> {
        let link = self.holding(offset)?;
        if offset == link.plain.start {
            return Some(link.stream.start);
        }
        let within = offset - link.plain.start;
        let header = if link.whole { HEADER_BYTES } else { 0 };
        let before = within / RECORD_PLAIN_MAX * (RECORD_PLAIN_MAX + HEADER_BYTES + self.overhead.unwrap_or(0));
        Some((link.stream.start + header + before + within % RECORD_PLAIN_MAX).min(link.stream.end - 1))
    }

    /// The stream's offset past the byte of plaintext before `end`, and whether it is known exactly.
    pub fn past(&self, end: u64) -> Option<(u64, bool)> {
        let last = end.checked_sub(1)?;
        let link = self.holding(last)?;
        if end == link.plain.end {
            return Some((link.stream.end, true));
        }
        self.first(last).map(|offset| (offset + 1, false))
    }

    fn holding(&self, offset: u64) -> Option<&Link> {
        let after = self.links.partition_point(|link| link.plain.start <= offset);
        self.links.get(after.checked_sub(1)?).filter(|link| offset < link.plain.end && !link.stream.is_empty())
    }

    /// The stream's offset up to which plaintext was found.
    pub fn placed_until(&self) -> u64 {
        self.links.back().map_or(0, |link| link.stream.end)
    }

    /// The byte of plaintext of which [`Placing::first`] gives this `offset` of the stream.
    pub fn plain_at(&self, offset: u64) -> Option<u64> {
        self.links.iter().rev().find_map(|link| self.plain_within(link, offset))
    }

    fn plain_within(&self, link: &Link, offset: u64) -> Option<u64> {
        if offset == link.stream.start {
            return Some(link.plain.start);
        }
        let header = if link.whole { HEADER_BYTES } else { 0 };
        let within = offset.checked_sub(link.stream.start + header).filter(|_| offset < link.stream.end)?;
        let record = RECORD_PLAIN_MAX + HEADER_BYTES + self.overhead.unwrap_or(0);
        let plain = link.plain.start + within / record * RECORD_PLAIN_MAX + within % record;
        (plain < link.plain.end && self.first(plain) == Some(offset)).then_some(plain)
    }

    /// Forgets links of plaintext before `offset`.
    pub fn trim(&mut self, offset: u64) {
        while self.links.len() > 1 && self.links.front().is_some_and(|link| link.plain.end <= offset) {
            self.links.pop_front();
        }
    }
}

/// Answers whether the oldest had to go.
fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, max: usize) -> bool {
    let full = queue.len() >= max;
    if full {
        queue.pop_front();
    }
    queue.push_back(value);
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that begins at `start` and holds so much plaintext in TLS 1.3.
    fn record(start: u64, plain: u64) -> Record {
        let end = start + HEADER_BYTES + plain + TLS_1_3_OVERHEAD;
        Record { start, end, kind: agent_protocol::tls::content::APPLICATION_DATA, encrypted: true }
    }

    /// A read of what the library had buffered.
    fn read(plain: Range<u64>) -> Call {
        Call { plain, moved: None, after: 0, filled: true, sends: false }
    }

    fn placed(by_client: bool) -> [Option<u64>; 2] {
        let mut placing = Placing::default();
        placing.is_1_3();
        placing.record(record(100, 40), by_client);
        placing.record(record(200, 9), by_client);
        placing.call(read(0..9));
        placing.call(read(9..40));
        placing.place(1000, By::Records);
        [placing.first(0), placing.first(9)]
    }

    #[test]
    fn what_begins_within_a_record_is_found_by_where_it_lies() {
        let mut placing = Placing::default();
        placing.is_1_3();
        placing.record(record(100, RECORD_PLAIN_MAX), true);
        let second = 100 + HEADER_BYTES + RECORD_PLAIN_MAX + TLS_1_3_OVERHEAD;
        placing.record(record(second, 50), true);
        let end = second + HEADER_BYTES + 50 + TLS_1_3_OVERHEAD;
        let plain = 0..RECORD_PLAIN_MAX + 50;
        placing.call(Call { plain, moved: Some(100..end), after: 100, filled: false, sends: true });
        placing.place(end, By::Records);
        assert_eq!(placing.first(9), Some(100 + HEADER_BYTES + 9));
        for plain in [0, 9, RECORD_PLAIN_MAX - 1, RECORD_PLAIN_MAX + 7] {
            assert_eq!(placing.first(plain).and_then(|offset| placing.plain_at(offset)), Some(plain));
        }
        assert_eq!(placing.plain_at(end), None);
    }

    #[test]
    fn what_a_client_wrote_is_read_in_its_order() {
        assert_eq!(placed(true), [Some(100), Some(100 + HEADER_BYTES + 9)]);
    }

    #[test]
    fn of_a_server_the_record_that_is_as_long_as_the_read_is_preferred_because_the_first_may_be_a_ticket() {
        assert_eq!(placed(false)[0], Some(200));
    }
}
