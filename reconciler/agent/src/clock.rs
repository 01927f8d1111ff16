//! Two clocks: the wall's, for people and for the moments that they name, and one that only goes forward, for pauses.
//! What must outlive the agent is counted in node time ([`xeno_state::time`]).

use std::time::SystemTime;

use tokio::time::{Duration, Instant};
use xeno_model::id::Timestamp;
use xeno_state::time::BootMoment;

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
    wall: Wall,
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    System,
    /// The wall clock goes with the runtime's, from this time on; a test may move it.
    #[cfg(test)]
    From {
        start: &'static std::sync::atomic::AtomicU64,
        since: Instant,
    },
}

impl Clock {
    pub(crate) fn system() -> Self {
        Self {
            began: Instant::now(),
            wall: Wall::System,
        }
    }

    #[cfg(test)]
    pub(crate) fn from_ms(start: u64) -> Self {
        Self {
            began: Instant::now(),
            wall: Wall::From {
                start: Box::leak(Box::new(start.into())),
                since: Instant::now(),
            },
        }
    }

    /// The clock of another agent on the same node: the same wall clock, and its own beginning.
    #[cfg(test)]
    pub(crate) fn again(&self) -> Self {
        Self {
            began: Instant::now(),
            wall: self.wall,
        }
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        match self.wall {
            Wall::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                Timestamp(millis(since.unwrap_or_default()))
            }
            #[cfg(test)]
            Wall::From { start, since } => {
                let start = start.load(std::sync::atomic::Ordering::Relaxed);
                Timestamp(start + millis(since.elapsed()))
            }
        }
    }

    /// Moves the wall clock, as a person or a time server would.
    #[cfg(test)]
    pub(crate) fn jump(&self, ms: i64) {
        let Wall::From { start, .. } = self.wall else {
            return;
        };
        let moved = start
            .load(std::sync::atomic::Ordering::Relaxed)
            .saturating_add_signed(ms);
        start.store(moved, std::sync::atomic::Ordering::Relaxed);
    }

    /// Milliseconds since the agent began; never goes back.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// The moment at which [`Clock::elapsed_ms`] will be `ms`.
    pub(crate) fn at_ms(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }
}

/// This moment within this boot of the machine. Where the system does not say which boot it is, it is a new one.
pub(crate) fn boot_moment() -> BootMoment {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot = boot.map(|text| text.trim().to_owned());
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    BootMoment {
        boot: boot.unwrap_or_else(|_| format!("unknown to process {}", std::process::id())),
        ms: uptime_ms(&uptime),
    }
}

/// The first number of `/proc/uptime`: seconds with two decimals (proc_uptime(5)).
fn uptime_ms(text: &str) -> u64 {
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    let (seconds, hundredths) = first.split_once('.').unwrap_or((first, "0"));
    let seconds: u64 = seconds.parse().unwrap_or(0);
    let hundredths: u64 = hundredths.parse().unwrap_or(0);
    seconds
        .saturating_mul(1_000)
        .saturating_add(hundredths.min(99) * 10)
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_read_as_the_kernel_writes_it() {
        assert_eq!(uptime_ms("350735.47 234388.90\n"), 350_735_470);
        assert_eq!(uptime_ms("7.05 0.00\n"), 7_050);
        assert_eq!(uptime_ms(""), 0);
        assert_eq!(uptime_ms("far too long"), 0);
        assert!(boot_moment().ms > 0, "this machine has one");
    }
}
