//! Whether the directories of a layer are one tree, and names and counts of them agree: looked at before a layer is
//! served, at a cost that opening can bear. What opens must open again whatever a guest does in between.
//!
//! A lower directory leads to the recorded one that merges with it without a look at names. Were that one not where names
//! lead to, a change through a handle would go to a directory that nobody sees. What else may be wrong [fsck] tells.
//!
//! [fsck]: crate::fsck

use super::record::{Change, Name};
use super::state::{Object, State};
use crate::handle::ObjectKey;

/// A directory that is not where it says, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misplaced {
    #[error("directory {0:?} has no name where it says that it is")]
    Unnamed(ObjectKey),
    #[error("directory {0:?} has more than one name, or one elsewhere than it says")]
    Renamed(ObjectKey),
    #[error("directory {0:?} lies within itself")]
    Circle(ObjectKey),
}

/// What is known of an object on the way.
enum Seen {
    Directory {
        parent: ObjectKey,
        named: bool,
        /// Whether it is known to lie below the root.
        placed: bool,
    },
    Other {
        links: u32,
        names: u32,
    },
}

impl Seen {
    fn of(key: ObjectKey, object: &Object, root: ObjectKey) -> Self {
        match object.directory() {
            Some(dir) => Self::Directory {
                parent: dir.parent,
                named: key == root,
                placed: key == root,
            },
            None => Self::Other {
                links: object.links,
                names: 0,
            },
        }
    }
}

/// Everything that has a record, in the order of keys.
struct All(Vec<(ObjectKey, Seen)>);

impl All {
    fn get(&mut self, key: ObjectKey) -> Option<&mut Seen> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.0.get_mut(at).map(|(_, seen)| seen)
    }
}

/// Looks whether every directory has one name, in the directory that it says is its parent, and the root above it. Returns
/// what is to be changed so that no name leads nowhere, and whatever is not a directory counts its names: an object whose count is
/// too low would be gone with a name that is not its last. One without any may still be found where a lower layer names it; that
/// name is not one of these. A log of ours asks for none of that.
pub(crate) fn check(state: &State) -> Result<Vec<Change>, Misplaced> {
    let root = state.root();
    let all = state.objects.iter();
    let mut all = All(all
        .map(|(key, object)| (*key, Seen::of(*key, object, root)))
        .collect());
    let mut mended = Vec::new();
    for (key, object) in &state.objects {
        let Some(dir) = object.directory() else { continue };
        for (name, target) in &dir.entries {
            let Name::Object(child) = target else { continue };
            match all.get(*child) {
                Some(Seen::Other { names, .. }) => *names = names.saturating_add(1),
                Some(Seen::Directory { parent, named, .. }) => {
                    if *named || *parent != *key {
                        return Err(Misplaced::Renamed(*child));
                    }
                    *named = true;
                }
                None => mended.push(Change::Entry {
                    dir: *key,
                    name: name.to_vec(),
                    target: Some(Name::Whiteout),
                }),
            }
        }
    }
    let mut directories = Vec::new();
    for (key, seen) in &all.0 {
        match *seen {
            Seen::Directory { named: false, .. } => return Err(Misplaced::Unnamed(*key)),
            Seen::Directory { named: true, .. } => directories.push(*key),
            Seen::Other { links, names } if names != links => {
                mended.push(Change::Links {
                    key: *key,
                    links: names,
                });
            }
            Seen::Other { .. } => {}
        }
    }
    place(&directories, &mut all)?;
    Ok(mended)
}

/// Follows each directory up to one that is known to lie below the root. Each is looked at once.
fn place(directories: &[ObjectKey], all: &mut All) -> Result<(), Misplaced> {
    for key in directories {
        let mut chain = Vec::new();
        let mut current = *key;
        while let Some(Seen::Directory {
            parent,
            placed: false,
            ..
        }) = all.get(current)
        {
            chain.push(current);
            if chain.len() > directories.len() {
                return Err(Misplaced::Circle(*key));
            }
            current = *parent;
        }
        for known in chain {
            if let Some(Seen::Directory { placed, .. }) = all.get(known) {
                *placed = true;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::{Body, Change, Record, Stored};
    use super::super::segment::LogKey;
    use super::super::state::Position;
    use super::*;
    use crate::attr::Time;
    use crate::layer::LayerId;

    const ROOT: u64 = 1;

    fn key(number: u64) -> ObjectKey {
        let layer = LayerId([7; 8]);
        ObjectKey { layer, number }
    }

    fn attr() -> Stored {
        Stored {
            mode: 0o755,
            uid: 0,
            gid: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
        }
    }

    fn directory(number: u64, parent: u64) -> Change {
        Change::Make {
            key: key(number),
            links: 0,
            attr: attr(),
            body: Body::Directory {
                parent: key(parent),
                merge: None,
            },
        }
    }

    fn entry(dir: u64, name: &str, child: u64) -> Change {
        Change::Entry {
            dir: key(dir),
            name: name.into(),
            target: Some(Name::Object(key(child))),
        }
    }

    /// A state with the root and what `changes` make.
    fn state(changes: impl IntoIterator<Item = Change>) -> State {
        let record = Record {
            call: None,
            changes: [directory(ROOT, ROOT)].into_iter().chain(changes).collect(),
        };
        let mut state = State::new(LayerId([7; 8]), LogKey::default());
        let nowhere = Position {
            segment: 0,
            payload: 0,
        };
        state.apply(record, nowhere).expect("it fits");
        state
    }

    /// Directories as `(number, parent)` and names as `(directory, name, child)`.
    #[track_caller]
    fn check_tree(directories: &[(u64, u64)], names: &[(u64, &str, u64)], expected: Result<(), Misplaced>) {
        let made = directories
            .iter()
            .map(|&(number, parent)| directory(number, parent));
        let named = names.iter().map(|&(dir, name, child)| entry(dir, name, child));
        assert_eq!(check(&state(made.chain(named))), expected.map(|()| Vec::new()));
    }

    #[test]
    fn a_tree_is_one() {
        check_tree(&[], &[], Ok(()));
        check_tree(&[(2, 1), (3, 2)], &[(1, "a", 2), (2, "b", 3)], Ok(()));
    }

    #[test]
    fn what_is_none_is_told() {
        check_tree(&[(2, 2)], &[], Err(Misplaced::Unnamed(key(2))));
        check_tree(&[(2, 1)], &[], Err(Misplaced::Unnamed(key(2))));
        check_tree(
            &[(2, 1)],
            &[(1, "a", 2), (1, "b", 2)],
            Err(Misplaced::Renamed(key(2))),
        );
        check_tree(&[], &[(1, "again", 1)], Err(Misplaced::Renamed(key(1))));
        check_tree(
            &[(2, 1), (3, 2)],
            &[(1, "a", 2), (1, "b", 3)],
            Err(Misplaced::Renamed(key(3))),
        );
        check_tree(&[(2, 2)], &[(2, "a", 2)], Err(Misplaced::Circle(key(2))));
    }

    #[test]
    fn names_and_counts_are_mended() {
        let link = |links| Change::Make {
            key: key(2),
            links,
            attr: attr(),
            body: Body::Symlink {
                target: b"there".to_vec(),
            },
        };
        let two = || [entry(1, "a", 2), entry(1, "b", 2)];
        let counted = |links| Change::Links { key: key(2), links };
        assert_eq!(check(&state([link(2)].into_iter().chain(two()))), Ok(vec![]));
        assert_eq!(
            check(&state([link(1)].into_iter().chain(two()))),
            Ok(vec![counted(2)])
        );
        // Where a lower layer names it, a name that it is given then is its first.
        assert_eq!(check(&state([link(1)])), Ok(vec![counted(0)]));
        assert_eq!(check(&state([link(0)])), Ok(vec![]));
        let gone = two().into_iter().chain([Change::Drop { key: key(2) }]);
        let hidden = |name: &str| Change::Entry {
            dir: key(1),
            name: name.into(),
            target: Some(Name::Whiteout),
        };
        assert_eq!(
            check(&state([link(2)].into_iter().chain(gone))),
            Ok(vec![hidden("a"), hidden("b")])
        );
    }
}
