//! The storage side of moves between nodes in memory.
//!
//! Layers are a line that says what they are, and a lot of nothing: most of it goes ahead, a little in the last round. The
//! other end says when it has put them in their place.

use std::io::{ErrorKind, Read as _, Write as _};

use xeno_model::id::{Digest, Epoch, MigrationId, SliverId};

use super::moves::{broken, next_turn};
use super::{ScriptedNode, State};
use crate::ports::{BootInstant, MountSpec, MoveLayers, Pipe, PortError, PortResult};

/// Bytes of a round ahead, and of a last one.
const ROUND_LEN: [usize; 2] = [300 << 10, 2 << 10];
/// Bytes that go in one turn.
const TURN_LEN: usize = 64 << 10;
/// What a receiver says at the end.
const IN_PLACE: u8 = b'!';

impl MoveLayers for ScriptedNode {
    async fn park(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let storage = state.storage(sliver);
            storage.parked = storage.exported;
        };
        self.call("park", &sliver.to_string(), effect).await
    }

    async fn unpark(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| state.storage(sliver).parked = false;
        self.call("unpark", &sliver.to_string(), effect).await
    }

    async fn renew_lease(&self, until: BootInstant) -> PortResult<()> {
        let effect = |state: &mut State| {
            if let Err(error) = state.renew(until) {
                state.refuse(error);
            }
        };
        self.call("renew", "lease", effect).await
    }

    async fn answer_until(&self, sliver: &SliverId, epoch: Epoch, until: BootInstant) -> PortResult<()> {
        let effect = |state: &mut State| {
            if let Err(error) = state.enter(sliver, epoch, until) {
                state.refuse(error);
            }
        };
        self.call("answer", &sliver.to_string(), effect).await
    }

    async fn send_layers(&self, sliver: &SliverId, last: bool, mut pipe: Pipe) -> PortResult<u64> {
        let round = {
            let mut state = self.state();
            let storage = state.storage(sliver);
            if !storage.on_disk {
                return Ok(0);
            }
            if last && storage.exported && !storage.parked {
                return Err(PortError::never(format!(
                    "{sliver} is being served: park it first"
                )));
            }
            state.round_of(sliver, last).bytes()
        };
        pipe.set_nonblocking(true).map_err(broken)?;
        let mut sent = 0;
        while sent < round.len() {
            let end = round.len().min(sent + TURN_LEN);
            match pipe.write(&round[sent..end]) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It says why below.
                Err(_) => break,
            }
            next_turn().await;
        }
        let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
        while said != [IN_PLACE] {
            match read_some(&mut pipe, &mut chunk).await? {
                0 if said.is_empty() => {
                    return Err(PortError::later("the other node has not put them in their place"));
                }
                0 => return Err(PortError::later(String::from_utf8_lossy(&said))),
                len => said.extend_from_slice(&chunk[..len]),
            }
        }
        let verb = if last { "send-last" } else { "send" };
        self.call(verb, &sliver.to_string(), |_| ()).await?;
        Ok(u64::try_from(sent).unwrap_or(u64::MAX))
    }

    async fn receive_layers(
        &self,
        sliver: &SliverId,
        _: MigrationId,
        mounts: &[MountSpec],
        mut pipe: Pipe,
    ) -> PortResult<()> {
        if !mounts.iter().any(|mount| mount.writable && mount.place.is_none()) {
            return Ok(());
        }
        pipe.set_nonblocking(true).map_err(broken)?;
        let taken = match receive_round(sliver, &mut pipe).await {
            Ok(came) => self.put_in_place(sliver, &came).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => pipe.write_all(&[IN_PLACE]).map_err(broken),
            Err(error) => {
                // Who has hung up meanwhile knows enough.
                let _ = pipe.write_all(error.what.as_bytes());
                Err(error)
            }
        }
    }
}

async fn receive_round(sliver: &SliverId, pipe: &mut Pipe) -> PortResult<LayersRound> {
    let (mut round, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(came) = LayersRound::read(&round) {
            return Ok(came);
        }
        match read_some(pipe, &mut chunk).await? {
            0 => {
                return Err(PortError::later(format!(
                    "the layers of {sliver} did not come to their end"
                )));
            }
            len => round.extend_from_slice(&chunk[..len]),
        }
        if round.len() > ROUND_LEN[0] {
            return Err(PortError::never("what comes are no layers"));
        }
    }
}

async fn read_some(pipe: &mut Pipe, chunk: &mut [u8]) -> PortResult<usize> {
    loop {
        match pipe.read(chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => next_turn().await,
            read => return read.map_err(broken),
        }
    }
}

/// A round of writable layers between two nodes: what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersRound {
    last: bool,
    epoch: Epoch,
    written: u64,
    bytes: u64,
    mark: Digest,
}

/// The same as the port does, for whoever has many nodes in one thread and hands over at once what goes through a pipe
/// elsewhere.
impl ScriptedNode {
    /// What there is to send of the layers of a sliver; `None`: there are none.
    ///
    /// # Errors
    /// A last round of layers that are in use, or it is scripted so.
    pub async fn round_of_layers(&self, sliver: &SliverId, last: bool) -> PortResult<Option<LayersRound>> {
        let round = {
            let mut state = self.state();
            let storage = state.storage(sliver);
            if !storage.on_disk {
                return Ok(None);
            }
            if last && storage.exported && !storage.parked {
                return Err(PortError::never(format!(
                    "{sliver} is being served: park it first"
                )));
            }
            state.round_of(sliver, last)
        };
        let verb = if last { "send-last" } else { "send" };
        self.call(verb, &sliver.to_string(), |_| ()).await?;
        Ok(Some(round))
    }

    /// Puts a round of layers in its place.
    ///
    /// # Errors
    /// Layers of the sliver are open here, or newer, or it is scripted so.
    pub async fn put_in_place(&self, sliver: &SliverId, came: &LayersRound) -> PortResult<()> {
        let effect = |state: &mut State| {
            if state.storage(sliver).open.is_some() {
                return state.refuse(PortError::later(format!("layers of {sliver} are open here")));
            }
            let seen = state.moves.epochs.get(sliver).copied();
            if state.storage(sliver).on_disk && seen > Some(came.epoch) {
                return state.refuse(PortError::never(format!("newer layers of {sliver} are here")));
            }
            if came.last {
                let storage = state.storage(sliver);
                (storage.on_disk, storage.bytes, storage.mark) = (true, came.bytes, Some(came.mark));
                state.written.insert(sliver.clone(), came.written);
                state.moves.epochs.insert(sliver.clone(), came.epoch);
            }
        };
        let verb = if came.last { "receive-last" } else { "receive" };
        self.call(verb, &sliver.to_string(), effect).await
    }
}

impl LayersRound {
    fn bytes(&self) -> Vec<u8> {
        let Self {
            last,
            epoch,
            written,
            bytes,
            mark,
        } = self;
        let mut round = format!("{last} {} {written} {bytes} {mark}\n", epoch.0).into_bytes();
        round.resize(ROUND_LEN[usize::from(*last)], b'.');
        round
    }

    /// `None` until it is whole.
    fn read(round: &[u8]) -> Option<Self> {
        let end = round.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&round[..end]).ok()?;
        let mut words = line.split(' ');
        let came = Self {
            last: words.next()?.parse().ok()?,
            epoch: Epoch(words.next()?.parse().ok()?),
            written: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok()?,
            mark: Digest::parse(words.next()?).ok()?,
        };
        (round.len() == ROUND_LEN[usize::from(came.last)]).then_some(came)
    }
}

impl State {
    fn round_of(&mut self, sliver: &SliverId, last: bool) -> LayersRound {
        let written = self.written.get(sliver).copied().unwrap_or_default();
        let opened = self.moves.epochs.get(sliver).copied();
        let storage = self.storage(sliver);
        LayersRound {
            last,
            epoch: storage.open.or(opened).unwrap_or(Epoch(0)),
            written,
            bytes: storage.bytes,
            mark: storage.mark.unwrap_or(Digest([0; 32])),
        }
    }
}
