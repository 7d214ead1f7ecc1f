//! A connection of the pipeline as the query API tells it.

use agent_core::{
    endpoint::Endpoint,
    flow::{
        connection::{ResetBy, Role, Seen},
        view::ConnectionView,
    },
};

use crate::query::api::ConnView;

/// `not_covered`: why nothing is seen of what its process sends and receives by TLS.
pub(super) fn told(view: &ConnectionView, not_covered: &str) -> ConnView {
    // What a unix socket is bound to is the name of the server's end.
    let path = |role| view.unix_path.as_deref().filter(|_| view.role == Some(role));
    let end = |end: Endpoint, path: Option<&str>| path.map_or_else(|| end.to_string(), |path| format!("unix:{path}"));
    ConnView {
        id: view.id,
        local: end(view.local, path(Role::Server)),
        peer: end(view.peer, path(Role::Client)),
        role: view.role.map(role).unwrap_or_default().to_owned(),
        pid: view.pid,
        state: view.state.name().to_owned(),
        opened_unix_ns: view.opened.map(|time| time.0),
        closed_unix_ns: view.closed.map(|time| time.0),
        bytes_sent: view.bytes_sent,
        bytes_received: view.bytes_received,
        exchanges: view.exchanges,
        retransmits_total: view.retransmits_total,
        retransmits_in_requests: view.retransmits_in_requests,
        retransmits_handshake: view.retransmits_handshake,
        retransmits_outside: view.retransmits_outside,
        out_of_order: u64::from(view.out_of_order),
        srtt_us: view.srtt_us,
        min_rtt_us: view.min_rtt_us,
        reset_by: view.reset_by.map(ResetBy::name).unwrap_or_default().to_owned(),
        tls: match view.tls {
            None => String::new(),
            Some(Seen::Plaintext) => "readable".to_owned(),
            Some(Seen::Kernel) => "not covered: the kernel encrypts (kTLS)".to_owned(),
            Some(Seen::Records) => format!("not covered: {not_covered}"),
        },
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
    }
}

#[cfg(test)]
mod tests {
    use agent_core::flow::view::State;

    use super::*;

    #[test]
    fn a_unix_socket_is_named_at_the_servers_end() {
        let view = ConnectionView {
            id: 7,
            local: Endpoint::Unix(11),
            peer: Endpoint::Unix(12),
            unix_path: Some("/run/app.sock".into()),
            role: Some(Role::Client),
            pid: 42,
            state: State::Open,
            opened: None,
            closed: None,
            bytes_sent: 1,
            bytes_received: 2,
            exchanges: 3,
            retransmits_total: 6,
            retransmits_in_requests: 3,
            retransmits_handshake: 2,
            retransmits_outside: 1,
            out_of_order: 4,
            srtt_us: Some(5),
            min_rtt_us: None,
            reset_by: Some(ResetBy::Peer),
            tls: None,
        };
        let told_of = |role| told(&ConnectionView { role, ..view.clone() }, "");
        let client = told_of(Some(Role::Client));
        assert_eq!((client.local.as_str(), client.peer.as_str()), ("unix:[11]", "unix:/run/app.sock"));
        let server = told_of(Some(Role::Server));
        assert_eq!((server.local.as_str(), server.peer.as_str()), ("unix:/run/app.sock", "unix:[12]"));
        let unknown = told_of(None);
        assert_eq!((unknown.role.as_str(), unknown.state.as_str(), unknown.reset_by.as_str()), ("", "open", "peer"));
        let tls = |tls| told(&ConnectionView { tls, ..view.clone() }, "uses rustls").tls;
        let words = [None, Some(Seen::Plaintext), Some(Seen::Kernel), Some(Seen::Records)].map(tls);
        let kernel = "not covered: the kernel encrypts (kTLS)";
        assert_eq!(words, ["", "readable", kernel, "not covered: uses rustls"]);
        assert_eq!((client.retransmits_total, client.srtt_us, client.min_rtt_us), (6, Some(5), None));
    }
}
