//! Dead letters: spans that a destination refused for good.

use crate::log::{Letter, Which};

/// Path of the server-streaming method `DeadLetters`: [`DeadLettersRequest`] -> [`LetterView`].
pub const DEAD_LETTERS_PATH: &str = "/spantap.query.v1.Query/DeadLetters";
/// Path of the unary method `SettleDeadLetters`: [`SettleRequest`] -> [`SettleReport`].
pub const SETTLE_DEAD_LETTERS_PATH: &str = "/spantap.query.v1.Query/SettleDeadLetters";

/// Which letters; all that fit everything that is given.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WhichLetters {
    /// Of this destination; empty: of any.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// Refused at or after; 0: whenever.
    #[prost(fixed64, tag = "2")]
    pub since_unix_ns: u64,
    /// Refused before; 0: whenever.
    #[prost(fixed64, tag = "3")]
    pub until_unix_ns: u64,
    /// Whose reason contains this text.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// With one of these numbers; empty: any.
    #[prost(uint64, repeated, tag = "5")]
    pub ids: Vec<u64>,
}

/// Asks for dead letters, oldest first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeadLettersRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub which: Option<WhichLetters>,
    /// Most letters; 0: all.
    #[prost(uint64, tag = "2")]
    pub limit: u64,
    /// Whether the spans themselves are wanted.
    #[prost(bool, tag = "3")]
    pub with_spans: bool,
}

/// A dead letter.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LetterView {
    /// Number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Who refused it.
    #[prost(string, tag = "2")]
    pub destination: String,
    /// When.
    #[prost(fixed64, tag = "3")]
    pub at_unix_ns: u64,
    /// What the destination said.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// Spans that it refused.
    #[prost(uint64, tag = "5")]
    pub spans: u64,
    /// It took the others of the letter and did not say which.
    #[prost(bool, tag = "6")]
    pub is_suspect: bool,
    /// Waits to be sent again.
    #[prost(bool, tag = "7")]
    pub is_replayed: bool,
    /// How often it was refused.
    #[prost(uint32, tag = "8")]
    pub attempts: u32,
    /// Bytes of the spans.
    #[prost(uint64, tag = "9")]
    pub bytes: u64,
    /// The spans as an `ExportTraceServiceRequest`, if they were asked for.
    #[prost(bytes = "vec", tag = "10")]
    pub request: Vec<u8>,
}

/// What is to become of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Settlement {
    /// They are sent again.
    Replay = 0,
    /// They are forgotten.
    Drop = 1,
}

/// Asks to settle letters. Only root and the agent's own user may.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SettleRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub which: Option<WhichLetters>,
    /// How.
    #[prost(enumeration = "Settlement", tag = "2")]
    pub settlement: i32,
}

/// How many.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SettleReport {
    /// Letters.
    #[prost(uint64, tag = "1")]
    pub letters: u64,
}

impl From<WhichLetters> for Which {
    fn from(which: WhichLetters) -> Self {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let time = |ns: u64| Some(ns).filter(|ns| *ns > 0);
        Self {
            destination: text(which.destination),
            since_unix_ns: time(which.since_unix_ns),
            until_unix_ns: time(which.until_unix_ns),
            reason: text(which.reason),
            ids: which.ids,
        }
    }
}

impl From<Letter> for LetterView {
    fn from(letter: Letter) -> Self {
        Self {
            id: letter.id,
            destination: letter.destination,
            at_unix_ns: letter.at_unix_ns,
            reason: letter.reason,
            spans: letter.spans,
            is_suspect: letter.is_suspect,
            is_replayed: letter.is_replayed,
            attempts: letter.attempts,
            bytes: letter.bytes,
            request: letter.payload,
        }
    }
}
