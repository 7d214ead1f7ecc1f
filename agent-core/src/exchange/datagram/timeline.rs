//! Where the time of an exchange of datagrams went.
//!
//! What tells the network from the other host is only the other end's own view, if that is on this host; else the whole
//! wait is `remote`, derived. A wait for an answer that never came is that, too.

use super::packet::Packet;
use crate::{
    flow::timing::Moment,
    segment::{Tiles, Timeline},
    span::{
        Evidence::{Derived, Measured},
        SegmentName::{Application, Network, Remote},
    },
};

/// What the other end, on this host, saw of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Arrival of the request.
    pub arrived: Moment,
    /// When the answer had left.
    pub left_ns: u64,
}

/// What a client sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The first datagram.
    pub first: Packet,
    /// The last one, which is the first if nothing was sent again.
    pub last: Packet,
    /// How many.
    pub count: u32,
}

impl Sent {
    pub fn new(packet: Packet) -> Self {
        Self { first: packet.clone(), last: packet, count: 1 }
    }

    pub fn again(&mut self, packet: Packet) {
        self.last = packet;
        self.count = self.count.saturating_add(1);
    }

    fn is_seen(&self) -> bool {
        self.first.call.enter_ns != 0
    }

    /// The waits and the writes up to the last one's return.
    fn tiles(&self, end_ns: u64) -> Tiles {
        let mut tiles = Tiles::new(self.first.begin_ns(), end_ns);
        tiles.writing(&self.first.call);
        if self.count > 1 {
            tiles.until(self.last.begin_ns(), Remote, Derived);
            tiles.writing(&self.last.call);
        }
        tiles
    }

    /// Up to the answer's return to the application.
    pub fn answered(&self, answer: &Packet, seen: Option<&Seen>) -> Timeline {
        let mut tiles = self.tiles(answer.call.return_ns);
        let mut way = (Remote, Derived);
        // What the other end did before it was asked last was for an earlier datagram.
        if let Some(seen) = seen.filter(|seen| seen.arrived.ns >= self.last.begin_ns()) {
            let evidence = if seen.arrived.exact { Measured } else { Derived };
            tiles.until(seen.arrived.ns, Network, evidence);
            tiles.until(seen.left_ns, Remote, evidence);
            way = (Network, Measured);
        }
        match answer.arrived {
            Some(arrived) => {
                let evidence = if arrived.exact { way.1 } else { Derived };
                tiles.until(arrived.ns, way.0, evidence);
                tiles.reading(&answer.call, arrived.exact);
            }
            // A sleeper was woken by it, or by something else.
            None if answer.call.sched && answer.call.woken_ns > tiles.now_ns() => {
                tiles.until(answer.call.woken_ns, way.0, Derived);
                tiles.reading(&answer.call, false);
            }
            None => tiles.until(answer.call.return_ns, way.0, Derived),
        }
        tiles.finish(if self.is_seen() { Measured } else { Derived })
    }

    /// Up to when it was given up.
    pub fn given_up(&self, end_ns: u64) -> Timeline {
        let end_ns = end_ns.max(self.last.call.return_ns);
        let mut tiles = self.tiles(end_ns);
        tiles.until(end_ns, Remote, Derived);
        tiles.finish(if self.is_seen() { Measured } else { Derived })
    }
}

/// A server's time: from the request's arrival to the return of the call that answered it, or, without an answer, that
/// read it.
pub(super) fn served(request: &Packet, answer: Option<&Packet>) -> Timeline {
    let start_ns = request.arrived.map_or(request.call.return_ns, |arrived| arrived.ns);
    let end_ns = answer.map_or(request.call.return_ns, |answer| answer.call.return_ns);
    let mut tiles = Tiles::new(start_ns, end_ns);
    if let Some(arrived) = request.arrived {
        tiles.reading(&request.call, arrived.exact);
    }
    if let Some(answer) = answer {
        if answer.call.outside {
            tiles.until(end_ns, Application, Derived);
        } else {
            tiles.application(&request.call, &answer.call, &[]);
            tiles.writing(&answer.call);
        }
    }
    let exact = request.arrived.is_some_and(|arrived| arrived.exact);
    tiles.finish(if exact { Measured } else { Derived })
}
