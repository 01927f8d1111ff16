//! Where a run stands with a sliver, as reasons.

use xeno_model::id::SliverId;

use crate::change::Reason;
use crate::exec::{ActionState, Run};

/// What keeps a sliver's change from being done yet: what went wrong first, then what is being done, then what comes
/// next. `now_ms` is of the clock that the run is told the time by.
#[must_use]
pub fn of_run(run: &Run, sliver: &SliverId, now_ms: u64) -> Vec<Reason> {
    let done = |key| {
        let mut actions = run.actions();
        actions.any(|(planned, state)| planned.action.key() == key && *state == ActionState::Done)
    };
    let (mut trouble, mut underway, mut queued) = (Vec::new(), Vec::new(), Vec::new());
    let mut gave_way = Vec::new();
    for (planned, state) in run
        .actions()
        .filter(|(planned, _)| planned.serves.contains(sliver))
    {
        let action = planned.action.key();
        match state {
            ActionState::Done => {}
            ActionState::Waiting => queued.push(Reason::RunQueued {
                action,
                after: planned.after.iter().find(|key| !done((*key).clone())).cloned(),
            }),
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
            ActionState::Cancelled => gave_way.push(Reason::RunGaveWay { action }),
        }
    }
    // What is further away follows from what is next.
    queued.truncate(1);
    gave_way.truncate(1);
    trouble
        .into_iter()
        .chain(underway)
        .chain(queued)
        .chain(gave_way)
        .collect()
}
