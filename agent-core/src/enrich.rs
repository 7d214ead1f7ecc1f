//! What is known of processes, and what still has to be asked.
//!
//! In: process records and facts that `agent` read from `/proc`. Out: the facts of a pid, and the pids whose facts are
//! wanted. Called by [`crate::pipeline`]. Never: reads anything itself. Limits: a number of processes; those that were
//! not used for longest are forgotten, and counted unless they had ended.

use std::{collections::HashMap, sync::Arc};

use agent_common::process::{ProcessRecord, change};

use crate::{
    loss::{Loss, Losses},
    span::ProcessFacts,
};

#[derive(Debug)]
struct Entry {
    facts: Arc<ProcessFacts>,
    /// Whether its facts were asked for since its last exec.
    asked: bool,
    /// Whether they came.
    read: bool,
    exited: bool,
    used: u64,
}

/// Facts by process id.
#[derive(Debug)]
pub struct Processes {
    known: HashMap<u32, Entry>,
    wanted: Vec<u32>,
    max: usize,
    /// Counts uses, to find the least recent one.
    uses: u64,
}

impl Processes {
    /// Keeps facts of at most `max` processes.
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), wanted: Vec::new(), max: max.max(1), uses: 0 }
    }

    /// A process was seen to use the network.
    pub fn see(&mut self, pid: u32, losses: &mut Losses) {
        if pid == 0 {
            return;
        }
        let entry = self.entry(pid, losses);
        if !entry.asked {
            entry.asked = true;
            self.wanted.push(pid);
        }
    }

    /// Takes note of process life.
    pub fn record(&mut self, record: &ProcessRecord, losses: &mut Losses) {
        match record.change {
            change::EXEC => self.exec(record, losses),
            change::FORK => self.fork(record, losses),
            change::EXIT => {
                if let Some(entry) = self.known.get_mut(&record.pid) {
                    entry.exited = true;
                }
            }
            _ => losses.add(Loss::RecordMalformed, 1),
        }
    }

    /// Until `/proc` is read, an exec's own record says which program it is.
    fn exec(&mut self, record: &ProcessRecord, losses: &mut Losses) {
        let path = text(&record.filename);
        let cut = !record.filename.contains(&0);
        let name = match path.rsplit('/').next() {
            Some(name) if !name.is_empty() && !cut => name.to_owned(),
            _ => text(&record.comm),
        };
        let facts = ProcessFacts {
            pid: record.pid,
            service_name: Some(name.clone()).filter(|name| !name.is_empty()),
            executable_name: Some(name).filter(|name| !name.is_empty()),
            executable_path: Some(path).filter(|path| path.starts_with('/') && !cut),
            ..ProcessFacts::default()
        };
        let entry = self.entry(record.pid, losses);
        let was_asked = std::mem::take(&mut entry.asked);
        (entry.facts, entry.read, entry.exited) = (Arc::new(facts), false, false);
        if was_asked {
            self.see(record.pid, losses);
        }
    }

    /// A child starts as its parent.
    fn fork(&mut self, record: &ProcessRecord, losses: &mut Losses) {
        let parent = self.known.get(&record.parent_pid).map(|parent| Arc::clone(&parent.facts));
        let facts = parent.map(|facts| ProcessFacts { pid: record.pid, ..(*facts).clone() });
        // A pid that is used again is another process.
        self.known.remove(&record.pid);
        if let Some(facts) = facts {
            self.entry(record.pid, losses).facts = Arc::new(facts);
        }
    }

    /// Takes what was read of a process. What could not be read does not undo what was known.
    pub fn facts(&mut self, facts: ProcessFacts, losses: &mut Losses) {
        let entry = self.entry(facts.pid, losses);
        let old = &entry.facts;
        let merged = ProcessFacts {
            executable_name: facts.executable_name.or_else(|| old.executable_name.clone()),
            executable_path: facts.executable_path.or_else(|| old.executable_path.clone()),
            service_name: facts.service_name.or_else(|| old.service_name.clone()),
            ..facts
        };
        entry.facts = Arc::new(merged);
        (entry.asked, entry.read) = (true, true);
    }

    /// Whether facts of this process were asked for and may still come.
    pub fn is_awaited(&self, pid: u32) -> bool {
        self.known.get(&pid).is_some_and(|entry| entry.asked && !entry.read)
    }

    /// What is known of a process now; at least its pid.
    pub fn get(&self, pid: u32) -> Arc<ProcessFacts> {
        let unknown = || Arc::new(ProcessFacts { pid, ..ProcessFacts::default() });
        self.known.get(&pid).map_or_else(unknown, |entry| Arc::clone(&entry.facts))
    }

    /// Pids to ask for; each is told once.
    pub fn take_wanted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.wanted)
    }

    fn entry(&mut self, pid: u32, losses: &mut Losses) -> &mut Entry {
        if self.known.len() >= self.max && !self.known.contains_key(&pid) {
            self.evict(losses);
        }
        self.uses += 1;
        let used = self.uses;
        let entry = self.known.entry(pid).or_insert_with(|| Entry {
            facts: Arc::new(ProcessFacts { pid, ..ProcessFacts::default() }),
            asked: false,
            read: false,
            exited: false,
            used,
        });
        entry.used = used;
        entry
    }

    /// Forgets the least recently used sixteenth, so that the search is paid rarely; ended processes count as oldest.
    fn evict(&mut self, losses: &mut Losses) {
        let mut ages: Vec<_> = self.known.iter().map(|(pid, entry)| ((!entry.exited, entry.used), *pid)).collect();
        let count = (self.max / 16).clamp(1, ages.len());
        ages.select_nth_unstable(count - 1);
        for ((alive, _), pid) in ages.drain(..count) {
            self.known.remove(&pid);
            losses.add(Loss::ProcessEvicted, u64::from(alive));
        }
        self.wanted.retain(|pid| self.known.contains_key(pid));
    }
}

fn text(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use agent_common::header::RecordHeader;

    use super::*;

    fn record(pid: u32, parent_pid: u32, change: u8, path: &str) -> ProcessRecord {
        let mut filename = [0; 120];
        filename[..path.len()].copy_from_slice(path.as_bytes());
        let header = RecordHeader::default();
        ProcessRecord {
            header,
            cgroup_id: 0,
            pid,
            parent_pid,
            comm: *b"comm\0\0\0\0\0\0\0\0\0\0\0\0",
            filename,
            change,
            padding: [0; 7],
        }
    }

    fn setup() -> (Processes, Losses) {
        (Processes::new(16), Losses::default())
    }

    #[test]
    fn facts_are_wanted_once_and_again_after_exec() {
        let (mut processes, mut losses) = setup();
        processes.see(7, &mut losses);
        processes.see(7, &mut losses);
        assert_eq!(processes.take_wanted(), [7]);
        processes.record(&record(7, 1, change::EXEC, "/bin/curl"), &mut losses);
        processes.record(&record(8, 1, change::EXEC, "/bin/ls"), &mut losses);
        assert_eq!(processes.take_wanted(), [7], "8 never used the network");
    }

    #[test]
    fn a_process_that_is_gone_before_it_is_read_keeps_what_its_exec_said() {
        let (mut processes, mut losses) = setup();
        processes.record(&record(7, 1, change::EXEC, "/usr/bin/curl"), &mut losses);
        processes.facts(ProcessFacts { pid: 7, ..Default::default() }, &mut losses);
        processes.record(&record(7, 1, change::EXIT, ""), &mut losses);
        let facts = processes.get(7);
        assert_eq!(facts.executable_name.as_deref(), Some("curl"));
        assert_eq!(facts.executable_path.as_deref(), Some("/usr/bin/curl"));
    }

    #[test]
    fn a_child_starts_as_its_parent_under_its_own_pid() {
        let (mut processes, mut losses) = setup();
        processes.facts(ProcessFacts { pid: 7, service_name: Some("shop".into()), ..Default::default() }, &mut losses);
        processes.record(&record(8, 7, change::FORK, ""), &mut losses);
        assert_eq!((processes.get(8).pid, processes.get(8).service_name.as_deref()), (8, Some("shop")));
    }

    #[test]
    fn the_table_is_bounded_and_ended_processes_go_first() {
        let (mut processes, mut losses) = setup();
        (1..=16).for_each(|pid| processes.see(pid, &mut losses));
        processes.record(&record(16, 1, change::EXIT, ""), &mut losses);
        processes.see(17, &mut losses);
        assert!(losses.is_empty());
        processes.see(18, &mut losses);
        assert_eq!(losses.get(Loss::ProcessEvicted), 1);
        assert_eq!(processes.known.len(), 16);
    }
}
