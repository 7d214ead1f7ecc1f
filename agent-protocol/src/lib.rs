//! Protocol parsers over bytes: pure, resumable and bounded.
//!
//! In: a stream's bytes in order, with its holes announced. Out: messages with the stream offsets at which they start
//! and end. Called by `agent-core`. Never: a clock, IO, threads, `unsafe`, panics, allocation by an unvalidated length.
#![forbid(unsafe_code)]

pub mod frames;
pub mod input;
pub mod session;

mod destination;
mod line;
mod text;

pub mod detect;

mod fields;
mod unpack;

pub mod amqp;
pub mod cassandra;
pub mod content;
pub mod dns;
pub mod fastcgi;
pub mod http1;
pub mod http2;
pub mod kafka;
pub mod memcached;
pub mod mongodb;
pub mod mqtt;
pub mod mysql;
pub mod nats;
pub mod postgres;
pub mod redis;
pub mod sql;
pub mod tls;
pub mod traceparent;

#[doc(hidden)]
pub mod fuzzing;
