//! `cargo xtask run`: from a fresh checkout to an answer in one command.
//!
//! Sets up, builds in release, starts the agent on this host and, unless the arguments select something, a small workload in a
//! cgroup of its own that the agent traces in full. Prints the next commands. Whatever it started ends with it.
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::apt::{self, package};
use crate::build::{self, BuildArgs};
use crate::cgroup::Cgroup;
use crate::repo::Repo;
use crate::shell;
use crate::toolchain::Route;
use crate::workload::Workload;

/// Arguments of `cargo xtask run`.
#[derive(Args)]
pub struct RunArgs {
    /// The compiler for the kernel programs; by default the first that is installed, else Debian's.
    #[arg(long, value_enum)]
    toolchain: Option<Route>,
    /// Arguments for `spantap run`. With a `--select-…` or `--no-capture` among them no workload is started.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Set by SIGINT and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Longest wait for the agent to answer on its socket.
const READY_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the first slow request to be answered from the log.
const FIRST_SPAN_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the agent to flush and end.
const END_MAX: Duration = Duration::from_secs(20);
/// The kernel's limit on a unix socket's path is 108 bytes with the closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// Runs until Ctrl-C, or until the agent ends.
pub fn run(repo: &Repo, args: &RunArgs) -> Result<()> {
    if !shell::is_root() {
        bail!("the agent loads kernel programs and needs root: {}", shell::as_root("run"));
    }
    build::build(repo, &BuildArgs { release: true, toolchain: args.toolchain })?;
    ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst)).context("take over Ctrl-C")?;

    let folder = repo.cache("run");
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&folder)
        .with_context(|| format!("create {}", folder.display()))?;
    let socket = value_of(&args.args, "--socket").map_or_else(|| socket_path(&folder), PathBuf::from);
    let binary = repo.agent_binary("release");

    // Dropped in reverse order: workload, agent, cgroup.
    let cgroup = match wants_workload(&args.args) {
        true => Some(Cgroup::create("spantap-demo")?),
        false => None,
    };
    let mut agent = Agent::start(&binary, &folder, &socket, cgroup.as_ref(), &args.args)?;
    let ready = agent.wait_until_ready(&binary, &socket)?;
    if !ready {
        return agent.end();
    }
    let mut workload = None;
    if let Some(cgroup) = &cgroup {
        apt::install(&[package("python3", "the small workload of `cargo xtask run`")])?;
        workload = Some(Workload::start(cgroup, &folder)?);
    }
    print_next(repo, &binary, &socket, workload.is_some());
    let ended = agent.wait_until_stopped()?;
    drop(workload);
    match ended {
        Some(status) => bail!("the agent ended by itself: {status}"),
        None => agent.end(),
    }
}

/// Whether the workload is needed: nothing that the caller passed says what to trace.
fn wants_workload(args: &[String]) -> bool {
    !args.iter().any(|arg| arg.starts_with("--select-") || arg == "--no-capture")
}

/// The value of `--flag value` or `--flag=value`.
fn value_of<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix(flag)? {
        "" => args.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// The socket's path beside the data, or in `/run` where the checkout lies too deep for a unix socket.
fn socket_path(folder: &Path) -> PathBuf {
    let path = folder.join("spantap.sock");
    if path.as_os_str().len() <= SOCKET_PATH_MAX { path } else { PathBuf::from("/run/spantap-demo/spantap.sock") }
}

/// The agent's process. Ended when dropped.
struct Agent {
    child: Child,
}

impl Agent {
    fn start(binary: &Path, folder: &Path, socket: &Path, cgroup: Option<&Cgroup>, args: &[String]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("run");
        if value_of(args, "--socket").is_none() {
            command.arg("--socket").arg(socket);
        }
        if value_of(args, "--data-dir").is_none() {
            command.arg("--data-dir").arg(folder.join("data"));
        }
        if let Some(cgroup) = cgroup {
            command.arg("--select-cgroup").arg(&cgroup.path);
        }
        command.args(args);
        println!("  $ {}", shell::shown(&command));
        Ok(Self { child: command.spawn().with_context(|| format!("start {}", binary.display()))? })
    }

    /// Waits for the socket to answer; false if it was told to stop meanwhile.
    fn wait_until_ready(&mut self, binary: &Path, socket: &Path) -> Result<bool> {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            if STOP.load(Ordering::SeqCst) {
                return Ok(false);
            }
            if let Some(status) = self.child.try_wait().context("wait for the agent")? {
                bail!(
                    "the agent ended before it was ready: {status}; `{} check` says what is missing",
                    binary.display()
                );
            }
            if shell::succeeds(Command::new(binary).arg("status").arg("--socket").arg(socket)) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("the agent did not answer on {} within {} s", socket.display(), READY_MAX.as_secs())
    }

    /// Waits for Ctrl-C; returns the agent's status if it ended before.
    fn wait_until_stopped(&mut self) -> Result<Option<ExitStatus>> {
        loop {
            if STOP.load(Ordering::SeqCst) {
                return Ok(None);
            }
            if let Some(status) = self.child.try_wait().context("wait for the agent")? {
                // A terminal sends Ctrl-C to the agent as well, and it may be the first to notice.
                return Ok((!status.success() || !STOP.load(Ordering::SeqCst)).then_some(status));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the agent in order and says how it ended.
    fn end(mut self) -> Result<()> {
        let status = self.stop().context("the agent had to be killed")?;
        if status.success() { Ok(()) } else { bail!("the agent ended with {status}") }
    }

    /// SIGTERM, a bounded wait, then SIGKILL (which gives `None`).
    fn stop(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        shell::succeeds(
            Command::new("/bin/sh").args(["-c", "kill -TERM \"$1\"", "sh"]).arg(self.child.id().to_string()),
        );
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Prints the newcomer's next commands, with a slow request of the workload where one is known by then.
fn print_next(repo: &Repo, binary: &Path, socket: &Path, workload: bool) {
    let command = repo.shown(binary);
    let socket_flag = format!("--socket {}", repo.shown(socket));
    println!("\nspantap is running. In another terminal, as root:");
    // Of the rest of the host there are sizes and times, without a protocol, and some of it is slower than any demonstration.
    let of_workload = if workload { "--protocol http " } else { "" };
    println!("  {command} slow {of_workload}{socket_flag}      # where the slowest requests spent their time");
    match workload.then(|| slowest(binary, socket)).flatten() {
        Some(id) => println!("  {command} why {id} {socket_flag}      # one of them, decomposed"),
        None => println!("  {command} why ID {socket_flag}      # one of them, decomposed"),
    }
    println!("  {command} spans --follow {socket_flag}");
    println!("  {command} status {socket_flag}");
    if workload {
        println!("A small web shop runs in a cgroup of its own; its checkout has one slow hop (40 ms).");
    }
    println!("Ctrl-C ends everything.\n");
}

/// The id of the slowest request so far, once there is one with a whole slow hop in it.
fn slowest(binary: &Path, socket: &Path) -> Option<String> {
    // The log is durable: spans of an earlier run are in it as well.
    let since_ns = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos() as u64;
    let deadline = Instant::now() + FIRST_SPAN_MAX;
    while Instant::now() < deadline && !STOP.load(Ordering::SeqCst) {
        let mut command = Command::new(binary);
        command.args(["spans", "--json", "--kind", "server", "--protocol", "http", "--min-duration", "30ms"]);
        let found = shell::output(command.arg("--socket").arg(socket)).ok();
        if let Some(id) = found.and_then(|lines| slowest_id(&lines, since_ns)) {
            return Some(id);
        }
        thread::sleep(Duration::from_millis(250));
    }
    None
}

/// The span id with the longest duration among lines of `spantap spans --json` that started since then.
fn slowest_id(lines: &str, since_ns: u64) -> Option<String> {
    let spans = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let recent = spans.filter(|span| span["start_unix_ns"].as_u64().is_some_and(|start| start >= since_ns));
    let slowest = recent.max_by_key(|span| span["duration_ns"].as_u64().unwrap_or(0))?;
    slowest["span_id"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn a_selection_of_the_callers_own_starts_no_workload() {
        assert!(wants_workload(&strings(&[])));
        assert!(wants_workload(&strings(&["--metrics", "127.0.0.1:0", "--exclude-port", "22"])));
        assert!(!wants_workload(&strings(&["--select-port=80"])));
        assert!(!wants_workload(&strings(&["--select-all"])));
    }

    #[test]
    fn a_flag_is_read_in_both_forms() {
        assert_eq!(value_of(&strings(&["--socket", "/a"]), "--socket"), Some("/a"));
        assert_eq!(value_of(&strings(&["--socket=/b"]), "--socket"), Some("/b"));
        assert_eq!(value_of(&strings(&["--socket-mode", "x"]), "--socket"), None);
    }

    #[test]
    fn a_deep_checkout_gets_a_socket_path_that_the_kernel_accepts() {
        assert_eq!(socket_path(Path::new("/a")), PathBuf::from("/a/spantap.sock"));
        assert!(socket_path(&PathBuf::from("/").join("x".repeat(100))).as_os_str().len() <= SOCKET_PATH_MAX);
    }

    #[test]
    fn the_slowest_span_of_this_run_is_chosen() {
        let span = |id: &str, start: u64, duration: u64| {
            format!("{{\"span_id\":\"{id}\",\"start_unix_ns\":{start},\"duration_ns\":{duration}}}\n")
        };
        let lines = span("earlier", 99, 500) + &span("fast", 100, 5) + &span("slow", 101, 50);
        assert_eq!(slowest_id(&lines, 100).as_deref(), Some("slow"));
        assert_eq!(slowest_id("", 0), None);
    }
}
