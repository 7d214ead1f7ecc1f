//! What detail is left out while the agent costs more than it may.
//!
//! In: what each window of time cost. Out: a [`Detail`], one step at a time, in the documented order: what is not selected, then
//! payload, then times of the scheduler, then connections by halves. A step is taken when [`OVER_WINDOWS`] windows in a row are over the budget, and
//! taken back when several in a row are below half of it; each time that restoring proves premature, twice as many.
//! [`Policy`] is a pure function of the windows; [`Budget`] is the thread that measures and applies.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use agent_common::settings::shed;

use crate::capture::lock;

/// What is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// What no rule names is not recorded, if anything is selected.
    pub unselected: bool,
    /// Bits of [`shed`].
    pub shed: u32,
    /// New connections are recorded if this many bits of a hash of theirs are 0.
    pub sample_bits: u32,
}

/// What each level leaves out, in order.
pub const LEVELS: [Detail; 7] = [
    Detail { unselected: false, shed: 0, sample_bits: 0 },
    Detail { unselected: true, shed: 0, sample_bits: 0 },
    Detail { unselected: true, shed: shed::PAYLOAD, sample_bits: 0 },
    Detail { unselected: true, shed: shed::PAYLOAD | shed::SCHED, sample_bits: 0 },
    Detail { unselected: true, shed: shed::PAYLOAD | shed::SCHED, sample_bits: 1 },
    Detail { unselected: true, shed: shed::PAYLOAD | shed::SCHED, sample_bits: 2 },
    Detail { unselected: true, shed: shed::PAYLOAD | shed::SCHED, sample_bits: 3 },
];

impl Detail {
    /// What is left out, in words.
    pub fn words(self) -> Vec<String> {
        let mut words = Vec::new();
        if self.unselected {
            words.push("what is not selected".to_owned());
        }
        if self.shed & shed::PAYLOAD != 0 {
            words.push("payload".to_owned());
        }
        if self.shed & shed::SCHED != 0 {
            words.push("run_queue and off_cpu times".to_owned());
        }
        if self.sample_bits > 0 {
            let of = 1u32 << self.sample_bits;
            words.push(format!("{} of {of} new connections", of - 1));
        }
        words
    }
}

/// What a window of time cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// What leaving out detail can lower (kernel programs and the agent's capture), of all CPUs of the host.
    pub cpu_percent: f64,
    /// How full the ring buffer was at most.
    pub ring_percent: f64,
    /// Records that found it full.
    pub lost: u64,
}

/// Windows over the budget, in a row, that take a step.
pub const OVER_WINDOWS: u32 = 2;
/// Windows well below it that take a step back, at first and at most.
const CALM_WINDOWS: std::ops::RangeInclusive<u32> = 3..=48;
/// What of the budget is well below it.
const CALM_SHARE: f64 = 0.5;
/// A ring that is fuller loses records in the next burst.
const RING_FULL_PERCENT: f64 = 75.0;
const RING_CALM_PERCENT: f64 = 25.0;

/// When to take a step.
#[derive(Clone, Debug)]
pub struct Policy {
    cpu_percent_max: f64,
    level: usize,
    over: u32,
    calm: u32,
    calm_needed: u32,
    /// Windows since the last step back.
    since_restore: Option<u32>,
}

impl Policy {
    /// For a budget in percent of all CPUs.
    pub fn new(cpu_percent_max: f64) -> Self {
        let calm_needed = *CALM_WINDOWS.start();
        Self { cpu_percent_max, level: 0, over: 0, calm: 0, calm_needed, since_restore: None }
    }

    /// The level now: an index into [`LEVELS`].
    pub fn level(&self) -> usize {
        self.level
    }

    /// Whether the next window should be measured at once.
    pub fn is_busy(&self) -> bool {
        self.level > 0 || self.over > 0
    }

    /// Takes a window into account; `true` if the level changed.
    pub fn window(&mut self, cost: Cost) -> bool {
        self.since_restore = self.since_restore.map(|windows| windows.saturating_add(1));
        if self.is_over(cost) {
            self.calm = 0;
            self.over += 1;
            return self.over >= OVER_WINDOWS && self.shed();
        }
        self.over = 0;
        self.calm = if self.is_calm(cost) { self.calm + 1 } else { 0 };
        if self.level == 0 && self.calm >= *CALM_WINDOWS.end() {
            self.calm_needed = *CALM_WINDOWS.start();
        }
        self.level > 0 && self.calm >= self.calm_needed && self.restore()
    }

    fn is_over(&self, cost: Cost) -> bool {
        cost.cpu_percent > self.cpu_percent_max || cost.ring_percent > RING_FULL_PERCENT || cost.lost > 0
    }

    fn is_calm(&self, cost: Cost) -> bool {
        cost.cpu_percent < self.cpu_percent_max * CALM_SHARE && cost.ring_percent < RING_CALM_PERCENT
    }

    fn shed(&mut self) -> bool {
        self.over = 0;
        if self.level + 1 == LEVELS.len() {
            return false;
        }
        if self.since_restore.take().is_some_and(|windows| windows <= self.calm_needed) {
            self.calm_needed = (self.calm_needed * 2).min(*CALM_WINDOWS.end());
        }
        self.level += 1;
        true
    }

    /// One level on at once: the one before left out nothing. `false` if it is the last.
    fn deepen(&mut self) -> bool {
        let deepens = self.level + 1 < LEVELS.len();
        self.level += usize::from(deepens);
        deepens
    }

    /// Back at once: what is left leaves out nothing.
    fn relax(&mut self) {
        self.level = 0;
    }

    fn restore(&mut self) -> bool {
        self.calm = 0;
        self.level -= 1;
        self.since_restore = Some(0);
        true
    }
}

/// What the budget did, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetFigures {
    /// The budget in percent of all CPUs; 0: there is none.
    pub cpu_percent_max: u32,
    /// The last window's cost.
    pub cost: Cost,
    /// Index into [`LEVELS`].
    pub level: usize,
    /// What of that is there to leave out.
    pub left_out: Detail,
    /// Steps taken.
    pub sheds: u64,
    /// Steps taken back.
    pub restores: u64,
}

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(1);
/// Time between windows while nothing is near the budget.
const PAUSE: Duration = Duration::from_secs(9);

/// The thread that keeps the budget. Ends with the guard.
pub struct Budget {
    thread: Option<JoinHandle<()>>,
    stop: Option<mpsc::Sender<()>>,
}

impl Budget {
    /// Starts it, and tells in `figures` what it does. `measure` begins a window and gives what ends it; `apply` makes the
    /// kernel side leave out what a level says, and gives what of it there is to leave out. A budget of 0 is none.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start<E: FnOnce() -> Cost>(
        figures: Arc<Mutex<BudgetFigures>>,
        measure: impl FnMut() -> E + Send + 'static,
        apply: impl FnMut(Detail) -> Result<Detail, String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let cpu_percent_max = lock(&figures).cpu_percent_max;
        if cpu_percent_max == 0 {
            return Ok(Self { thread: None, stop: None });
        }
        let (stop, stopped) = mpsc::channel();
        let keeper = Keeper { policy: Policy::new(cpu_percent_max.into()), figures, measure, apply };
        let thread = std::thread::Builder::new().name("budget".into()).spawn(move || keeper.run(&stopped))?;
        Ok(Self { thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Keeper<M, A> {
    policy: Policy,
    figures: Arc<Mutex<BudgetFigures>>,
    measure: M,
    apply: A,
}

impl<E: FnOnce() -> Cost, M: FnMut() -> E, A: FnMut(Detail) -> Result<Detail, String>> Keeper<M, A> {
    fn run(mut self, stopped: &mpsc::Receiver<()>) {
        let goes_on = |wait| stopped.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout);
        loop {
            if !self.policy.is_busy() && !goes_on(PAUSE) {
                return;
            }
            let end = (self.measure)();
            if !goes_on(WINDOW) {
                return;
            }
            let cost = end();
            let before = self.policy.level();
            lock(&self.figures).cost = cost;
            if self.policy.window(cost) {
                self.step(before, cost);
            }
        }
    }

    fn step(&mut self, before: usize, cost: Cost) {
        let known = lock(&self.figures).left_out;
        let detail = loop {
            let wanted = LEVELS[self.policy.level()];
            let detail = (self.apply)(wanted).unwrap_or_else(|error| {
                tracing::error!(error, "the kernel side could not be told what to leave out");
                wanted
            });
            if self.policy.level() < before || detail != known || !self.policy.deepen() {
                break detail;
            }
        };
        if detail == Detail::default() && self.policy.level() < before {
            self.policy.relax();
        }
        let level = self.policy.level();
        let mut figures = lock(&self.figures);
        (figures.level, figures.left_out) = (level, detail);
        let left_out = detail.words().join(", ");
        let (cpu, ring) = (format!("{:.2} %", cost.cpu_percent), format!("{:.0} %", cost.ring_percent));
        let max = figures.cpu_percent_max;
        if level > before {
            figures.sheds += 1;
            tracing::warn!(
                level,
                cpu,
                ring,
                lost = cost.lost,
                max_cpu_percent = max,
                "over the budget: left out from now on: {left_out}"
            );
        } else {
            figures.restores += 1;
            let left_out = if left_out.is_empty() { "nothing" } else { &left_out };
            tracing::info!(
                level,
                cpu,
                ring,
                max_cpu_percent = max,
                "within the budget again: still left out: {left_out}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds windows of these costs (percent of CPUs) to a budget of 5 %, and gives the level after each.
    fn levels(costs: &[f64]) -> Vec<usize> {
        let mut policy = Policy::new(5.0);
        let level = |cost: &f64| {
            policy.window(Cost { cpu_percent: *cost, ..Cost::default() });
            policy.level()
        };
        costs.iter().map(level).collect()
    }

    #[test]
    fn one_window_over_the_budget_changes_nothing() {
        assert_eq!(levels(&[9.0, 1.0, 9.0, 4.9, 9.0]), [0; 5]);
    }

    #[test]
    fn each_step_needs_its_own_windows_and_the_last_level_is_the_last() {
        assert_eq!(levels(&[9.0; 14]), [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]);
    }

    #[test]
    fn detail_comes_back_only_after_calm_windows_in_a_row() {
        assert_eq!(levels(&[9.0, 9.0, 2.0, 2.0, 3.0, 2.0, 2.0, 2.0]), [0, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(levels(&[9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), [0, 1, 1, 2, 2, 2, 1, 1, 1, 0]);
    }

    #[test]
    fn cost_between_half_and_all_of_the_budget_is_left_as_it_is() {
        assert_eq!(levels(&[9.0, 9.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]), [0, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn restoring_too_early_makes_the_next_time_later() {
        let round = [9.0, 9.0, 0.0, 0.0, 0.0, 9.0, 9.0];
        let after = levels(&[&round[..], &[0.0; 6]].concat());
        assert_eq!(after[..7], [0, 1, 1, 1, 0, 0, 1]);
        assert_eq!(after[7..], [1, 1, 1, 1, 1, 0], "six calm windows instead of three");
    }

    #[test]
    fn a_full_ring_is_over_the_budget_whatever_the_cpus_say() {
        let full = Cost { ring_percent: 80.0, ..Cost::default() };
        let lossy = Cost { lost: 1, ..Cost::default() };
        for cost in [full, lossy] {
            let mut policy = Policy::new(5.0);
            assert_eq!([policy.window(cost), policy.window(cost)], [false, true]);
        }
    }

    #[test]
    fn each_level_leaves_out_more_than_the_one_before() {
        for pair in LEVELS.windows(2) {
            assert_eq!(pair[1].shed & pair[0].shed, pair[0].shed);
            assert!(pair[1].unselected >= pair[0].unselected && pair[1].sample_bits >= pair[0].sample_bits);
            assert_ne!(pair[1], pair[0]);
        }
        assert_eq!(LEVELS[0].words(), Vec::<String>::new());
        assert_eq!(
            LEVELS[5].words(),
            ["what is not selected", "payload", "run_queue and off_cpu times", "3 of 4 new connections"]
        );
    }

    #[test]
    fn the_thread_applies_each_level_and_ends_with_its_guard() {
        let (applied, left_out) = step_by_step(|detail| detail);
        assert_eq!((applied.as_slice(), left_out.len()), (&LEVELS[1..], 6));
        let figures = Arc::new(Mutex::new(BudgetFigures { cpu_percent_max: 1, ..BudgetFigures::default() }));
        drop(Budget::start(figures, || Cost::default, Ok).unwrap());
    }

    #[test]
    fn a_level_that_has_nothing_to_leave_out_is_passed_over() {
        let (applied, left_out) = step_by_step(|detail| Detail { unselected: false, ..detail });
        assert_eq!(applied, LEVELS[1..]);
        let payload = Detail { shed: shed::PAYLOAD, ..Detail::default() };
        assert_eq!((left_out[0], left_out.len()), (payload, 5));
    }

    #[test]
    fn coming_back_passes_over_it_too() {
        let mut keeper = Keeper {
            policy: Policy::new(1.0),
            figures: Arc::default(),
            measure: || Cost::default,
            apply: |detail| Ok(Detail { unselected: false, ..detail }),
        };
        let mut windows = |cpu_percent: f64, count: u32| {
            for _ in 0..count {
                let (before, cost) = (keeper.policy.level(), Cost { cpu_percent, ..Cost::default() });
                if keeper.policy.window(cost) {
                    keeper.step(before, cost);
                }
            }
            let figures = *lock(&keeper.figures);
            (figures.level, figures.sheds, figures.restores)
        };
        assert_eq!(windows(9.0, 2), (2, 1, 0));
        assert_eq!(windows(0.0, 3), (0, 1, 1));
    }

    /// What is applied while everything is over the budget, and what is left out after each step.
    fn step_by_step(effective: fn(Detail) -> Detail) -> (Vec<Detail>, Vec<Detail>) {
        let applied = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&applied);
        let over = Cost { cpu_percent: 50.0, ..Cost::default() };
        let mut keeper = Keeper {
            policy: Policy::new(1.0),
            figures: Arc::default(),
            measure: move || move || over,
            apply: move |detail| {
                lock(&seen).push(detail);
                Ok(effective(detail))
            },
        };
        let mut left_out = Vec::new();
        for _ in 0..14 {
            let before = keeper.policy.level();
            if keeper.policy.window((keeper.measure)()()) {
                keeper.step(before, over);
                left_out.push(lock(&keeper.figures).left_out);
            }
        }
        assert_eq!(lock(&keeper.figures).sheds, left_out.len() as u64);
        let applied = lock(&applied).clone();
        (applied, left_out)
    }
}
