//! How a guest is wired to its node.

use xeno_model::id::{Digest, DomainUuid};

use crate::spec::Wire;

/// Address of the file server on every guest's link; the interface is the guest's only one.
const SERVER: &str = "fe80::1%eth0";

/// The wire of the domain with this UUID.
pub(crate) fn of(uuid: &DomainUuid, script: &str) -> Wire {
    let digest = Digest::of(format!("xenoslice mac\n{uuid}").as_bytes());
    let [a, b, c, ..] = digest.0;
    Wire {
        // The range of Xen (IEEE OUI 00:16:3e).
        mac: format!("00:16:3e:{a:02x}:{b:02x}:{c:02x}"),
        addresses: Vec::new(),
        server: SERVER.to_owned(),
        script: script.to_owned(),
    }
}
