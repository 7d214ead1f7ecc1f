//! The streams of a connection that are in use (RFC 9113, 5.1), as far as their messages were seen to begin.

use std::collections::VecDeque;

use super::grpc::Messages;
use crate::{
    content::{ASKED_BYTES_MAX, Asked, Scan},
    session::{Event, Forgotten, Side},
};

/// Most streams at a time; servers usually allow 100 to 250.
const STREAMS_MAX: usize = 512;
/// So many are made room for at a time.
const STREAMS_STEP: usize = 32;
const _: () = assert!(STREAMS_MAX.is_multiple_of(STREAMS_STEP));

/// Most memory of them and of what is looked for in their bodies.
pub(super) const MEMORY_BYTES_MAX: usize = 24 * 1024;
const _: () = assert!(STREAMS_MAX * size_of::<Stream>() <= MEMORY_BYTES_MAX);

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

impl Bodies {
    /// Memory of them, with that of a further scan; whatever is found in the request's, it has room.
    fn bytes(&self) -> usize {
        let scan = self.scan.as_ref().map_or(0, |(_, scan)| scan.bytes());
        size_of::<Self>() + ASKED_BYTES_MAX + scan
    }
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

    const fn is_over(&self) -> bool {
        matches!((self.request.phase, self.response.phase), (Phase::Ended, Phase::Ended))
    }
}

/// Streams in the order of their ids, which is that of their beginning.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: VecDeque<Stream>,
    /// What there was no room for, until that is told: streams, and bodies.
    forgotten: [u32; 2],
}

impl Streams {
    /// A stream in use.
    pub fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        self.streams.get_mut(place)
    }

    /// The stream, which is added if it is not there. If there are too many, one is forgotten: one that is over, else the oldest that
    /// was answered, else the oldest. Nothing is wrong for that, but what its later frames say is not known to be of a call.
    pub fn entry(&mut self, id: u32) -> &mut Stream {
        let place = match self.place(id) {
            Ok(place) => place,
            Err(_) => {
                self.make_room();
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

    /// Room for one more stream. Streams come before bodies: without them nothing is known of a call.
    fn make_room(&mut self) {
        if self.streams.len() >= STREAMS_MAX {
            let over = self.streams.iter().position(Stream::is_over);
            let answered = || self.streams.iter().position(|stream| stream.response.phase == Phase::Ended);
            let gone = self.streams.remove(over.or_else(answered).unwrap_or(0));
            self.forgotten[0] += u32::from(over.is_none());
            self.forgotten[1] += u32::from(gone.is_some_and(|stream| stream.bodies.is_some()));
        }
        if self.streams.len() < self.streams.capacity() {
            return;
        }
        while self.bytes() + STREAMS_STEP * size_of::<Stream>() > MEMORY_BYTES_MAX {
            let Some(stream) = self.streams.iter_mut().find(|stream| stream.bodies.is_some()) else { break };
            stream.bodies = None;
            self.forgotten[1] += 1;
        }
        self.streams.reserve_exact(STREAMS_STEP);
    }

    /// Memory that is in use.
    fn bytes(&self) -> usize {
        let bodies = self.streams.iter().filter_map(|stream| stream.bodies.as_ref());
        self.streams.capacity() * size_of::<Stream>() + bodies.map(|bodies| bodies.bytes()).sum::<usize>()
    }

    /// The stream's request has a body to be looked at, if there is room.
    pub fn look_at_request(&mut self, id: u32, scan: Option<Scan>) {
        let (Some(scan), Ok(place)) = (scan, self.place(id)) else { return };
        let bodies = Bodies { scan: Some((Side::Client, scan)), asked: None, failed: false };
        if self.bytes() + bodies.bytes() > MEMORY_BYTES_MAX {
            self.forgotten[1] += 1;
        } else {
            self.streams[place].bodies = Some(Box::new(bodies));
        }
    }

    /// If something was found in the request's body, the response's is looked at, too, if there is room.
    pub fn look_at_response(&mut self, id: u32, scan: Option<Scan>, failed: bool) {
        let used = self.bytes();
        let Some(bodies) = self.get(id).and_then(|stream| stream.bodies.as_mut()) else { return };
        if bodies.asked.is_none() {
            return;
        }
        bodies.failed = failed;
        let Some(scan) = scan else { return };
        if used + scan.bytes() > MEMORY_BYTES_MAX {
            self.forgotten[1] += 1;
        } else {
            bodies.scan = Some((Side::Server, scan));
        }
    }

    /// Tells what there was no room for.
    pub fn tell_forgotten(&mut self, out: &mut Vec<Event>) {
        let [streams, bodies] = std::mem::take(&mut self.forgotten);
        out.extend((0..streams).map(|_| Event::Forgotten(Forgotten::Stream)));
        out.extend((0..bodies).map(|_| Event::Forgotten(Forgotten::Body)));
    }

    /// Forgets a stream of which everything was told.
    pub fn drop_if_over(&mut self, id: u32) {
        if let Ok(place) = self.place(id)
            && self.streams[place].is_over()
        {
            self.streams.remove(place);
            self.give_back();
        }
    }

    /// After a time with many streams, their room is for bodies again.
    fn give_back(&mut self) {
        if self.streams.capacity() > STREAMS_STEP && self.streams.len() < self.streams.capacity() / 4 {
            self.streams.shrink_to(self.streams.capacity() / 2);
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
    use crate::content::{Media, Target};

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
        assert_eq!(streams.forgotten, [2, 0]);
        streams.entry(9).response.phase = Phase::Ended;
        streams.entry(9).request.phase = Phase::Ended;
        streams.entry(100_005);
        assert!(streams.get(9).is_none());
        assert_eq!(streams.forgotten, [2, 0], "of that one everything was told");
    }

    fn scan() -> Option<Scan> {
        Scan::request("POST", Media::Json, Target::default())
    }

    #[test]
    fn bodies_share_what_streams_leave_them() {
        let mut streams = Streams::default();
        for id in 0..100 {
            streams.entry(id).request.phase = Phase::Open;
            streams.look_at_request(id, scan());
            assert!(streams.bytes() <= MEMORY_BYTES_MAX);
        }
        let looked_at = streams.streams.iter().filter(|stream| stream.bodies.is_some()).count();
        assert!((10..90).contains(&looked_at), "{looked_at}");
        assert_eq!(streams.forgotten, [0, 100 - looked_at as u32]);
        // Streams take their room from bodies.
        for id in 100..STREAMS_MAX as u32 {
            streams.entry(id);
            assert!(streams.bytes() <= MEMORY_BYTES_MAX);
        }
        let left = streams.streams.iter().filter(|stream| stream.bodies.is_some()).count();
        assert_eq!(streams.forgotten, [0, 100 - left as u32]);
        // And give it back.
        for id in 0..STREAMS_MAX as u32 - 1 {
            let stream = streams.entry(id);
            (stream.request.phase, stream.response.phase) = (Phase::Ended, Phase::Ended);
            streams.drop_if_over(id);
        }
        streams.look_at_request(STREAMS_MAX as u32 - 1, scan());
        assert_eq!(streams.forgotten, [0, 100 - left as u32]);
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
