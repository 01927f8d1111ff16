//! A real sshd on the loopback. libgit2 reads known hosts below `HOME`, so the test runs once more as a process of its own
//! with another one. Needs Debian's `openssh-server`, which nothing else does: `make test-ssh`.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Child;
use std::time::Instant;

use xeno_test_support::free_port;

use super::*;

const SSHD: &str = "/usr/sbin/sshd";

/// Set in the inner process: the directory of the world.
const INNER: &str = "XENO_TEST_SSH_WORLD";

struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .status();
    assert!(made.expect("ssh-keygen runs").success());
}

/// Starts a server that lets the key `good` in, on a port of its own.
fn start(dir: &Path) -> (Sshd, u16) {
    for key in ["host", "good", "bad"] {
        keygen(&dir.join(key));
    }
    let port = free_port();
    let at = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM yes\n\
         PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        at("host"),
        at("good.pub")
    );
    std::fs::write(dir.join("sshd_config"), config).expect("a file");
    let log = dir.join("sshd.log");
    let server = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stderr(std::fs::File::create(&log).expect("a file"))
        .spawn();
    let mut server = Sshd(server.expect("sshd runs"));
    let deadline = Instant::now() + Duration::from_secs(30);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    loop {
        let ended = server.0.try_wait().expect("a child");
        assert_eq!(ended, None, "sshd has ended: {}", said());
        let banner = TcpStream::connect(("127.0.0.1", port)).and_then(|stream| {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)
        });
        match banner {
            Ok(length) if length > 0 => return (server, port),
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "sshd does not answer: {}", said()),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_repository_is_read_over_ssh_and_refusals_say_what_to_do() {
    if let Some(dir) = std::env::var_os(INNER) {
        return inside(Path::new(&dir));
    }
    let world = World::new();
    let dir = world.dir.path();
    let (_server, port) = start(dir);
    std::fs::write(dir.join("port"), port.to_string()).expect("a file");
    std::fs::create_dir(dir.join(".ssh")).expect("a directory");
    let inner = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "source::tests::ssh::a_repository_is_read_over_ssh_and_refusals_say_what_to_do",
        ])
        .env(INNER, dir)
        .env("HOME", dir)
        .env_remove("SSH_AUTH_SOCK")
        .output()
        .expect("this program runs");
    let told = String::from_utf8_lossy(&inner.stdout);
    assert!(
        inner.status.success() && told.contains("1 passed"),
        "{told}\n{}",
        String::from_utf8_lossy(&inner.stderr)
    );
}

fn inside(dir: &Path) {
    let port = std::fs::read_to_string(dir.join("port")).expect("the port");
    let user = Command::new("id").arg("-un").output().expect("id runs").stdout;
    let user = String::from_utf8_lossy(&user).trim().to_owned();
    let url = format!("ssh://{user}@127.0.0.1:{port}{}", dir.join("work").display());
    let fetch = |key: Option<&str>| {
        let mut mirror = Mirror::new(SourceConfig {
            url: RemoteUrl::parse(&url).expect("an address"),
            branch: "main".to_owned(),
            mirror: dir.join("mirror.git"),
            credentials: Credentials {
                ssh_key: key.map(|key| dir.join(key)),
                https: None,
            },
            accept_rewrites: false,
            timeout: Duration::from_secs(30),
            limits: Limits::default(),
        });
        mirror.fetch(None)
    };
    let refused = |key: Option<&str>, expected: &str| {
        let error = fetch(key).expect_err("it is not let in");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(expected), "{error}: {hint}");
    };
    refused(Some("good"), "known_hosts");
    let host = std::fs::read_to_string(dir.join("host.pub")).expect("the host's key");
    let known = format!("[127.0.0.1]:{port} {host}");
    std::fs::write(dir.join(".ssh/known_hosts"), known).expect("a file");
    let fetched = fetch(Some("good")).expect("it is let in");
    let head = git_in(&dir.join("work"), &["rev-parse", "HEAD"]);
    assert_eq!(fetched.revision.as_str(), head);
    let offered = std::fs::read_to_string(dir.join("bad.pub")).expect("a key");
    refused(Some("bad"), offered.trim());
    refused(Some("missing"), "cannot be read");
    refused(None, "no key is configured");
}
