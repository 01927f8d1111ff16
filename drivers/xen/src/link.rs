//! A guest's link to its node: the MAC and the addresses that follow from the identity of its domain. Pure.
//!
//! A link has two ends and no bridge. The guest's MAC and both of its own addresses are hashes of its domain's UUID, so they are
//! the same on every node and nobody has to hand them out; the node's end is the same on every link of every node
//! ([`SERVER`], [`GATEWAY`], [`NODE_MAC`]), so a guest that is moved finds what it knows. Who a guest is does not depend on
//! them, but on the interface that its packets come through; the hotplug script `vif-xeno` sees to it that nothing else
//! comes through it.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xeno_model::id::{Digest, DomainUuid};

/// The file server's address on every link.
pub const SERVER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The guest's default route in IPv4: the node's address on every link. Link-local (RFC 3927), so it means no other machine
/// that a guest could want.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The MAC of the node's end of every link: what Linux' netback gives its interfaces.
pub const NODE_MAC: Mac = Mac([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);

/// A domain of ours begins with this.
const DOMAIN_PREFIX: &str = "xeno.";

/// What `xl` puts behind the name of a domain that is being received.
const INCOMING: &str = "--incoming";

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Mac {
    /// The link-local address that goes with it (RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, g] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair(a ^ 2, b),
            pair(c, 0xff),
            pair(0xfe, d),
            pair(e, g),
        )
    }
}

/// A guest's end of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLink {
    /// Its MAC.
    pub mac: Mac,
    /// Its address towards the file server.
    pub link_local: Ipv6Addr,
    /// Its private address, from the range for what is not seen outside (RFC 6598), with no prefix.
    pub ipv4: Ipv4Addr,
}

/// Two guests of one node would have the same MAC or address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its {what} {value} is also that of {other}: give the slice another name, or place it on another node"
)]
pub struct Collision {
    /// What they would share.
    what: &'static str,
    /// The shared value.
    value: String,
    /// The guest that has it.
    other: String,
}

impl GuestLink {
    /// The link of a domain.
    #[must_use]
    pub fn of(uuid: DomainUuid) -> Self {
        let Digest(hash) = Digest::of(format!("xenoslice link\n{uuid}").as_bytes());
        // Xen's own range (xl-network-configuration(5)).
        let mac = Mac([0x00, 0x16, 0x3e, hash[0], hash[1], hash[2]]);
        // 22 bits below 100.64.0.0/10, without the first and the last.
        let low = u32::from_be_bytes([0, hash[3] & 0x3f, hash[4], hash[5]]).clamp(1, 0x003f_fffe);
        Self {
            mac,
            link_local: mac.link_local(),
            ipv4: Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() | low),
        }
    }

    /// Whether this guest can be on one node with the others, each named.
    ///
    /// # Errors
    /// [`Collision`] with the first that has its MAC or its address.
    pub fn beside<'a>(&self, others: impl IntoIterator<Item = (&'a str, Self)>) -> Result<(), Collision> {
        for (name, other) in others {
            let shared = if self.ipv4 == other.ipv4 {
                Some(("address", self.ipv4.to_string()))
            } else if self.mac == other.mac {
                Some(("MAC", self.mac.to_string()))
            } else {
                None
            };
            if let Some((what, value)) = shared {
                return Err(Collision {
                    what,
                    value,
                    other: name.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What the hotplug script reads from `/run/xenoslice/vif/LINK.conf`; `public` are addresses that the guest has beside
    /// its own.
    #[must_use]
    pub fn script_config(&self, public: &[IpAddr]) -> String {
        let mut text = format!(
            "version=1\nmac={}\naddress={}\nipv4={}\n",
            self.mac, self.link_local, self.ipv4
        );
        for address in public {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "public={address}");
        }
        text
    }

    /// The words of the kernel's command line by which a guest sets up its end, as `cowfs::guest`'s initramfs reads them.
    #[must_use]
    pub fn kernel_words(&self, public: &[IpAddr]) -> Vec<String> {
        let mut words = vec![format!("xeno.addr={}/32", self.ipv4)];
        words.extend(public.iter().map(|address| match address {
            IpAddr::V4(address) => format!("xeno.addr={address}/32"),
            IpAddr::V6(address) => format!("xeno.addr={}/128", address.to_string().replace(':', "%3A")),
        }));
        let server = SERVER.to_string().replace(':', "%3A");
        if public.iter().any(IpAddr::is_ipv6) {
            // Before the other: of two an older initramfs takes the last.
            words.push(format!("xeno.gateway={server}"));
        }
        words.push(format!("xeno.gateway={GATEWAY}"));
        words.push(format!("xeno.server={server}%25eth0"));
        words
    }
}

/// The link's name: that of the domain without what marks it as ours, or as being received. `None` if it is not ours.
#[must_use]
pub fn link_name(domain: &str) -> Option<&str> {
    let name = domain.strip_prefix(DOMAIN_PREFIX)?;
    Some(name.strip_suffix(INCOMING).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_link_follows_from_the_domain() {
        let link = GuestLink::of(DomainUuid([0x8a; 16]));
        assert_eq!(link, GuestLink::of(DomainUuid([0x8a; 16])));
        assert_ne!(link, GuestLink::of(DomainUuid([0x8b; 16])));
        let mac = Mac([0x00, 0x16, 0x3e, 0x12, 0x34, 0x56]);
        assert_eq!(mac.to_string(), "00:16:3e:12:34:56");
        assert_eq!(mac.link_local().to_string(), "fe80::216:3eff:fe12:3456");
    }

    #[test]
    fn all_links_are_of_their_ranges() {
        let mut seen = BTreeSet::new();
        for n in 0..2000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut uuid = [0x8a; 16];
            (uuid[0], uuid[15]) = (high, low);
            let link = GuestLink::of(DomainUuid(uuid));
            assert_eq!(link.mac.0[..3], [0x00, 0x16, 0x3e]);
            assert!(link.link_local.is_unicast_link_local() && link.link_local != SERVER);
            let [a, b, ..] = link.ipv4.octets();
            assert!(a == 100 && (64..128).contains(&b), "{}", link.ipv4);
            seen.insert(link.ipv4);
        }
        assert!(seen.len() > 1990, "{}", seen.len());
    }

    #[test]
    fn what_two_guests_would_share_is_named() {
        let link = GuestLink::of(DomainUuid([1; 16]));
        let other = GuestLink::of(DomainUuid([2; 16]));
        assert_eq!(link.beside([("db/0", other)]), Ok(()));
        let same_mac = GuestLink {
            mac: link.mac,
            ..other
        };
        let said = link
            .beside([("db/0", other), ("mail/3", same_mac)])
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("MAC 00:16:3e:") && said.contains("mail/3"),
            "{said}"
        );
        let same_address = GuestLink {
            ipv4: link.ipv4,
            ..other
        };
        let said = link.beside([("db/0", same_address)]).unwrap_err().to_string();
        assert!(said.contains("address 100.") && said.contains("db/0"), "{said}");
    }

    #[test]
    fn texts_for_the_script_and_the_guest() {
        let mac = Mac([0x00, 0x16, 0x3e, 0x12, 0x34, 0x56]);
        let link = GuestLink {
            mac,
            link_local: mac.link_local(),
            ipv4: Ipv4Addr::new(100, 77, 1, 2),
        };
        let public: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(
            link.script_config(&public),
            "version=1\nmac=00:16:3e:12:34:56\naddress=fe80::216:3eff:fe12:3456\nipv4=100.77.1.2\n\
             public=192.0.2.7\npublic=2001:db8::7\n"
        );
        assert_eq!(
            link.kernel_words(&public).join(" "),
            "xeno.addr=100.77.1.2/32 xeno.addr=192.0.2.7/32 xeno.addr=2001%3Adb8%3A%3A7/128 \
             xeno.gateway=fe80%3A%3A1 xeno.gateway=169.254.1.1 xeno.server=fe80%3A%3A1%25eth0"
        );
    }

    #[test]
    fn names_of_links() {
        assert_eq!(link_name("xeno.web-0"), Some("web-0"));
        assert_eq!(link_name("xeno.web-0b--incoming"), Some("web-0b"));
        assert_eq!(link_name("web-0"), None);
        assert_eq!(link_name("Domain-0"), None);
    }
}
