//! A process that wants a whole CPU for a bounded time: `seconds=N`.

use std::time::{Duration, Instant};

use super::Arguments;

/// Runs it.
pub fn run(arguments: &Arguments) {
    let until = Instant::now() + Duration::from_secs(arguments.get("seconds", 30).min(120));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}
