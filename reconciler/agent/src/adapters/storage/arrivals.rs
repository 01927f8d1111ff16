//! Writable layers that come from another node, until they are in their place. All calls block.
//!
//! ```text
//! STATE/writable/.arriving-web-0-4c1e…/0/     layers of web/0 on their way, under that migration
//! ```
//! Once they are whole the directory takes the place of the sliver's own, by one rename: both are there at every moment, or
//! only the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use xeno_model::id::{MigrationId, SliverId, Timestamp};
use xeno_reconciler::ports::PortResult;

use super::disk::{Disk, at, entries, exists, remove_all, rename, sync, write_mounts};
use super::server_user::{Access, make_dir};

/// Prefix of what is arriving.
const ARRIVING: &str = ".arriving-";
/// What has arrived of a migration that nobody has heard of for so long is removed: another attempt sends it again.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// In a layer's directory: who it is.
const LAYER: &str = "layer.json";

impl Disk {
    fn arriving(&self, sliver: &SliverId, migration: MigrationId) -> PathBuf {
        self.writable
            .join(format!("{ARRIVING}{}-{migration}", sliver.label()))
    }

    /// Makes ready to receive the layers of these mounts; returns where each is to be kept. What an earlier attempt has left
    /// is gone on from.
    pub(super) fn expect(
        &self,
        sliver: &SliverId,
        migration: MigrationId,
        mounts: &[usize],
    ) -> PortResult<Vec<PathBuf>> {
        let dir = self.arriving(sliver, migration);
        for (_, earlier) in self.arriving_all()?.into_iter().filter(|(of, _)| of == sliver) {
            if earlier == dir {
                continue;
            }
            if exists(&dir)? {
                remove_all(&earlier)?;
            } else {
                rename(&earlier, &dir)?;
            }
        }
        make_dir(&dir, self.server, Access::Pass)?;
        let mut layers = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let layer = dir.join(mount.to_string());
            make_dir(&layer, self.server, Access::Own)?;
            layers.push(layer);
        }
        sync(&dir)?;
        sync(&self.writable)?;
        Ok(layers)
    }

    /// Puts what has arrived whole in its place. What was there goes: it was an old copy; or is set aside as of `now`, if it was
    /// something else.
    pub(super) fn put_in_place(
        &self,
        sliver: &SliverId,
        migration: MigrationId,
        mounts: &[usize],
        now: Timestamp,
    ) -> PortResult<()> {
        let (dir, place) = (self.arriving(sliver, migration), self.of(sliver));
        for (name, path) in entries(&dir)? {
            // Of a mount that the sliver had in an earlier attempt.
            if path.is_dir() && !mounts.iter().any(|mount| mount.to_string() == name) {
                remove_all(&path)?;
            }
        }
        write_mounts(&dir, &mounts.iter().copied().collect())?;
        if !exists(&place)? {
            rename(&dir, &place)?;
            return sync(&self.writable);
        }
        let older = mounts.iter().all(|mount| {
            let [new, old] = [&dir, &place].map(|dir| fs::read(dir.join(mount.to_string()).join(LAYER)));
            matches!((new, old), (Ok(new), Ok(old)) if new == old)
        });
        match renameat_with(CWD, &dir, CWD, &place, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // A file system that cannot: for a moment nothing is there, and then what is new.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                let aside = self.arriving(sliver, MigrationId([0; 16]));
                rename(&place, &aside)?;
                rename(&dir, &place)?;
                rename(&aside, &dir)?;
            }
            Err(error) => return at(&place, Err(error.into())),
        }
        sync(&self.writable)?;
        if older {
            remove_all(&dir)
        } else {
            self.make_tombstone(&dir, sliver, now)
        }
    }

    /// Removes what is left of migrations that came to nothing, but for these slivers.
    pub(super) fn forget_arrivals(&self, busy: &dyn Fn(&SliverId) -> bool) -> PortResult<()> {
        for (sliver, dir) in self.arriving_all()? {
            if !busy(&sliver) && last_change(&dir).is_some_and(|since| since > FORGOTTEN) {
                tracing::info!(%sliver, dir = %dir.display(), "nothing more has come of a migration");
                remove_all(&dir)?;
            }
        }
        Ok(())
    }

    /// Whose layers are on their way, and where they are kept.
    pub(super) fn arriving_all(&self) -> PortResult<Vec<(SliverId, PathBuf)>> {
        let read = |(name, path): (String, PathBuf)| {
            let (label, migration) = name.strip_prefix(ARRIVING)?.rsplit_once('-')?;
            MigrationId::parse(migration).ok()?;
            Some((super::names::read_label(label)?, path))
        };
        Ok(entries(&self.writable)?.into_iter().filter_map(read).collect())
    }
}

/// How long ago anything was made or removed in a directory or in those in it.
fn last_change(dir: &Path) -> Option<Duration> {
    let changed = |path: &Path| -> io::Result<SystemTime> { fs::symlink_metadata(path)?.modified() };
    let mut newest = changed(dir).ok()?;
    for entry in fs::read_dir(dir).ok()?.flatten() {
        newest = newest.max(changed(&entry.path()).ok()?);
    }
    newest.elapsed().ok()
}
