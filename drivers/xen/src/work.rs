//! Which `xl` is at work for a sliver: one that an agent started which may be gone since.
//!
//! It is recognised by what it was given: a path in the sliver's own directory. The process that `xl create` and
//! `xl restore` leave behind to wait for the end of their domain has the same arguments, and is told apart by leading a
//! session of its own (xen.git `tools/xl/xl_utils.c`, `do_daemonize`: daemon(3)).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Arguments that are looked at.
const ARGS_LEN_MAX: usize = 64 << 10;

/// Commands of xl that move a domain, at one end and at the other.
const MOVES: [&str; 3] = ["migrate", "migrate-receive", "remus"];

/// An xl that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtWork {
    pid: i32,
    args: Vec<u8>,
}

/// The xl that works in one of `dirs`, if there is one. Blocks.
pub(crate) fn look(dirs: &[PathBuf]) -> io::Result<Option<AtWork>> {
    find(|args| works_in(args, dirs))
}

/// Whether an xl moves a domain for somebody else, whichever it is: it may be named by number or by name, over any
/// transport. One that moves a sliver of ours was given a path below `ours`. Blocks.
pub(crate) fn is_any_moving(ours: &Path) -> io::Result<bool> {
    let ours = [ours.to_owned()];
    Ok(find(|args| moves(args) && !works_in(args, &ours))?.is_some())
}

fn find(wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<AtWork>> {
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Errors are of processes that end meanwhile.
        let Ok(args) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if wanted(&args) && !leads_session(&entry.path(), pid) {
            return Ok(Some(AtWork { pid, args }));
        }
    }
    Ok(None)
}

/// Whether these are arguments of an xl that was given a path below one of `dirs`.
fn works_in(args: &[u8], dirs: &[PathBuf]) -> bool {
    words_of_xl(args).any(|word| {
        // Quoted for the shell that starts a transport.
        let path = Path::new(word.trim_start_matches('\''));
        dirs.iter().any(|dir| path.starts_with(dir))
    })
}

/// Whether these are arguments of an xl that moves a domain.
fn moves(args: &[u8]) -> bool {
    words_of_xl(args).any(|word| MOVES.contains(&word))
}

/// The words behind the program's name, if that is xl.
fn words_of_xl(args: &[u8]) -> impl Iterator<Item = &str> {
    let args = if args.len() > ARGS_LEN_MAX { &[] } else { args };
    let words = args
        .split(|byte| *byte == 0)
        .filter_map(|word| std::str::from_utf8(word).ok());
    // The second, where xl is a script.
    let at = words
        .clone()
        .take(2)
        .position(|word| Path::new(word).file_name().is_some_and(|name| name == "xl"));
    words.skip(at.map_or(usize::MAX, |at| at + 1))
}

/// The sixth field of `/proc/PID/stat` is its session (proc(5)); the second may hold anything, in parentheses.
fn leads_session(process: &Path, pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(process.join("stat")) else {
        return false;
    };
    let session = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(3));
    session.and_then(|session| session.parse().ok()) == Some(pid)
}

impl AtWork {
    /// Kills it, after making sure that it is still the same.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        let held: OwnedFd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // From here on the number cannot come to mean another process without the signal failing.
        match fs::read(format!("/proc/{}/cmdline", self.pid)) {
            Ok(args) if args == self.args => {}
            _ => return Ok(()),
        }
        match pidfd_send_signal(&held, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xl_is_known_by_the_paths_it_was_given() {
        let dirs = [PathBuf::from("/state/web-0"), PathBuf::from("/images/web-0")];
        let check = |args: &[&str], expected: bool| {
            assert_eq!(works_in(args.join("\0").as_bytes(), &dirs), expected, "{args:?}");
        };
        check(
            &[
                "/usr/lib/xen-4.17/bin/xl",
                "create",
                "-p",
                "/state/web-0/domain.cfg",
                "",
            ],
            true,
        );
        check(
            &["/bin/sh", "/usr/sbin/xl", "create", "/state/web-0/domain.cfg"],
            true,
        );
        check(&["xl", "save", "-p", "7", "/images/web-0/1.save.tmp"], true);
        check(&["xl", "save", "-p", "7", "/images/web-01/1.save.tmp"], false);
        check(&["xl", "list"], false);
        check(&["xl", "migrate", "-s", "transport", "7", "node-b"], false);
        check(
            &[
                "xl",
                "migrate",
                "-s",
                "'/usr/gate'",
                "7",
                "'/state/web-0/gate.sock'",
            ],
            true,
        );
        check(
            &["/usr/gate", "/state/web-0/gate.sock", "xl", "migrate-receive"],
            false,
        );
        check(&["vi", "/state/web-0/domain.cfg"], false);
        check(&["grep", "x", "xl", "/state/web-0/domain.cfg"], false);
    }

    #[test]
    fn an_xl_that_moves_a_domain_is_known_by_its_command() {
        let check = |args: &[&str], expected: bool| {
            assert_eq!(moves(args.join("\0").as_bytes()), expected, "{args:?}");
        };
        check(&["xl", "migrate", "-s", "transport", "7", "node-b"], true);
        check(&["/bin/sh", "/usr/sbin/xl", "-v", "migrate-receive"], true);
        check(&["xl", "save", "7", "/images/migrated"], false);
        check(&["man", "migrate", "xl"], false);
    }
}
