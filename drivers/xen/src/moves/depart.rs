//! A guest's memory on its way to another node.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until, timeout};
use xeno_model::id::SliverId;
use xeno_reconciler::ports::{Departure, Pipe, PortError, PortResult};

use super::preamble::Preamble;
use super::unless_stopped;
use crate::chain;
use crate::domain::{Domain, RunState};
use crate::driver::{STDIN, XenDriver, io_failed};
use crate::gate::pipe::Rendezvous;
use crate::gate::stream::Stream;
use crate::gate::words::{BANNER, GO, READY};
use crate::link::GuestLink;
use crate::record::{Moving, Record};
use crate::xl::XlError;

/// A departure of which nothing goes out for this long is given up: at its end the guest waits for it.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// The same where xl says nothing: libxl gives a guest 60 s to stand still.
const SILENT_AFTER: Duration = Duration::from_secs(90);
/// How long xl may take for a word of its handshake; it renames the domain meanwhile.
const WORD_LIMIT: Duration = Duration::from_secs(60);
/// Bytes taken from xl at a time.
const CHUNK: usize = 256 << 10;

impl XenDriver {
    /// Sends the memory of a sliver's running domain into `out`. Returns once it stands still and all of it is in `out`.
    ///
    /// Where the hypervisor does not notice what a running guest writes, it stands still from the start, also where
    /// `departure` says `live`. How long it stands still at the end of a live move xl decides alone.
    ///
    /// # Errors
    /// If it cannot leave: it goes on running here then.
    pub async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        let lock = self.lock(sliver).await?;
        let Some(domain) = self.find(sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could leave"
            )));
        };
        if ready_to_leave(&domain, departure)? {
            return Ok(());
        }
        let live = departure.live && self.node().await?.moves_running(domain.record.guest);
        if live != departure.live {
            tracing::info!(%sliver, "it stands still while its memory is sent: this hypervisor does not notice what it would write");
        }
        let (migration, epoch) = (departure.migration, departure.epoch);
        let leaving = Moving::Leaving { migration, epoch };
        let mut ticket = self.moves().begin(sliver, leaving, lock);
        let record = Record {
            moving: Some(leaving),
            ..domain.record.clone()
        };
        self.remember(&record).await?;
        let sent = async {
            let out = Outlet::open(out, &Preamble::of(&domain), departure.bandwidth).await?;
            if live {
                self.send_running(&domain, out).await?;
            } else {
                self.send_standing(&domain, out).await?;
            }
            let since = Instant::now();
            self.keep(record, Moving::Gone { migration, epoch }).await?;
            tracing::info!(%sliver, ms = millis(since), "its memory has gone, and its ports are taken from it");
            Ok(())
        };
        if let Err(error) = unless_stopped(&mut ticket, sliver, sent).await {
            if let Err(stays) = self.stay(ticket.lock(), sliver).await {
                return Err(PortError::later(format!("{error}; and then: {stays}")));
            }
            return Err(error);
        }
        Ok(())
    }

    /// Notes that all of it has gone, and takes its ports. Only now: until here it might have had to go on with them.
    async fn keep(&self, mut record: Record, gone: Moving) -> PortResult<()> {
        let sliver = record.sliver.clone();
        if !record.publish.is_empty() {
            match self.publisher().clear(GuestLink::of(record.uuid).ipv4).await {
                Ok(()) => record.publish.clear(),
                Err(error) => {
                    tracing::warn!(%sliver, %error, "a guest that has left still holds ports here");
                }
            }
        }
        record.moving = Some(gone);
        self.remember(&record).await
    }

    /// Has xl send a guest that runs meanwhile. It is suspended then, under the name that xl gave it.
    async fn send_running(&self, domain: &Domain, mut out: Outlet) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let dir = self.run_dir(sliver);
        let socket = dir.gate_socket();
        let meeting =
            Rendezvous::bind(&socket).map_err(|error| io_failed("listen for xl's transport", &error))?;
        let (program, place) = (for_shell(&self.config().xl_gate)?, for_shell(&socket)?);
        let domid = domain.domid();
        // It runs `exec PROGRAM PLACE xl migrate-receive` by a shell.
        let args = ["migrate", "-s", &program, &domid, &place];
        let mut xl = self
            .xl()
            .begin(&args, Stdio::null(), &dir.log())
            .map_err(|error| cannot(sliver, error))?;
        let mut talk = tokio::select! {
            met = timeout(WORD_LIMIT, meeting.meet()) => match met {
                Ok(met) => met.map_err(|error| io_failed("take xl's pipes", &error))?,
                Err(_) => return Err(silent(sliver)),
            },
            ended = xl.end() => return Err(match ended {
                Ok(()) => PortError::later(format!("xl did nothing with {sliver}")),
                Err(error) => cannot(sliver, error),
            }),
        };
        let unusable = |error: std::io::Error| io_failed("speak with xl", &error);
        talk.to_xl.write_all(BANNER).await.map_err(unusable)?;
        if let Err(error) = out.carry(sliver, &mut talk.from_xl).await {
            // It resumes the guest, and may know better what went wrong.
            drop(talk);
            return Err(match timeout(super::END_OF_WORK, xl.end()).await {
                Ok(Err(ended)) if !out.is_broken => cannot(sliver, ended),
                _ => error,
            });
        }
        let since = Instant::now();
        // From here on it does not resume the guest by itself.
        talk.to_xl.write_all(READY).await.map_err(unusable)?;
        let mut word = [0; GO.len()];
        match timeout(WORD_LIMIT, talk.from_xl.read_exact(&mut word)).await {
            Ok(Ok(_)) if word == GO => {}
            Ok(Ok(_)) => {
                return Err(PortError::later(format!(
                    "xl does not give {sliver} away as it should"
                )));
            }
            Ok(Err(error)) => return Err(unusable(error)),
            Err(_) => return Err(silent(sliver)),
        }
        // It waits for a report, and has no other part any more.
        xl.kill().await.map_err(|error| cannot(sliver, error))?;
        tracing::info!(%sliver, ms = millis(since), "xl has given it away");
        out.end().await;
        Ok(())
    }

    /// Has xl send a guest that stands still first. It is paused then.
    async fn send_standing(&self, domain: &Domain, mut out: Outlet) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let dir = self.run_dir(sliver);
        let unusable = |error: std::io::Error| io_failed("make a pipe for xl", &error);
        let (writing, mut reading) = pipe::pipe().map_err(unusable)?;
        let writing: OwnedFd = writing.into_blocking_fd().map_err(unusable)?;
        let (domid, config) = (domain.domid(), dir.config().display().to_string());
        // The configuration tells others for whom it works; the other node has its own.
        let args = ["save", "-p", &domid, STDIN, &config];
        let mut xl = self
            .xl()
            .begin(&args, writing.into(), &dir.log())
            .map_err(|error| cannot(sliver, error))?;
        let carried = out.carry(sliver, &mut reading).await;
        if carried.is_err() {
            drop(reading);
        }
        let ended = match timeout(super::END_OF_WORK, xl.end()).await {
            Ok(ended) => ended.map_err(|error| cannot(sliver, error)),
            Err(_) => Err(silent(sliver)),
        };
        match carried {
            Ok(()) => ended?,
            Err(error) if out.is_broken => return Err(error),
            Err(error) => return Err(ended.err().unwrap_or(error)),
        }
        out.end().await;
        Ok(())
    }
}

/// Whether the domain can leave. `true`: it has left.
fn ready_to_leave(domain: &Domain, departure: &Departure) -> PortResult<bool> {
    let sliver = &domain.record.sliver;
    let not_now = |why: &str| Err(PortError::later(format!("{sliver} cannot leave: {why}")));
    let gone = Moving::Gone {
        migration: departure.migration,
        epoch: departure.epoch,
    };
    match (domain.record.moving, domain.state) {
        (Some(Moving::Arriving { migration }), _) => Err(PortError::never(format!(
            "{sliver} cannot leave: it is a copy of migration {migration} that has not run"
        ))),
        (Some(its), RunState::Suspended | RunState::Paused) if its == gone => Ok(true),
        (Some(_), RunState::Suspended | RunState::Paused) => {
            not_now("it stands still after another attempt: wake it first")
        }
        // An attempt that came to nothing may have left its note.
        (_, RunState::Running) => Ok(false),
        (None, RunState::Suspended | RunState::Paused) => {
            not_now("it is paused, and would not be where it goes")
        }
        (_, RunState::Unfinished) => not_now("it is not whole"),
        (_, RunState::Leaving) => not_now("it is just ending"),
        (_, RunState::Stopped) => Err(PortError::never(format!("{sliver} cannot leave: it has stopped"))),
    }
}

/// A word for the shell by which xl starts its transport.
fn for_shell(path: &Path) -> PortResult<String> {
    let text = path.to_str().filter(|text| !text.contains('\''));
    let text = text.ok_or_else(|| {
        PortError::never(format!(
            "{} cannot be given to xl: it has a quotation mark or is no text",
            path.display()
        ))
    })?;
    Ok(format!("'{text}'"))
}

fn cannot(sliver: &SliverId, error: XlError) -> PortError {
    error.port(&format!(
        "the memory of {sliver} was not sent, and it goes on running"
    ))
}

fn silent(sliver: &SliverId) -> PortError {
    PortError::later(format!(
        "xl says nothing of {sliver} for a long time, and it goes on running"
    ))
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The pipe to the other node, and how fast it may be filled.
struct Outlet {
    pipe: UnixStream,
    stream: Stream,
    bandwidth: Option<u64>,
    began: Instant,
    sent: u64,
    /// Nobody takes what goes in.
    is_broken: bool,
}

impl Outlet {
    /// Sends what goes before the memory.
    async fn open(out: Pipe, preamble: &Preamble, bandwidth: Option<u64>) -> PortResult<Self> {
        let unusable = |error: std::io::Error| io_failed("use the pipe to the other node", &error);
        out.set_nonblocking(true).map_err(unusable)?;
        let mut pipe = UnixStream::from_std(out).map_err(unusable)?;
        preamble
            .write(&mut pipe)
            .await
            .map_err(|error| PortError::later(chain(&error)))?;
        Ok(Self {
            pipe,
            stream: Stream::default(),
            bandwidth,
            began: Instant::now(),
            sent: 0,
            is_broken: false,
        })
    }

    /// Carries the stream to its end.
    async fn carry(&mut self, sliver: &SliverId, from: &mut (impl AsyncRead + Unpin)) -> PortResult<()> {
        let slice = self.bandwidth.map_or(CHUNK, |rate| {
            // Ten times a second, or so.
            usize::try_from(rate / 10).unwrap_or(CHUNK).clamp(4096, CHUNK)
        });
        let mut chunk = vec![0; slice];
        while !self.stream.is_over() {
            let read = tokio::select! {
                read = timeout(SILENT_AFTER, from.read(&mut chunk)) => read,
                () = hung_up(&self.pipe) => {
                    self.is_broken = true;
                    return Err(PortError::later(format!(
                        "the other node takes nothing more of {sliver}, and it goes on running"
                    )));
                }
            };
            let bytes = match read {
                Ok(Ok(0)) => {
                    return Err(PortError::later(format!(
                        "xl sent only a part of the memory of {sliver}, and it goes on running"
                    )));
                }
                Ok(Ok(len)) => &chunk[..len],
                Ok(Err(error)) => return Err(io_failed("read from xl", &error)),
                Err(_) => return Err(silent(sliver)),
            };
            let passed = self.stream.pass(bytes);
            let passed =
                passed.map_err(|error| PortError::later(format!("{sliver} cannot be sent: {error}")))?;
            if passed < bytes.len() {
                return Err(PortError::later(format!(
                    "xl sent more than the memory of {sliver}, and it goes on running"
                )));
            }
            match timeout(STALLED_AFTER, self.pipe.write_all(bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.is_broken = true;
                    return Err(io_failed(&format!("send the memory of {sliver}"), &error));
                }
                Err(_) => {
                    self.is_broken = true;
                    return Err(PortError::later(format!(
                        "nothing of {sliver} went out for {} s, and it goes on running",
                        STALLED_AFTER.as_secs()
                    )));
                }
            }
            self.sent += bytes.len() as u64;
            if let Some(rate) = self.bandwidth {
                let ms = self.sent.saturating_mul(1000) / rate.max(1);
                sleep_until(self.began + Duration::from_millis(ms)).await;
            }
        }
        Ok(())
    }

    /// Says that nothing more comes.
    async fn end(mut self) {
        // Whoever has it all need not be there any more.
        let _gone = self.pipe.shutdown().await;
    }
}

/// Returns once the other end of a pipe is gone. Nothing is ever said on it.
async fn hung_up(pipe: &UnixStream) {
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        match pipe.try_read(&mut [0; 16]) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
#[path = "depart_tests.rs"]
mod tests;
