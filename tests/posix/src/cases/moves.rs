//! Renaming: each kind over each other kind, and trees that are renamed, changed, renamed again.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, RenameFlags, makedev, renameat_with};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, meta, pattern};
use crate::short::{both, chmod, gone, mknod, put, text};

cases!("moves":
    file_over_each_kind, empty_file_over_each_kind, symlink_over_each_kind, dangling_symlink_over_each_kind,
    pipe_over_each_kind, socket_over_each_kind, device_over_each_kind, linked_file_over_each_kind,
    empty_directory_over_each_kind, full_directory_over_each_kind, over_its_own_parent, over_its_own_grandparent,
    directory_over_itself, slash_after_a_file, slash_after_a_new_directory, slash_after_a_link_to_a_directory,
    not_over_what_is_there, exchanged, tree_moved_below_its_sibling, tree_moved_up_and_down,
    tree_moved_with_changes_in_it, removed_in_the_old_place_before, made_in_the_old_place_after,
    old_path_of_a_child_is_gone, merged_name_moved_over_again, names_of_a_file_moved_apart, many_files_over_one,
    forty_levels_moved, number_stays_through_ten_places, link_count_follows_a_directory, dot_dot_follows,
    swapped_directories_keep_their_content, removed_after_two_moves, fifty_in_one_directory,
);

/// Makes one of each kind to be replaced, under the name of its kind.
const KINDS: [&str; 8] = [
    "t-file",
    "t-link",
    "t-dangling",
    "t-fifo",
    "t-socket",
    "t-device",
    "t-empty",
    "t-full",
];

fn targets(g: &Ground) -> Outcome {
    put(&g.p("t-file"), b"replaced")?;
    ok("symlink", symlink("file", g.p("t-link")))?;
    ok("symlink", symlink("nowhere", g.p("t-dangling")))?;
    ok("mknod", mknod(&g.p("t-fifo"), FileType::Fifo, 0))?;
    ok("mknod", mknod(&g.p("t-socket"), FileType::Socket, 0))?;
    ok(
        "mknod",
        mknod(&g.p("t-device"), FileType::CharacterDevice, makedev(1, 3)),
    )?;
    ok("mkdir", fs::create_dir(g.p("t-empty")))?;
    ok("mkdir", fs::create_dir_all(g.p("t-full/x")))
}

/// Renames what `source` names over one of each kind, and back.
fn over_each(g: &Ground, source: &str) -> Outcome {
    targets(g)?;
    let before = meta(&g.p(source))?;
    let directory = before.is_dir();
    for name in KINDS {
        let renamed = fs::rename(g.p(source), g.p(name));
        let over_directory = name == "t-empty" || name == "t-full";
        match (directory, over_directory) {
            (false, true) => fails(name, renamed, &[Errno::ISDIR])?,
            (true, false) => fails(name, renamed, &[Errno::NOTDIR])?,
            (true, true) if name == "t-full" => fails(name, renamed, &[Errno::NOTEMPTY, Errno::EXIST])?,
            (true, true) | (false, false) => {
                ok(name, renamed)?;
                gone(&g.p(source))?;
                same(name, meta(&g.p(name))?.ino(), before.ino())?;
                same(name, meta(&g.p(name))?.file_type(), before.file_type())?;
                ok("back", fs::rename(g.p(name), g.p(source)))?;
                gone(&g.p(name))?;
            }
        }
    }
    same("links", meta(&g.p(source))?.nlink(), before.nlink())?;
    same("what the links led to", text(&g.p("t-full/../file"))?, pattern())
}

fn file_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "dir/a")
}

fn empty_file_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "empty")
}

fn symlink_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "link")
}

fn dangling_symlink_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "dangling")
}

fn pipe_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "fifo")
}

fn socket_over_each_kind(g: &Ground) -> Outcome {
    ok("mknod", mknod(&g.p("dir/socket"), FileType::Socket, 0))?;
    over_each(g, "dir/socket")
}

fn device_over_each_kind(g: &Ground) -> Outcome {
    ok(
        "mknod",
        mknod(&g.p("dir/device"), FileType::BlockDevice, makedev(8, 1)),
    )?;
    over_each(g, "dir/device")?;
    same("device", meta(&g.p("dir/device"))?.rdev(), makedev(8, 1))
}

fn linked_file_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "hard1")?;
    same("links of the other name", meta(&g.p("hard2"))?.nlink(), 2)
}

fn empty_directory_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "vacant")
}

fn full_directory_over_each_kind(g: &Ground) -> Outcome {
    over_each(g, "dir")?;
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn over_its_own_parent(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("dir/sub"), g.p("dir")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )?;
    same("content", text(&g.p("dir/sub/b"))?, b"b".to_vec())
}

fn over_its_own_grandparent(g: &Ground) -> Outcome {
    fails(
        "rename",
        fs::rename(g.p("dir/sub/b"), g.p("dir")),
        &[Errno::NOTEMPTY, Errno::ISDIR],
    )?;
    same("content", text(&g.p("dir/sub/b"))?, b"b".to_vec())
}

fn directory_over_itself(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("dir")))?;
    same("names", names(&g.p("dir"))?.len(), 2)
}

fn slash_after_a_file(g: &Ground) -> Outcome {
    fails("source", fs::rename(g.p("file/"), g.p("new")), &[Errno::NOTDIR])?;
    fails("target", fs::rename(g.p("file"), g.p("new/")), &[Errno::NOTDIR])?;
    same("content", text(&g.p("file"))?, pattern())
}

fn slash_after_a_new_directory(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/"), g.p("new/")))?;
    same("names", names(&g.p("new"))?.len(), 2)
}

fn slash_after_a_link_to_a_directory(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    fails("rename", fs::rename(g.p("way/"), g.p("new")), &[Errno::NOTDIR])?;
    holds("the link is there", meta(&g.p("way"))?.is_symlink())
}

fn not_over_what_is_there(g: &Ground) -> Outcome {
    let rename = |to: PathBuf| renameat_with(CWD, g.p("file"), CWD, to, RenameFlags::NOREPLACE);
    fails("over a file", rename(g.p("empty")), &[Errno::EXIST])?;
    ok("to a new name", rename(g.p("new")))?;
    same("content", text(&g.p("new"))?, pattern())
}

fn exchanged(g: &Ground) -> Outcome {
    ok(
        "exchange",
        renameat_with(CWD, g.p("file"), CWD, g.p("dir"), RenameFlags::EXCHANGE),
    )?;
    same("the file", text(&g.p("dir"))?, pattern())?;
    same("the directory", names(&g.p("file"))?.len(), 2)
}

fn tree_moved_below_its_sibling(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("vacant/deep")))?;
    ok("and on", fs::rename(g.p("vacant"), g.p("around")))?;
    same("content", text(&g.p("around/deep/sub/b"))?, b"b".to_vec())?;
    same("names", names(&g.p("around"))?, vec!["deep".into()])
}

fn tree_moved_up_and_down(g: &Ground) -> Outcome {
    ok("up", fs::rename(g.p("dir/sub"), g.p("sub")))?;
    ok("the parent below it", fs::rename(g.p("dir"), g.p("sub/dir")))?;
    ok("and out again", fs::rename(g.p("sub/dir"), g.p("dir")))?;
    ok("down", fs::rename(g.p("sub"), g.p("dir/sub")))?;
    same("content", text(&g.p("dir/sub/b"))?, b"b".to_vec())?;
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn tree_moved_with_changes_in_it(g: &Ground) -> Outcome {
    put(&g.p("dir/sub/b"), b"changed before")?;
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    put(&g.p("new/sub/c"), b"made after")?;
    chmod(&g.p("new/sub"), 0o700)?;
    same("names", names(&g.p("new"))?, vec!["sub".into()])?;
    same("before", text(&g.p("new/sub/b"))?, b"changed before".to_vec())?;
    same("after", text(&g.p("new/sub/c"))?, b"made after".to_vec())
}

fn removed_in_the_old_place_before(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/sub/b")))?;
    ok("rename", fs::rename(g.p("dir/sub"), g.p("vacant/sub")))?;
    same("names", names(&g.p("vacant/sub"))?.len(), 0)?;
    put(&g.p("vacant/sub/b"), b"new")?;
    same("content", text(&g.p("vacant/sub/b"))?, b"new".to_vec())
}

fn made_in_the_old_place_after(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir"), g.p("new")))?;
    ok("mkdir", fs::create_dir_all(g.p("dir/sub")))?;
    put(&g.p("dir/sub/only"), b"only")?;
    same("new place", names(&g.p("new/sub"))?, vec!["b".into()])?;
    same("old place", names(&g.p("dir/sub"))?, vec!["only".into()])?;
    same("old place above", names(&g.p("dir"))?, vec!["sub".into()])
}

fn old_path_of_a_child_is_gone(g: &Ground) -> Outcome {
    holds("it was there", meta(&g.p("dir/sub/b"))?.is_file())?;
    ok("rename", fs::rename(g.p("dir/sub"), g.p("dir/other")))?;
    gone(&g.p("dir/sub/b"))?;
    gone(&g.p("dir/sub"))?;
    fails("open", File::open(g.p("dir/sub/b")), &[Errno::NOENT])
}

fn merged_name_moved_over_again(g: &Ground) -> Outcome {
    for content in [&b"one"[..], b"two", b"three"] {
        put(&g.p("next"), content)?;
        ok("rename", fs::rename(g.p("next"), g.p("file")))?;
        same("content", text(&g.p("file"))?, content.to_vec())?;
    }
    gone(&g.p("next"))
}

fn names_of_a_file_moved_apart(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("hard1"), g.p("dir/one")))?;
    ok("rename", fs::rename(g.p("hard2"), g.p("vacant/two")))?;
    put(&g.p("dir/one"), b"still one file")?;
    same("content", text(&g.p("vacant/two"))?, b"still one file".to_vec())?;
    same(
        "number",
        meta(&g.p("dir/one"))?.ino(),
        meta(&g.p("vacant/two"))?.ino(),
    )
}

fn many_files_over_one(g: &Ground) -> Outcome {
    for i in 0..10 {
        put(&g.p(&format!("n{i}")), format!("{i}").as_bytes())?;
    }
    for i in 0..10 {
        ok("rename", fs::rename(g.p(&format!("n{i}")), g.p("dir/a")))?;
    }
    same("content", text(&g.p("dir/a"))?, b"9".to_vec())?;
    same("names", names(&g.p("dir"))?.len(), 2)
}

fn forty_levels_moved(g: &Ground) -> Outcome {
    let deep = "d/".repeat(40);
    ok("mkdir", fs::create_dir_all(g.p(&format!("vacant/{deep}"))))?;
    put(&g.p(&format!("vacant/{deep}leaf")), b"leaf")?;
    ok("rename", fs::rename(g.p("vacant/d"), g.p("dir/d")))?;
    same(
        "content",
        text(&g.p(&format!("dir/{deep}leaf")))?,
        b"leaf".to_vec(),
    )
}

fn number_stays_through_ten_places(g: &Ground) -> Outcome {
    let (file, dir) = (meta(&g.p("file"))?.ino(), meta(&g.p("dir"))?.ino());
    let (mut file_at, mut dir_at) = (g.p("file"), g.p("dir"));
    for i in 0..10 {
        let (next_file, next_dir) = (g.p(&format!("vacant/f{i}")), g.p(&format!("vacant/d{i}")));
        ok("file", fs::rename(&file_at, &next_file))?;
        ok("directory", fs::rename(&dir_at, &next_dir))?;
        (file_at, dir_at) = (next_file, next_dir);
    }
    same(
        "numbers",
        (meta(&file_at)?.ino(), meta(&dir_at)?.ino()),
        (file, dir),
    )
}

fn link_count_follows_a_directory(g: &Ground) -> Outcome {
    let links = |name: &str| Ok::<_, String>(meta(&g.p(name))?.nlink());
    let (root, dir) = (links("")?, links("dir")?);
    ok("rename", fs::rename(g.p("vacant"), g.p("dir/vacant")))?;
    same("the parent's", (links("")?, links("dir")?), (root - 1, dir + 1))?;
    ok("over an empty one", fs::rename(g.p("dir/sub"), g.p("dir/vacant")))?;
    same("one less", links("dir")?, dir)
}

fn dot_dot_follows(g: &Ground) -> Outcome {
    holds(
        "before",
        meta(&g.p("dir/sub/.."))?.ino() == meta(&g.p("dir"))?.ino(),
    )?;
    ok("rename", fs::rename(g.p("dir/sub"), g.p("vacant/sub")))?;
    same(
        "after",
        meta(&g.p("vacant/sub/.."))?.ino(),
        meta(&g.p("vacant"))?.ino(),
    )?;
    same("by name", names(&g.p("vacant/sub/.."))?, vec!["sub".into()])
}

fn swapped_directories_keep_their_content(g: &Ground) -> Outcome {
    put(&g.p("vacant/mine"), b"v")?;
    let (dir, vacant) = (meta(&g.p("dir"))?.ino(), meta(&g.p("vacant"))?.ino());
    ok("one", fs::rename(g.p("dir"), g.p("aside")))?;
    ok("two", fs::rename(g.p("vacant"), g.p("dir")))?;
    ok("three", fs::rename(g.p("aside"), g.p("vacant")))?;
    same(
        "numbers",
        (meta(&g.p("vacant"))?.ino(), meta(&g.p("dir"))?.ino()),
        (dir, vacant),
    )?;
    same("content", text(&g.p("vacant/sub/b"))?, b"b".to_vec())?;
    same("content", text(&g.p("dir/mine"))?, b"v".to_vec())
}

fn removed_after_two_moves(g: &Ground) -> Outcome {
    ok("one", fs::rename(g.p("dir"), g.p("vacant/one")))?;
    ok("two", fs::rename(g.p("vacant/one"), g.p("two")))?;
    ok("remove", fs::remove_dir_all(g.p("two")))?;
    ok("mkdir", fs::create_dir(g.p("dir")))?;
    same("names", names(&g.p("dir"))?.len(), 0)?;
    ok("rmdir", fs::remove_dir(g.p("dir")))
}

fn fifty_in_one_directory(g: &Ground) -> Outcome {
    let open = both(&g.p("file"))?;
    for i in 0..50 {
        put(&g.p(&format!("vacant/{i:02}")), b"x")?;
    }
    for i in (0..50).rev() {
        ok(
            "rename",
            fs::rename(g.p(&format!("vacant/{i:02}")), g.p(&format!("vacant/r{i:02}"))),
        )?;
    }
    let expected: Vec<std::ffi::OsString> = (0..50).map(|i| format!("r{i:02}").into()).collect();
    drop(open);
    same("names", names(&g.p("vacant"))?, expected)
}
