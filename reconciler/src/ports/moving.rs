//! What a move between nodes needs of a hypervisor and of a file server. Which of it is done when, [`crate::tenure`] says.
//!
//! Every call is idempotent. A driver that cannot move guests keeps the default bodies, and does not claim
//! [`Ability::Move`](xeno_model::observed::Ability::Move).

use std::future::{Future, ready};
use std::os::unix::net::UnixStream;

use xeno_model::id::{Epoch, MigrationId, SliverId};

use super::{DomainSpec, Hypervisor, MountSpec, PortError, PortResult, Storage, Tuning};

/// A stream of bytes to the other node: one end of a socket pair, whose other end the agent carries over. Its death means
/// no more than an end of file. Whether calls on it block is up to whoever is given it.
pub type Pipe = UnixStream;

/// How a guest's memory leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Which attempt.
    pub migration: MigrationId,
    /// Under which epoch the guest ran here.
    pub epoch: Epoch,
    /// Whether the guest runs while its memory is sent; otherwise it stands still first.
    pub live: bool,
    /// Most bytes a second.
    pub bandwidth: Option<u64>,
    /// How long it may stand still while the last of its memory is sent, in milliseconds; as near as the hypervisor can.
    pub downtime_ms: Option<u64>,
}

/// Sends and receives the memory of guests.
pub trait MoveMemory: Hypervisor {
    /// Sends the memory of a running domain into `out`. Returns once the guest stands still, all of it is in `out`, and only
    /// [`MoveMemory::wake`] has it run here; from the moment on at which it can stand still it is observed as
    /// [`Kept`](xeno_model::observed::DomainState::Kept). Until then a failure leaves it running. Success if it is kept for
    /// this migration.
    fn depart(
        &self,
        _sliver: &SliverId,
        _departure: &Departure,
        _out: Pipe,
    ) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Ends a departure that has not returned; the guest goes on here. Success if there is none.
    fn call_off(&self, _sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Makes a copy of what comes from `from`: a domain with what `spec` says. Returns once it is whole. It does not run,
    /// has no ports, and is observed as [`Copy`](xeno_model::observed::DomainState::Copy) from its first moment on.
    /// A failure leaves nothing.
    fn arrive(
        &self,
        _spec: &DomainSpec,
        _migration: MigrationId,
        _from: Pipe,
    ) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Lets the copy run, with its limits and ports; it is a domain as any other from then on. Success if it runs.
    fn clear(
        &self,
        _sliver: &SliverId,
        _migration: MigrationId,
        _tuning: &Tuning,
    ) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Has the guest that is kept here go on, with its limits and ports. Success if it runs.
    fn wake(&self, _sliver: &SliverId, _tuning: &Tuning) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Ends whatever there is of the guest here at once: running, kept, or a copy. Success if there is nothing.
    fn destroy(&self, _sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }
}

/// An instant of a node's own clock, in nanoseconds since it started: one that knows no jumps, and goes on while the node sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(pub u64);

/// Sends and receives writable layers.
pub trait MoveLayers: Storage {
    /// Lets the calls of the sliver's guest wait: none is under way once this returns, and all that was answered is durable.
    /// Lasts until [`MoveLayers::unpark`], or until the file server ends.
    fn park(&self, _sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Answers its calls again. Success if they are.
    fn unpark(&self, _sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Has the file server answer until this instant for what is served under a lease, and has entered it
    /// ([`MoveLayers::answer_until`]). What answered under one that has run out answers no more.
    fn renew_lease(&self, _until: BootInstant) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Has what is served of a sliver under a lease ([`MountSpec::leased`]) answer under the one of the file server, which lasts
    /// until this instant at least. To be called by whoever knows that until then nobody else goes on with it, under this epoch:
    /// refused where its writable layers are open under another.
    fn answer_until(
        &self,
        _sliver: &SliverId,
        _epoch: Epoch,
        _until: BootInstant,
    ) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }

    /// Sends what the other end lacks of the sliver's writable layers, over a two-way `pipe`; returns the bytes sent once the
    /// other end has said that it has them durably. Not `last`: ahead, of layers in use, what cannot change any more. `last`:
    /// they are parked or closed, and the other end's are equal afterwards. What does not travel (on shared storage, in
    /// memory) is passed over. Where the other end will not have them, this fails with what it said.
    fn send_layers(
        &self,
        _sliver: &SliverId,
        _last: bool,
        _pipe: Pipe,
    ) -> impl Future<Output = PortResult<u64>> + Send {
        ready(Err(unable()))
    }

    /// The other end. What comes is kept aside until a last round is whole, and takes the place of what was there then, at
    /// once. Refused where a layer of the sliver is open here. Whoever sends is told why it failed, over the same pipe.
    fn receive_layers(
        &self,
        _sliver: &SliverId,
        _migration: MigrationId,
        _mounts: &[MountSpec],
        _pipe: Pipe,
    ) -> impl Future<Output = PortResult<()>> + Send {
        ready(Err(unable()))
    }
}

fn unable() -> PortError {
    PortError::never("slivers cannot be moved to or from this node")
}
