//! What the agent and its kernel programs cost, measured over a window of time.
//!
//! In: counters at both ends of a window. Out: a [`Measurement`]. Used by the budget, `spantap self` and nothing else. While a
//! window is open the kernel counts the programs' run times.
//!
//! The budget counts what leaving out detail can lower ([`Measurement::sheddable_ns`]): of the agent only the threads that capture, and of
//! the hooks of system calls not what each run takes at least, since they run for every call of the host at every step, and leaving out what is
//! selected for that would blind the agent and save nothing.

pub mod threads;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use crate::{
    capture::Figures,
    kernel::{
        budget::Cost,
        stats::{self, Programs, Runs},
    },
};

/// Who looks: each has peaks of its own.
#[derive(Clone, Copy, Debug)]
pub enum Looker {
    /// The budget.
    Budget = 0,
    /// `spantap self`.
    Operator = 1,
}

/// Measures.
#[derive(Clone)]
pub struct Meter {
    programs: Arc<Programs>,
    figures: Arc<Figures>,
    ring_bytes: u64,
}

/// An open window.
pub struct Window {
    meter: Meter,
    looker: Looker,
    start: Instant,
    before: Counters,
    /// Has run times counted; or why they are not.
    counting: Result<OwnedFd, String>,
}

struct Counters {
    programs: Vec<Runs>,
    agent_cpu_ns: u64,
    capture_cpu_ns: u64,
    spans: u64,
    records: u64,
}

/// What happened in a window.
#[derive(Clone, Debug, Default)]
pub struct Measurement {
    /// Its length.
    pub window_ns: u64,
    /// CPUs of the host.
    pub cpus: u64,
    /// Runs of each program; all zero if they were not counted.
    pub programs: Vec<Runs>,
    /// What each run costs beside its body.
    pub empty_run_ns: u64,
    /// What the body of a hook of system calls takes at least.
    pub idle_body_ns: u64,
    /// Why runs were not counted, if they were not.
    pub not_counted: Option<String>,
    /// CPU time of the agent itself.
    pub agent_cpu_ns: u64,
    /// Of that, its threads that capture.
    pub capture_cpu_ns: u64,
    /// Spans finished.
    pub spans: u64,
    /// Records taken from the ring.
    pub records: u64,
    /// How full the ring was at most.
    pub ring_percent: f64,
}

impl Meter {
    /// Of these programs and this loop, which reads a ring of `ring_bytes`.
    pub fn new(programs: Arc<Programs>, figures: Arc<Figures>, ring_bytes: u64) -> Self {
        Self { programs, figures, ring_bytes }
    }

    /// Opens a window.
    pub fn begin(&self, looker: Looker) -> Window {
        let counting = stats::count_run_time().map_err(|error| stats::not_counted(&error));
        self.figures.ring_peak.take(looker as usize);
        Window { before: self.counters(), meter: self.clone(), looker, start: Instant::now(), counting }
    }

    fn counters(&self) -> Counters {
        Counters {
            programs: self.programs.runs(),
            agent_cpu_ns: stats::own_cpu_ns(),
            capture_cpu_ns: threads::cpu_ns(),
            spans: self.figures.spans.load(Ordering::Relaxed),
            records: self.figures.records.load(Ordering::Relaxed),
        }
    }
}

impl Window {
    /// Closes it.
    pub fn end(self) -> Measurement {
        let window_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (before, after) = (self.before, self.meter.counters());
        let peak = self.meter.figures.ring_peak.take(self.looker as usize);
        let difference = |(after, before): (Runs, Runs)| Runs {
            runs: after.runs.saturating_sub(before.runs),
            run_ns: after.run_ns.saturating_sub(before.run_ns),
            ..after
        };
        Measurement {
            window_ns,
            cpus: stats::cpus(),
            programs: after.programs.into_iter().zip(before.programs).map(difference).collect(),
            empty_run_ns: self.meter.programs.empty_run_ns(),
            idle_body_ns: self.meter.programs.idle_body_ns(),
            not_counted: self.counting.err(),
            agent_cpu_ns: after.agent_cpu_ns.saturating_sub(before.agent_cpu_ns),
            capture_cpu_ns: after.capture_cpu_ns.saturating_sub(before.capture_cpu_ns),
            spans: after.spans.saturating_sub(before.spans),
            records: after.records.saturating_sub(before.records),
            // A drain also takes what arrives meanwhile.
            ring_percent: (peak as f64 * 100.0 / self.meter.ring_bytes.max(1) as f64).min(100.0),
        }
    }
}

impl Measurement {
    /// CPU time of one program, the way into it and out included.
    pub fn program_ns(&self, runs: &Runs) -> u64 {
        runs.run_ns.saturating_add(runs.runs.saturating_mul(self.empty_run_ns))
    }

    /// CPU time of all programs; 0 if runs were not counted.
    pub fn kernel_ns(&self) -> u64 {
        self.programs.iter().map(|runs| self.program_ns(runs)).sum()
    }

    /// CPU time that leaving out detail can lower: kernel programs, less what the hooks of system calls take at least, and the threads
    /// that capture.
    pub fn sheddable_ns(&self) -> u64 {
        let least = |runs: &Runs| match runs.hook {
            hook if stats::SYSCALL_HOOKS.contains(&hook) => {
                runs.runs.saturating_mul(self.empty_run_ns.saturating_add(self.idle_body_ns))
            }
            _ => 0,
        };
        let program = |runs: &Runs| self.program_ns(runs).saturating_sub(least(runs));
        self.programs.iter().map(program).fold(self.capture_cpu_ns, u64::saturating_add)
    }

    /// As a share of all CPUs.
    pub fn percent(&self, ns: u64) -> f64 {
        ns as f64 * 100.0 / (self.window_ns.max(1) as f64 * self.cpus.max(1) as f64)
    }

    /// For the budget; `lost`: records that found the ring full in the window.
    pub fn cost(&self, lost: u64) -> Cost {
        let cpu_percent = self.percent(self.sheddable_ns());
        Cost { cpu_percent, ring_percent: self.ring_percent, lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_cpus_and_includes_the_way_into_programs() {
        let runs = |runs, run_ns| Runs { hook: "h", means: "tp_btf", runs, run_ns };
        let measurement = Measurement {
            window_ns: 1_000_000_000,
            cpus: 4,
            programs: vec![runs(1_000_000, 60_000_000), runs(0, 0)],
            empty_run_ns: 40,
            agent_cpu_ns: 900_000_000,
            capture_cpu_ns: 100_000_000,
            ring_percent: 12.5,
            ..Measurement::default()
        };
        assert_eq!(measurement.kernel_ns(), 100_000_000);
        assert_eq!(measurement.cost(7), Cost { cpu_percent: 5.0, ring_percent: 12.5, lost: 7 });
        assert_eq!(Measurement::default().cost(0), Cost::default());
    }

    #[test]
    fn what_every_system_call_of_the_host_costs_takes_no_step() {
        let runs = |hook, runs, run_ns| Runs { hook, means: "tp_btf", runs, run_ns };
        let measurement = Measurement {
            window_ns: 1_000_000_000,
            cpus: 2,
            // A million calls that concern nothing, the same with work of 30 ms in them, and what is quicker than it can be.
            programs: vec![
                runs("sys_enter", 1_000_000, 40_000_000),
                runs("sys_exit", 1_000_000, 70_000_000),
                runs("sys_exit", 1_000_000, 1_000_000),
                runs("tcp_probe", 100_000, 6_000_000),
            ],
            empty_run_ns: 40,
            idle_body_ns: 40,
            ..Measurement::default()
        };
        assert_eq!(measurement.kernel_ns(), 117_000_000 + 3 * 40_000_000 + 4_000_000);
        assert_eq!(measurement.sheddable_ns(), 30_000_000 + 10_000_000);
    }
}
