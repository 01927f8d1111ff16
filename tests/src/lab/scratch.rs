//! Where a laboratory works: a directory of its own, which goes with all that was started in it.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{LabResult, built};
use crate::demo::run::Options;
use crate::demo::stop;

/// Space that a node with its templates needs, with room to spare.
const BYTES_MIN: u64 = 3 << 30;

/// A directory of its own. Whatever comes of a test, what it started in there is ended before the directory goes.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    // Fields go in this order.
    _stop: stop::AtTheEnd,
    _place: TempDir,
}

impl Scratch {
    /// Where temporary files are.
    ///
    /// # Panics
    /// If no directory can be made.
    #[must_use]
    pub fn on_disk() -> Self {
        Self::of(tempfile::tempdir())
    }

    /// Where files are in memory, if there is such a place with room for it: for tests that ask what happens and not
    /// whether it lasts. A guest whose every change waits for a busy disk takes many times as long.
    ///
    /// # Panics
    /// If no directory can be made.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::of(match in_memory() {
            Some(place) => tempfile::tempdir_in(place),
            None => tempfile::tempdir(),
        })
    }

    fn of(made: std::io::Result<TempDir>) -> Self {
        let place = made.expect("a scratch directory");
        let dir = place.path().canonicalize().expect("it exists");
        Self {
            _stop: stop::AtTheEnd::of(&dir),
            _place: place,
            dir,
        }
    }

    /// Tells a story here, and ends what it started.
    ///
    /// # Errors
    /// What went wrong in it, or that something does not end.
    pub fn tell(self, story: impl FnOnce(&Self) -> LabResult<()>) -> LabResult<()> {
        let outcome = story(&self);
        stop::end_all(&self.dir)?;
        outcome
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a story of the demonstration needs to be told here.
    ///
    /// # Panics
    /// As [`built::program`] and [`built::images`].
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            xeno: built::program("xeno"),
            images: built::images(),
            dir: self.dir.clone(),
            keep: false,
        }
    }
}

/// Where files are in memory. `None` where there is no such place, or too little room.
fn in_memory() -> Option<&'static Path> {
    let path = Path::new("/dev/shm");
    let found = rustix::fs::statvfs(path).ok()?;
    (found.f_bavail.saturating_mul(found.f_frsize) >= BYTES_MIN).then_some(path)
}
