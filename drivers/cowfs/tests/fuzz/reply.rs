//! Replies taken apart to the last byte, and compared.

use std::collections::HashMap;

use cowfs::attr::Attr;
use cowfs::nfs::client::{read_post, read_wcc};
use cowfs::nfs::ops::{MAX_HANDLE, Procedure, read_attr, read_status};
use cowfs::nfs::xdr::{Malformed, Reader, XdrResult};
use cowfs::service::Status;

/// What one reply says.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u32,
    pub(crate) handle: Option<Vec<u8>>,
    /// In the order of the reply.
    objects: Vec<Option<(u64, Attr)>>,
    /// Counts and flags.
    numbers: Vec<u64>,
    bytes: Vec<u8>,
    names: Vec<Vec<u8>>,
}

/// Decodes a reply; nothing may be left of it.
pub(crate) fn decode(procedure: Procedure, bytes: &[u8]) -> XdrResult<Reply> {
    let mut r = Reader::new(bytes);
    let mut reply = Reply::default();
    if procedure == Procedure::Null {
        return if bytes.is_empty() {
            Ok(reply)
        } else {
            Err(Malformed)
        };
    }
    let ok = match read_status(&mut r)? {
        Ok(()) => true,
        Err(status) => {
            reply.status = status as u32;
            false
        }
    };
    match procedure {
        Procedure::Null => {}
        Procedure::GetAttr if ok => reply.objects.push(Some(read_attr(&mut r)?)),
        Procedure::GetAttr => {}
        Procedure::SetAttr | Procedure::Remove | Procedure::RmDir => reply.wcc(&mut r)?,
        Procedure::Lookup => {
            if ok {
                reply.handle = Some(r.opaque(MAX_HANDLE)?.to_vec());
                reply.post(&mut r)?;
            }
            reply.post(&mut r)?;
        }
        Procedure::Access => {
            reply.post(&mut r)?;
            if ok {
                reply.number(&mut r)?;
            }
        }
        Procedure::ReadLink => {
            reply.post(&mut r)?;
            if ok {
                reply.bytes = r.opaque(4096)?.to_vec();
            }
        }
        Procedure::Read => {
            reply.post(&mut r)?;
            if ok {
                reply.number(&mut r)?;
                reply.numbers.push(u64::from(r.bool()?));
                reply.bytes = r.opaque(1 << 20)?.to_vec();
                if reply.numbers[0] != reply.bytes.len() as u64 {
                    return Err(Malformed);
                }
            }
        }
        Procedure::Write => {
            reply.wcc(&mut r)?;
            if ok {
                reply.number(&mut r)?;
                // At least as sure as was asked for; how much surer is each tree's own.
                if r.u32()? > 2 {
                    return Err(Malformed);
                }
                let _verifier: [u8; 8] = r.array()?;
            }
        }
        Procedure::Create | Procedure::MkDir | Procedure::Symlink | Procedure::MkNod => {
            if ok {
                if r.bool()? {
                    reply.handle = Some(r.opaque(MAX_HANDLE)?.to_vec());
                }
                reply.post(&mut r)?;
            }
            reply.wcc(&mut r)?;
        }
        Procedure::Rename => {
            reply.wcc(&mut r)?;
            reply.wcc(&mut r)?;
        }
        Procedure::Link => {
            reply.post(&mut r)?;
            reply.wcc(&mut r)?;
        }
        Procedure::ReadDir | Procedure::ReadDirPlus => {
            reply.post(&mut r)?;
            if ok {
                reply.entries(&mut r, procedure == Procedure::ReadDirPlus)?;
            }
        }
        Procedure::FsStat | Procedure::FsInfo | Procedure::PathConf => {
            reply.post(&mut r)?;
            let words = match procedure {
                Procedure::FsStat => 13,
                Procedure::FsInfo => 12,
                _ => 6,
            };
            for _ in 0..if ok { words } else { 0 } {
                reply.number(&mut r)?;
            }
        }
        Procedure::Commit => {
            reply.wcc(&mut r)?;
            if ok {
                let _verifier: [u8; 8] = r.array()?;
            }
        }
    }
    if r.rest().is_empty() {
        Ok(reply)
    } else {
        Err(Malformed)
    }
}

impl Reply {
    fn post(&mut self, r: &mut Reader<'_>) -> XdrResult<()> {
        self.objects.push(read_post(r)?);
        Ok(())
    }

    fn wcc(&mut self, r: &mut Reader<'_>) -> XdrResult<()> {
        let (before, after) = read_wcc(r)?;
        self.numbers.extend(before.map(|(size, _, _)| size));
        self.objects.push(after);
        Ok(())
    }

    fn number(&mut self, r: &mut Reader<'_>) -> XdrResult<()> {
        self.numbers.push(u64::from(r.u32()?));
        Ok(())
    }

    fn entries(&mut self, r: &mut Reader<'_>, plus: bool) -> XdrResult<()> {
        let mut cookies = Vec::new();
        r.u64()?;
        while r.bool()? {
            r.u64()?;
            self.names.push(r.opaque(255)?.to_vec());
            cookies.push(r.u64()?);
            if plus {
                read_post(r)?;
                if r.bool()? {
                    r.opaque(MAX_HANDLE)?;
                }
            }
        }
        self.numbers.push(u64::from(r.bool()?));
        if cookies.is_sorted_by(|a, b| a < b) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Compares with what the other tree said to the same call; says what differs.
    pub(crate) fn same(
        &self,
        model: &Self,
        procedure: Procedure,
        ids: &mut HashMap<u64, u64>,
    ) -> Result<(), &'static str> {
        let listing = matches!(procedure, Procedure::ReadDir | Procedure::ReadDirPlus);
        // What fits in one reply depends on the order, which is each tree's own.
        if listing && (self.numbers != [1] || model.numbers != [1]) {
            return if (self.status == 0) == (model.status == 0)
                || self.status == 10_005
                || model.status == 10_005
            {
                Ok(())
            } else {
                Err("the status")
            };
        }
        if self.status != model.status {
            // Of two reasons to refuse a call either may be found first, where one lies in the arguments alone or in a
            // second handle.
            let arguments = [
                Status::Stale,
                Status::Inval,
                Status::FBig,
                Status::NameTooLong,
                Status::NotSync,
            ];
            let found = [self.status, model.status];
            let about_arguments = arguments.iter().any(|&status| found.contains(&(status as u32)));
            return if about_arguments && !found.contains(&0) {
                Ok(())
            } else {
                Err("the status")
            };
        }
        if procedure != Procedure::FsStat && self.numbers != model.numbers {
            return Err("the numbers");
        }
        if self.bytes != model.bytes {
            return Err("the bytes");
        }
        // Each tree has its own order; cookies are compared only where a listing began at its start.
        if self.handle.is_some() != model.handle.is_some() || self.objects.len() != model.objects.len() {
            return Err("what there is");
        }
        for pair in self.objects.iter().zip(&model.objects) {
            match pair {
                (None, None) => {}
                (Some((own_id, own)), Some((model_id, model))) => {
                    if *ids.entry(*model_id).or_insert(*own_id) != *own_id {
                        return Err("the inode numbers");
                    }
                    let shown = |a: &Attr| (a.file_type, a.mode, a.links, a.uid, a.gid, a.size, a.device);
                    if shown(own) != shown(model) {
                        return Err("the attributes");
                    }
                }
                _ => return Err("the attributes there are"),
            }
        }
        Ok(())
    }
}
