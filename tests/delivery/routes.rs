//! Destinations that get different parts: what matters goes to both, the rest to the one that keeps it.

use std::ops::Range;

use spantap_tests::{numbered::bare, temp::TempDir};

use crate::{
    rig::Relay,
    sink::{Behaviour, Sink},
    to,
};

#[test]
fn what_is_critical_goes_to_both_and_the_rest_to_one() {
    let (watched, archive) = (Sink::start(Behaviour::Take), Sink::start_grpc(Behaviour::Take));
    let folder = TempDir::new("routes");
    let with = |name: &str, sink: &Sink, filter: &str| format!("{}, filter: {{ {filter} }}", to(name, sink));
    let mut relay = Relay::start(
        &[
            with("watched", &watched, "include: [{ service: payments* }, { status: error }]"),
            with("archive", &archive, "exclude: [{ service: probe }]"),
            format!(
                "name: file, url: 'file:{}', filter: {{ include: [{{ service: none }}] }}",
                folder.join("f").display()
            ),
        ],
        "",
    );
    let send = |relay: &Relay, service: &str, numbers: Range<u64>, is_error: bool| {
        relay.send(service, numbers.map(|number| bare(number, number + 1, is_error)));
    };
    let kinds = [
        ("payments", 0..500, false),
        ("payments-eu", 500..600, false),
        ("shop", 600..900, false),
        ("shop", 900..920, true),
        ("probe", 920..1_020, false),
        ("probe", 1_020..1_025, true),
    ];
    for (service, numbers, is_error) in &kinds[..3] {
        send(&relay, service, numbers.clone(), *is_error);
    }
    relay.terminate();
    relay.restart();
    for (service, numbers, is_error) in &kinds[3..] {
        send(&relay, service, numbers.clone(), *is_error);
    }
    let everything = 1_025;
    for (name, sink, expected) in [
        ("watched", &watched, (0..600).chain(900..920).chain(1_020..1_025).collect::<Vec<u64>>()),
        ("archive", &archive, (0..920).collect()),
    ] {
        relay.drained(name);
        let (delivered, filtered) = (expected.len() as u64, everything - expected.len() as u64);
        assert_eq!((sink.numbers(), sink.taken()), (expected, (delivered, 0)), "{name}: {}", relay.messages());
        let accounts = relay.destination(name);
        assert_eq!(
            (&accounts["delivered"], &accounts["filtered"]),
            (&delivered.into(), &filtered.into()),
            "{accounts}"
        );
    }
    relay.drained("file");
    assert_eq!(relay.destination("file")["filtered"], everything);
}
