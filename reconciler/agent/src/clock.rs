//! Three clocks: the wall's, for people and for the moments that they name, one that only goes forward, for pauses, and one that
//! also goes on while the machine sleeps, for leases.
//! What must outlive the agent is counted in node time ([`xeno_state::time`]).

use std::time::SystemTime;

use tokio::time::{Duration, Instant};
use xeno_model::id::Timestamp;
use xeno_reconciler::ports::BootInstant;
use xeno_state::time::BootMoment;

#[cfg(any(test, feature = "lab"))]
const NANOS_PER_MS: u64 = 1_000_000;

/// Reads the clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
    wall: Wall,
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    System,
    /// Goes with the runtime's, and is turned by hand.
    #[cfg(any(test, feature = "lab"))]
    Lab(LabClock),
}

/// A wall clock that goes with the runtime's clock, and that a test can turn. It outlives the agents that read it.
#[cfg(any(test, feature = "lab"))]
#[derive(Clone, Copy, Debug)]
pub struct LabClock {
    began: Instant,
    // Leaked, so that a clock can be copied: a test makes few.
    start_ms: &'static std::sync::atomic::AtomicU64,
}

#[cfg(any(test, feature = "lab"))]
impl LabClock {
    /// Begins at `start_ms`.
    #[must_use]
    pub fn new(start_ms: u64) -> Self {
        Self {
            began: Instant::now(),
            start_ms: Box::leak(Box::new(start_ms.into())),
        }
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let start_ms = self.start_ms.load(std::sync::atomic::Ordering::SeqCst);
        Timestamp(start_ms.saturating_add(millis(self.began.elapsed())))
    }

    /// How long the machine has been up: since this clock began, in one boot.
    pub(crate) fn boot_moment(&self) -> BootMoment {
        BootMoment {
            boot: "laboratory".to_owned(),
            ms: millis(self.began.elapsed()),
        }
    }

    /// The same, as leases are counted by it.
    #[must_use]
    pub fn boot_now(&self) -> BootInstant {
        BootInstant(self.boot_moment().ms.saturating_mul(NANOS_PER_MS))
    }

    /// Turns it, forward or back, as somebody with a wrong idea of the time would.
    pub fn turn(&self, by_ms: i64) {
        let order = std::sync::atomic::Ordering::SeqCst;
        let turned = |start: u64| Some(start.saturating_add_signed(by_ms));
        // It never refuses, so there is no error to look at.
        let _ = self.start_ms.fetch_update(order, order, turned);
    }
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
        Self::lab(LabClock::new(start))
    }

    #[cfg(any(test, feature = "lab"))]
    pub(crate) fn lab(wall: LabClock) -> Self {
        Self {
            began: Instant::now(),
            wall: Wall::Lab(wall),
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
            #[cfg(any(test, feature = "lab"))]
            Wall::Lab(clock) => clock.now(),
        }
    }

    /// The clock that leases are counted by: the file server looks at the same.
    pub(crate) fn boot_now(&self) -> BootInstant {
        match self.wall {
            Wall::System => BootInstant(cowfs::lease::now()),
            #[cfg(any(test, feature = "lab"))]
            Wall::Lab(clock) => clock.boot_now(),
        }
    }

    /// Moves the wall clock, as a person or a time server would.
    #[cfg(test)]
    pub(crate) fn jump(&self, ms: i64) {
        if let Wall::Lab(clock) = self.wall {
            clock.turn(ms);
        }
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
