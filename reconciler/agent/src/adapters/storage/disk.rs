//! The directories of writable layers and tombstones. All calls block.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cowfs::writable::saved::glance;
use serde::{Deserialize, Serialize};
use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::ports::{PortError, PortResult};

use super::names::read_label;
use super::server_user::{Access, ServerUser, make_dir, open_to};

/// Files counted for the size of one sliver; what has more is shown smaller than it is.
const FILES_COUNTED_MAX: usize = 100_000;

/// Names which mounts of a sliver have a writable layer.
const MOUNTS: &str = "mounts.json";

/// Prefix of what is being deleted.
const GOING: &str = ".going-";

/// What lies on disk of one sliver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether writable layers are in use or ready to be.
    pub(super) live: bool,
    /// Mounts that have one.
    pub(super) mounts: BTreeSet<usize>,
    /// Bytes they hold.
    pub(super) bytes: u64,
    /// When they were last set aside.
    pub(super) tombstone: Option<Timestamp>,
    /// Directories of the layers, by mount: of those in use, else of those last set aside.
    pub(super) layers: BTreeMap<usize, PathBuf>,
    /// Where those lie that do not lie here.
    pub(super) afar: BTreeMap<usize, PathBuf>,
    /// Checkpoints of any of the layers that lie here, and when the first of that name was made.
    pub(super) checkpoints: BTreeMap<String, Timestamp>,
}

/// Where a writable layer lies that is not on the node's own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// In a directory of the node.
    Node(PathBuf),
    /// In a remote directory. It is not looked at here: that may hang.
    Remote(PathBuf),
}

impl Spot {
    /// The layer's directory.
    pub(super) fn into_path(self) -> PathBuf {
        match self {
            Self::Node(path) | Self::Remote(path) => path,
        }
    }
}

/// The directories. A layer that lies elsewhere has a symbolic link here in its place, which goes where a layer would: set
/// aside, taken into use again, renamed, deleted. What it leads to stays where it is: what lies on shared storage is
/// never deleted from a node.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) writable: PathBuf,
    tombstones: PathBuf,
    pub(super) server: Option<ServerUser>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MountsRecord {
    format_version: u32,
    mounts: BTreeSet<usize>,
}

impl Disk {
    /// Makes what is missing, and finishes deletions that were interrupted.
    pub(super) fn open(state: &Path, server: Option<ServerUser>) -> PortResult<Self> {
        let disk = Self {
            writable: state.join("writable"),
            tombstones: state.join("tombstones"),
            server,
        };
        if let Some(server) = server {
            open_to(state, server, Access::Pass)?;
        }
        make_dir(&disk.writable, server, Access::Pass)?;
        make_dir(&disk.tombstones, server, Access::None)?;
        make_dir(&state.join("s"), server, Access::Own)?;
        for (name, path) in entries(&disk.tombstones)? {
            if name.starts_with(GOING) {
                remove_all(&path)?;
            }
        }
        Ok(disk)
    }

    pub(super) fn of(&self, sliver: &SliverId) -> PathBuf {
        self.writable.join(sliver.label())
    }

    /// Directory of the writable layer of a mount.
    pub(super) fn layer(&self, sliver: &SliverId, mount: usize) -> PathBuf {
        self.of(sliver).join(mount.to_string())
    }

    /// Where the layer of a mount lies, if not here.
    pub(super) fn place(&self, sliver: &SliverId, mount: usize) -> Option<PathBuf> {
        fs::read_link(self.layer(sliver, mount)).ok()
    }

    /// Everything, by sliver, or why it could not be looked at: what is wrong with one is wrong with it alone. Names that
    /// are not ours are passed over.
    pub(super) fn look(&self) -> PortResult<BTreeMap<SliverId, PortResult<Kept>>> {
        let mut all = BTreeMap::new();
        for (name, path) in entries(&self.writable)? {
            if let Some(sliver) = read_label(&name) {
                all.insert(sliver, look_at(&path));
            }
        }
        for (path, sliver, since) in self.set_aside_all()? {
            let kept = all.entry(sliver).or_insert_with(|| Ok(Kept::default()));
            // What is in use hides an older tombstone, which shows again once the sliver is gone.
            let Ok(one) = kept else { continue };
            if !one.live && one.tombstone < Some(since) {
                match read_mounts(&path) {
                    Ok(mounts) => {
                        one.tombstone = Some(since);
                        one.layers = layers(&path, &mounts);
                        one.afar = afar(&one.layers);
                    }
                    Err(error) => *kept = Err(error),
                }
            }
        }
        Ok(all)
    }

    /// Directories of the writable layers of one sliver that are not set aside, by mount.
    pub(super) fn layers_of(&self, sliver: &SliverId) -> PortResult<BTreeMap<usize, PathBuf>> {
        let dir = self.of(sliver);
        Ok(layers(&dir, &read_mounts(&dir)?))
    }

    /// Makes the directory of a sliver, from its newest tombstone where there is one.
    pub(super) fn make_ready(
        &self,
        sliver: &SliverId,
        wanted: &BTreeMap<usize, Option<Spot>>,
    ) -> PortResult<()> {
        let dir = self.of(sliver);
        self.revive(sliver)?;
        if !exists(&dir)? {
            if wanted.is_empty() {
                return Ok(());
            }
            make_dir(&dir, self.server, Access::Pass)?;
            sync(&self.writable)?;
        }
        for (mount, spot) in wanted {
            let layer = self.layer(sliver, *mount);
            match (spot, self.server) {
                (Some(spot), server) => put_link(&layer, spot, server)?,
                (None, _) if layer.is_symlink() => return Err(moved(&layer)),
                (None, Some(server)) => make_dir(&layer, Some(server), Access::Own)?,
                // The server makes it itself.
                (None, None) => {}
            }
        }
        sync(&dir)?;
        write_mounts(&dir, &wanted.keys().copied().collect())
    }

    /// Takes the newest tombstone of a sliver into use again, unless it has layers already.
    pub(super) fn revive(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.of(sliver);
        if exists(&dir)? {
            return Ok(());
        }
        if let Some((_, tombstone)) = self.tombstones_of(sliver)?.into_iter().max() {
            rename(&tombstone, &dir)?;
            sync(&self.tombstones)?;
            sync(&self.writable)?;
        }
        Ok(())
    }

    /// Gives the layers of one sliver to another, which has none. Success if the first has none.
    pub(super) fn rename_sliver(&self, from: &SliverId, to: &SliverId) -> PortResult<()> {
        let (old, new) = (self.of(from), self.of(to));
        if !exists(&old)? {
            return Ok(());
        }
        if exists(&new)? {
            return Err(PortError::never(format!("{to} has writable layers of its own")));
        }
        rename(&old, &new)?;
        sync(&self.writable)
    }

    /// Sets the layers of a sliver aside, as of `now`.
    pub(super) fn set_aside(&self, sliver: &SliverId, now: Timestamp) -> PortResult<()> {
        let dir = self.of(sliver);
        if !exists(&dir)? {
            return Ok(());
        }
        self.make_tombstone(&dir, sliver, now)
    }

    /// Makes a tombstone of a directory with layers of a sliver.
    pub(super) fn make_tombstone(&self, dir: &Path, sliver: &SliverId, now: Timestamp) -> PortResult<()> {
        let tombstone = format!("{}-{}", sliver.label(), now.0);
        rename(dir, &self.tombstones.join(tombstone))?;
        sync(&self.writable)?;
        sync(&self.tombstones)
    }

    /// Deletes the tombstones of a sliver. A deletion that is interrupted is finished at the next start.
    pub(super) fn purge(&self, sliver: &SliverId) -> PortResult<()> {
        for (since, tombstone) in self.tombstones_of(sliver)? {
            let going = format!("{GOING}{}-{}", sliver.label(), since.0);
            let going = self.tombstones.join(going);
            rename(&tombstone, &going)?;
            sync(&self.tombstones)?;
            remove_all(&going)?;
        }
        Ok(())
    }

    fn tombstones_of(&self, sliver: &SliverId) -> PortResult<Vec<(Timestamp, PathBuf)>> {
        let all = self.set_aside_all()?;
        let mine = all.into_iter().filter(|(_, of, _)| of == sliver);
        Ok(mine.map(|(path, _, since)| (since, path)).collect())
    }

    fn set_aside_all(&self) -> PortResult<Vec<(PathBuf, SliverId, Timestamp)>> {
        let read = |(name, path): (String, PathBuf)| {
            let (label, since) = name.rsplit_once('-')?;
            let since = since.parse().ok().map(Timestamp)?;
            Some((path, read_label(label)?, since))
        };
        Ok(entries(&self.tombstones)?.into_iter().filter_map(read).collect())
    }
}

/// What lies in the directory of a sliver.
fn look_at(dir: &Path) -> PortResult<Kept> {
    let mounts = read_mounts(dir)?;
    let layers = layers(dir, &mounts);
    let afar = afar(&layers);
    let here = layers.iter().filter(|(mount, _)| !afar.contains_key(mount));
    Ok(Kept {
        live: true,
        bytes: size(dir),
        checkpoints: checkpoints(here.map(|(_, path)| path))?,
        mounts,
        tombstone: None,
        layers,
        afar,
    })
}

/// Where layers lie that lie elsewhere. They are not looked at here: that may hang, or may not be allowed.
fn afar(layers: &BTreeMap<usize, PathBuf>) -> BTreeMap<usize, PathBuf> {
    let elsewhere = layers
        .iter()
        .filter_map(|(mount, layer)| Some((*mount, fs::read_link(layer).ok()?)));
    elsewhere.collect()
}

/// Notes where a layer lies.
fn put_link(layer: &Path, spot: &Spot, server: Option<ServerUser>) -> PortResult<()> {
    let target = match spot {
        Spot::Remote(target) => target,
        Spot::Node(target) => {
            make_dir(target, server, Access::Own)?;
            target
        }
    };
    match fs::read_link(layer) {
        Ok(there) if there == *target => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            at(layer, std::os::unix::fs::symlink(target, layer))
        }
        // It is a directory: the layer lay here before.
        Ok(_) | Err(_) => Err(moved(layer)),
    }
}

fn moved(layer: &Path) -> PortError {
    PortError::never(format!(
        "what it wrote so far lies at {} (or where that leads to), and the manifest names another place now: nothing is \
         moved there by itself; move it by hand, or say `writable` as before",
        layer.display()
    ))
}

fn layers(dir: &Path, mounts: &BTreeSet<usize>) -> BTreeMap<usize, PathBuf> {
    let layer = |mount: &usize| (*mount, dir.join(mount.to_string()));
    mounts.iter().map(layer).collect()
}

fn checkpoints<'a>(layers: impl Iterator<Item = &'a PathBuf>) -> PortResult<BTreeMap<String, Timestamp>> {
    let mut all = BTreeMap::new();
    for layer in layers {
        for (name, made) in at(layer, glance(layer))? {
            let made = timestamp(made);
            let first = all.entry(name).or_insert(made);
            *first = made.min(*first);
        }
    }
    Ok(all)
}

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn at<T>(path: &Path, result: io::Result<T>) -> PortResult<T> {
    result.map_err(|error| PortError::later(format!("{}: {error}", path.display())))
}

pub(super) fn exists(path: &Path) -> PortResult<bool> {
    at(path, path.try_exists())
}

pub(super) fn rename(from: &Path, to: &Path) -> PortResult<()> {
    at(from, fs::rename(from, to))
}

pub(super) fn remove_all(path: &Path) -> PortResult<()> {
    at(path, fs::remove_dir_all(path))
}

pub(super) fn sync(dir: &Path) -> PortResult<()> {
    at(dir, File::open(dir).and_then(|dir| dir.sync_all()))
}

pub(super) fn entries(dir: &Path) -> PortResult<Vec<(String, PathBuf)>> {
    let mut all = Vec::new();
    for entry in at(dir, fs::read_dir(dir))? {
        let entry = at(dir, entry)?;
        if let Ok(name) = entry.file_name().into_string() {
            all.push((name, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Notes which mounts have a writable layer.
pub(super) fn write_mounts(dir: &Path, mounts: &BTreeSet<usize>) -> PortResult<()> {
    if read_mounts(dir)? == *mounts {
        return Ok(());
    }
    let record = MountsRecord {
        format_version: 1,
        mounts: mounts.clone(),
    };
    let bytes = serde_json::to_vec(&record).map_err(|error| PortError::never(error.to_string()))?;
    let (fresh, path) = (dir.join(".mounts.json"), dir.join(MOUNTS));
    at(&fresh, fs::write(&fresh, bytes))?;
    at(&fresh, File::open(&fresh).and_then(|file| file.sync_all()))?;
    rename(&fresh, &path)?;
    sync(dir)
}

fn read_mounts(dir: &Path) -> PortResult<BTreeSet<usize>> {
    let path = dir.join(MOUNTS);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        // Made, and interrupted before it was written.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return at(&path, Err(error)),
    };
    let record: MountsRecord = serde_json::from_slice(&bytes)
        .map_err(|error| PortError::never(format!("{}: {error}", path.display())))?;
    if record.format_version != 1 {
        let version = record.format_version;
        return Err(PortError::never(format!(
            "{}: format {version} is not known",
            path.display()
        )));
    }
    Ok(record.mounts)
}

/// Bytes of all files below a directory. What vanishes meanwhile is not counted: it is only for people.
fn size(dir: &Path) -> u64 {
    let mut left = FILES_COUNTED_MAX;
    let mut bytes = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if left == 0 {
                return bytes;
            }
            left -= 1;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(entry.path()),
                Ok(metadata) => bytes = bytes.saturating_add(metadata.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}
