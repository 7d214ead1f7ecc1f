//! What is traced, as the kernel side sees it. Can change while running.

mod change;
mod containers;
mod executable;
mod lineage;

use std::{
    collections::BTreeMap,
    fs::File,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use agent_common::settings::{CGROUP_LEVELS, ExeKey, Settings, mode, rule, shed};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};

use self::{
    change::{Maps, Step, Table, apply, step},
    lineage::{Lineage, Processes},
};
pub(super) use self::{containers::cgroup_mounts, executable::matches};
use super::{
    budget::Detail,
    load::{LoadError, PodSettings, take},
};
use crate::capture::monotonic_ns;

/// Entry of `SCHED_STATE` that says since when scheduler times are complete; see `agent-ebpf/src/sched.rs`.
const SCHED_SINCE: u32 = 2;
/// How often it is looked for processes that were born while others were selected.
const ROUNDS_MAX: usize = 8;

/// What to trace in full, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Processes and their children.
    pub pids: Vec<u32>,
    /// cgroup v2 folders, with everything below.
    pub cgroups: Vec<PathBuf>,
    /// Executables: a file, a glob of files, or a bare name.
    pub exes: Vec<String>,
    /// Local or remote ports.
    pub ports: Vec<u16>,
    /// Network namespaces (`/proc/PID/ns/net`, `/run/netns/NAME`).
    pub netns: Vec<PathBuf>,
    /// Containers: globs of names, or beginnings of identifiers.
    pub containers: Vec<String>,
    /// Pods: globs of `namespace/pod`.
    pub pods: Vec<String>,
}

/// The whole selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Captured with payload.
    pub select: Rules,
    /// Not recorded at all.
    pub exclude: Rules,
    /// Everything is captured with payload.
    pub select_all: bool,
    /// Whether times and sizes of what no rule names are recorded.
    pub unselected_timing: bool,
    /// Payload bytes per call.
    pub payload_bytes_max: u32,
}

impl Wanted {
    /// Whether the rules can be applied. What is selected may come later; what is excluded has to be there. Touches nothing, and
    /// needs no kernel side.
    ///
    /// # Errors
    /// The first rule that cannot be applied.
    pub fn check(&self) -> Result<(), SelectError> {
        self.find()?;
        self.exclude.cgroups.iter().try_for_each(|path| cgroup_id(path).map(drop))?;
        self.exclude.netns.iter().try_for_each(|path| netns_inode(path).map(drop))
    }

    /// What stands at the paths of rules by now. Reads files, and so may wait: not to be called while the selection is locked.
    ///
    /// # Errors
    /// A path that cannot be looked at.
    pub fn find(&self) -> Result<Named, SelectError> {
        Named::of(self)
    }

    fn settings(&self) -> Settings {
        let named = |names: fn(&Rules) -> bool, rule| {
            if [&self.select, &self.exclude].into_iter().any(names) { rule } else { 0 }
        };
        let rules = named(|set| !set.pids.is_empty(), rule::PID)
            | named(|set| [set.cgroups.len(), set.containers.len(), set.pods.len()] != [0; 3], rule::CGROUP)
            | named(|set| !set.exes.is_empty(), rule::EXE)
            | named(|set| !set.ports.is_empty(), rule::PORT)
            | named(|set| !set.netns.is_empty(), rule::NETNS);
        let (agent_pid, payload_bytes_max) = (std::process::id(), self.payload_bytes_max);
        Settings { unselected: self.unselected(), payload_bytes_max, agent_pid, rules, ..Settings::default() }
    }

    fn unselected(&self) -> u32 {
        match (self.select_all, self.unselected_timing) {
            (true, _) => mode::PAYLOAD,
            (false, true) => mode::TIMING,
            (false, false) => mode::NONE,
        }
    }
}

/// Why a rule cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A path that a rule names.
    #[error("cannot select {what} {path}: {reason}")]
    Path {
        /// Kind of rule.
        what: &'static str,
        /// The path.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel refused.
    #[error("cannot write the selection map of {what}: {source}")]
    Map {
        /// Kind of rule.
        what: &'static str,
        /// Why.
        source: MapError,
    },
}

#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PodExe(ExeKey);
// SAFETY: `ExeKey` is `Plain`: repr(C), integers only, no padding.
unsafe impl aya::Pod for PodExe {}

impl Ord for PodExe {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.device, self.0.inode).cmp(&(other.0.device, other.0.inode))
    }
}

impl PartialOrd for PodExe {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What the maps of rules shall say, but for processes, which come and go.
#[derive(Default)]
struct Target {
    named: Named,
    exe: BTreeMap<PodExe, u32>,
    port: BTreeMap<u32, u32>,
}

/// What stands at the paths of rules. A path is the same rule whatever stands there: a service that is started again has another cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    cgroup: BTreeMap<u64, u32>,
    netns: BTreeMap<u32, u32>,
}

impl Named {
    fn of(wanted: &Wanted) -> Result<Self, SelectError> {
        let mut named = Self::default();
        // Exclusion wins: it comes last.
        for (set, value) in [(&wanted.select, mode::PAYLOAD), (&wanted.exclude, mode::EXCLUDE)] {
            for path in set.cgroup_folders().iter().filter(|path| path.exists()) {
                named.cgroup.insert(cgroup_id(path)?, value);
            }
            for path in set.netns.iter().filter(|path| path.exists()) {
                named.netns.insert(netns_inode(path)?, value);
            }
        }
        Ok(named)
    }
}

/// The kernel side's selection maps.
pub struct Selection {
    settings: Array<MapData, PodSettings>,
    pid: HashMap<MapData, u32, u32>,
    cgroup: HashMap<MapData, u64, u32>,
    exe: HashMap<MapData, PodExe, u32>,
    port: HashMap<MapData, u32, u32>,
    netns: HashMap<MapData, u32, u32>,
    sched_state: Array<MapData, u64>,
    whole_calls: HashMap<MapData, u64, u32>,
    generation: u32,
    detail: Detail,
    /// What is recorded of what no rule names, unless the budget leaves that out.
    unselected: u32,
    /// Whether anything is selected by a rule, before and after a change in progress.
    selects: bool,
    /// Patterns of executables, for processes that start later.
    exe_patterns: Vec<(String, u32)>,
    /// Where the executables are that patterns name.
    exe_paths: BTreeMap<PodExe, PathBuf>,
    lineage: Lineage,
    target: Target,
    applied: Option<Wanted>,
}

impl Selection {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            settings: take(ebpf, "SETTINGS")?,
            pid: take(ebpf, "SELECT_PID")?,
            cgroup: take(ebpf, "SELECT_CGROUP")?,
            exe: take(ebpf, "SELECT_EXE")?,
            port: take(ebpf, "SELECT_PORT")?,
            netns: take(ebpf, "SELECT_NETNS")?,
            sched_state: take(ebpf, "SCHED_STATE")?,
            whole_calls: take(ebpf, "WHOLE_CALLS")?,
            generation: 0,
            detail: Detail::default(),
            unselected: mode::NONE,
            selects: false,
            exe_patterns: Vec::new(),
            exe_paths: BTreeMap::new(),
            lineage: Lineage::default(),
            target: Target::default(),
            applied: None,
        })
    }

    /// From now on as much of a connection's calls is captured as there is room for, within what is captured at all.
    /// `which`: bits of [`agent_common::message::whole`].
    pub fn capture_whole_calls(&mut self, connection_id: u64, which: u32) -> Result<(), SelectError> {
        self.whole_calls
            .insert(connection_id, which, 0)
            .map_err(|source| SelectError::Map { what: "whole calls", source })
    }

    /// Replaces the selection. On error the previous one stays, or is put back. What both say is recorded, and not recorded,
    /// throughout.
    pub fn replace(&mut self, wanted: &Wanted) -> Result<(), SelectError> {
        wanted.check()?;
        let result = self.change(wanted);
        match (&result, self.applied.take()) {
            (Ok(()), _) => self.applied = Some(wanted.clone()),
            (Err(_), Some(previous)) => {
                if let Err(error) = self.change(&previous) {
                    tracing::error!(%error, "the previous selection cannot be put back");
                }
                self.applied = Some(previous);
            }
            (Err(_), None) => {}
        }
        result
    }

    /// What is applied.
    pub fn applied(&self) -> Option<Wanted> {
        self.applied.clone()
    }

    /// Selects, or excludes, what `found` of `wanted`, if that is still applied; false: that is so already.
    pub fn follow(&mut self, wanted: &Wanted, found: Named) -> Result<bool, SelectError> {
        if self.applied.as_ref() != Some(wanted) || found == self.target.named {
            return Ok(false);
        }
        let changed = self.change_to(wanted, found);
        if changed.is_err() {
            // What is in force is not known: the next time it is tried again, whatever is found.
            self.target.named = Named::default();
        }
        changed.map(|()| true)
    }

    fn change(&mut self, wanted: &Wanted) -> Result<(), SelectError> {
        self.change_to(wanted, wanted.find()?)
    }

    fn change_to(&mut self, wanted: &Wanted, named: Named) -> Result<(), SelectError> {
        self.target = self.resolve(wanted, named);
        self.lineage.name(wanted, &Processes::now());
        let selects = wanted.select != Rules::default();
        // What the budget leaves out of both the old and the new selection, and only that, is left out meanwhile.
        self.set_selects(self.selects && selects)?;
        apply(self, wanted.settings())?;
        self.set_selects(selects)
    }

    fn set_selects(&mut self, selects: bool) -> Result<(), SelectError> {
        let changes = std::mem::replace(&mut self.selects, selects) != selects;
        if changes && self.detail.unselected { self.refresh() } else { Ok(()) }
    }

    /// What the budget leaves out, of what there is to leave out.
    pub fn left_out(&self) -> Detail {
        Detail { unselected: leaves_out_unselected(self.detail, self.selects, self.unselected), ..self.detail }
    }

    /// What the rules name now.
    fn resolve(&mut self, wanted: &Wanted, named: Named) -> Target {
        let mut target = Target { named, ..Target::default() };
        self.exe_patterns.clear();
        // Exclusion wins: it comes last.
        for (set, value) in [(&wanted.select, mode::PAYLOAD), (&wanted.exclude, mode::EXCLUDE)] {
            target.port.extend(set.ports.iter().map(|port| (u32::from(*port), value)));
            self.exe_patterns.extend(set.exes.iter().map(|pattern| (pattern.clone(), value)));
        }
        target.exe = self.executables();
        target
    }

    /// Those that patterns name: what runs, what is there by a pattern's path, and what was seen before and is there still.
    fn executables(&mut self) -> BTreeMap<PodExe, u32> {
        let named = |path: &Path| verdict(&self.exe_patterns, path);
        let by_path = self.exe_patterns.iter().filter(|(pattern, _)| pattern.starts_with('/'));
        let by_path = by_path.flat_map(|(pattern, _)| glob::glob(pattern).into_iter().flatten().flatten());
        let there = executable::running().chain(by_path).filter(|path| named(path).is_some());
        let there = there.filter_map(|path| Some((executable::key(&path).map(PodExe)?, executable::resolved(&path))));
        let mut paths: BTreeMap<PodExe, PathBuf> = there.collect();
        for (key, path) in std::mem::take(&mut self.exe_paths) {
            // Another file may have its number.
            if executable::key(&path) == Some(key.0) {
                paths.entry(key).or_insert(path);
            }
        }
        let verdicts = paths.iter().filter_map(|(key, path)| Some((*key, named(path)?))).collect();
        self.exe_paths = paths;
        verdicts
    }
}

/// Whether the budget leaves out what no rule names: it is timed otherwise, and something else is selected.
fn leaves_out_unselected(detail: Detail, selects: bool, unselected: u32) -> bool {
    detail.unselected && selects && unselected == mode::TIMING
}

/// What the patterns say of an executable; exclusion, which is the smaller number, wins.
fn verdict(patterns: &[(String, u32)], path: &Path) -> Option<u32> {
    patterns.iter().filter(|(pattern, _)| matches(pattern, path)).map(|(_, value)| *value).min()
}

impl Maps for Selection {
    fn settings(&self) -> Result<Settings, SelectError> {
        let settings = self.settings.get(&0, 0).map_err(|source| SelectError::Map { what: "settings", source })?;
        Ok(Settings { unselected: self.unselected, ..settings.0 })
    }

    fn publish(&mut self, settings: Settings) -> Result<(), SelectError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.unselected = settings.unselected;
        let Detail { shed, sample_bits, .. } = self.detail;
        let leaves_out = leaves_out_unselected(self.detail, self.selects, settings.unselected);
        let unselected = if leaves_out { mode::NONE } else { settings.unselected };
        let settings = Settings { generation: self.generation, unselected, shed, sample_bits, ..settings };
        self.settings.set(0, PodSettings(settings), 0).map_err(|source| SelectError::Map { what: "settings", source })
    }

    fn take(&mut self, which: Step) -> Result<bool, SelectError> {
        let Self { target, cgroup, exe, port, netns, .. } = self;
        Ok(take_in(cgroup, &target.named.cgroup, which, "cgroups")?
            | take_in(exe, &target.exe, which, "executables")?
            | take_in(port, &target.port, which, "ports")?
            | take_in(netns, &target.named.netns, which, "network namespaces")?
            | self.take_pids(which)?)
    }
}

impl Selection {
    /// Until it finds nothing more: processes are born and end meanwhile.
    fn take_pids(&mut self, which: Step) -> Result<bool, SelectError> {
        let error = |source| SelectError::Map { what: "pids", source };
        for round in 0..ROUNDS_MAX {
            // In this order: whoever is in the map by now can be seen among the processes, or has ended.
            let present = self.pid.entries().map_err(error)?;
            let target = self.lineage.target(&Processes::now(), &present);
            if !step(&mut self.pid, &present, &target, which).map_err(error)? {
                return Ok(round > 0);
            }
        }
        Ok(true)
    }
}

fn take_in<K: aya::Pod + Ord>(
    map: &mut HashMap<MapData, K, u32>,
    target: &BTreeMap<K, u32>,
    which: Step,
    what: &'static str,
) -> Result<bool, SelectError> {
    let changed = map.entries().and_then(|present| step(map, &present, target, which));
    changed.map_err(|source| SelectError::Map { what, source })
}

impl Selection {
    /// Applies the executable rules to a file, found at start or by a later `execve`.
    pub fn offer_executable(&mut self, path: &Path) -> Result<bool, SelectError> {
        let Some(value) = verdict(&self.exe_patterns, path) else { return Ok(false) };
        let Some(key) = executable::key(path).map(PodExe) else { return Ok(false) };
        self.exe_paths.insert(key, executable::resolved(path));
        if self.exe.get(&key, 0).is_ok_and(|known| known == value) {
            return Ok(false);
        }
        self.exe.put(key, value).map_err(|source| SelectError::Map { what: "executables", source })?;
        Ok(true)
    }

    /// Leaves this much out from now on; gives what of it there is to leave out.
    pub fn set_detail(&mut self, detail: Detail) -> Result<Detail, SelectError> {
        let shed_before = std::mem::replace(&mut self.detail, detail).shed;
        if shed_before & !detail.shed & shed::SCHED != 0 {
            // What threads did meanwhile is not known: whatever began before now does not count.
            let error = |source| SelectError::Map { what: "scheduler times", source };
            self.sched_state.set(SCHED_SINCE, monotonic_ns(), 0).map_err(error)?;
        }
        self.refresh()?;
        Ok(self.left_out())
    }

    /// Whether there are executable rules at all.
    pub fn has_executable_rules(&self) -> bool {
        !self.exe_patterns.is_empty()
    }

    /// Makes the kernel side take its cached decisions anew.
    pub fn refresh(&mut self) -> Result<(), SelectError> {
        let settings = Maps::settings(self)?;
        self.publish(settings)
    }
}

/// The process, if it lives, and all that descend from it now; children born later are selected by the kernel side.
pub(super) fn with_descendants(pid: u32) -> Vec<u32> {
    Processes::now().with_descendants(pid).into_iter().collect()
}

/// The id that the kernel's helpers report for a cgroup v2 folder: its inode number.
fn cgroup_id(path: &Path) -> Result<u64, SelectError> {
    let fail = |reason: String| SelectError::Path { what: "cgroup", path: path.display().to_string(), reason };
    let file = open(path).map_err(|error| fail(error.to_string()))?;
    match file_system(&file) {
        Some(libc::CGROUP2_SUPER_MAGIC) => {
            if cgroup_level(path) >= CGROUP_LEVELS as usize {
                let most = CGROUP_LEVELS - 1;
                return Err(fail(format!("is more than {most} levels below the root; name a cgroup above it")));
            }
            file.metadata().map(|metadata| metadata.ino()).map_err(|error| fail(error.to_string()))
        }
        Some(libc::CGROUP_SUPER_MAGIC) => Err(fail(
            "is a cgroup v1 folder, and v1 ids cannot be asked for in the kernel without kprobes; name the process's \
             cgroup v2 folder, or select by --select-pid or --select-exe"
                .into(),
        )),
        _ => Err(fail("is not in a cgroup v2 file system; see: grep cgroup2 /proc/self/mounts".into())),
    }
}

/// How many levels below the root of its hierarchy a cgroup v2 folder is, as far as that is seen from here.
fn cgroup_level(path: &Path) -> usize {
    const ROOT_INODE: u64 = 1;
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let place = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let device = place(&path).map(|(device, _)| device);
    let is_below = |path: &&Path| place(path).is_some_and(|(dev, inode)| Some(dev) == device && inode != ROOT_INODE);
    path.ancestors().take_while(is_below).count()
}

/// Type of the file system of namespaces (include/uapi/linux/magic.h).
const NSFS_MAGIC: libc::__fsword_t = 0x6e73_6673;
/// Asks a namespace for its kind, as its `CLONE_NEW*` (include/uapi/linux/nsfs.h).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// The number that the kernel gives a network namespace: the inode number of its file.
fn netns_inode(path: &Path) -> Result<u32, SelectError> {
    let fail =
        |reason: String| SelectError::Path { what: "network namespace", path: path.display().to_string(), reason };
    let file = open(path).map_err(|error| fail(error.to_string()))?;
    // SAFETY: this request takes no argument; on a descriptor of another kind it fails.
    let is_netns = file_system(&file) == Some(NSFS_MAGIC)
        && unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) } == libc::CLONE_NEWNET;
    let inode = file.metadata().ok().and_then(|metadata| u32::try_from(metadata.ino()).ok()).filter(|_| is_netns);
    inode.ok_or_else(|| fail("is not a network namespace file (/run/netns/NAME, /proc/PID/ns/net)".into()))
}

/// Opens what an operator names, which may be anything: a FIFO must not block.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Type of the file system that the file is in.
fn file_system(file: &File) -> Option<libc::__fsword_t> {
    // SAFETY: `statfs` is plain old data, and fstatfs fills it for a valid descriptor.
    unsafe {
        let mut buffer: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(file.as_raw_fd(), &mut buffer) == 0).then_some(buffer.f_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_cgroup_says_so() {
        let error = cgroup_id(Path::new("/tmp")).unwrap_err().to_string();
        assert!(error.contains("not in a cgroup v2 file system"), "{error}");
    }

    #[test]
    fn only_a_network_namespace_is_one() {
        let check = |path: &str, expected: bool| {
            let result = netns_inode(Path::new(path));
            assert_eq!(result.is_ok(), expected, "{path}: {result:?}");
        };
        check("/proc/self/ns/net", true);
        check("/proc/self/ns/uts", false);
        check("/dev/null", false);
        check("/proc/self", false);
        check("/nowhere", false);
        let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(u64::from(netns_inode(Path::new("/proc/self/ns/net")).unwrap()), inode);
    }

    #[test]
    fn a_rule_that_names_nothing_is_found_without_the_kernel_side() {
        let mut wanted = wanted();
        assert!(wanted.check().is_ok());
        wanted.exclude.cgroups.push("/tmp".into());
        assert!(wanted.check().unwrap_err().to_string().contains("/tmp"));
    }

    #[test]
    fn what_is_selected_may_come_later_and_what_is_excluded_has_to_be_there() {
        let nowhere = |rules: &mut Rules| rules.cgroups.push("/nowhere".into());
        let mut wanted = wanted();
        nowhere(&mut wanted.select);
        assert!(wanted.check().is_ok());
        nowhere(&mut wanted.exclude);
        assert!(wanted.check().unwrap_err().to_string().contains("/nowhere"));
    }

    fn wanted() -> Wanted {
        Wanted {
            select: Rules { ports: vec![80], ..Rules::default() },
            exclude: Rules { ports: vec![22], ..Rules::default() },
            select_all: true,
            unselected_timing: true,
            payload_bytes_max: 100,
        }
    }

    #[test]
    fn settings_say_which_maps_are_worth_asking() {
        let check = |change: fn(&mut Rules), expected| {
            let mut wanted = Wanted { select: Rules::default(), exclude: Rules::default(), ..wanted() };
            assert_eq!(wanted.settings().rules, 0);
            change(&mut wanted.select);
            assert_eq!(wanted.settings().rules, expected);
            std::mem::swap(&mut wanted.select, &mut wanted.exclude);
            assert_eq!(wanted.settings().rules, expected);
        };
        check(|rules| rules.pids.push(1), rule::PID);
        check(|rules| rules.cgroups.push("/x".into()), rule::CGROUP);
        check(|rules| rules.exes.push("x".into()), rule::EXE);
        check(|rules| rules.ports.push(80), rule::PORT);
        check(|rules| rules.netns.push("/x".into()), rule::NETNS);
        let Settings { unselected, payload_bytes_max, agent_pid, .. } = wanted().settings();
        assert_eq!((unselected, payload_bytes_max, agent_pid), (mode::PAYLOAD, 100, std::process::id()));
    }

    #[test]
    fn the_budget_leaves_out_what_is_not_selected_only_beside_what_is() {
        let budget = Detail { unselected: true, ..Detail::default() };
        assert!(leaves_out_unselected(budget, true, mode::TIMING));
        for (detail, selects, unselected) in [
            (Detail::default(), true, mode::TIMING),
            (budget, false, mode::TIMING),
            (budget, true, mode::NONE),
            (budget, true, mode::PAYLOAD),
        ] {
            assert!(!leaves_out_unselected(detail, selects, unselected), "{detail:?} {selects} {unselected}");
        }
    }

    #[test]
    fn of_patterns_that_match_exclusion_wins() {
        let patterns = [("nginx".to_owned(), mode::PAYLOAD), ("/opt/*".to_owned(), mode::EXCLUDE)];
        assert_eq!(verdict(&patterns, Path::new("/usr/sbin/nginx")), Some(mode::PAYLOAD));
        assert_eq!(verdict(&patterns, Path::new("/opt/nginx")), Some(mode::EXCLUDE));
        assert_eq!(verdict(&patterns, Path::new("/usr/bin/cat")), None);
    }
}
