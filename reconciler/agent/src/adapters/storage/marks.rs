//! What the writable layers of slivers hold, told without reading them again as long as their files do not change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cowfs::control::api::Listing;
use cowfs::writable::mark::{Mark, fingerprint};
use xeno_model::id::{Digest, SliverId};
use xeno_reconciler::ports::PortResult;

use super::afar::Found;
use super::disk::Kept;
use super::names::mount_name;
use super::{NodeStorage, blocking};

/// Marks of closed layers, as they were last taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    taken: Arc<Mutex<BTreeMap<PathBuf, Taken>>>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    fingerprint: [u8; 32],
    mark: Mark,
}

impl Marks {
    /// The mark of the layer in `path`, which nobody has open; `None` where it cannot be told. Blocks.
    pub(super) fn of(&self, path: &Path) -> Option<Mark> {
        let fingerprint = fingerprint(path).ok()?;
        let known = self.taken().get(path).copied();
        if let Some(known) = known.filter(|known| known.fingerprint == fingerprint) {
            return Some(known.mark);
        }
        let mark = Mark::of(path)
            .inspect_err(|error| {
                let error = xeno_state::error::chain(error);
                tracing::warn!(path = %path.display(), error, "what a writable layer holds cannot be told");
            })
            .ok()?;
        self.taken().insert(path.to_owned(), Taken { fingerprint, mark });
        Some(mark)
    }

    /// Forgets layers that are not among `paths`.
    pub(super) fn keep(&self, paths: &[PathBuf]) {
        self.taken().retain(|path, _| paths.contains(path));
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Taken>> {
        // Every change of it is whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeStorage {
    /// What the writable layers of each sliver hold, where it can be told of all of them: the file server knows it of
    /// those that are open, as long as nobody has changed them; the others are looked at.
    pub(super) async fn take_marks(
        &self,
        seen: &BTreeMap<SliverId, Kept>,
        listing: &Listing,
        afar: &BTreeMap<PathBuf, Found>,
    ) -> PortResult<BTreeMap<SliverId, Digest>> {
        let mut open: BTreeMap<String, Option<Mark>> = listing
            .writables
            .keys()
            .map(|name| (name.clone(), None))
            .collect();
        if !open.is_empty() {
            match self.client.marks().await {
                Ok(marks) => {
                    for (name, mark) in marks.writables {
                        if let Some(known) = open.get_mut(&name) {
                            *known = Mark::parse(&mark);
                        }
                    }
                }
                // An older file server does not know the question, and one that is busy is asked again.
                Err(error) => tracing::debug!(error = xeno_state::error::chain(&error), "no marks"),
            }
        }
        let afar: BTreeMap<PathBuf, Option<Mark>> = afar
            .iter()
            .map(|(path, found)| (path.clone(), found.mark))
            .collect();
        let (seen, marks) = (seen.clone(), self.marks.clone());
        let told = move || {
            let mut told = BTreeMap::new();
            let mut closed = Vec::new();
            for (sliver, kept) in seen {
                let of = |(mount, path): (&usize, &PathBuf)| {
                    let name = mount_name(&sliver, *mount);
                    let elsewhere = kept.afar.get(mount);
                    let mark = match (open.get(&name).filter(|_| kept.live), elsewhere) {
                        (Some(open), _) => *open,
                        (None, Some(elsewhere)) => afar.get(elsewhere).copied().flatten(),
                        (None, None) => {
                            closed.push(path.clone());
                            marks.of(path)
                        }
                    };
                    mark.map(|mark| (*mount, mark))
                };
                let all: Option<BTreeMap<usize, Mark>> = kept.layers.iter().map(of).collect();
                if let Some(all) = all {
                    told.insert(sliver, of_all(&all));
                }
            }
            marks.keep(&closed);
            Ok(told)
        };
        blocking(told).await
    }
}

/// The mark of a sliver: of all its writable layers, by mount.
fn of_all(marks: &BTreeMap<usize, Mark>) -> Digest {
    let mut text = String::from("xenoslice marks 1\n");
    for (mount, mark) in marks {
        text.push_str(&format!("{mount} {mark}\n"));
    }
    Digest::of(text.as_bytes())
}
