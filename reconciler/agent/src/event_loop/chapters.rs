//! The history as it is written: which generation did what to which sliver, why, and what came of it.

use xeno_model::id::{SliverId, Timestamp};
use xeno_model::observed::DomainState;
use xeno_reconciler::change::{Cause, Change, ChangeClass, Reason};
use xeno_reconciler::plan::Plan;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;
use xeno_state::record::{Chapter, EventKind};

use super::answers::cause_word;
use super::{Agent, Stage};
use crate::api::{FORMAT_VERSION, History, HistoryEntry};
use crate::handle::HandleError;

/// Most entries of one answer.
const HISTORY_MAX: u32 = 1000;

/// How long a guest must stay up, by node time, before its restarts are forgotten.
const STEADY_MS: u64 = 10 * 60_000;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    pub(super) async fn history(&mut self, of: Option<SliverId>, limit: u32) -> Result<History, HandleError> {
        let limit = limit.min(HISTORY_MAX);
        let read = self
            .store
            .read(move |state| state.history(of.as_ref(), limit))
            .await;
        let chapters = read.map_err(|error| HandleError::State {
            why: xeno_state::error::chain(&error),
        })?;
        Ok(History {
            format_version: FORMAT_VERSION,
            node: self.settings.node.to_string(),
            entries: chapters.into_iter().map(entry).collect(),
        })
    }

    /// Counts the restart of a guest that had ended by itself, once for each run, before it is carried out.
    pub(super) async fn count_restart(&mut self, sliver: &SliverId) {
        let Stage::Running(progress) = &mut self.stage else {
            return;
        };
        let change = progress.run.plan().changes.get(sliver);
        if !change.is_some_and(is_restart) || !progress.restarted.insert(sliver.clone()) {
            return;
        }
        let time = self.node_time();
        let times = self.memory.restarts.entry(sliver.clone()).or_default();
        times.push(time);
        let text = match times.len() {
            1 => format!("{sliver} had ended by itself, and is started again"),
            n => format!("{sliver} had ended by itself, and is started again for the {n}. time"),
        };
        let event = self.event(EventKind::Restarted, Some(sliver.clone()), text);
        let of = sliver.clone();
        self.remember(vec![event], move |w| w.restart(&of, time)).await;
    }

    /// Forgets the restarts of guests that have stayed up for a while since.
    pub(super) async fn forget_restarts(&mut self, plan: &Plan) {
        let time = self.node_time();
        let steady = |(sliver, times): &(&SliverId, &Vec<_>)| {
            let kept = plan
                .changes
                .get(*sliver)
                .is_none_or(|change| change.class == ChangeClass::Keep);
            let last = times.last().copied().unwrap_or_default();
            kept && time.since(last) >= STEADY_MS
        };
        let steady: Vec<_> = self
            .memory
            .restarts
            .iter()
            .filter(steady)
            .map(|(s, _)| s.clone())
            .collect();
        if steady.is_empty() {
            return;
        }
        for sliver in &steady {
            self.memory.restarts.remove(sliver);
        }
        self.remember(Vec::new(), move |w| {
            steady.iter().try_for_each(|sliver| w.forget_restarts(sliver))
        })
        .await;
    }
}

/// The chapters that a run begins: one for each sliver that it changes.
pub(super) fn chapters(plan: &Plan, run: i64, now: Timestamp) -> Vec<Chapter> {
    let changes = plan
        .changes
        .values()
        .filter(|change| !matches!(change.class, ChangeClass::Keep | ChangeClass::Wait));
    let chapter = |change: &Change| Chapter {
        run: Some(run),
        sliver: Some(change.sliver.clone()),
        generation: plan.generation,
        revision: plan.revision.clone(),
        class: change.class.word().to_owned(),
        cause: cause_word(change.cause).to_owned(),
        text: report::explain(change).join("; "),
        began: now,
        ended: None,
    };
    changes.map(chapter).collect()
}

/// Whether a change starts a guest again that had ended by itself.
fn is_restart(change: &Change) -> bool {
    change.cause == Cause::Drift
        && change.reasons.iter().any(|reason| {
            matches!(
                reason,
                Reason::DomainMissing
                    | Reason::DomainNotRunning {
                        state: DomainState::Crashed
                    }
            )
        })
}

fn entry(chapter: Chapter) -> HistoryEntry {
    let what = match (&chapter.sliver, chapter.class.as_str()) {
        (None, _) => chapter.text.clone(),
        (Some(sliver), class) => format!("{class} {sliver}: {}", chapter.text),
    };
    HistoryEntry {
        at_ms: chapter.began.0,
        generation: chapter.generation.0,
        revision: chapter.revision.to_string(),
        kind: match chapter.ended {
            Some((end, _)) if chapter.sliver.is_some() => end.as_str().to_owned(),
            None if chapter.sliver.is_some() => "underway".to_owned(),
            Some(_) | None => chapter.class.clone(),
        },
        text: what,
        sliver: chapter.sliver.map(|sliver| sliver.to_string()),
        class: chapter.run.map(|_| chapter.class),
        cause: chapter.run.map(|_| chapter.cause),
        ended_ms: chapter.ended.map(|(_, at)| at.0),
    }
}
