//! Exports that answer only while their server's lease lasts, over real connections and with a clock of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cowfs::attr::SetAttr;
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::lease::{Lease, NotRenewed};
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, ClientError, WireHandle};
use cowfs::server::{Limits, Listening, Server};
use cowfs::service::Caller;
use tokio::net::TcpStream;

use crate::support::DEADLINE;

const SECOND: u64 = 1_000_000_000;

/// A clock that is moved by hand, or jumps once it was looked at so often.
#[derive(Default)]
struct Hand {
    now: AtomicU64,
    /// Looks until it jumps; none where it is as large as can be.
    looks: AtomicUsize,
    jumped: AtomicBool,
}

impl Hand {
    fn look(&self) -> u64 {
        let left = |left: usize| {
            if left == usize::MAX {
                None
            } else {
                left.checked_sub(1)
            }
        };
        if self.looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) == Err(0) {
            self.jumped.store(true, Ordering::SeqCst);
        }
        let ahead = if self.jumped.load(Ordering::SeqCst) {
            100 * SECOND
        } else {
            0
        };
        self.now.load(Ordering::SeqCst) + ahead
    }
}

struct World {
    hand: Arc<Hand>,
    server: Arc<Server>,
    web: Arc<Export>,
    listening: Listening,
}

/// A leased export, and where it is asked.
async fn serving(server: &Arc<Server>) -> (Arc<Export>, Listening) {
    let name = ExportName::parse("/web").unwrap();
    let client = ClientAddress::parse("127.0.0.1").unwrap();
    let web = Export::new(name, Arc::new(Memory::new()), vec![client], State::Active).unwrap();
    let web = Arc::new(web.under(server.lease()));
    web.set_leased(true);
    server.exports().add(Arc::clone(&web)).unwrap();
    let listening = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    (web, listening)
}

async fn world() -> World {
    let hand = Arc::new(Hand {
        now: SECOND.into(),
        looks: usize::MAX.into(),
        ..Hand::default()
    });
    let clock = Arc::clone(&hand);
    let server = Server::with_lease(Limits::default(), Lease::new(Arc::new(move || clock.look())));
    let (web, listening) = serving(&server).await;
    World {
        hand,
        server,
        web,
        listening,
    }
}

/// What became of a call.
#[derive(Debug, PartialEq)]
enum Became {
    Answered,
    /// Its connection has ended.
    Gone,
    Waits,
}

impl World {
    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.listening.address().unwrap())
            .await
            .unwrap();
        Client::new(stream, "guest", &Caller::root())
    }

    async fn mounted(&self) -> (Client, WireHandle) {
        let client = self.client().await;
        let root = client.mount("/web").await.unwrap();
        (client, root)
    }

    /// What left or was let in has done so.
    async fn until_nobody_waits(&self) {
        let gone = async {
            while self.web.waiting() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.unwrap();
    }

    async fn became<T: std::fmt::Debug>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Became {
        let waits = async {
            while self.web.waiting() == 0 {
                tokio::task::yield_now().await;
            }
        };
        let became = async {
            tokio::select! {
                biased;
                answer = call => match answer {
                    Ok(_) => Became::Answered,
                    Err(ClientError::Gone | ClientError::Io(_)) => Became::Gone,
                    Err(other) => panic!("{other:?}"),
                },
                () = waits => Became::Waits,
            }
        };
        tokio::time::timeout(DEADLINE, became).await.unwrap()
    }
}

#[tokio::test]
async fn a_leased_export_answers_from_its_entry_to_the_lapse() {
    let world = world().await;
    assert!(world.web.is_lapsed());
    let client = world.client().await;
    assert_eq!(world.became(client.mount("/web")).await, Became::Waits);
    drop(client);
    world.until_nobody_waits().await;
    // The server's lease alone lets nobody in.
    world.server.renew_lease(10 * SECOND).unwrap();
    let client = world.client().await;
    let mut mounting = Box::pin(client.mount("/web"));
    assert_eq!(world.became(&mut mounting).await, Became::Waits);
    world.web.enter(10 * SECOND).unwrap();
    let root = mounting.await.unwrap();
    world.until_nobody_waits().await;
    assert_eq!(world.became(client.getattr(&root)).await, Became::Answered);
    world.server.renew_lease(20 * SECOND).unwrap();
    world.hand.now.store(15 * SECOND, Ordering::SeqCst);
    let plain = SetAttr::default();
    let make = client.mkdir(&root, b"kept", &plain);
    assert_eq!(world.became(make).await, Became::Answered);

    world.hand.now.store(20 * SECOND, Ordering::SeqCst);
    assert_eq!(world.web.state(), State::Standby);
    let mut asked = Box::pin(client.getattr(&root));
    assert_eq!(world.became(&mut asked).await, Became::Waits);
    // Another lease does not let in what has waited, nor anything that comes.
    world.server.renew_lease(30 * SECOND).unwrap();
    world.until_nobody_waits().await;
    let ended = tokio::time::timeout(DEADLINE, asked).await.unwrap();
    assert!(
        matches!(ended, Err(ClientError::Gone | ClientError::Io(_))),
        "{ended:?}"
    );
    let (late, asks) = (world.client().await, root.clone());
    let late = async move { late.getattr(&asks).await };
    let mut late = Box::pin(late);
    assert_eq!(world.became(&mut late).await, Became::Waits);
    // What was decided before the lapse lets nobody in either.
    assert_eq!(world.web.enter(20 * SECOND), Err(NotRenewed::Over));
    assert_eq!(world.became(&mut late).await, Became::Waits);
    world.web.enter(30 * SECOND).unwrap();
    late.await.unwrap();
    let (again, root) = world.mounted().await;
    again.lookup(&root, b"kept").await.unwrap();
}

/// The lapse comes at any of the moments at which the clock is looked at during a call: after it no reply leaves, neither of one
/// that is answered in place nor of one that was being carried out.
#[tokio::test]
async fn no_reply_leaves_after_the_lapse_whenever_that_comes() {
    for in_place in [true, false] {
        let mut outcomes = Vec::new();
        for looks in 0..100 {
            let world = world().await;
            world.web.enter(10 * SECOND).unwrap();
            let (client, root) = world.mounted().await;
            world.hand.looks.store(looks, Ordering::SeqCst);
            let became = if in_place {
                world.became(client.getattr(&root)).await
            } else {
                world
                    .became(client.mkdir(&root, b"made", &SetAttr::default()))
                    .await
            };
            let lapsed = world.hand.jumped.load(Ordering::SeqCst);
            assert!(!(lapsed && became == Became::Answered), "after {looks} looks");
            outcomes.push(became);
            if !lapsed {
                break;
            }
        }
        assert_eq!(outcomes.last(), Some(&Became::Answered), "{outcomes:?}");
        assert!(outcomes.contains(&Became::Waits), "{outcomes:?}");
        assert!(outcomes.contains(&Became::Gone), "{outcomes:?}");
    }
}

/// Its connections end at the lapse, without a call that finds out.
#[tokio::test]
async fn connections_end_at_the_lapse() {
    let server = Server::new(Limits::default());
    let (web, listening) = serving(&server).await;
    let watching = Arc::clone(&server);
    tokio::spawn(async move { watching.watch_lease().await });
    web.enter(cowfs::lease::now() + SECOND).unwrap();
    let stream = TcpStream::connect(listening.address().unwrap()).await.unwrap();
    let client = Client::new(stream, "guest", &Caller::root());
    let root = client.mount("/web").await.unwrap();
    client.getattr(&root).await.unwrap();
    assert_eq!(web.connections(), 1);
    let ended = async {
        while web.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
    assert!(web.is_lapsed());
}
