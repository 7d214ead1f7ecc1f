//! TLS connections: the handshake as a step, application data as exchanges. The bytes are those of recorded sessions.

use agent_common::{
    header::kind,
    message::{CallRecord, direction, flag as call_flag},
    plaintext::{PlaintextRecord, flag},
};
use agent_core::{
    flow::connection::Seen,
    loss::Loss,
    span::{Protocol, SegmentName, Span, SpanKind, Status, Value},
    testing::{End, Kernel, Run, attribute, change, segments, survive, total},
};
use agent_protocol::fuzzing::recorded;

const STREAMS: &str = include_str!("../../agent-protocol/fixtures/tls/streams.txt");

fn stream(name: &str) -> Vec<u8> {
    recorded(STREAMS).into_iter().find(|stream| stream.0 == name).expect("a recorded stream").1
}

/// Both ends of a session, and what they say.
struct Session {
    kernel: Kernel,
    client: End,
    server: End,
    said: [Vec<u8>; 2],
}

impl Session {
    fn new(name: &str) -> Self {
        let mut kernel = Kernel::default();
        let (client, server) = (End::client(), End::server());
        client.open(&mut kernel, 1_000_000);
        server.open(&mut kernel, 1_000_010);
        let said = ["client", "server"].map(|end| stream(&format!("{name}.{end}")));
        Self { kernel, client, server, said }
    }

    /// The client writes its bytes up to `end` in one call of 10 us; the server reads them 40 us later.
    fn client_says(&mut self, at: u64, end: usize) {
        let bytes = self.said[0][self.client.moved[0] as usize..end].to_vec();
        self.client.write(&mut self.kernel, at, at + 10, &bytes);
        self.client.acked(&mut self.kernel, at + 60, bytes.len() as u32, [at, at + 12, at + 60], 0);
        read_records(&mut self.server, &mut self.kernel, at + 40, &bytes);
    }

    /// The same for the server.
    fn server_says(&mut self, at: u64, end: usize) {
        let bytes = self.said[1][self.server.moved[0] as usize..end].to_vec();
        self.server.write(&mut self.kernel, at, at + 10, &bytes);
        self.server.acked(&mut self.kernel, at + 60, bytes.len() as u32, [at, at + 12, at + 60], 0);
        read_records(&mut self.client, &mut self.kernel, at + 40, &bytes);
    }

    fn run(&self) -> Run {
        self.kernel.run()
    }
}

/// As OpenSSL does: the header, then the rest, a microsecond later.
fn read_records(end: &mut End, kernel: &mut Kernel, mut at: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at(5);
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        end.read_at(kernel, at, header);
        end.read_at(kernel, at + 1, &rest[..length]);
        (at, bytes) = (at + 1, &rest[length..]);
    }
}

fn text(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        Some(Value::String(text)) => text.clone().into_owned(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        _ => "-".to_owned(),
    }
}

fn brief(span: &Span) -> String {
    let bytes = ["spantap.request.bytes", "spantap.response.bytes"].map(|key| text(span, key));
    let Span { kind, name, status, .. } = span;
    format!("{} {name} {} {}us {}/{}", kind.name(), status.name(), span.duration_ns / 1000, bytes[0], bytes[1])
}

fn of(run: &Run, kind: SpanKind) -> Vec<&Span> {
    run.spans.iter().filter(|span| span.kind == kind).collect()
}

#[test]
fn a_tls_1_3_handshake_is_a_step_of_the_first_request_and_tickets_are_no_answer() {
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 778);
    session.client_says(1_000_500, 413);
    session.client_says(1_000_520, 441);
    session.server_says(1_000_570, 1288);
    session.server_says(1_005_000, 1316);
    session.client_says(1_006_000, 465);
    session.client.close(&mut session.kernel, 1_006_020);
    session.server.close(&mut session.kernel, 1_006_100);
    let run = session.run();
    let briefs: Vec<_> = run.spans.iter().map(brief).collect();
    assert_eq!(briefs.len(), 2, "{briefs:?}");
    let client = of(&run, SpanKind::Client)[0];
    assert_eq!((brief(client).as_str(), client.protocol), ("client tls unknown 5041us 28/28", Protocol::Tls));
    assert!(
        segments(client)
            .starts_with("connect:100:measured application:100:derived tls:310:measured application:10:derived send:"),
        "{}",
        segments(client)
    );
    for (key, expected) in [
        ("tls.protocol.name", "tls"),
        ("tls.protocol.version", "1.3"),
        ("tls.client.server_name", "shop.test"),
        ("tls.next_protocol", "-"),
        ("server.address", "shop.test"),
        ("server.port", "80"),
    ] {
        assert_eq!(text(client, key), expected, "{key}");
    }
    let server = of(&run, SpanKind::Server)[0];
    assert!(brief(server).starts_with("server tls unknown") && brief(server).ends_with("28/28"), "{}", brief(server));
    assert_eq!((server.trace_id, text(server, "tls.protocol.version").as_str()), (client.trace_id, "1.3"));
}

#[test]
fn a_tls_1_2_handshake_ends_with_the_servers_finished() {
    let mut session = Session::new("tls12-alpn");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 635);
    session.client_says(1_000_500, 426);
    session.server_says(1_000_600, 877);
    session.client_says(1_000_700, 461);
    session.server_says(1_000_800, 912);
    session.client_says(1_000_900, 492);
    session.server_says(1_000_950, 943);
    let run = session.run();
    let client = of(&run, SpanKind::Client)[0];
    assert_eq!(brief(client), "client tls unknown 841us 35/35");
    // Read at 1000640: a session ticket, the change of cipher specification, and Finished.
    assert!(segments(client).contains("tls:443:measured application:57:derived"), "{}", segments(client));
    assert_eq!(text(client, "tls.next_protocol"), "http/1.1");
    assert_eq!(text(client, "tls.protocol.version"), "1.2");
    let briefs: Vec<_> = of(&run, SpanKind::Server).into_iter().map(brief).collect();
    assert_eq!(briefs.len(), 1, "{briefs:?}");
}

#[test]
fn a_retry_is_part_of_the_handshake() {
    let mut session = Session::new("tls13-retry");
    session.client_says(1_000_200, 299);
    session.server_says(1_000_300, 99);
    session.client_says(1_000_400, 669);
    session.server_says(1_000_500, 937);
    session.client_says(1_000_600, 743);
    session.client_says(1_000_620, 771);
    session.server_says(1_000_700, 1447);
    session.server_says(1_000_800, 1475);
    let run = session.run();
    let client = of(&run, SpanKind::Client)[0];
    assert!(segments(client).contains(" tls:410:measured application:10:"), "{}", segments(client));
    assert!(brief(client).ends_with("28/28"), "{}", brief(client));
}

#[test]
fn a_request_in_the_same_write_as_the_finished_begins_with_that_write() {
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 778);
    session.client_says(1_000_500, 441);
    session.server_says(1_005_000, 1316);
    let run = session.run();
    let client = of(&run, SpanKind::Client)[0];
    assert!(segments(client).contains(" tls:300:measured send:"), "{}", segments(client));
    assert!(brief(client).ends_with("28/28"), "{}", brief(client));
}

#[test]
fn requests_alternate_on_an_established_connection() {
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 778);
    session.client_says(1_000_500, 413);
    session.server_says(1_000_590, 1288);
    let (asked, answered) = (session.said[0][413..441].to_vec(), session.said[1][1288..1316].to_vec());
    session.said[0].truncate(413);
    session.said[1].truncate(1288);
    for round in 0..3 {
        session.said[0].extend(&asked);
        session.said[1].extend(&answered);
        let at = 1_010_000 + round * 1_000;
        session.client_says(at, session.said[0].len());
        session.server_says(at + 200, session.said[1].len());
    }
    let run = session.run();
    let briefs: Vec<_> = of(&run, SpanKind::Client).into_iter().map(brief).collect();
    assert_eq!(briefs[0], "client tls unknown 10_241us 28/28".replace('_', ""));
    assert_eq!(briefs[1..], ["client tls unknown 241us 28/28"; 2]);
}

#[test]
fn answers_of_equal_length_are_not_taken_for_tickets() {
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 778);
    session.client_says(1_000_500, 413);
    // No tickets: the first thing that the server sends are its answers.
    let (asked, answered) = (session.said[0][413..441].to_vec(), session.said[1][1288..1316].to_vec());
    session.said[0].truncate(413);
    session.said[1].truncate(778);
    for round in 0..3 {
        session.said[0].extend(&asked);
        session.said[1].extend(&answered);
        let at = 1_000_600 + round * 1_000;
        session.client_says(at, session.said[0].len());
        session.server_says(at + 200, session.said[1].len());
    }
    for kind in [SpanKind::Client, SpanKind::Server] {
        let run = session.run();
        let briefs: Vec<_> = of(&run, kind).into_iter().map(brief).collect();
        assert_eq!(briefs.len(), 3, "{briefs:?}");
        assert!(briefs.iter().all(|brief| brief.ends_with("28/28")), "{briefs:?}");
    }
}

#[test]
fn a_handshake_that_fails_is_a_span_of_the_client() {
    let check = |session: &Session, error: &str, expected: &str| {
        let run = session.run();
        let briefs: Vec<_> = run.spans.iter().map(brief).collect();
        assert_eq!(briefs, [expected], "{:?}", run.losses);
        let span = &run.spans[0];
        assert_eq!((span.status, text(span, "error.type").as_str()), (Status::Error, error));
        assert!(segments(span).starts_with("connect:100:measured application:100:derived tls:"), "{}", segments(span));
        assert_eq!(text(span, "tls.client.server_name"), "shop.test");
    };
    // The server refuses.
    let mut session = Session::new("tls13-no-version");
    session.client_says(1_000_200, 243);
    session.server_says(1_000_400, 7);
    session.client.close(&mut session.kernel, 1_000_600);
    check(&session, "protocol_version", "client tls error 441us -/-");
    // The client does not trust the certificate.
    let mut session = Session::new("tls12-bad-certificate");
    session.client_says(1_000_200, 315);
    session.server_says(1_000_400, 622);
    session.client_says(1_000_700, 322);
    session.client.close(&mut session.kernel, 1_000_900);
    check(&session, "unknown_ca", "client tls error 710us -/-");
    // Nobody says anything.
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.client.read_end(&mut session.kernel, 1_000_800);
    session.client.close(&mut session.kernel, 1_000_900);
    check(&session, "connection_closed", "client tls error 800us -/-");
    let mut session = Session::new("tls13");
    session.client_says(1_000_200, 333);
    session.client.reset(&mut session.kernel, 1_000_700);
    check(&session, "connection_reset", "client tls error 700us -/-");
}

#[test]
fn bytes_that_only_begin_like_tls_are_exchanges_all_the_same() {
    let (mut kernel, mut client) = (Kernel::default(), End::client());
    client.open(&mut kernel, 1_000_000);
    let mut hello = stream("tls13.client")[..333].to_vec();
    client.write(&mut kernel, 2_000_000, 2_000_010, &hello);
    client.read_at(&mut kernel, 2_000_200, b"550 speak SMTP to me\r\n");
    hello.fill(7);
    client.write(&mut kernel, 2_001_000, 2_001_010, &hello);
    client.read_at(&mut kernel, 2_001_200, b"550 speak SMTP to me\r\n");
    client.close(&mut kernel, 2_001_300);
    let run = kernel.run();
    assert!(run.spans.iter().all(|span| span.kind == SpanKind::Client), "{:?}", run.spans);
    assert_eq!(run.spans.len(), 1, "{:?}", run.spans.iter().map(brief).collect::<Vec<_>>());
}

#[test]
fn damaged_lost_repeated_and_swapped_records_never_panic_and_sums_stay_exact() {
    for (name, ends) in [("tls13", [333, 778, 413, 1288, 441, 1316]), ("tls12-alpn", [333, 635, 426, 877, 461, 912])] {
        let mut session = Session::new(name);
        for (index, end) in ends.into_iter().enumerate() {
            let at = 1_000_200 + 200 * index as u64;
            if index % 2 == 0 { session.client_says(at, end) } else { session.server_says(at, end) }
        }
        session.client.close(&mut session.kernel, 1_006_020);
        session.server.close(&mut session.kernel, 1_006_100);
        let spans = survive(&session.kernel, 1000);
        assert!(spans > 1000, "most of the traffic survives: {spans}");
    }
}

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: shop.test\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A record of application data of TLS 1.3 that holds as many bytes of plaintext.
fn record_of(plain: usize) -> Vec<u8> {
    let length = u16::try_from(plain + 17).unwrap();
    [&[23, 3, 3][..], &length.to_be_bytes(), &vec![0xaa; usize::from(length)]].concat()
}

/// A library's call: `(entered, returned)`, where its plaintext begins, and how many of the last bytes of the connection moved
/// inside, in a call that was entered at `socket`.
fn library(
    session: &mut Session,
    server: bool,
    sends: bool,
    times: (u64, u64),
    at: u32,
    moved: (u32, u64),
    bytes: &[u8],
) {
    let end = if server { &session.server } else { &session.client };
    let (base, total) = if sends { (end.send_base, end.moved[0]) } else { (end.receive_base, end.moved[1]) };
    let tcp_end = base.wrapping_add(total);
    let record = PlaintextRecord {
        header: session.kernel.header(kind::PLAINTEXT, times.1),
        connection_id: end.id,
        session: 0x7000,
        enter_ns: times.0 * 1000,
        socket_ns: moved.1 * 1000,
        start: at,
        end: at + bytes.len() as u32,
        tcp_start: tcp_end - moved.0,
        tcp_end,
        wanted: if sends { bytes.len() as u32 } else { 16_384 },
        pid: end.pid,
        tid: end.pid,
        flags: if moved.1 > 0 { flag::INSIDE } else { flag::NEAR },
        payload_len: bytes.len() as u16,
        direction: if sends { direction::SEND } else { direction::RECEIVE },
        ..Default::default()
    };
    session.kernel.emit(&record, bytes);
}

/// A handshake and two tickets, up to 1000570, of which the client has read nothing yet but the handshake; the application
/// data of both ends follows.
fn shown(request: &[usize], answer: &[usize]) -> Session {
    let mut session = Session::new("tls13");
    session.said[0].truncate(413);
    session.said[1].truncate(1288);
    for (said, sizes) in session.said.iter_mut().zip([request, answer]) {
        sizes.iter().for_each(|size| said.extend(record_of(*size)));
    }
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 778);
    session.client_says(1_000_500, 413);
    session
}

#[test]
fn what_a_library_shows_has_the_spans_of_clear_text() {
    let mut session = shown(&[REQUEST.len()], &[ANSWER.len()]);
    let whole = [session.said[0].len(), session.said[1].len()];
    session.client_says(1_000_520, whole[0]);
    let size = (whole[0] - 413) as u32;
    library(&mut session, false, true, (1_000_515, 1_000_531), 0, (size, 1_000_520), REQUEST);
    library(&mut session, true, false, (1_000_550, 1_000_562), 0, (size, 1_000_560), REQUEST);
    session.server_says(1_000_570, 1288);
    session.server_says(1_005_000, whole[1]);
    let size = (whole[1] - 1288) as u32;
    library(&mut session, true, true, (1_004_990, 1_005_012), 0, (size, 1_005_000), ANSWER);
    // The client reads the tickets within the same call as the answer.
    library(&mut session, false, false, (1_000_540, 1_005_050), 0, (size + 510, 1_005_040), ANSWER);
    let run = session.run();
    let briefs: Vec<_> = run.spans.iter().map(brief).collect();
    assert_eq!(briefs.len(), 2, "{briefs:?} {:?}", run.losses);
    let (client, server) = (of(&run, SpanKind::Client)[0], of(&run, SpanKind::Server)[0]);
    for span in [client, server] {
        assert_eq!(
            (span.protocol, span.name.as_str(), span.status),
            (Protocol::Http1, "GET /a", Status::Ok),
            "{span:?}"
        );
        let expected = [("http.response.status_code", "200"), ("url.scheme", "https"), ("tls.protocol.version", "1.3")];
        expected.iter().for_each(|(key, value)| assert_eq!(text(span, key), *value, "{key}"));
    }
    assert_eq!((server.trace_id, server.parent_span_id), (client.trace_id, Some(client.span_id)));
    let expected = "connect:100:measured application:100:derived tls:310:measured application:10:derived send:";
    assert!(segments(client).starts_with(expected), "{}", segments(client));
    // The answer arrived when its own record did, not with the tickets.
    assert!(total(client, SegmentName::Network) + total(client, SegmentName::Remote) > 4_400, "{}", segments(client));
    assert_eq!(run.losses.get(Loss::PlaintextUnplaced), 0);
    assert!(run.connections.iter().all(|view| view.tls == Some(Seen::Plaintext)), "{:?}", run.connections);
}

/// `length` bytes that the kernel encrypted: application data, or a record of another type.
fn encrypted(session: &mut Session, server: bool, sends: bool, at: u64, length: usize, control: bool) {
    let end = if server { &mut session.server } else { &mut session.client };
    if sends {
        end.write(&mut session.kernel, at, at + 10, &vec![b'x'; length]);
    } else {
        end.read_at(&mut session.kernel, at, &vec![b'x'; length]);
    }
    change(&mut session.kernel, |call: &mut CallRecord| {
        call.flags |= call_flag::KERNEL_TLS | if control { call_flag::TLS_CONTROL } else { 0 };
        call.result -= 22;
    });
}

/// 300 bytes that the kernel encrypted, of the server.
fn answered_by_kernel(session: &mut Session) {
    encrypted(session, true, true, 1_005_000, 300, false);
    encrypted(session, false, false, 1_005_040, 300, false);
}

/// Both ends close: there must be two spans, briefly the client's first.
fn two_spans(session: &mut Session) -> (Run, Vec<String>) {
    session.client.close(&mut session.kernel, 1_006_020);
    session.server.close(&mut session.kernel, 1_006_100);
    let run = session.run();
    let mut briefs: Vec<_> = run.spans.iter().map(brief).collect();
    briefs.sort();
    assert_eq!(briefs.len(), 2, "{briefs:?} {:?}", run.losses);
    (run, briefs)
}

/// Both ends hand their keys over once the handshake is done, and a library shows what is inside.
#[test]
fn what_the_kernel_encrypts_is_an_opaque_exchange_and_named_so() {
    let mut session = shown(&[], &[]);
    encrypted(&mut session, false, true, 1_000_520, 100, false);
    library(&mut session, false, true, (1_000_515, 1_000_531), 0, (100, 1_000_520), REQUEST);
    encrypted(&mut session, true, false, 1_000_560, 100, false);
    // A ticket.
    encrypted(&mut session, true, true, 1_000_570, 200, true);
    encrypted(&mut session, false, false, 1_000_600, 200, true);
    answered_by_kernel(&mut session);
    // The farewell.
    encrypted(&mut session, false, true, 1_006_000, 24, true);
    let (run, briefs) = two_spans(&mut session);
    for (said, end) in briefs.iter().zip(["client", "server"]) {
        assert!(said.starts_with(&format!("{end} tls unknown")) && said.ends_with("100/300"), "{said}");
    }
    let client = of(&run, SpanKind::Client)[0];
    assert_eq!(text(client, "tls.client.server_name"), "shop.test");
    let expected = "connect:100:measured application:100:derived tls:310:measured application:10:derived send:";
    assert!(segments(client).starts_with(expected), "{}", segments(client));
    assert_eq!((run.losses.get(Loss::KernelTls), run.losses.get(Loss::PlaintextUnplaced)), (2, 0));
    assert!(run.connections.iter().all(|view| view.tls == Some(Seen::Kernel)), "{:?}", run.connections);
}

/// OpenSSL 3.0 reads TLS 1.3 itself: the first request that it showed has a span without an answer, and later ones are opaque.
#[test]
fn where_the_kernel_encrypts_one_direction_only_the_other_ones_records_are_followed() {
    let mut session = shown(&[REQUEST.len(), REQUEST.len()], &[]);
    let [first, second] = [413 + record_of(REQUEST.len()).len(), session.said[0].len()];
    session.client_says(1_000_520, first);
    let size = (first - 413) as u32;
    library(&mut session, true, false, (1_000_550, 1_000_562), 0, (size, 1_000_560), REQUEST);
    encrypted(&mut session, true, true, 1_005_000, 300, false);
    session.client_says(1_010_520, second);
    library(&mut session, true, false, (1_010_550, 1_010_562), REQUEST.len() as u32, (size, 1_010_560), REQUEST);
    encrypted(&mut session, true, true, 1_015_000, 400, false);
    session.server.close(&mut session.kernel, 1_016_100);
    let run = session.run();
    let servers: Vec<_> = of(&run, SpanKind::Server).into_iter().map(brief).collect();
    let expected = format!("{size}/400");
    assert_eq!(servers.len(), 2, "{servers:?} {:?}", run.losses);
    assert_eq!(servers[0], "server GET /a unknown 4450us -/-", "until the kernel began to send");
    assert!(servers[1].starts_with("server tls unknown") && servers[1].ends_with(&expected), "{servers:?}");
    assert_eq!(run.losses.get(Loss::KernelTls), 1);
}

/// As while the budget leaves out payload: of writes only the way to the network is told.
#[test]
fn what_the_kernel_encrypts_is_followed_without_payload_too() {
    let mut session = shown(&[], &[]);
    encrypted(&mut session, true, false, 1_000_560, 100, false);
    change(&mut session.kernel, |call: &mut CallRecord| call.flags &= !call_flag::SELECTED);
    session.server.write_unselected(&mut session.kernel, [1_005_000, 1_005_010, 1_005_060], 300, 0);
    session.server.close(&mut session.kernel, 1_016_100);
    let run = session.run();
    let servers: Vec<_> = of(&run, SpanKind::Server).into_iter().map(brief).collect();
    assert!(servers.len() == 1 && servers[0].ends_with("100/300"), "{servers:?} {:?}", run.losses);
    assert_eq!(run.losses.get(Loss::KernelTls), 0, "nobody asked for what is inside");
}

/// As OpenSSL does it in TLS 1.2: the Finished are the kernel's already.
#[test]
fn a_handshake_whose_end_the_kernel_encrypts_did_not_fail() {
    let mut session = Session::new("tls12-alpn");
    session.client_says(1_000_200, 333);
    session.server_says(1_000_400, 635);
    session.said[0].truncate(426);
    session.client_says(1_000_500, 426 - 45);
    encrypted(&mut session, false, true, 1_000_515, 45, true);
    encrypted(&mut session, true, false, 1_000_560, 45, true);
    encrypted(&mut session, true, true, 1_000_600, 45, true);
    encrypted(&mut session, false, false, 1_000_640, 45, true);
    encrypted(&mut session, false, true, 1_000_700, 100, false);
    encrypted(&mut session, true, false, 1_000_740, 100, false);
    answered_by_kernel(&mut session);
    let (run, briefs) = two_spans(&mut session);
    let client = of(&run, SpanKind::Client)[0];
    assert!(brief(client).starts_with("client tls unknown") && brief(client).ends_with("100/300"), "{briefs:?}");
    // From the hello to the server's Finished; that this was its end is inferred from what came next.
    assert!(segments(client).contains("tls:440:derived"), "{}", segments(client));
}

#[test]
fn an_application_that_moves_the_bytes_itself_is_placed_by_the_lengths_of_records() {
    let mut session = shown(&[REQUEST.len()], &[ANSWER.len()]);
    let whole = [session.said[0].len(), session.said[1].len()];
    // The library gives the record before it is written, and takes it after it was read.
    library(&mut session, false, true, (1_000_515, 1_000_517), 0, (0, 0), REQUEST);
    session.client_says(1_000_520, whole[0]);
    library(&mut session, true, false, (1_000_565, 1_000_566), 0, (0, 0), REQUEST);
    session.server_says(1_000_570, 1288);
    library(&mut session, true, true, (1_004_990, 1_004_992), 0, (0, 0), ANSWER);
    session.server_says(1_005_000, whole[1]);
    library(&mut session, false, false, (1_005_050, 1_005_051), 0, (0, 0), ANSWER);
    let run = session.run();
    let briefs: Vec<_> = run.spans.iter().map(|span| (brief(span), segments(span))).collect();
    assert_eq!(briefs.len(), 2, "{briefs:?}");
    let (client, server) = (of(&run, SpanKind::Client)[0], of(&run, SpanKind::Server)[0]);
    assert_eq!((server.trace_id, server.parent_span_id), (client.trace_id, Some(client.span_id)));
    assert!(total(client, SegmentName::Network) + total(client, SegmentName::Remote) > 4_400, "{}", segments(client));
}

#[test]
fn records_of_plaintext_that_was_not_told_are_not_taken_for_those_of_later_calls() {
    let sizes = [REQUEST.len(); 4];
    let answers = [ANSWER.len(); 4];
    let mut session = shown(&sizes, &answers);
    session.server_says(1_000_570, 1288);
    let one = [5 + 17 + REQUEST.len(), 5 + 17 + ANSWER.len()];
    for round in 0..4_usize {
        let at = 1_010_000 + round as u64 * 10_000;
        // The library is probed only from the third request on; the application moves the bytes itself.
        let numbered = round.saturating_sub(2);
        if round >= 2 {
            let start = (numbered * REQUEST.len()) as u32;
            library(&mut session, false, true, (at - 5, at - 3), start, (0, 0), REQUEST);
        }
        session.client_says(at, 413 + one[0] * (round + 1));
        session.server_says(at + 1_000, 1288 + one[1] * (round + 1));
        if round >= 2 {
            let start = (numbered * ANSWER.len()) as u32;
            library(&mut session, false, false, (at + 1_050, at + 1_051), start, (one[1] as u32, 0), ANSWER);
        }
    }
    let run = session.run();
    let client: Vec<_> = of(&run, SpanKind::Client).into_iter().filter(|span| span.name == "GET /a").collect();
    assert_eq!(client.len(), 2, "{:?} {:?}", run.spans.iter().map(brief).collect::<Vec<_>>(), run.losses);
    for span in client {
        assert_eq!(span.duration_ns, 1_041_000, "{}", segments(span));
    }
}

#[test]
fn plaintext_of_a_connection_that_is_none_of_tls_is_left_alone_and_counted() {
    let mut kernel = Kernel::default();
    let mut client = End::client();
    client.open(&mut kernel, 1_000_000);
    client.write(&mut kernel, 1_000_200, 1_000_210, REQUEST);
    let mut session = Session { kernel, server: End::server(), client, said: [Vec::new(), Vec::new()] };
    library(&mut session, false, true, (1_000_190, 1_000_211), 0, (10, 1_000_200), REQUEST);
    let run = session.run();
    assert_eq!(run.losses.get(Loss::PlaintextUnplaced), 1);
}

#[test]
fn that_a_session_was_used_next_makes_no_tls_of_a_connection_that_did_not_begin_as_such() {
    let check = |socket: u64, expected: (Option<Seen>, u64)| {
        let (mut kernel, mut client) = (Kernel::default(), End::client());
        client.open(&mut kernel, 1_000_000);
        client.write(&mut kernel, 1_000_200, 1_000_210, b"neither HTTP nor TLS\n");
        client.read_at(&mut kernel, 1_000_400, b"nor is this\n");
        let mut session = Session { kernel, server: End::server(), client, said: [Vec::new(), Vec::new()] };
        library(&mut session, false, true, (1_000_510, 1_000_530), 0, (0, 0), REQUEST);
        session.client.write(&mut session.kernel, 1_000_520, 1_000_525, &record_of(REQUEST.len()));
        if socket != 0 {
            let moved = (record_of(REQUEST.len()).len() as u32, socket);
            library(&mut session, false, true, (1_000_510, 1_000_530), REQUEST.len() as u32, moved, REQUEST);
        }
        let run = session.run();
        let tls = run.connections.iter().find_map(|view| view.tls);
        assert_eq!((tls, run.losses.get(Loss::PlaintextUnplaced)), expected, "{socket}: {:?}", run.losses);
    };
    check(0, (None, 1));
    // What moved inside the call is the session's without doubt: it was upgraded.
    check(1_000_520, (Some(Seen::Plaintext), 1));
}

#[test]
fn lost_plaintext_never_panics_and_never_makes_a_span_twice() {
    let mut session = shown(&[REQUEST.len(), REQUEST.len()], &[ANSWER.len(), ANSWER.len()]);
    let whole = session.said[1].len();
    let one = [5 + 17 + REQUEST.len(), 5 + 17 + ANSWER.len()];
    session.server_says(1_000_570, 1288);
    for round in 0..2 {
        let at = 1_001_000 + round as u64 * 10_000;
        session.client_says(at, 413 + one[0] * (round + 1));
        library(
            &mut session,
            false,
            true,
            (at - 1, at + 11),
            (round * REQUEST.len()) as u32,
            (one[0] as u32, at),
            REQUEST,
        );
        session.server_says(at + 1_000, whole - one[1] * (1 - round));
        let read = (one[1] as u32, at + 1_040);
        library(&mut session, false, false, (at + 20, at + 1_050), (round * ANSWER.len()) as u32, read, ANSWER);
    }
    let clean = of(&session.run(), SpanKind::Client).len();
    assert_eq!(clean, 2);
    survive(&session.kernel, 400);
}
