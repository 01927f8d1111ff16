//! Whatever is asked of an index, and whatever it holds.

use std::fs;

use cowfs::layer::{Layer as _, ROOT};
use cowfs::template::Index;
use proptest::prelude::*;

use crate::support::{Place, Tar};

#[test]
fn readers_ask_for_anything_and_get_an_answer() {
    let place = Place::new();
    let report = place
        .import_tar(&Tar::new().file("a", "hello").symlink("s", "a").bytes())
        .expect("good");
    let layer = place.store.layer(&report.digest).expect("here");
    let mut buffer = [0; 8];
    assert_eq!(layer.read(2, 3, &mut buffer).expect("a file"), 2);
    assert_eq!(layer.read(2, 5, &mut buffer).expect("a file"), 0);
    assert_eq!(layer.read(2, u64::MAX, &mut buffer).expect("a file"), 0);
    for node in [0, 4, u64::MAX] {
        assert!(layer.attr(node).is_err() && layer.entries(node).is_err() && layer.place(node).is_err());
    }
    assert!(layer.read(ROOT, 0, &mut buffer).is_err());
    assert!(layer.lookup(2, b"a").is_err());
    assert!(layer.readlink(2).is_err());
    assert_eq!(layer.lookup(ROOT, b"").expect("a directory"), None);
    assert_eq!(layer.place(3).expect("a node"), Some((ROOT, b"s".to_vec())));
}

/// The bytes of an index with some of everything in it.
fn sample_index() -> Vec<u8> {
    let place = Place::new();
    place
        .import_tar(
            &Tar::new()
                .dir("etc")
                .file("etc/motd", "hello")
                .link("etc/motd2", "etc/motd")
                .symlink("link", "etc/motd")
                .file(".wh.gone", "")
                .file("usr/bin/deep/tool", "x")
                .bytes(),
        )
        .expect("good");
    let index = place
        .files()
        .into_iter()
        .find(|path| path.starts_with("index/"))
        .expect("one index");
    fs::read(place.store.root().join(index)).expect("readable")
}

/// Asks an index for everything it has, by way of a layer.
fn walk(bytes: Vec<u8>) {
    if let Ok(index) = Index::from_bytes(bytes) {
        let nodes = index.node_count();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let contents = cowfs::template::ContentStore::new(dir.path().to_owned());
        let layer = cowfs::template::TemplateLayer::new(index.into(), contents.into());
        for node in 0..=nodes + 1 {
            let _ = (
                layer.attr(node),
                layer.entries(node),
                layer.place(node),
                layer.readlink(node),
            );
            let _ = (layer.lookup(node, b"etc"), layer.read(node, 0, &mut [0; 4]));
        }
    }
}

#[test]
fn every_single_flipped_bit_of_an_index_is_survived() {
    let index = sample_index();
    assert!(Index::from_bytes(index.clone()).is_ok());
    for at in 0..index.len() {
        for bit in 0..8 {
            let mut bent = index.clone();
            bent[at] ^= 1 << bit;
            walk(bent);
        }
    }
    for len in 0..index.len() {
        assert!(
            Index::from_bytes(index[..len].to_vec()).is_err(),
            "cut to {len} bytes"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_an_index_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut index = SAMPLE.clone();
        for (at, byte) in changes {
            let at = at.index(index.len());
            index[at] = byte;
        }
        walk(index);
    }
}

static SAMPLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(sample_index);
