//! What the targets share: one server for the whole process, layers, a place in memory for files.

use std::sync::{Arc, OnceLock};

use cowfs::export::{ClientAddress, Peer};
use cowfs::layer::{ContentHash, ContentSource, Layer};
use cowfs::nfs::client::Client;
use cowfs::server::{Limits, Server};
use cowfs::service::Caller;

use crate::testing::{self, MemoryLayer};

/// A content store that holds nothing.
pub(crate) struct NoContent;

impl ContentSource for NoContent {
    fn read_content(&self, _: &ContentHash, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// The one server, whose threads are used again and again.
pub(crate) fn server() -> Arc<Server> {
    static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
    Arc::clone(SERVER.get_or_init(|| Server::new(Limits::default())))
}

/// Runs one input's work to its end.
pub(crate) fn block_on(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime").block_on(work);
}

/// Lets tasks that only have to be dropped be dropped.
pub(crate) async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// A directory in memory where there is such a place: a sync costs nothing there.
pub(crate) fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

/// A client at `address`, connected without a socket.
pub(crate) fn client_of(server: &Arc<Server>, address: ClientAddress, caller: &Caller) -> Client {
    let (here, there) = tokio::io::duplex(64 << 10);
    let (reader, writer) = tokio::io::split(there);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        server
            .serve_connection(Peer::Address(address), reader, writer)
            .await;
    });
    Client::new(here, "guest", caller)
}

fn shared(slot: &'static OnceLock<Arc<dyn Layer>>, make: fn() -> MemoryLayer) -> Arc<dyn Layer> {
    Arc::clone(slot.get_or_init(|| Arc::new(make())))
}

/// The lower of two layers; its id is known to the `log` target.
pub(crate) fn lower() -> Arc<dyn Layer> {
    static LAYER: OnceLock<Arc<dyn Layer>> = OnceLock::new();
    shared(&LAYER, testing::lower)
}

/// The upper of two layers.
pub(crate) fn upper() -> Arc<dyn Layer> {
    static LAYER: OnceLock<Arc<dyn Layer>> = OnceLock::new();
    shared(&LAYER, testing::upper)
}
