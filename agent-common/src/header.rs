//! What every record starts with.

use crate::Plain;

/// Version of all layouts in this crate. The loader refuses an object that was built with another one, and the
/// decoder refuses a record.
pub const LAYOUT_VERSION: u8 = 3;

/// The kinds of records, in [`RecordHeader::kind`].
pub mod kind {
    /// [`crate::connection::ConnectionRecord`]
    pub const CONNECTION: u8 = 1;
    /// [`crate::message::SendRecord`]
    pub const SEND: u8 = 2;
    /// [`crate::message::CallRecord`], followed by its payload
    pub const CALL: u8 = 3;
    /// [`crate::message::ArrivalRecord`]
    pub const ARRIVAL: u8 = 4;
    /// [`crate::process::ProcessRecord`]
    pub const PROCESS: u8 = 5;
    /// [`crate::message::RetransmitRecord`]
    pub const RETRANSMIT: u8 = 6;
    /// [`crate::datagram::DatagramRecord`], followed by its payload
    pub const DATAGRAM: u8 = 7;
    /// [`crate::plaintext::PlaintextRecord`], followed by its payload
    pub const PLAINTEXT: u8 = 8;
}

/// The first 16 bytes of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// When the record was emitted, `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Number of this record among all that this CPU *tried* to emit, wrapping. A jump means that records were lost
    /// between its neighbour's time and this one's.
    pub sequence: u32,
    /// CPU that emitted it.
    pub cpu: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// [`LAYOUT_VERSION`].
    pub version: u8,
}

// SAFETY: repr(C), integers only, 8 + 4 + 2 + 1 + 1 bytes without padding.
unsafe impl Plain for RecordHeader {}
const _: () = assert!(size_of::<RecordHeader>() == 16);
