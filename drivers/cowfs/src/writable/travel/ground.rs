//! The disk that a layer arrives on: what is there already, and what makes durable what has come.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::disk::{Disk, Lock, Mode};
use super::super::{LOCK, Meta};
use super::name;
use super::send::file_error;
use super::wire::Heading;
use super::{Refusal, TravelError};

/// Threads that sync at once.
const SYNCING: usize = 8;

/// Syncs files and folders (which are marked so). A file system makes many of them durable with one turn of its journal, if
/// it is asked at once: the guest stands still meanwhile.
pub(super) fn sync_all(disk: &Disk, all: &[(PathBuf, bool)]) -> Result<(), TravelError> {
    let sync = |(path, folder): &(PathBuf, bool)| {
        let synced = if *folder {
            disk.sync_dir(path)
        } else {
            disk.open(path, Mode::ReadWrite).and_then(|file| file.sync())
        };
        synced.map_err(file_error(path))
    };
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(one)?;
        }
        Ok(())
    };
    let helpers = if disk.takes_turns() {
        0
    } else {
        all.len().min(SYNCING)
    };
    std::thread::scope(|scope| {
        let helping: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let own = work();
        helping.into_iter().fold(own, |done, helper| {
            // One that has panicked has synced nothing: that is a failure too.
            done.and(helper.join().unwrap_or(Err(TravelError::NoLayer)))
        })
    })
}

/// Whether there is an older copy of the same layer; it is kept from being opened meanwhile. A newer one, or one that is
/// open, is not to be replaced.
pub(super) fn old_copy(
    disk: &Disk,
    place: &Path,
    heading: &Heading,
) -> Result<(bool, Option<Lock>), TravelError> {
    let Some(meta) = Meta::read(disk, place)? else {
        return Ok((false, None));
    };
    let held = lock(disk, place)?;
    if meta.layer != heading.layer {
        return Ok((false, Some(held)));
    }
    let seen = name::epoch_seen(disk, place).map_err(file_error(place))?;
    if seen > heading.epoch {
        let text = format!(
            "it has been open under epoch {seen} here, and epoch {} comes",
            heading.epoch
        );
        return Err(refuses(Refusal::Newer, text));
    }
    Ok((true, Some(held)))
}

/// Keeps a directory from being opened as a layer.
pub(super) fn lock(disk: &Disk, dir: &Path) -> Result<Lock, TravelError> {
    let path = dir.join(LOCK);
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => refuses(Refusal::Open, "it is in use here".to_owned()),
        _ => file_error(&path)(error),
    })
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_there(disk: &Disk, path: &Path) -> Result<(), TravelError> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(file_error(path)),
    }
}

/// What the sender is to be told.
pub(super) fn refuses(why: Refusal, text: String) -> TravelError {
    TravelError::Refuses { why, text }
}
