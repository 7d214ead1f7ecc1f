//! The task of one destination: takes batches from the log when they are full or old enough, has several delivered at a time, and
//! settles them with the log.
//!
//! Owns the place in the log. Messages about a failing destination are at most one a minute.

use std::{sync::Arc, time::Duration};

use agent_core::relay::Choice;
use tokio::{
    sync::watch,
    task::{self, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Batch, BatchSource, DestinationStats, Limits, Queued, blocking,
    delivery::{Line, before_stop, stopped},
    late::{LateNext, is_late},
    retry::Backoff,
};
use crate::{
    config::{Destination, Retry, Segments},
    log::{Fate, Letter, Which},
};

/// Time between two looks whether spans that are asked for can be sent.
const LATE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks at how much comes in.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Worker<S> {
    line: Arc<Line>,
    source: S,
    limits: Limits,
    age: Duration,
    concurrency: usize,
    retry: Retry,
    stop: watch::Receiver<Option<Instant>>,
    replays: watch::Receiver<u64>,
    /// When the oldest span that waits is old enough.
    due: Option<Instant>,
    running: JoinSet<Done>,
    /// The dead letter that is on its way again: its task and its number.
    replaying: Option<(task::Id, u64)>,
    /// Tells of spans that are asked for.
    asked: Option<watch::Receiver<u64>>,
    late: Late,
}

/// How spans that are asked for are doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    /// None are.
    Nothing,
    /// There may be some to send at this time.
    At(Instant),
    /// Some are on their way, in this task.
    Sending(task::Id),
}

/// How much larger a request may get by child spans: a few segments of a span are together about as large as it is.
const GROWTH: u64 = 4;

/// How a running delivery ended; without a fate the deadline came first and the log still has it.
enum Done {
    Batch { id: u64, fate: Option<(Fate, Vec<Choice>)> },
    Late { id: u64, fate: Option<Fate>, spans: u64, bytes: u64 },
    Letter { letter: Letter, fate: Option<Result<(), String>> },
}

/// What happens next.
enum Event {
    Done(Result<Done, JoinError>),
    /// A batch is full or old enough.
    Ready,
    /// Letters are to be sent again.
    Replay,
    /// Spans may be asked for.
    Late,
    /// Something may have changed.
    Look,
}

impl<S: BatchSource> Worker<S> {
    pub(super) fn new(
        destination: &Destination,
        line: Line,
        source: S,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let growth = if destination.segments == Segments::Spans { GROWTH } else { 1 };
        let replays = line.letters.replays();
        let asked = source.asked();
        // Something may have been asked for before the agent ended.
        let late = if asked.is_some() { Late::At(Instant::now()) } else { Late::Nothing };
        Self {
            line: Arc::new(line),
            source,
            limits: Limits { spans: destination.batch.spans as u64, bytes: destination.batch.bytes.0 / growth },
            age: destination.batch.age.0,
            concurrency: destination.concurrency.max(1),
            retry: destination.retry.clone(),
            stop,
            replays,
            due: None,
            running: JoinSet::new(),
            replaying: None,
            asked,
            late,
        }
    }

    pub(super) fn stats(&self) -> &Arc<DestinationStats> {
        &self.line.stats
    }

    /// Ends when told to stop and nothing waits, or at the deadline.
    pub(super) async fn run(mut self) {
        self.work().await;
        let left = self.source.queued().spans;
        self.line.stats.set_queued(left);
    }

    async fn work(&mut self) {
        let mut backoff = Backoff::new(&self.retry);
        if self.source.queued().spans > self.limits.spans {
            self.line.pace.resumed(self.source.rate_before());
        }
        // Letters may have been marked before the agent ended.
        self.replay().await;
        loop {
            match self.event().await {
                Event::Done(done) => {
                    if let Some(next) = self.settle(done).await {
                        self.go_on(next, &mut backoff).await;
                    }
                }
                Event::Replay => self.replay().await,
                Event::Late => self.send_late().await,
                Event::Look => {}
                Event::Ready => {
                    let next = self.source.next(self.limits).await;
                    self.go_on(next, &mut backoff).await;
                }
            }
            self.observe();
            if self.is_over() {
                return;
            }
        }
    }

    /// Has a batch delivered that the source gave.
    async fn go_on(&mut self, next: Result<Option<Batch>, S::Error>, backoff: &mut Backoff) {
        match next {
            Ok(Some(batch)) => {
                *backoff = Backoff::new(&self.retry);
                self.start(batch);
            }
            Ok(None) => {}
            Err(error) => {
                self.line.failing(&format!("the span log cannot be read: {error}"));
                before_stop(&mut self.stop.clone(), sleep(backoff.wait(None))).await;
            }
        }
    }

    /// Whether the agent stops and either the time is over or nothing is left to do.
    fn is_over(&mut self) -> bool {
        let Some(deadline) = self.deadline() else { return false };
        self.line.gate.hurry();
        deadline <= Instant::now() || (self.running.is_empty() && self.source.queued().unread == 0)
    }

    /// When to be done, if told to stop. Nobody left to tell counts as now.
    fn deadline(&self) -> Option<Instant> {
        if self.stop.has_changed().is_err() {
            return Some(Instant::now());
        }
        *self.stop.borrow()
    }

    /// Waits for what comes first: the end of a delivery; a batch that is full or old enough, if another may run; news. What a full
    /// batch left behind is not younger than that, so it keeps its time.
    async fn event(&mut self) -> Event {
        let queued = self.source.queued();
        let (may_join, has_room) = (self.may_join(), self.has_room());
        let is_stopping = self.deadline().is_some();
        if has_room && queued.unread > 0 && (self.is_full(queued) || is_stopping) {
            return Event::Ready;
        }
        let due = (queued.unread > 0).then(|| self.due.unwrap_or_else(|| Instant::now() + self.age));
        self.due = due;
        let late_at = match self.late {
            Late::At(at) if may_join && !is_stopping => Some(at),
            _ => None,
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            Some(done) = self.running.join_next() => Event::Done(done),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && has_room => {
                self.due = None;
                Event::Ready
            }
            () = self.source.appended(), if has_room => Event::Look,
            _ = self.replays.changed() => Event::Replay,
            () = sleep_until(late_at.unwrap_or_else(Instant::now)), if late_at.is_some() => Event::Late,
            () = changed(&mut self.asked), if !matches!(self.late, Late::Sending(_)) && !is_stopping => {
                self.late = Late::At(Instant::now());
                Event::Look
            }
            _ = self.stop.changed(), if !is_stopping => Event::Look,
            () = stopped(&mut stop), if is_stopping => Event::Look,
            () = sleep(OBSERVE_INTERVAL), if queued.spans > 0 => Event::Look,
        }
    }

    /// While the destination fails, one that waits for it is enough.
    fn may_join(&self) -> bool {
        self.running.is_empty() || !self.line.gate.is_open()
    }

    /// Whether another batch may be on its way.
    fn has_room(&self) -> bool {
        let others = usize::from(self.replaying.is_some()) + usize::from(matches!(self.late, Late::Sending(_)));
        self.may_join() && self.running.len() - others < self.concurrency
    }

    /// Whether what waits is as much as a batch may have.
    fn is_full(&self, queued: Queued) -> bool {
        queued.unread >= self.limits.spans || queued.unread_bytes >= self.limits.bytes
    }

    fn observe(&self) {
        let queued = self.source.queued();
        self.line.stats.set_queued(queued.spans);
        self.line.pace.observe(queued.generated, queued.backlog, self.limits.spans);
        self.line.adapt.observe(queued.unread, self.limits.spans);
        self.line.stats.set_sampling(self.line.adapt.ratio());
        self.line.stats.set_tail(self.source.tail());
    }

    fn start(&mut self, batch: Batch) {
        if batch.may_be_duplicate {
            self.line.stats.count_possible_duplicates(batch.spans);
        }
        let (line, mut stop) = (Arc::clone(&self.line), self.stop.clone());
        self.running.spawn(async move {
            let id = batch.id;
            Done::Batch { id, fate: line.deliver(batch, &mut stop).await }
        });
    }

    /// Has the next letter sent that was asked for, one at a time.
    async fn replay(&mut self) {
        if self.replaying.is_some() || self.deadline().is_some() {
            return;
        }
        let (letters, name) = (self.line.letters.clone(), self.line.stats.name().to_owned());
        let Ok(Some(letter)) = blocking(move || letters.next_replay(&name)).await else { return };
        let (line, mut stop, id) = (Arc::clone(&self.line), self.stop.clone(), letter.id);
        let task = self.running.spawn(async move {
            let fate = line.resend(&letter, &mut stop).await;
            Done::Letter { letter, fate }
        });
        self.replaying = Some((task.id(), id));
    }

    /// Has the next spans sent that were asked for, one batch at a time.
    async fn send_late(&mut self) {
        let next = match self.source.next_late(self.limits).await {
            Ok(next) => next,
            Err(error) => {
                self.line.trouble(&format!("spans that were asked for cannot be read: {error}"));
                LateNext::Wait
            }
        };
        self.late = match next {
            LateNext::Nothing => Late::Nothing,
            LateNext::Wait => Late::At(Instant::now() + LATE_INTERVAL),
            LateNext::More => Late::At(Instant::now()),
            LateNext::Batch(batch) => Late::Sending(self.start_late(batch)),
        };
    }

    fn start_late(&mut self, batch: Batch) -> task::Id {
        if batch.may_be_duplicate {
            self.line.stats.count_possible_duplicates(batch.spans);
        }
        let (line, mut stop) = (Arc::clone(&self.line), self.stop.clone());
        let (id, spans, bytes) = (batch.id, batch.spans, batch.body.len() as u64);
        let task = self.running.spawn(async move {
            let fate = line.deliver_late(batch, &mut stop).await;
            Done::Late { id, fate, spans, bytes }
        });
        task.id()
    }

    async fn settle_late(&mut self, id: u64, fate: Option<Fate>, spans: u64, bytes: u64) {
        self.late = Late::At(Instant::now());
        let Some(fate) = fate else { return };
        if let Err(error) = self.source.settle_late(id, fate, spans, bytes).await {
            self.line.trouble(&format!("how far a request is cannot be stored now, spans may come twice: {error}"));
        }
    }

    /// Also gives what the source said to the question for the next batch, if that is full already.
    async fn settle(&mut self, done: Result<Done, JoinError>) -> Option<Result<Option<Batch>, S::Error>> {
        match done {
            Ok(Done::Late { id, fate, spans, bytes }) => self.settle_late(id, fate, spans, bytes).await,
            Ok(Done::Batch { id, fate: Some((fate, choices)) }) => {
                if let Err(error) = self.source.note(id, choices).await {
                    self.line.trouble(&format!("what was left out cannot be noted now, it counts as sent: {error}"));
                }
                if self.deadline().is_none() && self.has_room() && self.is_full(self.source.queued()) {
                    let (settled, next) = self.source.settle_and_next(id, fate, self.limits).await;
                    self.settled(settled);
                    return Some(next);
                }
                let settled = self.source.settle(id, fate).await;
                self.settled(settled);
            }
            Ok(Done::Batch { fate: None, .. }) => {}
            Ok(Done::Letter { letter, fate }) => {
                self.replaying = None;
                let noted = match fate {
                    Some(fate) => self.settle_letter(letter, fate).await,
                    None => false,
                };
                // What cannot be noted would come again at once.
                if noted {
                    self.replay().await;
                }
            }
            Err(failure) => self.failed(&failure).await,
        }
        None
    }

    /// A delivery panicked. What others wait for is not held up by it: the letter is left aside, and what was asked for is tried again.
    async fn failed(&mut self, failure: &JoinError) {
        match self.replaying {
            Some((task, letter)) if task == failure.id() => {
                self.replaying = None;
                let (letters, reason) = (self.line.letters.clone(), format!("sending it failed: {failure}"));
                self.line.trouble(&reason);
                // What cannot be noted would come again at once.
                if blocking(move || letters.refused_again(letter, &reason)).await.is_ok() {
                    self.replay().await;
                }
            }
            _ if self.late == Late::Sending(failure.id()) => {
                self.late = Late::At(Instant::now() + LATE_INTERVAL);
                self.line.trouble(&format!("sending spans that were asked for failed: {failure}"));
            }
            // Its place in the log is held, and what is sent beside it is settled.
            _ => self.line.failing(&format!("a delivery failed, its spans wait for the next start: {failure}")),
        }
    }

    /// Whether what became of the letter is noted.
    async fn settle_letter(&mut self, letter: Letter, fate: Result<(), String>) -> bool {
        let letters = self.line.letters.clone();
        let (id, spans, taken) = (letter.id, letter.spans, fate.is_ok());
        let is_late = is_late(&letter.key);
        let noted = blocking(move || match fate {
            Ok(()) => letters.forget(&Which { ids: vec![id], ..Default::default() }).map(drop),
            Err(reason) => letters.refused_again(id, &reason),
        });
        if let Err(error) = noted.await {
            self.line.trouble(&format!("a dead letter that was sent again waits for the next replay: {error}"));
            return false;
        }
        if taken {
            self.line.stats.count_replayed(spans);
        }
        // The log's accounts know nothing of spans that were asked for.
        if taken && is_late {
            self.line.stats.count_late(spans);
        }
        if taken && !is_late {
            let settled = self.source.revive(spans).await;
            self.settled(settled);
        }
        true
    }

    fn settled(&mut self, result: Result<(), S::Error>) {
        if let Err(error) = result {
            self.line
                .trouble(&format!("the place in the span log cannot be stored now, spans may come twice: {error}"));
        }
    }
}

/// Completes when spans are asked for.
async fn changed(asked: &mut Option<watch::Receiver<u64>>) {
    let has_changed = match asked {
        Some(asked) => asked.changed().await.is_ok(),
        None => false,
    };
    if !has_changed {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{
            client::Client,
            fakes::{Fake, Memory, destination, eventually},
        },
        log::DeadLetters,
    };

    #[tokio::test]
    async fn a_letter_whose_sending_panics_is_left_aside_and_the_others_are_sent() {
        let fake = Fake::http(&[], None).await;
        let to = destination(&format!("otlp+http://{}/v1/traces", fake.address));
        let letters = DeadLetters::open(std::path::Path::new(":memory:"), 1 << 20).unwrap();
        for key in ["1", "2"] {
            let letter = Letter { destination: "backend".into(), key: key.into(), spans: 1, ..Letter::default() };
            letters.put(&letter).unwrap();
        }
        letters.replay(&Which::default()).unwrap();
        let first = letters.next_replay("backend").unwrap().unwrap();
        let stats = Arc::new(DestinationStats::new(&to));
        let line = Line::new(&to, Client::new(&to).unwrap(), stats, letters.clone()).unwrap();
        let (_stop, stopped) = watch::channel(None);
        let mut worker = Worker::new(&to, line, Memory::new(&[]), stopped);
        let task = worker.running.spawn(async { panic!("the test says so") });
        worker.replaying = Some((task.id(), first.id));
        let done = worker.running.join_next().await.unwrap();
        worker.settle(done).await;
        eventually("the second is sent", || fake.received().len() == 1).await;
        let left = letters.list(&Which::default(), 10).unwrap();
        assert_eq!((left[0].key.as_str(), left[0].is_replayed), ("1", false), "{left:?}");
        assert!(left[0].reason.contains("panic"), "{}", left[0].reason);
    }
}
