//! Two clocks: the wall's, for people and for windows of hours, and one that only goes forward, for pauses.

use std::time::SystemTime;

use tokio::time::{Duration, Instant};
use xeno_model::id::Timestamp;

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Instant,
    wall: Wall,
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    System,
    /// The wall clock goes with the runtime's, from this time on.
    #[cfg(test)]
    From(u64),
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
            wall: Wall::From(start),
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
            Wall::From(start) => Timestamp(start + self.elapsed_ms()),
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

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
