//! Debian kernels: which, from where, and keeping them.
//!
//! In: `tests/kernels.toml` and the apt sources of this machine (its own mirror, whatever that is). Out: a kernel image and the
//! modules that the scenarios load, in `.cache/kernels/SERIES/`. A kernel that is there is not looked up again: remove its folder
//! to get the newest build.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::mirror::Mirrors;
use super::package;
use crate::repo::Repo;

/// The series that stands for the highest version that the suites offer.
pub const NEWEST: &str = "newest";

/// Modules that the scenarios load: a link between two namespaces, delay, loss and a token bucket on it, a slow disk with what it
/// needs, and TLS in the kernel. The guest loads them in the order of their names, which is one in which each finds those that it needs.
pub const MODULES: &[&str] = &["configfs", "null_blk", "sch_netem", "sch_tbf", "tls", "veth"];

/// The cipher (AES-GCM) that TLS in the kernel needs; what of it is no module is built in, or not needed there.
pub const CIPHER_MODULES: &[&str] = &["crypto_null", "ctr", "gcm", "gf128mul", "ghash-generic"];

/// One kernel of the matrix.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// X.Y, or `newest`.
    pub series: String,
    /// Debian suites to look in.
    pub suites: Vec<String>,
    /// Whether CI boots it.
    pub ci: bool,
    /// What is different about it.
    pub why: String,
    /// Segments that are derived there, where the newest kernel measures them; `spantap check` must say so of them and no others.
    #[serde(default)]
    pub derived: Vec<String>,
}

/// A kernel that was fetched.
pub struct Files {
    /// What the machine boots.
    pub image: PathBuf,
    /// `NAME.ko`, one for each of [`MODULES`], and for those of [`CIPHER_MODULES`] that there are.
    pub modules: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    kernel: Vec<Kernel>,
}

/// The kernels that were asked for, or those of CI.
pub fn chosen(repo: &Repo, series: &[String]) -> Result<Vec<Kernel>> {
    let file = repo.path("tests/kernels.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let matrix: Matrix = toml::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
    if series.is_empty() {
        return Ok(matrix.kernel.into_iter().filter(|kernel| kernel.ci).collect());
    }
    let find = |wanted: &String| {
        let found = matrix.kernel.iter().find(|kernel| kernel.series == *wanted);
        found.cloned().with_context(|| format!("tests/kernels.toml has no series {wanted}"))
    };
    series.iter().map(find).collect()
}

/// Fetches a kernel unless it is there.
pub fn fetch(repo: &Repo, kernel: &Kernel) -> Result<Files> {
    let folder = repo.cache("kernels").join(&kernel.series);
    let module = |name: &&str| folder.join(format!("{name}.ko"));
    let (image, needed) = (folder.join("vmlinuz"), MODULES.iter().map(module).collect::<Vec<_>>());
    let files = || {
        let cipher = CIPHER_MODULES.iter().map(module).filter(|module| module.is_file());
        Files { image: image.clone(), modules: needed.iter().cloned().chain(cipher).collect() }
    };
    if image.is_file() && needed.iter().all(|module| module.is_file()) {
        return Ok(files());
    }
    let mirrors = Mirrors::of_this_machine()?;
    let mut builds = Vec::new();
    for suite in &kernel.suites {
        builds.extend(mirrors.builds(suite, &kernel.series)?);
    }
    builds.sort_by(|a, b| b.version.cmp(&a.version));
    // A listed file can be gone from the pool already: then the next older build does as well.
    for build in builds.iter().take(5) {
        match package::keep(build, MODULES, CIPHER_MODULES, &folder) {
            Ok(()) => return Ok(files()),
            Err(error) => println!("vm {}: {}: {error:#}; trying an older build", kernel.series, build.name),
        }
    }
    bail!("no {} cloud kernel could be fetched from the suites {:?}", kernel.series, kernel.suites)
}
