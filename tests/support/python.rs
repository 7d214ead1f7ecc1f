//! Python with the packages that the tests use.

use std::path::PathBuf;

use crate::{agent::repository, process::Launch};

/// A script, run by the environment that `cargo xtask setup --tests` made.
pub fn script(text: &str) -> Launch {
    Launch::new(program("python")).arg("-c").arg(text)
}

/// A program of that environment: Python, or what a package brought.
pub fn program(name: &str) -> PathBuf {
    let path = repository().join(".cache/venv/bin").join(name);
    assert!(path.exists(), "{} is not there; `cargo xtask setup --tests` installs it", path.display());
    path
}
