//! Where a run stands with a sliver, as reasons.

use xeno_model::id::SliverId;

use crate::action::ActionKey;
use crate::change::Reason;
use crate::exec::{ActionState, Run};

/// What keeps a sliver's change from being done yet: what went wrong first, then what is being done, then what comes
/// next. `now_ms` is of the clock that the run is told the time by.
#[must_use]
pub fn of_run(run: &Run, sliver: &SliverId, now_ms: u64) -> Vec<Reason> {
    let done = |key: &ActionKey| {
        let mut actions = run.actions();
        actions.any(|(planned, state)| planned.action.key() == *key && *state == ActionState::Done)
    };
    let (mut trouble, mut underway) = (Vec::new(), Vec::new());
    // What is further away follows from what is next.
    let (mut queued, mut gave_way) = (None, None);
    for (planned, state) in run
        .actions()
        .filter(|(planned, _)| planned.serves.contains(sliver))
    {
        let action = planned.action.key();
        match state {
            ActionState::Done => {}
            ActionState::Waiting if queued.is_some() => {}
            ActionState::Waiting => {
                let after = planned.after.iter().find(|key| !done(key)).cloned();
                queued = Some(Reason::RunQueued { action, after });
            }
            ActionState::InFlight => underway.push(Reason::RunUnderway { action }),
            ActionState::Pausing { until_ms, tries, why } => trouble.push(Reason::RunPausing {
                action,
                why: why.clone(),
                tries: *tries,
                wait_ms: until_ms.saturating_sub(now_ms),
            }),
            ActionState::Failed { tries, why } => trouble.push(Reason::RunFailed {
                action,
                why: why.clone(),
                tries: *tries,
            }),
            ActionState::Blocked { by } => trouble.push(Reason::RunBlocked {
                action,
                by: by.clone(),
            }),
            ActionState::Cancelled => {
                gave_way.get_or_insert(Reason::RunGaveWay { action });
            }
        }
    }
    trouble
        .into_iter()
        .chain(underway)
        .chain(queued)
        .chain(gave_way)
        .collect()
}
