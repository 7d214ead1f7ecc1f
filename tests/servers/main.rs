//! The agent against further servers and clients that others wrote; not part of CI.
//!
//! Needs root and what `cargo xtask test --only servers` installs, which runs it. Each file says what the truth is that the agent
//! is held to. Run with `-- --test-threads=1`: the tests share the CPUs with what they measure.

use std::collections::BTreeMap;

/// How often each was there.
fn count<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    all.into_iter().for_each(|one| *counts.entry(one).or_default() += 1);
    counts
}

mod aws;
mod bodies;
mod caddy;
mod databases;
mod dns;
mod etcd;
mod node;
mod opensearch;
mod peer;
mod proxies;
mod proxy;
mod rabbitmq;
mod tls;
mod upgrade;
mod websocket;
