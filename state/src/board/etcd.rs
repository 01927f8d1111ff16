//! The board of a fleet: etcd, 3.4 or newer.
//!
//! One connection to one member at a time. When a call finds its member gone, the next one asks the next member; a call
//! that certainly did nothing goes on to it by itself. (A client that balances over all members meets a dead one with every
//! few calls, and cannot say of a commit which one it was.) Files of certificates and passwords are read at each connection,
//! so they may be changed without a restart.
//!
//! All keys lie below a prefix of the fleet's own, so that fleets can share an etcd. Compaction is the operator's
//! (`--auto-compaction-retention`). What etcd answers to what: <https://etcd.io/docs/v3.4/learning/api/>.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Mutex as SyncMutex;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use self::failure::{Effect, Failure};
use super::{BoardError, BoardResult, Prefix};

mod calls;
mod failure;
#[cfg(all(test, feature = "etcd"))]
mod tests;
mod watching;

/// How long a member may take to accept a connection, before the next one is asked.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How often a connection is asked whether it is still there, and how long it may take to say so: a watch waits on it in
/// silence. etcd ends connections that ask more often than every 5 s (`--grpc-keepalive-min-time`).
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_MAX: Duration = Duration::from_secs(5);

/// The largest file of a certificate or password that is read.
const FILE_MAX: u64 = 1 << 20;

/// How an etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Its members: `https://etcd-1.example.net:2379`.
    pub endpoints: Vec<String>,
    /// What all keys of the fleet begin with; not empty.
    pub prefix: Prefix,
    /// Whose certificates members have (PEM); needed for `https`.
    pub ca: Option<PathBuf>,
    /// The certificate and key that say who we are (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A user of etcd's own authentication, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// How long a call may take in all.
    pub timeout: Duration,
}

impl EtcdConfig {
    /// Looks for what cannot work, without asking anybody.
    ///
    /// # Errors
    /// The field that is wrong, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_address = |endpoint: &&String| {
            let rest = endpoint
                .strip_prefix("http://")
                .or_else(|| endpoint.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ']))
        };
        let wrong = |field, why: &str| Err((field, why.to_owned()));
        if self.endpoints.is_empty() {
            return wrong("endpoints", "it names the members of the etcd, and is empty");
        }
        if let Some(strange) = self.endpoints.iter().find(|endpoint| !is_address(endpoint)) {
            let why = format!("`{strange}` is no endpoint: those are http://HOST:PORT or https://HOST:PORT");
            return Err(("endpoints", why));
        }
        let https = is_https(&self.endpoints);
        if https
            && self
                .endpoints
                .iter()
                .any(|endpoint| !endpoint.starts_with("https://"))
        {
            return wrong("endpoints", "some are https and some are not");
        }
        if self.prefix == Prefix::all() {
            return wrong("prefix", "all keys of a fleet begin alike, and not with nothing");
        }
        match (https, &self.ca, &self.identity) {
            (true, None, _) => wrong("endpoints", "https needs `ca`: whose certificates are trusted"),
            (false, Some(_), _) => wrong("ca", "it is for https endpoints"),
            (false, _, Some(_)) => wrong("certificate", "it is for https endpoints"),
            (true, Some(_), _) | (false, None, None) => Ok(()),
        }
    }
}

/// The board of a fleet, over one connection. Needs a tokio runtime with time and I/O.
pub struct EtcdBoard {
    config: EtcdConfig,
    link: Mutex<Link>,
    /// Times of the leases that were granted here: a renewal does not tell.
    ttls: SyncMutex<Vec<(super::LeaseId, Duration)>>,
}

#[derive(Default)]
struct Link {
    client: Option<Client>,
    /// Which member is asked, modulo their number; counts on with each connection that was given up.
    turn: usize,
    /// Whether anything was ever answered over it.
    answered: bool,
}

impl EtcdBoard {
    /// Takes a configuration; connects when it is first asked for something.
    ///
    /// # Errors
    /// [`BoardError::Never`] for a configuration that cannot work.
    pub fn new(config: EtcdConfig) -> BoardResult<Self> {
        config
            .check()
            .map_err(|(field, why)| BoardError::never(CONNECT, format!("`{field}`: {why}")))?;
        Ok(Self {
            config,
            link: Mutex::default(),
            ttls: SyncMutex::default(),
        })
    }

    /// How it is reached.
    #[must_use]
    pub fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// Has a member do something, or the next one where the first certainly did not.
    async fn call<T, F>(
        &self,
        attempt: &'static str,
        effect: Effect,
        call: impl Fn(Client) -> F,
    ) -> BoardResult<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.config.timeout;
        // Each member, and the first once more: over a new connection, with a new token.
        let mut tries = self.config.endpoints.len() + 1;
        loop {
            tries -= 1;
            let failure = match self.client(deadline).await {
                Ok((client, turn)) => match timeout_at(deadline, call(client)).await {
                    Ok(Ok(done)) => {
                        self.answered(turn).await;
                        return Ok(done);
                    }
                    Ok(Err(error)) => {
                        let failure = Failure::of(&error, effect);
                        if failure.changes_member() {
                            self.give_up(turn, failure).await
                        } else {
                            failure
                        }
                    }
                    Err(_) => {
                        let failure = Failure::timeout(effect, self.config.timeout);
                        self.give_up(turn, failure).await
                    }
                },
                Err(failure) => failure,
            };
            if !failure.goes_on() || tries == 0 || Instant::now() >= deadline {
                return Err(failure.report(attempt));
            }
        }
    }

    /// The connection, made when there is none; and its turn. Nothing that fails here has done anything.
    async fn client(&self, deadline: Instant) -> Result<(Client, usize), Failure> {
        let mut link = self.link.lock().await;
        if let Some(client) = &link.client {
            return Ok((client.clone(), link.turn));
        }
        let endpoint = &self.config.endpoints[link.turn % self.config.endpoints.len()];
        let options = self.options().map_err(Failure::Never)?;
        // With a user, this asks for a token; without, it does not wait for the member at all.
        let connected = timeout_at(deadline, Client::connect([endpoint], Some(options))).await;
        let failure = match connected {
            Ok(Ok(client)) => {
                link.client = Some(client.clone());
                link.answered = false;
                return Ok((client, link.turn));
            }
            Ok(Err(error)) => Failure::of(&error, Effect::None),
            Err(_) => Failure::timeout(Effect::None, self.config.timeout),
        };
        link.turn += 1;
        Err(failure)
    }

    async fn answered(&self, turn: usize) {
        let mut link = self.link.lock().await;
        link.answered |= link.turn == turn;
    }

    /// Leaves the connection of a turn, unless somebody else already has. Returns what it failed with, and what that may
    /// come from.
    async fn give_up(&self, turn: usize, failure: Failure) -> Failure {
        let mut link = self.link.lock().await;
        if link.turn != turn {
            return failure;
        }
        let left = std::mem::replace(
            &mut *link,
            Link {
                turn: turn + 1,
                ..Link::default()
            },
        );
        // With TLS 1.3 a client believes itself connected before the member has looked at its certificate.
        match left.answered || !is_https(&self.config.endpoints) {
            true => failure,
            false => failure.hint("the member may not take our certificate"),
        }
    }

    fn options(&self) -> Result<ConnectOptions, String> {
        let config = &self.config;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_MAX.min(config.timeout))
            .with_keep_alive(ASK_EVERY, ASK_MAX)
            .with_keep_alive_while_idle(true)
            // A member that has lost the others says so, and ends its watches.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if is_https(&config.endpoints) {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &config.ca {
                tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((certificate, key)) = &config.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        if let Some((user, file)) = &config.user {
            let password = String::from_utf8(read(file)?);
            let password = password.map_err(|_| format!("{}: a password is text", file.display()))?;
            options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }
}

const CONNECT: &str = "connect to etcd";

impl std::fmt::Debug for EtcdBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdBoard")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn is_https(endpoints: &[String]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.starts_with("https://"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(path).map_err(named)?.len() > FILE_MAX {
        return Err(format!("{}: it is too long", path.display()));
    }
    std::fs::read(path).map_err(named)
}
