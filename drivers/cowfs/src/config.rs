//! The configuration file.
//!
//! ```toml
//! listen = "127.0.0.1:12049"      # TCP, for exports with clients; may be left out where every export has a socket
//! store = "templates"             # the template store; this is the default
//! control = "cowfs.sock"          # a control socket; none unless asked for
//! connections = 1024              # of each listener
//! lender = "lend.sock"            # where private files of directory layers are asked for (`xeno cowfs lend`)
//! user = "xeno"                   # who to be, where the server is started by root
//!
//! [links]                         # guests that have a network interface of this node each (`cowfs::link`)
//! listen = 2049                   # the port on which they are served; this is the default
//! table = "/run/xenoslice/links"  # a directory that says which interface is whose
//!
//! [sandbox]                       # directories that stacks made over the control socket may need
//! read = [ "/srv/overlays" ]
//! write = [ "/var/lib/xenoslice", "/run/xenoslice" ]
//! required = false                # whether to serve where the kernel cannot confine the server
//!
//! [[export]]
//! name = "/web"                   # the MOUNT path
//! clients = ["127.0.0.1"]
//! socket = "web.sock"             # a unix socket that leads to this export alone
//! link = "web-0"                  # the guest that reaches it through its link
//! writable = "w/web"              # a directory holding one writable layer; made when missing
//! quota = "1GiB"                  # most bytes of written content in it (B, KiB, MiB, GiB, TiB); none unless given
//! quota_inodes = 100000           # most objects made or changed in it; one for each 4 KiB of quota unless given
//! weight = 100                    # its share beside other busy exports, 1 to 10000; this is the default
//! layers = [ { dir = "L2" }, { dir = "L1" }, { template = "sha256:…" } ]      # nearest first
//! ```
//!
//! Relative paths are relative to the file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::export::{ClientAddress, ExportName, Weight};
use crate::link::LinkName;
use crate::service::LayerSource;
use crate::template::Digest;

/// The longest file taken.
const MAX_BYTES: u64 = 4 << 20;

/// Where NFS is served (RFC 1813 §2.2.1).
const NFS_PORT: u16 = 2049;

/// What a server is to serve. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// TCP address for exports that name clients.
    pub listen: Option<SocketAddr>,
    /// Directory of the template store.
    pub store: PathBuf,
    /// Control socket.
    pub control: Option<PathBuf>,
    /// Connections each listener takes at the same time.
    pub connections: usize,
    /// Socket of a lender of private files ([`crate::lend`]).
    pub lender: Option<PathBuf>,
    /// The user to serve as, where the server is started by root.
    pub user: Option<String>,
    /// How guests are served that have a link each.
    pub links: Option<LinksConfig>,
    /// What the server may touch beyond what its exports name.
    pub sandbox: Option<SandboxConfig>,
    /// What is exported from the start.
    pub exports: Vec<ExportConfig>,
}

/// Where the server may go, beside the places that its own configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Directories read from, with everything below: overlays.
    pub read: Vec<PathBuf>,
    /// Directories written to: of writable layers and of sockets.
    pub write: Vec<PathBuf>,
    /// Whether to end rather than to serve without a sandbox.
    pub required: bool,
}

/// How guests are served that have a link each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinksConfig {
    /// TCP port, on all interfaces.
    pub listen: u16,
    /// Directory that says which link is whose ([`crate::link::LinkTable`]).
    pub table: PathBuf,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportConfig {
    /// Its name, the MOUNT path.
    pub name: ExportName,
    /// Addresses that may reach it over TCP, as written.
    pub clients: Vec<String>,
    /// A unix socket of its own.
    pub socket: Option<PathBuf>,
    /// The link that leads to it.
    pub link: Option<LinkName>,
    /// Directory of its writable layer; without one it is read-only.
    pub writable: Option<PathBuf>,
    /// Most bytes of written content in it.
    pub quota_bytes: Option<u64>,
    /// Most objects made or changed in it.
    pub quota_inodes: Option<u64>,
    /// Its share of the server.
    pub weight: Weight,
    /// Read-only layers, nearest first.
    pub layers: Vec<LayerSource>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{} has more than {MAX_BYTES} bytes", .0.display())]
    TooLong(PathBuf),
    /// What it says is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, in words.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: Option<SocketAddr>,
    store: Option<PathBuf>,
    control: Option<PathBuf>,
    connections: Option<Spanned<usize>>,
    user: Option<String>,
    lender: Option<PathBuf>,
    links: Option<RawLinks>,
    sandbox: Option<RawSandbox>,
    #[serde(default)]
    export: Vec<RawExport>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLinks {
    listen: Option<NonZeroU16>,
    table: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSandbox {
    #[serde(default)]
    read: Vec<PathBuf>,
    #[serde(default)]
    write: Vec<PathBuf>,
    #[serde(default)]
    required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExport {
    name: Spanned<ExportName>,
    #[serde(default)]
    clients: Vec<Spanned<String>>,
    socket: Option<Spanned<PathBuf>>,
    link: Option<Spanned<LinkName>>,
    writable: Option<Spanned<PathBuf>>,
    quota: Option<Spanned<String>>,
    quota_inodes: Option<Spanned<u64>>,
    #[serde(default)]
    weight: Weight,
    #[serde(default)]
    layers: Vec<Spanned<LayerSource>>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`], with line and column where something in it is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let absolute = std::path::absolute(path).map_err(read)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    parse(&text, base).map_err(|(at, message)| {
        let (line, column) = position(&text, at);
        ConfigError::Invalid {
            path: path.to_owned(),
            line,
            column,
            message,
        }
    })
}

/// What is wrong, and at which byte.
type Complaint = (usize, String);

fn parse(text: &str, base: &Path) -> Result<Config, Complaint> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| {
        (
            error.span().map_or(0, |span| span.start),
            error.message().to_owned(),
        )
    })?;
    let at = |path: PathBuf| base.join(path);
    let mut names = BTreeSet::new();
    let mut writables = BTreeSet::new();
    let mut sockets: BTreeSet<PathBuf> = raw.control.iter().cloned().map(at).collect();
    let mut exports = Vec::new();
    for export in raw.export {
        let place = export.name.span().start;
        let name = export.name.into_inner();
        if !names.insert(name.clone()) {
            return Err((place, format!("there already is an export `{}`", name.path())));
        }
        for client in &export.clients {
            ClientAddress::parse(client.get_ref()).map_err(|why| (client.span().start, why.to_string()))?;
        }
        if !export.clients.is_empty() && raw.listen.is_none() {
            return Err((
                place,
                format!("export `{}` has clients, but there is no `listen`", name.path()),
            ));
        }
        if let (Some(link), None) = (&export.link, &raw.links) {
            let what = format!("export `{}` has a link, but there is no `[links]`", name.path());
            return Err((link.span().start, what));
        }
        if export.clients.is_empty() && export.socket.is_none() && export.link.is_none() {
            return Err((
                place,
                format!("export `{}` needs `clients`, a `socket` or a `link`", name.path()),
            ));
        }
        if export.layers.is_empty() && export.writable.is_none() {
            return Err((
                place,
                format!("export `{}` needs `layers` or a `writable`", name.path()),
            ));
        }
        let layers = export.layers.into_iter().map(|layer| {
            let place = layer.span().start;
            match layer.into_inner() {
                LayerSource::Dir(dir) => Ok(LayerSource::Dir(at(dir))),
                LayerSource::Template(text) => match text.parse::<Digest>() {
                    Ok(_) => Ok(LayerSource::Template(text)),
                    Err(why) => Err((place, why.to_string())),
                },
            }
        });
        let layers = layers.collect::<Result<_, Complaint>>()?;
        let quota_inodes = match export.quota_inodes {
            Some(inodes) if export.writable.is_none() || *inodes.get_ref() == 0 => {
                let what = "`quota_inodes` is at least 1, and bounds what is made in a `writable`";
                return Err((inodes.span().start, what.to_owned()));
            }
            inodes => inodes.map(Spanned::into_inner),
        };
        let quota_bytes = read_quota(export.quota, export.writable.is_some())?;
        exports.push(ExportConfig {
            quota_bytes,
            quota_inodes,
            weight: export.weight,
            clients: export.clients.into_iter().map(Spanned::into_inner).collect(),
            link: export.link.map(Spanned::into_inner),
            socket: unique(export.socket, base, &mut sockets, "socket")?,
            writable: unique(export.writable, base, &mut writables, "writable layer")?,
            layers,
            name,
        });
    }
    let connections = match raw.connections {
        Some(connections) if *connections.get_ref() == 0 || *connections.get_ref() > 1 << 20 => {
            return Err((
                connections.span().start,
                "`connections` is 1 to 1048576".to_owned(),
            ));
        }
        Some(connections) => connections.into_inner(),
        None => 1024,
    };
    Ok(Config {
        listen: raw.listen,
        store: at(raw.store.unwrap_or_else(|| "templates".into())),
        control: raw.control.map(at),
        connections,
        user: raw.user,
        lender: raw.lender.map(at),
        links: raw.links.map(|links| LinksConfig {
            listen: links.listen.map_or(NFS_PORT, NonZeroU16::get),
            table: at(links.table),
        }),
        sandbox: raw.sandbox.map(|sandbox| SandboxConfig {
            read: sandbox.read.into_iter().map(at).collect(),
            write: sandbox.write.into_iter().map(at).collect(),
            required: sandbox.required,
        }),
        exports,
    })
}

fn read_quota(quota: Option<Spanned<String>>, writable: bool) -> Result<Option<u64>, Complaint> {
    let Some(quota) = quota else {
        return Ok(None);
    };
    let place = quota.span().start;
    if !writable {
        return Err((
            place,
            "`quota` bounds what is written, and this export has no `writable`".to_owned(),
        ));
    }
    match crate::quota::parse(quota.get_ref()) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err((
            place,
            "`quota` is a whole number directly followed by B, KiB, MiB, GiB or TiB, such as `1GiB`"
                .to_owned(),
        )),
    }
}

/// Makes a path absolute; no two exports may have the same.
fn unique(
    path: Option<Spanned<PathBuf>>,
    base: &Path,
    known: &mut BTreeSet<PathBuf>,
    what: &str,
) -> Result<Option<PathBuf>, Complaint> {
    let Some(path) = path else {
        return Ok(None);
    };
    let place = path.span().start;
    let path = base.join(path.into_inner());
    if known.insert(path.clone()) {
        Ok(Some(path))
    } else {
        Err((place, format!("the {what} {} is used already", path.display())))
    }
}

/// Line and column of a byte, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, line: usize, column: usize, part: &str) {
        let (at, message) = parse(text, Path::new("/base")).expect_err(text);
        assert_eq!(position(text, at), (line, column), "{message}\n{text}");
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn a_whole_file() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let text = format!(
            r#"
            listen = "127.0.0.1:12049"
            [[export]]
            name = "/web"
            clients = ["127.0.0.1"]
            writable = "w/web"
            quota = "10MiB"
            quota_inodes = 5000
            weight = 200
            layers = [ {{ dir = "L2" }}, {{ dir = "/L1" }}, {{ template = "{digest}" }} ]
            "#
        );
        let config = parse(&text, Path::new("/base")).unwrap();
        assert_eq!(config.listen, Some("127.0.0.1:12049".parse().unwrap()));
        assert_eq!(config.store, Path::new("/base/templates"));
        assert_eq!((config.control, config.connections), (None, 1024));
        let expected = ExportConfig {
            name: ExportName::parse("web").unwrap(),
            clients: vec!["127.0.0.1".to_owned()],
            socket: None,
            link: None,
            writable: Some("/base/w/web".into()),
            quota_bytes: Some(10 << 20),
            quota_inodes: Some(5000),
            weight: Weight::new(200).unwrap(),
            layers: vec![
                LayerSource::Dir("/base/L2".into()),
                LayerSource::Dir("/L1".into()),
                LayerSource::Template(digest),
            ],
        };
        assert_eq!(config.exports, [expected]);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        check_refused("listen = 5", 1, 10, "socket address");
        check_refused("\nlissten = \"127.0.0.1:1\"", 2, 1, "unknown field `lissten`");
        check_refused("[[export]]\nname = \"/a/../b\"\n", 2, 8, "no part is `.` or `..`");
        let export = "[[export]]\nname = \"/a\"\nsocket = \"s\"\nlayers = [{ dir = \"x\" }]\n";
        check_refused(&format!("{export}{export}"), 6, 8, "already");
        check_refused(
            "[[export]]\nname = \"/a\"\nlayers = [{ dir = \"x\" }]",
            2,
            8,
            "needs `clients`",
        );
        check_refused(
            "[[export]]\nname = \"/a\"\nclients = [\"::1\"]\nlayers = [{ dir = \"x\" }]",
            2,
            8,
            "no `listen`",
        );
        check_refused(
            "[[export]]\nname = \"/a\"\nsocket = \"s\"",
            2,
            8,
            "needs `layers`",
        );
        check_refused(
            "[[export]]\nname = \"/a\"\nlayers = [{ template = \"current\" }]\nsocket = \"s\"",
            3,
            11,
            "digest",
        );
        check_refused(
            "[[export]]\nname = \"/a\"\nlayers = [{ dri = \"x\" }]",
            3,
            13,
            "dri",
        );
        check_refused(
            "control = \"s\"\n[[export]]\nname = \"a\"\nsocket = \"s\"\nwritable = \"w\"",
            4,
            10,
            "used already",
        );
        check_refused(
            "listen = \"[::]:1\"\n[[export]]\nname = \"a\"\nclients = [\"fe80::1\"]\nwritable = \"w\"",
            4,
            12,
            "link",
        );
        let links = "[links]\ntable = \"t\"\n";
        check_refused("[links]\nlisten = 0\ntable = \"t\"", 2, 10, "nonzero");
        check_refused("[links]\nlisten = 2049", 1, 1, "table");
        check_refused("[[export]]\nname = \"/a\"\nlink = \"a\"", 3, 8, "no `[links]`");
        check_refused(
            &format!("{links}[[export]]\nname = \"/a\"\nlink = \"a/0\""),
            5,
            8,
            "a name has",
        );
        let quota =
            |rest| format!("[[export]]\nname = \"a\"\nsocket = \"s\"\nlayers = [{{ dir = \"x\" }}]\n{rest}");
        check_refused(&quota("quota = \"1GiB\""), 5, 9, "no `writable`");
        check_refused(
            &quota("writable = \"w\"\nquota = \"1GB\""),
            6,
            9,
            "such as `1GiB`",
        );
        check_refused(&quota("writable = \"w\"\nquota = 1073741824"), 6, 9, "string");
        check_refused("listen =", 1, 9, "");
    }
}
