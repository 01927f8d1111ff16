//! Whether the directories of a layer are one tree: looked at before a layer is served, at a cost that opening can bear.
//!
//! A lower directory leads to the recorded one that merges with it without a look at names. Were that one not where names
//! lead to, a change through a handle would go to a directory that nobody sees. What else may be wrong [fsck] tells.
//!
//! [fsck]: crate::fsck

use std::collections::HashMap;

use super::record::Name;
use super::state::State;
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

/// What is known of a directory on the way.
struct Seen {
    parent: ObjectKey,
    named: bool,
    /// Whether it is known to lie below the root.
    placed: bool,
}

/// Looks whether every directory has one name, in the directory that it says is its parent, and the root above it.
pub(crate) fn check(state: &State) -> Result<(), Misplaced> {
    let root = state.root();
    let directories = state.objects.iter().filter_map(|(key, object)| {
        let seen = Seen {
            parent: object.directory()?.parent,
            named: *key == root,
            placed: *key == root,
        };
        Some((*key, seen))
    });
    let mut directories: HashMap<ObjectKey, Seen> = directories.collect();
    for (key, object) in &state.objects {
        let Some(dir) = object.directory() else { continue };
        for (_, target) in &dir.entries {
            let Name::Object(child) = target else { continue };
            let Some(seen) = directories.get_mut(child) else {
                continue;
            };
            if seen.named || seen.parent != *key {
                return Err(Misplaced::Renamed(*child));
            }
            seen.named = true;
        }
    }
    if let Some((key, _)) = directories.iter().find(|(_, seen)| !seen.named) {
        return Err(Misplaced::Unnamed(*key));
    }
    // Every directory is looked at once: what is known to lie below the root is not followed again.
    let keys: Vec<ObjectKey> = directories.keys().copied().collect();
    for key in keys {
        let mut chain = Vec::new();
        let mut current = key;
        while let Some(seen) = directories.get(&current)
            && !seen.placed
        {
            chain.push(current);
            if chain.len() > directories.len() {
                return Err(Misplaced::Circle(key));
            }
            current = seen.parent;
        }
        for known in chain {
            if let Some(seen) = directories.get_mut(&known) {
                seen.placed = true;
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

    /// A state with the root, directories as `(number, parent)` and names as `(directory, name, child)`.
    #[track_caller]
    fn check_tree(directories: &[(u64, u64)], names: &[(u64, &str, u64)], expected: Result<(), Misplaced>) {
        let attr = Stored {
            mode: 0o755,
            uid: 0,
            gid: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
        };
        let made = [(ROOT, ROOT)].into_iter().chain(directories.iter().copied());
        let made = made.map(|(number, parent)| Change::Make {
            key: key(number),
            links: 0,
            attr,
            body: Body::Directory {
                parent: key(parent),
                merge: None,
            },
        });
        let named = names.iter().map(|&(dir, name, child)| Change::Entry {
            dir: key(dir),
            name: name.into(),
            target: Some(Name::Object(key(child))),
        });
        let record = Record {
            call: None,
            changes: made.chain(named).collect(),
        };
        let mut state = State::new(LayerId([7; 8]), LogKey::default());
        let nowhere = Position {
            segment: 0,
            payload: 0,
        };
        state.apply(record, nowhere).expect("it fits");
        assert_eq!(check(&state), expected);
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
}
