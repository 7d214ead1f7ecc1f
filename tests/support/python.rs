//! Python with the packages that the tests use.

use std::path::PathBuf;

use crate::{agent::repository, process::Launch};

/// A script, run by the environment that `cargo xtask setup --tests` made.
pub fn script(text: &str) -> Launch {
    Launch::new(program("python")).arg("-c").arg(text)
}

/// A script, run by another environment ([`program_of`]).
pub fn script_of(environment: &str, text: &str) -> Launch {
    Launch::new(program_of(environment, "python")).arg("-c").arg(text)
}

/// A program of that environment: Python, or what a package brought.
pub fn program(name: &str) -> PathBuf {
    program_of("venv", name)
}

/// A program of another environment, of packages that do not go together with the others.
pub fn program_of(environment: &str, name: &str) -> PathBuf {
    let path = repository().join(".cache").join(environment).join("bin").join(name);
    let by = match environment {
        "venv-http" => "test --only servers",
        "venv-bench" => "bench",
        _ => "setup --tests",
    };
    assert!(path.exists(), "{} is not there; `cargo xtask {by}` installs it", path.display());
    path
}

/// A file that a package of that environment holds, by its path among the packages.
pub fn packaged(file: &str) -> PathBuf {
    let versions = repository().join(".cache/venv/lib");
    let folders = std::fs::read_dir(&versions).into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("site-packages").join(file)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} is not there; `cargo xtask test --only servers` installs it"))
}
