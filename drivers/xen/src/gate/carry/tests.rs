//! Both ends carried over real pipes, with an xl and a receiver that say what the real ones were seen to say.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::gate::fd::Descriptor;
use crate::gate::pipe::Rendezvous;
use crate::gate::source::{End, News};
use crate::gate::target::News as There;
use crate::gate::words::{BANNER, GO, READY, REPORT, report};

/// More than any buffer on the way holds.
const MEMORY: usize = 3 << 20;

/// What became of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It runs, here or there.
    Runs,
    /// It was destroyed.
    Gone,
    /// It is suspended and nobody will resume it.
    Stranded,
}

/// Reads as many bytes as `words` has, and says whether they are the same.
async fn hears(from: &mut pipe::Receiver, words: &[u8]) -> bool {
    let mut heard = vec![0; words.len()];
    from.read_exact(&mut heard).await.is_ok() && heard == words
}

/// xl at the source.
async fn sender(mut from: pipe::Receiver, mut to: pipe::Sender) -> Fate {
    if !hears(&mut from, BANNER).await || to.write_all(&vec![0x5a; MEMORY]).await.is_err() {
        return Fate::Runs;
    }
    if !hears(&mut from, READY).await {
        return Fate::Runs;
    }
    if to.write_all(GO).await.is_err() || !hears(&mut from, REPORT).await {
        return Fate::Stranded;
    }
    match from.read_u8().await {
        Ok(0) => Fate::Gone,
        Ok(_) if hears(&mut from, GO).await => Fate::Runs,
        _ => Fate::Stranded,
    }
}

/// xl at the target, whose copy runs unless `status` says otherwise.
async fn receiver(mut from: DuplexStream, mut to: DuplexStream, status: u8) -> Fate {
    let mut memory = vec![0; MEMORY];
    if to.write_all(BANNER).await.is_err() || from.read_exact(&mut memory).await.is_err() {
        return Fate::Gone;
    }
    assert!(memory.iter().all(|byte| *byte == 0x5a));
    let _heard = to.write_all(READY).await;
    let mut go = vec![0; GO.len()];
    let cleared = from.read_exact(&mut go).await.is_ok() && go == GO;
    let status = if cleared { status } else { 0xff };
    let _heard = to.write_all(&report(status)).await;
    if status == 0 { Fate::Runs } else { Fate::Gone }
}

struct Move {
    orders: mpsc::Sender<Order>,
    here: UnboundedReceiver<News>,
    there: UnboundedReceiver<There>,
    source: JoinHandle<()>,
    target: JoinHandle<()>,
    xl: JoinHandle<Fate>,
    receiver: JoinHandle<Fate>,
    _looked: mpsc::Sender<Found>,
}

impl Move {
    fn begin(status: u8) -> Self {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (xl_out, from_xl) = pipe::pipe().unwrap();
        let (to_xl, xl_in) = pipe::pipe().unwrap();
        let (transport, _program) = UnixStream::pair().unwrap();
        let talk = Talk {
            from_xl: Descriptor::Reading(from_xl),
            to_xl: Descriptor::Writing(to_xl),
            transport,
        };
        let (stdin, receiver_in) = tokio::io::duplex(64 << 10);
        let (receiver_out, stdout) = tokio::io::duplex(64 << 10);
        let (orders, ordered) = mpsc::channel(4);
        let (tell_here, here) = unbounded_channel();
        let (tell_there, there) = unbounded_channel();
        let (looked, looks) = mpsc::channel(1);
        let id = MigrationId([3; 16]);
        Self {
            orders,
            here,
            there,
            source: tokio::spawn(source(id, near, talk, ordered, tell_here)),
            target: tokio::spawn(target(far, Receiver { stdin, stdout }, looks, tell_there)),
            xl: tokio::spawn(sender(xl_in, xl_out)),
            receiver: tokio::spawn(receiver(receiver_in, receiver_out, status)),
            _looked: looked,
        }
    }

    async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    async fn expect(&mut self, news: News) {
        assert_eq!(self.here.recv().await, Some(news));
    }

    async fn until_go(&mut self) {
        self.expect(News::Ready).await;
        self.order(Order::PassReady).await;
        self.expect(News::Go).await;
    }

    /// What became of the domain at both ends, and the last news of the target.
    async fn ends(mut self) -> (Fate, Fate, Option<There>) {
        self.source.await.unwrap();
        self.target.await.unwrap();
        let mut last = None;
        while let Ok(news) = self.there.try_recv() {
            last = Some(news);
        }
        (self.xl.await.unwrap(), self.receiver.await.unwrap(), last)
    }
}

#[tokio::test]
async fn a_domain_goes_over_when_both_words_are_passed() {
    let mut one = Move::begin(0);
    one.until_go().await;
    one.order(Order::PassGo).await;
    one.expect(News::Arrived).await;
    one.expect(News::Over(End::GivenAway)).await;
    assert_eq!(one.ends().await, (Fate::Gone, Fate::Runs, Some(There::Runs)));
}

#[tokio::test]
async fn called_off_while_ready_is_held_it_goes_on_where_it_was() {
    let mut one = Move::begin(0);
    one.expect(News::Ready).await;
    one.order(Order::Abort).await;
    one.expect(News::Over(End::Resumes)).await;
    one.expect(News::CopyGone).await;
    assert_eq!(one.ends().await, (Fate::Runs, Fate::Gone, Some(There::CopyGone)));
}

#[tokio::test]
async fn called_off_after_go_it_comes_back_once_the_copy_is_gone() {
    let mut one = Move::begin(0);
    one.until_go().await;
    one.order(Order::Abort).await;
    one.expect(News::CopyGone).await;
    one.expect(News::Over(End::GivenBack)).await;
    assert_eq!(one.ends().await, (Fate::Runs, Fate::Gone, Some(There::CopyGone)));
}

#[tokio::test]
async fn a_copy_that_cannot_run_comes_back_when_somebody_says_so() {
    let mut one = Move::begin(7);
    one.until_go().await;
    one.order(Order::PassGo).await;
    one.expect(News::Refused(7)).await;
    one.expect(News::CopyGone).await;
    one.order(Order::GiveBack).await;
    one.expect(News::Over(End::GivenBack)).await;
    assert_eq!(one.ends().await, (Fate::Runs, Fate::Gone, Some(There::CopyGone)));
}

#[tokio::test]
async fn a_target_that_dies_with_ready_held_costs_nothing() {
    let mut one = Move::begin(0);
    one.expect(News::Ready).await;
    one.target.abort();
    one.expect(News::LinkLost).await;
    one.expect(News::Over(End::Resumes)).await;
    one.source.await.unwrap();
    assert_eq!(one.xl.await.unwrap(), Fate::Runs);
    assert_eq!(one.receiver.await.unwrap(), Fate::Gone);
}

#[tokio::test]
async fn a_source_that_dies_after_go_strands_its_domain_and_has_the_copy_destroyed() {
    let mut one = Move::begin(0);
    one.until_go().await;
    one.source.abort();
    one.target.await.unwrap();
    assert_eq!(one.xl.await.unwrap(), Fate::Stranded);
    assert_eq!(one.receiver.await.unwrap(), Fate::Gone);
}

#[tokio::test]
async fn the_transport_hands_over_its_pipes_and_stays_until_it_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("it's here.sock");
    let gate = Rendezvous::bind(&socket).unwrap();
    // As xl starts it: a command for the shell, whose words are quoted.
    let arguments = migrate("web-0", &PathBuf::from("/bin/echo"), &socket);
    assert_eq!(arguments[..4], ["migrate", "-s", "", "web-0"].map(OsString::from));
    let shown = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(&arguments[4])
        .output()
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8(shown.stdout).unwrap(),
        format!("gate {}\n", socket.display())
    );

    let mut transport = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "gate::carry::tests::plays_the_transport",
            "--nocapture",
        ])
        .env("XENO_TEST_GATE", &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = gate.meet().await.unwrap();
    let (mut writes, mut reads) = (transport.stdin.take().unwrap(), transport.stdout.take().unwrap());
    writes.write_all(b"memory").await.unwrap();
    let mut heard = [0; 6];
    talk.from_xl.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"memory");
    talk.to_xl.write_all(BANNER).await.unwrap();
    drop(talk);
    assert!(transport.wait().await.unwrap().success());
    let mut said = Vec::new();
    reads.read_to_end(&mut said).await.unwrap();
    // The harness around the transport writes a little, too.
    assert!(said.windows(BANNER.len()).any(|words| words == BANNER));
}

/// Not a test of its own: the process that the one above starts.
#[test]
fn plays_the_transport() {
    if let Some(socket) = std::env::var_os("XENO_TEST_GATE") {
        crate::gate::pipe::hand_over(&PathBuf::from(socket)).unwrap();
    }
}
