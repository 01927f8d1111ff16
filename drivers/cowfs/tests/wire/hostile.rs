//! Clients that send what they should not.

use std::sync::Arc;

use cowfs::export::State;
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, ClientError, encode, encode_place};
use cowfs::nfs::mount;
use cowfs::nfs::ops::{self, Procedure};
use cowfs::server::{Limits, Server};
use cowfs::service::{Caller, CreateMode, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::procedures::refused;
use crate::support::{DEADLINE, Fixture, call, export, fixture, mode, record};

/// Sends `bytes`; the server must close that connection, and go on serving others.
async fn check_closed(fixture: &Fixture, bytes: &[u8]) {
    let mut stream = fixture.stream().await;
    // The server may close before everything is written.
    let _written = stream.write_all(bytes).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    assert!(
        read.is_ok(),
        "still open after {:?}",
        &bytes[..bytes.len().min(16)]
    );
    assert!(rest.is_empty());
    fixture.mounted().await;
}

#[tokio::test]
async fn what_is_not_rpc_closes_the_connection() {
    let fixture = fixture().await;
    check_closed(&fixture, b"GET / HTTP/1.1\r\n\r\n").await;
    check_closed(&fixture, &[0xff; 64]).await; // 2 GiB announced
    check_closed(&fixture, &[0x7f, 0xff, 0xff, 0xff]).await;
    check_closed(&fixture, &[0x80, 0, 0, 0]).await; // an empty record
    check_closed(&fixture, &[0; 4096]).await; // nothing but empty fragments
    check_closed(&fixture, &[0x80, 0, 0, 4, 1, 2, 3, 4]).await; // no room for a head
    let reply = [&[0x80, 0, 0, 24][..], &[0, 0, 0, 1, 0, 0, 0, 1], &[0; 16]].concat();
    check_closed(&fixture, &reply).await;
    let trickle: Vec<u8> = std::iter::repeat_n([0, 0, 0, 1, 0], 1000).flatten().collect();
    check_closed(&fixture, &trickle).await;
}

#[tokio::test]
async fn half_a_record_disturbs_nobody() {
    let fixture = fixture().await;
    let mut held = Vec::new();
    for len in 0..20_u8 {
        let mut stream = fixture.stream().await;
        let record = [&[0x80, 0, 0, 200][..], &vec![0; usize::from(len)]].concat();
        stream.write_all(&record).await.unwrap();
        held.push(stream);
    }
    fixture.mounted().await;
}

#[tokio::test]
async fn wrong_programs_versions_procedures_and_arguments() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let check = |program, version, procedure, arguments: Vec<u8>, expected| {
        let client = &client;
        async move {
            match client.call(program, version, procedure, &arguments).await {
                Err(ClientError::Refused(0, why)) => assert_eq!(why, expected),
                other => panic!("expected accept_stat {expected}, got {other:?}"),
            }
        }
    };
    check(100_021, 4, 0, Vec::new(), 1).await;
    check(ops::PROGRAM, 2, 0, Vec::new(), 2).await;
    check(ops::PROGRAM, 4, 0, Vec::new(), 2).await;
    check(mount::PROGRAM, 1, 0, Vec::new(), 2).await;
    check(ops::PROGRAM, 3, 22, Vec::new(), 3).await;
    check(mount::PROGRAM, 3, 6, Vec::new(), 3).await;
    for procedure in 1..=21 {
        check(ops::PROGRAM, 3, procedure, Vec::new(), 4).await;
        check(ops::PROGRAM, 3, procedure, encode(|w| w.u32(u32::MAX)), 4).await;
        check(ops::PROGRAM, 3, procedure, encode(|w| w.opaque(&[7; 65])), 4).await;
    }
    // A handle that is right and nothing after it, where something must follow.
    for procedure in (2..=17)
        .chain([21])
        .filter(|&procedure| procedure != Procedure::ReadLink as u32)
    {
        check(ops::PROGRAM, 3, procedure, encode(|w| w.opaque(&root)), 4).await;
    }
}

#[tokio::test]
async fn heads_that_are_refused() {
    let fixture = fixture().await;
    let check = |words: Vec<u32>, expected: Vec<u32>| {
        let fixture = &fixture;
        async move {
            let mut stream = fixture.stream().await;
            let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            stream.write_all(&record(&body)).await.unwrap();
            let mut reply = vec![0; 4 + 4 * expected.len()];
            tokio::time::timeout(DEADLINE, stream.read_exact(&mut reply))
                .await
                .unwrap()
                .unwrap();
            let reply: Vec<u32> = reply[4..]
                .chunks(4)
                .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
                .collect();
            assert_eq!(reply, expected);
        }
    };
    // RPC version 3: denied, mismatch, 2 to 2.
    check(vec![9, 0, 3, ops::PROGRAM, 3, 0], vec![9, 1, 1, 0, 2, 2]).await;
    // An unknown flavor of credential: denied, authentication, bad credential.
    check(vec![9, 0, 2, ops::PROGRAM, 3, 0, 6, 0, 0, 0], vec![9, 1, 1, 1, 1]).await;
    // AUTH_SYS with 17 groups, and with four billion.
    let groups = |said: u32, there: usize| {
        let mut words = vec![
            9,
            0,
            2,
            ops::PROGRAM,
            3,
            0,
            1,
            u32::try_from(20 + 4 * there).unwrap(),
            0,
            0,
            0,
            0,
            said,
        ];
        words.extend(std::iter::repeat_n(5, there));
        words.extend([0, 0]);
        words
    };
    check(groups(17, 17), vec![9, 1, 1, 1, 1]).await;
    check(groups(u32::MAX, 3), vec![9, 1, 1, 1, 1]).await;
    check(groups(16, 16), vec![9, 1, 0, 0, 0, 0]).await;
    // A verifier of 401 bytes and more.
    check(
        vec![9, 0, 2, ops::PROGRAM, 3, 0, 0, 0, 0, 0xffff_ffff],
        vec![9, 1, 1, 1, 3],
    )
    .await;
}

#[tokio::test]
async fn forged_handles_lead_nowhere() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    refused(client.getattr(&[]).await, Status::BadHandle);
    refused(client.getattr(&[1; 7]).await, Status::BadHandle);
    refused(client.getattr(&[1; 64]).await, Status::Stale);
    refused(client.getattr(&root[..8]).await, Status::BadHandle);
    let longer = [&root[..], &[0]].concat();
    refused(client.getattr(&longer).await, Status::BadHandle);
    // Every procedure answers in its own form.
    for procedure in Procedure::ALL.into_iter().skip(1) {
        let reply = client
            .call(
                ops::PROGRAM,
                ops::VERSION,
                procedure as u32,
                &encode(|w| w.opaque(&[1; 64])),
            )
            .await
            .unwrap();
        assert!(
            reply.len() <= 20 && reply.len().is_multiple_of(4),
            "{procedure:?}: {reply:?}"
        );
        assert_eq!(reply[..4], 70_u32.to_be_bytes(), "{procedure:?}");
    }
}

#[tokio::test]
async fn names_that_cannot_be() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let dir = client
        .mkdir(&root, b"d", &mode(0o755))
        .await
        .unwrap()
        .unwrap()
        .handle;
    let long = vec![b'x'; 256];
    let huge = vec![b'x'; 100_000];
    for (name, expected) in [
        (b"".as_slice(), Status::Inval),
        (b"a/b", Status::Inval),
        (b"/", Status::Inval),
        (b"../d", Status::Inval),
        (b"a\0b", Status::Inval),
        (&long, Status::NameTooLong),
        (&huge, Status::NameTooLong),
    ] {
        refused(client.lookup(&dir, name).await, expected);
        refused(
            client.create(&dir, name, CreateMode::Guarded(mode(0o600))).await,
            expected,
        );
        refused(client.mkdir(&dir, name, &mode(0o700)).await, expected);
        refused(client.symlink(&dir, name, b"x").await, expected);
        refused(client.remove(&dir, name).await, expected);
        refused(client.rmdir(&dir, name).await, expected);
        refused(client.rename((&root, b"d"), (&dir, name)).await, expected);
        refused(client.rename((&dir, name), (&root, b"x")).await, expected);
        refused(client.link(&dir, &dir, name).await, expected);
    }
    for dots in [b".".as_slice(), b".."] {
        refused(client.mkdir(&dir, dots, &mode(0o700)).await, Status::Exist);
        refused(
            client.create(&dir, dots, CreateMode::Guarded(mode(0o600))).await,
            Status::Exist,
        );
        refused(client.rename((&root, b"d"), (&root, dots)).await, Status::Inval);
        assert!(client.rmdir(&dir, dots).await.is_err());
        assert!(client.remove(&dir, dots).await.is_err());
    }
    assert!(
        client
            .create(&dir, &long[..255], CreateMode::Guarded(mode(0o600)))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_retransmission_is_answered_and_not_run_again() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let other = Client::new(fixture.stream().await, "guest", &Caller::root());
    let stranger = Client::new(fixture.stream().await, "another", &Caller::root());
    let send = async |client: &Client, xid, procedure: Procedure, arguments: &[u8]| {
        let reply = client
            .call_as(xid, ops::PROGRAM, ops::VERSION, procedure as u32, arguments)
            .await;
        u32::from_be_bytes(reply.unwrap()[..4].try_into().unwrap())
    };
    let make = [encode_place(&root, b"f"), encode(|w| w.u32(1)), [0; 24].to_vec()].concat();
    assert_eq!(send(&client, 500, Procedure::Create, &make).await, 0);
    // The same call from a new connection, as after a reconnect.
    assert_eq!(send(&other, 500, Procedure::Create, &make).await, 0);
    // Another xid, or another machine, is another call.
    assert_eq!(send(&client, 501, Procedure::Create, &make).await, 17);
    assert_eq!(send(&stranger, 500, Procedure::Create, &make).await, 17);
    // The second call failed, and goes on failing, whatever has become true since.
    let remove = encode_place(&root, b"f");
    assert_eq!(send(&client, 502, Procedure::Remove, &remove).await, 0);
    assert_eq!(send(&other, 502, Procedure::Remove, &remove).await, 0);
    assert_eq!(send(&other, 501, Procedure::Create, &make).await, 17);
    assert_eq!(send(&other, 503, Procedure::Remove, &remove).await, 2);
    // The object of the first call is gone: success, without a handle.
    let reply = other
        .call_as(500, ops::PROGRAM, ops::VERSION, Procedure::Create as u32, &make)
        .await
        .unwrap();
    assert_eq!(reply[..12], [0; 12]);
}

#[tokio::test]
async fn a_late_retransmission_undoes_nothing_that_came_between() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let other = Client::new(fixture.stream().await, "guest", &Caller::root());
    let file = client
        .create(&root, b"f", CreateMode::Guarded(mode(0o600)))
        .await
        .unwrap()
        .unwrap()
        .handle;
    let write = |bytes: &[u8]| {
        encode(|w| {
            w.opaque(&file);
            w.u64(0);
            w.u32(u32::try_from(bytes.len()).unwrap());
            w.u32(2);
            w.opaque(bytes);
        })
    };
    let truncate = encode(|w| {
        w.opaque(&file);
        let set = cowfs::attr::SetAttr {
            size: Some(0),
            ..mode(0o600)
        };
        ops::write_sattr(w, &set);
        w.bool(false);
    });
    let send = async |client: &Client, xid, procedure: Procedure, arguments: &[u8]| {
        let reply = client
            .call_as(xid, ops::PROGRAM, ops::VERSION, procedure as u32, arguments)
            .await
            .unwrap();
        assert_eq!(reply[..4], [0; 4], "{procedure:?} {xid}");
        reply
    };
    let (old, new) = (write(b"old"), write(b"new"));
    send(&client, 700, Procedure::SetAttr, &truncate).await;
    let first = send(&client, 701, Procedure::Write, &old).await;
    send(&client, 702, Procedure::Write, &new).await;
    // What the client sent a second time before the first answers reached it arrives last.
    send(&other, 700, Procedure::SetAttr, &truncate).await;
    let second = send(&other, 701, Procedure::Write, &old).await;
    assert_eq!(&client.read(&file, 0, 10).await.unwrap().0[..], b"new");
    // Count, how sure, verifier.
    assert_eq!(first[first.len() - 16..], second[second.len() - 16..]);
}

#[tokio::test]
async fn calls_that_wait_for_their_export_go_with_their_connection() {
    let limits = Limits {
        connections: 8,
        connections_per_client: 1,
        ..Limits::default()
    };
    let server = Server::new(limits);
    let parking = export("/web", Arc::new(Memory::new()), &["127.0.0.1"]);
    parking.set_state(State::Standby);
    server.exports().add(Arc::clone(&parking)).unwrap();
    let listening = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let connect = || TcpStream::connect(listening.address().unwrap());
    let mut record = call(9, mount::PROGRAM, 1, |w| w.opaque(b"/web"));
    // A call that is parked, and then something that closes the connection.
    record.extend_from_slice(&[0; 4]);
    let served = async |stream: &mut TcpStream| {
        let mut first = [0];
        // A connection that is refused is closed, or reset if the call came first.
        stream.write_all(&record).await.is_ok() && matches!(stream.read(&mut first).await, Ok(1))
    };
    let mut leaving = connect().await.unwrap();
    assert!(!served(&mut leaving).await);
    drop(leaving);
    // The only place is free again although the export still answers nobody.
    tokio::time::timeout(DEADLINE, async {
        while !is_kept_open(connect().await.unwrap()).await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the call has gone with its connection");
}

#[tokio::test]
async fn a_call_that_is_sent_again_while_it_waits_is_answered_once() {
    let server = Server::new(Limits::default());
    let web = export("/web", Arc::new(Memory::new()), &["127.0.0.1"]);
    server.exports().add(Arc::clone(&web)).unwrap();
    let listening = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let connect = async || TcpStream::connect(listening.address().unwrap()).await.unwrap();
    let client = Client::new(connect().await, "guest", &Caller::root());
    let root = client.mount("/web").await.unwrap();
    let look = |xid| call(xid, ops::PROGRAM, Procedure::GetAttr as u32, |w| w.opaque(&root));
    let null = |xid| call(xid, ops::PROGRAM, Procedure::Null as u32, |_| ());
    let mut stream = connect().await;
    let mut next = async |sent: Vec<u8>| {
        stream.write_all(&sent).await.unwrap();
        let mut head = [0; 8];
        stream.read_exact(&mut head).await.unwrap();
        let (mark, xid) = head.split_at(4);
        let len = u32::from_be_bytes(mark.try_into().unwrap()) & !(1 << 31);
        let mut rest = vec![0; len as usize - 4];
        stream.read_exact(&mut rest).await.unwrap();
        u32::from_be_bytes(xid.try_into().unwrap())
    };

    web.set_state(State::Standby);
    let waits = look(9).repeat(3);
    // What waits for nobody is answered once all before it was read.
    assert_eq!(next([waits, look(10), null(11)].concat()).await, 11);
    web.set_state(State::Active);
    let mut answered = [next(Vec::new()).await, next(Vec::new()).await];
    answered.sort_unstable();
    assert_eq!(answered, [9, 10]);
    for xid in 12..40 {
        assert_eq!(next(null(xid)).await, xid);
    }
    // And sent again after that it is another call.
    assert_eq!(next(look(9)).await, 9);
}

/// Whether the server answers on a new connection.
async fn is_kept_open(mut stream: TcpStream) -> bool {
    let null = call(9, ops::PROGRAM, Procedure::Null as u32, |_| ());
    let mut first = [0];
    stream.write_all(&null).await.is_ok() && matches!(stream.read(&mut first).await, Ok(1))
}

#[tokio::test]
async fn a_client_that_does_not_read_its_replies_stalls_only_itself() {
    let fixture = fixture().await;
    let (client, root) = fixture.mounted().await;
    let file = client
        .create(&root, b"f", CreateMode::Guarded(mode(0o600)))
        .await
        .unwrap()
        .unwrap();
    let megabyte = vec![7; 1 << 20];
    client
        .write(&file.handle, 0, &megabyte, cowfs::service::Stability::Unstable)
        .await
        .unwrap();
    let record = call(9, ops::PROGRAM, Procedure::Read as u32, |w| {
        w.opaque(&file.handle);
        w.u64(0);
        w.u32(1 << 20);
    });
    // AUTH_NONE is nobody's; let nobody read it.
    client.setattr(&file.handle, &mode(0o644), None).await.unwrap();
    let mut greedy = fixture.stream().await;
    // Far more than one connection may have in flight, and than sockets hold: the server stops reading at some point.
    // Each is a call of its own: one that is sent again while it is carried out is not begun again.
    let mut calls = record.repeat(400_000);
    for (xid, call) in (0_u32..).zip(calls.chunks_exact_mut(record.len())) {
        call[4..8].copy_from_slice(&xid.to_be_bytes());
    }
    tokio::select! {
        biased;
        sent = greedy.write_all(&calls) => panic!("thirty megabytes of calls were taken in: {sent:?}"),
        () = async {
            for _ in 0..50 {
                client.read(&file.handle, 0, 1 << 20).await.unwrap();
            }
        } => {}
    }
}
