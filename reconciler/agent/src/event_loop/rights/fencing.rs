//! Nodes that hold slivers, have no sign of life, and may still be running them.
//!
//! Where the site has a command that makes sure, the node that is to take over runs it, and says on the board that it did. It is
//! tried again with pauses until it works or somebody else has said so, or the node is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant};
use xeno_model::id::{NodeName, Timestamp};
use xeno_reconciler::change::Reason;
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_state::fences::{self, Word, confirm};
use xeno_state::presence::presence;
use xeno_state::record::EventKind;

use super::{Agent, Rights};
use crate::fleet::Fleet;

/// Pauses before the command is run again.
const AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 5_000,
    pause_ms_max: 300_000,
};

/// How soon the command is run again after it has made sure, where that has not helped: the record may be a later one.
const SURE: Duration = Duration::from_secs(30);

/// What is being done about nodes that may still run what they hold.
#[derive(Default)]
pub(super) struct Fencing {
    running: BTreeSet<NodeName>,
    tasks: JoinSet<Fenced>,
    failed: BTreeMap<NodeName, Failed>,
    /// Made sure of, and not before then again: what the board says of it is read meanwhile.
    sure: BTreeMap<NodeName, Instant>,
}

/// That a node was to be made sure of, and what came of it.
pub(in crate::event_loop) struct Fenced {
    node: NodeName,
    result: Result<(), String>,
}

struct Failed {
    why: String,
    tries: u32,
    until: Instant,
}

impl Fencing {
    /// What has ended; `None` where nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Result<Fenced, JoinError>> {
        self.tasks.join_next().await
    }

    /// When something is to be tried again.
    pub(super) fn tries(&self) -> impl Iterator<Item = Instant> {
        let failed = self.failed.values().map(|failed| failed.until);
        failed.chain(self.sure.values().copied())
    }

    /// Begins to make sure, if it is time.
    fn begin(&mut self, fleet: &Arc<Fleet>, node: &NodeName, now: Timestamp) {
        let failed = self.failed.get(node).map(|failed| failed.until);
        let until = failed.max(self.sure.get(node).copied());
        let waits = until.is_some_and(|until| until > Instant::now());
        if fleet.fence.is_none() || waits || !self.running.insert(node.clone()) {
            return;
        }
        let (fleet, node) = (Arc::clone(fleet), node.clone());
        self.tasks.spawn(async move {
            let result = make_sure(&fleet, &node, now).await;
            Fenced { node, result }
        });
    }
}

/// Runs the command, and says on the board that it did.
async fn make_sure(fleet: &Fleet, node: &NodeName, now: Timestamp) -> Result<(), String> {
    let fence = fleet.fence.as_ref().ok_or("there is no command")?;
    let board = fleet.member.board();
    let alive = "it has a sign of life again".to_owned();
    // What was read last may be some seconds old, and a node that is back is not to be switched off.
    let life = presence(board, node).await.map_err(|error| error.to_string())?;
    if life.is_some() {
        return Err(alive);
    }
    fence.fence(node).await?;
    let word = Word {
        by: fleet.me.to_string(),
        how: Some("its fence command".to_owned()),
        at_ms: now.0,
    };
    match confirm(board, node, &word).await {
        Ok(fences::Outcome::Done) => Ok(()),
        Ok(fences::Outcome::Alive) => Err(alive),
        Err(error) => Err(error.to_string()),
    }
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Sees to it that somebody makes sure of a node.
    pub(super) fn see_to_fence(&mut self, node: &NodeName) {
        let now = self.clock.now();
        if let Some(rights) = &mut self.rights {
            rights.fencing.begin(&rights.fleet, node, now);
        }
    }

    /// Why a sliver waits that such a node holds.
    pub(super) fn unfenced(&self, rights: &Rights, by: NodeName) -> Reason {
        let failed = rights.fencing.failed.get(&by);
        let fence = if rights.fencing.running.contains(&by) {
            Some("the fence command is running".to_owned())
        } else {
            failed.map(|failed| {
                format!(
                    "the fence command failed ({}), and is run again at {}",
                    failed.why,
                    xeno_model::time::rfc3339(self.wall_at(failed.until))
                )
            })
        };
        Reason::Unfenced { by, fence }
    }

    /// What came of making sure.
    pub(super) async fn fenced(&mut self, fenced: Result<Fenced, JoinError>) {
        let Some(rights) = &mut self.rights else { return };
        let fencing = &mut rights.fencing;
        let Fenced { node, result } = match fenced {
            Ok(fenced) => fenced,
            Err(error) => {
                tracing::error!("making sure of a node ended by a mistake: {error}");
                // Whichever it was: begin again.
                return fencing.running.clear();
            }
        };
        fencing.running.remove(&node);
        let text = match result {
            Ok(()) => {
                fencing.failed.remove(&node);
                fencing.sure.insert(node.clone(), Instant::now() + SURE);
                rights.fleet.member.ask();
                format!("node {node} is certainly off: the fence command says so")
            }
            Err(why) => {
                let tries = fencing.failed.get(&node).map_or(0, |failed| failed.tries);
                let tries = tries.saturating_add(1);
                let pause = AGAIN.pause_ms(tries, u64::from(std::process::id()));
                let until = Instant::now() + Duration::from_millis(pause);
                let text = format!("nobody is certain that node {node} is off: {why}");
                fencing.failed.insert(node, Failed { why, tries, until });
                text
            }
        };
        let event = self.event(EventKind::Waiting, None, text);
        self.remember(vec![event], |_| Ok(())).await;
    }
}
