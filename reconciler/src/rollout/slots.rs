//! The transitions of a record that nodes make: each gives the next record, or says why not.

use xeno_model::desired::OnFailure;
use xeno_model::id::NodeName;

use super::turn::{Aim, Outside, Own, Turn, Wait, may_change};
use super::{FAILED_MAX, Proposal, RolloutRecord, SKIPPED_MAX, Signed, Verdict, Waves, bounded};

/// Why a record does not change so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The sliver may not begin.
    #[error("{0}")]
    NotYet(Wait),
    /// The sliver needs no slot.
    #[error("it needs no slot")]
    Needless,
    /// Another node has the sliver's slot, or nobody has.
    #[error("the slot is not this node's")]
    NotYours,
    /// The rollout is at another point than whoever proposes this thought.
    #[error("the rollout has gone on since")]
    Stale,
    /// It cannot be done with a rollout that is where this one is.
    #[error("{0}")]
    Senseless(String),
}

impl RolloutRecord {
    /// A node takes the slot of a sliver of its own.
    ///
    /// # Errors
    /// [`Refused`] where [`may_change`] does not say that it may.
    pub fn take_slot(&self, own: Own<'_>, outside: Outside<'_>) -> Result<Self, Refused> {
        match may_change(Some(self), own, outside) {
            Turn::Take(_) => {
                let mut next = self.clone();
                next.slots.insert(own.number, own.node.clone());
                Ok(next)
            }
            Turn::Wait(wait) => Err(Refused::NotYet(wait)),
            Turn::Stay | Turn::Go(_) => Err(Refused::Needless),
        }
    }

    /// A node gives the slot of a sliver back: it is as it should be, and healthy.
    ///
    /// # Errors
    /// [`Refused::NotYours`].
    pub fn give_back(&self, number: u32, node: &NodeName) -> Result<Self, Refused> {
        if self.slots.get(&number) != Some(node) {
            return Err(Refused::NotYours);
        }
        let mut next = self.clone();
        next.slots.remove(&number);
        Ok(next)
    }

    /// A sliver has failed: its node gives up on it. Where that is one too many, the verdict is part of the same change.
    ///
    /// # Errors
    /// [`Refused::NotYours`] where another node has its slot; [`Refused::Stale`] where it has been counted.
    pub fn fail(
        &self,
        number: u32,
        node: &NodeName,
        why: &str,
        slivers: u32,
        signed: Signed<'_>,
    ) -> Result<Self, Refused> {
        if self.slots.get(&number).is_some_and(|by| by != node) {
            return Err(Refused::NotYours);
        }
        let counts = match self.verdict {
            Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } => true,
            // What fails on its way back changes nothing any more, and what fails long after is no part of it.
            Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => false,
        };
        let slotted = self.slots.contains_key(&number);
        let counted = self.failed.contains(&number);
        if !slotted && (counted || !counts) {
            return Err(Refused::Stale);
        }
        let mut next = self.clone();
        next.slots.remove(&number);
        if counts && !counted {
            next.note(signed, format!("sliver {number} failed: {why}"));
            if next.failed.len() < FAILED_MAX {
                next.failed.insert(number);
            }
            if let Some(why) = next.breach(slivers) {
                next.condemn(&why, signed);
            }
        }
        Ok(next)
    }

    /// A sliver that had failed is healthy after all, as the rollout wants it.
    ///
    /// # Errors
    /// [`Refused::Stale`] where it is not counted, or it is too late.
    pub fn recover(&self, number: u32, signed: Signed<'_>) -> Result<Self, Refused> {
        if self.aim() == Aim::Back || !self.failed.contains(&number) {
            return Err(Refused::Stale);
        }
        let mut next = self.clone();
        next.failed.remove(&number);
        next.note(signed, format!("sliver {number} is healthy after all"));
        Ok(next)
    }

    /// What a witness proposes comes true.
    ///
    /// # Errors
    /// [`Refused::Stale`] where the record is not where the witness saw it.
    pub fn go_on(&self, proposal: &Proposal, waves: &Waves, signed: Signed<'_>) -> Result<Self, Refused> {
        if self.verdict != Verdict::Rolling {
            return Err(Refused::Stale);
        }
        let mut next = self.clone();
        match proposal {
            Proposal::Skip(numbers) => {
                let at_canaries = waves.is_of_canaries(self.wave);
                if !at_canaries || numbers.len() > SKIPPED_MAX || *numbers == self.skipped {
                    return Err(Refused::Stale);
                }
                let named: Vec<String> = numbers.iter().take(8).map(ToString::to_string).collect();
                let what = format!("others are the canaries instead of sliver {}", named.join(", "));
                next.skipped.clone_from(numbers);
                next.note(signed, what);
            }
            Proposal::Advance { from } => {
                if self.wave != *from || *from >= waves.last() {
                    return Err(Refused::Stale);
                }
                next.wave += 1;
                next.note(
                    signed,
                    format!("wave {} of {} begins", next.wave + 1, waves.count()),
                );
            }
            Proposal::Finish { from } => {
                if self.wave != *from {
                    return Err(Refused::Stale);
                }
                next.verdict = Verdict::Done;
                next.note(signed, "all waves are through");
            }
        }
        Ok(next)
    }

    /// Why the rollout has failed, if too many of its slivers have.
    #[must_use]
    pub fn breach(&self, slivers: u32) -> Option<String> {
        let max = self.policy.max_failed.of(slivers);
        let failed = u32::try_from(self.failed.len()).unwrap_or(u32::MAX);
        let full = self.failed.len() >= FAILED_MAX;
        (failed > max || full).then(|| format!("{failed} of {slivers} slivers failed, and {max} may"))
    }

    /// Writes the verdict that its policy asks for.
    pub(super) fn condemn(&mut self, why: &str, signed: Signed<'_>) {
        if matches!(self.verdict, Verdict::Held { .. }) {
            return;
        }
        let why = bounded(why.to_owned());
        let (verdict, what) = match self.policy.on_failure {
            OnFailure::Rollback => {
                let what = format!("the rollout has failed, and all go back: {why}");
                (Verdict::Failed { why }, what)
            }
            OnFailure::Hold => {
                let what = format!("the rollout is held, and all stay as they are: {why}");
                (Verdict::Held { why }, what)
            }
        };
        self.verdict = verdict;
        self.note(signed, what);
    }
}
