//! Which request an answer belongs to: the oldest of its kind on its channel.
//!
//! Requests of one kind on one channel are told apart by a number that is 0 unless they are pipelined, so that after a late
//! join, or when an answer is seen before its request, both have the same key.

use std::collections::VecDeque;

use super::method::Id;
use crate::session::Key;

/// Most kinds of requests, over all channels, that wait for answers; the oldest is given up.
const KINDS_MAX: usize = 256;
/// Most requests of all kinds that are told as waiting; the oldest of more is given up, and its answer is still counted off.
const TOLD_MAX: usize = 1024;

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
    /// How many of those, the oldest, were given up.
    gone: u16,
}

impl Kind {
    /// The keys of those that were not given up.
    fn keys(self) -> impl Iterator<Item = Key> {
        (self.gone..self.count).map(move |number| key(self.channel, self.id, self.first.wrapping_add(number)))
    }
}

impl Waiting {
    /// A request, and its key; adds the keys of those that are given up for it.
    pub(super) fn ask(&mut self, channel: u16, id: Id, given_up: &mut Vec<Key>) -> Key {
        let key = self.add(channel, id, given_up);
        let told: usize = self.0.iter().map(|kind| usize::from(kind.count - kind.gone)).sum();
        if told > TOLD_MAX
            && let Some(oldest) = self.0.iter_mut().find(|kind| kind.count > kind.gone)
        {
            given_up.extend(oldest.keys().next());
            oldest.gone += 1;
        }
        key
    }

    fn add(&mut self, channel: u16, id: Id, given_up: &mut Vec<Key>) -> Key {
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
        given_up.extend(self.push(Kind { channel, id, first: 0, count: 1, gone: 0 }).into_iter().flat_map(Kind::keys));
        key(channel, id, 0)
    }

    /// The key of the request that is answered.
    pub(super) fn answer(&mut self, channel: u16, id: Id) -> Key {
        let Some(at) = self.position(channel, id) else {
            self.push(Kind { channel, id, first: 0, count: 0, gone: 0 });
            return key(channel, id, 0);
        };
        let kind = &mut self.0[at];
        let number = kind.first;
        kind.first = kind.first.wrapping_add(1);
        kind.count = kind.count.saturating_sub(1);
        kind.gone = kind.gone.saturating_sub(1);
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
                keys.extend(kind.keys());
            }
            !gone
        });
        keys
    }

    fn position(&self, channel: u16, id: Id) -> Option<usize> {
        self.0.iter().position(|kind| (kind.channel, kind.id) == (channel, id))
    }

    /// Answers the kind that is given up for it.
    fn push(&mut self, kind: Kind) -> Option<Kind> {
        let given_up = if self.0.len() >= KINDS_MAX { self.0.pop_front() } else { None };
        self.0.push_back(kind);
        given_up
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

    fn ask(waiting: &mut Waiting, channel: u16) -> Key {
        waiting.ask(channel, DECLARE, &mut Vec::new())
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let mut waiting = Waiting::default();
        let asked: Vec<_> = (0..3).map(|_| ask(&mut waiting, 1)).collect();
        let other = ask(&mut waiting, 2);
        let answered: Vec<_> = (0..3).map(|_| waiting.answer(1, DECLARE)).collect();
        assert_eq!((&asked, waiting.answer(2, DECLARE)), (&answered, other));
        assert!(asked[0] != asked[1] && asked[0] != other && waiting.0.is_empty());
    }

    #[test]
    fn an_answer_without_its_request_shifts_nothing() {
        let mut waiting = Waiting::default();
        waiting.answer(1, DECLARE);
        for _ in 0..3 {
            assert_eq!(ask(&mut waiting, 1), waiting.answer(1, DECLARE));
        }
        assert_eq!(ask(&mut waiting, 1), ask(&mut waiting, 2).shifted(1));
    }

    impl Key {
        fn shifted(self, channel: u64) -> Self {
            let Self::Id(id) = self else { return self };
            Self::Id(id - (channel << 32))
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut waiting, mut given_up) = (Waiting::default(), Vec::new());
        for channel in 0..10_000 {
            waiting.ask(channel, DECLARE, &mut given_up);
        }
        assert_eq!((waiting.0.len(), given_up.len()), (KINDS_MAX, 10_000 - KINDS_MAX));
        for _ in 0..u16::MAX {
            waiting.ask(9_999, DECLARE, &mut given_up);
        }
        assert_eq!(waiting.drain(None).len(), TOLD_MAX);
    }

    #[test]
    fn what_was_given_up_is_still_answered_in_its_turn() {
        let (mut waiting, mut given_up) = (Waiting::default(), Vec::new());
        let asked: Vec<_> = (0..=TOLD_MAX).map(|_| waiting.ask(1, DECLARE, &mut given_up)).collect();
        assert_eq!(given_up, [asked[0]]);
        let answered: Vec<_> = (0..=TOLD_MAX).map(|_| waiting.answer(1, DECLARE)).collect();
        assert!(answered == asked && waiting.0.is_empty());
    }
}
