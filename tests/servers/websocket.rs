//! WebSockets: the request that upgrades a connection is one span at each end; what follows are exchanges of bytes, whatever they say.
//!
//! Truth: what the client got back.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Duration,
};

use spantap_tests::{python::script, span::by_path, temp::TempDir};

use super::{count, node::traced};

const BOUND: Duration = Duration::from_secs(30);
const WEBSOCKET: &str = include_str!("websocket.py");

fn check(label: &str, connections: usize, messages: usize) {
    let traced = traced(label);
    let folder = TempDir::new(label);
    let launch = script(WEBSOCKET).arg("serve").stdout_piped().stderr_to(&folder.join("stderr"));
    let mut server = traced.place().apply(launch).spawn();
    let mut port = String::new();
    BufReader::new(server.stdout()).read_line(&mut port).expect("port of the server");
    let args = ["talk".to_owned(), format!("127.0.0.1:{}", port.trim()), connections.to_string(), messages.to_string()];
    let said = count(traced.place().apply(script(WEBSOCKET).args(args)).run().lines().map(str::to_owned));
    assert_eq!(said, BTreeMap::from([(messages.to_string(), connections)]), "what came back");
    let spans = traced.agent.wait_for_http(2 * connections, BOUND);
    let requests = spans.iter().filter(|span| span.is_http()).count();
    assert_eq!(requests, 2 * connections, "spans of nobody's request");
    for span in spans.iter().filter(|span| !span.is_http()) {
        assert_eq!((span.protocol.as_str(), span.attribute("url.path")), ("tcp", None), "{span:#?}");
    }
    let by_path = by_path(&spans);
    for index in 0..connections {
        let path = format!("/socket/{index}");
        let ends = by_path[path.as_str()].iter().map(|span| {
            assert_eq!((span.name.as_str(), span.http_status()), ("GET /socket/{id}", Some(101)), "{span:#?}");
            assert_eq!(span.status, "ok", "{span:#?}");
            span.kind.as_str()
        });
        assert_eq!(count(ends), BTreeMap::from([("client", 1), ("server", 1)]), "{path}");
    }
}

#[test]
fn what_follows_an_upgrade_is_no_request() {
    check("websocket", 1, 99);
}

#[test]
fn fifty_connections_are_upgraded_as_often() {
    check("websocket-fifty", 50, 12);
}
