//! What the privileged tests and the benchmark share: the agent as an operator runs it, real servers and clients around
//! it, and outside sources of truth.
//!
//! In: nothing but the built `spantap` binary and the tools that `cargo xtask setup --tests` installs. Out: guards that
//! start things and end them on drop, also when a test panics. Called by `e2e/`, `hooks/` and `bin/`. Never skips: what
//! is missing panics with the command that provides it. Never traces more than what a test started.
//!
//! Limits: needs root, network namespaces, a cgroup v2 mount and, for delays, `/dev/net/tun`.

pub mod actors;
pub mod agent;
pub mod cgroup;
pub mod clock;
pub mod containerd;
pub mod coverage;
pub mod disk;
pub mod follow;
pub mod http;
pub mod http2;
pub mod mariadb;
pub mod namespace;
pub mod nginx;
pub mod numbered;
pub mod otlp;
pub mod php;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod realtime;
pub mod resolver;
pub mod rotel;
pub mod schedstat;
pub mod span;
pub mod stats;
pub mod temp;
pub mod tools;
pub mod traced;
pub mod tun;
