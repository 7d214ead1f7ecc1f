//! Records as the kernel side would emit them, for tests and benchmarks: nothing here is called by the product.
//!
//! One [`Kernel`] numbers the records; an [`End`] is one end of a connection and keeps its stream positions. Times are
//! microseconds.

use agent_common::{
    Plain, bytes_of,
    connection::{ConnectionRecord, TcpSnapshot, change as what, flag as connection_flag, role},
    header::{LAYOUT_VERSION, RecordHeader, kind},
    message::{CallRecord, RetransmitRecord, SendRecord, TAIL_BYTES, direction, flag},
    sched::{BLOCKED, Blocked, NEVER_SLEPT},
};

use crate::{
    config::PipelineConfig,
    flow::clock::ClockOffset,
    loss::Losses,
    pipeline::{ConnectionView, Pipeline},
    span::{MonotonicNs, SegmentName, Span, Value},
};

/// Bytes captured of one call.
pub const CAPTURED: usize = 1024;

/// Emits records in the order of the calls.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Records so far.
    pub records: Vec<Vec<u8>>,
    sequence: u32,
}

impl Kernel {
    /// Numbers a record.
    pub fn header(&mut self, kind: u8, time_us: u64) -> RecordHeader {
        self.sequence += 1;
        RecordHeader { time_ns: time_us * 1000, sequence: self.sequence, cpu: 0, kind, version: LAYOUT_VERSION }
    }

    /// Emits a record with what follows it.
    pub fn emit<T: Plain>(&mut self, record: &T, payload: &[u8]) {
        self.records.push([bytes_of(record), payload].concat());
    }

    /// Loses the last record that was emitted.
    pub fn lose(&mut self) {
        self.records.pop();
    }

    /// Sends everything through a new pipeline, until nothing more is due.
    pub fn run(&self) -> Run {
        self.run_with(PipelineConfig::default())
    }

    /// The same with another configuration.
    pub fn run_with(&self, config: PipelineConfig) -> Run {
        let mut pipeline = Pipeline::new(config, ClockOffset::default());
        let mut last_ns = 0;
        for record in &self.records {
            let time_ns = agent_common::read::<RecordHeader>(record).map_or(0, |header| header.time_ns);
            last_ns = time_ns.max(last_ns);
            pipeline.record(record);
            pipeline.tick(MonotonicNs(last_ns));
        }
        for _ in 0..300 {
            last_ns += 10_000_000;
            pipeline.tick(MonotonicNs(last_ns));
        }
        let spans = take(&mut pipeline);
        pipeline.flush(MonotonicNs(last_ns));
        let flushed = take(&mut pipeline);
        let whole = pipeline.wanted_whole();
        Run { spans, flushed, losses: pipeline.losses().clone(), connections: pipeline.connections_view(), whole }
    }
}

fn take(pipeline: &mut Pipeline) -> Vec<Span> {
    pipeline.drain().into_iter().map(|safe| safe.span().clone()).collect()
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Run {
    /// Spans that were finished in time.
    pub spans: Vec<Span>,
    /// Spans that only the shutdown finished.
    pub flushed: Vec<Span>,
    /// What was lost.
    pub losses: Losses,
    /// Connections, at the end.
    pub connections: Vec<ConnectionView>,
    /// Connections of whose calls more was asked for.
    pub whole: Vec<(u64, u32)>,
}

/// Settings of a read call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Entry.
    pub enter: u64,
    /// Arrival of the first and the last byte; 0 for not observed.
    pub arrived: (u64, u64),
    /// Made runnable; 0 for not observed.
    pub woken: u64,
    /// On a CPU; 0 for not observed.
    pub running: u64,
    /// Return.
    pub returned: u64,
    /// What it slept in before it was woken; if not told, this call if it was entered before, else something else.
    pub slept_in: Option<Blocked>,
    /// When the softirq that brought the first byte was raised; 0 for not observed.
    pub softirq: u64,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    /// Connection id.
    pub id: u64,
    /// One of [`role`].
    pub role: u8,
    /// Local port.
    pub local: u16,
    /// Remote port.
    pub peer: u16,
    /// Sequence number of the first byte sent.
    pub send_base: u32,
    /// Sequence number of the first byte received.
    pub receive_base: u32,
    /// Bytes sent and received.
    pub moved: [u32; 2],
    /// Whether payload is captured.
    pub selected: bool,
    /// Process, and thread.
    pub pid: u32,
    /// Total run-queue time of the thread, microseconds.
    pub queued: u64,
    /// The throttled part of it.
    pub throttled: u64,
    /// Total time that the thread was asleep between calls, by [`Blocked`], microseconds.
    pub slept: [u64; BLOCKED],
    /// What TCP counts at this end.
    pub tcp: TcpSnapshot,
}

impl End {
    /// A client on port 40000 of a server on port 80.
    pub fn client() -> Self {
        let ports = (40_000, 80);
        Self {
            id: 1,
            role: role::CLIENT,
            local: ports.0,
            peer: ports.1,
            send_base: 1000,
            receive_base: 9000,
            moved: [0, 0],
            selected: true,
            pid: 11,
            queued: 0,
            throttled: 0,
            slept: [0; BLOCKED],
            tcp: TcpSnapshot { srtt_us: 60, min_rtt_us: 50, ..Default::default() },
        }
    }

    /// The server of [`End::client`].
    pub fn server() -> Self {
        let client = Self::client();
        Self {
            id: 2,
            role: role::SERVER,
            local: client.peer,
            peer: client.local,
            send_base: client.receive_base,
            receive_base: client.send_base,
            pid: 22,
            ..client
        }
    }

    /// A connection record.
    pub fn connection(&self, kernel: &mut Kernel, time: u64, what: u8) -> ConnectionRecord {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[127, 0, 0, 1]);
        ConnectionRecord {
            header: kernel.header(kind::CONNECTION, time),
            connection_id: self.id,
            changed_ns: time * 1000,
            local_address: address,
            remote_address: address,
            local_port: self.local,
            remote_port: self.peer,
            family: 2,
            flags: connection_flag::BASES,
            pid: self.pid,
            send_base: self.send_base,
            receive_base: self.receive_base,
            send_end: self.send_base.wrapping_add(self.moved[0]),
            receive_end: self.receive_base.wrapping_add(self.moved[1]),
            role: self.role,
            change: what,
            tcp: self.tcp,
            ..Default::default()
        }
    }

    /// Opened at this time, established 100 us later, accepted at a server 150 us later; but for clients long before
    /// their first request.
    pub fn open(&self, kernel: &mut Kernel, time: u64) {
        let mut record = self.connection(kernel, time, what::OPENED);
        (record.opened_ns, record.established_ns) = (time * 1000, (time + 100) * 1000);
        if self.role == role::SERVER {
            record.accepted_ns = (time + 150) * 1000;
        }
        kernel.emit(&record, &[]);
    }

    /// Found at this time, older than the agent.
    pub fn find(&self, kernel: &mut Kernel, time: u64) {
        let mut record = self.connection(kernel, time, what::OPENED);
        record.flags |= connection_flag::PREEXISTING;
        kernel.emit(&record, &[]);
    }

    /// Closed.
    pub fn close(&self, kernel: &mut Kernel, time: u64) {
        for end in [what::LOCAL_CLOSED, what::CLOSED] {
            let record = self.connection(kernel, time, end);
            kernel.emit(&record, &[]);
        }
    }

    /// The application closes the socket, or both directions; what becomes of the connection is told later.
    pub fn close_whole(&self, kernel: &mut Kernel, time: u64) {
        let mut record = self.connection(kernel, time, what::LOCAL_CLOSED);
        record.flags |= connection_flag::CLOSED_WHOLE;
        kernel.emit(&record, &[]);
    }

    /// The peer's FIN arrives.
    pub fn peer_closes(&self, kernel: &mut Kernel, time: u64) {
        let record = self.connection(kernel, time, what::REMOTE_CLOSED);
        kernel.emit(&record, &[]);
    }

    /// A reset arrived, as the end of the connection tells.
    pub fn reset_by_peer(&self, kernel: &mut Kernel, time: u64) {
        self.reset(kernel, time);
        change(kernel, |record: &mut ConnectionRecord| record.flags |= connection_flag::RESET_RECEIVED);
    }

    /// Reset.
    pub fn reset(&self, kernel: &mut Kernel, time: u64) {
        let mut record = self.connection(kernel, time, what::CLOSED);
        record.flags |= connection_flag::RESET;
        kernel.emit(&record, &[]);
    }

    /// The record of a call that moves `bytes`, and the payload that is captured of it.
    fn call(&mut self, kernel: &mut Kernel, way: u8, times: (u64, u64), bytes: &[u8]) -> (CallRecord, Vec<u8>) {
        let base = if way == direction::SEND { self.send_base } else { self.receive_base };
        let moved = &mut self.moved[usize::from(way == direction::RECEIVE)];
        let start = base.wrapping_add(*moved);
        *moved = moved.wrapping_add(bytes.len() as u32);
        let end = base.wrapping_add(*moved);
        let truncated = bytes.len() > CAPTURED;
        let (payload, tail_len) = match (self.selected, truncated) {
            (false, _) => (Vec::new(), 0),
            (true, false) => (bytes.to_vec(), 0),
            (true, true) => {
                ([&bytes[..CAPTURED - TAIL_BYTES], &bytes[bytes.len() - TAIL_BYTES..]].concat(), TAIL_BYTES)
            }
        };
        let selected = if self.selected { flag::SELECTED } else { 0 };
        let record = CallRecord {
            header: kernel.header(kind::CALL, times.1),
            connection_id: self.id,
            enter_ns: times.0 * 1000,
            run_queue_enter_ns: self.queued * 1000,
            run_queue_exit_ns: self.queued * 1000,
            throttled_enter_ns: self.throttled * 1000,
            throttled_exit_ns: self.throttled * 1000,
            off_cpu_ns: self.slept.map(|us| us * 1000),
            out_of_order: self.tcp.out_of_order,
            slept_in: NEVER_SLEPT,
            start,
            end,
            arrival_end: end,
            result: bytes.len() as i32,
            pid: self.pid,
            tid: self.pid,
            flags: flag::SCHED | selected | if truncated { flag::TRUNCATED } else { 0 },
            payload_len: payload.len() as u16,
            tail_len: tail_len as u16,
            direction: way,
            ..Default::default()
        };
        (record, payload)
    }

    /// A write call.
    pub fn write(&mut self, kernel: &mut Kernel, enter: u64, returned: u64, bytes: &[u8]) {
        let (record, payload) = self.call(kernel, direction::SEND, (enter, returned), bytes);
        kernel.emit(&record, &payload);
    }

    /// A write of bytes that never were in the application's memory.
    pub fn sendfile(&mut self, kernel: &mut Kernel, enter: u64, returned: u64, length: usize) {
        let (mut record, _) = self.call(kernel, direction::SEND, (enter, returned), &vec![0; length]);
        record.flags |= flag::NO_BUFFER;
        (record.payload_len, record.tail_len) = (0, 0);
        kernel.emit(&record, &[]);
    }

    /// A read call.
    pub fn read(&mut self, kernel: &mut Kernel, read: Read, bytes: &[u8]) {
        let queued = read.running.saturating_sub(read.woken);
        let (mut record, payload) = self.call(kernel, direction::RECEIVE, (read.enter, read.returned), bytes);
        (record.arrival_first_ns, record.arrival_last_ns) = (read.arrived.0 * 1000, read.arrived.1 * 1000);
        (record.woken_ns, record.running_ns) = (read.woken * 1000, read.running * 1000);
        record.softirq_ns = read.softirq * 1000;
        let own = if read.enter <= read.woken { Blocked::Socket } else { Blocked::Other };
        record.slept_in = read.slept_in.unwrap_or(own) as u8;
        self.queued += queued;
        record.run_queue_exit_ns = self.queued * 1000;
        if read.enter > read.woken {
            record.run_queue_enter_ns = record.run_queue_exit_ns;
        }
        kernel.emit(&record, &payload);
    }

    /// A read call of a running thread, entered when its bytes had just arrived; it takes 10 us.
    pub fn read_at(&mut self, kernel: &mut Kernel, returned: u64, bytes: &[u8]) {
        let arrived = returned - 10;
        let read = Read {
            enter: arrived,
            arrived: (arrived, arrived),
            woken: arrived - 5,
            running: arrived - 5,
            returned,
            ..Read::default()
        };
        self.read(kernel, read, bytes);
    }

    /// A read call that met the end of the stream.
    pub fn read_end(&mut self, kernel: &mut Kernel, returned: u64) {
        let (mut record, _) = self.call(kernel, direction::RECEIVE, (returned - 1, returned), &[]);
        record.flags |= flag::END_OF_STREAM;
        kernel.emit(&record, &[]);
    }

    /// The last `length` bytes written: entered, transmitted, acknowledged. TCP took the last of them 10 us after the
    /// entry, and they were in the device's queue for 5 us.
    pub fn acked(&mut self, kernel: &mut Kernel, emitted: u64, length: u32, times: [u64; 3], flags: u16) {
        let end = self.send_base.wrapping_add(self.moved[0]);
        let record = SendRecord {
            header: kernel.header(kind::SEND, emitted),
            connection_id: self.id,
            enter_ns: times[0] * 1000,
            locked_ns: times[0] * 1000 + 500,
            locked_last_ns: times[0] * 1000 + 10_000,
            done_ns: times[0] * 1000 + 12_000,
            queued_ns: (times[1] * 1000).saturating_sub(5_000),
            queue_ns: 5_000,
            transmitted_ns: times[1] * 1000,
            acked_ns: times[2] * 1000,
            start: end.wrapping_sub(length),
            end,
            pid: self.pid,
            tid: self.pid,
            tcp: self.tcp,
            flags,
            ..Default::default()
        };
        kernel.emit(&record, &[]);
    }

    /// TCP sends bytes again, `back` bytes before the last that was written.
    pub fn resend(&mut self, kernel: &mut Kernel, time: u64, back: u32, length: u32, reason: u8) {
        let start = self.send_base.wrapping_add(self.moved[0]).wrapping_sub(back);
        self.tcp.total_retrans += 1;
        let header = kernel.header(kind::RETRANSMIT, time);
        let end = start.wrapping_add(length);
        let record =
            RetransmitRecord { header, connection_id: self.id, start, end, segments: 1, reason, ..Default::default() };
        kernel.emit(&record, &[]);
    }

    /// Bytes written by a task whose payload is not wanted: only their send record tells of them.
    pub fn write_unselected(&mut self, kernel: &mut Kernel, times: [u64; 3], length: u32, flags: u16) {
        self.moved[0] = self.moved[0].wrapping_add(length);
        self.acked(kernel, times[2].max(times[0] + 1), length, times, flags);
    }
}

/// Changes the last record that was emitted.
pub fn change<T: Plain>(kernel: &mut Kernel, change: impl FnOnce(&mut T)) {
    let bytes = kernel.records.last_mut().expect("a record was emitted");
    let mut record: T = agent_common::read(bytes).expect("it is of this kind");
    change(&mut record);
    bytes[..size_of::<T>()].copy_from_slice(bytes_of(&record));
}

/// A span's attribute.
pub fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// A span's segments as `name[/by]:microseconds:evidence`, joined; checks that they cover it exactly.
pub fn segments(span: &Span) -> String {
    let mut offset_ns = 0;
    let mut out = Vec::new();
    for segment in &span.segments {
        assert_eq!(segment.offset_ns, offset_ns, "tiles touch: {span:#?}");
        offset_ns += segment.duration_ns;
        let by = segment.by.map_or(String::new(), |by| format!("/{}", by.name()));
        let name = segment.name.name();
        out.push(format!("{name}{by}:{}:{}", segment.duration_ns / 1000, segment.evidence.name()));
    }
    assert_eq!(offset_ns, span.duration_ns, "tiles cover the span: {span:#?}");
    out.join(" ")
}

/// Total time of one segment, microseconds.
pub fn total(span: &Span, name: SegmentName) -> u64 {
    span.segments.iter().filter(|segment| segment.name == name).map(|segment| segment.duration_ns).sum::<u64>() / 1000
}

/// Xorshift: deterministic, and good enough to break things with. The seed is not 0.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Sends the records through as many pipelines as there are rounds, each time with some of them lost, swapped, repeated,
/// cut or damaged. Answers how many spans came out, each with tiles that cover it exactly.
///
/// # Panics
/// The pipeline did, or the tiles do not.
pub fn survive(clean: &Kernel, rounds: usize) -> usize {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut random = |below: usize| random.below(below);
    let mut spans = 0;
    for _ in 0..rounds {
        let mut kernel = clean.clone();
        for _ in 0..=random(6) {
            let (place, other) = (random(kernel.records.len()), random(kernel.records.len()));
            match random(6) {
                0 => drop(kernel.records.remove(place)),
                1 => kernel.records.swap(place, other),
                2 => kernel.records.insert(place, kernel.records[other].clone()),
                3 => {
                    let length = random(kernel.records[place].len());
                    kernel.records[place].truncate(length);
                }
                _ => {
                    let at = random(kernel.records[place].len());
                    if let Some(byte) = kernel.records[place].get_mut(at) {
                        *byte = random(256) as u8;
                    }
                }
            }
        }
        let run = kernel.run();
        run.spans.iter().chain(&run.flushed).for_each(|span| drop(segments(span)));
        spans += run.spans.len() + run.flushed.len();
    }
    spans
}
