//! Rendezvous hashing: every pair of a sliver and a node has a score, and the highest that is allowed wins. Nothing about
//! other nodes goes into it, so a node that comes or goes changes no other pair.
//!
//! The scores are part of what `xeno place` promises: another version that scored differently would place new slivers
//! elsewhere than this one, though it would move none. They are spelled out here and no library's hash is used.

use crate::id::Digest;

/// 64 bits that stand for a name.
pub(super) fn seed(what: &str, name: &str) -> u64 {
    let digest = Digest::of(format!("xenoslice placement\n{what}\n{name}").as_bytes());
    digest.0[..8]
        .iter()
        .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// 64 bits that stand for one sliver of a slice.
pub(super) fn sliver(slice: u64, number: u32) -> u64 {
    mixed(slice ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// How well a sliver and a node go together.
pub(super) fn pair(sliver: u64, node: u64) -> u64 {
    mixed(sliver ^ node)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): every
/// bit of the input changes each of the output with a chance of about one half, and no two inputs give the same.
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who changes these moves where new slivers go.
    #[test]
    fn scores_stay_what_they_are() {
        let web = seed("slice", "web");
        let node = seed("node", "cam-01");
        assert_eq!(
            [web, sliver(web, 0), sliver(web, 1), pair(sliver(web, 1), node)]
                .map(|bits| format!("{bits:016x}")),
            [
                "6d8ccc288000c287",
                "0f850ed8f9f06483",
                "746105b60626d267",
                "e2bd2e1b802f3bb5"
            ]
        );
    }
}
