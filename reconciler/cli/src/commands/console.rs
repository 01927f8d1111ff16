//! `xeno logs` and `xeno console`: what a guest says, and saying something to it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use xeno_agent::api::SliverStatus;
use xeno_model::id::SliverId;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, sliver, wait};
use crate::output;

/// How often a followed file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What leaves the console: Ctrl-].
const DETACH: u8 = 0x1d;

/// How long a guest has to take what was typed before the console is left. One that stands still takes nothing.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Bytes searched from the end of a file for its last lines.
const TAIL_BYTES_MAX: u64 = 16 << 20;

/// Shows what a guest wrote to its console.
#[derive(Args)]
pub(crate) struct Logs {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    #[command(flatten)]
    agent: AgentArgs,
    /// Goes on with what it writes.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

/// Opens a guest's console; Ctrl-] leaves it.
#[derive(Args)]
pub(crate) struct Console {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(crate) fn logs(args: &Logs) -> Outcome {
    let status = describe(&args.agent, &args.sliver)?;
    let path = Path::new(&status.console_log);
    let failed = |error: &io::Error| Failure::doing(format_args!("read {}", path.display()), error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::said(format!(
                "{} has written nothing: it was never started here",
                args.sliver
            ))
            .hint(format!("`xeno why {}` says why", args.sliver)));
        }
        Err(error) => return Err(failed(&error)),
    };
    if let Some(lines) = args.tail {
        let at = last_lines(&mut file, lines).map_err(|error| failed(&error))?;
        file.seek(SeekFrom::Start(at)).map_err(|error| failed(&error))?;
    }
    let mut screen = Screen::new();
    let mut buffer = vec![0; 64 << 10];
    let mut position = file.stream_position().map_err(|error| failed(&error))?;
    loop {
        match file.read(&mut buffer).map_err(|error| failed(&error))? {
            0 if !args.follow => return Ok(Exit::Done),
            0 => {
                std::thread::sleep(LOOK_EVERY);
                // A new start of the guest begins a new file, or the same one anew.
                if let Ok(there) = std::fs::metadata(path) {
                    let same = file.metadata().is_ok_and(|open| inode(&open) == inode(&there));
                    if !same {
                        file = File::open(path).map_err(|error| failed(&error))?;
                        position = 0;
                    } else if there.len() < position {
                        position = file.seek(SeekFrom::Start(0)).map_err(|error| failed(&error))?;
                    }
                }
            }
            length => {
                position += length as u64;
                screen.write(&buffer[..length])?;
            }
        }
    }
}

pub(crate) fn console(args: &Console) -> Outcome {
    let status = describe(&args.agent, &args.sliver)?;
    let path = Path::new(&status.console_socket);
    let socket = UnixStream::connect(path).map_err(|error| {
        Failure::doing(format_args!("open the console {}", path.display()), &error)
            .hint(format!("is it running? `xeno describe {}`", args.sliver))
    })?;
    output::note(&format!("console of {}; Ctrl-] leaves it", args.sliver));
    let raw = Raw::enter()?;
    let mut from_guest = socket
        .try_clone()
        .map_err(|error| Failure::doing("open the console", &error))?;
    let mut to_guest = socket;
    // One end closes with the reader, and wakes the loop below at the other.
    let (reading, ended) = UnixStream::pair().map_err(|error| Failure::doing("open the console", &error))?;
    // Ends with the socket, which the loop below shuts down.
    let reader = std::thread::spawn(move || {
        let _reading = reading;
        let mut out = io::stdout();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from_guest.read(&mut buffer) {
            if out
                .write_all(&buffer[..length])
                .and_then(|()| out.flush())
                .is_err()
            {
                break;
            }
        }
    });
    let end = type_to(&io::stdin(), &mut to_guest, &ended);
    let taken = end == End::Closed || is_taken(&to_guest, &ended, TAKEN_WITHIN);
    // Both ends may be closed already.
    let _ = to_guest.shutdown(Shutdown::Both);
    let _ = reader.join();
    drop(raw);
    match end {
        End::Closed => output::note("\nthe guest has closed its console"),
        End::Left | End::NoMoreKeys if taken => output::note("\nleft the console"),
        End::Left => output::note("\nleft the console; the guest has not taken all that was typed"),
        End::NoMoreKeys => {
            let failure = Failure::said("the guest has not taken all that was typed");
            return Err(failure.hint(format!("does it stand still? `xeno describe {}`", args.sliver)));
        }
    }
    Ok(Exit::Done)
}

/// Waits until whoever carries keys to the guest has taken all that was sent, which it shows by closing its side. What it has not
/// read when this side goes as a whole is lost: QEMU does not look for it then.
fn is_taken(to_guest: &UnixStream, ended: &impl AsFd, within: Duration) -> bool {
    let Ok(within) = Timespec::try_from(within) else {
        return false;
    };
    if to_guest.shutdown(Shutdown::Write).is_err() {
        return false;
    }
    poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&within)).is_ok_and(|ready| ready > 0)
}

/// How a console came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By the keys.
    Left,
    /// There are no more of them.
    NoMoreKeys,
    /// The guest's end is gone.
    Closed,
}

/// Hands keys to the guest until they end, one of them leaves, or `ended` is closed at its other end.
fn type_to(keys_from: &impl AsFd, to_guest: &mut impl Write, ended: &impl AsFd) -> End {
    let mut keys = [0; 256];
    loop {
        let mut wakers = [
            PollFd::new(keys_from, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut wakers, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return End::NoMoreKeys,
            Ok(_) => {}
        }
        if !wakers[1].revents().is_empty() {
            return End::Closed;
        }
        // Read without a buffer between: what that held, `poll` would not tell of.
        let length = match rustix::io::read(keys_from, &mut keys) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(length @ 1..) => length,
            Ok(0) | Err(_) => return End::NoMoreKeys,
        };
        let detach = keys[..length].iter().position(|key| *key == DETACH);
        if to_guest.write_all(&keys[..detach.unwrap_or(length)]).is_err() {
            return End::Closed;
        }
        if detach.is_some() {
            return End::Left;
        }
    }
}

fn describe(agent: &AgentArgs, sliver: &SliverId) -> Outcome<SliverStatus> {
    wait(async { Ok(agent.client().describe(sliver).await?) })
}

/// Where the last `lines` lines of a file begin.
fn last_lines(file: &mut File, lines: usize) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let from = length.saturating_sub(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    Read::by_ref(file).take(length - from).read_to_end(&mut end)?;
    let body = end.strip_suffix(b"\n").unwrap_or(&end);
    let mut breaks = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at as u64 + 1);
    Ok(match lines {
        0 => length,
        lines => breaks.nth(lines - 1).map_or(from, |at| from + at),
    })
}

fn inode(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Standard output for what a guest wrote: a terminal gets text only, since a guest may write any escape sequence.
struct Screen {
    strip: Option<anstream::adapter::StripBytes>,
}

impl Screen {
    fn new() -> Self {
        Self {
            strip: io::stdout()
                .is_terminal()
                .then(anstream::adapter::StripBytes::new),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match &mut self.strip {
            None => out.write_all(bytes)?,
            Some(strip) => {
                for part in strip.strip_next(bytes) {
                    out.write_all(part)?;
                }
            }
        }
        out.flush()
    }
}

/// The terminal without line editing, until dropped. Nothing where standard input is not a terminal.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Outcome<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let failed = |error: rustix::io::Errno| Failure::doing("set up the terminal", &error);
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // There is nobody left to tell.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_with_and_without_a_final_break() {
        let check = |text: &str, lines: usize, expect: &str| {
            let mut file = tempfile();
            file.write_all(text.as_bytes()).expect("written");
            let at = last_lines(&mut file, lines).expect("found");
            assert_eq!(
                &text[usize::try_from(at).expect("small")..],
                expect,
                "{text:?} {lines}"
            );
        };
        check("a\nb\nc\n", 1, "c\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\n", 9, "a\nb\n");
        check("a\n", 0, "");
        check("", 3, "");
    }

    #[test]
    fn the_console_ends_with_the_guest_or_with_the_keys_and_waits_for_neither() {
        let (keyboard, mut fingers) = UnixStream::pair().expect("a pair");
        let (reading, ended) = UnixStream::pair().expect("a pair");
        let mut typed = Vec::new();
        fingers.write_all(b"ls\n\x1dlost").expect("typed");
        assert_eq!(type_to(&keyboard, &mut typed, &ended), End::Left);
        assert_eq!(typed, b"ls\n");
        // Nobody presses a key.
        drop(reading);
        assert_eq!(type_to(&keyboard, &mut typed, &ended), End::Closed);
    }

    #[test]
    fn the_console_is_left_once_all_is_taken_that_was_typed() {
        let (mut to_guest, mut guest) = UnixStream::pair().expect("a pair");
        let (reading, ended) = UnixStream::pair().expect("a pair");
        let (keyboard, mut fingers) = UnixStream::pair().expect("a pair");
        fingers.write_all(b"reboot\n").expect("typed");
        drop(fingers);
        assert_eq!(type_to(&keyboard, &mut to_guest, &ended), End::NoMoreKeys);
        // One that stands still.
        assert!(!is_taken(&to_guest, &ended, Duration::from_millis(1)));
        let taking = std::thread::spawn(move || {
            let mut heard = String::new();
            guest.read_to_string(&mut heard).expect("heard");
            drop((guest, reading));
            heard
        });
        assert!(is_taken(&to_guest, &ended, Duration::from_secs(600)));
        assert_eq!(taking.join().expect("taken"), "reboot\n");
    }

    fn tempfile() -> File {
        tempfile::tempfile().expect("a file")
    }
}
