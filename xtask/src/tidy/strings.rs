//! Words that no file of the repository may contain: addresses of registries, and paths of one machine.
use super::{Problem, Source};

/// A pattern, in two halves so that this file does not contain it, and why it is forbidden.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("../sha", "red", "a path outside of the repository"),
    (" sha", "red/", "a path outside of the repository"),
    ("`sha", "red/", "a path outside of the repository"),
    ("\"sha", "red/", "a path outside of the repository"),
    ("://cra", "tes.io", "a registry's address: packages are named, never located"),
    ("index.cra", "tes.io", "a registry's address: packages are named, never located"),
    ("static.cra", "tes.io", "a registry's address: packages are named, never located"),
    ("py", "pi.org", "a registry's address: packages are named, never located"),
    ("files.python", "hosted.org", "a registry's address: packages are named, never located"),
    ("registry.npm", "js.org", "a registry's address: packages are named, never located"),
    ("deb.deb", "ian.org", "a mirror's address: apt's own sources are used"),
    ("security.deb", "ian.org", "a mirror's address: apt's own sources are used"),
    ("issue", " #", "a number in a tracker: say what it was about"),
];

/// Files that a tool writes.
const GENERATED: &[&str] = &["Cargo.lock"];

/// Looks for the patterns in every line.
pub fn check(files: &[Source]) -> Vec<Problem> {
    let checked = files.iter().filter(|file| !GENERATED.iter().any(|name| file.path.ends_with(name)));
    checked.flat_map(check_file).collect()
}

fn check_file(file: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (first, second, why) in FORBIDDEN {
            let pattern = format!("{first}{second}");
            if line.match_indices(&pattern).any(|(at, _)| starts_a_path(line, at, &pattern)) {
                problems.push(Problem(format!("{}:{}: contains {pattern:?}, {why}", file.path, number + 1)));
            }
        }
    }
    problems
}

/// An absolute path's first folder, not one further down in a longer path.
fn starts_a_path(line: &str, at: usize, pattern: &str) -> bool {
    let before = line[..at].chars().next_back();
    !pattern.starts_with('/') || !before.is_some_and(|c| c.is_alphanumeric() || "_-.}".contains(c))
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[track_caller]
    fn count(path: &str, text: &str, expected: usize) {
        assert_eq!(check(&[source(path, text)]).len(), expected, "{text}");
    }

    #[test]
    fn each_forbidden_pattern_is_found() {
        for (first, second, _) in FORBIDDEN {
            count("a.md", &format!("see {first}{second}x"), 1);
        }
    }

    #[test]
    fn a_folder_inside_a_longer_path_is_not_a_machines_path() {
        count("a.rs", &format!("src{}{}x", "/wo", "rk/"), 0);
        count("a.rs", &format!("\"{}{}x\"", "/wo", "rk/"), 1);
    }

    #[test]
    fn the_lock_file_may_name_its_registry() {
        count("agent-ebpf/Cargo.lock", &format!("index.{}{}", "cra", "tes.io"), 0);
    }
}
