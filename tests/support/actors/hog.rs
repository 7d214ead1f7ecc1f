//! A process that wants a whole CPU for a bounded time: `seconds=N [fifo=1 busy_ms=N idle_ms=N]`.
//!
//! With `fifo` it runs before everything that has no real-time priority, in bursts of `busy_ms` with pauses of `idle_ms`:
//! whoever wakes during a burst waits for its end. The kernel leaves others 5 % of each second whatever happens.

use std::time::{Duration, Instant};

use super::Arguments;
use crate::{clock, realtime};

/// Runs it.
pub fn run(arguments: &Arguments) {
    let until = Instant::now() + Duration::from_secs(arguments.get("seconds", 30).min(120));
    if arguments.get("fifo", 0) == 1 {
        realtime::take(10);
    }
    let busy = Duration::from_millis(arguments.get("busy_ms", 1000));
    let idle = Duration::from_millis(arguments.get("idle_ms", 0));
    while Instant::now() < until {
        let burst = Instant::now() + busy;
        while Instant::now() < burst {
            std::hint::spin_loop();
        }
        if !idle.is_zero() {
            clock::pace(idle);
        }
    }
}
