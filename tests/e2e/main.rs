//! The agent on this host, against real servers and clients.
//!
//! Needs root. One file per promise; each says what the truth is that the agent is held to. Those about
//! time and rates (`ALONE` in xtask/src/test.rs) run with `-- --test-threads=1`: they share the CPUs with what they measure.

mod brokers;
mod budget;
mod containers;
mod databases;
mod deploy;
mod errors;
mod follow_idle;
mod forking;
mod framing;
mod grpc;
mod http2;
mod http_exact;
mod lookups;
mod lossy;
mod messaging;
mod otlp_rotel;
mod preexisting;
mod protocols;
mod reselect;
mod rig;
mod segments;
mod selection;
mod tls;
mod tls_rewritten;
mod transparency;
mod wrk_unthrottled;
