//! The mount protocol, version 3 (RFC 1813 appendix I), on the same port as NFS.
//!
//! The server keeps no list of mounts (nothing depends on one), so DUMP is empty and UMNT does nothing.

use std::sync::Arc;

use super::rpc::{Call, Unaccepted};
use super::xdr::{Malformed, Reader, Writer};
use crate::export::{Export, ExportName, Exports, Peer};

/// Program number of MOUNT.
pub const PROGRAM: u32 = 100_005;

/// The version served.
pub const VERSION: u32 = 3;

/// Bytes of a path in MNT (`MNTPATHLEN`).
const MAX_PATH: usize = 1024;

/// A path leads nowhere for this peer (`MNT3ERR_NOENT`): also the answer for exports it may not reach, so that nobody
/// learns their names.
const NO_ENTRY: u32 = 2;

/// The export is not ready to be mounted (`MNT3ERR_SERVERFAULT`); clients try again.
const SERVER_FAULT: u32 = 10_006;

/// What a MOUNT call asks for.
#[derive(Clone)]
pub enum Request {
    /// NULL, UMNT, UMNTALL: no result.
    Nothing,
    /// MNT of this export, or of nothing this peer can reach.
    Mount(Option<Arc<Export>>),
    /// DUMP.
    Dump,
    /// EXPORT: the names this peer may mount.
    Exports(Vec<ExportName>),
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

fn find(path: &[u8], peer: &Peer, exports: &Exports) -> Option<Arc<Export>> {
    if let Peer::Socket(export) = peer {
        return Some(Arc::clone(export));
    }
    let path = std::str::from_utf8(path).ok()?.trim_end_matches('/');
    let name = ExportName::parse(path).ok()?;
    exports.reachable(peer, crate::export::ExportId::of(&name))
}

/// Writes the answer to `request`; `ready` says whether the export of a MNT answers now.
pub fn answer(request: &Request, ready: bool, reply: &mut Writer) {
    match request {
        Request::Nothing => {}
        Request::Mount(None) => reply.u32(NO_ENTRY),
        Request::Mount(Some(_)) if !ready => reply.u32(SERVER_FAULT),
        Request::Mount(Some(export)) => {
            let (handle, len) = export.id().join(&export.service().root().handle);
            reply.u32(0);
            reply.opaque(&handle[..len]);
            reply.u32(1); // one flavor of credentials:
            reply.u32(1); // AUTH_SYS
        }
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
