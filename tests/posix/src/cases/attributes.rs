//! Modes and owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

use rustix::io::Errno;

use super::cases;
use crate::act::{OTHER, Who};
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, bits, meta, pattern};

cases!("attributes":
    mode_of_a_file, mode_of_a_directory, mode_of_a_pipe, all_twelve_bits, mode_follows_a_link, mode_of_missing,
    mode_changes_ctime_only, mode_keeps_the_content, mode_by_another, mode_without_change,
    mode_by_the_owner_outside_the_group_loses_setgid, mode_of_a_dangling_link,
    owner_of_a_file, owner_of_a_directory, owner_of_a_symlink, group_only, owner_kept_by_minus_one, owner_of_missing,
    owner_changes_ctime_only, owner_keeps_the_content, owner_change_clears_setuid, owner_change_keeps_a_directorys_bits,
    owner_by_another, group_by_the_owner_to_their_own, group_by_the_owner_to_a_foreign, owner_given_away_by_the_owner,
    owner_through_hard_links, large_numbers, whole_tree, then_written, size_of_a_directory_is_not_zero,
    kind_is_kept_by_all_changes,
);

fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn mode_of_a_file(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("file"), 0o600))?;
    same("mode", bits(&g.p("file"))?, 0o600)
}

fn mode_of_a_directory(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("dir"), 0o711))?;
    same("mode", bits(&g.p("dir"))?, 0o711)?;
    same("content", ok("read", fs::read(g.p("dir/a")))?, b"a".to_vec())
}

fn mode_of_a_pipe(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("fifo"), 0o620))?;
    same("mode", bits(&g.p("fifo"))?, 0o620)
}

fn all_twelve_bits(g: &Ground) -> Outcome {
    for mode in [
        0, 0o1, 0o10, 0o100, 0o1000, 0o2000, 0o4000, 0o7777, 0o4755, 0o2755, 0o1777,
    ] {
        ok("chmod", chmod(&g.p("file"), mode))?;
        same("mode", bits(&g.p("file"))?, mode)?;
    }
    Ok(())
}

fn mode_follows_a_link(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("link"), 0o604))?;
    same("target", bits(&g.p("file"))?, 0o604)?;
    holds("the link is still one", meta(&g.p("link"))?.is_symlink())
}

fn mode_of_missing(g: &Ground) -> Outcome {
    fails("chmod", chmod(&g.p("absent"), 0o600), &[Errno::NOENT])
}

fn mode_of_a_dangling_link(g: &Ground) -> Outcome {
    fails("chmod", chmod(&g.p("dangling"), 0o600), &[Errno::NOENT])
}

fn mode_changes_ctime_only(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("file"), 0o600))?;
    let after = meta(&g.p("file"))?;
    same("modified", after.mtime(), OLD)?;
    holds("changed", after.ctime() > OLD)
}

fn mode_keeps_the_content(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("file"), 0o640))?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())?;
    same("size", meta(&g.p("file"))?.len(), 10_000)
}

fn mode_by_another(g: &Ground) -> Outcome {
    fails(
        "chmod",
        OTHER.does(&["chmod", "777"], &g.p("file")),
        &[Errno::PERM],
    )?;
    same("mode", bits(&g.p("file"))?, 0o644)
}

fn mode_without_change(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("file"), 0o644))?;
    same("mode", bits(&g.p("file"))?, 0o644)?;
    same("modified", meta(&g.p("file"))?.mtime(), OLD)
}

fn mode_by_the_owner_outside_the_group_loses_setgid(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(4_200)))?;
    ok("chmod", OTHER.does(&["chmod", "2755"], &g.p("file")))?;
    same("mode", bits(&g.p("file"))?, 0o755)
}

fn owner(path: &Path) -> Result<(u32, u32), String> {
    let meta = meta(path)?;
    Ok((meta.uid(), meta.gid()))
}

fn owner_of_a_file(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(4_001), Some(4_002)))?;
    same("owner", owner(&g.p("file"))?, (4_001, 4_002))
}

fn owner_of_a_directory(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("dir"), Some(4_001), Some(4_002)))?;
    same("owner", owner(&g.p("dir"))?, (4_001, 4_002))?;
    holds("not of what is in it", owner(&g.p("dir/a"))? != (4_001, 4_002))
}

fn owner_of_a_symlink(g: &Ground) -> Outcome {
    let before = owner(&g.p("file"))?;
    ok("lchown", lchown(g.p("link"), Some(4_001), Some(4_002)))?;
    same("the link", owner(&g.p("link"))?, (4_001, 4_002))?;
    same("its target", owner(&g.p("file"))?, before)?;
    same("still leads there", ok("read", fs::read(g.p("link")))?, pattern())
}

fn group_only(g: &Ground) -> Outcome {
    let before = owner(&g.p("file"))?;
    ok("chown", chown(g.p("file"), None, Some(4_300)))?;
    same("owner", owner(&g.p("file"))?, (before.0, 4_300))
}

fn owner_kept_by_minus_one(g: &Ground) -> Outcome {
    let before = owner(&g.p("file"))?;
    ok("chown", chown(g.p("file"), None, None))?;
    same("owner", owner(&g.p("file"))?, before)
}

fn owner_of_missing(g: &Ground) -> Outcome {
    fails("chown", chown(g.p("absent"), Some(1), Some(1)), &[Errno::NOENT])
}

fn owner_changes_ctime_only(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(4_001), None))?;
    let after = meta(&g.p("file"))?;
    same("modified", after.mtime(), OLD)?;
    holds("changed", after.ctime() > OLD)
}

fn owner_keeps_the_content(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(4_001), Some(4_001)))?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())
}

fn owner_change_clears_setuid(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("file"), 0o6755))?;
    ok("chown", chown(g.p("file"), Some(4_001), Some(4_002)))?;
    same("mode", bits(&g.p("file"))?, 0o755)
}

fn owner_change_keeps_a_directorys_bits(g: &Ground) -> Outcome {
    ok("chmod", chmod(&g.p("dir"), 0o2775))?;
    ok("chown", chown(g.p("dir"), Some(4_001), Some(4_002)))?;
    same("mode", bits(&g.p("dir"))?, 0o2775)
}

fn owner_by_another(g: &Ground) -> Outcome {
    fails(
        "chown",
        OTHER.does(&["chown", "4001", "4001"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn group_by_the_owner_to_their_own(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)))?;
    let member = Who {
        group: Some(4_400),
        ..OTHER
    };
    ok("chgrp", member.does(&["chown", "-", "4400"], &g.p("file")))?;
    same("owner", owner(&g.p("file"))?, (OTHER.uid, 4_400))
}

fn group_by_the_owner_to_a_foreign(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)))?;
    fails(
        "chgrp",
        OTHER.does(&["chown", "-", "4500"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn owner_given_away_by_the_owner(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)))?;
    fails(
        "chown",
        OTHER.does(&["chown", "4600", "-"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn owner_through_hard_links(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("hard1"), Some(4_001), Some(4_001)))?;
    same("owner", owner(&g.p("hard2"))?, (4_001, 4_001))?;
    same("links", meta(&g.p("hard2"))?.nlink(), 2)
}

fn large_numbers(g: &Ground) -> Outcome {
    ok(
        "chown",
        chown(g.p("file"), Some(4_000_000_000), Some(4_000_000_001)),
    )?;
    same("owner", owner(&g.p("file"))?, (4_000_000_000, 4_000_000_001))
}

fn whole_tree(g: &Ground) -> Outcome {
    for name in ["dir", "dir/a", "dir/sub", "dir/sub/b", "fifo", "hard1", "empty"] {
        ok("chown", lchown(g.p(name), Some(4_700), Some(4_701)))?;
    }
    for name in ["dir", "dir/a", "dir/sub", "dir/sub/b", "fifo", "hard2", "empty"] {
        same(name, owner(&g.p(name))?, (4_700, 4_701))?;
    }
    same("content", ok("read", fs::read(g.p("dir/sub/b")))?, b"b".to_vec())
}

fn then_written(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(4_001), Some(4_001)))?;
    ok("chmod", chmod(&g.p("file"), 0o666))?;
    ok("write", fs::write(g.p("file"), b"new"))?;
    same("owner", owner(&g.p("file"))?, (4_001, 4_001))?;
    same("mode", bits(&g.p("file"))?, 0o666)
}

fn size_of_a_directory_is_not_zero(g: &Ground) -> Outcome {
    // Programs take an empty answer of stat for an empty directory.
    holds("size", meta(&g.p("dir"))?.len() > 0)
}

fn kind_is_kept_by_all_changes(g: &Ground) -> Outcome {
    for name in ["file", "dir", "fifo", "link"] {
        let kind = meta(&g.p(name))?.mode() & 0o170_000;
        ok("chown", lchown(g.p(name), Some(4_001), Some(4_001)))?;
        same(name, meta(&g.p(name))?.mode() & 0o170_000, kind)?;
    }
    Ok(())
}
