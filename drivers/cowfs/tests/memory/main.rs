//! What the server promises of memory (`decisions/0001-log-format.md`), counted and not timed: bytes of the heap for each
//! object that has a record, and none for those of a template.

mod heap;

use std::sync::Arc;

use cowfs::attr::{SetAttr, Time};
use cowfs::layer::{ContentHash, ContentSource};
use cowfs::service::{Caller, CreateMode, FileService as _, Stability};
use cowfs::stack::{Stack, StackSpec, open};
use cowfs::template::{Digest, Index, Leaf, Meta, Tree};
use cowfs::writable::{Options, Writable};

/// Most bytes for one changed file and its name, of 100,000.
const BYTES_PER_FILE: usize = 450;
/// And for its place in a merged listing, of which only so many are kept.
const BYTES_PER_LISTED: usize = 140;

struct Nothing;

impl ContentSource for Nothing {
    fn read_content(&self, _: &ContentHash, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn stack(path: &std::path::Path) -> Arc<Stack> {
    Writable::create_if_missing(path).expect("making the layer");
    open(StackSpec {
        layers: Vec::new(),
        writable: Some(Writable::open(path, 1, Options::default()).expect("opening the layer")),
        content: Arc::new(Nothing),
        read_only_key: [0; 32],
    })
    .expect("opening the stack")
}

/// One test, so that nothing else is counted.
#[test]
fn memory_is_as_promised() {
    const FILES: usize = 100_000;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w");
    let before = heap::live();
    let held = |what: &str, most: usize| {
        let each = heap::live().saturating_sub(before) / FILES;
        assert!(each <= most, "{what}: {each} bytes for a file");
        assert!(
            each > 100,
            "{what}: {each} bytes for a file are too good to be true"
        );
    };
    let made = stack(&path);
    let root = Caller::root();
    let mut into = made.root().handle;
    let mut last = None;
    for n in 0..FILES {
        if n % 1000 == 0 {
            let name = format!("directory-{n}");
            let dir = made.mkdir(
                &root,
                None,
                &made.root().handle,
                name.as_bytes(),
                &SetAttr::default(),
            );
            into = dir.expect("mkdir").value.made.expect("it is made").handle;
        }
        let mode = CreateMode::Unchecked(SetAttr::default());
        let file = made.create(&root, None, &into, format!("file-number-{n}").as_bytes(), mode);
        let file = file.expect("create").value.made.expect("it is made").handle;
        let written = made.write(&root, &file, 0, b"what has changed", Stability::FileSync);
        last = Some(written.expect("write").ticket);
    }
    made.settle(last.expect("something was written"))
        .expect("settling");
    held("as it grew", BYTES_PER_FILE + BYTES_PER_LISTED);
    made.compact().expect("making the log short");
    held("after the log was made short", BYTES_PER_FILE + BYTES_PER_LISTED);
    drop(made);
    let opened = stack(&path);
    held("opened", BYTES_PER_FILE);
    drop(opened);

    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
    };
    let mut tree = Tree::new(meta);
    for n in 0..FILES {
        let content = ContentHash([7; 32]);
        let leaf = Leaf::Regular { size: 5, content };
        tree.leaf(Tree::ROOT, format!("file-number-{n}").as_bytes(), meta, leaf)
            .expect("a leaf");
    }
    let encoded = tree.encode(false).expect("encoding").bytes;
    let each = encoded.len() / FILES;
    assert!(each <= 128, "{each} bytes of an index for an entry");
    let file = dir.path().join("index");
    std::fs::write(&file, &encoded).expect("writing");
    let digest = Digest::of(&encoded);
    drop((tree, encoded));
    let before = heap::live();
    let index = Index::map(&file, &digest.0).expect("mapping");
    assert_eq!(index.entry_count(), FILES as u64);
    let each = heap::live().saturating_sub(before) / FILES;
    assert_eq!(each, 0, "a template is mapped, not read into the heap");
}
