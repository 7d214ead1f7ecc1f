//! HTTP/1.0 and HTTP/1.1 (RFC 9112), one direction of a connection at a time.
//!
//! In: [`Input`](crate::input::Input) to [`Requests`] or [`Responses`]. Out: [`Event`](crate::input::Event)s with a
//! [`RequestHead`] or [`ResponseHead`], and what was found in their bodies ([`crate::content`]). Called by `agent-core`, which pairs the
//! two directions. Never keeps a header's or query parameter's value beyond `Host`, `traceparent` and what frames the body.
//!
//! Limits: a head of [`Limits::head_bytes_max`] bytes and [`HEADERS_MAX`] fields, chunk lines and trailer sections of
//! the same size; what exceeds them is [`Lost::TooLarge`](crate::input::Lost::TooLarge). Memory of one direction: the
//! limit once, while a head arrives in pieces, less than 3 KiB of hosts and services that were asked for, and nothing per body byte.
//!
//! Gaps: one within a known length just advances. One that hides a head is `Lost`; the next message is looked for only
//! at the first byte of a later input, where a call of the application began, and believed on a whole start line (body
//! bytes there that read exactly so would be taken for one). One that hides chunk lines is no loss yet: the body ends,
//! as `Inferred`, where a call's bytes end in a last chunk, where the next message starts, or with the stream.
//!
//! What is lenient, because servers are: a lone LF ends a line; field lines with invalid names are passed over, as
//! nginx does; empty lines between messages are skipped; a target that is not UTF-8 is percent-encoded.

mod line;

mod head;

mod body;

mod engine;
mod request;
mod response;
mod service;

pub use self::{
    engine::Limits,
    head::HEADERS_MAX,
    request::{RequestHead, Requests, known_method},
    response::{ResponseHead, Responses},
    service::{AwsCall, SearchEngine},
};

pub(crate) use self::{
    head::cut,
    line::{Kind, StartLine},
    request::{HOST_BYTES_MAX, PATH_BYTES_MAX, query_names, without_user},
};

#[cfg(test)]
mod tests;
