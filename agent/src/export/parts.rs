//! A request that is sent in several bodies: which were taken, so that none is sent twice when another has to be.

use std::{collections::VecDeque, sync::Mutex};

use agent_core::cause::words::{counted, verb};

use super::{
    format::{Post, Posts},
    retry::Outcome,
};
use crate::capture::lock;

/// Most requests that are remembered: more than are on their way at once.
const UNFINISHED_MAX: usize = 64;

/// A request, and what is left of it.
#[derive(Clone)]
pub(super) struct Parts {
    left: VecDeque<Post>,
    several: bool,
    any_taken: bool,
    /// Of the bodies that were answered.
    rejected: u64,
    messages: Vec<String>,
    left_out: u64,
}

impl Parts {
    pub(super) fn new(posts: Posts) -> Self {
        let several = posts.posts.len() > 1;
        let (left, left_out) = (posts.posts.into(), posts.left_out);
        Self { left, several, any_taken: false, rejected: 0, messages: Vec::new(), left_out }
    }

    /// Whether a part of it can be taken without the rest.
    pub(super) fn are_several(&self) -> bool {
        self.several
    }

    /// What to send next.
    pub(super) fn next(&self) -> Option<&Post> {
        self.left.front()
    }

    /// What became of it. Some outcomes are those of the whole request.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Option<Outcome> {
        match outcome {
            Outcome::Delivered { rejected, message } => {
                self.any_taken = true;
                self.rejected += rejected;
                self.messages.extend(Some(message).filter(|message| !message.is_empty()));
            }
            // What was taken already must not be sent again with the rest, halved.
            Outcome::TooLarge { cause } if self.several && self.any_taken => self.refuse(cause),
            Outcome::Never { cause } if self.several => self.refuse(cause),
            other => return Some(other),
        }
        self.left.pop_front();
        None
    }

    /// The spans of what was sent last are refused for good.
    fn refuse(&mut self, cause: String) {
        self.rejected += self.left.front().map_or(0, |post| post.spans);
        self.messages.push(cause);
    }

    /// The outcome once nothing is left.
    pub(super) fn outcome(self) -> Outcome {
        if self.several && !self.any_taken {
            return Outcome::Never { cause: self.messages.join("; ") };
        }
        let mut messages = self.messages;
        if self.left_out > 0 {
            messages.push(format!(
                "{} {} no valid ids",
                counted(self.left_out, "span"),
                verb(self.left_out, "has", "have")
            ));
        }
        Outcome::Delivered { rejected: self.rejected + self.left_out, message: messages.join("; ") }
    }
}

/// Requests of which a part was taken, until the rest is: what is left of them, by their key.
pub(super) struct Unfinished<T>(Mutex<VecDeque<(String, T)>>);

impl<T> Default for Unfinished<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Unfinished<T> {
    /// What is left of the request of this key.
    pub(super) fn take(&self, key: &str) -> Option<T> {
        let mut all = lock(&self.0);
        let place = all.iter().position(|(other, _)| other == key)?;
        all.remove(place).map(|(_, left)| left)
    }

    /// Remembers what is left now.
    pub(super) fn keep(&self, key: &str, left: T) {
        self.take(key);
        let mut all = lock(&self.0);
        if all.len() == UNFINISHED_MAX {
            all.pop_front();
        }
        all.push_back((key.to_owned(), left));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::retry::AgainKind, *};

    fn parts(bodies: u64) -> Parts {
        let post = |n: u64| Post { body: vec![n as u8].into(), spans: n, traces: 0 };
        Parts::new(Posts { posts: (1..=bodies).map(post).collect(), left_out: 0 })
    }

    fn taken() -> Outcome {
        Outcome::Delivered { rejected: 0, message: String::new() }
    }

    fn never() -> Outcome {
        Outcome::Never { cause: "no".into() }
    }

    #[test]
    fn only_what_is_left_is_sent_again() {
        let unfinished = Unfinished::default();
        let mut first = parts(3);
        assert_eq!(first.settle(taken()), None);
        unfinished.keep("a", first.clone());
        let again = Outcome::again(AgainKind::Unavailable, "busy".into());
        assert_eq!(first.settle(again.clone()), Some(again));
        assert!(unfinished.take("b").is_none());
        let mut second = unfinished.take("a").unwrap();
        assert_eq!(second.next().unwrap().spans, 2);
        assert_eq!((second.settle(taken()), second.settle(taken())), (None, None));
        assert_eq!(second.outcome(), taken());
        assert!(unfinished.take("a").is_none());
    }

    #[test]
    fn bodies_that_are_refused_for_good_count_as_rejected_unless_all_are() {
        let mut some = parts(2);
        assert_eq!((some.settle(taken()), some.settle(never())), (None, None));
        assert_eq!(some.outcome(), Outcome::Delivered { rejected: 2, message: "no".into() });
        let mut all = parts(2);
        assert_eq!((all.settle(never()), all.settle(never())), (None, None));
        assert_eq!(all.outcome(), Outcome::Never { cause: "no; no".into() });
        assert_eq!(parts(1).settle(never()), Some(never()));
    }

    #[test]
    fn a_body_that_is_too_large_does_not_send_those_again_that_were_taken() {
        let too_large = || Outcome::TooLarge { cause: "413".into() };
        let mut parts_taken = parts(2);
        assert_eq!((parts_taken.settle(taken()), parts_taken.settle(too_large())), (None, None));
        assert_eq!(parts_taken.outcome(), Outcome::Delivered { rejected: 2, message: "413".into() });
        assert_eq!(parts(2).settle(too_large()), Some(too_large()), "of which none was taken is halved");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let unfinished = Unfinished::default();
        (0..=UNFINISHED_MAX).for_each(|number| unfinished.keep(&number.to_string(), parts(2)));
        assert!(unfinished.take("0").is_none());
        assert!(unfinished.take("1").is_some());
    }
}
