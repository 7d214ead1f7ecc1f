//! Starting processes where a test wants them, and ending exactly those.
//!
//! In: a program, and the cgroup, namespace and CPU it shall run in. Out: a guard that kills it by its id and reaps it.
//! Children get `SIGKILL` when the test's thread dies, so nothing outlives a killed test run.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    cgroup::{Cgroup, Limit},
    clock,
    namespace::Namespace,
};

const RUN_BOUND: Duration = Duration::from_secs(60);
/// Between fork and exec a child does a few system calls.
const BUSY_BOUND: Duration = Duration::from_secs(10);

/// A process to be started.
pub struct Launch {
    command: Command,
    name: String,
    place: Place,
}

/// A running process that ends with the guard.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Launch {
    /// A program by path, or by name in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, name, place: Place::default() }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it in this cgroup.
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.place.cgroups.push(cgroup.procs_file());
        self
    }

    /// Starts it in this group of a cgroup v1 controller too.
    pub fn limited_by(mut self, limit: &Limit) -> Self {
        self.place.cgroups.push(limit.procs_file());
        self
    }

    /// Starts it in this network namespace.
    pub fn in_namespace(mut self, namespace: &Namespace) -> Self {
        self.place.namespace = Some(namespace.file());
        self
    }

    /// Pins it to one CPU.
    pub fn on_cpu(mut self, cpu: usize) -> Self {
        self.place.cpu = Some(cpu);
        self
    }

    /// Lets it see this file as `/etc/resolv.conf`, in a mount namespace of its own.
    pub fn with_resolver(mut self, file: &Path) -> Self {
        self.place.resolver = Some(CString::new(file.as_os_str().as_bytes()).expect("a path without NUL"));
        self
    }

    /// Sends standard output to a file.
    pub fn stdout_to(mut self, path: &Path) -> Self {
        let file = File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        self.command.stdout(file);
        self
    }

    /// Keeps standard output for [`Process::stdout`].
    pub fn stdout_piped(mut self) -> Self {
        self.command.stdout(Stdio::piped());
        self
    }

    /// Sends standard error to a file.
    pub fn stderr_to(mut self, path: &Path) -> Self {
        let file = File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        self.command.stderr(file);
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Process {
        self.prepare();
        // A program that was copied just now is busy until every child of another test that was forked meanwhile has begun its own.
        let started = || Some(self.command.spawn()).filter(|child| !child.as_ref().is_err_and(is_busy));
        let child = clock::poll(BUSY_BOUND, started).unwrap_or_else(|| self.command.spawn());
        Process { child: child.unwrap_or_else(|error| self.explain(&error)), name: self.name }
    }

    /// Runs it to its end, at most for a minute, and gives what it printed, whatever its exit status.
    pub fn output(mut self) -> Output {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = self.spawn();
        let stdout = read_all(process.child.stdout.take());
        let stderr = read_all(process.child.stderr.take());
        let status = process.wait(RUN_BOUND);
        let text = |reader: JoinHandle<Vec<u8>>| reader.join().expect("reader of a child's output");
        Output { status, stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs it to its end; anything but success fails the test. Gives its standard output.
    pub fn run(self) -> String {
        let name = self.name.clone();
        let output = self.output();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{name} ended with {}\nstdout: {text}\nstderr: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn explain(&self, error: &io::Error) -> ! {
        panic!("cannot start {}: {error}; `cargo xtask setup --tests` installs what the tests use", self.name)
    }

    fn prepare(&mut self) {
        let place = Place { parent: std::process::id(), ..std::mem::take(&mut self.place) };
        // SAFETY: `Place::enter` makes system calls only: it neither allocates nor takes locks.
        unsafe { self.command.pre_exec(move || place.enter()) };
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ExecutableFileBusy
}

/// Where a child goes between fork and exec.
#[derive(Default)]
struct Place {
    cgroups: Vec<OwnedFd>,
    namespace: Option<OwnedFd>,
    cpu: Option<usize>,
    resolver: Option<CString>,
    parent: u32,
}

impl Place {
    fn enter(&self) -> io::Result<()> {
        // SAFETY: plain system calls with valid arguments.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() as u32 != self.parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for cgroup in &self.cgroups {
                check(libc::write(raw(cgroup), b"0".as_ptr().cast(), 1) as i32)?;
            }
            if let Some(namespace) = &self.namespace {
                check(libc::setns(raw(namespace), libc::CLONE_NEWNET))?;
            }
            if let Some(cpu) = self.cpu {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut set);
                check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))?;
            }
            if let Some(file) = &self.resolver {
                let (none, root) = (std::ptr::null(), c"/".as_ptr());
                check(libc::unshare(libc::CLONE_NEWNS))?;
                check(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
                let target = c"/etc/resolv.conf".as_ptr();
                check(libc::mount(file.as_ptr(), target, none, libc::MS_BIND, none.cast()))?;
            }
        }
        Ok(())
    }
}

/// Reads a pipe to its end on a thread of its own.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("the output is piped");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn raw(file: &OwnedFd) -> RawFd {
    file.as_raw_fd()
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once, if it was piped.
    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("standard output was piped and not yet taken")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child is not reaped yet, so the id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// Waits for its end, at most for `bound`.
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        clock::wait_for(&format!("end of {}", self.name.clone()), bound, || self.ended())
    }

    /// Waits for its end and gives its piped standard output; anything but success fails the test.
    pub fn finish(mut self, bound: Duration) -> String {
        let reader = read_all(Some(self.stdout()));
        let status = self.wait(bound);
        let bytes = reader.join().expect("reader of a child's output");
        let text = String::from_utf8(bytes).expect("standard output is UTF-8");
        assert!(status.success(), "{} ended with {status}\nstdout: {text}", self.name);
        text
    }

    /// Asks it to end with `SIGTERM` and waits.
    pub fn terminate(&mut self, bound: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(bound)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The path of a tool in `PATH`; fails with the command that installs it.
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed; `cargo xtask setup --tests` installs it"))
}

/// Fails unless the tests run as root.
pub fn require_root() {
    // SAFETY: no arguments, cannot fail.
    let uid = unsafe { libc::geteuid() };
    assert_eq!(
        uid, 0,
        "these tests load eBPF programs and make namespaces: run them as root (`sudo cargo xtask test`)"
    );
}
