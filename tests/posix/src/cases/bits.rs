//! Setuid, setgid and sticky bits, masks, and what takes them away.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use super::cases;
use crate::act::{OTHER, Who};
use crate::check::{Outcome, fails, ok, same};
use crate::ground::Ground;
use crate::short::{both, chmod, chown, mknod, mode_is, open_to_all, owner_is, put, text, theirs};

cases!("bits":
    setuid_goes_with_an_owners_write, setuid_goes_with_a_truncation, setuid_goes_with_an_append,
    setuid_stays_when_root_writes, setuid_stays_through_rename_and_link, setuid_stays_when_times_are_set,
    setuid_goes_with_the_owners_chgrp, setgid_without_execute_stays, setgid_goes_with_a_write,
    setuid_of_a_directory_stays, setuid_and_owner_in_turn, mkdir_takes_no_setuid, create_takes_all_bits,
    owner_outside_the_group_cannot_lend_it, directory_of_a_foreign_group_loses_setgid, masked_for_each_kind,
    mask_of_nothing, mask_of_all, setgid_directory_gives_its_group, setgid_goes_down,
    setgid_does_not_take_what_moves_in, setgid_file_by_a_stranger, sticky_rename_over, sticky_rmdir,
    sticky_owner_of_the_directory, sticky_does_not_guard_content, sticky_own_files_move_freely,
    script_with_setuid_keeps_its_mode,
);

const NOT_THEIRS: &[Errno] = &[Errno::PERM, Errno::ACCESS];

/// Runs with another umask.
fn masked(mask: u32, deed: impl FnOnce() -> Outcome) -> Outcome {
    let before = rustix::process::umask(Mode::from_raw_mode(mask));
    let outcome = deed();
    rustix::process::umask(before);
    outcome
}

fn make_each_kind(g: &Ground) -> Outcome {
    drop(ok(
        "create",
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o777)
            .open(g.p("n-file")),
    )?);
    ok("mkdir", fs::DirBuilder::new().mode(0o777).create(g.p("n-dir")))?;
    let made = rustix::fs::mknodat(CWD, g.p("n-fifo"), FileType::Fifo, Mode::from_raw_mode(0o777), 0);
    ok("mknod", made)?;
    ok("symlink", symlink("x", g.p("n-link")))
}

/// `dir` gives its group to what is made in it, and everybody may.
fn lending(g: &Ground) -> Outcome {
    chown(&g.p("dir"), 0, 4_100)?;
    chmod(&g.p("dir"), 0o2777)
}

/// A directory where everybody makes and nobody takes, with something of theirs in it.
fn sticky(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o1777)?;
    ok("create", OTHER.does(&["create"], &g.p("dir/mine")))
}

fn setuid_goes_with_an_owners_write(g: &Ground) -> Outcome {
    theirs(g, 0o4755)?;
    ok("write", OTHER.does(&["write"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o755)
}

fn setuid_goes_with_a_truncation(g: &Ground) -> Outcome {
    theirs(g, 0o6755)?;
    ok("truncate", OTHER.does(&["truncate"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o755)
}

fn setuid_goes_with_an_append(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o4777)?;
    ok(
        "append",
        OTHER.be(|| OpenOptions::new().append(true).open(g.p("file"))?.write_all(b"x")),
    )?;
    mode_is(&g.p("file"), 0o777)
}

fn setuid_stays_when_root_writes(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o6755)?;
    ok("write", both(&g.p("file"))?.write_all_at(b"root", 0))?;
    mode_is(&g.p("file"), 0o6755)
}

fn setuid_stays_through_rename_and_link(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o6711)?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/new")))?;
    ok("link", fs::hard_link(g.p("dir/new"), g.p("file")))?;
    mode_is(&g.p("file"), 0o6711)
}

fn setuid_stays_when_times_are_set(g: &Ground) -> Outcome {
    theirs(g, 0o6755)?;
    ok("utimens", OTHER.does(&["utime", "old"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o6755)
}

fn setuid_goes_with_the_owners_chgrp(g: &Ground) -> Outcome {
    theirs(g, 0o6755)?;
    let who = Who {
        group: Some(4_800),
        ..OTHER
    };
    ok("chgrp", who.does(&["chown", "-", "4800"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o755)?;
    owner_is(&g.p("file"), OTHER.uid, 4_800)
}

fn setgid_without_execute_stays(g: &Ground) -> Outcome {
    // Without leave for the group to execute it is no setgid but a mark for mandatory locks (chmod(2)).
    chmod(&g.p("file"), 0o2644)?;
    chown(&g.p("file"), 17, 18)?;
    mode_is(&g.p("file"), 0o2644)
}

fn setgid_goes_with_a_write(g: &Ground) -> Outcome {
    chmod(&g.p("file"), 0o2777)?;
    ok("write", OTHER.does(&["write"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o777)
}

fn setuid_of_a_directory_stays(g: &Ground) -> Outcome {
    chmod(&g.p("dir"), 0o7777)?;
    chown(&g.p("dir"), 5, 6)?;
    ok("create inside", OTHER.does(&["create"], &g.p("dir/new")))?;
    mode_is(&g.p("dir"), 0o7777)
}

fn setuid_and_owner_in_turn(g: &Ground) -> Outcome {
    // As package managers do: owner, mode, and the file is where it will be.
    chown(&g.p("file"), 5, 6)?;
    chmod(&g.p("file"), 0o4755)?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/su")))?;
    mode_is(&g.p("dir/su"), 0o4755)?;
    chown(&g.p("dir/su"), 0, 0)?;
    mode_is(&g.p("dir/su"), 0o755)
}

fn mkdir_takes_no_setuid(g: &Ground) -> Outcome {
    // mkdir(2): of the upper three bits only the sticky one.
    ok("mkdir", fs::DirBuilder::new().mode(0o7755).create(g.p("new")))?;
    mode_is(&g.p("new"), 0o1755)
}

fn create_takes_all_bits(g: &Ground) -> Outcome {
    for mode in [0o4755, 0o2755, 0o1644, 0o7755, 0] {
        let path = g.p(&format!("new{mode:o}"));
        drop(ok(
            "create",
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path),
        )?);
        mode_is(&path, mode)?;
    }
    Ok(())
}

fn owner_outside_the_group_cannot_lend_it(g: &Ground) -> Outcome {
    chown(&g.p("file"), OTHER.uid, 4_900)?;
    ok("chmod", OTHER.does(&["chmod", "2755"], &g.p("file")))?;
    mode_is(&g.p("file"), 0o755)
}

fn directory_of_a_foreign_group_loses_setgid(g: &Ground) -> Outcome {
    chown(&g.p("dir"), OTHER.uid, 4_900)?;
    ok("chmod", OTHER.does(&["chmod", "2755"], &g.p("dir")))?;
    mode_is(&g.p("dir"), 0o755)
}

fn masked_for_each_kind(g: &Ground) -> Outcome {
    masked(0o027, || make_each_kind(g))?;
    for name in ["n-file", "n-dir", "n-fifo"] {
        mode_is(&g.p(name), 0o750)?;
    }
    mode_is(&g.p("n-link"), 0o777)
}

fn mask_of_nothing(g: &Ground) -> Outcome {
    masked(0, || make_each_kind(g))?;
    for name in ["n-file", "n-dir", "n-fifo"] {
        mode_is(&g.p(name), 0o777)?;
    }
    Ok(())
}

fn mask_of_all(g: &Ground) -> Outcome {
    masked(0o777, || make_each_kind(g))?;
    for name in ["n-file", "n-dir", "n-fifo"] {
        mode_is(&g.p(name), 0)?;
    }
    Ok(())
}

fn setgid_directory_gives_its_group(g: &Ground) -> Outcome {
    lending(g)?;
    ok("create", OTHER.does(&["create"], &g.p("dir/file")))?;
    ok("symlink", OTHER.does(&["symlink"], &g.p("dir/link")))?;
    ok("mkdir", OTHER.does(&["mkdir"], &g.p("dir/new")))?;
    ok("mknod", OTHER.be(|| mknod(&g.p("dir/fifo"), FileType::Fifo, 0)))?;
    for name in ["dir/file", "dir/link", "dir/new", "dir/fifo"] {
        owner_is(&g.p(name), OTHER.uid, 4_100)?;
    }
    Ok(())
}

fn setgid_goes_down(g: &Ground) -> Outcome {
    lending(g)?;
    ok("mkdir", fs::create_dir_all(g.p("dir/one/two/three")))?;
    for name in ["dir/one", "dir/one/two", "dir/one/two/three"] {
        mode_is(&g.p(name), 0o2755)?;
        owner_is(&g.p(name), 0, 4_100)?;
    }
    Ok(())
}

fn setgid_does_not_take_what_moves_in(g: &Ground) -> Outcome {
    lending(g)?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/moved")))?;
    ok("link", fs::hard_link(g.p("empty"), g.p("dir/linked")))?;
    ok("rename", fs::rename(g.p("vacant"), g.p("dir/vacant")))?;
    owner_is(&g.p("dir/moved"), 0, 0)?;
    owner_is(&g.p("dir/linked"), 0, 0)?;
    owner_is(&g.p("dir/vacant"), 0, 0)?;
    mode_is(&g.p("dir/vacant"), 0o755)
}

fn setgid_file_by_a_stranger(g: &Ground) -> Outcome {
    // Else anybody could make a program that runs with the directory's group.
    lending(g)?;
    let path = g.p("dir/program");
    ok(
        "create",
        OTHER.be(|| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o2755)
                .open(&path)
                .map(drop)
        }),
    )?;
    mode_is(&path, 0o755)?;
    owner_is(&path, OTHER.uid, 4_100)
}

fn sticky_rename_over(g: &Ground) -> Outcome {
    sticky(g)?;
    let over = OTHER.does_two(&["rename"], &g.p("dir/mine"), Some(&g.p("dir/a")));
    fails("over another's", over, NOT_THEIRS)?;
    same("content", text(&g.p("dir/a"))?, b"a".to_vec())
}

fn sticky_rmdir(g: &Ground) -> Outcome {
    sticky(g)?;
    ok("mkdir", fs::create_dir(g.p("dir/roots")))?;
    fails("rmdir", OTHER.does(&["rmdir"], &g.p("dir/roots")), NOT_THEIRS)?;
    ok("mkdir", OTHER.does(&["mkdir"], &g.p("dir/theirs")))?;
    ok("rmdir", OTHER.does(&["rmdir"], &g.p("dir/theirs")))
}

fn sticky_owner_of_the_directory(g: &Ground) -> Outcome {
    sticky(g)?;
    chown(&g.p("dir"), OTHER.uid, OTHER.gid)?;
    ok("unlink", OTHER.does(&["unlink"], &g.p("dir/a")))
}

fn sticky_does_not_guard_content(g: &Ground) -> Outcome {
    sticky(g)?;
    chmod(&g.p("dir/a"), 0o666)?;
    ok("write", OTHER.does(&["write"], &g.p("dir/a")))?;
    ok("create beside it", OTHER.does(&["create"], &g.p("dir/b")))
}

fn sticky_own_files_move_freely(g: &Ground) -> Outcome {
    sticky(g)?;
    open_to_all(&g.p("vacant"))?;
    ok(
        "rename",
        OTHER.does_two(&["rename"], &g.p("dir/mine"), Some(&g.p("vacant/mine"))),
    )?;
    ok(
        "and back",
        OTHER.does_two(&["rename"], &g.p("vacant/mine"), Some(&g.p("dir/mine"))),
    )
}

fn script_with_setuid_keeps_its_mode(g: &Ground) -> Outcome {
    put(&g.p("empty"), b"#!/bin/sh\nexit 0\n")?;
    chmod(&g.p("empty"), 0o6755)?;
    ok("exec", OTHER.does(&["exec"], &g.p("empty")))?;
    mode_is(&g.p("empty"), 0o6755)
}
