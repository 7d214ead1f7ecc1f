//! Brings a program into the guest together with the shared libraries that it needs, as `ldd` lists them.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::initramfs::Initramfs;
use crate::shell;

/// Adds a file; if it is a dynamically linked program, also its libraries and its loader, at the host's paths.
pub fn add_program(files: &mut Initramfs, host: &Path, guest: &str) -> Result<()> {
    files.file(host, guest)?;
    let bytes = fs::read(host).with_context(|| format!("read {}", host.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(());
    }
    // ldd fails on static programs, which need nothing.
    let Ok(listing) = shell::output(Command::new("ldd").arg(host)) else { return Ok(()) };
    for library in libraries(&listing) {
        files.file(Path::new(library), library)?;
    }
    Ok(())
}

/// The absolute paths in the output of `ldd`: `name => /path (address)` for libraries, `/path (address)` for the loader.
fn libraries(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| {
        let target = line.split_once("=>").map_or(line, |(_, target)| target).trim();
        let path = target.split(' ').next()?;
        path.starts_with('/').then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let listing = "\tlinux-vdso.so.1 (0x00007)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0)\n\t/lib64/ld-linux-x86-64.so.2 (0x0)\n";
        let found: Vec<_> = libraries(listing).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
