//! The query API: what is in the span log and how the agent is, over a unix socket.
//!
//! `api` is the wire, `server` runs in the agent and is the only reader of the log besides the exporters, `client` is what every
//! command uses.

pub(crate) mod access;
pub mod api;
pub mod client;
mod dead;
mod groups;
mod late;
mod scan;
mod search;
pub mod server;
