//! One question to a sliver, and whether the answer is good.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use xeno_model::desired::{Probe, Publish};

/// How long a TCP connection must stay open to count: a forwarder that finds nobody listening closes it at once.
const STAYS: Duration = Duration::from_millis(300);

/// Bytes of the console read for one question; the rest is read with the next.
const CONSOLE_READ_MAX: usize = 1 << 20;

/// Asks one sliver.
#[derive(Debug)]
pub(super) enum Asker {
    Http {
        host: u16,
        path: String,
        expect: u16,
        max: Duration,
    },
    Tcp {
        host: u16,
        max: Duration,
    },
    Console(Console),
    /// The port is not published; the manifest's check refuses that, so this is only for what was stored before.
    Unpublished {
        port: u16,
    },
}

impl Asker {
    pub(super) fn new(probe: &Probe, publish: &[Publish], console: &Path, every: Duration) -> Self {
        let host = |port: u16| {
            publish
                .iter()
                .find(|publish| publish.guest == port)
                .map(|publish| publish.host)
        };
        // A guest on an emulated CPU takes seconds for its first page.
        let max = every.clamp(Duration::from_secs(5), Duration::from_secs(30));
        match probe {
            Probe::Http { port, path, expect } => match host(*port) {
                Some(host) => Self::Http {
                    host,
                    path: path.clone(),
                    expect: *expect,
                    max,
                },
                None => Self::Unpublished { port: *port },
            },
            Probe::Tcp { port } => match host(*port) {
                Some(host) => Self::Tcp { host, max },
                None => Self::Unpublished { port: *port },
            },
            Probe::Console { marker } => Self::Console(Console::new(console, marker)),
        }
    }

    /// Asks once; `Err` says what is wrong.
    pub(super) async fn ask(&mut self) -> Result<(), String> {
        match self {
            Self::Http {
                host,
                path,
                expect,
                max,
            } => {
                let late = || format!("no HTTP answer within {} s", max.as_secs());
                timeout(*max, http(*host, path, *expect))
                    .await
                    .map_err(|_| late())?
            }
            Self::Tcp { host, max } => {
                let late = || format!("no connection within {} s", max.as_secs());
                timeout(*max, tcp(*host)).await.map_err(|_| late())?
            }
            Self::Console(console) => console.look().await,
            Self::Unpublished { port } => Err(format!("port {port} of the guest is not published")),
        }
    }
}

async fn connect(host: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(("127.0.0.1", host)).await;
    connected.map_err(|error| format!("connecting to port {host}: {error}"))
}

async fn http(host: u16, path: &str, expect: u16) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("HTTP on port {host}: {error}");
    let stream = connect(host).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let request = Request::get(path)
        .header(header::HOST, "127.0.0.1")
        .header(header::USER_AGENT, "xenoslice-health")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("asking for {path}: {error}"))?;
    // Drives the connection until the answer's head is here; its body does not matter.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status().as_u16() == expect {
        Ok(())
    } else {
        Err(format!(
            "HTTP on port {host} answered {}, not {expect}",
            answer.status().as_u16()
        ))
    }
}

async fn tcp(host: u16) -> Result<(), String> {
    let mut stream = connect(host).await?;
    let mut byte = [0; 1];
    match timeout(STAYS, stream.read(&mut byte)).await {
        // Still open, or a greeting.
        Err(_) | Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0)) => Err(format!("port {host} closed the connection at once")),
        Ok(Err(error)) => Err(format!("port {host}: {error}")),
    }
}

/// Looks for a marker in a console log that grows, reading every byte once.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    marker: Vec<u8>,
    offset: u64,
    /// The end of what was read, in which a marker may have begun.
    tail: Vec<u8>,
    found: bool,
}

impl Console {
    fn new(path: &Path, marker: &str) -> Self {
        Self {
            path: path.to_owned(),
            marker: marker.as_bytes().to_vec(),
            offset: 0,
            tail: Vec::new(),
            found: false,
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let failed = |path: &Path, error| format!("reading {}: {error}", path.display());
        let mut file = File::open(&self.path)
            .await
            .map_err(|error| failed(&self.path, error))?;
        let len = file
            .metadata()
            .await
            .map_err(|error| failed(&self.path, error))?
            .len();
        if len < self.offset {
            // It was cut, since it had become too long. Another start is asked by another `Asker`.
            self.offset = 0;
            self.tail.clear();
        }
        if !self.found {
            file.seek(SeekFrom::Start(self.offset))
                .await
                .map_err(|error| failed(&self.path, error))?;
            let mut text = std::mem::take(&mut self.tail);
            let limit = u64::try_from(CONSOLE_READ_MAX).unwrap_or(u64::MAX);
            let read = file.take(limit).read_to_end(&mut text).await;
            let read = read.map_err(|error| failed(&self.path, error))?;
            self.offset += u64::try_from(read).unwrap_or(0);
            self.found = self.marker.is_empty() || text.windows(self.marker.len()).any(|w| w == self.marker);
            let keep = self.marker.len().saturating_sub(1).min(text.len());
            self.tail = text.split_off(text.len() - keep);
        }
        if self.found {
            Ok(())
        } else {
            Err(format!(
                "`{}` is not on the console yet",
                String::from_utf8_lossy(&self.marker)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn asker(probe: Probe, host: u16) -> Asker {
        let publish = [Publish { guest: 80, host }];
        Asker::new(
            &probe,
            &publish,
            Path::new("/nonexistent"),
            Duration::from_secs(1),
        )
    }

    fn http_probe(host: u16) -> Asker {
        let path = "/".to_owned();
        asker(
            Probe::Http {
                port: 80,
                path,
                expect: 200,
            },
            host,
        )
    }

    /// Serves one connection with these bytes, then closes it; returns the port.
    async fn answer_once(reply: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            if !reply.is_empty() {
                let mut request = [0; 1024];
                assert_ne!(stream.read(&mut request).await.unwrap(), 0);
                stream.write_all(reply).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn http_is_judged_by_its_answer() {
        let good = answer_once(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        http_probe(good).ask().await.unwrap();
        let bad = answer_once(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        let why = http_probe(bad).ask().await.unwrap_err();
        assert!(why.contains("answered 503, not 200"), "{why}");
        let empty = answer_once(b"").await;
        http_probe(empty).ask().await.unwrap_err();
        let garbage = answer_once(b"220 smtp.example ready\r\n").await;
        http_probe(garbage).ask().await.unwrap_err();
    }

    #[tokio::test]
    async fn tcp_that_closes_at_once_is_not_there() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = tokio::spawn(async move { listener.accept().await.unwrap() });
        asker(Probe::Tcp { port: 80 }, port).ask().await.unwrap();
        drop(held.await);
        let closing = answer_once(b"").await;
        asker(Probe::Tcp { port: 80 }, closing).ask().await.unwrap_err();
        let unpublished = asker(Probe::Tcp { port: 81 }, port).ask().await.unwrap_err();
        assert!(unpublished.contains("81"), "{unpublished}");
    }

    #[tokio::test]
    async fn a_marker_is_found_across_reads_and_stays_found_when_its_log_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut console = Console::new(&path, "login:");
        console.look().await.unwrap_err();
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"booting\nlog").unwrap();
        console.look().await.unwrap_err();
        file.write_all(b"in: ").unwrap();
        console.look().await.unwrap();
        file.write_all(b"more").unwrap();
        console.look().await.unwrap();
        std::fs::write(&path, "on").unwrap();
        console.look().await.unwrap();

        // One that was not found is looked for in what comes after the cut.
        let mut console = Console::new(&path, "login:");
        file.write_all(b"booting, and much more").unwrap();
        console.look().await.unwrap_err();
        std::fs::write(&path, "login: ").unwrap();
        console.look().await.unwrap();
    }
}
