//! Deeds of somebody else: a thread that becomes another user. A process for each would be most of the time in a guest.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_NOW, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// Who does it.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A group besides.
    pub(crate) group: Option<u32>,
}

/// Somebody who owns nothing of the ground.
pub(crate) const OTHER: Who = Who {
    uid: 4001,
    gid: 4001,
    group: None,
};

impl Who {
    /// Does one deed; the words are in `perform`.
    pub(crate) fn does(self, words: &[&str], path: &Path) -> io::Result<()> {
        self.does_two(words, path, None)
    }

    /// Does a deed with two paths.
    pub(crate) fn does_two(self, words: &[&str], path: &Path, second: Option<&Path>) -> io::Result<()> {
        self.be(|| perform(words, path, second.unwrap_or(path)))
    }

    /// Does anything at all.
    pub(crate) fn be<T: Send>(self, deed: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                // On Linux a thread has credentials of its own, and these calls change no others (credentials(7)).
                set_thread_groups(&[Gid::from_raw(self.group.unwrap_or(self.gid))])?;
                set_thread_gid(Gid::from_raw(self.gid))?;
                set_thread_uid(Uid::from_raw(self.uid))?;
                deed()
            });
            let died = |_| Err(io::Error::other("the other user's thread panicked"));
            other.join().unwrap_or_else(died)
        })
    }
}

fn perform(words: &[&str], path: &Path, second: &Path) -> io::Result<()> {
    let [deed, rest @ ..] = words else {
        return Err(io::Error::other("too few words"));
    };
    let number = |text: &str, radix| u32::from_str_radix(text, radix).map_err(io::Error::other);
    match (*deed, rest) {
        ("read", []) => fs::File::open(path)?.read_to_end(&mut Vec::new()).map(|_| ()),
        ("write", []) => OpenOptions::new().write(true).open(path)?.write_all(b"W"),
        ("create", []) => OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map(|_| ()),
        ("truncate", []) => OpenOptions::new().write(true).open(path)?.set_len(1),
        ("list", []) => fs::read_dir(path)?.try_for_each(|entry| entry.map(|_| ())),
        ("stat", []) => fs::symlink_metadata(path).map(|_| ()),
        ("unlink", []) => fs::remove_file(path),
        ("mkdir", []) => fs::create_dir(path),
        ("rmdir", []) => fs::remove_dir(path),
        ("rename", []) => fs::rename(path, second),
        ("link", []) => fs::hard_link(path, second),
        ("symlink", []) => symlink("target", path),
        ("exec", []) => Command::new(path).status().map(|_| ()),
        ("chmod", [mode]) => fs::set_permissions(path, fs::Permissions::from_mode(number(mode, 8)?)),
        ("chown", [uid, gid]) => {
            let uid = if *uid == "-" { None } else { Some(number(uid, 10)?) };
            let gid = if *gid == "-" { None } else { Some(number(gid, 10)?) };
            std::os::unix::fs::lchown(path, uid, gid)
        }
        ("access", [asked]) => {
            let mut access = Access::EXISTS;
            for letter in asked.chars() {
                access |= match letter {
                    'r' => Access::READ_OK,
                    'w' => Access::WRITE_OK,
                    _ => Access::EXEC_OK,
                };
            }
            Ok(rustix::fs::accessat(CWD, path, access, AtFlags::empty())?)
        }
        ("utime", [when]) => {
            let at = match *when {
                "now" => Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                },
                _ => Timespec {
                    tv_sec: 1_234_567,
                    tv_nsec: 0,
                },
            };
            let times = Timestamps {
                last_access: at,
                last_modification: at,
            };
            Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
        }
        _ => Err(io::Error::other(format!("no such deed: {deed}"))),
    }
}
