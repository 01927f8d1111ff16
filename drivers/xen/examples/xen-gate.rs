//! One migration by hand: each word that xl waits for is passed when somebody types so.
//!
//! ```text
//! xen-gate receive NAME [ADDRESS:PORT]        at the target; without an address, standard input and output are the link
//! xen-gate send NAME ADDRESS:PORT             at the source
//! xen-gate send NAME -- PROGRAM ARGUMENTS...  the same over a program's input and output, ssh for one
//! xen-gate link ADDRESS:PORT                  such a program, which does nothing but that
//! xen-gate gate SOCKET                        what xl starts
//! ```
//!
//! `send` takes orders as lines: `pass-ready`, `pass-go`, `abort`, `give-back`, `give-away`. News are printed as they come,
//! on standard error by `receive`, whose output may be the link.

use std::collections::VecDeque;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use xeno_xen::gate::carry::{self, Receiver};
use xeno_xen::gate::pipe::{self, Rendezvous};
use xeno_xen::gate::source::Order;
use xeno_xen::gate::target::{Found, News};
use xeno_xen::gate::wire::MigrationId;

#[tokio::main]
async fn main() -> ExitCode {
    let mut words: VecDeque<String> = std::env::args().skip(1).collect();
    let done = match (words.pop_front().as_deref(), words.make_contiguous()) {
        (Some("gate"), [socket]) => pipe::hand_over(Path::new(socket)),
        (Some("send"), [name, dashes, program, arguments @ ..]) if dashes == "--" => {
            send_through(name, program, arguments).await
        }
        (Some("send"), [name, address]) => match TcpStream::connect(address.as_str()).await {
            Ok(link) => send(name, link).await,
            Err(error) => Err(error),
        },
        (Some("link"), [address]) => link(address).await,
        (Some("receive"), [name]) => {
            receive(name, tokio::io::join(tokio::io::stdin(), tokio::io::stdout())).await
        }
        (Some("receive"), [name, address]) => match accept(address).await {
            Ok(link) => receive(name, link).await,
            Err(error) => Err(error),
        },
        _ => Err(io::Error::other(
            "usage: xen-gate send NAME LINK | receive NAME [ADDRESS:PORT] | link ADDRESS:PORT | gate SOCKET",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Where whoever drives this looks.
#[expect(clippy::print_stderr, reason = "a program for a terminal")]
fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("xen-gate: {line}");
}

async fn accept(address: &str) -> io::Result<TcpStream> {
    let listener = TcpListener::bind(address).await?;
    say(format_args!("listening"));
    Ok(listener.accept().await?.0)
}

async fn link(address: &str) -> io::Result<()> {
    let mut far = TcpStream::connect(address).await?;
    let mut near = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 256 << 10, 4 << 10)
        .await
        .map(drop)
}

async fn send_through(name: &str, program: &str, arguments: &[String]) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    say(format_args!("link {}", child.id().unwrap_or_default()));
    send(name, tokio::io::join(stdout, stdin)).await?;
    child.wait().await.map(drop)
}

async fn send(name: &str, link: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<()> {
    let dir = std::env::temp_dir().join(format!("xen-gate.{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let socket = dir.join("gate.sock");
    let meeting = Rendezvous::bind(&socket)?;
    let mut xl = Command::new("xl")
        .args(carry::migrate(name, &std::env::current_exe()?, &socket))
        .stdin(Stdio::null())
        // A terminal there would change what it says to the other end.
        .stderr(std::fs::File::create(dir.join("xl.log"))?)
        .spawn()?;
    say(format_args!(
        "xl {} {}",
        xl.id().unwrap_or_default(),
        dir.join("xl.log").display()
    ));
    let talk = meeting.meet().await?;
    let (ordering, orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let order = match line.trim() {
                "pass-ready" => Order::PassReady,
                "pass-go" => Order::PassGo,
                "abort" => Order::Abort,
                "give-back" => Order::GiveBack,
                "give-away" => Order::GiveAway,
                other => {
                    say(format_args!("no such order: {other}"));
                    continue;
                }
            };
            if ordering.blocking_send(order).is_err() {
                return;
            }
        }
    });
    let (telling, mut news) = mpsc::unbounded_channel();
    let mut id = [0; 16];
    id[..4].copy_from_slice(&std::process::id().to_be_bytes());
    let carrying = tokio::spawn(carry::source(MigrationId(id), link, talk, orders, telling));
    while let Some(news) = news.recv().await {
        say(format_args!("{news:?}"));
    }
    carrying.await.map_err(io::Error::other)?;
    say(format_args!("xl ended: {}", xl.wait().await?));
    std::fs::remove_dir_all(dir)
}

async fn receive(name: &str, link: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<()> {
    let mut xl: Child = Command::new("xl")
        .args(carry::receive())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(stdin), Some(stdout)) = (xl.stdin.take(), xl.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    say(format_args!("xl {}", xl.id().unwrap_or_default()));
    let (looking, looked) = mpsc::channel(1);
    let (telling, mut news) = mpsc::unbounded_channel();
    let carrying = tokio::spawn(carry::target(link, Receiver { stdin, stdout }, looked, telling));
    while let Some(news) = news.recv().await {
        say(format_args!("{news:?}"));
        if news == News::MustLook {
            let incoming = format!("{name}--incoming");
            let destroyed = Command::new("xl").args(["destroy", &incoming]).status().await?;
            say(format_args!("destroy {incoming}: {destroyed}"));
            let found = if Command::new("xl")
                .args(["domid", name])
                .output()
                .await?
                .status
                .success()
            {
                Found::Runs
            } else {
                Found::Nothing
            };
            let _over = looking.send(found).await;
        }
    }
    carrying.await.map_err(io::Error::other)?;
    // It stays in the background for as long as the domain lives; what it says of itself is no news.
    say(format_args!("done"));
    Ok(())
}
