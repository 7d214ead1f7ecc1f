//! Exchanges of datagrams, DNS among them, and the name resolution that connections wait for.

use agent_common::{
    connection::change,
    datagram::{DatagramRecord, flag},
    header::kind,
    message::direction,
    process,
    sched::Blocked,
};
use agent_core::{
    config::PipelineConfig,
    loss::Loss,
    span::{Protocol, Span, SpanKind, Status, Value},
    testing::{End, Kernel, Run, attribute, segments, survive},
};

const NAMESERVER: [u8; 4] = [127, 0, 0, 53];
const A: u8 = 1;
const AAAA: u8 = 28;

/// A socket. Times are microseconds.
#[derive(Clone, Copy)]
struct Socket {
    id: u64,
    local: ([u8; 4], u16),
    remote: ([u8; 4], u16),
    pid: u32,
    tid: u32,
    /// Total sleep in poll and total run-queue time of the thread.
    slept: u64,
    queued: u64,
}

impl Socket {
    fn client() -> Self {
        let (local, remote) = (([0; 4], 41_000), (NAMESERVER, 53));
        Self { id: 501, local, remote, pid: 11, tid: 11, slept: 0, queued: 0 }
    }

    fn server() -> Self {
        let (local, remote) = (([0; 4], 53), ([127, 0, 0, 1], 41_000));
        Self { id: 502, local, remote, pid: 33, tid: 33, slept: 0, queued: 0 }
    }

    fn record(&self, kernel: &mut Kernel, way: u8, times: (u64, u64), length: usize) -> DatagramRecord {
        let address = |ip: [u8; 4]| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&ip);
            address
        };
        let mut off_cpu_ns = [0; 6];
        off_cpu_ns[Blocked::Poll as usize] = self.slept * 1000;
        DatagramRecord {
            header: kernel.header(kind::DATAGRAM, times.1),
            socket_id: self.id,
            enter_ns: times.0 * 1000,
            run_queue_enter_ns: self.queued * 1000,
            run_queue_exit_ns: self.queued * 1000,
            off_cpu_ns,
            local_address: address(self.local.0),
            remote_address: address(self.remote.0),
            local_port: self.local.1,
            remote_port: self.remote.1,
            family: 2,
            flags: flag::SCHED | flag::SELECTED | if self.remote.1 == 0 { flag::NO_REMOTE } else { 0 },
            pid: self.pid,
            tid: self.tid,
            length: length as u32,
            payload_len: length as u16,
            direction: way,
            slept_in: Blocked::Poll as u8,
            ..Default::default()
        }
    }

    fn send(&self, kernel: &mut Kernel, times: (u64, u64), bytes: &[u8]) {
        let record = self.record(kernel, direction::SEND, times, bytes.len());
        kernel.emit(&record, bytes);
    }

    /// Arrived, woken from poll 5 us later, running 10 us later, read at once.
    fn receive(&mut self, kernel: &mut Kernel, arrived: u64, bytes: &[u8]) {
        let mut record = self.record(kernel, direction::RECEIVE, (arrived + 16, arrived + 20), bytes.len());
        record.arrival_ns = arrived * 1000;
        (record.woken_ns, record.running_ns) = ((arrived + 5) * 1000, (arrived + 15) * 1000);
        self.queued += 10;
        (record.run_queue_enter_ns, record.run_queue_exit_ns) = (self.queued * 1000, self.queued * 1000);
        kernel.emit(&record, bytes);
    }

    /// The application closes it; the network had said `errno`, and no call told.
    fn close(&self, kernel: &mut Kernel, time: u64, errno: i32) {
        let mut record = self.record(kernel, direction::RECEIVE, (0, time), 0);
        record.flags |= flag::CLOSED;
        record.result = -errno;
        kernel.emit(&record, &[]);
    }

    fn fail(&self, kernel: &mut Kernel, time: u64, errno: i32) {
        let mut record = self.record(kernel, direction::RECEIVE, (time - 1, time), 0);
        record.result = -errno;
        kernel.emit(&record, &[]);
    }
}

/// A message about `name`: a query, or the answer with these addresses.
fn message(id: u16, name: &str, kind: u8, answer: Option<(u8, &[[u8; 4]])>) -> Vec<u8> {
    let (flags, addresses) = answer.map_or(([1, 0], &[][..]), |(rcode, list)| ([0x81, 0x80 | rcode], list));
    let mut bytes = [&id.to_be_bytes()[..], &flags, &[0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind, 0, 1]);
    for address in addresses {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        bytes.extend(address);
    }
    bytes
}

const SHOP: [[u8; 4]; 1] = [[127, 0, 0, 1]];

fn query(id: u16, kind: u8) -> Vec<u8> {
    message(id, "shop.test", kind, None)
}

fn answer(id: u16, kind: u8, rcode: u8, addresses: &[[u8; 4]]) -> Vec<u8> {
    message(id, "shop.test", kind, Some((rcode, addresses)))
}

fn text(span: &Span, key: &str) -> String {
    match attribute(span, key) {
        Some(Value::String(text)) => text.clone().into_owned(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Strings(texts)) => texts.join(","),
        None => "-".to_owned(),
    }
}

fn brief(span: &Span) -> String {
    let Span { kind, name, status, .. } = span;
    format!("{} {name} {} {}us", kind.name(), status.name(), span.duration_ns / 1000)
}

fn briefs(run: &Run) -> Vec<String> {
    run.spans.iter().map(brief).collect()
}

#[test]
fn a_lookup_is_a_span_of_the_client() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.receive(&mut kernel, 1_500, &answer(7, A, 0, &SHOP));
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client dns A ok 520us"]);
    let span = &run.spans[0];
    assert_eq!(span.protocol, Protocol::Dns);
    assert_eq!(
        segments(span),
        "send:10:measured remote:490:derived wakeup:5:measured run_queue:10:measured receive_buffer:5:measured"
    );
    for (key, expected) in [
        ("dns.question.name", "shop.test"),
        ("spantap.dns.rcode", "NOERROR"),
        ("spantap.dns.retries", "0"),
        ("spantap.dns.truncated", "-"),
        ("dns.answers", "127.0.0.1"),
        ("network.transport", "udp"),
        ("network.protocol.name", "dns"),
        ("server.address", "127.0.0.53"),
        ("server.port", "53"),
        ("error.type", "-"),
    ] {
        assert_eq!(text(span, key), expected, "{key}");
    }
    assert!(run.losses.is_empty(), "{:?}", run.losses);
}

/// `recv` on a socket that is not connected, as dnsperf does it.
#[test]
fn an_answer_whose_sender_was_not_asked_for_ends_its_lookup() {
    let (mut kernel, socket) = (Kernel::default(), Socket::client());
    let mut reader = Socket { remote: ([0; 4], 0), tid: 12, ..socket };
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    reader.receive(&mut kernel, 1_300, &answer(8, A, 0, &SHOP));
    reader.receive(&mut kernel, 1_400, &query(7, A));
    reader.receive(&mut kernel, 1_500, &answer(7, A, 0, &SHOP));
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client dns A ok 520us"]);
    assert_eq!(text(&run.spans[0], "server.address"), "127.0.0.53");
}

#[test]
fn parallel_questions_are_two_spans_whatever_their_order() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.send(&mut kernel, (1_000, 1_010), &query(8, AAAA));
    socket.receive(&mut kernel, 1_500, &answer(8, AAAA, 0, &[]));
    socket.receive(&mut kernel, 1_600, &answer(7, A, 0, &SHOP));
    assert_eq!(briefs(&kernel.run()), ["client dns AAAA ok 520us", "client dns A ok 620us"]);
}

#[test]
fn a_query_sent_again_is_a_retry_from_whatever_socket() {
    let (mut kernel, first) = (Kernel::default(), Socket::client());
    let mut second = Socket { id: 503, local: ([0; 4], 42_000), remote: ([10, 0, 0, 2], 53), ..first };
    first.send(&mut kernel, (1_000, 1_010), &query(7, A));
    second.send(&mut kernel, (5_001_000, 5_001_010), &query(7, A));
    second.receive(&mut kernel, 5_001_500, &answer(7, A, 0, &SHOP));
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client dns A ok 5000520us"]);
    assert_eq!(text(&run.spans[0], "spantap.dns.retries"), "1");
    assert_eq!(text(&run.spans[0], "server.address"), "10.0.0.2");
    assert!(segments(&run.spans[0]).starts_with("send:10:measured remote:4999990:derived send:10:measured remote:490"));
}

#[test]
fn codes_of_failure_are_errors_but_that_a_name_does_not_exist() {
    let outcome = |rcode| {
        let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
        socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
        socket.receive(&mut kernel, 1_500, &answer(7, A, rcode, &[]));
        let span = kernel.run().spans.remove(0);
        (span.status, text(&span, "error.type"), text(&span, "spantap.dns.rcode"))
    };
    let words = |status, error: &str, code: &str| (status, error.to_owned(), code.to_owned());
    assert_eq!(outcome(3), words(Status::Ok, "-", "NXDOMAIN"));
    assert_eq!(outcome(2), words(Status::Error, "SERVFAIL", "SERVFAIL"));
    assert_eq!(outcome(5), words(Status::Error, "REFUSED", "REFUSED"));
}

#[test]
fn a_truncated_answer_says_so() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    let mut bytes = answer(7, A, 0, &SHOP);
    bytes[2] |= 2;
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.receive(&mut kernel, 1_500, &bytes);
    assert_eq!(text(&kernel.run().spans[0], "spantap.dns.truncated"), "true");
}

/// A lookup without an answer, and what came after; waits for long enough that it is given up.
fn unanswered(after: impl Fn(&mut Kernel, &Socket)) -> Run {
    let (mut kernel, socket) = (Kernel::default(), Socket::client());
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    after(&mut kernel, &socket);
    kernel.run_with(PipelineConfig { dns_wait_ns: 1_000_000_000, ..PipelineConfig::default() })
}

#[test]
fn without_an_answer_a_lookup_ends_with_what_is_known_of_its_end() {
    let check = |run: &Run, expected: &str, evidence: &str| {
        assert_eq!(briefs(run).first().map(String::as_str), Some(expected));
        assert_eq!(text(&run.spans[0], "spantap.end.evidence"), evidence);
        segments(&run.spans[0]);
        run.spans[0].clone()
    };
    let span = check(&unanswered(|_, _| {}), "client dns A error 10us", "inferred");
    assert_eq!(text(&span, "error.type"), "timeout");
    let again = |kernel: &mut Kernel, socket: &Socket| socket.send(kernel, (500_000, 500_010), &query(7, A));
    let span = check(&unanswered(again), "client dns A error 499010us", "inferred");
    assert_eq!(text(&span, "spantap.dns.retries"), "1");
    // The thread does something else.
    let goes_on = |kernel: &mut Kernel, _: &Socket| {
        let mut end = End { pid: 11, ..End::client() };
        end.open(kernel, 1_500);
        end.write(kernel, 801_000, 801_010, b"GET /a HTTP/1.1\r\n\r\n");
    };
    check(&unanswered(goes_on), "client dns A error 800000us", "derived");
    let exits = |kernel: &mut Kernel, socket: &Socket| {
        let header = kernel.header(kind::PROCESS, 901_000);
        let (comm, filename, padding) = ([0; 16], [0; 120], [0; 7]);
        let (pid, change) = (socket.pid, process::change::EXIT);
        let record =
            process::ProcessRecord { header, cgroup_id: 0, pid, parent_pid: 0, comm, filename, change, padding };
        kernel.emit(&record, &[]);
    };
    check(&unanswered(exits), "client dns A error 900000us", "derived");
    let refused = |kernel: &mut Kernel, socket: &Socket| socket.fail(kernel, 1_300, 111);
    let span = check(&unanswered(refused), "client dns A error 300us", "-");
    assert_eq!(text(&span, "error.type"), "ECONNREFUSED");
}

#[test]
fn a_socket_that_is_closed_ends_the_lookup_as_what_the_network_said() {
    let closed = |at: u64, errno| unanswered(move |kernel, socket| socket.close(kernel, at, errno)).spans.remove(0);
    for (at, errno, error_type, cause) in [
        (1_300, 111, "ECONNREFUSED", "dns_refused"),
        (1_300, 113, "EHOSTUNREACH", "dns_unreachable"),
        (1_300, 0, "lookup_abandoned", "dns_abandoned"),
        (951_000, 0, "timeout", "dns_timeout"),
    ] {
        let span = closed(at, errno);
        assert_eq!(brief(&span), format!("client dns A error {}us", at - 1_000));
        assert_eq!((text(&span, "error.type").as_str(), span.cause), (error_type, Some(cause)));
        assert_eq!(text(&span, "spantap.end.evidence"), "-");
        assert_eq!(segments(&span), format!("send:10:measured remote:{}:derived", at - 1_010));
    }
}

#[test]
fn a_query_that_another_server_answers_after_a_refusal_waited_for_nobody() {
    let (mut kernel, first) = (Kernel::default(), Socket::client());
    let mut second = Socket { id: 503, local: ([0; 4], 42_000), remote: ([10, 0, 0, 2], 53), ..first };
    first.send(&mut kernel, (1_000, 1_010), &query(7, A));
    first.close(&mut kernel, 1_100, 111);
    second.send(&mut kernel, (1_200, 1_210), &query(7, A));
    second.receive(&mut kernel, 1_500, &answer(7, A, 0, &SHOP));
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client dns A ok 520us"]);
    assert_eq!(["retries", "undelivered"].map(|key| text(&run.spans[0], &format!("spantap.dns.{key}"))), ["0", "1"]);
    assert_eq!(run.spans[0].cause, Some("dns_slow"));
}

#[test]
fn a_server_on_this_host_has_a_span_below_the_clients_and_measures_its_wait() {
    let (mut kernel, mut client, mut server) = (Kernel::default(), Socket::client(), Socket::server());
    client.send(&mut kernel, (1_000, 1_010), &query(7, A));
    server.receive(&mut kernel, 1_040, &query(7, A));
    server.slept += 300;
    server.send(&mut kernel, (1_460, 1_470), &answer(7, A, 0, &SHOP));
    client.receive(&mut kernel, 1_500, &answer(7, A, 0, &SHOP));
    let run = kernel.run();
    assert_eq!(briefs(&run), ["server dns A ok 430us", "client dns A ok 520us"]);
    let [server, client] = &run.spans[..] else { panic!("two spans") };
    assert_eq!((server.trace_id, server.parent_span_id), (client.trace_id, Some(client.span_id)));
    assert_eq!(text(server, "spantap.parent.evidence"), "datagram");
    assert_eq!(
        segments(server),
        "wakeup:5:measured run_queue:10:measured receive_buffer:5:measured application:100:measured off_cpu/poll:300:measured \
         send:10:measured"
    );
    assert_eq!(
        segments(client),
        "send:10:measured network:30:measured remote:430:measured network:30:measured wakeup:5:measured \
         run_queue:10:measured receive_buffer:5:measured"
    );
}

#[test]
fn a_query_that_a_server_does_not_answer_has_an_unknown_outcome() {
    let (mut kernel, mut server) = (Kernel::default(), Socket::server());
    server.receive(&mut kernel, 1_040, &query(7, A));
    server.receive(&mut kernel, 1_090, &query(7, A));
    let run = kernel.run_with(PipelineConfig { dns_wait_ns: 1_000_000_000, ..PipelineConfig::default() });
    assert_eq!(briefs(&run), ["server dns A unknown 20us"]);
}

#[test]
fn other_datagrams_are_exchanges_by_direction() {
    let (mut kernel, mut client) = (Kernel::default(), Socket::client());
    let mut server = Socket { local: client.remote, ..Socket::server() };
    for at in [1_000, 3_000] {
        client.send(&mut kernel, (at, at + 10), b"ping");
        server.receive(&mut kernel, at + 40, b"ping");
        server.send(&mut kernel, (at + 100, at + 110), b"pong!");
        client.receive(&mut kernel, at + 200, b"pong!");
        // More of the answer is no exchange of its own.
        client.receive(&mut kernel, at + 300, b"more");
    }
    // One way.
    client.send(&mut kernel, (5_000, 5_010), b"statsd");
    let run = kernel.run();
    let expected = ["server udp unknown 70us", "client udp unknown 220us"];
    assert_eq!(briefs(&run), [expected, expected].concat());
    assert_eq!(run.spans[2].trace_id, run.spans[3].trace_id);
    assert_ne!(run.spans[0].trace_id, run.spans[2].trace_id);
    assert_eq!(run.spans[0].parent_span_id, Some(run.spans[1].span_id));
    assert_eq!(text(&run.spans[1], "spantap.response.bytes"), "5");
    assert!(segments(&run.spans[1]).contains("network:30:measured remote:70:measured network:90:measured"));
    assert!(run.flushed.is_empty() && run.losses.is_empty());
}

#[test]
fn an_unreachable_port_fails_the_exchange() {
    let (mut kernel, client) = (Kernel::default(), Socket::client());
    client.send(&mut kernel, (1_000, 1_010), b"ping");
    client.fail(&mut kernel, 1_100, 111);
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client udp error 100us"]);
    assert_eq!(text(&run.spans[0], "error.type"), "ECONNREFUSED");
}

#[test]
fn streams_of_datagrams_are_no_flood_of_spans() {
    let (mut kernel, mut client) = (Kernel::default(), Socket::client());
    let initial = [&[0xc3, 0, 0, 0, 1][..], &[0; 1195]].concat();
    client.send(&mut kernel, (1_000, 1_010), &initial);
    client.receive(&mut kernel, 1_200, b"anything");
    let mut other = Socket { id: 509, local: ([0; 4], 43_000), ..client };
    for index in 0..1_500 {
        let at = 2_000_000 + index * 100;
        other.send(&mut kernel, (at, at + 1), b"ack");
        other.receive(&mut kernel, at + 30, b"data");
    }
    let run = kernel.run();
    assert_eq!((run.spans.len(), run.losses.get(Loss::DatagramRate)), (1_000, 500));
}

#[test]
fn multicast_is_left_out() {
    let mut kernel = Kernel::default();
    let mdns = Socket { remote: ([224, 0, 0, 251], 5353), ..Socket::client() };
    mdns.send(&mut kernel, (1_000, 1_010), &query(0, A));
    let mut responder = Socket { local: ([0; 4], 5353), ..Socket::server() };
    responder.receive(&mut kernel, 1_040, &query(0, A));
    let run = kernel.run_with(PipelineConfig { dns_wait_ns: 1, ..PipelineConfig::default() });
    assert!(run.spans.is_empty() && run.flushed.is_empty(), "{:?}", briefs(&run));
}

#[test]
fn more_than_is_kept_gives_up_the_oldest_and_counts_it() {
    let (mut kernel, socket) = (Kernel::default(), Socket::client());
    for id in 0..5 {
        socket.send(&mut kernel, (1_000 + u64::from(id), 1_010 + u64::from(id)), &query(id, A));
    }
    let run = kernel.run_with(PipelineConfig { datagrams_max: 2, ..PipelineConfig::default() });
    assert_eq!(run.losses.get(Loss::DatagramOverflow), 3);
    assert_eq!(briefs(&run), ["client dns A unknown 10us"; 3]);
}

/// A request on a connection that was opened at this time by this thread.
fn request(kernel: &mut Kernel, end: &End, opened: u64, tid: u32) {
    let mut end = End { pid: 11, ..end.clone() };
    let mut record = end.connection(kernel, opened + 150, change::OPENED);
    (record.opened_ns, record.established_ns) = (opened * 1000, (opened + 100) * 1000);
    kernel.emit(&record, &[]);
    end.pid = tid;
    end.write(kernel, opened + 150, opened + 160, b"GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    end.acked(kernel, opened + 250, 36, [opened + 150, opened + 170, opened + 250], 0);
    end.read_at(kernel, opened + 500, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

fn http(run: &Run) -> Vec<&Span> {
    run.spans.iter().filter(|span| span.protocol == Protocol::Http1 && span.kind == SpanKind::Client).collect()
}

/// Both questions in parallel, answered after 500 and 600 us.
fn resolve(kernel: &mut Kernel, at: u64) {
    let mut socket = Socket::client();
    for (id, kind) in [(7, A), (8, AAAA)] {
        socket.send(kernel, (at, at + 10), &query(id, kind));
    }
    socket.receive(kernel, at + 480, &answer(7, A, 0, &SHOP));
    socket.receive(kernel, at + 580, &answer(8, AAAA, 0, &[]));
}

#[test]
fn the_first_request_of_a_connection_begins_with_the_lookup_that_it_waited_for() {
    let mut kernel = Kernel::default();
    resolve(&mut kernel, 1_000);
    request(&mut kernel, &End::client(), 1_700, 11);
    let run = kernel.run();
    let span = http(&run)[0];
    assert_eq!(span.duration_ns / 1000, 1_200);
    assert!(
        segments(span).starts_with("dns:600:measured application:100:derived connect:100:measured application:50:"),
        "{}",
        segments(span)
    );
    assert_eq!(text(span, "dns.question.name"), "shop.test");
    assert_eq!(text(span, "spantap.dns.queries"), "2");
}

#[test]
fn another_thread_of_the_process_leaves_it_derived() {
    let mut kernel = Kernel::default();
    resolve(&mut kernel, 1_000);
    request(&mut kernel, &End::client(), 1_700, 12);
    assert!(segments(http(&kernel.run())[0]).starts_with("dns:600:derived"));
}

#[test]
fn a_lookup_counts_once_for_its_own_address_and_for_a_while() {
    let begins = |opened: &[u64], port: u16| {
        let mut kernel = Kernel::default();
        resolve(&mut kernel, 1_000);
        for (index, at) in opened.iter().enumerate() {
            let end = End { id: 10 + index as u64, local: port + index as u16, ..End::client() };
            request(&mut kernel, &end, *at, 11);
        }
        let run = kernel.run();
        http(&run).iter().map(|span| segments(span).split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(begins(&[1_700, 3_000], 40_000), ["dns", "connect"]);
    assert_eq!(begins(&[1_200_000], 40_000), ["connect"], "more than a second later");
    let mut kernel = Kernel::default();
    let mut socket = Socket::client();
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.receive(&mut kernel, 1_500, &answer(7, A, 0, &[[10, 9, 9, 9]]));
    request(&mut kernel, &End::client(), 1_700, 11);
    assert!(segments(http(&kernel.run())[0]).starts_with("connect"), "another address");
}

#[test]
fn attempts_that_failed_before_belong_to_it() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    socket.send(&mut kernel, (1_000, 1_010), &query(6, A));
    socket.receive(&mut kernel, 1_480, &answer(6, A, 2, &[]));
    socket.send(&mut kernel, (2_000, 2_010), &query(7, A));
    socket.send(&mut kernel, (3_000, 3_010), &query(7, A));
    socket.receive(&mut kernel, 3_480, &answer(7, A, 0, &SHOP));
    request(&mut kernel, &End::client(), 3_600, 11);
    let run = kernel.run();
    assert!(segments(http(&run)[0]).starts_with("dns:2500:measured"), "{}", segments(http(&run)[0]));
    assert_eq!(text(http(&run)[0], "spantap.dns.queries"), "3");
    assert_eq!(text(http(&run)[0], "spantap.dns.retries"), "1");
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp_and_the_lookup_goes_on() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    let mut truncated = answer(7, A, 0, &[]);
    truncated[2] |= 2;
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.receive(&mut kernel, 1_480, &truncated);
    let mut tcp = End { id: 30, local: 45_000, peer: 53, pid: 11, ..End::client() };
    let framed = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let mut record = tcp.connection(&mut kernel, 1_700, change::OPENED);
    (record.opened_ns, record.established_ns) = (1_600_000, 1_650_000);
    kernel.emit(&record, &[]);
    let question = framed(query(9, A));
    tcp.write(&mut kernel, 1_700, 1_710, &question);
    tcp.acked(&mut kernel, 1_760, question.len() as u32, [1_700, 1_712, 1_760], 0);
    let reply = framed(answer(9, A, 0, &SHOP));
    tcp.read_at(&mut kernel, 2_000, &reply[..2]);
    tcp.read_at(&mut kernel, 2_020, &reply[2..]);
    request(&mut kernel, &End::client(), 2_100, 11);
    let run = kernel.run();
    let dns: Vec<_> = run.spans.iter().filter(|span| span.protocol == Protocol::Dns).collect();
    let briefs: Vec<_> = dns.iter().map(|span| brief(span)).collect();
    assert_eq!(briefs, ["client dns A ok 500us", "client dns A ok 420us"]);
    assert_eq!((text(dns[1], "network.transport"), text(dns[1], "dns.answers")), ("tcp".into(), "127.0.0.1".into()));
    assert!(
        segments(dns[1]).starts_with("connect:50:measured application:50:derived send:10:"),
        "{}",
        segments(dns[1])
    );
    assert!(segments(http(&run)[0]).starts_with("dns:1020:measured application:80:"), "{}", segments(http(&run)[0]));
    assert_eq!(text(http(&run)[0], "spantap.dns.queries"), "2");
}

#[test]
fn what_is_asked_again_over_tcp_is_no_timeout_over_udp() {
    let (mut kernel, mut socket) = (Kernel::default(), Socket::client());
    let mut truncated = answer(7, A, 0, &[]);
    truncated[2] |= 2;
    socket.send(&mut kernel, (1_000, 1_010), &query(7, A));
    socket.send(&mut kernel, (1_012, 1_020), &query(8, AAAA));
    socket.receive(&mut kernel, 1_480, &truncated);
    let mut tcp = End { id: 30, local: 45_000, peer: 53, pid: 11, ..End::client() };
    let framed = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let mut record = tcp.connection(&mut kernel, 1_700, change::OPENED);
    (record.opened_ns, record.established_ns) = (1_600_000, 1_650_000);
    kernel.emit(&record, &[]);
    let questions = [framed(query(7, A)), framed(query(8, AAAA))].concat();
    tcp.write(&mut kernel, 1_700, 1_710, &questions);
    tcp.acked(&mut kernel, 1_760, questions.len() as u32, [1_700, 1_712, 1_760], 0);
    tcp.read_at(&mut kernel, 2_000, &[framed(answer(7, A, 0, &SHOP)), framed(answer(8, AAAA, 0, &[]))].concat());
    let run = kernel.run_with(PipelineConfig { dns_wait_ns: 1_000_000_000, ..PipelineConfig::default() });
    let dns: Vec<_> = run.spans.iter().filter(|span| span.protocol == Protocol::Dns).collect();
    let over_udp = dns.iter().find(|span| text(span, "spantap.dns.asked_again") == "tcp");
    let over_udp = over_udp.unwrap_or_else(|| panic!("no span of the query over UDP: {dns:#?}"));
    assert_eq!((over_udp.status, text(over_udp, "error.type")), (Status::Unknown, "-".into()));
}

#[test]
fn a_server_over_tcp_answers_several_questions_in_any_order() {
    let (mut kernel, mut server) = (Kernel::default(), End { peer: 45_000, local: 53, ..End::server() });
    server.open(&mut kernel, 1_000_000);
    let framed = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    server.read_at(&mut kernel, 2_000_000, &[framed(query(7, A)), framed(query(8, AAAA))].concat());
    server.write(&mut kernel, 2_000_300, 2_000_310, &framed(answer(8, AAAA, 2, &[])));
    server.write(&mut kernel, 2_000_500, 2_000_510, &framed(answer(7, A, 0, &SHOP)));
    server.read_at(&mut kernel, 2_100_000, &framed(query(9, A)));
    server.reset(&mut kernel, 2_100_400);
    let run = kernel.run();
    let mut briefs = briefs(&run);
    briefs.sort();
    assert_eq!(briefs, ["server dns A error 410us", "server dns A ok 520us", "server dns AAAA error 320us"]);
}

#[test]
fn damaged_lost_repeated_and_swapped_records_never_panic_and_sums_stay_exact() {
    let mut kernel = Kernel::default();
    resolve(&mut kernel, 1_000);
    request(&mut kernel, &End::client(), 1_700, 11);
    let (mut client, mut server) = (Socket::client(), Socket::server());
    for (index, bytes) in [query(7, A), b"ping".to_vec(), query(9, AAAA)].iter().enumerate() {
        let at = 10_000 + 1_000 * index as u64;
        client.send(&mut kernel, (at, at + 10), bytes);
        server.receive(&mut kernel, at + 40, bytes);
        let reply = if index == 1 { b"pong".to_vec() } else { answer(7 + index as u16, [A, A, AAAA][index], 0, &SHOP) };
        server.send(&mut kernel, (at + 100, at + 110), &reply);
        client.receive(&mut kernel, at + 200, &reply);
    }
    let spans = survive(&kernel, 1500);
    assert!(spans > 1500 * 6, "most of the traffic survives: {spans}");
}

#[test]
fn who_is_the_client_of_datagrams_is_a_guess_that_outlasts_silence() {
    let exchange = |kernel: &mut Kernel, client: &mut Socket, at: u64| {
        client.send(kernel, (at, at + 10), b"ping");
        client.receive(kernel, at + 120, b"pong");
    };
    let (mut kernel, mut client) = (Kernel::default(), Socket { remote: ([127, 0, 0, 9], 7_000), ..Socket::client() });
    exchange(&mut kernel, &mut client, 1_000);
    // What comes after a long silence, unasked, is no request to the client.
    client.receive(&mut kernel, 60_000_000, b"news");
    client.send(&mut kernel, (60_001_000, 60_001_010), b"thanks");
    client.receive(&mut kernel, 60_001_120, b"welcome");
    let run = kernel.run();
    assert_eq!(briefs(&run), ["client udp unknown 140us"; 2]);
    assert!(run.spans.iter().all(|span| text(span, "spantap.role.evidence") == "inferred"));
}

#[test]
fn quic_stays_quic_after_a_silence() {
    let (mut kernel, mut client) = (Kernel::default(), Socket { remote: ([127, 0, 0, 9], 443), ..Socket::client() });
    let initial = [&[0xc3, 0, 0, 0, 1][..], &[0; 1195]].concat();
    client.send(&mut kernel, (1_000, 1_010), &initial);
    client.receive(&mut kernel, 1_200, b"anything");
    client.send(&mut kernel, (60_000_000, 60_000_010), b"more");
    client.receive(&mut kernel, 60_000_120, b"of it");
    let run = kernel.run();
    assert!(run.spans.is_empty() && run.flushed.is_empty(), "{:?}", briefs(&run));
}
