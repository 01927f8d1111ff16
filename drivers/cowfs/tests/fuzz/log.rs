//! A writable layer as a stranger may have left it: segments, records and content files with right checks and wrong
//! meaning. Opening says what is wrong, or gives a tree that can be walked, changed, closed and opened again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cowfs::attr::{FileType, SetAttr};
use cowfs::fsck::fsck;
use cowfs::service::{Caller, CreateMode, FileService, Handle, Object, Stability, Status};
use cowfs::stack::{self, Stack, StackSpec};
use cowfs::writable::{Options, Writable};

use crate::input::Input;
use crate::support::{self, NoContent, lower, upper};

const LAYER: [u8; 8] = *b"\x01\x02\x03\x04\x05\x06\x07\x08";
const LAYERS: [[u8; 8]; 4] = [LAYER, *b"template", *b"overlay1", *b"nowhere\0"];
/// Bytes before the first record, and before a payload (`writable/segment.rs`).
const HEADER: usize = 112;
const FRAME: usize = 20;

/// Objects that a walk looks at.
const WALK_MAX: usize = 150;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// Runs one input.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let dir = support::tempdir();
    make_layer(dir.path(), &mut input).expect("writing files");
    let _checked = fsck(dir.path());
    let epoch = 1 + input.below(5) as u64;
    let Some(first) = open(dir.path(), epoch) else {
        return;
    };
    let before = walk(&first);
    // The same without a change.
    drop(first);
    let again = open(dir.path(), epoch).expect("it could be opened before");
    assert_eq!(walk(&again), before, "opened again");
    change(&again, &mut input);
    let settled = again.flush_all().is_ok() && !again.statistics().failed;
    let after = walk(&again);
    drop(again);
    let checked = fsck(dir.path());
    if let Some(last) = open(dir.path(), epoch + 1) {
        assert!(checked.is_ok(), "{checked:?}");
        if settled {
            assert_eq!(walk(&last), after, "after changes");
        }
    } else {
        panic!("no longer to be opened: {checked:?}");
    }
}

fn open(dir: &Path, epoch: u64) -> Option<Arc<Stack>> {
    let writable = Writable::open(dir, epoch, Options::default()).ok()?;
    let spec = StackSpec {
        layers: vec![upper(), lower()],
        writable: Some(writable),
        content: Arc::new(NoContent),
        read_only_key: [0; 32],
    };
    stack::open(spec).ok()
}

/// What the tree shows, as far as it is looked at.
fn walk(stack: &Stack) -> String {
    let mut shown = String::new();
    let mut todo = vec![(String::new(), stack.root())];
    let mut looked = 0;
    while let Some((path, object)) = todo.pop() {
        looked += 1;
        if looked > WALK_MAX {
            break;
        }
        let attr = object.attr;
        let what = (
            attr.file_type,
            attr.mode,
            attr.links,
            attr.uid,
            attr.gid,
            attr.size,
            attr.device,
        );
        writeln!(shown, "{path} {} {what:?}", object.fileid).expect("a string takes it");
        let again = stack.getattr(&object.handle);
        assert!(
            again.is_ok_and(|again| again.fileid == object.fileid)
                || again == Err(Status::Stale)
                || again == Err(Status::Io),
            "{path}: {again:?}"
        );
        let access = stack.access(&ROOT, &object.handle, 0x3f).map(|access| access.0);
        writeln!(shown, "  {access:?}").expect("a string takes it");
        match attr.file_type {
            FileType::Directory => {
                let _parent = stack.lookup(&ROOT, &object.handle, b"..");
                let mut names = Vec::new();
                let listed = stack.readdir(&ROOT, &object.handle, 0, true, &mut |entry| {
                    names.push(entry.name.clone());
                    names.len() < WALK_MAX
                });
                names.sort();
                writeln!(shown, "  {:?} {names:?}", listed.map(|listed| listed.1))
                    .expect("a string takes it");
                for name in names {
                    if name == b"." || name == b".." {
                        continue;
                    }
                    if let Ok((child, _)) = stack.lookup(&ROOT, &object.handle, &name) {
                        todo.push((format!("{path}/{}", name.escape_ascii()), child));
                    }
                }
            }
            FileType::Regular => {
                for offset in [0, 4090, attr.size.saturating_sub(10)] {
                    let mut bytes = Vec::new();
                    let read = stack.read(&ROOT, &object.handle, offset, 100, &mut bytes);
                    let read = read.map(|read| (read.count, read.eof));
                    writeln!(shown, "  {offset} {read:?} {bytes:?}").expect("a string takes it");
                }
            }
            FileType::Symlink => {
                let target = stack.readlink(&ROOT, &object.handle).map(|target| target.0);
                writeln!(shown, "  {target:?}").expect("a string takes it");
            }
            FileType::Block | FileType::Character | FileType::Socket | FileType::Fifo => {}
        }
    }
    let stat = stack.fsstat().map(|stat| stat.files_total >= stat.files_free);
    assert_ne!(stat, Ok(false));
    shown
}

/// Changes what can be reached.
fn change(stack: &Stack, input: &mut Input<'_>) {
    let root = stack.root().handle;
    let found: Vec<Object> = reachable(stack);
    let any = |input: &mut Input<'_>| -> Handle {
        let at = input.below(found.len().max(1));
        found.get(at).map_or(root, |object| object.handle)
    };
    const NAMES: [&[u8]; 6] = [b"a", b"b", b"etc", b"sub", b"hosts", b"new"];
    for step in 0..10 {
        let (one, two) = (any(input), any(input));
        let (name, other) = (input.pick(&NAMES), input.pick(&NAMES));
        let (how, set) = (
            input.below(11),
            SetAttr {
                size: Some(input.long()),
                ..SetAttr::default()
            },
        );
        let changed = match if step == 0 { 0 } else { how } {
            0 => {
                let mode = CreateMode::Unchecked(SetAttr::default());
                stack
                    .create(&ROOT, None, &root, name, mode)
                    .map(|done| done.ticket)
            }
            1 => stack
                .mkdir(&ROOT, None, &one, name, &SetAttr::default())
                .map(|done| done.ticket),
            2 => stack.remove(&ROOT, None, &one, name).map(|done| done.ticket),
            3 => stack.rmdir(&ROOT, None, &one, name).map(|done| done.ticket),
            4 | 5 => stack
                .rename(&ROOT, None, (&one, name), (&two, other))
                .map(|done| done.ticket),
            6 => stack.link(&ROOT, None, &one, &two, name).map(|done| done.ticket),
            7 => stack
                .setattr(&ROOT, None, &one, &set, None)
                .map(|done| done.ticket),
            8 => stack
                .write(&ROOT, &one, input.long(), b"written", Stability::FileSync)
                .map(|done| done.ticket),
            9 => stack
                .write(
                    &ROOT,
                    &one,
                    u64::from(input.byte()) * 64,
                    &[7; 5000],
                    Stability::Unstable,
                )
                .map(|done| done.ticket),
            _ => {
                let _committed = stack.commit(&ROOT, &one);
                continue;
            }
        };
        if let Ok(ticket) = changed {
            let _settled = stack.settle(ticket);
            stack.tend(&|| true);
        }
    }
}

fn reachable(stack: &Stack) -> Vec<Object> {
    let mut found = vec![stack.root()];
    let mut at = 0;
    while at < found.len() && found.len() < 60 {
        let dir = found[at].handle;
        at += 1;
        let mut inside = Vec::new();
        // What is no directory has no entries.
        let _listed = stack.readdir(&ROOT, &dir, 0, true, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                inside.extend(entry.object);
            }
            inside.len() < 60
        });
        found.append(&mut inside);
    }
    found
}

/// Little-endian fields.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    fn key(&mut self, input: &mut Input<'_>) {
        let at = input.below(16);
        // Mostly an object of the layer itself.
        self.0.extend_from_slice(&LAYERS[at.saturating_sub(12)]);
        self.u64(1 + input.below(9) as u64);
    }

    fn attr(&mut self, input: &mut Input<'_>) {
        self.u32(input.pick(&[0o755, 0o644, 0o1777, 0o6755, 0, 0o10000]));
        self.u32(input.pick(&[0, 1000, u32::MAX]));
        self.u32(0);
        for _ in 0..3 {
            self.u64(input.pick(&[1_700_000_000, 0, u64::MAX, i64::MIN.cast_unsigned()]));
            self.u32(input.pick(&[0, 999_999_999, 1_000_000_000, u32::MAX]));
        }
    }

    fn origins(&mut self, input: &mut Input<'_>) {
        let count = input.below(4);
        self.u32(u32::try_from(count).unwrap_or(0));
        for _ in 0..count {
            self.0.extend_from_slice(&input.pick(&LAYERS));
            self.u64(1 + input.below(12) as u64);
        }
    }

    fn base(&mut self, input: &mut Input<'_>) {
        self.0.extend_from_slice(&input.pick(&LAYERS));
        self.u64(1 + input.below(20) as u64);
        let hashed = input.below(2);
        self.u8(u8::try_from(hashed).unwrap_or(0));
        if hashed == 1 {
            self.0.extend_from_slice(&[3; 32]);
        }
        self.u64(input.long());
        self.u64(input.long());
        self.u64(1_700_000_000);
        self.u32(5);
        self.string(input.pick(&[
            b"etc/hosts".as_slice(),
            b"a",
            b"",
            b"../../etc/passwd",
            b"/etc/passwd",
            b"\0",
        ]));
    }

    fn body(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0..=2 => {
                self.u8(2);
                self.key(input);
                let merges = input.below(2);
                self.u8(u8::try_from(merges).unwrap_or(0));
                if merges == 1 {
                    self.string(input.pick(&[
                        b"".as_slice(),
                        b"etc",
                        b"etc/sub",
                        b"sub",
                        b"a",
                        b"..",
                        b"etc/../..",
                    ]));
                    self.origins(input);
                }
            }
            3..=5 => {
                self.u8(1);
                self.u64(input.long());
                let based = input.below(2);
                self.u8(u8::try_from(based).unwrap_or(0));
                if based == 1 {
                    self.base(input);
                }
                let verified = input.below(2);
                self.u8(u8::try_from(verified).unwrap_or(0));
                self.0.extend_from_slice(&[1; 8][..8 * verified]);
            }
            6 => {
                self.u8(5);
                self.string(input.bytes(40));
            }
            _ => {
                self.u8(input.pick(&[3, 4, 6, 7, 0, 8]));
                self.u32(u32::from(input.byte() % 2));
                self.u32(0);
            }
        }
    }

    fn name(&mut self, input: &mut Input<'_>) {
        self.string(input.pick(&[
            b"a".as_slice(),
            b"b",
            b"etc",
            b"sub",
            b"hosts",
            b"..",
            b"",
            b"a/b",
            b"a\0b",
            b".wh.a",
            &[b'x'; 255],
            &[b'x'; 256],
        ]));
    }

    /// One change, by the numbers of `writable/record.rs`.
    fn change(&mut self, input: &mut Input<'_>) {
        let kind = input.pick(&[1, 1, 5, 5, 5, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0]);
        self.u8(kind);
        match kind {
            11 => {
                let count = input.below(4);
                self.u32(u32::try_from(count).unwrap_or(0));
                for _ in 0..count {
                    self.0.extend_from_slice(&input.pick(&LAYERS));
                }
                return;
            }
            12 => return self.u64(input.long()),
            13 => {
                self.0.extend_from_slice(&[input.byte(); 16]);
                let made = input.below(2);
                self.u8(u8::try_from(made).unwrap_or(0));
                if made == 1 {
                    self.key(input);
                }
                return;
            }
            _ => self.key(input),
        }
        match kind {
            1 => {
                self.u32(input.pick(&[1, 0, 2, u32::MAX]));
                self.attr(input);
                self.body(input);
            }
            3 => self.attr(input),
            4 => self.u32(input.pick(&[0, 1, 2, u32::MAX])),
            5 => {
                self.name(input);
                let target = input.pick(&[1, 1, 1, 0, 2, 3]);
                self.u8(target);
                if target == 1 {
                    self.key(input);
                }
            }
            6 => self.key(input),
            7 => self.u64(input.long()),
            8 => {
                self.u64(1 + input.below(3) as u64);
                self.u64(1 + input.below(3) as u64);
                let count = input.below(4);
                self.u32(u32::try_from(count).unwrap_or(0));
                for _ in 0..count {
                    let start = input.long();
                    self.u64(start);
                    self.u64(input.pick(&[start.wrapping_add(100), start.wrapping_add(5000), u64::MAX]));
                }
            }
            9 => {
                self.u64(input.long());
                self.string(input.bytes(60));
            }
            10 => self.origins(input),
            14 => {
                self.base(input);
                self.u64(input.long());
            }
            _ => {}
        }
    }
}

/// The root directory and the layers below, as a real stack begins.
fn beginning() -> Vec<u8> {
    let mut out = Bytes::default();
    out.u8(0);
    out.u32(2);
    out.u8(1);
    out.0.extend_from_slice(&LAYER);
    out.u64(1);
    out.u32(0);
    out.u32(0o755);
    out.u64(0);
    for _ in 0..3 {
        out.u64(1_700_000_000);
        out.u32(0);
    }
    out.u8(2);
    out.0.extend_from_slice(&LAYER);
    out.u64(1);
    out.u8(1);
    out.string(b"");
    out.u32(2);
    for layer in [*b"overlay1", *b"template"] {
        out.0.extend_from_slice(&layer);
        out.u64(1);
    }
    out.u8(11);
    out.u32(2);
    out.0.extend_from_slice(b"overlay1template");
    out.0
}

fn record(input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Bytes::default();
    if input.one_in(8) {
        out.u8(1);
        out.0.extend_from_slice(&[input.byte(); 16]);
        out.u8(0);
    } else {
        out.u8(0);
    }
    let count = input.below(6);
    out.u32(u32::try_from(count).unwrap_or(0));
    for _ in 0..count {
        out.change(input);
    }
    if input.one_in(16) && !out.0.is_empty() {
        let at = usize::from(input.byte()) % out.0.len();
        out.0[at] = input.byte();
    }
    out.0
}

/// A record as it lies in a segment, with a check that passes.
fn frame(binding: &[u8; 32], position: u64, durable: u64, payload: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_keyed(binding);
    hasher.update(&position.to_le_bytes());
    hasher.update(&durable.to_le_bytes());
    hasher.update(payload);
    let mut out = Bytes::default();
    out.u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.0.extend_from_slice(&hasher.finalize().as_bytes()[..8]);
    out.u64(durable);
    out.0.extend_from_slice(payload);
    out.0
}

struct Segment {
    sequence: u64,
    epoch: u64,
    bytes: Vec<u8>,
}

fn segment(input: &mut Input<'_>, number: u64, before: Option<&Segment>) -> Segment {
    let mut out = Bytes::default();
    let (sequence, epoch) = match input.below(12) {
        11 => (input.below(4) as u64, input.below(4) as u64),
        10 => (number, input.long()),
        _ => (number, number),
    };
    out.0.extend_from_slice(b"xenolog\n");
    out.u32(if input.one_in(24) { 2 } else { 1 });
    out.u32(u32::from(input.one_in(6)));
    out.0
        .extend_from_slice(if input.one_in(24) { &LAYERS[3] } else { &LAYER });
    out.u64(epoch);
    out.u64(sequence);
    match (before, input.below(12)) {
        (None, 0..=10) => out.0.extend_from_slice(&[0; 56]),
        (Some(before), 0..=10) => {
            out.u64(before.sequence);
            out.u64(before.epoch);
            out.u64(before.bytes.len() as u64);
            out.0.extend_from_slice(blake3::hash(&before.bytes).as_bytes());
        }
        _ => {
            out.u64(input.below(4) as u64);
            out.u64(input.below(4) as u64);
            out.u64(input.long());
            out.0.extend_from_slice(&[input.byte(); 32]);
        }
    }
    let check = blake3::hash(&out.0);
    out.0.extend_from_slice(&check.as_bytes()[..16]);
    assert_eq!(out.0.len(), HEADER);
    let binding = *blake3::hash(&out.0).as_bytes();
    let mut durable = HEADER as u64;
    let records = 1 + input.below(12);
    for at in 0..records {
        let payload = if number == 1 && at == 0 && !input.one_in(16) {
            beginning()
        } else {
            record(input)
        };
        let position = out.0.len() as u64;
        durable = match input.below(20) {
            19 => input.long(),
            18 => position + FRAME as u64,
            _ => durable.min(position),
        };
        let mut framed = frame(&binding, position, durable, &payload);
        if input.one_in(24) {
            let at = usize::from(input.byte()) % framed.len();
            framed[at] ^= 1;
        }
        out.0.extend_from_slice(&framed);
    }
    if input.one_in(8) {
        out.0.extend_from_slice(input.bytes(100));
    }
    Segment {
        sequence,
        epoch,
        bytes: out.0,
    }
}

fn make_layer(dir: &Path, input: &mut Input<'_>) -> std::io::Result<()> {
    fs::create_dir(dir.join("log"))?;
    fs::create_dir(dir.join("content"))?;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let mut meta = format!(
        r#"{{"format":1,"layer":"{}","key":"{}"}}"#,
        hex(&LAYER),
        hex(&[5; 32])
    )
    .into_bytes();
    if input.one_in(16) {
        let at = usize::from(input.byte()) % meta.len();
        meta[at] = input.byte();
        meta.extend_from_slice(input.bytes(100));
    }
    fs::write(dir.join("layer.json"), meta)?;
    let mut before: Option<Segment> = None;
    for number in 1..=1 + input.below(3) as u64 {
        let made = segment(input, number, before.as_ref());
        fs::write(
            dir.join(format!("log/{:010}-{:010}", made.sequence, made.epoch)),
            &made.bytes,
        )?;
        before = Some(made);
    }
    for _ in 0..input.below(3) {
        let (number, epoch) = (1 + input.below(3), 1 + input.below(3));
        let folder = dir.join(format!("content/{number:02x}"));
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join(format!("{number:016x}-{epoch}")),
            vec![b'c'; usize::from(input.byte()) * 40],
        )?;
    }
    Ok(())
}
