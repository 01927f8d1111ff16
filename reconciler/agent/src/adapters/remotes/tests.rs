//! Mounting with a program that only writes down what it was asked, and a table that it writes.

use std::sync::atomic::{AtomicBool, Ordering};

use xeno_reconciler::ports::Retry;
use xeno_test_support::write_script;

use super::*;
use crate::config::{Away, NfsVersion};

/// Whether servers answer. One test at a time turns it: nextest gives each a process of its own, and they hold this lock
/// where they share one.
static HANGS: AtomicBool = AtomicBool::new(false);
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn question(_: &Path) -> io::Result<()> {
    match HANGS.load(Ordering::SeqCst) {
        true => Err(io::Error::other("Connection timed out")),
        false => Ok(()),
    }
}

/// Takes the line of a mount point out of the table beside it.
fn unmount(target: &Path, _: bool) -> io::Result<()> {
    let table = target.ancestors().nth(2).unwrap().join("mountinfo");
    let text = fs::read_to_string(&table)?;
    let rest: String = text
        .lines()
        .filter(|line| !line.contains(target.to_str().unwrap()))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(table, rest)
}

struct Lab {
    dir: tempfile::TempDir,
    remotes: NodeRemotes,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Lab {
    /// A node whose mount(8) does what this script says; `$7` is the source, `$8` the target, `$5` the options.
    async fn new(script: &str) -> Self {
        let alone = ALONE.lock().await;
        HANGS.store(false, Ordering::SeqCst);
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("mount");
        let lines = format!("cd '{}'\necho \"$*\" >>asked\n{script}", dir.path().display());
        write_script(&program, &lines);
        fs::write(
            dir.path().join("mountinfo"),
            "22 1 8:1 / / rw - ext4 /dev/xvda1 rw\n",
        )
        .unwrap();
        let mut lab = Self {
            remotes: NodeRemotes::new(RemotesConfig::default(), Clock::system()),
            dir,
            _alone: alone,
        };
        lab.start(true);
        lab
    }

    /// The agent starts anew.
    fn start(&mut self, privileged: bool) {
        let config = RemotesConfig {
            dir: self.dir.path().join("remote"),
            away: Away::Wait,
            nfs: vec![NfsVersion::V4_2, NfsVersion::V3],
            idle: Duration::from_secs(60),
            mount: self.dir.path().join("mount"),
        };
        let world = World {
            question,
            unmount,
            privileged,
        };
        let table = self.dir.path().join("mountinfo");
        self.remotes = NodeRemotes::with(config, table, Clock::system(), world);
    }

    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    async fn fails(&self, remote: &Remote) -> (String, Retry) {
        let error = self.remotes.mount(remote).await.unwrap_err();
        (error.what, error.retry)
    }
}

/// Mounts, as far as the table goes.
const MOUNTS: &str = r#"echo "40 22 0:35 / $8 ro - nfs4 $7 ro" >>mountinfo"#;

fn apache() -> Remote {
    Remote::to_read("nfs://192.0.2.7/acme/apache")
}

#[tokio::test]
async fn a_remote_is_mounted_once_and_found_again_by_the_next_agent() {
    let mut lab = Lab::new(MOUNTS).await;
    assert_eq!(lab.remotes.observe().await, Ok(BTreeMap::new()));
    assert!(lab.remotes.layer(&apache()).await.is_err());
    lab.remotes.mount(&apache()).await.unwrap();
    lab.remotes.mount(&apache()).await.unwrap();
    let layer = lab.remotes.layer(&apache()).await.unwrap();
    let options = "ro,nosuid,nodev,noexec,vers=4.2,proto=tcp,sec=sys,nocto,hard,addr=192.0.2.7";
    let expected = format!(
        "-i -t nfs -o {options} -- 192.0.2.7:/acme/apache {}",
        layer.display()
    );
    assert_eq!(lab.asked(), [expected]);
    let here = BTreeMap::from([(apache(), RemoteState::Answers)]);
    assert_eq!(lab.remotes.observe().await, Ok(here.clone()));
    lab.start(true);
    assert_eq!(lab.remotes.observe().await, Ok(here));
    lab.remotes.mount(&apache()).await.unwrap();
    assert_eq!(lab.asked().len(), 1);
}

#[tokio::test]
async fn what_somebody_else_mounted_is_not_seen_not_used_and_not_unmounted() {
    let lab = Lab::new(MOUNTS).await;
    lab.remotes.mount(&apache()).await.unwrap();
    let layer = lab.remotes.layer(&apache()).await.unwrap();
    let line = format!("41 22 0:36 / {} rw - tmpfs mine rw\n", layer.display());
    let table = lab.dir.path().join("mountinfo");
    fs::write(&table, fs::read_to_string(&table).unwrap() + &line).unwrap();
    assert_eq!(lab.remotes.observe().await, Ok(BTreeMap::new()));
    assert!(lab.remotes.layer(&apache()).await.is_err());
    let (what, retry) = lab.fails(&apache()).await;
    assert!(
        what.contains("mine is mounted at") && retry == Retry::Never,
        "{what}"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    lab.remotes.used(&BTreeSet::new());
    assert!(fs::read_to_string(&table).unwrap().contains("mine"));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_tried_and_other_failures_are_told() {
    let older = format!(
        "case $5 in *vers=4*) echo 'mount: x: Protocol not supported.' >&2; exit 32;; esac\n{MOUNTS}"
    );
    let lab = Lab::new(&older).await;
    lab.remotes.mount(&apache()).await.unwrap();
    assert_eq!(lab.asked().len(), 2);
    let write = Remote {
        url: "nfs://192.0.2.7/acme/logs".to_owned(),
        access: Access::ReadWrite,
    };
    // Locks are kept by version 4 alone.
    assert!(lab.fails(&write).await.0.ends_with("Protocol not supported."));
    drop(lab);
    let lab = Lab::new("echo 'mount: x: access denied by server' >&2; exit 32").await;
    let expected = "mounting 192.0.2.7:/acme/apache: mount: x: access denied by server";
    assert_eq!(lab.fails(&apache()).await, (expected.to_owned(), Retry::Later));
    drop(lab);
    let lab = Lab::new("echo \"mount: x: unknown filesystem type 'nfs'.\" >&2; exit 32").await;
    let (what, retry) = lab.fails(&apache()).await;
    assert!(what.contains("modprobe nfsv4") && retry == Retry::Never, "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_hangs_is_given_up_and_the_next_one_goes_on() {
    let lab = Lab::new(&format!(
        "case $7 in '#silent'*) echo $$ >hangs; exec sleep 1000;; esac\n{MOUNTS}"
    ))
    .await;
    let (what, retry) = lab.fails(&Remote::to_read("afs:silent.example/user/x")).await;
    let expected = "#silent.example:root.cell. does not answer: it was not mounted within 15 s";
    assert_eq!((what.as_str(), retry), (expected, Retry::Later));
    tokio::time::resume();
    lab.remotes.mount(&apache()).await.unwrap();
    // Perhaps it was ended before it had begun.
    if let Ok(pid) = fs::read_to_string(lab.dir.path().join("hangs")) {
        let process = Path::new("/proc").join(pid.trim()).join("cmdline");
        while fs::read(&process).is_ok_and(|line| line.starts_with(b"sleep")) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn who_may_not_mount_says_what_to_do() {
    let mut lab = Lab::new(MOUNTS).await;
    lab.start(false);
    let (what, retry) = lab.fails(&apache()).await;
    assert!(
        what.contains("runs as root") && what.contains("file:///"),
        "{what}"
    );
    assert_eq!((retry, lab.asked().len()), (Retry::Never, 0));
    assert_eq!(lab.remotes.facts().await[0].soundness, Soundness::Fair);
}

#[tokio::test]
async fn a_directory_that_others_write_to_is_no_place_to_mount() {
    let lab = Lab::new(MOUNTS).await;
    let dir = lab.dir.path().join("remote");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let (what, retry) = lab.fails(&apache()).await;
    assert!(what.contains("must be a directory of the agent's own"), "{what}");
    assert_eq!((retry, lab.asked().len()), (Retry::Never, 0));
}

#[tokio::test]
async fn a_silent_server_is_told_of_hinted_at_and_forgiven() {
    let lab = Lab::new(MOUNTS).await;
    lab.remotes.mount(&apache()).await.unwrap();
    let (hint, mut hints) = mpsc::channel(1);
    let watching = tokio::spawn(lab.remotes.clone().watch(hint));
    hints.recv().await.unwrap();
    HANGS.store(true, Ordering::SeqCst);
    hints.recv().await.unwrap();
    let seen = lab.remotes.observe().await.unwrap();
    assert!(
        matches!(&seen[&apache()], RemoteState::Silent { why, .. } if why == "Connection timed out"),
        "{seen:?}"
    );
    let layer = lab.remotes.layer(&apache()).await.unwrap();
    assert_eq!(lab.remotes.reach(&layer.join("web-0")), Reach::Silent);
    assert_eq!(lab.remotes.reach(Path::new("/srv/shared/web-0")), Reach::Answers);
    let elsewhere = layer.with_file_name("nobody-mounted-this").join("web-0");
    assert_eq!(lab.remotes.reach(&elsewhere), Reach::NotMounted);
    let (what, retry) = lab.fails(&apache()).await;
    assert_eq!(
        (what.as_str(), retry),
        (
            "nfs://192.0.2.7/acme/apache does not answer: Connection timed out",
            Retry::Later
        )
    );
    HANGS.store(false, Ordering::SeqCst);
    hints.recv().await.unwrap();
    assert_eq!(
        lab.remotes.observe().await.unwrap()[&apache()],
        RemoteState::Answers
    );
    watching.abort();
}

#[tokio::test]
async fn what_nobody_uses_is_unmounted_and_what_somebody_does_is_not() {
    let lab = Lab::new(MOUNTS).await;
    lab.remotes.mount(&apache()).await.unwrap();
    lab.remotes.observe().await.unwrap();
    let layer = lab.remotes.layer(&apache()).await.unwrap();
    let gone = || !layer.exists();
    let used = BTreeSet::from([layer.clone()]);
    for (seconds, uses, expected) in [
        (59, BTreeSet::new(), false),
        (59, used, false),
        (59, BTreeSet::new(), false),
        (2, BTreeSet::new(), true),
    ] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        lab.remotes.used(&uses);
        tokio::time::resume();
        if expected {
            // Heard again and again, as an agent does: a question that was on its way when the clock was moved has made the
            // server look silent until its answer comes.
            while !gone() {
                lab.remotes.used(&uses);
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(gone(), expected, "after {seconds} s with {uses:?}");
    }
    assert_eq!(lab.remotes.observe().await, Ok(BTreeMap::new()));
}
