//! Moves bytes and frames between xl, the gate and the other node.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::pipe::Talk;
use super::source::{self, Order, Source};
use super::target::{self, Found, Target};
use super::wire::{self, Backward, Forward, Frame, MigrationId};

/// Bytes taken from xl at a time.
const CHUNK: usize = 256 << 10;

/// Frames that wait for a slow link.
const WAITING_MAX: usize = 4;

/// The arguments with which `xl` sends a domain through `program gate SOCKET` ([`super::pipe::hand_over`]).
///
/// With an empty `-s`, the place of the host is a command for the shell (`xl_migrate.c`): the paths are quoted for it.
/// Nothing of xl's terminal is to be there: with one on standard error it asks for other words.
#[must_use]
pub fn migrate(domain: &str, program: &Path, socket: &Path) -> Vec<OsString> {
    let mut command = OsString::from("exec ");
    for word in [program.as_os_str(), "gate".as_ref(), socket.as_os_str()] {
        let quoted = word.as_encoded_bytes().split(|byte| *byte == b'\'');
        for (i, part) in quoted.enumerate() {
            command.push(if i == 0 { "'" } else { "\\''" });
            // Cut at an ASCII character, so it is still what it was.
            command.push(os(part));
            command.push("'");
        }
        command.push(" ");
    }
    [
        "migrate".into(),
        "-s".into(),
        OsString::new(),
        domain.into(),
        command,
    ]
    .into()
}

/// The arguments with which `xl` receives a domain from its standard input.
#[must_use]
pub fn receive() -> Vec<OsString> {
    vec!["migrate-receive".into()]
}

fn os(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// Carries a migration out of this node until xl has been told how it ended and the fate of the copy is known or cannot be.
///
/// Dropping the future closes everything, as if this agent had died. News arrive in order and none is left out.
pub async fn source<W>(
    id: MigrationId,
    wire: W,
    xl: Talk,
    mut orders: mpsc::Receiver<Order>,
    news: mpsc::UnboundedSender<source::News>,
) where
    W: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut gate, first) = Source::new(id);
    let (mut frames, out) = link::<Backward, Forward, W>(wire);
    let mut xl = Some(xl);
    let mut sending = VecDeque::new();
    let mut todo = first;
    let mut chunk = vec![0; CHUNK];
    let (mut linked, mut ordered, mut speaks) = (true, true, true);
    loop {
        for output in todo.drain(..) {
            match output {
                source::Output::ToXl(bytes) => {
                    if let Some(xl) = &mut xl {
                        // A word fits into any pipe. If xl is gone, its end of the other pipe says so.
                        let _gone = xl.to_xl.write_all(&bytes).await;
                    }
                }
                source::Output::CloseXl => xl = None,
                source::Output::Send(frame) => sending.push_back(frame),
                source::Output::Tell(told) => {
                    // Whoever no longer listens has dropped its orders, too.
                    let _nobody = news.send(told);
                }
            }
        }
        if gate.is_settled() && sending.is_empty() {
            return;
        }
        let input = tokio::select! {
            order = orders.recv(), if ordered => match order {
                Some(order) => source::Input::Order(order),
                None => {
                    ordered = false;
                    continue;
                }
            },
            frame = frames.recv(), if linked => match frame {
                Some(frame) => source::Input::Frame(frame),
                None => {
                    linked = false;
                    sending.clear();
                    source::Input::LinkLost
                }
            },
            place = out.reserve(), if linked && !sending.is_empty() => {
                if let (Ok(place), Some(frame)) = (place, sending.pop_front()) {
                    place.send(frame);
                } else {
                    linked = false;
                    sending.clear();
                    todo = gate.on(source::Input::LinkLost);
                }
                continue;
            },
            read = next(xl.as_mut().map(|xl| &mut xl.from_xl), &mut chunk), if speaks && xl.is_some() && sending.is_empty() => {
                match read {
                    Ok(1..) => source::Input::FromXl(chunk[..read.unwrap_or_default()].to_vec()),
                    _ => {
                        speaks = false;
                        source::Input::XlClosed
                    }
                }
            },
        };
        todo = gate.on(input);
    }
}

/// The pipes of a receiver (`xl migrate-receive`, see [`receive`]).
#[derive(Debug)]
pub struct Receiver<I, O> {
    /// What it reads.
    pub stdin: I,
    /// What it writes.
    pub stdout: O,
}

/// Carries a migration into this node until the copy runs or is known to be gone.
///
/// Dropping the future closes everything, as if this agent had died. News arrive in order and none is left out.
pub async fn target<W, I, O>(
    wire: W,
    receiver: Receiver<I, O>,
    mut looked: mpsc::Receiver<Found>,
    news: mpsc::UnboundedSender<target::News>,
) where
    W: AsyncRead + AsyncWrite + Send + 'static,
    I: AsyncWrite + Unpin,
    O: AsyncRead + Unpin,
{
    let mut gate = Target::default();
    let (mut frames, out) = link::<Forward, Backward, W>(wire);
    let Receiver { stdin, mut stdout } = receiver;
    let mut stdin = Some(stdin);
    let mut chunk = vec![0; CHUNK];
    let (mut linked, mut looking, mut speaks) = (true, true, true);
    loop {
        let input = tokio::select! {
            found = looked.recv(), if looking => match found {
                Some(found) => target::Input::Looked(found),
                None => {
                    looking = false;
                    continue;
                }
            },
            frame = frames.recv(), if linked => match frame {
                Some(frame) => target::Input::Frame(frame),
                None => {
                    linked = false;
                    target::Input::LinkLost
                }
            },
            read = stdout.read(&mut chunk), if speaks => match read {
                Ok(1..) => target::Input::FromReceiver(chunk[..read.unwrap_or_default()].to_vec()),
                _ => {
                    speaks = false;
                    target::Input::ReceiverClosed
                }
            },
        };
        for output in gate.on(input) {
            match output {
                target::Output::ToReceiver(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && (pipe.write_all(&bytes).await.is_err() || pipe.flush().await.is_err())
                    {
                        // It is gone; its output ends, too.
                        stdin = None;
                    }
                }
                target::Output::CloseReceiver => stdin = None,
                // Words are few: there is always a place, or nobody who takes them.
                target::Output::Send(frame) => drop(out.send(frame).await),
                target::Output::Tell(told) => {
                    let _nobody = news.send(told);
                }
            }
        }
        if gate.is_over() {
            return;
        }
    }
}

/// Frames from and to the other node. What comes ends where the connection does; what goes is refused from then on.
fn link<In, Out, W>(wire: W) -> (mpsc::Receiver<In>, mpsc::Sender<Out>)
where
    In: Frame,
    Out: Frame,
    W: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reading, mut writing) = tokio::io::split(wire);
    let (came, comes) = mpsc::channel(WAITING_MAX);
    let (goes, mut going) = mpsc::channel(WAITING_MAX);
    let reader = tokio::spawn(async move {
        loop {
            match wire::receive(&mut reading).await {
                Ok(Some(frame)) => {
                    if came.send(frame).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "migration");
                    return;
                }
            }
        }
    });
    tokio::spawn(async move {
        while let Some(frame) = going.recv().await {
            if wire::send(&mut writing, &frame).await.is_err() {
                break;
            }
        }
        // The last frame has been sent, or cannot be: the other side sees the end.
        let _gone = writing.shutdown().await;
        reader.abort();
    });
    (comes, goes)
}

async fn next(pipe: Option<&mut super::fd::Descriptor>, into: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(into).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
