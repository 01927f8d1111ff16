//! What each call says of a path that leads nowhere: through what is missing, through a file, round in a circle, by a name
//! too long, and through a directory that is closed to the caller.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::act::OTHER;
use crate::check::{Outcome, fails, ok, same};
use crate::ground::Ground;
use crate::short::{chmod, mknod, utimes};

type Call = fn(&Ground, &Path) -> io::Result<()>;

/// Five cases for each call, named after call and obstacle.
macro_rules! calls {
    ($($missing:ident $file:ident $circle:ident $long:ident $closed:ident: $call:expr;)+) => {
        pub(super) const CASES: &[super::Case] = &[
            $(
                super::Case { group: "paths", name: stringify!($missing), body: $missing },
                super::Case { group: "paths", name: stringify!($file), body: $file },
                super::Case { group: "paths", name: stringify!($circle), body: $circle },
                super::Case { group: "paths", name: stringify!($long), body: $long },
                super::Case { group: "paths", name: stringify!($closed), body: $closed },
            )+
        ];
        $(
            fn $missing(g: &Ground) -> Outcome { through_what_is_missing(g, $call) }
            fn $file(g: &Ground) -> Outcome { through_a_file(g, $call) }
            fn $circle(g: &Ground) -> Outcome { through_a_circle(g, $call) }
            fn $long(g: &Ground) -> Outcome { by_a_long_name(g, $call) }
            fn $closed(g: &Ground) -> Outcome { through_a_closed_directory(g, $call) }
        )+
    };
}

calls! {
    open_missing open_below_a_file open_in_a_circle open_too_long open_closed:
        |_, path| File::open(path).map(drop);
    create_missing create_below_a_file create_in_a_circle create_too_long create_closed:
        |_, path| OpenOptions::new().write(true).create_new(true).open(path).map(drop);
    stat_missing stat_below_a_file stat_in_a_circle stat_too_long stat_closed:
        |_, path| fs::symlink_metadata(path).map(drop);
    access_missing access_below_a_file access_in_a_circle access_too_long access_closed:
        |_, path| Ok(rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty())?);
    opendir_missing opendir_below_a_file opendir_in_a_circle opendir_too_long opendir_closed:
        |_, path| fs::read_dir(path).map(drop);
    readlink_missing readlink_below_a_file readlink_in_a_circle readlink_too_long readlink_closed:
        |_, path| fs::read_link(path).map(drop);
    truncate_missing truncate_below_a_file truncate_in_a_circle truncate_too_long truncate_closed:
        |_, path| OpenOptions::new().write(true).open(path)?.set_len(1);
    chmod_missing chmod_below_a_file chmod_in_a_circle chmod_too_long chmod_closed:
        |_, path| fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    chown_missing chown_below_a_file chown_in_a_circle chown_too_long chown_closed:
        |_, path| lchown(path, Some(OTHER.uid), Some(OTHER.gid));
    utimens_missing utimens_below_a_file utimens_in_a_circle utimens_too_long utimens_closed:
        |_, path| utimes(path, (1, 0), (2, 0));
    mkdir_missing mkdir_below_a_file mkdir_in_a_circle mkdir_too_long mkdir_closed:
        |_, path| fs::create_dir(path);
    rmdir_missing rmdir_below_a_file rmdir_in_a_circle rmdir_too_long rmdir_closed:
        |_, path| fs::remove_dir(path);
    unlink_missing unlink_below_a_file unlink_in_a_circle unlink_too_long unlink_closed:
        |_, path| fs::remove_file(path);
    symlink_missing symlink_below_a_file symlink_in_a_circle symlink_too_long symlink_closed:
        |_, path| symlink("target", path);
    mknod_missing mknod_below_a_file mknod_in_a_circle mknod_too_long mknod_closed:
        |_, path| mknod(path, FileType::Fifo, 0);
    link_from_missing link_from_below_a_file link_from_a_circle link_from_too_long link_from_closed:
        |g, path| fs::hard_link(path, g.p("vacant/new"));
    link_to_missing link_to_below_a_file link_to_a_circle link_to_too_long link_to_closed:
        |g, path| fs::hard_link(g.p("empty"), path);
    rename_from_missing rename_from_below_a_file rename_from_a_circle rename_from_too_long rename_from_closed:
        |g, path| fs::rename(path, g.p("vacant/new"));
    rename_to_missing rename_to_below_a_file rename_to_a_circle rename_to_too_long rename_to_closed:
        |g, path| fs::rename(g.p("empty"), path);
}

/// What stands in the ground, so that a call that failed has changed nothing.
fn names(g: &Ground) -> Result<Vec<std::ffi::OsString>, String> {
    let mut all = super::listing::names(g.root())?;
    all.extend(super::listing::names(&g.p("dir"))?);
    Ok(all)
}

fn refused(g: &Ground, call: Call, path: &Path, with: Errno) -> Outcome {
    let before = names(g)?;
    fails("the call", call(g, path), &[with])?;
    same("names afterwards", names(g)?, before)
}

fn through_what_is_missing(g: &Ground, call: Call) -> Outcome {
    refused(g, call, &g.p("absent/x"), Errno::NOENT)?;
    refused(g, call, &g.p("dangling/x"), Errno::NOENT)
}

fn through_a_file(g: &Ground, call: Call) -> Outcome {
    refused(g, call, &g.p("file/x"), Errno::NOTDIR)?;
    refused(g, call, &g.p("fifo/x"), Errno::NOTDIR)?;
    refused(g, call, &g.p("link/x"), Errno::NOTDIR)
}

fn through_a_circle(g: &Ground, call: Call) -> Outcome {
    ok("symlink", symlink("second", g.p("first")))?;
    ok("symlink", symlink("first", g.p("second")))?;
    refused(g, call, &g.p("first/x"), Errno::LOOP)
}

fn by_a_long_name(g: &Ground, call: Call) -> Outcome {
    refused(g, call, &g.p(&"n".repeat(256)), Errno::NAMETOOLONG)?;
    refused(
        g,
        call,
        &g.p(&format!("{}/x", "n".repeat(256))),
        Errno::NAMETOOLONG,
    )?;
    refused(g, call, &g.p(&"./".repeat(2_100)), Errno::NAMETOOLONG)
}

fn through_a_closed_directory(g: &Ground, call: Call) -> Outcome {
    // Everything but leave to search it.
    chmod(&g.p("dir"), 0o666)?;
    for there in ["dir/a", "dir/absent"] {
        let path = g.p(there);
        fails(there, OTHER.be(|| call(g, &path)), &[Errno::ACCESS])?;
    }
    chmod(&g.p("dir"), 0o755)?;
    same("names afterwards", super::listing::names(&g.p("dir"))?.len(), 2)
}
