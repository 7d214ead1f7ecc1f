//! Names of objects: `dt=YYYY-MM-DD/hour=HH/HOST-KEY-HASH.EXTENSION`, as query engines partition by. Pure.

use agent_core::wire;

use super::{
    super::{compress::Compressor, format::Format},
    sign::{hex_sha256, iso8601},
};

/// The name for a request: the same for the same spans under the same key. Day and hour are those of the first span's start, in UTC. The
/// hash is that of the spans, because others may come under the same key, and must not take their place.
pub(super) fn of(host: &str, key: &str, request: &[u8], extension: &str) -> String {
    let first_s = wire::summary(request).unwrap_or_default().start_unix_ns_min / 1_000_000_000;
    let time = iso8601(first_s);
    let (day, hour) = (&time[..10], &time[11..13]);
    let (host, key, hash) = (plain(host), plain(key), &hex_sha256(request)[..16]);
    format!("dt={day}/hour={hour}/{host}-{key}-{hash}{extension}")
}

/// What is no letter, digit, dot or dash becomes an underscore: parts of a request have a `/` in their key.
fn plain(text: &str) -> String {
    text.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-'), "_")
}

/// The end of a name.
pub(super) fn extension(format: Format, compressor: Compressor) -> &'static str {
    match (format == Format::OtlpJson, compressor.suffix()) {
        (true, ".gz") => ".jsonl.gz",
        (true, ".zst") => ".jsonl.zst",
        (true, _) => ".jsonl",
        (false, ".gz") => ".binpb.gz",
        (false, ".zst") => ".binpb.zst",
        (false, _) => ".binpb",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fakes::block;

    #[test]
    fn the_same_spans_have_the_same_name_and_others_another() {
        let (one, other) = (block(&["a"]).0, block(&["b"]).0);
        let name = of("web-1.example", "log-1-2/0", &one, ".binpb.gz");
        assert!(name.starts_with("dt="), "{name}");
        let (_, file) = name.rsplit_once('/').unwrap();
        assert!(file.starts_with("web-1.example-log-1-2_0-") && file.ends_with(".binpb.gz"), "{name}");
        assert_eq!(of("web-1.example", "log-1-2/0", &one, ".binpb.gz"), name);
        assert_ne!(of("web-1.example", "log-1-2/0", &other, ".binpb.gz"), name);
        assert!(of("h", "k", &[], "").starts_with("dt=1970-01-01/hour=00/h-k-"));
    }
}
