//! From what a person says to a writable layer and the layers below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cowfs::control::api::Listing;
use cowfs::control::client::{Client, ClientError};
use cowfs::inspect::Inspection;
use cowfs::opener::Opener;
use cowfs::service::LayerSource;
use cowfs::template::Store;
use xeno_model::id::SliverId;

use super::Target;
use crate::failure::{Failure, Outcome};
use crate::{link, output};

/// A layer that was found.
pub(super) struct Found {
    /// Its directory.
    pub(super) path: PathBuf,
    pub(super) inspection: Inspection,
    /// Why it is not compared with the layers below, where it is not.
    pub(super) alone: Option<String>,
}

/// Where a layer is, and what is known of the layers below it.
struct Place {
    path: PathBuf,
    below: Option<Vec<LayerSource>>,
}

impl Target {
    fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.state.join("templates"))
    }

    /// Finds the layer and looks into it.
    pub(super) fn find(&self) -> Outcome<Found> {
        let place = self.place()?;
        let looking = |error: &dyn std::error::Error| {
            Failure::doing(format_args!("look into {}", place.path.display()), error)
        };
        let inspection = Inspection::open(&place.path).map_err(|error| looking(&error))?;
        let mut found = Found {
            path: place.path.clone(),
            inspection,
            alone: None,
        };
        if let Some(layers) = &place.below {
            let opener = Opener::new(&self.store());
            let layers: Result<Vec<_>, _> = layers.iter().map(|layer| opener.layer(layer)).collect();
            match layers {
                Ok(layers) => found.inspection = found.inspection.over(layers, Some(opener.contents())),
                Err(error) => {
                    found.alone = Some(format!(
                        "the layers below it are not at hand in {} (--store): {}",
                        self.store().display(),
                        crate::failure::chain(&error)
                    ));
                }
            }
            return Ok(found);
        }
        self.stored(found)
    }

    /// Finds the layers below by what the layer remembers of them: in the store, and in directories that were named.
    fn stored(&self, found: Found) -> Outcome<Found> {
        let Found { path, inspection, .. } = found;
        let opener = Opener::new(&self.store());
        let mut layers = Vec::new();
        for dir in &self.below {
            let layer = opener.layer(&LayerSource::Dir(dir.clone()));
            layers.push(layer.map_err(|error| Failure::doing("look at the layers below", &error))?);
        }
        let store_dir = self.store();
        if store_dir.is_dir() {
            let store = Store::open_read_only(&store_dir);
            let reading = |error| Failure::doing("read the template store", &error);
            // One that cannot be opened is not there.
            layers.extend(
                store
                    .list()
                    .map_err(reading)?
                    .iter()
                    .filter_map(|digest| store.layer(digest).ok()),
            );
        }
        let (inspection, missing) = inspection.over_known(&layers, opener.contents());
        let alone = (!missing.is_empty()).then(|| {
            let missing: Vec<String> = missing
                .iter()
                .map(|id| id.0.iter().map(|byte| format!("{byte:02x}")).collect())
                .collect();
            format!(
                "the layers below it are not at hand: not in {} (--store): {}",
                store_dir.display(),
                missing.join(", ")
            )
        });
        Ok(Found {
            path,
            inspection,
            alone,
        })
    }

    fn place(&self) -> Outcome<Place> {
        let direct = Path::new(&self.target);
        if is_layer(direct) {
            return Ok(Place {
                path: direct.to_owned(),
                below: None,
            });
        }
        let sliver = SliverId::parse(&self.target).ok();
        let client = Client::new(self.server.socket());
        let unreachable = match link::wait(async { Ok(client.list().await) })? {
            Ok(listing) => {
                if let Some(name) = self.open_name(&listing, sliver.as_ref())? {
                    return Ok(self.served(&client, &listing, &name));
                }
                None
            }
            Err(ClientError::Unreachable { .. }) => Some(self.server.socket()),
            Err(error) => return Err(error.into()),
        };
        if let Some(sliver) = &sliver
            && let Some(path) = self.closed(sliver)?
        {
            return Ok(Place { path, below: None });
        }
        let failure = Failure::said(format!("there is no writable layer of `{}`", self.target));
        Err(failure.hint(match unreachable {
            Some(socket) => format!(
                "no file server answers at {} (--control), and nothing is kept of it in {} (--state)",
                socket.display(),
                self.state.display()
            ),
            None => {
                "name a sliver (web/0), what `xeno cowfs stat` shows, or the directory of a layer".to_owned()
            }
        }))
    }

    /// The name under which a file server has the layer open.
    fn open_name(&self, listing: &Listing, sliver: Option<&SliverId>) -> Outcome<Option<String>> {
        if listing.writables.contains_key(&self.target) {
            return Ok(Some(self.target.clone()));
        }
        let Some(sliver) = sliver else { return Ok(None) };
        let prefix = format!("{}.", sliver.label());
        let mounts = listing.writables.keys();
        let mounts =
            mounts.filter_map(|name| Some((name.strip_prefix(&prefix)?.parse().ok()?, name.clone())));
        self.one(sliver, mounts.collect())
    }

    /// The layer of a sliver that the agent keeps and no file server has open.
    fn closed(&self, sliver: &SliverId) -> Outcome<Option<PathBuf>> {
        let dir = self.state.join("writable").join(sliver.label());
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::doing(
                    format_args!("look into {}", dir.display()),
                    &error,
                ));
            }
        };
        let mounts = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            is_layer(&path).then_some((number, path))
        });
        self.one(sliver, mounts.collect())
    }

    /// The mount that is meant.
    fn one<T>(&self, sliver: &SliverId, mounts: BTreeMap<usize, T>) -> Outcome<Option<T>> {
        if self.mount.is_none() && mounts.len() > 1 {
            let numbers: Vec<String> = mounts.keys().map(ToString::to_string).collect();
            let what = format!("{sliver} has {} writable mounts", mounts.len());
            return Err(Failure::said(what).hint(format!("say which with --mount: {}", numbers.join(", "))));
        }
        let mut mounts = mounts.into_iter();
        Ok(mounts
            .find(|(number, _)| self.mount.is_none_or(|wanted| wanted == *number))
            .map(|(_, found)| found))
    }

    /// A layer that a file server has open; what its guest has written is on its way to the disk first.
    fn served(&self, client: &Client, listing: &Listing, name: &str) -> Place {
        let stack = listing
            .stacks
            .iter()
            .find(|(_, stack)| stack.writable.as_deref() == Some(name));
        let export = stack.and_then(|(stack, _)| {
            listing
                .exports
                .iter()
                .find(|(_, export)| export.spec.stack == *stack)
        });
        if let Some((export, _)) = export {
            let flushed: Outcome<()> = link::wait(async { Ok(client.flush(export).await?) });
            if flushed.is_err() {
                output::note("what the guest has written and not synced may not be seen yet");
            }
        }
        Place {
            path: listing.writables[name].path.clone(),
            below: stack.map(|(_, stack)| stack.layers.clone()),
        }
    }
}

fn is_layer(path: &Path) -> bool {
    path.join("layer.json").is_file()
}
