//! Where a laboratory may work.

use std::path::Path;

/// Space that a node with its templates needs, with room to spare.
const BYTES_MIN: u64 = 3 << 30;

/// Where files are in memory, for tests that ask what happens and not whether it lasts: a guest whose every change waits
/// for a busy disk takes many times as long. `None` where there is no such place, or too little room.
#[must_use]
pub fn in_memory() -> Option<&'static Path> {
    let path = Path::new("/dev/shm");
    let found = rustix::fs::statvfs(path).ok()?;
    (found.f_bavail.saturating_mul(found.f_frsize) >= BYTES_MIN).then_some(path)
}
