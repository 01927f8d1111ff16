//! Reading directories.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt, symlink};
use std::path::Path;

use rustix::io::Errno;

use super::cases;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, meta, named};

cases!("listing":
    what_is_there, empty_directory, numbers_are_those_of_stat, kinds_are_those_of_stat, after_create, after_unlink,
    after_rename, after_mkdir_and_rmdir, a_thousand_names_once_each, removed_while_listed, added_while_listed,
    all_removed_while_listed, names_of_any_bytes, names_like_whiteouts, removed_and_made_again, of_a_file, of_missing,
    through_a_symlink, dot_and_dot_dot, mixed_old_and_new, hidden_names, renamed_while_listed, names_that_differ_in_case,
    names_that_collide,
);

/// Sorted names in a directory; an error if one is there twice.
pub(super) fn names(directory: &Path) -> Result<Vec<OsString>, String> {
    let mut all = Vec::new();
    for entry in ok("opendir", fs::read_dir(directory))? {
        all.push(ok("readdir", entry)?.file_name());
    }
    all.sort();
    let once: BTreeSet<_> = all.iter().collect();
    if once.len() == all.len() {
        Ok(all)
    } else {
        Err(format!(
            "{} of {} names are listed twice",
            all.len() - once.len(),
            all.len()
        ))
    }
}

fn what_is_there(g: &Ground) -> Outcome {
    let expected = [
        "dangling", "dir", "empty", "fifo", "file", "hard1", "hard2", "link", "vacant",
    ];
    same(
        "names",
        names(g.root())?,
        expected.iter().map(OsString::from).collect::<Vec<_>>(),
    )
}

fn empty_directory(g: &Ground) -> Outcome {
    same("names", names(&g.p("vacant"))?, vec![])
}

fn numbers_are_those_of_stat(g: &Ground) -> Outcome {
    for entry in ok("opendir", fs::read_dir(g.root()))? {
        let entry = ok("readdir", entry)?;
        same("number", entry.ino(), meta(&entry.path())?.ino())?;
    }
    Ok(())
}

fn kinds_are_those_of_stat(g: &Ground) -> Outcome {
    for entry in ok("opendir", fs::read_dir(g.root()))? {
        let entry = ok("readdir", entry)?;
        let kind = ok("kind", entry.file_type())?;
        same("kind", kind, meta(&entry.path())?.file_type())?;
    }
    Ok(())
}

fn after_create(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("dir/new"), b""))?;
    same(
        "names",
        names(&g.p("dir"))?,
        vec!["a".into(), "new".into(), "sub".into()],
    )
}

fn after_unlink(g: &Ground) -> Outcome {
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    same("names", names(&g.p("dir"))?, vec!["sub".into()])
}

fn after_rename(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("dir/a"), g.p("dir/z")))?;
    same("names", names(&g.p("dir"))?, vec!["sub".into(), "z".into()])
}

fn after_mkdir_and_rmdir(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir(g.p("dir/new")))?;
    ok("rmdir", fs::remove_dir(g.p("dir/new")))?;
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn fill(g: &Ground, count: usize) -> Outcome {
    for i in 0..count {
        ok("create", fs::write(g.p(&format!("dir/n{i:04}")), b""))?;
    }
    Ok(())
}

fn a_thousand_names_once_each(g: &Ground) -> Outcome {
    fill(g, 1_000)?;
    same("names", names(&g.p("dir"))?.len(), 1_002)
}

fn removed_while_listed(g: &Ground) -> Outcome {
    fill(g, 400)?;
    let mut seen = BTreeSet::new();
    for entry in ok("opendir", fs::read_dir(g.p("dir")))? {
        let entry = ok("readdir", entry)?;
        let name = entry.file_name();
        holds("it was not listed before", seen.insert(name.clone()))?;
        if name.as_bytes().starts_with(b"n") && seen.len() % 2 == 0 {
            ok("unlink", fs::remove_file(entry.path()))?;
        }
    }
    same("listed", seen.len(), 402)
}

fn added_while_listed(g: &Ground) -> Outcome {
    fill(g, 300)?;
    let mut seen = BTreeSet::new();
    for (i, entry) in ok("opendir", fs::read_dir(g.p("dir")))?.enumerate() {
        let entry = ok("readdir", entry)?;
        holds("it was not listed before", seen.insert(entry.file_name()))?;
        if i < 100 {
            ok("create", fs::write(g.p(&format!("dir/late{i}")), b""))?;
        }
    }
    let old = seen
        .iter()
        .filter(|name| name.as_bytes().starts_with(b"n"))
        .count();
    same("all that were there from the beginning", old, 300)
}

fn all_removed_while_listed(g: &Ground) -> Outcome {
    fill(g, 500)?;
    ok("remove", fs::remove_dir_all(g.p("dir")))?;
    fails("stat", fs::symlink_metadata(g.p("dir")), &[Errno::NOENT])
}

fn names_of_any_bytes(g: &Ground) -> Outcome {
    let odd: [&[u8]; 7] = [
        b"\xff\xfe",
        b" ",
        b"new\nline",
        b"tab\t",
        b"-rf",
        b"*?[",
        b"\x01\x7f",
    ];
    for name in odd {
        ok("create", fs::write(named(&g.p("vacant"), name), name))?;
    }
    let mut expected: Vec<OsString> = odd
        .iter()
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    expected.sort();
    same("names", names(&g.p("vacant"))?, expected)?;
    for name in odd {
        same(
            "content",
            ok("read", fs::read(named(&g.p("vacant"), name)))?,
            name.to_vec(),
        )?;
    }
    Ok(())
}

fn names_like_whiteouts(g: &Ground) -> Outcome {
    let like = [
        ".wh.a",
        ".wh..wh..opq",
        ".wh..wh.plnk",
        ".nfs0001",
        "#whiteout",
        ".xeno",
    ];
    for name in like {
        ok("create", fs::write(g.p(&format!("dir/{name}")), name))?;
    }
    for name in like {
        same(
            "content",
            ok("read", fs::read(g.p(&format!("dir/{name}"))))?,
            name.as_bytes().to_vec(),
        )?;
    }
    holds("they hide nothing", names(&g.p("dir"))?.len() == 2 + like.len())
}

fn removed_and_made_again(g: &Ground) -> Outcome {
    for _ in 0..5 {
        ok("unlink", fs::remove_file(g.p("dir/a")))?;
        ok("create", fs::write(g.p("dir/a"), b"again"))?;
    }
    same("names", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn of_a_file(g: &Ground) -> Outcome {
    fails("opendir", fs::read_dir(g.p("file")), &[Errno::NOTDIR])
}

fn of_missing(g: &Ground) -> Outcome {
    fails("opendir", fs::read_dir(g.p("absent")), &[Errno::NOENT])
}

fn through_a_symlink(g: &Ground) -> Outcome {
    ok("symlink", symlink("dir", g.p("way")))?;
    same("names", names(&g.p("way"))?, vec!["a".into(), "sub".into()])
}

fn dot_and_dot_dot(g: &Ground) -> Outcome {
    same("dot", meta(&g.p("dir/."))?.ino(), meta(&g.p("dir"))?.ino())?;
    same(
        "dot dot",
        meta(&g.p("dir/sub/.."))?.ino(),
        meta(&g.p("dir"))?.ino(),
    )
}

fn mixed_old_and_new(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("dir/b"), b""))?;
    ok("mkdir", fs::create_dir(g.p("dir/c")))?;
    ok("unlink", fs::remove_file(g.p("dir/a")))?;
    same(
        "names",
        names(&g.p("dir"))?,
        vec!["b".into(), "c".into(), "sub".into()],
    )
}

fn hidden_names(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("vacant/.hidden"), b""))?;
    same("names", names(&g.p("vacant"))?, vec![".hidden".into()])
}

fn renamed_while_listed(g: &Ground) -> Outcome {
    fill(g, 100)?;
    let mut originals = 0;
    for entry in ok("opendir", fs::read_dir(g.p("dir")))? {
        let entry = ok("readdir", entry)?;
        if entry.file_name().as_bytes().starts_with(b"n") {
            originals += 1;
            let to = g.p("vacant").join(entry.file_name());
            ok("rename", fs::rename(entry.path(), to))?;
        }
    }
    same("each was listed once", originals, 100)?;
    same("all arrived", names(&g.p("vacant"))?.len(), 100)
}

fn names_that_differ_in_case(g: &Ground) -> Outcome {
    ok("create", fs::write(g.p("dir/A"), b"upper"))?;
    same("lower", ok("read", fs::read(g.p("dir/a")))?, b"a".to_vec())?;
    same("upper", ok("read", fs::read(g.p("dir/A")))?, b"upper".to_vec())
}

fn names_that_collide(g: &Ground) -> Outcome {
    // Many names with one beginning, as programs make them for temporary files.
    for i in 0..200 {
        ok(
            "create",
            fs::write(g.p(&format!("vacant/{}{i}", "x".repeat(200))), b""),
        )?;
    }
    same("names", names(&g.p("vacant"))?.len(), 200)
}
