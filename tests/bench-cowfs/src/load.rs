//! A client that keeps a number of calls outstanding on one connection, on one thread, with one write for all calls that
//! are ready and one read for all replies that have come: it must cost less than any server that it measures.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cowfs::nfs::client::encode;
use cowfs::nfs::ops::Procedure;
use cowfs::nfs::xdr::{Reader, Writer};
use cowfs::nfs::{mount, ops};

use crate::Failure;

/// How long a server may take over everything that is outstanding.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest reply taken.
const REPLY_MAX: usize = (1 << 20) + 65_536;

/// A load: what to ask, and what to make of the answers.
pub(crate) trait Work {
    /// The next call, its arguments appended to `arguments`; `None` while (or because) there is nothing to ask.
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)>;

    /// Takes a reply: what follows the head of the RPC reply, so the status first. Returns how much was done by it, in
    /// whatever the load counts.
    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure>;

    /// Whether the load may end here; where it is in the middle of something that counts as a whole, it goes on.
    fn may_end(&self) -> bool {
        true
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ran {
    /// As the load counts.
    pub(crate) units: u64,
    pub(crate) wall: Duration,
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    credential: Vec<u8>,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of `input` that hold something.
    filled: usize,
    /// Counts calls.
    count: u32,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let body = encode(|w| {
            w.u32(0);
            w.opaque(b"bench");
            // uid, gid, no groups: root.
            w.u32(0);
            w.u32(0);
            w.u32(0);
        });
        let credential = encode(|w| {
            w.u32(1);
            w.opaque(&body);
            w.u64(0);
        });
        Ok(Self {
            stream,
            credential,
            out: Vec::new(),
            input: vec![0; 2 * REPLY_MAX],
            filled: 0,
            // Servers remember calls by their number: two runs must not look like one.
            count: std::process::id() << 8,
        })
    }

    /// MNT: the handle of the export's root.
    pub(crate) fn mount(&mut self, path: &str) -> Result<Vec<u8>, Failure> {
        let arguments = encode(|w| w.opaque(path.as_bytes()));
        self.count = self.count.wrapping_add(1);
        self.put(self.count << 8, mount::PROGRAM, mount::VERSION, 1, &arguments);
        let reply = self.one_reply()?;
        let mut reader = Reader::new(&reply);
        match reader.u32()? {
            0 => Ok(reader.opaque(ops::MAX_HANDLE)?.to_vec()),
            status => Err(format!("mounting {path}: status {status}").into()),
        }
    }

    /// One call and its answer; an NFS status other than 0 is a failure.
    pub(crate) fn ask(&mut self, procedure: Procedure, arguments: &[u8]) -> Result<Vec<u8>, Failure> {
        self.count = self.count.wrapping_add(1);
        let xid = self.count << 8;
        self.put(xid, ops::PROGRAM, ops::VERSION, procedure as u32, arguments);
        let reply = self.one_reply()?;
        match Reader::new(&reply).u32()? {
            0 => Ok(reply[4..].to_vec()),
            status => Err(format!("{procedure:?}: status {status}").into()),
        }
    }

    /// Keeps `outstanding` calls of `work` going until `window` has passed, or there is nothing more to ask.
    pub(crate) fn run(
        &mut self,
        work: &mut dyn Work,
        outstanding: usize,
        window: Duration,
    ) -> Result<Ran, Failure> {
        // A slot for each outstanding call: the low byte of a call's number.
        let mut tokens = vec![0; outstanding];
        let mut free: Vec<u32> = (0..u32::try_from(outstanding)?).rev().collect();
        if outstanding > 256 {
            return Err("at most 256 calls outstanding".into());
        }
        let mut units = 0;
        let mut arguments = Writer::default();
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() >= window && work.may_end();
            while !over && !free.is_empty() {
                arguments.truncate(0);
                let Some((procedure, token)) = work.next(&mut arguments) else {
                    break;
                };
                let slot = free.pop().ok_or("no slot")?;
                tokens[usize::try_from(slot)?] = token;
                self.count = self.count.wrapping_add(1);
                let xid = self.count << 8 | slot;
                self.put(
                    xid,
                    ops::PROGRAM,
                    ops::VERSION,
                    procedure as u32,
                    arguments.buffer(),
                );
            }
            if free.len() == outstanding {
                break;
            }
            self.send()?;
            self.receive()?;
            let mut at = 0;
            while let Some(reply) = record(&self.input[at..self.filled])? {
                at += reply.len() + 4;
                let (xid, mut reader) = head(reply)?;
                let slot = xid & 0xff;
                free.push(slot);
                units += work.done(tokens[usize::try_from(slot)?], &mut reader)?;
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
        Ok(Ran {
            units,
            wall: begun.elapsed(),
        })
    }

    fn put(&mut self, xid: u32, program: u32, version: u32, procedure: u32, arguments: &[u8]) {
        let len = 24 + self.credential.len() + arguments.len();
        let mark = u32::try_from(len).unwrap_or(u32::MAX) | 1 << 31;
        for word in [mark, xid, 0, 2, program, version, procedure] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        self.out.extend_from_slice(&self.credential);
        self.out.extend_from_slice(arguments);
    }

    fn send(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads at least something.
    fn receive(&mut self) -> Result<(), Failure> {
        let count = self.stream.read(&mut self.input[self.filled..])?;
        if count == 0 {
            return Err("the server has closed the connection".into());
        }
        self.filled += count;
        Ok(())
    }

    fn one_reply(&mut self) -> Result<Vec<u8>, Failure> {
        self.send()?;
        loop {
            if let Some(reply) = record(&self.input[..self.filled])? {
                let len = reply.len() + 4;
                let (_, reader) = head(reply)?;
                let body = reader.rest().to_vec();
                self.input.copy_within(len..self.filled, 0);
                self.filled -= len;
                return Ok(body);
            }
            self.receive()?;
        }
    }
}

/// The first record, if it is whole. Servers send replies in one fragment.
fn record(bytes: &[u8]) -> Result<Option<&[u8]>, Failure> {
    let Some(mark) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let mark = u32::from_be_bytes(*mark);
    if mark >> 31 == 0 {
        return Err("a reply in several fragments".into());
    }
    let len = usize::try_from(mark & !(1 << 31))?;
    if len > REPLY_MAX {
        return Err(format!("a reply of {len} bytes").into());
    }
    Ok(bytes.get(4..4 + len))
}

/// The number of the call, and what follows the head of an accepted reply.
fn head(reply: &[u8]) -> Result<(u32, Reader<'_>), Failure> {
    let mut reader = Reader::new(reply);
    let (xid, _reply, denied) = (reader.u32()?, reader.u32()?, reader.u32()?);
    if denied != 0 {
        return Err("the server denies the call".into());
    }
    reader.u32()?;
    reader.opaque(400)?;
    match reader.u32()? {
        0 => Ok((xid, reader)),
        why => Err(format!("the call was not accepted: {why}").into()),
    }
}
