//! Spans that destinations did not get, and the requests to send them after all.
//!
//! In: a destination's place and what was noted of its sampling. Out: for each block, what it got of it ([`Sent`]). Keeps requests
//! ([`LateExport`]) in the cursor database, so that they go on after a restart; a lost database loses them. Called by the exporters
//! and the query server. Spans that are to be sent late pin nothing: they were never promised to the destination, and what the log
//! deletes meanwhile is counted as gone.

use std::sync::Arc;

use agent_core::relay::Choice;
use tokio::sync::watch;

use super::{
    BlockChoices, Inner, LogError, Reader, SpanLog, Wanted, block::BlockHeader, reader::Position, store::ChoicesRow,
};

/// Requests that ended and are still listed.
pub(super) const ENDED_MAX: u64 = 50;

/// A request to send spans late, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateExport {
    /// Number; given by [`SpanLog::ask_late`].
    pub id: u64,
    /// To whom.
    pub destination: String,
    /// When it was made.
    pub created_unix_ns: u64,
    /// Who or what asked, in words.
    pub reason: String,
    /// Which spans, in the exporter's words.
    pub wanted: String,
    /// Spans that ended at or after.
    pub since_unix_ns: u64,
    /// Spans that ended before; may be ahead.
    pub until_unix_ns: u64,
    /// Also those that the destination has.
    pub all: bool,
    /// The next block and span to look at; given by [`SpanLog::ask_late`].
    pub(crate) next: Position,
    /// The block where it ends, once that is known.
    pub end_block: Option<u64>,
    /// The block up to which spans are on their way.
    pub given_block: Option<u64>,
    /// Spans found.
    pub matched: u64,
    /// Of these, those that the destination has.
    pub sent: u64,
    /// Of these, those that it took now.
    pub delivered: u64,
    /// Of these, those that it refused for good.
    pub dead: u64,
    /// Spans that were deleted or damaged before they could be looked at, found or not.
    pub gone: u64,
    /// Bytes that were sent, before compression.
    pub bytes: u64,
    /// Whether it is over.
    pub is_done: bool,
}

/// A block's number, and which of its spans are meant.
pub type BlockSpans = (u64, Vec<bool>);

/// What a destination got of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// Nothing: the block is not for destinations, or older than this one.
    Nothing,
    /// Nothing yet.
    NotYet,
    /// What these choices say; of spans beyond them, all.
    Some(Vec<Choice>),
}

/// What a destination got. For one that is open; else nothing.
#[derive(Debug)]
pub struct Sent {
    inner: Arc<Inner>,
    destination: String,
    wanted: Wanted,
    row: ChoicesRow,
}

impl Sent {
    /// Of a block.
    ///
    /// # Errors
    /// The database fails.
    pub fn of(&mut self, header: &BlockHeader) -> Result<Got, LogError> {
        let got = self.ordinarily(header)?;
        if got == Got::NotYet {
            return Ok(got);
        }
        let late = self.inner.store.late_sent(&self.destination, header.block)?;
        let mut choices = match got {
            Got::Some(choices) => choices,
            _ if late.is_empty() => return Ok(got),
            _ => vec![Choice::LeftOut; header.span_count as usize],
        };
        for (choice, _) in choices.iter_mut().zip(&late).filter(|(choice, late)| !choice.is_kept() && **late != 0) {
            *choice = Choice::Kept;
        }
        Ok(Got::Some(choices))
    }

    /// Of a block, without what it got on request.
    ///
    /// # Errors
    /// The database fails.
    pub fn ordinarily(&mut self, header: &BlockHeader) -> Result<Got, LogError> {
        let counts = self.inner.state().cursors.get(&self.destination).copied();
        let Some(counts) = counts.filter(|counts| header.first_span >= counts.start_span) else {
            return Ok(Got::Nothing);
        };
        if !self.wanted.wants(header.flags) {
            return Ok(Got::Nothing);
        }
        if header.block >= counts.next.block {
            return Ok(Got::NotYet);
        }
        if !self.row.covers(header.block) {
            self.row = self.inner.store.choices(&self.destination, header.block)?;
        }
        Ok(Got::Some(self.row.of(header.block)))
    }

    /// Whether it may get anything of the block's tenant.
    pub fn is_for(&self, header: &BlockHeader) -> bool {
        Wanted { not_local: false, ..self.wanted.clone() }.wants(header.flags)
    }

    /// The first block of which it is not known what it gets.
    pub fn place(&self) -> u64 {
        self.inner.state().cursors.get(&self.destination).map_or(u64::MAX, |counts| counts.next.block)
    }
}

impl SpanLog {
    /// What a destination got; `wanted` as for its cursor.
    pub fn sent_to(&self, destination: &str, wanted: Wanted) -> Sent {
        let inner = Arc::clone(&self.inner);
        Sent { inner, destination: destination.to_owned(), wanted, row: ChoicesRow::default() }
    }

    /// Number of the next block.
    pub fn next_block(&self) -> u64 {
        self.inner.state().next_block
    }

    /// A reader from the first block that may have spans which ended at or after this.
    pub fn read_since(&self, since_unix_ns: u64) -> Reader {
        Reader::at(Arc::clone(&self.inner), self.place_of(since_unix_ns))
    }

    /// A reader from some way before a block: the begin of the segment before its own.
    pub fn read_around(&self, block: u64) -> Reader {
        let position = {
            let state = self.inner.state();
            let own = state.segments.iter().rposition(|segment| segment.first_block <= block).unwrap_or(0);
            let first = state.segments.get(own.saturating_sub(1));
            let end = Position { block: state.next_block, span: state.next_span };
            first.map_or(end, |segment| Position { block: segment.first_block, span: segment.first_span })
        };
        Reader::at(Arc::clone(&self.inner), position)
    }

    /// A reader from where a request goes on.
    pub fn read_late(&self, late: &LateExport) -> Reader {
        Reader::at(Arc::clone(&self.inner), late.next)
    }

    /// Keeps a request, from the first block that may have spans for it. Gives its number.
    ///
    /// # Errors
    /// The database fails.
    pub fn ask_late(&self, late: LateExport) -> Result<u64, LogError> {
        let next = self.place_of(late.since_unix_ns);
        let id = self.inner.store.add_late(&LateExport { next, ..late })?;
        self.inner.asked.send_modify(|count| *count += 1);
        Ok(id)
    }

    /// Requests, oldest first: those to one destination that are not over, or all that are kept.
    ///
    /// # Errors
    /// The database fails.
    pub fn late(&self, open_to: Option<&str>) -> Result<Vec<LateExport>, LogError> {
        self.inner.store.late(open_to)
    }

    /// Saves how far a request is: `reader` has read what was looked at for it, and these spans of these blocks were sent.
    ///
    /// # Errors
    /// The database fails.
    pub fn save_late(
        &self,
        late: &mut LateExport,
        reader: Option<&Reader>,
        sent: &[BlockSpans],
    ) -> Result<(), LogError> {
        late.next = reader.map_or(late.next, Reader::position);
        self.inner.store.save_late(late, sent, self.inner.oldest_block())
    }

    /// Changes when spans are asked for.
    pub fn asked(&self) -> watch::Receiver<u64> {
        self.inner.asked.subscribe()
    }

    fn place_of(&self, since_unix_ns: u64) -> Position {
        let readers = Reader::segments_newest_first(&self.inner, since_unix_ns);
        let state = self.inner.state();
        readers.last().map_or(Position { block: state.next_block, span: state.next_span }, Reader::position)
    }
}

impl LateExport {
    /// The next block to look at.
    pub fn next_block(&self) -> u64 {
        self.next.block
    }
}

impl super::Cursor {
    /// Notes what was decided about the spans of blocks that were given out; a block that is not noted was sent whole.
    ///
    /// # Errors
    /// The database fails.
    pub fn note(&self, blocks: &[BlockChoices]) -> Result<(), LogError> {
        self.inner.store.note_choices(&self.name, blocks, self.inner.oldest_block())
    }

    /// What was noted of a block; empty: nothing.
    ///
    /// # Errors
    /// The database fails.
    pub fn noted(&self, block: u64) -> Result<Vec<Choice>, LogError> {
        Ok(self.inner.store.choices(&self.name, block)?.of(block))
    }
}

impl Inner {
    fn oldest_block(&self) -> u64 {
        self.state().segments.first().map_or(0, |segment| segment.first_block)
    }
}
