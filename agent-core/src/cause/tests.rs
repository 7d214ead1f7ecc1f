//! Each cause from the least that shows it; the catalogue against its page; the words.

use std::collections::BTreeSet;

use super::*;
use crate::span::{
    By,
    Evidence::{self, Derived, Measured},
    Segment,
    SegmentName::{self, *},
    SpanKind, Status, Value,
};
use crate::testing::{End, Kernel, Read};

const MS: u64 = 1_000_000;

/// A span to judge.
struct Case {
    kind: SpanKind,
    status: Status,
    protocol: &'static str,
    segments: Vec<Segment>,
    attributes: Vec<(&'static str, Value)>,
    around: Around<'static>,
}

fn tiles(list: &[(SegmentName, u64, Evidence)]) -> Vec<Segment> {
    let mut offset_ns = 0;
    let tile = |(name, duration_ns, evidence): &(SegmentName, u64, Evidence)| {
        let tile = Segment {
            name: *name,
            offset_ns,
            duration_ns: *duration_ns,
            evidence: *evidence,
            by: None,
            lost_records: 0,
        };
        offset_ns += duration_ns;
        tile
    };
    list.iter().map(tile).collect()
}

/// A client's span with one part of 90 ms, and ends of 5 ms.
fn case(name: SegmentName) -> Case {
    let parts = [(Send, 5 * MS, Measured), (name, 90 * MS, Measured), (ReceiveBuffer, 5 * MS, Measured)];
    Case {
        kind: SpanKind::Client,
        status: Status::Ok,
        protocol: "http",
        segments: tiles(&parts),
        attributes: vec![],
        around: Around::default(),
    }
}

fn failed(error_type: &str) -> Case {
    case(Connect).status(Status::Error).text("error.type", error_type)
}

impl Case {
    fn int(mut self, key: &'static str, value: i64) -> Self {
        self.attributes.push((key, Value::Int(value)));
        self
    }

    fn is(mut self, key: &'static str) -> Self {
        self.attributes.push((key, Value::Bool(true)));
        self
    }

    fn text(mut self, key: &'static str, value: &str) -> Self {
        self.attributes.push((key, Value::String(value.to_owned().into())));
        self
    }

    fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    fn protocol(mut self, protocol: &'static str) -> Self {
        self.protocol = protocol;
        self
    }

    fn server(mut self) -> Self {
        self.kind = SpanKind::Server;
        self
    }

    fn by(mut self, by: By) -> Self {
        self.segments[1].by = Some(by);
        self
    }

    fn derived(mut self) -> Self {
        self.segments[1].evidence = Derived;
        self
    }

    fn with<T>(&self, judge: impl FnOnce(&View<'_>) -> T) -> T {
        let find = |key: &str| self.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        judge(&View {
            kind: self.kind,
            status: self.status,
            protocol: self.protocol,
            duration_ns: self.segments.iter().map(|segment| segment.duration_ns).sum(),
            segments: &self.segments,
            attribute: &find,
            around: self.around,
        })
    }

    fn id(&self) -> Option<&'static str> {
        self.with(|view| decide(view).map(|decision| decision.cause.id()))
    }

    fn finding(&self) -> Finding {
        self.with(|view| explain(view, Names { service: "shop", peer: "10.0.0.2:80" })).expect("a cause")
    }
}

/// Cases by the cause that they show.
fn cases() -> Vec<(Case, &'static str)> {
    let zero_window = |name| case(name).int("spantap.tcp.zero_window_ns", 60 * MS as i64);
    let errno = |errno: &str| failed(errno).text("spantap.connect.errno", errno);
    let syn = || case(Connect).int("spantap.connect.syn_retransmits", 1);
    let mut polling = case(OffCpu).by(By::Poll);
    polling.around.downstream = Some(("GET /stock", [80 * MS, 80 * MS]));
    let mut full = syn();
    full.around.accept_queue = Some((5, 5));
    let mut unanswered = case(Dns);
    unanswered.around.lookup = Some(("shop.test", 1));
    let mut stalled = case(Transfer).int("http.response.body.size", 100 << 20);
    stalled.around.peer_waited_ns = Some(80 * MS);
    let mut paused = case(Transfer).int("http.response.body.size", 100 << 20);
    paused.around.peer_paused_ns = Some(80 * MS);
    let mut kept = case(Transfer).int("http.response.body.size", 3);
    kept.around.peer_held_ns = Some(80 * MS);
    let mut paced_by_path = case(Transfer).int("http.response.body.size", 200_000);
    paced_by_path.around.peer_held_ns = Some(80 * MS);
    let reset = |by| failed("connection_reset").text("spantap.tcp.reset_by", by);
    let unwatched = Case { segments: tiles(&[(Application, MS, Derived)]), ..case(Application) };
    vec![
        (case(Dns), "dns_slow"),
        (case(Remote).protocol("dns"), "dns_slow"),
        (case(Dns).int("spantap.dns.retries", 0), "dns_slow"),
        (case(Dns).int("spantap.dns.retries", 1), "dns_timeout"),
        (unanswered, "dns_timeout"),
        (failed("timeout").protocol("dns"), "dns_timeout"),
        (failed("ECONNREFUSED").protocol("dns"), "dns_refused"),
        (failed("EHOSTUNREACH").protocol("dns"), "dns_unreachable"),
        (failed("lookup_abandoned").protocol("dns"), "dns_abandoned"),
        (failed("SERVFAIL").protocol("dns"), "dns_error"),
        (errno("ECONNREFUSED"), "connect_refused"),
        (errno("ETIMEDOUT"), "connect_timeout"),
        (errno("ECONNRESET"), "connect_reset"),
        (errno("EHOSTUNREACH"), "connect_failed"),
        (failed("connect_abandoned").int("spantap.connect.syn_retransmits", 2), "connect_abandoned"),
        (case(Connect), "connect_slow"),
        (case(Connect).int("spantap.connect.syn_retransmits", 0), "connect_slow"),
        (syn(), "connect_syn_lost"),
        (full, "accept_queue_full"),
        (case(AcceptQueue).server(), "accept_queue_wait"),
        (
            case(AcceptQueue).server().int("spantap.accept.backlog", 5).int("spantap.accept.backlog_max", 5),
            "accept_queue_full",
        ),
        (
            case(AcceptQueue).server().int("spantap.accept.backlog", 4).int("spantap.accept.backlog_max", 5),
            "accept_queue_wait",
        ),
        (case(Tls), "tls_handshake_slow"),
        (failed("handshake_failure").protocol("tls"), "tls_handshake_failed"),
        (zero_window(Send), "send_buffer_full_peer_window"),
        (case(Send).int("spantap.tcp.sndbuf_limited_ns", 1), "send_buffer_full"),
        (case(Send).int("spantap.request.bytes", 1_000), "send_buffer_full"),
        (case(Send).int("spantap.request.bytes", 100_000_000), "send_slow"),
        (zero_window(Held), "held_peer_window"),
        (case(Held).is("spantap.tcp.paced_by_application").is("spantap.tcp.cwnd_limited"), "held_paced"),
        (case(Held).is("spantap.tcp.cwnd_limited"), "held_cwnd"),
        (case(Held).int("spantap.tcp.pacing_rate", 1_000_000).int("http.request.body.size", 80_000), "held_paced"),
        (
            case(Held).int("spantap.tcp.pacing_rate", 1_000_000_000).int("http.request.body.size", 80_000),
            "held_unknown",
        ),
        (case(Queue), "egress_queue"),
        (case(Network), "network_delay"),
        (case(Network).int("spantap.tcp.retransmits", 1), "network_loss"),
        (case(Remote), "remote_slow"),
        (case(Network).int("spantap.tcp.retransmits", 0).int("spantap.tcp.retransmits.shared", 1), "network_loss"),
        (case(Remote).int("spantap.tcp.retransmits", 1), "remote_slow"),
        (case(Remote).derived().int("spantap.tcp.retransmits", 1), "network_loss"),
        (case(Transfer).int("http.response.body.size", 100 << 20), "transfer_large"),
        (case(Transfer).server().int("http.response.body.size", 100 << 20), "transfer_slow"),
        (case(Transfer).int("http.response.body.size", 1_000), "transfer_slow"),
        (case(Transfer).int("spantap.tcp.out_of_order", 3), "transfer_loss"),
        (case(Softirq), "softirq_delay"),
        (case(ReceiveBuffer), "reader_busy"),
        (stalled, "reader_busy"),
        (paused, "transfer_paused"),
        (kept, "transfer_held"),
        (paced_by_path, "transfer_slow"),
        (case(Wakeup), "wakeup_delay"),
        (case(RunQueue), "cpu_contention"),
        (case(RunQueue).by(By::Throttled), "cpu_throttled"),
        (case(OffCpu).by(By::Lock), "blocked_lock"),
        (case(OffCpu).by(By::Disk), "blocked_disk"),
        (case(OffCpu).by(By::Socket), "blocked_downstream"),
        (polling, "blocked_downstream"),
        (case(OffCpu).by(By::Sleep), "blocked_sleep"),
        (case(OffCpu).by(By::Poll), "blocked_poll"),
        (case(OffCpu).by(By::Other), "blocked_other"),
        (case(OffCpu), "blocked_other"),
        (case(Application), "application_cpu"),
        (unwatched, "application_unwatched"),
        (reset("peer"), "reset_by_peer"),
        (reset("local"), "reset_by_local"),
        (failed("connection_closed").text("spantap.tcp.closed_by", "peer"), "closed_by_peer"),
        (failed("connection_closed").server().text("spantap.tcp.closed_by", "local"), "closed_by_local"),
        (failed("request_abandoned").text("spantap.tcp.closed_by", "local"), "request_abandoned"),
        (failed("client_gone").server().text("spantap.tcp.closed_by", "peer"), "client_gone"),
        // The whole answer was written, though nobody was there any more: it took its time like any other.
        (case(OffCpu).server().by(By::Sleep).text("spantap.tcp.closed_by", "peer"), "blocked_sleep"),
        // A server may reset after the whole answer: that is not why it took long.
        (case(Remote).text("spantap.tcp.reset_by", "peer"), "remote_slow"),
        // An answer that says error took its time like any other.
        (case(Application).status(Status::Error).text("error.type", "500"), "application_cpu"),
        (case(Unexplained), "unexplained"),
    ]
}

#[test]
fn each_cause_follows_from_the_least_that_shows_it() {
    for (number, (case, expected)) in cases().into_iter().enumerate() {
        assert_eq!(case.id(), Some(expected), "case {number}");
    }
}

#[test]
fn every_cause_has_a_case_and_an_id_of_its_own() {
    let shown: BTreeSet<&str> = cases().into_iter().map(|(_, id)| id).collect();
    let all: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.id()).collect();
    assert_eq!(shown, all);
    assert_eq!(all.len(), Cause::ALL.len());
    assert!(Cause::ALL.iter().all(|cause| Cause::from_id(cause.id()) == Some(*cause)));
}

#[test]
fn the_page_of_causes_has_exactly_the_catalogue() {
    let row = |cause: &Cause| {
        let entry = cause.entry();
        format!("| `{}` | {} | {} | `{}` |", entry.id, entry.title, entry.rule, entry.next.replace('|', "\\|"))
    };
    let expected: Vec<_> = Cause::ALL.iter().map(row).collect();
    let page = include_str!("../../../docs/causes.md");
    let catalogue = page.split("## In scripts").next().unwrap_or(page);
    let rows: Vec<_> = catalogue.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows == expected, "the rows should be:\n{}", expected.join("\n"));
}

#[test]
fn of_equal_parts_the_earlier_on_the_way_is_named_and_an_explanation_before_none() {
    let check = |parts: &[(SegmentName, u64, Evidence)], expected| {
        let case = Case { segments: tiles(parts), ..case(Send) };
        assert_eq!(case.id(), Some(expected));
        case.finding()
    };
    let finding = check(&[(Remote, MS, Measured), (Network, MS, Measured)], "network_delay");
    assert!(finding.evidence.iter().any(|words| words.contains("closely followed by remote")), "{finding:?}");
    check(&[(Unexplained, MS, Derived), (Transfer, MS, Measured)], "transfer_slow");
    // Tiles of one name count together.
    check(&[(Application, 3, Measured), (Remote, 4, Measured), (Application, 3, Measured)], "application_cpu");
}

#[test]
fn a_span_that_shows_nothing_has_no_cause() {
    assert_eq!(Case { segments: vec![], ..case(Send) }.id(), None);
    assert_eq!(Case { segments: tiles(&[(Send, 0, Measured)]), ..case(Send) }.id(), None);
    let refused = failed("ECONNREFUSED").text("spantap.connect.errno", "ECONNREFUSED");
    assert_eq!(Case { segments: vec![], ..refused }.id(), Some("connect_refused"));
}

#[test]
fn the_network_is_ruled_out_by_its_acknowledgement() {
    let parts = [
        (Send, 20_000, Measured),
        (Network, 58_000, Measured),
        (Remote, 40 * MS, Measured),
        (RunQueue, 10_000, Measured),
        (ReceiveBuffer, 30_000, Measured),
    ];
    let case = Case { segments: tiles(&parts), ..case(Send) }.int("spantap.tcp.retransmits", 0);
    let finding = case.finding();
    assert_eq!(
        finding.sentence,
        "10.0.0.2:80 had the request and took long to begin its answer: remote took 40.000 ms of 40.118 ms, 99.7 % (measured)"
    );
    assert_eq!(
        finding.ruled_out,
        [
            "sending ruled out: the last byte had left 20 us after the write began",
            "network ruled out: ACK 58 us after the last byte left, 0 retransmits",
            "reading ruled out: read 30 us after it had arrived",
            "waiting for a CPU ruled out: 10 us in run queues",
        ]
    );
    assert_eq!(finding.not_seen, Vec::<String>::new());
}

#[test]
fn loss_of_the_answer_is_no_innocent_network() {
    let parts = [(Send, 20_000, Measured), (Network, 58_000, Measured), (Remote, 40 * MS, Measured)];
    let ruled_out = |case: Case| {
        let case = Case { segments: tiles(&parts), ..case }.int("spantap.tcp.retransmits", 0);
        case.finding().ruled_out.iter().any(|words| words.starts_with("network"))
    };
    assert!(ruled_out(case(Send).int("spantap.tcp.out_of_order", 0)));
    assert!(!ruled_out(case(Send).int("spantap.tcp.out_of_order", 1)));
    let around = Around { peer_resent: 1, ..Around::default() };
    assert!(!ruled_out(Case { around, ..case(Send) }));
}

#[test]
fn who_gave_up_says_when_and_what_it_had_waited_for() {
    let parts = [(Send, MS, Measured), (Remote, 99 * MS, Measured)];
    let given_up = Case { segments: tiles(&parts), ..failed("request_abandoned") };
    let finding =
        given_up.text("spantap.tcp.closed_by", "local").int("spantap.tcp.closed_after_ns", 100 * MS as i64).finding();
    assert_eq!(
        finding.sentence,
        "shop gave up after 100.000 ms: it closed the connection before it had the whole answer; until then 99.000 ms were remote, 99.0 % (measured)"
    );
    assert_eq!(finding.evidence, ["the application's close was seen 100.000 ms after the begin of the request"]);
    let gone = Case { segments: tiles(&[(Application, 90 * MS, Derived)]), ..failed("client_gone") }.server();
    let finding =
        gone.text("spantap.tcp.closed_by", "peer").int("spantap.tcp.closed_after_ns", 90 * MS as i64).finding();
    assert!(finding.sentence.starts_with("the client had closed the connection before"), "{finding:?}");
    assert_eq!(finding.evidence[0], "the peer's close was seen 90.000 ms after the begin of the request");
}

#[test]
fn a_time_that_was_not_seen_whole_may_be_a_wait_for_a_cpu() {
    let ruled_out = |unseen_ns| {
        let parts = [
            (Send, 20_000, Measured),
            (Remote, 40 * MS, Measured),
            (RunQueue, 10_000, Measured),
            (Unexplained, unseen_ns, Derived),
        ];
        Case { segments: tiles(&parts), ..case(Send) }.finding().ruled_out
    };
    let about_cpu = |words: Vec<String>| words.iter().any(|words| words.starts_with("waiting for a CPU"));
    assert!(about_cpu(ruled_out(MS)) && !about_cpu(ruled_out(3 * MS)));
}

#[test]
fn what_is_derived_rules_nothing_out_and_says_so() {
    let parts = [(Send, 20_000, Measured), (Network, 58_000, Derived), (Remote, 40 * MS, Derived)];
    let finding = Case { segments: tiles(&parts), ..case(Send) }.finding();
    assert!(!finding.ruled_out.iter().any(|words| words.starts_with("network")), "{finding:?}");
    assert!(finding.evidence.iter().any(|words| words.contains("remote is derived, not measured")), "{finding:?}");
    assert!(finding.not_seen[0].starts_with("remote derived 40.000 ms (99.8 %): what is left"), "{finding:?}");
    assert_eq!(finding.not_seen[1..], ["derived, each under 1 %: network"]);
}

#[test]
fn evidence_names_what_it_rests_on() {
    let check = |case: Case, expected: &str| {
        let finding = case.finding();
        assert!(finding.evidence.iter().any(|words| words == expected), "{expected}: {finding:?}");
    };
    let window = case(Send).int("spantap.tcp.zero_window_ns", 60 * MS as i64);
    check(window, "the peer's window was zero for 60.000 ms");
    check(case(Connect).int("spantap.connect.syn_retransmits", 2), "2 SYN retransmits");
    check(case(Transfer).int("http.response.body.size", 9_000_000), "9.0 MB in 90.000 ms, 100.0 MB/s");
    check(case(OffCpu).by(By::Lock).server(), "waited for a lock 90.000 ms");
    let mut polling = case(OffCpu).by(By::Poll);
    let lock = Segment { duration_ns: 5 * MS, by: Some(By::Lock), ..polling.segments[1] };
    polling.segments[2] = lock;
    polling.around.downstream = Some(("its call GET /stock", [95 * MS, 95 * MS]));
    check(polling, "of that 90.000 ms during its call GET /stock");
    check(case(RunQueue).by(By::Throttled), "throttled for 90.000 ms of 90.000 ms");
    check(failed("EHOSTUNREACH").text("spantap.connect.errno", "EHOSTUNREACH"), "connect failed with EHOSTUNREACH");
}

#[test]
fn what_was_not_seen_is_said() {
    let mut case = case(Remote).status(Status::Unknown).text("spantap.start.evidence", "derived");
    case.segments[2] = Segment { name: Unexplained, evidence: Derived, lost_records: 7, ..case.segments[2] };
    let finding = case.finding();
    assert_eq!(finding.not_seen[0], "unexplained 5.000 ms (5.0 %)");
    assert!(finding.not_seen.iter().any(|words| words.starts_with("the outcome")), "{finding:?}");
    assert!(finding.not_seen.iter().any(|words| words.starts_with("the start")), "{finding:?}");
    assert_eq!(finding.not_seen.last().unwrap(), "7 kernel records were lost while this span ran");
}

#[test]
fn figures_are_readable() {
    assert_eq!(words::ms(12_345_678), "12.346 ms");
    assert_eq!((words::short(58_400), words::short(999_500)), ("58 us".into(), "1.000 ms".into()));
    assert_eq!(words::bytes(1_500_000), "1.5 MB");
    assert_eq!(words::bytes(999), "999 bytes");
    assert_eq!(words::percent(1, 3), "33.3 %");
}

#[test]
fn the_pipeline_gives_each_span_its_cause() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000);
    client.write(&mut kernel, 1_400, 1_430, b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n");
    client.acked(&mut kernel, 1_500, 28, [1_400, 1_420, 1_480], 0);
    let read = Read {
        enter: 1_440,
        arrived: (90_000, 90_000),
        woken: 90_010,
        running: 90_020,
        returned: 90_030,
        ..Read::default()
    };
    client.read(&mut kernel, read, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let spans = kernel.run().spans;
    assert_eq!(spans.iter().map(|span| span.cause).collect::<Vec<_>>(), [Some("remote_slow")]);
}
