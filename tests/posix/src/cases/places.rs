//! Directories that are read by position, and what pipes, sockets and devices do when used.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use super::cases;
use super::listing::names;
use crate::check::{Outcome, fails, holds, ok, same};
use crate::ground::{Ground, OLD, meta};
use crate::short::{gone, mknod, mode_is, put, utimes};

cases!("places":
    dots_are_listed, dots_have_their_numbers, rewound_it_shows_what_is_new, each_position_leads_back,
    position_survives_the_entrys_removal, position_survives_removals_before, position_survives_additions,
    position_survives_a_rename_of_the_entry, positions_differ, two_readers_go_their_own_ways, kinds_without_stat,
    listed_while_renamed_away, emptied_while_listed, filled_and_emptied_thrice, nested_removal_leaves_the_rest,
    directory_size_and_links_when_filled, mkdir_twice, rmdir_of_dot_dot, rmdir_with_a_slash, rmdir_of_the_busy,
    made_and_removed_hundred_times, sixty_subdirectories, file_by_mknod, pipe_by_two_names, pipe_that_is_renamed,
    pipe_keeps_no_content, socket_carries_bytes, socket_without_a_listener, socket_name_is_taken_once,
    null_device_works, device_numbers_of_each_kind, unlinked_pipe_goes_on,
);

struct Place {
    name: Vec<u8>,
    offset: i64,
    number: u64,
    kind: FileType,
}

/// Reads on from where `dir` stands.
fn rest(dir: &mut Dir) -> Result<Vec<Place>, String> {
    let mut all = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = ok("readdir", entry)?;
        all.push(Place {
            name: entry.file_name().to_bytes().to_vec(),
            offset: entry.offset(),
            number: entry.ino(),
            kind: entry.file_type(),
        });
    }
    Ok(all)
}

fn open(path: &Path) -> Result<Dir, String> {
    ok("opendir", Dir::read_from(ok("open", File::open(path))?))
}

fn fill(g: &Ground, count: usize) -> Outcome {
    (0..count).try_for_each(|i| put(&g.p(&format!("vacant/n{i:03}")), b""))
}

fn plain(places: &[Place]) -> Vec<Vec<u8>> {
    places.iter().map(|place| place.name.clone()).collect()
}

fn dots_are_listed(g: &Ground) -> Outcome {
    let mut found = plain(&rest(&mut open(&g.p("dir"))?)?);
    found.sort();
    same(
        "names",
        found,
        [&b"."[..], b"..", b"a", b"sub"].map(<[u8]>::to_vec).to_vec(),
    )
}

fn dots_have_their_numbers(g: &Ground) -> Outcome {
    for place in rest(&mut open(&g.p("dir/sub"))?)? {
        let path = match place.name.as_slice() {
            b"." => "dir/sub",
            b".." => "dir",
            _ => continue,
        };
        same(path, place.number, meta(&g.p(path))?.ino())?;
    }
    Ok(())
}

fn rewound_it_shows_what_is_new(g: &Ground) -> Outcome {
    let mut dir = open(&g.p("dir"))?;
    same("at first", rest(&mut dir)?.len(), 4)?;
    put(&g.p("dir/new"), b"")?;
    dir.rewind();
    same("then", rest(&mut dir)?.len(), 5)
}

fn each_position_leads_back(g: &Ground) -> Outcome {
    fill(g, 30)?;
    let mut dir = open(&g.p("vacant"))?;
    let all = rest(&mut dir)?;
    for at in (0..all.len()).rev().step_by(7) {
        ok("seek", dir.seek(all[at].offset))?;
        same("what follows", plain(&rest(&mut dir)?), plain(&all[at + 1..]))?;
    }
    Ok(())
}

/// The names that were found, and those expected.
type Continued = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// Lists thirty names, does something to the directory, and reads on after the tenth.
fn after_the_tenth(g: &Ground, deed: impl Fn(&[Place]) -> Outcome) -> Result<Continued, String> {
    fill(g, 30)?;
    let mut dir = open(&g.p("vacant"))?;
    let all = rest(&mut dir)?;
    deed(&all)?;
    ok("seek", dir.seek(all[9].offset))?;
    Ok((plain(&rest(&mut dir)?), plain(&all[10..])))
}

fn position_survives_the_entrys_removal(g: &Ground) -> Outcome {
    let (found, expected) = after_the_tenth(g, |all| {
        let path = crate::ground::named(&g.p("vacant"), &all[9].name);
        ok("unlink", fs::remove_file(path))
    })?;
    same("what follows", found, expected)
}

fn position_survives_removals_before(g: &Ground) -> Outcome {
    let (found, expected) = after_the_tenth(g, |all| {
        all[..9]
            .iter()
            .filter(|place| place.name != b"." && place.name != b"..")
            .try_for_each(|place| {
                ok(
                    "unlink",
                    fs::remove_file(crate::ground::named(&g.p("vacant"), &place.name)),
                )
            })
    })?;
    same("what follows", found, expected)
}

fn position_survives_additions(g: &Ground) -> Outcome {
    let (found, expected) = after_the_tenth(g, |_| {
        (0..30).try_for_each(|i| put(&g.p(&format!("vacant/late{i}")), b""))
    })?;
    // New names may be among them; old ones are all there, once, in their order.
    let old: Vec<Vec<u8>> = found
        .into_iter()
        .filter(|name| !name.starts_with(b"late"))
        .collect();
    same("what follows", old, expected)
}

fn position_survives_a_rename_of_the_entry(g: &Ground) -> Outcome {
    let (found, expected) = after_the_tenth(g, |all| {
        let path = crate::ground::named(&g.p("vacant"), &all[9].name);
        ok("rename", fs::rename(path, g.p("dir/away")))
    })?;
    same("what follows", found, expected)
}

fn positions_differ(g: &Ground) -> Outcome {
    fill(g, 100)?;
    let all = rest(&mut open(&g.p("vacant"))?)?;
    let once: BTreeSet<i64> = all.iter().map(|place| place.offset).collect();
    same("positions", once.len(), 102)
}

fn two_readers_go_their_own_ways(g: &Ground) -> Outcome {
    fill(g, 20)?;
    let (mut one, mut two) = (open(&g.p("vacant"))?, open(&g.p("vacant"))?);
    let first = ok("readdir", one.read().unwrap_or(Err(Errno::NOENT)))?
        .file_name()
        .to_bytes()
        .to_vec();
    let all = plain(&rest(&mut two)?);
    same("the first", &first, &all[0])?;
    same("the others", plain(&rest(&mut one)?), all[1..].to_vec())
}

fn kinds_without_stat(g: &Ground) -> Outcome {
    ok("mknod", mknod(&g.p("socket"), FileType::Socket, 0))?;
    ok(
        "mknod",
        mknod(&g.p("device"), FileType::BlockDevice, makedev(1, 1)),
    )?;
    for place in rest(&mut open(g.root())?)? {
        let expected = match place.name.as_slice() {
            b"." | b".." | b"dir" | b"vacant" => FileType::Directory,
            b"link" | b"dangling" => FileType::Symlink,
            b"fifo" => FileType::Fifo,
            b"socket" => FileType::Socket,
            b"device" => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        holds(
            "the kind is told",
            place.kind == expected || place.kind == FileType::Unknown,
        )?;
    }
    Ok(())
}

fn listed_while_renamed_away(g: &Ground) -> Outcome {
    fill(g, 60)?;
    let mut dir = open(&g.p("vacant"))?;
    let first = ok("readdir", dir.read().unwrap_or(Err(Errno::NOENT)))?
        .file_name()
        .to_bytes()
        .to_vec();
    ok("rename", fs::rename(g.p("vacant"), g.p("dir/moved")))?;
    let mut seen = plain(&rest(&mut dir)?);
    seen.push(first);
    let once: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
    same("names", (seen.len(), once.len()), (62, 62))
}

fn emptied_while_listed(g: &Ground) -> Outcome {
    fill(g, 60)?;
    let mut dir = open(&g.p("vacant"))?;
    let _first = dir.read();
    for i in 0..60 {
        ok("unlink", fs::remove_file(g.p(&format!("vacant/n{i:03}"))))?;
    }
    // What it had read ahead may still come, once.
    let seen = plain(&rest(&mut dir)?);
    let once: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
    same("nothing twice", seen.len(), once.len())?;
    dir.rewind();
    same("from the beginning", rest(&mut dir)?.len(), 2)
}

fn filled_and_emptied_thrice(g: &Ground) -> Outcome {
    for _ in 0..3 {
        fill(g, 20)?;
        same("full", names(&g.p("vacant"))?.len(), 20)?;
        for i in 0..20 {
            ok("unlink", fs::remove_file(g.p(&format!("vacant/n{i:03}"))))?;
        }
        same("empty", names(&g.p("vacant"))?.len(), 0)?;
    }
    ok("rmdir", fs::remove_dir(g.p("vacant")))
}

fn nested_removal_leaves_the_rest(g: &Ground) -> Outcome {
    ok("mkdir", fs::create_dir_all(g.p("dir/sub/deep/deeper")))?;
    ok("remove", fs::remove_dir_all(g.p("dir/sub/deep")))?;
    same("names", names(&g.p("dir/sub"))?, vec!["b".into()])?;
    same("names above", names(&g.p("dir"))?, vec!["a".into(), "sub".into()])
}

fn directory_size_and_links_when_filled(g: &Ground) -> Outcome {
    fill(g, 10)?;
    let vacant = meta(&g.p("vacant"))?;
    same("files are no links of it", vacant.nlink(), 2)?;
    holds("it has a size", vacant.len() > 0)
}

fn mkdir_twice(g: &Ground) -> Outcome {
    ok("first", fs::create_dir(g.p("new")))?;
    fails("second", fs::create_dir(g.p("new")), &[Errno::EXIST])?;
    fails("dot", fs::create_dir(g.p("new/.")), &[Errno::EXIST])?;
    fails("dot dot", fs::create_dir(g.p("new/..")), &[Errno::EXIST])
}

fn rmdir_of_dot_dot(g: &Ground) -> Outcome {
    fails(
        "rmdir",
        fs::remove_dir(g.p("dir/sub/..")),
        &[Errno::NOTEMPTY, Errno::EXIST],
    )
}

fn rmdir_with_a_slash(g: &Ground) -> Outcome {
    ok("rmdir", fs::remove_dir(g.p("vacant/")))?;
    gone(&g.p("vacant"))
}

fn rmdir_of_the_busy(g: &Ground) -> Outcome {
    // A directory that somebody reads is not busy.
    let dir = open(&g.p("vacant"))?;
    ok("rmdir", fs::remove_dir(g.p("vacant")))?;
    drop(dir);
    gone(&g.p("vacant"))
}

fn made_and_removed_hundred_times(g: &Ground) -> Outcome {
    let links = meta(&g.p("dir"))?.nlink();
    for _ in 0..100 {
        ok("mkdir", fs::create_dir(g.p("dir/again")))?;
        ok("rmdir", fs::remove_dir(g.p("dir/again")))?;
    }
    same("links", meta(&g.p("dir"))?.nlink(), links)?;
    ok("utimens", utimes(&g.p("dir"), (OLD, 0), (OLD, 0)))?;
    same("names", names(&g.p("dir"))?.len(), 2)
}

fn sixty_subdirectories(g: &Ground) -> Outcome {
    for i in 0..60 {
        ok("mkdir", fs::create_dir(g.p(&format!("vacant/d{i}"))))?;
    }
    same("links", meta(&g.p("vacant"))?.nlink(), 62)?;
    for i in 0..30 {
        ok("rmdir", fs::remove_dir(g.p(&format!("vacant/d{i}"))))?;
    }
    same("links", meta(&g.p("vacant"))?.nlink(), 32)
}

fn file_by_mknod(g: &Ground) -> Outcome {
    let made = mknodat(
        CWD,
        g.p("new"),
        FileType::RegularFile,
        Mode::from_raw_mode(0o640),
        0,
    );
    ok("mknod", made)?;
    mode_is(&g.p("new"), 0o640)?;
    put(&g.p("new"), b"a file")?;
    same("size", meta(&g.p("new"))?.len(), 6)
}

/// Sends a word through a pipe that has two names.
fn through(write: PathBuf, read: &Path) -> Outcome {
    let writer = std::thread::spawn(move || fs::write(write, b"through"));
    let content = ok("read", fs::read(read))?;
    ok(
        "write",
        writer
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the writer panicked"))),
    )?;
    same("what came", content, b"through".to_vec())
}

fn pipe_by_two_names(g: &Ground) -> Outcome {
    ok("link", fs::hard_link(g.p("fifo"), g.p("dir/fifo")))?;
    through(g.p("fifo"), &g.p("dir/fifo"))
}

fn pipe_that_is_renamed(g: &Ground) -> Outcome {
    ok("rename", fs::rename(g.p("fifo"), g.p("dir/moved")))?;
    through(g.p("dir/moved"), &g.p("dir/moved"))
}

fn pipe_keeps_no_content(g: &Ground) -> Outcome {
    through(g.p("fifo"), &g.p("fifo"))?;
    same("size", meta(&g.p("fifo"))?.len(), 0)
}

/// Binds a socket in a directory by a short path: sun_path has 108 bytes.
fn bind(g: &Ground) -> Result<(UnixListener, PathBuf, File), String> {
    let dir = ok("open", File::open(g.root()))?;
    let short = PathBuf::from(format!(
        "/proc/self/fd/{}/s",
        std::os::fd::AsRawFd::as_raw_fd(&dir)
    ));
    let listener = ok("bind", UnixListener::bind(&short))?;
    // The path leads there as long as the directory is open.
    Ok((listener, short, dir))
}

fn socket_carries_bytes(g: &Ground) -> Outcome {
    let (listener, short, _dir) = bind(g)?;
    let mut one = ok("connect", UnixStream::connect(short))?;
    let (mut two, _) = ok("accept", listener.accept())?;
    ok("write", one.write_all(b"word"))?;
    let mut word = [0; 4];
    ok("read", two.read_exact(&mut word))?;
    same("what came", &word, b"word")?;
    holds("it is a socket", meta(&g.p("s"))?.file_type().is_socket())
}

fn socket_without_a_listener(g: &Ground) -> Outcome {
    let (listener, short, _dir) = bind(g)?;
    drop(listener);
    fails("connect", UnixStream::connect(short), &[Errno::CONNREFUSED])
}

fn socket_name_is_taken_once(g: &Ground) -> Outcome {
    let (_listener, short, _dir) = bind(g)?;
    fails("bind again", UnixListener::bind(&short), &[Errno::ADDRINUSE])?;
    ok("unlink", fs::remove_file(g.p("s")))?;
    ok("bind anew", UnixListener::bind(&short)).map(drop)
}

fn null_device_works(g: &Ground) -> Outcome {
    ok(
        "mknod",
        mknod(&g.p("null"), FileType::CharacterDevice, makedev(1, 3)),
    )?;
    put(&g.p("null"), b"into nothing")?;
    same("read", ok("read", fs::read(g.p("null")))?, Vec::new())
}

fn device_numbers_of_each_kind(g: &Ground) -> Outcome {
    for (i, (major, minor)) in [(0, 1), (1, 0), (255, 255), (256, 256), (4_095, 1_048_575)]
        .into_iter()
        .enumerate()
    {
        for (kind, letter) in [(FileType::CharacterDevice, 'c'), (FileType::BlockDevice, 'b')] {
            let path = g.p(&format!("vacant/{letter}{i}"));
            ok("mknod", mknod(&path, kind, makedev(major, minor)))?;
            same("device", meta(&path)?.rdev(), makedev(major, minor))?;
        }
    }
    Ok(())
}

fn unlinked_pipe_goes_on(g: &Ground) -> Outcome {
    let mut open = crate::short::both(&g.p("fifo"))?;
    ok("unlink", fs::remove_file(g.p("fifo")))?;
    ok("write", open.write_all(b"on"))?;
    let mut back = [0; 2];
    ok("read", open.read_exact(&mut back))?;
    same("what came", &back, b"on")?;
    gone(&g.p("fifo"))
}
