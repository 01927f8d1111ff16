//! The storage of a node in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use xeno_model::desired::{FileSet, Place};
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::observed::{LayerLimits, Leasing, ObservedStorage, Seen};
use xeno_model::units::Bytes;

use super::{ScriptedNode, State};
use crate::ports::{BootFiles, GuestMount, LayerSource, MountSpec, PortError, PortResult, Retry, Storage};

impl Storage for ScriptedNode {
    async fn observe(&self) -> PortResult<BTreeMap<SliverId, Seen<ObservedStorage>>> {
        self.state().lapse();
        self.look(|state| state.storage_seen()).await
    }

    async fn templates(&self) -> PortResult<BTreeSet<Digest>> {
        self.look(|state| BTreeSet::clone(&state.templates)).await
    }

    async fn file_layers(&self) -> PortResult<BTreeSet<Digest>> {
        let files = self.look(|state| BTreeSet::clone(&state.files)).await;
        // Whoever looks at a node looks at these last.
        self.state().looked_at();
        files
    }

    async fn fetch_template(&self, digest: &Digest, _: &[String]) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.templates.insert(*digest);
        };
        self.call("fetch", &digest.short(), effect).await
    }

    async fn import_files(
        &self,
        digest: &Digest,
        _: &FileSet,
        _: &BTreeMap<String, Vec<u8>>,
    ) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.files.insert(*digest);
        };
        self.call("import", &digest.short(), effect).await
    }

    async fn open_writable(&self, sliver: &SliverId, epoch: Epoch, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let storage = state.storage(sliver);
            let closed = storage.open.is_none_or(|open| open == epoch);
            let fresh = !storage.on_disk && storage.tombstone.is_none();
            storage.on_disk |= mounts.iter().any(|mount| mount.writable) || storage.tombstone.is_some();
            storage.open = Some(epoch);
            storage.limits = limits(mounts);
            storage.tombstone = None;
            if state.storage(sliver).on_disk && !state.written.contains_key(sliver) {
                state.layers_made += 1;
                state.written.insert(sliver.clone(), state.layers_made);
            }
            state.rule(closed, || format!("open:{sliver} while open under another epoch"));
            state.moves.epochs.insert(sliver.clone(), epoch);
            if fresh {
                state.write(sliver);
            }
            for mount in mounts {
                let Some(Place::Remote { within, .. }) = &mount.place else {
                    continue;
                };
                let here = state.answers(within);
                state.rule(here, || format!("open:{sliver} without {within}"));
            }
        };
        self.call("open", &sliver.to_string(), effect).await
    }

    async fn limit(&self, sliver: &SliverId, epoch: Option<Epoch>, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let open = state.storage(sliver).open == epoch;
            state.rule(open, || format!("limit:{sliver} of what is not open"));
            let storage = state.storage(sliver);
            if storage.open.is_some() {
                storage.limits = limits(mounts);
            }
            if storage.exported {
                storage.shares = shares(mounts);
                state.bind(sliver, leased(mounts));
            }
        };
        self.call("limit", &sliver.to_string(), effect).await
    }

    async fn checkpoint(
        &self,
        sliver: &SliverId,
        _: Epoch,
        name: &str,
        fresh: bool,
        drops: &BTreeSet<String>,
    ) -> PortResult<()> {
        let effect = |state: &mut State| {
            let kept = state.storage(sliver).on_disk;
            state.rule(kept, || format!("checkpoint:{sliver} of what is not there"));
            let ours = drops.iter().all(|name| crate::checkpoint::is_ours(name));
            state.rule(ours, || format!("checkpoint:{sliver} drops a person's"));
            let (at, mark) = (state.now(), state.storage(sliver).mark);
            let storage = state.storage(sliver);
            storage.checkpoints.retain(|name, _| !drops.contains(name));
            let there = storage.checkpoints.contains_key(name);
            let key = (sliver.clone(), name.to_owned());
            // One that is made anew and holds the same is the same.
            if !there || fresh && state.saved.get(&key) != Some(&mark) {
                state.storage(sliver).checkpoints.insert(name.to_owned(), at);
                state.saved.insert(key, mark);
            }
        };
        self.call("checkpoint", &sliver.to_string(), effect).await
    }

    async fn restore(&self, sliver: &SliverId, _: Epoch, name: &str, done: Option<&str>) -> PortResult<()> {
        let effect = |state: &mut State| {
            let has_domain = state.has_domain(sliver);
            let storage = state.storage(sliver);
            if done.is_some_and(|done| storage.checkpoints.contains_key(done)) {
                return;
            }
            let quiet = !has_domain && storage.stack.is_none();
            let there = storage.checkpoints.contains_key(name);
            state.rule(quiet && there, || {
                format!("restore:{sliver} below what is in use")
            });
            let (at, saved) = (
                state.now(),
                state.saved.get(&(sliver.clone(), name.to_owned())).copied(),
            );
            let storage = state.storage(sliver);
            storage.mark = saved.flatten();
            storage.checkpoints.extend(done.map(|done| (done.to_owned(), at)));
        };
        self.call("restore", &sliver.to_string(), effect).await
    }

    async fn stack(&self, sliver: &SliverId, stack: &Digest, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let open = state.storage(sliver).open.is_some();
            state.rule(open, || format!("stack:{sliver} without its writable layer"));
            for layer in mounts.iter().flat_map(|mount| &mount.layers) {
                let here = match layer {
                    LayerSource::Template(digest) => state.templates.contains(digest),
                    LayerSource::Files(digest) => state.files.contains(digest),
                    LayerSource::Remote(remote) => state.answers(remote),
                    LayerSource::Directory(_) => true,
                };
                state.rule(here, || format!("stack:{sliver} without {layer:?}"));
            }
            state.storage(sliver).stack = Some(*stack);
        };
        self.call("stack", &sliver.to_string(), effect).await
    }

    async fn export(&self, sliver: &SliverId, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let stacked = state.storage(sliver).stack.is_some();
            state.rule(stacked, || format!("export:{sliver} without its stack"));
            state.storage(sliver).exported = true;
            state.bind(sliver, leased(mounts));
            state.storage(sliver).shares = shares(mounts);
        };
        self.call("export", &sliver.to_string(), effect).await
    }

    async fn unexport(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let alone = !state.may_use_disk(sliver);
            state.rule(alone, || format!("unexport:{sliver} below its domain"));
            state.storage(sliver).exported = false;
            state.storage(sliver).parked = false;
            state.storage(sliver).lease = Leasing::Free;
            state.storage(sliver).shares.clear();
        };
        self.call("unexport", &sliver.to_string(), effect).await
    }

    async fn close_writable(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let quiet = !state.may_use_disk(sliver) && !state.storage(sliver).exported;
            state.rule(quiet, || format!("close:{sliver} while in use"));
            let storage = state.storage(sliver);
            storage.stack = None;
            storage.open = None;
            storage.limits.clear();
        };
        self.call("close", &sliver.to_string(), effect).await
    }

    async fn tombstone(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let now = state.now();
            let has_domain = state.has_domain(sliver);
            let storage = state.storage(sliver);
            let quiet = !has_domain && !storage.exported && storage.open.is_none();
            storage.tombstone = Some(storage.tombstone.unwrap_or(now));
            storage.on_disk = false;
            state.rule(quiet, || format!("tombstone:{sliver} while in use"));
        };
        self.call("tombstone", &sliver.to_string(), effect).await
    }

    async fn revive(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let closed = state.storage(sliver).open.is_none();
            state.rule(closed, || format!("revive:{sliver} while in use"));
            let storage = state.storage(sliver);
            storage.on_disk |= storage.tombstone.take().is_some();
        };
        self.call("revive", &sliver.to_string(), effect).await
    }

    async fn adopt(&self, from: &SliverId, to: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let busy =
                [from, to].map(|sliver| state.has_domain(sliver) || state.storage(sliver).open.is_some());
            state.rule(busy == [false, false], || format!("adopt:{to} of what is in use"));
            let Some(kept) = state.storage.remove(from).filter(|kept| kept.on_disk) else {
                return;
            };
            let nothing = !state.storage(to).on_disk;
            state.rule(nothing, || format!("adopt:{to} over what it has"));
            *state.storage(to) = kept;
            if let Some(layers) = state.written.remove(from) {
                state.written.insert(to.clone(), layers);
            }
        };
        self.call("adopt", &to.to_string(), effect).await
    }

    async fn purge(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let Some(storage) = state.storage.get(sliver) else {
                return;
            };
            let set_aside = storage.tombstone.is_some() && !state.has_domain(sliver);
            state.rule(set_aside, || format!("purge:{sliver} of what is not set aside"));
            state.storage.remove(sliver);
            state.written.remove(sliver);
        };
        self.call("purge", &sliver.to_string(), effect).await
    }

    fn guest_mounts(&self, sliver: &SliverId, mounts: &[MountSpec]) -> Vec<GuestMount> {
        let mount = |(i, mount): (usize, &MountSpec)| GuestMount {
            path: mount.path.clone(),
            export: format!("/{}.{i}", sliver.label()),
            socket: PathBuf::from(format!("/scripted/{}-{i}.nfs", sliver.label())),
        };
        mounts.iter().enumerate().map(mount).collect()
    }

    async fn boot_files(&self, template: &Digest) -> PortResult<BootFiles> {
        let here = self.state().templates.contains(template);
        if !here {
            let what = format!("template {} is not here", template.short());
            return Err(PortError {
                what,
                retry: Retry::Never,
            });
        }
        Ok(BootFiles {
            kernel: PathBuf::from("/scripted/vmlinuz"),
            initramfs: PathBuf::from("/scripted/initrd"),
            cmdline: vec![],
        })
    }
}

fn limits(mounts: &[MountSpec]) -> BTreeSet<LayerLimits> {
    let writable = mounts.iter().filter(|mount| mount.writable);
    let limits = |mount: &MountSpec| LayerLimits {
        bytes: mount.quota_bytes.map(Bytes),
        inodes: mount.quota_inodes,
    };
    writable.map(limits).collect()
}

fn leased(mounts: &[MountSpec]) -> bool {
    mounts.iter().any(|mount| mount.leased)
}

fn shares(mounts: &[MountSpec]) -> BTreeSet<u32> {
    mounts.iter().map(|mount| mount.share).collect()
}
