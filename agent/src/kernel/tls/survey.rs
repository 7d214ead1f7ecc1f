//! What would be seen of the TLS of all processes that run now, for `spantap check`.
//!
//! In: nothing. Out: one entry per program and library. Attaches nothing.

use std::collections::{BTreeMap, HashMap};

use super::{
    files::{self, FileId, Mapped},
    functions, reasons,
};

/// What is known of the processes of one program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// Name of the executable.
    pub name: String,
    /// Whether what is inside its TLS connections can be seen.
    pub covered: bool,
    /// By which library, or why not.
    pub detail: String,
}

/// Programs, and how many processes of each run.
pub fn programs() -> Vec<(Program, usize)> {
    let mut libraries = HashMap::new();
    let mut counts: BTreeMap<Program, usize> = BTreeMap::new();
    for pid in super::selected::all() {
        for program in of(pid, &mut libraries) {
            *counts.entry(program).or_default() += 1;
        }
    }
    counts.into_iter().collect()
}

fn of(pid: u32, libraries: &mut HashMap<FileId, &'static str>) -> Vec<Program> {
    let Ok(exe) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return Vec::new() };
    // The agent is never traced, and carries the names of all libraries.
    if std::env::current_exe().is_ok_and(|own| own == exe) {
        return Vec::new();
    }
    let name = exe.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let mut stack = |mapped: &Mapped| {
        let (file, id) = mapped.open().ok()?;
        Some(*libraries.entry(id).or_insert_with(|| functions::find(&file).stack)).filter(|stack| !stack.is_empty())
    };
    let program = |covered, detail| Program { name: name.clone(), covered, detail };
    let files = files::of(pid);
    let (mut programs, mut probed) = (Vec::new(), Vec::new());
    for file in &files {
        if let Some(stack) = stack(file) {
            programs.push(program(true, format!("{stack} {}", file.path)));
            probed.push(file.key());
        }
    }
    // A program may have more than one: what one of them covers says nothing of the other.
    programs.extend(reasons::of(pid, |file| probed.contains(&file.key())).map(|why| program(false, why)));
    programs
}
