//! Exports: which tree is served under which name, to whom, and whether just now.
//!
//! Every handle on the wire begins with the eight bytes of its export ([`ExportId`], a hash of the export's name, so
//! it is the same after a restart and on another machine); the rest is the service's own. A call therefore says which
//! export it means, and [`Exports::reachable`] decides whether this peer may mean it: a peer at an address reaches
//! the exports that name its address, a peer on an export's own unix socket reaches that one, a peer on a link those of
//! that link. Nothing else leads to an export, whatever a handle or a path says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::lease::{Bond, Instant, Lease, NotRenewed, Pass};
use crate::link::LinkName;
use crate::metrics::Metrics;
use crate::nfs::pages::Pages;
use crate::nfs::replay::Recent;
use crate::service::{FileService, Handle};

/// How long a call to an export in standby waits before the client is told to come back (which costs it 5 s).
pub const PARKED_MAX: Duration = Duration::from_secs(20);

/// Calls of one export that run at the same time; more wait for their turn, so that one export cannot take the whole
/// pool.
const RUNNING_MAX: u32 = 32;

/// Parked calls of one export, in [`crate::server`]'s units of 256 KiB: 64 MiB.
const PARKED_UNITS: usize = 256;

/// Bytes of a handle that are left for the service.
pub const SERVICE_HANDLE_MAX: usize = 56;

/// An export's name: also the path that MOUNT asks for, where it has a slash in front.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExportName(String);

impl TryFrom<String> for ExportName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text)
    }
}

impl From<ExportName> for String {
    fn from(name: ExportName) -> Self {
        name.0
    }
}

/// Why a name is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to 100 characters of a-z, A-Z, 0-9, `.`, `_`, `-` and single `/` between parts, and no part is `.` or `..`"
)]
pub struct BadName;

impl ExportName {
    /// Takes a name with or without the slash in front.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let name = text.strip_prefix('/').unwrap_or(text);
        check_name(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name without a slash in front.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path MOUNT asks for.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }
}

impl std::fmt::Display for ExportName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest name: that of a sliver (a DNS label and a number) with the number of a mount fits.
const NAME_LEN_MAX: usize = 100;

/// Checks a name of an export, a stack or a writable layer.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !part.is_empty() && part != "." && part != ".." && part.chars().all(plain)
    };
    if name.len() <= NAME_LEN_MAX && name.split('/').all(part) {
        Ok(())
    } else {
        Err(BadName)
    }
}

/// What every handle of an export begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportId(pub [u8; 8]);

impl ExportId {
    /// The id that goes with a name.
    #[must_use]
    pub fn of(name: &ExportName) -> Self {
        let hash = blake3::hash(name.0.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        Self(id)
    }

    /// Takes a wire handle apart; `None` if it is too short to be one of ours.
    #[must_use]
    pub fn split(wire: &[u8]) -> Option<(Self, Handle)> {
        let (id, inner) = wire.split_first_chunk::<8>()?;
        Some((Self(*id), Handle::new(inner)?))
    }

    /// The wire handle for a service's handle, and its length.
    ///
    /// # Panics
    /// If the service's handle has more than [`SERVICE_HANDLE_MAX`] bytes, which [`Export::new`] checks for the root.
    #[must_use]
    pub fn join(self, inner: &Handle) -> ([u8; 64], usize) {
        let inner = inner.as_bytes();
        assert!(
            inner.len() <= SERVICE_HANDLE_MAX,
            "a service's handles have at most 56 bytes"
        );
        let mut wire = [0; 64];
        wire[..8].copy_from_slice(&self.0);
        wire[8..8 + inner.len()].copy_from_slice(inner);
        (wire, 8 + inner.len())
    }

    /// The file system id in attributes (`fsid`).
    #[must_use]
    pub fn file_system_id(self) -> u64 {
        u64::from_be_bytes(self.0)
    }
}

/// Whether an export answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    #[default]
    Active,
    /// Connections are accepted and calls are parked until it is active, for at most [`PARKED_MAX`].
    Standby,
    /// Connections are closed.
    Sealed,
}

/// What its owner has said of an export, and whether it is held still meanwhile.
#[derive(Clone, Copy, Debug)]
struct Standing {
    state: State,
    parked: bool,
}

impl Standing {
    /// Whether it answers.
    fn answers(self) -> State {
        match self.state {
            State::Active if self.parked => State::Standby,
            state => state,
        }
    }
}

/// What an export gets beside others that are as busy: as with processor weights (cgroups(7), `cpu.weight`), only the
/// proportion counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

/// Why a weight is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weight is 1 to 10000")]
pub struct BadWeight;

impl Weight {
    /// A weight of 1 to 10,000.
    pub fn new(weight: u32) -> Result<Self, BadWeight> {
        if (1..=10_000).contains(&weight) {
            Ok(Self(weight))
        } else {
            Err(BadWeight)
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Whether it is what an export has that is given none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for Weight {
    type Error = BadWeight;

    fn try_from(weight: u32) -> Result<Self, BadWeight> {
        Self::new(weight)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

/// One address that may reach an export. A link-local address means something only together with its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddress {
    ip: IpAddr,
    /// Interface index of a link-local address; 0 for every other.
    scope: u32,
}

/// Why a client address is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadClient {
    /// Not an address.
    #[error("`{0}` is not an IP address")]
    NotAnAddress(String),
    /// `fe80::…` alone is as many machines as there are links.
    #[error("`{0}` is link-local: name its link, as in `fe80::2%eth0`")]
    NeedsLink(String),
    /// The link is not there.
    #[error("there is no network interface `{0}`")]
    NoLink(String),
}

impl ClientAddress {
    /// Reads `ADDRESS` or, for link-local ones, `ADDRESS%LINK` (name or number of the interface).
    pub fn parse(text: &str) -> Result<Self, BadClient> {
        let (address, link) = match text.split_once('%') {
            Some((address, link)) => (address, Some(link)),
            None => (text, None),
        };
        let ip: IpAddr = address
            .parse()
            .map_err(|_| BadClient::NotAnAddress(text.to_owned()))?;
        let ip = ip.to_canonical();
        let needs_link = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let scope = match (needs_link, link) {
            (true, Some(link)) => link_index(link).ok_or_else(|| BadClient::NoLink(link.to_owned()))?,
            (true, None) => return Err(BadClient::NeedsLink(text.to_owned())),
            (false, None) => 0,
            (false, Some(_)) => return Err(BadClient::NotAnAddress(text.to_owned())),
        };
        Ok(Self { ip, scope })
    }

    /// The address a connection comes from.
    #[must_use]
    pub fn of_peer(peer: &SocketAddr) -> Self {
        let scope = match peer {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
            _ => 0,
        };
        Self {
            ip: peer.ip().to_canonical(),
            scope,
        }
    }
}

fn link_index(link: &str) -> Option<u32> {
    if let Ok(index) = link.parse() {
        return Some(index);
    }
    // Kept by the kernel for every interface; needs no socket and no privilege.
    if link.is_empty() || link.contains('/') || link.starts_with('.') {
        return None;
    }
    let text = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?;
    text.trim().parse().ok()
}

/// Where a connection comes from.
#[derive(Clone)]
pub enum Peer {
    /// A network address.
    Address(ClientAddress),
    /// An export's own unix socket.
    Socket(Arc<Export>),
    /// A guest's own link.
    Link(LinkName),
}

/// Why a service cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its handles do not fit.
    #[error("handles of export `{name}` have {len} bytes, {SERVICE_HANDLE_MAX} are left for them")]
    HandleTooLong {
        /// The export.
        name: ExportName,
        /// What the root's handle has.
        len: usize,
    },
    /// The name, or by a freak chance its hash, is taken.
    #[error("there already is an export `{0}`")]
    Taken(ExportName),
}

/// A tree being served.
pub struct Export {
    name: ExportName,
    id: ExportId,
    service: Arc<dyn FileService>,
    clients: Vec<ClientAddress>,
    link: Option<LinkName>,
    state: watch::Sender<Standing>,
    bond: Bond,
    weight: AtomicU32,
    parked: Semaphore,
    running: Arc<Semaphore>,
    recent: Arc<Recent>,
    pages: Pages,
    metrics: Metrics,
    connections: Mutex<Vec<Weak<Notify>>>,
}

/// What becomes of a call that reaches an export.
#[derive(Debug)]
pub enum Admission {
    /// Carry it out while holding this.
    Run(OwnedSemaphorePermit),
    /// Tell the client to come back later (NFS3ERR_JUKEBOX).
    Later,
    /// Close the connection without an answer.
    Closed,
    /// It waited, and meanwhile whoever sent it has left: nobody wants it done any more.
    Abandoned,
}

impl Export {
    /// An export of `service`, to be [added](Exports::add) to a registry.
    pub fn new(
        name: ExportName,
        service: Arc<dyn FileService>,
        clients: Vec<ClientAddress>,
        state: State,
    ) -> Result<Self, ExportError> {
        let len = service.root().handle.as_bytes().len();
        if len > SERVICE_HANDLE_MAX {
            return Err(ExportError::HandleTooLong { name, len });
        }
        Ok(Self {
            id: ExportId::of(&name),
            name,
            service,
            clients,
            link: None,
            state: watch::Sender::new(Standing { state, parked: false }),
            bond: Bond::free(Arc::default()),
            weight: AtomicU32::new(Weight::default().get()),
            parked: Semaphore::new(PARKED_UNITS),
            running: Arc::new(Semaphore::new(usize::try_from(RUNNING_MAX).unwrap_or(1))),
            recent: Arc::default(),
            pages: Pages::default(),
            metrics: Metrics::default(),
            connections: Mutex::default(),
        })
    }

    /// The same, for the guest at the end of this link too.
    #[must_use]
    pub fn on_link(mut self, link: Option<LinkName>) -> Self {
        self.link = link;
        self
    }

    /// The same, under the lease of its server: to be said before it is served.
    #[must_use]
    pub fn under(mut self, lease: &Arc<Lease>) -> Self {
        self.bond = Bond::free(Arc::clone(lease));
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ExportName {
        &self.name
    }

    /// What its handles begin with.
    #[must_use]
    pub fn id(&self) -> ExportId {
        self.id
    }

    /// The tree.
    #[must_use]
    pub fn service(&self) -> &Arc<dyn FileService> {
        &self.service
    }

    /// Calls that ran lately.
    #[must_use]
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Parts of its listings.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// What it was asked.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether it answers. One that is leased is as good as in standby without a lease that it has [entered](Self::enter).
    #[must_use]
    pub fn state(&self) -> State {
        let standing = *self.state.borrow();
        self.answers(standing)
    }

    fn answers(&self, standing: Standing) -> State {
        match standing.answers() {
            State::Active if !self.bond.holds() => State::Standby,
            state => state,
        }
    }

    /// Has it answer only while a lease of the server lasts that it has entered, or without one. One that is leased already goes
    /// on as it was.
    pub fn set_leased(&self, leased: bool) {
        self.bond.bind(leased);
        self.state.send_modify(|_| {});
    }

    /// Whether it answers only while a lease lasts.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.bond.is_leased()
    }

    /// Whether it does not answer because it has entered no lease that lasts.
    #[must_use]
    pub fn is_lapsed(&self) -> bool {
        !self.bond.holds()
    }

    /// Has a leased export answer under the lease of the server, which lasts until `until` at least. To be said by whoever knows
    /// that until then nobody else goes on with what it serves.
    ///
    /// # Errors
    /// [`NotRenewed`], in particular where that instant is over.
    pub fn enter(&self, until: Instant) -> Result<(), NotRenewed> {
        self.bond.enter(until)?;
        self.state.send_modify(|_| {});
        Ok(())
    }

    /// What a call that is let in now must still have when its reply is sent.
    pub(crate) fn pass(&self) -> Pass {
        self.bond.pass()
    }

    /// Changes whether it answers. Sealing closes its connections; parked calls go on or are dropped.
    pub fn set_state(&self, state: State) {
        self.state.send_modify(|standing| standing.state = state);
        if state == State::Sealed {
            self.close_connections();
        }
    }

    /// Whether it is held still, whatever its state.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state.borrow().parked
    }

    /// Holds it still, or lets it go on: an active export that is parked is as good as in standby. It is apart from the
    /// state, so that who only says again what the state should be does not let calls in. Returns what was before.
    pub fn set_parked(&self, parked: bool) -> bool {
        let mut before = false;
        self.state
            .send_modify(|standing| before = std::mem::replace(&mut standing.parked, parked));
        before
    }

    /// What the calls weigh that wait for it, in units of 256 KiB and at least one each.
    #[must_use]
    pub fn waiting(&self) -> usize {
        PARKED_UNITS.saturating_sub(self.parked.available_permits())
    }

    /// Its share beside others.
    #[must_use]
    pub fn weight(&self) -> Weight {
        Weight(self.weight.load(Ordering::Relaxed))
    }

    /// Changes its share, for calls that come from now on.
    pub fn set_weight(&self, weight: Weight) {
        self.weight.store(weight.get(), Ordering::Relaxed);
    }

    /// Waits until no call runs any more. Useful once it is in standby or sealed, so that none begins.
    pub async fn quiesce(&self) {
        // Never closed, so this cannot fail.
        let _all = self.running.acquire_many(RUNNING_MAX).await;
    }

    /// Lets a call in, parks it, or sends it away. `units` is what it weighs while parked; `sender` is closed once whoever
    /// sent it has left, and a call that is parked then is not carried out.
    pub async fn admit(&self, units: u32, mut sender: watch::Receiver<()>) -> Admission {
        let mut state = self.state.subscribe();
        let mut waited = false;
        loop {
            let standing = *state.borrow_and_update();
            let now = self.answers(standing);
            if waited && sender.has_changed().is_err() {
                return Admission::Abandoned;
            }
            match now {
                State::Sealed => return Admission::Closed,
                State::Active => {
                    let Ok(permit) = Arc::clone(&self.running).acquire_owned().await else {
                        return Admission::Closed;
                    };
                    // The state may have changed while the call waited for its turn.
                    if self.state() == State::Active {
                        return Admission::Run(permit);
                    }
                }
                State::Standby => {
                    let Ok(_place) = self.parked.try_acquire_many(units) else {
                        return Admission::Later;
                    };
                    waited = true;
                    tokio::select! {
                        // Whoever has left before it went on, has left.
                        biased;
                        _closed = sender.changed() => return Admission::Abandoned,
                        changed = tokio::time::timeout(PARKED_MAX, state.changed()) => match changed {
                            Ok(Ok(())) => {}
                            Ok(Err(_gone)) => return Admission::Closed,
                            Err(_elapsed) => return Admission::Later,
                        },
                    }
                }
            }
        }
    }

    /// Has `closer` notified when the export is sealed or removed; to be called once for each connection.
    pub fn on_close(&self, closer: &Arc<Notify>) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|known| known.strong_count() > 0);
        connections.push(Arc::downgrade(closer));
        drop(connections);
        // Sealed between the caller's look and the registration: nobody else will tell.
        if self.state() == State::Sealed {
            closer.notify_one();
        }
    }

    /// Connections that have used it and are still open.
    #[must_use]
    pub fn connections(&self) -> usize {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections
            .iter()
            .filter(|known| known.strong_count() > 0)
            .count()
    }

    /// Closes its connections: what was to be sent on them is not, and their clients ask again.
    pub(crate) fn close_connections(&self) {
        let connections =
            std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner));
        for closer in connections.iter().filter_map(Weak::upgrade) {
            closer.notify_one();
        }
    }

    /// Whether this peer may know that it is there.
    fn allows(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Address(client) => self.clients.contains(client),
            Peer::Socket(export) => export.id == self.id,
            Peer::Link(link) => self.link.as_ref() == Some(link),
        }
    }
}

/// All exports of a server.
#[derive(Default)]
pub struct Exports {
    by_id: RwLock<BTreeMap<ExportId, Arc<Export>>>,
}

impl Exports {
    /// Adds an export.
    pub fn add(&self, export: Arc<Export>) -> Result<(), ExportError> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        if by_id.contains_key(&export.id) {
            return Err(ExportError::Taken(export.name.clone()));
        }
        by_id.insert(export.id, export);
        Ok(())
    }

    /// Removes an export and closes its connections; returns it if it was there.
    pub fn remove(&self, name: &ExportName) -> Option<Arc<Export>> {
        let export = self
            .by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&ExportId::of(name))?;
        export.set_state(State::Sealed);
        Some(export)
    }

    /// The export of this name.
    #[must_use]
    pub fn get(&self, name: &ExportName) -> Option<Arc<Export>> {
        self.by_id
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&ExportId::of(name))
            .cloned()
    }

    /// All of them, in no particular order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Export>> {
        self.by_id
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The export `id`, if this peer may reach it.
    #[must_use]
    pub fn reachable(&self, peer: &Peer, id: ExportId) -> Option<Arc<Export>> {
        match peer {
            Peer::Socket(export) => (export.id == id).then(|| Arc::clone(export)),
            Peer::Address(_) | Peer::Link(_) => {
                let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
                by_id.get(&id).filter(|export| export.allows(peer)).cloned()
            }
        }
    }

    /// Everything this peer may reach.
    #[must_use]
    pub fn visible(&self, peer: &Peer) -> Vec<Arc<Export>> {
        match peer {
            Peer::Socket(export) => vec![Arc::clone(export)],
            Peer::Address(_) | Peer::Link(_) => {
                let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
                by_id
                    .values()
                    .filter(|export| export.allows(peer))
                    .cloned()
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "/web", "acme/web/0", "a.b_c-D"] {
            assert!(ExportName::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(NAME_LEN_MAX + 1);
        for bad in [
            "",
            "/",
            "//web",
            "web/",
            "a//b",
            "..",
            "a/../b",
            "a b",
            "é",
            "a\0",
            long.as_str(),
        ] {
            assert!(ExportName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ExportName::parse("/web"), ExportName::parse("web"));
    }

    #[test]
    fn link_local_clients_need_their_link() {
        assert!(matches!(
            ClientAddress::parse("fe80::2"),
            Err(BadClient::NeedsLink(_))
        ));
        assert!(matches!(
            ClientAddress::parse("fe80::2%no-such"),
            Err(BadClient::NoLink(_))
        ));
        assert!(matches!(
            ClientAddress::parse("10.0.0.1%1"),
            Err(BadClient::NotAnAddress(_))
        ));
        let here = ClientAddress::parse("fe80::2%7").unwrap();
        let peer = |scope| {
            ClientAddress::of_peer(
                &std::net::SocketAddrV6::new("fe80::2".parse().unwrap(), 9, 0, scope).into(),
            )
        };
        assert_eq!(here, peer(7));
        assert_ne!(here, peer(8));
        let mapped = "[::ffff:10.0.0.1]:5".parse().unwrap();
        assert_eq!(
            ClientAddress::parse("10.0.0.1").unwrap(),
            ClientAddress::of_peer(&mapped)
        );
    }
}
