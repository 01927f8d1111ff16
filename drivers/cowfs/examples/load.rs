//! Measures a server: calls a second and megabytes a second, at several numbers of outstanding calls.
//!
//! `cargo run --release -p cowfs --example load -- 127.0.0.1:12049 /web` makes a few files in the export and leaves
//! them there. Without arguments it measures a server of its own with a tree in memory, so the protocol alone.
#![expect(clippy::print_stdout, reason = "what it measures is its output")]

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cowfs::attr::SetAttr;
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, WireHandle};
use cowfs::server::{Limits, Server};
use cowfs::service::{Caller, CreateMode, Stability};
use tokio::net::TcpStream;

/// How long each measurement takes.
const WINDOW: Duration = Duration::from_secs(2);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            let server = Server::new(Limits::default());
            let clients = vec![ClientAddress::parse("127.0.0.1")?];
            let name = ExportName::parse("/memory")?;
            let export = Export::new(name, Arc::new(Memory::new()), clients, State::Active)?;
            server.exports().add(Arc::new(export))?;
            let listening = server.listen_tcp("127.0.0.1:0".parse()?).await?;
            measure(listening.address().ok_or("no address")?, "/memory").await
        }
        [address, path] => measure(address.parse()?, path).await,
        _ => Err("usage: load [ADDRESS:PORT PATH]".into()),
    }
}

async fn measure(address: SocketAddr, path: &str) -> Result<(), Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let client = Arc::new(Client::new(stream, "load", &Caller::root()));
    let root: Arc<WireHandle> = Arc::new(client.mount(path).await?);
    let mode = SetAttr {
        mode: Some(0o644),
        ..SetAttr::default()
    };
    let big = client
        .create(&root, b"load.big", CreateMode::Unchecked(mode))
        .await?
        .ok_or("no handle")?
        .handle;
    let big = Arc::new(big);
    let megabyte = Arc::new(vec![7_u8; 1 << 20]);
    for at in 0..64 {
        client
            .write(&big, at << 20, &megabyte, Stability::Unstable)
            .await?;
    }
    client.commit(&big).await?;

    for outstanding in [1, 16, 64] {
        let (c, r) = (Arc::clone(&client), Arc::clone(&root));
        let rate = storm(outstanding, move |_| {
            let (c, r) = (Arc::clone(&c), Arc::clone(&r));
            async move { c.getattr(&r).await.map(drop).map_err(Failure::from) }
        });
        println!(
            "GETATTR       {outstanding:3} outstanding: {:9.0} a second",
            rate.await?
        );
    }
    for outstanding in [1, 16, 64] {
        let (c, r) = (Arc::clone(&client), Arc::clone(&root));
        let rate = storm(outstanding, move |_| {
            let (c, r) = (Arc::clone(&c), Arc::clone(&r));
            async move { c.lookup(&r, b"load.big").await.map(drop).map_err(Failure::from) }
        });
        println!(
            "LOOKUP        {outstanding:3} outstanding: {:9.0} a second",
            rate.await?
        );
    }
    for (size, outstanding) in [(4096, 1), (4096, 16), (1 << 20, 1), (1 << 20, 8)] {
        let (c, f) = (Arc::clone(&client), Arc::clone(&big));
        let rate = storm(outstanding, move |n| {
            let (c, f) = (Arc::clone(&c), Arc::clone(&f));
            let offset = n * u64::from(size) % (64 << 20);
            async move { c.read(&f, offset, size).await.map(drop).map_err(Failure::from) }
        });
        let rate = rate.await?;
        let megabytes = rate * f64::from(size) / 1e6;
        println!("READ {size:8} {outstanding:3} outstanding: {rate:9.0} a second, {megabytes:6.0} MB/s");
    }
    for outstanding in [1, 8] {
        let (c, f, m) = (Arc::clone(&client), Arc::clone(&big), Arc::clone(&megabyte));
        let rate = storm(outstanding, move |n| {
            let (c, f, m) = (Arc::clone(&c), Arc::clone(&f), Arc::clone(&m));
            async move {
                c.write(&f, (n << 20) % (64 << 20), &m, Stability::Unstable)
                    .await
                    .map(drop)
                    .map_err(Failure::from)
            }
        });
        let rate = rate.await?;
        println!(
            "WRITE 1 MiB   {outstanding:3} outstanding: {rate:9.0} a second, {:6.0} MB/s",
            rate * 1.048_576
        );
    }
    for outstanding in [1, 16, 64] {
        let dir = format!("load.{}.{outstanding}", std::process::id()).into_bytes();
        let dir = client.mkdir(&root, &dir, &mode).await?.ok_or("no handle")?.handle;
        let (c, dir) = (Arc::clone(&client), Arc::new(dir));
        let rate = storm(outstanding, move |n| {
            let (c, dir) = (Arc::clone(&c), Arc::clone(&dir));
            let name = format!("file-{n}").into_bytes();
            async move {
                c.create(&dir, &name, CreateMode::Guarded(mode))
                    .await
                    .map(drop)
                    .map_err(Failure::from)
            }
        });
        println!(
            "CREATE        {outstanding:3} outstanding: {:9.0} a second",
            rate.await?
        );
    }
    Ok(())
}

/// Keeps `outstanding` calls going for a while; returns how many a second were answered.
async fn storm<F, C>(outstanding: usize, call: F) -> Result<f64, Failure>
where
    F: Fn(u64) -> C + Clone + Send + 'static,
    C: Future<Output = Result<(), Failure>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let callers: Vec<_> = (0..outstanding)
        .map(|_| {
            let (call, next) = (call.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut done = 0_u32;
                while begun.elapsed() < WINDOW {
                    call(next.fetch_add(1, Ordering::Relaxed)).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            })
        })
        .collect();
    let mut done = 0.0;
    for caller in callers {
        done += f64::from(caller.await??);
    }
    Ok(done / begun.elapsed().as_secs_f64())
}
