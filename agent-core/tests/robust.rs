//! Whatever the records say: no panic, bounded state, exact sums. And recorded streams replay to the spans beside them.

use agent_core::{
    loss::Loss,
    pipeline::{ClockOffset, Pipeline, PipelineConfig},
    redact::SafeSpan,
    replay::{Writer, replay},
    span::{MonotonicNs, ProcessFacts, Value},
    testing::{End, Kernel, Random, attribute, segments, survive},
};

/// A little of everything: HTTP and not, both roles, several connections.
fn traffic() -> Kernel {
    let mut kernel = Kernel::default();
    for id in 0..4_u16 {
        let port = 40_000 + id;
        let mut client = End { id: u64::from(id) * 2 + 1, local: port, ..End::client() };
        let mut server = End { id: u64::from(id) * 2 + 2, peer: port, ..End::server() };
        let start = 1_000_000 + u64::from(id) * 100_000;
        client.open(&mut kernel, start);
        server.open(&mut kernel, start + 50);
        for index in 0..3_u64 {
            let at = start + 300 + index * 2_000;
            let (request, response): (&[u8], &[u8]) = match (id, index) {
                (3, _) => (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
                (_, 0) => (b"GET /items/42?q=1 HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
                (_, 1) => (
                    b"POST /orders HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nabc",
                    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                ),
                _ => (b"GET /fail HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
            };
            client.write(&mut kernel, at, at + 30, request);
            server.read_at(&mut kernel, at + 60, request);
            server.write(&mut kernel, at + 560, at + 580, response);
            client.acked(
                &mut kernel,
                at + 600,
                request.len() as u32,
                [at, at + 20, at + 595],
                agent_common::message::flag::PIGGYBACKED,
            );
            client.read_at(&mut kernel, at + 620, response);
            if id == 2 {
                let length = response.len() as u32;
                server.resend(
                    &mut kernel,
                    at + 700,
                    length,
                    length,
                    agent_common::message::retransmit::TAIL_LOSS_PROBE,
                );
                server.acked(&mut kernel, at + 800, length, [at + 560, at + 575, at + 800], 0);
            }
        }
        client.close(&mut kernel, start + 9_000);
        server.close(&mut kernel, start + 9_100);
    }
    let refused = End { id: 90, local: 41_000, ..End::client() };
    let mut record = refused.connection(&mut kernel, 1_500_000, agent_common::connection::change::CONNECT_FAILED);
    (record.opened_ns, record.errno) = (1_499_900_000, 111);
    kernel.emit(&record, &[]);
    kernel
}

#[test]
fn damaged_lost_repeated_and_swapped_records_never_panic_and_sums_stay_exact() {
    let spans = survive(&traffic(), 1500);
    assert!(spans > 1500 * 10, "most of the traffic survives: {spans}");
}

#[test]
fn every_table_is_bounded_and_says_what_it_gave_up() {
    let config = PipelineConfig {
        connections_max: 64,
        processes_max: 32,
        spans_max: 100,
        reorder_records_max: 50,
        ..Default::default()
    };
    let mut pipeline = Pipeline::new(config, ClockOffset::default());
    let mut kernel = Kernel::default();
    for id in 0..1000_u16 {
        let mut client = End { id: u64::from(id), local: 10_000 + id, pid: u32::from(id) + 1, ..End::client() };
        let at = 1_000_000 + u64::from(id) * 10;
        client.open(&mut kernel, at);
        client.write(&mut kernel, at + 1, at + 2, b"GET / HTTP/1.1\r\n\r\n");
        client.read_at(&mut kernel, at + 20, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    for record in &kernel.records {
        pipeline.record(record);
        assert!(pipeline.connections() <= 64);
    }
    pipeline.flush(MonotonicNs(3_000_000_000));
    assert_eq!(pipeline.drain().len(), 100);
    for loss in [Loss::ConnectionEvicted, Loss::ProcessEvicted, Loss::SpanOverflow, Loss::ReorderOverflow] {
        assert!(pipeline.losses().get(loss) > 0, "{}", loss.name());
    }
}

#[test]
fn facts_reach_spans_that_were_finished_before_they_came() {
    let mut pipeline = Pipeline::new(PipelineConfig::default(), ClockOffset::default());
    traffic().records.iter().for_each(|record| pipeline.record(record));
    assert_eq!(pipeline.wanted_facts(), [11, 22]);
    assert!(pipeline.wanted_facts().is_empty());
    for (pid, name) in [(11, "curl"), (22, "shop")] {
        pipeline.facts(ProcessFacts { pid, service_name: Some(name.into()), ..Default::default() });
    }
    pipeline.flush(MonotonicNs(3_000_000_000));
    let spans = pipeline.drain();
    assert_eq!(spans.len(), 25);
    assert!(spans.iter().all(|span| span.span().process.service_name.is_some()));
    // Both ends are here, and each says who the other is.
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for span in spans.iter().map(SafeSpan::span) {
        let peer = match attribute(span, "service.peer.name") {
            Some(Value::String(name)) => name.to_string(),
            _ => String::new(),
        };
        pairs.push((span.process.service_name.as_deref().unwrap_or_default(), peer));
    }
    pairs.sort();
    pairs.dedup();
    let none_there = ("curl", String::new());
    assert_eq!(pairs, [none_there, ("curl", "shop".to_owned()), ("shop", "curl".to_owned())]);
}

/// Of each span in order its process and the service that it names at the other end. There are three services, and time passes after the
/// first records.
fn named_peers(kernel: &Kernel, first: usize) -> Vec<(u32, String)> {
    let mut pipeline = Pipeline::new(PipelineConfig::default(), ClockOffset::default());
    for (pid, name) in [(11, "curl"), (22, "shop"), (33, "other")] {
        pipeline.facts(ProcessFacts { pid, service_name: Some(name.into()), ..Default::default() });
    }
    kernel.records[..first].iter().for_each(|record| pipeline.record(record));
    (2_000..3_500).for_each(|ms| pipeline.tick(MonotonicNs(ms * 1_000_000)));
    kernel.records[first..].iter().for_each(|record| pipeline.record(record));
    pipeline.flush(MonotonicNs(9_000_000_000));
    let named = |span: &SafeSpan| match attribute(span.span(), "service.peer.name") {
        Some(Value::String(name)) => (span.span().process.pid, name.to_string()),
        _ => (span.span().process.pid, String::new()),
    };
    pipeline.drain().iter().map(named).collect()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_client_that_is_gone_before_it_is_answered_is_still_named() {
    let (mut kernel, mut client, mut server) = (Kernel::default(), End::client(), End::server());
    client.open(&mut kernel, 1_000_000);
    server.open(&mut kernel, 1_000_050);
    client.write(&mut kernel, 2_000_000, 2_000_010, REQUEST);
    server.read_at(&mut kernel, 2_000_050, REQUEST);
    client.close(&mut kernel, 2_500_000);
    let first = kernel.records.len();
    server.write(&mut kernel, 4_000_000, 4_000_010, RESPONSE);
    let named = named_peers(&kernel, first);
    assert!(named.contains(&(22, "curl".to_owned())), "{named:?}");
}

#[test]
fn of_a_connection_that_several_processes_use_nobody_is_named() {
    let (mut kernel, mut client, mut server) = (Kernel::default(), End::client(), End::server());
    client.open(&mut kernel, 1_000_000);
    server.open(&mut kernel, 1_000_050);
    for (pid, at) in [(11, 2_000_000), (33, 2_000_400)] {
        client.pid = pid;
        client.write(&mut kernel, at, at + 10, REQUEST);
        server.read_at(&mut kernel, at + 50, REQUEST);
        server.write(&mut kernel, at + 100, at + 110, RESPONSE);
        client.read_at(&mut kernel, at + 200, RESPONSE);
    }
    let named = named_peers(&kernel, kernel.records.len());
    let by_server: Vec<&str> = named.iter().filter(|(pid, _)| *pid == 22).map(|(_, name)| name.as_str()).collect();
    assert_eq!(by_server, ["", ""], "{named:?}");
}

#[test]
fn who_uses_a_pid_after_its_process_ended_is_asked_for_anew() {
    use agent_common::{header::kind, process};
    let mut pipeline = Pipeline::new(PipelineConfig::default(), ClockOffset::default());
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    let mut wanted = |kernel: &mut Kernel| {
        kernel.records.drain(..).for_each(|record| pipeline.record(&record));
        pipeline.wanted_facts()
    };
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 2_000_000, 2_000_010, b"x");
    assert_eq!(wanted(&mut kernel), [11]);
    let header = kernel.header(kind::PROCESS, 2_100_000);
    let exit = process::ProcessRecord {
        header,
        pid: 11,
        change: process::change::EXIT,
        ..agent_common::read(&[0; 512]).unwrap()
    };
    kernel.emit(&exit, &[]);
    // The acknowledgement and the end of its connection are not its successor's.
    client.acked(&mut kernel, 2_200_000, 1, [2_000_000, 2_000_020, 2_200_000], 0);
    client.close(&mut kernel, 2_200_010);
    assert!(wanted(&mut kernel).is_empty());
    let mut next = End { id: 9, local: 41_000, ..End::client() };
    next.write(&mut kernel, 2_300_000, 2_300_010, b"x");
    assert_eq!(wanted(&mut kernel), [11]);
}

#[test]
fn ids_differ_between_seeds_and_are_never_zero() {
    let ids = |seed| {
        let run = traffic().run_with(PipelineConfig { seed, ..Default::default() });
        run.spans.iter().map(|span| span.span_id).collect::<std::collections::HashSet<_>>()
    };
    let (one, two) = (ids([1; 16]), ids([2; 16]));
    assert_eq!((one.len(), two.len()), (25, 25));
    assert!(one.is_disjoint(&two) && one.iter().all(|id| id.0 != [0; 8]));
}

/// What the golden file holds: every span, in order.
fn told(bytes: &[u8]) -> String {
    let replayed = replay(bytes, PipelineConfig { seed: [7; 16], ..Default::default() }).expect("fixture is readable");
    let mut out = String::new();
    for safe in &replayed.spans {
        let span = safe.span();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        out += &format!(
            "{} {} {} service={} start={} duration={} trace={} span={} parent={} links={} pid={}\n",
            span.kind.name(),
            span.status.name(),
            span.name,
            span.process.service_name.as_deref().unwrap_or("-"),
            span.start.0,
            span.duration_ns,
            hex(&span.trace_id.0),
            hex(&span.span_id.0),
            span.parent_span_id.map_or("-".into(), |id| hex(&id.0)),
            span.links.len(),
            span.process.pid,
        );
        out += &format!("  {}\n", segments(span));
        for (key, value) in &span.attributes {
            out += &format!("  {key} = {value:?}\n");
        }
    }
    for (_, name, count) in replayed.losses.iter().filter(|(_, _, count)| *count > 0) {
        out += &format!("loss {name} {count}\n");
    }
    out
}

/// `SPANTAP_BLESS=1 cargo test -p agent-core` writes both files anew.
#[test]
fn recorded_events_replay_to_the_golden_spans() {
    let fixture = |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let (events, golden) = (fixture("traffic.events"), fixture("traffic.spans"));
    if std::env::var_os("SPANTAP_BLESS").is_some() {
        let mut writer = Writer::default();
        assert!(writer.clock(ClockOffset(1_700_000_000_000_000_000)));
        assert!(writer.facts(&ProcessFacts { pid: 22, service_name: Some("shop".into()), ..Default::default() }));
        traffic().records.iter().for_each(|record| assert!(writer.record(record)));
        std::fs::write(&events, writer.take()).expect("fixture is written");
        std::fs::write(&golden, told(&std::fs::read(&events).expect("just written"))).expect("golden file is written");
    }
    let bytes = std::fs::read(&events).expect("fixture is there");
    let expected = std::fs::read_to_string(&golden).expect("golden file is there");
    assert_eq!(told(&bytes), expected);
}

/// Every request's path names the status of its response, so that a wrong pair shows.
fn numbered(role: u8, spacing_us: u64) -> Kernel {
    let mut kernel = Kernel::default();
    let mut end = if role == agent_common::connection::role::CLIENT { End::client() } else { End::server() };
    end.open(&mut kernel, 1_000_000);
    for index in 0..40_u64 {
        let at = 2_000_000 + index * spacing_us;
        let request = format!("GET /x{} HTTP/1.1\r\nHost: a\r\n\r\n", 200 + index);
        let response =
            format!("HTTP/1.1 {} OK\r\nContent-Length: {index}\r\n\r\n{}", 200 + index, "x".repeat(index as usize));
        if role == agent_common::connection::role::CLIENT {
            end.write(&mut kernel, at, at + 30, request.as_bytes());
            end.acked(&mut kernel, at + 80, request.len() as u32, [at, at + 20, at + 80], 0);
            end.read_at(&mut kernel, at + 500, response.as_bytes());
        } else {
            end.read_at(&mut kernel, at + 20, request.as_bytes());
            end.write(&mut kernel, at + 500, at + 510, response.as_bytes());
            end.acked(&mut kernel, at + 600, response.len() as u32, [at + 500, at + 505, at + 600], 0);
        }
    }
    kernel
}

#[test]
fn losses_never_pair_a_response_with_another_request() {
    use agent_common::connection::role::{CLIENT, SERVER};
    let config = || PipelineConfig {
        redact: agent_core::redact::RedactConfig { paths: agent_core::redact::PathPolicy::Keep, ..Default::default() },
        ..Default::default()
    };
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for (role, spacing_us) in [(CLIENT, 700), (CLIENT, 60_000), (SERVER, 700), (SERVER, 60_000)] {
        let clean = numbered(role, spacing_us);
        let (mut sure, mut possible) = (0, 0);
        for round in 0..200 {
            let mut kernel = clean.clone();
            // Single records, or bursts, as a full ring loses them.
            let burst = if round % 2 == 0 { 1 } else { 12 };
            for _ in 0..4 {
                let from = 1 + random.below(kernel.records.len() - burst - 1);
                kernel.records.drain(from..from + burst);
            }
            // Three records an exchange.
            possible += 40 - 4 * (1 + burst / 3);
            let run = kernel.run_with(config());
            for span in run.spans.iter().chain(&run.flushed) {
                segments(span);
                let path = agent_core::testing::attribute(span, "url.path").cloned();
                if let Some(agent_core::span::Value::Int(code)) =
                    agent_core::testing::attribute(span, "http.response.status_code")
                {
                    assert_eq!(
                        path,
                        Some(agent_core::span::Value::String(format!("/x{code}").into())),
                        "{:?}",
                        run.losses
                    );
                    sure += 1;
                }
            }
        }
        assert!(sure > possible * 8 / 10, "role {role}, {spacing_us} us apart: {sure} of {possible}");
    }
}
