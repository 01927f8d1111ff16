//! What agents say to each other about a move: lines of JSON, each with a bound, at the beginning of a connection or, on the one
//! that stands for the move itself, until its end. A connection that carries memory or layers is raw after its first line.

use serde::de::DeserializeOwned;
use std::future::Future;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Duration, timeout};
use xeno_model::id::{Digest, MigrationId, NodeName, SliverId};
use xeno_reconciler::tenure::BootId;

/// Version of what is said. Both ends must have the same.
pub(crate) const VERSION: u32 = 1;

/// The longest line.
const LINE_MAX: usize = 8 << 10;

/// How long a line may take that the other end owes.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A connection to another agent.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to another agent, whatever it runs over.
pub(crate) type Wire = Box<dyn Duplex>;

/// The first line of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// Who says it.
    pub(crate) from: String,
    pub(crate) sliver: String,
    pub(crate) migration: String,
    pub(crate) what: What,
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum What {
    /// The move itself.
    Offer {
        /// Whether its memory comes too.
        memory: bool,
        /// What the guest was started as: memory fits nothing else.
        booted: Option<String>,
    },
    /// Memory.
    Memory,
    /// Writable layers, one round of them.
    Layers,
}

/// What the receiving end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Reply {
    /// It is ready to receive.
    Ready {
        /// In which life.
        boot: String,
        /// Whether it takes its memory: not where it would start as something else.
        memory: bool,
    },
    /// It does not take it now.
    Refused {
        /// Why.
        why: String,
    },
    /// The copy of the memory is whole.
    Whole,
}

/// What the sending end says after its first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Order {
    /// The record has changed: it may run.
    Go,
}

impl Hello {
    pub(crate) fn new(me: &NodeName, sliver: &SliverId, migration: MigrationId, what: What) -> Self {
        Self {
            version: VERSION,
            from: me.to_string(),
            sliver: sliver.to_string(),
            migration: migration.to_string(),
            what,
        }
    }

    /// Its names, read.
    pub(crate) fn names(&self) -> Result<(NodeName, SliverId, MigrationId), String> {
        if self.version != VERSION {
            return Err(format!(
                "the other agent speaks version {} of moves, this one {VERSION}",
                self.version
            ));
        }
        let from = NodeName::new(&self.from).map_err(|error| error.to_string())?;
        let sliver = SliverId::parse(&self.sliver).map_err(|error| error.to_string())?;
        let migration = MigrationId::parse(&self.migration).map_err(|error| error.to_string())?;
        Ok((from, sliver, migration))
    }
}

impl Reply {
    pub(crate) fn ready(boot: BootId, memory: bool) -> Self {
        Self::Ready {
            boot: MigrationId(boot.0).to_string(),
            memory,
        }
    }
}

/// Reads a life of a machine.
pub(crate) fn boot_id(text: &str) -> Result<BootId, String> {
    let id = MigrationId::parse(text).map_err(|error| error.to_string())?;
    Ok(BootId(id.0))
}

/// Reads a digest.
pub(crate) fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).map_err(|error| error.to_string())
}

/// Says one line.
pub(crate) async fn say<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin + ?Sized),
    what: &T,
) -> Result<(), String> {
    let mut line = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let said = async {
        to.write_all(&line).await?;
        to.flush().await
    };
    match timeout(ANSWER_MAX, said).await {
        Ok(said) => said.map_err(|error| error.to_string()),
        Err(_) => Err("the other agent takes nothing".to_owned()),
    }
}

/// Hears one line; what comes after it is not touched. `None`: the connection has ended.
pub(crate) async fn hear<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
) -> Result<Option<T>, String> {
    let mut line = Vec::new();
    loop {
        // Byte by byte: what follows the line is somebody else's. Lines are few and short.
        let mut byte = [0];
        match from.read(&mut byte).await {
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(0) => return Err("the connection ended within a line".to_owned()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if line.len() == LINE_MAX => return Err("a line is too long".to_owned()),
            Ok(_) => line.push(byte[0]),
            Err(error) => return Err(error.to_string()),
        }
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| format!("a line cannot be understood: {error}"))
}

/// Lines as they come, whatever else is being done. Dropped, it lets go of its half of the connection, so that the other end
/// notices.
pub(crate) struct Lines<T> {
    heard: mpsc::Receiver<Result<T, String>>,
    reading: AbortHandle,
    ended: watch::Receiver<()>,
}

impl<T: DeserializeOwned + Send + 'static> Lines<T> {
    pub(crate) fn of(mut read: ReadHalf<Wire>) -> Self {
        let (tell, heard) = mpsc::channel(4);
        let (ends, ended) = watch::channel(());
        let reading = tokio::spawn(async move {
            // Dropped when this ends, whatever the reason.
            let _ends = ends;
            while let Some(line) = hear(&mut read).await.transpose() {
                let ends = line.is_err();
                if tell.send(line).await.is_err() || ends {
                    return;
                }
            }
        });
        Self {
            heard,
            reading: reading.abort_handle(),
            ended,
        }
    }

    /// Waits until the other end has hung up, or has said what cannot be understood.
    pub(crate) fn hung_up(&self) -> impl Future<Output = String> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            while ended.changed().await.is_ok() {}
            "the other agent hung up".to_owned()
        }
    }

    /// The next line; an error where the other end has hung up, too.
    pub(crate) async fn next(&mut self) -> Result<T, String> {
        let ended = || Err("the other agent hung up".to_owned());
        self.heard.recv().await.unwrap_or_else(ended)
    }
}

impl<T> Drop for Lines<T> {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Hears a line that the other end owes.
pub(crate) async fn answer<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin + ?Sized),
    within: Duration,
) -> Result<T, String> {
    match timeout(within, hear(from)).await {
        Ok(Ok(Some(line))) => Ok(line),
        Ok(Ok(None)) => Err("the other agent hung up".to_owned()),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("the other agent said nothing for {} s", within.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_heard_one_by_one_and_what_follows_is_left() {
        let (mut a, mut b) = tokio::io::duplex(4096);
        say(&mut a, &Reply::Whole).await.unwrap();
        a.write_all(b"raw").await.unwrap();
        assert_eq!(answer::<Reply>(&mut b, ANSWER_MAX).await, Ok(Reply::Whole));
        drop(a);
        let mut rest = String::new();
        b.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "raw");
    }

    #[tokio::test]
    async fn what_is_no_line_is_refused() {
        for (bytes, says) in [
            (vec![b'x'; LINE_MAX + 2], "too long"),
            (b"{}\n".to_vec(), "cannot be understood"),
            (b"\"whol".to_vec(), "ended within a line"),
            (b"".to_vec(), "hung up"),
        ] {
            let (mut a, mut b) = tokio::io::duplex(LINE_MAX * 2);
            a.write_all(&bytes).await.unwrap();
            drop(a);
            let heard = answer::<Reply>(&mut b, ANSWER_MAX).await.unwrap_err();
            assert!(heard.contains(says), "{heard}");
        }
    }

    #[test]
    fn a_hello_is_of_this_version_and_has_good_names() {
        let node = NodeName::new("a").unwrap();
        let sliver = SliverId::parse("web/0").unwrap();
        let hello = Hello::new(&node, &sliver, MigrationId([3; 16]), What::Layers);
        assert_eq!(hello.names(), Ok((node, sliver, MigrationId([3; 16]))));
        let wrong = |change: fn(&mut Hello)| {
            let mut hello = hello.clone();
            change(&mut hello);
            hello.names().unwrap_err()
        };
        assert!(wrong(|hello| hello.version = 2).contains("version 2"));
        wrong(|hello| hello.sliver = "../0".to_owned());
        wrong(|hello| hello.from = String::new());
        wrong(|hello| hello.migration = "1".to_owned());
    }
}
