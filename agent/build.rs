//! Embeds the kernel programs' object into the agent.
//!
//! In: `target/bpf/spantap.bpf.o`, which `cargo xtask build` makes, or the file that the environment variable
//! `SPANTAP_BPF_OBJECT` names. Out: `OUT_DIR/spantap.bpf.o`, which `kernel/object.rs` includes. Without an object the file is
//! **empty**: a stub, which the loader refuses by name, so that plain `cargo build` and `cargo test` need no BPF toolchain.
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names an object to embed instead of the one that `cargo xtask build` makes.
const OBJECT_ENV: &str = "SPANTAP_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_ENV}");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("spantap.bpf.o");
    // A build folder may be a copy whose files are links to another's, which must not change with it.
    let _ = fs::remove_file(&output);
    match object() {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            let bytes = fs::read(&object).unwrap_or_else(|error| panic!("read {}: {error}", object.display()));
            fs::write(&output, bytes)
        }
        None => fs::write(&output, []),
    }
    .unwrap_or_else(|error| panic!("write {}: {error}", output.display()));
}

/// The object to embed, if there is one.
fn object() -> Option<PathBuf> {
    if let Some(named) = env::var_os(OBJECT_ENV).filter(|value| !value.is_empty()) {
        // A name that does not exist is a mistake of whoever set it, never a reason to build a stub in silence.
        return Some(PathBuf::from(named));
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = manifest.parent().unwrap_or(Path::new("/")).join("target/bpf");
    watch(&folder);
    Some(folder.join("spantap.bpf.o")).filter(|object| object.is_file())
}

/// Asks cargo to run this again when an object appears. A path that does not exist would make cargo rebuild the agent
/// every time, so the folder is made and watched, not the file.
fn watch(folder: &Path) {
    if fs::create_dir_all(folder).is_ok() {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
}
