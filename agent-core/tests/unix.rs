//! Exchanges over unix stream sockets: the same as over TCP, but for what TCP alone knows.

use agent_common::{connection::change, message::flag};
use agent_core::{
    endpoint::Endpoint,
    span::{SpanKind, Value},
    testing::{End, Kernel, attribute, segments},
};

const PATH: &[u8] = b"/run/app.sock";

/// The client's socket has inode 71, the server's 72.
fn open(kernel: &mut Kernel, end: &End, inodes: [u64; 2], time: u64) {
    let mut record = end.connection(kernel, time, change::OPENED);
    (record.family, record.local_port, record.remote_port) = (1, 0, 0);
    (record.local_address, record.remote_address) = ([0; 16], [0; 16]);
    record.local_address[..8].copy_from_slice(&inodes[0].to_ne_bytes());
    record.remote_address[..8].copy_from_slice(&inodes[1].to_ne_bytes());
    record.path.as_flattened_mut()[..PATH.len()].copy_from_slice(PATH);
    record.path_len = PATH.len() as u32;
    kernel.emit(&record, &[]);
}

fn ends() -> (End, End) {
    let bases = (0, 0);
    let from = |end: End| End { send_base: bases.0, receive_base: bases.1, ..end };
    (from(End::client()), from(End::server()))
}

#[test]
fn http_over_a_unix_socket_has_spans_at_both_ends_that_share_a_trace() {
    exchange(72);
}

#[test]
fn a_client_that_writes_before_it_is_accepted_learns_who_the_other_end_is() {
    exchange(0);
}

/// `seen`: the server's inode number as the client's record has it.
fn exchange(seen: u64) {
    let mut kernel = Kernel::default();
    let (mut client, mut server) = ends();
    open(&mut kernel, &client, [71, seen], 1_000_000);
    open(&mut kernel, &server, [72, 71], 1_000_010);
    client.write(&mut kernel, 2_000_000, 2_000_010, b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n");
    server.read_at(&mut kernel, 2_000_030, b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n");
    server.write(&mut kernel, 2_000_130, 2_000_140, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.read_at(&mut kernel, 2_000_160, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let run = kernel.run();
    assert_eq!(run.spans.len(), 2, "{:?}", run.losses);
    let of = |kind| run.spans.iter().find(|span| span.kind == kind).expect("a span");
    let (client, server) = (of(SpanKind::Client), of(SpanKind::Server));
    assert_eq!((client.name.as_str(), server.name.as_str()), ("GET /a", "GET /a"));
    assert_eq!((client.local, client.peer), (Endpoint::Unix(71), Endpoint::Unix(72)));
    assert_eq!((server.trace_id, server.parent_span_id), (client.trace_id, Some(client.span_id)));
    let evidence = attribute(server, "spantap.parent.evidence");
    assert_eq!(evidence, Some(&Value::String("unix_inodes".into())));
    for span in [client, server] {
        assert_eq!(span.unix_path.as_deref(), Some("/run/app.sock"));
        assert_eq!(attribute(span, "network.transport"), Some(&Value::String("unix".into())));
        for absent in ["network.peer.port", "network.type", "client.port", "server.port"] {
            assert_eq!(attribute(span, absent), None, "{absent}");
        }
        segments(span);
    }
}

#[test]
fn without_payload_a_unix_socket_has_exchanges_named_by_the_path() {
    let mut kernel = Kernel::default();
    let (mut client, _) = ends();
    client.selected = false;
    open(&mut kernel, &client, [71, 72], 1_000_000);
    client.write_unselected(&mut kernel, [2_000_000, 2_000_020, 2_000_080], 100, flag::PIGGYBACKED);
    client.read_at(&mut kernel, 2_000_500, &[0; 50]);
    let run = kernel.run();
    assert_eq!(run.spans.len(), 1, "{:?}", run.losses);
    let address = attribute(&run.spans[0], "server.address");
    assert_eq!(address, Some(&Value::String("/run/app.sock".into())));
}
