//! Fixed spans, and the comparison with golden files.

use crate::query::api::{
    Attribute, AttributeValue, BudgetStatus, ConnView, DestinationStatus, HookStatus, LateStatus, LinkView, LogStatus,
    Loss, MapMemory, ProgramCost, SegmentView, SelfReport, SpanView, StatusReport, SymptomStatus, Texts, TlsProcess,
};

const START_UNIX_NS: u64 = 1_738_324_800_123_456_789;

/// Compares with `golden/NAME`; with `SPANTAP_BLESS` set it writes the file instead, for review in the diff.
pub fn check_golden(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/golden").join(name);
    if std::env::var_os("SPANTAP_BLESS").is_some() {
        std::fs::write(&path, actual).expect("the golden folder is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(expected == actual, "{} differs; expected:\n{expected}\nactual:\n{actual}", path.display());
}

pub fn text(key: &str, value: &str) -> Attribute {
    Attribute { key: key.to_owned(), value: Some(AttributeValue::Text(value.to_owned())) }
}

pub fn int(key: &str, value: i64) -> Attribute {
    Attribute { key: key.to_owned(), value: Some(AttributeValue::Int(value)) }
}

pub fn tiles(list: &[(&str, u64, &str)]) -> Vec<SegmentView> {
    let mut start_ns = 0;
    let tile = |(name, duration_ns, evidence): &(&str, u64, &str)| {
        let tile = SegmentView {
            name: (*name).to_owned(),
            start_ns,
            duration_ns: *duration_ns,
            evidence: (*evidence).to_owned(),
            ..Default::default()
        };
        start_ns += duration_ns;
        tile
    };
    list.iter().map(tile).collect()
}

/// A client's request, its server's handling, and what that called.
pub fn trace() -> Vec<SpanView> {
    let base = SpanView {
        trace_id: (1..=16).collect(),
        status: "ok".to_owned(),
        protocol: "http".to_owned(),
        ..Default::default()
    };
    let client = SpanView {
        span_id: vec![0xa1; 8],
        kind: "client".to_owned(),
        name: "GET /orders/{id}".to_owned(),
        service: "shop".to_owned(),
        start_unix_ns: START_UNIX_NS,
        duration_ns: 9_876_543,
        local: "10.0.0.1:40000".to_owned(),
        peer: "10.0.0.2:80".to_owned(),
        pid: 4242,
        attributes: vec![
            text("http.request.method", "GET"),
            int("http.response.status_code", 200),
            int("spantap.tcp.srtt_us", 850),
            int("spantap.tcp.retransmits", 0),
            text("spantap.cause", "remote_slow"),
            Attribute { key: "spantap.connection.reused".to_owned(), value: Some(AttributeValue::Bool(true)) },
            Attribute {
                key: "spantap.url.query_names".to_owned(),
                value: Some(AttributeValue::Texts(Texts { values: vec!["page".to_owned(), "sort".to_owned()] })),
            },
        ],
        segments: tiles(&[
            ("send", 20_000, "measured"),
            ("network", 1_000_000, "derived"),
            ("remote", 8_000_000, "derived"),
            ("receive_buffer", 856_543, "measured"),
        ]),
        ..base.clone()
    };
    let server = SpanView {
        span_id: vec![0xb2; 8],
        parent_span_id: vec![0xa1; 8],
        kind: "server".to_owned(),
        name: "GET /orders/{id}".to_owned(),
        service: "orders".to_owned(),
        start_unix_ns: START_UNIX_NS + 520_000,
        duration_ns: 8_000_000,
        local: "10.0.0.2:80".to_owned(),
        peer: "10.0.0.1:40000".to_owned(),
        pid: 77,
        segments: tiles(&[
            ("receive_buffer", 100_000, "measured"),
            ("application", 1_400_000, "measured"),
            ("off_cpu", 5_600_000, "measured"),
            ("run_queue", 600_000, "measured"),
            ("send", 200_000, "measured"),
            ("unexplained", 100_000, "derived"),
        ]),
        links: vec![LinkView {
            trace_id: (1..=16).collect(),
            span_id: vec![0xa1; 8],
            evidence: "tcp_sequence".to_owned(),
        }],
        ..base.clone()
    };
    let mut server = server;
    server.segments[2].by = "socket".to_owned();
    let called = SpanView {
        span_id: vec![0xc3; 8],
        parent_span_id: vec![0xb2; 8],
        kind: "client".to_owned(),
        name: "tcp".to_owned(),
        service: "orders".to_owned(),
        start_unix_ns: START_UNIX_NS + 1_500_000,
        duration_ns: 5_000_000,
        status: "unknown".to_owned(),
        protocol: "tcp".to_owned(),
        local: "[::1]:50000".to_owned(),
        peer: "[::1]:5432".to_owned(),
        pid: 77,
        ..base
    };
    vec![client, server, called]
}

/// An open connection that lost something, one that is older than the agent, and one that failed.
pub fn connections() -> Vec<ConnView> {
    let open = ConnView {
        id: 1,
        local: "10.0.0.1:40000".to_owned(),
        peer: "10.0.0.2:80".to_owned(),
        role: "client".to_owned(),
        pid: 4242,
        state: "open".to_owned(),
        opened_unix_ns: Some(START_UNIX_NS),
        bytes_sent: 2_000,
        bytes_received: 3 << 20,
        exchanges: 20,
        retransmits_total: 7,
        retransmits_in_requests: 4,
        retransmits_handshake: 1,
        retransmits_outside: 2,
        out_of_order: 3,
        srtt_us: Some(850),
        min_rtt_us: Some(400),
        tls: "not covered: rustls".to_owned(),
        ..Default::default()
    };
    let older = ConnView {
        id: 2,
        local: "unix:/run/app.sock".to_owned(),
        peer: "unix:[12]".to_owned(),
        state: "closed".to_owned(),
        closed_unix_ns: Some(START_UNIX_NS + 5),
        bytes_sent: 9 << 30,
        srtt_us: Some(12_345),
        ..Default::default()
    };
    let failed = ConnView {
        id: 3,
        local: "[::1]:50000".to_owned(),
        peer: "[::1]:1".to_owned(),
        role: "client".to_owned(),
        pid: 77,
        state: "failed".to_owned(),
        opened_unix_ns: Some(START_UNIX_NS + 1),
        closed_unix_ns: Some(START_UNIX_NS + 9),
        retransmits_total: 2,
        retransmits_handshake: 2,
        reset_by: "peer".to_owned(),
        ..Default::default()
    };
    vec![open, older, failed]
}

pub fn status() -> StatusReport {
    let hook = |name: &str, attached, detail: &str| HookStatus {
        name: name.to_owned(),
        means: "run queue".to_owned(),
        attached,
        detail: detail.to_owned(),
    };
    let tls = |pid| TlsProcess {
        pid,
        covered_by: vec!["OpenSSL /usr/lib/libssl.so.3".to_owned()],
        not_covered: String::new(),
    };
    StatusReport {
        version: "0.1.0".to_owned(),
        pid: 99,
        started_unix_ns: START_UNIX_NS,
        hooks: vec![hook("sched_waking", true, "tp_btf"), hook("sched_switch", false, "left out by request")],
        selection: vec!["--select-port 80".to_owned()],
        connections: 12,
        spans_total: 10_234,
        destinations: vec![DestinationStatus {
            name: "collector".to_owned(),
            url: "otlp+grpc://127.0.0.1:4317".to_owned(),
            queued: 4,
            delivered: 10_000,
            dead: 30,
            dropped: 200,
            last_error: "connection refused".to_owned(),
            last_error_unix_ns: START_UNIX_NS,
            is_failing: true,
            filtered: 0,
            possible_duplicates: 0,
        }],
        log: Some(LogStatus {
            bytes: 3 << 20,
            segments: 2,
            oldest_unix_ns: START_UNIX_NS,
            bytes_max: 1 << 30,
            spans_appended: 10_234,
            path: "/var/lib/spantap".to_owned(),
            ..Default::default()
        }),
        losses: vec![
            Loss { source: "destination collector".to_owned(), reason: "refused for good".to_owned(), count: 30 },
            Loss { source: "kernel cpu 0".to_owned(), reason: "ring_full".to_owned(), count: 7 },
        ],
        budget: Some(budget()),
        tls: [42, 43].map(tls).into(),
        unselected: "timing".to_owned(),
        config_file: "/etc/spantap/spantap.yaml".to_owned(),
        only_relays: false,
        relay: None,
        symptoms: Some(SymptomStatus {
            count: 1,
            last: "errors of checkout: 30 of 200 spans within 10s".to_owned(),
            last_unix_ns: START_UNIX_NS,
        }),
        late: vec![LateStatus {
            id: 3,
            destination: "collector".to_owned(),
            reason: "spantap export".to_owned(),
            created_unix_ns: START_UNIX_NS,
            matched: 120,
            sent: 20,
            delivered: 64,
            bytes: 40 << 10,
            ..Default::default()
        }],
    }
}

fn budget() -> BudgetStatus {
    BudgetStatus {
        cpu_percent_max: 5,
        cpu_percent: 3.456,
        ring_percent: 12.5,
        level: 2,
        left_out: vec!["payload".to_owned(), "run_queue and off_cpu times".to_owned()],
        sheds: 3,
        restores: 1,
    }
}

pub fn self_report() -> SelfReport {
    let program =
        |hook: &str, runs, run_ns| ProgramCost { hook: hook.to_owned(), means: "tp_btf".to_owned(), runs, run_ns };
    let map = |name: &str, bytes, bytes_max| MapMemory { name: name.to_owned(), bytes, bytes_max };
    SelfReport {
        window_ns: 1_000_000_000,
        cpus: 2,
        programs: vec![
            program("sys_enter", 200_000, 12_000_000),
            program("tcp_probe", 50_000, 9_000_000),
            program("sched_switch", 0, 0),
        ],
        empty_run_ns: 36,
        agent_cpu_ns: 25_000_000,
        budget_ns: 31_000_000,
        agent_memory_bytes: 24 << 20,
        maps: vec![map("CONNECTIONS", 100_000, 9 << 20), map("RECORDS", 2 << 20, 2 << 20)],
        spans: 10_000,
        records: 40_000,
        ring_percent: 12.5,
        losses: vec![Loss { source: "kernel cpu 0".to_owned(), reason: "ring_full".to_owned(), count: 7 }],
        budget: Some(budget()),
        ..Default::default()
    }
}
