//! Each procedure of MOUNT and NFS once through the wire.

use cowfs::attr::{Device, FileType, SetAttr, SetTime, Time};
use cowfs::nfs::client::{ClientError, ClientResult, encode};
use cowfs::nfs::ops::{self, Procedure};
use cowfs::nfs::xdr::Reader;
use cowfs::nfs::{client, mount};
use cowfs::service::{CreateMode, Stability, Status, access};

use crate::support::{fixture, mode, user};

pub(crate) fn refused<T: std::fmt::Debug>(result: ClientResult<T>, status: Status) {
    match result {
        Err(ClientError::Status(got)) => assert_eq!(got, status),
        other => panic!("expected {status:?}, got {other:?}"),
    }
}

#[tokio::test]
async fn mount_protocol() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    assert_eq!(client.mount("/web/").await.unwrap(), root);
    assert!(matches!(client.mount("/other").await, Err(ClientError::Mount(2))));
    assert!(matches!(
        client.mount("/../web").await,
        Err(ClientError::Mount(2))
    ));
    let dir = client.mkdir(&root, b"d", &mode(0o700)).await.unwrap().unwrap();
    client.symlink(&root, b"s", b"d").await.unwrap();
    assert_eq!(client.mount("/web/d/").await.unwrap(), dir.handle);
    assert_eq!(client.mount("/web/d/../..").await.unwrap(), root);
    assert!(matches!(client.mount("/web/x").await, Err(ClientError::Mount(2))));
    assert!(matches!(
        client.mount("/web/s").await,
        Err(ClientError::Mount(20))
    ));
    let other = fixture.client(&user(1000)).await;
    assert!(matches!(
        other.mount("/web/d/x").await,
        Err(ClientError::Mount(13))
    ));
    let ask = |procedure, arguments: Vec<u8>| {
        let client = &client;
        async move { client.call(mount::PROGRAM, 3, procedure, &arguments).await }
    };
    let path = encode(|w| w.opaque(b"/web"));
    assert!(ask(0, Vec::new()).await.unwrap().is_empty());
    assert_eq!(ask(2, Vec::new()).await.unwrap(), &[0, 0, 0, 0][..]);
    assert!(ask(3, path).await.unwrap().is_empty());
    assert!(ask(4, Vec::new()).await.unwrap().is_empty());
    let exports = ask(5, Vec::new()).await.unwrap();
    assert_eq!(exports, &b"\0\0\0\x01\0\0\0\x04/web\0\0\0\0\0\0\0\0"[..]);
    assert!(matches!(
        ask(6, Vec::new()).await,
        Err(ClientError::Refused(0, 3))
    ));
}

#[tokio::test]
async fn files_are_made_written_read_and_removed() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let file = client
        .create(&root, b"f", CreateMode::Guarded(mode(0o640)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(file.attr.unwrap().1.mode, 0o640);
    let guarded = CreateMode::Guarded(SetAttr::default());
    refused(client.create(&root, b"f", guarded).await, Status::Exist);

    let (count, stability, verifier) = client
        .write(&file.handle, 3, b"hello", Stability::Unstable)
        .await
        .unwrap();
    assert_eq!(count, 5);
    assert!(stability <= 2);
    assert_eq!(client.commit(&file.handle).await.unwrap(), verifier);
    let (content, eof) = client.read(&file.handle, 0, 100).await.unwrap();
    assert_eq!((&content[..], eof), (&b"\0\0\0hello"[..], true));
    let (content, eof) = client.read(&file.handle, 0, 4).await.unwrap();
    assert_eq!((&content[..], eof), (&b"\0\0\0h"[..], false));

    let (before, after) = client.remove(&root, b"f").await.unwrap();
    assert!(before.is_some() && after.is_some());
    refused(client.getattr(&file.handle).await, Status::Stale);
    refused(client.lookup(&root, b"f").await, Status::NoEnt);
}

#[tokio::test]
async fn exclusive_create_can_be_repeated() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let make = |verifier| client.create(&root, b"f", CreateMode::Exclusive(verifier));
    let first = make(*b"verifier").await.unwrap().unwrap();
    let again = make(*b"verifier").await.unwrap().unwrap();
    assert_eq!(first.handle, again.handle);
    refused(make(*b"another!").await, Status::Exist);
}

#[tokio::test]
async fn every_kind_of_object_can_be_made() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let dir = client.mkdir(&root, b"d", &mode(0o755)).await.unwrap().unwrap();
    assert_eq!(client.getattr(&root).await.unwrap().1.links, 3);
    let link = client
        .symlink(&dir.handle, b"s", b"../target")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(client.readlink(&link.handle).await.unwrap(), b"../target");
    let device = Device {
        major: 5,
        minor: 70_000,
    };
    for (name, file_type, device) in [
        (b"chr", FileType::Character, device),
        (b"blk", FileType::Block, device),
        (b"sck", FileType::Socket, Device::default()),
        (b"ffo", FileType::Fifo, Device::default()),
    ] {
        let made = client
            .mknod(&dir.handle, name, file_type, device, &mode(0o600))
            .await;
        let (fileid, attr) = made.unwrap().unwrap().attr.unwrap();
        assert_eq!((attr.file_type, attr.device), (file_type, device));
        assert_eq!(
            client.lookup(&dir.handle, name).await.unwrap().attr.unwrap().0,
            fileid
        );
    }
    let nothing = SetAttr::default();
    let mknod = client.mknod(
        &dir.handle,
        b"reg",
        FileType::Regular,
        Device::default(),
        &nothing,
    );
    refused(mknod.await, Status::BadType);
    refused(client.rmdir(&root, b"d").await, Status::NotEmpty);
    refused(client.remove(&root, b"d").await, Status::IsDir);
    refused(client.rmdir(&dir.handle, b"s").await, Status::NotDir);
    let up = client.lookup(&dir.handle, b"..").await.unwrap();
    assert_eq!(up.handle, root);
    assert_eq!(client.lookup(&root, b"..").await.unwrap().handle, root);
}

#[tokio::test]
async fn names_move_and_multiply() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let file = client
        .create(&root, b"a", CreateMode::Unchecked(mode(0o644)))
        .await
        .unwrap()
        .unwrap();
    let dir = client.mkdir(&root, b"d", &mode(0o755)).await.unwrap().unwrap();
    let linked = client
        .link(&file.handle, &dir.handle, b"b")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(linked.1.links, 2);
    refused(client.link(&file.handle, &dir.handle, b"b").await, Status::Exist);
    refused(client.link(&dir.handle, &root, b"x").await, Status::Perm);
    client.rename((&root, b"a"), (&dir.handle, b"c")).await.unwrap();
    refused(client.lookup(&root, b"a").await, Status::NoEnt);
    assert_eq!(
        client.lookup(&dir.handle, b"c").await.unwrap().handle,
        file.handle
    );
    refused(
        client.rename((&root, b"d"), (&dir.handle, b"e")).await,
        Status::Inval,
    );
    client.rename((&root, b"d"), (&root, b"e")).await.unwrap();
    assert_eq!(client.lookup(&root, b"e").await.unwrap().handle, dir.handle);
}

#[tokio::test]
async fn attributes_access_and_guard() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let file = client
        .create(&root, b"f", CreateMode::Guarded(mode(0o600)))
        .await
        .unwrap()
        .unwrap();
    let mtime = Time {
        seconds: 4_000_000_000,
        nanos: 999_999_999,
    };
    let all = SetAttr {
        mode: Some(0o4755),
        uid: Some(7),
        gid: Some(8),
        size: Some(1 << 40),
        atime: SetTime::ServerNow,
        mtime: SetTime::Client(mtime),
    };
    let (_, after) = client.setattr(&file.handle, &all, None).await.unwrap();
    let attr = after.unwrap().1;
    assert_eq!(
        (attr.mode, attr.uid, attr.gid, attr.size),
        (0o4755, 7, 8, 1 << 40)
    );
    assert_eq!(attr.mtime, mtime);

    let stale = Time { seconds: 1, nanos: 1 };
    refused(
        client.setattr(&file.handle, &mode(0o600), Some(stale)).await,
        Status::NotSync,
    );
    client
        .setattr(&file.handle, &mode(0o600), Some(attr.ctime))
        .await
        .unwrap();

    let other = fixture.client(&user(1000)).await;
    assert_eq!(other.access(&file.handle, 0x3f).await.unwrap(), 0);
    refused(other.read(&file.handle, 0, 1).await, Status::Access);
    refused(
        other.write(&file.handle, 0, b"x", Stability::FileSync).await,
        Status::Access,
    );
    refused(
        other.setattr(&file.handle, &mode(0o777), None).await,
        Status::Perm,
    );
    assert_eq!(
        client.access(&file.handle, 0x3f).await.unwrap(),
        access::READ | access::MODIFY | access::EXTEND
    );
    let owner = fixture.client(&user(7)).await;
    owner
        .write(&file.handle, 0, b"x", Stability::FileSync)
        .await
        .unwrap();
}

#[tokio::test]
async fn listings_come_in_pieces_of_the_size_asked_for() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let mut expected = vec![b".".to_vec(), b"..".to_vec()];
    for n in 0..500 {
        let name = format!("file-{n}").into_bytes();
        client
            .create(&root, &name, CreateMode::Guarded(mode(0o644)))
            .await
            .unwrap();
        expected.push(name);
    }
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let (entries, eof) = client.readdir(&root, cookie, 1000).await.unwrap();
        assert!(!entries.is_empty() && entries.len() < 40);
        cookie = entries.last().unwrap().cookie;
        names.extend(entries.into_iter().map(|entry| entry.name));
        if eof {
            break;
        }
        // Entries that go away do not disturb the rest.
        if let Some(gone) = names.last().filter(|name| name.starts_with(b"file")) {
            client.remove(&root, gone).await.unwrap();
        }
    }
    assert_eq!(names, expected);

    let (entries, eof) = client.readdirplus(&root, 0, 1 << 20, 4096).await.unwrap();
    assert!(!eof && entries.len() > 10);
    let by_dircount = client.readdirplus(&root, 0, 100, 4096).await.unwrap().0;
    assert!(by_dircount.len() < entries.len());
    for entry in &entries {
        let found = entry.found.as_ref().unwrap();
        assert_eq!(found.attr.unwrap().0, entry.fileid);
        assert_eq!(client.getattr(&found.handle).await.unwrap().0, entry.fileid);
    }
    refused(client.readdir(&root, 0, 100).await, Status::TooSmall);
    refused(client.readdirplus(&root, 0, 4096, 0).await, Status::TooSmall);
    let (rest, eof) = client.readdir(&root, u64::MAX, 4096).await.unwrap();
    assert!(rest.is_empty() && eof);
}

#[tokio::test]
async fn file_system_questions() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let ask = |procedure| {
        let (client, handle) = (&client, encode(|w| w.opaque(&root)));
        async move { client.nfs(procedure, &handle).await.unwrap() }
    };
    let info = ask(Procedure::FsInfo).await;
    let mut reader = Reader::new(&info);
    assert!(client::read_post(&mut reader).unwrap().is_some());
    let transfers: Vec<_> = (0..6).map(|_| reader.u32().unwrap()).collect();
    assert_eq!(transfers, [1 << 20, 1 << 20, 4096, 1 << 20, 1 << 20, 4096]);
    reader.u32().unwrap();
    assert_eq!(reader.u64(), Ok(i64::MAX as u64));
    assert_eq!(
        (reader.u32(), reader.u32(), reader.u32()),
        (Ok(0), Ok(1), Ok(0x1b))
    );
    assert!(reader.rest().is_empty());

    let conf = ask(Procedure::PathConf).await;
    let mut reader = Reader::new(&conf);
    client::read_post(&mut reader).unwrap();
    reader.u32().unwrap();
    assert_eq!(reader.u32(), Ok(255));
    assert_eq!(reader.rest(), [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);

    let stat = ask(Procedure::FsStat).await;
    let mut reader = Reader::new(&stat);
    client::read_post(&mut reader).unwrap();
    assert!(reader.u64().unwrap() > 0);
    assert_eq!(reader.rest().len(), 5 * 8 + 4);

    let null = client.call(ops::PROGRAM, ops::VERSION, 0, &[]).await.unwrap();
    assert!(null.is_empty());
}
