//! The power goes while spans are relayed: the guest's page cache is lost, and what the disk had not flushed.
//!
//! In: a kernel, what the guest finds, how often the power goes. Each boot has the disk as the one before left it. In it a sender and a
//! sink say over a serial line what was acknowledged and taken, each before it goes on. Out: whether every acknowledged span was
//! taken, in whichever boot, and no more of them twice than were on their way when the power went.
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disk;
use super::initramfs::Initramfs;
use super::qemu::{Disk, Machine, Running};
use super::relayed::Relayed;

const DISK_BYTES: u64 = 512 << 20;
/// The power goes at a random moment of this time after the first acknowledgement.
const MOMENT_MAX: Duration = Duration::from_millis(3_000);
/// Spans that come twice at most for each time that the power goes: a batch of the destination (`batch.spans` in `power.sh`), and what
/// the sender had not heard of (`otlp_sender`).
const TWICE_MAX: u64 = 500 + 100;

/// Runs the check; `archive` makes what the guest finds.
pub fn check(image: &Path, timeout: Duration, kills: u32, archive: impl Fn() -> Result<Initramfs>) -> Result<String> {
    let folder = std::env::temp_dir().join(format!("spantap-power-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    let result = run(&folder, image, timeout, kills, archive);
    // Best effort: it is in the temporary folder.
    let _ = fs::remove_dir_all(&folder);
    result
}

fn run(
    folder: &Path,
    image: &Path,
    timeout: Duration,
    kills: u32,
    archive: impl Fn() -> Result<Initramfs>,
) -> Result<String> {
    let medium = folder.join("medium");
    disk::make(&medium, DISK_BYTES)?;
    let mut relayed = Relayed::default();
    let disk = Disk { image: folder.join("image"), log: folder.join("log") };
    let machine = Machine { image, timeout, disk: Some(&disk) };
    for kill in 0..kills {
        disk::copy(&medium, &disk.image)?;
        disk::empty(&disk.log)?;
        let (before, twice) = (relayed.acknowledged, relayed.twice());
        let running = machine.start(archive()?, &format!("sh /task/power.sh {before}"))?;
        let (moment, text) = kill_after_first(running, before, timeout)?;
        relayed.add(&text);
        let replayed = disk::replay(&disk.log, &medium)?;
        println!(
            "power {}: {} spans acknowledged, {} came twice, gone {} ms after the first; {} writes on the disk, {} lost from its cache",
            kill + 1,
            relayed.acknowledged - before,
            relayed.twice() - twice,
            moment.as_millis(),
            replayed.kept,
            replayed.lost
        );
    }
    disk::copy(&medium, &disk.image)?;
    disk::empty(&disk.log)?;
    // Not again on a disk that has been used.
    let end = machine.start(archive()?, "sh /task/power.sh deliver")?.end(timeout)?;
    ensure!(end.code == 0, "{}: {}\n{}", end.describe(), end.output, end.console_end());
    relayed.add(&end.output);
    let losses = end.output.lines().filter(|line| line.starts_with("guest:")).collect::<Vec<_>>().join("\n");
    println!("{losses}");
    let verdict = relayed.verdict()?;
    let (twice, twice_max) = (relayed.twice(), u64::from(kills) * TWICE_MAX);
    ensure!(twice <= twice_max, "{verdict}, which is more than was on its way {kills} times ({twice_max})");
    Ok(format!("the power went {kills} times: {verdict} (at most {twice_max} were on their way)"))
}

/// Switches the machine off, a random time after the first acknowledgement beyond `before`. Gives that time, and what was said.
fn kill_after_first(mut running: Running, before: usize, timeout: Duration) -> Result<(Duration, String)> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut relayed = Relayed::default();
        let text = running.output();
        relayed.add(&text);
        if relayed.acknowledged > before {
            break;
        }
        if running.has_ended()? || Instant::now() > deadline {
            bail!("nothing was acknowledged:\n{text}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let moment = MOMENT_MAX.mul_f64(random());
    thread::sleep(moment);
    ensure!(!running.has_ended()?, "the machine ended by itself:\n{}", running.output());
    Ok((moment, running.kill()?))
}

/// From 0 to 1.
fn random() -> f64 {
    // Each state has keys of its own.
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
