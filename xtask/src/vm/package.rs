//! Kernel packages: downloads them and keeps the few files that a machine boots with.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::mirror::{Build, curl};
use crate::shell;

/// Downloads a build's packages and keeps `vmlinuz` and `NAME.ko` of each module in `folder`; of the `optional` ones those that it has.
pub fn keep(build: &Build, modules: &[&str], optional: &[&str], folder: &Path) -> Result<()> {
    let unpacked = folder.join("unpacked");
    remove(&unpacked)?;
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    for url in &build.urls {
        println!("vm: fetching {url}");
        let package = folder.join("package.deb");
        shell::output(curl(url).arg("-o").arg(&package))?;
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
        fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
    }
    let files = below(&unpacked)?;
    for module in modules {
        let taken = take_module(&files, module, folder)?;
        ensure!(taken, "the package holds no module {module}");
    }
    for module in optional {
        take_module(&files, module, folder)?;
    }
    // Last: where the image is, the modules are as well.
    let is_image = |name: &str| name == "vmlinuz" || name.starts_with("vmlinuz-");
    let image = find(&files, is_image).with_context(|| format!("{} holds no kernel image", build.name))?;
    fs::rename(image, folder.join("vmlinuz")).context("keep the kernel image")?;
    remove(&unpacked)
}

/// Newer kernels compress their modules, which not every loader can read. `false`: there is none of that name.
fn take_module(files: &[PathBuf], module: &str, folder: &Path) -> Result<bool> {
    let (plain, compressed) = (format!("{module}.ko"), format!("{module}.ko.xz"));
    let Some(file) = find(files, |name| name == plain || name == compressed) else { return Ok(false) };
    if file.extension().is_some_and(|extension| extension == "xz") {
        shell::output(Command::new("xz").arg("-d").arg(file))?;
    }
    fs::rename(file.with_file_name(&plain), folder.join(&plain))
        .with_context(|| format!("keep the module {module}"))?;
    Ok(true)
}

fn find(files: &[PathBuf], wanted: impl Fn(&str) -> bool) -> Option<&PathBuf> {
    files.iter().find(|file| file.file_name().is_some_and(|name| wanted(&name.to_string_lossy())))
}

/// Every regular file below a folder; links are not followed.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => files.extend(below(&entry.path())?),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(files)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_name_not_by_prefix() {
        let files: Vec<PathBuf> =
            ["/x/sch_netem_other.ko", "/x/vmlinuz-6.1", "/y/sch_netem.ko.xz"].map(Into::into).into();
        let found = find(&files, |name| name == "sch_netem.ko" || name == "sch_netem.ko.xz").unwrap();
        assert_eq!(found, Path::new("/y/sch_netem.ko.xz"));
        assert!(find(&files, |name| name == "veth.ko").is_none());
    }
}
