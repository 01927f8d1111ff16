//! Waiting for the machine to have nothing else to do. What a wake-up costs can only be seen where processors sleep.

use std::fs;
use std::time::{Duration, Instant};

/// How long the machine is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// Of all processors' time, the part that others may use.
const BUSY_MAX: f64 = 0.04;

/// Time of all processors since the machine started: in all, and asleep (proc_stat(5), in ticks).
#[derive(Clone, Copy)]
struct Times {
    all: u64,
    idle: u64,
}

fn times() -> Option<Times> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // User, nice, system, idle, iowait, irq, softirq, steal; guests' time is in the first two already.
    let all = fields.iter().take(8).sum();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(Times { all, idle })
}

/// Waits until the machine has been quiet for a moment, but not longer than `patience`. Whether it was.
pub(crate) fn wait(patience: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let before = times();
        std::thread::sleep(GLANCE);
        let (Some(before), Some(after)) = (before, times()) else {
            return false;
        };
        let (all, idle) = (after.all - before.all, after.idle.saturating_sub(before.idle));
        let busy = u32::try_from(all.saturating_sub(idle)).map_or(f64::MAX, f64::from);
        if busy <= BUSY_MAX * u32::try_from(all).map_or(f64::MAX, f64::from) {
            return true;
        }
    }
    false
}
