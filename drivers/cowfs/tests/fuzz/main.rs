//! Bodies of the fuzz targets in `fuzz/`, run over the committed corpus: whatever a fuzzer once found stays found.

// The layers in memory that unit tests use are ours too: they name their crate's modules by these paths.
use cowfs::{attr, layer, memory, service};

mod arguments;
mod calls;
mod index;
mod input;
mod log;
mod reply;
mod support;
#[path = "../../src/testing.rs"]
#[expect(dead_code, reason = "unit tests use more of it")]
mod testing;
mod wire;

use std::path::Path;

fn check(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        let data = std::fs::read(&file).expect("reading");
        let outcome = std::panic::catch_unwind(|| run(&data));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}

#[test]
fn wire() {
    check("wire", wire::run);
}

#[test]
fn calls() {
    check("calls", calls::run);
}

#[test]
fn log() {
    check("log", log::run);
}

#[test]
fn index() {
    check("index", index::run);
}
