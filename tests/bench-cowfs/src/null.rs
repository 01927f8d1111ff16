//! A file system that answers constants: what is left is the loop, so it is the ceiling of everything else.

use std::sync::Arc;

use cowfs::attr::{Attr, Device, FileType, SetAttr, Time};
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::server::{Limits, Server};
use cowfs::service::{
    Around, Before, CallKey, Caller, Changed, CreateMode, FileService, FsResult, FsStat, Handle, InDirectory,
    ListedEntry, Object, ReadOutcome, Renamed, Replayed, Special, Stability, Status, Ticket, WriteVerifier,
    Written,
};

use crate::Failure;

/// Directories below the root.
const DIRECTORIES: u64 = 80;
/// Files in each.
const FILES: u64 = 100;
/// Numbers of big files begin here.
const BIG: u64 = 1_000_000;
/// As long as those of a stack, so that replies are.
const HANDLE: usize = 40;

/// Serves constants on loopback until it is killed; says where.
pub(crate) async fn serve(
    ready: impl FnOnce(std::net::SocketAddr) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let server = Server::new(Limits::default());
    let clients = vec![ClientAddress::parse("127.0.0.1")?];
    let export = Export::new(
        ExportName::parse("/bench")?,
        Arc::new(Null),
        clients,
        State::Active,
    )?;
    server.exports().add(Arc::new(export))?;
    let listening = server.listen_tcp("127.0.0.1:0".parse()?).await?;
    ready(listening.address().ok_or("no address")?)?;
    std::future::pending().await
}

struct Null;

fn object(number: u64) -> Object {
    let mut bytes = [0; HANDLE];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    let file_type = if number <= DIRECTORIES {
        FileType::Directory
    } else {
        FileType::Regular
    };
    let size = if number >= BIG { 1 << 30 } else { 4096 };
    Object {
        handle: Handle::new(&bytes).unwrap_or_else(|| unreachable!("40 bytes fit")),
        fileid: number + 1,
        attr: Attr {
            file_type,
            mode: 0o755,
            links: 1,
            uid: 0,
            gid: 0,
            size,
            used: size,
            device: Device::default(),
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
        },
    }
}

fn number(handle: &Handle) -> FsResult<u64> {
    let bytes = handle.as_bytes().first_chunk::<8>().ok_or(Status::BadHandle)?;
    Ok(u64::from_be_bytes(*bytes))
}

fn around(number: u64) -> Around {
    Around {
        before: Before {
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
        },
        after: object(number),
    }
}

fn changed<T>(value: T) -> FsResult<Changed<T>> {
    Ok(Changed {
        value,
        ticket: Ticket::default(),
    })
}

/// A new file.
fn made() -> FsResult<Changed<InDirectory>> {
    changed(InDirectory {
        dir: around(1),
        made: Some(object(BIG + 100)),
    })
}

impl FileService for Null {
    fn root(&self) -> Object {
        object(0)
    }

    fn answers_from_memory(&self) -> bool {
        true
    }

    fn getattr(&self, handle: &Handle) -> FsResult<Object> {
        Ok(object(number(handle)?))
    }

    fn setattr(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        handle: &Handle,
        _: &SetAttr,
        _: Option<Time>,
    ) -> FsResult<Changed<Around>> {
        changed(around(number(handle)?))
    }

    fn lookup(&self, _: &Caller, dir: &Handle, name: &[u8]) -> FsResult<(Object, Object)> {
        match name.first() {
            Some(b'a') => Err(Status::NoEnt),
            _ => Ok((object(2000), object(number(dir)?))),
        }
    }

    fn access(&self, _: &Caller, handle: &Handle, wanted: u32) -> FsResult<(u32, Object)> {
        Ok((wanted, object(number(handle)?)))
    }

    fn readlink(&self, _: &Caller, _: &Handle) -> FsResult<(Vec<u8>, Object)> {
        Err(Status::Inval)
    }

    fn read(
        &self,
        _: &Caller,
        handle: &Handle,
        _: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<ReadOutcome> {
        out.resize(out.len() + usize::try_from(count).map_err(|_| Status::Inval)?, 0);
        Ok(ReadOutcome {
            file: object(number(handle)?),
            count,
            eof: false,
        })
    }

    fn write(
        &self,
        _: &Caller,
        handle: &Handle,
        _: u64,
        data: &[u8],
        stability: Stability,
    ) -> FsResult<Changed<Written>> {
        changed(Written {
            file: around(number(handle)?),
            count: u32::try_from(data.len()).map_err(|_| Status::Inval)?,
            stability,
        })
    }

    fn create(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: &Handle,
        _: &[u8],
        _: CreateMode,
    ) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn mkdir(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: &Handle,
        _: &[u8],
        _: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        changed(InDirectory {
            dir: around(0),
            made: Some(object(1)),
        })
    }

    fn symlink(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: &Handle,
        _: &[u8],
        _: &[u8],
        _: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn mknod(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: &Handle,
        _: &[u8],
        _: Special,
        _: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn remove(&self, _: &Caller, _: Option<CallKey>, _: &Handle, _: &[u8]) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn rmdir(&self, _: &Caller, _: Option<CallKey>, _: &Handle, _: &[u8]) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn rename(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: (&Handle, &[u8]),
        _: (&Handle, &[u8]),
    ) -> FsResult<Changed<Renamed>> {
        changed(Renamed {
            from: around(1),
            to: around(1),
        })
    }

    fn link(
        &self,
        _: &Caller,
        _: Option<CallKey>,
        _: &Handle,
        _: &Handle,
        _: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        made()
    }

    fn readdir(
        &self,
        _: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool)> {
        let dir = number(dir)?;
        let count = match dir {
            0 => DIRECTORIES + 3,
            1..=DIRECTORIES => FILES,
            _ => return Err(Status::NotDir),
        };
        for at in cookie..count {
            let child = match dir {
                0 if at >= DIRECTORIES => BIG + at - DIRECTORIES,
                0 => at + 1,
                dir => dir * 1000 + at,
            };
            let name = match (dir, at.checked_sub(DIRECTORIES)) {
                (0, Some(0)) => "big".to_owned(),
                (0, Some(n)) => format!("first-{}", n - 1),
                _ => format!("f{child}"),
            };
            let entry = ListedEntry {
                name: name.into_bytes(),
                fileid: child + 1,
                cookie: at + 1,
                object: with_objects.then(|| object(child)),
            };
            if !visit(&entry) {
                return Ok((object(dir), false));
            }
        }
        Ok((object(dir), true))
    }

    fn fsstat(&self) -> FsResult<FsStat> {
        Ok(FsStat {
            bytes_total: 0,
            bytes_free: 0,
            files_total: 0,
            files_free: 0,
        })
    }

    fn commit(&self, _: &Caller, handle: &Handle) -> FsResult<Around> {
        Ok(around(number(handle)?))
    }

    fn write_verifier(&self) -> WriteVerifier {
        [0; 8]
    }

    fn settle(&self, _: Ticket) -> FsResult<()> {
        Ok(())
    }

    fn replayed(&self, _: &CallKey) -> Option<Replayed> {
        None
    }

    fn flush_all(&self) -> FsResult<()> {
        Ok(())
    }
}
