//! The kernel side's records as they come, for what no span tells.

use agent::kernel::{
    load::{self, Capture, LoadOptions},
    ring::Ring,
    select::{Rules, Selection, Wanted},
};
use agent_common::{
    header::{RecordHeader, kind},
    message::CallRecord,
};

/// The kernel side, loaded by the test itself.
pub struct Records {
    ring: Ring,
    _selection: Selection,
    /// Keeps the programs attached.
    _capture: Capture,
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
            payload_bytes_max: 64,
        };
        selection.replace(&wanted).expect("select the process");
        Self { ring: Ring::new(loaded.records, loaded.wake), _selection: selection, _capture: loaded.capture }
    }

    /// Every call record that is there.
    pub fn calls(&mut self) -> Vec<CallRecord> {
        let mut calls = Vec::new();
        self.ring.drain(usize::MAX, |record| {
            let header: Option<RecordHeader> = agent_common::read(record);
            if header.is_some_and(|header| header.kind == kind::CALL) {
                calls.extend(agent_common::read::<CallRecord>(record));
            }
        });
        calls
    }
}
