//! The compiler for the kernel programs: one of two routes, and the BPF linker that belongs to it.
//!
//! In: what is installed. Out: a [`Toolchain`] that makes the cargo command. Called by `setup`, `build` and `doctor`. A compiler
//! and its linker must share LLVM's major version, so each route has a bpf-linker of its own in `.cache/bpf-linker/`.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::apt::{self, Package, package};
use crate::repo::Repo;
use crate::shell;

/// The version of bpf-linker that both routes use.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// LLVM's major version in Debian's `rustc-web`.
const DEBIAN_LLVM: u32 = 22;

/// Debian packages that compile for `bpfel-unknown-none` with a precompiled `core`.
pub const DEBIAN_COMPILER: &[Package] = &[
    package("rustc-web", "compiler for the kernel programs"),
    package("cargo-web", "its cargo"),
    package("libstd-rust-web-dev-bpf", "core, precompiled for bpfel-unknown-none"),
];

/// Debian packages that bpf-linker is built against on the Debian route.
pub const DEBIAN_LINKER: &[Package] = &[
    package("llvm-22-dev", "LLVM, which bpf-linker links against"),
    package("libpolly-22-dev", "part of LLVM"),
    package("zlib1g-dev", "used by LLVM"),
    package("libzstd-dev", "used by LLVM"),
    package("g++", "links bpf-linker with LLVM's C++ runtime"),
];

/// Which compiler builds the kernel programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// A rustup nightly that has the rust-src component (`-Z build-std=core`).
    Nightly,
    /// Debian's rustc-web packages.
    Debian,
}

/// A compiler that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// A rustup toolchain, by name and folder.
    Nightly { name: String, folder: PathBuf },
    /// `/usr/bin/cargo` and `/usr/bin/rustc`.
    Debian,
}

impl Toolchain {
    /// Finds the toolchain of a route, or of the first route that is installed.
    pub fn find(route: Option<Route>) -> Option<Self> {
        match route {
            Some(Route::Nightly) => nightly(),
            Some(Route::Debian) => debian(),
            None => nightly().or_else(debian),
        }
    }

    /// What to call it in messages and folder names.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Nightly { .. } => "nightly",
            Self::Debian => "debian",
        }
    }

    /// A sentence for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Nightly { name, .. } => format!("rustup {name} with rust-src, -Z build-std=core"),
            Self::Debian => "Debian's rustc-web with a precompiled core for BPF".into(),
        }
    }

    /// The cargo command for the kernel crate, without arguments. Variables that would change its flags are taken away.
    pub fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Nightly { name, .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "cargo"]).env_remove("RUSTC");
                command
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                // Debian ships a stable compiler; the kernel programs use unstable features.
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
                command
            }
        };
        for variable in
            ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// Flags of `cargo build` that only this route needs.
    pub fn build_flags(&self) -> &'static [&'static str] {
        match self {
            Self::Nightly { .. } => &["-Z", "build-std=core"],
            Self::Debian => &[],
        }
    }

    /// LLVM's major version inside the compiler.
    fn llvm_major(&self) -> Result<u32> {
        match self {
            Self::Debian => Ok(DEBIAN_LLVM),
            Self::Nightly { folder, .. } => {
                let text = shell::output(Command::new(folder.join("bin/rustc")).arg("-vV"))?;
                llvm_major(&text).context("`rustc -vV` names no LLVM version")
            }
        }
    }

    /// Where this route's bpf-linker lies, built or not.
    pub fn linker(&self, repo: &Repo) -> Result<PathBuf> {
        let folder = format!("{BPF_LINKER_VERSION}-{}-llvm{}", self.label(), self.llvm_major()?);
        Ok(repo.cache("bpf-linker").join(folder).join("bin/bpf-linker"))
    }

    /// Whether this route's bpf-linker is there and starts (it fails when its LLVM was removed).
    pub fn has_linker(&self, repo: &Repo) -> bool {
        self.linker(repo).is_ok_and(|linker| shell::succeeds(Command::new(linker).arg("--version")))
    }

    /// Builds bpf-linker into the cache unless a working one is there.
    pub fn install_linker(&self, repo: &Repo) -> Result<()> {
        let linker = self.linker(repo)?;
        if self.has_linker(repo) {
            return Ok(());
        }
        let root = linker.parent().and_then(Path::parent).context("linker path has no root")?;
        println!(
            "  bpf-linker {BPF_LINKER_VERSION}: links the kernel programs; compiled from source (1-3 minutes), kept in {}",
            repo.shown(root)
        );
        let prefix = match self {
            Self::Debian => {
                apt::install(DEBIAN_LINKER)?;
                PathBuf::from(format!("/usr/lib/llvm-{DEBIAN_LLVM}"))
            }
            Self::Nightly { folder, .. } => link_llvm(folder, &root.join("llvm"))?,
        };
        let feature = format!("llvm-{}", self.llvm_major()?);
        let mut command = shell::cargo();
        command.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force", "--quiet"]);
        command.args(["--no-default-features", "--features", &feature, "--root"]).arg(root);
        command.env("LLVM_PREFIX", prefix).env("CARGO_TARGET_DIR", repo.path("target/bpf-linker"));
        shell::run(command.env_remove("RUSTFLAGS"))?;
        if !self.has_linker(repo) {
            bail!("{} was built but does not start: try it by hand to see why", linker.display());
        }
        Ok(())
    }
}

fn debian() -> Option<Toolchain> {
    let files = ["/usr/bin/cargo", "/usr/bin/rustc"].iter().all(|file| Path::new(file).is_file());
    (files && apt::missing(DEBIAN_COMPILER).is_empty()).then_some(Toolchain::Debian)
}

fn nightly() -> Option<Toolchain> {
    shell::which("rustup")?;
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")))?;
    nightly_in(&home.join("toolchains"))
}

/// The newest-named nightly that has rust-src. One without it cannot build `core` for BPF and does not count.
fn nightly_in(toolchains: &Path) -> Option<Toolchain> {
    let mut names: Vec<String> = fs::read_dir(toolchains)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    names.sort();
    let with_source =
        |name: &String| toolchains.join(name).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file();
    let name = names.into_iter().rev().find(with_source)?;
    Some(Toolchain::Nightly { folder: toolchains.join(&name), name })
}

/// Reads LLVM's major version out of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// Makes a folder that looks like an LLVM installation around the libLLVM inside a Rust toolchain.
fn link_llvm(toolchain: &Path, prefix: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::symlink;
    let source = toolchain.join("lib");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("create {}", lib.display()))?;
    let names: Vec<_> = fs::read_dir(&source)
        .with_context(|| format!("read {}", source.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().starts_with("libLLVM"))
        .collect();
    // The build looks for libLLVM.so; the finished linker looks for the library's own name in the same folder.
    let library = names
        .iter()
        .find(|name| name.to_string_lossy().starts_with("libLLVM.so"))
        .or(names.first())
        .with_context(|| format!("{} has no libLLVM of its own", source.display()))?;
    let links = names.iter().map(|name| (name.clone(), name)).chain([("libLLVM.so".into(), library)]);
    for (name, target) in links {
        let link = lib.join(name);
        let _ = fs::remove_file(&link); // left by an interrupted run, or absent
        symlink(source.join(target), &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(prefix.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder under the system's temporary one that is removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, path: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_nightly_without_rust_src_does_not_count() {
        let scratch = Scratch::new("nightly");
        scratch.file("nightly-x86_64-unknown-linux-gnu/bin/rustc");
        scratch.file("stable-x86_64-unknown-linux-gnu/lib/rustlib/src/rust/library/core/src/lib.rs");
        assert_eq!(nightly_in(&scratch.0), None);
        scratch.file("nightly-2026-01-01-x86_64/lib/rustlib/src/rust/library/core/src/lib.rs");
        let found = nightly_in(&scratch.0).unwrap();
        assert!(matches!(found, Toolchain::Nightly { name, .. } if name == "nightly-2026-01-01-x86_64"));
    }

    #[test]
    fn a_toolchains_own_llvm_is_found_by_both_names() {
        let scratch = Scratch::new("llvm");
        scratch.file("toolchain/lib/libLLVM.so.22.1-rust-1.97.0-nightly");
        scratch.file("toolchain/lib/librustc_driver.so");
        link_llvm(&scratch.0.join("toolchain"), &scratch.0.join("prefix")).unwrap();
        let lib = scratch.0.join("prefix/lib");
        assert!(lib.join("libLLVM.so").is_file() && lib.join("libLLVM.so.22.1-rust-1.97.0-nightly").is_file());
        assert!(!lib.join("librustc_driver.so").exists());
    }

    #[test]
    fn llvm_version_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.97.0\nhost: x\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0\n"), None);
    }
}
