//! The pure pipeline: kernel records in, finished and redacted spans out.
//!
//! No clock, IO, threads, async or `unsafe`: time arrives with records or by `tick(now)`. The modules are listed in the
//! order in which the data flows; [`pipeline`] shows the whole way on one screen.
#![forbid(unsafe_code)]

pub mod cause;
pub mod config;
pub mod container;
pub mod correlate;
pub mod endpoint;
pub mod enrich;
pub mod event;
pub mod exchange;
pub mod flow;
pub mod loss;
pub mod naming;
pub mod pipeline;
pub mod redact;
pub mod relay;
pub mod reorder;
pub mod replay;
pub mod segment;
pub mod sketch;
pub mod span;
pub mod symptom;
pub mod tail;
#[doc(hidden)]
pub mod testing;
mod thin;
pub mod wire;
