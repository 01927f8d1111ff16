//! Private files of a directory layer reach a file server that may not open them. Needs root, to be more than one user.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cowfs::directory::DirectoryLayer;
use cowfs::import::Limits;
use cowfs::layer::{Entry, Layer as _, ROOT};
use cowfs::lend::{Borrower, Lender};
use xeno_test_support::copy_program;

/// Set for the process that is no root: the directory of the story.
const ROLE: &str = "COWFS_BORROWER";

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// Not a test by itself: what the process without privilege runs.
#[test]
fn the_borrower() {
    let Some(dir) = std::env::var_os(ROLE) else {
        return;
    };
    let dir = Path::new(&dir);
    assert!(!rustix::process::geteuid().is_root());
    let overlay = dir.join("overlay");
    assert!(fs::read(overlay.join("key")).is_err(), "it is private");
    let borrower = || Borrower::new(&dir.join("lend.sock"));
    let layer = DirectoryLayer::open_with(
        &overlay,
        &Limits::default(),
        Some(std::sync::Arc::new(borrower())),
    )
    .unwrap();
    let Some(Entry::Node(key)) = layer.lookup(ROOT, b"key").unwrap() else {
        panic!("the key is listed");
    };
    let mut bytes = [0; 20];
    let read = layer.read(key, 0, &mut bytes).unwrap();
    assert_eq!(&bytes[..read], b"private key");

    // The lender's second root is what layers lie below, not a layer.
    assert!(borrower().open(&dir.join("overlays/acme"), b"key").is_ok());

    let check_refused = |root: &Path, path: &str| {
        assert!(
            borrower().open(root, path.as_bytes()).is_err(),
            "{} {path}",
            root.display()
        );
    };
    check_refused(&overlay, "../secret");
    check_refused(&overlay, "/etc/shadow");
    check_refused(&overlay, "out");
    check_refused(&overlay, "outside/secret");
    check_refused(&overlay, "dir");
    check_refused(&overlay, "pipe");
    check_refused(&overlay, "");
    check_refused(&overlay, ".");
    check_refused(&overlay, "absent");
    check_refused(dir, "secret");
    check_refused(Path::new("/etc"), "shadow");
    check_refused(&dir.join("overlays/../"), "secret");
    check_refused(&dir.join("overlays/link"), "secret");
    check_refused(&dir.join("overlays/absent"), "key");
    check_refused(&overlay, &"x/".repeat(2500));
    // Lent for reading alone.
    let lent = borrower().open(&overlay, b"key").unwrap();
    assert!(std::io::Write::write(&mut &lent, b"x").is_err());
}

#[test]
fn a_private_key_is_lent_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("overlay/dir")).unwrap();
    for (name, content) in [("overlay/key", "private key"), ("secret", "of the host")] {
        fs::write(at(name), content).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::create_dir_all(at("overlays/acme")).unwrap();
    fs::write(at("overlays/acme/key"), "another").unwrap();
    fs::set_permissions(at("overlays/acme/key"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("..", at("overlays/link")).unwrap();
    symlink("../secret", at("overlay/out")).unwrap();
    symlink("..", at("overlay/outside")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        at("overlay/pipe"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let (lender, socket) = (
        Lender::new(&[at("overlay"), at("overlays")], NOBODY).unwrap(),
        at("lend.sock"),
    );
    // It goes on until this process ends.
    std::thread::spawn(move || lender.serve(&socket));
    let began = Instant::now();
    while fs::metadata(at("lend.sock"))
        .map_or(true, |made| std::os::unix::fs::MetadataExt::uid(&made) != NOBODY)
    {
        assert!(began.elapsed() < Duration::from_secs(20), "no lender");
        std::thread::yield_now();
    }
    // Where nobody may go: a copy of this program.
    copy_program(&std::env::current_exe().unwrap(), &at("program"));
    let mut borrower = Command::new(at("program"));
    std::os::unix::process::CommandExt::uid(&mut borrower, NOBODY);
    std::os::unix::process::CommandExt::gid(&mut borrower, NOBODY);
    let ended = borrower
        .args(["--exact", "the_borrower", "--nocapture"])
        .env(ROLE, dir.path())
        .current_dir("/")
        .output()
        .unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    // Another user asks in vain.
    assert!(
        Borrower::new(&at("lend.sock"))
            .open(&at("overlay"), b"key")
            .is_err()
    );
}
