//! Each byte belongs to exactly one message, however it is written and read; and nothing is invented.
//!
//! Truth: what the tests' client and server say they sent and got, and what curl and nginx say.

use std::{fs, io::Write, net::TcpStream, time::Duration};

use serde_json::Value;
use spantap_tests::{
    clock,
    http::{Exchange, Server, request},
    nginx::{BIG_BYTES, Nginx},
    process::{Launch, tool},
    span::{Span, only},
    temp::TempDir,
    tools::{PythonServer, curl, curl_exit},
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(15);

/// Runs a client in a mode against the tests' server; each request must have exactly one span at each end.
fn check(label: &str, server_args: &[&str], client_args: &[&str]) -> (Vec<Exchange>, Vec<Span>) {
    // As much of each call as the tests' own programs read at once.
    let traced = Traced::with(label, |mut options| {
        // A test's whole payload fits into one CPU's share at once.
        options.capture += "  ring_bytes: 16MiB\n";
        options.flag("--payload-bytes", "4096")
    });
    let server = Server::start_with(traced.place(), "127.0.0.1:0", server_args);
    let own = request(traced.place(), &server.address, client_args);
    let spans = traced.agent.wait_for_http(2 * own.len(), BOUND);
    for exchange in &own {
        for kind in ["client", "server"] {
            let span = only(&spans, kind, &exchange.path);
            assert_eq!(span.http_status(), Some(u64::from(exchange.status)), "{span:?}");
            assert_eq!(span.status, "ok", "{span:?}");
        }
    }
    assert_eq!(spans.len(), 2 * own.len(), "spans of nobody's request");
    (own, spans)
}

fn size(span: &Span, which: &str) -> u64 {
    let value = span.attribute(which).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no {which}: {span:?}"))
}

#[test]
fn sixteen_pipelined_requests_are_sixteen_spans_at_each_end() {
    let (own, _) = check("pipelined", &[], &["mode=pipelined", "depth=16", "count=64"]);
    assert_eq!(own.len(), 64);
}

#[test]
fn two_writers_on_one_socket_mix_requests_but_not_bytes() {
    let (own, _) = check("writers", &[], &["mode=writers", "count=200"]);
    assert_eq!(own.len(), 200);
}

#[test]
fn peeked_bytes_are_counted_once() {
    let (own, spans) = check("peek", &["read=peek"], &["mode=peek", "count=50", "path=/big/1000/"]);
    assert_eq!(own.len(), 50);
    assert!(spans.iter().all(|span| size(span, "http.response.body.size") == 1000));
}

#[test]
fn what_is_read_by_recvmsg_is_seen() {
    let (own, _) = check("recvmsg", &["read=recvmsg"], &["mode=recvmsg", "count=20", "path=/big/9000/"]);
    assert_eq!(own.len(), 20);
}

fn check_until_close(mode: &str) {
    let (own, spans) = check("rest", &[], &[mode, "path=/rest/5000/"]);
    assert_eq!((own.len(), own[0].bytes), (1, 5000));
    assert!(spans.iter().all(|span| size(span, "http.response.body.size") == 5000), "{spans:#?}");
}

#[test]
fn an_answer_that_ends_with_the_connection_is_whole() {
    check_until_close("mode=steady");
}

#[test]
fn an_end_of_the_connection_that_recvmsg_reads_ends_the_answer() {
    check_until_close("mode=recvmsg");
}

#[test]
fn a_client_that_ends_its_side_first_gets_a_span_at_each_end() {
    // At once, and with the end of the stream there before the server's first read.
    for late in ["late_ms=0", "late_ms=50"] {
        let (own, spans) = check("half-close", &[late], &["mode=half_close", "path=/half_close/"]);
        assert_eq!(own.len(), 1);
        assert_eq!(spans[0].trace_id, spans[1].trace_id, "{late}: {spans:#?}");
    }
}

#[test]
fn both_directions_at_once_keep_their_bytes() {
    // Every byte that is read is captured here, and all of it fits into the ring buffer at once.
    let args = ["mode=duplex", "count=10", "body=65536", "path=/big/65536/"];
    let (own, spans) = check("duplex", &[], &args);
    assert_eq!(own.len(), 10);
    for span in &spans {
        assert_eq!(size(span, "http.request.body.size"), 65_536, "{span:?}");
        assert_eq!(size(span, "http.response.body.size"), 65_536, "{span:?}");
    }
}

#[test]
fn a_request_in_many_writes_is_one_request() {
    check("split", &[], &["mode=split", "chunk=3", "count=20"]);
}

#[test]
fn a_request_with_a_body_in_many_writes_is_one_request() {
    let (_, spans) = check("split-body", &[], &["mode=split", "chunk=7", "count=5", "body=500", "method=POST"]);
    assert!(spans.iter().all(|span| size(span, "http.request.body.size") == 500));
}

#[test]
fn head_has_a_length_and_no_body() {
    check("head", &[], &["method=HEAD", "count=20", "path=/big/5000/"]);
}

#[test]
fn chunked_answers_end_where_they_end() {
    check("chunked", &[], &["count=20", "path=/chunked/"]);
}

#[test]
fn an_interim_answer_is_not_the_answer() {
    check("interim", &[], &["count=20", "path=/continue/"]);
}

#[test]
fn a_file_by_sendfile_is_one_answer_of_its_size() {
    let traced = Traced::new("sendfile");
    let nginx = Nginx::start(traced.place());
    let url = format!("http://{}/static/big", nginx.address);
    let seen = curl(traced.place(), &[&url, &url]);
    assert!(seen.iter().all(|transfer| transfer["size_download"] == BIG_BYTES));
    let spans = traced.agent.wait_for_http(4, BOUND);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    for span in &spans {
        assert_eq!((span.path(), span.status.as_str()), ("/static/big", "ok"), "{span:?}");
        assert_eq!(size(span, "http.response.body.size"), BIG_BYTES as u64, "{span:?}");
    }
}

#[test]
fn a_python_server_and_curl_agree_with_the_spans() {
    let traced = Traced::new("python");
    let python = PythonServer::start(traced.place());
    let urls = ["/status/200", "/status/404", "/status/503", "/chunked/1", "/big/100000"]
        .map(|path| format!("http://{}{path}", python.address));
    let seen = curl(traced.place(), &urls.each_ref().map(String::as_str));
    let spans = traced.agent.wait_for_http(10, BOUND);
    for transfer in &seen {
        let url = transfer["url_effective"].as_str().expect("url_effective");
        let path = url.strip_prefix(&format!("http://{}", python.address)).expect("the server's URL");
        let code = transfer["response_code"].as_u64();
        let (client, server) = (only(&spans, "client", path), only(&spans, "server", path));
        assert_eq!((client.http_status(), server.http_status()), (code, code));
        assert_eq!(client.status == "error", code >= Some(400), "{client:?}");
        assert_eq!(server.status == "error", code >= Some(500), "{server:?}");
        assert_eq!((server.service.as_str(), server.pid), ("python-test", python.pid()));
        assert_eq!((&client.peer, &client.local), (&server.local, &server.peer));
    }
    assert_eq!(spans.len(), 10);
}

#[test]
fn a_request_that_was_not_finished_is_not_a_success() {
    let traced = Traced::new("abort");
    let server = Server::start(traced.place());
    request(traced.place(), &server.address, &["mode=abort_request", "path=/half/"]);
    request(traced.place(), &server.address, &["path=/whole/"]);
    let spans = traced.agent.wait_for_http(2, BOUND);
    for kind in ["client", "server"] {
        assert_eq!(only(&spans, kind, "/whole/0").status, "ok");
    }
    let halves: Vec<&Span> = spans.iter().filter(|span| !span.path().starts_with("/whole/")).collect();
    assert!(halves.len() <= 2, "{halves:#?}");
    assert!(halves.iter().all(|span| span.status == "unknown" && span.http_status().is_none()), "{halves:#?}");
}

#[test]
fn an_answer_that_was_not_read_was_given_up_by_its_client() {
    let traced = Traced::new("abort-answer");
    let server = Server::start(traced.place());
    request(traced.place(), &server.address, &["mode=abort_response", "path=/big/8000000/"]);
    let spans = traced.agent.wait_for_http(2, BOUND);
    let client = only(&spans, "client", "/big/8000000/0");
    assert_eq!((client.status.as_str(), client.attribute("error.type")), ("error", Some(&"request_abandoned".into())));
    assert_eq!(spans.len(), 2);
}

#[test]
fn curl_that_gives_up_is_not_reset_by_its_server() {
    let traced = Traced::new("max-time");
    let server = Server::start(traced.place());
    let url = format!("http://{}/sleep/900/", server.address);
    assert_eq!(curl_exit(traced.place(), &["--max-time", "0.3", &url]), Some(28), "curl: timed out");
    let spans = traced.agent.wait_for_http(2, BOUND);
    let (client, server) = (only(&spans, "client", "/sleep/900/"), only(&spans, "server", "/sleep/900/"));
    assert_eq!(client.attribute("error.type"), Some(&"request_abandoned".into()), "{client:?}");
    assert!((280_000_000..400_000_000).contains(&client.duration_ns), "{client:?}");
    assert!(client.total_ns("remote") >= 250_000_000, "{client:?}");
    for span in [client, server] {
        assert_eq!(span.attribute("spantap.tcp.reset_by"), None, "{span:?}");
    }
    let (status, closed_by) = (server.status.as_str(), server.attribute("spantap.tcp.closed_by"));
    assert_eq!((status, closed_by), ("ok", Some(&"peer".into())), "it wrote its whole answer: {server:?}");
    assert_eq!(server.parent_span_id.as_ref(), Some(&client.span_id), "though the client was long gone");
    let why = traced.agent.why(client);
    assert!(why.contains(&format!("next: spantap why {}", server.span_id)), "{why}");
}

#[test]
fn a_server_that_is_reset_before_its_answer_slept_nevertheless() {
    let traced = Traced::new("reset-asleep");
    let server = Server::start(traced.place());
    let mut stream = TcpStream::connect(&server.address).expect("connect");
    stream.write_all(b"GET /sleep/600/ HTTP/1.1\r\nHost: test\r\n\r\n").expect("ask");
    clock::pace(Duration::from_millis(200));
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    drop(stream);
    let spans = traced.agent.wait_for_http(1, BOUND);
    let server = only(&spans, "server", "/sleep/600/");
    let error = server.attribute("spantap.tcp.reset_by");
    assert_eq!((server.status.as_str(), error), ("error", Some(&"peer".into())), "{server:?}");
    assert!(server.total_by_ns("off_cpu", "sleep") >= 500_000_000, "{server:?}");
}

#[test]
fn a_server_that_closes_without_an_answer_gave_none() {
    let traced = Traced::new("close");
    let server = Server::start(traced.place());
    let url = format!("http://{}/close/1", server.address);
    assert_eq!(curl_exit(traced.place(), &[&url]), Some(52), "curl: empty reply from server");
    let spans = traced.agent.wait_for_http(2, BOUND);
    for (kind, by) in [("client", "peer"), ("server", "local")] {
        let span = only(&spans, kind, "/close/1");
        assert!(span.status == "error" && span.http_status().is_none(), "{span:?}");
        assert_eq!(
            (span.text("error.type"), span.text("spantap.tcp.closed_by")),
            ("connection_closed", by),
            "{span:?}"
        );
        let why = traced.agent.why(span);
        assert!(why.contains(&format!("verdict: closed_by_{by}: ")), "{why}");
    }
    assert_eq!(spans.len(), 2);
}

/// The kernel closes for a process that ends.
#[test]
fn a_server_that_is_killed_within_its_answer_left_its_client() {
    let traced = Traced::new("killed");
    let server = Server::start(traced.place());
    let folder = TempDir::new("killed");
    let body = folder.join("body");
    let url = format!("http://{}/drip/400", server.address);
    let launch = Launch::new(tool("curl")).args(["-sS", "--no-buffer", "--max-time", "20", "-o"]).arg(&body).arg(&url);
    let mut curl = traced.place().apply(launch.stderr_to(&folder.join("stderr"))).spawn();
    let begun = || fs::read(&body).is_ok_and(|body| !body.is_empty()).then_some(());
    clock::wait_for("a part of the answer", BOUND, begun);
    server.signal(libc::SIGKILL);
    assert_eq!(curl.wait(BOUND).code(), Some(18), "curl: partial file");
    let spans = traced.agent.wait_for_http(2, BOUND);
    for (kind, cause) in [("client", "closed_by_peer"), ("server", "closed_by_local")] {
        let span = only(&spans, kind, "/drip/400");
        assert_eq!((span.status.as_str(), span.text("error.type")), ("error", "connection_closed"), "{span:?}");
        let why = traced.agent.why(span);
        assert!(why.contains(&format!("verdict: {cause}: ")), "{why}");
    }
}

#[test]
fn bytes_that_are_no_http_make_no_http_span() {
    let traced = Traced::new("garbage");
    let (server, nginx) = (Server::start(traced.place()), Nginx::start(traced.place()));
    for address in [&server.address, &nginx.address] {
        for bytes in ["bytes=1", "bytes=4096", "bytes=300000"] {
            request(traced.place(), address, &["mode=garbage", bytes]);
        }
        request(traced.place(), address, &["path=/after/"]);
    }
    let spans = traced.agent.wait_for_http(4, BOUND);
    let invented: Vec<&Span> = spans.iter().filter(|span| span.is_http() && span.path() != "/after/0").collect();
    assert!(invented.is_empty(), "{invented:#?}");
    assert_eq!(spans.iter().filter(|span| span.is_http()).count(), 4);
}

#[test]
fn a_header_of_ten_megabytes_harms_nobody() {
    let traced = Traced::new("huge");
    let nginx = Nginx::start(traced.place());
    request(traced.place(), &nginx.address, &["mode=huge_header", "bytes=10485760", "path=/huge/"]);
    request(traced.place(), &nginx.address, &["path=/after/", "count=10"]);
    let after = |spans: &[Span]| spans.iter().filter(|span| span.path().starts_with("/after/")).count();
    let spans = traced.agent.wait_for("the requests after", BOUND, |spans| after(spans) >= 20);
    assert_eq!(after(&spans), 20);
    let huge: Vec<&Span> = spans.iter().filter(|span| !span.path().starts_with("/after/")).collect();
    assert!(huge.len() <= 2, "{huge:#?}");
    assert!(huge.iter().all(|span| span.http_status() != Some(200)), "{huge:#?}");
}
