//! Arguments of every procedure: right in form, hostile in content.

use cowfs::nfs::client::encode;
use cowfs::nfs::ops::Procedure;
use cowfs::nfs::xdr::Writer;

use crate::input::Input;

/// A piece of arguments.
#[derive(Clone)]
pub(crate) enum Part {
    /// A handle, by number; `None` for one that was not handed out.
    Handle(Option<usize>),
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Handle(at) => write!(f, "{at:?}"),
            Self::Bytes(bytes) => write!(f, "{:02x?} of {}", &bytes[..bytes.len().min(100)], bytes.len()),
        }
    }
}

/// The arguments of a call, with the handles filled in.
pub(crate) fn joined<'a>(parts: &[Part], handle: impl Fn(Option<usize>) -> &'a Vec<u8>) -> Vec<u8> {
    encode(|w| {
        for part in parts {
            match part {
                Part::Handle(at) => w.opaque(handle(*at)),
                Part::Bytes(bytes) => w.buffer().extend_from_slice(bytes),
            }
        }
    })
}

/// Makes up the arguments of a procedure.
pub(crate) fn arguments(
    input: &mut Input<'_>,
    procedure: Procedure,
    handle: &mut dyn FnMut(&mut Input<'_>) -> Option<usize>,
) -> Vec<Part> {
    let mut parts = Vec::new();
    if procedure == Procedure::Null {
        return parts;
    }
    parts.push(Part::Handle(handle(input)));
    let mut rest = Writer::default();
    match procedure {
        Procedure::Null
        | Procedure::GetAttr
        | Procedure::ReadLink
        | Procedure::FsStat
        | Procedure::FsInfo
        | Procedure::PathConf => {}
        Procedure::SetAttr => {
            put_set(&mut rest, input);
            let guarded = input.one_in(8);
            rest.bool(guarded);
            if guarded {
                rest.u64(input.long());
            }
        }
        Procedure::Lookup | Procedure::Remove | Procedure::RmDir => rest.opaque(&name(input)),
        Procedure::Access => rest.u32(input.word()),
        Procedure::Read => {
            rest.u64(input.long());
            rest.u32(count(input));
        }
        Procedure::Write => {
            rest.u64(input.long());
            let len = input.pick(&[0_u32, 1, 10, 100, 4096, 4097, 9000]);
            rest.u32(if input.one_in(16) { len + 1 } else { len });
            rest.u32(u32::from(input.byte() % 16).saturating_sub(12));
            let byte = input.byte();
            rest.opaque(&vec![byte; usize::try_from(len).unwrap_or(0)]);
        }
        Procedure::Create => {
            rest.opaque(&name(input));
            match input.below(3) {
                2 => {
                    rest.u32(2);
                    rest.array(&[input.byte() % 3; 8]);
                }
                how => {
                    rest.u32(u32::try_from(how).unwrap_or(0));
                    put_set(&mut rest, input);
                }
            }
        }
        Procedure::MkDir => {
            rest.opaque(&name(input));
            put_set(&mut rest, input);
        }
        Procedure::Symlink => {
            rest.opaque(&name(input));
            put_set(&mut rest, input);
            match input.below(8) {
                0 => rest.opaque(b""),
                1 => rest.opaque(&[b'x'; 4097]),
                2 => rest.opaque(input.bytes(64)),
                3 => rest.opaque(b"a\0b"),
                4 => rest.opaque(b"../../../../etc/passwd"),
                _ => rest.opaque(b"to/where"),
            }
        }
        Procedure::MkNod => {
            rest.opaque(&name(input));
            let file_type = input.pick(&[3_u32, 4, 4, 6, 7, 7, 1, 2, 5]);
            rest.u32(file_type);
            put_set(&mut rest, input);
            if file_type == 3 || file_type == 4 {
                rest.u32(u32::from(input.byte() % 3));
                rest.u32(u32::from(input.byte() % 3));
            }
        }
        Procedure::Rename => {
            rest.opaque(&name(input));
            parts.push(Part::Bytes(std::mem::take(&mut rest).into_bytes()));
            parts.push(Part::Handle(handle(input)));
            rest.opaque(&name(input));
        }
        Procedure::Link => {
            parts.push(Part::Handle(handle(input)));
            rest.opaque(&name(input));
        }
        Procedure::ReadDir | Procedure::ReadDirPlus => {
            rest.u64(if input.one_in(4) { input.long() } else { 0 });
            rest.u64(u64::from(input.byte() % 2));
            rest.u32(count(input));
            if procedure == Procedure::ReadDirPlus {
                rest.u32(count(input));
            }
        }
        Procedure::Commit => {
            rest.u64(input.long());
            rest.u32(count(input));
        }
    }
    parts.push(Part::Bytes(rest.into_bytes()));
    parts
}

fn count(input: &mut Input<'_>) -> u32 {
    input.pick(&[
        8192,
        0,
        1,
        100,
        200,
        512,
        4096,
        9000,
        65_536,
        1 << 20,
        (1 << 20) + 1,
        u32::MAX,
    ])
}

/// A name: mostly one that may be there, at times one that never can.
pub(crate) fn name(input: &mut Input<'_>) -> Vec<u8> {
    const NAMES: [&[u8]; 28] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"etc",
        b"bin",
        b"sub",
        b"hosts",
        b"perl",
        b"perl5",
        b"passwd",
        b"a",
        b"b",
        b"c",
        b".wh.a",
        b".wh..wh..opq",
        b"..",
        b".",
        b"",
        b"/",
        b"a/b",
        b"../../secret",
        b"a\0b",
        b"layer.json",
        b"log",
        b"\xff\xfe",
        &[b'x'; 255],
        &[b'x'; 256],
    ];
    match input.below(NAMES.len() + 2) {
        at if at < NAMES.len() => NAMES[at].to_vec(),
        at if at == NAMES.len() => vec![b'n'; 4097],
        _ => input.bytes(255).to_vec(),
    }
}

/// `sattr3`.
fn put_set(rest: &mut Writer, input: &mut Input<'_>) {
    let which = input.byte();
    let mut optional = |bit: u8, value: u32| {
        rest.bool(which & bit != 0);
        if which & bit != 0 {
            rest.u32(value);
        }
    };
    let mode = if which & 1 == 0 {
        0
    } else {
        input.pick(&[0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o2770, 0o777, 0, u32::MAX])
    };
    optional(1, mode);
    optional(
        2,
        if which & 2 == 0 {
            0
        } else {
            input.pick(&[0, 1000, 1001, u32::MAX])
        },
    );
    optional(
        4,
        if which & 4 == 0 {
            0
        } else {
            input.pick(&[0, 50, 100, 101, u32::MAX])
        },
    );
    rest.bool(which & 8 != 0);
    if which & 8 != 0 {
        rest.u64(input.long());
    }
    for shift in [4, 6] {
        let how = u32::from((which >> shift) & 3);
        // 3 is no way to set a time; once in a while.
        let how = if how == 3 && !input.one_in(8) { 0 } else { how };
        rest.u32(how);
        if how == 2 {
            rest.u32(input.pick(&[0, 5, 1 << 31, u32::MAX]));
            rest.u32(input.pick(&[0, 6, 999_999_999, 1_000_000_000]));
        }
    }
}
