//! Which request an answer belongs to: the oldest of its kind on its channel.
//!
//! Requests of one kind on one channel are told apart by a number that is 0 unless they are pipelined, so that after a late
//! join, or when an answer is seen before its request, both have the same key.

use std::collections::VecDeque;

use super::method::Id;
use crate::session::Key;

/// Most kinds of requests, over all channels, that wait for answers; the oldest is forgotten.
const KINDS_MAX: usize = 256;

/// The requests that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Kind>);

/// Those of one kind on one channel.
#[derive(Clone, Copy, Debug)]
struct Kind {
    channel: u16,
    id: Id,
    /// The number of the oldest.
    first: u16,
    /// How many wait; 0: the answer to the next one came before it.
    count: u16,
}

impl Waiting {
    /// A request, and its key.
    pub(super) fn ask(&mut self, channel: u16, id: Id) -> Key {
        if let Some(at) = self.position(channel, id) {
            let kind = &mut self.0[at];
            if kind.count == 0 {
                self.0.remove(at);
                return key(channel, id, 0);
            }
            let number = kind.first.wrapping_add(kind.count);
            kind.count = kind.count.saturating_add(1);
            return key(channel, id, number);
        }
        self.push(Kind { channel, id, first: 0, count: 1 });
        key(channel, id, 0)
    }

    /// The key of the request that is answered.
    pub(super) fn answer(&mut self, channel: u16, id: Id) -> Key {
        let Some(at) = self.position(channel, id) else {
            self.push(Kind { channel, id, first: 0, count: 0 });
            return key(channel, id, 0);
        };
        let kind = &mut self.0[at];
        let number = kind.first;
        kind.first = kind.first.wrapping_add(1);
        kind.count = kind.count.saturating_sub(1);
        if kind.count == 0 {
            self.0.remove(at);
        }
        key(channel, id, number)
    }

    /// Whether a request of this kind waits on the channel.
    pub(super) fn waits(&self, channel: u16, id: Id) -> bool {
        self.position(channel, id).is_some_and(|at| self.0[at].count > 0)
    }

    /// The kind of the oldest request that waits on the channel.
    pub(super) fn oldest(&self, channel: u16) -> Option<Id> {
        self.0.iter().find(|kind| kind.channel == channel && kind.count > 0).map(|kind| kind.id)
    }

    /// The keys of what waits on a channel, or on all of them, and is not going to be answered.
    pub(super) fn drain(&mut self, channel: Option<u16>) -> Vec<Key> {
        let mut keys = Vec::new();
        self.0.retain(|kind| {
            let gone = channel.is_none_or(|channel| channel == kind.channel);
            if gone {
                let numbers = (0..kind.count).map(|number| kind.first.wrapping_add(number));
                keys.extend(numbers.map(|number| key(kind.channel, kind.id, number)));
            }
            !gone
        });
        keys
    }

    fn position(&self, channel: u16, id: Id) -> Option<usize> {
        self.0.iter().position(|kind| (kind.channel, kind.id) == (channel, id))
    }

    fn push(&mut self, kind: Kind) {
        if self.0.len() >= KINDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(kind);
    }
}

fn key(channel: u16, Id(class, method): Id, number: u16) -> Key {
    let parts = [number, channel, class, method];
    Key::Id(parts.iter().fold(0, |key, part| key << 16 | u64::from(*part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARE: Id = Id(50, 10);

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let mut waiting = Waiting::default();
        let asked: Vec<_> = (0..3).map(|_| waiting.ask(1, DECLARE)).collect();
        let other = waiting.ask(2, DECLARE);
        let answered: Vec<_> = (0..3).map(|_| waiting.answer(1, DECLARE)).collect();
        assert_eq!((&asked, waiting.answer(2, DECLARE)), (&answered, other));
        assert!(asked[0] != asked[1] && asked[0] != other && waiting.0.is_empty());
    }

    #[test]
    fn an_answer_without_its_request_shifts_nothing() {
        let mut waiting = Waiting::default();
        waiting.answer(1, DECLARE);
        for _ in 0..3 {
            assert_eq!(waiting.ask(1, DECLARE), waiting.answer(1, DECLARE));
        }
        assert_eq!(waiting.ask(1, DECLARE), waiting.ask(2, DECLARE).shifted(1));
    }

    impl Key {
        fn shifted(self, channel: u64) -> Self {
            let Self::Id(id) = self else { return self };
            Self::Id(id - (channel << 32))
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut waiting = Waiting::default();
        for channel in 0..10_000 {
            waiting.ask(channel, DECLARE);
        }
        for _ in 0..100_000 {
            waiting.ask(9_999, DECLARE);
        }
        assert_eq!((waiting.0.len(), waiting.drain(Some(9_999)).len()), (KINDS_MAX, usize::from(u16::MAX)));
    }
}
