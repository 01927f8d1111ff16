//! Consoles of guests: what they print is kept in logs that stay bounded, and what a person types reaches them.
//!
//! `xenconsoled` gives each guest a terminal, named in xenstore, and appends all that is printed to a log that grows for
//! ever. `xl console` is no help to a daemon: it wants a terminal of its own. So the terminal is opened here, for one
//! person at a time, behind a unix socket in the sliver's private directory (xenconsoled.8, `tools/console/client/main.c`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xeno_model::id::{DomainUuid, SliverId};

use crate::chain;
use crate::record::{Record, path_of};
use crate::spec::name_of;
use crate::store::{Connection, StoreError};

/// Longest log of a console. What is beyond is cut when the node is looked at.
const LOG_LEN_MAX: u64 = 8 << 20;
/// How much of the end of a log is kept beside it when it is cut.
const LOG_LEN_KEPT: u64 = 1 << 20;
/// What is carried at a time.
const PIECE_LEN: usize = 4096;
/// A person who does not read for so long is no longer there.
const READS_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// Xenstore does not say.
    #[error("look for the terminal of {sliver}")]
    Store {
        /// Whose.
        sliver: SliverId,
        /// Why.
        source: StoreError,
    },
    /// No domain of ours, or none that has a terminal.
    #[error("{0} has no domain with a console")]
    None(SliverId),
    /// What xenstore names is no terminal.
    #[error("{0:?} is no terminal")]
    NoTerminal(String),
    /// It cannot be opened or used.
    #[error("use the terminal {path}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// The sockets that are served, one for each sliver that was asked for.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    served: Mutex<BTreeMap<SliverId, JoinHandle<()>>>,
}

/// Where a domain of a sliver is found.
#[derive(Clone, Debug)]
pub(crate) struct Whose {
    pub(crate) sliver: SliverId,
    pub(crate) owner: String,
    pub(crate) xenstored: PathBuf,
}

impl Consoles {
    /// Serves the console of a sliver at `socket`, from now on and until this is dropped. Where that cannot be, whoever
    /// connects finds nobody there.
    pub(crate) fn serve(&self, socket: &Path, whose: Whose) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|_, task| !task.is_finished());
        if served.contains_key(&whose.sliver) && socket.exists() {
            return;
        }
        // One that an earlier agent left.
        let listener = match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(socket),
        };
        match listener {
            Ok(listener) => {
                let sliver = whose.sliver.clone();
                if let Some(before) = served.insert(sliver, runtime.spawn(answer(listener, whose))) {
                    before.abort();
                }
            }
            // It was never started here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(sliver = %whose.sliver, %error, "a console cannot be served"),
        }
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        for task in self
            .served
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            task.abort();
        }
    }
}

/// One person at a time: two would each get half of what is printed.
async fn answer(listener: UnixListener, whose: Whose) {
    loop {
        let Ok((mut person, _)) = listener.accept().await else {
            // Out of descriptors, perhaps.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let ended = async {
            let path = terminal_of(&whose).await?;
            let terminal = open(&path)?;
            let failed = |source| ConsoleError::Io { path, source };
            carry(&mut person, terminal, &listener).await.map_err(failed)
        };
        if let Err(error) = ended.await {
            let said = format!("xeno: cannot {}\r\n", chain(&error));
            // There may be nobody left to tell.
            let _told = timeout(READS_WITHIN, person.write_all(said.as_bytes())).await;
        }
    }
}

/// The terminal of a sliver's domain: that of the domain with its name and our record.
async fn terminal_of(whose: &Whose) -> Result<String, ConsoleError> {
    let sliver = &whose.sliver;
    let failed = |source| ConsoleError::Store {
        sliver: sliver.clone(),
        source,
    };
    let mut store = Connection::open(&whose.xenstored).await.map_err(failed)?;
    let domains = store.directory("/local/domain").await.map_err(failed)?;
    for id in domains.into_iter().flatten() {
        let path = format!("/local/domain/{id}");
        let name = store.read_text(&format!("{path}/name")).await.map_err(failed)?;
        if name.as_deref() != Some(name_of(sliver).as_str()) {
            continue;
        }
        let vm = store.read_text(&format!("{path}/vm")).await.map_err(failed)?;
        let uuid = vm.and_then(|vm| DomainUuid::parse(vm.strip_prefix("/vm/")?).ok());
        let Some(uuid) = uuid else { continue };
        let record = store.read(&path_of(&uuid)).await.map_err(failed)?;
        let is_ours = record
            .and_then(|text| Record::read(&text).ok())
            .is_some_and(|record| record.owner == whose.owner && record.sliver == *sliver);
        if is_ours
            && let Some(terminal) = store
                .read_text(&format!("{path}/console/tty"))
                .await
                .map_err(failed)?
        {
            return Ok(terminal);
        }
    }
    Err(ConsoleError::None(sliver.clone()))
}

/// Opens a pseudo-terminal as `xl console` does: nothing is echoed or edited on this side.
fn open(path: &str) -> Result<OwnedFd, ConsoleError> {
    let number = path.strip_prefix("/dev/pts/");
    if !number
        .is_some_and(|number| (1..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(ConsoleError::NoTerminal(path.to_owned()));
    }
    let failed = |error: rustix::io::Errno| ConsoleError::Io {
        path: path.to_owned(),
        source: error.into(),
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&terminal).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(ConsoleError::NoTerminal(path.to_owned()));
    }
    make_raw(&terminal).map_err(failed)?;
    Ok(terminal)
}

fn make_raw(terminal: &OwnedFd) -> rustix::io::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    settings.make_raw();
    tcsetattr(terminal, OptionalActions::Now, &settings)
}

#[expect(
    unsafe_code,
    reason = "the descriptor is owned, so it stays the same and open for as long as it is registered"
)]
fn wakes(terminal: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same descriptor, which is open until it is dropped, and that is after it has
    // been taken out of the poller again.
    Ok(unsafe { AsyncFd::register(terminal) }?)
}

/// Carries between a person and a terminal until one of them is gone. Who else comes meanwhile is told so.
async fn carry(person: &mut UnixStream, terminal: OwnedFd, listener: &UnixListener) -> io::Result<()> {
    let terminal = wakes(terminal)?;
    let (mut from_person, mut to_person) = person.split();
    let shown = async {
        let mut piece = [0; PIECE_LEN];
        loop {
            let read = terminal
                .async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut piece)?))
                .await;
            let length = match read {
                // The daemon has closed its end (pty(7)).
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(());
                }
                Ok(0) => return Ok(()),
                read => read?,
            };
            match timeout(READS_WITHIN, to_person.write_all(&piece[..length])).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(()),
            }
        }
    };
    let typed = async {
        let mut piece = [0; PIECE_LEN];
        loop {
            let Ok(length @ 1..) = from_person.read(&mut piece).await else {
                return Ok(());
            };
            let mut left = &piece[..length];
            while !left.is_empty() {
                // Waits where the guest does not take it: so does the person.
                let taken = terminal
                    .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, left)?))
                    .await?;
                left = &left[taken..];
            }
        }
    };
    let others = async {
        loop {
            if let Ok((mut other, _)) = listener.accept().await {
                let _told = timeout(
                    Duration::from_secs(1),
                    other.write_all(b"xeno: somebody else has this console open\r\n"),
                )
                .await;
            } else {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    tokio::select! {
        ended = shown => ended,
        ended = typed => ended,
        () = others => Ok(()),
    }
}

/// Where what an earlier domain printed, or what was cut, is kept.
pub(crate) fn earlier(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// Cuts a log that has become too long; its end is kept beside it. The daemon appends (`O_APPEND`), so it goes on at the
/// beginning. What it writes between the two is lost.
pub(crate) fn bound(log: &Path) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0))
        .open(log);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() <= LOG_LEN_MAX {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(metadata.len() - LOG_LEN_KEPT))?;
    let kept = earlier(log);
    match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copy = File::create_new(&kept)?;
    io::copy(&mut Read::by_ref(&mut file).take(LOG_LEN_KEPT), &mut copy)?;
    file.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn a_log_that_is_too_long_is_cut_and_its_end_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("guest-xeno.web-0.log");
        assert!(!bound(&log).unwrap(), "one that is not there is not too long");
        let mut daemon = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        daemon.write_all(&vec![b'a'; 8 << 20]).unwrap();
        assert!(!bound(&log).unwrap(), "it may be as long as this");
        daemon.write_all(b"the end").unwrap();
        assert!(bound(&log).unwrap());
        daemon.write_all(b"and on").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"and on");
        let kept = std::fs::read(dir.path().join("guest-xeno.web-0.log.1")).unwrap();
        assert_eq!(kept.len(), 1 << 20);
        assert!(kept.ends_with(b"athe end"));
    }

    #[test]
    fn only_a_terminal_is_opened() {
        let check = |path: &str| {
            let error = open(path).unwrap_err();
            assert!(matches!(error, ConsoleError::NoTerminal(_)), "{path}: {error}");
        };
        check("/etc/passwd");
        check("/dev/pts/../../etc/passwd");
        check("/dev/pts/");
        check("/dev/pts/ptmx");
    }

    #[tokio::test]
    async fn a_person_and_a_guest_hear_each_other_until_one_of_them_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("console.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let guest = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&guest).unwrap();
        unlockpt(&guest).unwrap();
        let path = ptsname(&guest, Vec::new()).unwrap().into_string().unwrap();
        let carried = tokio::spawn(async move {
            let (mut person, _) = listener.accept().await.unwrap();
            carry(&mut person, open(&path).unwrap(), &listener).await
        });
        let mut guest = File::from(guest);
        let mut person = UnixStream::connect(&socket).await.unwrap();
        person.write_all(b"ls\r").await.unwrap();
        let (mut guest, heard) = tokio::task::spawn_blocking(move || {
            let mut heard = [0; 3];
            guest.read_exact(&mut heard).unwrap();
            guest.write_all(b"bin etc\r\n").unwrap();
            (guest, heard)
        })
        .await
        .unwrap();
        assert_eq!(&heard, b"ls\r", "as it was typed, and not echoed");
        let mut shown = [0; 9];
        person.read_exact(&mut shown).await.unwrap();
        assert_eq!(&shown, b"bin etc\r\n");
        let mut other = UnixStream::connect(&socket).await.unwrap();
        let mut said = String::new();
        other.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("somebody else"), "{said}");
        guest.flush().unwrap();
        drop(guest);
        carried.await.unwrap().unwrap();
        assert_eq!(person.read(&mut shown).await.unwrap(), 0);
    }
}
