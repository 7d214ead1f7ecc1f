//! One direction of an HTTP/1 connection: finds heads, follows bodies, survives gaps.
//!
//! In: `Input`. Out: `Event`. Called by `Requests` and `Responses`, which say what a head means ([`Side`]). Never blocks
//! on anything but bytes, never looks back further than the head in progress.

use super::{
    body::{Body, Progress},
    head::{Framing, head_end},
    line::{Kind, StartLine},
};
use crate::{
    content::{Content, Scan},
    detect::Sign,
    input::{Boundary, Event, Input, Lost},
};

/// Bounds of a parser's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a head, of a chunk line and of a trailer section.
    pub head_bytes_max: usize,
}

impl Default for Limits {
    /// 64 KiB: eight times nginx's and Apache's own limit for one field.
    fn default() -> Self {
        Self { head_bytes_max: 64 * 1024 }
    }
}

/// Head buffers above this are given back when the head is complete.
const BUFFER_KEPT_BYTES_MAX: usize = 4096;

/// What tells requests and responses apart.
pub(super) trait Side {
    type Head;
    const KIND: Kind;

    /// Reads a complete head that starts with a start line of [`Self::KIND`].
    fn parse(&mut self, head: &[u8]) -> Result<Parsed<Self::Head>, Lost>;

    /// Framing was lost: which message comes next is not known.
    fn lost(&mut self);
}

/// A head as a [`Side`] reads it.
pub(super) enum Parsed<H> {
    /// Another head of the same message follows.
    Interim,
    /// The message's head, and what its body is shown to.
    Final(H, Framing, Option<Scan>),
}

/// ```text
/// Between -byte-> Head -complete-> Body -complete-> Between
///    ^              |               |          (no body: at once)
///    |              v               v
///    +--- found -- Searching <- malformed, hidden by a gap, too large      any -switched, end, not ours-> Deaf
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message.
    Between,
    /// In a head.
    Head,
    /// In a body.
    Body(Body),
    /// Framing is lost; looking for a message at the first byte of every input.
    Searching,
    /// Nothing more will be said.
    Deaf,
}

/// The parser of one direction.
#[derive(Debug)]
pub(super) struct Engine<S> {
    pub(super) side: S,
    limits: Limits,
    state: State,
    /// Of the next input byte.
    offset: u64,
    /// The head in progress, if it came in pieces.
    head: Vec<u8>,
    head_start: u64,
    line: StartLine,
    /// What the body in progress is shown to.
    content: Option<Scan>,
    /// Neither `Head` nor `Lost` was said.
    fresh: bool,
    /// The caller knows that the next input byte starts a message.
    hinted: bool,
    /// Where another protocol begins; without one, the last offset that can be told, which no stream reaches.
    switch_at: u64,
}

impl<S: Side> Engine<S> {
    pub(super) fn new(side: S, limits: Limits) -> Self {
        Self {
            side,
            limits,
            state: State::Between,
            offset: 0,
            head: Vec::new(),
            head_start: 0,
            line: StartLine::new(S::KIND),
            content: None,
            fresh: true,
            hinted: false,
            switch_at: u64::MAX,
        }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) const fn hint_message_start(&mut self) {
        self.hinted = true;
    }

    pub(super) fn switch(&mut self, at: u64) {
        self.switch_at = at;
        self.fall_deaf_behind_switch();
    }

    pub(super) fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event<S::Head>>) {
        let before_switch = self.switch_at.saturating_sub(self.offset);
        match input {
            Input::Bytes(bytes) => {
                let ours = usize::try_from(before_switch).map_or(bytes.len(), |ours| ours.min(bytes.len()));
                self.feed_bytes(&bytes[..ours], out);
                self.fall_deaf_behind_switch();
                self.advance((bytes.len() - ours) as u64);
            }
            Input::Gap(gap) => {
                self.feed_gap(gap.min(before_switch), out);
                self.fall_deaf_behind_switch();
                self.advance(gap.saturating_sub(before_switch));
            }
            Input::End => self.feed_end(out),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }

    fn fall_deaf_behind_switch(&mut self) {
        if self.offset >= self.switch_at {
            self.fall_deaf();
        }
    }

    fn fall_deaf(&mut self) {
        self.state = State::Deaf;
        self.head = Vec::new();
        self.content = None;
    }

    fn feed_bytes(&mut self, mut bytes: &[u8], out: &mut Vec<Event<S::Head>>) {
        if bytes.is_empty() {
            return;
        }
        self.find_message(bytes, out);
        while !bytes.is_empty() {
            let taken = self.step(bytes, out);
            self.advance(taken as u64);
            bytes = &bytes[taken..];
        }
    }

    /// Where framing is lost or hidden, or the caller hinted: does a message start with this input?
    fn find_message(&mut self, bytes: &[u8], out: &mut Vec<Event<S::Head>>) {
        let hinted = std::mem::take(&mut self.hinted);
        let verdict = || StartLine::check(S::KIND, bytes);
        let found = match self.state {
            State::Searching | State::Body(Body::Hidden(_)) => match verdict() {
                Sign::Yes => true,
                Sign::Partial => hinted,
                Sign::Likely | Sign::No => false,
            },
            State::Body(Body::UntilClose) => hinted && verdict() != Sign::No,
            // Framing says otherwise, which it may for want of the request (a HEAD): ask for the whole line.
            State::Body(Body::Sized(_) | Body::Chunked(_)) => hinted && verdict() == Sign::Yes,
            State::Between | State::Head | State::Deaf => false,
        };
        if !found {
            return;
        }
        if let State::Body(_) = self.state {
            self.complete(self.offset, Boundary::Inferred, out);
        }
        self.state = State::Between;
    }

    /// Takes some of `bytes`, at least one unless the state changes; answers how many.
    fn step(&mut self, bytes: &[u8], out: &mut Vec<Event<S::Head>>) -> usize {
        match &mut self.state {
            State::Between => self.step_between(bytes),
            State::Head => self.step_head(bytes, out),
            State::Body(body) => {
                let hidden = matches!(body, Body::Hidden(_));
                let (taken, progress) = body.advance(bytes, &mut self.content);
                let at = self.offset.saturating_add(taken as u64);
                match progress {
                    Progress::More => taken,
                    Progress::Done => {
                        let boundary = if hidden { Boundary::Inferred } else { Boundary::Framed };
                        self.complete(at, boundary, out);
                        taken
                    }
                    Progress::Broken(reason) => {
                        self.lose(at, reason, out);
                        bytes.len()
                    }
                }
            }
            State::Searching | State::Deaf => bytes.len(),
        }
    }

    /// RFC 9112 section 2.2: ignore empty lines before a start line.
    fn step_between(&mut self, bytes: &[u8]) -> usize {
        let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if empty < bytes.len() {
            self.head_start = self.offset.saturating_add(empty as u64);
            self.head.clear();
            self.line = StartLine::new(S::KIND);
            self.state = State::Head;
        }
        empty
    }

    fn step_head(&mut self, bytes: &[u8], out: &mut Vec<Event<S::Head>>) -> usize {
        let before = self.head.len();
        let room = self.limits.head_bytes_max.saturating_sub(before);
        let seen = &bytes[..room.min(bytes.len())];
        if self.line.push(seen) == Sign::No {
            self.refuse(out);
            return bytes.len();
        }
        // A head that is whole in one input is not copied.
        if before == 0
            && let Some(end) = head_end(seen, 0)
        {
            self.complete_head(&seen[..end], self.offset.saturating_add(end as u64), out);
            return end;
        }
        self.head.extend_from_slice(seen);
        if before > 0
            && let Some(end) = head_end(&self.head, before)
        {
            let taken = end - before;
            let mut head = std::mem::take(&mut self.head);
            self.complete_head(&head[..end], self.offset.saturating_add(taken as u64), out);
            if head.capacity() <= BUFFER_KEPT_BYTES_MAX {
                head.clear();
                self.head = head;
            }
            return taken;
        }
        if self.head.len() >= self.limits.head_bytes_max {
            self.lose(self.head_start, Lost::TooLarge, out);
            return bytes.len();
        }
        seen.len()
    }

    fn complete_head(&mut self, head: &[u8], end: u64, out: &mut Vec<Event<S::Head>>) {
        let (head, framing, content) = match self.side.parse(head) {
            Err(reason) => return self.lose(self.head_start, reason, out),
            Ok(Parsed::Interim) => {
                self.fresh = false;
                self.state = State::Between;
                return;
            }
            Ok(Parsed::Final(head, framing, content)) => (head, framing, content),
        };
        self.fresh = false;
        out.push(Event::Head { start: self.head_start, end, head });
        self.content = content;
        match framing {
            Framing::None | Framing::Length(0) => self.complete(end, Boundary::Framed, out),
            Framing::Length(length) => self.state = State::Body(Body::Sized(length)),
            Framing::Chunked => self.state = State::Body(Body::chunked(self.limits.head_bytes_max)),
            Framing::UntilClose => self.state = State::Body(Body::UntilClose),
            Framing::Switch => {
                out.push(Event::Switched { at: end });
                self.fall_deaf();
            }
        }
    }

    fn complete(&mut self, end: u64, boundary: Boundary, out: &mut Vec<Event<S::Head>>) {
        self.content_end(out);
        out.push(Event::End { end, boundary });
        self.state = State::Between;
    }

    /// What was found in the body in progress so far; nothing more is looked for in it.
    pub fn take_content(&mut self) -> Option<Content> {
        self.content.take().and_then(Scan::finish)
    }

    /// Nothing more of a body comes.
    fn content_end(&mut self, out: &mut Vec<Event<S::Head>>) {
        if let Some(content) = self.take_content() {
            out.push(Event::Content(Box::new(content)));
        }
    }

    fn lose(&mut self, at: u64, reason: Lost, out: &mut Vec<Event<S::Head>>) {
        self.content_end(out);
        out.push(Event::Lost { at, reason });
        self.state = State::Searching;
        self.head = Vec::new();
        self.fresh = false;
        self.side.lost();
    }

    /// The bytes where a message should start are no start line.
    fn refuse(&mut self, out: &mut Vec<Event<S::Head>>) {
        if self.fresh {
            out.push(Event::NotMine);
            self.fall_deaf();
        } else {
            self.lose(self.head_start, Lost::Malformed, out);
        }
    }

    fn feed_gap(&mut self, gap: u64, out: &mut Vec<Event<S::Head>>) {
        if gap == 0 {
            return;
        }
        self.hinted = false;
        match &mut self.state {
            State::Between => self.lose(self.offset, Lost::Gap, out),
            State::Head => self.lose(self.head_start, Lost::Gap, out),
            State::Body(body) => {
                let (taken, progress) = body.skip(gap);
                if let Some(content) = &mut self.content {
                    content.skip(taken);
                }
                if progress == Progress::Done {
                    let end = self.offset.saturating_add(taken);
                    self.complete(end, Boundary::Framed, out);
                    if gap > taken {
                        self.lose(end, Lost::Gap, out);
                    }
                }
            }
            State::Searching | State::Deaf => {}
        }
        self.advance(gap);
    }

    fn feed_end(&mut self, out: &mut Vec<Event<S::Head>>) {
        let end = self.offset;
        match self.state {
            // RFC 9112 section 8: a message that the connection's end cut off is incomplete.
            State::Head if self.line.verdict() == Sign::Yes => self.lose(self.head_start, Lost::Malformed, out),
            State::Head => self.refuse(out),
            State::Body(Body::Sized(_) | Body::Chunked(_)) => self.lose(end, Lost::Malformed, out),
            State::Body(Body::UntilClose) => self.complete(end, Boundary::Framed, out),
            State::Body(Body::Hidden(_)) => self.complete(end, Boundary::Inferred, out),
            State::Between | State::Searching | State::Deaf => {}
        }
        self.fall_deaf();
    }
}
