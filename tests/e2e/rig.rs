//! The sources of truth, held against each other without an agent.
//!
//! If one of these fails, the test rig is wrong and the results of the other tests mean nothing.

use std::time::Duration;

use spantap_tests::{
    cgroup::{Cgroup, Limit},
    clock,
    http::{Client, Place, Server, actor, request},
    namespace::Namespace,
    nginx::{BIG_BYTES, Nginx},
    rotel::Rotel,
    schedstat,
    stats::{assert_within, median},
    tools::{PythonServer, curl, wrk},
    tun::{self, Tun},
};

#[test]
fn every_mode_of_the_client_gets_its_answers() {
    let server = Server::start(Place::default());
    for (mode, args, count) in [
        ("steady", vec![], 20),
        ("pipelined", vec!["depth=16"], 48),
        ("split", vec!["chunk=5"], 5),
        ("peek", vec![], 5),
        ("writers", vec![], 20),
        ("duplex", vec!["path=/big/65536/"], 10),
        ("late", vec!["late_ms=20"], 2),
    ] {
        let (mode_arg, count_arg) = (format!("mode={mode}"), format!("count={count}"));
        let args: Vec<&str> = [mode_arg.as_str(), &count_arg].into_iter().chain(args).collect();
        let answers = request(Place::default(), &server.address, &args);
        assert_eq!(answers.len(), count, "{mode}");
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.end_ns > answer.start_ns), "{mode}");
    }
}

#[test]
fn odd_endings_leave_the_server_alive() {
    let server = Server::start(Place::default());
    for mode in ["abort_request", "abort_response", "garbage"] {
        request(Place::default(), &server.address, &[&format!("mode={mode}")]);
    }
    for route in ["path=/chunked/", "path=/continue/", "path=/sleep/5/", "path=/spin/500/"] {
        assert_eq!(request(Place::default(), &server.address, &[route])[0].status, 200, "{route}");
    }
}

#[test]
fn the_rate_of_the_client_is_what_it_was_told() {
    let nginx = Nginx::start(Place::default());
    let answers = request(Place::default(), &nginx.address, &["count=500", "rate=1000"]);
    let length = answers[499].start_ns - answers[0].start_ns;
    assert_within("time for 500 requests at 1,000 a second", length, 499_000_000, 0.1);
    assert_eq!(nginx.finish().len(), 500);
}

#[test]
fn the_tun_path_delays_by_what_it_logs() {
    let (client, server) = (Namespace::new(), Namespace::new());
    let tun = Tun::join(&client, &server, Duration::from_millis(20), Duration::from_millis(10));
    // Before the host's other work, like the forwarder.
    let first = Limit::cpu_first();
    let place = Place { limits: [Some(&first), None], ..Place::default() };
    let listener = Server::start_with(place.namespace(&server), &format!("{}:8080", tun::SERVER), &[]);
    let answers = request(place.namespace(&client), &listener.address, &["count=20"]);
    let times: Vec<u64> = answers.iter().map(|answer| answer.end_ns - answer.start_ns).collect();
    assert_within("round trip", median(&times), tun.round_trip_ns(), 0.05);
    assert_within("delay", tun.round_trip_ns(), 30_000_000, 0.1);
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    let listener = Server::start_with(Place::default().namespace(&server), "10.99.0.2:8080", &[]);
    assert_eq!(request(Place::default().namespace(&client), &listener.address, &["count=3"]).len(), 3);
}

#[test]
fn a_hog_beside_the_server_shows_in_schedstat() {
    let server = Server::start(Place::default().cpu(0));
    let _hog = Place::default().cpu(0).apply(actor("hog").arg("seconds=30")).spawn();
    let before = schedstat::run_delay_ns(server.pid());
    // The thread of the connection must still live when its wait is read, so the client reads its last answer late.
    let args = ["mode=late", "late_ms=1000", "path=/spin/120000/"];
    let client = Client::start(Place::default().cpu(1), &server.address, &args);
    let delay = clock::poll(Duration::from_millis(950), || {
        let delay = schedstat::run_delay_ns(server.pid()) - before;
        (delay > 60_000_000).then_some(delay)
    });
    assert!(delay.is_some(), "120 ms of work beside a hog waited less than 60 ms");
    client.finish();
}

#[test]
fn a_cgroup_holds_what_is_started_in_it_and_counts_its_cpu() {
    let cgroup = Cgroup::new("rig");
    let place = Place::cgroup(&cgroup);
    let server = Server::start(place);
    assert_eq!(cgroup.pids(), [server.pid()]);
    let before = cgroup.cpu_usec();
    request(place, &server.address, &["path=/spin/50000/", "count=2"]);
    assert!(cgroup.cpu_usec() - before >= 100_000, "two requests burn 50 ms each");
}

#[test]
fn curl_wrk_python_and_rotel_are_there() {
    let (nginx, python) = (Nginx::start(Place::default()), PythonServer::start(Place::default()));
    let url = format!("http://{}/chunked/1", python.address);
    assert_eq!(curl(Place::default(), &[&url])[0]["size_download"], 11);
    let big = format!("http://{}/static/big", nginx.address);
    assert_eq!(curl(Place::default(), &[&big])[0]["size_download"], BIG_BYTES);
    let text = wrk(Place::default(), &format!("http://{}/", nginx.address), 4, Duration::from_secs(1));
    assert!(text.contains("requests in"), "{text}");
    assert!(nginx.finish().len() > 1000);
    assert!(Rotel::start().spans().is_empty());
}

#[test]
fn the_transcript_is_the_same_each_time() {
    let first = actor("transcript").run();
    assert!(first.lines().count() > 50, "{first}");
    assert_eq!(first, actor("transcript").run());
}
