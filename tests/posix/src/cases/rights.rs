//! Who may do what, the finer points: setuid and setgid, groups, sticky directories, masks.

use std::fs::{self};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown as follow};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, makedev};
use rustix::io::Errno;
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::cases;
use crate::act::{OTHER, Who};
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta};
use crate::short::{both, chmod, chown, mknod, mode_is, mtime, open_to_all, owner_is, put, theirs};

cases!("rights":
    new_file_has_its_makers_group, sixteen_groups_count, seventeenth_group_counts, group_is_asked_before_others,
    owner_is_asked_before_group, root_is_refused_execution_only, directory_search_only, directory_read_only,
    write_without_search, directory_that_is_not_theirs_stays, own_read_only_file_is_removed,
    strangers_closed_file_is_removed, group_member_cannot_chmod, group_member_truncates, writer_cannot_chown,
    chown_follows_a_link, lchown_does_not, chown_to_nobody_changes_nothing, chown_of_every_kind,
    owner_gives_to_each_own_group, owner_may_name_themselves, device_by_another_is_refused, fchmod_and_fchown,
    access_of_directories, access_by_each_class, program_by_its_group, directory_is_no_program,
    copy_up_keeps_the_owner, group_write_keeps_the_owner, rename_keeps_everything, link_to_a_file_of_ones_own,
    closed_parent_of_an_open_one, stat_of_what_is_closed, symlink_belongs_to_its_maker,
);

const REFUSED: &[Errno] = &[Errno::ACCESS];

fn new_file_has_its_makers_group(g: &Ground) -> Outcome {
    chown(&g.p("dir"), 0, 4_100)?;
    open_to_all(&g.p("dir"))?;
    ok("create", OTHER.does(&["create"], &g.p("dir/new")))?;
    owner_is(&g.p("dir/new"), OTHER.uid, OTHER.gid)
}

/// Reads `file`, which only the group 5,000 + `needed` may, with `count` groups from 5,000 on.
fn with_groups(g: &Ground, count: u32, needed: u32) -> Result<std::io::Result<()>, String> {
    chown(&g.p("file"), 0, 5_000 + needed)?;
    chmod(&g.p("file"), 0o040)?;
    let path = g.p("file");
    let joined = std::thread::spawn(move || {
        let groups: Vec<Gid> = (5_000..5_000 + count).map(Gid::from_raw).collect();
        set_thread_groups(&groups)?;
        set_thread_gid(Gid::from_raw(OTHER.gid))?;
        set_thread_uid(rustix::fs::Uid::from_raw(OTHER.uid))?;
        fs::read(path).map(drop)
    });
    joined.join().map_err(|_| "the thread panicked".to_owned())
}

fn sixteen_groups_count(g: &Ground) -> Outcome {
    ok("by the last", with_groups(g, 16, 15)?)?;
    ok("by the first", with_groups(g, 16, 0)?)?;
    fails("by none", with_groups(g, 16, 16)?, REFUSED)
}

fn seventeenth_group_counts(g: &Ground) -> Outcome {
    ok("by the seventeenth", with_groups(g, 17, 16)?)
}

fn group_is_asked_before_others(g: &Ground) -> Outcome {
    chown(&g.p("file"), 0, OTHER.gid)?;
    chmod(&g.p("file"), 0o604)?;
    fails("read", OTHER.does(&["read"], &g.p("file")), REFUSED)
}

fn owner_is_asked_before_group(g: &Ground) -> Outcome {
    theirs(g, 0o066)?;
    fails("write", OTHER.does(&["write"], &g.p("file")), REFUSED)
}

fn root_is_refused_execution_only(g: &Ground) -> Outcome {
    put(&g.p("empty"), b"#!/bin/sh\nexit 0\n")?;
    chmod(&g.p("empty"), 0o600)?;
    fails("without any x", Command::new(g.p("empty")).status(), REFUSED)?;
    chmod(&g.p("empty"), 0o001)?;
    ok("with one x", Command::new(g.p("empty")).status()).map(drop)
}

fn directory_search_only(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o711)?;
    ok("by name", OTHER.does(&["stat"], &g.p("dir/sub/b")))?;
    fails(
        "absent",
        OTHER.does(&["stat"], &g.p("dir/absent")),
        &[Errno::NOENT],
    )?;
    fails("list", OTHER.does(&["list"], &g.p("dir")), REFUSED)
}

fn directory_read_only(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o744)?;
    ok("list", OTHER.does(&["list"], &g.p("dir")))?;
    for deed in ["stat", "read", "unlink"] {
        fails(deed, OTHER.does(&[deed], &g.p("dir/a")), REFUSED)?;
    }
    Ok(())
}

fn write_without_search(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o666)?;
    fails("create", OTHER.does(&["create"], &g.p("dir/new")), REFUSED)?;
    fails("unlink", OTHER.does(&["unlink"], &g.p("dir/a")), REFUSED)
}

fn directory_that_is_not_theirs_stays(g: &Ground) -> Outcome {
    // Its `..` would change, which is a write to the directory itself.
    open_to_all(&g.p("dir"))?;
    open_to_all(&g.p("vacant"))?;
    let away = OTHER.does_two(&["rename"], &g.p("dir/sub"), Some(&g.p("vacant/sub")));
    fails("to another directory", away, REFUSED)?;
    ok(
        "in place",
        OTHER.does_two(&["rename"], &g.p("dir/sub"), Some(&g.p("dir/bus"))),
    )
}

fn own_read_only_file_is_removed(g: &Ground) -> Outcome {
    open_to_all(&g.p("dir"))?;
    ok("create", OTHER.does(&["create"], &g.p("dir/mine")))?;
    chmod(&g.p("dir/mine"), 0)?;
    ok("unlink", OTHER.does(&["unlink"], &g.p("dir/mine")))
}

fn strangers_closed_file_is_removed(g: &Ground) -> Outcome {
    chmod(&g.p("dir/a"), 0)?;
    chown(&g.p("dir"), OTHER.uid, OTHER.gid)?;
    ok("unlink", OTHER.does(&["unlink"], &g.p("dir/a")))
}

fn group_member_cannot_chmod(g: &Ground) -> Outcome {
    chown(&g.p("file"), 0, OTHER.gid)?;
    chmod(&g.p("file"), 0o660)?;
    fails(
        "chmod",
        OTHER.does(&["chmod", "777"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn group_member_truncates(g: &Ground) -> Outcome {
    chown(&g.p("file"), 0, OTHER.gid)?;
    chmod(&g.p("file"), 0o620)?;
    ok("truncate", OTHER.does(&["truncate"], &g.p("file")))?;
    fails("read", OTHER.does(&["read"], &g.p("file")), REFUSED)?;
    same("size", meta(&g.p("file"))?.len(), 1)
}

fn writer_cannot_chown(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    let uid = OTHER.uid.to_string();
    fails(
        "take it",
        OTHER.does(&["chown", &uid, "-"], &g.p("file")),
        &[Errno::PERM],
    )?;
    fails(
        "its group",
        OTHER.does(&["chown", "-", &uid], &g.p("file")),
        &[Errno::PERM],
    )?;
    owner_is(&g.p("file"), 0, 0)
}

fn chown_follows_a_link(g: &Ground) -> Outcome {
    ok("chown", follow(g.p("link"), Some(21), Some(22)))?;
    owner_is(&g.p("file"), 21, 22)?;
    owner_is(&g.p("link"), 0, 0)
}

fn lchown_does_not(g: &Ground) -> Outcome {
    chown(&g.p("link"), 21, 22)?;
    chown(&g.p("dangling"), 23, 24)?;
    owner_is(&g.p("file"), 0, 0)?;
    owner_is(&g.p("link"), 21, 22)?;
    owner_is(&g.p("dangling"), 23, 24)
}

fn chown_to_nobody_changes_nothing(g: &Ground) -> Outcome {
    chown(&g.p("file"), 21, 22)?;
    ok("chown", follow(g.p("file"), None, None))?;
    owner_is(&g.p("file"), 21, 22)?;
    same("modified", mtime(&g.p("file"))?.0, OLD)
}

fn chown_of_every_kind(g: &Ground) -> Outcome {
    ok("mknod", mknod(&g.p("socket"), FileType::Socket, 0))?;
    ok(
        "mknod",
        mknod(&g.p("device"), FileType::BlockDevice, makedev(7, 7)),
    )?;
    for name in ["file", "dir", "link", "fifo", "socket", "device", "hard1"] {
        chown(&g.p(name), 4_294_967_294, 65_534)?;
        owner_is(&g.p(name), 4_294_967_294, 65_534)?;
    }
    owner_is(&g.p("hard2"), 4_294_967_294, 65_534)
}

fn owner_gives_to_each_own_group(g: &Ground) -> Outcome {
    theirs(g, 0o644)?;
    let who = Who {
        group: Some(4_800),
        ..OTHER
    };
    ok(
        "a group of theirs",
        who.does(&["chown", "-", "4800"], &g.p("file")),
    )?;
    ok(
        "the first again",
        who.does(&["chown", "-", &OTHER.gid.to_string()], &g.p("file")),
    )?;
    fails(
        "a foreign one",
        who.does(&["chown", "-", "4801"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn owner_may_name_themselves(g: &Ground) -> Outcome {
    theirs(g, 0o644)?;
    ok(
        "chown",
        OTHER.does(&["chown", &OTHER.uid.to_string(), "-"], &g.p("file")),
    )?;
    fails(
        "to root",
        OTHER.does(&["chown", "0", "-"], &g.p("file")),
        &[Errno::PERM],
    )
}

fn device_by_another_is_refused(g: &Ground) -> Outcome {
    open_to_all(&g.p("dir"))?;
    let made = OTHER.be(|| mknod(&g.p("dir/device"), FileType::CharacterDevice, makedev(1, 3)));
    fails("a device", made, &[Errno::PERM])?;
    ok("a pipe", OTHER.be(|| mknod(&g.p("dir/fifo"), FileType::Fifo, 0)))
}

fn fchmod_and_fchown(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    ok("fchown", std::os::unix::fs::fchown(&open, Some(31), Some(32)))?;
    ok("fchmod", open.set_permissions(fs::Permissions::from_mode(0o4750)))?;
    mode_is(&g.p("file"), 0o4750)?;
    owner_is(&g.p("file"), 31, 32)
}

fn may(who: Who, path: &Path, access: Access) -> bool {
    who.be(|| Ok(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)?))
        .is_ok()
}

fn access_of_directories(g: &Ground) -> Outcome {
    let asked = [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK];
    for (mode, expected) in [
        (0o755, [true, false, true]),
        (0o711, [false, false, true]),
        (0o776, [true, true, false]),
    ] {
        chmod(&g.p("dir"), mode)?;
        let found = asked.map(|access| may(OTHER, &g.p("dir"), access));
        same(&format!("{mode:o}"), found, expected)?;
    }
    Ok(())
}

fn access_by_each_class(g: &Ground) -> Outcome {
    let asked = [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK];
    let owner = Who {
        uid: 61,
        gid: 71,
        group: None,
    };
    let member = Who {
        uid: 62,
        gid: 72,
        group: Some(70),
    };
    chown(&g.p("file"), 61, 70)?;
    chmod(&g.p("file"), 0o421)?;
    for (who, expected) in [
        (owner, [true, false, false]),
        (member, [false, true, false]),
        (OTHER, [false, false, true]),
    ] {
        same(
            "read, write, execute",
            asked.map(|access| may(who, &g.p("file"), access)),
            expected,
        )?;
    }
    Ok(())
}

fn program_by_its_group(g: &Ground) -> Outcome {
    put(&g.p("empty"), b"#!/bin/sh\nexit 0\n")?;
    chown(&g.p("empty"), 0, OTHER.gid)?;
    chmod(&g.p("empty"), 0o750)?;
    ok("a member", OTHER.does(&["exec"], &g.p("empty")))?;
    let stranger = Who {
        uid: 4_002,
        gid: 4_002,
        group: None,
    };
    fails("a stranger", stranger.does(&["exec"], &g.p("empty")), REFUSED)
}

fn directory_is_no_program(g: &Ground) -> Outcome {
    fails("exec", Command::new(g.p("dir")).status(), REFUSED)
}

fn copy_up_keeps_the_owner(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o666)?;
    chmod(&g.p("dir"), 0o777)?;
    ok("write", OTHER.does(&["write"], &g.p("file")))?;
    ok("create", OTHER.does(&["create"], &g.p("dir/new")))?;
    owner_is(&g.p("file"), 0, 0)?;
    owner_is(&g.p("dir"), 0, 0)
}

fn group_write_keeps_the_owner(g: &Ground) -> Outcome {
    chown(&g.p("file"), 81, OTHER.gid)?;
    chmod(&g.p("file"), 0o664)?;
    ok("write", OTHER.does(&["write"], &g.p("file")))?;
    owner_is(&g.p("file"), 81, OTHER.gid)?;
    mode_is(&g.p("file"), 0o664)
}

fn rename_keeps_everything(g: &Ground) -> Outcome {
    theirs(g, 0o6711)?;
    open_to_all(&g.p("dir"))?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/new")))?;
    owner_is(&g.p("dir/new"), OTHER.uid, OTHER.gid)?;
    mode_is(&g.p("dir/new"), 0o6711)
}

fn link_to_a_file_of_ones_own(g: &Ground) -> Outcome {
    theirs(g, 0o600)?;
    open_to_all(&g.p("dir"))?;
    ok(
        "link",
        OTHER.does_two(&["link"], &g.p("file"), Some(&g.p("dir/second"))),
    )?;
    same("links", meta(&g.p("file"))?.nlink(), 2)?;
    owner_is(&g.p("dir/second"), OTHER.uid, OTHER.gid)
}

fn closed_parent_of_an_open_one(g: &Ground) -> Outcome {
    open_to_all(&g.p("dir/sub"))?;
    chmod(&g.p("dir"), 0o700)?;
    for deed in ["list", "stat"] {
        fails(deed, OTHER.does(&[deed], &g.p("dir/sub")), REFUSED)?;
    }
    fails("create", OTHER.does(&["create"], &g.p("dir/sub/new")), REFUSED)
}

fn stat_of_what_is_closed(g: &Ground) -> Outcome {
    chmod(&g.p("dir/a"), 0)?;
    chmod(&g.p("dir/sub"), 0)?;
    ok("a file", OTHER.does(&["stat"], &g.p("dir/a")))?;
    ok("a directory", OTHER.does(&["stat"], &g.p("dir/sub")))?;
    fails("what is in it", OTHER.does(&["stat"], &g.p("dir/sub/b")), REFUSED)
}

fn symlink_belongs_to_its_maker(g: &Ground) -> Outcome {
    open_to_all(&g.p("dir"))?;
    ok("symlink", OTHER.does(&["symlink"], &g.p("dir/new")))?;
    owner_is(&g.p("dir/new"), OTHER.uid, OTHER.gid)?;
    mode_is(&g.p("dir/new"), 0o777)?;
    holds("made just now", mtime(&g.p("dir/new"))?.0 > OLD)
}
