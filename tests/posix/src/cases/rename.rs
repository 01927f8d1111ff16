//! Renaming.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta, named, pattern};

cases!("rename":
    file_to_a_new_name, keeps_the_number, keeps_the_times_and_mode, file_over_a_file, file_over_itself,
    name_over_its_other_name, missing, to_a_missing_directory, file_over_a_directory, directory_over_a_file,
    directory_to_a_new_name, directory_keeps_its_tree, directory_over_an_empty_one, directory_over_a_full_one,
    directory_into_itself, file_to_another_directory, directory_to_another_directory, symlink_itself, over_a_symlink,
    pipe, over_a_pipe, old_name_is_free_again, directory_name_free_again_is_empty, swap_by_three, chain_of_twenty,
    while_open, parents_times, to_a_name_of_255_bytes, to_a_name_of_256_bytes, tree_then_remove,
    tree_then_change_below, back_again, over_what_was_removed, over_an_open_file, directory_twice_moved,
    child_keeps_its_number, dot, up_out_of_a_directory, file_below_a_renamed_directory_moves_out,
    directory_over_a_removed_directory, hard_link_over_other_file,
);

fn file_to_a_new_name(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("new")))?;
    fails("old", fs::symlink_metadata(g.p("file")), &[Errno::NOENT])?;
    same("content", ok("read", fs::read(g.p("new")))?, pattern())
}

fn keeps_the_number(g: &Ground) -> Outcome {
    let before = meta(&g.p("file"))?.ino();
    ok("rename", fs::rename(g.p("file"), g.p("new")))?;
    same("number", meta(&g.p("new"))?.ino(), before)
}

fn keeps_the_times_and_mode(g: &Ground) -> Outcome {
    let before = meta(&g.p("file"))?;
    ok("rename", fs::rename(g.p("file"), g.p("new")))?;
    let after = meta(&g.p("new"))?;
    same("modified", after.mtime(), OLD)?;
    same("mode", after.mode(), before.mode())?;
    same("owner", (after.uid(), after.gid()), (before.uid(), before.gid()))
}

fn file_over_a_file(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("empty")))?;
    same("content", ok("read", fs::read(g.p("empty")))?, pattern())?;
    fails("old", fs::symlink_metadata(g.p("file")), &[Errno::NOENT])
}

fn file_over_itself(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("file")))?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())
}

fn name_over_its_other_name(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("hard1"), g.p("hard2")))?;
    // POSIX: both are the same file, so nothing happens.
    same("links", meta(&g.p("hard1"))?.nlink(), 2)?;
    same("links", meta(&g.p("hard2"))?.nlink(), 2)
}

fn missing(g: &Ground) -> Outcome {
    fails("rename", fs::rename(g.p("absent"), g.p("new")), &[Errno::NOENT])
}

fn to_a_missing_directory(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("file"), g.p("absent/new")),
        &[Errno::NOENT],
    )?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())
}

fn file_over_a_directory(g: &Ground) -> Outcome {
    fails("rename", fs::rename(g.p("file"), g.p("vacant")), &[Errno::ISDIR])
}

fn directory_over_a_file(g: &Ground) -> Outcome {
    fails("rename", fs::rename(g.p("dir"), g.p("file")), &[Errno::NOTDIR])?;
    same("content", ok("read", fs::read(g.p("dir/sub/b")))?, b"b".to_vec())
}

fn directory_to_a_new_name(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("vacant"), g.p("new")))?;
    fails("old", fs::symlink_metadata(g.p("vacant")), &[Errno::NOENT])?;
    holds("it is a directory", meta(&g.p("new"))?.is_dir())
}

fn directory_keeps_its_tree(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    same("names", names(&g.p("new"))?, vec!["a".into(), "sub".into()])?;
    same("content", ok("read", fs::read(g.p("new/sub/b")))?, b"b".to_vec())?;
    fails("old", fs::symlink_metadata(g.p("dir/a")), &[Errno::NOENT])
}

fn directory_over_an_empty_one(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("vacant")))?;
    same("names", names(&g.p("vacant"))?, vec!["a".into(), "sub".into()])
}

fn directory_over_a_full_one(g: &Ground) -> Outcome {
    ok("fill", fs::write(g.p("vacant/x"), b"x"))?;
    fails(
        "rename",
        fs::rename(g.p("dir"), g.p("vacant")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )?;
    same("content", ok("read", fs::read(g.p("vacant/x")))?, b"x".to_vec())
}

fn directory_into_itself(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("dir"), g.p("dir/sub/new")),
        &[Errno::INVAL],
    )
}

fn file_to_another_directory(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/a"), g.p("vacant/a")))?;
    same("names", names(&g.p("dir"))?, vec!["sub".into()])?;
    same("content", ok("read", fs::read(g.p("vacant/a")))?, b"a".to_vec())
}

fn directory_to_another_directory(g: &Ground) -> Outcome {
    let (dir, vacant) = (meta(&g.p("dir"))?.nlink(), meta(&g.p("vacant"))?.nlink());
    ok("rename", fs::rename(g.p("dir/sub"), g.p("vacant/sub")))?;
    same("links of the old parent", meta(&g.p("dir"))?.nlink(), dir - 1)?;
    same(
        "links of the new parent",
        meta(&g.p("vacant"))?.nlink(),
        vacant + 1,
    )?;
    same(
        "its parent's number",
        meta(&g.p("vacant/sub/.."))?.ino(),
        meta(&g.p("vacant"))?.ino(),
    )?;
    same(
        "content",
        ok("read", fs::read(g.p("vacant/sub/b")))?,
        b"b".to_vec(),
    )
}

fn symlink_itself(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("link"), g.p("new")))?;
    holds("it is a symlink", meta(&g.p("new"))?.is_symlink())?;
    same("its target stays", ok("read", fs::read(g.p("file")))?, pattern())
}

fn over_a_symlink(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("empty"), g.p("link")))?;
    holds("it is a file", meta(&g.p("link"))?.is_file())?;
    same(
        "the old target stays",
        ok("read", fs::read(g.p("file")))?,
        pattern(),
    )
}

fn pipe(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("fifo"), g.p("dir/fifo")))?;
    holds("it is a pipe", meta(&g.p("dir/fifo"))?.file_type().is_fifo())
}

fn over_a_pipe(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("fifo")))?;
    same("content", ok("read", fs::read(g.p("fifo")))?, pattern())
}

fn old_name_is_free_again(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("file"), g.p("new")))?;
    ok("create", fs::write(g.p("file"), b"another"))?;
    same(
        "old name",
        ok("read", fs::read(g.p("file")))?,
        b"another".to_vec(),
    )?;
    same("new name", ok("read", fs::read(g.p("new")))?, pattern())
}

fn directory_name_free_again_is_empty(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    ok("mkdir", fs::create_dir(g.p("dir")))?;
    same("names", names(&g.p("dir"))?.len(), 0)?;
    same("names of the renamed", names(&g.p("new"))?.len(), 2)
}

fn swap_by_three(g: &Ground) -> Outcome {
    ok("one", fs::rename(g.p("dir"), g.p("aside")))?;
    ok("two", fs::rename(g.p("vacant"), g.p("dir")))?;
    ok("three", fs::rename(g.p("aside"), g.p("vacant")))?;
    same("names", names(&g.p("dir"))?.len(), 0)?;
    same("names", names(&g.p("vacant"))?.len(), 2)
}

fn chain_of_twenty(g: &Ground) -> Outcome {
    let number = meta(&g.p("dir"))?.ino();
    let mut from = g.p("dir");
    for i in 0..20 {
        let to = g.p(&format!("step{i}"));
        ok("rename", fs::rename(&from, &to))?;
        from = to;
    }
    same("number", meta(&from)?.ino(), number)?;
    same(
        "content",
        ok("read", fs::read(from.join("sub/b")))?,
        b"b".to_vec(),
    )
}

fn while_open(g: &Ground) -> Outcome {
    let mut open = ok("open", OpenOptions::new().append(true).open(g.p("file")))?;
    ok("rename", fs::rename(g.p("file"), g.p("dir/new")))?;
    ok("write", open.write_all(b"after"))?;
    drop(open);
    let mut expected = pattern();
    expected.extend(b"after");
    same("content", ok("read", fs::read(g.p("dir/new")))?, expected)
}

fn parents_times(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/a"), g.p("vacant/a")))?;
    holds("old parent modified", meta(&g.p("dir"))?.mtime() > OLD)?;
    holds("new parent modified", meta(&g.p("vacant"))?.mtime() > OLD)
}

fn to_a_name_of_255_bytes(g: &Ground) -> Outcome {
    let long = named(g.root(), &[b'r'; 255]);
    ok("rename", fs::rename(g.p("file"), &long))?;
    same("content", ok("read", fs::read(&long))?, pattern())
}

fn to_a_name_of_256_bytes(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("file"), named(g.root(), &[b'r'; 256])),
        &[Errno::NAMETOOLONG],
    )?;
    same("content", ok("read", fs::read(g.p("file")))?, pattern())
}

fn tree_then_remove(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    ok("remove", fs::remove_dir_all(g.p("new")))?;
    fails("new", fs::symlink_metadata(g.p("new")), &[Errno::NOENT])?;
    fails("old", fs::symlink_metadata(g.p("dir")), &[Errno::NOENT])
}

fn tree_then_change_below(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    ok("write", fs::write(g.p("new/sub/b"), b"changed"))?;
    ok("create", fs::write(g.p("new/sub/c"), b"c"))?;
    ok("unlink", fs::remove_file(g.p("new/a")))?;
    same("names", names(&g.p("new"))?, vec!["sub".into()])?;
    same(
        "names below",
        names(&g.p("new/sub"))?,
        vec!["b".into(), "c".into()],
    )?;
    same(
        "content",
        ok("read", fs::read(g.p("new/sub/b")))?,
        b"changed".to_vec(),
    )
}

fn back_again(g: &Ground) -> Outcome {
    let number = meta(&g.p("dir"))?.ino();
    ok("away", fs::rename(g.p("dir"), g.p("new")))?;
    ok("back", fs::rename(g.p("new"), g.p("dir")))?;
    same("number", meta(&g.p("dir"))?.ino(), number)?;
    same("names", names(&g.p("dir"))?.len(), 2)
}

fn over_what_was_removed(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("empty")))?;
    ok("rename", fs::rename(g.p("file"), g.p("empty")))?;
    same("content", ok("read", fs::read(g.p("empty")))?, pattern())
}

fn over_an_open_file(g: &Ground) -> Outcome {
    use std::io::Read;
    let mut open = ok("open", fs::File::open(g.p("file")))?;
    ok("rename", fs::rename(g.p("empty"), g.p("file")))?;
    let mut content = Vec::new();
    ok("read", open.read_to_end(&mut content))?;
    same("the open one", content, pattern())?;
    same("the new one", ok("read", fs::read(g.p("file")))?, vec![])
}

fn directory_twice_moved(g: &Ground) -> Outcome {
    ok("first", fs::rename(g.p("dir/sub"), g.p("sub")))?;
    ok("second", fs::rename(g.p("dir"), g.p("sub/dir")))?;
    same("content", ok("read", fs::read(g.p("sub/dir/a")))?, b"a".to_vec())?;
    same("content", ok("read", fs::read(g.p("sub/b")))?, b"b".to_vec())
}

fn child_keeps_its_number(g: &Ground) -> Outcome {
    let (child, deep) = (meta(&g.p("dir/a"))?.ino(), meta(&g.p("dir/sub/b"))?.ino());
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    same("child", meta(&g.p("new/a"))?.ino(), child)?;
    same("grandchild", meta(&g.p("new/sub/b"))?.ino(), deep)
}

fn dot(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("vacant/."), g.p("new")),
        &[Errno::BUSY, Errno::INVAL],
    )?;
    fails(
        "rename",
        fs::rename(g.p("vacant"), g.p("dir/..")),
        &[Errno::BUSY, Errno::INVAL, Errno::NOTEMPTY],
    )
}

fn up_out_of_a_directory(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/sub/b"), g.p("b")))?;
    same("content", ok("read", fs::read(g.p("b")))?, b"b".to_vec())?;
    same("names", names(&g.p("dir/sub"))?.len(), 0)
}

fn file_below_a_renamed_directory_moves_out(g: &Ground) -> Outcome {
    ok("directory", fs::rename(g.p("dir"), g.p("new")))?;
    ok("file", fs::rename(g.p("new/sub/b"), g.p("b")))?;
    same("content", ok("read", fs::read(g.p("b")))?, b"b".to_vec())?;
    same("names", names(&g.p("new/sub"))?.len(), 0)
}

fn directory_over_a_removed_directory(g: &Ground) -> Outcome {
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    ok("rename", fs::rename(g.p("dir"), g.p("vacant")))?;
    same("names", names(&g.p("vacant"))?.len(), 2)
}

fn hard_link_over_other_file(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("hard1"), g.p("file")))?;
    same("content", ok("read", fs::read(g.p("file")))?, b"hard".to_vec())?;
    same("links", meta(&g.p("hard2"))?.nlink(), 2)
}
