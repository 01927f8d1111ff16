//! Which directories of the node may be layers.

use std::path::{Path, PathBuf};

use xeno_reconciler::ports::{PortError, PortResult};

/// The directory in which a writable layer is to lie, without symbolic links.
pub(super) fn writable_below(above: &Path, roots: &[PathBuf]) -> PortResult<PathBuf> {
    below(above, roots).and_then(|found| {
        found.ok_or_else(|| {
            PortError::never(format!(
                "a writable layer in {} is not below the writable_roots of the agent's configuration",
                above.display()
            ))
        })
    })
}

/// A directory without symbolic links, if it is one of `roots` or below one.
fn below(path: &Path, roots: &[PathBuf]) -> PortResult<Option<PathBuf>> {
    let real = |path: &Path| {
        path.canonicalize()
            .map_err(|error| PortError::later(format!("looking at {}: {error}", path.display())))
    };
    if roots.is_empty() {
        return Ok(None);
    }
    let directory = real(path)?;
    for root in roots {
        if directory.starts_with(real(root)?) {
            return Ok(Some(directory));
        }
    }
    Ok(None)
}

/// A directory that may be a layer: below one of the roots, whatever links lead there.
pub(super) fn allowed(path: &Path, roots: &[PathBuf]) -> PortResult<PathBuf> {
    if roots.is_empty() {
        return Err(PortError::never(format!(
            "directory {} cannot be a layer: the agent's configuration names no overlay_roots",
            path.display()
        )));
    }
    below(path, roots)?.ok_or_else(|| {
        PortError::never(format!(
            "directory {} is not below the overlay_roots of the agent's configuration",
            path.display()
        ))
    })
}
