//! The node's state for async callers: each call is one visit on a blocking thread, one after the other.

use std::sync::{Arc, Mutex, PoisonError};

use xeno_state::StateError;
use xeno_state::node::{NodeState, Writer};

/// Shares the node's state. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    state: Arc<Mutex<NodeState>>,
    /// What was found damaged last; until the state is made anew.
    damage: Arc<Mutex<Option<String>>>,
    #[cfg(feature = "lab")]
    fuse: Option<crate::lab::Fuse>,
}

impl Store {
    pub(crate) fn new(state: NodeState) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            damage: Arc::default(),
            #[cfg(feature = "lab")]
            fuse: None,
        }
    }

    /// Lets a fuse look at the state after each write: where it blows, the write never returns.
    #[cfg(feature = "lab")]
    pub(crate) fn fused(self, fuse: crate::lab::Fuse) -> Self {
        let fuse = Some(fuse);
        Self { fuse, ..self }
    }

    /// What a call found damaged, if the state has not been made anew since.
    pub(crate) fn damage(&self) -> Option<String> {
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.clone()
    }

    /// Sets the state aside and makes it anew, with what `body` writes.
    pub(crate) async fn rebuild<T: Send + 'static>(
        &self,
        why: String,
        body: impl FnOnce(&mut Writer<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let damage = Arc::clone(&self.damage);
        self.visit(move |state| {
            state.rebuild(&why)?;
            let value = state.write(body)?;
            *damage.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(value)
        })
        .await
    }

    /// Reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        body: impl FnOnce(&NodeState) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.visit(|state| body(state)).await
    }

    /// Writes, as one transaction.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut Writer<'_>) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let written = self.visit(|state| state.write(body)).await;
        #[cfg(feature = "lab")]
        if let Some(fuse) = self.fuse.clone()
            && self
                .visit(move |state| Ok(fuse.blows(state)))
                .await
                .unwrap_or(true)
        {
            std::future::pending::<()>().await;
        }
        written
    }

    async fn visit<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut NodeState) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let (state, damage) = (Arc::clone(&self.state), Arc::clone(&self.damage));
        let visit = tokio::task::spawn_blocking(move || {
            // A panic inside a transaction has rolled it back; what is there is whole.
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = body(&mut state);
            if let Err(error) = &result
                && error.is_damage()
            {
                let why = xeno_state::error::chain(error);
                damage
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(why);
            }
            result
        });
        visit.await.unwrap_or_else(|error| {
            Err(StateError::Thread {
                why: error.to_string(),
            })
        })
    }
}
