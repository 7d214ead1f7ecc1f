//! What is known of processes, and what still has to be asked.
//!
//! In: process records and facts that `agent` read from `/proc`. Out: the facts of a pid, and the pids whose facts are
//! wanted. Called by [`crate::pipeline`]. Never: reads anything itself. Limits: a number of processes; those that were
//! not used for longest are forgotten, and counted unless they had ended.
//!
//! A process that ended before it was read, and executed nothing, is what its parent is: servers that fork for each connection have such
//! children. It is the parent's child, and not one whose parent ended before it, if both have the same command.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use agent_common::process::{ProcessRecord, change};
use foldhash::fast::RandomState;

use crate::{
    loss::{Loss, Losses},
    span::ProcessFacts,
};

/// Processes that wait for their parent's facts.
const HEIRS_MAX: usize = 1_024;

#[derive(Debug)]
struct Entry {
    facts: Arc<ProcessFacts>,
    /// Whether its facts were asked for since its last exec.
    asked: bool,
    /// Whether they came.
    read: bool,
    /// When it was executed; 0 if that was not seen.
    since_ns: u64,
    exited_ns: Option<u64>,
    used: u64,
    /// When it first used the network, as far as is known.
    seen_ns: u64,
    /// It had ended when it was to be read.
    gone: bool,
    /// Whose child it was when it ended, and under which command.
    parent: Option<(u32, String)>,
}

impl Entry {
    fn new(pid: u32, used: u64) -> Self {
        Self {
            facts: Arc::new(ProcessFacts { pid, ..ProcessFacts::default() }),
            asked: false,
            read: false,
            since_ns: 0,
            exited_ns: None,
            used,
            seen_ns: 0,
            gone: false,
            parent: None,
        }
    }
}

/// Facts by process id.
#[derive(Debug)]
pub struct Processes {
    known: HashMap<u32, Entry, RandomState>,
    wanted: Vec<u32>,
    /// Processes that wait for their parent's facts, by that.
    heirs: HashMap<u32, BTreeSet<u32>, RandomState>,
    max: usize,
    /// Counts uses, to find the least recent one.
    uses: u64,
}

impl Processes {
    /// Keeps facts of at most `max` processes.
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::default(), wanted: Vec::new(), heirs: HashMap::default(), max: max.max(1), uses: 0 }
    }

    /// A process was seen to use the network at `at_ns`; 0 if it is not known when.
    pub fn see(&mut self, pid: u32, at_ns: u64, losses: &mut Losses) {
        if pid == 0 {
            return;
        }
        let entry = self.entry(pid, losses);
        if entry.exited_ns.is_some_and(|exited_ns| at_ns > exited_ns) {
            // The pid is used again: another process.
            *entry = Entry::new(pid, entry.used);
        }
        if entry.seen_ns == 0 {
            entry.seen_ns = at_ns;
        }
        if !entry.asked {
            entry.asked = true;
            self.wanted.push(pid);
        }
    }

    /// Takes note of process life.
    pub fn record(&mut self, record: &ProcessRecord, losses: &mut Losses) {
        match record.change {
            change::EXEC => self.exec(record, losses),
            change::EXIT => {
                let at_ns = record.header.time_ns;
                // The end of the process before may be told late.
                if let Some(entry) = self.known.get_mut(&record.pid).filter(|entry| entry.since_ns <= at_ns) {
                    entry.exited_ns = Some(at_ns);
                    entry.parent = Some((record.parent_pid, text(&record.comm)));
                    self.inherit(record.pid, losses);
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
        (entry.facts, entry.read, entry.exited_ns) = (Arc::new(facts), false, None);
        (entry.gone, entry.parent) = (false, None);
        entry.since_ns = record.header.time_ns;
        if was_asked {
            self.see(record.pid, 0, losses);
        }
    }

    /// Takes what was read of a process. What could not be read does not undo what was known.
    pub fn facts(&mut self, facts: ProcessFacts, losses: &mut Losses) {
        let pid = facts.pid;
        let entry = self.entry(pid, losses);
        // Of what it executed its record has told already.
        let is_empty = facts == ProcessFacts { pid, ..ProcessFacts::default() };
        entry.gone = is_empty && entry.since_ns == 0;
        let old = &entry.facts;
        let merged = ProcessFacts {
            executable_name: facts.executable_name.or_else(|| old.executable_name.clone()),
            executable_path: facts.executable_path.or_else(|| old.executable_path.clone()),
            service_name: facts.service_name.or_else(|| old.service_name.clone()),
            container: facts.container.or_else(|| old.container.clone()),
            ..facts
        };
        entry.facts = Arc::new(merged);
        (entry.asked, entry.read) = (true, true);
        self.inherit(pid, losses);
        for child in self.heirs.remove(&pid).unwrap_or_default() {
            self.inherit(child, losses);
        }
    }

    /// Takes the parent's facts for a process that cannot be read, as soon as it is known whose child it was.
    fn inherit(&mut self, pid: u32, losses: &mut Losses) {
        let Some(entry) = self.known.get(&pid).filter(|entry| entry.gone) else { return };
        let Some((parent, command)) = entry.parent.clone() else { return };
        let seen_ns = entry.seen_ns;
        if self.known.get(&parent).is_none_or(|entry| !entry.read) {
            if parent == 0 {
                return;
            }
            if self.heirs.values().map(BTreeSet::len).sum::<usize>() >= HEIRS_MAX {
                losses.add(Loss::ProcessEvicted, 1);
                return;
            }
            self.heirs.entry(parent).or_default().insert(pid);
            self.see(parent, 0, losses);
            return;
        }
        let Some(parent) = self.known.get(&parent) else { return };
        let is_same = parent.facts.command.as_ref() == Some(&command) && parent.since_ns <= seen_ns;
        let facts = ProcessFacts { pid, inherited: true, ..(*parent.facts).clone() };
        if let Some(entry) = self.known.get_mut(&pid) {
            entry.gone = false;
            if is_same {
                entry.facts = Arc::new(facts);
            }
        }
    }

    /// Whether facts of this process were asked for and may still come.
    pub fn is_awaited(&self, pid: u32) -> bool {
        self.known.get(&pid).is_some_and(|entry| entry.asked && (!entry.read || entry.gone))
    }

    /// Whether they are still to be read.
    pub fn is_unread(&self, pid: u32) -> bool {
        self.known.get(&pid).is_some_and(|entry| entry.asked && !entry.read)
    }

    /// What is known of a process now; at least its pid.
    pub fn get(&self, pid: u32) -> Arc<ProcessFacts> {
        let unknown = || Arc::new(ProcessFacts { pid, ..ProcessFacts::default() });
        self.known.get(&pid).map_or_else(unknown, |entry| Arc::clone(&entry.facts))
    }

    /// The service of a process, if it is known now.
    pub fn service(&self, pid: u32) -> Option<&str> {
        self.known.get(&pid)?.facts.service_name.as_deref()
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
        let entry = self.known.entry(pid).or_insert_with(|| Entry::new(pid, used));
        entry.used = used;
        entry
    }

    /// Forgets the least recently used sixteenth, so that the search is paid rarely; ended processes count as oldest.
    fn evict(&mut self, losses: &mut Losses) {
        let mut ages: Vec<_> =
            self.known.iter().map(|(pid, entry)| ((entry.exited_ns.is_none(), entry.used), *pid)).collect();
        let count = (self.max / 16).clamp(1, ages.len());
        ages.select_nth_unstable(count - 1);
        for ((alive, _), pid) in ages.drain(..count) {
            self.known.remove(&pid);
            losses.add(Loss::ProcessEvicted, u64::from(alive));
        }
        self.wanted.retain(|pid| self.known.contains_key(pid));
        self.heirs.retain(|pid, children| {
            children.retain(|child| self.known.contains_key(child));
            self.known.contains_key(pid) && !children.is_empty()
        });
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
        processes.see(7, 1, &mut losses);
        processes.see(7, 2, &mut losses);
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

    fn at(time_ns: u64, mut record: ProcessRecord) -> ProcessRecord {
        record.header.time_ns = time_ns;
        record
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let (mut processes, mut losses) = setup();
        processes.see(7, 10, &mut losses);
        processes.facts(ProcessFacts { pid: 7, service_name: Some("shop".into()), ..Default::default() }, &mut losses);
        assert_eq!(processes.take_wanted(), [7]);
        processes.record(&at(20, record(7, 1, change::EXIT, "")), &mut losses);
        processes.see(7, 19, &mut losses);
        processes.see(7, 0, &mut losses);
        assert_eq!(processes.get(7).service_name.as_deref(), Some("shop"), "told late, but done before the end");
        processes.see(7, 21, &mut losses);
        assert_eq!((processes.get(7).pid, processes.get(7).service_name.as_deref()), (7, None));
        assert!(processes.is_awaited(7));
        assert_eq!(processes.take_wanted(), [7]);
    }

    #[test]
    fn the_end_of_the_process_before_does_not_end_the_next() {
        let (mut processes, mut losses) = setup();
        processes.record(&at(30, record(7, 1, change::EXEC, "/bin/curl")), &mut losses);
        processes.record(&at(20, record(7, 1, change::EXIT, "")), &mut losses);
        processes.see(7, 31, &mut losses);
        assert_eq!(processes.get(7).executable_name.as_deref(), Some("curl"));
    }

    fn exit(pid: u32, parent_pid: u32, command: &[u8]) -> ProcessRecord {
        let mut comm = [0; 16];
        comm[..command.len()].copy_from_slice(command);
        at(30, ProcessRecord { comm, ..record(pid, parent_pid, change::EXIT, "") })
    }

    fn httpd(pid: u32) -> ProcessFacts {
        let command = Some("httpd".to_owned());
        ProcessFacts {
            pid,
            command,
            executable_path: Some("/bin/busybox".into()),
            service_name: Some("web".into()),
            ..Default::default()
        }
    }

    fn gone(pid: u32) -> ProcessFacts {
        ProcessFacts { pid, ..ProcessFacts::default() }
    }

    #[test]
    fn a_child_that_is_gone_is_what_its_parent_is_whatever_comes_first() {
        type Told = fn(&mut Processes, &mut Losses);
        let read: Told = |processes, losses| processes.facts(gone(8), losses);
        let ended: Told = |processes, losses| processes.record(&exit(8, 7, b"httpd"), losses);
        let parent: Told = |processes, losses| processes.facts(httpd(7), losses);
        for order in [[read, ended, parent], [ended, read, parent], [parent, read, ended], [read, parent, ended]] {
            let (mut processes, mut losses) = setup();
            processes.see(8, 20, &mut losses);
            order.iter().for_each(|tell| tell(&mut processes, &mut losses));
            let facts = processes.get(8);
            assert_eq!((facts.pid, facts.service_name.as_deref(), facts.inherited), (8, Some("web"), true));
            assert!(!processes.is_awaited(8));
        }
    }

    #[test]
    fn a_parent_that_is_not_known_is_asked_for() {
        let (mut processes, mut losses) = setup();
        processes.see(8, 20, &mut losses);
        assert_eq!(processes.take_wanted(), [8]);
        processes.facts(gone(8), &mut losses);
        assert!(processes.is_awaited(8), "its end may tell more");
        processes.record(&exit(8, 7, b"httpd"), &mut losses);
        assert_eq!(processes.take_wanted(), [7]);
        processes.facts(gone(7), &mut losses);
        assert!(!processes.is_awaited(8), "nothing is known of the parent either");
    }

    #[test]
    fn who_took_the_place_of_a_parent_is_none() {
        let check = |command: &[u8], parent: ProcessFacts, since: Option<u64>| {
            let (mut processes, mut losses) = setup();
            if let Some(time_ns) = since {
                processes.record(&at(time_ns, record(7, 1, change::EXEC, "/bin/busybox")), &mut losses);
            }
            processes.facts(parent, &mut losses);
            processes.see(8, 20, &mut losses);
            processes.facts(gone(8), &mut losses);
            processes.record(&exit(8, 7, command), &mut losses);
            assert!(!processes.is_awaited(8));
            processes.get(8).service_name.clone()
        };
        assert_eq!(check(b"httpd", httpd(7), Some(10)).as_deref(), Some("web"));
        assert_eq!(check(b"sshd", httpd(7), None), None, "another command");
        assert_eq!(check(b"httpd", httpd(7), Some(25)), None, "it executed that after the child was there");
        assert_eq!(check(b"httpd", gone(7), None), None);
    }

    #[test]
    fn the_table_is_bounded_and_ended_processes_go_first() {
        let (mut processes, mut losses) = setup();
        (1..=16).for_each(|pid| processes.see(pid, 1, &mut losses));
        processes.record(&record(16, 1, change::EXIT, ""), &mut losses);
        processes.see(17, 1, &mut losses);
        assert!(losses.is_empty());
        processes.see(18, 1, &mut losses);
        assert_eq!(losses.get(Loss::ProcessEvicted), 1);
        assert_eq!(processes.known.len(), 16);
    }
}
