//! What the repository says, and what becomes of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use xeno_model::desired::DesiredNode;
use xeno_model::id::{Revision, SliverId};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_state::record::{Chapter, ChapterEnd, EventKind, Rejection};

use super::{Agent, SourceNews};
use crate::handle::{HandleError, Reply, WAITING_MAX};

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Takes what the repository says.
    pub(super) async fn hear(&mut self, news: SourceNews) {
        let read = match &news {
            SourceNews::Restored(_) => None,
            SourceNews::Failed { why } => Some(Err(HandleError::Source { why: why.clone() })),
            SourceNews::Desired(_) | SourceNews::Rejected { .. } | SourceNews::Unchanged { .. } => {
                Some(Ok(()))
            }
        };
        self.take(news).await;
        if let Some(read) = read {
            for reply in self.waiting_for_source.drain(..) {
                // Who stopped waiting does not get an answer.
                let _ = reply.send(read.clone());
            }
        }
    }

    /// Has the repository read now; `reply` is answered once it was, or could not be.
    pub(super) fn refetch(&mut self, reply: Reply<()>) {
        self.waiting_for_source.retain(|reply| !reply.is_closed());
        if self.waiting_for_source.len() < WAITING_MAX {
            self.waiting_for_source.push(reply);
            self.refetch.notify_one();
        }
    }

    pub(super) async fn take(&mut self, news: SourceNews) {
        let now = self.clock.now();
        match news {
            SourceNews::Restored(desired) => {
                let accepted = self.memory.accepted.as_ref();
                if self.desired.is_none() && accepted.is_some_and(|held| held.revision == desired.revision) {
                    self.take_as_read(desired).await;
                }
            }
            SourceNews::Desired(desired) => {
                self.source_is_back(&desired.revision).await;
                self.accept(desired).await;
            }
            SourceNews::Rejected { revision, why } => {
                self.source_is_back(&revision).await;
                if self
                    .memory
                    .rejected
                    .as_ref()
                    .is_some_and(|held| held.revision == revision && held.why == why)
                {
                    return;
                }
                let kept = match &self.memory.accepted {
                    Some(accepted) => format!("{} stays in force", accepted.revision.short()),
                    None => "there is no earlier one to keep to".to_owned(),
                };
                let text = format!("rejected {}: {kept}\n{why}", revision.short());
                let rejection = Rejection {
                    revision,
                    why,
                    at: now,
                };
                self.memory.rejected = Some(rejection.clone());
                let event = self.event(EventKind::Rejected, None, text);
                self.remember(vec![event], move |w| w.reject(Some(&rejection)))
                    .await;
            }
            SourceNews::Unchanged { head } => self.source_is_back(&head).await,
            SourceNews::Failed { why } => {
                let news = self.source.failure.is_none();
                self.source.failure = Some(why.clone());
                if news {
                    let text = format!("the repository cannot be read: {why}; carrying on as before");
                    let event = self.event(EventKind::SourceFailed, None, text);
                    self.remember(vec![event], |_| Ok(())).await;
                }
            }
        }
    }

    pub(super) async fn source_is_back(&mut self, head: &Revision) {
        self.source.head = Some(head.clone());
        self.source.read_ms = Some(self.clock.now().0);
        if self.source.failure.take().is_some() {
            let event = self.event(
                EventKind::SourceBack,
                None,
                "the repository can be read again".to_owned(),
            );
            self.remember(vec![event], |_| Ok(())).await;
        }
    }

    /// Makes a commit the desired state, once that is written down.
    pub(super) async fn accept(&mut self, desired: Box<DesiredNode>) {
        let held = self.memory.accepted.as_ref();
        let same = held.is_some_and(|accepted| accepted.revision == desired.revision);
        if same {
            if self.memory.rejected.take().is_some() {
                self.remember(Vec::new(), |w| w.reject(None)).await;
            }
            if self.placed.as_deref() == Some(&*desired) {
                return;
            }
        } else {
            let now = self.clock.now();
            let revision = desired.revision.clone();
            let slivers = match desired.slivers.len() {
                1 => "1 sliver".to_owned(),
                n => format!("{n} slivers"),
            };
            let text = format!("accepted {}: {slivers} here", revision.short());
            let chapter = text.clone();
            let event = self.event(EventKind::Accepted, None, text);
            let concerned = self.concerned(&desired);
            let calmed = concerned.clone();
            let carried = held.map(|accepted| accepted.carried).unwrap_or_default();
            let written = self.remember(vec![event], {
                let revision = revision.clone();
                move |w| {
                    for sliver in &calmed {
                        w.clear_back_off(Some(sliver))?;
                        w.forget_restarts(sliver)?;
                    }
                    let generation = w.accept(&revision, now)?;
                    w.begin_chapter(&Chapter {
                        run: None,
                        sliver: None,
                        generation,
                        revision,
                        class: EventKind::Accepted.as_str().to_owned(),
                        cause: "change".to_owned(),
                        text: chapter,
                        began: now,
                        ended: Some((ChapterEnd::Done, now)),
                    })?;
                    Ok(generation)
                }
            });
            let Some(generation) = written.await else {
                // Unwritten, it would be forgotten by a restart, and its generation given to another.
                self.unwritten = Some(desired);
                return;
            };
            self.memory.accept(revision, generation, carried, now);
            self.memory
                .backing_off
                .retain(|sliver, _| !concerned.contains(sliver));
            self.memory
                .restarts
                .retain(|sliver, _| !concerned.contains(sliver));
        }
        self.refused.clear();
        self.take_as_read(desired).await;
    }

    /// Has the node be reconciled towards a commit, as far as rollouts have come.
    async fn take_as_read(&mut self, desired: Box<DesiredNode>) {
        self.note_rollouts(&desired);
        self.place(Arc::from(desired));
        self.supersede().await;
        self.wake();
        self.roll_out().await;
    }

    /// Slivers that another desired state changes: what they failed at is worth another try.
    pub(super) fn concerned(&self, desired: &DesiredNode) -> BTreeSet<SliverId> {
        let before = self.placed.as_deref();
        let differs = |sliver: &&SliverId| {
            before.is_none_or(|before| before.slivers.get(*sliver) != desired.slivers.get(*sliver))
        };
        let known = self.memory.backing_off.keys().chain(self.memory.restarts.keys());
        known.filter(differs).cloned().collect()
    }
}
