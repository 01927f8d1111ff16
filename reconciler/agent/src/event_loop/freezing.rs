//! Freezes: what people want left alone, kept in the state.

use xeno_model::id::{SliceName, SliverId, Timestamp};
use xeno_reconciler::freeze::{Freeze, FreezeScope};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;
use xeno_state::record::{EventKind, Freeze as Stored};

use super::Agent;
use crate::api::{FORMAT_VERSION, FreezeRequest, FreezeView, Freezes, ScopeView};
use crate::handle::HandleError;

/// Freezes at a time: more are made by a program that has lost its way.
const FREEZES_MAX: usize = 1000;

/// Longest reason, and longest name of who gives it.
const TEXT_LEN_MAX: usize = 1000;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// What is frozen, as the planner takes it.
    pub(super) fn freezes(&self) -> Vec<Freeze> {
        // What is stored under a scope that nobody can mean any more freezes nothing.
        self.memory.freezes.iter().filter_map(planned).collect()
    }

    /// What is frozen, as people see it.
    pub(super) fn freezes_view(&self) -> Freezes {
        let now = self.clock.now();
        let in_force = self.freezes().into_iter().filter(|freeze| freeze.in_force(now));
        Freezes {
            format_version: FORMAT_VERSION,
            freezes: in_force.map(|freeze| view(&freeze)).collect(),
        }
    }

    /// The freeze in force that keeps a sliver, a slice or the whole node from being reconciled.
    pub(super) fn frozen(&self, what: &FreezeScope) -> Option<Freeze> {
        let now = self.clock.now();
        let covers = |freeze: &Freeze| match (&freeze.scope, what) {
            (FreezeScope::Node, _) => true,
            (FreezeScope::Slice(slice), FreezeScope::Slice(of)) => slice == of,
            (FreezeScope::Slice(slice), FreezeScope::Sliver(of)) => *slice == of.slice,
            (FreezeScope::Sliver(sliver), FreezeScope::Sliver(of)) => sliver == of,
            (FreezeScope::Slice(_) | FreezeScope::Sliver(_), FreezeScope::Node)
            | (FreezeScope::Sliver(_), FreezeScope::Slice(_)) => false,
        };
        self.freezes()
            .into_iter()
            .find(|freeze| freeze.in_force(now) && covers(freeze))
    }

    pub(super) async fn freeze(&mut self, request: FreezeRequest) -> Result<Freezes, HandleError> {
        let scope = scope(&request.scope)?;
        let invalid = |why: &str| HandleError::Invalid { why: why.to_owned() };
        for text in [&request.reason, &request.by] {
            if text.trim().is_empty() || text.len() > TEXT_LEN_MAX {
                return Err(invalid("a freeze says why and by whom, in 1 to 1000 bytes each"));
            }
        }
        let word = stored_scope(&scope);
        let others = self.memory.freezes.iter().filter(|freeze| freeze.scope != word);
        if others.count() >= FREEZES_MAX {
            return Err(invalid("there are far too many freezes already"));
        }
        let now = self.clock.now();
        let stored = Stored {
            scope: word,
            reason: request.reason,
            by: request.by,
            since: now,
            until: request.for_ms.map(|ms| Timestamp(now.0.saturating_add(ms))),
        };
        let until = stored
            .until
            .map_or_else(String::new, |until| format!(" until {}", report::utc(until)));
        let text = format!("{} froze {}{until}: {}", stored.by, request.scope, stored.reason);
        let event = self.event(EventKind::Frozen, sliver_of(&scope), text);
        let to_write = stored.clone();
        let written = self.remember(vec![event], move |w| w.freeze(&to_write));
        if written.await.is_none() {
            return Err(self.unwritable());
        }
        self.memory.freezes.retain(|freeze| freeze.scope != stored.scope);
        self.memory.freezes.push(stored);
        self.memory.freezes.sort_by(|a, b| a.scope.cmp(&b.scope));
        // What has begun with a sliver is seen through; nothing more of it is begun.
        self.supersede().await;
        self.wake();
        Ok(self.freezes_view())
    }

    pub(super) async fn thaw(&mut self, what: &ScopeView) -> Result<Freezes, HandleError> {
        let scope = scope(what)?;
        let word = stored_scope(&scope);
        if !self.memory.freezes.iter().any(|freeze| freeze.scope == word) {
            return Err(HandleError::NotFrozen {
                what: what.to_string(),
            });
        }
        let event = self.event(EventKind::Thawed, sliver_of(&scope), format!("{what} is thawed"));
        let gone = word.clone();
        if self.remember(vec![event], move |w| w.thaw(&gone)).await.is_none() {
            return Err(self.unwritable());
        }
        self.memory.freezes.retain(|freeze| freeze.scope != word);
        self.wake();
        Ok(self.freezes_view())
    }

    /// Forgets freezes whose time is over.
    pub(super) async fn end_freezes(&mut self) {
        let now = self.clock.now();
        let over = |freeze: &Stored| freeze.until.is_some_and(|until| until <= now);
        let ended: Vec<_> = self.memory.freezes.iter().filter(|f| over(f)).cloned().collect();
        if ended.is_empty() {
            return;
        }
        let told = ended.iter().filter_map(planned).map(|freeze| {
            let text = format!("the freeze of {} is over", view(&freeze).scope);
            self.event(EventKind::Thawed, sliver_of(&freeze.scope), text)
        });
        let events = told.collect();
        let written = self.remember(events, move |w| {
            ended.iter().try_for_each(|freeze| w.thaw(&freeze.scope))
        });
        // Otherwise again with the next look; over it is all the same.
        if written.await.is_some() {
            self.memory.freezes.retain(|freeze| !over(freeze));
        }
    }

    pub(super) fn unwritable(&self) -> HandleError {
        HandleError::State {
            why: self.memory.failure.clone().unwrap_or_default(),
        }
    }
}

/// Reads a scope that somebody sent.
pub(super) fn scope(view: &ScopeView) -> Result<FreezeScope, HandleError> {
    let invalid = |error: xeno_model::id::NameError| HandleError::Invalid {
        why: error.to_string(),
    };
    Ok(match view {
        ScopeView::Node => FreezeScope::Node,
        ScopeView::Slice(name) => FreezeScope::Slice(SliceName::new(name).map_err(invalid)?),
        ScopeView::Sliver(name) => FreezeScope::Sliver(SliverId::parse(name).map_err(invalid)?),
    })
}

fn stored_scope(scope: &FreezeScope) -> String {
    match scope {
        FreezeScope::Node => "node".to_owned(),
        FreezeScope::Slice(slice) => format!("slice:{slice}"),
        FreezeScope::Sliver(sliver) => format!("sliver:{sliver}"),
    }
}

fn planned(stored: &Stored) -> Option<Freeze> {
    let scope = match stored.scope.split_once(':') {
        None if stored.scope == "node" => FreezeScope::Node,
        Some(("slice", name)) => FreezeScope::Slice(SliceName::new(name).ok()?),
        Some(("sliver", name)) => FreezeScope::Sliver(SliverId::parse(name).ok()?),
        None | Some(_) => return None,
    };
    Some(Freeze {
        scope,
        reason: stored.reason.clone(),
        by: stored.by.clone(),
        since: stored.since,
        until: stored.until,
    })
}

fn view(freeze: &Freeze) -> FreezeView {
    FreezeView {
        scope: match &freeze.scope {
            FreezeScope::Node => ScopeView::Node,
            FreezeScope::Slice(slice) => ScopeView::Slice(slice.to_string()),
            FreezeScope::Sliver(sliver) => ScopeView::Sliver(sliver.to_string()),
        },
        reason: freeze.reason.clone(),
        by: freeze.by.clone(),
        since_ms: freeze.since.0,
        until_ms: freeze.until.map(|until| until.0),
    }
}

fn sliver_of(scope: &FreezeScope) -> Option<SliverId> {
    match scope {
        FreezeScope::Node | FreezeScope::Slice(_) => None,
        FreezeScope::Sliver(sliver) => Some(sliver.clone()),
    }
}
