//! Writable layers that go to another node and come back.

use cowfs::nfs::client::ClientError as NfsError;
use cowfs::service::{CreateMode, Stability};
use xeno_model::id::MigrationId;
use xeno_reconciler::ports::{MoveLayers as _, Pipe};

use super::*;

const FIRST: MigrationId = MigrationId([1; 16]);
const SECOND: MigrationId = MigrationId([2; 16]);

/// A guest's view of the root of its first mount.
async fn guest(world: &World) -> (NfsClient, WireHandle) {
    let mounts = world.storage.guest_mounts(&web(), &world.mounts());
    let socket = UnixStream::connect(&mounts[0].socket).await.unwrap();
    let guest = NfsClient::new(socket, "guest", &Caller::root());
    let root = guest.mount(&mounts[0].export).await.unwrap();
    (guest, root)
}

async fn write(guest: &NfsClient, root: &WireHandle, name: &str, bytes: &[u8]) -> WireHandle {
    let mode = CreateMode::Unchecked(SetAttr::default());
    let made = guest.create(root, name.as_bytes(), mode).await.unwrap();
    let file = made.unwrap().handle;
    guest.write(&file, 0, bytes, Stability::FileSync).await.unwrap();
    file
}

/// A round; both ends' answers.
async fn round(
    from: &World,
    to: &World,
    migration: MigrationId,
    last: bool,
) -> (PortResult<u64>, PortResult<()>) {
    let (near, far) = Pipe::pair().unwrap();
    let (mounts, web) = (to.mounts(), web());
    tokio::join!(
        from.storage.send_layers(&web, last, near),
        to.storage.receive_layers(&web, migration, &mounts, far),
    )
}

async fn whole(from: &World, to: &World, migration: MigrationId, last: bool) -> u64 {
    let (sent, received) = round(from, to, migration, last).await;
    received.unwrap();
    sent.unwrap()
}

async fn open(world: &World, epoch: u64) {
    let (storage, mounts) = (&world.storage, world.mounts());
    storage
        .open_writable(&web(), Epoch(epoch), &mounts)
        .await
        .unwrap();
    storage
        .stack(&web(), &Digest::of(b"stack"), &mounts)
        .await
        .unwrap();
    storage.export(&web(), &mounts).await.unwrap();
}

/// What lies where layers do.
fn names(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.dir.path().join("state/writable")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn layers_go_to_another_node_and_come_back() {
    let (here, there) = (World::new().await, World::new().await);
    open(&here, 1).await;
    let (client, root) = guest(&here).await;
    let first = write(&client, &root, "first", &[7; 100_000]).await;
    let ahead = whole(&here, &there, FIRST, false).await;
    assert!(ahead > 100_000);
    assert_eq!(
        there.see().await,
        ObservedStorage::default(),
        "it is only on its way"
    );

    // The last round is refused while the guest is answered; then it stands still.
    let second = write(&client, &root, "second", b"late").await;
    let (refused, _) = round(&here, &there, FIRST, true).await;
    assert!(refused.unwrap_err().what.contains("park"));
    for _ in 0..2 {
        here.storage.park(&web()).await.unwrap();
        assert!(here.see().await.parked && here.see().await.exported);
    }
    // Whoever says again what an export should be does not let anybody in.
    here.storage.export(&web(), &here.mounts()).await.unwrap();
    assert!(here.see().await.parked);
    let last = whole(&here, &there, FIRST, true).await;
    assert!(last < 20_000, "{last}");
    let seen = there.see().await;
    assert_eq!((seen.on_disk, seen.open), (true, None));
    assert_eq!(names(&there), ["web-site-12"]);

    open(&there, 2).await;
    let (moved, _) = guest(&there).await;
    assert_eq!(&moved.read(&first, 0, 4).await.unwrap().0[..], [7; 4]);
    assert_eq!(&moved.read(&second, 0, 100).await.unwrap().0[..], b"late");

    // The way back: the old copy there is in use at first, and then saves what it has.
    let third = write(&moved, &root, "third", b"from there").await;
    let (sent, received) = round(&there, &here, SECOND, false).await;
    let said = sent.unwrap_err().what;
    assert!(said.contains("still open"), "{said}");
    assert!(received.unwrap_err().what.contains("still open"));
    here.storage.unpark(&web()).await.unwrap();
    assert!(!here.see().await.parked);
    client.read(&first, 0, 4).await.unwrap();
    here.take_apart().await;
    there.storage.park(&web()).await.unwrap();
    let back = whole(&there, &here, SECOND, true).await;
    assert!(back < ahead / 2, "{back} back, {ahead} there");
    assert_eq!(names(&here), ["web-site-12"], "the old copy is gone");
    assert_eq!(here.see().await.tombstone, None);
    open(&here, 3).await;
    let (client, _) = guest(&here).await;
    assert_eq!(&client.read(&third, 0, 100).await.unwrap().0[..], b"from there");

    // What is older is not taken for what is newer.
    here.take_apart().await;
    let (sent, received) = round(&there, &here, SECOND, true).await;
    let said = sent.unwrap_err().what;
    assert!(said.contains("epoch 3"), "{said}");
    assert_eq!(received.unwrap_err().retry, Retry::Never);
}

#[tokio::test]
async fn closed_layers_travel_and_another_layer_in_their_place_is_set_aside() {
    let (here, there) = (World::new().await, World::new().await);
    for world in [&here, &there] {
        open(world, 1).await;
        let (client, root) = guest(world).await;
        let path = world.dir.path().to_str().unwrap();
        write(&client, &root, "mine", path.as_bytes()).await;
        world.take_apart().await;
    }
    whole(&here, &there, FIRST, true).await;
    open(&there, 2).await;
    let (client, root) = guest(&there).await;
    let file = client.lookup(&root, b"mine").await.unwrap().handle;
    let expected = here.dir.path().to_str().unwrap().as_bytes();
    assert_eq!(&client.read(&file, 0, 200).await.unwrap().0[..], expected);
    let tombstones = fs::read_dir(there.dir.path().join("state/tombstones")).unwrap();
    assert_eq!(tombstones.count(), 1, "nobody has said that it may go");
}

#[tokio::test]
async fn a_round_that_breaks_off_leaves_nothing_but_what_the_next_goes_on_from() {
    let (here, there) = (World::new().await, World::new().await);
    open(&here, 1).await;
    let (client, root) = guest(&here).await;
    write(&client, &root, "large", &[9; 1 << 20]).await;
    // The pipe ends at once.
    let (near, far) = Pipe::pair().unwrap();
    drop(far);
    let sent = here.storage.send_layers(&web(), false, near).await;
    assert_eq!(sent.unwrap_err().retry, Retry::Later);
    let (near, far) = Pipe::pair().unwrap();
    drop(near);
    let (mounts, of) = (there.mounts(), web());
    let received = there.storage.receive_layers(&of, FIRST, &mounts, far);
    assert_eq!(received.await.unwrap_err().retry, Retry::Later);
    assert_eq!(there.see().await, ObservedStorage::default());
    assert_eq!(names(&there), [format!(".arriving-web-site-12-{FIRST}")]);

    // Another attempt goes on with what the one before has brought.
    let first = whole(&here, &there, FIRST, false).await;
    let second = whole(&here, &there, SECOND, false).await;
    assert!(first > 1 << 20 && second < 20_000, "{first}, {second}");
    assert_eq!(names(&there), [format!(".arriving-web-site-12-{SECOND}")]);
    assert_eq!(there.see().await, ObservedStorage::default());

    // A sliver that writes nowhere on this node has nothing to send, and nothing comes.
    let mounts = there.mounts();
    let nothing: Vec<MountSpec> = mounts.into_iter().filter(|mount| !mount.writable).collect();
    let (near, far) = Pipe::pair().unwrap();
    let other = SliverId::parse("other/0").unwrap();
    assert_eq!(here.storage.send_layers(&other, true, near).await.unwrap(), 0);
    let received = there.storage.receive_layers(&other, FIRST, &nothing, far);
    received.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_is_parked_waits_until_it_goes_on() {
    let world = World::new().await;
    open(&world, 1).await;
    let (client, root) = guest(&world).await;
    world.storage.park(&web()).await.unwrap();
    let waiting = tokio::spawn({
        let root = root.clone();
        async move {
            let made = client.mkdir(&root, b"waits", &SetAttr::default()).await;
            (client, made.map(drop))
        }
    });
    world.storage.unpark(&web()).await.unwrap();
    let (client, made) = waiting.await.unwrap();
    made.unwrap();
    client.lookup(&root, b"waits").await.unwrap();
    let missing = client.lookup(&root, b"never").await;
    assert!(matches!(missing, Err(NfsError::Status(_))));
    // Of a sliver that has no exports nothing can be waiting.
    world.take_apart().await;
    world.storage.park(&web()).await.unwrap();
    world.storage.unpark(&web()).await.unwrap();
    assert!(!world.see().await.parked);
}
