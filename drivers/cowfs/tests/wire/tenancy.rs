//! Several exports: nobody reaches another's, whatever they send.

use std::sync::Arc;

use cowfs::attr::SetAttr;
use cowfs::export::State;
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, ClientError};
use cowfs::service::{Caller, CreateMode, Status};
use tokio::net::UnixStream;

use crate::procedures::refused;
use crate::support::{DEADLINE, export, fixture, mode};

#[tokio::test]
async fn another_clients_export_is_as_good_as_absent() {
    let fixture = fixture().await;
    let foreign = export("/foreign", Arc::new(Memory::new()), &["192.0.2.1"]);
    let (handle, len) = foreign.id().join(&foreign.service().root().handle);
    let handle = &handle[..len];
    fixture.server.exports().add(foreign).unwrap();
    let (client, root) = fixture.mounted().await;
    assert!(matches!(
        client.mount("/foreign").await,
        Err(ClientError::Mount(2))
    ));
    refused(client.getattr(handle).await, Status::Stale);
    refused(client.lookup(handle, b"x").await, Status::Stale);
    client
        .create(&root, b"f", CreateMode::Guarded(mode(0o600)))
        .await
        .unwrap();
    refused(client.rename((&root, b"f"), (handle, b"f")).await, Status::XDev);
    refused(client.link(handle, &root, b"f").await, Status::Stale);
}

#[tokio::test]
async fn two_exports_of_one_client_are_two_devices() {
    let fixture = fixture().await;
    let second = export("/second", Arc::new(Memory::new()), &["127.0.0.1"]);
    fixture.server.exports().add(second).unwrap();
    let (client, root) = fixture.mounted().await;
    let other = client.mount("/second").await.unwrap();
    let file = client
        .create(&root, b"f", CreateMode::Guarded(mode(0o600)))
        .await
        .unwrap()
        .unwrap();
    refused(client.lookup(&other, b"f").await, Status::NoEnt);
    refused(client.rename((&root, b"f"), (&other, b"f")).await, Status::XDev);
    refused(client.link(&file.handle, &other, b"f").await, Status::XDev);
}

#[tokio::test]
async fn a_unix_socket_leads_to_its_own_export_only() {
    let fixture = fixture().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.sock");
    let own = export("/own", Arc::new(Memory::new()), &[]);
    fixture.server.exports().add(Arc::clone(&own)).unwrap();
    let listening = fixture
        .server
        .listen_unix(&path, None, Arc::clone(&own))
        .await
        .unwrap();
    let mode_of_socket =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode_of_socket & 0o777, 0o600);

    let client = Client::new(
        UnixStream::connect(&path).await.unwrap(),
        "guest",
        &Caller::root(),
    );
    let root = client.mount("/web").await.unwrap();
    assert_eq!(root, client.mount("/anything/at/all").await.unwrap());
    let (_, web) = fixture.mounted().await;
    assert_ne!(root, web);
    refused(client.getattr(&web).await, Status::Stale);

    // Someone answers here: it is not taken over.
    assert!(
        fixture
            .server
            .listen_unix(&path, None, Arc::clone(&own))
            .await
            .is_err()
    );
    drop(listening);
    assert!(!path.exists());
    // A dead socket file is replaced; anything else is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listening = fixture
        .server
        .listen_unix(&path, None, Arc::clone(&own))
        .await
        .unwrap();
    drop(listening);
    std::fs::write(&path, "precious").unwrap();
    assert!(fixture.server.listen_unix(&path, None, own).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn the_wrong_user_is_turned_away() {
    let fixture = fixture().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.sock");
    let own = export("/own", Arc::new(Memory::new()), &[]);
    fixture.server.exports().add(Arc::clone(&own)).unwrap();
    let someone_else = rustix::process::geteuid().as_raw() + 1;
    let _listening = fixture
        .server
        .listen_unix(&path, Some(someone_else), own)
        .await
        .unwrap();
    let client = Client::new(
        UnixStream::connect(&path).await.unwrap(),
        "guest",
        &Caller::root(),
    );
    let refused = tokio::time::timeout(DEADLINE, client.mount("/")).await.unwrap();
    assert!(matches!(refused, Err(ClientError::Gone | ClientError::Io(_))));
}

#[tokio::test]
async fn standby_parks_and_sealing_closes() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let web = fixture.server.exports().all().remove(0);
    web.set_state(State::Standby);
    web.quiesce().await;
    let mut parked = Box::pin(client.getattr(&root));
    let other = fixture.client(&Caller::root()).await;
    let mut mounting = Box::pin(other.mount("/web"));
    tokio::select! {
        biased;
        reply = &mut parked => panic!("answered in standby: {reply:?}"),
        reply = &mut mounting => panic!("mounted in standby: {reply:?}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
    }
    web.set_state(State::Active);
    parked.await.unwrap();
    mounting.await.unwrap();

    web.set_state(State::Sealed);
    let gone = tokio::time::timeout(DEADLINE, client.getattr(&root))
        .await
        .unwrap();
    assert!(matches!(gone, Err(ClientError::Gone | ClientError::Io(_))));
    let late = fixture.client(&Caller::root()).await;
    let gone = tokio::time::timeout(DEADLINE, late.getattr(&root)).await.unwrap();
    assert!(matches!(gone, Err(ClientError::Gone | ClientError::Io(_))));
}

/// An export on a unix socket of its own that is parked: what becomes of calls that wait.
#[tokio::test]
async fn a_parked_export_answers_nobody_until_it_goes_on() {
    let fixture = fixture().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.sock");
    let own = export("/own", Arc::new(Memory::new()), &[]);
    fixture.server.exports().add(Arc::clone(&own)).unwrap();
    let _listening = fixture
        .server
        .listen_unix(&path, None, Arc::clone(&own))
        .await
        .unwrap();
    let connect = || async {
        Client::new(
            UnixStream::connect(&path).await.unwrap(),
            "guest",
            &Caller::root(),
        )
    };
    let until = async |what: &dyn Fn() -> bool| {
        let reached = async {
            while !what() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, reached)
            .await
            .expect("it comes to that");
    };
    let client = connect().await;
    let root = client.mount("/").await.unwrap();
    assert!(!own.set_parked(true));
    assert!(own.set_parked(true), "again");
    own.quiesce().await;
    assert_eq!(own.state(), State::Standby);
    // Whoever says again that it is active does not let anybody in.
    own.set_state(State::Active);
    assert_eq!(own.state(), State::Standby);

    // One who waits, one who leaves, and one who only asks.
    let kept = tokio::spawn({
        let (client, root) = (connect().await, root.clone());
        async move { client.mkdir(&root, b"kept", &SetAttr::default()).await }
    });
    until(&|| own.waiting() == 1).await;
    let left = tokio::spawn({
        let (client, root) = (connect().await, root.clone());
        async move { client.mkdir(&root, b"left", &SetAttr::default()).await }
    });
    until(&|| own.waiting() == 2).await;
    let asked = tokio::spawn({
        let root = root.clone();
        async move { (client.getattr(&root).await, client) }
    });
    until(&|| own.waiting() == 3).await;
    left.abort();
    until(&|| own.waiting() == 2).await;
    assert!(!kept.is_finished() && !asked.is_finished());

    assert!(own.set_parked(false));
    kept.await.unwrap().unwrap();
    let (asked, client) = asked.await.unwrap();
    asked.unwrap();
    client.lookup(&root, b"kept").await.unwrap();
    let gone = client.lookup(&root, b"left").await;
    assert!(
        matches!(gone, Err(ClientError::Status(Status::NoEnt))),
        "{gone:?}"
    );
}

/// However much a guest sends, only so much of it is read while nobody is answered.
#[tokio::test]
async fn a_parked_export_takes_in_only_so_much() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let web = fixture.server.exports().all().remove(0);
    web.set_parked(true);
    let client = Arc::new(client);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (client, root) = (Arc::clone(&client), root.clone());
            tokio::spawn(async move { client.getattr(&root).await })
        })
        .collect();
    let full = async {
        while web.waiting() < cowfs::server::UNITS_PER_CONNECTION {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, full).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert_eq!(web.waiting(), cowfs::server::UNITS_PER_CONNECTION);
    }
    web.set_parked(false);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn removing_an_export_closes_its_connections() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    client.getattr(&root).await.unwrap();
    let web = fixture.server.exports().all().remove(0);
    fixture.server.exports().remove(web.name());
    let gone = tokio::time::timeout(DEADLINE, client.getattr(&root))
        .await
        .unwrap();
    assert!(matches!(gone, Err(ClientError::Gone | ClientError::Io(_))));
}
