//! Certificates and tokens that are exchanged while spans flow.

use std::time::Duration;

use spantap_tests::{
    clock::{pace, wait_for},
    temp::TempDir,
};

use crate::{
    RATE, check,
    rig::{BOUND, Relay},
    sender::Sender,
    sink::{Behaviour, Sink},
    tls::{Identity, Tunnel},
};

/// Exchanges a file as secret stores do: by renaming over it.
fn exchange(folder: &TempDir, name: &str, text: &str) {
    let next = folder.write(&format!("{name}.next"), text);
    std::fs::rename(next, folder.join(name)).expect("renamed");
}

fn show(folder: &TempDir, identity: &Identity) {
    exchange(folder, "cert.pem", &identity.certificate);
    exchange(folder, "key.pem", &identity.key);
}

/// The sink's own certificate, the CA of its clients, the client's certificate and the token all change, one after the other.
fn rotated(scheme: &str, sink: &Sink) {
    let folder = TempDir::new("rotate");
    let (servers, clients) = ([Identity::new(), Identity::new()], [Identity::new(), Identity::new()]);
    folder.write("ca.pem", &servers[0].ca);
    folder.write("token", "alpha-7f\n");
    show(&folder, &clients[0]);
    let front = Tunnel::front(sink.address(), &servers[0], &clients[0]);
    let at = folder.path().display();
    let destination = format!(
        "name: sink, url: '{scheme}://localhost:{}', timeout: 2s, retry: {{ initial: 20ms, max: 200ms }}, batch: {{ age: 20ms }}, \
         tls: {{ ca_file: '{at}/ca.pem', cert_file: '{at}/cert.pem', key_file: '{at}/key.pem' }}, \
         auth: {{ bearer: {{ file: '{at}/token' }} }}",
        front.address.port()
    );
    let relay = Relay::start(&[destination], "");
    let sender = Sender::start(relay.address(), RATE, RATE * 2);
    wait_for("the first certificates are good", BOUND, || (sink.taken().0 > 0).then_some(()));

    // The server's side first, so that for some time everything is refused.
    front.exchange_front(&servers[1], &clients[1]);
    sink.set(Behaviour::Token("beta-9c".into()));
    let (_, before) = front.handshakes();
    wait_for("the old ones are refused", BOUND, || (front.handshakes().1 > before).then_some(()));
    let taken = sink.taken().0;
    exchange(&folder, "ca.pem", &servers[1].ca);
    pace(Duration::from_millis(100));
    show(&folder, &clients[1]);
    wait_for("the new certificates are used", BOUND, || (sink.met() > 0).then_some(()));
    assert_eq!(sink.taken().0, taken, "the old token was taken");
    exchange(&folder, "token", "beta-9c\n");
    check(&format!("{scheme}, rotation"), sender, sink, &relay);
    let accounts = relay.destination("sink");
    assert_eq!((&accounts["dead"], &accounts["dropped"]), (&0.into(), &0.into()), "{accounts}");
    let said = relay.messages();
    assert!(said.contains("new certificates are used") && !said.contains("beta-9c"), "{said}");
}

#[test]
fn certificates_and_token_of_a_destination_change_at_full_rate_by_http() {
    rotated("otlp+https", &Sink::start(Behaviour::Token("alpha-7f".into())));
}

#[test]
fn certificates_and_token_of_a_destination_change_at_full_rate_by_grpc() {
    rotated("otlp+grpcs", &Sink::start_grpc(Behaviour::Token("alpha-7f".into())));
}

#[test]
fn the_receivers_certificate_changes_at_full_rate() {
    let folder = TempDir::new("rotate");
    let (first, second) = (Identity::new(), Identity::new());
    show(&folder, &first);
    let at = folder.path().display();
    let sink = Sink::start(Behaviour::Take);
    let config = format!("receive: {{ tls: {{ cert_file: '{at}/cert.pem', key_file: '{at}/key.pem' }} }}\n");
    let relay = Relay::start(&[crate::to("sink", &sink)], &config);
    let tunnel = Tunnel::back(relay.address(), &first);
    let sender = Sender::start(tunnel.address, RATE, RATE * 2);
    wait_for("the first certificate is good", BOUND, || (sender.acknowledged() > 0).then_some(()));

    show(&folder, &second);
    // A connection that is there stays, so only new ones tell.
    let probe = Tunnel::back(relay.address(), &second);
    wait_for("the second certificate is shown", BOUND, || {
        let _ = std::net::TcpStream::connect(probe.address);
        (probe.handshakes().0 > 0).then_some(())
    });
    let (made, refused) = tunnel.handshakes();
    assert_eq!((made, refused), (1, 0), "the sender's connection was ended");
    tunnel.exchange_back(&first);
    wait_for("the first certificate is no longer shown", BOUND, || (tunnel.handshakes().1 > 0).then_some(()));
    tunnel.exchange_back(&second);
    check("the receiver's certificate changes", sender, &sink, &relay);
}
