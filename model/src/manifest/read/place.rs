//! Places outside the repository: directories of nodes, remote file systems, template stores, hosts.

use super::{FromText, TextError, normal};
use crate::diagnostic::nearest;

/// A directory that others than guests fill: of the node, or of a remote file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// `file:///srv/overlays/acme`, kept as a path.
    Node(String),
    /// `nfs://HOST/PATH` or `afs:CELL/PATH`, kept as it is.
    Remote(String),
}

impl FromText for Overlay {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if let Some(path) = node_path(text) {
            return Ok(Self::Node(path.to_owned()));
        }
        if remote(text) {
            return Ok(Self::Remote(text.to_owned()));
        }
        Err(TextError::new(
            text,
            "an overlay",
            "write the absolute path of a directory on the node, file:///srv/overlays/acme, or nfs://HOST/PATH or afs:CELL/PATH",
        ))
    }
}

/// Where the writes of a mount go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    /// To the node's disk.
    Local,
    /// To its memory.
    Memory,
    /// Nowhere.
    Nowhere,
    /// To a directory elsewhere; `{sliver}` stands for the sliver.
    Url(String),
}

/// What stands for the sliver in a URL.
pub(crate) const SLIVER_PLACE: &str = "{sliver}";

impl FromText for Writable {
    fn from_text(text: &str) -> Result<Self, TextError> {
        // The sliver's name is a path component like any other.
        let filled = text.replace(SLIVER_PLACE, "x");
        match text {
            "local" => Ok(Self::Local),
            "memory" => Ok(Self::Memory),
            "none" => Ok(Self::Nowhere),
            _ if !filled.contains(['{', '}']) && (node_path(&filled).is_some() || remote(&filled)) => {
                Ok(Self::Url(text.to_owned()))
            }
            _ => {
                let near = nearest(text, ["local", "memory", "none"]);
                let help = "write `local`, `memory`, `none`, or a URL: nfs://HOST/PATH/{sliver}";
                let mut error = TextError::new(text, "a place for writes", help);
                if let Some(near) = near {
                    error.help = Some(format!("did you mean `{near}`? ({help})"));
                }
                Err(error)
            }
        }
    }
}

/// The path of `file:///PATH`.
fn node_path(text: &str) -> Option<&str> {
    let path = text.strip_prefix("file://")?;
    path.strip_prefix('/').filter(|rest| normal(rest))?;
    Some(path)
}

/// Whether a text is `nfs://HOST/PATH` (RFC 2224, without a port) or `afs:CELL/PATH`.
fn remote(text: &str) -> bool {
    let (rest, cell) = match (text.strip_prefix("nfs://"), text.strip_prefix("afs:")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return false,
    };
    rest.split_once('/')
        .is_some_and(|(host, path)| (if cell { host_name(host) } else { address(host) }) && normal(path))
}

/// Whether a text is a host name (RFC 1123 §2.1).
fn host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a text is a host name or an IP address; one of IPv6 may be in brackets.
fn address(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    match bare {
        Some(bare) => v6(bare),
        None => host_name(text) || v6(text),
    }
}

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) String);

impl FromText for Address {
    fn from_text(text: &str) -> Result<Self, TextError> {
        // A name of numbers only is an address that somebody has mistyped (RFC 3696 §2).
        let numbers = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let right = match numbers {
            true => text.parse::<std::net::Ipv4Addr>().is_ok(),
            false => !text.starts_with('[') && address(text),
        };
        if right {
            return Ok(Self(text.to_owned()));
        }
        Err(TextError::new(
            text,
            "a host",
            "write a host name or an IP address, without a port: cam-01.example, 192.0.2.7",
        ))
    }
}

/// Where a template can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateSource(pub(crate) String);

impl FromText for TemplateSource {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if let Some(later) = later_scheme(text) {
            return Err(later);
        }
        let path = text.strip_prefix("file:///").filter(|rest| normal(rest));
        path.map(|_| Self(text.to_owned())).ok_or_else(|| {
            let help = "write the absolute path of a template store: file:///srv/templates";
            TextError::new(text, "a source of templates", help)
        })
    }
}

fn later_scheme(text: &str) -> Option<TextError> {
    let (scheme, _) = text.split_once(':')?;
    matches!(scheme, "nfs" | "afs" | "oci" | "https").then(|| TextError {
        message: format!("`{scheme}:` is not available in this version"),
        help: Some("only file:///… is".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_where_they_are_meant_and_nowhere_else() {
        for text in [
            "local",
            "memory",
            "none",
            "file:///srv/x/{sliver}",
            "nfs://store.example/a/{sliver}/b",
            "nfs://[2001:db8::7]/a",
            "afs:example.org/user/x",
        ] {
            assert!(Writable::from_text(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "Local",
            "file:///",
            "file:///srv/../etc",
            "file://host/srv",
            "nfs://store.example",
            "nfs://store.example/",
            "nfs://user@store.example/a",
            "nfs://store.example:2049/a",
            "nfs:///a",
            "nfs://-x/a",
            "afs:/a",
            "afs:example.org/a//b",
            "nfs://{sliver}.example/{node}",
            "nfs://store.example/a\nb",
        ] {
            assert!(Writable::from_text(text).is_err(), "{text}");
        }
        for text in ["cam-01", "cam-01.example", "192.0.2.7", "2001:db8::7"] {
            assert!(Address::from_text(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "cam_01",
            "cam-01:22",
            "192.0.2.256",
            "192.0.2",
            "[2001:db8::7]",
            "a b",
            ".",
            "x..y",
        ] {
            assert!(Address::from_text(text).is_err(), "{text}");
        }
    }
}
