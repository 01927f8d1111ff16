//! Time that certainly passed on this node, whatever its wall clock says.
//!
//! The wall clock may jump by years in either direction: a dead battery, a mistyped date, a time server that lies.
//! What decides over data (how long a tombstone is kept, when the delete budget is full again) or over waiting (when a
//! failed action is tried again) is therefore measured in *node time*: a count of milliseconds that only grows, and
//! only while the machine runs. See `state/decisions/0001-node-time.md`.

/// Milliseconds that this node is known to have been up since its state was first made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeTime(pub u64);

impl NodeTime {
    /// How long ago `earlier` was, in milliseconds; 0 where it was not.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This many milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A moment within one boot of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootMoment {
    /// Which boot: `/proc/sys/kernel/random/boot_id` (random(4)).
    pub boot: String,
    /// Milliseconds since it: `/proc/uptime` (proc(5)).
    pub ms: u64,
}

impl BootMoment {
    /// The node time at this moment, where `known` was the node time at the moment `then`.
    ///
    /// Within one boot that is exact. After a reboot nobody can say how long the machine was off, or how long it ran
    /// after `then`: only the time since the new boot is certain.
    #[must_use]
    pub fn node_time(&self, known: NodeTime, then: Option<&Self>) -> NodeTime {
        match then {
            Some(then) if then.boot == self.boot => known.plus(self.ms.saturating_sub(then.ms)),
            Some(_) => known.plus(self.ms),
            // Its first: what was before does not count.
            None => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, ms: u64) -> BootMoment {
        BootMoment {
            boot: boot.to_owned(),
            ms,
        }
    }

    #[test]
    fn only_what_certainly_passed_counts() {
        let check = |now: &BootMoment, then: Option<&BootMoment>, expected: u64| {
            assert_eq!(now.node_time(NodeTime(100), then), NodeTime(expected));
        };
        check(&at("a", 50), Some(&at("a", 20)), 130);
        check(&at("b", 50), Some(&at("a", 20)), 150);
        check(&at("b", 50), None, 100);
        // A container whose uptime went back: time stands still rather than run backwards.
        check(&at("a", 10), Some(&at("a", 20)), 100);
        check(&at("a", u64::MAX), Some(&at("a", 0)), u64::MAX);
    }
}
