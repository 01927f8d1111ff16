//! What a template and a writable layer of very many objects cost: memory, opening, and how long anybody waits while the
//! log of one is made short or a checkpoint of it is taken.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cowfs::attr::{SetAttr, Time};
use cowfs::layer::{ContentHash, ContentSource, Layer};
use cowfs::service::{Caller, CreateMode, FileService as _, Handle, Stability};
use cowfs::stack::{Stack, StackSpec, open};
use cowfs::template::{ContentStore, Index, Leaf, Meta, TemplateLayer, Tree};
use cowfs::writable::{Options, Writable};
use serde_json::{Value, json};

use crate::Failure;
use crate::heap;

/// Files in each directory.
const IN_DIRECTORY: usize = 1000;
/// Of so many files one is written to beyond what the log takes.
const LARGE_EVERY: usize = 10;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Entries of the template.
    pub(crate) template: usize,
    /// Changed files of the layer that is opened.
    pub(crate) opened: usize,
    /// Changed files of the layer that is served.
    pub(crate) served: usize,
}

struct Nothing;

impl ContentSource for Nothing {
    fn read_content(&self, _: &ContentHash, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// One line of the report; a goal is something not to go beyond.
fn row(name: String, value: f64, unit: &str, goal: Option<f64>) -> Value {
    json!({
        "name": name,
        "value": (value * 1000.0).round() / 1000.0,
        "unit": unit,
        "goal": goal,
        "ok": goal.map(|goal| value <= goal),
        "better": "lower",
    })
}

/// Measures, all of it or what `only` names; `dir` is on the disk that is measured, layers are made in `quick`.
pub(crate) fn measure(
    scale: Scale,
    only: Option<&str>,
    dir: &Path,
    quick: &Path,
) -> Result<Vec<Value>, Failure> {
    let wanted = |part: &str| only.is_none_or(|only| part.contains(only));
    let mut rows = Vec::new();
    if wanted("template") {
        rows.extend(template(scale.template, dir)?);
    }
    if wanted("opening") {
        rows.extend(opening(scale.opened, dir, quick)?);
    }
    if wanted("serving") {
        rows.extend(serving(scale.served, dir, quick)?);
    }
    Ok(rows)
}

/// The rows for people.
pub(crate) fn table(rows: &[Value]) -> String {
    let mut out = String::new();
    for row in rows {
        let text = |field: &str| {
            row.get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |field: &str| row.get(field).and_then(Value::as_f64);
        let goal = number("goal").map_or(String::new(), |goal| {
            let verdict = if row.get("ok") == Some(&Value::Bool(true)) {
                "ok"
            } else {
                "MISSED"
            };
            format!("  ≤ {goal} {verdict}")
        });
        let value = number("value").unwrap_or_default();
        // Writing to a string cannot fail.
        let _written = writeln!(out, "{:<78}{value:>10.2} {}{goal}", text("name"), text("unit"));
    }
    out
}

fn per(bytes: usize, objects: usize) -> f64 {
    // Exact: far below 2^52.
    bytes as f64 / objects as f64
}

fn thousands(count: usize) -> String {
    if count >= 1_000_000 && count.is_multiple_of(1_000_000) {
        format!("{} M", count / 1_000_000)
    } else if count >= 1000 {
        format!("{} k", count / 1000)
    } else {
        count.to_string()
    }
}

fn template(entries: usize, dir: &Path) -> Result<Vec<Value>, Failure> {
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
    };
    let mut tree = Tree::new(Meta { mode: 0o755, ..meta });
    let mut here = Tree::ROOT;
    for n in 0..entries {
        if n % IN_DIRECTORY == 0 {
            here = tree.directory(Tree::ROOT, format!("d{:05}", n / IN_DIRECTORY).as_bytes(), meta)?;
            continue;
        }
        let hash = ContentHash([u8::try_from(n % 251)?; 32]);
        tree.leaf(
            here,
            name(n).as_bytes(),
            meta,
            Leaf::Regular {
                size: 5,
                content: hash,
            },
        )?;
    }
    let bytes = tree.encode(false)?.bytes;
    drop(tree);
    let file = dir.join("index");
    std::fs::write(&file, &bytes)?;
    let digest = cowfs::template::Digest::of(&bytes);
    let mapped = per(bytes.len(), entries);
    drop(bytes);
    let before = heap::live();
    let begun = Instant::now();
    let index = Arc::new(Index::map(&file, &digest.0)?);
    let took = begun.elapsed();
    let contents = Arc::new(ContentStore::new(dir.to_path_buf()));
    let layer: Arc<dyn Layer> = Arc::new(TemplateLayer::new(index, contents));
    let heap = per(heap::live().saturating_sub(before), entries);
    drop(layer);
    let of = format!("template of {} entries", thousands(entries));
    Ok(vec![
        row(
            format!("{of}: mapped, one copy for all guests"),
            mapped,
            "bytes/entry",
            Some(128.0),
        ),
        row(format!("{of}: heap"), heap, "bytes/entry", Some(1.0)),
        row(
            format!("{of}: opened and checked"),
            took.as_secs_f64() * 1e3,
            "ms",
            None,
        ),
    ])
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn name(n: usize) -> String {
    format!("file-{n:07}")
}

fn stack(path: &Path, epoch: u64) -> Result<Arc<Stack>, Failure> {
    Writable::create_if_missing(path)?;
    let spec = StackSpec {
        layers: Vec::new(),
        writable: Some(Writable::open(path, epoch, Options::default())?),
        content: Arc::new(Nothing),
        read_only_key: [0; 32],
    };
    Ok(open(spec)?)
}

/// Makes a layer of so many files; returns the handles of some.
fn fill(stack: &Stack, files: usize) -> Result<Vec<Handle>, Failure> {
    let root = Caller::root();
    let set = SetAttr::default();
    let mut dir = stack.root().handle;
    let mut some = Vec::new();
    let mut last = None;
    for n in 0..files {
        if n % IN_DIRECTORY == 0 {
            let name = format!("d{:05}", n / IN_DIRECTORY);
            let made = stack.mkdir(&root, None, &stack.root().handle, name.as_bytes(), &set)?;
            dir = made.value.made.ok_or("no directory")?.handle;
        }
        let made = stack.create(&root, None, &dir, name(n).as_bytes(), CreateMode::Unchecked(set))?;
        let file = made.value.made.ok_or("no file")?.handle;
        let written = if n % LARGE_EVERY == 0 {
            stack.write(&root, &file, 0, &[7; 5000], Stability::Unstable)?
        } else {
            stack.write(&root, &file, 0, &[7; 60], Stability::FileSync)?
        };
        last = Some(written.ticket);
        if n % 997 == 0 {
            some.push(file);
        }
    }
    stack.flush_all()?;
    if let Some(ticket) = last {
        stack.settle(ticket)?;
    }
    Ok(some)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

fn opening(files: usize, dir: &Path, quick: &Path) -> Result<Vec<Value>, Failure> {
    let made = quick.join("opened");
    drop(fill(&*stack(&made, 1)?, files)?);
    let path = dir.join("opened");
    copy(&made, &path)?;
    std::fs::remove_dir_all(&made)?;
    rustix::fs::sync();
    let (mut best, mut cpu, mut memory) = (Duration::MAX, Duration::MAX, 0.0);
    // Each time under the next epoch, as after a move, and then once more under the same, as after a restart.
    for epoch in [2, 3, 4, 4] {
        let before = heap::live();
        let (begun, cpu_before) = (Instant::now(), cpu_time());
        let stack = stack(&path, epoch)?;
        best = best.min(begun.elapsed());
        cpu = cpu.min(cpu_time().saturating_sub(cpu_before));
        memory = per(heap::live().saturating_sub(before), files);
        drop(stack);
    }
    let log = std::fs::read_dir(path.join("log"))?;
    let log: u64 = log
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum::<std::io::Result<u64>>()?;
    let of = format!("writable layer of {} changed files", thousands(files));
    Ok(vec![
        row(
            format!("{of}: opening"),
            best.as_secs_f64() * 1e3,
            "ms",
            Some(300.0),
        ),
        row(
            format!("{of}: opening, CPU time"),
            cpu.as_secs_f64() * 1e3,
            "ms",
            None,
        ),
        row(format!("{of}: heap"), memory, "bytes/file", Some(450.0)),
        row(
            format!("{of}: log"),
            per(usize::try_from(log)?, files),
            "bytes/file",
            None,
        ),
    ])
}

/// Asks over and over until told to stop; the longest wait and the number of answers.
fn ask(
    stop: &AtomicBool,
    mut once: impl FnMut(usize) -> Result<(), Failure>,
) -> Result<(Duration, usize), Failure> {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Acquire) {
        let begun = Instant::now();
        once(count)?;
        longest = longest.max(begun.elapsed());
        count += 1;
        // Like a guest, and so that the one that works has a core.
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok((longest, count))
}

/// The longest anybody waits for the attributes of a file, and for a change, while `work` goes on; and how long that took.
fn stall(
    stack: &Arc<Stack>,
    files: &[Handle],
    work: impl FnOnce(&Stack) -> Result<(), Failure>,
) -> Result<[Duration; 3], Failure> {
    let stop = AtomicBool::new(false);
    let root = Caller::root();
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            ask(&stop, |n| {
                stack.getattr(files.get(n % files.len()).ok_or("no file")?)?;
                stack.lookup(&root, &stack.root().handle, b"d00000")?;
                Ok(())
            })
        });
        let writer = threads.spawn(|| {
            ask(&stop, |n| {
                let set = SetAttr {
                    mode: Some(0o600 + u32::try_from(n % 64)?),
                    ..SetAttr::default()
                };
                stack.setattr(
                    &root,
                    None,
                    files.get(n % files.len()).ok_or("no file")?,
                    &set,
                    None,
                )?;
                Ok(())
            })
        });
        let begun = Instant::now();
        let worked = work(stack);
        let took = begun.elapsed();
        stop.store(true, Ordering::Release);
        let (reading, _) = reader.join().map_err(|_| "a reader has panicked")??;
        let (writing, _) = writer.join().map_err(|_| "a writer has panicked")??;
        worked?;
        Ok([reading, writing, took])
    })
}

fn serving(files: usize, dir: &Path, quick: &Path) -> Result<Vec<Value>, Failure> {
    let made = quick.join("served");
    let before = heap::live();
    let filled = stack(&made, 1)?;
    let some = fill(&filled, files)?;
    filled.compact()?;
    let memory = per(heap::live().saturating_sub(before), files);
    drop(filled);
    let path = dir.join("served");
    copy(&made, &path)?;
    std::fs::remove_dir_all(&made)?;
    let served = stack(&path, 1)?;
    let of = format!("writable layer of {} files", thousands(files));
    let mut rows = vec![row(
        format!("{of}: heap while served"),
        memory,
        "bytes/file",
        Some(450.0),
    )];
    type Work = fn(&Stack) -> Result<(), Failure>;
    let works: [(&str, Work); 3] = [
        ("nothing else is done for a second", |_| {
            std::thread::sleep(Duration::from_secs(1));
            Ok(())
        }),
        ("its log is made short", |stack| Ok(stack.compact()?)),
        ("a checkpoint is taken", |stack| Ok(stack.save("bench")?)),
    ];
    for (what, work) in works {
        let [reading, writing, took] = stall(&served, &some, work)?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        rows.push(row(
            format!("{of}: longest GETATTR or LOOKUP while {what}"),
            ms(reading),
            "ms",
            Some(50.0),
        ));
        rows.push(row(
            format!("{of}: longest SETATTR while {what}"),
            ms(writing),
            "ms",
            None,
        ));
        rows.push(row(format!("{of}: {what}"), ms(took), "ms", None));
    }
    Ok(rows)
}
