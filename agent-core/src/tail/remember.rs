//! Decisions about traces, the last ones that were of use.

use std::collections::VecDeque;

use super::{Map, TraceId};
use crate::relay::Choice;

/// A bounded table: what was put or found longest ago goes.
#[derive(Debug)]
pub(super) struct Decisions {
    max: usize,
    /// What was decided, and when it was of use.
    known: Map<TraceId, (Choice, u64)>,
    /// In the order of use; an entry counts if nothing was newer.
    order: VecDeque<(u64, TraceId)>,
    uses: u64,
}

impl Decisions {
    pub fn new(max: usize) -> Self {
        Self { max, known: Map::default(), order: VecDeque::new(), uses: 0 }
    }

    pub fn put(&mut self, id: TraceId, choice: Choice) {
        self.uses += 1;
        self.known.insert(id, (choice, self.uses));
        self.order.push_back((self.uses, id));
        self.shrink();
    }

    pub fn find(&mut self, id: &TraceId) -> Option<Choice> {
        self.uses += 1;
        let (choice, used) = self.known.get_mut(id)?;
        *used = self.uses;
        let choice = *choice;
        self.order.push_back((self.uses, *id));
        self.shrink();
        Some(choice)
    }

    fn shrink(&mut self) {
        // Old entries of what was used again are taken out as they come up; there are at most as many as there is room for.
        while self.known.len() > self.max || self.order.len() > self.max.saturating_mul(2) {
            let Some((use_, id)) = self.order.pop_front() else { return };
            if self.known.get(&id).is_some_and(|(_, last)| *last == use_) {
                self.known.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_of_use_longest_ago_goes() {
        let id = |number: u8| [number; 16];
        let mut decisions = Decisions::new(2);
        decisions.put(id(1), Choice::LeftOut);
        decisions.put(id(2), Choice::Kept);
        assert_eq!(decisions.find(&id(1)), Some(Choice::LeftOut));
        decisions.put(id(3), Choice::Kept);
        assert_eq!((decisions.find(&id(2)), decisions.find(&id(1))), (None, Some(Choice::LeftOut)));
        for _ in 0..1_000 {
            decisions.find(&id(1));
        }
        assert!(decisions.order.len() <= 4, "{}", decisions.order.len());
        assert_eq!(decisions.find(&id(1)), Some(Choice::LeftOut));
    }
}
