//! Ranges of public addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that begin with the same bits (CIDR, RFC 4632 §3.1; RFC 4291 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// The range whose first address this is; `None` where it has bits beyond those that all have in common.
    #[must_use]
    pub fn new(first: IpAddr, bits: u8) -> Option<Self> {
        let (bits_max, within) = match first {
            IpAddr::V4(first) => (32, u128::from(first.to_bits()) << 96),
            IpAddr::V6(first) => (128, first.to_bits()),
        };
        let whole = bits <= bits_max && within.checked_shl(u32::from(bits)).unwrap_or(0) == 0;
        whole.then_some(Self { first, bits })
    }

    /// As it is written: `203.0.113.0/24`, and one address alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => {
                let digits = (1..=3).contains(&bits.len()) && bits.bytes().all(|b| b.is_ascii_digit());
                (first, digits.then(|| bits.parse().ok())?)
            }
            None => (text, None),
        };
        let first: IpAddr = first.parse().ok()?;
        let whole = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits,
            None if text.contains('/') => return None,
            None => whole,
        };
        Self::new(first, bits)
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| (a ^ b) >> (width - u32::from(self.bits)) == 0;
        match (self.first, address) {
            _ if self.bits == 0 => self.first.is_ipv4() == address.is_ipv4(),
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// Whether others can reach a guest at an address: one machine's, and neither the machine itself nor the link, nor of the
/// range that guests have their private addresses from (RFC 6598).
#[must_use]
pub fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let own = u32::from(Ipv4Addr::new(100, 64, 0, 0));
            let private = (address.to_bits() ^ own) >> 22 == 0;
            let first = address.octets()[0];
            !(private || address.is_loopback() || address.is_link_local() || first == 0 || first >= 224)
        }
        IpAddr::V6(address) => {
            let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            let mapped = address.to_ipv4_mapped().is_some();
            !(link_local
                || mapped
                || address == Ipv6Addr::UNSPECIFIED
                || address.is_loopback()
                || address.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, holds: &[&str], not: &[&str]) {
        let range = AddressRange::parse(range).unwrap();
        let holds_it = |address: &&&str| range.holds(address.parse().unwrap());
        assert_eq!(holds.iter().find(|address| !holds_it(address)), None, "{range}");
        assert_eq!(not.iter().find(holds_it), None, "{range}");
    }

    #[test]
    fn a_range_holds_what_begins_as_it_does() {
        check(
            "203.0.113.0/24",
            &["203.0.113.0", "203.0.113.255"],
            &["203.0.114.0", "203.0.112.255", "::"],
        );
        check("203.0.113.7", &["203.0.113.7"], &["203.0.113.6", "203.0.113.8"]);
        check("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::1"]);
        check(
            "2001:db8::/64",
            &["2001:db8::", "2001:db8::ffff:1"],
            &["2001:db8:0:1::", "192.0.2.1"],
        );
        check("2001:db8::7/128", &["2001:db8::7"], &["2001:db8::6"]);
        check("::/0", &["::", "ff::1"], &["1.2.3.4"]);
    }

    #[test]
    fn a_range_is_written_in_one_way() {
        for wrong in [
            "203.0.113.7/24",
            "203.0.113.0/33",
            "2001:db8::1/64",
            "::/129",
            "203.0.113.0/",
            "203.0.113.0/+8",
            "10/8",
            "",
            "a",
            "1.2.3.4/8/8",
        ] {
            assert_eq!(AddressRange::parse(wrong), None, "{wrong}");
        }
        let range = AddressRange::parse("203.0.113.0/24").unwrap();
        assert_eq!(range.to_string(), "203.0.113.0/24");
    }

    #[test]
    fn what_others_reach() {
        for (address, expected) in [
            ("203.0.113.7", true),
            ("10.1.2.3", true),
            ("2001:db8::7", true),
            ("fd00::7", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("fe80::1", false),
            ("::1", false),
            ("::", false),
            ("ff02::1", false),
            ("::ffff:203.0.113.7", false),
        ] {
            assert_eq!(is_reachable(address.parse().unwrap()), expected, "{address}");
        }
    }
}
