//! The node as one of a fleet: its membership of the board, and slivers that come and go.
//!
//! Who may run a sliver, and every step of handing it over, is decided by [`xeno_reconciler::tenure`]; the loop asks it
//! (`event_loop/rights.rs`). Here is what carries the steps out: [`member`] reads and writes the board, [`rollouts`] what it says of them, [`peers`] knows
//! other agents, [`leaving`] and [`arriving`] are the two ends of a move, [`wire`] is what they say to each other.

pub(crate) mod arriving;
pub(crate) mod fence;
pub(crate) mod join;
pub(crate) mod leaving;
pub(crate) mod member;
pub(crate) mod peers;
pub(crate) mod pump;
pub(crate) mod rollouts;
pub(crate) mod wire;

use std::sync::Arc;

use tokio::sync::mpsc;
use xeno_model::id::{Digest, MigrationId, NodeName, SliverId};
use xeno_reconciler::tenure::BootId;

use fence::Fence;
use member::Member;
use peers::{Incoming, Network};
use rollouts::Rollouts;
use wire::{Hello, What, Wire};

/// What moves need of the fleet.
pub(crate) struct Fleet {
    pub(crate) me: NodeName,
    pub(crate) member: Arc<Member>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) rollouts: Arc<Rollouts>,
    /// How the site makes sure that a node is off, if it can.
    pub(crate) fence: Option<Arc<dyn Fence>>,
}

impl Fleet {
    /// A connection to the agent of a node, which is the one that the board names.
    async fn connect(&self, to: &NodeName) -> Result<Wire, String> {
        let presence = self
            .member
            .presence_of(to)
            .await
            .map_err(|error| error.to_string())?;
        let presence = presence.ok_or_else(|| format!("the board has no sign of life of {to}"))?;
        self.network.connect(&presence).await
    }
}

/// What a task of a move says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The other end is ready to receive it, in this life of its machine.
    Ready { boot: BootId },
    /// It stands still, and all of its memory is on its way; whether the copy is whole is not known yet.
    Held,
    /// It does not run here any more, and only an order of this node changes that.
    Given {
        /// Whether it stands still, with its memory sent; otherwise it has ended.
        memory: bool,
    },
    /// The copy that has arrived is whole.
    Whole,
    /// The other end says that the record has changed.
    Go,
    /// The task has ended.
    Ended { why: String },
}

/// Says which move something is about.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) sliver: SliverId,
    pub(crate) migration: MigrationId,
    pub(crate) news: News,
}

/// Tells the loop of one move.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    pub(crate) sliver: SliverId,
    pub(crate) migration: MigrationId,
    pub(crate) to: mpsc::UnboundedSender<Told>,
}

impl Teller {
    pub(crate) fn say(&self, news: News) {
        // Each move says six things at most, so nothing piles up; a loop that has ended hears nothing.
        let _ = self.to.send(Told {
            sliver: self.sliver.clone(),
            migration: self.migration,
            news,
        });
    }
}

/// Somebody who calls about a move, and has been recognised.
pub(crate) struct Call {
    pub(crate) from: NodeName,
    pub(crate) sliver: SliverId,
    pub(crate) migration: MigrationId,
    pub(crate) what: What,
    pub(crate) wire: Wire,
}

/// Hears what callers want, and passes on those that are who they say they are.
pub(crate) async fn receive(
    fleet: Arc<Fleet>,
    mut incoming: mpsc::Receiver<Incoming>,
    calls: mpsc::Sender<Call>,
) {
    while let Some((shown, wire)) = incoming.recv().await {
        let (fleet, calls) = (Arc::clone(&fleet), calls.clone());
        tokio::spawn(async move {
            match recognise(&fleet, shown, wire).await {
                Ok(call) => {
                    // A loop that has ended takes no calls.
                    let _ = calls.send(call).await;
                }
                Err(why) => tracing::warn!("a caller was turned away: {why}"),
            }
        });
    }
}

async fn recognise(fleet: &Fleet, shown: Digest, mut wire: Wire) -> Result<Call, String> {
    let hello: Hello = wire::answer(&mut wire, wire::ANSWER_MAX).await?;
    let (from, sliver, migration) = hello.names()?;
    let presence = fleet
        .member
        .presence_of(&from)
        .await
        .map_err(|error| error.to_string())?;
    if presence.is_none_or(|presence| presence.certificate != shown) {
        return Err(format!(
            "it says that it is {from}, and the board knows {from} by another certificate"
        ));
    }
    Ok(Call {
        from,
        sliver,
        migration,
        what: hello.what,
        wire,
    })
}
