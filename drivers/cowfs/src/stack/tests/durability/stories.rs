//! Named stories, and random ones.

use super::*;
use Stability::{DataSync, FileSync, Unstable};

/// One story for each thing that a crash could spoil in its own way.
pub(super) fn named() -> Vec<(&'static str, Vec<Do>)> {
    vec![
        (
            "names",
            vec![
                Do::Create("a"),
                Do::Mkdir("dir"),
                Do::Rename("a", "dir/a"),
                Do::Link("dir/a", "b"),
                Do::Symlink("dir/link"),
                Do::Mknod("dir/.wh.device"),
                Do::Create("c"),
                Do::Rename("c", "b"),
                Do::Remove("dir/a"),
                Do::Rename("dir", "etc/dir"),
                Do::Mode("etc/dir", 0o1777),
            ],
        ),
        (
            "the layer below",
            vec![
                Do::Mode("bin/perl", 0o4755),
                Do::Rename("usr", "etc/usr"),
                Do::Write("etc/conf", 4000, 2000, 1, FileSync),
                Do::Remove("bin/perl"),
                Do::Link("bin/perl5", "perl"),
                Do::Remove("etc/usr/lib/deep/so"),
                Do::Rmdir("etc/usr/lib/deep"),
                Do::Mkdir("etc/usr/lib/deep"),
            ],
        ),
        (
            "small stable writes",
            vec![
                Do::Create("db"),
                Do::Write("db", 0, 700, 1, FileSync),
                Do::Write("db", 300, 900, 2, DataSync),
                Do::Write("bin/perl", 2, 4, 3, FileSync),
                Do::Size("db", 400),
                Do::Write("db", 1000, 10, 4, FileSync),
            ],
        ),
        (
            "unstable writes and commit",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 3000, 1, Unstable),
                Do::Write("f", 3000, 3000, 2, Unstable),
                Do::Commit("f"),
                Do::Write("f", 1000, 3000, 3, Unstable),
                Do::Write("etc/conf", 4900, 200, 4, Unstable),
                Do::FlushAll,
            ],
        ),
        (
            "unstable writes that nobody committed",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 2000, 1, Unstable),
                Do::Mode("f", 0o600),
                Do::Write("f", 500, 100, 2, FileSync),
                Do::Restart,
                Do::Write("f", 0, 1200, 3, Unstable),
                Do::Write("etc/conf", 0, 600, 4, Unstable),
            ],
        ),
        (
            "truncation",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 9000, 1, FileSync),
                Do::Size("f", 5000),
                Do::Write("f", 7000, 5000, 2, Unstable),
                Do::Size("f", 6000),
                Do::Commit("f"),
                Do::Size("f", 0),
                Do::Write("f", 100, 5000, 3, FileSync),
                Do::Size("etc/conf", 10),
                Do::Size("etc/conf", 700),
            ],
        ),
        (
            "content that is removed and numbers that are used again",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 5000, 1, FileSync),
                Do::Create("g"),
                Do::Write("g", 0, 5000, 2, Unstable),
                Do::Remove("f"),
                Do::Restart,
                Do::Create("h"),
                Do::Write("h", 0, 5000, 3, FileSync),
                Do::Rename("h", "g"),
                Do::Remove("g"),
            ],
        ),
        (
            "one holder after the other",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 6000, 1, FileSync),
                Do::Write("f", 0, 1000, 2, Unstable),
                Do::TakeOver,
                Do::Write("f", 3000, 6000, 3, FileSync),
                Do::Mkdir("d"),
                Do::TakeOver,
                Do::Write("f", 0, 5000, 4, Unstable),
                Do::Commit("f"),
                Do::Remove("f"),
            ],
        ),
        (
            "checkpoints",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 6000, 1, FileSync),
                Do::Write("etc/conf", 100, 300, 2, FileSync),
                Do::Write("f", 500, 4500, 3, Unstable),
                Do::Save("before"),
                Do::Write("f", 0, 6000, 4, FileSync),
                Do::Size("f", 3000),
                Do::Rename("bin/perl", "perl"),
                Do::Create("g"),
                Do::Compact,
                Do::Remove("f"),
                Do::Restore("before"),
                Do::Write("f", 0, 5000, 5, Unstable),
                Do::Commit("f"),
                Do::Save("after"),
                Do::Forget("before"),
                Do::Remove("f"),
                Do::TakeOver,
                Do::Restore("after"),
                Do::Forget("after"),
                Do::Write("f", 0, 5000, 6, FileSync),
            ],
        ),
        (
            "handing over",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 6000, 1, FileSync),
                Do::Write("f", 1000, 1000, 2, Unstable),
                Do::HandOver,
                Do::Write("f", 0, 6000, 3, Unstable),
                Do::Remove("bin/perl"),
                Do::HandOver,
                Do::Size("f", 100),
            ],
        ),
        (
            "compaction while serving",
            vec![
                Do::Create("f"),
                Do::Write("f", 0, 900, 1, FileSync),
                Do::Write("f", 900, 5000, 2, FileSync),
                Do::Write("etc/conf", 100, 600, 3, Unstable),
                Do::Rename("f", "g"),
                Do::Mkdir("d"),
                Do::Compact,
                Do::Write("g", 100, 700, 4, FileSync),
                Do::Write("g", 3000, 600, 5, Unstable),
                Do::Create("d/x"),
                Do::Compact,
                Do::Restart,
                Do::Remove("g"),
                Do::TakeOver,
                Do::Compact,
                Do::Mode("d", 0o700),
            ],
        ),
    ]
}

const PATHS: [&str; 12] = [
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "etc/conf",
    "bin/perl",
    "bin/perl5",
    "usr",
    "usr/lib",
    "e",
];

/// A story of so many steps from a seed.
pub(super) fn random(seed: u64, steps: usize) -> Vec<Do> {
    let mut dice = Dice::new(seed);
    let mut story = vec![Do::Create("a"), Do::Mkdir("d")];
    let step = |dice: &mut Dice| {
        let path = *dice.pick(&PATHS);
        match dice.below(24) {
            0..3 => Do::Create(path),
            3 => Do::Mkdir(path),
            4 => Do::Symlink(path),
            5 => Do::Remove(path),
            6 => Do::Rmdir(path),
            7..9 => Do::Rename(path, dice.pick::<&str>(&PATHS)),
            9 => Do::Link(path, dice.pick::<&str>(&PATHS)),
            10 => Do::Mode(path, 0o600 + u32::try_from(dice.below(64)).expect("it fits")),
            11..13 => Do::Size(path, dice.below(9000) as u64),
            13..19 => {
                let stability = *dice.pick(&[Unstable, Unstable, FileSync, DataSync]);
                let (at, len) = (dice.below(7000) as u64, 1 + dice.below(6000));
                let value = u8::try_from(1 + dice.below(250)).expect("it fits");
                Do::Write(path, at, len, value, stability)
            }
            19 | 20 => Do::Commit(path),
            21 => dice.pick(&[Do::Compact, Do::FlushAll]).clone(),
            22 => Do::Restart,
            _ => Do::TakeOver,
        }
    };
    story.extend((0..steps).map(|_| step(&mut dice)));
    story
}
