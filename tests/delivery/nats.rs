//! Messages of a NATS JetStream stream: a real server takes them and goes away, nats-py reads them.

use std::time::Duration;

use spantap_tests::{
    clock::{pace, wait_for},
    proxy::Proxy,
    temp::TempDir,
};

use crate::{
    RATE,
    judge::{Judge, export_test, wait_for_trouble},
    rig::{BOUND, Relay},
    sender::Sender,
};

#[test]
fn a_stream_has_every_span_once_whatever_is_sent_twice() {
    let folder = TempDir::new("nats");
    folder.write("password", "wrong\n");
    let nats = Judge::start("venv", "jetstream.py", &[folder.path().display().to_string()]);
    let to = format!(
        "name: nats, url: '{}/spans.otlp', auth: {{ basic: {{ username: agent, password: {{ file: '{}' }} }} }}, \
         timeout: 500ms, retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 20ms }}",
        nats.ask("url").as_str().expect("text"),
        folder.join("password").display()
    );
    let relay = Relay::start(std::slice::from_ref(&to), "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    wait_for_trouble(&relay, "nats", &["Authorization Violation", "`auth`"]);
    folder.write("password", "open sesame\n");
    pace(Duration::from_millis(300));

    // What was sent is stored, but the answer comes too late or never: it is sent again under the same id.
    nats.ask("pause");
    wait_for_trouble(&relay, "nats", &["no acknowledgement"]);
    nats.ask("resume");
    pace(Duration::from_millis(200));
    nats.ask("stop");
    wait_for_trouble(&relay, "nats", &["nothing listens there"]);
    nats.ask("start");
    pace(Duration::from_millis(300));

    nats.ask("full");
    wait_for_trouble(&relay, "nats", &["the stream is full"]);
    nats.ask("roomy");
    let acknowledged = sender.finish();
    relay.drained("nats");
    let twice = nats.check("jetstream", acknowledged, &relay);
    let accounts = relay.destination("nats");
    assert_eq!((twice, &accounts["dead"], &accounts["dropped"]), (0, &0.into(), &0.into()), "{accounts}");
    assert!(!relay.messages().contains("sesame"), "{}", relay.messages());

    let (is_taken, said) = export_test(&relay, "nats");
    assert!(is_taken, "{said}");
    relay.configure(&[to.replace("spans.otlp", "spans.other")], "");
    let (is_taken, said) = export_test(&relay, "nats");
    assert!(!is_taken && said.contains("no JetStream stream has this subject"), "{said}");
    relay.configure(&[to.replace("spans.otlp", "other")], "");
    let (is_taken, said) = export_test(&relay, "nats");
    assert!(!is_taken && said.contains("allow the user of `auth` to publish"), "{said}");
}

/// The server has stored what it acknowledges, and the acknowledgement is lost on its way: only the message's id tells it that what
/// comes again is the same.
#[test]
fn what_is_sent_again_after_a_lost_acknowledgement_is_stored_once() {
    const LOST: u64 = 5;
    let folder = TempDir::new("nats-lost");
    let nats = Judge::start("venv", "jetstream.py", &[folder.path().display().to_string()]);
    let url = nats.ask("url").as_str().expect("text").to_owned();
    let proxy = Proxy::start(url.trim_start_matches("nats://"), b"\"seq\"");
    let to = format!(
        "name: nats, url: 'nats://{}/spans.otlp', auth: {{ basic: {{ username: agent, password: {{ file: '{}' }} }} }}, \
         timeout: 2s, retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 20ms }}",
        proxy.address(),
        folder.write("password", "open sesame\n").display()
    );
    let relay = Relay::start(&[to], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    for lost in 1..=LOST {
        proxy.lose_next();
        wait_for("a lost acknowledgement", BOUND, || (proxy.lost() == lost).then_some(()));
    }
    let acknowledged = sender.finish();
    relay.drained("nats");
    let twice = nats.check("jetstream, acknowledgements lost", acknowledged, &relay);
    let accounts = relay.destination("nats");
    assert_eq!((twice, &accounts["dead"], &accounts["dropped"]), (0, &0.into(), &0.into()), "{accounts}");
}
