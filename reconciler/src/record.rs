//! What a run leaves behind: the third side of the next comparison.
//!
//! A sliver's record is written once all of its actions are done, and not before. A run that ends in the middle leaves
//! the record of what was carried through last, and the next plan goes on from what is observed.

use std::collections::BTreeMap;

use xeno_model::id::SliverId;

use crate::change::{AppliedSliver, ChangeClass};
use crate::diff::epoch_of;
use crate::effective::effective;
use crate::plan::{Plan, PlanInput};

/// What to do with a sliver's record once its actions are done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are records")]
pub enum Settlement {
    /// This is now what was last carried through.
    Record(AppliedSliver),
    /// There is nothing of it any more.
    Forget,
}

/// The record each sliver of a plan gets once it is among [`Run::settled`](crate::exec::Run::settled). Slivers whose
/// record stays as it is have no entry.
#[must_use]
pub fn settlements(input: &PlanInput<'_>, plan: &Plan) -> BTreeMap<SliverId, Settlement> {
    let settle = |(sliver, class): (&SliverId, ChangeClass)| match class {
        ChangeClass::Keep | ChangeClass::Wait => None,
        ChangeClass::Remove | ChangeClass::HandOver | ChangeClass::Purge => {
            Some((sliver.clone(), Settlement::Forget))
        }
        ChangeClass::InPlace
        | ChangeClass::Create
        | ChangeClass::Start
        | ChangeClass::Resume
        | ChangeClass::Replace
        | ChangeClass::Reboot
        | ChangeClass::Suspend
        | ChangeClass::Stop => {
            let applied = AppliedSliver {
                // As it was reconciled: one that was kept down has been stopped, and is started when that is over.
                desired: effective(input.desired, input.desired.slivers.get(sliver)?, input.now)
                    .0
                    .into_owned(),
                epoch: epoch_of(input, sliver),
                complete: true,
                at: input.now,
            };
            Some((sliver.clone(), Settlement::Record(applied)))
        }
    };
    plan.changes
        .iter()
        .map(|(sliver, change)| (sliver, change.class))
        .filter_map(settle)
        .collect()
}
