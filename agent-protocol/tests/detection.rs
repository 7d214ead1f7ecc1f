//! No call of a recorded conversation looks like another protocol's, whether its connection was seen from its beginning or not.

use std::{fs, path::Path};

use agent_protocol::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{Fed, conversation},
    session::Side,
};

/// Protocols by the folders of their recordings.
fn is_own(folder: &str, verdict: Verdict) -> bool {
    match verdict {
        // What a protocol switched to.
        Verdict::Is(Protocol::Tls) => true,
        Verdict::Is(protocol) => protocol.name().starts_with(folder) || folder.starts_with(protocol.name()),
        Verdict::NotYet | Verdict::Unknown => true,
    }
}

#[test]
fn no_call_looks_like_another_protocols() {
    let mut calls = 0;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for folder in fs::read_dir(fixtures).expect("fixtures").map(|entry| entry.expect("entry").path()) {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        for path in entries.map(|entry| entry.expect("entry").path()) {
            if path.extension().is_none_or(|is| is != "session") {
                continue;
            }
            for fed in conversation(&fs::read_to_string(&path).expect("a recording")) {
                let Fed::Bytes(side, bytes) = fed else { continue };
                let verdict = if side == Side::Client { detect(&bytes, b"") } else { detect(b"", &bytes) };
                let shown = bytes[..bytes.len().min(60)].escape_ascii();
                assert!(is_own(&name, verdict), "{}: {verdict:?} {shown}", path.display());
                calls += 1;
            }
        }
    }
    assert!(calls > 100, "{calls} calls");
}
