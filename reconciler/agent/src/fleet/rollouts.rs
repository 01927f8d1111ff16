//! The rollouts that concern this node, as the board has them: read in its turn, changed by compare-and-swap, and what this node
//! says of its own slivers.
//!
//! Records are read, not watched: every write on a watch would go to every node of the fleet, and a rollout is in no hurry. While
//! one is under way they are read more often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant, sleep, timeout};
use xeno_model::id::{NodeName, SliceName, SliverId};
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::rollout::{RolloutRecord, SliverSummary, Verdict};
use xeno_state::approvals;
use xeno_state::board::pace::{Pace, Summary};
use xeno_state::board::{BoardError, BoardResult};
use xeno_state::presence::{alive, presence};
use xeno_state::rollouts::{self, Changed, Known};
use xeno_state::summaries::{self, Said};

use super::member::{Member, SWAP_MAX};

/// Nodes are asked for one by one where they are fewer than this part of the fleet; else all are listed at once.
const LISTED_FROM: usize = 8;

/// What the board says of rollouts, as far as this node has read it.
#[derive(Debug, Default)]
struct Inner {
    /// The slices that are followed, and the nodes of each.
    followed: BTreeMap<SliceName, BTreeSet<NodeName>>,
    known: BTreeMap<SliceName, Known>,
    said: BTreeMap<NodeName, Said>,
    /// The same by slice and number.
    of_slices: BTreeMap<SliceName, BTreeMap<u32, SliverSummary>>,
    /// Nodes that have no sign of life, once that was read.
    away: Option<BTreeSet<NodeName>>,
    /// What this node says of its slivers.
    own: Said,
    /// It has not been said yet.
    unsaid: bool,
    /// What this node waits for until somebody approves it.
    asks: BTreeMap<SliverId, Ask>,
    /// It has not been said yet.
    unasked: bool,
    /// What was approved of that, once it was read.
    grants: Option<BTreeMap<SliverId, Grant>>,
    /// Something is under way: read more often.
    busy: bool,
}

impl Inner {
    /// Whether something is under way here, or waits for a person.
    fn is_busy(&self) -> bool {
        self.busy || !self.asks.is_empty()
    }

    /// Sorts by slice what is said by node.
    fn sort(&mut self) {
        let mut of_slices: BTreeMap<SliceName, BTreeMap<u32, SliverSummary>> = BTreeMap::new();
        for (sliver, said) in self.said.values().flatten() {
            let of_slice = of_slices.entry(sliver.slice.clone()).or_default();
            of_slice.insert(sliver.number, said.clone());
        }
        self.of_slices = of_slices;
    }
}

/// What the board says of the rollout of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) known: Known,
    pub(crate) slivers: BTreeMap<u32, SliverSummary>,
    pub(crate) away: BTreeSet<NodeName>,
}

/// This node's part in rollouts, over its membership of the board.
pub(crate) struct Rollouts {
    member: Arc<Member>,
    me: NodeName,
    inner: Mutex<Inner>,
    asked: Notify,
    news: watch::Sender<u64>,
}

impl Rollouts {
    pub(crate) fn new(member: Arc<Member>, me: NodeName) -> Self {
        Self {
            member,
            me,
            inner: Mutex::default(),
            asked: Notify::new(),
            news: watch::channel(0).0,
        }
    }

    /// Counts what became known.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Says which slices concern this node, and on which nodes each is.
    pub(crate) fn follow(&self, slices: BTreeMap<SliceName, BTreeSet<NodeName>>) {
        let mut inner = self.lock();
        if inner.followed == slices {
            return;
        }
        inner.known.retain(|slice, _| slices.contains_key(slice));
        inner.followed = slices;
        drop(inner);
        self.asked.notify_one();
    }

    /// Whether something is under way here.
    pub(crate) fn set_busy(&self, busy: bool) {
        let mut inner = self.lock();
        let begins = busy && !inner.busy;
        inner.busy = busy;
        drop(inner);
        if begins {
            self.asked.notify_one();
        }
    }

    /// What is known of a slice; `None`: it has not been read.
    pub(crate) fn seen(&self, slice: &SliceName) -> Option<Seen> {
        let inner = self.lock();
        let known = inner.known.get(slice)?.clone();
        let away = inner.away.clone()?;
        let slivers = inner.of_slices.get(slice).cloned().unwrap_or_default();
        Some(Seen { known, slivers, away })
    }

    /// Says how the slivers of this node are, in its turn. Since when each has been so stays where nothing else changed.
    pub(crate) fn say(&self, mut slivers: Said) {
        let mut inner = self.lock();
        for (sliver, summary) in &mut slivers {
            if let Some(before) = inner.own.get(sliver)
                && (&before.revision, &before.condition) == (&summary.revision, &summary.condition)
            {
                summary.since = before.since;
            }
        }
        if inner.own == slivers {
            return;
        }
        inner.said.insert(self.me.clone(), slivers.clone());
        inner.own = slivers;
        inner.sort();
        inner.unsaid = true;
        drop(inner);
        self.asked.notify_one();
    }

    /// Says what this node waits for until somebody approves it.
    pub(crate) fn ask(&self, asks: BTreeMap<SliverId, Ask>) {
        let mut inner = self.lock();
        if inner.asks == asks {
            return;
        }
        inner.asks = asks;
        inner.unasked = true;
        drop(inner);
        self.asked.notify_one();
    }

    /// What was approved of what this node has asked for; `None`: it has not been read.
    pub(crate) fn grants(&self) -> Option<BTreeMap<SliverId, Grant>> {
        self.lock().grants.clone()
    }

    /// Changes the record of a slice, if it still is what `known` says; either way it is known again afterwards.
    ///
    /// # Errors
    /// What went wrong with the board.
    pub(crate) async fn swap(
        &self,
        slice: &SliceName,
        known: &Known,
        next: &RolloutRecord,
    ) -> Result<bool, String> {
        let changing = rollouts::change(self.member.board(), slice, known, next);
        let done = match timeout(SWAP_MAX, changing).await {
            Ok(Ok(Changed::Done(known))) => {
                self.learn(slice, *known);
                return Ok(true);
            }
            Ok(Ok(Changed::Refused)) => Ok(false),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the board does not answer".to_owned()),
        };
        // What became of it is seen by reading: a change that arrives later finds the record changed, or is what was wanted.
        match rollouts::read(self.member.board(), slice).await {
            Ok(known) => self.learn(slice, known),
            Err(error) => tracing::warn!("{error}"),
        }
        done
    }

    /// Reads the record of a slice now.
    ///
    /// # Errors
    /// What went wrong with the board.
    pub(crate) async fn read_one(&self, slice: &SliceName) -> Result<Known, String> {
        let read = timeout(SWAP_MAX, rollouts::read(self.member.board(), slice)).await;
        let read = read.map_err(|_| "the board does not answer".to_owned())?;
        read.map_err(|error| error.to_string())
    }

    fn learn(&self, slice: &SliceName, known: Known) {
        let mut inner = self.lock();
        if inner.followed.contains_key(slice) && inner.known.get(slice) != Some(&known) {
            inner.known.insert(slice.clone(), known);
            drop(inner);
            self.tell();
        }
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and says, for ever.
    pub(crate) async fn run(&self, mut pace: Pace) {
        let (mut turn, began) = (Summary::default(), Instant::now());
        let mut failures = 0;
        loop {
            let joined = self.member.standing();
            pace.set_nodes(self.member.nodes());
            if joined.identity.is_none() || joined.failure.is_some() {
                // The member says what is wrong, and when it is right again.
                sleep(Duration::from_secs(1)).await;
                continue;
            }
            let now_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            match self.visit(&mut pace, &mut turn, now_ms()).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::warn!("rollouts: {error}");
                    failures += 1;
                    sleep(pace.until_retry(failures)).await;
                    continue;
                }
            }
            let every = if self.lock().is_busy() || self.is_under_way() {
                pace.summary_every()
            } else {
                pace.renew_every()
            };
            let due = turn
                .due_ms()
                .map(|due| Duration::from_millis(due.saturating_sub(now_ms())));
            // Woken or not, the next turn is not at once: many things change together.
            let _ = timeout(due.unwrap_or(every).min(every), self.asked.notified()).await;
        }
    }

    /// Whether some record says that slivers change.
    fn is_under_way(&self) -> bool {
        let inner = self.lock();
        let mut records = inner.known.values().filter_map(|known| known.record.as_ref());
        records.any(|record| matches!(record.verdict, Verdict::Rolling) || !record.slots.is_empty())
    }

    async fn visit(&self, pace: &mut Pace, turn: &mut Summary, now_ms: u64) -> BoardResult<()> {
        if self.lock().unsaid {
            turn.changed(now_ms, pace);
        }
        if turn.due_ms().is_some_and(|due| due <= now_ms) {
            let own = {
                let mut inner = self.lock();
                inner.unsaid = false;
                inner.own.clone()
            };
            if let Err(error) = summaries::write(self.member.board(), &self.me, &own).await {
                self.lock().unsaid = true;
                return Err(error);
            }
            turn.written(now_ms);
        }
        self.ask_people().await?;
        self.read().await
    }

    /// Says what waits for approval, and reads what was approved.
    async fn ask_people(&self) -> BoardResult<()> {
        let board = self.member.board();
        let (asks, unasked, known) = {
            let mut inner = self.lock();
            let unasked = std::mem::take(&mut inner.unasked);
            (inner.asks.clone(), unasked, inner.grants.clone())
        };
        if unasked && let Err(error) = approvals::write_asks(board, &self.me, &asks).await {
            self.lock().unasked = true;
            return Err(error);
        }
        // What was granted is no longer asked for, and counts until it is carried through.
        let slivers: BTreeSet<&SliverId> = asks.keys().chain(known.iter().flat_map(BTreeMap::keys)).collect();
        let mut grants = BTreeMap::new();
        for sliver in slivers {
            match approvals::approved(board, sliver).await {
                Ok(approval) => {
                    let grant = approval.map(|approval| approval.grant);
                    grants.extend(grant.map(|grant| (sliver.clone(), grant)));
                }
                // What is not understood is not approved.
                Err(error @ BoardError::Never { .. }) => tracing::error!("{sliver}: {error}"),
                Err(error) => return Err(error),
            }
        }
        if known.as_ref() != Some(&grants) {
            self.lock().grants = Some(grants);
            self.tell();
        }
        Ok(())
    }

    async fn read(&self) -> BoardResult<()> {
        let board = self.member.board();
        let followed = self.lock().followed.clone();
        let mut known = BTreeMap::new();
        for slice in followed.keys() {
            match rollouts::read(board, slice).await {
                Ok(read) => drop(known.insert(slice.clone(), read)),
                // What is not understood is not known, and holds up no other slice.
                Err(error @ BoardError::Never { .. }) => tracing::error!("{error}"),
                Err(error) => return Err(error),
            }
        }
        let nodes: BTreeSet<NodeName> = followed.values().flatten().cloned().collect();
        let others = nodes.iter().filter(|node| **node != self.me);
        let fleet = usize::try_from(self.member.nodes()).unwrap_or(usize::MAX);
        let listed = nodes.len().saturating_mul(LISTED_FROM) > fleet;
        let away: BTreeSet<NodeName> = if listed {
            let there = alive(board).await?;
            others
                .clone()
                .filter(|node| !there.contains(*node))
                .cloned()
                .collect()
        } else {
            let mut away = BTreeSet::new();
            for node in others.clone() {
                match presence(board, node).await {
                    Ok(None) => drop(away.insert(node.clone())),
                    // It says something that this version does not understand: it is there.
                    Ok(Some(_)) | Err(BoardError::Never { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            away
        };
        let mut read = Vec::new();
        if listed {
            read.extend(summaries::all(board).await?);
            read.retain(|(node, _)| *node != self.me && nodes.contains(node));
        } else {
            for node in others {
                read.push((node.clone(), summaries::read(board, node).await));
            }
        }
        let mut said = BTreeMap::new();
        for (node, slivers) in read {
            match slivers {
                Ok(slivers) => drop(said.insert(node, slivers)),
                Err(error @ BoardError::Never { .. }) => tracing::error!("{node}: {error}"),
                Err(error) => return Err(error),
            }
        }
        let mut inner = self.lock();
        for (slice, read) in &mut known {
            // What was changed meanwhile is known better.
            if let Some(newer) = inner.known.get(slice)
                && newer.revision() > read.revision()
            {
                *read = newer.clone();
            }
        }
        said.insert(self.me.clone(), inner.own.clone());
        let (before, after) = (
            (&inner.known, &inner.said, inner.away.as_ref()),
            (&known, &said, Some(&away)),
        );
        if before != after {
            inner.known = known;
            inner.said = said;
            inner.away = Some(away);
            inner.sort();
            drop(inner);
            self.tell();
        }
        Ok(())
    }
}
