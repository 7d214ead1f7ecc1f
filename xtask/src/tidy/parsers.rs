//! Every parser of agent-protocol is fuzzed.
use super::Problem;
use super::lexer::code_only;

/// Modules of agent-protocol that parse nothing.
const NOT_PARSERS: &[&str] = &["frames", "fuzzing", "input", "limits", "protocol", "session"];

/// Compares the modules in `lib.rs` with the fuzz targets: a target belongs to the module that its name starts with.
pub fn check(lib: &str, targets: &[String]) -> Vec<Problem> {
    let code = code_only(lib);
    let modules = code.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
    let parsers = modules.filter(|module| !NOT_PARSERS.contains(module));
    let fuzzed = |module: &str| targets.iter().any(|target| target.starts_with(module));
    let problem = |module| {
        Problem(format!("agent-protocol: the parser {module} has no fuzz target (fuzz/fuzz_targets/{module}*.rs)"))
    };
    parsers.filter(|module| !fuzzed(module)).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_without_a_fuzz_target_is_found() {
        let lib = "pub mod input;\npub mod http1;\n// pub mod later;\npub mod redis;\nmod private;\n";
        assert!(check(lib, &["http1_requests".into(), "redis".into()]).is_empty());
        let problems = check(lib, &["http1_requests".into()]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].0.contains("redis"));
    }
}
