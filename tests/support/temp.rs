//! Temporary folders and free ports.

use std::{
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number that no other caller in this process got. Together with the process id it names things on the host.
pub fn unique() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A folder that is removed with the guard.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh folder under the system's temporary folder. Its name is short, since it holds unix sockets.
    pub fn new(label: &str) -> Self {
        let path = std::env::temp_dir().join(format!("st-{label}-{}-{}", std::process::id(), unique()));
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        Self(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in the folder and gives its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where ports for servers are drawn from: below those that the kernel gives, unless it is told otherwise, to connections and to listeners
/// that name none (`net.ipv4.ip_local_port_range`), so that nothing takes one by chance before its server listens.
const PORTS: Range<u16> = 20_000..32_768;

/// A TCP port on loopback that nobody listens at. No other caller in this process gets it, and another test process begins
/// somewhere else.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Of processes that follow each other far apart (Knuth's multiplicative hashing).
    let begin = std::process::id().wrapping_mul(0x9e37_79b1);
    let drawn = (0..PORTS.len()).map(|_| {
        let number = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (number % u32::from(PORTS.end - PORTS.start)) as u16
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    drawn.into_iter().find(is_free).expect("a free port on loopback")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_port_is_given_once_and_from_the_range() {
        let ports: Vec<_> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len(), "{ports:?}");
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
    }
}
