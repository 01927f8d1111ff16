//! Changes of rollouts that this node has asked the board for: one at a time for each slice, and pauses after those that came
//! second.

use std::collections::BTreeMap;

use tokio::time::Instant;
use xeno_model::id::SliceName;
use xeno_state::board::pace::Pace;

/// What was asked of the board, by slice.
#[derive(Default)]
pub(super) struct Asking {
    slices: BTreeMap<SliceName, Asked>,
}

#[derive(Default)]
struct Asked {
    /// The answer is awaited.
    under_way: bool,
    /// How many in a row came second.
    refused: u32,
    pause: Option<Instant>,
}

impl Asking {
    /// Whether the board may be asked for something about a slice.
    pub(super) fn is_free(&self, slice: &SliceName, now: Instant) -> bool {
        let asked = self.slices.get(slice);
        asked.is_none_or(|asked| !asked.under_way && asked.pause.is_none_or(|until| until <= now))
    }

    /// Something is asked.
    pub(super) fn begins(&mut self, slice: &SliceName) {
        self.slices.entry(slice.clone()).or_default().under_way = true;
    }

    /// The board has answered: whether the change was made, or why nobody knows.
    pub(super) fn ends(&mut self, slice: &SliceName, done: Result<bool, String>, pace: &mut Pace) {
        let asked = self.slices.entry(slice.clone()).or_default();
        asked.under_way = false;
        if done == Ok(true) {
            (asked.refused, asked.pause) = (0, None);
            return;
        }
        asked.refused = asked.refused.saturating_add(1);
        let wait = match done {
            Ok(_) => pace.until_contention(asked.refused),
            Err(why) => {
                tracing::warn!("the rollout of {slice} cannot be changed: {why}");
                pace.until_retry(asked.refused)
            }
        };
        asked.pause = Some(Instant::now() + wait);
    }

    /// Answers were lost.
    pub(super) fn lost(&mut self) {
        for asked in self.slices.values_mut() {
            asked.under_way = false;
        }
    }

    /// A commit was read: what is asked now is something else.
    pub(super) fn starts_over(&mut self) {
        self.slices.retain(|_, asked| asked.under_way);
        for asked in self.slices.values_mut() {
            (asked.refused, asked.pause) = (0, None);
        }
    }

    /// When pauses end.
    pub(super) fn pauses(&self) -> impl Iterator<Item = Instant> {
        self.slices.values().filter_map(|asked| asked.pause)
    }
}
