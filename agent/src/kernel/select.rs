//! What is traced, as the kernel side sees it. Can change while running.

use std::{
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

use super::{
    budget::Detail,
    load::{LoadError, PodSettings, take},
};
use crate::capture::monotonic_ns;

/// Entry of `SCHED_STATE` that says since when scheduler times are complete; see `agent-ebpf/src/sched.rs`.
const SCHED_SINCE: u32 = 2;

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
    /// Whether what the rules name is there. Touches nothing, and needs no kernel side.
    ///
    /// # Errors
    /// The first rule that cannot be applied.
    pub fn check(&self) -> Result<(), SelectError> {
        for rules in [&self.select, &self.exclude] {
            rules.cgroups.iter().try_for_each(|path| cgroup_id(path).map(drop))?;
            rules.netns.iter().try_for_each(|path| netns_inode(path).map(drop))?;
        }
        Ok(())
    }

    /// Without the rules that name what is gone, of which nothing can run any more.
    fn still_there(&self) -> Self {
        let mut wanted = self.clone();
        for rules in [&mut wanted.select, &mut wanted.exclude] {
            rules.cgroups.retain(|path| cgroup_id(path).is_ok());
            rules.netns.retain(|path| netns_inode(path).is_ok());
        }
        wanted
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
#[derive(Clone, Copy, PartialEq, Eq)]
struct PodExe(ExeKey);
// SAFETY: `ExeKey` is `Plain`: repr(C), integers only, no padding.
unsafe impl aya::Pod for PodExe {}

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
    /// Patterns of executables, for processes that start later.
    exe_patterns: Vec<(String, u32)>,
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
            exe_patterns: Vec::new(),
            applied: None,
        })
    }

    /// From now on as much of a connection's calls is captured as there is room for, within what is captured at all.
    pub fn capture_whole_calls(&mut self, connection_id: u64) -> Result<(), SelectError> {
        self.whole_calls.insert(connection_id, 1, 0).map_err(|source| SelectError::Map { what: "whole calls", source })
    }

    /// Replaces the selection. On error the previous one stays, or is put back. While the maps change nothing is
    /// recorded, as an exclusion that is not written yet would not hold.
    pub fn replace(&mut self, wanted: &Wanted) -> Result<(), SelectError> {
        wanted.check()?;
        let result = apply(self, wanted);
        match (&result, self.applied.take()) {
            (Ok(()), _) => self.applied = Some(wanted.clone()),
            (Err(_), Some(previous)) => {
                if let Err(error) = apply(self, &previous.still_there()) {
                    tracing::error!(%error, "the previous selection cannot be put back; nothing is recorded");
                }
                self.applied = Some(previous);
            }
            (Err(_), None) => {}
        }
        result
    }
}

/// What replacing a selection does to the kernel side.
trait Maps {
    /// Writes the settings, under a generation that was not used before.
    fn publish(&mut self, settings: Settings) -> Result<(), SelectError>;
    /// Empties the maps of rules.
    fn clear(&mut self) -> Result<(), SelectError>;
    /// Writes rules, and says which [`rule`]s they are.
    fn insert(&mut self, set: &Rules, value: u32) -> Result<u32, SelectError>;
}

/// Nothing is recorded from the first change of a map until the last.
fn apply(maps: &mut impl Maps, wanted: &Wanted) -> Result<(), SelectError> {
    let agent_pid = std::process::id();
    let silence = Settings { unselected: mode::NONE, agent_pid, ..Settings::default() };
    maps.publish(silence)?;
    maps.clear()?;
    let mut rules = 0;
    for (set, value) in [(&wanted.select, mode::PAYLOAD), (&wanted.exclude, mode::EXCLUDE)] {
        rules |= maps.insert(set, value)?;
    }
    let unselected = wanted.unselected();
    maps.publish(Settings { unselected, payload_bytes_max: wanted.payload_bytes_max, rules, ..silence })
}

impl Maps for Selection {
    fn publish(&mut self, settings: Settings) -> Result<(), SelectError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let Detail { shed, sample_bits } = self.detail;
        let settings = Settings { generation: self.generation, shed, sample_bits, ..settings };
        self.settings.set(0, PodSettings(settings), 0).map_err(|source| SelectError::Map { what: "settings", source })
    }

    fn clear(&mut self) -> Result<(), SelectError> {
        clear_map(&mut self.pid, "pids")?;
        clear_map(&mut self.cgroup, "cgroups")?;
        clear_map(&mut self.exe, "executables")?;
        clear_map(&mut self.port, "ports")?;
        clear_map(&mut self.netns, "network namespaces")?;
        self.exe_patterns.clear();
        Ok(())
    }

    fn insert(&mut self, set: &Rules, value: u32) -> Result<u32, SelectError> {
        let mut rules = 0;
        for pid in set.pids.iter().flat_map(|pid| with_descendants(*pid)) {
            put(&mut self.pid, pid, value, "pid")?;
            rules |= rule::PID;
        }
        for path in &set.cgroups {
            put(&mut self.cgroup, cgroup_id(path)?, value, "cgroup")?;
            rules |= rule::CGROUP;
        }
        for pattern in &set.exes {
            self.exe_patterns.push((pattern.clone(), value));
            rules |= rule::EXE;
        }
        for path in if set.exes.is_empty() { Vec::new() } else { running_executables() } {
            self.offer_executable(&path)?;
        }
        for pattern in set.exes.iter().filter(|pattern| pattern.starts_with('/')) {
            for path in glob::glob(pattern).into_iter().flatten().flatten() {
                self.offer_executable(&path)?;
            }
        }
        for port in &set.ports {
            put(&mut self.port, u32::from(*port), value, "port")?;
            rules |= rule::PORT;
        }
        for path in &set.netns {
            put(&mut self.netns, netns_inode(path)?, value, "network namespace")?;
            rules |= rule::NETNS;
        }
        Ok(rules)
    }
}

impl Selection {
    /// Applies the executable rules to a file, found at start or by a later `execve`.
    pub fn offer_executable(&mut self, path: &Path) -> Result<bool, SelectError> {
        let matching = self.exe_patterns.iter().filter(|(pattern, _)| matches(pattern, path)).map(|(_, value)| *value);
        // EXCLUDE is the smaller number, and exclusion wins.
        let Some(value) = matching.min() else { return Ok(false) };
        // Through /proc/PID/exe the file is reached even if its path belongs to another mount namespace.
        let Ok(file) = std::fs::metadata(path) else { return Ok(false) };
        let device = (libc::major(file.dev()) << 20) | (libc::minor(file.dev()) & 0xf_ffff);
        let key = PodExe(ExeKey { inode: file.ino(), device, padding: 0 });
        if self.exe.get(&key, 0).is_ok_and(|known| known == value) {
            return Ok(false);
        }
        put(&mut self.exe, key, value, "executable")?;
        Ok(true)
    }

    /// Leaves this much out from now on.
    pub fn set_detail(&mut self, detail: Detail) -> Result<(), SelectError> {
        let shed_before = std::mem::replace(&mut self.detail, detail).shed;
        if shed_before & !detail.shed & shed::SCHED != 0 {
            // What threads did meanwhile is not known: whatever began before now does not count.
            let error = |source| SelectError::Map { what: "scheduler times", source };
            self.sched_state.set(SCHED_SINCE, monotonic_ns(), 0).map_err(error)?;
        }
        self.refresh()
    }

    /// Whether there are executable rules at all.
    pub fn has_executable_rules(&self) -> bool {
        !self.exe_patterns.is_empty()
    }

    /// Makes the kernel side take its cached decisions anew.
    pub fn refresh(&mut self) -> Result<(), SelectError> {
        let error = |source| SelectError::Map { what: "settings", source };
        let PodSettings(settings) = self.settings.get(&0, 0).map_err(error)?;
        self.publish(settings)
    }
}

fn put<K: aya::Pod>(
    map: &mut HashMap<MapData, K, u32>,
    key: K,
    value: u32,
    what: &'static str,
) -> Result<(), SelectError> {
    // Exclusion wins: it is inserted after selection, and selection never overwrites it.
    map.insert(key, value, 0).map_err(|source| SelectError::Map { what, source })
}

fn clear_map<K: aya::Pod>(map: &mut HashMap<MapData, K, u32>, what: &'static str) -> Result<(), SelectError> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>().map_err(|source| SelectError::Map { what, source })?;
    for key in keys {
        let _ = map.remove(&key); // gone already is fine
    }
    Ok(())
}

/// A pattern with a slash is matched against the whole path, a bare one against the file's name.
pub(super) fn matches(pattern: &str, path: &Path) -> bool {
    let Ok(pattern_) = glob::Pattern::new(pattern) else { return false };
    let resolved = std::fs::read_link(path).unwrap_or_else(|_| path.to_path_buf());
    if pattern.contains('/') {
        pattern_.matches_path(&resolved) || pattern_.matches_path(path)
    } else {
        resolved.file_name().is_some_and(|name| pattern_.matches(&name.to_string_lossy()))
    }
}

fn running_executables() -> Vec<PathBuf> {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    all.map(|process| PathBuf::from(format!("/proc/{}/exe", process.pid))).collect()
}

/// The process and all that descend from it now; children born later are selected by the kernel side.
pub(super) fn with_descendants(pid: u32) -> Vec<u32> {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> =
        all.filter_map(|p| p.stat().ok()).map(|stat| (stat.pid as u32, stat.ppid as u32)).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        next += 1;
    }
    found
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
    fn executable_patterns_match_names_or_whole_paths() {
        let check =
            |pattern, path, expected| assert_eq!(matches(pattern, Path::new(path)), expected, "{pattern} {path}");
        check("nginx", "/usr/sbin/nginx", true);
        check("python3*", "/usr/bin/python3.11", true);
        check("nginx", "/opt/nginx/bin/run", false);
        check("/opt/*/bin/run", "/opt/nginx/bin/run", true);
        check("/usr/bin/*", "/opt/nginx/bin/run", false);
    }

    #[test]
    fn a_folder_that_is_no_cgroup_says_so() {
        let error = cgroup_id(Path::new("/tmp")).unwrap_err().to_string();
        assert!(error.contains("not in a cgroup v2 file system"), "{error}");
    }

    #[test]
    fn descendants_include_the_process_itself() {
        assert!(with_descendants(std::process::id()).contains(&std::process::id()));
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
        assert_eq!(wanted.still_there(), self::wanted());
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

    /// Notes what the kernel side would see, in order.
    #[derive(Default)]
    struct Seen(Vec<Step>);

    #[derive(Debug, PartialEq)]
    enum Step {
        Settings { unselected: u32, rules: u32, payload_bytes_max: u32 },
        Clear,
        Insert(u32),
    }

    impl Maps for Seen {
        fn publish(&mut self, settings: Settings) -> Result<(), SelectError> {
            assert_eq!(settings.agent_pid, std::process::id());
            let Settings { unselected, rules, payload_bytes_max, .. } = settings;
            self.0.push(Step::Settings { unselected, rules, payload_bytes_max });
            Ok(())
        }

        fn clear(&mut self) -> Result<(), SelectError> {
            self.0.push(Step::Clear);
            Ok(())
        }

        fn insert(&mut self, _: &Rules, value: u32) -> Result<u32, SelectError> {
            self.0.push(Step::Insert(value));
            Ok(rule::PORT)
        }
    }

    #[test]
    fn nothing_is_recorded_while_the_maps_change() {
        let mut seen = Seen::default();
        apply(&mut seen, &wanted()).unwrap();
        assert_eq!(
            seen.0,
            [
                Step::Settings { unselected: mode::NONE, rules: 0, payload_bytes_max: 0 },
                Step::Clear,
                Step::Insert(mode::PAYLOAD),
                Step::Insert(mode::EXCLUDE),
                Step::Settings { unselected: mode::PAYLOAD, rules: rule::PORT, payload_bytes_max: 100 },
            ]
        );
    }
}
