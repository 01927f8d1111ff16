//! What was built before the tests: programs beside them, and images.

use std::path::{Path, PathBuf};

/// A program of the workspace, built in the same profile as the test that asks.
///
/// # Panics
/// If it is missing.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let target = test.parent().and_then(Path::parent).expect("tests lie in deps/");
    let program = target.join(name);
    assert!(
        program.exists(),
        "{} is missing: cargo build --workspace --bins",
        program.display()
    );
    program
}

/// Where `make image` left root, kernel and modules.
///
/// # Panics
/// If `XENO_IMAGES` does not say.
#[must_use]
pub fn images() -> PathBuf {
    std::env::var_os("XENO_IMAGES")
        .map(PathBuf::from)
        .expect("XENO_IMAGES says where `make image` left its files")
}
