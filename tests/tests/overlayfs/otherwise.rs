//! Where overlayfs does otherwise, on purpose or for want of a better: each is shown on both sides, so that the list
//! stays true. Random sequences keep away from these and from nothing else.

use std::fs;
use std::path::Path;

use cowfs::service::LayerSource;
use rustix::io::Errno;

use crate::mounted::Mounted;
use crate::op::{Op, ROOT};
use crate::served::Served;
use crate::view::Kind;
use crate::{Ours, layers};

/// Runs the stories.
pub(crate) fn check(tmpfs: &Path) {
    let layer = tmpfs.join("layer");
    fs::create_dir_all(&layer).expect("a directory");
    layers::template(&layer).expect("making a layer");
    let ours = Ours::new(tmpfs, vec![LayerSource::Dir(layer.clone())]);
    let ours = Served {
        service: &*ours.service,
        protects_links: false,
    };
    let mounted = |name: &str, options: &str| {
        let (dir, beneath) = (tmpfs.join(name), tmpfs.join(format!("{name}-layer")));
        layers::copy(&layer, &beneath).expect("copying a layer");
        Mounted::with(&dir, &[beneath], options).expect("mounting overlayfs")
    };
    let full = mounted("full", crate::mounted::FULL);
    let plain = mounted("plain", "index=off,redirect_dir=off,metacopy=off");

    // The device 0:0 is overlayfs's own mark for "deleted"; a guest of cowfs may have one.
    let device = Op::Mknod {
        path: b"zero".to_vec(),
        kind: Kind::Character,
        mode: 0o600,
        device: (0, 0),
    };
    assert_eq!(full.apply(ROOT, &device), Err(Errno::PERM));
    assert_eq!(ours.apply(ROOT, &device, 1), Ok(()));
    assert!(ours.tree().expect("the tree").0.contains_key(&b"zero"[..]));

    // A directory of a lower layer moves only with redirects; cowfs always moves it.
    let rename = Op::Rename {
        from: b"etc".to_vec(),
        to: b"moved".to_vec(),
    };
    assert_eq!(plain.apply(ROOT, &rename), Err(Errno::XDEV));
    assert_eq!(full.apply(ROOT, &rename), Ok(()));
    assert_eq!(ours.apply(ROOT, &rename, 2), Ok(()));

    // Names of one lower file fall apart at its first change, but for the index; with cowfs they never do.
    let write = Op::Write {
        path: b"bin/perl".to_vec(),
        at: 0,
        len: 1,
        byte: b'W',
    };
    assert_eq!(plain.apply(ROOT, &write), Ok(()));
    assert_eq!(full.apply(ROOT, &write), Ok(()));
    assert_eq!(ours.apply(ROOT, &write, 3), Ok(()));
    let same = |tree: &crate::view::Tree| tree[&b"bin/perl"[..]].content == tree[&b"bin/perl5"[..]].content;
    assert!(!same(&plain.tree().expect("the tree")));
    assert!(same(&full.tree().expect("the tree")));
    assert!(same(&ours.tree().expect("the tree").0));

    // A directory of several layers has one link for overlayfs, two and one for each subdirectory for cowfs.
    let links = |tree: &crate::view::Tree| tree[&b"var"[..]].links;
    let touch = Op::Create {
        path: b"var/new".to_vec(),
        mode: 0o644,
    };
    assert_eq!(full.apply(ROOT, &touch), Ok(()));
    assert_eq!(ours.apply(ROOT, &touch, 4), Ok(()));
    assert_eq!(links(&full.tree().expect("the tree")), 1);
    assert_eq!(links(&ours.tree().expect("the tree").0), 3);

    // A name that a nearer layer hides is counted all the same by overlayfs; cowfs counts the names there are.
    let hiding = tmpfs.join("hiding");
    fs::create_dir_all(hiding.join("bin")).expect("a directory");
    layers::whiteout(&hiding.join("bin/perl5")).expect("a whiteout");
    let beneath = [tmpfs.join("hiding-2"), tmpfs.join("lower-2")];
    layers::copy(&hiding, &beneath[0]).expect("copying a layer");
    layers::copy(&layer, &beneath[1]).expect("copying a layer");
    let dir = tmpfs.join("hidden");
    let full = Mounted::new(&dir, &beneath).expect("mounting overlayfs");
    let ours = Ours::new(&dir, vec![LayerSource::Dir(hiding), LayerSource::Dir(layer)]);
    let ours = Served {
        service: &*ours.service,
        protects_links: false,
    };
    let links = |tree: &crate::view::Tree| tree[&b"bin/perl"[..]].links;
    assert_eq!(links(&full.tree().expect("the tree")), 3);
    assert_eq!(links(&ours.tree().expect("the tree").0), 2);
}
