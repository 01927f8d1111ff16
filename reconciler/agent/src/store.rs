//! The node's state for async callers: each call is one visit on a blocking thread, one after the other.

use std::sync::{Arc, Mutex, PoisonError};

use xeno_state::StateError;
use xeno_state::node::{NodeState, Writer};

/// Shares the node's state. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    state: Arc<Mutex<NodeState>>,
}

impl Store {
    pub(crate) fn new(state: NodeState) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
        }
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
        self.visit(|state| state.write(body)).await
    }

    async fn visit<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut NodeState) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let state = Arc::clone(&self.state);
        let visit = tokio::task::spawn_blocking(move || {
            // A panic inside a transaction has rolled it back; what is there is whole.
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            body(&mut state)
        });
        visit.await.unwrap_or_else(|error| {
            Err(StateError::Record {
                what: "state",
                why: format!("the thread that reads it ended: {error}"),
            })
        })
    }
}
