//! Who may ask: root, the agent's own user, and members of the socket's group.
//!
//! In: the socket's path, the credentials of a peer. Out: a listener, or a verdict. Called by the server. The file modes
//! (folder 0750, socket 0660) already keep others out; the credentials are checked as well, for the day when someone changes the modes.

use std::{
    fs::{DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, unix::UCred};

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent listens there.
    #[error("{path} is in use by a running agent: stop it, or give this one its own --socket PATH")]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is not a socket: remove it, or give the agent another --socket PATH")]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}: {cause}")]
    Io {
        /// In words.
        operation: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// Who may use a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    owner: u32,
    group: u32,
}

/// Opens the socket: makes its folder, replaces the socket of an agent that died, sets the modes.
pub(super) fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, Access), BindError> {
    let listener = listen(path)?;
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(error_of("give to its group", path))?;
    }
    let metadata = std::fs::metadata(path).map_err(error_of("look at", path))?;
    Ok((listener, Access { owner: metadata.uid(), group: metadata.gid() }))
}

/// As [`bind`], for whoever the mode lets in.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, BindError> {
    make_folder(path)?;
    replace_dead(path)?;
    let listener = UnixListener::bind(path).map_err(error_of("listen on", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(error_of("set the mode of", path))?;
    Ok(listener)
}

impl Access {
    /// Whether a peer may ask.
    pub fn allows(self, peer: &UCred) -> bool {
        self.allows_ids(peer.uid(), peer.gid()) || peer.pid().is_some_and(|pid| groups(pid).contains(&self.group))
    }

    /// Whether a peer may also change something.
    pub fn owns(self, peer: &UCred) -> bool {
        peer.uid() == 0 || peer.uid() == self.owner
    }

    fn allows_ids(self, uid: u32, gid: u32) -> bool {
        uid == 0 || uid == self.owner || gid == self.group
    }
}

fn make_folder(path: &Path) -> Result<(), BindError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    // Only a folder that is made here gets the mode: an existing one belongs to someone else.
    if folder.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(error_of("make the folder", folder))
}

fn replace_dead(path: &Path) -> Result<(), BindError> {
    let is_socket = |metadata: Metadata| metadata.file_type().is_socket();
    match std::fs::symlink_metadata(path).map(is_socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(error_of("look at", path)(cause)),
        Ok(false) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(true) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Busy { path: path.to_owned() }),
        // The system's word for a socket whose process is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(error_of("remove the dead socket", path))
        }
        Err(cause) => Err(error_of("try", path)(cause)),
    }
}

/// Supplementary groups of a process.
fn groups(pid: i32) -> Vec<u32> {
    groups_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
}

fn groups_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn error_of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |cause| BindError::Io { operation, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_owner_and_the_group_may_ask_and_nobody_else() {
        let access = Access { owner: 10, group: 20 };
        assert!(access.allows_ids(0, 99) && access.allows_ids(10, 99) && access.allows_ids(98, 20));
        assert!(!access.allows_ids(98, 99));
    }

    #[test]
    fn groups_are_those_of_the_process_and_of_one_that_is_gone_there_are_none() {
        assert_eq!(groups_in("Name:\tcat\nGid:\t7\t7\t7\t7\nGroups:\t4 24 1000 \nNStgid:\t9\n"), [4, 24, 1000]);
        assert_eq!(groups_in("Name:\tcat\nGroups:\t \n"), [0u32; 0]);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(groups(std::process::id() as i32), groups_in(&own));
        assert_eq!(groups(-1), [0u32; 0]);
    }
}
