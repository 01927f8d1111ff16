//! The server gives up what it does not need. Landlock restricts threads, so each story confines one of its own.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use cowfs::config::{self, Config};
use cowfs::confine::{self, ConfineError, Sandbox};
use cowfs::nfs::client::Client;
use cowfs::service::{Caller, CreateMode};
use tokio::net::UnixStream;

/// Writes a configuration into `dir`, and reads it.
fn config(dir: &Path, text: &str) -> Config {
    let path = dir.join("cowfs.toml");
    fs::write(&path, text).unwrap();
    config::load(&path).unwrap()
}

/// Runs a story in a thread that is confined, on a kernel that can do it.
fn confined(config: Config, story: impl FnOnce(Sandbox) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let reached = confine::restrict(&config).unwrap();
        story(reached);
    });
    thread.join().unwrap();
}

fn has_landlock() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[sandbox]\nrequired = true\n");
    std::thread::spawn(move || confine::restrict(&config).is_ok())
        .join()
        .unwrap()
}

#[test]
fn a_confined_server_serves_and_reaches_nothing_else() {
    let landlock = has_landlock();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("lower")).unwrap();
    fs::write(at("lower/hosts"), "here").unwrap();
    fs::write(at("secret"), "not for guests").unwrap();
    let text = "[[export]]\nname = \"web\"\nsocket = \"web.sock\"\nwritable = \"w/web\"\nlayers = [{ dir = \"lower\" }]\n";
    let config = config(dir.path(), text);
    let (socket, secret) = (at("web.sock"), at("secret"));
    let serving = config.clone();
    confined(config, move |reached| {
        if landlock {
            assert_ne!(reached, Sandbox::None("the kernel has no Landlock"));
            for hidden in [
                secret.as_path(),
                Path::new("/etc/passwd"),
                Path::new("/proc/self/environ"),
            ] {
                assert_eq!(
                    fs::read(hidden).unwrap_err().kind(),
                    ErrorKind::PermissionDenied,
                    "{}",
                    hidden.display()
                );
            }
            assert_eq!(
                fs::write(&secret, "x").unwrap_err().kind(),
                ErrorKind::PermissionDenied
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = tokio::spawn(cowfs::server::serve(
                serving,
                move |_| ready.send(()).unwrap(),
                async move { drop(stopped.await) },
            ));
            is_ready.await.unwrap();
            let stream = UnixStream::connect(&socket).await.unwrap();
            let client = Client::new(stream, "guest", &Caller::root());
            let root = client.mount("/").await.unwrap();
            let hosts = client.lookup(&root, b"hosts").await.unwrap().handle;
            assert_eq!(&client.read(&hosts, 0, 10).await.unwrap().0[..], b"here");
            client
                .write(&hosts, 0, &[7; 9000], cowfs::service::Stability::FileSync)
                .await
                .unwrap();
            let made = client
                .create(
                    &root,
                    b"new",
                    CreateMode::Guarded(cowfs::attr::SetAttr::default()),
                )
                .await;
            assert!(made.is_ok(), "{made:?}");
            drop(client);
            stop.send(()).unwrap();
            server.await.unwrap().unwrap();
        });
    });
    assert!(!at("web.sock").exists());
}

#[test]
fn a_confined_server_makes_no_connections() {
    if !has_landlock() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    confined(config(dir.path(), ""), move |_| {
        // Kernels before 6.7 know nothing of ports.
        let connected = TcpStream::connect(address);
        let bound = TcpListener::bind("127.0.0.1:0");
        if let (Err(connected), Err(bound)) = (&connected, &bound) {
            assert_eq!(connected.kind(), ErrorKind::PermissionDenied);
            assert_eq!(bound.kind(), ErrorKind::PermissionDenied);
        } else {
            assert!(connected.is_ok() && bound.is_ok(), "one of the two alone");
        }
    });
}

#[test]
fn without_a_list_a_server_with_a_control_socket_says_that_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let free = config(dir.path(), "control = \"c.sock\"\n");
    assert!(matches!(confine::restrict(&free), Ok(Sandbox::None(_))));
    // With one, only what it names can be part of a stack.
    fs::create_dir(dir.path().join("overlays")).unwrap();
    fs::create_dir(dir.path().join("other")).unwrap();
    fs::write(dir.path().join("overlays/f"), "f").unwrap();
    fs::write(dir.path().join("other/f"), "f").unwrap();
    let listed = config(
        dir.path(),
        "control = \"c.sock\"\n[sandbox]\nread = [\"overlays\"]\n",
    );
    let (named, other) = (dir.path().join("overlays/f"), dir.path().join("other/f"));
    confined(listed, move |reached| {
        assert_eq!(fs::read(&named).unwrap(), b"f");
        assert_eq!(fs::read(other).is_err(), !matches!(reached, Sandbox::None(_)));
        assert_eq!(
            fs::write(&named, "g").is_err(),
            !matches!(reached, Sandbox::None(_))
        );
    });
}

#[test]
fn who_to_be_is_checked_before_anything_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let check = |user: &str| {
        let config = config(dir.path(), &format!("user = \"{user}\"\n"));
        confine::enter(&config).unwrap_err()
    };
    // A process with threads cannot: each would keep its own rights.
    assert!(matches!(check("nobody"), ConfineError::Threads(2..)));
}
