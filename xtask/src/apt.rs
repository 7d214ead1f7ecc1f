//! Debian packages: which are missing, and installing them without starting their services.
//!
//! In: package names with the reason for each. Out: packages installed, or an error with the command that would do it. Never:
//! `apt-get update` when the package lists already know every package that is needed.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// One Debian package and what it is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Debian's name.
    pub name: &'static str,
    /// What needs it.
    pub why: &'static str,
    /// A program that makes the package unnecessary, wherever it came from.
    pub program: Option<&'static str>,
}

/// Shorthand for the tables of packages.
pub const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why, program: None }
}

/// A package that is needed for one program only.
pub const fn program(program: &'static str, name: &'static str, why: &'static str) -> Package {
    Package { name, why, program: Some(program) }
}

/// The packages of a list that are not installed.
pub fn missing(packages: &[Package]) -> Vec<Package> {
    packages.iter().copied().filter(|package| !is_there(package)).collect()
}

fn is_there(package: &Package) -> bool {
    package.program.is_some_and(|program| shell::which(program).is_some()) || is_installed(package.name)
}

/// Installs the missing packages of a list; says nothing when there are none.
pub fn install(packages: &[Package]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    println!("  Debian packages to install:");
    for package in &missing {
        println!("    {:<26} {}", package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    if shell::which("apt-get").is_none() {
        bail!("this machine has no apt-get; install the equivalents of: {}", names.join(" "));
    }
    if !shell::is_root() {
        bail!(
            "not root: run this, then try again:\n  sudo apt-get update && sudo apt-get install -y {}",
            names.join(" ")
        );
    }
    let _no_services = NoServices::put()?;
    if names.iter().any(|name| !is_known(name)) {
        update()?;
        if let Some(name) = names.iter().find(|name| !is_known(name)) {
            bail!("no Debian package {name} in this machine's apt sources (Debian 12 has it)");
        }
    }
    // A list that is older than the mirror names files that are gone: refresh it once, then it is an error.
    if apt_install(&names).is_err() {
        update()?;
        apt_install(&names)?;
    }
    Ok(())
}

fn update() -> Result<()> {
    shell::run(Command::new("apt-get").args(["update", "-q"]))
}

fn apt_install(names: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-q", "--no-install-recommends"]).args(names);
    shell::run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether dpkg has the package installed and configured.
pub fn is_installed(name: &str) -> bool {
    shell::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]))
        .is_ok_and(|s| s == "installed")
}

/// Whether the local package lists know a version to install.
fn is_known(name: &str) -> bool {
    shell::output(Command::new("apt-cache").args(["policy", name])).is_ok_and(|text| has_candidate(&text))
}

/// Reads `apt-cache policy`: unknown packages give nothing, known ones without a version give `(none)`.
fn has_candidate(policy: &str) -> bool {
    policy.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
}

/// Keeps packages from starting their services while it lives: Debian's scripts ask `policy-rc.d`, and 101 means no.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn put() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        let guard = Self { ours: true };
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).with_context(|| format!("chmod {POLICY}"))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("cannot remove {POLICY} (no service will start until it is gone): {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_version_to_install_is_not_known() {
        assert!(has_candidate("wrk:\n  Installed: (none)\n  Candidate: 4.1.0-3+b2\n"));
        assert!(!has_candidate("linux-image:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
