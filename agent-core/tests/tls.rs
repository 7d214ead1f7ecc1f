//! TLS connections: the handshake as a step, application data as exchanges. The bytes are those of recorded sessions.

use agent_core::{
    span::{Protocol, Span, SpanKind, Status, Value},
    testing::{End, Kernel, Run, attribute, segments, survive},
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
