//! Builds the kernel programs into one object, then the agent with the object inside.
//!
//! In: `agent-ebpf/`, a workspace of its own for another target. Out: `target/bpf/spantap.bpf.o` and the agent's binary. Cargo
//! decides what is out of date; the object is replaced only when its bytes change, so the agent is not rebuilt for nothing.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

use crate::repo::Repo;
use crate::setup;
use crate::shell;
use crate::toolchain::{Route, Toolchain};

/// Arguments of `cargo xtask build`.
#[derive(Args)]
pub struct BuildArgs {
    /// Build the agent with optimisations. The kernel programs always are.
    #[arg(long)]
    pub release: bool,
    /// The compiler for the kernel programs; by default the first that is installed, else Debian's.
    #[arg(long, value_enum)]
    pub toolchain: Option<Route>,
}

/// The target of the kernel programs: little-endian BPF, no standard library.
const TARGET: &str = "bpfel-unknown-none";

/// Builds both.
pub fn build(repo: &Repo, args: &BuildArgs) -> Result<()> {
    let toolchain = setup::toolchain(repo, args.toolchain)?;
    object(repo, &toolchain)?;
    let mut command = shell::cargo();
    command.args(["build", "-p", "agent"]).current_dir(&repo.root);
    if args.release {
        command.arg("--release");
    }
    shell::run(&mut command)?;
    let profile = if args.release { "release" } else { "debug" };
    println!("built {}", repo.shown(&repo.agent_binary(profile)));
    Ok(())
}

/// Builds the kernel programs with a toolchain that is set up.
pub fn object(repo: &Repo, toolchain: &Toolchain) -> Result<()> {
    let output = repo.path("target/ebpf").join(toolchain.label());
    let mut command = toolchain.cargo();
    command.args(["build", "--release", "--target", TARGET]).args(toolchain.build_flags());
    // Whoever has it in the environment: in pieces, functions that belong into others are called, and the stack is too small for that.
    command.env("CARGO_INCREMENTAL", "0");
    command.arg("--target-dir").arg(&output);
    for value in target_config(&toolchain.linker(repo)?) {
        command.args(["--config", &value]);
    }
    shell::run(command.current_dir(repo.path("agent-ebpf")))?;
    let linked = output.join(TARGET).join("release/spantap-ebpf");
    let linked = fs::read(&linked).with_context(|| format!("read {}", linked.display()))?;
    if replace(&without_debugging(&linked)?, &repo.object())? {
        println!("  new {}", repo.shown(&repo.object()));
    }
    Ok(())
}

/// Cargo's settings for the target: v3 instructions (Linux 5.1), the macro that aya-ebpf wants, and BTF with line numbers. Small
/// copies and fills become loads and stores: by default they would be calls of functions that go byte by byte.
fn target_config(linker: &Path) -> [String; 2] {
    const IN_PLACE: &str = "link-arg=--disable-expand-memcpy-in-order";
    const CPU: [&str; 4] = ["-C", "target-cpu=v3", "--cfg", "bpf_target_arch=\"x86_64\""];
    let flags = [&CPU[..], &["-C", "link-arg=--btf", "-C", IN_PLACE, "-C", "debuginfo=2"]].concat();
    [
        format!("target.{TARGET}.linker={:?}", linker.display().to_string()),
        format!("target.{TARGET}.rustflags={flags:?}"),
    ]
}

/// The object without its DWARF sections, from which the linker has made BTF: nobody reads them, and they are four fifths of it.
fn without_debugging(object: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(object).context("read the kernel programs' object")?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // The linker has one table for the names of sections and symbols; this crate writes two.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped).context("write the kernel programs' object")?;
    Ok(stripped)
}

/// Writes a file unless it has these contents already; says whether it did.
fn replace(new: &[u8], to: &Path) -> Result<bool> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let folder = to.parent().context("object path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(to, new).with_context(|| format!("write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_settings_are_valid_toml() {
        for value in target_config(Path::new("/a b/bpf-linker")) {
            let parsed: toml::Table = toml::from_str(&value).unwrap();
            assert!(parsed["target"][TARGET].is_table(), "{value}");
        }
    }

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let folder = std::env::temp_dir().join(format!("xtask-replace-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let to = folder.join("below/to");
        assert!(replace(b"one", &to).unwrap());
        assert!(!replace(b"one", &to).unwrap());
        assert!(replace(b"two", &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&folder).unwrap();
    }
}
