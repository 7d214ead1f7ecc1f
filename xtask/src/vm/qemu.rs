//! One boot under QEMU: emulated, two processors, no network card, three serial lines, a disk if wanted.
//!
//! In: a kernel image, files, one shell command. Out: what the command printed, its exit code, and the files it left in `/out`.
//! The first serial line is the kernel's console, the second the command's output with the exit code in a closing mark, the third
//! a tar archive of `/out`.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs::Initramfs;
use crate::shell;

/// How to boot.
pub struct Machine<'a> {
    /// The kernel.
    pub image: &'a Path,
    /// When to switch the machine off.
    pub timeout: Duration,
    /// Its disk, `/dev/nvme0n1`.
    pub disk: Option<&'a Disk>,
}

/// A disk with a cache that it loses with its power.
pub struct Disk {
    /// What was there before the boot; the machine writes to it too.
    pub image: PathBuf,
    /// Writes and flushes in their order, as QEMU's `blklogwrites` keeps them.
    pub log: PathBuf,
}

/// A machine that runs.
pub struct Running {
    process: Process,
    folder: Folder,
}

/// Is killed when dropped.
struct Process(Child);

/// How a boot ended.
pub struct End {
    /// What the command printed.
    pub output: String,
    /// The command's exit code, or one of the two below.
    pub code: i32,
    console: String,
    folder: Folder,
}

/// The machine was still running at the timeout.
pub const TIMED_OUT: i32 = 124;
/// The machine ended without an exit code (panic, or no init).
pub const NO_VERDICT: i32 = 125;

/// Marks the line that carries the exit code.
const MARK: &str = "@@exit ";

/// What the guest's first process writes on the console.
const BOOTED: &str = "@@booted";

/// A panic ends the machine instead of hanging it, and so does a processor that is stuck for a minute, after what all of them do was
/// told: an agent or a program of it that stops a kernel has to be seen as that.
const KERNEL_ARGUMENTS: &str = "console=ttyS0,115200 loglevel=7 mitigations=off tsc=reliable panic=-1 watchdog_thresh=30 \
                                softlockup_panic=1 softlockup_all_cpu_backtrace=1";

/// What the kernel's first line of trouble has in it.
const TROUBLE: &[&str] = &["BUG: ", "Oops", "Kernel panic", "self-detected stall", "detected stalls"];

/// An emulated kernel that has not come to its first process by then has stopped for good: seen once in some twenty boots.
const BOOT_MAX: Duration = Duration::from_secs(120);
const BOOTS_MAX: u32 = 3;

/// The first process of the guest. It mounts what the agent reads, brings the loopback up, runs the command, and switches off.
/// Before that, `stty` waits until the mark has left: a process that the command left behind may keep the line open, and then closing
/// it does not wait.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox echo @@booted
/bin/busybox mkdir -p /proc /sys /dev /tmp /out /root /run /sbin /usr/bin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ifconfig lo 127.0.0.1 up
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
cd /task
sh /task.command >/dev/ttyS1 2>&1 </dev/null
code=$?
printf '\n@@exit %s\n' "$code" >/dev/ttyS1
tar -c -C /out . >/dev/ttyS2
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
sync
poweroff -f
"#;

impl Machine<'_> {
    /// Boots, runs the command, and waits for the end. Does it again where the emulator left a processor behind, and says so.
    pub fn run(&self, files: Initramfs, command: &str) -> Result<End> {
        for _ in 1..BOOTS_MAX {
            let end = self.start(files.clone(), command)?.end(self.timeout)?;
            if !lost_processor(&end.console) {
                return Ok(end);
            }
            println!(
                "{}--- the emulator runs a processor no more; again, from the boot on\n{}",
                end.output,
                end.console_end()
            );
        }
        self.start(files, command)?.end(self.timeout)
    }

    /// Boots and runs the command. Boots again where the kernel stops before its first process, and says so.
    pub fn start(&self, mut files: Initramfs, command: &str) -> Result<Running> {
        files.data("/init", 0o755, INIT.as_bytes());
        files.data("/task.command", 0o644, format!("{command}\n").as_bytes());
        let folder = Folder::new()?;
        let initrd = folder.0.join("initrd");
        fs::write(&initrd, files.finish()).with_context(|| format!("write {}", initrd.display()))?;
        for boot in 1..=BOOTS_MAX {
            let mut process = self.boot(&initrd, &folder.0)?;
            if comes_up(&mut process.0, &folder)? {
                return Ok(Running { process, folder });
            }
            println!("boot {boot} stopped before the first process: {}", tail(&folder.text("console"), 3));
        }
        let by_hand = shell::shown(&self.command(&initrd, &folder.0));
        bail!("{BOOTS_MAX} boots stopped before the first process; by hand: {by_hand}")
    }

    fn boot(&self, initrd: &Path, folder: &Path) -> Result<Process> {
        // QEMU empties it, but only once it has begun.
        fs::write(folder.join("console"), "").context("empty the console's file")?;
        let mut qemu = self.command(initrd, folder);
        let child = qemu.stdin(Stdio::null()).spawn().with_context(|| format!("start `{}`", shell::shown(&qemu)))?;
        Ok(Process(child))
    }

    fn command(&self, initrd: &Path, folder: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi,tb-size=512", "-m", "1536", "-smp", "2"]);
        qemu.args(["-nographic", "-monitor", "none", "-nodefaults", "-no-reboot", "-nic", "none"]);
        qemu.arg("-kernel").arg(self.image).arg("-initrd").arg(initrd);
        qemu.args(["-append", KERNEL_ARGUMENTS]);
        for line in ["console", "output", "files.tar"] {
            qemu.arg("-serial").arg(format!("file:{}", folder.join(line).display()));
        }
        if let Some(Disk { image, log }) = self.disk {
            let file = |name: &str, path: &Path| format!("driver=file,node-name={name},filename={}", path.display());
            for node in
                [file("image", image), file("log", log), "driver=blklogwrites,node-name=disk,file=image,log=log".into()]
            {
                qemu.arg("-blockdev").arg(node);
            }
            qemu.args(["-device", "nvme,serial=spantap,drive=disk"]);
        }
        qemu
    }
}

impl Running {
    /// Waits for the end.
    pub fn end(mut self, timeout: Duration) -> Result<End> {
        let timed_out = !wait(&mut self.process.0, timeout)?;
        let (output, code) = split_exit_code(&self.output());
        let code = if timed_out { TIMED_OUT } else { code.unwrap_or(NO_VERDICT) };
        Ok(End { output, code, console: self.folder.text("console"), folder: self.folder })
    }

    /// What the command has printed so far.
    pub fn output(&self) -> String {
        self.folder.text("output")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.0.try_wait().context("wait for QEMU")?.is_some())
    }

    /// Ends the machine as a loss of power does. Gives what the command had printed.
    pub fn kill(mut self) -> Result<String> {
        switch_off(&mut self.process.0)?;
        Ok(self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = switch_off(&mut self.0); // it may have ended
    }
}

fn switch_off(machine: &mut Child) -> Result<()> {
    machine.kill().context("switch the machine off")?;
    machine.wait().context("wait for QEMU").map(drop)
}

impl End {
    /// One sentence on the exit code.
    pub fn describe(&self) -> String {
        match self.code {
            TIMED_OUT => "the guest did not end in time".into(),
            NO_VERDICT => "the guest ended without an exit code".into(),
            code => format!("the guest's command ended with {code}"),
        }
    }

    /// The kernel's console from its first line of trouble on, or its last lines.
    pub fn console_end(&self) -> String {
        from_trouble(&self.console).unwrap_or_else(|| tail(&self.console, 40))
    }

    /// Puts the files that the command left in `/out` into a folder.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let archive = self.folder.0.join("files.tar");
        shell::output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder)).map(drop)
    }

    /// A file that the command left in `/out`, as text.
    pub fn file(&self, name: &str) -> Result<Option<String>> {
        let archive = self.folder.0.join("files.tar");
        let listing = shell::output(Command::new("tar").arg("-tf").arg(&archive))?;
        let path = format!("./{name}");
        if !listing.lines().any(|line| line == path) {
            return Ok(None);
        }
        shell::output(Command::new("tar").arg("-xOf").arg(&archive).arg(path)).map(Some)
    }
}

/// Waits for the machine, and switches it off at the timeout; false if it had to.
fn wait(machine: &mut Child, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if machine.try_wait().context("wait for QEMU")?.is_some() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    switch_off(machine)?;
    Ok(false)
}

/// Waits for the first process; false if there was none in time. A machine that has ended has come up as far as it will.
fn comes_up(machine: &mut Child, folder: &Folder) -> Result<bool> {
    let deadline = Instant::now() + BOOT_MAX;
    while !folder.text("console").contains(BOOTED) {
        if machine.try_wait().context("wait for QEMU")?.is_some() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

/// The last lines.
fn tail(console: &str, count: usize) -> String {
    let lines: Vec<_> = console.lines().collect();
    printable(&lines[lines.len().saturating_sub(count)..])
}

/// The first line of trouble with what follows: the registers and stacks of each processor.
fn from_trouble(console: &str) -> Option<String> {
    let lines: Vec<_> = console.lines().collect();
    let first = lines.iter().position(|line| TROUBLE.iter().any(|sign| line.contains(sign)))?;
    Some(printable(&lines[first..lines.len().min(first + 200)]))
}

/// Whether one processor waits in vain for another to answer its call, although that one has nothing to do, or answers not even
/// what cannot be masked. No kernel program does that; a deadlock in one would show the other processor in its stack.
fn lost_processor(console: &str) -> bool {
    let Some(at) = console.find("BUG: soft lockup") else { return false };
    let (before, trouble) = console.split_at(at);
    if ["BUG: ", "Oops", "Kernel panic"].iter().any(|sign| before.contains(sign)) {
        return false;
    }
    let Some((stuck, others)) = trouble.split_once("Sending NMI from CPU") else { return false };
    // As in "Sending NMI from CPU 1 to CPUs 0:".
    let Some((call, answers)) = others.split_once(':') else { return false };
    let Some(other) = call.split_whitespace().last().and_then(|word| word.parse::<u32>().ok()) else { return false };
    let answered = answers.lines().any(|line| line.ends_with(&format!("NMI backtrace for cpu {other}")));
    stuck.contains("RIP: 0010:smp_call_function") && !answered
}

/// Without the escape sequences of the firmware, which would change the reader's terminal.
fn printable(lines: &[&str]) -> String {
    lines.join("\n").replace('\x1b', "")
}

/// Takes the closing mark off the output.
fn split_exit_code(output: &str) -> (String, Option<i32>) {
    let Some((body, end)) = output.rsplit_once(&format!("\n{MARK}")) else { return (output.to_owned(), None) };
    (format!("{body}\n"), end.trim().parse().ok())
}

/// A temporary folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("spantap-vm-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// A file's text, or nothing where the machine never opened it.
    fn text(&self, name: &str) -> String {
        fs::read(self.0.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // best effort: it is in the temporary folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_told_from_its_first_trouble_on() {
        let stuck = "[    1.2] rcu: Preemptible\n[   99.1] watchdog: BUG: soft lockup - CPU#1 stuck\n[   99.2] RIP: 0010:smp_call";
        assert_eq!(from_trouble(stuck).as_deref(), Some(&stuck[stuck.find("[   99.1").unwrap()..]));
        assert_eq!(from_trouble("[    1.2] rcu: Preemptible"), None);
    }

    #[test]
    fn a_processor_that_does_not_answer_is_the_emulators_and_one_that_is_busy_is_not() {
        let stuck = |rip: &str, other: &str| {
            format!(
                "[   99.1] watchdog: BUG: soft lockup - CPU#1 stuck for 67s! [spantap:397]\n[   99.2] RIP: 0010:{rip}\n\
                 [   99.3] Sending NMI from CPU 1 to CPUs 0:\n{other}[   99.9] Kernel panic - not syncing: softlockup: hung tasks\n"
            )
        };
        let waits = "smp_call_function_many_cond+0x12b/0x560";
        let idle = "[   99.4] NMI backtrace for cpu 0 skipped: idling at native_safe_halt+0xb/0x10\n";
        let busy =
            "[   99.4] NMI backtrace for cpu 0\n[   99.4] RIP: 0010:native_queued_spin_lock_slowpath+0x13f/0x2a0\n";
        for (rip, other, lost) in [
            (waits, idle, true),
            (waits, "", true),
            (waits, busy, false),
            ("native_queued_spin_lock_slowpath+0x13f/0x2a0", idle, false),
        ] {
            assert_eq!(lost_processor(&stuck(rip, other)), lost, "{rip} {other}");
        }
        let after = format!("[   98.0] BUG: unable to handle page fault\n{}", stuck(waits, idle));
        assert!(!lost_processor(&after), "the first trouble is what counts");
        assert!(!lost_processor("[    1.2] rcu: Preemptible"));
    }

    #[test]
    fn the_exit_code_is_taken_from_the_last_mark() {
        assert_eq!(split_exit_code("one\ntwo\n\n@@exit 3\n"), ("one\ntwo\n\n".into(), Some(3)));
        assert_eq!(split_exit_code("\n@@exit 0\nmore\n@@exit 7\n"), ("\n@@exit 0\nmore\n".into(), Some(7)));
        assert_eq!(split_exit_code("cut off"), ("cut off".into(), None));
    }
}
