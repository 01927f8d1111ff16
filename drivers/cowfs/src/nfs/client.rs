//! A small NFSv3 client, for tests and measurements.
//!
//! Calls may be made concurrently on one connection; replies are matched by xid. It trusts nothing less than the
//! server does, but it has no time limits: whoever calls sets them.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::ops::{self, MAX_HANDLE, Procedure, read_attr, read_status, write_sattr};
use super::rpc::Records;
use super::xdr::{Malformed, Reader, Writer, XdrResult};
use super::{mount, rpc};
use crate::attr::{Attr, Device, FileType, SetAttr, Time};
use crate::service::{Caller, CreateMode, Stability, Status};

/// A handle as the server gave it.
pub type WireHandle = Vec<u8>;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone,
    /// Sending failed.
    #[error("sending")]
    Io(#[from] io::Error),
    /// The reply cannot be decoded.
    #[error("decoding the reply")]
    Malformed(#[from] Malformed),
    /// RPC refused the call: `(0, accept_stat)` or `(1, reject_stat, auth_stat)` folded into two numbers.
    #[error("refused by RPC: {0}, {1}")]
    Refused(u32, u32),
    /// NFS refused it.
    #[error(transparent)]
    Status(#[from] Status),
    /// MOUNT refused it (`mountstat3`).
    #[error("mount refused: {0}")]
    Mount(u32),
}

/// Result of a call.
pub type ClientResult<T> = Result<T, ClientError>;

/// An object as replies describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its handle.
    pub handle: WireHandle,
    /// Its inode number and attributes.
    pub attr: Option<(u64, Attr)>,
}

/// `wcc_data`: size, mtime and ctime before, inode number and attributes after.
pub type Wcc = (Option<(u64, Time, Time)>, Option<(u64, Attr)>);

/// An entry of READDIR or READDIRPLUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Inode number.
    pub fileid: u64,
    /// Name.
    pub name: Vec<u8>,
    /// Where to go on after it.
    pub cookie: u64,
    /// With READDIRPLUS: what it names.
    pub found: Option<Found>,
}

type Waiting = Arc<Mutex<Option<HashMap<u32, oneshot::Sender<Bytes>>>>>;

/// One connection to a server.
pub struct Client {
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    waiting: Waiting,
    reading: JoinHandle<()>,
    next_xid: AtomicU32,
    credential: Vec<u8>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// AUTH_SYS credential and empty verifier, as they stand in a call.
fn encode_credential(machine: &str, caller: &Caller) -> Vec<u8> {
    let mut body = Writer::default();
    body.u32(0);
    body.opaque(machine.as_bytes());
    body.u32(caller.uid);
    body.u32(caller.gid);
    body.u32(u32::try_from(caller.groups.len()).unwrap_or(u32::MAX));
    for &group in &caller.groups {
        body.u32(group);
    }
    let mut writer = Writer::default();
    writer.u32(1);
    writer.opaque(&body.into_bytes());
    writer.u64(0);
    writer.into_bytes()
}

impl Client {
    /// Speaks for `caller` on `machine` over `stream`.
    pub fn new<S>(stream: S, machine: &str, caller: &Caller) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        Self {
            writer: tokio::sync::Mutex::new(Box::new(writer)),
            reading: tokio::spawn(read_replies(reader, Arc::clone(&waiting))),
            waiting,
            next_xid: AtomicU32::new(1),
            credential: encode_credential(machine, caller),
        }
    }

    /// Begins counting xids at `xid`.
    #[must_use]
    pub fn with_first_xid(self, xid: u32) -> Self {
        self.next_xid.store(xid, Ordering::Relaxed);
        self
    }

    /// Makes any call; returns what follows the head of a successful reply.
    pub async fn call(
        &self,
        program: u32,
        version: u32,
        procedure: u32,
        arguments: &[u8],
    ) -> ClientResult<Bytes> {
        let xid = self.next_xid.fetch_add(1, Ordering::Relaxed);
        self.call_as(xid, program, version, procedure, arguments).await
    }

    /// Makes any call under an xid of the caller's choice.
    pub async fn call_as(
        &self,
        xid: u32,
        program: u32,
        version: u32,
        procedure: u32,
        arguments: &[u8],
    ) -> ClientResult<Bytes> {
        let mut call = Writer::default();
        call.u32(0);
        for word in [xid, 0, 2, program, version, procedure] {
            call.u32(word);
        }
        call.array(&self.credential);
        call.array(arguments);
        let (sender, receiver) = oneshot::channel();
        match &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(waiting) => waiting.insert(xid, sender),
            None => return Err(ClientError::Gone),
        };
        self.writer.lock().await.write_all(&rpc::finish(call)).await?;
        let reply = receiver.await.map_err(|_| ClientError::Gone)?;
        let mut reader = Reader::new(&reply);
        let (_xid, _reply, denied) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if denied != 0 {
            let why = reader.u32()?;
            return Err(ClientError::Refused(1 + why, reader.u32()?));
        }
        reader.u32()?;
        reader.opaque(400)?;
        match reader.u32()? {
            0 => Ok(reply.slice_ref(reader.rest())),
            why => Err(ClientError::Refused(0, why)),
        }
    }

    /// Makes an NFS call whose reply begins with a status; returns what follows if that is NFS3_OK.
    pub async fn nfs(&self, procedure: Procedure, arguments: &[u8]) -> ClientResult<Bytes> {
        let reply = self
            .call(ops::PROGRAM, ops::VERSION, procedure as u32, arguments)
            .await?;
        status_first(&reply)
    }

    /// MNT.
    pub async fn mount(&self, path: &str) -> ClientResult<WireHandle> {
        let arguments = encode(|w| w.opaque(path.as_bytes()));
        let reply = self.call(mount::PROGRAM, mount::VERSION, 1, &arguments).await?;
        let mut reader = Reader::new(&reply);
        match reader.u32()? {
            0 => Ok(reader.opaque(MAX_HANDLE)?.to_vec()),
            status => Err(ClientError::Mount(status)),
        }
    }

    /// GETATTR.
    pub async fn getattr(&self, handle: &[u8]) -> ClientResult<(u64, Attr)> {
        let reply = self
            .nfs(Procedure::GetAttr, &encode(|w| w.opaque(handle)))
            .await?;
        Ok(read_attr(&mut Reader::new(&reply))?)
    }

    /// SETATTR.
    pub async fn setattr(&self, handle: &[u8], set: &SetAttr, guard: Option<Time>) -> ClientResult<Wcc> {
        let arguments = encode(|w| {
            w.opaque(handle);
            write_sattr(w, set);
            w.bool(guard.is_some());
            if let Some(guard) = guard {
                w.u32(u32::try_from(guard.seconds).unwrap_or(u32::MAX));
                w.u32(guard.nanos);
            }
        });
        let reply = self.nfs(Procedure::SetAttr, &arguments).await?;
        Ok(read_wcc(&mut Reader::new(&reply))?)
    }

    /// LOOKUP.
    pub async fn lookup(&self, dir: &[u8], name: &[u8]) -> ClientResult<Found> {
        let reply = self.nfs(Procedure::Lookup, &encode_place(dir, name)).await?;
        let mut reader = Reader::new(&reply);
        let handle = reader.opaque(MAX_HANDLE)?.to_vec();
        let attr = read_post(&mut reader)?;
        Ok(Found { handle, attr })
    }

    /// ACCESS.
    pub async fn access(&self, handle: &[u8], wanted: u32) -> ClientResult<u32> {
        let arguments = encode(|w| {
            w.opaque(handle);
            w.u32(wanted);
        });
        let reply = self.nfs(Procedure::Access, &arguments).await?;
        let mut reader = Reader::new(&reply);
        read_post(&mut reader)?;
        Ok(reader.u32()?)
    }

    /// READLINK.
    pub async fn readlink(&self, handle: &[u8]) -> ClientResult<Vec<u8>> {
        let reply = self
            .nfs(Procedure::ReadLink, &encode(|w| w.opaque(handle)))
            .await?;
        let mut reader = Reader::new(&reply);
        read_post(&mut reader)?;
        Ok(reader.opaque(usize::MAX)?.to_vec())
    }

    /// READ: the content, and whether it reaches the end of the file.
    pub async fn read(&self, handle: &[u8], offset: u64, count: u32) -> ClientResult<(Bytes, bool)> {
        let arguments = encode(|w| {
            w.opaque(handle);
            w.u64(offset);
            w.u32(count);
        });
        let reply = self.nfs(Procedure::Read, &arguments).await?;
        let mut reader = Reader::new(&reply);
        read_post(&mut reader)?;
        let (_count, eof) = (reader.u32()?, reader.bool()?);
        let content = reader.opaque(usize::MAX)?;
        Ok((reply.slice_ref(content), eof))
    }

    /// WRITE: how many bytes were taken, how sure they are (`stable_how`), and the verifier.
    pub async fn write(
        &self,
        handle: &[u8],
        offset: u64,
        content: &[u8],
        stability: Stability,
    ) -> ClientResult<(u32, u32, [u8; 8])> {
        let arguments = encode(|w| {
            w.opaque(handle);
            w.u64(offset);
            w.u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
            w.u32(stability as u32);
            w.opaque(content);
        });
        let reply = self.nfs(Procedure::Write, &arguments).await?;
        let mut reader = Reader::new(&reply);
        read_wcc(&mut reader)?;
        Ok((reader.u32()?, reader.u32()?, reader.array()?))
    }

    /// CREATE.
    pub async fn create(&self, dir: &[u8], name: &[u8], mode: CreateMode) -> ClientResult<Option<Found>> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.opaque(name);
            match mode {
                CreateMode::Unchecked(set) => {
                    w.u32(0);
                    write_sattr(w, &set);
                }
                CreateMode::Guarded(set) => {
                    w.u32(1);
                    write_sattr(w, &set);
                }
                CreateMode::Exclusive(verifier) => {
                    w.u32(2);
                    w.array(&verifier);
                }
            }
        });
        self.make(Procedure::Create, &arguments).await
    }

    /// MKDIR.
    pub async fn mkdir(&self, dir: &[u8], name: &[u8], set: &SetAttr) -> ClientResult<Option<Found>> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.opaque(name);
            write_sattr(w, set);
        });
        self.make(Procedure::MkDir, &arguments).await
    }

    /// SYMLINK.
    pub async fn symlink(&self, dir: &[u8], name: &[u8], target: &[u8]) -> ClientResult<Option<Found>> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.opaque(name);
            write_sattr(w, &SetAttr::default());
            w.opaque(target);
        });
        self.make(Procedure::Symlink, &arguments).await
    }

    /// MKNOD.
    pub async fn mknod(
        &self,
        dir: &[u8],
        name: &[u8],
        file_type: FileType,
        device: Device,
        set: &SetAttr,
    ) -> ClientResult<Option<Found>> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.opaque(name);
            w.u32(u32::from(file_type as u8));
            write_sattr(w, set);
            if matches!(file_type, FileType::Block | FileType::Character) {
                w.u32(device.major);
                w.u32(device.minor);
            }
        });
        self.make(Procedure::MkNod, &arguments).await
    }

    async fn make(&self, procedure: Procedure, arguments: &[u8]) -> ClientResult<Option<Found>> {
        let reply = self.nfs(procedure, arguments).await?;
        let mut reader = Reader::new(&reply);
        let handle = read_optional(&mut reader, |r| Ok(r.opaque(MAX_HANDLE)?.to_vec()))?;
        let attr = read_post(&mut reader)?;
        read_wcc(&mut reader)?;
        Ok(handle.map(|handle| Found { handle, attr }))
    }

    /// REMOVE.
    pub async fn remove(&self, dir: &[u8], name: &[u8]) -> ClientResult<Wcc> {
        let reply = self.nfs(Procedure::Remove, &encode_place(dir, name)).await?;
        Ok(read_wcc(&mut Reader::new(&reply))?)
    }

    /// RMDIR.
    pub async fn rmdir(&self, dir: &[u8], name: &[u8]) -> ClientResult<Wcc> {
        let reply = self.nfs(Procedure::RmDir, &encode_place(dir, name)).await?;
        Ok(read_wcc(&mut Reader::new(&reply))?)
    }

    /// RENAME.
    pub async fn rename(&self, from: (&[u8], &[u8]), to: (&[u8], &[u8])) -> ClientResult<(Wcc, Wcc)> {
        let arguments = [encode_place(from.0, from.1), encode_place(to.0, to.1)].concat();
        let reply = self.nfs(Procedure::Rename, &arguments).await?;
        let mut reader = Reader::new(&reply);
        Ok((read_wcc(&mut reader)?, read_wcc(&mut reader)?))
    }

    /// LINK.
    pub async fn link(&self, file: &[u8], dir: &[u8], name: &[u8]) -> ClientResult<Option<(u64, Attr)>> {
        let arguments = [encode(|w| w.opaque(file)), encode_place(dir, name)].concat();
        let reply = self.nfs(Procedure::Link, &arguments).await?;
        let mut reader = Reader::new(&reply);
        let attr = read_post(&mut reader)?;
        read_wcc(&mut reader)?;
        Ok(attr)
    }

    /// READDIR: entries, and whether they reach the end.
    pub async fn readdir(&self, dir: &[u8], cookie: u64, count: u32) -> ClientResult<(Vec<Entry>, bool)> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.u64(cookie);
            w.u64(0);
            w.u32(count);
        });
        let reply = self.nfs(Procedure::ReadDir, &arguments).await?;
        Ok(read_entries(&mut Reader::new(&reply), false)?)
    }

    /// READDIRPLUS: entries, and whether they reach the end.
    pub async fn readdirplus(
        &self,
        dir: &[u8],
        cookie: u64,
        dircount: u32,
        maxcount: u32,
    ) -> ClientResult<(Vec<Entry>, bool)> {
        let arguments = encode(|w| {
            w.opaque(dir);
            w.u64(cookie);
            w.u64(0);
            w.u32(dircount);
            w.u32(maxcount);
        });
        let reply = self.nfs(Procedure::ReadDirPlus, &arguments).await?;
        Ok(read_entries(&mut Reader::new(&reply), true)?)
    }

    /// COMMIT: the verifier.
    pub async fn commit(&self, handle: &[u8]) -> ClientResult<[u8; 8]> {
        let arguments = encode(|w| {
            w.opaque(handle);
            w.u64(0);
            w.u32(0);
        });
        let reply = self.nfs(Procedure::Commit, &arguments).await?;
        let mut reader = Reader::new(&reply);
        read_wcc(&mut reader)?;
        Ok(reader.array()?)
    }
}

/// What follows NFS3_OK in a reply.
pub fn status_first(reply: &Bytes) -> ClientResult<Bytes> {
    let mut reader = Reader::new(reply);
    read_status(&mut reader)??;
    Ok(reply.slice_ref(reader.rest()))
}

/// Encodes arguments.
pub fn encode(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.into_bytes()
}

/// Encodes `diropargs3`.
#[must_use]
pub fn encode_place(dir: &[u8], name: &[u8]) -> Vec<u8> {
    encode(|w| {
        w.opaque(dir);
        w.opaque(name);
    })
}

fn read_optional<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> XdrResult<T>,
) -> XdrResult<Option<T>> {
    if reader.bool()? {
        read(reader).map(Some)
    } else {
        Ok(None)
    }
}

/// Reads `post_op_attr`.
pub fn read_post(reader: &mut Reader<'_>) -> XdrResult<Option<(u64, Attr)>> {
    read_optional(reader, read_attr)
}

/// Reads `wcc_data`.
pub fn read_wcc(reader: &mut Reader<'_>) -> XdrResult<Wcc> {
    let before = read_optional(reader, |r| {
        let size = r.u64()?;
        let mut time = || {
            Ok(Time {
                seconds: i64::from(r.u32()?),
                nanos: r.u32()?,
            })
        };
        Ok((size, time()?, time()?))
    })?;
    Ok((before, read_post(reader)?))
}

fn read_entries(reader: &mut Reader<'_>, plus: bool) -> XdrResult<(Vec<Entry>, bool)> {
    read_post(reader)?;
    reader.u64()?;
    let mut entries = Vec::new();
    while reader.bool()? {
        let fileid = reader.u64()?;
        let name = reader.opaque(255)?.to_vec();
        let cookie = reader.u64()?;
        let mut found = None;
        if plus {
            let attr = read_post(reader)?;
            let handle = read_optional(reader, |r| Ok(r.opaque(MAX_HANDLE)?.to_vec()))?;
            found = handle.map(|handle| Found { handle, attr });
        }
        entries.push(Entry {
            fileid,
            name,
            cookie,
            found,
        });
    }
    Ok((entries, reader.bool()?))
}

async fn read_replies<R: AsyncRead + Unpin>(mut reader: R, waiting: Waiting) {
    let mut records = Records::default();
    loop {
        match records.next_record() {
            Ok(Some(record)) => {
                let xid = record.first_chunk::<4>().map(|xid| u32::from_be_bytes(*xid));
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let (Some(xid), Some(waiting)) = (xid, waiting.as_mut())
                    && let Some(sender) = waiting.remove(&xid)
                {
                    // A caller that has given up wants no reply.
                    let _sent = sender.send(record);
                }
            }
            Ok(None) => match reader.read_buf(records.room()).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            },
            Err(_) => break,
        }
    }
    // Everybody who waits learns that the connection is gone.
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
