//! The servers that are measured, each in a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::ground::Ground;
use crate::load::Wire;
use crate::work::{self, Tree};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the other server listens; it wants its ports named. Nothing else is in its network.
const GANESHA: &str = "127.0.0.1:12049";

/// Its mount protocol.
const GANESHA_MOUNT: &str = "127.0.0.1:12050";

/// A server that answers, and what it has.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    process: Process,
    /// Ended after it.
    _helpers: Vec<Process>,
    pub(crate) wire: Wire,
    pub(crate) tree: Arc<Tree>,
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _killed = self.0.kill();
        let _waited = self.0.wait();
    }
}

impl Server {
    /// CPU time of the server so far, user and system (proc_pid_stat(5); ticks are 10 ms on every Linux that matters).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.0.id())).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    fn new(
        name: &'static str,
        process: Process,
        helpers: Vec<Process>,
        mut wire: Wire,
        root: Vec<u8>,
    ) -> Result<Self, Failure> {
        let tree = Arc::new(work::discover(&mut wire, root)?);
        Ok(Self {
            name,
            process,
            _helpers: helpers,
            wire,
            tree,
        })
    }
}

/// Starts this program again as a server, and mounts what it exports.
fn own(name: &'static str, arguments: &[&str]) -> Result<Server, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take();
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(out.ok_or("no output")?).read_line(&mut line)?;
    let mut wire = Wire::connect(line.trim().parse()?)?;
    let root = wire.mount("/bench")?;
    Server::new(name, process, Vec::new(), wire, root)
}

/// The loop with nothing behind it.
pub(crate) fn null() -> Result<Server, Failure> {
    own("null", &["--serve-null"])
}

/// This project's server, with its writable layer in `writable`.
pub(crate) fn cowfs(ground: &Ground, dir: &Path, writable: &Path) -> Result<Server, Failure> {
    let layers: Vec<String> = ground
        .templates
        .iter()
        .map(|digest| format!("{{ template = \"{digest}\" }}"))
        .collect();
    let config = format!(
        "listen = \"127.0.0.1:0\"\nstore = \"{}\"\n\n[[export]]\nname = \"/bench\"\nclients = [\"127.0.0.1\"]\n\
         writable = \"{}\"\nlayers = [ {} ]\n",
        ground.store.display(),
        writable.display(),
        layers.join(", "),
    );
    let file = dir.join("cowfs.toml");
    fs::write(&file, config)?;
    own(
        "cowfs",
        &["--serve", file.to_str().ok_or("a path that is no text")?],
    )
}

/// What the other server needs and where it puts things.
pub(crate) struct Place<'a> {
    /// For small files.
    pub(crate) dir: &'a Path,
    /// A file system whose directories are synchronous.
    pub(crate) upper: &'a Path,
}

/// nfs-ganesha over the kernel's overlayfs.
pub(crate) fn ganesha(ground: &Ground, place: &Place<'_>) -> Result<Server, Failure> {
    let merged = place.dir.join("merged");
    let (upper, work) = (place.upper.join("upper"), place.upper.join("work"));
    for dir in [&merged, &upper, &work] {
        fs::create_dir_all(dir)?;
    }
    let lower: Vec<String> = ground.dirs.iter().map(|dir| dir.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=on,nfs_export=on,xino=on",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    run(Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged))?;
    let config = place.dir.join("ganesha.conf");
    fs::write(&config, ganesha_conf(&merged))?;
    let portmapper = spawn(Command::new(find("rpcbind")?).args(["-f", "-w"]), place.dir)?;
    let log = place.dir.join("ganesha.log");
    let mut command = Command::new(find("ganesha.nfsd")?);
    command.arg("-F").arg("-f").arg(&config).arg("-L").arg(&log);
    command.arg("-p").arg(place.dir.join("ganesha.pid"));
    let mut process = spawn(&mut command, place.dir)?;
    let address: SocketAddr = GANESHA.parse()?;
    let begun = Instant::now();
    loop {
        if let Some(status) = process.0.try_wait()? {
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("ganesha.nfsd ended with {status}:\n{log}").into());
        }
        let path = merged.to_str().ok_or("a path that is no text")?;
        // It listens before it knows its exports.
        let mounted = Wire::connect(GANESHA_MOUNT.parse()?).and_then(|mut wire| wire.mount(path));
        match mounted {
            Ok(root) => {
                return Server::new(
                    "ganesha",
                    process,
                    vec![portmapper],
                    Wire::connect(address)?,
                    root,
                );
            }
            Err(error) if begun.elapsed() > PATIENCE => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("ganesha.nfsd does not answer: {error}\n{log}").into());
            }
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ganesha_conf(path: &Path) -> String {
    format!(
        "NFS_CORE_PARAM {{\n  NFS_Protocols = 3;\n  NFS_Port = 12049;\n  MNT_Port = 12050;\n  Enable_NLM = false;\n  \
         Enable_RQUOTA = false;\n}}\n\
         EXPORT {{\n  Export_Id = 1;\n  Path = {path};\n  Pseudo = {path};\n  Access_Type = RW;\n  Squash = None;\n  \
         Protocols = 3;\n  Transports = TCP;\n  SecType = sys;\n  FSAL {{ Name = VFS; }}\n}}\n\
         LOG {{ Default_Log_Level = EVENT; }}\n",
        path = path.display()
    )
}

fn spawn(command: &mut Command, dir: &Path) -> Result<Process, Failure> {
    let noise = fs::File::create(dir.join("noise"))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(noise.try_clone()?)
        .stderr(noise)
        .spawn();
    Ok(Process(child.map_err(|error| format!("{command:?}: {error}"))?))
}

/// A program of an administrator, which need not be on the path.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    let mut found = dirs.map(|dir| dir.join(name)).filter(|path| path.is_file());
    found.next().ok_or_else(|| format!("there is no {name}").into())
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{command:?} ended with {}: {said}", output.status).into())
}

/// A file system of its own in a file, mounted; directories are synchronous if `dirsync`.
pub(crate) fn file_system(dir: &Path, name: &str, bytes: u64, dirsync: bool) -> Result<PathBuf, Failure> {
    let (image, mounted) = (dir.join(format!("{name}.img")), dir.join(name));
    fs::File::create(&image)?.set_len(bytes)?;
    run(Command::new(find("mkfs.ext4")?).args(["-q", "-F"]).arg(&image))?;
    fs::create_dir_all(&mounted)?;
    let options = if dirsync { "loop,dirsync" } else { "loop" };
    run(Command::new("mount")
        .args(["-o", options])
        .arg(&image)
        .arg(&mounted))?;
    Ok(mounted)
}
