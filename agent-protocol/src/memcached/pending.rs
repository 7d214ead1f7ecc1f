//! Requests that wait for their answers, where some may never come: quiet ones are answered only with news, so the answer to
//! a later request says that there was none.

use std::collections::VecDeque;

/// Most entries.
const ENTRIES_MAX: usize = 1024;

/// Requests in their order.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    count: u64,
    next_id: u64,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    /// This many that are always answered.
    Plain(u64),
    /// `mn`.
    Noop,
    /// One that is answered only with news.
    Quiet { id: u64, tag: Option<u64> },
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The oldest of those that are always answered.
    Plain,
    /// The quiet one with this number.
    Quiet(u64),
}

impl Pending {
    /// How many wait.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// One more that is always answered. Answers, as the others do, the number of a quiet one that is given up for it.
    pub(super) fn push_plain(&mut self) -> Option<u64> {
        if let Some(Entry::Plain(count)) = self.entries.back_mut() {
            (*count, self.count) = (*count + 1, self.count + 1);
            return None;
        }
        self.push(Entry::Plain(1))
    }

    /// One more that is quiet, and its number.
    pub(super) fn push_quiet(&mut self, tag: Option<u64>) -> (u64, Option<u64>) {
        let id = self.next_id;
        self.next_id += 1;
        (id, self.push(Entry::Quiet { id, tag }))
    }

    /// `mn`: only its own answer answers it.
    pub(super) fn push_noop(&mut self) -> Option<u64> {
        self.push(Entry::Noop)
    }

    fn push(&mut self, entry: Entry) -> Option<u64> {
        self.count += 1;
        self.entries.push_back(entry);
        self.give_up()
    }

    /// Makes room; answers the number of a quiet one that went.
    fn give_up(&mut self) -> Option<u64> {
        if self.entries.len() <= ENTRIES_MAX {
            return None;
        }
        let (count, id) = match self.entries.pop_front()? {
            Entry::Quiet { id, .. } => (1, Some(id)),
            Entry::Plain(count) => (count, None),
            Entry::Noop => (1, None),
        };
        self.count -= count;
        id
    }

    /// Finds who an answer with these tags is for; tells of the quiet ones that it shows to have no answer.
    ///
    /// A quiet one without a tag has it only if nobody else can be meant: the server keeps their order, but does not say
    /// which of them it leaves out.
    pub(super) fn answer(&mut self, is_noop: bool, tags: [Option<u64>; 2], without: impl FnMut(u64)) -> Owner {
        let is_tagged =
            |entry: &Entry| matches!(entry, Entry::Quiet { tag, .. } if tag.is_some() && tags.contains(tag));
        let is_untagged = |entry: &Entry| matches!(entry, Entry::Quiet { tag: None, .. });
        let quiet = self.entries.iter().take_while(|entry| matches!(entry, Entry::Quiet { .. })).count();
        let others_turn = is_noop || matches!(self.entries.get(quiet), Some(Entry::Plain(_)));
        let mut first = self.entries.iter().take(quiet);
        let own = match first.clone().position(is_tagged) {
            None if !others_turn => first.position(is_untagged),
            own => own,
        };
        self.skip(own.unwrap_or(quiet), without);
        self.pop()
    }

    /// The first `count`, which are quiet, have no answer.
    fn skip(&mut self, count: usize, mut without: impl FnMut(u64)) {
        for _ in 0..count {
            if let Owner::Quiet(id) = self.pop() {
                without(id);
            }
        }
    }

    fn pop(&mut self) -> Owner {
        self.count = self.count.saturating_sub(1);
        match self.entries.front_mut() {
            Some(Entry::Plain(count)) if *count > 1 => {
                *count -= 1;
                Owner::Plain
            }
            Some(Entry::Quiet { id, .. }) => {
                let owner = Owner::Quiet(*id);
                self.entries.pop_front();
                owner
            }
            _ => {
                self.entries.pop_front();
                Owner::Plain
            }
        }
    }

    /// Nothing waits any more; tells of the quiet ones.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = u64> {
        self.count = 0;
        std::mem::take(&mut self.entries).into_iter().filter_map(|entry| match entry {
            Entry::Quiet { id, .. } => Some(id),
            Entry::Plain(_) | Entry::Noop => None,
        })
    }
}
