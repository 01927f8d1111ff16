//! Who may do what.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::io::Errno;

use super::cases;
use crate::act::{OTHER, Who};
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, meta};

cases!("permissions":
    others_read_what_they_may, others_do_not_read_the_rest, others_do_not_write, others_write_what_they_may,
    group_reads, second_group_reads, owner_is_not_helped_by_the_group, owner_without_leave,
    directory_without_search, directory_without_read, directory_without_write, create_where_allowed,
    new_file_belongs_to_its_maker, unlink_needs_the_directory, unlink_a_strangers_file_where_allowed,
    sticky_directory_protects, sticky_directory_lets_the_owner, sticky_directory_protects_from_rename,
    rename_needs_both_directories, rename_where_allowed, mkdir_needs_the_directory, rmdir_needs_the_parent,
    truncate_needs_write, root_reads_everything, root_writes_everything, exec_needs_x, exec_where_allowed,
    access_of_root, access_of_others, link_needs_the_directory, symlink_needs_the_directory,
    search_through_each_directory, mode_change_is_seen_at_once, list_of_a_closed_directory, stat_needs_only_search,
);

fn chmod(path: &Path, mode: u32) -> Result<(), String> {
    ok(
        "chmod",
        fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    )
}

const REFUSED: &[Errno] = &[Errno::ACCESS];
const NOT_THEIRS: &[Errno] = &[Errno::PERM, Errno::ACCESS];

fn others_read_what_they_may(g: &Ground) -> Outcome {
    ok("read", OTHER.does(&["read"], &g.p("file")))
}

fn others_do_not_read_the_rest(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o600)?;
    fails("read", OTHER.does(&["read"], &g.p("file")), REFUSED)
}

fn others_do_not_write(g: &Ground) -> Outcome {
    fails("write", OTHER.does(&["write"], &g.p("file")), REFUSED)
}

fn others_write_what_they_may(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    ok("write", OTHER.does(&["write"], &g.p("file")))?;
    same(
        "first byte",
        ok("read", fs::read(g.p("file")))?.first().copied(),
        Some(b'W'),
    )
}

fn group_reads(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o640)?;
    ok("chown", chown(g.p("file"), None, Some(OTHER.gid)))?;
    ok("read", OTHER.does(&["read"], &g.p("file")))
}

fn second_group_reads(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o640)?;
    ok("chown", chown(g.p("file"), None, Some(4_800)))?;
    fails("without", OTHER.does(&["read"], &g.p("file")), REFUSED)?;
    ok(
        "with",
        Who {
            group: Some(4_800),
            ..OTHER
        }
        .does(&["read"], &g.p("file")),
    )
}

fn owner_is_not_helped_by_the_group(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)))?;
    chmod(&g.p("file"), 0o070)?;
    fails("read", OTHER.does(&["read"], &g.p("file")), REFUSED)
}

fn owner_without_leave(g: &Ground) -> Outcome {
    ok("chown", chown(g.p("file"), Some(OTHER.uid), Some(OTHER.gid)))?;
    chmod(&g.p("file"), 0o400)?;
    ok("read", OTHER.does(&["read"], &g.p("file")))?;
    fails("write", OTHER.does(&["write"], &g.p("file")), REFUSED)?;
    ok("chmod", OTHER.does(&["chmod", "600"], &g.p("file")))?;
    ok("write", OTHER.does(&["write"], &g.p("file")))
}

fn directory_without_search(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o744)?;
    fails("stat", OTHER.does(&["stat"], &g.p("dir/a")), REFUSED)?;
    ok("list", OTHER.does(&["list"], &g.p("dir")))
}

fn directory_without_read(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o711)?;
    fails("list", OTHER.does(&["list"], &g.p("dir")), REFUSED)?;
    ok("read", OTHER.does(&["read"], &g.p("dir/a")))
}

fn directory_without_write(g: &Ground) -> Outcome {
    fails("create", OTHER.does(&["create"], &g.p("dir/new")), REFUSED)
}

fn create_where_allowed(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o777)?;
    ok("create", OTHER.does(&["create"], &g.p("dir/new")))
}

fn new_file_belongs_to_its_maker(g: &Ground) -> Outcome {
    create_where_allowed(g)?;
    let meta = meta(&g.p("dir/new"))?;
    same("owner", (meta.uid(), meta.gid()), (OTHER.uid, OTHER.gid))
}

fn unlink_needs_the_directory(g: &Ground) -> Outcome {
    chmod(&g.p("dir/a"), 0o666)?;
    fails("unlink", OTHER.does(&["unlink"], &g.p("dir/a")), REFUSED)?;
    holds("it is there", g.p("dir/a").exists())
}

fn unlink_a_strangers_file_where_allowed(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o777)?;
    ok("unlink", OTHER.does(&["unlink"], &g.p("dir/a")))
}

fn sticky_directory_protects(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o1777)?;
    fails("unlink", OTHER.does(&["unlink"], &g.p("dir/a")), NOT_THEIRS)?;
    holds("it is there", g.p("dir/a").exists())
}

fn sticky_directory_lets_the_owner(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o1777)?;
    ok("create", OTHER.does(&["create"], &g.p("dir/mine")))?;
    ok("unlink", OTHER.does(&["unlink"], &g.p("dir/mine")))
}

fn sticky_directory_protects_from_rename(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o1777)?;
    fails(
        "rename",
        OTHER.does_two(&["rename"], &g.p("dir/a"), Some(&g.p("dir/b"))),
        NOT_THEIRS,
    )
}

fn rename_needs_both_directories(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o777)?;
    fails(
        "rename",
        OTHER.does_two(&["rename"], &g.p("dir/a"), Some(&g.p("vacant/a"))),
        REFUSED,
    )
}

fn rename_where_allowed(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o777)?;
    chmod(&g.p("vacant"), 0o777)?;
    ok(
        "rename",
        OTHER.does_two(&["rename"], &g.p("dir/a"), Some(&g.p("vacant/a"))),
    )
}

fn mkdir_needs_the_directory(g: &Ground) -> Outcome {
    fails("mkdir", OTHER.does(&["mkdir"], &g.p("dir/new")), REFUSED)?;
    chmod(&g.p("dir"), 0o777)?;
    ok("mkdir", OTHER.does(&["mkdir"], &g.p("dir/new")))
}

fn rmdir_needs_the_parent(g: &Ground) -> Outcome {
    fails("rmdir", OTHER.does(&["rmdir"], &g.p("vacant")), REFUSED)
}

fn truncate_needs_write(g: &Ground) -> Outcome {
    fails("truncate", OTHER.does(&["truncate"], &g.p("file")), REFUSED)?;
    same("size", meta(&g.p("file"))?.len(), 10_000)
}

fn root_reads_everything(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0)?;
    chmod(&g.p("dir"), 0)?;
    same("size", ok("read", fs::read(g.p("file")))?.len(), 10_000)?;
    same("content", ok("read", fs::read(g.p("dir/a")))?, b"a".to_vec())
}

fn root_writes_everything(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o444)?;
    ok("write", fs::write(g.p("file"), b"root"))?;
    chmod(&g.p("dir"), 0o555)?;
    ok("create", fs::write(g.p("dir/new"), b""))
}

fn script(g: &Ground, mode: u32) -> Result<(), String> {
    ok("write", fs::write(g.p("empty"), b"#!/bin/sh\nexit 0\n"))?;
    chmod(&g.p("empty"), mode)
}

fn exec_needs_x(g: &Ground) -> Outcome {
    script(g, 0o644)?;
    fails("exec", OTHER.does(&["exec"], &g.p("empty")), REFUSED)?;
    let by_root = std::process::Command::new(g.p("empty")).status();
    fails("exec by root", by_root, REFUSED)
}

fn exec_where_allowed(g: &Ground) -> Outcome {
    script(g, 0o755)?;
    ok("exec", OTHER.does(&["exec"], &g.p("empty")))
}

fn access_of_root(g: &Ground) -> Outcome {
    use rustix::fs::{Access, access};
    chmod(&g.p("file"), 0)?;
    ok(
        "read and write",
        access(g.p("file"), Access::READ_OK | Access::WRITE_OK),
    )?;
    fails("exec", access(g.p("file"), Access::EXEC_OK), REFUSED)
}

fn access_of_others(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o604)?;
    ok("read", OTHER.does(&["access", "r"], &g.p("file")))?;
    fails("write", OTHER.does(&["access", "w"], &g.p("file")), REFUSED)?;
    fails("exec", OTHER.does(&["access", "x"], &g.p("file")), REFUSED)
}

fn link_needs_the_directory(g: &Ground) -> Outcome {
    fails(
        "link",
        OTHER.does_two(&["link"], &g.p("file"), Some(&g.p("vacant/x"))),
        NOT_THEIRS,
    )
}

fn symlink_needs_the_directory(g: &Ground) -> Outcome {
    fails("symlink", OTHER.does(&["symlink"], &g.p("vacant/x")), REFUSED)
}

fn search_through_each_directory(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o700)?;
    fails("read", OTHER.does(&["read"], &g.p("dir/sub/b")), REFUSED)?;
    chmod(&g.p("dir"), 0o711)?;
    ok("read", OTHER.does(&["read"], &g.p("dir/sub/b")))
}

fn mode_change_is_seen_at_once(g: &Ground) -> Outcome {
    for round in 0..5 {
        chmod(&g.p("file"), 0o600)?;
        fails(
            &format!("closed, round {round}"),
            OTHER.does(&["read"], &g.p("file")),
            REFUSED,
        )?;
        chmod(&g.p("file"), 0o644)?;
        ok("open", OTHER.does(&["read"], &g.p("file")))?;
    }
    Ok(())
}

fn list_of_a_closed_directory(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o700)?;
    fails("list", OTHER.does(&["list"], &g.p("dir")), REFUSED)
}

fn stat_needs_only_search(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0)?;
    ok("stat", OTHER.does(&["stat"], &g.p("file")))
}
