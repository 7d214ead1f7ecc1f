//! What a disk has after its power went: all that was written before its last flush, and nothing later but what was forced by itself.
//!
//! In: the image before a boot, and the log of the boot's writes (QEMU's `blklogwrites`, the format of the kernel's `dm-log-writes`).
//! Out: the image after it. A disk may keep more of what it has in its cache; this is the least that it must keep.
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
/// Forced unit access: on the medium before it is answered.
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// What is on a disk before the first boot: an empty ext4.
pub fn make(image: &Path, bytes: u64) -> Result<()> {
    let file = File::create(image).with_context(|| format!("create {}", image.display()))?;
    file.set_len(bytes).context("size the image")?;
    let mkfs = shell::which("mkfs.ext4").context("no mkfs.ext4; fix: apt-get install e2fsprogs")?;
    shell::output(Command::new(mkfs).args(["-q", "-F"]).arg(image)).map(drop)
}

/// Writes that were kept, and those that were lost with the power.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// On the medium.
    pub kept: usize,
    /// Only in the disk's cache.
    pub lost: usize,
}

/// Brings `image` from what it was before a boot to what it is after the power went.
pub fn replay(log: &Path, image: &Path) -> Result<Replayed> {
    let mut log_file = File::open(log).with_context(|| format!("open {}", log.display()))?;
    let entries = entries(&mut log_file)?;
    let last_flush = entries.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |at| at + 1);
    let file = OpenOptions::new().write(true).open(image).with_context(|| format!("open {}", image.display()))?;
    let mut replayed = Replayed::default();
    for (at, entry) in entries.iter().enumerate() {
        if entry.sectors == 0 || entry.flags & DISCARD != 0 {
            continue;
        }
        if at >= last_flush && entry.flags & FUA == 0 {
            replayed.lost += 1;
            continue;
        }
        let mut data = vec![0; usize::try_from(entry.sectors * SECTOR)?];
        log_file.read_exact_at(&mut data, entry.data_at).context("the log of writes is cut")?;
        file.write_all_at(&data, entry.sector * SECTOR).context("write the image")?;
        replayed.kept += 1;
    }
    Ok(replayed)
}

struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    data_at: u64,
}

/// The log: one sector that says what it is, then for each write one sector that describes it, and its data. What is zero ends it: the
/// count in the first sector is older than the end.
fn entries(log: &mut File) -> Result<Vec<Entry>> {
    let length = log.metadata().context("stat the log of writes")?.len();
    let mut at = SECTOR;
    let mut entries = Vec::new();
    ensure!(length >= SECTOR, "the log of writes has no beginning");
    ensure!(numbers(log, 0)?[0] == MAGIC, "that is no log of writes");
    while at + SECTOR <= length {
        let [sector, sectors, flags, _] = numbers(log, at)?;
        if sectors == 0 && flags == 0 {
            break;
        }
        if sectors > length / SECTOR {
            bail!("an entry of the log of writes is longer than the log");
        }
        let data_at = at + SECTOR;
        entries.push(Entry { sector, sectors, flags, data_at });
        let has_data = flags & DISCARD == 0;
        at = data_at + if has_data { sectors * SECTOR } else { 0 };
    }
    // The last one may have been under way.
    if at > length {
        entries.pop();
    }
    Ok(entries)
}

/// The four little-endian numbers at a place.
fn numbers(file: &mut File, at: u64) -> Result<[u64; 4]> {
    let mut bytes = [0; 32];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).context("read the log of writes")?;
    let number = |index: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(number)
    };
    Ok([number(0), number(1), number(2), number(3)])
}

/// A copy of an image, with its holes.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    shell::output(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to)).map(drop)
}

/// An empty log for the next boot.
pub fn empty(log: &Path) -> Result<()> {
    fs::write(log, []).with_context(|| format!("write {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sector: u64, flags: u64, data: &[u8]) -> Vec<u8> {
        let mut bytes = [sector, data.len() as u64 / SECTOR, flags, 0].map(u64::to_le_bytes).concat();
        bytes.resize(SECTOR as usize, 0);
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn what_was_not_flushed_is_lost_but_for_what_was_forced() {
        let folder = std::env::temp_dir().join(format!("xtask-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (log, image) = (folder.join("log"), folder.join("image"));
        let sector = |byte: u8| vec![byte; SECTOR as usize];
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(SECTOR as usize, 0);
        for part in [
            entry(0, 0, &sector(1)),
            entry(0, FLUSH, &[]),
            entry(1, 0, &sector(2)),
            entry(2, FUA, &sector(3)),
            entry(0, 0, &sector(4)),
        ] {
            bytes.extend(part);
        }
        fs::write(&log, bytes).unwrap();
        fs::write(&image, vec![9; 4 * SECTOR as usize]).unwrap();
        assert_eq!(replay(&log, &image).unwrap(), Replayed { kept: 2, lost: 2 });
        let after: Vec<u8> = fs::read(&image).unwrap().into_iter().step_by(SECTOR as usize).collect();
        assert_eq!(after, [1, 9, 3, 9]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
