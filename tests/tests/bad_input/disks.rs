//! Template stores: wrong digests, strangers' files, and disks without room.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::world::{Said, program, xeno};

/// Imports a small root; its digest.
fn import(dir: &Path) -> String {
    fs::create_dir_all(dir.join("root")).expect("a directory");
    fs::write(
        dir.join("root/file"),
        "a file of some length, so that it lies in the content store".repeat(200),
    )
    .expect("written");
    let said = xeno(dir, &["template", "import", "root", "--store", "store"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let digest = said
        .out
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"));
    digest.expect("a digest").to_owned()
}

#[test]
fn a_template_that_does_not_match_its_digest_is_told() {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    let digest = import(dir);
    let verify = ["template", "verify", digest.as_str(), "--store", "store"];
    // What others left in the store is nobody's business.
    fs::write(dir.join("store/README"), "not ours").expect("written");
    let sound = xeno(dir, &verify);
    assert_eq!(sound.code, Some(0), "{sound:?}");
    let listed = xeno(dir, &["template", "list", "--store", "store"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let mut left = vec![dir.join("store")];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if fs::metadata(&path).expect("a file").len() > 10_000 {
                let text = fs::read(&path).expect("a file");
                fs::remove_file(&path).expect("removed");
                fs::write(&path, vec![b'!'; text.len()]).expect("written");
            }
        }
    }
    xeno(dir, &verify).refused(&["file"]);
}

#[test]
fn a_full_disk_while_importing_leaves_the_store_as_it_was() {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    fs::create_dir_all(dir.join("small")).expect("a directory");
    fs::write(dir.join("small/file"), "small").expect("written");
    fs::create_dir_all(dir.join("large")).expect("a directory");
    for number in 0..200 {
        let text = format!("{number}").repeat(9000);
        fs::write(dir.join(format!("large/{number}")), text).expect("written");
    }
    fs::create_dir_all(dir.join("disk")).expect("a directory");
    // The disk exists only in this namespace: as root, or where the kernel lets users have namespaces of their own.
    let script = "mount -t tmpfs -o size=512k tmpfs disk
        \"$0\" template import small --store disk/store
        find disk/store | sort > before
        code=0; \"$0\" template import large --store disk/store || code=$?
        find disk/store | sort > after
        cmp before after
        \"$0\" template list --store disk/store
        exit $code";
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let said = Said::by(
        command
            .current_dir(dir)
            .args(["--mount", "sh", "-ec", script])
            .arg(program()),
    );
    said.refused(&["No space left on device"]);
    assert!(!said.err.contains("differ"), "{said:?}");
}
