//! How a sliver is, by what its node knows of it.

use xeno_model::observed::HealthVerdict;

use super::Condition;
use crate::change::{Change, ChangeClass, Reason};

/// How a sliver is, as its rollout sees it. `failure`: why its node has given up on it for now; `change`: what the last plan says of
/// it; `health`: what was last asked of what serves for it, where it is asked at all.
#[must_use]
pub fn condition(
    failure: Option<String>,
    change: Option<&Change>,
    health: Option<&HealthVerdict>,
) -> Condition {
    if let Some(why) = failure {
        return Condition::Failed { why };
    }
    let Some(change) = change else {
        return Condition::Changing;
    };
    // One that waits for its rollout, or for somebody to approve what comes, is as it should be until then.
    let waits = |reason: &Reason| matches!(reason, Reason::RolloutWaits { .. } | Reason::Unapproved { .. });
    let kept = match change.class {
        ChangeClass::Keep => true,
        ChangeClass::Wait => !change.reasons.is_empty() && change.reasons.iter().all(waits),
        ChangeClass::InPlace
        | ChangeClass::Create
        | ChangeClass::Start
        | ChangeClass::Resume
        | ChangeClass::Replace
        | ChangeClass::Reboot
        | ChangeClass::Suspend
        | ChangeClass::Stop
        | ChangeClass::Remove
        | ChangeClass::HandOver
        | ChangeClass::Purge => false,
    };
    if !kept {
        return Condition::Changing;
    }
    match health {
        None | Some(HealthVerdict::Healthy) => Condition::Healthy,
        Some(HealthVerdict::Starting) => Condition::Changing,
        Some(HealthVerdict::Unhealthy { why }) => Condition::Failed {
            why: format!("its health check fails: {why}"),
        },
    }
}
