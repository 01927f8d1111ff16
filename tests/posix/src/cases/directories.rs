//! Making and removing directories.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};

use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, bits, meta, named};

cases!("directories":
    makes_one, mode_less_the_umask, over_a_directory, over_a_file, over_a_dangling_link, missing_parent, below_a_file,
    counts_the_parents_links, new_one_has_two_links, inherits_setgid, name_of_255_bytes, name_of_256_bytes,
    changes_the_parents_time, forty_deep, with_a_slash,
    removes_an_empty_one, not_a_full_one, not_a_file, not_a_missing_one, not_itself_by_dot, not_through_a_link,
    removes_once_emptied, made_anew_it_is_empty, uncounts_the_parents_links, removing_changes_the_parents_time,
    removes_a_whole_tree, tree_made_anew_is_empty, file_where_a_directory_was, removed_while_open,
    emptied_of_what_was_new, whiteouts_do_not_keep_it,
);

fn makes_one(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("new")))?;
    holds("it is a directory", meta(&g.p("new"))?.is_dir())?;
    same("names", names(&g.p("new"))?.len(), 0)
}

fn mode_less_the_umask(g: &Ground) -> Outcome {
    for (asked, given) in [(0o777, 0o755), (0o700, 0o700), (0o1777, 0o1755)] {
        let path = g.p(&format!("mode{asked:o}"));
        ok("mkdir", fs::DirBuilder::new().mode(asked).create(&path))?;
        same("mode", bits(&path)?, given)?;
    }
    Ok(())
}

fn over_a_directory(g: &Ground) -> Outcome {
    fails("mkdir", fs::create_dir(g.p("dir")), &[Errno::EXIST])?;
    same("content", names(&g.p("dir"))?.len(), 2)
}

fn over_a_file(g: &Ground) -> Outcome {
    fails("mkdir", fs::create_dir(g.p("file")), &[Errno::EXIST])
}

fn over_a_dangling_link(g: &Ground) -> Outcome {
    fails("mkdir", fs::create_dir(g.p("dangling")), &[Errno::EXIST])
}

fn missing_parent(g: &Ground) -> Outcome {
    fails("mkdir", fs::create_dir(g.p("absent/new")), &[Errno::NOENT])
}

fn below_a_file(g: &Ground) -> Outcome {
    fails("mkdir", fs::create_dir(g.p("file/new")), &[Errno::NOTDIR])
}

fn counts_the_parents_links(g: &Ground) -> Outcome {
    let before = meta(&g.p("dir"))?.nlink();
    ok("mkdir", fs::create_dir(g.p("dir/new")))?;
    same("links", meta(&g.p("dir"))?.nlink(), before + 1)
}

fn new_one_has_two_links(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("new")))?;
    same("links", meta(&g.p("new"))?.nlink(), 2)?;
    same("links of an old one", meta(&g.p("vacant"))?.nlink(), 2)
}

fn inherits_setgid(g: &Ground) -> Outcome {
    ok("chown", std::os::unix::fs::chown(g.p("dir"), None, Some(4_100)))?;
    ok(
        "chmod",
        fs::set_permissions(g.p("dir"), fs::Permissions::from_mode(0o2775)),
    )?;
    ok("mkdir", fs::create_dir(g.p("dir/new")))?;
    ok("create", fs::write(g.p("dir/file"), b""))?;
    same("group of the directory", meta(&g.p("dir/new"))?.gid(), 4_100)?;
    same("group of the file", meta(&g.p("dir/file"))?.gid(), 4_100)?;
    same("the bit goes on", bits(&g.p("dir/new"))? & 0o2000, 0o2000)
}

fn name_of_255_bytes(g: &Ground) -> Outcome {
    let path = named(g.root(), &[b'd'; 255]);
    ok("mkdir", fs::create_dir(&path))?;
    ok("create inside", fs::write(path.join("x"), b"x"))
}

fn name_of_256_bytes(g: &Ground) -> Outcome {
    fails(
        "mkdir",
        fs::create_dir(named(g.root(), &[b'd'; 256])),
        &[Errno::NAMETOOLONG],
    )
}

fn changes_the_parents_time(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("dir/new")))?;
    holds("modified", meta(&g.p("dir"))?.mtime() > OLD)
}

fn forty_deep(g: &Ground) -> Outcome {
    let path = g.p(&format!("vacant/{}", "d/".repeat(40)));
    ok("mkdir", fs::create_dir_all(&path))?;
    ok("create", fs::write(path.join("leaf"), b"leaf"))?;
    same(
        "content",
        ok("read", fs::read(path.join("leaf")))?,
        b"leaf".to_vec(),
    )
}

fn with_a_slash(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("new/")))?;
    holds("it is a directory", meta(&g.p("new"))?.is_dir())
}

fn removes_an_empty_one(g: &Ground) -> Outcome {
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    fails("stat", fs::symlink_metadata(g.p("vacant")), &[Errno::NOENT])
}

fn not_a_full_one(g: &Ground) -> Outcome {
    fails(
        "rmdir",
        fs::remove_dir(g.p("dir")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )?;
    same("content", ok("read", fs::read(g.p("dir/a")))?, b"a".to_vec())
}

fn not_a_file(g: &Ground) -> Outcome {
    fails("rmdir", fs::remove_dir(g.p("file")), &[Errno::NOTDIR])
}

fn not_a_missing_one(g: &Ground) -> Outcome {
    fails("rmdir", fs::remove_dir(g.p("absent")), &[Errno::NOENT])
}

fn not_itself_by_dot(g: &Ground) -> Outcome {
    fails("rmdir", fs::remove_dir(g.p("vacant/.")), &[Errno::INVAL])
}

fn not_through_a_link(g: &Ground) -> Outcome {
    ok("symlink", symlink("vacant", g.p("way")))?;
    fails("rmdir", fs::remove_dir(g.p("way")), &[Errno::NOTDIR])
}

fn removes_once_emptied(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/sub/b")))?;
    ok("rmdir", fs::remove_dir(g.p("dir/sub")))?;
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    ok("rmdir", fs::remove_dir(g.p("dir")))?;
    fails("stat", fs::symlink_metadata(g.p("dir")), &[Errno::NOENT])
}

fn made_anew_it_is_empty(g: &Ground) -> Outcome {
    removes_once_emptied(g)?;
    ok("mkdir", fs::create_dir(g.p("dir")))?;
    same("names", names(&g.p("dir"))?.len(), 0)?;
    fails(
        "what was in it",
        fs::symlink_metadata(g.p("dir/a")),
        &[Errno::NOENT],
    )
}

fn uncounts_the_parents_links(g: &Ground) -> Outcome {
    let before = meta(&g.p("dir"))?.nlink();
    ok("unlink", fs::remove_file(g.p("dir/sub/b")))?;
    ok("rmdir", fs::remove_dir(g.p("dir/sub")))?;
    same("links", meta(&g.p("dir"))?.nlink(), before - 1)
}

fn removing_changes_the_parents_time(g: &Ground) -> Outcome {
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    holds("modified", meta(g.root())?.mtime() > OLD)
}

fn removes_a_whole_tree(g: &Ground) -> Outcome {
    ok("remove", fs::remove_dir_all(g.p("dir")))?;
    fails("stat", fs::symlink_metadata(g.p("dir")), &[Errno::NOENT])
}

fn tree_made_anew_is_empty(g: &Ground) -> Outcome {
    ok("remove", fs::remove_dir_all(g.p("dir")))?;
    ok("mkdir", fs::create_dir_all(g.p("dir/sub")))?;
    same("names", names(&g.p("dir"))?, vec!["sub".into()])?;
    same("names below", names(&g.p("dir/sub"))?.len(), 0)
}

fn file_where_a_directory_was(g: &Ground) -> Outcome {
    ok("remove", fs::remove_dir_all(g.p("dir")))?;
    ok("create", fs::write(g.p("dir"), b"now a file"))?;
    same(
        "content",
        ok("read", fs::read(g.p("dir")))?,
        b"now a file".to_vec(),
    )?;
    fails("below it", fs::symlink_metadata(g.p("dir/a")), &[Errno::NOTDIR])
}

fn removed_while_open(g: &Ground) -> Outcome {
    let open = ok("open", fs::File::open(g.p("vacant")))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    drop(open);
    fails("stat", fs::symlink_metadata(g.p("vacant")), &[Errno::NOENT])
}

fn emptied_of_what_was_new(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("vacant/new"), b"n"))?;
    fails(
        "full",
        fs::remove_dir(g.p("vacant")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )?;
    ok("unlink", fs::remove_file(g.p("vacant/new")))?;
    ok("empty", fs::remove_dir(g.p("vacant")))
}

fn whiteouts_do_not_keep_it(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/sub/b")))?;
    same("names", names(&g.p("dir/sub"))?.len(), 0)?;
    ok("rmdir", fs::remove_dir(g.p("dir/sub")))
}
