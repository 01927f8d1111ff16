//! Fetches of templates under way: each goes on by itself, whoever stops waiting for it, and no two bring the same from
//! the same places.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cowfs::template::{Digest, FetchError, Store as Templates};
use tokio::sync::watch;
use xeno_reconciler::ports::{PortError, PortResult, Retry};

use super::blocking;

/// Fetches at a time, those included that hang and nobody waits for: each holds a thread.
const FETCHES_MAX: usize = 16;

/// A template, and where it is looked for.
type Key = (Digest, Vec<String>);

/// Told once, when the fetch has ended.
type Ending = watch::Receiver<Option<PortResult<()>>>;

/// Fetches under way.
#[derive(Clone, Default)]
pub(super) struct Fetches(Arc<Mutex<BTreeMap<Key, Ending>>>);

impl Fetches {
    /// Waits for the fetch of `digest` from `sources`, which `fetch` begins where none is under way. Who stops waiting
    /// does not end it.
    pub(super) async fn join<F>(
        &self,
        digest: Digest,
        sources: &[String],
        fetch: impl FnOnce() -> F,
    ) -> PortResult<()>
    where
        F: Future<Output = PortResult<()>> + Send + 'static,
    {
        let mut ending = self.begin((digest, sources.to_vec()), fetch)?;
        let ended = ending.wait_for(Option::is_some).await;
        let lost = || Err(PortError::later("the fetch ended without a result"));
        ended.map_or_else(|_| lost(), |result| result.clone().unwrap_or_else(lost))
    }

    fn begin<F>(&self, key: Key, fetch: impl FnOnce() -> F) -> PortResult<Ending>
    where
        F: Future<Output = PortResult<()>> + Send + 'static,
    {
        let mut all = self.lock();
        // One whose task is gone would never be told.
        all.retain(|_, ending| ending.has_changed().is_ok());
        if let Some(ending) = all.get(&key) {
            return Ok(ending.clone());
        }
        if all.len() >= FETCHES_MAX {
            return Err(PortError::later(format!(
                "{FETCHES_MAX} fetches are under way already, and have not ended"
            )));
        }
        let (tell, ending) = watch::channel(None);
        all.insert(key.clone(), ending.clone());
        let (fetch, fetches) = (fetch(), self.clone());
        tokio::spawn(async move {
            let result = fetch.await;
            fetches.lock().remove(&key);
            // Nobody waiting is no error.
            let _ = tell.send(Some(result));
        });
        Ok(ending)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Ending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries one source after the other.
pub(super) async fn fetch(templates: Arc<Templates>, digest: Digest, sources: Vec<String>) -> PortResult<()> {
    let mut failures = Vec::new();
    let mut retry = Retry::Never;
    for source in sources {
        let Some(path) = local_store(&source) else {
            failures.push(format!(
                "{source}: only file:///PATH/OF/A/STORE can be fetched from"
            ));
            continue;
        };
        let templates = Arc::clone(&templates);
        let fetched = blocking(move || Ok(templates.fetch_from(&path, &digest))).await?;
        match fetched {
            Ok(()) => return Ok(()),
            Err(error) => {
                // Another store may get it, space may be made; content that is not what it claims stays so.
                if !matches!(error, FetchError::Damaged { .. }) {
                    retry = Retry::Later;
                }
                failures.push(format!("{source}: {}", xeno_state::error::chain(&error)));
            }
        }
    }
    Err(PortError {
        what: failures.join("; "),
        retry,
    })
}

/// The store that a source names, if it is one on this machine.
fn local_store(source: &str) -> Option<PathBuf> {
    let path = source.strip_prefix("file://")?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_stops_waiting_ends_no_fetch_and_who_comes_later_joins_it() {
        let fetches = Fetches::default();
        let (arrived, begun) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let sources = ["file:///store".to_owned()];
        let join = || {
            fetches.join(Digest([1; 32]), &sources, || {
                begun.fetch_add(1, Ordering::Relaxed);
                let arrived = Arc::clone(&arrived);
                async move {
                    arrived.notified().await;
                    Ok(())
                }
            })
        };
        tokio::select! {
            biased;
            _ = join() => panic!("it has not arrived"),
            () = tokio::task::yield_now() => {}
        }
        arrived.notify_one();
        join().await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert!(fetches.lock().is_empty());
        arrived.notify_one();
        join().await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 2, "what has ended is begun anew");
    }

    #[tokio::test]
    async fn no_more_fetches_than_threads_can_bear() {
        let fetches = Fetches::default();
        for n in 0..FETCHES_MAX {
            let sources = [n.to_string()];
            fetches
                .begin((Digest([1; 32]), sources.to_vec()), std::future::pending)
                .unwrap();
        }
        let refused = fetches.join(Digest([2; 32]), &[], std::future::pending).await;
        assert!(refused.unwrap_err().what.contains("under way already"));
    }
}
