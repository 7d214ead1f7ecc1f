//! A thread's sleeps are found by what it slept in, and its throttled waits as such.
//!
//! Truth: the thread's own `schedstat` and clock and its cgroup's `cpu.stat` around each step.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Lines, Write},
    path::PathBuf,
    process::ChildStdout,
    time::Duration,
};

use agent_common::{
    message::{CallRecord, direction, flag},
    sched::{BLOCKED, Blocked},
};
use serde::Deserialize;
use spantap_tests::{
    cgroup::Limit,
    clock,
    process::{Launch, Process, require_root, tool},
    stats::assert_within,
    temp::TempDir,
};

use crate::records::{self, Records};

const SLEEPER: &str = include_str!("sleeper.py");
const BOUND: Duration = Duration::from_secs(30);

/// What the sleeper says of a step.
#[derive(Clone, Debug, Deserialize)]
struct Step {
    step: String,
    tid: u32,
    wall_ns: u64,
    cpu_ns: u64,
    delay_ns: u64,
    throttled_ns: u64,
}

impl Step {
    fn asleep_ns(&self) -> u64 {
        self.wall_ns - self.cpu_ns - self.delay_ns
    }
}

/// A step with the call before it and the call after it.
#[derive(Debug)]
struct Seen {
    step: Step,
    read: CallRecord,
    written: CallRecord,
}

impl Seen {
    fn new(step: Step, pair: &[CallRecord]) -> Self {
        assert_eq!((pair[0].direction, pair[1].direction), (direction::RECEIVE, direction::SEND));
        assert!(pair.iter().all(|call| call.flags & flag::SCHED != 0), "{pair:?}");
        Self { step, read: pair[0], written: pair[1] }
    }

    fn asleep_ns(&self) -> [u64; BLOCKED] {
        std::array::from_fn(|index| self.written.off_cpu_ns[index] - self.read.off_cpu_ns[index])
    }

    /// What is wrong with how the step's sleep is told, if it was all of one kind.
    fn told_wrong(&self, expected: Blocked) -> Option<String> {
        let asleep = self.asleep_ns();
        let what = format!("{:?} asleep {asleep:?}, run queue {}", self.step, self.run_queue_ns());
        // Of the whole step: what is left of it beside a long wait for a CPU is not exact in schedstat. What was not seen may
        // have been sleep or not.
        let apart = self.step.asleep_ns().abs_diff(asleep.iter().sum());
        if apart.saturating_sub(self.unseen_ns()) * 10 > self.step.wall_ns {
            return Some(format!("{apart} ns apart, {} not seen: {what}", self.unseen_ns()));
        }
        let stands_out = asleep[expected as usize] * 10 >= asleep.iter().sum::<u64>() * 9;
        (!stands_out).then(|| format!("{expected:?} should stand out: {what}"))
    }

    fn run_queue_ns(&self) -> u64 {
        self.written.run_queue_enter_ns - self.read.run_queue_exit_ns
    }

    fn unseen_ns(&self) -> u64 {
        self.written.unseen_enter_ns - self.read.unseen_exit_ns
    }

    fn throttled_ns(&self) -> u64 {
        self.written.throttled_enter_ns - self.read.throttled_exit_ns
    }
}

/// A sleeper before its first step.
struct Sleeper {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    folder: TempDir,
    /// Waits that only a busy host adds stay short.
    _first: Limit,
}

impl Sleeper {
    fn start(cpu: Option<usize>, steps: &[&str]) -> Self {
        require_root();
        let folder = TempDir::new("sched");
        let script = folder.write("sleeper.py", SLEEPER);
        let go = folder.join("go");
        assert!(Launch::new(tool("mkfifo")).arg(&go).output().status.success());
        let python = tool("python3");
        let line = "exec \"$0\" \"$1\" \"$2\" $4 < \"$3\"";
        let launch = Launch::new(tool("sh")).args(["-c", line]).arg(python).arg(script).arg(folder.join("")).arg(&go);
        let first = Limit::cpu_first();
        let launch = launch.arg(steps.join(" ")).stdout_piped().limited_by(&first);
        let mut process = if let Some(cpu) = cpu { launch.on_cpu(cpu) } else { launch }.spawn();
        let lines = BufReader::new(process.stdout()).lines();
        Self { process, lines, folder, _first: first }
    }

    /// Lets it begin, and gives each step with its calls.
    fn finish(mut self, records: &mut Records) -> Vec<Seen> {
        let mut go = File::options().write(true).open(self.folder.join("go")).expect("open the FIFO");
        assert_eq!(self.lines.next().expect("a line").expect("a line"), "ready");
        go.write_all(b"\n").expect("start the steps");
        let parse = |line: std::io::Result<String>| serde_json::from_str(&line.expect("a line")).expect("a step");
        let steps: Vec<Step> = self.lines.map(parse).collect();
        self.process.wait(BOUND);
        let of_steps = |taken: &[Vec<u8>]| -> Vec<CallRecord> {
            records::calls(taken).filter(|call| call.tid == steps[0].tid && call.result == 1).collect()
        };
        let taken = records.wait_for("two calls per step", BOUND, |taken| of_steps(taken).len() >= 2 * steps.len());
        let calls = of_steps(&taken);
        steps.into_iter().zip(calls.chunks_exact(2)).map(|(step, pair)| Seen::new(step, pair)).collect()
    }
}

/// How often each sleep is slept. A kernel may hide switches away from some process (a sandbox's own first one, say): what a
/// thread did until such a switch is then said not to be seen, and is not part of anything else.
const TIMES: usize = 9;

#[test]
fn each_sleep_is_counted_under_what_it_waits_for() {
    let all = [
        ("sleep", Blocked::Sleep),
        ("poll", Blocked::Poll),
        ("lock", Blocked::Lock),
        ("stream", Blocked::Socket),
        ("disk", Blocked::Disk),
    ];
    let all = all.map(|kind| [kind; TIMES]).concat();
    let steps: Vec<&str> = ["sleep"].into_iter().chain(all.iter().map(|(step, _)| *step)).collect();
    let sleeper = Sleeper::start(None, &steps);
    let mut records = Records::of(sleeper.process.pid());
    // The first one begins while the kernel side may still be looking at its first call.
    let seen = sleeper.finish(&mut records);
    for (seen, kinds) in seen[1..].chunks(TIMES).zip(all.chunks(TIMES)) {
        let wrong: Vec<String> = seen.iter().filter_map(|seen| seen.told_wrong(kinds[0].1)).collect();
        println!("{}: {} of {TIMES} are right", kinds[0].0, TIMES - wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let unseen = seen.iter().filter(|seen| seen.unseen_ns() * 10 > seen.step.wall_ns).count();
        assert!(unseen * 2 < TIMES, "{unseen} of {TIMES} were not seen");
    }
}

#[test]
fn no_sleep_passes_for_something_else() {
    const NAPS: usize = 400;
    const NAP_NS: u64 = 5_000_000;
    let sleeper = Sleeper::start(None, &["nap"; NAPS]);
    let mut records = Records::of(sleeper.process.pid());
    let seen = sleeper.finish(&mut records);
    let of_naps = &seen[1..];
    let unseen = of_naps.iter().filter(|seen| seen.unseen_ns() > 0).count();
    println!("of {unseen} of {NAPS} not all was seen");
    assert!(unseen * 10 < NAPS, "of {unseen} of {NAPS} not all was seen");
    for seen in of_naps {
        let (asleep, unseen) = (seen.asleep_ns().iter().sum::<u64>(), seen.unseen_ns());
        assert!(asleep + unseen >= NAP_NS * 9 / 10 && asleep <= seen.step.wall_ns, "{asleep} asleep: {seen:?}");
    }
}

#[test]
fn waits_of_a_throttled_cgroup_are_throttled() {
    // On one CPU: the cgroup's own total counts each CPU.
    let sleeper = Sleeper::start(Some(0), &["sleep", "spin", "sleep"]);
    let _quota = Quota::new(sleeper.process.pid());
    let mut records = Records::of(sleeper.process.pid());
    let seen = sleeper.finish(&mut records);
    let (spin, asleep) = (&seen[1], &seen[2]);
    println!("{:?}: run queue {}, throttled {}", spin.step, spin.run_queue_ns(), spin.throttled_ns());
    let truth = spin.step.throttled_ns;
    // 50 ms of work at a tenth of a CPU.
    assert!(truth > 200_000_000, "cpu.stat: {truth}");
    assert_eq!(spin.step.step, "spin");
    assert_within("throttled", spin.throttled_ns(), truth, 0.1);
    assert!(spin.throttled_ns() <= spin.run_queue_ns());
    assert_within("run queue", spin.run_queue_ns(), spin.step.delay_ns, 0.1);
    assert!(asleep.throttled_ns() <= asleep.run_queue_ns(), "asleep, not throttled");
}

/// A tenth of a CPU for one process, by cgroup v1 (the v2 controller where v1 is not mounted is tested in the scenarios).
struct Quota(PathBuf);

impl Quota {
    fn new(pid: u32) -> Self {
        let path = PathBuf::from(format!("/sys/fs/cgroup/cpu/spantap-test-quota-{}", std::process::id()));
        fs::create_dir(&path).expect("create a cgroup of the cpu controller");
        let set = |file: &str, value: String| fs::write(path.join(file), value).expect("write the cgroup");
        set("cpu.cfs_period_us", "50000".into());
        set("cpu.cfs_quota_us", "5000".into());
        // Whatever else runs here must not keep it from using its share up.
        set("cpu.shares", "262144".into());
        set("cgroup.procs", pid.to_string());
        Self(path)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = clock::poll(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
    }
}
