//! Which processes are looked at, which of their files are probed, and until when.
//!
//! In: processes that are selected. Out: attached programs. Called by [`super::follow`] on a thread of its own.
//! A file is probed once, however many processes map it, and no longer than [`LINGER`] after the last of them is gone:
//! a program that is run again and again is then seen from its first byte. Before its content changes the probes are taken away
//! ([`super::lease`]); where nothing would tell of that they go with the last process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use super::{
    files::{self, FileId, Mapped},
    functions::{self, Functions, Point},
    golang,
    lease::{Lease, Listener, Stamp, Watched},
};

/// A new process maps its libraries within this time, in steps that double from the first.
const FIRST_LOOK: Duration = Duration::from_millis(4);
/// Later it may map more at any time. Of many processes each is looked at less often: all together cost the same.
const LAST_LOOK: Duration = Duration::from_millis(800);
const LOOKS_PER_SECOND_MAX: u32 = 1000;
/// How long a file stays probed that no process maps any more.
const LINGER: Duration = Duration::from_secs(60);
/// Most processes that are looked at.
const PROCESSES_MAX: usize = 4096;
/// Most files that are remembered.
const FILES_MAX: usize = 8192;
/// Most programs that are attached: a library takes up to thirty, a program of Go's about forty.
const ATTACHED_MAX: usize = 8192;
/// Descriptors that are left for all else.
const DESCRIPTORS_LEFT: usize = 512;

/// What attaches programs.
pub(super) trait Attach {
    /// What takes them away again.
    type Link;
    /// Attaches to a file, by a path that is good for the moment.
    fn attach(&mut self, path: &str, point: &Point) -> Result<Vec<Self::Link>, String>;
    /// Takes a program away.
    fn detach(&mut self, link: Self::Link);
    /// Forgets what calls of goroutines a process left behind: nobody returns from them any more.
    fn forget_goroutines(&mut self, pid: u32);
}

/// How far the plaintext of a process's TLS connections is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Libraries that are probed: what they are, and their paths.
    pub by: Vec<(&'static str, String)>,
    /// Libraries that cannot be, and why.
    pub failed: Vec<String>,
}

struct Process {
    files: BTreeSet<FileId>,
    /// How large its memory was when it was looked at.
    size: u64,
    pause: Duration,
    due: Instant,
}

/// A file that some process maps.
struct Known<L> {
    functions: Functions,
    path: String,
    processes: usize,
    /// Since when there are none.
    idle_since: Option<Instant>,
    links: Vec<L>,
    /// What keeps it as it is, or shows that it changed. Without it, a file that cannot be probed would pin its file system.
    watched: Option<Watched>,
    failed: Option<String>,
    /// Programs for which there was no room.
    lacks: usize,
}

impl<L> Known<L> {
    fn is_outdated(&self, listener: Option<Listener>) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.is_outdated(listener))
    }

    /// How long it is remembered without a process.
    fn linger(&self) -> Duration {
        match self.watched.as_ref().map(Watched::lease) {
            Some(Lease::Unavailable) => Duration::ZERO,
            _ => LINGER,
        }
    }

    /// When it is forgotten, if no process comes.
    fn ends(&self) -> Option<Instant> {
        self.idle_since.map(|since| since + self.linger())
    }
}

/// See the module.
pub(super) struct Probes<A: Attach> {
    attach: A,
    /// Most programs that are attached.
    attached_max: usize,
    /// Files that found no room, since the start.
    refused: u64,
    /// Who is told that a file is about to change.
    listener: Option<Listener>,
    processes: BTreeMap<u32, Process>,
    files: HashMap<FileId, Known<A::Link>>,
    /// Files without anything to probe, as memory maps call them, and since when they are remembered: another file may get
    /// the same number.
    dull: HashSet<(String, u64)>,
    dull_since: Instant,
}

impl<A: Attach> Probes<A> {
    /// Without processes.
    pub fn new(attach: A) -> Self {
        Self {
            attach,
            attached_max: ATTACHED_MAX.min(super::limits::descriptors().saturating_sub(DESCRIPTORS_LEFT)),
            refused: 0,
            listener: None,
            processes: BTreeMap::new(),
            files: HashMap::new(),
            dull: HashSet::new(),
            dull_since: Instant::now(),
        }
    }

    /// From now on this one is told that a file is about to change, and has [`Self::give_way`] called.
    pub fn set_listener(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Files that could not be probed for want of room, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn attached(&self) -> usize {
        self.files.values().map(|known| known.links.len()).sum()
    }

    /// Takes the probes from files that somebody is about to change, or has changed; lets go of what has room by now.
    pub fn give_way(&mut self, now: Instant) {
        let room = self.attached_max.saturating_sub(self.attached());
        let has_room = |known: &Known<A::Link>| known.lacks > 0 && known.lacks <= room;
        let outdated = self.files.iter().filter(|(_, known)| has_room(known) || known.is_outdated(self.listener));
        let ids: Vec<FileId> = outdated.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.drop_changed(id, now));
    }

    /// Lets go of all files: the probes are gone.
    pub fn let_go(&mut self) {
        self.listener = None;
        self.files.clear();
    }

    /// A process is selected, replaced its program, or ended. Answers whether there is room for it.
    pub fn see(&mut self, pid: u32, now: Instant) -> bool {
        if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&pid) {
            return false;
        }
        let new = || Process { files: BTreeSet::new(), size: 0, pause: FIRST_LOOK, due: now };
        let process = self.processes.entry(pid).or_insert_with(new);
        (process.pause, process.due, process.size) = (FIRST_LOOK, now, 0);
        self.look(pid, now);
        true
    }

    /// Looks at who is due; answers when the next is.
    pub fn turn(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<u32> =
            self.processes.iter().filter(|(_, process)| process.due <= now).map(|(pid, _)| *pid).collect();
        for pid in due {
            self.look(pid, now);
        }
        self.detach_idle(now);
        if now.saturating_duration_since(self.dull_since) > LINGER {
            self.dull.clear();
            self.dull_since = now;
        }
        let idle = self.files.values().filter_map(Known::ends).min();
        self.processes.values().map(|process| process.due).chain(idle).min()
    }

    /// What is known of a process.
    pub fn coverage(&self, pid: u32) -> Option<Coverage> {
        let process = self.processes.get(&pid)?;
        let mut coverage = Coverage::default();
        let files = process.files.iter().filter_map(|id| self.files.get(id));
        for known in files.filter(|known| !known.functions.stack.is_empty()) {
            match &known.failed {
                Some(reason) => coverage.failed.push(format!("{}: {reason}", known.path)),
                None => coverage.by.push((known.functions.stack, known.path.clone())),
            }
        }
        Some(coverage)
    }

    /// Processes that are looked at.
    pub fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.processes.keys().copied()
    }

    fn look(&mut self, pid: u32, now: Instant) {
        let all_at_once = Duration::from_secs(1) * self.processes.len() as u32 / LOOKS_PER_SECOND_MAX;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.due = now + process.pause;
        process.pause = (process.pause * 2).min(LAST_LOOK.max(all_at_once));
        let Some(size) = memory_size(pid) else { return self.forget(pid, now) };
        if size == process.size {
            return;
        }
        process.size = size;
        let mapped = files::of(pid);
        let found: BTreeSet<FileId> = mapped.iter().filter_map(|mapped| self.probed(mapped, now)).collect();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let before = std::mem::replace(&mut process.files, found.clone());
        for id in found.difference(&before) {
            if let Some(known) = self.files.get_mut(id) {
                known.processes += 1;
                known.idle_since = None;
            }
        }
        before.difference(&found).for_each(|id| self.release(*id, now));
    }

    fn forget(&mut self, pid: u32, now: Instant) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let is_go = |id: &FileId| self.files.get(id).is_some_and(|known| known.functions.stack == golang::STACK);
        if process.files.iter().any(is_go) {
            self.attach.forget_goroutines(pid);
        }
        process.files.into_iter().for_each(|id| self.release(id, now));
    }

    fn release(&mut self, id: FileId, now: Instant) {
        let Some(known) = self.files.get_mut(&id) else { return };
        known.processes = known.processes.saturating_sub(1);
        if known.processes == 0 {
            known.idle_since = Some(now);
        }
    }

    fn detach_idle(&mut self, now: Instant) {
        let idle = |known: &Known<A::Link>| known.ends().is_some_and(|ends| ends <= now);
        let ids: Vec<FileId> = self.files.iter().filter(|(_, known)| idle(known)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.detach(id));
    }

    fn detach(&mut self, id: FileId) {
        let Some(known) = self.files.remove(&id) else { return };
        tracing::debug!(path = known.path, "no longer probed");
        known.links.into_iter().for_each(|link| self.attach.detach(link));
        // Whoever waits to write to it goes on only now.
        drop(known.watched);
    }

    /// Takes a file's probes away; its processes are looked at anew.
    fn drop_changed(&mut self, id: FileId, now: Instant) {
        let is_go = self.files.get(&id).is_some_and(|known| known.functions.stack == golang::STACK);
        self.detach(id);
        for (pid, process) in self.processes.iter_mut().filter(|(_, process)| process.files.contains(&id)) {
            process.files.remove(&id);
            (process.size, process.pause, process.due) = (0, FIRST_LOOK, now);
            if is_go {
                self.attach.forget_goroutines(*pid);
            }
        }
    }

    /// The file, if it is probed, or would be if that worked.
    fn probed(&mut self, mapped: &Mapped, now: Instant) -> Option<FileId> {
        let key = (mapped.key().0.to_owned(), mapped.key().1);
        if self.dull.contains(&key) {
            return None;
        }
        let (file, id) = mapped.open().ok()?;
        if self.files.get(&id).is_some_and(|known| known.is_outdated(self.listener)) {
            self.drop_changed(id, now);
        }
        if !self.files.contains_key(&id) {
            let stamp = Stamp::of(&file).ok()?;
            let functions = functions::find(&file);
            let watched = Watched::new(file, stamp, self.listener);
            // Half a file has no functions: whoever writes it is waited for.
            if functions.points.is_empty() && watched.lease() != Lease::Changing {
                if self.dull.len() >= FILES_MAX {
                    self.dull.clear(); // they are looked at again
                }
                self.dull.insert(key);
                return None;
            }
            if self.files.len() >= FILES_MAX {
                self.refused += 1;
                return None;
            }
            let known = self.probe(watched, mapped, functions);
            self.files.insert(id, known);
        }
        Some(id)
    }

    fn probe(&mut self, watched: Watched, mapped: &Mapped, functions: Functions) -> Known<A::Link> {
        let (path, programs) = (mapped.path.clone(), functions.programs());
        let empty = Known {
            functions: Functions { stack: functions.stack, points: Vec::new() },
            path,
            processes: 0,
            idle_since: None,
            links: Vec::new(),
            watched: None,
            failed: None,
            lacks: 0,
        };
        if watched.lease() == Lease::Changing {
            let failed = Some("it is being written to".into());
            return Known { watched: Some(watched), failed, ..empty };
        }
        let attached = self.attached();
        if attached + programs > self.attached_max {
            self.refused += 1;
            let reason = format!("{attached} probes are attached, and more than {} must not be", self.attached_max);
            tracing::warn!(path = mapped.path, reason, "a TLS library cannot be probed");
            return Known { failed: Some(reason), lacks: programs, ..empty };
        }
        match self.attach_all(watched.file(), &functions.points) {
            Ok(links) => {
                let (stack, lease) = (functions.stack, watched.lease());
                tracing::debug!(path = mapped.path, stack, ?lease, "probed");
                Known { links, watched: Some(watched), ..empty }
            }
            Err(reason) => {
                tracing::warn!(path = mapped.path, reason, "a TLS library cannot be probed");
                Known { failed: Some(reason), ..empty }
            }
        }
    }

    /// All points or none: half of a conversation would be taken for the whole.
    fn attach_all(&mut self, file: &File, points: &[Point]) -> Result<Vec<A::Link>, String> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut links = Vec::new();
        for point in points {
            match self.attach.attach(&path, point) {
                Ok(more) => links.extend(more),
                Err(reason) => {
                    links.drain(..).for_each(|link| self.attach.detach(link));
                    return Err(reason);
                }
            }
        }
        Ok(links)
    }
}

/// Pages of memory of a process; `None` if it is gone. A library that is mapped changes it.
fn memory_size(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    text.split(' ').next()?.parse().ok().filter(|size| *size != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what is attached; attaches nothing.
    #[derive(Default)]
    struct Counting {
        attached: usize,
        detached: usize,
        forgotten: Vec<u32>,
    }

    impl Attach for Counting {
        type Link = ();

        fn attach(&mut self, path: &str, _: &Point) -> Result<Vec<()>, String> {
            assert!(File::open(path).is_ok(), "{path}");
            self.attached += 1;
            Ok(vec![()])
        }

        fn detach(&mut self, (): ()) {
            self.detached += 1;
        }

        fn forget_goroutines(&mut self, pid: u32) {
            self.forgotten.push(pid);
        }
    }

    /// A file that one process maps, with one probe.
    fn known(functions: Functions) -> Known<()> {
        Known {
            functions,
            path: "/x".into(),
            processes: 1,
            idle_since: None,
            links: vec![()],
            watched: None,
            failed: None,
            lacks: 0,
        }
    }

    #[test]
    fn a_file_is_probed_once_and_until_some_time_after_its_last_process() {
        let mut probes = Probes::new(Counting::default());
        let id = FileId { device: 1, inode: 2 };
        let functions = Functions { stack: "OpenSSL", points: Vec::new() };
        probes.files.insert(id, Known { processes: 2, links: vec![(), ()], ..known(functions) });
        let now = Instant::now();
        let process = || Process { files: [id].into(), size: 1, pause: FIRST_LOOK, due: now };
        // No process has these numbers.
        probes.processes.extend([(u32::MAX - 1, process()), (u32::MAX, process())]);
        assert_eq!(probes.coverage(u32::MAX).unwrap().by, [("OpenSSL", "/x".to_owned())]);
        let due = probes.turn(now).unwrap();
        assert!(probes.coverage(u32::MAX).is_none(), "both are gone");
        assert_eq!((due, probes.attach.detached), (now + LINGER, 0));
        assert_eq!(probes.turn(now + LINGER), None);
        assert_eq!(probes.attach.detached, 2);
    }

    #[test]
    fn what_goroutines_left_behind_goes_with_their_process() {
        let mut probes = Probes::new(Counting::default());
        let now = Instant::now();
        for (inode, stack) in [(1, "OpenSSL"), (2, golang::STACK)] {
            let functions = Functions { stack, points: Vec::new() };
            let id = FileId { device: 1, inode };
            probes.files.insert(id, known(functions));
            // No process has these numbers.
            let process = Process { files: [id].into(), size: 1, pause: FIRST_LOOK, due: now };
            probes.processes.insert(u32::MAX - inode as u32, process);
        }
        probes.turn(now);
        assert_eq!(probes.attach.forgotten, [u32::MAX - 2]);
    }

    /// A probed file of a process, both made up; nothing tells of its changes.
    fn watched(path: &std::path::Path) -> (Probes<Counting>, FileId, Instant) {
        let mut probes = Probes::new(Counting::default());
        let (now, id) = (Instant::now(), FileId { device: 1, inode: 2 });
        let file = File::open(path).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        let functions = Functions { stack: golang::STACK, points: Vec::new() };
        let watched = Some(Watched::new(file, stamp, None));
        probes.files.insert(id, Known { watched, ..known(functions) });
        let due = now + LINGER;
        // No process has this number.
        probes.processes.insert(u32::MAX, Process { files: [id].into(), size: 1, pause: LAST_LOOK, due });
        (probes, id, now)
    }

    #[test]
    fn a_file_that_changed_is_no_longer_probed_and_its_processes_are_looked_at_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "code").unwrap();
        let (mut probes, id, now) = watched(&path);
        probes.give_way(now);
        assert!(probes.files.contains_key(&id) && probes.attach.detached == 0, "nothing changed");
        std::fs::write(&path, "other code").unwrap();
        probes.give_way(now);
        assert_eq!((probes.files.len(), probes.attach.detached), (0, 1));
        assert_eq!(probes.attach.forgotten, [u32::MAX]);
        assert_eq!(probes.coverage(u32::MAX), Some(Coverage::default()));
        probes.turn(now);
        assert!(probes.processes.is_empty(), "it was not looked at before it was due");
    }

    #[test]
    fn of_what_nothing_would_be_told_the_probes_go_with_the_last_process() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut probes, id, now) = watched(file.path());
        probes.processes.get_mut(&u32::MAX).unwrap().due = now;
        probes.turn(now);
        assert!(!probes.files.contains_key(&id));
        assert_eq!(probes.attach.detached, 1);
    }

    #[test]
    fn half_a_file_is_not_taken_for_one_without_functions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library");
        std::fs::write(&path, "half").unwrap();
        let mut probes = Probes::new(Counting::default());
        probes.set_listener(super::super::lease::listen(Duration::from_secs(3600), || true).unwrap());
        let mapped = Mapped::at(&path);
        let writer = File::options().append(true).open(&path).unwrap();
        let now = Instant::now();
        assert!(probes.probed(&mapped, now).is_some() && probes.dull.is_empty());
        probes.give_way(now);
        assert_eq!(probes.files.len(), 1, "it is still written to");
        drop(writer);
        probes.give_way(now);
        assert!(probes.files.is_empty(), "it is not looked at anew");
        assert!(probes.probed(&mapped, now).is_none() && probes.dull.len() == 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_probed_once_there_is_some() {
        let mut probes = Probes::new(Counting::default());
        probes.attached_max = 3;
        let now = Instant::now();
        let (mapped, file) = (files::of(std::process::id()).remove(0), || File::open("/proc/self/exe").unwrap());
        let point = |returns| Point { program: "tls_read", offset: 0, returns };
        let probe = |probes: &mut Probes<Counting>, inode| {
            let watched = Watched::new(file(), Stamp::of(&file()).unwrap(), None);
            let functions = Functions { stack: "OpenSSL", points: vec![point(false), point(true)] };
            let known = probes.probe(watched, &mapped, functions);
            let failed = known.failed.clone();
            probes.files.insert(FileId { device: 1, inode }, known);
            failed
        };
        assert_eq!(probe(&mut probes, 1), None);
        let reason = "2 probes are attached, and more than 3 must not be".to_owned();
        assert_eq!((probe(&mut probes, 2), probes.refused()), (Some(reason), 1));
        probes.give_way(now);
        assert_eq!(probes.files.len(), 2, "there is still no room");
        probes.detach(FileId { device: 1, inode: 1 });
        probes.give_way(now);
        assert!(probes.files.is_empty(), "it is not tried again");
    }

    #[test]
    fn our_own_process_has_nothing_to_probe() {
        let mut probes = Probes::new(Counting::default());
        assert!(probes.see(std::process::id(), Instant::now()));
        assert_eq!(probes.coverage(std::process::id()), Some(Coverage::default()));
        assert_eq!(probes.attach.attached, 0);
    }
}
