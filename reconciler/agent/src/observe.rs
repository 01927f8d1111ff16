//! Looks at the node through its ports. What one port cannot see makes one facet unknown, never the whole.

use tokio::time::{Duration, timeout};
use xeno_model::id::{NodeName, Timestamp};
use xeno_model::observed::{ObservedNode, Seen};
use xeno_reconciler::ports::{Hypervisor, PortResult, Storage};

use crate::health::Verdicts;

/// How long one port may take to look. Longer than a busy node needs, shorter than a person waits for `xeno status`.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// One snapshot of the node.
pub(crate) async fn observe<H: Hypervisor, S: Storage>(
    node: NodeName,
    at: Timestamp,
    hypervisor: &H,
    storage: &S,
    health: Verdicts,
) -> ObservedNode {
    let (domains, storage, templates, remotes, file_layers) = tokio::join!(
        seen(hypervisor.observe()),
        seen(storage.observe()),
        seen(storage.templates()),
        seen(storage.remotes()),
        seen(storage.file_layers()),
    );
    ObservedNode {
        node,
        at,
        domains,
        storage,
        templates,
        file_layers,
        remotes,
        health,
    }
}

async fn seen<T>(look: impl Future<Output = PortResult<T>>) -> Seen<T> {
    match timeout(LOOK_MAX, look).await {
        Ok(Ok(value)) => Seen::Known(value),
        Ok(Err(error)) => Seen::Unknown { why: error.what },
        Err(_) => Seen::Unknown {
            why: format!("it did not answer within {} s", LOOK_MAX.as_secs()),
        },
    }
}
