//! Whatever can be written to a connection: records, fragments, heads, arguments, and pieces of all of them. The server
//! answers what it can, closes the connection where it must, and goes on serving.

use std::sync::Arc;

use cowfs::attr::SetAttr;
use cowfs::export::{ClientAddress, Export, ExportName, Peer, State};
use cowfs::memory::Memory;
use cowfs::nfs::client::encode;
use cowfs::nfs::ops::{self, Procedure};
use cowfs::nfs::rpc::Records;
use cowfs::nfs::xdr::{Reader, Writer, XdrResult};
use cowfs::nfs::{mount, rpc};
use cowfs::server::Server;
use cowfs::service::{Caller, CreateMode, FileService, Stability};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::arguments::{arguments, joined};
use crate::input::Input;
use crate::support;

/// Records of one input.
const RECORDS_MAX: usize = 32;

/// Runs one input.
pub(crate) fn run(data: &[u8]) {
    support::block_on(async {
        let server = support::server();
        let name = ExportName::parse("wire").expect("a good name");
        let (export, handles) = export(&name);
        server
            .exports()
            .add(Arc::clone(&export))
            .expect("the name is free");
        let mut input = Input::new(data);
        // On its own socket an export is reached whatever the path; from an address only by name.
        let peer = if input.byte() & 1 == 0 {
            Peer::Socket(Arc::clone(&export))
        } else {
            Peer::Address(ClientAddress::parse("127.0.0.1").expect("an address"))
        };
        let chunk = 1 + usize::from(input.byte()) * 8;
        let mut stream = Vec::new();
        for _ in 0..RECORDS_MAX {
            if input.is_empty() {
                break;
            }
            put_piece(&mut stream, &mut input, &handles);
        }
        let replies = converse(&server, peer.clone(), &stream, chunk).await;
        check_replies(&replies, stream.len());
        // Whatever that was, the next connection is served.
        let null = call(7, &Head::nfs(0), &[]);
        let answer = converse(&server, peer, &framed(&null), 4096).await;
        assert_eq!(answer.len(), 28, "the reply to NULL: {answer:02x?}");
        server.exports().remove(&name);
        export.quiesce().await;
    });
}

/// A small tree, and handles of it.
fn export(name: &ExportName) -> (Arc<Export>, Vec<Vec<u8>>) {
    let (service, caller) = (Memory::new(), Caller::root());
    let root = service.root().handle;
    let made = service.create(
        &caller,
        None,
        &root,
        b"a",
        CreateMode::Guarded(SetAttr::default()),
    );
    let file = made
        .expect("creating")
        .value
        .made
        .expect("something was made")
        .handle;
    let written = service.write(&caller, &file, 0, &[7; 9000], Stability::FileSync);
    written.expect("writing");
    let clients = vec![ClientAddress::parse("127.0.0.1").expect("an address")];
    let export = Export::new(name.clone(), Arc::new(service), clients, State::Active).expect("short handles");
    let handles = [root, file].map(|handle| {
        let (bytes, len) = export.id().join(&handle);
        bytes[..len].to_vec()
    });
    (Arc::new(export), handles.to_vec())
}

/// Sends the stream in pieces, says that this was all, and reads to the end.
async fn converse(server: &Arc<Server>, peer: Peer, stream: &[u8], chunk: usize) -> Vec<u8> {
    let (here, there) = tokio::io::duplex(32 << 10);
    let (reader, writer) = tokio::io::split(there);
    let serving = server.serve_connection(peer, reader, writer);
    let (mut reader, mut writer) = tokio::io::split(here);
    let sending = async move {
        for piece in stream.chunks(chunk) {
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        // It may have been closed already.
        let _closed = writer.shutdown().await;
    };
    let mut replies = Vec::new();
    let receiving = reader.read_to_end(&mut replies);
    let ((), (), received) = tokio::join!(serving, sending, receiving);
    received.expect("reading from memory");
    replies
}

/// Every reply has a right head.
fn check_replies(replies: &[u8], sent: usize) {
    let mut records = Records::default();
    records.room().extend_from_slice(replies);
    let (mut whole, mut count) = (0, 0);
    while let Some(reply) = records.next_record().expect("replies are records") {
        whole += 4 + reply.len();
        count += 1;
        check_head(&reply).unwrap_or_else(|error| panic!("{error}: {:02x?}", &reply[..reply.len().min(100)]));
    }
    // A connection that is closed for what it sent may be closed in the middle of a reply.
    assert!(whole <= replies.len());
    // The shortest call has a mark and 40 bytes; one that is refused for its version has 24.
    assert!(count * 28 <= sent, "{count} replies to {sent} bytes");
}

fn check_head(reply: &[u8]) -> XdrResult<()> {
    let mut r = Reader::new(reply);
    let _xid = r.u32()?;
    assert_eq!(r.u32()?, 1, "REPLY");
    if r.u32()? == 1 {
        let body = [r.u32()?, r.u32()?];
        if body[0] == 0 {
            assert_eq!((body[1], r.u32()?), (2, 2), "only version 2");
        } else {
            assert!(body[0] == 1 && [1, 3].contains(&body[1]), "{body:?}");
        }
        assert!(r.rest().is_empty());
        return Ok(());
    }
    assert_eq!(r.u64()?, 0, "no verifier");
    let rest = match r.u32()? {
        0 => return Ok(()),
        2 => 8,
        1 | 3 | 4 => 0,
        other => panic!("accept_stat {other}"),
    };
    assert_eq!(r.rest().len(), rest);
    Ok(())
}

/// The head of a call but for its xid.
struct Head {
    message: u32,
    rpc: u32,
    program: u32,
    version: u32,
    procedure: u32,
    credential: Vec<u8>,
}

impl Head {
    fn nfs(procedure: u32) -> Self {
        Self {
            message: 0,
            rpc: 2,
            program: ops::PROGRAM,
            version: ops::VERSION,
            procedure,
            credential: vec![0; 16],
        }
    }
}

fn call(xid: u32, head: &Head, arguments: &[u8]) -> Vec<u8> {
    encode(|w| {
        for word in [
            xid,
            head.message,
            head.rpc,
            head.program,
            head.version,
            head.procedure,
        ] {
            w.u32(word);
        }
        w.buffer().extend_from_slice(&head.credential);
        w.buffer().extend_from_slice(arguments);
    })
}

fn framed(record: &[u8]) -> Vec<u8> {
    let mut w = Writer::new(vec![0; 4]);
    w.buffer().extend_from_slice(record);
    rpc::finish(w)
}

/// Adds a record, or something that is none.
fn put_piece(stream: &mut Vec<u8>, input: &mut Input<'_>, handles: &[Vec<u8>]) {
    match input.below(10) {
        0 => stream.extend_from_slice(input.bytes(64)),
        1 => {
            stream.extend_from_slice(&input.word().to_be_bytes());
            stream.extend_from_slice(input.bytes(16));
        }
        2 => {
            let record = input.bytes(200);
            put_record(stream, record, input);
        }
        _ => {
            let mut record = made_up_call(input, handles);
            if input.one_in(6) && !record.is_empty() {
                let at = usize::from(input.byte()) % record.len();
                record[at] = input.byte();
            }
            if input.one_in(10) {
                record.truncate(usize::from(input.byte()));
            }
            put_record(stream, &record, input);
            if input.one_in(10) {
                stream.extend_from_slice(&framed(&record));
            }
        }
    }
}

/// Adds a record in one fragment or several.
fn put_record(stream: &mut Vec<u8>, record: &[u8], input: &mut Input<'_>) {
    let mut rest = record;
    if input.one_in(4) {
        for _ in 0..=input.below(4) {
            let len = usize::from(input.byte()).min(rest.len());
            let (now, later) = rest.split_at(len);
            stream.extend_from_slice(&u32::try_from(len).unwrap_or(0).to_be_bytes());
            stream.extend_from_slice(now);
            rest = later;
        }
    }
    stream.extend_from_slice(&framed(rest));
}

fn made_up_call(input: &mut Input<'_>, handles: &[Vec<u8>]) -> Vec<u8> {
    let number = u32::from(input.byte() % 24);
    let mut head = Head::nfs(number);
    let mut body = match Procedure::from_number(number) {
        None => input.bytes(40).to_vec(),
        Some(procedure) => {
            let mut stranger = Vec::new();
            let parts = arguments(input, procedure, &mut |input| {
                let at = input.below(handles.len() + 1);
                if at == handles.len() {
                    stranger = input.bytes(70).to_vec();
                }
                handles.get(at).map(|_| at)
            });
            joined(&parts, |at| at.map_or(&stranger, |at| &handles[at]))
        }
    };
    if input.one_in(6) {
        head.program = mount::PROGRAM;
        head.procedure = number % 7;
        body = encode(|w| {
            w.opaque(input.pick(&[b"/wire".as_slice(), b"/", b"/wire/../a", b"/wire/a", b"//", b"x"]))
        });
    }
    match input.below(24) {
        20 => head.program = input.word(),
        21 => head.version = input.word() % 6,
        22 => head.rpc = input.word(),
        23 => head.message = input.word(),
        _ => {}
    }
    head.credential = credential(input);
    call(u32::from(input.byte()), &head, &body)
}

fn credential(input: &mut Input<'_>) -> Vec<u8> {
    encode(|w| {
        match input.below(8) {
            0 => w.u64(0),
            1 => {
                w.u32(input.word());
                w.opaque(input.bytes(255));
            }
            2 => {
                w.u32(1);
                w.opaque(input.bytes(255));
            }
            _ => {
                w.u32(1);
                w.opaque(&encode(|w| {
                    w.u32(0);
                    w.opaque(input.bytes(20));
                    w.u32(u32::from(input.byte() % 2) * 1000);
                    w.u32(0);
                    let groups = u32::from(input.byte() % 18);
                    w.u32(groups);
                    for group in 0..groups {
                        w.u32(group);
                    }
                }));
            }
        }
        match input.below(8) {
            0 => {
                w.u32(input.word());
                w.opaque(input.bytes(255));
            }
            1 => w.u32(u32::MAX),
            _ => w.u64(0),
        }
    })
}
