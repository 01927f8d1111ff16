//! The other dom0: what its driver is asked, over one connection for each question, and what it answers.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Mutex, Notify};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, Epoch, MigrationId, SliverId};
use xeno_model::observed::{Ability, DomainState, Domains, Limits, ObservedDomain};
use xeno_reconciler::contract::World as _;
use xeno_reconciler::ports::{
    Departure, DomainSpec, Grace, Hypervisor, MoveMemory as _, Pipe, PortError, PortResult, Retry, Tuning,
};

use crate::dom0::{Dom0, spec};

/// A question.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ask {
    what: String,
    sliver: String,
    boot: Option<String>,
    migration: Option<String>,
    epoch: u64,
    live: bool,
    bandwidth: Option<u64>,
    publish: Vec<(u16, u16)>,
    /// Names the connection whose bytes are a move's.
    pipe: Option<u64>,
}

impl Ask {
    pub(crate) fn new(what: &str, sliver: &SliverId) -> Self {
        Self {
            what: what.to_owned(),
            sliver: sliver.to_string(),
            ..Self::default()
        }
    }

    pub(crate) fn of(self, migration: MigrationId) -> Self {
        Self {
            migration: Some(migration.to_string()),
            ..self
        }
    }

    pub(crate) fn publishing(self, publish: &[Publish]) -> Self {
        let publish = publish.iter().map(|port| (port.guest, port.host)).collect();
        Self { publish, ..self }
    }

    fn id(&self) -> SliverId {
        SliverId::parse(&self.sliver).unwrap()
    }

    fn migration(&self) -> MigrationId {
        MigrationId::parse(self.migration.as_deref().unwrap()).unwrap()
    }

    fn spec(&self) -> DomainSpec {
        let usual = spec(&self.sliver);
        DomainSpec {
            boot: self
                .boot
                .as_deref()
                .map_or(usual.boot, |boot| Digest::parse(boot).unwrap()),
            publish: ports(&self.publish),
            ..usual
        }
    }

    fn tuning(&self) -> Tuning {
        let spec = self.spec();
        Tuning {
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            limits: spec.limits,
            publish: spec.publish,
        }
    }
}

fn ports(publish: &[(u16, u16)]) -> Vec<Publish> {
    publish
        .iter()
        .map(|(guest, host)| Publish {
            guest: *guest,
            host: *host,
        })
        .collect()
}

/// What comes back.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    failed: Option<(String, bool)>,
    console: String,
    domains: Vec<Shown>,
}

/// A domain, as far as stories of moves look at it.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    sliver: String,
    uuid: String,
    state: String,
    epoch: u64,
    migration: Option<String>,
    booted: String,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
    publish: Vec<(u16, u16)>,
}

impl Shown {
    fn of(sliver: &SliverId, domain: &ObservedDomain) -> Self {
        let (epoch, migration) = match domain.state {
            DomainState::Kept { epoch } => (epoch.0, None),
            DomainState::Copy { migration } => (0, Some(migration.to_string())),
            DomainState::Running | DomainState::Paused | DomainState::Stopping | DomainState::Crashed => {
                (0, None)
            }
        };
        Self {
            sliver: sliver.to_string(),
            uuid: domain.uuid.to_string(),
            state: format!("{:?}", domain.state),
            epoch,
            migration,
            booted: domain.booted.to_string(),
            memory_mib: domain.memory_mib,
            memory_max_mib: domain.memory_max_mib,
            vcpus: domain.vcpus,
            publish: domain
                .publish
                .iter()
                .map(|port| (port.guest, port.host))
                .collect(),
        }
    }

    fn read(self) -> (SliverId, ObservedDomain) {
        let state = match (self.state.as_str(), &self.migration) {
            ("Running", _) => DomainState::Running,
            ("Paused", _) => DomainState::Paused,
            ("Stopping", _) => DomainState::Stopping,
            ("Crashed", _) => DomainState::Crashed,
            (_, Some(migration)) => DomainState::Copy {
                migration: MigrationId::parse(migration).unwrap(),
            },
            (_, None) => DomainState::Kept {
                epoch: Epoch(self.epoch),
            },
        };
        let domain = ObservedDomain {
            uuid: DomainUuid::parse(&self.uuid).unwrap(),
            state,
            booted: Digest::parse(&self.booted).unwrap(),
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib,
            vcpus: self.vcpus,
            limits: Limits::default(),
            publish: ports(&self.publish),
        };
        (SliverId::parse(&self.sliver).unwrap(), domain)
    }
}

/// The driver in the other dom0.
pub(crate) struct Far {
    peer: String,
}

impl Far {
    /// A node on which nothing has been done yet.
    pub(crate) fn new(peer: &str) -> Self {
        let far = Self {
            peer: peer.to_owned(),
        };
        far.ask_now("new");
        far
    }

    pub(crate) fn restart(&self) {
        self.ask_now("restart");
    }

    fn ask_now(&self, what: &str) {
        let mut stream = std::net::TcpStream::connect(&self.peer).unwrap();
        let ask = Ask::new(what, &SliverId::parse("web/0").unwrap());
        writeln!(stream, "{}", serde_json::to_string(&ask).unwrap()).unwrap();
        BufReader::new(stream).read_line(&mut String::new()).unwrap();
    }

    async fn answer(&self, ask: &Ask) -> Answer {
        let mut stream = TcpStream::connect(self.peer.as_str()).await.unwrap();
        let line = serde_json::to_string(ask).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut said = String::new();
        tokio::io::BufReader::new(stream)
            .read_line(&mut said)
            .await
            .unwrap();
        serde_json::from_str(&said).unwrap()
    }

    pub(crate) async fn ask(&self, ask: &Ask) -> PortResult<()> {
        match self.answer(ask).await.failed {
            None => Ok(()),
            Some((what, true)) => Err(PortError::later(what)),
            Some((what, false)) => Err(PortError::never(what)),
        }
    }

    pub(crate) async fn observe(&self) -> PortResult<Domains> {
        let answer = self
            .answer(&Ask::new("observe", &SliverId::parse("web/0").unwrap()))
            .await;
        if let Some((what, _)) = answer.failed {
            return Err(PortError::later(what));
        }
        Ok(Domains {
            ours: answer.domains.into_iter().map(Shown::read).collect(),
            images: BTreeMap::new(),
            able: [Ability::Move].into(),
            strangers: Vec::new(),
        })
    }

    pub(crate) async fn console(&self, sliver: &SliverId) -> String {
        self.answer(&Ask::new("console", sliver)).await.console
    }

    pub(crate) async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        let ask = Ask {
            epoch: departure.epoch.0,
            live: departure.live,
            bandwidth: departure.bandwidth,
            ..Ask::new("depart", sliver).of(departure.migration)
        };
        self.over(ask, out).await
    }

    pub(crate) async fn arrive(
        &self,
        spec: &DomainSpec,
        migration: MigrationId,
        from: Pipe,
    ) -> PortResult<()> {
        let ask = Ask::new("arrive", &spec.sliver)
            .of(migration)
            .publishing(&spec.publish);
        let ask = Ask {
            boot: Some(spec.boot.to_string()),
            ..ask
        };
        self.over(ask, from).await
    }

    /// Asks for one end of a move, whose bytes go over a connection of their own.
    async fn over(&self, ask: Ask, pipe: Pipe) -> PortResult<()> {
        pipe.set_nonblocking(true).unwrap();
        let mut near = UnixStream::from_std(pipe).unwrap();
        let mut far = TcpStream::connect(self.peer.as_str()).await.unwrap();
        let id = u64::from(far.local_addr().unwrap().port());
        let line = Ask {
            what: "pipe".to_owned(),
            pipe: Some(id),
            ..ask.clone()
        };
        let line = serde_json::to_string(&line).unwrap() + "\n";
        far.write_all(line.as_bytes()).await.unwrap();
        let carrying = tokio::spawn(async move {
            let _ends = copy_bidirectional(&mut near, &mut far).await;
        });
        let done = self
            .ask(&Ask {
                pipe: Some(id),
                ..ask
            })
            .await;
        // What was said last is on its way while this end is done already.
        if done.is_err() {
            carrying.abort();
        }
        done
    }
}

/// Answers for this dom0, on and on.
struct Served {
    dom0: Mutex<Option<Arc<Dom0>>>,
    pipes: Mutex<BTreeMap<u64, Pipe>>,
    came: Notify,
}

impl Served {
    async fn pipe(&self, id: u64) -> Pipe {
        loop {
            let came = self.came.notified();
            if let Some(pipe) = self.pipes.lock().await.remove(&id) {
                return pipe;
            }
            came.await;
        }
    }

    async fn do_as_asked(&self, ask: &Ask) -> Result<Answer, PortError> {
        let mut answer = Answer::default();
        let sliver = ask.id();
        if ask.what == "new" {
            // What the last story left is taken away first.
            *self.dom0.lock().await = None;
            *self.dom0.lock().await = Some(Arc::new(Dom0::new()));
            return Ok(answer);
        }
        if ask.what == "restart" {
            let mut dom0 = self.dom0.lock().await;
            let old = dom0.take().unwrap();
            let mut again = Arc::try_unwrap(old).unwrap_or_else(|_| panic!("something is at work"));
            again.restart();
            *dom0 = Some(Arc::new(again));
            return Ok(answer);
        }
        let dom0 = Arc::clone(self.dom0.lock().await.as_ref().unwrap());
        let driver = &dom0.driver;
        match ask.what.as_str() {
            "observe" => {
                let seen = driver.observe().await?;
                assert!(seen.able.contains(&Ability::Move));
                answer.domains = seen
                    .ours
                    .iter()
                    .map(|(sliver, domain)| Shown::of(sliver, domain))
                    .collect();
            }
            "console" => answer.console = dom0.console(&sliver),
            "kill" => dom0.kill(&sliver).await,
            "shutdown" => Hypervisor::shutdown(driver, &sliver, Grace { ms: 0 }).await?,
            "unpause" => Hypervisor::unpause(driver, &sliver).await?,
            "call_off" => driver.call_off(&sliver).await?,
            "clear" => driver.clear(&sliver, ask.migration(), &ask.tuning()).await?,
            "wake" => driver.wake(&sliver, &ask.tuning()).await?,
            "destroy" => driver.destroy(&sliver).await?,
            "arrive" => {
                let pipe = self.pipe(ask.pipe.unwrap()).await;
                driver.arrive(&ask.spec(), ask.migration(), pipe).await?;
            }
            "depart" => {
                let pipe = self.pipe(ask.pipe.unwrap()).await;
                let departure = Departure {
                    migration: ask.migration(),
                    epoch: Epoch(ask.epoch),
                    live: ask.live,
                    bandwidth: ask.bandwidth,
                    downtime_ms: None,
                };
                driver.depart(&sliver, &departure, pipe).await?;
            }
            other => panic!("nobody asks for {other}"),
        }
        Ok(answer)
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut line = Vec::new();
        // Byte by byte: what follows may be a move's.
        while line.last() != Some(&b'\n') {
            match tokio::io::AsyncReadExt::read_u8(&mut stream).await {
                Ok(byte) => line.push(byte),
                // Somebody who only wanted to know whether this answers.
                Err(_) => return,
            }
        }
        let ask: Ask = serde_json::from_slice(&line).unwrap();
        if ask.what == "pipe" {
            let (theirs, ours) = Pipe::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut ours = UnixStream::from_std(ours).unwrap();
            self.pipes.lock().await.insert(ask.pipe.unwrap(), theirs);
            self.came.notify_waiters();
            let _ends = copy_bidirectional(&mut ours, &mut stream).await;
            return;
        }
        let answer = self.do_as_asked(&ask).await.unwrap_or_else(|error| Answer {
            failed: Some((error.what, error.retry == Retry::Later)),
            ..Answer::default()
        });
        let line = serde_json::to_string(&answer).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.unwrap();
    }
}

/// Answers at `XENO_LAB_SERVE` for the stories that run in another dom0, until it is ended.
#[tokio::test]
async fn the_other_node_answers() {
    let address = std::env::var("XENO_LAB_SERVE").expect("XENO_LAB_SERVE says where to answer");
    let served = Arc::new(Served {
        dom0: Mutex::new(None),
        pipes: Mutex::new(BTreeMap::new()),
        came: Notify::new(),
    });
    let listener = TcpListener::bind(address.as_str()).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let served = Arc::clone(&served);
        tokio::spawn(async move { served.serve(stream).await });
    }
}
