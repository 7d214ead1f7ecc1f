//! `cargo xtask vm`: the agent, or any command, inside Debian kernels under QEMU without KVM.
//!
//! In: `tests/kernels.toml`, the built agent, `tests/vm/guest.sh`. Out: the guest's output and exit code; for the guest check
//! also the verdict on the spans that came back. Needs no root. Kernels are kept in `.cache/kernels/`.
mod elf;
mod initramfs;
mod kernels;
mod qemu;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::shell;
use initramfs::Initramfs;
use kernels::Kernel;
use qemu::Machine;

/// Arguments of `cargo xtask vm`.
#[derive(Args)]
pub struct VmArgs {
    /// A kernel series of tests/kernels.toml, such as 6.1; repeatable. Default: those marked for CI.
    #[arg(long)]
    kernel: Vec<String>,
    /// Put this file into the guest, as HOST or HOST:GUEST; repeatable. Programs bring their shared libraries along.
    #[arg(long)]
    file: Vec<String>,
    /// Build the agent with optimisations.
    #[arg(long)]
    release: bool,
    /// Take this agent instead of building one.
    #[arg(long, conflicts_with = "release")]
    agent: Option<PathBuf>,
    /// Only list the kernels.
    #[arg(long)]
    list: bool,
    /// Seconds until the machine is switched off.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// A shell command to run in the guest instead of the guest check. `spantap` is in its PATH.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The script of the guest check, and where the guest has it.
const CHECK_SCRIPT: &str = "tests/vm/guest.sh";
const CHECK_COMMAND: &str = "sh /task/guest.sh";

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

/// Boots each kernel in turn; fails at the first that fails.
pub fn vm(repo: &Repo, args: &VmArgs) -> Result<()> {
    let kernels = kernels::chosen(repo, &args.kernel)?;
    if args.list {
        for kernel in kernels {
            println!("{:<6} {} {}", kernel.series, if kernel.ci { "ci" } else { "  " }, kernel.why);
        }
        return Ok(());
    }
    needs()?;
    let agent = stripped_agent(repo, args)?;
    for kernel in &kernels {
        let started = Instant::now();
        let image = kernels::fetch(repo, kernel)?;
        one(repo, args, kernel, &image, &agent)?;
        println!("vm {}: passed in {:.0} s", kernel.series, started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Runs the kernels that CI runs, with the agent's release build.
pub fn for_ci(repo: &Repo) -> Result<()> {
    vm(
        repo,
        &VmArgs {
            kernel: vec![],
            file: vec![],
            release: false,
            agent: None,
            list: false,
            timeout: 300,
            command: vec![],
        },
    )
}

fn one(repo: &Repo, args: &VmArgs, kernel: &Kernel, image: &Path, agent: &Path) -> Result<()> {
    let check = args.command.is_empty();
    let mut files = Initramfs::with_busybox()?;
    elf::add_program(&mut files, agent, "/bin/spantap")?;
    for file in &args.file {
        let (host, guest) = file.split_once(':').unwrap_or((file, ""));
        let name = Path::new(host).file_name().with_context(|| format!("--file {host} names no file"))?;
        let guest = if guest.is_empty() { format!("/task/{}", name.to_string_lossy()) } else { guest.to_owned() };
        elf::add_program(&mut files, Path::new(host), &guest)?;
    }
    let command = if check {
        files.file(&repo.path(CHECK_SCRIPT), "/task/guest.sh")?;
        CHECK_COMMAND.to_owned()
    } else {
        args.command.join(" ")
    };
    println!("vm {}: booting {} (initramfs {} MB)", kernel.series, repo.shown(image), files.size() / 1_000_000);
    let machine = Machine { image, timeout: Duration::from_secs(args.timeout) };
    let end = machine.run(files, &command)?;
    print!("{}", end.output);
    if end.code != 0 {
        eprintln!("--- end of the guest's console\n{}", end.console_tail());
        // Exit codes are one byte; an unexpected one must not turn into success.
        let code = u8::try_from(end.code).unwrap_or(1);
        return Err(GuestFailed { code, what: format!("vm {}: {}", kernel.series, end.describe()) }.into());
    }
    if check {
        let spans = end.file("spans.jsonl")?.context("the guest check brought back no spans.jsonl")?;
        let summary = verdict::check(&spans).with_context(|| format!("vm {}", kernel.series))?;
        println!("vm {}: {summary}", kernel.series);
    }
    Ok(())
}

/// The tools that this needs, all of them at once in one message.
fn needs() -> Result<()> {
    let tools = ["qemu-system-x86_64", "busybox", "curl", "xz", "dpkg-deb", "tar", "strip", "ldd"];
    let missing: Vec<_> = tools.into_iter().filter(|tool| shell::which(tool).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { bail!("missing {missing:?}; fix: cargo xtask setup --tests") }
}

/// A copy of the agent without symbols: an unstripped build would fill the guest's memory.
fn stripped_agent(repo: &Repo, args: &VmArgs) -> Result<PathBuf> {
    let built = match &args.agent {
        Some(agent) => agent.clone(),
        None => {
            build::build(repo, &BuildArgs { release: args.release, toolchain: None })?;
            repo.agent_binary(if args.release { "release" } else { "debug" })
        }
    };
    let folder = repo.cache("vm");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let copy = folder.join("spantap");
    shell::run(Command::new("strip").arg("-o").arg(&copy).arg(built))?;
    Ok(copy)
}
