//! Spans name the container and the pod, and both can be selected and excluded.
//!
//! Truth: what the test gave containerd, which wrote it down.

use std::{net::TcpStream, time::Duration};

use spantap_tests::{
    agent::{Agent, AgentOptions},
    clock,
    containerd::{Container, Containerd, POD_UID},
    http::{Place, Server, request},
    temp::free_port,
};

const BOUND: Duration = Duration::from_secs(30);
const POD: &str = "checkout-7d9f8b6c5d-x2x4z";
const ANNOTATIONS: [(&str, &str); 5] = [
    ("io.kubernetes.cri.container-name", "server"),
    ("io.kubernetes.cri.sandbox-name", POD),
    ("io.kubernetes.cri.sandbox-namespace", "shop"),
    ("io.kubernetes.cri.sandbox-uid", POD_UID),
    ("io.kubernetes.cri.image-name", "registry.example:5000/shop/checkout:2.1"),
];

fn server(containerd: &Containerd) -> (Container<'_>, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let container = containerd.run(&ANNOTATIONS, &["server", &format!("address={address}")]);
    clock::wait_for("the container serves", BOUND, || TcpStream::connect(&address).ok());
    (container, address)
}

#[test]
fn a_pod_that_starts_later_is_selected_and_named() {
    let containerd = Containerd::start();
    let options = AgentOptions::none().flag("--select-pod", "shop/checkout-*");
    let agent = Agent::start(&options.flag("--select-container", "no-such-container"));
    let stranger = Server::start(Place::default());
    let (container, address) = server(&containerd);
    let spans = clock::wait_for("the pod's server is traced", BOUND, || {
        request(Place::default(), &stranger.address, &["path=/stranger/"]);
        request(Place::default(), &address, &["path=/pod/"]);
        Some(agent.spans()).filter(|spans| !spans.is_empty())
    });
    for span in &spans {
        assert_eq!((span.kind.as_str(), span.path()), ("server", "/pod/0"), "only the pod is selected");
        let named = [
            ("service.namespace", "shop"),
            ("service.version", "2.1"),
            ("service.instance.id", "shop.checkout-7d9f8b6c5d-x2x4z.server"),
            ("container.id", &container.id),
            ("container.image.name", "registry.example:5000/shop/checkout"),
            ("k8s.container.name", "server"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", POD),
            ("k8s.pod.uid", POD_UID),
            ("process.executable.name", "actor"),
            ("spantap.service.evidence", "inferred"),
        ];
        assert_eq!(span.service, "checkout", "the workload");
        for (key, value) in named {
            assert_eq!(span.text(key), value, "{key}");
        }
        assert_eq!(span.attribute("container.image.tags"), Some(&serde_json::json!(["2.1"])));
    }
    let selected = agent.answer(["status"]);
    for words in ["--select-pod shop/checkout-* (1 container)", "--select-container no-such-container (none there)"] {
        assert!(selected.contains(words), "{selected}");
    }
    let found = agent.spans_where(&["--attribute", "k8s.pod.name=checkout-*"]);
    assert!(found.len() >= spans.len(), "spans are found by their pod");
}

#[test]
fn a_pod_is_excluded_although_its_port_is_selected() {
    let containerd = Containerd::start();
    let (_container, address) = server(&containerd);
    let port = address.rsplit(':').next().expect("a port");
    let options = AgentOptions::none().flag("--select-port", port).flag("--exclude-pod", "shop/*");
    let agent = Agent::start(&options);
    request(Place::default(), &address, &["path=/excluded/"]);
    let spans = agent.wait_for("the client's span", BOUND, |spans| !spans.is_empty());
    let seen: Vec<_> = spans.iter().map(|span| (span.kind.as_str(), span.path(), span.text("k8s.pod.name"))).collect();
    assert_eq!(seen, [("client", "/excluded/0", "")], "the client is outside the pod; the server is not recorded");
}

#[test]
fn a_container_is_selected_by_the_beginning_of_its_identifier() {
    let containerd = Containerd::start();
    let (container, address) = server(&containerd);
    let agent = Agent::start(&AgentOptions::none().flag("--select-container", &container.id[..12]));
    request(Place::default(), &address, &["path=/by-id/"]);
    let spans = agent.wait_for("the server's span", BOUND, |spans| !spans.is_empty());
    assert_eq!((spans[0].kind.as_str(), spans[0].text("container.id")), ("server", container.id.as_str()));
}
