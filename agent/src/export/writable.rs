//! Whether spans could be written to a file: it, or the folder in which it would be made, is looked at and left as it is.
//!
//! In: the path of a destination. Out: what would be done, or why it cannot be. Called by [`super::probe`]. Makes and writes nothing.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// What of a folder is asked for to make files in it: write and search.
const MAKE: libc::c_int = libc::W_OK | libc::X_OK;

/// Says in words what would be done.
///
/// # Errors
/// Why nothing could be written.
pub(super) fn check(path: &Path) -> Result<String, String> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Err(format!("{shown} is no file")),
        Ok(_) => existing(path),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => to_make(path),
        Err(cause) => Err(format!("cannot look at {shown}: {cause}")),
    }
}

fn existing(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = OpenOptions::new().append(true).open(path);
    let file = file.map_err(|cause| format!("cannot write to {shown}: {cause}"))?;
    let room = room(path)?;
    // The lock is let go with the descriptor.
    if file.try_lock().is_err() {
        return Ok(format!(
            "{shown} is written to by another process, which has to be the agent with this destination"
        ));
    }
    Ok(format!("{shown} can be written to ({room})"))
}

/// The file, and maybe folders, would have to be made.
fn to_make(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let there = folder.display();
    if !folder.is_dir() {
        return Err(format!("cannot make {shown}: {there} is no folder"));
    }
    may(folder, MAKE).map_err(|cause| format!("cannot make {shown} in {there}: {cause}"))?;
    let room = room(folder)?;
    let folders = if path.parent() == Some(folder) { "" } else { ", with its folders," };
    Ok(format!("{shown}{folders} can be made in {there} ({room})"))
}

/// Whether this process has these rights.
fn may(path: &Path, rights: libc::c_int) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero and lives as long as the call, which keeps nothing.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), rights, libc::AT_EACCESS) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What is free there.
fn room(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let disk = disk_of(path).map_err(|cause| format!("cannot look at the disk of {shown}: {cause}"))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Some file systems count no files.
    let has_names = disk.f_files == 0 || disk.f_favail > 0 || fs::metadata(path).is_ok_and(|meta| meta.is_file());
    if free == 0 || !has_names {
        return Err(format!("the disk of {shown} has no room"));
    }
    Ok(format!("{} free", bytesize::ByteSize(free).display().iec()))
}

/// Whether nobody can write there, whatever the rights say.
pub(crate) fn is_read_only(path: &Path) -> bool {
    disk_of(path).is_ok_and(|disk| disk.f_flag & libc::ST_RDONLY != 0)
}

fn disk_of(path: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a value of it.
    let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, and both live as long as the call.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut disk) };
    if result == 0 { Ok(disk) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_can_be_written_is_told_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new/folder/x.jsonl");
        let words = check(&new).unwrap();
        assert!(words.contains("with its folders, can be made in") && words.contains("free"), "{words}");
        assert!(check(&folder.path().join("y")).unwrap().contains("y can be made in"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        let old = folder.path().join("old");
        fs::write(&old, "line\n").unwrap();
        assert!(check(&old).unwrap().contains("can be written to"));
        assert_eq!(fs::read_to_string(&old).unwrap(), "line\n");
        let other = OpenOptions::new().append(true).open(&old).unwrap();
        other.lock().unwrap();
        assert!(check(&old).unwrap().contains("another process"));
    }

    #[test]
    fn why_nothing_can_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let wrong = |path: &Path, part: &str| {
            let words = check(path).unwrap_err();
            assert!(words.contains(part), "{words}");
        };
        wrong(folder.path(), "is no file");
        wrong(&file.join("x"), "cannot look at");
        // SAFETY: takes no pointers.
        if unsafe { libc::geteuid() } != 0 {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
            wrong(&folder.path().join("new/x"), "cannot make");
        }
    }
}
