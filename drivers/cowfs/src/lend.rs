//! Private files of overlays: a privileged process opens them, and lends the file server the descriptors.
//!
//! An overlay holds what its guest needs, a key of mode 0600 owned by root among it, and the file server is an ordinary user.
//! So somebody who may open such files ([`Lender`], run by root) does it on request, for regular files below the directories
//! registered with it and nothing else, for reading and nothing else, and passes the open file over a unix socket
//! (`SCM_RIGHTS`, unix(7)). The file server never holds the right to open anything itself.
//!
//! A request is `length 2 | root | length 2 | path`, numbers in little endian; the reply is one byte, 0 with the descriptor,
//! or 1 without.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Bytes of a path in a request (PATH_MAX).
const PATH_MAX: usize = 4096;

/// How long a borrower waits for an answer, and the lender for the rest of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests that are answered at the same time. The file server asks one after the other.
const ASKING_MAX: usize = 16;

/// Opens files for one user.
pub struct Lender {
    roots: BTreeMap<PathBuf, OwnedFd>,
    uid: u32,
}

impl Lender {
    /// Lends regular files of layers that are one of `roots`, which must be there, or lie below one, to processes of user `uid`.
    ///
    /// # Errors
    /// When a root cannot be opened.
    pub fn new(roots: &[PathBuf], uid: u32) -> io::Result<Self> {
        let open = |root: &PathBuf| -> io::Result<(PathBuf, OwnedFd)> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok((root.clone(), rustix::fs::open(root, flags, Mode::empty())?))
        };
        Ok(Self {
            roots: roots.iter().map(open).collect::<io::Result<_>>()?,
            uid,
        })
    }

    /// Answers on `socket`, which is made for the user (mode 0600), until accepting fails. A file system that hangs keeps the few
    /// that ask for its files waiting, and nobody else.
    ///
    /// # Errors
    /// When the socket cannot be made or no longer be used.
    pub fn serve(&self, socket: &Path) -> io::Result<()> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(socket, Some(self.uid), None)?;
        let asking = &AtomicUsize::new(0);
        std::thread::scope(|scope| {
            loop {
                let (stream, _unnamed) = listener.accept()?;
                if asking.fetch_add(1, Ordering::Relaxed) >= ASKING_MAX {
                    asking.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!("too many ask at a time");
                    continue;
                }
                scope.spawn(move || {
                    if let Err(error) = self.answer(&stream) {
                        tracing::debug!(%error, "lending");
                    }
                    asking.fetch_sub(1, Ordering::Relaxed);
                });
            }
        })
    }

    /// One request, from the right user.
    fn answer(&self, mut stream: &UnixStream) -> io::Result<()> {
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        if peer.uid.as_raw() != self.uid {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (root, path) = (read_path(&mut stream)?, read_path(&mut stream)?);
        let file = match self.open(&root, &path) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(root = %root.display(), path = %path.display(), %error, "not lent");
                return stream.write_all(&[1]);
            }
        };
        let descriptors = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        rustix::net::sendmsg(stream, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The directory of a layer: a root, or one below it that no link leads to.
    fn layer(&self, dir: &Path) -> io::Result<OwnedFd> {
        let inside = |(root, fd): (&PathBuf, &OwnedFd)| -> Option<io::Result<OwnedFd>> {
            let inner = dir.strip_prefix(root).ok()?;
            if inner.as_os_str().is_empty() {
                return Some(fd.try_clone());
            }
            // A layer may be a mount of its own.
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Some(rustix::fs::openat2(fd, inner, flags, Mode::empty(), resolve).map_err(io::Error::from))
        };
        let known = self.roots.iter().find_map(inside);
        known.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    }

    /// A regular file of a layer, for reading. No link is followed and no mount is entered, whatever the path says.
    fn open(&self, dir: &Path, path: &Path) -> io::Result<OwnedFd> {
        let root = &self.layer(dir)?;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        // A look first, since to open a device or a pipe may do something.
        let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let seen = rustix::fs::openat2(root, path, look, Mode::empty(), resolve)?;
        let regular =
            |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular(&rustix::fs::fstat(&seen)?) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?;
        if !regular(&rustix::fs::fstat(&file)?) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(file)
    }
}

/// Whether a lender answers on `socket`.
pub(crate) fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Asks a [`Lender`].
pub struct Borrower {
    socket: PathBuf,
    /// One request at a time.
    asking: Mutex<()>,
}

impl Borrower {
    /// Asks on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            asking: Mutex::new(()),
        }
    }

    /// The regular file at `path` below `root`, open for reading.
    ///
    /// # Errors
    /// `PermissionDenied` where the lender does not give it.
    pub fn open(&self, root: &Path, path: &[u8]) -> io::Result<File> {
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = Vec::new();
        for path in [root.as_os_str().as_bytes(), path] {
            let len = u16::try_from(path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            request.extend_from_slice(&len.to_le_bytes());
            request.extend_from_slice(path);
        }
        stream.write_all(&request)?;
        let mut verdict = [1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut verdict)];
        let received = rustix::net::recvmsg(&stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let file = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match file {
            Some(file)
                if received.bytes == 1 && verdict == [0] && !received.flags.contains(ReturnFlags::CTRUNC) =>
            {
                Ok(File::from(file))
            }
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

fn read_path(stream: &mut &UnixStream) -> io::Result<PathBuf> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let len = usize::from(u16::from_le_bytes(len));
    if len > PATH_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut path = vec![0; len];
    stream.read_exact(&mut path)?;
    Ok(OsStr::from_bytes(&path).into())
}
