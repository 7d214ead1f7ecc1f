//! What a parser is fed and what it answers, the same for every protocol.

use crate::content::Content;

/// The next piece of a stream. Pieces are fed in order and without overlap.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Captured bytes: those of one read or write call, or, after a gap, that call's last ones. Where a call begins
    /// matters only while framing is lost: a message can be found again only at the first byte of an input.
    Bytes(&'a [u8]),
    /// This many bytes moved but were not captured.
    Gap(u64),
    /// The peer closed this direction; nothing follows.
    End,
}

impl Input<'_> {
    /// How many bytes moved.
    pub const fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Gap(gap) => *gap,
            Self::End => 0,
        }
    }
}

/// How sure a message boundary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// By the protocol's own framing.
    Framed,
    /// Framing was hidden by a gap; the boundary is where the next message began or the stream ended, or bytes that end
    /// messages of this kind were seen. On a pipelined connection the gap may have hidden whole messages, too.
    Inferred,
}

/// What a parser has to say. Offsets count bytes since the parser's first input, gaps included.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<H> {
    /// A message's head is complete.
    Head {
        /// Offset of the message's first byte.
        start: u64,
        /// Offset just past the head.
        end: u64,
        /// What it says.
        head: H,
    },
    /// What was found in the body of the message whose head came last, of which no more will be seen. Comes before its `End` or `Lost`.
    Content(Box<Content>),
    /// The message whose head came last is complete.
    End {
        /// Offset just past its last byte.
        end: u64,
        /// How sure that is.
        boundary: Boundary,
    },
    /// The stream stopped being this protocol by agreement (HTTP upgrade); all further input is ignored. The message
    /// whose head came last ended here.
    Switched {
        /// Offset of the first foreign byte.
        at: u64,
    },
    /// Framing was lost (malformed bytes, a message that the stream's end cut off, or a gap where a length or a head
    /// was). A message in progress ends as unknown. The parser looks for the next message; a further `Head` says that
    /// it found one.
    Lost {
        /// Offset at which framing was lost; the first byte of the head if that is what was not understood.
        at: u64,
        /// Why.
        reason: Lost,
    },
    /// These bytes are not this protocol. Final: further input is ignored. Only before the first `Head` and `Lost`.
    NotMine,
}

/// Why framing was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Bytes that the protocol forbids, or an end of the stream where it forbids one.
    Malformed,
    /// A gap hid what was needed.
    Gap,
    /// A head or frame exceeds the parser's limit.
    TooLarge,
}
