//! Node time, and a state that came to harm: what the loop does so that neither a clock nor a disk can make it lose
//! something.

use tokio::time::{Duration, Instant};
use xeno_model::observed::ObservedNode;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;
use xeno_state::record::{EventKind, NewEvent, Rebuilt};
use xeno_state::time::{BootMoment, NodeTime};

use super::{Agent, Stage};

/// Pause between attempts to make a damaged state anew: the disk that damaged it may be full or read-only.
const MEND_EVERY: Duration = Duration::from_secs(10);

/// How often node time is written down where nothing else is written: a reboot loses at most this much of it.
const LIVE_EVERY_MS: u64 = 3_600_000;

/// How long removals are remembered. Longer than any window of a delete budget that makes sense.
const REMOVALS_KEPT_MS: u64 = 400 * 86_400_000;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// How long this node has certainly lived.
    pub(super) fn node_time(&self) -> NodeTime {
        self.memory.time_began.plus(self.clock.elapsed_ms())
    }

    pub(super) fn moment(&self) -> BootMoment {
        let began = &self.settings.began;
        BootMoment {
            boot: began.boot.clone(),
            ms: began.ms.saturating_add(self.clock.elapsed_ms()),
        }
    }

    /// A moment of node time by the wall clock, for people.
    pub(super) fn by_the_wall(&self, time: NodeTime) -> xeno_model::id::Timestamp {
        let (now, here) = (self.clock.now().0, self.node_time());
        let ahead = now.saturating_add(time.since(here));
        xeno_model::id::Timestamp(ahead.saturating_sub(here.since(time)))
    }

    /// Writes node time down from time to time, also where nothing happens.
    pub(super) async fn live(&mut self) {
        if self.node_time().since(self.lived_at) >= LIVE_EVERY_MS {
            self.remember(Vec::new(), |_| Ok(())).await;
        }
    }

    /// Remembers tombstones that are new, each of which is a removal whoever saw it through, and gives all of them the
    /// age that they certainly have. `false` where they could not be written down.
    pub(super) async fn note_tombstones(&mut self, observed: &mut ObservedNode) -> bool {
        let (time, at) = (self.node_time(), self.clock.now());
        let news = self.memory.tombstone_news(observed, time);
        let mut noted = true;
        if !news.is_empty() {
            let forget = NodeTime(time.0.saturating_sub(REMOVALS_KEPT_MS));
            let to_write = news.clone();
            let written = self.remember(Vec::new(), move |w| {
                for (sliver, tombstone) in &to_write {
                    w.tombstone(sliver, tombstone.as_ref())?;
                    if tombstone.is_some() {
                        w.removal(sliver, at, time, forget)?;
                    }
                }
                Ok(())
            });
            noted = written.await.is_some();
            if noted {
                for (sliver, tombstone) in news {
                    match tombstone {
                        Some(tombstone) => drop(self.memory.tombstones.insert(sliver, tombstone)),
                        None => drop(self.memory.tombstones.remove(&sliver)),
                    }
                }
            }
        }
        self.memory.age_by_node_time(observed, time);
        noted
    }

    /// Makes a state anew that was found damaged, from what the loop knows. Guests are left alone.
    pub(super) async fn mend(&mut self) {
        let Some(why) = self.store.damage() else { return };
        if Instant::now() < self.next_mending {
            return;
        }
        self.next_mending = Instant::now() + MEND_EVERY;
        tracing::error!("the state is damaged and is made anew: {why}");
        if let Stage::Running(progress) = &mut self.stage {
            // Its intents are gone with the old state; what comes of it is looked at.
            progress.abandoned = true;
        }
        let memory = self.memory.clone();
        let (time, moment) = (self.node_time(), self.moment());
        let rebuilt = self.store.rebuild(why, move |w| {
            memory.write_all(w)?;
            w.lived(time, &moment)
        });
        let rebuilt = match rebuilt.await {
            Ok(()) => self.store.read(xeno_state::node::NodeState::rebuilt).await,
            Err(error) => Err(error),
        };
        match rebuilt {
            Ok(rebuilt) => {
                self.memory.rebuilt = rebuilt;
                self.memory.failure = None;
                let event = self.tell_of_rebuild().await;
                self.remember(event.into_iter().collect(), |_| Ok(())).await;
            }
            Err(error) => {
                let why = xeno_state::error::chain(&error);
                tracing::error!("the state cannot be made anew: {why}");
                self.memory.failure = Some(why);
            }
        }
    }

    /// The event that tells of a state made anew, where nobody has told yet: such a state has no events.
    pub(super) async fn tell_of_rebuild(&self) -> Option<NewEvent> {
        let rebuilt = self.memory.rebuilt.as_ref()?;
        let told = self.store.read(|state| state.events(0, 1)).await;
        let text = format!("{}; guests were left alone", was_rebuilt(rebuilt));
        told.is_ok_and(|events| events.is_empty())
            .then(|| self.event(EventKind::StateRebuilt, None, text))
    }

    /// That the state was made anew so recently that nothing is removed yet.
    pub(super) fn rebuilt_lately(&self) -> Option<String> {
        let rebuilt = self.memory.rebuilt.as_ref()?;
        let window = self.desired.as_ref()?.delete_budget.window.0;
        let over = rebuilt.time.unwrap_or(self.node_time()).plus(window);
        (over >= self.node_time()).then(|| {
            format!(
                "{}; what was removed before is not known any more, so nothing is removed before {}",
                was_rebuilt(rebuilt),
                report::utc(self.by_the_wall(over))
            )
        })
    }
}

/// Tells of a state that was made anew.
pub(super) fn was_rebuilt(rebuilt: &Rebuilt) -> String {
    let aside = match &rebuilt.aside {
        Some(path) => format!("; the damaged file is {path}"),
        None => String::new(),
    };
    format!(
        "the node's state was damaged ({}) and was made anew on {}{aside}",
        rebuilt.why,
        report::utc(rebuilt.at)
    )
}
