//! Which processes a selection names, as far as that can be told before they do anything.
//!
//! In: [`Wanted`]. Out: process ids. Called at start and when the selection changes. Processes that are selected by a port, or
//! start later, are told of by the kernel side when they move bytes.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};

use crate::kernel::select::{Rules, Wanted, matches, with_descendants};

/// cgroup folders that are entered below one that is named.
const CGROUP_LEVELS: usize = 10;

/// The processes.
pub fn processes(wanted: &Wanted) -> Vec<u32> {
    let Rules { pids, exes, netns, .. } = &wanted.select;
    let mut found: BTreeSet<u32> = pids.iter().flat_map(|pid| with_descendants(*pid)).collect();
    wanted.select.cgroup_folders().iter().for_each(|folder| in_cgroup(folder, CGROUP_LEVELS, &mut found));
    if wanted.select_all || !exes.is_empty() || !netns.is_empty() {
        let namespaces: Vec<u64> = netns.iter().filter_map(|path| Some(fs::metadata(path).ok()?.ino())).collect();
        found.extend(all().filter(|pid| wanted.select_all || is_named(*pid, exes, &namespaces)));
    }
    found.remove(&std::process::id());
    found.into_iter().collect()
}

fn in_cgroup(folder: &Path, levels: usize, found: &mut BTreeSet<u32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    if levels == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            in_cgroup(&entry.path(), levels - 1, found);
        }
    }
}

/// Every process.
pub(super) fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_named(pid: u32, exes: &[String], namespaces: &[u64]) -> bool {
    let exe = format!("/proc/{pid}/exe");
    let netns = || fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|file| namespaces.contains(&file.ino()));
    exes.iter().any(|pattern| matches(pattern, Path::new(&exe))) || (!namespaces.is_empty() && netns())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(select: Rules, select_all: bool) -> Wanted {
        Wanted { select, exclude: Rules::default(), select_all, unselected_timing: false, payload_bytes_max: 0 }
    }

    #[test]
    fn every_kind_of_rule_but_ports_names_processes() {
        let parent = std::os::unix::process::parent_id();
        let has = |select: Rules| processes(&wanted(select, false)).contains(&parent);
        assert!(has(Rules { pids: vec![parent], ..Rules::default() }));
        let exe = fs::read_link(format!("/proc/{parent}/exe")).unwrap();
        assert!(has(Rules { exes: vec![exe.display().to_string()], ..Rules::default() }));
        assert!(has(Rules { netns: vec![format!("/proc/{parent}/ns/net").into()], ..Rules::default() }));
        assert!(!has(Rules { ports: vec![80], ..Rules::default() }));
        assert!(processes(&wanted(Rules::default(), true)).contains(&parent));
    }

    #[test]
    fn the_agent_itself_is_never_among_them() {
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        // Named by everything, and as a descendant of what is named.
        for (select, all) in [(Rules::default(), true), (Rules { pids: vec![parent], ..Rules::default() }, false)] {
            let found = processes(&wanted(select, all));
            assert!(found.contains(&parent) && !found.contains(&own), "{found:?}");
        }
    }
}
