//! What is done to the trees: operations, who does them, and where they come from.

use std::fmt;

use xeno_tests::lab::dice::Dice;

use crate::view::{Kind, Tree};

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) group: Option<u32>,
}

pub(crate) const ROOT: Who = Who {
    uid: 0,
    gid: 0,
    group: None,
};
const OWNER: Who = Who {
    uid: 1000,
    gid: 100,
    group: Some(50),
};
const STRANGER: Who = Who {
    uid: 1001,
    gid: 101,
    group: None,
};

/// One time of utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetTo {
    Omit,
    Now,
    At(i64, u32),
}

/// One call of a program. Paths are relative to the root and lead through directories only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Create {
        path: Vec<u8>,
        mode: u32,
    },
    Write {
        path: Vec<u8>,
        at: u64,
        len: usize,
        byte: u8,
    },
    Truncate {
        path: Vec<u8>,
        size: u64,
    },
    Mkdir {
        path: Vec<u8>,
        mode: u32,
    },
    Symlink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    Mknod {
        path: Vec<u8>,
        kind: Kind,
        mode: u32,
        device: (u32, u32),
    },
    Unlink {
        path: Vec<u8>,
    },
    Rmdir {
        path: Vec<u8>,
    },
    Rename {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Link {
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Chmod {
        path: Vec<u8>,
        mode: u32,
    },
    Chown {
        path: Vec<u8>,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimens {
        path: Vec<u8>,
        atime: SetTo,
        mtime: SetTo,
    },
}

impl Op {
    /// The paths it names.
    pub(crate) fn paths(&self) -> Vec<&[u8]> {
        match self {
            Self::Create { path, .. }
            | Self::Write { path, .. }
            | Self::Truncate { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Symlink { path, .. }
            | Self::Mknod { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::Utimens { path, .. } => vec![path],
            Self::Rename { from, to } | Self::Link { from, to } => vec![from, to],
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = String::from_utf8_lossy;
        match self {
            Self::Create { path, mode } => write!(f, "create {} {mode:o}", shown(path)),
            Self::Write { path, at, len, byte } => write!(f, "write {} {len} of {byte} at {at}", shown(path)),
            Self::Truncate { path, size } => write!(f, "truncate {} {size}", shown(path)),
            Self::Mkdir { path, mode } => write!(f, "mkdir {} {mode:o}", shown(path)),
            Self::Symlink { path, target } => write!(f, "symlink {} -> {}", shown(path), shown(target)),
            Self::Mknod {
                path,
                kind,
                mode,
                device,
            } => write!(f, "mknod {} {kind:?} {mode:o} {device:?}", shown(path)),
            Self::Unlink { path } => write!(f, "unlink {}", shown(path)),
            Self::Rmdir { path } => write!(f, "rmdir {}", shown(path)),
            Self::Rename { from, to } => write!(f, "rename {} {}", shown(from), shown(to)),
            Self::Link { from, to } => write!(f, "link {} {}", shown(from), shown(to)),
            Self::Chmod { path, mode } => write!(f, "chmod {} {mode:o}", shown(path)),
            Self::Chown { path, uid, gid } => write!(f, "chown {} {uid:?} {gid:?}", shown(path)),
            Self::Utimens { path, atime, mtime } => write!(f, "utimens {} {atime:?} {mtime:?}", shown(path)),
        }
    }
}

const NAMES: [&[u8]; 10] = [
    b"a",
    b"b",
    b"c",
    b"etc",
    b"bin",
    b"perl",
    b".wh.a",
    b"hosts",
    b"sub",
    b"\xff\xfe",
];

/// How deep directories may lie: what grows for ever is compared for ever.
const DEPTH_MAX: usize = 5;
/// How many objects there may be before nothing more is made.
const OBJECTS_MAX: usize = 70;

/// Makes up operations that fit a tree more often than not.
pub(crate) struct Source {
    pub(crate) dice: Dice,
}

impl Source {
    /// The next operation on a tree, and who does it.
    pub(crate) fn next(&mut self, tree: &Tree) -> (Who, Op) {
        let who = match self.dice.below(10) {
            0 | 1 => OWNER,
            2 => STRANGER,
            _ => ROOT,
        };
        let mut what = self.dice.below(26);
        if tree.len() > OBJECTS_MAX && what < 7 {
            what = 7 + what % 4;
        }
        let op = match what {
            0 | 1 => Op::Create {
                path: self.place(tree),
                mode: *self.dice.pick(&[0o644, 0o600, 0o666, 0o755, 0o4755, 0]),
            },
            2 | 3 => Op::Mkdir {
                path: self.place(tree),
                mode: *self.dice.pick(&[0o755, 0o700, 0o777, 0o1777]),
            },
            4 => Op::Symlink {
                path: self.place(tree),
                target: self
                    .dice
                    .pick(&[&b"../a"[..], b"nowhere", b"/etc/passwd"])
                    .to_vec(),
            },
            5 => {
                let kind = *self
                    .dice
                    .pick(&[Kind::Fifo, Kind::Socket, Kind::Character, Kind::Block]);
                let device = if matches!(kind, Kind::Character | Kind::Block) {
                    *self.dice.pick(&[(1, 3), (8, 1), (300, 70_000)])
                } else {
                    (0, 0)
                };
                let mode = *self.dice.pick(&[0o600, 0o622, 0o644]);
                Op::Mknod {
                    path: self.place(tree),
                    kind,
                    mode,
                    device,
                }
            }
            6 => Op::Link {
                from: self.any(tree),
                to: self.place(tree),
            },
            7 | 8 => Op::Unlink { path: self.any(tree) },
            9 => Op::Rmdir {
                path: self.directory_or_any(tree),
            },
            10..=13 => {
                let to = if self.dice.one_in(3) {
                    self.any(tree)
                } else {
                    self.place(tree)
                };
                Op::Rename {
                    from: self.directory_or_any(tree),
                    to,
                }
            }
            14..=16 => Op::Write {
                path: self.of(tree, &[Kind::Regular]),
                at: *self.dice.pick(&[0, 1, 100, 4_096, 5_000, 69_999, 90_000]),
                len: *self.dice.pick(&[1, 10, 4_096, 4_097, 9_000]),
                byte: u8::try_from(self.dice.below(256)).expect("a byte"),
            },
            17 => Op::Truncate {
                path: self.of(tree, &[Kind::Regular, Kind::Directory]),
                size: *self.dice.pick(&[0, 1, 3_000, 4_096, 60_000, 100_000]),
            },
            18..=20 => Op::Chmod {
                path: self.of(
                    tree,
                    &[Kind::Regular, Kind::Directory, Kind::Fifo, Kind::Character],
                ),
                mode: *self
                    .dice
                    .pick(&[0o644, 0o600, 0o4755, 0o2755, 0o2745, 0o1777, 0o2770, 0o777, 0o711]),
            },
            21 | 22 => {
                let uid = *self.dice.pick(&[None, Some(0), Some(1000), Some(1001)]);
                let gid = *self.dice.pick(&[Some(0), Some(50), Some(100), Some(101)]);
                Op::Chown {
                    path: self.any(tree),
                    uid,
                    gid,
                }
            }
            _ => {
                let times = [
                    SetTo::Omit,
                    SetTo::Now,
                    SetTo::At(900_000_000, 5),
                    SetTo::At(5, 999_999_999),
                    SetTo::At(0, 0),
                ];
                let (atime, mut mtime) = (*self.dice.pick(&times), *self.dice.pick(&times));
                if atime == SetTo::Omit && mtime == SetTo::Omit {
                    mtime = SetTo::Now;
                }
                Op::Utimens {
                    path: self.any(tree),
                    atime,
                    mtime,
                }
            }
        };
        (who, op)
    }

    fn of(&mut self, tree: &Tree, kinds: &[Kind]) -> Vec<u8> {
        let fit: Vec<&Vec<u8>> = tree
            .iter()
            .filter(|(path, shown)| !path.is_empty() && kinds.contains(&shown.kind))
            .map(|(path, _)| path)
            .collect();
        if fit.is_empty() || self.dice.one_in(25) {
            // Nothing may be there, but nothing of another kind: no device is opened, no link followed.
            let place = self.place(tree);
            let free = [&place[..], b".free"].concat();
            let fits = tree.get(&place).is_none_or(|shown| kinds.contains(&shown.kind));
            return if fits { place } else { free };
        }
        (*self.dice.pick(&fit)).clone()
    }

    fn any(&mut self, tree: &Tree) -> Vec<u8> {
        self.of(
            tree,
            &[
                Kind::Regular,
                Kind::Directory,
                Kind::Symlink,
                Kind::Fifo,
                Kind::Socket,
                Kind::Character,
                Kind::Block,
            ],
        )
    }

    fn directory_or_any(&mut self, tree: &Tree) -> Vec<u8> {
        if self.dice.one_in(2) {
            self.of(tree, &[Kind::Directory])
        } else {
            self.any(tree)
        }
    }

    /// A name in a directory, there already or not; now and then in what is no directory.
    fn place(&mut self, tree: &Tree) -> Vec<u8> {
        let lost = self.dice.one_in(40);
        let fit: Vec<&Vec<u8>> = tree
            .iter()
            .filter(|(path, shown)| {
                let depth = path.split(|byte| *byte == b'/').count();
                depth < DEPTH_MAX && (shown.kind == Kind::Directory) != (lost && shown.kind == Kind::Regular)
            })
            .map(|(path, _)| path)
            .collect();
        let mut path = (*self.dice.pick(&fit)).clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        if self.dice.one_in(60) {
            path.extend(std::iter::repeat_n(b'n', *self.dice.pick(&[255, 256])));
        } else {
            let name: &[u8] = self.dice.pick::<&[u8]>(&NAMES);
            path.extend_from_slice(name);
        }
        path
    }
}
