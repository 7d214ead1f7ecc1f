//! Taking probes away before their file changes.
//!
//! A probe stays where it was put, whatever the file's content becomes: the kernel puts its breakpoint into every process that
//! maps the file later, and steps over the instruction that once was there (kernel/events/uprobes.c). In other code that is a
//! crash, or worse. So a probed file is held by a read lease (fcntl(2)): who wants to write to it or to cut it off waits in its
//! `open` until the probes are gone, and the lease with them. A file that is open for writing gets no lease, and no probes.
//!
//! Where there is no lease to be had (the file system has none; the file is another user's, and `CAP_LEASE` is missing) a change
//! is only noticed afterwards, by size and times. Called by [`super::probes`].

use std::{
    fs::File,
    io::{Error, Result},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    sync::mpsc::sync_channel,
    time::Duration,
};

use crate::cost::threads::Counted;

/// Whose descriptor it is: of one thread, `struct f_owner_ex` (include/uapi/asm-generic/fcntl.h).
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// What keeps a file as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// Who wants to change it waits.
    Held,
    /// Nothing does.
    Unavailable,
    /// Somebody changes it now.
    Changing,
}

/// What shows that a file was changed: size, and when its content and its inode were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp(u64, [i64; 4]);

impl Stamp {
    /// As it is now.
    pub fn of(file: &File) -> Result<Self> {
        let it = file.metadata()?;
        Ok(Self(it.len(), [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()]))
    }
}

/// The thread that is told when a lease is wanted back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener(libc::pid_t);

/// Has `told` called when a lease is wanted back, and from time to time besides, on a thread of its own, until it answers `false`.
pub(super) fn listen(pause: Duration, mut told: impl FnMut() -> bool + Send + 'static) -> Result<Listener> {
    let (ready, started) = sync_channel(1);
    std::thread::Builder::new().name("tls-leases".into()).spawn(move || {
        let _counted = Counted::this_thread();
        let Ok(signals) = block_signal() else { return };
        // SAFETY: takes nothing, and always succeeds.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        let _ = ready.send(thread as libc::pid_t); // who waits for it is there
        while told() {
            wait(&signals, pause);
        }
    })?;
    started.recv().map(Listener).map_err(|_| Error::other("its signal cannot be blocked"))
}

/// `SIGIO` would end the agent. It waits in this thread instead, until that asks.
fn block_signal() -> Result<libc::sigset_t> {
    // SAFETY: `signals` is plain data that sigemptyset fills; all three get valid pointers or null.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGIO);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) {
            0 => Ok(signals),
            error => Err(Error::from_raw_os_error(error)),
        }
    }
}

fn wait(signals: &libc::sigset_t, pause: Duration) {
    let pause =
        libc::timespec { tv_sec: pause.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(pause.subsec_nanos()) };
    // SAFETY: both are valid for reads, and nobody asks for more than the number. Whatever it answers: then it is time to look.
    unsafe { libc::sigtimedwait(signals, std::ptr::null_mut(), &pause) };
}

/// A file that is probed, as it was when its functions were looked for.
pub(super) struct Watched {
    file: File,
    stamp: Stamp,
    lease: Lease,
}

impl Watched {
    /// Holds a file that was as `stamp` says.
    pub fn new(file: File, stamp: Stamp, listener: Option<Listener>) -> Self {
        let lease = take(&file, listener);
        let is_same = Stamp::of(&file).is_ok_and(|now| now == stamp);
        Self { file, stamp, lease: if is_same { lease } else { Lease::Changing } }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What keeps it as it is.
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Whether it is to be looked at anew: somebody waits to change it, changed it, or no longer does.
    pub fn is_outdated(&self, listener: Option<Listener>) -> bool {
        match self.lease {
            Lease::Held => !is_held(&self.file),
            Lease::Unavailable => Stamp::of(&self.file).ok() != Some(self.stamp),
            Lease::Changing => take(&self.file, listener) != Lease::Changing,
        }
    }
}

/// It ends with the file.
fn take(file: &File, listener: Option<Listener>) -> Lease {
    let Some(Listener(thread)) = listener else { return Lease::Unavailable };
    let owner = [F_OWNER_TID, thread];
    // SAFETY: two numbers, as the request reads them. The other one takes a number.
    let taken = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    match Error::last_os_error().raw_os_error() {
        _ if taken => Lease::Held,
        Some(libc::EAGAIN) => Lease::Changing,
        _ => Lease::Unavailable,
    }
}

/// Not from the moment on that somebody waits for it.
fn is_held(file: &File) -> bool {
    // SAFETY: takes no argument.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

#[cfg(test)]
mod tests {
    use std::{
        path::{Path, PathBuf},
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    /// Longer than the kernel waits for who holds a lease (`/proc/sys/fs/lease-break-time`).
    const PAUSE: Duration = Duration::from_secs(3600);

    fn listener() -> Option<Listener> {
        Some(listen(PAUSE, || true).unwrap())
    }

    fn file(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("program");
        std::fs::write(&path, "code").unwrap();
        path
    }

    fn watch(path: &Path, listener: Option<Listener>) -> Watched {
        let file = File::open(path).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        Watched::new(file, stamp, listener)
    }

    #[test]
    fn who_wants_to_write_waits_until_the_probes_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder);
        let held: Arc<Mutex<Option<Watched>>> = Arc::default();
        let (shared, probed) = (Arc::clone(&held), Arc::new(AtomicBool::new(true)));
        let gone = Arc::clone(&probed);
        let listener = listen(PAUSE, move || {
            let mut held = shared.lock().unwrap();
            if held.as_ref().is_some_and(|held| held.is_outdated(None)) {
                gone.store(false, Ordering::SeqCst);
                *held = None; // only now may the writer go on
            }
            gone.load(Ordering::SeqCst)
        });
        let watched = watch(&path, Some(listener.unwrap()));
        assert_eq!((watched.lease(), watched.is_outdated(None)), (Lease::Held, false));
        *held.lock().unwrap() = Some(watched);
        assert_eq!(std::fs::read(&path).unwrap(), b"code", "who reads does not wait");
        std::fs::write(&path, "other code").unwrap();
        assert!(!probed.load(Ordering::SeqCst), "it was written to while it was probed");
    }

    #[test]
    fn what_is_open_for_writing_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder);
        let listener = listener();
        let writer = File::options().append(true).open(&path).unwrap();
        let watched = watch(&path, listener);
        assert_eq!((watched.lease(), watched.is_outdated(listener)), (Lease::Changing, false));
        drop(writer);
        assert!(watched.is_outdated(listener));
    }

    #[test]
    fn what_changed_before_it_was_held_is_looked_at_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder);
        let file = File::open(&path).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        std::fs::write(&path, "other code").unwrap();
        let listener = listener();
        let watched = Watched::new(file, stamp, listener);
        assert_eq!((watched.lease(), watched.is_outdated(listener)), (Lease::Changing, true));
    }

    #[test]
    fn without_a_lease_a_change_shows_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder);
        let watched = watch(&path, None);
        assert_eq!((watched.lease(), watched.is_outdated(None)), (Lease::Unavailable, false));
        std::fs::write(&path, "other code").unwrap();
        assert!(watched.is_outdated(None));
    }
}
