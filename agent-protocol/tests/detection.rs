//! No call of a recorded conversation looks like another protocol's, whether its connection was seen from its beginning or not.

use std::{fs, path::Path};

use agent_protocol::{
    detect::{Protocol, Verdict, detect},
    fuzzing::sessions::{Fed, conversation},
    session::Side,
};

/// Protocols of lines, or of packets that begin with little more than a length: what they take must be theirs, and theirs must
/// be taken by nobody else.
const CHECKED: &[&str] = &["redis", "memcached", "nats", "mqtt", "postgresql", "mysql", "fastcgi"];

/// Whether a call from a folder's recordings may look like that.
fn is_own(folder: &str, verdict: Verdict) -> bool {
    match verdict {
        // What a protocol switched to.
        Verdict::Is(Protocol::Tls) | Verdict::NotYet | Verdict::Unknown => true,
        Verdict::Is(protocol) if [folder, protocol.name()].iter().any(|name| CHECKED.contains(name)) => {
            protocol.name() == folder
        }
        Verdict::Is(_) => true,
    }
}

#[test]
fn no_call_looks_like_another_protocols() {
    let (mut calls, mut mistaken) = (0, Vec::new());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for folder in fs::read_dir(fixtures).expect("fixtures").map(|entry| entry.expect("entry").path()) {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let name = folder.file_name().expect("a name").to_string_lossy().replace("postgres", Protocol::Postgres.name());
        for path in entries.map(|entry| entry.expect("entry").path()) {
            if path.extension().is_none_or(|is| is != "session") {
                continue;
            }
            for fed in conversation(&fs::read_to_string(&path).expect("a recording")) {
                let Fed::Bytes(side, bytes) = fed else { continue };
                let verdict = if side == Side::Client { detect(&bytes, b"") } else { detect(b"", &bytes) };
                let shown = bytes[..bytes.len().min(60)].escape_ascii();
                if !is_own(&name, verdict) {
                    mistaken.push(format!("{}: {verdict:?} {shown}", path.display()));
                }
                calls += 1;
            }
        }
    }
    assert!(mistaken.is_empty(), "{mistaken:#?}");
    assert!(calls > 100, "{calls} calls");
}
