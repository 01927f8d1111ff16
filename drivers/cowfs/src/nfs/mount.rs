//! The mount protocol, version 3 (RFC 1813 appendix I), on the same port as NFS.
//!
//! The server keeps no list of mounts (nothing depends on one), so DUMP is empty and UMNT does nothing.

use std::sync::Arc;

use super::rpc::{Call, Unaccepted};
use super::xdr::{Malformed, Reader, Writer};
use crate::attr::FileType;
use crate::export::{Export, ExportId, ExportName, Exports, Peer};
use crate::service::{Caller, Handle, Status};

/// Program number of MOUNT.
pub const PROGRAM: u32 = 100_005;

/// The version served.
pub const VERSION: u32 = 3;

/// Bytes of a path in MNT (`MNTPATHLEN`).
const MAX_PATH: usize = 1024;

/// The status of a path that leads nowhere for this peer (`MNT3ERR_NOENT`): also the answer for exports it may not
/// reach, so that nobody learns their names.
pub const NO_ENTRY: u32 = 2;

/// The status of an export that is not ready to be mounted (`MNT3ERR_SERVERFAULT`); clients try again.
pub const SERVER_FAULT: u32 = 10_006;

/// What a MOUNT call asks for.
#[derive(Clone)]
pub enum Request {
    /// NULL, UMNT, UMNTALL: no result.
    Nothing,
    /// MNT of this place, or of nothing this peer can reach.
    Mount(Option<Place>),
    /// DUMP.
    Dump,
    /// EXPORT: the names this peer may mount.
    Exports(Vec<ExportName>),
}

/// A directory to be mounted.
#[derive(Clone)]
pub struct Place {
    /// The export it is in.
    pub export: Arc<Export>,
    /// The path below the export's root; empty for the root itself.
    pub below: Vec<u8>,
}

impl Place {
    /// Finds the directory: its handle, or the `mountstat3` that says why not. May block.
    pub fn resolve(&self, caller: &Caller) -> Result<Handle, u32> {
        let service = self.export.service();
        let mut at = service.root();
        for name in self
            .below
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = match service.lookup(caller, &at.handle, name) {
                Ok((object, _dir)) => object,
                Err(status @ (Status::NoEnt | Status::Io | Status::Access | Status::NotDir)) => {
                    return Err(status as u32);
                }
                Err(_) => return Err(SERVER_FAULT),
            };
        }
        if at.attr.file_type == FileType::Directory {
            Ok(at.handle)
        } else {
            Err(Status::NotDir as u32)
        }
    }
}

/// Decodes a MOUNT call from `peer`. On an export's own socket every path leads to that export.
pub fn read_request(call: &Call, peer: &Peer, exports: &Exports) -> Result<Request, Unaccepted> {
    let mut arguments = Reader::new(call.arguments());
    match call.procedure {
        0 | 4 => Ok(Request::Nothing),
        1 => {
            let path = arguments
                .opaque(MAX_PATH)
                .map_err(|Malformed| Unaccepted::GarbageArguments)?;
            Ok(Request::Mount(find(path, peer, exports)))
        }
        2 => Ok(Request::Dump),
        3 => {
            arguments
                .opaque(MAX_PATH)
                .map_err(|Malformed| Unaccepted::GarbageArguments)?;
            Ok(Request::Nothing)
        }
        5 => {
            let mut names: Vec<_> = exports
                .visible(peer)
                .iter()
                .map(|export| export.name().clone())
                .collect();
            names.sort();
            Ok(Request::Exports(names))
        }
        _ => Err(Unaccepted::ProcedureUnavailable),
    }
}

/// Finds the export a path leads into: the one with the longest name, where names lie within each other.
fn find(path: &[u8], peer: &Peer, exports: &Exports) -> Option<Place> {
    if let Peer::Socket(export) = peer {
        return Some(Place {
            export: Arc::clone(export),
            below: Vec::new(),
        });
    }
    let path = std::str::from_utf8(path).ok()?.trim_end_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let ends: Vec<usize> = ends.collect();
    ends.into_iter().rev().find_map(|end| {
        let name = ExportName::parse(&path[..end]).ok()?;
        let export = exports.reachable(peer, ExportId::of(&name))?;
        let below = path.as_bytes()[end..].to_vec();
        Some(Place { export, below })
    })
}

/// Writes the answer to MNT.
pub fn answer_mount(export: ExportId, found: Result<Handle, u32>, reply: &mut Writer) {
    match found {
        Ok(handle) => {
            let (handle, len) = export.join(&handle);
            reply.u32(0);
            reply.opaque(&handle[..len]);
            reply.u32(1); // one flavor of credentials:
            reply.u32(1); // AUTH_SYS
        }
        Err(status) => reply.u32(status),
    }
}

/// Writes the answer to every request that no export need be asked for.
pub fn answer(request: &Request, reply: &mut Writer) {
    match request {
        Request::Nothing => {}
        // Somebody else asks the export; without that there is nothing to say.
        Request::Mount(Some(_)) => reply.u32(SERVER_FAULT),
        Request::Mount(None) => reply.u32(NO_ENTRY),
        Request::Dump => reply.bool(false),
        Request::Exports(names) => {
            for name in names {
                reply.bool(true);
                reply.opaque(name.path().as_bytes());
                reply.bool(false); // no groups
            }
            reply.bool(false);
        }
    }
}
