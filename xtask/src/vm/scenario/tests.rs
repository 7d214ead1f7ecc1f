use super::*;

const FILE: &str = "[[scenario]]\nname='a'\nexpect=[{kind='client',port=8101,spans=2,segment='remote',cause=['remote_slow'],injected_ms=300,truth='client.end_ns - client.start_ns'}]";
const MEANS: &str = r#"{"about":"hook","name":"remote","ok":false}
{"about":"segment","name":"held","ok":true}
{"about":"segment","name":"remote","ok":true}
"#;
const CLIENT: &str = r#"{"path":"/r/0","start_ns":0,"end_ns":310000000}
{"path":"/r/1","start_ns":400000000,"end_ns":710000000}
"#;

/// What the guest brings back.
struct Guest {
    spans: [String; 2],
    why: String,
    client: String,
    means: String,
}

fn span(n: u64, segment: &str, ms: u64, evidence: &str) -> String {
    format!(
        r#"{{"span_id":"{n}","kind":"client","protocol":"http","peer":"127.0.0.1:8101","start_unix_ns":{},"duration_ns":{ms}000000,"attributes":{{"url.path":"/r/{n}"}},"segments":[{{"name":"{segment}","duration_ns":{ms}000000,"evidence":"{evidence}"}}]}}"#,
        n + 5
    )
}

fn why(segment: &str, evidence: &str, cause: &str) -> String {
    format!(
        r#"{{"span_id":"1","duration_ns":310000000,"parts":[{{"name":"send","duration_ns":1000,"evidence":{{"measured":1}}}},{{"name":"{segment}","duration_ns":300000000,"evidence":{{"{evidence}":1}}}}],"verdict":{{"cause":"{cause}"}}}}"#
    )
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            spans: [span(0, "connect", 300, "measured"), span(1, "remote", 300, "measured")],
            why: why("remote", "measured", "remote_slow"),
            client: CLIENT.to_owned(),
            means: MEANS.to_owned(),
        }
    }
}

impl Guest {
    fn judged(&self, derived: &[&str]) -> Result<String> {
        let derived: Vec<String> = derived.iter().map(|&name| name.to_owned()).collect();
        check(&expected::parse(FILE).unwrap(), &derived, |name| {
            Ok(match name {
                "scenarios.jsonl" => Some(self.spans.join("\n")),
                "check.jsonl" => Some(self.means.clone()),
                "a.client" => Some(self.client.clone()),
                "a.client.why" => Some(self.why.clone()),
                _ => None,
            })
        })
    }

    #[track_caller]
    fn wrong(&self, derived: &[&str], expected: &str) {
        let error = format!("{:#}", self.judged(derived).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_right_is_told_with_its_truth() {
    let words = Guest::default().judged(&[]).unwrap();
    assert!(words.contains("remote_slow: remote of 310 ms 300 ms (measured), truth 310 ms"), "{words}");
}

#[test]
fn cause_segment_evidence_and_length_must_be_right() {
    let wrong = |why: String, expected: &str| Guest { why, ..Guest::default() }.wrong(&[], expected);
    wrong(why("remote", "measured", "network_delay"), "the cause is network_delay");
    wrong(why("network", "measured", "remote_slow"), "the largest part is network");
    wrong(why("remote", "derived", "remote_slow"), "remote is derived");
    wrong(r#"{"span_id":"1","duration_ns":1,"parts":[],"verdict":{}}"#.to_owned(), "the cause is none");
    wrong(String::new(), "nothing to ask why of");
    let spans = [span(0, "connect", 300, "measured"), span(1, "remote", 200, "measured")];
    Guest { spans, ..Guest::default() }.wrong(&[], "remote took 200 ms; the truth is 310 ms");
}

#[test]
fn the_truth_must_hold_what_was_injected() {
    let client = CLIENT.replace("710000000", "650000000");
    Guest { client, ..Guest::default() }.wrong(&[], "the rig made 250 ms slow and not 300");
}

#[test]
fn a_span_too_many_or_too_few_or_elsewhere_is_wrong() {
    let spans = |second: &str| [span(0, "connect", 300, "measured"), second.to_owned()];
    let one = span(1, "remote", 300, "measured");
    Guest { spans: spans(""), ..Guest::default() }.wrong(&[], "1 client spans of 2");
    Guest { spans: spans(&format!("{one}\n{one}")), ..Guest::default() }.wrong(&[], "3 client spans of 2");
    Guest { spans: spans(&one.replace(":8101", ":18101")), ..Guest::default() }.wrong(&[], "1 client spans of 2");
}

#[test]
fn what_a_kernel_derives_must_be_derived_and_published() {
    let means = MEANS.replace(r#""remote","ok":true"#, r#""remote","ok":false"#);
    let spans = [span(0, "connect", 300, "measured"), span(1, "remote", 300, "derived")];
    let guest = Guest { means, spans, why: why("remote", "derived", "remote_slow"), ..Guest::default() };
    guest.judged(&["remote"]).unwrap();
    guest.wrong(&[], "degraded are [\"remote\"]");
    Guest { means: MEANS.to_owned(), ..guest }.wrong(&["remote"], "degraded are []");
    let means = MEANS.replace(r#""remote","ok":true"#, r#""remote","ok":false"#);
    Guest { means, ..Guest::default() }.wrong(&["remote"], "remote is measured");
}
