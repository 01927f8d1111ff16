//! What people do to a rollout.

use super::slots::Refused;
use super::{Aim, RolloutRecord, Signed, Verdict, Waves, bounded};

impl RolloutRecord {
    /// Nothing new begins until somebody says [`resume`](Self::resume). What has begun is finished.
    ///
    /// # Errors
    /// [`Refused::Senseless`] where nothing is under way.
    pub fn pause(&self, signed: Signed<'_>) -> Result<Self, Refused> {
        match &self.verdict {
            Verdict::Rolling => {}
            Verdict::Paused { by } => return Err(senseless(format!("it is paused already, by {by}"))),
            Verdict::Held { .. } | Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => {
                return Err(self.not_under_way());
            }
        }
        let mut next = self.clone();
        next.verdict = Verdict::Paused {
            by: bounded(signed.by.to_owned()),
        };
        next.note(signed, "paused");
        Ok(next)
    }

    /// Goes on with what is paused or held, and tries again, from the canaries on, what failed or was aborted.
    ///
    /// # Errors
    /// [`Refused::Senseless`] where nothing is paused, held, failed or aborted.
    pub fn resume(&self, signed: Signed<'_>) -> Result<Self, Refused> {
        let mut next = self.clone();
        let what = match &self.verdict {
            Verdict::Paused { .. } => "resumed",
            Verdict::Held { .. } => {
                next.failed.clear();
                "resumed: what failed is tried again"
            }
            Verdict::Failed { .. } | Verdict::Aborted { .. } => {
                (next.wave, next.failed, next.skipped) = (0, [].into(), [].into());
                "tried again from the beginning"
            }
            Verdict::Rolling => return Err(senseless("it is not paused".to_owned())),
            Verdict::Done => return Err(self.not_under_way()),
        };
        next.verdict = Verdict::Rolling;
        next.note(signed, what);
        Ok(next)
    }

    /// Begins the next wave without waiting for the one before; with `all`, the last.
    ///
    /// # Errors
    /// [`Refused::Senseless`] where nothing is under way, or no wave is left.
    pub fn promote(&self, all: bool, waves: &Waves, signed: Signed<'_>) -> Result<Self, Refused> {
        match &self.verdict {
            Verdict::Rolling | Verdict::Paused { .. } => {}
            Verdict::Held { .. } | Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => {
                return Err(self.not_under_way());
            }
        }
        if self.wave >= waves.last() {
            return Err(senseless("its last wave has begun".to_owned()));
        }
        let mut next = self.clone();
        next.wave = if all { waves.last() } else { self.wave + 1 };
        next.verdict = Verdict::Rolling;
        let what = format!("promoted: wave {} of {} begins", next.wave + 1, waves.count());
        next.note(signed, what);
        Ok(next)
    }

    /// All go back to what was good before a rollout that is not through.
    ///
    /// # Errors
    /// [`Refused::Senseless`] where it is through, or they go back already.
    pub fn abort(&self, signed: Signed<'_>) -> Result<Self, Refused> {
        match &self.verdict {
            Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } => {
                self.back("aborted: all go back", signed)
            }
            Verdict::Done => Err(senseless("it is through: `undo` goes back".to_owned())),
            Verdict::Failed { .. } | Verdict::Aborted { .. } => Err(self.not_under_way()),
        }
    }

    /// All go back to what was good before a rollout that is through.
    ///
    /// # Errors
    /// [`Refused::Senseless`] where it is not through, or nothing was there before.
    pub fn undo(&self, signed: Signed<'_>) -> Result<Self, Refused> {
        match &self.verdict {
            Verdict::Done
                if self
                    .good
                    .as_ref()
                    .is_none_or(|good| good.revision == self.to.revision) =>
            {
                Err(senseless("nothing is known that it could go back to".to_owned()))
            }
            Verdict::Done => self.back("undone: all go back", signed),
            Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } => {
                Err(senseless("it is not through: `abort` goes back".to_owned()))
            }
            Verdict::Failed { .. } | Verdict::Aborted { .. } => Err(self.not_under_way()),
        }
    }

    /// Ends it with the verdict that its policy asks for, because too many failed, or all canaries.
    ///
    /// # Errors
    /// [`Refused::Stale`] where not so many have, or it has a verdict.
    pub fn roll_back(&self, why: &str, waves: &Waves, signed: Signed<'_>) -> Result<Self, Refused> {
        let canaries = waves.is_of_canaries(self.wave) && !self.failed.is_empty();
        if self.verdict != Verdict::Rolling || !canaries && self.breach(waves.slivers()).is_none() {
            return Err(Refused::Stale);
        }
        let mut next = self.clone();
        next.condemn(why, signed);
        Ok(next)
    }

    fn back(&self, what: &str, signed: Signed<'_>) -> Result<Self, Refused> {
        let mut next = self.clone();
        next.verdict = Verdict::Aborted {
            by: bounded(signed.by.to_owned()),
        };
        next.note(signed, what);
        debug_assert_eq!(next.aim(), Aim::Back);
        Ok(next)
    }

    fn not_under_way(&self) -> Refused {
        senseless(format!("no rollout is under way: {}", self.verdict))
    }
}

fn senseless(why: String) -> Refused {
    Refused::Senseless(why)
}
