//! Destinations that fail in every way.

use std::{cell::Cell, net::SocketAddr, ops::Range, time::Duration};

use spantap_tests::{
    clock::{pace, wait_for},
    http::get,
    numbered::{bare, even},
    temp::{TempDir, free_port},
};

use crate::{
    RATE, check,
    judge::wait_for_trouble,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    to,
};

/// A second of a behaviour in the middle of three seconds of spans.
fn through(what: &str, behaviour: Behaviour) {
    through_while(what, |sink| to("sink", sink), behaviour, |_, _| pace(Duration::from_secs(1)));
}

/// A behaviour in the middle of three seconds of spans, as long as this takes.
fn through_while(
    what: &str,
    to: impl FnOnce(&Sink) -> String,
    behaviour: Behaviour,
    lasts: impl FnOnce(&Sink, &Relay),
) {
    let sink = Sink::start(Behaviour::Take);
    let relay = Relay::start(&[to(&sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    pace(Duration::from_millis(500));
    sink.set(behaviour);
    lasts(&sink, &relay);
    sink.set(Behaviour::Take);
    let twice = check(what, sender, &sink, &relay);
    relay.drained("sink");
    let accounts = relay.destination("sink");
    let told = accounts["possible_duplicates"].as_u64().expect("a number");
    assert!(told >= twice, "{what}: {twice} came twice, told are {told}");
    assert_eq!((&accounts["dead"], &accounts["dropped"]), (&0.into(), &0.into()), "{accounts}");
}

fn refusing(status: u16, headers: &str) -> Behaviour {
    Behaviour::Refuse { status, headers: headers.to_owned() }
}

#[test]
fn rate_limits_in_every_form() {
    through("429", refusing(429, ""));
    through("429 with seconds", refusing(429, "retry-after: 1\r\n"));
    through("429 with a date", refusing(429, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
    through("429 with nonsense", refusing(429, "retry-after: soon\r\n"));
}

#[test]
fn a_rate_limit_is_waited_for_as_long_as_the_destination_asks() {
    for asks in [
        "retry-after: 2\r\n",
        // By the clock of the destination, two seconds too.
        "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:39 GMT\r\n",
    ] {
        through_while(
            asks,
            |sink| to("sink", sink),
            refusing(429, asks),
            |sink, _| {
                let refused = wait_for("a request is refused", BOUND, || sink.first_met());
                sink.set(Behaviour::Take);
                let waited = wait_for("the next one comes", BOUND, || sink.first_met()) - refused;
                assert!(waited >= Duration::from_secs(2), "{waited:?} after {asks}");
            },
        );
    }
}

/// A number of the destination in the agent's figures.
fn figure(metrics: SocketAddr, name: &str) -> Option<u64> {
    let text = get(metrics, "/metrics").ok()?;
    let start = format!("spantap_destination_{name}{{destination=\"sink\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start))?.parse().ok()
}

#[test]
fn a_destination_that_wants_less_gets_a_part_that_stands_for_all_until_it_is_calm() {
    let (count, few) = (1_024, 64);
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sink = Sink::start(Behaviour::Exhausted(None));
    let destination = format!("{}, sampling: {{ ratio_min: 0.25 }}", to("sink", &sink));
    let relay = Relay::start(&[destination], &format!("metrics: {{ address: '{metrics}' }}\n"));
    let send = |first: u64, indices: Range<u64>| {
        relay.send("shop", indices.map(|index| bare(even(index, count) + first, index + 1, false)));
    };
    let ratio_is = |ppm: u64, meanwhile: &dyn Fn()| {
        wait_for(&format!("the ratio is {ppm} ppm"), BOUND, || {
            meanwhile();
            (figure(metrics, "sampling_ppm") == Some(ppm)).then_some(())
        });
    };
    // Too few for a backlog, which would lower the ratio too; taken from the log before it is lowered.
    send(0, 0..few);
    for ppm in [1_000_000, 500_000, 250_000] {
        ratio_is(ppm, &|| ());
    }
    send(1, 0..count);
    sink.set(Behaviour::Take);
    relay.drained("sink");
    let kept = few + count / 4;
    let counted =
        || (sink.taken(), figure(metrics, "spans_delivered_total"), figure(metrics, "spans_sampled_out_total"));
    assert_eq!(counted(), ((kept, 0), Some(kept), Some(count - count / 4)), "{}", relay.messages());
    assert_eq!(figure(metrics, "spans_generated_total"), Some(few + count));

    // A span now and then, of those that every ratio keeps.
    let more = Cell::new(0);
    for ppm in [500_000, 1_000_000] {
        ratio_is(ppm, &|| {
            more.set(more.get() + 1);
            send(1 + more.get(), count - 1..count);
            pace(Duration::from_millis(50));
        });
    }
    send(0, few..count);
    relay.drained("sink");
    let kept = kept + more.get() + count - few;
    assert_eq!(counted(), ((kept, 0), Some(kept), Some(count - count / 4)), "{}", relay.messages());
}

#[test]
fn outages_in_every_form() {
    through("503", refusing(503, ""));
    through("404", refusing(404, ""));
    through("302", refusing(302, "location: http://elsewhere/\r\n"));
    // Nothing else ends a request that gets no answer.
    let short = |sink: &Sink| to("sink", sink).replace("timeout: 2s", "timeout: 300ms");
    through_while("hang", short, Behaviour::Hang, |_, relay| {
        wait_for_trouble(relay, "sink", &["no answer from", "within 300ms"]);
    });
    through("broken answer", Behaviour::Break);
    through("reset within the answer", Behaviour::Reset);
    through("slow", Behaviour::Slow(Duration::from_millis(150)));
}

#[test]
fn an_expired_token_costs_nothing_and_a_new_one_is_used_at_once() {
    let folder = TempDir::new("token");
    let token = folder.write("token", "first\n");
    let sink = Sink::start(Behaviour::Token("first".into()));
    let auth = format!("{}, auth: {{ bearer: {{ file: '{}' }} }}", to("sink", &sink), token.display());
    let relay = Relay::start(&[auth], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    pace(Duration::from_millis(500));
    sink.set(Behaviour::Token("second".into()));
    pace(Duration::from_millis(300));
    folder.write("token", "second\n");
    check("token", sender, &sink, &relay);
    assert!(!relay.messages().contains("first") && !relay.messages().contains("second"), "{}", relay.messages());
}

#[test]
fn poison_spans_become_dead_letters_and_a_replay_delivers_them() {
    let poison = [17, 18, 5_000, 39_999];
    let sink = Sink::start(Behaviour::Poison(poison.to_vec()));
    let relay = Relay::start(&[to("sink", &sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    let acknowledged = sender.finish();
    wait_for("all but the poison is delivered", BOUND, || (sink.missing(acknowledged) == poison).then_some(()));
    wait_for("the poison is dead", BOUND, || (relay.destination("sink")["dead"] == 4).then_some(()));
    let letters = relay.ask(&["dlq", "ls"]);
    assert!(letters.iter().all(|letter| letter["reason"].as_str().expect("text").contains("400")), "{letters:?}");
    assert_eq!(letters.iter().map(|letter| letter["spans"].as_u64().expect("a number")).sum::<u64>(), 4);
    let id = letters[0]["id"].to_string();
    assert!(relay.say(&["dlq", "show", &id]).contains("GET /orders/"));

    sink.set(Behaviour::Take);
    relay.say(&["dlq", "replay", "--destination", "sink"]);
    wait_for("the poison is delivered", BOUND, || sink.missing(acknowledged).is_empty().then_some(()));
    wait_for("no letter is left", BOUND, || relay.ask(&["dlq", "ls"]).is_empty().then_some(()));
    let accounts = relay.destination("sink");
    assert_eq!((&accounts["delivered"], &accounts["dead"]), (&acknowledged.into(), &0.into()), "{accounts}");
    println!("poison: {acknowledged} delivered, {} twice, {} requests", sink.taken().1, sink.requests());
}

#[test]
fn partial_success_is_counted_exactly_and_kept_as_suspect() {
    let sink = Sink::start(Behaviour::Partial(3));
    let relay = Relay::start(&[to("sink", &sink)], "");
    let sender = Sender::start(relay.address(), RATE, RATE / 2);
    let acknowledged = sender.finish();
    relay.drained("sink");
    let accounts = relay.destination("sink");
    let dead = accounts["dead"].as_u64().expect("a number");
    assert_eq!(dead, sink.requests() * 3);
    assert_eq!(accounts["delivered"], acknowledged - dead);
    let letters = relay.ask(&["dlq", "ls", "--limit", "0"]);
    assert!(letters.iter().all(|letter| letter["is_suspect"] == true && letter["spans"] == 3));
    assert_eq!(letters.len() as u64, sink.requests());
}

#[test]
fn one_dead_destination_of_four_does_not_hold_up_the_others() {
    let sinks: Vec<Sink> = (0..4).map(|_| Sink::start(Behaviour::Take)).collect();
    sinks[0].set(Behaviour::Hang);
    let names = ["dead", "a", "b", "c"];
    let destinations: Vec<String> = names.iter().zip(&sinks).map(|(name, sink)| to(name, sink)).collect();
    let relay = Relay::start(&destinations, "");
    let sender = Sender::start(relay.address(), RATE / 2, RATE * 2);
    let mut backlog = 0;
    while sender.acknowledged() < RATE * 3 / 2 {
        pace(Duration::from_millis(100));
        let queued = |name: &str| relay.destination(name)["queued"].as_u64().expect("a number");
        backlog = backlog.max(names[1..].iter().map(|name| queued(name)).max().expect("three"));
    }
    let dead = relay.destination("dead")["queued"].as_u64().expect("a number");
    assert!(dead >= RATE * 3 / 2, "{dead}");
    // What a busy machine leaves waiting for a moment, against everything.
    assert!(backlog * 2 < dead, "{backlog} of {dead}");
    let acknowledged = sender.finish();
    for (name, sink) in names.iter().zip(&sinks).skip(1) {
        relay.drained(name);
        assert_eq!((*name, sink.taken()), (*name, (acknowledged, 0)));
    }
    sinks[0].set(Behaviour::Take);
    wait_for("the dead one catches up", BOUND, || sinks[0].missing(acknowledged).is_empty().then_some(()));
}
