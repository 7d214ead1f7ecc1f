//! Executables: which a pattern names, and what the kernel side calls them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use agent_common::settings::ExeKey;

/// A pattern with a slash is matched against the whole path, a bare one against the file's name.
pub(crate) fn matches(pattern: &str, path: &Path) -> bool {
    let Ok(pattern_) = glob::Pattern::new(pattern) else { return false };
    let resolved = resolved(path);
    if pattern.contains('/') {
        pattern_.matches_path(&resolved) || pattern_.matches_path(path)
    } else {
        resolved.file_name().is_some_and(|name| pattern_.matches(&name.to_string_lossy()))
    }
}

/// What `/proc/PID/exe` stands for: the path that it was started by, also after the file was replaced (proc_pid_exe(5)).
pub(super) fn resolved(path: &Path) -> PathBuf {
    let Ok(target) = fs::read_link(path) else { return path.to_path_buf() };
    let bytes = target.as_os_str().as_bytes();
    bytes.strip_suffix(b" (deleted)").map_or_else(|| target.clone(), |bytes| OsStr::from_bytes(bytes).into())
}

/// Of every process that runs.
pub(super) fn running() -> impl Iterator<Item = PathBuf> {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    all.map(|process| PathBuf::from(format!("/proc/{}/exe", process.pid)))
}

/// The numbers of inode and file system that the kernel's own structures have. `stat` tells others on btrfs, which has a device for
/// each subvolume, and on overlayfs whose layers are in different file systems.
pub(super) fn key(path: &Path) -> Option<ExeKey> {
    // Through /proc/PID/exe the file is reached even if its path belongs to another mount namespace. A FIFO does not block.
    let file = File::options().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default();
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let mount = field("mnt_id:").and_then(|id| {
        let tables = [path.with_file_name("mountinfo"), "/proc/self/mountinfo".into()];
        tables.iter().find_map(|table| device_of(&fs::read_to_string(table).ok()?, id))
    });
    let (major, minor) = mount.unwrap_or((libc::major(metadata.dev()), libc::minor(metadata.dev())));
    let inode = field("ino:").unwrap_or(metadata.ino());
    Some(ExeKey { inode, device: (major << 20) | (minor & 0xf_ffff), padding: 0 })
}

/// Major and minor number of a mounted file system: the third field (proc_pid_mountinfo(5)).
fn device_of(table: &str, mount: u64) -> Option<(u32, u32)> {
    let mut lines = table.lines().map(|line| line.split(' '));
    let mut fields = lines.find(|fields| fields.clone().next().and_then(|id| id.parse().ok()) == Some(mount))?;
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_or_whole_paths() {
        let check =
            |pattern, path, expected| assert_eq!(matches(pattern, Path::new(path)), expected, "{pattern} {path}");
        check("nginx", "/usr/sbin/nginx", true);
        check("python3*", "/usr/bin/python3.11", true);
        check("nginx", "/opt/nginx/bin/run", false);
        check("/opt/*/bin/run", "/opt/nginx/bin/run", true);
        check("/usr/bin/*", "/opt/nginx/bin/run", false);
    }

    #[test]
    fn what_a_process_runs_is_named_by_where_it_was_started_from() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("exe");
        for target in ["/opt/web/server", "/opt/web/server (deleted)"] {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(matches("server", &link) && matches("/opt/*/server", &link), "{target}");
            assert!(!matches("exe", &link) && !matches("/opt/web", &link), "{target}");
        }
    }

    #[test]
    fn the_device_of_a_mount_is_its_file_systems() {
        let table = "21 28 0:20 / /sys rw - sysfs sysfs rw\n128 1 0:45 /@home /home rw - btrfs /dev/sda2 rw\n\
                     28 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(device_of(table, 28), Some((254, 0)));
        assert_eq!(device_of(table, 128), Some((0, 45)));
        assert_eq!(device_of(table, 2), None);
    }

    #[test]
    fn a_program_has_the_key_that_its_memory_map_has() {
        let found = key(Path::new("/proc/self/exe")).unwrap();
        let own = fs::read_link("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with(own.to_str().unwrap())).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hexadecimal = |text| u32::from_str_radix(text, 16).unwrap();
        let (major, minor) = fields[3].split_once(':').unwrap();
        assert_eq!(found.device, (hexadecimal(major) << 20) | hexadecimal(minor));
        assert_eq!(found.inode.to_string(), fields[4]);
        assert_eq!(key(Path::new("/proc/self")), None);
    }
}
