//! Writable layers that lie elsewhere, on storage that several nodes reach: the file server looks at them for us. They are
//! its own (root may not even read them where an export squashes it), and what hangs there hangs there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cowfs::control::api::{Listing, LookAt};
use cowfs::control::client::{Client, ClientError};
use cowfs::writable::mark::Mark;
use cowfs::writable::saved::glance;
use hyper::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use xeno_model::id::{SliverId, Timestamp};

use super::disk::{Kept, timestamp};
use super::names::mount_name;
use super::{NodeStorage, blocking};
use crate::adapters::remotes::Reach;

/// How long the file server may take to look at one layer.
const LOOK_MAX: Duration = Duration::from_secs(4);

/// How long one is left alone at which it looked in vain for so long: what the others have to wait for must pass.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// Layers that are looked at at the same time.
const LOOKS_MAX: usize = 8;

/// What was found of layers elsewhere, by where they lie.
#[derive(Clone, Debug, Default)]
pub(super) struct Afar {
    known: Arc<Mutex<BTreeMap<PathBuf, Known>>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    found: Option<Found>,
    fingerprint: Option<String>,
    silent: Option<Instant>,
}

/// How a layer looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Checkpoints that lie there, and when they were made.
    pub(super) checkpoints: BTreeMap<String, Timestamp>,
    /// What it holds, where nobody has it open and it could be told.
    pub(super) mark: Option<Mark>,
}

impl Afar {
    fn known(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        // Every change of it is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, path: &Path) -> Known {
        self.known().get(path).cloned().unwrap_or_default()
    }

    /// What is to be said of a layer that does not answer: names of checkpoints change through us alone, so that those
    /// that were there are; what it holds nobody can tell.
    fn as_last_seen(&self, path: &Path) -> Result<Found, String> {
        let last = self.of(path).found.map(|found| Found { mark: None, ..found });
        last.ok_or_else(|| format!("{} does not answer", path.display()))
    }

    async fn look(&self, client: &Client, path: &Path, open: bool) -> Result<Found, String> {
        let known = self.of(path);
        if known.silent.is_some_and(|since| since.elapsed() < LEFT_ALONE) {
            return self.as_last_seen(path);
        }
        let at = LookAt {
            path: path.to_owned(),
            mark: !open,
            fingerprint: known.fingerprint.clone(),
        };
        let Ok(looked) = timeout(LOOK_MAX, client.look(&at)).await else {
            self.known().entry(path.to_owned()).or_default().silent = Some(Instant::now());
            return self.as_last_seen(path);
        };
        let looked = match looked {
            Ok(looked) => looked,
            // An older file server does not know the question.
            Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
                return look_ourselves(path.to_owned()).await;
            }
            Err(error) => return Err(xeno_state::error::chain(&error)),
        };
        let same = looked.fingerprint.is_some() && looked.fingerprint == known.fingerprint;
        let found = Found {
            checkpoints: looked
                .checkpoints
                .into_iter()
                .map(|(name, made)| (name, Timestamp(made)))
                .collect(),
            mark: match looked.mark {
                Some(mark) => Mark::parse(&mark),
                None if same => known.found.and_then(|found| found.mark),
                None => None,
            },
        };
        let now = Known {
            // One whose mark could not be told is asked for it again.
            fingerprint: looked.fingerprint.filter(|_| found.mark.is_some()),
            found: Some(found.clone()),
            silent: None,
        };
        self.known().insert(path.to_owned(), now);
        Ok(found)
    }
}

/// As it was done before the file server could: without what the layer holds.
async fn look_ourselves(path: PathBuf) -> Result<Found, String> {
    let looked = blocking(move || {
        let checkpoints = super::disk::at(&path, glance(&path))?;
        Ok(Found {
            checkpoints: checkpoints
                .into_iter()
                .map(|(name, made)| (name, timestamp(made)))
                .collect(),
            mark: None,
        })
    });
    looked.await.map_err(|error| error.what)
}

impl NodeStorage {
    /// Looks at all layers of `seen` that lie elsewhere, and adds their checkpoints there. Slivers of which one could not be
    /// looked at are taken from `seen`, and come back with the reason.
    pub(super) async fn look_afar(
        &self,
        seen: &mut BTreeMap<SliverId, Kept>,
        listing: &Listing,
    ) -> (BTreeMap<PathBuf, Found>, BTreeMap<SliverId, String>) {
        // What is mounted, and answers, has to be known first.
        let mounted = if seen.values().any(|kept| !kept.afar.is_empty()) {
            self.remotes.observe().await.map(drop)
        } else {
            Ok(())
        };
        let places = Arc::new(Semaphore::new(LOOKS_MAX));
        let (mut looks, mut asked) = (JoinSet::new(), BTreeSet::new());
        for (sliver, kept) in &*seen {
            for (mount, path) in &kept.afar {
                let open = kept.live && listing.writables.contains_key(&mount_name(sliver, *mount));
                asked.insert(path.clone());
                let (sliver, path) = (sliver.clone(), path.clone());
                let (afar, client, places) = (self.afar.clone(), self.client.clone(), Arc::clone(&places));
                let reach = match &mounted {
                    Ok(()) => Ok(self.remotes.reach(&path)),
                    Err(error) => Err(error.what.clone()),
                };
                looks.spawn(async move {
                    let found = match reach {
                        Ok(Reach::Answers) => match places.acquire().await {
                            Ok(_place) => afar.look(&client, &path, open).await,
                            Err(error) => Err(error.to_string()),
                        },
                        // It is mounted where something is to be done with it, and then looked at again.
                        Ok(Reach::NotMounted) => Ok(Found::default()),
                        Ok(Reach::Silent) => afar.as_last_seen(&path),
                        Err(why) => Err(why),
                    };
                    (sliver, path, found)
                });
            }
        }
        let (mut all, mut lost) = (BTreeMap::new(), BTreeMap::new());
        while let Some(looked) = looks.join_next().await {
            // A look that panicked is missing below.
            let Ok((sliver, path, found)) = looked else {
                continue;
            };
            match found {
                Ok(found) => drop(all.insert(path, found)),
                Err(why) => drop(lost.insert(sliver, why)),
            }
        }
        seen.retain(|sliver, kept| {
            for path in kept.afar.values() {
                let Some(found) = all.get(path) else {
                    let why = || format!("{} was not looked at", path.display());
                    lost.entry(sliver.clone()).or_insert_with(why);
                    return false;
                };
                for (name, made) in found.checkpoints.iter().filter(|_| kept.live) {
                    let first = kept.checkpoints.entry(name.clone()).or_insert(*made);
                    *first = (*made).min(*first);
                }
            }
            true
        });
        self.afar.known().retain(|path, _| asked.contains(path));
        (all, lost)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// A file server that gives these answers, one to each request, and then none any more; and a client of it.
    fn server(answers: Vec<(u16, &'static str)>) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut answers = answers.into_iter();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                match answers.next() {
                    Some((status, body)) => {
                        let length = body.len();
                        let answer =
                            format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n{body}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    None => silent.push(stream),
                }
            }
        });
        (dir, Client::new(socket))
    }

    const FOUND: (u16, &str) = (
        200,
        r#"{"formatVersion":1,"checkpoints":{"first":7},
            "fingerprint":"0000000000000000000000000000000000000000000000000000000000000001",
            "mark":"0000000000000000000000000000000000000000000000000000000000000002"}"#,
    );
    const SAME: (u16, &str) = (
        200,
        r#"{"formatVersion":1,"checkpoints":{"first":7},
            "fingerprint":"0000000000000000000000000000000000000000000000000000000000000001"}"#,
    );
    const DENIED: (u16, &str) = (500, r#"{"error":"/far/web-0: it may not","retryable":true}"#);
    const OLDER: (u16, &str) = (404, r#"{"error":"there is nothing here","retryable":false}"#);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_answer_is_as_it_was_but_for_what_it_holds_and_is_left_alone() {
        let (_dir, client) = server(vec![FOUND, SAME]);
        let (afar, path) = (Afar::default(), Path::new("/far/web-0"));
        let found = afar.look(&client, path, false).await.unwrap();
        assert_eq!(found.checkpoints, [("first".to_owned(), Timestamp(7))].into());
        assert!(found.mark.is_some());
        assert_eq!(
            afar.look(&client, path, false).await.unwrap(),
            found,
            "not taken again"
        );

        let began = Instant::now();
        let last = afar.look(&client, path, false).await.unwrap();
        assert_eq!((last.checkpoints, last.mark), (found.checkpoints, None));
        assert_eq!(began.elapsed(), LOOK_MAX);
        let again = afar.look(&client, path, false).await.unwrap();
        assert_eq!((again.mark, began.elapsed()), (None, LOOK_MAX));
        // Of one that was never seen nothing can be said.
        let never = afar.look(&client, Path::new("/far/db-0"), false).await;
        assert_eq!(never.unwrap_err(), "/far/db-0 does not answer");
    }

    #[tokio::test]
    async fn what_may_not_be_looked_at_is_not_taken_for_empty() {
        let (_dir, client) = server(vec![DENIED]);
        let found = Afar::default()
            .look(&client, Path::new("/far/web-0"), false)
            .await;
        assert!(found.unwrap_err().contains("it may not"));
    }

    #[tokio::test]
    async fn an_older_file_server_is_not_needed_for_it() {
        let (dir, client) = server(vec![OLDER]);
        std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
        std::fs::write(dir.path().join("checkpoints/first.json"), "").unwrap();
        let found = Afar::default().look(&client, dir.path(), false).await.unwrap();
        assert_eq!(found.checkpoints.into_keys().collect::<Vec<_>>(), ["first"]);
    }
}
