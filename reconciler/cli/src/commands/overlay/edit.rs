//! `xeno overlay edit`: an overlay made by hand.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use clap::Args;
use cowfs::export::{ClientAddress, Export, ExportName, State};
use cowfs::inspect::{Inspection, oci};
use cowfs::layer::Layer;
use cowfs::opener::Opener;
use cowfs::quota::Quota;
use cowfs::server::{Limits, Listening, Server};
use cowfs::service::{FileService, LayerSource, StackOpener as _};

use super::{publish, show};
use crate::commands::template;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;

/// What is served, to itself alone.
const EXPORT: &str = "/edit";

#[derive(Args)]
#[command(group = clap::ArgGroup::new("result").required(true).args(["file", "oci", "into"]))]
pub(crate) struct Edit {
    /// Layers, nearest first: templates of the store (name or digest) and directories (with a slash in the name).
    #[arg(required = true)]
    layers: Vec<String>,
    /// Directory of the template store.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/xenoslice/templates")]
    store: PathBuf,
    /// Keeps the changes as a tar archive.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keeps the changes as an OCI image layout.
    #[arg(long, value_name = "DIR")]
    oci: Option<PathBuf>,
    /// Keeps the changes as a directory with whiteouts, as `overlay:` in a manifest takes it.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Mounts nothing: says how to, and waits until standard input ends. For those who are not root.
    #[arg(long)]
    no_mount: bool,
    /// With --no-mount: a unix socket (mode 0600) that leads to the tree, for programs that speak NFS themselves.
    #[arg(long, value_name = "FILE", requires = "no_mount")]
    socket: Option<PathBuf>,
    /// Runs this in the root of the tree, instead of $SHELL. If it fails, nothing is kept.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "no_mount")]
    command: Vec<String>,
}

/// A tree being served.
struct Served {
    service: Arc<dyn FileService>,
    port: u16,
    _listening: Vec<Listening>,
}

pub(super) fn run(args: &Edit) -> Outcome {
    if let Some(taken) = [&args.file, &args.oci, &args.into]
        .into_iter()
        .flatten()
        .find(|path| is_taken(path))
    {
        return Err(Failure::said(format!("{} is there already", taken.display())));
    }
    if !args.no_mount && !rustix::process::geteuid().is_root() {
        return Err(Failure::said("mounting takes root").hint(
            "sudo does; or --no-mount serves the tree, and says what root has to type to mount it".to_owned(),
        ));
    }
    let layers = sources(args)?;
    let scratch = tempfile::Builder::new().prefix("xeno-overlay-").tempdir();
    let scratch = scratch.map_err(|error| Failure::doing("make a directory", &error))?;
    let writable = scratch.path().join("writable");
    let opener = Opener::new(&args.store);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::doing("start a runtime", &error))?;
    let served = runtime.block_on(serve(args, &opener, &layers, &writable))?;
    if args.no_mount {
        wait(&served, args)?;
    } else {
        in_a_mount(&served, scratch.path(), &args.command)?;
    }
    let flushed = served.service.flush_all();
    flushed.map_err(|error| Failure::doing("write what was changed", &error))?;
    drop(served);
    let below = layers
        .iter()
        .map(|layer| opener.layer(layer))
        .collect::<Result<Vec<_>, _>>();
    let below = below.map_err(|error| Failure::doing("look at the layers again", &error))?;
    keep(args, &writable, below, &opener)
}

fn is_taken(path: &Path) -> bool {
    let empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    path.exists() && !empty
}

fn sources(args: &Edit) -> Outcome<Vec<LayerSource>> {
    let source = |text: &String| {
        if text.contains('/') {
            let path = fs::canonicalize(text);
            let path = path.map_err(|error| Failure::doing(format_args!("find {text}"), &error))?;
            return Ok(LayerSource::Dir(path));
        }
        let store = template::existing(&args.store)?;
        Ok(LayerSource::Template(template::find(&store, text)?.to_string()))
    };
    args.layers.iter().map(source).collect()
}

async fn serve(args: &Edit, opener: &Opener, layers: &[LayerSource], writable: &Path) -> Outcome<Served> {
    let opened = opener.open_writable(writable, 1, Quota::new(None));
    let opened = opened.map_err(|error| Failure::doing("make a writable layer", &error))?;
    let service = opener
        .open_stack(layers, Some(opened))
        .map_err(|error| Failure::doing("open the layers", &error))?;
    // Root's own client takes a port below 1024; other users of this machine cannot.
    let server = Server::new(Limits {
        reserved_ports: true,
        ..Limits::default()
    });
    let failed = |error: &dyn std::error::Error| Failure::doing("serve the tree", error);
    let name = ExportName::parse(EXPORT).map_err(|error| failed(&error))?;
    let client = ClientAddress::parse("127.0.0.1").map_err(|error| failed(&error))?;
    let export = Export::new(name, Arc::clone(&service), vec![client], State::Active);
    let export = Arc::new(export.map_err(|error| failed(&error))?);
    server
        .exports()
        .add(Arc::clone(&export))
        .map_err(|error| failed(&error))?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let tcp = server.listen_tcp(address).await.map_err(|error| failed(&error))?;
    let port = tcp.address().map_or(0, |address| address.port());
    let mut listening = vec![tcp];
    if let Some(socket) = &args.socket {
        let unix = server.listen_unix(socket, None, export).await;
        listening.push(unix.map_err(|error| failed(&error))?);
    }
    Ok(Served {
        service,
        port,
        _listening: listening,
    })
}

/// How a kernel mounts the tree.
fn mount_options(port: u16) -> String {
    // Said in full, so that it works with and without the helper of nfs-common.
    format!(
        "vers=3,proto=tcp,mountproto=tcp,port={port},mountport={port},nolock,hard,timeo=20,retrans=2,\
         addr=127.0.0.1,mountaddr=127.0.0.1"
    )
}

fn wait(served: &Served, args: &Edit) -> Outcome<()> {
    output::note(&format!(
        "serving; to mount it, as root: mount -t nfs -o {} 127.0.0.1:{EXPORT} DIR",
        mount_options(served.port)
    ));
    if let Some(socket) = &args.socket {
        output::note(&format!("and on the socket {}", socket.display()));
    }
    output::note("end the input (Ctrl-D) to keep what was changed");
    let mut rest = [0; 4096];
    let mut input = std::io::stdin().lock();
    while input.read(&mut rest)? > 0 {}
    Ok(())
}

/// A mount that goes with its owner.
struct Mounted(PathBuf);

impl Mounted {
    fn leave(mut self) -> Outcome<()> {
        let path = std::mem::take(&mut self.0);
        checked(Command::new("umount").arg(&path), "unmount the tree").inspect_err(|_| {
            output::note(&format!("something still uses {}", path.display()));
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Only after something else has failed, which is what is told.
            let _left = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

fn in_a_mount(served: &Served, scratch: &Path, command: &[String]) -> Outcome<()> {
    let root = scratch.join("root");
    fs::create_dir(&root).map_err(|error| Failure::doing("make a directory", &error))?;
    let options = mount_options(served.port);
    let source = format!("127.0.0.1:{EXPORT}");
    let mut mount = Command::new("mount");
    mount
        .args(["-i", "-t", "nfs", "-o", &options, &source])
        .arg(&root);
    checked(&mut mount, "mount the tree")?;
    let mounted = Mounted(root.clone());
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, rest) = match command {
        [] => {
            output::note(&format!(
                "the tree is mounted on {}; exit the shell to keep what was changed",
                root.display()
            ));
            (shell, &[][..])
        }
        [program, rest @ ..] => (program.clone(), rest),
    };
    let status = Command::new(&program)
        .args(rest)
        .current_dir(&root)
        .env("XENO_OVERLAY_ROOT", &root)
        .status()
        .map_err(|error| Failure::doing(format_args!("run {program}"), &error))?;
    mounted.leave()?;
    // A shell ends as its last command did, which says nothing.
    if !command.is_empty() && !status.success() {
        return Err(Failure::said(format!(
            "{program} ended with {status}: nothing is kept"
        )));
    }
    Ok(())
}

fn checked(command: &mut Command, doing: &str) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::doing(doing, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Failure::said(format!("failed to {doing}: {said}")))
}

fn keep(args: &Edit, writable: &Path, below: Vec<Arc<dyn Layer>>, opener: &Opener) -> Outcome {
    let inspection = Inspection::open(writable);
    let inspection = inspection.map_err(|error| Failure::doing("look into what was changed", &error))?;
    let inspection = inspection.over(below, Some(opener.contents()));
    let changes = inspection.changes();
    let changes = changes.map_err(|error| Failure::doing("look into what was changed", &error))?;
    if changes.is_empty() {
        return Err(Failure::said("nothing was changed, so nothing is kept"));
    }
    output::note(show::changes_text(&changes).trim_end());
    let (published, to) = if let Some(file) = &args.file {
        (publish::to_file(&inspection, file)?, file)
    } else if let Some(dir) = &args.oci {
        let published = oci::publish(&inspection, dir);
        (
            published.map_err(|error| Failure::doing("write the layout", &error))?,
            dir,
        )
    } else if let Some(dir) = &args.into {
        let archive = writable.with_file_name("layer.tar");
        let published = publish::to_file(&inspection, &archive)?;
        unpack(&archive, dir)?;
        (published, dir)
    } else {
        return Err(Failure::said("nowhere to keep it"));
    };
    publish::say(&published, to);
    output::text(&format!("{}\n", published.digest))?;
    Ok(Exit::Done)
}

/// Owners as they are where root does it; others can only give files to themselves.
fn unpack(archive: &Path, dir: &Path) -> Outcome<()> {
    fs::create_dir_all(dir)
        .map_err(|error| Failure::doing(format_args!("make {}", dir.display()), &error))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--numeric-owner", "--same-permissions", "--file"])
        .arg(archive);
    checked(tar.arg("--directory").arg(dir), "unpack the changes")
}
