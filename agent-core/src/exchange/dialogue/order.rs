//! Whether it is known which answer is one to which request, where order is all that tells.
//!
//! In: that requests and answers came, and that something was lost. Called by [`super::Dialogue`].
//!
//! After a loss in a pipeline, how many requests wait is unknown, and so is whose the next answer is. It is known again at a
//! moment at which none waits. No protocol says when that is; it is taken to be so
//! - when a request follows a silence as long as ends an exchange, if what came last was an answer, and not fewer answers than
//!   requests as far as they were seen whole;
//! - when a request begins a batch, that is, follows an answer, if the batch before it was seen whole and had as many answers
//!   as requests, and this client began at least [`BATCHES_MIN`] batches before, and never one while it still waited.
//!
//! The second is a habit of the client and no law. An answer that is left over later shows that it was broken; then it is not
//! relied on again for this connection, nor ever for a client that sends whenever it has something to send.

/// Batches that a client began, each with nothing waiting, before that is its habit.
const BATCHES_MIN: u32 = 16;

/// What is known of the order.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// This client was seen to send a request before the one before was answered.
    pub(super) pipelines: bool,
    /// Which answer is one to which request is not known.
    pub(super) broken: bool,
    habit: Habit,
    batch: Batch,
    /// What came last is an answer, or was on the answers' side.
    answered_last: bool,
    /// It is known again because of the habit.
    relies_on_habit: bool,
    /// An answer was left over, unless its request was lost.
    left_over: bool,
    /// Answers to requests that were given up for room: the next ones to come.
    owed: u64,
}

/// How the client begins batches.
#[derive(Debug, Default)]
struct Habit {
    /// Batches that it began with nothing waiting.
    batches: u32,
    /// It began one while it waited, unless an answer was lost.
    suspected: bool,
    /// It began one while it waited.
    refuted: bool,
}

/// Requests without an answer in between, and the answers up to the next request.
#[derive(Debug, Default)]
struct Batch {
    /// It began after an answer that was seen, and nothing was lost since.
    whole: bool,
    asked: u64,
    answered: u64,
    /// An answer is in progress.
    is_open: bool,
}

impl Order {
    /// A request begins. `waits`: one before it waits for an answer; `left_over`: an answer that is older than it has no
    /// request. Answers whether the order is known again from here on.
    pub(super) fn ask(&mut self, waits: bool, left_over: bool) -> bool {
        if std::mem::take(&mut self.left_over) | left_over && self.relies_on_habit {
            (self.relies_on_habit, self.habit.refuted, self.broken) = (false, true, true);
            self.owed = 0;
        }
        let mended = self.answered_last && self.begin_batch(waits || self.owed > 0);
        self.batch.asked += 1;
        self.answered_last = false;
        mended
    }

    fn begin_batch(&mut self, waits: bool) -> bool {
        let before = std::mem::take(&mut self.batch);
        self.batch.whole = before.answered > 0 && !before.is_open;
        if !self.broken {
            self.habit.suspected |= before.whole && waits;
            self.habit.batches = self.habit.batches.saturating_add(u32::from(before.whole && !waits));
            return false;
        }
        let even = before.whole && !before.is_open && before.asked == before.answered;
        let mended = even && !self.habit.refuted && self.habit.batches >= BATCHES_MIN;
        self.relies_on_habit |= mended;
        self.broken = !mended;
        mended
    }

    /// An answer, or a part of one.
    pub(super) fn answer(&mut self, is_last: bool) {
        // Nothing was lost before it: who asked anew had waited for it.
        self.habit.refuted |= std::mem::take(&mut self.habit.suspected);
        self.batch.answered += u64::from(is_last);
        self.batch.is_open = !is_last;
        self.answered_last = true;
    }

    /// Something was lost.
    pub(super) fn lose(&mut self, is_answer: bool) {
        self.broken |= self.pipelines;
        (self.habit.suspected, self.left_over, self.owed) = (false, false, 0);
        self.batch = Batch::default();
        self.answered_last = is_answer;
    }

    /// The oldest request is given up for room, not because its answer were lost.
    pub(super) fn owe(&mut self) {
        self.owed += 1;
        self.pipelines = true;
    }

    /// Whether an answer, or a part of one, is to a request that was given up.
    pub(super) fn pay(&mut self, is_last: bool) -> bool {
        let owed = self.owed > 0;
        self.owed -= u64::from(owed && is_last);
        owed
    }

    /// An answer found no request.
    pub(super) fn leave_over(&mut self) {
        self.left_over = true;
    }

    /// A request after a long silence. Answers whether the order is known again from here on.
    pub(super) fn ask_after_silence(&mut self) -> bool {
        let waits =
            !self.answered_last || self.batch.is_open || self.batch.whole && self.batch.asked > self.batch.answered;
        let mended = self.broken && !waits;
        self.broken &= !mended;
        mended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(order: &mut Order, count: usize) -> bool {
        let mended = (0..count).filter(|waits| order.ask(*waits > 0, false)).count() > 0;
        (0..count).for_each(|_| order.answer(true));
        mended
    }

    fn with_habit() -> Order {
        let mut order = Order { pipelines: true, ..Order::default() };
        for _ in 0..BATCHES_MIN + 2 {
            assert!(!batch(&mut order, 3));
        }
        order
    }

    #[test]
    fn a_whole_batch_with_its_answers_mends_the_order() {
        let mut order = with_habit();
        order.ask(false, false);
        order.lose(true);
        order.answer(true);
        assert!(!batch(&mut order, 3) && order.broken);
        assert!(batch(&mut order, 3) && !order.broken);
    }

    #[test]
    fn it_does_not_where_answers_are_missing_or_the_client_has_no_such_habit() {
        let mut order = with_habit();
        order.lose(true);
        batch(&mut order, 3);
        order.ask(false, false);
        order.ask(false, false);
        order.answer(true);
        assert!(!order.ask(false, false) && order.broken);

        let mut order = Order { pipelines: true, ..Order::default() };
        assert!((1..BATCHES_MIN).all(|_| !batch(&mut order, 3)));
        order.lose(true);
        assert!((0..100).all(|_| !batch(&mut order, 3)) && order.broken);
    }

    #[test]
    fn who_asks_while_it_waits_has_no_habit_unless_the_answer_was_lost() {
        let mended = |lost: bool| {
            let mut order = with_habit();
            order.ask(false, false);
            order.ask(true, false);
            order.answer(true);
            order.ask(true, false);
            if lost {
                order.lose(true);
            }
            order.answer(true);
            order.lose(true);
            (0..4).any(|_| batch(&mut order, 3))
        };
        assert_eq!((mended(true), mended(false)), (true, false));
    }

    #[test]
    fn an_answer_that_is_left_over_ends_the_trust() {
        let mended = |lost: bool| {
            let mut order = with_habit();
            order.lose(true);
            assert!((0..4).any(|_| batch(&mut order, 3)));
            order.leave_over();
            if lost {
                order.lose(false);
            }
            (0..4).any(|_| batch(&mut order, 3))
        };
        assert_eq!((mended(true), mended(false)), (true, false));
    }

    #[test]
    fn a_silence_mends_it_only_after_the_answers() {
        let mut order = Order { pipelines: true, ..Order::default() };
        order.lose(false);
        assert!(!order.ask_after_silence() && order.broken);
        order.answer(true);
        order.ask(false, false);
        order.ask(false, false);
        order.answer(true);
        assert!(!order.ask_after_silence() && order.broken);
        order.answer(true);
        assert!(order.ask_after_silence() && !order.broken);
    }
}
