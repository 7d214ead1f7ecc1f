//! The pure pipeline: kernel records in, finished and redacted spans out.
//!
//! No clock, IO, threads, async or `unsafe`: time arrives with records or by `tick(now)`.
#![forbid(unsafe_code)]

pub mod span;
