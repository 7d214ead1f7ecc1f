//! The Debian archives of this machine and the kernels in their package lists.
//!
//! In: apt's sources; `dists/SUITE/main/binary-amd64/Packages.xz`. Out: builds of the cloud kernel with the packages to fetch.
use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernels::NEWEST;
use crate::shell;

/// The archives that apt uses here.
pub struct Mirrors {
    main: String,
    security: Option<String>,
}

/// One build of a kernel in a package list.
#[derive(Debug, PartialEq, Eq)]
pub struct Build {
    /// Its meta or image package.
    pub name: String,
    /// The packages that hold image and modules.
    pub urls: Vec<String>,
    /// For comparing.
    pub version: Version,
}

/// A package version as far as kernels need it: `7.3.4-1~bpo13+1`, `7.4~rc2-1~exp1`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    upstream: Vec<u64>,
    /// A release candidate sorts before its release.
    released: bool,
    rest: Vec<u64>,
}

impl Version {
    /// Reads a Debian version.
    pub fn parse(text: &str) -> Self {
        let numbers = |text: &str| text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let at = text.find(['-', '~']).unwrap_or(text.len());
        let (upstream, rest) = text.split_at(at);
        Self { upstream: numbers(upstream), released: !rest.starts_with("~rc"), rest: numbers(rest) }
    }
}

impl Mirrors {
    /// Reads apt's sources.
    pub fn of_this_machine() -> Result<Self> {
        let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
            text.push('\n');
            text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        Self::parse(&text).context("apt's sources name no Debian archive (an address that ends in /debian)")
    }

    /// The builds of a series in a suite.
    pub fn builds(&self, suite: &str, series: &str) -> Result<Vec<Build>> {
        let base = self.base(suite)?;
        let url = format!("{base}/dists/{suite}/main/binary-amd64/Packages.xz");
        let mut fetch = curl(&url).stdout(Stdio::piped()).spawn().context("start curl")?;
        let list = fetch.stdout.take().context("curl's output is piped")?;
        let text =
            shell::output_with_input(Command::new("xz").arg("-dc"), list).with_context(|| format!("read {url}"))?;
        let status = fetch.wait().context("wait for curl")?;
        if !status.success() {
            bail!("fetch {url}: curl ended with {status}");
        }
        Ok(builds(&text, base, series))
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

/// A download that fails loudly.
pub fn curl(url: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--location", "--retry", "2", "--max-time", "600", url]);
    command
}

/// One package of a list.
struct Stanza<'a> {
    version: &'a str,
    file: &'a str,
    depends: &'a str,
}

/// Reads a package list: cloud images of the series, neither real-time nor debugging ones. Up to 7.2 one package holds image and
/// modules; later `linux-image-R` is empty and depends on `linux-binary-R` and `linux-modules-R`.
fn builds(list: &str, base: &str, series: &str) -> Vec<Build> {
    let stanzas: HashMap<&str, Stanza<'_>> =
        list.split("\n\n").filter(|text| text.starts_with("Package: linux-")).filter_map(stanza).collect();
    let one = |(name, image): (&&str, &Stanza<'_>)| {
        if !is_of(name, series) {
            return None;
        }
        let release = name.strip_prefix("linux-image-")?;
        let parts = [format!("linux-binary-{release}"), format!("linux-modules-{release}")];
        let split = image.depends.contains(parts[0].as_str());
        let files: Option<Vec<_>> = match split {
            true => parts.iter().map(|part| stanzas.get(part.as_str()).map(|it| it.file)).collect(),
            false => Some(vec![image.file]),
        };
        let urls = files?.iter().map(|file| format!("{base}/{file}")).collect();
        Some(Build { name: (*name).to_owned(), urls, version: Version::parse(image.version) })
    };
    stanzas.iter().filter_map(one).collect()
}

/// Whether a package is an image of the series: `linux-image-6.1.0-35-cloud-amd64`, `linux-image-7.3-cloud-amd64`.
fn is_of(package: &str, series: &str) -> bool {
    let Some(release) = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-cloud-amd64")) else {
        return false;
    };
    if release.ends_with("-rt") || release.contains("-rt-") || !release.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    series == NEWEST || release.strip_prefix(series).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn stanza(text: &str) -> Option<(&str, Stanza<'_>)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let stanza = Stanza {
        version: field("Version:")?,
        file: field("Filename:")?,
        depends: field("Depends:").unwrap_or_default(),
    };
    Some((field("Package:")?, stanza))
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

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

    fn entry(name: &str, version: &str, depends: &str) -> String {
        format!("Package: {name}\nVersion: {version}\nDepends: {depends}\nFilename: pool/{name}.deb\n\n")
    }

    fn urls(list: &str, series: &str) -> Vec<Vec<String>> {
        let mut found = builds(list, "http://m", series);
        found.sort_by(|a, b| b.version.cmp(&a.version));
        found.into_iter().map(|build| build.urls).collect()
    }

    #[test]
    fn only_cloud_images_of_the_series_are_taken() {
        let list = [
            entry("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", ""),
            entry("linux-image-6.1.0-35-cloud-amd64", "6.1.137-1", ""),
            entry("linux-image-6.1.0-35-amd64", "6.1.137-1", ""),
            entry("linux-image-6.1.0-35-rt-cloud-amd64", "6.1.137-1", ""),
            entry("linux-image-6.1.0-35-cloud-amd64-dbg", "6.1.137-1", ""),
            entry("linux-image-6.12.3-cloud-amd64", "6.12.3-1", ""),
            entry("linux-image-cloud-amd64", "6.1.137-1", ""),
        ]
        .concat();
        let file = |release: &str| vec![format!("http://m/pool/linux-image-{release}-cloud-amd64.deb")];
        assert_eq!(urls(&list, "6.1"), [file("6.1.0-35"), file("6.1.0-9")]);
        assert_eq!(urls(&list, NEWEST), [file("6.12.3"), file("6.1.0-35"), file("6.1.0-9")]);
    }

    #[test]
    fn an_image_in_parts_is_fetched_in_parts() {
        let list = [
            entry("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1", "linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1)"),
            entry("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1", ""),
            entry("linux-modules-7.3.4+deb13-cloud-amd64", "7.3.4-1", ""),
        ];
        let part = |part: &str| format!("http://m/pool/linux-{part}-7.3.4+deb13-cloud-amd64.deb");
        assert_eq!(urls(&list.concat(), "7.3"), [[part("binary"), part("modules")]]);
        assert!(urls(&list[..2].concat(), "7.3").is_empty(), "a part that is not offered makes the build useless");
    }

    #[test]
    fn versions_compare_as_debian_does() {
        let order = ["6.12.94-1", "7.2.13-1", "7.3~rc5-1~exp1", "7.3-1~exp1", "7.3.4-1~bpo13+1", "7.3.10-1"];
        for pair in order.windows(2) {
            assert_eq!(Version::parse(pair[0]).cmp(&Version::parse(pair[1])), Ordering::Less, "{pair:?}");
        }
    }
}
