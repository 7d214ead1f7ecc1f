//! `cargo xtask vm`: the agent, or any command, inside Debian kernels under QEMU without KVM.
//!
//! In: `tests/kernels.toml`, the built agent and actors, `tests/vm/*.sh`. Out: the guest's output and exit code; for the checks
//! also the verdict on what came back. Needs no root. Kernels are kept in `.cache/kernels/`.
mod disk;
mod elf;
mod initramfs;
mod kernels;
mod ktls;
mod mirror;
mod package;
mod power;
mod qemu;
mod relayed;
mod scenario;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::shell;
use initramfs::Initramfs;
use kernels::{Files, Kernel};
use qemu::{End, Machine};
use relayed::Relayed;
use scenario::Scenario;

/// Arguments of `cargo xtask vm`.
#[derive(Args, Default)]
pub struct VmArgs {
    /// A kernel series of tests/kernels.toml, such as 6.1; repeatable. Default: those marked for CI.
    #[arg(long)]
    kernel: Vec<String>,
    /// Put this file into the guest, as HOST or HOST:GUEST; repeatable. Programs bring their shared libraries along.
    #[arg(long)]
    file: Vec<String>,
    /// Run only this check; repeatable. Default: all.
    #[arg(long, value_enum)]
    check: Vec<Check>,
    /// Run only this scenario of tests/vm/scenarios.toml; repeatable. Default: all.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only the scenarios that CI runs.
    #[arg(long, conflicts_with = "scenario")]
    ci: bool,
    /// Build the agent with optimisations.
    #[arg(long)]
    release: bool,
    /// Take this agent instead of building one.
    #[arg(long, conflicts_with = "release")]
    agent: Option<PathBuf>,
    /// Keep what the guest left in its /out in this folder, in one per kernel.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// How often the power goes in the check `power`.
    #[arg(long, default_value_t = 1)]
    kills: u32,
    /// Only list the kernels.
    #[arg(long)]
    list: bool,
    /// Seconds until the machine is switched off.
    #[arg(long, default_value_t = TIMEOUT_SECONDS)]
    timeout: u64,
    /// A shell command to run in the guest instead of the checks. `spantap` is in its PATH; /task has what the scenarios use.
    #[arg(last = true)]
    command: Vec<String>,
}

/// What is checked in each kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// Requests between busybox programs: one span at each end of each, by every rung that the kernel has.
    Requests,
    /// Injected delays and losses: the largest segment and the cause.
    Scenarios,
    /// The wall clock jumps by an hour, forth and back, while spans are relayed.
    Clock,
    /// The disk below the log fails for moments while spans are relayed.
    Eio,
    /// The kernel encrypts connections (kTLS).
    Ktls,
    /// The power goes while spans are relayed; in boots of its own.
    Power,
}

impl Check {
    const ALL: [Self; 6] = [Self::Requests, Self::Scenarios, Self::Clock, Self::Eio, Self::Ktls, Self::Power];

    /// Its script in `tests/vm/` and in the guest's `/task/`.
    const fn script(self) -> &'static str {
        match self {
            Self::Requests => "guest.sh",
            Self::Scenarios => "scenarios.sh",
            Self::Clock => "clock.sh",
            Self::Eio => "eio.sh",
            Self::Ktls => "ktls.sh",
            Self::Power => "power.sh",
        }
    }

    /// Judges what the guest left.
    fn judge(self, kernel: &Kernel, scenarios: &[Scenario], end: &End) -> Result<String> {
        match self {
            Self::Requests => {
                let spans = end.file("spans.jsonl")?.context("the guest check brought back no spans.jsonl")?;
                verdict::check(&spans)
            }
            Self::Scenarios => scenario::check(scenarios, &kernel.derived, |name| end.file(name)),
            Self::Clock => {
                let verdict = relayed(end, "clock.said")?;
                Ok(format!("the clock jumped by an hour, forth and back: {verdict}"))
            }
            Self::Eio => relayed(end, "eio.said").map(|verdict| format!("the disk failed with EIO: {verdict}")),
            Self::Ktls => {
                let file =
                    |name: &str| end.file(name)?.with_context(|| format!("the guest check brought back no {name}"));
                ktls::check(&file("ktls.jsonl")?, &file("ktls.said")?)
            }
            Self::Power => bail!("it runs in boots of its own"),
        }
    }
}

/// Whether every span that was acknowledged was taken, by what sender and sink said in a file.
fn relayed(end: &End, file: &str) -> Result<String> {
    let mut relayed = Relayed::default();
    relayed.add(&end.file(file)?.with_context(|| format!("the guest check brought back no {file}"))?);
    relayed.verdict()
}

const TIMEOUT_SECONDS: u64 = 600;

/// The guest's command failed; this task ends with the same code.
#[derive(Debug)]
pub struct GuestFailed {
    /// The command's exit code, or 124 for a timeout and 125 for a machine that ended without one.
    pub code: u8,
    what: String,
}

impl std::fmt::Display for GuestFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for GuestFailed {}

/// Boots each kernel in turn, also after one that fails.
pub fn vm(repo: &Repo, args: &VmArgs) -> Result<()> {
    let kernels = kernels::chosen(repo, &args.kernel)?;
    if args.list {
        for kernel in kernels {
            println!("{:<6} {} {}", kernel.series, if kernel.ci { "ci" } else { "  " }, kernel.why);
        }
        return Ok(());
    }
    needs()?;
    let scenarios = scenario::read(repo, &args.scenario, args.ci)?;
    let programs = Programs::stripped(repo, args)?;
    let mut failure = Ok(());
    for kernel in &kernels {
        let started = Instant::now();
        let result =
            kernels::fetch(repo, kernel).and_then(|files| one(repo, args, kernel, &files, (&programs, &scenarios)));
        let took = started.elapsed().as_secs_f64();
        match &result {
            Ok(()) => println!("vm {}: passed in {took:.0} s", kernel.series),
            Err(error) => eprintln!("vm {}: failed in {took:.0} s: {error:#}", kernel.series),
        }
        failure = failure.and(result);
    }
    failure
}

/// Runs every check in the kernels that CI runs, with the scenarios that CI runs.
pub fn for_ci(repo: &Repo) -> Result<()> {
    vm(repo, &VmArgs { timeout: TIMEOUT_SECONDS, ci: true, kills: 1, ..VmArgs::default() })
}

fn one(
    repo: &Repo,
    args: &VmArgs,
    kernel: &Kernel,
    files: &Files,
    (programs, scenarios): (&Programs, &[Scenario]),
) -> Result<()> {
    let checks = match (args.command.is_empty(), args.check.is_empty()) {
        (false, _) => &[][..],
        (true, true) => &Check::ALL,
        (true, false) => &args.check,
    };
    let timeout = Duration::from_secs(args.timeout);
    let (power, checks): (Vec<Check>, Vec<Check>) = checks.iter().partition(|check| **check == Check::Power);
    if !power.is_empty() {
        let summary = power::check(&files.image, timeout, args.kills, || archive(repo, args, files, programs))?;
        println!("vm {}: {summary}", kernel.series);
        if checks.is_empty() {
            return Ok(());
        }
    }
    let mut archive = archive(repo, args, files, programs)?;
    archive.data("/task/scenarios.list", 0o644, scenario::list(scenarios).as_bytes());
    let command = if checks.is_empty() {
        args.command.join(" ")
    } else {
        checks.iter().map(|check| format!("sh /task/{}", check.script())).collect::<Vec<_>>().join(" && ")
    };
    println!(
        "vm {}: booting {} (initramfs {} MB)",
        kernel.series,
        repo.shown(&files.image),
        archive.size() / 1_000_000
    );
    let machine = Machine { image: &files.image, timeout, disk: None };
    let end = machine.run(archive, &command)?;
    print!("{}", end.output);
    // A machine that was switched off has left nothing; that is not the news.
    if let Some(folder) = args.keep.as_ref().filter(|_| end.code != qemu::TIMED_OUT) {
        end.keep(&folder.join(&kernel.series))?;
    }
    if end.code != 0 {
        eprintln!("--- end of the guest's console\n{}", end.console_end());
        // Exit codes are one byte; an unexpected one must not turn into success.
        let code = u8::try_from(end.code).unwrap_or(1);
        return Err(GuestFailed { code, what: format!("vm {}: {}", kernel.series, end.describe()) }.into());
    }
    for check in checks {
        let summary = check.judge(kernel, scenarios, &end)?;
        println!("vm {}: {summary}", kernel.series);
    }
    Ok(())
}

/// What the guest finds: the agent, the checks and all that they start.
fn archive(repo: &Repo, args: &VmArgs, files: &Files, programs: &Programs) -> Result<Initramfs> {
    let mut archive = Initramfs::with_busybox()?;
    elf::add_program(&mut archive, &programs.agent, "/bin/spantap")?;
    elf::add_program(&mut archive, &programs.actor, "/task/actor")?;
    for tool in TOOLS {
        let host = shell::which(tool).with_context(|| format!("no {tool}; fix: cargo xtask setup --tests"))?;
        // Not in the PATH: busybox has lesser ones by the same names.
        elf::add_program(&mut archive, &host, &format!("/task/{tool}"))?;
    }
    for module in &files.modules {
        let name = module.file_name().context("a module has a name")?;
        archive.file(module, &format!("/task/{}", name.to_string_lossy()))?;
    }
    for script in ["lib.sh", "rig.sh"].into_iter().chain(Check::ALL.map(Check::script)) {
        archive.file(&repo.path("tests/vm").join(script), &format!("/task/{script}"))?;
    }
    for file in &args.file {
        let (host, guest) = file.split_once(':').unwrap_or((file, ""));
        let name = Path::new(host).file_name().with_context(|| format!("--file {host} names no file"))?;
        let guest = if guest.is_empty() { format!("/task/{}", name.to_string_lossy()) } else { guest.to_owned() };
        elf::add_program(&mut archive, Path::new(host), &guest)?;
    }
    Ok(archive)
}

/// Namespaces and netem (iproute2), a name server, what makes a file system, and what speaks TLS.
const TOOLS: &[&str] = &["ip", "tc", "dnsmasq", "mkfs.ext4", "openssl"];

/// The tools that this needs, all of them at once in one message.
fn needs() -> Result<()> {
    let tools = ["qemu-system-x86_64", "busybox", "curl", "xz", "dpkg-deb", "tar", "strip", "ldd"];
    let missing: Vec<_> = tools.into_iter().filter(|tool| shell::which(tool).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { bail!("missing {missing:?}; fix: cargo xtask setup --tests") }
}

/// Copies of our programs without symbols: unstripped ones would fill the guest's memory.
struct Programs {
    agent: PathBuf,
    actor: PathBuf,
}

impl Programs {
    fn stripped(repo: &Repo, args: &VmArgs) -> Result<Self> {
        let agent = match &args.agent {
            Some(agent) => agent.clone(),
            None => {
                build::build(repo, &BuildArgs { release: args.release, toolchain: None })?;
                repo.agent_binary(if args.release { "release" } else { "debug" })
            }
        };
        let mut command = shell::cargo();
        command.args(["build", "--quiet", "-p", "spantap-tests", "--bin", "actor"]).current_dir(&repo.root);
        shell::run(&mut command)?;
        let actor = repo.agent_binary("debug").with_file_name("actor");
        let folder = repo.cache("vm");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self { agent: strip(&agent, &folder.join("spantap"))?, actor: strip(&actor, &folder.join("actor"))? })
    }
}

fn strip(program: &Path, copy: &Path) -> Result<PathBuf> {
    shell::run(Command::new("strip").arg("-o").arg(copy).arg(program))?;
    Ok(copy.to_owned())
}
