//! A server on loopback and clients of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cowfs::attr::SetAttr;
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, WireHandle, encode};
use cowfs::nfs::xdr::Writer;
use cowfs::server::{Limits, Listening, Server};
use cowfs::service::{Caller, FileService};
use tokio::net::TcpStream;

/// Long enough for a busy machine; nothing waits that long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A message as it goes over a stream, in one fragment (RFC 5531, section 11).
pub(crate) fn record(message: &[u8]) -> Vec<u8> {
    let mark = u32::try_from(message.len()).unwrap() | 1 << 31;
    [&mark.to_be_bytes()[..], message].concat()
}

/// The record of a call by nobody (AUTH_NONE), of version 3 of its program.
pub(crate) fn call(xid: u32, program: u32, procedure: u32, arguments: impl FnOnce(&mut Writer)) -> Vec<u8> {
    record(&encode(|w| {
        for word in [xid, 0, 2, program, 3, procedure] {
            w.u32(word);
        }
        w.array(&[0; 16]);
        arguments(w);
    }))
}

pub(crate) struct Fixture {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    _listening: Listening,
}

/// A server with one export `/web` in memory for 127.0.0.1.
pub(crate) async fn fixture() -> Fixture {
    fixture_with(Arc::new(Memory::new())).await
}

pub(crate) async fn fixture_with(service: Arc<dyn FileService>) -> Fixture {
    let server = Server::new(Limits::default());
    server
        .exports()
        .add(export("/web", service, &["127.0.0.1"]))
        .unwrap();
    let listening = server.listen_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listening.address().unwrap();
    Fixture {
        server,
        address,
        _listening: listening,
    }
}

pub(crate) fn export(name: &str, service: Arc<dyn FileService>, clients: &[&str]) -> Arc<Export> {
    let clients = clients
        .iter()
        .map(|client| ClientAddress::parse(client).unwrap())
        .collect();
    let name = ExportName::parse(name).unwrap();
    Arc::new(Export::new(name, service, clients, State::Active).unwrap())
}

impl Fixture {
    pub(crate) async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn client(&self, caller: &Caller) -> Client {
        Client::new(self.stream().await, "guest", caller)
    }

    /// Root's client and the root directory.
    pub(crate) async fn mounted(&self) -> (Client, WireHandle) {
        let client = self.client(&Caller::root()).await;
        let root = client.mount("/web").await.unwrap();
        (client, root)
    }
}

pub(crate) fn user(uid: u32) -> Caller {
    Caller {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

pub(crate) fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}
