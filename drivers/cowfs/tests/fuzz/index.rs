//! The index of a template that may come from a stranger. What is accepted must be exactly what our own encoder writes for
//! the tree it holds.

use std::collections::HashMap;
use std::sync::Arc;

use cowfs::attr::{Device, FileType, Time};
use cowfs::layer::{ContentHash, Entry, Layer, ROOT};
use cowfs::template::{ContentStore, Index, Leaf, Meta, TemplateLayer, Tree, TreeId};

use crate::input::Input;

/// Bytes of the header, of a node, of an entry (`template/format.rs`).
const SIZES: [usize; 3] = [64, 80, 12];

/// Runs one input: edits of a good index, or bytes from nowhere.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bytes = match input.below(8) {
        0 => data.get(1..).unwrap_or_default().to_vec(),
        how => edited(&mut input, how & 1 == 1),
    };
    if let Ok(index) = Index::from_bytes(bytes.clone()) {
        let snapshot = index.is_snapshot();
        let layer = TemplateLayer::new(
            Arc::new(index),
            Arc::new(ContentStore::new("/nonexistent".into())),
        );
        let (tree, exact) = rebuilt(&layer);
        let again = tree.encode(snapshot).expect("it fitted before");
        assert!(
            !exact || again.bytes == bytes,
            "another encoding of the same tree"
        );
    }
}

fn meta(mode: u32, seconds: i64) -> Meta {
    Meta {
        mode,
        uid: 0,
        gid: 50,
        mtime: Time { seconds, nanos: 0 },
    }
}

/// A good index with a few bytes changed.
fn edited(input: &mut Input<'_>, snapshot: bool) -> Vec<u8> {
    let mut tree = Tree::new(meta(0o755, 1));
    let mut fill = || -> Result<(), cowfs::template::TreeError> {
        let etc = tree.directory(Tree::ROOT, b"etc", meta(0o755, 2))?;
        let sub = tree.directory(etc, b"sub", meta(0o3777, 3))?;
        tree.set_opaque(sub)?;
        let implied = tree.implied_directory(Tree::ROOT, b"var")?;
        let content = ContentHash([if snapshot { 0 } else { 9 }; 32]);
        let file = tree.leaf(
            etc,
            b"passwd",
            meta(0o644, 4),
            Leaf::Regular { size: 5000, content },
        )?;
        tree.link(sub, b"link", file)?;
        tree.leaf(sub, b"to", meta(0o777, 5), Leaf::Symlink(b"../passwd".to_vec()))?;
        tree.leaf(
            implied,
            b"null",
            meta(0o666, 6),
            Leaf::Character(Device { major: 1, minor: 3 }),
        )?;
        tree.leaf(implied, b"pipe", meta(0o600, 7), Leaf::Fifo)?;
        tree.whiteout(etc, b"gone")
    };
    fill().expect("a good tree");
    let mut bytes = tree.encode(snapshot).expect("small").bytes;
    for _ in 0..=input.below(12) {
        // Mostly one field of one node or entry, where bytes at random would hit padding.
        let at = match input.below(4) {
            0 => usize::from(input.byte()) % SIZES[0],
            1 => SIZES[0] + input.below(12) * SIZES[1] + input.below(80),
            2 => SIZES[0] + 10 * SIZES[1] + input.below(12) * SIZES[2] + input.below(12),
            _ => (usize::from(input.byte()) << 8) | usize::from(input.byte()),
        };
        let value = input.byte();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = if input.one_in(2) {
                value
            } else {
                *byte ^ (1 << (value & 7))
            };
        }
        if input.is_empty() {
            break;
        }
    }
    match input.below(16) {
        14 => bytes.truncate(usize::from(input.byte()) * 8),
        15 => bytes.extend_from_slice(input.bytes(64)),
        _ => {}
    }
    bytes
}

/// The tree that a layer shows, and whether nothing of it is lost: attributes of implied directories cannot be chosen.
fn rebuilt(layer: &TemplateLayer) -> (Tree, bool) {
    let attr_meta = |node| {
        let attr = layer.attr(node).expect("an attribute");
        Meta {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: attr.mtime,
        }
    };
    let mut tree = Tree::new(attr_meta(ROOT));
    let mut exact = true;
    let mut made: HashMap<u64, TreeId> = HashMap::new();
    let mut todo = vec![(ROOT, Tree::ROOT)];
    while let Some((node, id)) = todo.pop() {
        if !layer.is_implied(node).expect("a flag") {
            tree.describe(id, attr_meta(node));
        }
        if layer.is_opaque(node).expect("a flag") {
            tree.set_opaque(id).expect("a directory");
        }
        for named in layer.entries(node).expect("a listing") {
            assert_eq!(
                layer.lookup(node, &named.name).expect("a name"),
                Some(named.entry)
            );
            let Entry::Node(child) = named.entry else {
                tree.whiteout(id, &named.name).expect("a good name");
                continue;
            };
            let attr = layer.attr(child).expect("an attribute");
            if let Some(&there) = made.get(&child) {
                tree.link(id, &named.name, there).expect("no directory");
                continue;
            }
            let leaf = match attr.file_type {
                FileType::Directory => {
                    let implied = layer.is_implied(child).expect("a flag");
                    let made = if implied {
                        exact = false;
                        tree.implied_directory(id, &named.name)
                    } else {
                        tree.directory(id, &named.name, attr_meta(child))
                    };
                    todo.push((child, made.expect("a good name")));
                    continue;
                }
                FileType::Regular => Leaf::Regular {
                    size: attr.size,
                    content: layer.content(child).expect("a hash").expect("it is a template"),
                },
                FileType::Symlink => Leaf::Symlink(layer.readlink(child).expect("a target")),
                FileType::Block => Leaf::Block(attr.device),
                FileType::Character => Leaf::Character(attr.device),
                FileType::Fifo => Leaf::Fifo,
                FileType::Socket => Leaf::Socket,
            };
            let new = tree
                .leaf(id, &named.name, attr_meta(child), leaf)
                .expect("a good name");
            made.insert(child, new);
        }
        layer.place(node).expect("a place");
    }
    (tree, exact)
}
