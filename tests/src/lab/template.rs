//! Templates for the laboratory, imported with the program itself.

use std::path::Path;
use std::process::Command;

use super::{LabError, LabResult, ensure};

/// Imports the root, kernel and modules that `make image` left in `images`; the guest runs `run`. Returns the digest.
///
/// # Errors
/// What `xeno template import` said.
pub fn import_root(xeno: &Path, images: &Path, store: &Path, name: &str, run: &str) -> LabResult<String> {
    import_bootable(xeno, &images.join("root.tar"), images, store, name, run)
}

/// The same, with another `root`: a directory or a tar.
///
/// # Errors
/// What `xeno template import` said.
pub fn import_bootable(
    xeno: &Path,
    root: &Path,
    images: &Path,
    store: &Path,
    name: &str,
    run: &str,
) -> LabResult<String> {
    let modules = std::fs::read_dir(images.join("modules"))
        .ok()
        .and_then(|mut entries| entries.next()?.ok())
        .map(|entry| entry.path())
        .ok_or_else(|| LabError::Check(format!("no images in {}: run make image", images.display())))?;
    let mut command = Command::new(xeno);
    command
        .args(["template", "import"])
        .arg(root)
        .args(["--name", name, "--init", "small", "--run", run, "--store"])
        .arg(store)
        .arg("--kernel")
        .arg(images.join("vmlinuz"))
        .arg("--modules")
        .arg(modules);
    digest(&mut command)
}

/// Imports a directory as a template without a kernel. Returns the digest.
///
/// # Errors
/// What `xeno template import` said.
pub fn import_tree(xeno: &Path, tree: &Path, store: &Path, name: &str) -> LabResult<String> {
    let mut command = Command::new(xeno);
    command
        .args(["template", "import"])
        .arg(tree)
        .args(["--name", name, "--store"])
        .arg(store);
    digest(&mut command)
}

fn digest(command: &mut Command) -> LabResult<String> {
    let output = command
        .output()
        .map_err(LabError::io("running xeno template import"))?;
    ensure(output.status.success(), || {
        format!(
            "xeno template import: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let digest = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure(digest.starts_with("sha256:"), || {
        format!("xeno template import printed {digest:?}")
    })?;
    Ok(digest)
}
