//! The streams of a connection that are in use (RFC 9113, 5.1), as far as their messages were seen to begin.

use std::collections::VecDeque;

use super::grpc::Messages;
use crate::{
    content::{ASKED_BYTES_MAX, Asked, SCAN_BYTES_MAX, Scan},
    session::Side,
};

/// Most streams at a time; servers usually allow 100 to 250.
const STREAMS_MAX: usize = 512;

/// Most streams at a time whose bodies are looked at; those of further ones are not.
const BODIES_MAX: usize = 64;

/// Most memory of them.
pub(super) const MEMORY_BYTES_MAX: usize =
    STREAMS_MAX * size_of::<Stream>() + BODIES_MAX * (size_of::<Bodies>() + ASKED_BYTES_MAX + SCAN_BYTES_MAX);

/// How far a message has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its beginning was not seen.
    #[default]
    Unseen,
    /// It has begun.
    Open,
    /// It has ended.
    Ended,
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Half {
    pub phase: Phase,
    pub messages: Messages,
}

/// The bodies of a stream, as far as something may be found in them.
#[derive(Debug)]
pub(super) struct Bodies {
    /// The one in progress: the request's, and once something was found there the response's.
    scan: Option<(Side, Scan)>,
    /// What was found in the request's.
    pub asked: Option<Asked>,
    /// The response's status says that it failed.
    pub failed: bool,
}

/// A stream that the client opened.
#[derive(Debug)]
pub(super) struct Stream {
    id: u32,
    /// The request, or the response, says that it is a call.
    pub grpc: bool,
    /// The request is surely no call.
    pub plain: bool,
    /// The response's status is that of HTTP, and how it ends tells whether it is a call's.
    pub doubtful: bool,
    /// Interim responses.
    pub interim: u8,
    pub request: Half,
    pub response: Half,
    pub bodies: Option<Box<Bodies>>,
}

impl Stream {
    pub fn half(&mut self, from: Side) -> &mut Half {
        match from {
            Side::Client => &mut self.request,
            Side::Server => &mut self.response,
        }
    }

    /// The body of this side, if it is looked at.
    pub fn scan(&mut self, from: Side) -> Option<&mut Scan> {
        let (side, scan) = self.bodies.as_mut()?.scan.as_mut()?;
        (*side == from).then_some(scan)
    }

    /// The body of this side, which is complete, if it was looked at.
    pub fn take_scan(&mut self, from: Side) -> Option<Scan> {
        let bodies = self.bodies.as_mut()?;
        bodies.scan.take_if(|(side, _)| *side == from).map(|(_, scan)| scan)
    }

    /// Something was found in the request's body; the response's is looked at, too.
    pub fn look_at_response(&mut self, scan: Option<Scan>, failed: bool) {
        if let Some(bodies) = self.bodies.as_mut().filter(|bodies| bodies.asked.is_some()) {
            (bodies.scan, bodies.failed) = (scan.map(|scan| (Side::Server, scan)), failed);
        }
    }

    const fn is_over(&self) -> bool {
        matches!((self.request.phase, self.response.phase), (Phase::Ended, Phase::Ended))
    }
}

/// Streams in the order of their ids, which is that of their beginning.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: VecDeque<Stream>,
}

impl Streams {
    /// A stream in use.
    pub fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        self.streams.get_mut(place)
    }

    /// The stream, which is added if it is not there. If there are too many, one is forgotten: the oldest that was
    /// answered, else the oldest. Nothing is wrong for that, but what its later frames say is not known to be of a call.
    pub fn entry(&mut self, id: u32) -> &mut Stream {
        let place = match self.place(id) {
            Ok(place) => place,
            Err(_) => {
                if self.streams.len() >= STREAMS_MAX {
                    let answered = self.streams.iter().position(|stream| stream.response.phase == Phase::Ended);
                    self.streams.remove(answered.unwrap_or(0));
                }
                let place = self.place(id).unwrap_or_else(|place| place);
                let half = Half::default();
                self.streams.insert(
                    place,
                    Stream {
                        id,
                        grpc: false,
                        plain: false,
                        doubtful: false,
                        interim: 0,
                        request: half,
                        response: half,
                        bodies: None,
                    },
                );
                place
            }
        };
        &mut self.streams[place]
    }

    /// The stream's request has a body to be looked at, unless there are too many of them.
    pub fn look_at_request(&mut self, id: u32, scan: Option<Scan>) {
        let (Some(scan), Ok(place)) = (scan, self.place(id)) else { return };
        if self.streams.iter().filter(|stream| stream.bodies.is_some()).count() < BODIES_MAX {
            let scan = Some((Side::Client, scan));
            self.streams[place].bodies = Some(Box::new(Bodies { scan, asked: None, failed: false }));
        }
    }

    /// Forgets a stream of which everything was told.
    pub fn drop_if_over(&mut self, id: u32) {
        if let Ok(place) = self.place(id)
            && self.streams[place].is_over()
        {
            self.streams.remove(place);
        }
    }

    /// Forgets those above an id whose response has not begun, and answers one of them at a time.
    pub fn take_above(&mut self, id: u32) -> Option<u32> {
        let from = self.streams.partition_point(|stream| stream.id <= id);
        let open = |stream: &Stream| stream.request.phase != Phase::Unseen && stream.response.phase == Phase::Unseen;
        let place = from + self.streams.iter().skip(from).position(open)?;
        self.streams.remove(place).map(|stream| stream.id)
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        match self.streams.back() {
            None => Err(0),
            Some(last) if last.id < id => Err(self.streams.len()),
            Some(last) if last.id == id => Ok(self.streams.len() - 1),
            Some(_) => self.streams.binary_search_by_key(&id, |stream| stream.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(streams: &Streams) -> Vec<u32> {
        streams.streams.iter().map(|stream| stream.id).collect()
    }

    #[test]
    fn streams_are_kept_in_order_and_go_when_both_ends_are_done() {
        let mut streams = Streams::default();
        for id in [1, 5, 3] {
            streams.entry(id).request.phase = Phase::Ended;
        }
        assert_eq!(ids(&streams), [1, 3, 5]);
        streams.drop_if_over(3);
        assert_eq!(ids(&streams), [1, 3, 5]);
        streams.entry(3).response.phase = Phase::Ended;
        streams.drop_if_over(3);
        assert_eq!(ids(&streams), [1, 5]);
        assert!(streams.get(3).is_none() && streams.get(5).is_some());
    }

    #[test]
    fn of_too_many_the_oldest_answered_one_goes() {
        let mut streams = Streams::default();
        for index in 0..STREAMS_MAX as u32 {
            streams.entry(1 + 2 * index);
        }
        streams.entry(7).response.phase = Phase::Ended;
        streams.entry(100_001);
        assert!(streams.get(7).is_none() && streams.get(1).is_some());
        streams.entry(100_003);
        assert!(streams.get(1).is_none());
        assert_eq!(streams.streams.len(), STREAMS_MAX);
    }

    #[test]
    fn unanswered_streams_above_an_id_are_taken() {
        let mut streams = Streams::default();
        for id in [1, 3, 5, 7] {
            streams.entry(id).request.phase = Phase::Ended;
        }
        streams.entry(5).response.phase = Phase::Open;
        let taken: Vec<u32> = std::iter::from_fn(|| streams.take_above(1)).collect();
        assert_eq!((taken, ids(&streams)), (vec![3, 7], vec![1, 5]));
    }
}
