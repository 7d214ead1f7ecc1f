//! Commands that wait for their answers, in order: as much of them as is needed to read the answers.
//!
//! It helps, but is not relied on: an answer to what was not seen is read as that to a query. Limits: [`PENDING_MAX`]; what is beyond
//! is only counted.

use std::{collections::VecDeque, sync::Arc};

use crate::{sql::Statement, text::Text};

/// Most commands that are known in detail.
const PENDING_MAX: usize = 256;

/// How a command is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// OK, an error, or rows after their columns; several of them.
    #[default]
    Results,
    /// OK with the numbers of parameters and columns, which follow.
    Prepared,
    /// Rows up to their end.
    Rows,
    /// Descriptions of columns up to their end.
    Columns,
    /// OK or an error; more is asked before (`COM_CHANGE_USER`).
    Login,
    /// One packet of text.
    Text,
}

/// A command that was told.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub answer: Answer,
    /// What is prepared.
    pub statement: Option<Arc<Statement>>,
    pub database: Database,
}

/// What a command does to the connection's database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Database {
    #[default]
    Stays,
    /// It is this one if the command works.
    Becomes(Text),
    /// It may be another one, whether or not the command works.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    known: VecDeque<Pending>,
    /// Commands behind those.
    beyond: u32,
    /// Answers that came before their command.
    ahead: u32,
    /// Whether anything of the client was seen.
    pub client_seen: bool,
}

impl Queue {
    /// Adds a command; gives back one whose answer came before, or that is beyond what is kept.
    pub fn push(&mut self, pending: Pending) -> Option<Pending> {
        if self.ahead > 0 {
            self.ahead -= 1;
        } else if self.beyond > 0 || self.known.len() >= PENDING_MAX {
            self.beyond = self.beyond.saturating_add(1);
        } else {
            self.known.push_back(pending);
            return None;
        }
        Some(pending)
    }

    /// The command that is being answered.
    pub fn current(&self) -> Option<&Pending> {
        self.known.front()
    }

    /// Whether exactly one waits.
    pub fn is_alone(&self) -> bool {
        self.known.len() == 1 && self.beyond == 0
    }

    /// The command that was being answered.
    pub fn pop(&mut self) -> Option<Pending> {
        let pending = self.known.pop_front();
        if pending.is_none() && self.beyond > 0 {
            self.beyond -= 1;
        } else if pending.is_none() && self.client_seen {
            self.ahead = self.ahead.saturating_add(1);
        }
        pending
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self { client_seen: self.client_seen, ..Self::default() };
    }
}
