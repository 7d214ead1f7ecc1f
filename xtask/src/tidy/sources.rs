//! Laws about Rust sources: layouts in one place, pure crates pure, one door for redaction, files of readable length.
use super::lexer::{Word, code_only, without_tests, words};
use super::{Problem, Source};

/// Lines above which a file is talked about, and above which it is refused.
const LONG: usize = 500;
const TOO_LONG: usize = 700;

/// Crates that take time and bytes as arguments and touch nothing.
const PURE: &[&str] = &["agent-protocol/src/", "agent-core/src/"];

/// Words that are effects wherever they stand.
const IMPURE_WORDS: &[&str] = &[
    "unsafe",
    "async",
    "await",
    "tokio",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "println",
    "eprintln",
    "thread_local",
    "static_mut",
];

/// Modules of std that are effects. `std::net` is not among them: addresses are plain values.
const IMPURE_STD: &[&str] = &["thread", "fs", "io", "env", "process", "os"];

/// Where `repr(C)` may stand, and why.
const LAYOUTS: &[(&str, &str)] = &[
    ("agent-common/src/", "the layouts that both sides share"),
    ("agent-ebpf/src/state.rs", "map values of the kernel programs' own, which userspace never reads"),
    ("agent-ebpf/src/maps.rs", "the per-CPU scratch in which a record is put together"),
    ("tests/support/actors/uring.rs", "the kernel's own interface, spoken by a program that is traced"),
    ("agent/src/kernel/object.rs", "the alignment of the embedded object, not a record"),
];

/// Types that only redaction may construct, and where.
const SAFE_TYPES: &[&str] = &["SafeSpan", "SafeBatch"];
const REDACTION: &str = "agent-core/src/redact";

/// Checks every Rust file.
pub fn check(files: &[Source]) -> Vec<Problem> {
    files.iter().filter(|file| file.path.ends_with(".rs")).flat_map(check_file).collect()
}

/// Files that are long but not yet refused.
pub fn long_files(files: &[Source]) -> Vec<String> {
    let long = files.iter().filter(|file| counts(file) && (LONG + 1..=TOO_LONG).contains(&file.text.lines().count()));
    long.map(|file| format!("{} has {} lines (talk about it above {LONG})", file.path, file.text.lines().count()))
        .collect()
}

fn check_file(file: &Source) -> Vec<Problem> {
    let code = code_only(&file.text);
    let mut problems = Vec::new();
    let mut report = |line: usize, what: String| problems.push(Problem(format!("{}:{line}: {what}", file.path)));

    let lines = file.text.lines().count();
    if counts(file) && lines > TOO_LONG {
        report(lines, format!("{lines} lines; split it ({TOO_LONG} at most)"));
    }
    if PURE.iter().any(|folder| file.path == format!("{folder}lib.rs")) && !code.contains("#![forbid(unsafe_code)]") {
        report(1, "a pure crate's lib.rs must say #![forbid(unsafe_code)]".into());
    }
    for word in words(&code) {
        if word.text == "repr"
            && word.after.starts_with("(C")
            && !LAYOUTS.iter().any(|(path, _)| file.path.starts_with(path))
        {
            report(word.line, "repr(C) belongs to agent-common".into());
        }
        if constructs_safe_type(&word) && !file.path.starts_with(REDACTION) {
            report(word.line, format!("{} is constructed in redact.rs only", word.text));
        }
    }
    if PURE.iter().any(|folder| file.path.starts_with(folder)) && !is_test_file(&file.path) {
        for word in words(without_tests(&code)).filter(is_impure) {
            report(word.line, format!("`{}` in a pure crate (no clock, IO, threads, async or unsafe)", word.text));
        }
    }
    problems
}

/// Written by people.
fn counts(file: &Source) -> bool {
    file.path.ends_with(".rs") && !file.text.contains(concat!("@", "generated"))
}

/// Files that are compiled for tests only.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn is_impure(word: &Word<'_>) -> bool {
    if word.text == "std" {
        let Some(path) = word.after.strip_prefix("::") else { return false };
        let module: &str = path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        return IMPURE_STD.contains(&module) || (module == "time" && !path.starts_with("time::Duration"));
    }
    IMPURE_WORDS.contains(&word.text)
}

/// A struct literal or a tuple construction, told from declarations, implementations, patterns of the type and return types.
fn constructs_safe_type(word: &Word<'_>) -> bool {
    if !SAFE_TYPES.contains(&word.text) {
        return false;
    }
    let after = word.after.trim_start();
    let before = word.before.trim_end();
    let literal = after.starts_with('{') || after.starts_with('(');
    let declares = ["struct", "enum", "impl", "for", "->", "dyn", "trait"].iter().any(|word| before.ends_with(word));
    let generic = before.ends_with('>') && before.contains("impl"); // impl<T> SafeSpan {
    let returns = before.ends_with('&') && before.contains("->");
    literal && !declares && !generic && !returns
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[track_caller]
    fn finds(path: &str, text: &str, expected: &str) {
        let problems = check(&[source(path, text)]);
        assert!(problems.iter().any(|problem| problem.0.contains(expected)), "{text}: {problems:?}");
    }

    #[track_caller]
    fn passes(path: &str, text: &str) {
        assert_eq!(check(&[source(path, text)]), []);
    }

    #[test]
    fn a_layout_outside_of_agent_common_is_found() {
        let layout = "#[repr(C)]\nstruct A;";
        finds("agent/src/kernel/ring.rs", layout, "ring.rs:1: repr(C)");
        finds("agent-ebpf/src/emit.rs", "#[repr(C, align(8))] struct A;", "repr(C)");
        passes("agent-common/src/message.rs", layout);
        passes("agent-ebpf/src/state.rs", layout);
        passes("agent/src/a.rs", "// repr(C)\nconst A: &str = \"repr(C)\";");
    }

    #[test]
    fn effects_in_a_pure_crate_are_found() {
        for code in [
            "use std::time::Instant;",
            "std::thread::sleep(x)",
            "use std::fs;",
            "std::net::TcpStream::connect(a)",
            "async fn f() {}",
            "unsafe { x }",
            "tokio::spawn(f)",
            "fn f() -> std::time::SystemTime",
            "use std::io::Read;",
        ] {
            finds("agent-core/src/flow.rs", code, "in a pure crate");
            passes("agent/src/flow.rs", code);
        }
    }

    #[test]
    fn plain_values_and_tests_are_allowed_in_a_pure_crate() {
        passes("agent-core/src/flow.rs", "use std::net::SocketAddr;\nuse std::time::Duration;");
        passes("agent-core/src/flow.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }");
        passes("agent-protocol/src/http1/tests.rs", "use std::fs;");
        passes("agent-core/src/flow.rs", "let unsafe_code = r#\"unsafe async\"#; // std::fs");
    }

    #[test]
    fn a_pure_crate_forbids_unsafe_code() {
        finds("agent-core/src/lib.rs", "mod a;", "forbid(unsafe_code)");
        passes("agent-core/src/lib.rs", "#![forbid(unsafe_code)]\nmod a;");
    }

    #[test]
    fn only_redaction_constructs_safe_spans() {
        finds("agent/src/log/mod.rs", "let a = SafeSpan { span };", "constructed in redact.rs only");
        finds("agent-core/src/pipeline.rs", "out.push(SafeSpan(span))", "constructed in redact.rs only");
        passes("agent-core/src/redact.rs", "SafeSpan { span }");
        passes(
            "agent/src/a.rs",
            "fn a(b: &[SafeSpan]) -> SafeSpan { b }\nimpl Into<X> for SafeSpan {\nimpl SafeSpan {}\nfn c() -> &SafeSpan { d }",
        );
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        let lines = |count: usize| "x\n".repeat(count);
        passes("agent/src/a.rs", &lines(TOO_LONG));
        finds("agent/src/a.rs", &lines(TOO_LONG + 1), "split it");
        passes("agent/src/a.rs", &format!("// {}generated\n{}", "@", lines(TOO_LONG)));
        assert_eq!(long_files(&[source("a.rs", &lines(LONG)), source("b.rs", &lines(LONG + 1))]).len(), 1);
    }
}
