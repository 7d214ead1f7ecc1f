//! One datagram: where it went, and when.

use std::net::SocketAddr;

use agent_common::{
    connection::{ConnectionRecord, role},
    datagram::{DatagramRecord, flag},
    message::direction,
};

use crate::{
    endpoint::Endpoint,
    flow::{
        connection::{Facts, Role},
        timing::{CallTiming, Moment, Totals},
    },
};

/// The timing part of a record, and its addresses.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Socket.
    pub socket: u64,
    /// This end; the address is unspecified if the socket is bound to any.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The call that sent or received it.
    pub call: CallTiming,
    /// Received: when it had arrived.
    pub arrived: Option<Moment>,
    /// Length of the datagram.
    pub length: u32,
    /// For [`Packet::facts`].
    record: DatagramRecord,
}

impl Packet {
    /// `None` if the other end is not known, or is many.
    pub fn new(record: &DatagramRecord) -> Option<Self> {
        let packet = Self::of(record)?;
        let broadcast = SocketAddr::from(([255; 4], 0)).ip() == packet.remote.ip();
        if record.flags & flag::NO_REMOTE != 0 || packet.remote.ip().is_multicast() || broadcast {
            return None;
        }
        Some(packet)
    }

    /// One that was received from nobody knows whom: the application did not ask, and the socket is not connected. The
    /// other end is unspecified.
    pub fn of_unknown_sender(record: &DatagramRecord) -> Option<Self> {
        if record.flags & flag::NO_REMOTE == 0 || record.direction != direction::RECEIVE || record.result < 0 {
            return None;
        }
        Self::of(record)
    }

    fn of(record: &DatagramRecord) -> Option<Self> {
        let end = |address, port| Endpoint::new(record.family, address, port).inet();
        let local = end(&record.local_address, record.local_port)?;
        let remote = end(&record.remote_address, record.remote_port)?;
        let call = CallTiming {
            enter_ns: record.enter_ns,
            return_ns: record.header.time_ns,
            woken_ns: record.woken_ns,
            running_ns: record.running_ns,
            totals: Totals {
                run_queue_ns: [record.run_queue_enter_ns, record.run_queue_exit_ns],
                off_cpu_ns: record.off_cpu_ns,
                off_cpu_inside_ns: record.off_cpu_inside_ns,
                ..Totals::default()
            },
            transmitted_ns: record.transmitted_ns,
            pid: record.pid,
            tid: record.tid,
            slept_in: record.slept_in,
            sched: record.flags & flag::SCHED != 0,
            outside: record.enter_ns == 0,
            ..CallTiming::default()
        };
        let exact = record.flags & flag::MERGED == 0;
        let arrived = (record.arrival_ns != 0).then_some(Moment { ns: record.arrival_ns, exact });
        Some(Self { socket: record.socket_id, local, remote, call, arrived, length: record.length, record: *record })
    }

    /// When the call began, or, if that was not seen, returned.
    pub fn begin_ns(&self) -> u64 {
        if self.call.enter_ns != 0 { self.call.enter_ns } else { self.call.return_ns }
    }

    /// Sent: when it had left, as near as that was seen.
    pub fn left_ns(&self) -> u64 {
        if self.call.transmitted_ns != 0 { self.call.transmitted_ns } else { self.call.return_ns }
    }

    /// The socket and the other end as a connection.
    pub fn facts(&self, role: Role) -> Facts {
        let record = &self.record;
        Facts::new(&ConnectionRecord {
            connection_id: record.socket_id,
            local_address: record.local_address,
            remote_address: record.remote_address,
            local_port: record.local_port,
            remote_port: record.remote_port,
            family: record.family,
            netns: record.netns,
            pid: record.pid,
            role: if role == Role::Client { role::CLIENT } else { role::SERVER },
            ..ConnectionRecord::default()
        })
    }
}
