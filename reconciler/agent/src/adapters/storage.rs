//! Storage over the file server's control socket, the template store and the directories of the node.
//!
//! ```text
//! STATE/writable/web-0/0/            the writable layer of mount 0 of web/0
//! STATE/writable/web-0/mounts.json   which mounts have one
//! STATE/tombstones/web-0-1790…/      the same, set aside by a removal at that time (milliseconds since 1970)
//! STATE/s/4c1e….sock                 where a mount is served, named by a hash: paths of sockets are short
//! ```
//!
//! In the file server, writable layer, stack and export of mount 0 are all called `web-0.0`; a stack's label says what
//! it consists of and how many mounts its sliver has. What is called otherwise, or lies elsewhere, is somebody else's and
//! never touched.

mod afar;
mod arrivals;
mod disk;
mod fetching;
mod listing;
mod marks;
mod moving;
mod names;
mod paths;
mod server_user;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use cowfs::control::api::{ExportSpec, Listing, StackSpec, WritableSpec};
use cowfs::control::client::{Client, ClientError};
use cowfs::export::{State, Weight};
use cowfs::guest::boot_words;
use cowfs::link::LinkName;
use cowfs::service::LayerSource as Served;
use cowfs::template::{FileToImport, Store as Templates, StoreError};
use xeno_model::desired::{CarriedContent, FileSet, Place, Remote};
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::observed::{ObservedStorage, RemoteState, Seen};
use xeno_reconciler::ports::{
    BootFiles, DriverFact, GuestMount, LayerSource, MountSpec, PortError, PortResult, Remotes, Storage,
};

use crate::adapters::remotes::NodeRemotes;
use crate::clock::Clock;
use crate::config::RemotesConfig;
use crate::store::Store;
use afar::Afar;
use disk::{Disk, Spot};
use fetching::{Fetches, fetch};
use listing::{by_sliver, directories};
use marks::Marks;
use moving::Receiving;
use names::{Label, mount_name, read_mount_name, socket_name};
use paths::{allowed, writable_below};
pub(crate) use server_user::ServerUser;

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct StoragePaths {
    /// The agent's own directory.
    pub(crate) state: PathBuf,
    /// The template store that the file server reads.
    pub(crate) templates: PathBuf,
    /// The file server's control socket.
    pub(crate) cowfs: PathBuf,
    /// Directory layers lie below one of these.
    pub(crate) overlay_roots: Vec<PathBuf>,
    /// Writable layers at `file://` lie below one of these.
    pub(crate) writable_roots: Vec<PathBuf>,
    /// How remote directories are mounted.
    pub(crate) remotes: RemotesConfig,
    /// Whom the file server runs as, if not as the agent does.
    pub(crate) server: Option<ServerUser>,
}

/// Storage of one node.
pub(crate) struct NodeStorage {
    paths: StoragePaths,
    client: Client,
    templates: Arc<Templates>,
    fetches: Fetches,
    disk: Disk,
    marks: Marks,
    afar: Afar,
    receiving: Receiving,
    remotes: NodeRemotes,
    store: Store,
    clock: Clock,
}

impl NodeStorage {
    /// Opens the template store and makes the directories that are missing.
    pub(crate) fn open(mut paths: StoragePaths, store: Store, clock: Clock) -> PortResult<Self> {
        // What is ours is known by its path, so there must be one spelling of it.
        let spelt = paths.state.canonicalize();
        paths.state =
            spelt.map_err(|error| PortError::later(format!("{}: {error}", paths.state.display())))?;
        let disk = Disk::open(&paths.state, paths.server)?;
        let templates = Templates::open(&paths.templates);
        let templates = templates.map_err(|error| failed("opening the template store", true, &error))?;
        Ok(Self {
            client: Client::new(&paths.cowfs),
            templates: Arc::new(templates),
            fetches: Fetches::default(),
            disk,
            marks: Marks::default(),
            afar: Afar::default(),
            receiving: Receiving::default(),
            remotes: NodeRemotes::new(paths.remotes.clone(), clock),
            store,
            clock,
            paths,
        })
    }

    /// Asks the servers of remote directories again and again; hints when that shows something new.
    pub(crate) fn watch_remotes(&self, hint: mpsc::Sender<()>) -> impl Future<Output = ()> + Send + use<> {
        self.remotes.clone().watch(hint)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.paths.state.join("s").join(socket_name(name))
    }

    /// What the file server holds of ours. An agent that was given another's file server by mistake finds the same names
    /// there; whose they are shows in where they lie, and what lies elsewhere is not seen and so never taken apart.
    async fn listing(&self) -> PortResult<Listing> {
        let mut listing = self.client.list().await.map_err(|error| refused(&error))?;
        let own = self.paths.state.join("writable");
        let (disk, writables) = (self.disk.clone(), std::mem::take(&mut listing.writables));
        listing.writables = blocking(move || {
            let is_own = |name: &str, path: &Path| match read_mount_name(name) {
                Some((sliver, mount)) => disk.place(&sliver, mount).is_some_and(|place| place == path),
                None => false,
            };
            let ours = |(name, spec): &(String, WritableSpec)| {
                spec.path.starts_with(&own) || is_own(name, &spec.path)
            };
            Ok(writables.into_iter().filter(ours).collect())
        })
        .await?;
        let mut foreign = BTreeSet::new();
        listing.exports.retain(|name, view| {
            let ours = view.spec.socket.as_deref() == Some(self.socket(name).as_path());
            if !ours {
                foreign.insert(view.spec.stack.clone());
            }
            ours
        });
        let writables = &listing.writables;
        listing.stacks.retain(|name, spec| match &spec.writable {
            Some(writable) => writables.contains_key(writable),
            None => !foreign.contains(name),
        });
        Ok(listing)
    }

    /// Looks once more: a layer that is open must not move away below the file server.
    async fn closed(&self, sliver: &SliverId) -> PortResult<()> {
        let [exports, stacks, writables] = self.open_of(sliver).await?;
        match exports.into_iter().chain(stacks).chain(writables).next() {
            Some(open) => Err(PortError::later(format!(
                "`{open}` is still open in the file server"
            ))),
            None => Ok(()),
        }
    }

    /// Names of what the file server holds of a sliver, exports, stacks and writable layers.
    async fn open_of(&self, sliver: &SliverId) -> PortResult<[Vec<String>; 3]> {
        Ok(names_of(&self.listing().await?, sliver))
    }

    /// A layer as the file server takes it.
    async fn layer(&self, layer: &LayerSource, files: &BTreeMap<Digest, Digest>) -> PortResult<Served> {
        match layer {
            LayerSource::Template(digest) => Ok(Served::Template(digest.to_string())),
            LayerSource::Files(digest) => match files.get(digest) {
                Some(template) => Ok(Served::Template(template.to_string())),
                None => Err(PortError::later(format!(
                    "files {} are not a layer yet",
                    digest.short()
                ))),
            },
            LayerSource::Remote(remote) => self.remotes.layer(remote).await.map(Served::Dir),
            LayerSource::Directory(path) => allowed(path, &self.paths.overlay_roots).map(Served::Dir),
        }
    }

    /// Where the writable layer of a mount lies, if not on the node's own disk.
    async fn place(&self, mount: &MountSpec) -> PortResult<Option<Spot>> {
        match &mount.place {
            None => Ok(None),
            Some(Place::Remote { within, name }) => {
                let above = self.remotes.layer(within).await?;
                Ok(Some(Spot::Remote(above.join(name))))
            }
            Some(Place::Node { path }) => {
                let (path, roots) = (PathBuf::from(path), self.paths.writable_roots.clone());
                blocking(move || {
                    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
                        return Err(PortError::never("a writable layer cannot be `/`"));
                    };
                    Ok(Some(Spot::Node(writable_below(above, &roots)?.join(name))))
                })
                .await
            }
        }
    }

    async fn file_templates(&self) -> PortResult<BTreeMap<Digest, Digest>> {
        let read = self.store.read(xeno_state::node::NodeState::file_layers).await;
        read.map_err(|error| failed("reading which files are layers", true, &error))
    }
}

impl NodeStorage {
    /// Opens the writable layers in the file server, or moves the quota of those that are open.
    async fn put_writables(&self, sliver: &SliverId, epoch: Epoch, mounts: &[MountSpec]) -> PortResult<()> {
        for (i, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.writable) {
            let spec = WritableSpec {
                path: self
                    .place(mount)
                    .await?
                    .map_or_else(|| self.disk.layer(sliver, i), Spot::into_path),
                epoch: epoch.0,
                quota_bytes: mount.quota_bytes,
                quota_inodes: mount.quota_inodes,
            };
            let put = self.client.put_writable(&mount_name(sliver, i), &spec).await;
            put.map_err(|error| refused(&error))?;
        }
        Ok(())
    }
}

impl NodeStorage {
    /// The writable layers that a sliver has on disk, by their names in the file server, and the directories of those that
    /// are not open there.
    async fn layers_of(&self, sliver: &SliverId) -> PortResult<Vec<(String, Option<PathBuf>)>> {
        let (disk, of) = (self.disk.clone(), sliver.clone());
        let seen = blocking(move || disk.layers_of(&of)).await?;
        let [_, _, open] = self.open_of(sliver).await?;
        let named = seen.into_iter().map(|(i, path)| (mount_name(sliver, i), path));
        Ok(named
            .map(|(name, path)| {
                let closed = !open.contains(&name);
                (name, closed.then_some(path))
            })
            .collect())
    }

    /// Opens a layer for something that is done to it, and no longer.
    async fn open_for_now(&self, name: &str, path: PathBuf, epoch: Epoch) -> PortResult<()> {
        let spec = WritableSpec {
            path,
            epoch: epoch.0,
            quota_bytes: None,
            quota_inodes: None,
        };
        let put = self.client.put_writable(name, &spec).await;
        put.map_err(|error| refused(&error))
    }

    async fn close_again(&self, name: &str) -> PortResult<()> {
        let closed = self.client.delete_writable(name).await;
        closed.map_err(|error| refused(&error))
    }

    /// Has a layer go back, if it has such a checkpoint and has not been there; says whether it has or had.
    async fn go_back(&self, layer: &str, name: &str, done: Option<&str>) -> Result<bool, ClientError> {
        let there = self.client.checkpoints(layer).await?.checkpoints;
        let has = |name: &str| there.iter().any(|saved| saved.name == name);
        if done.is_some_and(has) {
            return Ok(true);
        }
        if !has(name) {
            return Ok(false);
        }
        self.client.restore(layer, name).await?;
        if let Some(done) = done {
            self.client.checkpoint(layer, done).await?;
        }
        Ok(true)
    }

    async fn keep(
        &self,
        layer: &str,
        name: &str,
        fresh: bool,
        drops: &BTreeSet<String>,
    ) -> Result<(), ClientError> {
        for gone in drops.iter().map(String::as_str).chain(fresh.then_some(name)) {
            self.client.delete_checkpoint(layer, gone).await?;
        }
        self.client.checkpoint(layer, name).await
    }

    /// Serves a mount, or moves the share of one that is being served.
    async fn put_export(&self, sliver: &SliverId, i: usize, mount: &MountSpec) -> PortResult<()> {
        let name = mount_name(sliver, i);
        let weight = Weight::new(mount.share).map_err(|error| PortError::never(error.to_string()))?;
        let spec = ExportSpec {
            weight,
            stack: name.clone(),
            socket: Some(self.socket(&name)),
            peer_uid: None,
            clients: Vec::new(),
            link: LinkName::parse(&sliver.label()).ok(),
            leased: mount.leased,
            state: State::default(),
        };
        let put = self.client.put_export(&name, &spec).await;
        put.map_err(|error| refused(&error))
    }
}

impl Remotes for NodeStorage {
    async fn remotes(&self) -> PortResult<BTreeMap<Remote, RemoteState>> {
        self.remotes.observe().await
    }

    async fn mount_remote(&self, remote: &Remote) -> PortResult<()> {
        self.remotes.mount(remote).await
    }

    async fn remote_facts(&self) -> Vec<DriverFact> {
        self.remotes.facts().await
    }
}

impl Storage for NodeStorage {
    async fn observe(&self) -> PortResult<BTreeMap<SliverId, Seen<ObservedStorage>>> {
        let disk = self.disk.clone();
        let receiving = self.receiving.clone();
        let looked = blocking(move || {
            if let Err(error) = disk.forget_arrivals(&|sliver| receiving.has(sliver)) {
                tracing::warn!(error = error.what, "removing what is left of migrations");
            }
            disk.look()
        })
        .await?;
        let listing = self.listing().await?;
        self.remotes.used(&directories(&listing));
        let (mut seen, mut unseen) = (BTreeMap::new(), BTreeMap::new());
        for (sliver, kept) in looked {
            match kept {
                Ok(kept) => drop(seen.insert(sliver, kept)),
                Err(error) => drop(unseen.insert(sliver, Seen::Unknown { why: error.what })),
            }
        }
        let (found, lost) = self.look_afar(&mut seen, &listing).await;
        unseen.extend(
            lost.into_iter()
                .map(|(sliver, why)| (sliver, Seen::Unknown { why })),
        );
        let mut all: BTreeMap<SliverId, ObservedStorage> = BTreeMap::new();
        for (sliver, kept) in &seen {
            let storage = all.entry(sliver.clone()).or_default();
            storage.on_disk = kept.live;
            storage.bytes = kept.bytes;
            storage.tombstone = kept.tombstone;
            storage.checkpoints.clone_from(&kept.checkpoints);
        }
        let marks = self.take_marks(&seen, &listing, &found).await?;
        for (sliver, mark) in marks {
            all.entry(sliver).or_default().mark = Some(mark);
        }
        let nobody = BTreeSet::new();
        let wanted = |sliver: &SliverId| seen.get(sliver).map_or(&nobody, |kept| &kept.mounts);
        for (sliver, parts) in by_sliver(&listing) {
            let storage = all.entry(sliver.clone()).or_default();
            storage.open = parts.open(wanted(&sliver));
            storage.limits = parts.limits();
            storage.shares = parts.exports.values().copied().collect();
            storage.stack = parts.stack();
            storage.exported = parts.exported();
            storage.parked = parts.parked;
            storage.lease = parts.lease;
        }
        let mut all: BTreeMap<_, _> = all.into_iter().map(|(of, one)| (of, Seen::Known(one))).collect();
        // Whatever else is known of such a sliver is not enough to judge it by.
        all.append(&mut unseen);
        Ok(all)
    }

    async fn templates(&self) -> PortResult<BTreeSet<Digest>> {
        let templates = Arc::clone(&self.templates);
        let listed = blocking(move || Ok(templates.list())).await?;
        let listed = listed.map_err(|error| failed("listing the templates", true, &error))?;
        Ok(listed.into_iter().map(|digest| Digest(digest.0)).collect())
    }

    async fn file_layers(&self) -> PortResult<BTreeSet<Digest>> {
        let (here, made) = (self.templates().await?, self.file_templates().await?);
        Ok(made
            .into_iter()
            .filter(|(_, template)| here.contains(template))
            .map(|(files, _)| files)
            .collect())
    }

    async fn fetch_template(&self, digest: &Digest, sources: &[String]) -> PortResult<()> {
        let digest = cowfs::template::Digest(digest.0);
        if self.templates.has(&digest) {
            return Ok(());
        }
        if sources.is_empty() {
            return Err(PortError::never(format!(
                "template {digest} is not here and its manifest names no source: add one, or `xeno template import` it here"
            )));
        }
        let (templates, from) = (Arc::clone(&self.templates), sources.to_vec());
        self.fetches
            .join(digest, sources, || fetch(templates, digest, from))
            .await
    }

    async fn import_files(
        &self,
        digest: &Digest,
        files: &FileSet,
        blobs: &BTreeMap<String, Vec<u8>>,
    ) -> PortResult<()> {
        let mut all = Vec::new();
        for (path, file) in &files.files {
            let bytes = match &file.content {
                CarriedContent::Inline(text) => text.clone().into_bytes(),
                CarriedContent::Blob { id, .. } => blobs
                    .get(id)
                    .cloned()
                    .ok_or_else(|| PortError::never(format!("the content of {path} ({id}) was not read")))?,
            };
            all.push((path.clone(), if file.executable { 0o755 } else { 0o644 }, bytes));
        }
        let templates = Arc::clone(&self.templates);
        let imported = blocking(move || {
            let files: Vec<_> = all
                .iter()
                .map(|(path, mode, bytes)| FileToImport {
                    path,
                    mode: *mode,
                    bytes,
                })
                .collect();
            Ok(templates.import_files(&files))
        });
        let template = imported.await?.map_err(|error| {
            let retry = !matches!(error, StoreError::File { .. });
            failed("making a layer of files", retry, &error)
        })?;
        let files = *digest;
        let written = self
            .store
            .write(move |w| w.file_layer(&files, &Digest(template.0)))
            .await;
        written.map_err(|error| failed("remembering a layer of files", true, &error))
    }

    async fn open_writable(&self, sliver: &SliverId, epoch: Epoch, mounts: &[MountSpec]) -> PortResult<()> {
        let (disk, of) = (self.disk.clone(), sliver.clone());
        let mut wanted = BTreeMap::new();
        for (i, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.writable) {
            wanted.insert(i, self.place(mount).await?);
        }
        blocking(move || disk.make_ready(&of, &wanted)).await?;
        self.put_writables(sliver, epoch, mounts).await
    }

    async fn limit(&self, sliver: &SliverId, epoch: Option<Epoch>, mounts: &[MountSpec]) -> PortResult<()> {
        // Only what is open is told: a file server that has been started anew meanwhile opens nothing behind the plan.
        let [served, _, open] = self.open_of(sliver).await?;
        let missing = mounts
            .iter()
            .enumerate()
            .any(|(i, mount)| mount.writable && !open.contains(&mount_name(sliver, i)));
        if missing {
            return Err(PortError::later("the writable layers are not open any more"));
        }
        if let Some(epoch) = epoch {
            self.put_writables(sliver, epoch, mounts).await?;
        }
        for (i, mount) in mounts.iter().enumerate() {
            if served.contains(&mount_name(sliver, i)) {
                self.put_export(sliver, i, mount).await?;
            }
        }
        Ok(())
    }

    async fn checkpoint(
        &self,
        sliver: &SliverId,
        epoch: Epoch,
        name: &str,
        fresh: bool,
        drops: &BTreeSet<String>,
    ) -> PortResult<()> {
        for (layer, closed) in self.layers_of(sliver).await? {
            let was_closed = closed.is_some();
            if let Some(path) = closed {
                self.open_for_now(&layer, path, epoch).await?;
            }
            let kept = self.keep(&layer, name, fresh, drops).await;
            if was_closed {
                self.close_again(&layer).await?;
            }
            kept.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    async fn restore(
        &self,
        sliver: &SliverId,
        epoch: Epoch,
        name: &str,
        done: Option<&str>,
    ) -> PortResult<()> {
        let mut back = false;
        for (layer, closed) in self.layers_of(sliver).await? {
            let was_closed = closed.is_some();
            if let Some(path) = closed {
                self.open_for_now(&layer, path, epoch).await?;
            }
            let went = self.go_back(&layer, name, done).await;
            if was_closed {
                self.close_again(&layer).await?;
            }
            back |= went.map_err(|error| refused(&error))?;
        }
        if back {
            Ok(())
        } else {
            Err(PortError::never(format!(
                "no writable layer has a checkpoint {name}"
            )))
        }
    }

    async fn stack(&self, sliver: &SliverId, stack: &Digest, mounts: &[MountSpec]) -> PortResult<()> {
        let files = self.file_templates().await?;
        let label = Label {
            stack: *stack,
            mounts: mounts.len(),
        };
        for (i, mount) in mounts.iter().enumerate() {
            let name = mount_name(sliver, i);
            let mut layers = Vec::with_capacity(mount.layers.len());
            for layer in &mount.layers {
                layers.push(self.layer(layer, &files).await?);
            }
            let spec = StackSpec {
                layers,
                writable: mount.writable.then(|| name.clone()),
                label: Some(label.to_string()),
            };
            self.client
                .put_stack(&name, &spec)
                .await
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    async fn export(&self, sliver: &SliverId, mounts: &[MountSpec]) -> PortResult<()> {
        for (i, mount) in mounts.iter().enumerate() {
            self.put_export(sliver, i, mount).await?;
        }
        Ok(())
    }

    async fn unexport(&self, sliver: &SliverId) -> PortResult<()> {
        let [exports, _, _] = self.open_of(sliver).await?;
        for name in exports {
            // What a guest wrote and did not sync is on disk before its layer is closed, so that what the layer holds
            // is the same after a power failure.
            if let Err(error) = self.client.flush(&name).await {
                tracing::warn!(
                    export = name,
                    error = xeno_state::error::chain(&error),
                    "not flushed"
                );
            }
            self.client
                .delete_export(&name)
                .await
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    async fn close_writable(&self, sliver: &SliverId) -> PortResult<()> {
        let [_, stacks, writables] = self.open_of(sliver).await?;
        for name in stacks {
            self.client
                .delete_stack(&name)
                .await
                .map_err(|error| refused(&error))?;
        }
        for name in writables {
            self.client
                .delete_writable(&name)
                .await
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    async fn tombstone(&self, sliver: &SliverId) -> PortResult<()> {
        self.closed(sliver).await?;
        let (disk, of, now) = (self.disk.clone(), sliver.clone(), self.clock.now());
        blocking(move || disk.set_aside(&of, now)).await
    }

    async fn revive(&self, sliver: &SliverId) -> PortResult<()> {
        self.closed(sliver).await?;
        let (disk, of) = (self.disk.clone(), sliver.clone());
        blocking(move || disk.revive(&of)).await
    }

    async fn adopt(&self, from: &SliverId, to: &SliverId) -> PortResult<()> {
        self.closed(from).await?;
        self.closed(to).await?;
        let (disk, from, to) = (self.disk.clone(), from.clone(), to.clone());
        blocking(move || disk.rename_sliver(&from, &to)).await
    }

    async fn purge(&self, sliver: &SliverId) -> PortResult<()> {
        let (disk, of) = (self.disk.clone(), sliver.clone());
        blocking(move || disk.purge(&of)).await
    }

    fn guest_mounts(&self, sliver: &SliverId, mounts: &[MountSpec]) -> Vec<GuestMount> {
        let mount = |(i, mount): (usize, &MountSpec)| GuestMount {
            path: mount.path.clone(),
            export: format!("/{}", mount_name(sliver, i)),
            socket: self.socket(&mount_name(sliver, i)),
        };
        mounts.iter().enumerate().map(mount).collect()
    }

    async fn boot_files(&self, template: &Digest) -> PortResult<BootFiles> {
        let templates = Arc::clone(&self.templates);
        let digest = cowfs::template::Digest(template.0);
        let files = blocking(move || Ok(templates.boot_files(&digest))).await?;
        let files = files.map_err(|error| {
            let retry = !matches!(error, StoreError::NotBootable(_));
            failed("finding the kernel", retry, &error)
        })?;
        let mut cmdline = boot_words(&files.boot);
        cmdline.extend(files.command_line.split_ascii_whitespace().map(str::to_owned));
        Ok(BootFiles {
            kernel: files.kernel,
            initramfs: files.initramfs,
            cmdline,
        })
    }
}

/// Names of what the file server holds of a sliver, exports, stacks and writable layers.
fn names_of(listing: &Listing, sliver: &SliverId) -> [Vec<String>; 3] {
    fn ours<V>(map: &BTreeMap<String, V>, sliver: &SliverId) -> Vec<String> {
        let mine = map
            .keys()
            .filter(|name| read_mount_name(name).is_some_and(|(of, _)| of == *sliver));
        mine.cloned().collect()
    }
    [
        ours(&listing.exports, sliver),
        ours(&listing.stacks, sliver),
        ours(&listing.writables, sliver),
    ]
}

fn refused(error: &ClientError) -> PortError {
    let what = xeno_state::error::chain(error);
    if error.is_retryable() {
        PortError::later(what)
    } else {
        PortError::never(what)
    }
}

fn failed(attempt: &str, retryable: bool, error: &dyn std::error::Error) -> PortError {
    let what = format!("{attempt}: {}", xeno_state::error::chain(error));
    if retryable {
        PortError::later(what)
    } else {
        PortError::never(what)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> PortResult<T> + Send + 'static) -> PortResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PortError::later(format!("a thread ended: {error}"))))
}
