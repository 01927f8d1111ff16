//! Whether to look for the next call instead of sleeping until it comes.
//!
//! A client that asks one thing after the other has its next call ready some microseconds after a reply. To sleep in between
//! costs a wake-up, which takes longer than the client and most answers, and where a processor falls asleep with the server, longer by
//! far. So a connection that has seen its calls come quickly looks for the next one, for no longer than the wake-up would
//! cost; and where that was in vain too often, it sleeps as before.

use std::time::Duration;

/// How long one look may take. On an idle machine (virtual, two processors) a call of a client with one outstanding comes some 40 µs
/// after its last reply, of which half is two wake-ups.
const LOOK_MAX: Duration = Duration::from_micros(100);

/// From which score on a look is worth it.
const WORTH: u8 = 8;

/// The best score.
const BEST: u8 = 2 * WORTH;

/// What a call that was long in coming takes from the score. So of five looks at most one is in vain, however calls come.
const IN_VAIN: u8 = 4;

/// What a connection has seen of its client's pace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Eager {
    score: u8,
}

impl Eager {
    /// How long to look for the next call; `None`: not at all.
    pub(super) fn look(self) -> Option<Duration> {
        (self.score >= WORTH).then_some(LOOK_MAX)
    }

    /// A call has come, so long after everything before it was answered.
    #[must_use]
    pub(super) fn after(self, gap: Duration) -> Self {
        let score = if gap <= LOOK_MAX {
            (self.score + 1).min(BEST)
        } else {
            self.score.saturating_sub(IN_VAIN)
        };
        Self { score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(10);
    const SLOW: Duration = Duration::from_millis(1);

    fn paced(gaps: impl IntoIterator<Item = Duration>) -> Eager {
        gaps.into_iter().fold(Eager::default(), Eager::after)
    }

    fn quick(count: usize) -> impl Iterator<Item = Duration> {
        std::iter::repeat_n(QUICK, count)
    }

    #[test]
    fn looks_once_calls_come_quickly() {
        assert_eq!(Eager::default().look(), None);
        assert_eq!(paced(quick(7)).look(), None);
        assert_eq!(paced(quick(8)).look(), Some(LOOK_MAX));
        assert_eq!(paced(quick(1000)).look(), Some(LOOK_MAX));
    }

    #[test]
    fn sleeps_again_when_they_do_not() {
        let ends = |slow: usize| quick(1000).chain(std::iter::repeat_n(SLOW, slow));
        // A pause now and then is forgiven.
        assert_eq!(paced(ends(2)).look(), Some(LOOK_MAX));
        assert_eq!(paced(ends(3)).look(), None);
        // Whoever asks quickly half of the time, in whatever order, is not looked for for long.
        let mixed = (0..1000).map(|n| if n % 2 == 0 { QUICK } else { SLOW });
        assert_eq!(paced(mixed).look(), None);
    }

    #[test]
    fn looks_in_vain_are_paid_for_by_calls_that_came_quickly() {
        // Every sequence of 18 gaps, as bits.
        for sequence in 0..1_u32 << 18 {
            let (mut eager, mut came, mut in_vain) = (Eager::default(), 0, 0);
            for at in 0..18 {
                let gap = if sequence >> at & 1 == 0 { QUICK } else { SLOW };
                if gap == QUICK {
                    came += 1;
                } else if eager.look().is_some() {
                    in_vain += 1;
                }
                eager = eager.after(gap);
            }
            assert!(in_vain * u32::from(IN_VAIN) <= came, "{sequence:b}");
        }
    }
}
