//! What the kernel is asked to mount: a URL, read as strictly as if nobody had before, and the options of one policy.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_model::desired::{Access, Remote};
use xeno_model::id::Digest;

use crate::config::{Away, NfsVersion, RemotesConfig};

/// The longest URL taken: paths end at 4096 bytes (PATH_MAX), and options at a page with all of it.
const URL_MAX: usize = 1024;

/// How often a read is sent again where it may fail, within its time.
const RETRANS: u32 = 3;

/// What kinds of remote file systems there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `nfs://HOST/PATH`.
    Nfs {
        /// Name or address, without brackets.
        host: String,
        /// As the server exports it, from `/`.
        path: String,
    },
    /// `afs:CELL/PATH`, where the path leads from the cell's root volume.
    Afs {
        /// The cell.
        cell: String,
        /// Path in it, relative.
        path: PathBuf,
    },
}

/// A remote directory that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Which.
    pub(super) remote: Remote,
    /// Its parts.
    pub(super) kind: Kind,
}

/// One try to mount it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// File system type.
    pub(super) fstype: &'static str,
    /// What is mounted.
    pub(super) source: String,
    /// Options for mount(8).
    pub(super) options: String,
}

/// The URL is none that is mounted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{url} is no remote directory: write nfs://HOST/PATH or afs:CELL/PATH, without `.`, `..`, user, port or options"
)]
pub(super) struct BadUrl {
    url: String,
}

impl Request {
    /// Reads a URL. Manifests are checked when they are pushed; this is root's own look at what it is about to do.
    pub(super) fn of(remote: &Remote) -> Result<Self, BadUrl> {
        let kind = read(&remote.url).ok_or_else(|| BadUrl {
            // Whatever stands before an `@` may be a password.
            url: remote
                .url
                .rsplit_once('@')
                .map_or_else(|| remote.url.clone(), |(_, rest)| format!("…@{rest}")),
        })?;
        let remote = remote.clone();
        Ok(Self { remote, kind })
    }

    /// The name of its directory and of its record.
    pub(super) fn name(&self) -> String {
        Digest::of(self.remote.to_string().as_bytes()).to_string()[..32].to_owned()
    }

    /// Whether what somebody mounted is what this asks for.
    pub(super) fn is(&self, fstype: &str, source: &str) -> bool {
        match &self.kind {
            Kind::Nfs { .. } => matches!(fstype, "nfs" | "nfs4") && source == self.source(),
            Kind::Afs { .. } => fstype == "afs" && source == self.source(),
        }
    }

    /// The layer within what is mounted.
    pub(super) fn layer(&self, mounted: &Path) -> PathBuf {
        match &self.kind {
            Kind::Nfs { .. } => mounted.to_owned(),
            Kind::Afs { path, .. } => mounted.join(path),
        }
    }

    fn source(&self) -> String {
        match &self.kind {
            Kind::Nfs { host, path } if host.contains(':') => format!("[{host}]:{path}"),
            Kind::Nfs { host, path } => format!("{host}:{path}"),
            // `%` asks for the volume that can be written, `#` for a copy that is only read (Linux, afs.rst).
            Kind::Afs { cell, .. } => match self.remote.access {
                Access::ReadOnly => format!("#{cell}:root.cell."),
                Access::ReadWrite => format!("%{cell}:root.cell."),
            },
        }
    }

    /// How to mount it, in the order of the tries; `address` is what the host's name stands for.
    pub(super) fn tries(&self, address: Option<IpAddr>, config: &RemotesConfig) -> Vec<Try> {
        let access = match self.remote.access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        // Nothing in it is for dom0: no programs, no devices, nobody's rights.
        let common = format!("{access},nosuid,nodev,noexec");
        let source = self.source();
        match &self.kind {
            Kind::Afs { .. } => vec![Try {
                fstype: "afs",
                source,
                options: common,
            }],
            Kind::Nfs { .. } => {
                // Locks of what is written need version 4. Errors in time need version 3: a call of version 4 fails only once
                // its connection is known to be broken, and then waits for its lease (`rpc_check_timeout` in
                // net/sunrpc/clnt.c; 115 s and more on 6.1 where 6 s were asked for).
                let able = |version: &&NfsVersion| match (self.remote.access, config.away) {
                    (Access::ReadWrite, _) => **version != NfsVersion::V3,
                    (Access::ReadOnly, Away::Fail(_)) => **version == NfsVersion::V3,
                    (Access::ReadOnly, Away::Wait) => true,
                };
                let versions = config.nfs.iter().filter(able);
                let one = |version: &NfsVersion| Try {
                    fstype: "nfs",
                    source: source.clone(),
                    options: format!("{common},{}", self.nfs_options(*version, address, config.away)),
                };
                versions.map(one).collect()
            }
        }
    }

    fn nfs_options(&self, version: NfsVersion, address: Option<IpAddr>, away: Away) -> String {
        let six = address.is_some_and(|address| address.is_ipv6());
        let proto = if six { "tcp6" } else { "tcp" };
        let mut options = format!("vers={},proto={proto},sec=sys", version.word());
        if version == NfsVersion::V3 {
            // Nothing is locked in what is only read. Without it the kernel asks for a daemon that nobody started.
            let _ = write!(options, ",mountproto={proto},nolock");
        }
        if self.remote.access == Access::ReadOnly {
            // The file server looks itself whether a file is the one it took note of. Asking at each opening too costs a guest
            // behind a slow line a question for each file, and a snapshot one for each directory.
            options.push_str(",nocto");
        }
        match away {
            Away::Fail(after) if self.remote.access == Access::ReadOnly => {
                let tenths = tenths(after) / u128::from(RETRANS + 1);
                let _ = write!(options, ",softerr,timeo={},retrans={RETRANS}", tenths.max(1));
            }
            Away::Fail(_) | Away::Wait => options.push_str(",hard"),
        }
        if let Some(address) = address {
            let _ = write!(options, ",addr={address}");
        }
        options
    }
}

/// In the unit of `timeo`.
fn tenths(time: Duration) -> u128 {
    time.as_millis() / 100
}

fn read(url: &str) -> Option<Kind> {
    if url.len() > URL_MAX || url.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    if let Some(rest) = url.strip_prefix("nfs://") {
        let (host, path) = rest.split_once('/')?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok().then_some(six)?,
            None => host,
        };
        let path = format!("/{path}");
        let whole = is_host(host) && (path == "/" || parts(&path[1..]));
        return whole.then(|| Kind::Nfs {
            host: host.to_owned(),
            path,
        });
    }
    let (cell, path) = url.strip_prefix("afs:")?.split_once('/')?;
    let whole = is_name(cell) && (path.is_empty() || parts(path));
    whole.then(|| Kind::Afs {
        cell: cell.to_owned(),
        path: path.into(),
    })
}

fn parts(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_host(host: &str) -> bool {
    is_name(host) || host.parse::<IpAddr>().is_ok()
}

fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_write(url: &str) -> Remote {
        Remote {
            url: url.to_owned(),
            access: Access::ReadWrite,
        }
    }

    fn check(remote: &Remote, away: Away, expected: &[(&str, &str, &str)]) {
        let config = RemotesConfig {
            away,
            ..RemotesConfig::default()
        };
        let tries = Request::of(remote)
            .unwrap()
            .tries("192.0.2.7".parse().ok(), &config);
        let tries: Vec<_> = tries
            .iter()
            .map(|one| (one.fstype, one.source.as_str(), one.options.as_str()))
            .collect();
        assert_eq!(tries, expected);
    }

    #[test]
    fn what_is_read_is_mounted_without_any_right_and_waits() {
        let safe = "ro,nosuid,nodev,noexec";
        check(
            &Remote::to_read("nfs://store.example/acme/apache"),
            Away::Wait,
            &[
                (
                    "nfs",
                    "store.example:/acme/apache",
                    &format!("{safe},vers=4.2,proto=tcp,sec=sys,nocto,hard,addr=192.0.2.7"),
                ),
                (
                    "nfs",
                    "store.example:/acme/apache",
                    &format!("{safe},vers=4.1,proto=tcp,sec=sys,nocto,hard,addr=192.0.2.7"),
                ),
                (
                    "nfs",
                    "store.example:/acme/apache",
                    &format!(
                        "{safe},vers=3,proto=tcp,sec=sys,mountproto=tcp,nolock,nocto,hard,addr=192.0.2.7"
                    ),
                ),
            ],
        );
        check(
            &Remote::to_read("afs:example.org/user/x"),
            Away::Wait,
            &[("afs", "#example.org:root.cell.", safe)],
        );
    }

    #[test]
    fn what_is_read_may_fail_and_what_is_written_never_does() {
        let config = RemotesConfig {
            away: Away::Fail(Duration::from_secs(20)),
            ..RemotesConfig::default()
        };
        let options = |remote: &Remote| -> Vec<String> {
            let tries = Request::of(remote).unwrap().tries(None, &config);
            tries.into_iter().map(|one| one.options).collect()
        };
        let read = options(&Remote::to_read("nfs://store.example/a"));
        // By the one protocol of which the kernel keeps that.
        assert_eq!(
            read,
            [
                "ro,nosuid,nodev,noexec,vers=3,proto=tcp,sec=sys,mountproto=tcp,nolock,nocto,softerr,timeo=50,retrans=3"
            ]
        );
        let write = options(&to_write("nfs://store.example/a"));
        // Nor by a protocol whose locks nobody keeps.
        assert_eq!(write.len(), 2, "{write:?}");
        assert!(
            write
                .iter()
                .all(|options| options.starts_with("rw,") && options.ends_with(",hard")),
            "{write:?}"
        );
    }

    #[test]
    fn an_address_of_ipv6_is_asked_by_ipv6() {
        let request = Request::of(&Remote::to_read("nfs://[2001:db8::7]/a")).unwrap();
        let tries = request.tries("2001:db8::7".parse().ok(), &RemotesConfig::default());
        assert_eq!(tries[0].source, "[2001:db8::7]:/a");
        assert!(tries[0].options.contains("proto=tcp6,"), "{}", tries[0].options);
        assert!(
            tries[0].options.ends_with("addr=2001:db8::7"),
            "{}",
            tries[0].options
        );
    }

    #[test]
    fn nothing_else_is_mounted() {
        for url in [
            "nfs://store.example",
            "nfs:///a",
            "nfs://store.example/a/../b",
            "nfs://store.example/./a",
            "nfs://store.example/a//b",
            "nfs://store.example/a\n",
            "nfs://-o/a",
            "nfs://a,suid/b",
            "nfs://user:secret@store.example/a",
            "nfs://store.example:2049/a",
            "nfs://[nonsense]/a",
            "afs:/a",
            "afs:-x/a",
            "afs:example.org/../a",
            "file:///srv/a",
            "/srv/a",
            "-t",
        ] {
            let refused = Request::of(&Remote::to_read(url)).unwrap_err().to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
        assert!(Request::of(&Remote::to_read(&format!("nfs://a/{}", "b".repeat(2000)))).is_err());
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let read = Request::of(&Remote::to_read("nfs://store.example/a")).unwrap();
        let write = Request::of(&to_write("nfs://store.example/a")).unwrap();
        assert_ne!(read.name(), write.name());
        assert_eq!(read.name().len(), 32);
        assert!(read.is("nfs4", "store.example:/a") && read.is("nfs", "store.example:/a"));
        assert!(!read.is("nfs4", "store.example:/b") && !read.is("tmpfs", "store.example:/a"));
    }
}
