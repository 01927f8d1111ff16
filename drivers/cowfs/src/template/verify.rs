//! Checking a template from its name down to the last byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::content::ContentStore;
use super::digest::Digest;
use super::format::Payload;
use super::index::Index;
use super::manifest::Manifest;
use crate::layer::{ContentHash, NodeNumber};

/// Something that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file of the store.
    pub path: PathBuf,
    /// One path in the template's tree that has this content, if that is what it is.
    pub seen_as: Option<Vec<u8>>,
    /// What is wrong, in words.
    pub what: String,
}

/// What checking a template found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files of the store that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Everything that is wrong; empty for a sound template.
    pub damage: Vec<Damage>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Hashes everything a template consists of. `progress` is told the bytes read so far.
pub(super) fn verify(
    root: &Path,
    contents: &ContentStore,
    digest: &Digest,
    manifest: &Manifest,
    progress: &mut dyn FnMut(u64),
) -> VerifyReport {
    let mut report = VerifyReport::default();
    report.check(
        &root.join("templates").join(format!("{}.json", digest.hex())),
        digest,
        None,
        None,
    );
    for (name, boot) in [("kernel", manifest.kernel), ("initramfs", manifest.initramfs)] {
        if let Some(boot) = boot {
            report.check(
                &contents.path(&ContentHash(boot.0)),
                &boot,
                None,
                Some(name.as_bytes().to_vec()),
            );
        }
    }
    let index_path = root.join("index").join(manifest.index.hex());
    let index = match Index::map(&index_path, &manifest.index.0) {
        Ok(index) => index,
        Err(error) => {
            report.damage.push(Damage {
                path: index_path,
                seen_as: None,
                what: error.to_string(),
            });
            return report;
        }
    };
    report.files += 1;
    let mut wanted: BTreeMap<ContentHash, (u64, NodeNumber)> = BTreeMap::new();
    for number in 1..=index.node_count() {
        match index.node(number) {
            Ok(node) => {
                if let Payload::Content(hash) = node.payload {
                    let known = wanted.entry(hash).or_insert((node.size, number));
                    if known.0 != node.size {
                        report.damage.push(Damage {
                            path: index_path.clone(),
                            seen_as: Some(path_of(&index, number)),
                            what: "two lengths for one content".to_owned(),
                        });
                    }
                }
            }
            Err(error) => report.damage.push(Damage {
                path: index_path.clone(),
                seen_as: None,
                what: error.to_string(),
            }),
        }
    }
    for (hash, (size, number)) in wanted {
        let before = report.damage.len();
        report.check(&contents.path(&hash), &Digest(hash.0), Some(size), None);
        for damage in &mut report.damage[before..] {
            damage.seen_as = Some(path_of(&index, number));
        }
        progress(report.bytes);
    }
    report
}

impl VerifyReport {
    fn check(&mut self, path: &Path, digest: &Digest, size: Option<u64>, seen_as: Option<Vec<u8>>) {
        let what = match hash_file(path) {
            Ok((found, len)) => {
                self.files += 1;
                self.bytes += len;
                match size {
                    Some(size) if size != len => Some(format!("{len} bytes instead of {size}")),
                    _ if found != *digest => Some(format!("the content is {found}")),
                    _ => None,
                }
            }
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        if let Some(what) = what {
            self.damage.push(Damage {
                path: path.to_owned(),
                seen_as,
                what,
            });
        }
    }
}

fn hash_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut len = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((Digest(hasher.finalize().into()), len));
        }
        hasher.update(&buffer[..count]);
        len += count as u64;
    }
}

/// The path of a node from the root, by its first name.
fn path_of(index: &Index, number: NodeNumber) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = number;
    // A checked index has no loops: every node's parent has a lower number.
    while let Ok(Some((parent, name))) = index.place(at) {
        names.push(name);
        if parent >= at {
            break;
        }
        at = parent;
    }
    names.reverse();
    names.join(&b'/')
}
