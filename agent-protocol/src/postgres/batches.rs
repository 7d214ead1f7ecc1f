//! What the client sent up to each `Sync`, or as a simple query: as much as is needed to read the answers, each of which
//! ends with `ReadyForQuery`.
//!
//! It helps, but is not relied on: answers of requests that were not seen are told by what they hold. Limits: [`BATCHES_MAX`];
//! what is beyond is only counted.

use std::collections::VecDeque;

/// Most batches that are known in detail.
const BATCHES_MAX: usize = 1024;

/// What is answered with one `ReadyForQuery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// A simple query, or a function call: everything up to `ReadyForQuery` is one response.
    pub simple: bool,
    /// Exchanges in it that were told.
    pub exchanges: u32,
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    known: VecDeque<Batch>,
    /// Batches behind those.
    beyond: u32,
    /// Answers that came before their batch.
    ahead: u32,
    /// Exchanges told since the last `Sync`.
    pub unsynced: u32,
    /// Those of them that only prepare, and are answered without a `Sync`.
    pub prepared: u32,
    /// An `Execute` came by itself: what was answered to `Bind` is not its answer.
    pub alone: bool,
    /// Whether anything of the client was seen.
    pub client_seen: bool,
}

impl Batches {
    pub fn push(&mut self, batch: Batch) {
        if self.ahead > 0 {
            self.ahead -= 1;
        } else if self.beyond > 0 || self.known.len() >= BATCHES_MAX {
            self.beyond = self.beyond.saturating_add(1);
        } else {
            self.known.push_back(batch);
        }
    }

    /// The client sent `Sync`; `prepared`: what it prepared is told as an exchange of its own.
    pub fn sync(&mut self, prepared: bool) {
        let exchanges = std::mem::take(&mut self.unsynced).saturating_add(prepared.into());
        self.push(Batch { simple: false, exchanges });
    }

    /// The batch that is being answered.
    pub fn current(&self) -> Option<Batch> {
        self.known.front().copied()
    }

    /// How many exchanges of the batch that is being answered wait, if that is the only one.
    pub fn waiting_alone(&self) -> Option<u32> {
        match (self.known.len(), self.beyond, self.unsynced) {
            (1, 0, 0) => Some(self.known[0].exchanges),
            (0, 0, unsynced) => Some(unsynced),
            _ => None,
        }
    }

    /// The server is ready: the batch was answered.
    pub fn pop(&mut self) -> Option<Batch> {
        match self.known.pop_front() {
            Some(batch) => Some(batch),
            None => {
                if self.beyond > 0 {
                    self.beyond -= 1;
                } else if self.unsynced > 0 {
                    self.unsynced = 0;
                } else if self.client_seen {
                    self.ahead = self.ahead.saturating_add(1);
                }
                None
            }
        }
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self { client_seen: self.client_seen, ..Self::default() };
    }
}
