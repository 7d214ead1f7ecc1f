//! Spans that a destination did not get, sent after all because somebody asked: `spantap export --since`, or a symptom.
//!
//! In: requests that the log keeps, and the log. Out: batches for the destination's ordinary delivery, one at a time beside its
//! ordinary ones, or spans for a file. A request follows the destination's place in the log, so that what is about to be sent anyway
//! is not sent twice, and goes on after a restart: a batch that was on its way is made again of the same blocks, with the same key.

use agent_core::relay::{Choice, Filter, Late, LateCounts, Shape};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Batch, Limits, bound, source};
use crate::{
    config::{self, Destination},
    intake::NO_TENANT,
    log::{Block, BlockSpans, Fate, Got, LateExport, LogError, READ_BYTES, READ_SPANS, Reader, Sent, SpanLog},
    query::api::hex,
    run::unix_ns,
};

/// Bytes of the log that are looked at before others have their turn.
const LOOK_BYTES: usize = 4 << 20;
/// Marks the keys of such requests.
const KEY_MARK: &str = "-late-";

/// A destination, as far as it matters for what it is sent.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its filter.
    pub filter: config::Filter,
    /// Its tenants.
    pub tenants: Vec<String>,
}

/// Which spans somebody asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Ended at or after.
    pub since_unix_ns: u64,
    /// Ended before; may be ahead.
    pub until_unix_ns: u64,
    /// One of these, or all if there is none.
    pub matches: Vec<config::Match>,
    /// Also those that were sent before.
    pub all: bool,
    /// Only of this tenant.
    pub tenant: Option<String>,
}

/// What of it is kept as text.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Wanted {
    matches: Vec<config::Match>,
    tenant: Option<String>,
}

/// What was found, in spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Asked for, and for this destination.
    pub matched: u64,
    /// Of these, sent before.
    pub sent: u64,
    /// Of these, about to be sent anyway.
    pub waiting: u64,
    /// Of these, to be sent now.
    pub queued: u64,
    /// Bytes of these, before compression.
    pub bytes: u64,
}

/// Why spans cannot be sent late.
#[derive(Debug, thiserror::Error)]
pub enum LateError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What is asked for cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<&Destination> for Target {
    fn from(to: &Destination) -> Self {
        Self { name: to.name.clone(), filter: to.filter.clone(), tenants: to.tenants.clone() }
    }
}

impl Asked {
    fn to_core(&self) -> Result<Late, LateError> {
        let include = config::matches("where", &self.matches).map_err(LateError::Unusable)?;
        Ok(Late {
            filter: Filter { include, exclude: Vec::new() },
            since_unix_ns: self.since_unix_ns,
            until_unix_ns: self.until_unix_ns,
            all: self.all,
        })
    }

    fn of(request: &LateExport) -> Self {
        // Written below.
        let Wanted { matches, tenant } = serde_json::from_str(&request.wanted).unwrap_or_default();
        Self {
            since_unix_ns: request.since_unix_ns,
            until_unix_ns: request.until_unix_ns,
            matches,
            all: request.all,
            tenant,
        }
    }

    fn wanted(&self) -> String {
        let wanted = Wanted { matches: self.matches.clone(), tenant: self.tenant.clone() };
        // Texts, numbers and lists have JSON.
        serde_json::to_string(&wanted).unwrap_or_default()
    }

    /// The tenant's number.
    fn tenant(&self, log: &SpanLog) -> Result<Option<u32>, LateError> {
        let Some(name) = self.tenant.as_deref() else { return Ok(None) };
        let number = if name == NO_TENANT { Some(0) } else { log.known_tenant(name)? };
        number.map(Some).ok_or_else(|| LateError::Unusable(format!("the log has no spans of a tenant `{name}`")))
    }
}

/// Has spans sent to a destination; says what was found so far, and the number of the request.
///
/// # Errors
/// The log fails, or what is asked for cannot be used.
pub fn ask(log: &SpanLog, to: &Target, asked: &Asked, reason: &str) -> Result<(u64, Found), LateError> {
    let found = count(log, to, asked)?;
    let now = unix_ns();
    let request = LateExport {
        destination: to.name.clone(),
        created_unix_ns: now,
        reason: reason.to_owned(),
        wanted: asked.wanted(),
        since_unix_ns: asked.since_unix_ns,
        until_unix_ns: asked.until_unix_ns,
        all: asked.all,
        end_block: (asked.until_unix_ns <= now).then(|| log.next_block()),
        ..LateExport::default()
    };
    Ok((log.ask_late(request)?, found))
}

/// What would be sent.
///
/// # Errors
/// As [`ask`].
pub fn count(log: &SpanLog, to: &Target, asked: &Asked) -> Result<Found, LateError> {
    let (mut line, mut found) = (Scan::new(log, to, asked)?, Found::default());
    let mut reader = log.read_since(asked.since_unix_ns);
    let end = log.next_block();
    loop {
        let read = reader.read_before(end, READ_SPANS, READ_BYTES)?;
        if read.blocks.is_empty() {
            return Ok(found);
        }
        for block in &read.blocks {
            let (body, counts, is_waiting) = line.look(block, &mut Vec::new())?;
            found.matched += counts.matched;
            if is_waiting {
                found.waiting += counts.matched;
                continue;
            }
            found.sent += counts.sent;
            found.queued += counts.kept;
            found.bytes += body.len() as u64;
        }
    }
}

/// Gives the spans that none of these destinations got or is about to get to `each`, as requests; with `all`, every span.
///
/// # Errors
/// As [`ask`].
pub fn pick<E>(
    log: &SpanLog,
    targets: &[Target],
    asked: &Asked,
    mut each: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<Result<(), E>, LateError> {
    let late = asked.to_core()?;
    let shape = config::shape(&config::Filter::default(), 1.0, false).map_err(LateError::Unusable)?;
    let tenant = asked.tenant(log)?;
    let mut all: Vec<Sent> = targets.iter().map(|to| sent(log, to)).collect::<Result<_, _>>()?;
    let mut reader = log.read_since(asked.since_unix_ns);
    let end = log.next_block();
    loop {
        let read = reader.read_before(end, READ_SPANS, READ_BYTES)?;
        if read.blocks.is_empty() {
            return Ok(Ok(()));
        }
        let is_asked = |block: &&Block| {
            block.header.end_unix_ns_max >= asked.since_unix_ns
                && tenant.is_none_or(|tenant| tenant == block.header.flags.tenant)
        };
        for block in read.blocks.iter().filter(is_asked) {
            let mut choices = vec![Choice::LeftOut; block.header.span_count as usize];
            for sent in &mut all {
                merge(&mut choices, &sent.of(&block.header)?);
            }
            let (body, counts) = late_of(&shape, &block.payload, &late, (&choices, Choice::LeftOut), &mut Vec::new())?;
            if counts.kept > 0
                && let Err(error) = each(body)
            {
                return Ok(Err(error));
            }
        }
    }
}

/// Adds what one destination got.
fn merge(choices: &mut [Choice], got: &Got) {
    let noted: &[Choice] = match got {
        Got::Nothing => return,
        Got::NotYet => &[],
        Got::Some(noted) => noted,
    };
    for (index, choice) in choices.iter_mut().enumerate() {
        if noted.get(index).is_none_or(|choice| choice.is_kept()) {
            *choice = Choice::Kept;
        }
    }
}

fn sent(log: &SpanLog, to: &Target) -> Result<Sent, LogError> {
    Ok(log.sent_to(&to.name, source::wanted(log, &to.tenants)?))
}

fn late_of(
    shape: &Shape,
    payload: &Bytes,
    late: &Late,
    (choices, rest): (&[Choice], Choice),
    kept: &mut Vec<bool>,
) -> Result<(Bytes, LateCounts), LateError> {
    // What a block of the log has was read before it was stored: another version's may differ, and is then nobody's.
    let Ok((body, counts)) = shape.late(payload, late, choices, rest, kept) else { return Ok(Default::default()) };
    Ok((Bytes::copy_from_slice(&body), counts))
}

/// Looks at blocks for one request.
struct Scan {
    late: Late,
    shape: Shape,
    sent: Sent,
    tenant: Option<u32>,
}

impl Scan {
    fn new(log: &SpanLog, to: &Target, asked: &Asked) -> Result<Self, LateError> {
        let shape = config::shape(&to.filter, 1.0, false).map_err(LateError::Unusable)?;
        Ok(Self { late: asked.to_core()?, shape, sent: sent(log, to)?, tenant: asked.tenant(log)? })
    }

    /// What is to be sent of a block, and whether it is about to be sent anyway. Which spans that are is added to `kept`.
    fn look(&mut self, block: &Block, kept: &mut Vec<bool>) -> Result<(Bytes, LateCounts, bool), LateError> {
        let is_old = block.header.end_unix_ns_max < self.late.since_unix_ns;
        let is_other = self.tenant.is_some_and(|tenant| tenant != block.header.flags.tenant);
        if is_old || is_other || !self.sent.is_for(&block.header) {
            return Ok(Default::default());
        }
        let (choices, rest, is_waiting) = match self.sent.of(&block.header)? {
            Got::Nothing => (Vec::new(), Choice::LeftOut, false),
            Got::NotYet => (Vec::new(), Choice::Kept, true),
            Got::Some(choices) => (choices, Choice::Kept, false),
        };
        let (body, counts) = late_of(&self.shape, &block.payload, &self.late, (&choices, rest), kept)?;
        Ok((body, counts, is_waiting))
    }
}

/// What comes next of the requests to one destination.
#[derive(Debug)]
pub enum LateNext {
    /// Spans to be sent; the id is the request's.
    Batch(Batch),
    /// Something was looked at, and there is more.
    More,
    /// There are requests, and nothing to be done for them now.
    Wait,
    /// There are none.
    Nothing,
}

/// The requests to one destination.
pub(super) struct LateSource {
    log: SpanLog,
    target: Target,
    /// Where the request that was looked at last goes on.
    reader: Option<(u64, Reader)>,
    /// On its way.
    given: Option<(LateExport, Vec<BlockSpans>)>,
}

impl std::fmt::Debug for LateSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LateSource").field("target", &self.target.name).finish_non_exhaustive()
    }
}

/// Spans that were picked for a request.
#[derive(Default)]
struct Picked {
    body: BytesMut,
    spans: u64,
    /// The blocks with some, and which of their spans.
    blocks: Vec<BlockSpans>,
    looked_at: usize,
}

impl LateSource {
    pub(super) fn new(log: &SpanLog, to: &Destination) -> Self {
        Self { log: log.clone(), target: to.into(), reader: None, given: None }
    }

    /// The next spans of the first request that has some.
    pub(super) fn next(&mut self, limits: Limits) -> Result<LateNext, LateError> {
        let requests = self.log.late(Some(&self.target.name))?;
        let mut next = LateNext::Nothing;
        for request in requests {
            match self.next_of(request, limits)? {
                LateNext::Nothing => {}
                LateNext::Wait => next = LateNext::Wait,
                more => return Ok(more),
            }
        }
        Ok(next)
    }

    fn next_of(&mut self, mut request: LateExport, limits: Limits) -> Result<LateNext, LateError> {
        let mut scan = Scan::new(&self.log, &self.target, &Asked::of(&request))?;
        if request.end_block.is_none() && unix_ns() >= request.until_unix_ns {
            request.end_block = Some(self.log.next_block());
        }
        // What was on its way when the agent ended is made again of the same blocks.
        let again = request.given_block.map(|last| last + 1);
        let settled = scan.sent.place();
        let end = again.unwrap_or_else(|| request.end_block.unwrap_or(u64::MAX).min(settled));
        let mut reader = match self.reader.take() {
            Some((id, reader)) if id == request.id && reader.next_block() == request.next_block() => reader,
            _ => self.log.read_late(&request),
        };
        let before = request.clone();
        let picked = pick_batch(&mut scan, &mut reader, &mut request, end, limits, again.is_some())?;
        let is_over = request.end_block.is_some_and(|end| reader.next_block() >= end);
        let (Some((first, _)), Some((last, _))) = (picked.blocks.first(), picked.blocks.last()) else {
            request.given_block = None;
            request.is_done = is_over;
            let has_moved = reader.next_block() > request.next_block();
            if has_moved || is_over {
                self.log.save_late(&mut request, Some(&reader), &[])?;
            }
            self.reader = Some((request.id, reader));
            let is_behind = has_moved && !is_over;
            return Ok(if is_over {
                LateNext::Nothing
            } else if is_behind {
                LateNext::More
            } else {
                LateNext::Wait
            });
        };
        // With the counts from before: after a restart the same blocks are looked at again.
        let mut given = LateExport { given_block: Some(reader.next_block() - 1), ..before };
        self.log.save_late(&mut given, None, &[])?;
        self.log.force_places();
        let body = picked.body.freeze();
        let key = format!("{}-{first}-{last}{KEY_MARK}{:08x}", hex(&self.log.id()), crc32fast::hash(&body));
        let batch = Batch {
            id: request.id,
            key,
            spans: picked.spans,
            left_out: 0,
            unreadable: Vec::new(),
            may_be_duplicate: again.is_some(),
            body: body.into(),
        };
        self.reader = Some((request.id, reader));
        self.given = Some((request, picked.blocks));
        Ok(LateNext::Batch(batch))
    }

    /// What became of the spans.
    pub(super) fn settle(&mut self, id: u64, fate: Fate, spans: u64, bytes: u64) -> Result<(), LateError> {
        let given = self.given.take().filter(|(request, _)| request.id == id);
        let Some((mut request, blocks)) = given else { return Ok(()) };
        let reader = self.reader.as_ref().filter(|(of, _)| *of == id).map(|(_, reader)| reader);
        request.given_block = None;
        request.delivered += spans - fate.dead.min(spans);
        request.dead += fate.dead.min(spans);
        request.bytes += bytes;
        request.is_done = reader.zip(request.end_block).is_some_and(|(reader, end)| reader.next_block() >= end);
        self.log.save_late(&mut request, reader, &blocks)?;
        Ok(())
    }
}

/// Reads on until a batch is full, others have to have their turn, or there is no more before `end`. `is_again`: all of it is one batch.
fn pick_batch(
    scan: &mut Scan,
    reader: &mut Reader,
    request: &mut LateExport,
    end: u64,
    limits: Limits,
    is_again: bool,
) -> Result<Picked, LateError> {
    let mut picked = Picked::default();
    let is_full = |picked: &Picked| picked.spans >= limits.spans || picked.body.len() >= bound(limits.bytes);
    while is_again || (picked.looked_at < LOOK_BYTES && !is_full(&picked)) {
        let room = |limit: u64, taken: u64| bound(limit.saturating_sub(taken)).max(1);
        let (spans, bytes) = (room(limits.spans, picked.spans), room(limits.bytes, picked.body.len() as u64));
        let read = reader.read_before(end, spans, bytes)?;
        request.gone += read.lost_spans;
        if read.blocks.is_empty() {
            break;
        }
        for block in &read.blocks {
            picked.looked_at += block.payload.len();
            let mut kept = Vec::new();
            let (body, counts, _) = scan.look(block, &mut kept)?;
            request.matched += counts.matched;
            request.sent += counts.sent;
            if counts.kept > 0 {
                picked.spans += counts.kept;
                picked.body.extend_from_slice(&body);
                picked.blocks.push((block.header.block, kept));
            }
        }
    }
    Ok(picked)
}

/// Whether a dead letter is of such a request: its spans are in no accounts of the log.
pub(super) fn is_late(key: &str) -> bool {
    key.contains(KEY_MARK)
}

#[cfg(test)]
mod tests;
