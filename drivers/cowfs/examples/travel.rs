//! Measures how a writable layer goes to another machine: bytes and time of a round ahead, and of the last one, for which the
//! guest stands still.
//!
//! `cargo run --release -p cowfs --example travel -- [FILES] [BYTES OF EACH]` (100,000 of 4,096 bytes) in a directory below
//! `$TMPDIR`, over a socket pair on this machine.
#![expect(clippy::print_stdout, reason = "what it measures is its output")]

use std::error::Error;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cowfs::attr::SetAttr;
use cowfs::opener::Opener;
use cowfs::quota::Quota;
use cowfs::service::{Caller, CreateMode, FileService, LayerSource, Stability, StackOpener as _};
use cowfs::writable::travel::{Arrival, Ledgers, Sending, TravelError, in_place, receive};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let files: usize = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(4096), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("cowfs-travel-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("lower"))?;
    let measured = measure(&dir, files, bytes);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn open(dir: &Path, path: &Path, epoch: u64) -> Result<Arc<dyn FileService>, Failure> {
    let opener = Opener::new(&dir.join("templates"));
    let writable = opener.open_writable(path, epoch, Quota::default())?;
    Ok(opener.open_stack(&[LayerSource::Dir(dir.join("lower"))], Some(writable))?)
}

fn measure(dir: &Path, files: usize, bytes: usize) -> Result<(), Failure> {
    let here = open(dir, &dir.join("here"), 1)?;
    let begun = Instant::now();
    for n in 0..files {
        write(&*here, &format!("file-{n}"), n, bytes)?;
    }
    here.flush_all()?;
    let made = begun.elapsed();
    println!("{files} files of {bytes} bytes made in {made:.2?}");
    let held: u64 = size(&dir.join("here"))?;
    println!("the layer holds {held} bytes");
    let ledgers = Ledgers::default();
    round(&*here, dir, &ledgers, false, "ahead")?;
    round(&*here, dir, &ledgers, false, "ahead again, nothing new")?;
    for n in 0..10 {
        write(&*here, &format!("late-{n}"), n, bytes)?;
        write(&*here, &format!("file-{n}"), n + 1, bytes)?;
    }
    let begun = Instant::now();
    here.flush_all()?;
    println!("parking would flush in {:.2?}", begun.elapsed());
    round(&*here, dir, &ledgers, true, "last, 20 files changed")?;
    let begun = Instant::now();
    open(dir, &dir.join("arriving"), 2)?;
    println!("opened there in {:.2?}", begun.elapsed());
    Ok(())
}

fn write(service: &dyn FileService, name: &str, n: usize, bytes: usize) -> Result<(), Failure> {
    let root = Caller::root();
    let mode = CreateMode::Unchecked(SetAttr::default());
    let made = service.create(&root, None, &service.root().handle, name.as_bytes(), mode)?;
    let file = made.value.made.ok_or("nothing was made")?;
    let content: Vec<u8> = n
        .to_le_bytes()
        .into_iter()
        .cycle()
        .map(|byte| byte | 1)
        .take(bytes)
        .collect();
    service.write(&root, &file.handle, 0, &content, Stability::Unstable)?;
    Ok(())
}

fn round(
    service: &dyn FileService,
    dir: &Path,
    ledgers: &Ledgers,
    last: bool,
    what: &str,
) -> Result<(), Failure> {
    let arrival = Arrival {
        staging: dir.join("arriving"),
        place: dir.join("place"),
        bytes_max: None,
    };
    let (near, far) = UnixStream::pair()?;
    let begun = Instant::now();
    let sent = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let far = far;
            receive(&far, &[arrival], ledgers)?;
            (&far).write_all(&in_place()).map_err(TravelError::Stream)
        });
        let mut sending = Sending::begin(&near, 1, last)?;
        service.embark(&mut sending)?;
        let sent = sending.finish()?;
        receiving.join().map_err(|_| TravelError::NoLayer)??;
        Ok::<_, TravelError>(sent)
    })?;
    println!("{what}: {sent} bytes in {:.2?}", begun.elapsed());
    Ok(())
}

fn size(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}
