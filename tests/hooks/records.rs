//! The kernel side's records as they come, for what no span tells.

use agent::kernel::{
    load::{self, Capture, LoadOptions},
    ring::Ring,
    select::{Rules, Selection, Wanted},
};
use agent_common::{
    header::{RecordHeader, kind},
    loss::KernelLoss,
    message::CallRecord,
};

/// Bytes of each call that are captured.
pub const PAYLOAD_BYTES: u32 = 64;

/// The kernel side, loaded by the test itself.
pub struct Records {
    ring: Ring,
    _selection: Selection,
    /// Keeps the programs attached.
    capture: Capture,
}

impl Records {
    /// Loads the kernel side and selects a process and its children, and nothing else.
    pub fn of(pid: u32) -> Self {
        let loaded = load::load(&LoadOptions::default()).expect("load the kernel side");
        for hook in loaded.capture.hooks() {
            assert!(hook.rung.is_some(), "{} is not attached: {}", hook.name, hook.detail);
        }
        let mut selection = loaded.selection;
        let select = Rules { pids: vec![pid], ..Rules::default() };
        let wanted = Wanted {
            select,
            exclude: Rules::default(),
            select_all: false,
            unselected_timing: false,
            payload_bytes_max: PAYLOAD_BYTES,
        };
        selection.replace(&wanted).expect("select the process");
        Self { ring: Ring::new(loaded.records, loaded.wake), _selection: selection, capture: loaded.capture }
    }

    /// Every call record that is there.
    pub fn calls(&mut self) -> Vec<CallRecord> {
        let is_call = |record: &Vec<u8>| {
            let header: Option<RecordHeader> = agent_common::read(record);
            header.is_some_and(|header| header.kind == kind::CALL)
        };
        let records = self.take().into_iter().filter(is_call);
        records.filter_map(|record| agent_common::read::<CallRecord>(&record)).collect()
    }

    /// Every record that is there.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        self.ring.drain(usize::MAX, |record| records.push(record.to_vec()));
        records
    }

    /// Losses of this kind since the kernel side was loaded.
    pub fn lost(&self, reason: KernelLoss) -> u64 {
        let counts = self.capture.losses().into_iter().find(|(known, _)| *known == reason);
        counts.map_or(0, |(_, counts)| counts.iter().sum())
    }
}
