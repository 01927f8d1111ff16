//! What waits until a person approves it: [`xeno_reconciler::approval`] says what that is; here it is left out of what is desired,
//! asked for on the board, and let happen once the board says that somebody approved it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use xeno_model::desired::{DesiredNode, DesiredSliver};
use xeno_model::id::SliverId;
use xeno_reconciler::approval::{Ask, Kept, keep};
use xeno_reconciler::change::Reason;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;

use super::Agent;

/// For so long after its start an agent leaves slivers alone of which it has not read what is approved: a change may have begun
/// before, and would be taken back only to begin again.
const READ_FIRST: Duration = Duration::from_secs(60);

/// What is approved and what is not, as far as this node knows.
#[derive(Default)]
pub(super) struct Approvals {
    /// Of what is wanted for now.
    pub(super) kept: Kept,
    /// Of what the commit says, wherever rollouts are.
    ahead: BTreeMap<SliverId, Ask>,
    /// The same as `kept`, and what the last plan held up by itself.
    held: Kept,
    /// When this was made first.
    began: Option<Instant>,
}

impl Approvals {
    /// All that waits: of each sliver what comes first, for one approval takes the place of another.
    fn asks(&self) -> BTreeMap<SliverId, Ask> {
        let mut asks = self.ahead.clone();
        asks.extend(self.held.asks.clone());
        asks.extend(self.kept.asks.clone());
        asks
    }

    /// What a sliver waits for that its rollout has let change.
    fn turn(&self, sliver: &SliverId) -> Option<&Ask> {
        let of = |kept: &Kept| kept.turns.contains(sliver);
        let asks = [&self.kept, &self.held].into_iter().find(|kept| of(kept));
        asks?.asks.get(sliver)
    }
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// What is wanted, without what nobody has approved.
    pub(super) fn keep_unapproved(&mut self, wanted: Arc<DesiredNode>) -> Arc<DesiredNode> {
        let ahead = self.placed.as_ref().map(|placed| self.unapproved(placed).asks);
        let mut kept = self.unapproved(&wanted);
        let desired = kept.desired.take();
        self.approvals.began.get_or_insert_with(Instant::now);
        self.approvals.kept = kept;
        self.approvals.ahead = ahead.unwrap_or_default();
        self.ask_people();
        desired.map_or(wanted, Arc::new)
    }

    fn unapproved(&self, wanted: &DesiredNode) -> Kept {
        if wanted.approval.is_none() {
            return Kept::default();
        }
        let grants = self.rolling.as_ref().and_then(|rolling| rolling.board().grants());
        let grants = grants.unwrap_or_default();
        keep(
            wanted,
            &self.memory.applied,
            &self.going_back(),
            &grants,
            self.clock.now(),
        )
    }

    /// What slivers are to be again whose rollouts go back.
    fn going_back(&self) -> BTreeMap<SliverId, DesiredSliver> {
        let stands = self.memory.stands.iter();
        let back = stands.filter_map(|(sliver, stand)| {
            let (good, desired) = stand.good.as_ref()?;
            (*good == stand.at.0).then(|| (sliver.clone(), desired.clone()))
        });
        back.collect()
    }

    /// Takes note of what a plan held up by itself.
    pub(super) fn note_unapproved(&mut self, held: Kept) {
        if self.approvals.held != held {
            self.approvals.held = held;
            self.ask_people();
        }
    }

    /// Says on the board what waits.
    fn ask_people(&self) {
        if let Some(rolling) = &self.rolling {
            rolling.board().ask(self.approvals.asks());
        }
    }

    /// Goes on with what was approved meanwhile.
    pub(super) async fn regrant(&mut self) {
        if self
            .staged
            .as_ref()
            .is_none_or(|staged| staged.approval.is_none())
        {
            return;
        }
        let before = self.approvals.kept.leave.clone();
        if self.gate_staged() {
            self.refused.clear();
            self.supersede().await;
            self.wake();
        } else if before != self.approvals.kept.leave {
            self.wake();
        }
    }

    /// Why a sliver does not take its turn in a rollout.
    pub(super) fn waits_for_approval(&self, sliver: &SliverId) -> Option<String> {
        let ask = self.approvals.ahead.get(sliver)?;
        Some(report::sentence(&ask.reason()))
    }

    /// Why a sliver does not become what its rollout has let it become.
    pub(super) fn waits_with_a_turn(&self, sliver: &SliverId) -> Option<String> {
        let ask = self.approvals.turn(sliver)?;
        Some(report::sentence(&ask.reason()))
    }

    /// Slivers that are left alone until it was read what is approved for them.
    pub(super) fn held_unread(&self) -> Vec<(SliverId, Reason)> {
        let read = self
            .rolling
            .as_ref()
            .is_none_or(|rolling| rolling.board().grants().is_some());
        let early = self
            .approvals
            .began
            .is_some_and(|began| began.elapsed() < READ_FIRST);
        if read || !early {
            return Vec::new();
        }
        let why = || "what is approved has not been read from the board yet".to_owned();
        let asks = self.approvals.kept.asks.keys();
        asks.map(|sliver| (sliver.clone(), Reason::RightUnknown { why: why() }))
            .collect()
    }
}
