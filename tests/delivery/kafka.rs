//! Records of a Kafka topic: librdkafka's mock cluster takes them and fails, its consumer reads them.

use std::time::Duration;

use spantap_tests::clock::pace;

use crate::{
    judge::{Judge, export_test, wait_for_trouble},
    rig::{BOUND, Relay},
    sender::Sender,
};

/// Fewer than elsewhere: each span is a record.
const RATE: u64 = 5_000;

fn to(kafka: &Judge) -> String {
    let bootstrap = kafka.ask("bootstrap");
    format!(
        "name: kafka, url: 'kafka://{}/spans', compression: zstd, headers: {{ x-tenant: blue }}, timeout: 2s, \
         retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 20ms }}",
        bootstrap.as_str().expect("text")
    )
}

#[test]
fn kafka_gets_every_span_under_its_trace_through_errors_and_brokers_that_go() {
    let kafka = Judge::start("venv", "kafka.py", &[]);
    let relay = Relay::start(&[to(&kafka)], "");
    let (is_taken, said) = export_test(&relay, "kafka");
    assert!(is_taken, "{said}");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    pace(Duration::from_millis(300));
    // MESSAGE_TOO_LARGE: cut in halves, not so often that a span is left alone. NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT,
    // NOT_LEADER: later again.
    for (code, count) in [(10, 2), (19, 2), (7, 1), (6, 2)] {
        kafka.ask(&format!("produce {code} {count}"));
        pace(Duration::from_millis(100));
    }
    // Leaders are drawn by chance: this one leads at least one partition.
    kafka.ask("leader 0 1");
    kafka.ask("down 1");
    wait_for_trouble(&relay, "kafka", &["has no leader now"]);
    kafka.ask("leader 0 2");
    kafka.ask("up 1");

    // UNKNOWN_TOPIC_OR_PARTITION, TOPIC_AUTHORIZATION_FAILED.
    for (code, parts) in [(3, ["there is no topic spans", "create it"]), (29, ["allow the user", "topic spans"])] {
        kafka.ask(&format!("topic {code}"));
        kafka.ask("produce 6 1");
        wait_for_trouble(&relay, "kafka", &parts);
        let (is_taken, said) = export_test(&relay, "kafka");
        assert!(!is_taken && parts.iter().all(|part| said.contains(part)), "{said}");
        kafka.ask("topic 0");
    }
    let acknowledged = sender.finish();
    kafka.check("kafka", acknowledged, &relay);
    relay.drained("kafka");
    let accounts = relay.destination("kafka");
    assert_eq!((&accounts["dead"], &accounts["dropped"]), (&0.into(), &0.into()), "{accounts}");
    let compared = kafka.ask("partitions");
    assert!(compared["compared"].as_u64() >= Some(100) && compared["differ"] == serde_json::json!([]), "{compared}");
}

#[test]
fn spans_wait_for_a_cluster_that_is_gone_and_go_to_the_next_one() {
    let first = Judge::start("venv", "kafka.py", &[]);
    let relay = Relay::start(&[to(&first)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    spantap_tests::clock::wait_for("the first cluster has some", BOUND, || {
        (first.ask("seen")["spans"].as_u64() > Some(1000)).then_some(())
    });
    for broker in 1..=3 {
        first.ask(&format!("down {broker}"));
    }
    wait_for_trouble(&relay, "kafka", &["nothing listens there"]);
    let second = Judge::start("venv", "kafka.py", &[]);
    relay.configure(&[to(&second)], "");
    let acknowledged = sender.finish();
    relay.drained("kafka");
    for broker in 1..=3 {
        first.ask(&format!("up {broker}"));
    }
    let of = |judge: &Judge| judge.ask("seen")["spans"].as_u64().expect("a number");
    // A request whose answer the end of the first cluster cut off is in both.
    spantap_tests::clock::wait_for("all is in one of them", BOUND, || {
        (of(&first) + of(&second) >= acknowledged).then_some(())
    });
    println!("clusters: {acknowledged} acknowledged, {} in the first, {} in the second", of(&first), of(&second));
}

#[test]
fn spans_that_are_too_large_alone_are_dead_letters_and_the_rest_is_delivered() {
    let kafka = Judge::start("venv", "kafka.py", &[]);
    let relay = Relay::start(&[to(&kafka)], "");
    // MESSAGE_TOO_LARGE, so often that some records are cut down to a span, and then no more.
    kafka.ask("produce 10 60");
    let acknowledged = Sender::start(relay.address(), RATE, 200).finish();
    relay.drained("kafka");
    let accounts = relay.destination("kafka");
    let dead = accounts["dead"].as_u64().expect("a number");
    assert!(dead > 0 && dead < acknowledged, "{accounts}");
    assert_eq!(accounts["delivered"], acknowledged - dead);
    let letters = relay.ask(&["dlq", "ls"]);
    assert_eq!(letters.iter().map(|letter| letter["spans"].as_u64().expect("a number")).sum::<u64>(), dead);
    for letter in &letters {
        let reason = letter["reason"].as_str().expect("text");
        assert!(letter["is_suspect"] == false && reason.contains("max.message.bytes"), "{letter}");
    }
    relay.say(&["dlq", "replay", "--destination", "kafka"]);
    let twice = kafka.check("kafka, too large", acknowledged, &relay);
    assert_eq!(twice, 0);
}
