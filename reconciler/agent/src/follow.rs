//! Follows the repository: fetches, reads, parses, resolves, and tells the loop what it means for this node.
//!
//! A commit is read once. What cannot be read changes nothing, and is tried again with the next poll or hint.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::Duration;
use xeno_model::desired::DesiredNode;
use xeno_model::diagnostic::Paint;
use xeno_model::id::{NodeName, Revision};

use crate::event_loop::SourceNews;
use crate::source::{Manifests, RepositorySnapshot, Source, SourceError};
use crate::watch::RepositoryWatch;

/// What is followed.
pub(crate) struct Follower {
    pub(crate) source: Source,
    pub(crate) node: NodeName,
    /// Folder of `fleet.yaml`.
    pub(crate) folder: String,
    /// The repository, where it is on this machine.
    pub(crate) local: Option<PathBuf>,
    pub(crate) poll: Duration,
    pub(crate) news: mpsc::Sender<SourceNews>,
    /// Somebody wants the repository read now.
    pub(crate) refetch: Arc<Notify>,
}

impl Follower {
    /// Follows for as long as anybody listens. `accepted` is the last good commit: it is read first, from the mirror, so
    /// that a node works while the repository is out of reach.
    pub(crate) async fn follow(self, accepted: Option<Revision>) {
        let mut manifests = Manifests::default();
        // The last commit that was told as good: a branch must descend from it.
        let mut known = accepted.clone();
        let mut told: Option<Revision> = None;
        if let Some(revision) = accepted {
            // Where the mirror is gone or damaged the fetch makes it anew, and says so if it cannot.
            if let Ok(SourceNews::Desired(desired)) = self.read(&mut manifests, revision).await
                && self.news.send(SourceNews::Restored(desired)).await.is_err()
            {
                return;
            }
        }
        let mut watch = RepositoryWatch::new(self.local.as_deref(), self.poll, u64::from(std::process::id()));
        let mut asked = false;
        loop {
            let news = match self.source.fetch(known.clone()).await {
                Ok(fetched) => {
                    self.read_new(&mut manifests, fetched.revision, &mut told, asked)
                        .await
                }
                Err(error) => Some(failure(&error)),
            };
            if let Some(news) = news {
                if let SourceNews::Desired(desired) = &news {
                    known = Some(desired.revision.clone());
                }
                if self.news.send(news).await.is_err() {
                    return;
                }
            }
            asked = tokio::select! {
                _ = watch.wake() => false,
                () = self.refetch.notified() => true,
                () = self.news.closed() => return,
            };
        }
    }

    /// Reads a commit that is new; one that was read is only told again if somebody asked.
    async fn read_new(
        &self,
        manifests: &mut Manifests,
        revision: Revision,
        told: &mut Option<Revision>,
        asked: bool,
    ) -> Option<SourceNews> {
        if told.as_ref() == Some(&revision) && !asked {
            return Some(SourceNews::Unchanged { head: revision });
        }
        match self.read(manifests, revision.clone()).await {
            Ok(news) => {
                *told = Some(revision);
                Some(news)
            }
            Err(error) => Some(failure(&error)),
        }
    }

    async fn read(&self, manifests: &mut Manifests, revision: Revision) -> Result<SourceNews, SourceError> {
        let snapshot = self.source.read(revision.clone(), &self.folder).await?;
        let node = self.node.clone();
        // Parsing a large repository takes a while, and is nobody's business but this task's.
        let mut held = std::mem::take(manifests);
        let parsed = tokio::task::spawn_blocking(move || {
            let meaning = meaning(&mut held, &snapshot, &node);
            (held, meaning)
        });
        match parsed.await {
            Ok((held, meaning)) => {
                *manifests = held;
                Ok(match meaning {
                    Ok(desired) => SourceNews::Desired(desired),
                    Err(why) => SourceNews::Rejected { revision, why },
                })
            }
            Err(error) => Ok(SourceNews::Rejected {
                revision,
                why: format!("a mistake in this program ended the reading of it: {error}"),
            }),
        }
    }
}

fn meaning(
    manifests: &mut Manifests,
    snapshot: &RepositorySnapshot,
    node: &NodeName,
) -> Result<Box<DesiredNode>, String> {
    let fleet = manifests
        .fleet(snapshot)
        .map_err(|report| report.render(Paint::Plain).trim_end().to_owned())?;
    Ok(Box::new(fleet.project(node, &snapshot.revision)))
}

fn failure(error: &SourceError) -> SourceNews {
    let why = xeno_state::error::chain(error);
    SourceNews::Failed {
        why: match error.hint() {
            Some(hint) => format!("failed to {why}; {hint}"),
            None => format!("failed to {why}"),
        },
    }
}
