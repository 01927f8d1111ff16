//! Rollouts for people: how far they are, and what people do to them.

use std::future::Future;
use std::sync::Arc;

use xeno_model::id::SliceName;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::rollout::{
    Aim, Condition, Outside, Own, Refused, RolloutRecord, Runs, Signed, Snapshot, Tally, Turn, Verdict,
    Wanted, Waves, may_change,
};

use super::super::Agent;
use super::Outline;
use crate::api::{
    FORMAT_VERSION, RolloutLine, RolloutRequest, RolloutSliverView, RolloutState, RolloutVerb, RolloutView,
    RolloutsView, VerdictWord, WaveView,
};
use crate::fleet::rollouts::Seen;
use crate::handle::{HandleError, Reply};

/// Tries of what a person asks for, where others change the record at the same time.
const TRIES_MAX: u32 = 8;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// How far the rollouts of the slices here are.
    pub(in crate::event_loop) fn rollouts_view(&self) -> Result<RolloutsView, HandleError> {
        let rolling = self.rolling.as_ref().ok_or_else(no_board)?;
        let seen = |(slice, outline): (&SliceName, &Outline)| {
            let seen = rolling.board.seen(slice)?;
            Some(view(slice, outline, &seen, seen.known.record.as_ref()?))
        };
        let problem = self
            .rights
            .as_ref()
            .and_then(super::super::rights::Rights::board_failure);
        Ok(RolloutsView {
            format_version: FORMAT_VERSION,
            node: self.settings.node.to_string(),
            problem,
            rollouts: rolling.slices.iter().filter_map(seen).collect(),
        })
    }

    /// Does what a person asks for. It is answered once the board has it; the loop does not wait.
    pub(in crate::event_loop) fn press(&self, request: &RolloutRequest, reply: Reply<()>) {
        match self.pressing(request) {
            Ok(pressing) => drop(tokio::spawn(async move { reply.send(pressing.await) })),
            // Who stopped waiting does not get an answer.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn pressing(
        &self,
        request: &RolloutRequest,
    ) -> Result<impl Future<Output = Result<(), HandleError>> + Send + 'static, HandleError> {
        let rolling = self.rolling.as_ref().ok_or_else(no_board)?;
        let invalid = |why: String| HandleError::Invalid { why };
        let slice = SliceName::new(&request.slice).map_err(|error| invalid(error.to_string()))?;
        let outline = rolling.slices.get(&slice).ok_or_else(|| {
            invalid(format!(
                "no sliver of `{slice}` is on this node; ask one that has some"
            ))
        })?;
        let placement = outline.placement.clone();
        let (board, at, request) = (Arc::clone(&rolling.board), self.clock.now(), request.clone());
        Ok(async move {
            for _ in 0..TRIES_MAX {
                let refused = |why: String| HandleError::InUse { why };
                let known = board.read_one(&slice).await.map_err(refused)?;
                let record = known
                    .record
                    .as_ref()
                    .ok_or_else(|| refused(format!("no rollout of `{slice}` has ever begun")))?;
                let waves = Waves::new(&record.policy, &placement, Waves::seed(&record.to));
                let signed = Signed { at, by: &request.by };
                let next = pressed(record, request.what, &waves, signed);
                let next = next.map_err(|error| refused(format!("the rollout of `{slice}`: {error}")))?;
                if board.swap(&slice, &known, &next).await.map_err(refused)? {
                    return Ok(());
                }
            }
            let why = format!("the rollout of `{slice}` changes all the time; try again");
            Err(HandleError::InUse { why })
        })
    }
}

fn pressed(
    record: &RolloutRecord,
    verb: RolloutVerb,
    waves: &Waves,
    signed: Signed<'_>,
) -> Result<RolloutRecord, Refused> {
    match verb {
        RolloutVerb::Pause => record.pause(signed),
        RolloutVerb::Resume => record.resume(signed),
        RolloutVerb::Promote => record.promote(false, waves, signed),
        RolloutVerb::PromoteAll => record.promote(true, waves, signed),
        RolloutVerb::Abort => record.abort(signed),
        RolloutVerb::Undo => record.undo(signed),
    }
}

fn no_board() -> HandleError {
    HandleError::Invalid {
        why: "this node has no board, so there are no rollouts: each commit counts at once (see docs/operations.md)"
            .to_owned(),
    }
}

fn view(slice: &SliceName, outline: &Outline, seen: &Seen, record: &RolloutRecord) -> RolloutView {
    let waves = Waves::new(&record.policy, &outline.placement, Waves::seed(&record.to));
    let snapshot = Snapshot {
        slivers: seen.slivers.clone(),
        away: seen.away.clone(),
    };
    let tally = Tally::of(record, &waves, &outline.placement, &snapshot);
    let outside = Outside {
        waves: &waves,
        away: tally.away,
        away_nodes: &seen.away,
    };
    let mut counted: Vec<WaveView> = (0..waves.count())
        .map(|wave| WaveView {
            canary: waves.is_of_canaries(wave),
            of: waves.matching(wave).map(ToString::to_string),
            ..WaveView::default()
        })
        .collect();
    let mut slivers = Vec::new();
    for number in waves.order() {
        let (Some(placed), Some(wave)) = (outline.placement.get(&number), waves.of(number, &record.skipped))
        else {
            continue;
        };
        let (state, why) = state_of(record, seen, number, placed, outside);
        if let Some(counted) = usize::try_from(wave).ok().and_then(|wave| counted.get_mut(wave)) {
            counted.all += 1;
            *match state {
                RolloutState::There => &mut counted.there,
                RolloutState::Changing => &mut counted.changing,
                RolloutState::Failed => &mut counted.failed,
                RolloutState::Away => &mut counted.away,
                RolloutState::Waiting => &mut counted.waiting,
            } += 1;
        }
        slivers.push(RolloutSliverView {
            sliver: format!("{slice}/{number}"),
            node: placed.node.to_string(),
            wave: wave + 1,
            state,
            why,
        });
    }
    slivers.sort_by_key(|sliver| sliver.wave);
    let line = |line: &xeno_reconciler::rollout::Line| RolloutLine {
        at_ms: line.at.0,
        by: line.by.clone(),
        what: line.what.clone(),
    };
    RolloutView {
        slice: slice.to_string(),
        commit: record.to.commit.to_string(),
        good: record.good.as_ref().map(|good| good.commit.to_string()),
        verdict: match record.verdict {
            Verdict::Rolling => VerdictWord::Rolling,
            Verdict::Paused { .. } => VerdictWord::Paused,
            Verdict::Held { .. } => VerdictWord::Held,
            Verdict::Failed { .. } => VerdictWord::Failed,
            Verdict::Aborted { .. } => VerdictWord::Aborted,
            Verdict::Done => VerdictWord::Done,
        },
        says: record.verdict.to_string(),
        holds: outline.holds.clone(),
        wave: record.wave + 1,
        waves: counted,
        slivers,
        history: record.history.iter().map(line).collect(),
    }
}

/// How a sliver is, as far as its node has said, and what it waits for: each node finds the same by the same rules.
fn state_of(
    record: &RolloutRecord,
    seen: &Seen,
    number: u32,
    placed: &xeno_reconciler::rollout::Placed,
    outside: Outside<'_>,
) -> (RolloutState, Option<String>) {
    let said = seen.slivers.get(&number);
    let failure = match said.map(|said| &said.condition) {
        Some(Condition::Failed { why }) => Some(why.clone()),
        Some(Condition::Changing | Condition::Healthy) | None => None,
    };
    if seen.away.contains(&placed.node) {
        return (
            RolloutState::Away,
            Some(format!("node {} is out of reach", placed.node)),
        );
    }
    let runs = match said.map(|said| said.revision) {
        None => Runs::Nothing,
        Some(revision) if revision == record.to.revision => Runs::To,
        Some(revision) if record.good.as_ref().is_some_and(|good| good.revision == revision) => Runs::Good,
        Some(_) => Runs::Other,
    };
    let there = matches!(
        (record.aim(), runs),
        (Aim::To, Runs::To) | (Aim::Back, Runs::Good | Runs::Nothing)
    );
    if there && let Some(why) = failure {
        return (RolloutState::Failed, Some(why));
    }
    if there && said.is_some_and(|said| said.condition == Condition::Healthy) {
        return (RolloutState::There, None);
    }
    if record.slots.contains_key(&number) || there {
        return (RolloutState::Changing, None);
    }
    if record.failed.contains(&number) {
        return match record.aim() {
            Aim::To => (RolloutState::Failed, failure),
            Aim::Back => (
                RolloutState::Changing,
                Some("it failed, and goes back".to_owned()),
            ),
        };
    }
    let own = Own {
        number,
        node: &placed.node,
        runs,
        wanted: Wanted::This,
    };
    match may_change(Some(record), own, outside) {
        Turn::Wait(wait) => (RolloutState::Waiting, Some(wait.to_string())),
        Turn::Take(_) => (
            RolloutState::Waiting,
            Some("its node is to take its turn".to_owned()),
        ),
        Turn::Stay | Turn::Go(_) => (RolloutState::Changing, None),
    }
}
