//! Ports of the node that lead to a guest, kept by nftables in dom0.
//!
//! There is one table, `ip xeno`, with one map from port to guest:
//!
//! ```text
//! 8080 : 100.77.1.2 . 80
//! ```
//!
//! and two chains that look into it, for what arrives and for what the node itself connects to, its loopback included
//! (that the answers find back is the hotplug script's doing: `vif-xeno`). All that is published for one guest is set by one
//! transaction of nft(8), which happens as a whole or not at all; a guest is known by its private address. A port on
//! which something of the node listens is not taken from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use xeno_model::desired::Publish;
use xeno_reconciler::ports::{PortError, PortResult};

/// How long nft(8) may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that is read of what nft(8) says: some 64,000 ports in JSON.
const SAID_MAX: u64 = 16 << 20;

/// The table, whether it is there or not: applying this again changes nothing, and the map stays as it is.
const TABLE: &str = "\
table ip xeno {
  map ports { type inet_service : ipv4_addr . inet_service; }
  chain prerouting { type nat hook prerouting priority -100; policy accept; }
  chain output { type nat hook output priority -100; policy accept; }
}
flush chain ip xeno prerouting
flush chain ip xeno output
add rule ip xeno prerouting fib daddr type local dnat ip to tcp dport map @ports
add rule ip xeno output fib daddr type local dnat ip to tcp dport map @ports
";

/// Where a published port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The guest's private address.
    pub guest: Ipv4Addr,
    /// The port there.
    pub port: u16,
}

/// All published ports of a node, by port.
pub type Published = BTreeMap<u16, Target>;

/// What has to be done so that exactly `wanted` is published for `guest`, or who is in the way. `None` if it is so.
///
/// # Errors
/// The port that leads to another guest.
pub fn change(
    there: &Published,
    guest: Ipv4Addr,
    wanted: &[Publish],
) -> Result<Option<String>, (u16, Target)> {
    let wanted: Published = wanted
        .iter()
        .map(|publish| {
            let port = publish.guest;
            (publish.host, Target { guest, port })
        })
        .collect();
    let others = there.iter().filter(|(_, target)| target.guest != guest);
    if let Some((&port, &target)) = others.into_iter().find(|&(port, _)| wanted.contains_key(port)) {
        return Err((port, target));
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (port, target) in there {
        if target.guest == guest && wanted.get(port) != Some(target) {
            let _ = writeln!(text, "delete element ip xeno ports {{ {port} }}");
        }
    }
    for (port, target) in &wanted {
        if there.get(port) != Some(target) {
            let Target { guest, port: to } = target;
            let _ = writeln!(text, "add element ip xeno ports {{ {port} : {guest} . {to} }}");
        }
    }
    Ok((!text.is_empty()).then(|| format!("{TABLE}{text}")))
}

/// Reads what `nft --json list map ip xeno ports` says.
///
/// # Errors
/// In words, where it has another form than that of libnftables-json(5): it was not looked at, then.
pub fn read_listing(json: &[u8]) -> Result<Published, String> {
    let listing: Listing = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let maps = listing.nftables.into_iter().filter_map(|object| object.map);
    let mut published = Published::new();
    for element in maps.flat_map(|map| map.elem) {
        let Element(port, Value { concat: (guest, to) }) = element;
        published.insert(port, Target { guest, port: to });
    }
    Ok(published)
}

/// Reads what `nft --json list tables` says, as `FAMILY NAME`.
///
/// # Errors
/// In words, where it has another form than that of libnftables-json(5).
pub fn read_tables(json: &[u8]) -> Result<BTreeSet<String>, String> {
    let listing: Listing = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let tables = listing.nftables.into_iter().filter_map(|object| object.table);
    Ok(tables
        .map(|Table { family, name }| format!("{family} {name}"))
        .collect())
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Table {
    family: String,
    name: String,
}

#[derive(Deserialize)]
struct Object {
    map: Option<Map>,
    table: Option<Table>,
}

#[derive(Deserialize)]
struct Map {
    #[serde(default)]
    elem: Vec<Element>,
}

#[derive(Deserialize)]
struct Element(u16, Value);

#[derive(Deserialize)]
struct Value {
    concat: (Ipv4Addr, u16),
}

/// Publishes ports of one node.
#[derive(Debug)]
pub struct Publisher {
    nft: Vec<String>,
    /// Looking and changing are one step.
    turn: Mutex<()>,
    /// Whether the table has been put to rights since the start.
    known: AtomicBool,
}

impl Publisher {
    /// With nft(8) as `nft` calls it: a program and its first arguments.
    #[must_use]
    pub fn new(nft: Vec<String>) -> Self {
        Self {
            nft,
            turn: Mutex::default(),
            known: AtomicBool::new(false),
        }
    }

    /// All that is published.
    ///
    /// # Errors
    /// [`PortError`] if it could not be seen.
    pub async fn observe(&self) -> PortResult<Published> {
        let _turn = self.turn.lock().await;
        self.look().await
    }

    /// Publishes exactly these ports for the guest with this private address. Nothing of other guests is touched.
    ///
    /// # Errors
    /// [`PortError`]; then nothing has changed.
    pub async fn set(&self, guest: Ipv4Addr, wanted: &[Publish]) -> PortResult<()> {
        let _turn = self.turn.lock().await;
        let there = self.look().await?;
        let change = change(&there, guest, wanted).map_err(|(port, target)| {
            PortError::later(format!(
                "port {port} is published for the guest with {}",
                target.guest
            ))
        })?;
        let Some(text) = change else {
            return Ok(());
        };
        for publish in wanted.iter().filter(|publish| !there.contains_key(&publish.host)) {
            free(publish.host)?;
        }
        self.run(&["-f", "-"], &text).await?;
        Ok(())
    }

    /// Takes all ports from the guest with this private address.
    ///
    /// # Errors
    /// [`PortError`]; then nothing has changed.
    pub async fn clear(&self, guest: Ipv4Addr) -> PortResult<()> {
        self.set(guest, &[]).await
    }

    /// All tables there are, as `FAMILY NAME`.
    ///
    /// # Errors
    /// [`PortError`] if it could not be seen.
    pub async fn tables(&self) -> PortResult<BTreeSet<String>> {
        let said = self.run(&["--json", "list", "tables"], "").await?;
        read_tables(&said).map_err(|why| PortError::later(format!("reading what nft lists: {why}")))
    }

    /// Makes the table if it is not there: what cannot be looked at cannot be told from what is not there. The first time it
    /// is put to rights in any case: another version may have made it.
    async fn look(&self) -> PortResult<Published> {
        let listing = ["--json", "list", "map", "ip", "xeno", "ports"];
        let listed = if self.known.load(Ordering::Relaxed) {
            self.run(&listing, "").await.ok()
        } else {
            None
        };
        let said = match listed {
            Some(said) => said,
            None => {
                self.run(&["-f", "-"], TABLE).await?;
                self.run(&listing, "").await?
            }
        };
        self.known.store(true, Ordering::Relaxed);
        read_listing(&said).map_err(|why| PortError::later(format!("reading what nft lists: {why}")))
    }

    /// Runs nft(8) with something to read, and returns what it says.
    async fn run(&self, arguments: &[&str], input: &str) -> PortResult<Vec<u8>> {
        let failed = |error: std::io::Error| PortError::later(format!("running nft: {error}"));
        let (program, first) = self
            .nft
            .split_first()
            .ok_or_else(|| PortError::never("no nft to run"))?;
        let mut child = Command::new(program)
            .args(first)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let whole = async {
            let write = async {
                if let Some(mut stdin) = stdin.take() {
                    // One that does not read its input says why.
                    let _written = stdin.write_all(input.as_bytes()).await;
                }
            };
            let read = async {
                match stdout {
                    Some(stdout) => stdout.take(SAID_MAX).read_to_end(&mut said).await.map(drop),
                    None => Ok(()),
                }
            };
            let complain = async {
                match stderr {
                    Some(stderr) => stderr.take(SAID_MAX).read_to_end(&mut complaint).await.map(drop),
                    None => Ok(()),
                }
            };
            let ((), read, complained) = tokio::join!(write, read, complain);
            read.and(complained)?;
            child.wait().await
        };
        let ended = tokio::time::timeout(PATIENCE, whole).await;
        let status = ended
            .map_err(|_elapsed| PortError::later("nft takes too long"))?
            .map_err(failed)?;
        if status.success() {
            Ok(said)
        } else {
            let complaint: String = String::from_utf8_lossy(&complaint).chars().take(500).collect();
            Err(PortError::later(format!("nft: {}", complaint.trim())))
        }
    }
}

/// Whether a port can be taken. What listens on it would not be reached any more: the operator's own way in, perhaps.
fn free(port: u16) -> PortResult<()> {
    if port == 0 {
        return Err(PortError::never("port 0 cannot be published"));
    }
    let taken = |error: std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    let used = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err_and(taken)
        || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_err_and(taken);
    if used {
        Err(PortError::later(format!(
            "something on this node listens on port {port}"
        )))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Ipv4Addr = Ipv4Addr::new(100, 77, 1, 2);
    const DB: Ipv4Addr = Ipv4Addr::new(100, 77, 9, 9);

    fn publish(host: u16, guest: u16) -> Publish {
        Publish { guest, host }
    }

    fn target(guest: Ipv4Addr, port: u16) -> Target {
        Target { guest, port }
    }

    #[test]
    fn only_what_differs_changes() {
        let there = Published::from([
            (8080, target(WEB, 80)),
            (8443, target(WEB, 443)),
            (5432, target(DB, 5432)),
        ]);
        let changed = |guest, wanted: &[Publish]| {
            let text = change(&there, guest, wanted).unwrap();
            text.map(|text| text.strip_prefix(TABLE).unwrap().to_owned())
        };
        assert_eq!(changed(WEB, &[publish(8080, 80), publish(8443, 443)]), None);
        assert_eq!(changed(DB, &[publish(5432, 5432)]), None);
        assert_eq!(
            changed(WEB, &[publish(8080, 81), publish(8081, 80)]).unwrap(),
            "delete element ip xeno ports { 8080 }\n\
             delete element ip xeno ports { 8443 }\n\
             add element ip xeno ports { 8080 : 100.77.1.2 . 81 }\n\
             add element ip xeno ports { 8081 : 100.77.1.2 . 80 }\n"
        );
        assert_eq!(
            changed(WEB, &[]).unwrap(),
            "delete element ip xeno ports { 8080 }\ndelete element ip xeno ports { 8443 }\n"
        );
        assert_eq!(
            change(&there, WEB, &[publish(5432, 80)]),
            Err((5432, target(DB, 5432)))
        );
    }

    #[test]
    fn what_nft_lists() {
        // nft 1.0.6 and 1.1.3 say the same.
        let some = br#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5",
            "json_schema_version": 1}}, {"map": {"family": "ip", "name": "ports", "table": "xeno", "type":
            "inet_service", "handle": 1, "map": ["ipv4_addr", "inet_service"], "elem": [[8080, {"concat":
            ["100.77.1.2", 80]}], [8443, {"concat": ["100.77.1.2", 443]}]]}}]}"#;
        let published = Published::from([(8080, target(WEB, 80)), (8443, target(WEB, 443))]);
        assert_eq!(read_listing(some), Ok(published));
        let none = br#"{"nftables": [{"metainfo": {}}, {"map": {"name": "ports"}}]}"#;
        assert_eq!(read_listing(none), Ok(Published::new()));
        let tables = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name":
            "xeno-links", "handle": 1}}, {"table": {"family": "netdev", "name": "xeno-vif3.0", "handle": 2}}]}"#;
        assert_eq!(
            read_tables(tables).unwrap().into_iter().collect::<Vec<_>>(),
            ["inet xeno-links", "netdev xeno-vif3.0"]
        );
        for odd in [
            "",
            "{}",
            r#"{"nftables": [{"map": {"elem": [[8080, "100.77.1.2"]]}}]}"#,
        ] {
            assert!(read_listing(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
