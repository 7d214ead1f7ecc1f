//! Python with the packages that the tests use.

use crate::{agent::repository, process::Launch};

/// A script, run by the environment that `cargo xtask setup --tests` made.
pub fn script(text: &str) -> Launch {
    let program = repository().join(".cache/venv/bin/python");
    assert!(program.exists(), "there is no .cache/venv; `cargo xtask setup --tests` makes it");
    Launch::new(program).arg("-c").arg(text)
}
