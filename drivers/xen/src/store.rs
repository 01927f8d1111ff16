//! A small xenstore client over the daemon's unix socket.
//!
//! One connection, one question at a time, bounded sizes, a deadline for every answer. What a watch tells in between is
//! kept (a bounded number; a watch says only that something changed).
//!
//! # Source
//! xen.git `docs/misc/xenstore.txt` (meaning) and `xen/include/public/io/xs_wire.h` (numbers and the header).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Where a daemon may listen: newer layouts first.
pub const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// Longest payload of either direction (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;
/// Longest absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const PATH_MAX: usize = 3072;

/// How long the daemon may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Events that are kept while an answer is waited for.
const EVENTS_MAX: usize = 64;
/// Parts of a directory that are read.
const PARTS_MAX: usize = 1_000;
/// Attempts at a transaction that others get in the way of.
const TRANSACTION_ATTEMPTS: usize = 20;

/// Why the store did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No daemon listens.
    #[error("connect to xenstored at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("talk to xenstored")]
    Io(#[source] io::Error),
    /// It took too long.
    #[error("xenstored did not answer within {} s", ANSWER_LIMIT.as_secs())]
    Silent,
    /// It answered something that the protocol does not know.
    #[error("xenstored answers with {0}")]
    Garbage(String),
    /// It refused.
    #[error("xenstored refuses {what}: {code}")]
    Refused {
        /// What was asked, and of which node.
        what: String,
        /// The name of the error, as errno(3) has it.
        code: String,
    },
    /// The question has no form on the wire.
    #[error("{0} is no path or value of xenstore")]
    Form(String),
    /// Others changed the same nodes again and again.
    #[error("a transaction of xenstore was overtaken {TRANSACTION_ATTEMPTS} times")]
    Overtaken,
}

/// A kind of message (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Directory = 1,
    Read = 2,
    Watch = 4,
    TransactionStart = 6,
    TransactionEnd = 7,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    DirectoryPart = 22,
}

/// Something below a watched node changed, or a watch was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The node.
    pub path: String,
    /// What the watch was set with.
    pub token: String,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a node, making those above it.
    Write {
        /// The node.
        path: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// Removes a node with all below it; success if it is not there.
    Remove {
        /// The node.
        path: String,
    },
}

/// A connection to xenstored.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    last: u32,
    events: VecDeque<WatchEvent>,
}

/// The socket of this node's daemon: the first that is there.
#[must_use]
pub fn find_socket() -> PathBuf {
    let there = SOCKETS.iter().map(Path::new).find(|path| path.exists());
    there.unwrap_or_else(|| Path::new(SOCKETS[0])).to_owned()
}

impl Connection {
    /// Connects to the daemon that listens at `socket`.
    ///
    /// # Errors
    /// [`StoreError::Connect`].
    pub async fn open(socket: &Path) -> Result<Self, StoreError> {
        let connect = |source| StoreError::Connect {
            path: socket.to_owned(),
            source,
        };
        let stream = timeout(ANSWER_LIMIT, UnixStream::connect(socket)).await;
        Ok(Self {
            stream: stream.map_err(|_| StoreError::Silent)?.map_err(connect)?,
            last: 0,
            events: VecDeque::new(),
        })
    }

    /// The value of a node. `None`: there is no such node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        unless_absent(
            self.ask(Kind::Read, 0, &[checked(path)?.as_bytes(), b"\0"], path)
                .await,
        )
    }

    /// The value of a node as text. `None`: there is no such node, or it holds something else.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_text(&mut self, path: &str) -> Result<Option<String>, StoreError> {
        Ok(self
            .read(path)
            .await?
            .and_then(|value| String::from_utf8(value).ok()))
    }

    /// Sets a node, making those above it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write(&mut self, path: &str, value: &[u8]) -> Result<(), StoreError> {
        self.write_in(0, path, value).await
    }

    async fn write_in(&mut self, transaction: u32, path: &str, value: &[u8]) -> Result<(), StoreError> {
        let parts = [checked(path)?.as_bytes(), b"\0", value];
        self.ask(Kind::Write, transaction, &parts, path).await.map(drop)
    }

    /// Makes a node, and those above it. Success if it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mkdir(&mut self, path: &str) -> Result<(), StoreError> {
        let parts = [checked(path)?.as_bytes(), b"\0"];
        self.ask(Kind::Mkdir, 0, &parts, path).await.map(drop)
    }

    /// Removes a node with all below it. Success if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        self.remove_in(0, path).await
    }

    async fn remove_in(&mut self, transaction: u32, path: &str) -> Result<(), StoreError> {
        let parts = [checked(path)?.as_bytes(), b"\0"];
        unless_absent(self.ask(Kind::Rm, transaction, &parts, path).await).map(drop)
    }

    /// Names of the nodes right below one, in its order. `None`: there is no such node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn directory(&mut self, path: &str) -> Result<Option<Vec<String>>, StoreError> {
        let parts = [checked(path)?.as_bytes(), b"\0"];
        match self.ask(Kind::Directory, 0, &parts, path).await {
            Ok(names) => Ok(Some(names_of(&names)?)),
            // Too long for one message.
            Err(StoreError::Refused { code, .. }) if code == "E2BIG" => self.long_directory(path).await,
            Err(error) => unless_absent(Err::<(), _>(error)).map(|_| None),
        }
    }

    /// Reads a directory in parts, from the beginning again where it changes meanwhile.
    async fn long_directory(&mut self, path: &str) -> Result<Option<Vec<String>>, StoreError> {
        let (mut text, mut generation) = (Vec::new(), None);
        for _ in 0..PARTS_MAX {
            let offset = text.len().to_string();
            let parts = [path.as_bytes(), b"\0", offset.as_bytes(), b"\0"];
            let asked = self.ask(Kind::DirectoryPart, 0, &parts, path).await;
            let Some(answer) = unless_absent(asked)? else {
                return Ok(None);
            };
            let end = answer.iter().position(|byte| *byte == 0);
            let end = end
                .ok_or_else(|| StoreError::Garbage("a part of a directory without its generation".into()))?;
            let (now, part) = (&answer[..end], &answer[end + 1..]);
            if generation.as_deref().is_some_and(|before| before != now) {
                (text, generation) = (Vec::new(), None);
                continue;
            }
            generation = Some(now.to_vec());
            // An empty name is the end.
            if let [rest @ .., 0] = part
                && (rest.is_empty() || rest.ends_with(b"\0"))
            {
                text.extend_from_slice(rest);
                return names_of(&text).map(Some);
            }
            text.extend_from_slice(part);
        }
        Err(StoreError::Garbage("a directory without an end".into()))
    }

    /// Says who may read and write a node: `n0` lets the domain 0 own it and nobody else see it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_perms(&mut self, path: &str, perms: &[&str]) -> Result<(), StoreError> {
        let mut parts = vec![checked(path)?.as_bytes(), b"\0".as_slice()];
        for perm in perms {
            parts.extend([perm.as_bytes(), b"\0"]);
        }
        self.ask(Kind::SetPerms, 0, &parts, path).await.map(drop)
    }

    /// Carries out all changes or none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn transact(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        for _ in 0..TRANSACTION_ATTEMPTS {
            let answer = self
                .ask(Kind::TransactionStart, 0, &[b"\0"], "a transaction")
                .await?;
            let text = String::from_utf8_lossy(&answer);
            let id = text.trim_end_matches('\0').parse::<u32>();
            let id = id.map_err(|_| StoreError::Garbage(format!("the transaction {text:?}")))?;
            let done = self.apply(id, changes).await;
            let verdict: &[u8] = if done.is_ok() { b"T\0" } else { b"F\0" };
            let ended = self
                .ask(Kind::TransactionEnd, id, &[verdict], "a transaction")
                .await;
            done?;
            match ended {
                Err(StoreError::Refused { code, .. }) if code == "EAGAIN" => {}
                ended => return ended.map(drop),
            }
        }
        Err(StoreError::Overtaken)
    }

    async fn apply(&mut self, transaction: u32, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            match change {
                Change::Write { path, value } => self.write_in(transaction, path, value).await?,
                Change::Remove { path } => self.remove_in(transaction, path).await?,
            }
        }
        Ok(())
    }

    /// Watches a node and all below it, or `@introduceDomain` and `@releaseDomain`. The first event comes at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError> {
        let parts = [
            checked(path)?.as_bytes(),
            b"\0",
            checked(token)?.as_bytes(),
            b"\0",
        ];
        self.ask(Kind::Watch, 0, &parts, path).await.map(drop)
    }

    /// Waits for the next event of any watch. Not safe to drop and call again: open another connection then.
    ///
    /// # Errors
    /// [`StoreError`] where the connection ends.
    pub async fn event(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let (kind, _, payload) = self.receive().await?;
            if kind != Kind::WatchEvent as u32 {
                return Err(StoreError::Garbage(format!(
                    "a message of kind {kind} that nobody asked for"
                )));
            }
            self.note(&payload)?;
        }
    }

    async fn ask(
        &mut self,
        kind: Kind,
        transaction: u32,
        parts: &[&[u8]],
        of: &str,
    ) -> Result<Vec<u8>, StoreError> {
        timeout(ANSWER_LIMIT, self.exchange(kind, transaction, parts, of))
            .await
            .map_err(|_| StoreError::Silent)?
    }

    async fn exchange(
        &mut self,
        kind: Kind,
        transaction: u32,
        parts: &[&[u8]],
        of: &str,
    ) -> Result<Vec<u8>, StoreError> {
        let payload = parts.concat();
        let len = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= PAYLOAD_MAX);
        let Some(len) = len else {
            return Err(StoreError::Form(format!("a message of {} bytes", payload.len())));
        };
        self.last = self.last.wrapping_add(1);
        let id = self.last;
        let mut message = Vec::with_capacity(16 + payload.len());
        for word in [kind as u32, id, transaction, len] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(&payload);
        self.stream.write_all(&message).await.map_err(StoreError::Io)?;
        loop {
            let (answered, to, payload) = self.receive().await?;
            if answered == Kind::WatchEvent as u32 {
                self.note(&payload)?;
                continue;
            }
            if to != id {
                return Err(StoreError::Garbage(format!("an answer to {to}, not to {id}")));
            }
            if answered == Kind::Error as u32 {
                let code = String::from_utf8_lossy(&payload);
                return Err(StoreError::Refused {
                    what: format!("{kind:?} of {}", of.chars().take(200).collect::<String>()),
                    code: code.trim_end_matches('\0').chars().take(40).collect(),
                });
            }
            if answered != kind as u32 {
                return Err(StoreError::Garbage(format!("kind {answered} to {kind:?}")));
            }
            return Ok(payload);
        }
    }

    async fn receive(&mut self) -> Result<(u32, u32, Vec<u8>), StoreError> {
        let mut header = [0; 16];
        self.stream
            .read_exact(&mut header)
            .await
            .map_err(StoreError::Io)?;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let (kind, id, len) = (word(0), word(4), word(12));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > PAYLOAD_MAX {
            return Err(StoreError::Garbage(format!("a message of {len} bytes")));
        }
        let mut payload = vec![0; len];
        self.stream
            .read_exact(&mut payload)
            .await
            .map_err(StoreError::Io)?;
        Ok((kind, id, payload))
    }

    fn note(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let mut words = names_of(payload)?.into_iter();
        let (Some(path), Some(token)) = (words.next(), words.next()) else {
            return Err(StoreError::Garbage("an event without a token".into()));
        };
        if self.events.len() == EVENTS_MAX {
            // The oldest: whoever sees a later one looks at everything.
            self.events.pop_front();
        }
        self.events.push_back(WatchEvent { path, token });
        Ok(())
    }
}

/// Turns the absence of a node into `None`.
fn unless_absent<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Refused { code, .. }) if code == "ENOENT" => Ok(None),
        Err(error) => Err(error),
    }
}

/// A path or token that the wire can carry. What it means is the daemon's to judge.
fn checked(path: &str) -> Result<&str, StoreError> {
    let fits = !path.is_empty() && path.len() <= PATH_MAX && path.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(path)
    } else {
        Err(StoreError::Form(format!(
            "{:?}",
            path.chars().take(80).collect::<String>()
        )))
    }
}

/// Names that each end with a zero.
fn names_of(text: &[u8]) -> Result<Vec<String>, StoreError> {
    let Some((0, names)) = text.split_last() else {
        return if text.is_empty() {
            Ok(Vec::new())
        } else {
            Err(StoreError::Garbage("a name without an end".into()))
        };
    };
    let names = names.split(|byte| *byte == 0);
    Ok(names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
