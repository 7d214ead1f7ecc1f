//! Bytes of one ring-buffer record to an [`Event`].
//!
//! In: bytes that the kernel side emitted; nothing in them is trusted. Out: a decoded event, or the [`Loss`] that its
//! rejection is counted as. Called by [`crate::pipeline`] only.

use agent_common::{
    Plain,
    connection::ConnectionRecord,
    datagram::DatagramRecord,
    header::{LAYOUT_VERSION, RecordHeader, kind},
    message::{ArrivalRecord, CallRecord, RetransmitRecord, SendRecord, direction, flag},
    plaintext::{PlaintextRecord, library},
    process::ProcessRecord,
};

use crate::loss::Loss;

/// A read or write call with the bytes that were captured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The record.
    pub record: CallRecord,
    /// First bytes that moved, then the last `record.tail_len`.
    pub payload: Box<[u8]>,
}

/// A datagram with the bytes that were captured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Datagram {
    /// The record.
    pub record: DatagramRecord,
    /// Its first bytes.
    pub payload: Box<[u8]>,
}

/// A call of a TLS library with the plaintext that was captured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plaintext {
    /// The record.
    pub record: PlaintextRecord,
    /// First bytes that moved, then the last `record.tail_len`.
    pub payload: Box<[u8]>,
}

/// One decoded record.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Something happened to a connection.
    Connection(Box<ConnectionRecord>),
    /// A write's bytes were acknowledged or are no longer watched.
    Send(SendRecord),
    /// A read or write call returned.
    Call(Call),
    /// When bytes of the next read had arrived.
    Arrival(ArrivalRecord),
    /// Process life.
    Process(Box<ProcessRecord>),
    /// Segments were sent again.
    Retransmit(RetransmitRecord),
    /// A datagram was sent or received.
    Datagram(Box<Datagram>),
    /// A call of a TLS library returned.
    Plaintext(Box<Plaintext>),
}

impl Event {
    /// The record's header.
    pub fn header(&self) -> &RecordHeader {
        match self {
            Self::Connection(record) => &record.header,
            Self::Send(record) => &record.header,
            Self::Call(call) => &call.record.header,
            Self::Arrival(record) => &record.header,
            Self::Process(record) => &record.header,
            Self::Retransmit(record) => &record.header,
            Self::Datagram(datagram) => &datagram.record.header,
            Self::Plaintext(plaintext) => &plaintext.record.header,
        }
    }

    /// By which time events are put in order: a write comes before everything that its bytes can cause, so it is
    /// ordered by its beginning; all else by when it was emitted. Plaintext follows the socket call that it left by.
    pub fn order_ns(&self) -> u64 {
        match self {
            Self::Call(call) if call.record.direction == direction::SEND && call.record.enter_ns != 0 => {
                call.record.enter_ns
            }
            Self::Datagram(datagram)
                if datagram.record.direction == direction::SEND && datagram.record.enter_ns != 0 =>
            {
                datagram.record.enter_ns
            }
            Self::Plaintext(plaintext) if plaintext.record.direction == direction::SEND => {
                let PlaintextRecord { socket_ns, enter_ns, .. } = plaintext.record;
                if socket_ns != 0 { socket_ns } else { enter_ns }
            }
            _ => self.header().time_ns,
        }
    }
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<Event, Loss> {
    let header: RecordHeader = read(bytes)?;
    if header.version != LAYOUT_VERSION {
        return Err(Loss::RecordVersion);
    }
    match header.kind {
        kind::CONNECTION => connection(bytes),
        kind::SEND => Ok(Event::Send(checked(read(bytes)?, |record: &SendRecord| range_ok(record.start, record.end))?)),
        kind::CALL => call(bytes),
        kind::ARRIVAL => {
            Ok(Event::Arrival(checked(read(bytes)?, |record: &ArrivalRecord| range_ok(record.start, record.end))?))
        }
        kind::PROCESS => Ok(Event::Process(Box::new(read(bytes)?))),
        kind::RETRANSMIT => Ok(Event::Retransmit(checked(read(bytes)?, |record: &RetransmitRecord| {
            range_ok(record.start, record.end)
        })?)),
        kind::DATAGRAM => datagram(bytes),
        kind::PLAINTEXT => plaintext(bytes),
        _ => Err(Loss::RecordKindUnknown),
    }
}

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

fn datagram(bytes: &[u8]) -> Result<Event, Loss> {
    let record: DatagramRecord = read(bytes)?;
    let payload = bytes.get(size_of::<DatagramRecord>()..).and_then(|rest| rest.get(..usize::from(record.payload_len)));
    let payload = payload.ok_or(Loss::RecordMalformed)?;
    let sane = matches!(record.family, AF_INET | AF_INET6)
        && record.direction <= direction::SEND
        && payload.len() <= record.length as usize;
    if !sane {
        return Err(Loss::RecordMalformed);
    }
    Ok(Event::Datagram(Box::new(Datagram { record, payload: payload.into() })))
}

fn plaintext(bytes: &[u8]) -> Result<Event, Loss> {
    let record: PlaintextRecord = read(bytes)?;
    let payload_len = usize::from(record.payload_len);
    let tail_len = usize::from(record.tail_len);
    let captured = bytes.get(size_of::<PlaintextRecord>()..).and_then(|rest| {
        let tail_at = if tail_len == 0 { 0 } else { usize::from(record.tail_at) };
        Some([rest.get(..payload_len.checked_sub(tail_len)?)?, rest.get(tail_at..tail_at + tail_len)?].concat())
    });
    let payload = captured.ok_or(Loss::RecordMalformed)?;
    let sane = range_ok(record.start, record.end)
        && range_ok(record.tcp_start, record.tcp_end)
        && record.direction <= direction::SEND
        && record.library <= library::GO
        && payload_len <= record.end.wrapping_sub(record.start) as usize;
    if !sane {
        return Err(Loss::RecordMalformed);
    }
    Ok(Event::Plaintext(Box::new(Plaintext { record, payload: payload.into() })))
}

fn connection(bytes: &[u8]) -> Result<Event, Loss> {
    let record: ConnectionRecord = read(bytes)?;
    let known = matches!(record.family, AF_UNIX | AF_INET | AF_INET6);
    if !known || record.path_len as usize > size_of_val(&record.path) {
        return Err(Loss::RecordMalformed);
    }
    Ok(Event::Connection(Box::new(record)))
}

fn call(bytes: &[u8]) -> Result<Event, Loss> {
    let record: CallRecord = read(bytes)?;
    let length = record.end.wrapping_sub(record.start) as usize;
    let payload_len = usize::from(record.payload_len);
    let payload = bytes.get(size_of::<CallRecord>()..).and_then(|rest| rest.get(..payload_len));
    let payload = payload.ok_or(Loss::RecordMalformed)?;
    let sane = range_ok(record.start, record.end)
        && record.direction <= direction::SEND
        && record.tail_len <= record.payload_len
        && payload_len <= length;
    if !sane {
        return Err(Loss::RecordMalformed);
    }
    if record.flags & flag::INTERLEAVED != 0 {
        // Another writer's bytes lie between those that were captured: which is where is not known.
        let record = CallRecord { payload_len: 0, tail_len: 0, ..record };
        return Ok(Event::Call(Call { record, payload: Box::default() }));
    }
    Ok(Event::Call(Call { record, payload: payload.into() }))
}

/// A range of at least 2 GiB cannot come from one call: its ends are not what they should be.
fn range_ok(start: u32, end: u32) -> bool {
    end.wrapping_sub(start) < 1 << 31
}

fn read<T: Plain>(bytes: &[u8]) -> Result<T, Loss> {
    agent_common::read(bytes).ok_or(Loss::RecordMalformed)
}

fn checked<T>(record: T, sane: impl Fn(&T) -> bool) -> Result<T, Loss> {
    if sane(&record) { Ok(record) } else { Err(Loss::RecordMalformed) }
}

#[cfg(test)]
mod tests {
    use agent_common::bytes_of;

    use super::*;

    fn call_record(payload_len: u16, tail_len: u16, end: u32) -> CallRecord {
        let header = RecordHeader { kind: kind::CALL, version: LAYOUT_VERSION, time_ns: 9, ..Default::default() };
        CallRecord { header, payload_len, tail_len, start: 0, end, ..Default::default() }
    }

    fn check(record: CallRecord, payload: &[u8], expected: Result<usize, Loss>) {
        let bytes = [bytes_of(&record), payload].concat();
        let decoded = decode(&bytes).map(|event| match event {
            Event::Call(call) => call.payload.len(),
            other => panic!("not a call: {other:?}"),
        });
        assert_eq!(decoded, expected);
    }

    #[test]
    fn payload_must_be_there_and_fit_the_range() {
        check(call_record(3, 0, 3), b"abc", Ok(3));
        check(call_record(3, 0, 3), b"abc-more-room-in-the-slot", Ok(3));
        check(call_record(4, 0, 4), b"abc", Err(Loss::RecordMalformed));
        check(call_record(3, 0, 2), b"abc", Err(Loss::RecordMalformed));
        check(call_record(3, 4, 9), b"abc", Err(Loss::RecordMalformed));
        check(CallRecord { direction: 2, ..call_record(0, 0, 0) }, b"", Err(Loss::RecordMalformed));
        check(CallRecord { start: 5, ..call_record(0, 0, 4) }, b"", Err(Loss::RecordMalformed));
    }

    #[test]
    fn plaintext_is_put_together_from_both_its_parts() {
        let header = RecordHeader { kind: kind::PLAINTEXT, version: LAYOUT_VERSION, time_ns: 9, ..Default::default() };
        let record =
            PlaintextRecord { header, end: 100, payload_len: 5, tail_len: 2, tail_at: 8, ..Default::default() };
        let check = |record: PlaintextRecord, payload: &[u8], expected: Result<&[u8], Loss>| {
            let decoded = decode(&[bytes_of(&record), payload].concat()).map(|event| match event {
                Event::Plaintext(plaintext) => plaintext.payload,
                other => panic!("not plaintext: {other:?}"),
            });
            assert_eq!(decoded, expected.map(Into::into), "{record:?}");
        };
        check(record, b"abc-----XY", Ok(b"abcXY"));
        check(record, b"abc-----X", Err(Loss::RecordMalformed));
        check(PlaintextRecord { tail_at: u16::MAX, ..record }, b"abc-----XY", Err(Loss::RecordMalformed));
        check(PlaintextRecord { tail_len: 6, ..record }, b"abc-----XY", Err(Loss::RecordMalformed));
        check(PlaintextRecord { end: 4, ..record }, b"abc-----XY", Err(Loss::RecordMalformed));
        check(PlaintextRecord { tail_len: 0, ..record }, b"abcde", Ok(b"abcde"));
        check(PlaintextRecord { direction: 2, ..record }, b"abc-----XY", Err(Loss::RecordMalformed));
    }

    #[test]
    fn interleaved_bytes_are_not_taken_for_the_range() {
        let record = CallRecord { flags: flag::INTERLEAVED, result: 9, ..call_record(3, 2, 9) };
        check(record, b"abc", Ok(0));
    }

    #[test]
    fn every_truncation_of_every_kind_is_malformed() {
        let full = [bytes_of(&call_record(3, 0, 3)), b"abc"].concat();
        for length in 0..full.len() {
            assert_eq!(decode(&full[..length]), Err(Loss::RecordMalformed), "length {length}");
        }
    }

    #[test]
    fn other_versions_and_kinds_are_told_apart() {
        let mut bytes = bytes_of(&call_record(0, 0, 0)).to_vec();
        bytes[14] = 99;
        assert_eq!(decode(&bytes), Err(Loss::RecordKindUnknown));
        bytes[15] = LAYOUT_VERSION + 1;
        assert_eq!(decode(&bytes), Err(Loss::RecordVersion));
    }
}
