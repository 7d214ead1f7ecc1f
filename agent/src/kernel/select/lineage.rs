//! Which processes a rule that names one reaches: itself, and all that descend from it.
//!
//! In: the processes that there are, and what the kernel side's map says, which children inherit as they are born. Out: what the
//! map shall say. A process whose parent is gone descends from nobody as far as anybody can tell: only the map still knows it.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::settings::mode;

use super::Wanted;

/// A process: its parent, and when it started, in clock ticks since boot (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    started: u64,
}

/// The processes that live.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes(BTreeMap<u32, Process>);

impl Processes {
    /// As it is now.
    pub fn now() -> Self {
        let all = procfs::process::all_processes().into_iter().flatten().flatten();
        let stats = all.filter_map(|process| process.stat().ok());
        // The first thread of a process may have ended long before the last.
        let living = stats.filter(|stat| !matches!(stat.state, 'Z' | 'X') || stat.num_threads > 1);
        Self(living.map(|it| (it.pid as u32, Process { parent: it.ppid as u32, started: it.starttime })).collect())
    }

    /// The process, if it lives, and all that descend from it.
    pub fn with_descendants(&self, pid: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut next: Vec<u32> = self.0.contains_key(&pid).then_some(pid).into_iter().collect();
        // Parents are read one after the other, so they may form a circle.
        while let Some(parent) = next.pop() {
            if found.insert(parent) {
                next.extend(self.0.iter().filter(|(_, process)| process.parent == parent).map(|(child, _)| *child));
            }
        }
        found
    }
}

/// Processes that rules name.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    selected: Named,
    excluded: Named,
    /// When each was started that lived when it was named first: another may get its number.
    started: BTreeMap<u32, u64>,
}

#[derive(Clone, Debug, Default)]
struct Named {
    now: BTreeSet<u32>,
    /// Named before, and no longer.
    removed: BTreeSet<u32>,
}

impl Named {
    fn set(&mut self, pids: &[u32]) {
        let now: BTreeSet<u32> = pids.iter().copied().collect();
        self.removed = self.now.difference(&now).copied().collect();
        self.now = now;
    }
}

impl Lineage {
    /// From now on these are named: processes that live now. What lives later under one of the numbers is not meant.
    pub fn name(&mut self, wanted: &Wanted, processes: &Processes) {
        let before: BTreeSet<u32> = self.selected.now.union(&self.excluded.now).copied().collect();
        self.selected.set(&wanted.select.pids);
        self.excluded.set(&wanted.exclude.pids);
        let now: BTreeSet<u32> = self.selected.now.union(&self.excluded.now).copied().collect();
        self.started.retain(|pid, _| before.contains(pid));
        for pid in now.difference(&before) {
            match processes.0.get(pid) {
                Some(process) => drop(self.started.insert(*pid, process.started)),
                None => tracing::warn!(pid, "there is no such process to select or exclude"),
            }
        }
    }

    /// What the map shall say, in which `present` is.
    pub fn target(&self, processes: &Processes, present: &BTreeMap<u32, u32>) -> BTreeMap<u32, u32> {
        let released = self.reached(&self.excluded.removed, processes);
        // With the process that an exclusion named goes only what surely descends from it. A selection that is narrowed must not
        // leave anything behind.
        let is_kept = |pid: &u32, value| match value {
            mode::EXCLUDE => !self.excluded.now.is_empty() && !released.contains(pid),
            _ => !self.selected.now.is_empty() && self.selected.removed.is_empty(),
        };
        let kept = present.iter().filter(|(pid, value)| processes.0.contains_key(pid) && is_kept(pid, **value));
        let mut target: BTreeMap<u32, u32> = kept.map(|(pid, value)| (*pid, *value)).collect();
        for (named, value) in [(&self.selected, mode::PAYLOAD), (&self.excluded, mode::EXCLUDE)] {
            for pid in self.reached(&named.now, processes) {
                // EXCLUDE is the smaller number, and exclusion wins.
                target.entry(pid).and_modify(|known| *known = value.min(*known)).or_insert(value);
            }
        }
        target
    }

    fn reached(&self, pids: &BTreeSet<u32>, processes: &Processes) -> BTreeSet<u32> {
        let is_itself = |pid: &&u32| processes.0.get(pid).is_some_and(|it| self.started.get(pid) == Some(&it.started));
        pids.iter().filter(is_itself).flat_map(|pid| processes.with_descendants(*pid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::kernel::select::Rules;

    /// Number, parent and start of each.
    fn processes(all: &[(u32, u32, u64)]) -> Processes {
        Processes(
            all.iter().map(|(pid, parent, started)| (*pid, Process { parent: *parent, started: *started })).collect(),
        )
    }

    fn wanted(select: &[u32], exclude: &[u32]) -> Wanted {
        let rules = |pids: &[u32]| Rules { pids: pids.to_vec(), ..Rules::default() };
        Wanted {
            select: rules(select),
            exclude: rules(exclude),
            select_all: false,
            unselected_timing: false,
            payload_bytes_max: 0,
        }
    }

    const IN: u32 = mode::PAYLOAD;
    const OUT: u32 = mode::EXCLUDE;

    #[test]
    fn descendants_are_all_below_and_nobody_else() {
        let all = processes(&[(1, 0, 0), (10, 1, 5), (11, 10, 6), (12, 11, 7), (20, 1, 5)]);
        assert_eq!(all.with_descendants(10), [10, 11, 12].into());
        assert_eq!(all.with_descendants(12), [12].into());
        assert_eq!(all.with_descendants(13), [].into(), "it does not live");
        let circle = processes(&[(10, 11, 5), (11, 10, 6)]);
        assert_eq!(circle.with_descendants(10), [10, 11].into());
    }

    #[test]
    fn real_processes_are_found_and_those_that_ended_are_not() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let own = Processes::now().with_descendants(std::process::id());
        assert!(own.contains(&std::process::id()) && own.contains(&child.id()), "{own:?}");
        drop(child.stdin.take());
        // Ended, and not yet waited for: its number is still taken.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !state().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(!Processes::now().with_descendants(std::process::id()).contains(&child.id()));
        child.wait().unwrap();
    }

    #[test]
    fn a_daemon_whose_parent_is_gone_keeps_what_it_inherited() {
        let mut lineage = Lineage::default();
        let before = processes(&[(10, 1, 5), (11, 10, 6), (20, 1, 5)]);
        lineage.name(&wanted(&[20], &[10]), &before);
        let present = lineage.target(&before, &BTreeMap::new());
        assert_eq!(present, [(10, OUT), (11, OUT), (20, IN)].into());
        // 10 is gone, 11 is init's; 21 was born of 20 and is init's too; both are as the kernel side noted them.
        let after = processes(&[(11, 1, 6), (20, 1, 5), (21, 1, 7)]);
        let present = [(11, OUT), (20, IN), (21, IN)].into();
        lineage.name(&wanted(&[20], &[10]), &after);
        assert_eq!(lineage.target(&after, &present), present);
    }

    #[test]
    fn what_a_removed_rule_reached_goes_with_it() {
        let all = processes(&[(10, 1, 5), (11, 10, 6), (20, 1, 5), (30, 1, 5), (31, 1, 5)]);
        let mut lineage = Lineage::default();
        lineage.name(&wanted(&[20, 30], &[10, 11]), &all);
        let mut present = lineage.target(&all, &BTreeMap::new());
        present.extend([(31, IN)]); // of 20 or of 30, once
        lineage.name(&wanted(&[30], &[11]), &all);
        assert_eq!(lineage.target(&all, &present), [(11, OUT), (30, IN)].into());
        lineage.name(&wanted(&[], &[]), &all);
        assert_eq!(lineage.target(&all, &present), [].into());
    }

    #[test]
    fn another_process_of_the_number_is_not_the_one_that_was_named() {
        let mut lineage = Lineage::default();
        lineage.name(&wanted(&[10], &[]), &processes(&[(10, 1, 5)]));
        let again = processes(&[(10, 1, 99), (11, 10, 100)]);
        lineage.name(&wanted(&[10], &[]), &again);
        assert_eq!(lineage.target(&again, &BTreeMap::new()), [].into());
        // Named anew it is meant as it is now.
        lineage.name(&wanted(&[], &[]), &again);
        lineage.name(&wanted(&[10], &[]), &again);
        assert_eq!(lineage.target(&again, &BTreeMap::new()), [(10, IN), (11, IN)].into());
    }

    #[test]
    fn what_did_not_live_when_it_was_named_is_nobody_later() {
        let mut lineage = Lineage::default();
        lineage.name(&wanted(&[10], &[]), &processes(&[(1, 0, 0)]));
        let later = processes(&[(1, 0, 0), (10, 1, 7)]);
        lineage.name(&wanted(&[10], &[]), &later);
        assert_eq!(lineage.target(&later, &BTreeMap::new()), [].into());
    }

    #[test]
    fn exclusion_wins_whoever_is_the_parent() {
        let all = processes(&[(10, 1, 5), (11, 10, 6), (12, 11, 7)]);
        let mut lineage = Lineage::default();
        lineage.name(&wanted(&[10], &[11]), &all);
        assert_eq!(lineage.target(&all, &BTreeMap::new()), [(10, IN), (11, OUT), (12, OUT)].into());
        // 11 is gone, and 10 adopted what it had excluded.
        let after = processes(&[(10, 1, 5), (12, 10, 7)]);
        let present = [(10, IN), (12, OUT)].into();
        assert_eq!(lineage.target(&after, &present), present);
    }
}
