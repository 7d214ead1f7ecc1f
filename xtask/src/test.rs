//! `cargo xtask test`: everything that CI runs, in order, stopping at the first failure.
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::setup::{self, SetupArgs};
use crate::{fuzz, shell, tidy, vm};

/// Arguments of `cargo xtask test`.
#[derive(Args)]
pub struct TestArgs {
    /// Run only these steps; repeatable.
    #[arg(long, value_enum)]
    only: Vec<Step>,
}

/// One step of the test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt on every crate, the kernel programs too.
    Format,
    /// The rules of ARCHITECTURE.md.
    Tidy,
    /// clippy on every target, warnings are errors.
    Clippy,
    /// Installs what the next steps need.
    Setup,
    /// The kernel programs and the agent with them inside.
    Object,
    /// Tests that need neither root nor a BPF toolchain.
    Unit,
    /// Documentation, warnings are errors.
    Doc,
    /// Tests that need root and real servers, and the scenarios that this machine tells apart whatever else runs on it.
    Privileged,
    /// Every scenario; by `--only` alone.
    Scenarios,
    /// Every other real server; by `--only` alone.
    Servers,
    /// What CI leaves out of the privileged tests; by `--only` alone.
    Rest,
    /// Each fuzz target over a fixed number of inputs.
    Fuzz,
    /// The agent in other kernels.
    Vm,
}

/// One row after the other, the steps of a row at once. Cheap ones first, so that a mistake shows early; but the kernel programs before the
/// unit tests, since the agent is compiled anew around them. Half of `Setup` waits for packages. `Fuzz` and `Vm` keep one CPU busy each, and
/// neither is about time.
const ROWS: &[&[Step]] = &[
    &[Step::Format],
    &[Step::Tidy],
    &[Step::Clippy, Step::Setup],
    &[Step::Object],
    &[Step::Unit],
    &[Step::Doc],
    &[Step::Privileged],
    &[Step::Scenarios],
    &[Step::Servers],
    &[Step::Rest],
    &[Step::Fuzz, Step::Vm],
];

/// What runs by `--only` alone, for CI's time.
const BY_ONLY: &[Step] = &[Step::Scenarios, Step::Servers, Step::Rest];

/// Scenarios whose injected time stands far above what a busy machine adds, or whose verdict is not a matter of time. Not those
/// of one sleep in one thread: a kernel that hides a switch takes all of it (`blocked_lock`, 1 of 15 requests here; `udp_echo`,
/// 1 of 16 runs), which is then told as `application`. Not `network_loss`: in 2 of 7 runs a retransmission was not counted for its request, which is not understood yet.
const STEADY_SCENARIOS: &[&str] = &[
    "cause::blocked_downstream",
    "cause::connect_abandoned",
    "cause::connect_refused",
    "cause::connect_syn_lost",
    "cause::connect_timeout",
    "cause::dns_error",
    "cause::half_closed",
    "cause::held_cwnd",
    "cause::keepalive_0ms",
    "cause::reader_busy",
    "cause::remote_slow",
    "cause::request_abandoned",
    "cause::send_buffer_full_peer_window",
    "cause::unix_socket",
];

/// Parts of the names of privileged tests that only the step `rest` runs, for CI's time: with fifty clients (those with one
/// check the same counts), variants of what CI runs in another form, and without a hook that puts no boundary between segments. And one that fails while others use the
/// disk: up to a third of a thread's waits for it is then seen neither as sleep nor as waiting for a CPU, which is not understood yet.
const LEFT_TO_REST: &[&str] = &[
    "fifty",
    "go_without_symbols",
    "counts_prepared_statements_as_often",
    "timing_of_the_whole_host_costs_few_wakeups",
    "each_sleep_is_counted_under_what_it_waits_for",
    "without::other_sockets",
    "without::received_",
    "without::sched_process_",
    "without::sent_",
    "without::tcp_destroy_sock",
    "without::tcp_receive_reset",
    "without::tcp_retransmit_skb",
    "without::tcp_send_reset",
    "without::tls_libraries",
    "without::unix_sockets",
];

/// Parts of the names of end-to-end tests that run alone, since they are about time or rates. Of the others two run at once: each has
/// an agent and programs of its own, and mostly waits for them.
const ALONE: &[&str] =
    &["budget::", "follow_idle::", "http_exact::", "lossy::", "messaging::", "segments::", "wrk_unthrottled::"];

/// Runs the steps.
pub fn test(repo: &Repo, args: &TestArgs) -> Result<()> {
    let mut times: Vec<(Step, Duration)> = Vec::new();
    for row in rows(&args.only) {
        let done: Vec<Result<_>> = thread::scope(|scope| {
            let running: Vec<_> = row.iter().map(|step| scope.spawn(|| timed(repo, *step))).collect();
            running.into_iter().map(|step| step.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        for time in done {
            times.push(time?);
        }
    }
    shell::heading("all steps passed");
    for (step, time) in &times {
        println!("  {:<12} {:>6.1} s", format!("{step:?}").to_lowercase(), time.as_secs_f64());
    }
    Ok(())
}

fn timed(repo: &Repo, step: Step) -> Result<(Step, Duration)> {
    shell::heading(&format!("{step:?}").to_lowercase());
    let started = Instant::now();
    let result = step.run(repo);
    let failed = || format!("step {step:?} failed after {:.0} s", started.elapsed().as_secs_f64());
    // Others of its row may go on for minutes.
    if let Err(error) = &result {
        eprintln!("{}: {error:#}", failed());
    }
    result.with_context(failed)?;
    Ok((step, started.elapsed()))
}

/// What CI runs, or what was asked for, in the same order.
fn rows(only: &[Step]) -> Vec<Vec<Step>> {
    let is_wanted = |step: &Step| if only.is_empty() { !BY_ONLY.contains(step) } else { only.contains(step) };
    let wanted = |row: &&[Step]| row.iter().copied().filter(is_wanted).collect();
    ROWS.iter().map(wanted).filter(|row: &Vec<Step>| !row.is_empty()).collect()
}

impl Step {
    fn run(self, repo: &Repo) -> Result<()> {
        match self {
            Self::Format => format(repo),
            Self::Clippy => cargo(repo, &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
            Self::Tidy => tidy::tidy(repo),
            Self::Unit => cargo(repo, &["test", "--workspace", "--exclude", "spantap-tests"]),
            Self::Doc => {
                let mut command = shell::cargo();
                command.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
                shell::run(command.current_dir(&repo.root))
            }
            Self::Setup => setup::setup(repo, &SetupArgs { tests: true, toolchain: None }),
            // The same profile as the unit tests: a release build would take CI several minutes more and show nothing else.
            Self::Object => build::build(repo, &BuildArgs { release: false, toolchain: None }),
            Self::Privileged => {
                let skipped =
                    |names: &[&'static str]| names.iter().flat_map(|name| ["--skip", name]).collect::<Vec<_>>();
                let rest = skipped(LEFT_TO_REST);
                privileged(repo, &["--lib", "--bins", "--test", "hooks"], 1, &rest)?;
                privileged(repo, &["--test", "e2e"], 1, &[ALONE, &rest].concat())?;
                privileged(repo, &["--test", "e2e"], 2, &[skipped(ALONE), rest].concat())?;
                // These trace nothing.
                privileged(repo, &["--test", "delivery"], 2, &[])?;
                privileged(repo, &["--test", "scenarios"], 1, STEADY_SCENARIOS)
            }
            Self::Scenarios => privileged(repo, &["--test", "scenarios"], 1, &[]),
            Self::Servers => {
                setup::servers(repo)?;
                privileged(repo, &["--test", "servers"], 1, &[])
            }
            Self::Rest => privileged(repo, &["--test", "e2e", "--test", "hooks"], 1, LEFT_TO_REST),
            Self::Fuzz => fuzz::fixed(repo),
            Self::Vm => vm::for_ci(repo),
        }
    }
}

fn cargo(repo: &Repo, arguments: &[&str]) -> Result<()> {
    shell::run(shell::cargo().args(arguments).current_dir(&repo.root))
}

/// The crates outside of the workspace have to be named one by one.
fn format(repo: &Repo) -> Result<()> {
    cargo(repo, &["fmt", "--all", "--check"])?;
    for manifest in ["agent-ebpf/Cargo.toml", "agent-protocol/fuzz/Cargo.toml", "agent-core/fuzz/Cargo.toml"] {
        if repo.path(manifest).is_file() {
            cargo(repo, &["fmt", "--manifest-path", manifest, "--check"])?;
        }
    }
    Ok(())
}

/// Runs so many tests at once. Missing privilege fails; it never skips.
fn privileged(repo: &Repo, targets: &[&str], at_once: usize, filter: &[&str]) -> Result<()> {
    if !shell::is_root() {
        bail!("these tests load kernel programs and need root: {}", shell::as_root("test"));
    }
    let mut command = shell::cargo();
    command.args(["test", "-p", "spantap-tests"]).args(targets);
    command.arg("--").arg(format!("--test-threads={at_once}")).args(filter);
    command.env("SPANTAP_BIN", repo.agent_binary("debug"));
    shell::run(command.current_dir(&repo.root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_ci_leaves_out_run_when_they_are_asked_for() {
        assert_eq!(rows(&[Step::Servers, Step::Vm, Step::Scenarios]), [[Step::Scenarios], [Step::Servers], [Step::Vm]]);
        let ci = rows(&[]).concat();
        assert!(BY_ONLY.iter().all(|step| !ci.contains(step)));
        assert_eq!(ci.len() + BY_ONLY.len(), Step::value_variants().len());
        assert_eq!(
            rows(Step::value_variants()).concat(),
            Step::value_variants(),
            "declared in the order in which they run"
        );
    }
}
