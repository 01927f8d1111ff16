//! Wakes whoever looks at the node when a domain comes or goes. Only a hint: what changed is found by looking.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::chain;
use crate::driver::XenDriver;
use crate::store::{Connection, StoreError};

/// How long to wait before the daemon is asked again.
const PAUSE: Duration = Duration::from_secs(5);

impl XenDriver {
    /// Sends a hint whenever a domain of this node comes or goes, until the receiver is gone.
    pub async fn watch(&self, hint: mpsc::Sender<()>) {
        while !hint.is_closed() {
            if let Err(error) = follow(self.xenstored(), &hint).await {
                tracing::debug!(
                    error = chain(&error),
                    "cannot watch domains come and go; looking now and then"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn follow(socket: &Path, hint: &mpsc::Sender<()>) -> Result<(), StoreError> {
    let mut connection = Connection::open(socket).await?;
    for special in ["@introduceDomain", "@releaseDomain"] {
        connection.watch(special, "domains").await?;
    }
    while !hint.is_closed() {
        connection.event().await?;
        // A full place means that a hint is waiting already.
        let _ = hint.try_send(());
    }
    Ok(())
}
