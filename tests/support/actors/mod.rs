//! Programs that tests run as processes of their own: a client, a server, a name server, UDP echo, a CPU hog, a sender and a
//! sink of OTLP, a transcript of system calls.
//!
//! In: `NAME key=value …`. Out: JSON lines or a transcript on standard output. Called by `bin/actor.rs`, and by the
//! benchmark, which runs itself as its actors. They are plain blocking std, so that what the agent sees is their own
//! system calls and nothing else.

use std::{collections::BTreeMap, str::FromStr};

pub mod client;
pub mod dial;
pub mod dns;
pub mod hog;
pub mod message;
pub mod otlp;
pub mod routes;
pub mod server;
pub mod transcript;
pub mod udp;
pub mod uring;

/// `key=value` arguments.
#[derive(Clone, Debug, Default)]
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Reads them; anything else ends the program.
    pub fn new(args: impl IntoIterator<Item = String>) -> Self {
        let pair = |arg: String| {
            let (key, value) = arg.split_once('=').unwrap_or_else(|| panic!("`{arg}` is not key=value"));
            (key.to_owned(), value.to_owned())
        };
        Self(args.into_iter().map(pair).collect())
    }

    /// The value of a key, or `default`.
    pub fn get<T: FromStr>(&self, key: &str, default: T) -> T {
        let Some(value) = self.0.get(key) else { return default };
        value.parse().unwrap_or_else(|_| panic!("`{key}={value}` has a value that does not fit"))
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("`{key}=` is missing"))
    }
}

/// Runs the actor that the arguments name, if they name one.
pub fn run(mut args: impl Iterator<Item = String>) -> bool {
    let Some(name) = args.next() else { return false };
    let actor: fn(&Arguments) = match name.as_str() {
        "client" => client::run,
        "dns" => dns::run,
        "hog" => hog::run,
        "otlp_sender" => otlp::run_sender,
        "otlp_sink" => otlp::run_sink,
        "server" => server::run,
        "transcript" => transcript::run,
        "udp_client" => udp::run_client,
        "udp_server" => udp::run_server,
        _ => return false,
    };
    actor(&Arguments::new(args));
    true
}
