//! Links: which of the node's point-to-point network interfaces leads to which guest.
//!
//! Where every guest has an interface of its own, the kernel says through which one a connection came: the scope of a
//! link-local peer's address is the index of the interface (RFC 4007 §6, ipv6(7)). No packet can lie about that, so the
//! link is who the guest is. Names and indices of interfaces change whenever a guest starts, so whoever plugs them in
//! (a hotplug script) keeps a [`LinkTable`]: a directory with one small file for each, named by the index,
//!
//! ```text
//! version=1
//! link=web-0
//! address=fe80::216:3eff:fe12:3456
//! mac=00:16:3e:12:34:56
//! ```
//!
//! written under another name and renamed. Files survive a restart of the server, and need no order between it and
//! those who write them. What is not exactly of this form, or not safe from others, counts as not there.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::export::{BadName, check_name};

/// The longest file taken. What is needed has some 200 bytes, with the longest name.
const ENTRY_LEN_MAX: u64 = 512;

/// What a link is called: the same for a guest on every node and after every restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

impl LinkName {
    /// Takes a name: what an export may be called, but in one part.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        check_name(text)?;
        if text.contains('/') {
            return Err(BadName);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for LinkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for LinkName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text)
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

/// What is known of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: LinkName,
    /// The only address that its guest has on it.
    pub address: Ipv6Addr,
    /// The guest's MAC.
    pub mac: [u8; 6],
}

/// Why a link cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The file or the directory cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{} must belong to root or to the server, and nobody else may write to it", .0.display())]
    Unsafe(PathBuf),
    /// It is not a link's file.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The directory that says which link is whose.
#[derive(Clone, Debug)]
pub struct LinkTable {
    directory: PathBuf,
}

impl LinkTable {
    /// The table in a directory, which need not be there yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// What the table says about the interface with this index; `None` if nothing.
    ///
    /// # Errors
    /// [`LinkError`] where it says something that must not be believed.
    pub fn look_up(&self, index: u32) -> Result<Option<Link>, LinkError> {
        let failed = |path: &Path, error: rustix::io::Errno| LinkError::Read {
            path: path.to_owned(),
            source: error.into(),
        };
        // Not through a link that somebody put there, and without waiting for the writer of a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let path = &self.directory;
        let directory = match rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(path, error)),
        };
        trusted(
            &rustix::fs::fstat(&directory).map_err(|error| failed(path, error))?,
            path,
        )?;

        let name = index.to_string();
        let path = &path.join(&name);
        let file = match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(path, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(path, error))?;
        trusted(&stat, path)?;
        let malformed = |why| LinkError::Malformed {
            path: path.clone(),
            why,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(malformed("it is not a file"));
        }
        let mut text = String::new();
        let read = File::from(file).take(ENTRY_LEN_MAX + 1).read_to_string(&mut text);
        read.map_err(|source| LinkError::Read {
            path: path.clone(),
            source,
        })?;
        parse(&text).map(Some).map_err(malformed)
    }
}

/// Whether only root and the server could have written this.
fn trusted(stat: &Stat, path: &Path) -> Result<(), LinkError> {
    let own = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if own && stat.st_mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(LinkError::Unsafe(path.to_owned()))
    }
}

/// Reads a link's file: these lines in this order and nothing else.
fn parse(text: &str) -> Result<Link, &'static str> {
    if u64::try_from(text.len()).map_or(true, |len| len > ENTRY_LEN_MAX) {
        return Err("it is too long");
    }
    let Some(text) = text.strip_suffix('\n') else {
        return Err("its last line has no end");
    };
    let lines: Vec<&str> = text.split('\n').collect();
    let [version, name, address, mac] = lines[..] else {
        return Err("it does not have four lines");
    };
    if version != "version=1" {
        return Err("its first line is not `version=1`");
    }
    let name = name
        .strip_prefix("link=")
        .and_then(|name| LinkName::parse(name).ok());
    let address = address.strip_prefix("address=").and_then(parse_address);
    let mac = mac.strip_prefix("mac=").and_then(parse_mac);
    Ok(Link {
        name: name.ok_or("its second line is not `link=` and a name")?,
        address: address.ok_or("its third line is not `address=` and a link-local address of one machine")?,
        mac: mac.ok_or("its fourth line is not `mac=` and the MAC of one machine")?,
    })
}

fn parse_address(text: &str) -> Option<Ipv6Addr> {
    let address: Ipv6Addr = text.parse().ok()?;
    // In the one spelling that there is for each address (RFC 5952), so that two files are equal when they say the same.
    (address.is_unicast_link_local() && address.to_string() == text).then_some(address)
}

/// Six bytes of two lower-case digits each; neither a group's nor nobody's.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        let digits = |c: u8| c.is_ascii_digit() || matches!(c, b'a'..=b'f');
        if part.len() != 2 || !part.bytes().all(digits) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const GOOD: &str = "version=1\nlink=web-0\naddress=fe80::216:3eff:fe12:3456\nmac=00:16:3e:12:34:56\n";

    fn web() -> Link {
        Link {
            name: LinkName::parse("web-0").unwrap(),
            address: "fe80::216:3eff:fe12:3456".parse().unwrap(),
            mac: [0, 0x16, 0x3e, 0x12, 0x34, 0x56],
        }
    }

    #[test]
    fn a_file_has_one_form() {
        assert_eq!(parse(GOOD), Ok(web()));
        let check_refused = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            let text = GOOD.replacen(from, to, 1);
            assert!(parse(&text).is_err(), "{text:?}");
        };
        check_refused("version=1", "version=2");
        check_refused("version=1\n", "");
        check_refused("version=1\n", "\nversion=1\n");
        check_refused("web-0", "web/0");
        check_refused("web-0", "..");
        check_refused("web-0", "");
        check_refused("web-0", &"w".repeat(101));
        check_refused("web-0", "web-0\0");
        check_refused("web-0", "web-0\r");
        check_refused("web-0", " web-0");
        check_refused("fe80::216:3eff:fe12:3456", "fe80::216:3eff:fe12:3456%eth0");
        check_refused("fe80::216:3eff:fe12:3456", "fe80:0::216:3eff:fe12:3456");
        check_refused("fe80::216:3eff:fe12:3456", "2001:db8::1");
        check_refused("fe80::216:3eff:fe12:3456", "::ffff:10.0.0.1");
        check_refused("fe80::216:3eff:fe12:3456", "10.0.0.1");
        check_refused("00:16:3e:12:34:56", "01:16:3e:12:34:56");
        check_refused("00:16:3e:12:34:56", "00:00:00:00:00:00");
        check_refused("00:16:3e:12:34:56", "00:16:3E:12:34:56");
        check_refused("00:16:3e:12:34:56", "0:16:3e:12:34:56");
        check_refused("00:16:3e:12:34:56", "+0:16:3e:12:34:56");
        check_refused("00:16:3e:12:34:56", "00:16:3e:12:34");
        check_refused("00:16:3e:12:34:56", "00:16:3e:12:34:56:78");
        check_refused("34:56\n", "34:56");
        check_refused("34:56\n", "34:56\n\n");
        check_refused("34:56\n", "34:56\nlink=db-0\n");
        assert!(parse("").is_err());
        assert!(parse(&"\n".repeat(600)).is_err());
    }

    #[test]
    fn only_what_nobody_else_could_have_written_is_believed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("links");
        let table = LinkTable::new(&directory);
        assert_eq!(table.look_up(7).unwrap(), None, "no directory, no links");

        std::fs::create_dir(&directory).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&directory, 0o755);
        assert_eq!(table.look_up(7).unwrap(), None);
        let file = directory.join("7");
        std::fs::write(&file, GOOD).unwrap();
        mode(&file, 0o644);
        assert_eq!(table.look_up(7).unwrap(), Some(web()));
        assert_eq!(table.look_up(8).unwrap(), None);

        mode(&file, 0o664);
        assert!(matches!(table.look_up(7), Err(LinkError::Unsafe(_))));
        mode(&file, 0o644);
        mode(&directory, 0o777);
        assert!(matches!(table.look_up(7), Err(LinkError::Unsafe(_))));
        mode(&directory, 0o755);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
            assert!(matches!(table.look_up(7), Err(LinkError::Unsafe(_))));
            std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        }

        std::fs::rename(&file, directory.join("elsewhere")).unwrap();
        symlink("elsewhere", &file).unwrap();
        assert!(matches!(table.look_up(7), Err(LinkError::Read { .. })));
        std::fs::create_dir(directory.join("9")).unwrap();
        mode(&directory.join("9"), 0o755);
        assert!(matches!(table.look_up(9), Err(LinkError::Malformed { .. })));
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("10"), Mode::from_raw_mode(0o600)).unwrap();
        assert!(matches!(table.look_up(10), Err(LinkError::Malformed { .. })));
        std::fs::write(directory.join("11"), vec![b'x'; 1 << 20]).unwrap();
        assert!(matches!(table.look_up(11), Err(LinkError::Malformed { .. })));
    }
}
