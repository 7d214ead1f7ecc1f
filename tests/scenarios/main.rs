//! One data file per cause of latency: real programs, one known thing that is slow, and what the agent must say of it.
//!
//! Each file beside this one says what runs, what is injected, and what must come out: the largest segment, the verdict's cause
//! and evidence, and the truth, which is taken outside of the agent ([`facts`]). [`rig`] arranges and runs it, [`check`] holds
//! the agent's spans against it. Every file runs with single requests, most also with eight concurrent connections and, where
//! that makes sense, pipelined. Needs root. Run with `-- --test-threads=1`.
//!
//! `cargo test -p spantap-tests --test scenarios rig_alone:: -- --ignored --test-threads=1` runs the rigs without an agent and checks
//! only that they inject what they say.

mod check;
mod expression;
mod facts;
mod file;
mod hundred_thousand;
mod retransmits;
mod rig;

use file::Scenario;

/// Names the scenarios; each gets a test with the agent and one of its rig alone.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// What the agent says of each.
        mod cause {
            $(
                #[test]
                fn $name() {
                    crate::check::with_agent(stringify!($name));
                }
            )*
        }

        /// The rigs alone.
        mod rig_alone {
            $(
                #[test]
                #[ignore = "checks the rig without an agent; every test of `cause` checks it too"]
                fn $name() {
                    crate::check::without_agent(stringify!($name));
                }
            )*
        }
    };
}

scenarios! {
    dns_slow
    dns_chain
    dns_truncated
    dns_timeout
    dns_error
    dns_nxdomain
    connect_refused
    connect_timeout
    connect_abandoned
    connect_syn_lost
    connect_slow
    accept_queue_wait
    accept_queue_full
    tls_handshake_slow
    send_buffer_full_peer_window
    send_buffer_full
    held_cwnd
    held_peer_window
    held_paced
    egress_queue
    transfer_slow
    transfer_large
    transfer_loss
    transfer_paused
    transfer_held
    network_loss
    network_delay_10ms
    network_delay_60ms
    network_delay_200ms
    remote_slow
    blocked_lock
    blocked_poll
    blocked_disk
    blocked_downstream
    blocked_downstream_many
    application_cpu
    cpu_contention_server
    cpu_contention_reader
    cpu_throttled
    reader_busy
    half_closed
    keepalive_0ms
    keepalive_1ms
    keepalive_10ms
    keepalive_60ms
    reset_by_peer
    request_abandoned
    client_gone
    io_uring
    sendfile
    splice
    unix_socket
    udp_echo
}

#[test]
fn every_file_has_its_test_and_can_be_read() {
    let mut files = Scenario::names_of_files();
    files.sort();
    let mut names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).collect();
    names.sort();
    assert_eq!(files, names);
    names.iter().for_each(|name| drop(Scenario::read(name)));
}
