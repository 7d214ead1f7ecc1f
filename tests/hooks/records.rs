//! The kernel side's records, for what no span tells.
//!
//! Each CPU has a ring of its own, and the reader goes through them in turn: what a thread did on two CPUs within one turn does not
//! come in order. The agent's pipeline restores it by the records' times; here [`Records::wait_for`] does.

use std::time::Duration;

use agent::kernel::{
    attach::{AttachOptions, SyscallHooks},
    load::{self, Capture, LoadOptions},
    ring::Ring,
    select::{Rules, Selection, Wanted},
};
use agent_common::{
    Plain,
    connection::ConnectionRecord,
    datagram::DatagramRecord,
    header::{RecordHeader, kind},
    loss::KernelLoss,
    message::{CallRecord, SendRecord},
    process::ProcessRecord,
};
use spantap_tests::clock;

/// Bytes of each call that are captured.
pub const PAYLOAD_BYTES: u32 = 64;

/// Who may tell of calls.
pub const TELLERS: [SyscallHooks; 2] = [SyscallHooks::Sockets, SyscallHooks::Every];

/// The kernel side, loaded by the test itself.
pub struct Records {
    ring: Ring,
    selection: Selection,
    /// Keeps the programs attached.
    capture: Capture,
}

impl Records {
    /// Loads the kernel side and selects a process and its children, and nothing else.
    pub fn of(pid: u32) -> Self {
        Self::told_by(SyscallHooks::default(), pid)
    }

    /// The same by other hooks of calls.
    pub fn told_by(syscalls: SyscallHooks, pid: u32) -> Self {
        Self::selecting(syscalls, process(pid))
    }

    /// Loads the kernel side with these hooks of calls, and selects what these rules name.
    pub fn selecting(syscalls: SyscallHooks, select: Rules) -> Self {
        let attach = AttachOptions { syscalls, ..AttachOptions::default() };
        let options = LoadOptions { attach, ..LoadOptions::default() };
        let loaded = load::load(&options).expect("load the kernel side");
        for hook in loaded.capture.hooks() {
            assert!(hook.rung.is_some(), "{} is not attached: {}", hook.name, hook.detail);
        }
        let by_sockets = loaded.capture.hooks().iter().any(|hook| hook.name == "sock_send_length");
        assert_eq!(by_sockets, syscalls == SyscallHooks::Sockets, "whether sockets tell of calls");
        let ring = Ring::new(loaded.records, loaded.wake);
        let mut records = Self { ring, selection: loaded.selection, capture: loaded.capture };
        records.replace(select, Rules::default());
        records
    }

    /// Selects the process, and excludes what these rules name: exclusion wins.
    pub fn exclude(&mut self, pid: u32, rules: Rules) {
        self.replace(process(pid), rules);
    }

    /// Replaces what is selected and excluded.
    pub fn replace(&mut self, select: Rules, exclude: Rules) {
        self.selection.replace(&wanted(select, exclude)).expect("select");
    }

    /// Waits for records that are `enough`; gives all that came until then, in the order of their times.
    pub fn wait_for(&mut self, what: &str, bound: Duration, enough: impl Fn(&[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        clock::wait_for(what, bound, || {
            self.ring.drain(clock::monotonic_ns(), usize::MAX, |record| taken.push(record.to_vec()));
            enough(&taken).then_some(())
        });
        // Stable: those of one call may have one time, and are of one ring.
        taken.sort_by_key(|record| agent_common::read::<RecordHeader>(record).map(|header| header.time_ns));
        taken
    }

    /// Losses of this kind since the kernel side was loaded.
    pub fn lost(&self, reason: KernelLoss) -> u64 {
        let counts = self.capture.losses().into_iter().find(|(known, _)| *known == reason);
        counts.map_or(0, |(_, counts)| counts.iter().sum())
    }
}

/// Rules for one process.
pub fn process(pid: u32) -> Rules {
    Rules { pids: vec![pid], ..Rules::default() }
}

fn wanted(select: Rules, exclude: Rules) -> Wanted {
    Wanted { select, exclude, select_all: false, unselected_timing: false, payload_bytes_max: PAYLOAD_BYTES }
}

/// The call records among these, in their order.
pub fn calls(records: &[Vec<u8>]) -> impl Iterator<Item = CallRecord> {
    of_kind(records)
}

/// A record of which there is one kind.
pub trait Kind: Plain {
    /// That.
    const KIND: u8;
}

impl Kind for CallRecord {
    const KIND: u8 = kind::CALL;
}

impl Kind for DatagramRecord {
    const KIND: u8 = kind::DATAGRAM;
}

impl Kind for ConnectionRecord {
    const KIND: u8 = kind::CONNECTION;
}

impl Kind for ProcessRecord {
    const KIND: u8 = kind::PROCESS;
}

impl Kind for SendRecord {
    const KIND: u8 = kind::SEND;
}

/// The records of one kind among these, in their order.
pub fn of_kind<T: Kind>(records: &[Vec<u8>]) -> impl Iterator<Item = T> {
    records.iter().filter(|record| is_kind(record, T::KIND)).filter_map(|record| agent_common::read(record))
}

/// Whether a record is of this kind ([`kind`]).
pub fn is_kind(record: &[u8], wanted: u8) -> bool {
    agent_common::read::<RecordHeader>(record).is_some_and(|header| header.kind == wanted)
}
