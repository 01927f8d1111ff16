//! Directories of remote file systems, as a node mounts them.

use std::collections::BTreeSet;
use std::fmt;

use super::{DesiredSliver, LayerRef, WritableKind};

/// A directory of a remote file system: mounted once on a node, for all slivers that use it the same way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Remote {
    /// Where: `nfs://HOST/PATH` or `afs:CELL/PATH`.
    pub url: String,
    /// What may be done with it.
    pub access: Access,
}

/// What may be done with a remote directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// It is read: overlays.
    ReadOnly,
    /// Writable layers lie in it.
    ReadWrite,
}

impl Remote {
    /// What an overlay at `url` is read from.
    #[must_use]
    pub fn to_read(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            access: Access::ReadOnly,
        }
    }

    /// All remote directories that a sliver's mounts need.
    #[must_use]
    pub fn all_of(sliver: &DesiredSliver) -> BTreeSet<Self> {
        let layers = sliver.mounts.iter().flat_map(|mount| &mount.layers);
        let layers = layers.filter_map(|layer| match layer {
            LayerRef::Remote { url } => Some(Self::to_read(url)),
            LayerRef::Template(_) | LayerRef::Directory { .. } | LayerRef::Files { .. } => None,
        });
        layers.chain(Self::written_by(sliver)).collect()
    }

    /// Those that a sliver's writable layers lie in.
    #[must_use]
    pub fn written_by(sliver: &DesiredSliver) -> BTreeSet<Self> {
        let places = sliver.mounts.iter().filter_map(|mount| match &mount.writable {
            WritableKind::Remote { url } => Place::of(url),
            WritableKind::Local | WritableKind::ReadOnly | WritableKind::Memory => None,
        });
        places
            .filter_map(|place| match place {
                Place::Remote { within, .. } => Some(within),
                Place::Node { .. } => None,
            })
            .collect()
    }
}

impl fmt::Display for Remote {
    /// The URL; with `,rw` where it is written to, as in mount(8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        match self.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => f.write_str(",rw"),
        }
    }
}

/// Where a writable layer at a URL lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a directory of the node, which outlives the node where that is shared storage.
    Node {
        /// Absolute path.
        path: String,
    },
    /// In a directory of a remote file system.
    Remote {
        /// The directory above it, which must be there.
        within: Remote,
        /// Its own name in that, which is made when missing.
        name: String,
    },
}

impl Place {
    /// Reads the URL of a writable layer; `None` if it is none, which no valid manifest has.
    ///
    /// What is mounted is the directory above it: slivers whose layers lie side by side share one mount, and the layer
    /// of a new sliver needs nobody to make its directory beforehand.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("file://") {
            return Some(Self::Node {
                path: path.to_owned(),
            });
        }
        let (above, name) = url.rsplit_once('/')?;
        // `nfs://HOST/NAME` lies in what the server calls `/`.
        let root = above
            .strip_prefix("nfs://")
            .is_some_and(|host| !host.contains('/'))
            || above.strip_prefix("afs:").is_some_and(|cell| !cell.contains('/'));
        Some(Self::Remote {
            within: Remote {
                url: if root {
                    format!("{above}/")
                } else {
                    above.to_owned()
                },
                access: Access::ReadWrite,
            },
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writable_layer_lies_in_the_directory_above_it() {
        let check = |url: &str, within: &str, name: &str| {
            let found = Place::of(url);
            let within = Remote {
                url: within.to_owned(),
                access: Access::ReadWrite,
            };
            let name = name.to_owned();
            assert_eq!(found, Some(Place::Remote { within, name }), "{url}");
        };
        check(
            "nfs://store.example/logs/web-0",
            "nfs://store.example/logs",
            "web-0",
        );
        check("nfs://store.example/web-0", "nfs://store.example/", "web-0");
        check("nfs://[2001:db8::7]/a/b/c", "nfs://[2001:db8::7]/a/b", "c");
        check("afs:example.org/web-0", "afs:example.org/", "web-0");
        let path = "/srv/shared/web-0".to_owned();
        assert_eq!(Place::of("file:///srv/shared/web-0"), Some(Place::Node { path }));
    }
}
