//! Why the kernel side has less to tell than happened: one counter per reason and CPU.

/// Index into the per-CPU loss counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelLoss {
    /// The ring buffer had no room for a record.
    RingFull = 0,
    /// No room in the table of connections.
    ConnectionTableFull = 1,
    /// No room in the table of tasks.
    TaskTableFull = 2,
    /// A payload was longer than the limit.
    PayloadTruncated = 3,
    /// Application memory could not be read.
    PayloadUnreadable = 4,
    /// A write's slot was reused before its acknowledgement was seen.
    SendSlotEvicted = 5,
    /// Arrivals shared one slot.
    ArrivalMerged = 6,
    /// Two writers interleaved within their calls.
    WriteInterleaved = 7,
    /// A kernel structure could not be read or made no sense.
    KernelReadFailed = 8,
    /// A state entry belonged to another socket at the same address.
    Collision = 9,
    /// A payload had more buffers than are walked.
    TooManyBuffers = 10,
    /// No room in the table of selected processes for a child.
    SelectionTableFull = 11,
    /// Bytes of a traced connection moved outside a system call (io_uring, readers in the kernel): their calls' times and
    /// payload are not known.
    ReadOutsideCall = 12,
    /// A connection was left out by sampling, because the budget was exceeded.
    ConnectionSampledOut = 13,
    /// Payload was left out, because the budget was exceeded.
    PayloadShed = 14,
    /// No room in the table of datagram sockets.
    DatagramTableFull = 15,
    /// One call moved more datagrams than are told.
    DatagramOmitted = 16,
    /// A call of a TLS library moved plaintext of a connection that is not known.
    TlsConnectionUnknown = 17,
    /// No room in the table of TLS sessions, or of calls of goroutines.
    TlsTableFull = 18,
}

/// Number of reasons.
pub const KERNEL_LOSSES: u32 = 19;

impl KernelLoss {
    /// Every reason, in index order.
    pub const ALL: [Self; KERNEL_LOSSES as usize] = [
        Self::RingFull,
        Self::ConnectionTableFull,
        Self::TaskTableFull,
        Self::PayloadTruncated,
        Self::PayloadUnreadable,
        Self::SendSlotEvicted,
        Self::ArrivalMerged,
        Self::WriteInterleaved,
        Self::KernelReadFailed,
        Self::Collision,
        Self::TooManyBuffers,
        Self::SelectionTableFull,
        Self::ReadOutsideCall,
        Self::ConnectionSampledOut,
        Self::PayloadShed,
        Self::DatagramTableFull,
        Self::DatagramOmitted,
        Self::TlsConnectionUnknown,
        Self::TlsTableFull,
    ];

    /// Stable name for output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::ConnectionTableFull => "connection_table_full",
            Self::TaskTableFull => "task_table_full",
            Self::PayloadTruncated => "payload_truncated",
            Self::PayloadUnreadable => "payload_unreadable",
            Self::SendSlotEvicted => "send_slot_evicted",
            Self::ArrivalMerged => "arrival_merged",
            Self::WriteInterleaved => "write_interleaved",
            Self::KernelReadFailed => "kernel_read_failed",
            Self::Collision => "collision",
            Self::TooManyBuffers => "too_many_buffers",
            Self::SelectionTableFull => "selection_table_full",
            Self::ReadOutsideCall => "read_outside_call",
            Self::ConnectionSampledOut => "connection_sampled_out",
            Self::PayloadShed => "payload_shed",
            Self::DatagramTableFull => "datagram_table_full",
            Self::DatagramOmitted => "datagram_omitted",
            Self::TlsConnectionUnknown => "tls_connection_unknown",
            Self::TlsTableFull => "tls_table_full",
        }
    }
}
