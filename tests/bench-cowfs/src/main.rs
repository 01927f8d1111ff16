//! `make bench-cowfs`: this server beside nfs-ganesha over the kernel's overlayfs, and beside a server that answers
//! constants with the same loop.
//!
//! All three are processes of their own, asked by one client on one connection each, one after the other and round and
//! round, so that what else the machine does meets all of them alike; of each the best run counts. The other server needs
//! root: it runs in a network and mount namespace of its own, which go with the last process in them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it measures is its output"
)]

mod figures;
mod ground;
/// The one that the tests of what is promised count with.
#[path = "../../../drivers/cowfs/tests/memory/heap.rs"]
mod heap;
mod load;
mod null;
mod quiet;
mod scale;
mod servers;
mod work;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use figures::{Best, Row, Unit};
use ground::Shape;
use load::Work;
use servers::Server;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of the file systems that writable layers are on; what is not written takes no room.
const FILE_SYSTEM: u64 = 24 << 30;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-cowfs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for.
struct Options {
    tiny: bool,
    runs: usize,
    window: Duration,
    only: Option<String>,
    report: Option<PathBuf>,
    dir: Option<PathBuf>,
    /// How long to wait, before each run, for the machine to have nothing else to do.
    idle: Option<Duration>,
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    if has("--serve-null") {
        return serving(null::serve(said));
    }
    if let Some(config) = value("--serve") {
        let config = cowfs::config::load(Path::new(&config))?;
        let ready = |address: Option<std::net::SocketAddr>| {
            if let Some(address) = address
                && let Err(error) = said(address)
            {
                eprintln!("bench-cowfs: {error}");
            }
        };
        return serving(async {
            cowfs::server::serve(config, ready, std::future::pending()).await?;
            Ok(())
        });
    }
    let tiny = has("--tiny");
    let options = Options {
        tiny,
        runs: match value("--runs") {
            Some(runs) => runs.parse().map_err(|error| format!("--runs {runs}: {error}"))?,
            None if tiny => 1,
            None => 5,
        },
        window: Duration::from_millis(if tiny { 20 } else { 600 }),
        only: value("--only"),
        report: value("--report").map(PathBuf::from),
        dir: value("--dir").map(PathBuf::from),
        idle: match value("--idle") {
            Some(idle) => Some(Duration::from_secs(
                idle.parse().map_err(|error| format!("--idle {idle}: {error}"))?,
            )),
            None => None,
        },
    };
    if has("--scale") {
        return measure_scale(&options);
    }
    // Alone in its network, so that nothing it opens can be reached and no port is taken.
    if !tiny && !has("--inside") && rustix::process::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "--"]);
        let status = command
            .arg(std::env::current_exe()?)
            .arg("--inside")
            .args(arguments)
            .status()?;
        return if status.success() {
            Ok(())
        } else {
            Err(format!("it ended with {status}").into())
        };
    }
    measure(&options, has("--inside"))
}

/// What a large template and a large writable layer cost, in this process and without other servers.
fn measure_scale(options: &Options) -> Result<(), Failure> {
    let temporary = match &options.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            tempfile::tempdir_in(dir)?
        }
        None => tempfile::tempdir()?,
    };
    let scale = if options.tiny {
        scale::Scale {
            template: 3000,
            opened: 1500,
            served: 1500,
        }
    } else {
        scale::Scale {
            template: 1_000_000,
            opened: 100_000,
            served: 1_000_000,
        }
    };
    // Layers are made where a sync costs nothing: it is not their making that is measured.
    let memory = Path::new("/dev/shm");
    let quick = if memory.is_dir() {
        tempfile::tempdir_in(memory)?
    } else {
        tempfile::tempdir_in(temporary.path())?
    };
    let rows = scale::measure(scale, options.only.as_deref(), temporary.path(), quick.path())?;
    if !options.tiny {
        print!("{}", scale::table(&rows));
    }
    if let Some(path) = &options.report {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")?;
    }
    Ok(())
}

fn said(address: std::net::SocketAddr) -> Result<(), Failure> {
    println!("{address}");
    Ok(())
}

fn serving(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work)
}

fn measure(options: &Options, alone: bool) -> Result<(), Failure> {
    let temporary = match &options.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            tempfile::tempdir_in(dir)?
        }
        None => tempfile::tempdir()?,
    };
    let dir = &temporary.path().canonicalize()?;
    let shape = if options.tiny {
        Shape {
            directories: 2,
            files: 6,
            big: 2 << 20,
            first: 1,
        }
    } else {
        Shape {
            directories: 80,
            files: 90,
            big: 1 << 30,
            first: 2,
        }
    };
    if !options.tiny {
        eprintln!("making layers");
    }
    // Kept where a directory is named, for the next time.
    let ground_dir = options
        .dir
        .as_deref()
        .map_or_else(|| dir.join("ground"), |dir| dir.join("ground"));
    std::fs::create_dir_all(&ground_dir)?;
    let ground = ground::make(&ground_dir.canonicalize()?, shape)?;
    let mut servers = Vec::new();
    if alone {
        servers::run(Command::new(servers::find("ip")?).args(["link", "set", "lo", "up"]))?;
        // The portmapper's socket and its notes.
        servers::run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
        let ours = servers::file_system(dir, "ours", FILE_SYSTEM, false)?;
        let theirs = servers::file_system(dir, "theirs", FILE_SYSTEM, true)?;
        servers.push(servers::cowfs(&ground, dir, &ours.join("w"))?);
        servers.push(servers::null()?);
        let place = servers::Place { dir, upper: &theirs };
        match servers::ganesha(&ground, &place) {
            Ok(server) => servers.push(server),
            Err(error) => eprintln!("nfs-ganesha is not measured: {error}"),
        }
    } else {
        servers.push(servers::cowfs(&ground, dir, &dir.join("w"))?);
        servers.push(servers::null()?);
        if !options.tiny {
            eprintln!("nfs-ganesha is not measured: that needs root");
        }
    }
    let mut rows = Vec::new();
    for load in LOADS {
        if options
            .only
            .as_deref()
            .is_some_and(|only| !load.name.contains(only))
        {
            continue;
        }
        for &outstanding in load.outstanding {
            let row = measure_load(options, &mut servers, load, outstanding)?;
            if !options.tiny {
                eprint!("\r\x1b[K{} {outstanding}", load.name);
            }
            rows.push(row);
        }
    }
    if !options.tiny {
        eprint!("\r\x1b[K");
        print!("{}", figures::table(&rows));
    }
    if let Some(path) = &options.report {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(
            path,
            serde_json::to_string_pretty(&figures::report(&rows))? + "\n",
        )?;
    }
    drop(servers);
    if alone {
        // Their images go with the directory; mounts that are still there would keep it.
        for name in ["merged", "ours", "theirs"] {
            servers::run(Command::new("umount").arg("-l").arg(dir.join(name)))
                .unwrap_or_else(|error| eprintln!("{error}"));
        }
    }
    Ok(())
}

/// What is measured.
struct Load {
    name: &'static str,
    unit: Unit,
    goal: f64,
    outstanding: &'static [usize],
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    GetAttr,
    Lookup { present: bool },
    Walk,
    SmallFiles,
    Read { random: bool },
    Write,
    Create,
    FirstWrite,
}

const LOADS: &[Load] = &[
    Load {
        name: "GETATTR",
        unit: Unit::Calls,
        goal: 1.0,
        outstanding: &[1],
        kind: Kind::GetAttr,
    },
    Load {
        name: "GETATTR",
        unit: Unit::Calls,
        goal: 5.0,
        outstanding: &[16, 64],
        kind: Kind::GetAttr,
    },
    Load {
        name: "LOOKUP",
        unit: Unit::Calls,
        goal: 1.0,
        outstanding: &[1],
        kind: Kind::Lookup { present: true },
    },
    Load {
        name: "LOOKUP",
        unit: Unit::Calls,
        goal: 5.0,
        outstanding: &[16, 64],
        kind: Kind::Lookup { present: true },
    },
    Load {
        name: "LOOKUP, absent",
        unit: Unit::Calls,
        goal: 1.0,
        outstanding: &[1],
        kind: Kind::Lookup { present: false },
    },
    Load {
        name: "LOOKUP, absent",
        unit: Unit::Calls,
        goal: 5.0,
        outstanding: &[16, 64],
        kind: Kind::Lookup { present: false },
    },
    Load {
        name: "walk (READDIRPLUS)",
        unit: Unit::Entries,
        goal: 3.0,
        outstanding: &[1, 16],
        kind: Kind::Walk,
    },
    Load {
        name: "small files (LOOKUP, ACCESS, READ)",
        unit: Unit::Files,
        goal: 1.0,
        outstanding: &[1, 16, 64],
        kind: Kind::SmallFiles,
    },
    Load {
        name: "READ 1 MiB in order",
        unit: Unit::Megabytes,
        goal: 1.0,
        outstanding: &[1, 8],
        kind: Kind::Read { random: false },
    },
    Load {
        name: "READ 4 KiB anywhere",
        unit: Unit::Calls,
        goal: 1.0,
        outstanding: &[1, 16, 64],
        kind: Kind::Read { random: true },
    },
    Load {
        name: "WRITE 1 MiB + COMMIT",
        unit: Unit::Megabytes,
        goal: 1.0,
        outstanding: &[1, 8],
        kind: Kind::Write,
    },
    Load {
        name: "CREATE",
        unit: Unit::Calls,
        goal: 1.0,
        outstanding: &[1, 16, 64],
        kind: Kind::Create,
    },
    Load {
        name: "first write to a file of 1 GiB",
        unit: Unit::Milliseconds,
        goal: 1.0,
        outstanding: &[1],
        kind: Kind::FirstWrite,
    },
];

fn measure_load(
    options: &Options,
    servers: &mut [Server],
    load: &Load,
    outstanding: usize,
) -> Result<Row, Failure> {
    let mut row = Row {
        load: load.name,
        outstanding,
        unit: load.unit,
        goal: load.goal,
        cowfs: None,
        null: None,
        ganesha: None,
    };
    let runs = match load.kind {
        // Each of those files can be written to for the first time but once.
        Kind::FirstWrite if options.tiny => 1,
        Kind::FirstWrite => 2,
        _ => options.runs,
    };
    for run in 0..runs {
        for server in &mut *servers {
            if let Some(patience) = options.idle
                && !quiet::wait(patience)
            {
                eprintln!(
                    "the machine is busy: {} on {} counts all the same",
                    load.name, server.name
                );
            }
            let now = one_run(options, server, load, outstanding, run)
                .map_err(|error| format!("{} on {}: {error}", load.name, server.name))?;
            let best = match server.name {
                "cowfs" => &mut row.cowfs,
                "null" => &mut row.null,
                _ => &mut row.ganesha,
            };
            *best = Some(match *best {
                None => now,
                Some(best) => Best {
                    value: if load.unit == Unit::Milliseconds {
                        best.value.min(now.value)
                    } else {
                        best.value.max(now.value)
                    },
                    cpu_us: best.cpu_us.min(now.cpu_us),
                },
            });
        }
    }
    Ok(row)
}

fn one_run(
    options: &Options,
    server: &mut Server,
    load: &Load,
    outstanding: usize,
    run: usize,
) -> Result<Best, Failure> {
    let tree = Arc::clone(&server.tree);
    let seed = u64::try_from(run)? << 32;
    // What a run makes has names of its own.
    let mark = format!(
        "{}-{outstanding}-{run}",
        load.name.split(' ').next().unwrap_or("run")
    );
    let mut made = None;
    let mut work: Box<dyn Work> = match load.kind {
        Kind::GetAttr => Box::new(work::GetAttr { tree, count: seed }),
        Kind::Lookup { present } => Box::new(work::Lookup {
            tree,
            count: seed,
            present,
        }),
        Kind::Walk => Box::new(work::Walks {
            root: tree.root.clone(),
            walk: work::Walk::new(&tree.root),
            outstanding: 0,
        }),
        Kind::SmallFiles => Box::new(work::SmallFiles {
            tree,
            count: seed,
            ready: VecDeque::new(),
        }),
        Kind::Read { random } => {
            let big = tree.big("big")?;
            Box::new(work::Content {
                handle: big.handle.clone(),
                size: big.size,
                at: seed,
                random,
            })
        }
        Kind::Write => {
            made = Some(mark.clone());
            Box::new(work::Writes {
                handle: work::make(&mut server.wire, &tree.root, &mark, false)?,
                content: vec![3; usize::try_from(work::MEGABYTE)?],
                sent: 0,
                outstanding: 0,
                commit: false,
                committing: false,
            })
        }
        Kind::Create => Box::new(work::Creates {
            dir: work::make(&mut server.wire, &tree.root, &mark, true)?,
            count: 0,
        }),
        Kind::FirstWrite => {
            let file = tree.big(&format!("first-{run}"))?;
            let (begun, before) = (std::time::Instant::now(), server.cpu());
            work::first_write(&mut server.wire, file)?;
            return Ok(Best {
                value: begun.elapsed().as_secs_f64() * 1000.0,
                cpu_us: server.cpu().saturating_sub(before).as_secs_f64() * 1e6,
            });
        }
    };
    let before = server.cpu();
    let ran = server.wire.run(&mut *work, outstanding, options.window)?;
    let cpu = server.cpu().saturating_sub(before);
    if let Some(name) = made {
        work::remove(&mut server.wire, &server.tree.root, &name)?;
    }
    let mut units = u32::try_from(ran.units).map_or(f64::MAX, f64::from);
    if load.unit == Unit::Megabytes {
        // Exact: a load of megabytes counts whole ones.
        units = f64::from(u32::try_from(ran.units / u64::from(work::MEGABYTE))?) * 1.048_576;
    }
    Ok(Best {
        value: units / ran.wall.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / units.max(1.0),
    })
}
