//! Becoming one of a fleet: everything that a board asks of an agent, put together.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use xeno_model::id::{Digest, NodeName};
use xeno_reconciler::tenure::BootId;
use xeno_state::board::pace::Pace;
use xeno_state::board::{AnyBoard, BoardConfig};
use xeno_state::presence::Presence;

use super::fence::Fence;
use super::member::{Member, random_id};
use super::peers::{self, Identity, Incoming, Network, Tls};
use super::rollouts::Rollouts;
use super::{Call, Fleet, receive};
use crate::clock::Clock;
use crate::config::PeersConfig;
use crate::store::Store;

/// Calls that may wait for the loop at a time.
const CALLS_MAX: usize = 64;

/// What an agent of a fleet has beside its loop. Dropped, it hears of nobody any more; its sign of life lasts until its lease
/// ends, since its guests go on.
pub(crate) struct Joined {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) tasks: JoinSet<()>,
}

/// Which life of its machine an agent is in, from what names it (`/proc/sys/kernel/random/boot_id`, random(4)).
pub(crate) fn boot_id(name: &str) -> BootId {
    let digest = Digest::of(name.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    BootId(id)
}

/// Opens the board, begins to listen, and stays a member from now on. The board itself need not be there yet.
///
/// # Errors
/// A board that is set up wrong, an address that cannot be listened at.
pub(crate) async fn join(
    board: BoardConfig,
    listen: Option<&PeersConfig>,
    me: &NodeName,
    boot: BootId,
    store: &Store,
    (fence, clock): (Option<Arc<dyn Fence>>, Clock),
) -> Result<Joined, String> {
    let opened = tokio::task::spawn_blocking(move || board.open()).await;
    let board = opened
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let identity = Arc::new(Identity::new()?);
    let mut address = None;
    let (tell, incoming) = mpsc::channel(CALLS_MAX);
    let mut tasks = JoinSet::new();
    if let Some(peers) = listen {
        let listener = TcpListener::bind(peers.listen).await;
        let listener =
            listener.map_err(|error| format!("listen for other agents at {}: {error}", peers.listen))?;
        let bound = listener.local_addr().map_err(|error| error.to_string())?;
        address = Some(peers.advertise.clone().unwrap_or_else(|| bound.to_string()));
        let identity = Arc::clone(&identity);
        tasks.spawn(async move {
            if let Err(why) = peers::listen(listener, identity, tell).await {
                tracing::error!("no other agent is listened to any more: {why}");
            }
        });
    }
    let presence = Presence {
        boot,
        address,
        certificate: identity.digest(),
    };
    let network: Arc<dyn Network> = Arc::new(Tls::new(identity));
    let ways = Ways {
        board,
        network,
        fence,
        clock,
    };
    Ok(become_member(ways, presence, me, incoming, store, tasks).await)
}

/// What an agent reaches the rest of its fleet by.
pub(crate) struct Ways {
    pub(crate) board: AnyBoard,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) fence: Option<Arc<dyn Fence>>,
    pub(crate) clock: Clock,
}

/// The same, over a board and a network that are there.
pub(crate) async fn become_member(
    ways: Ways,
    presence: Presence,
    me: &NodeName,
    incoming: mpsc::Receiver<Incoming>,
    store: &Store,
    mut tasks: JoinSet<()>,
) -> Joined {
    let Ways {
        board,
        network,
        fence,
        clock,
    } = ways;
    let joined = store.read(xeno_state::node::NodeState::board).await;
    // What cannot be read now is made anew by the loop; a name that was lost is learnt again.
    let joined = joined.unwrap_or_default();
    let member = Arc::new(Member::new(board, me.clone(), presence, joined, clock));
    let rollouts = Arc::new(Rollouts::new(Arc::clone(&member), me.clone()));
    let fleet = Arc::new(Fleet {
        me: me.clone(),
        member: Arc::clone(&member),
        network,
        rollouts: Arc::clone(&rollouts),
        fence,
    });
    let (pass, calls) = mpsc::channel(CALLS_MAX);
    tasks.spawn(receive(Arc::clone(&fleet), incoming, pass));
    let store = store.clone();
    let pace = Pace::new(me.as_str(), 1, seed());
    let turns = Pace::new(me.as_str(), 1, seed());
    tasks.spawn(async move { rollouts.run(turns).await });
    tasks.spawn(async move {
        let remember = |identity: String| {
            let store = store.clone();
            tokio::spawn(async move {
                if let Err(error) = store.write(move |w| w.joined(&identity)).await {
                    tracing::error!("{}", xeno_state::error::chain(&error));
                }
            });
        };
        member.run(pace, remember).await;
    });
    Joined { fleet, calls, tasks }
}

/// Spreads agents that start together.
fn seed() -> u64 {
    random_id().map_or(0, |id| {
        id.into_iter().fold(0, |seed, byte| seed << 8 | u64::from(byte))
    })
}
