//! Debian kernels: which, from where, and keeping them.
//!
//! In: `tests/kernels.toml` and the apt sources of this machine (its own mirror, whatever that is). Out: a kernel image in
//! `.cache/kernels/X.Y/vmlinuz`. A kernel that is there is not looked up again.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::repo::Repo;
use crate::shell;

/// One kernel of the matrix.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// X.Y.
    pub series: String,
    /// Debian suites to look in.
    pub suites: Vec<String>,
    /// Whether CI boots it.
    pub ci: bool,
    /// What is different about it.
    pub why: String,
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

/// Fetches a kernel unless it is there, and returns its image.
pub fn fetch(repo: &Repo, kernel: &Kernel) -> Result<PathBuf> {
    let folder = repo.cache("kernels").join(&kernel.series);
    let image = folder.join("vmlinuz");
    if image.is_file() {
        return Ok(image);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mirrors = Mirrors::of_this_machine()?;
    let mut builds = Vec::new();
    for suite in &kernel.suites {
        builds.extend(in_suite(mirrors.base(suite)?, suite, &kernel.series)?);
    }
    builds.sort_by(|a, b| b.numbers.cmp(&a.numbers));
    // A listed file can be gone from the pool already: then the next older build does as well.
    for build in builds.iter().take(5) {
        println!("vm {}: fetching {}", kernel.series, build.url);
        match unpack(build, &folder) {
            Ok(()) => return Ok(image),
            Err(error) => println!("vm {}: {error:#}; trying an older build", kernel.series),
        }
    }
    bail!("no {} cloud kernel could be fetched from the suites {:?}", kernel.series, kernel.suites)
}

/// The archives that apt uses here.
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
            text.push('\n');
            text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        Self::parse(&text).context("apt's sources name no Debian archive (an address that ends in /debian)")
    }

    /// Reads both of apt's formats: `URIs: …` in .sources files and `deb [options] URI suite …` lines.
    fn parse(text: &str) -> Option<Self> {
        let address = |line: &str| -> Vec<String> {
            let words = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb ")).unwrap_or_default();
            words
                .split_whitespace()
                .filter(|word| word.contains("://"))
                .map(|word| word.trim_end_matches('/').to_owned())
                .collect()
        };
        let all: Vec<String> = text.lines().flat_map(address).collect();
        let ending = |end: &str| all.iter().find(|uri| uri.ends_with(end)).cloned();
        Some(Self { main: ending("/debian")?, security: ending("/debian-security") })
    }

    fn base(&self, suite: &str) -> Result<&str> {
        if !suite.ends_with("-security") {
            return Ok(&self.main);
        }
        self.security.as_deref().with_context(|| format!("apt's sources name no security archive, for {suite}"))
    }
}

/// One build of a kernel in a package list.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    url: String,
    /// The version's numbers in order, for comparing.
    numbers: Vec<u64>,
}

/// The builds of a series in a suite's package list.
fn in_suite(base: &str, suite: &str, series: &str) -> Result<Vec<Build>> {
    let url = format!("{base}/dists/{suite}/main/binary-amd64/Packages.xz");
    let mut fetch = curl(&url).stdout(Stdio::piped()).spawn().context("start curl")?;
    let list = fetch.stdout.take().context("curl's output is piped")?;
    let text = shell::output_with_input(Command::new("xz").arg("-dc"), list).with_context(|| format!("read {url}"))?;
    let status = fetch.wait().context("wait for curl")?;
    if !status.success() {
        bail!("fetch {url}: curl ended with {status}");
    }
    Ok(builds(&text, base, series))
}

/// Reads a package list: signed cloud images of the series, neither real-time nor meta packages.
fn builds(list: &str, base: &str, series: &str) -> Vec<Build> {
    let prefix = format!("linux-image-{series}.");
    let one = |stanza: &str| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let package = field("Package:")?;
        if !package.starts_with(&prefix) || !package.ends_with("-cloud-amd64") || package.contains("-rt-") {
            return None;
        }
        let numbers = field("Version:")?.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        Some(Build { url: format!("{base}/{}", field("Filename:")?), numbers })
    };
    list.split("\n\n").filter_map(one).collect()
}

/// Downloads a package and keeps its kernel image and configuration.
fn unpack(build: &Build, folder: &Path) -> Result<()> {
    let package = folder.join("image.deb");
    shell::output(curl(&build.url).arg("-o").arg(&package))?;
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let tar = archive.stdout.take().context("dpkg-deb's output is piped")?;
    let mut command = Command::new("tar");
    // tar's -C counts only for the patterns after it.
    command.arg("-x").arg("-C").arg(folder);
    command.args(["--strip-components=2", "--wildcards", "./boot/vmlinuz-*", "./boot/config-*"]);
    shell::output_with_input(&mut command, tar)?;
    archive.wait().context("wait for dpkg-deb")?;
    fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            return fs::rename(&path, folder.join("vmlinuz")).context("name the kernel image");
        }
    }
    bail!("{} holds no kernel image", build.url)
}

fn curl(url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--location", "--retry", "2", "--max-time", "600", url]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_sources_are_read_in_both_formats() {
        let new = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n\nURIs: http://mirror.example/debian-security\n";
        let mirrors = Mirrors::parse(new).unwrap();
        assert_eq!(mirrors.base("trixie").unwrap(), "http://mirror.example/debian");
        assert_eq!(mirrors.base("trixie-security").unwrap(), "http://mirror.example/debian-security");
        let old = "# comment\ndeb [signed-by=/k.gpg] https://mirror.example/debian bookworm main\n";
        let mirrors = Mirrors::parse(old).unwrap();
        assert_eq!(mirrors.base("bookworm").unwrap(), "https://mirror.example/debian");
        assert!(mirrors.base("bookworm-security").is_err());
        assert!(Mirrors::parse("deb https://example/ubuntu jammy main\n").is_none());
    }

    #[test]
    fn only_signed_cloud_images_of_the_series_are_taken() {
        let stanza =
            |name: &str, version: &str| format!("Package: {name}\nVersion: {version}\nFilename: pool/{name}.deb\n\n");
        let list = [
            stanza("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1"),
            stanza("linux-image-6.1.0-35-cloud-amd64", "6.1.137-1"),
            stanza("linux-image-6.1.0-35-amd64", "6.1.137-1"),
            stanza("linux-image-6.1.0-35-rt-cloud-amd64", "6.1.137-1"),
            stanza("linux-image-6.12.3-cloud-amd64", "6.12.3-1"),
            stanza("linux-image-cloud-amd64", "6.1.137-1"),
        ]
        .concat();
        let mut found = builds(&list, "http://m", "6.1");
        found.sort_by(|a, b| b.numbers.cmp(&a.numbers));
        let urls: Vec<_> = found.iter().map(|build| build.url.as_str()).collect();
        assert_eq!(
            urls,
            ["http://m/pool/linux-image-6.1.0-35-cloud-amd64.deb", "http://m/pool/linux-image-6.1.0-9-cloud-amd64.deb"]
        );
    }
}
