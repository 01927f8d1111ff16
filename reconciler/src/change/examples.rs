//! One of every reason, for tests and documents that must not forget any.

use xeno_model::desired::{HypervisorKind, Remote, SiteRule};
use xeno_model::id::{Digest, DomainUuid, NodeName, SiteName, SliverId, Timestamp};
use xeno_model::normal::Difference;
use xeno_model::observed::{DomainState, LayerLimits};
use xeno_model::units::Bytes;

use super::{Disruption, ImageMisfit, Reason};
use crate::action::ActionKey;
use crate::ports::Retry;

impl Reason {
    /// Every reason at least once, and those more often that read differently with what they hold.
    ///
    /// # Panics
    /// Never: the names in it are valid, which a test sees to.
    #[must_use]
    pub fn examples() -> Vec<Self> {
        let at = Timestamp(1_795_327_848_000);
        let digest = Digest([0xab; 32]);
        let sliver = |text| SliverId::parse(text).expect("a valid sliver");
        let site = || SiteName::new("cambridge").expect("a valid name");
        let node = || NodeName::new("nyc-02").expect("a valid name");
        let key = |text: &str| ActionKey(text.to_owned());
        vec![
            Reason::New,
            Reason::Differs(Difference::Vcpus { from: 1, to: 2 }),
            Reason::Revived { since: at },
            Reason::Unfinished,
            Reason::DomainMissing,
            Reason::DomainNotRunning {
                state: DomainState::Crashed,
            },
            Reason::DomainForeignBoot { booted: digest },
            Reason::StorageMissing,
            Reason::StackForeign { stack: digest },
            Reason::LimitForeign {
                limit: LayerLimits {
                    bytes: Some(Bytes(1 << 30)),
                    inodes: Some(5000),
                },
            },
            Reason::LimitForeign {
                limit: LayerLimits::default(),
            },
            Reason::ShareForeign { share: 100 },
            Reason::GoesBack {
                to: "xeno-4c1e9a7b02d1-1790000000000".to_owned(),
                at,
                keeps: "xeno-9f2c11aa03be-1790000300000".to_owned(),
            },
            Reason::NotEnforced {
                limits: vec!["cpu cap 50%".to_owned(), "network rate 10Mbit".to_owned()],
                by: HypervisorKind::Qemu,
            },
            Reason::RemoteSilent {
                remote: Remote::to_read("nfs://store.example/acme/apache"),
                since: at,
                why: "it has not answered for 5 s".to_owned(),
            },
            Reason::MadeBeforeBroken {
                needed: 128,
                free: 512,
            },
            Reason::NoRoomBeside {
                needed: 128,
                free: 64,
                capacity: 1024,
            },
            Reason::EmbodiedTwice,
            Reason::NotStopped,
            Reason::StateStopped,
            Reason::NotDesired,
            Reason::PlacedElsewhere,
            Reason::TombstoneExpired { since: at },
            Reason::Blind {
                facet: "domains",
                why: "the hypervisor does not answer".to_owned(),
            },
            Reason::DeleteBudget {
                allowed: 2,
                used: 1,
                asked: 3,
            },
            Reason::NodeNotNamed,
            Reason::NothingDesired,
            Reason::NoRoom {
                needed: 512,
                free: 256,
                capacity: 2048,
            },
            Reason::PortTaken {
                port: 8080,
                by: sliver("db/0"),
            },
            Reason::NotSupported {
                what: "keeping a suspended sliver's memory in an image".to_owned(),
            },
            Reason::BackingOff {
                action: key("boot:web/0"),
                why: "no kernel".to_owned(),
                until: at,
                retry: Retry::Later,
            },
            Reason::BackingOff {
                action: key("boot:web/0"),
                why: "no kernel".to_owned(),
                until: at,
                retry: Retry::Never,
            },
            Reason::DomainPaused,
            Reason::DomainForeignUuid {
                uuid: DomainUuid([0xab; 16]),
            },
            Reason::Mistuned {
                what: vec!["memory 128 MiB instead of 256 MiB".to_owned()],
            },
            Reason::NotHealthyYet,
            Reason::StateSuspended,
            Reason::ImageBesideDomain,
            Reason::ImageUnsealed,
            Reason::ImageLost,
            Reason::ImageDiscarded {
                what: ImageMisfit::Disk,
            },
            Reason::ImageDiscarded {
                what: ImageMisfit::Boot,
            },
            Reason::ImageDiscarded {
                what: ImageMisfit::Identity,
            },
            Reason::ImageDiscarded {
                what: ImageMisfit::Memory,
            },
            Reason::Vetoed {
                site: site(),
                rule: SiteRule::VetoedSlice(sliver("miner/0").slice),
            },
            Reason::Expired { since: at },
            Reason::MovedFrom {
                from: sliver("site/0"),
            },
            Reason::MovedTo { to: sliver("site/0") },
            Reason::ImageStale {
                what: ImageMisfit::Disk,
            },
            Reason::ImageStale {
                what: ImageMisfit::Boot,
            },
            Reason::ImageStale {
                what: ImageMisfit::Identity,
            },
            Reason::ImageStale {
                what: ImageMisfit::Memory,
            },
            Reason::Frozen {
                by: "eve".to_owned(),
                why: "audit".to_owned(),
                until: Some(at),
            },
            Reason::Frozen {
                by: "eve".to_owned(),
                why: "audit".to_owned(),
                until: None,
            },
            Reason::OutsideWindow {
                site: site(),
                opens: at,
            },
            Reason::SiteCap {
                site: site(),
                rule: SiteRule::SliverVcpus { asked: 8, cap: 4 },
            },
            Reason::Crashing {
                restarts: 3,
                until: at,
            },
            Reason::Crashing {
                restarts: 1,
                until: at,
            },
            Reason::Together {
                with: sliver("site/0"),
            },
            Reason::RunUnderway {
                action: key("boot:web/0"),
            },
            Reason::RunQueued {
                action: key("boot:web/0"),
                after: Some(key("export:web/0")),
            },
            Reason::RunQueued {
                action: key("boot:web/0"),
                after: None,
            },
            Reason::RunPausing {
                action: key("boot:web/0"),
                why: "no kernel".to_owned(),
                tries: 3,
                wait_ms: 3_500,
            },
            Reason::RunFailed {
                action: key("boot:web/0"),
                why: "no kernel".to_owned(),
                tries: 3,
            },
            Reason::RunFailed {
                action: key("boot:web/0"),
                why: "no kernel".to_owned(),
                tries: 1,
            },
            Reason::RunBlocked {
                action: key("boot:web/0"),
                by: key("boot:web/0"),
            },
            Reason::RunGaveWay {
                action: key("boot:web/0"),
            },
            Reason::HeldElsewhere { by: node() },
            Reason::Unfenced {
                by: node(),
                fence: None,
            },
            Reason::Unfenced {
                by: node(),
                fence: Some("the fence command failed: no route to ipmi-02".to_owned()),
            },
            Reason::RightUnknown {
                why: "the board has not been read since the agent started".to_owned(),
            },
            Reason::LeaseLapsed { why: None },
            Reason::LeaseLapsed {
                why: Some("ask the board: connection refused".to_owned()),
            },
            Reason::RightChanges {
                what: "on its way to nyc-02: its memory goes over".to_owned(),
            },
            Reason::MoveFailed {
                to: node(),
                why: "connect to nyc-02:7046: connection refused".to_owned(),
                until: at,
            },
            Reason::Unapproved {
                disruption: Disruption::Interrupts,
            },
            Reason::RolloutWaits {
                why: "it changes in wave 2 of 3, and wave 1 is under way".to_owned(),
            },
        ]
    }

    /// Its place among all reasons. A new reason does not compile without one, and the test below asks for an example
    /// of each place.
    #[cfg(test)]
    fn place(&self) -> usize {
        match self {
            Self::New => 0,
            Self::Differs(_) => 1,
            Self::Revived { .. } => 2,
            Self::Unfinished => 3,
            Self::DomainMissing => 4,
            Self::DomainNotRunning { .. } => 5,
            Self::DomainPaused => 6,
            Self::DomainForeignUuid { .. } => 7,
            Self::DomainForeignBoot { .. } => 8,
            Self::StorageMissing => 9,
            Self::StackForeign { .. } => 10,
            Self::LimitForeign { .. } => 11,
            Self::Mistuned { .. } => 12,
            Self::NotHealthyYet => 13,
            Self::NotStopped => 14,
            Self::StateStopped => 15,
            Self::StateSuspended => 16,
            Self::ImageBesideDomain => 17,
            Self::ImageUnsealed => 18,
            Self::ImageLost => 19,
            Self::ImageDiscarded { .. } => 20,
            Self::Vetoed { .. } => 21,
            Self::Expired { .. } => 22,
            Self::MovedFrom { .. } => 23,
            Self::MovedTo { .. } => 24,
            Self::NotDesired => 25,
            Self::PlacedElsewhere => 26,
            Self::TombstoneExpired { .. } => 27,
            Self::NotEnforced { .. } => 28,
            Self::Blind { .. } => 29,
            Self::DeleteBudget { .. } => 30,
            Self::NodeNotNamed => 31,
            Self::NothingDesired => 32,
            Self::NoRoom { .. } => 33,
            Self::PortTaken { .. } => 34,
            Self::NotSupported { .. } => 35,
            Self::BackingOff { .. } => 36,
            Self::ImageStale { .. } => 37,
            Self::Frozen { .. } => 38,
            Self::OutsideWindow { .. } => 39,
            Self::SiteCap { .. } => 40,
            Self::Crashing { .. } => 41,
            Self::Together { .. } => 42,
            Self::RunUnderway { .. } => 43,
            Self::RunQueued { .. } => 44,
            Self::RunPausing { .. } => 45,
            Self::RunFailed { .. } => 46,
            Self::RunBlocked { .. } => 47,
            Self::RunGaveWay { .. } => 48,
            Self::MadeBeforeBroken { .. } => 49,
            Self::NoRoomBeside { .. } => 50,
            Self::EmbodiedTwice => 51,
            Self::ShareForeign { .. } => 52,
            Self::GoesBack { .. } => 53,
            Self::RemoteSilent { .. } => 54,
            Self::HeldElsewhere { .. } => 55,
            Self::RightUnknown { .. } => 56,
            Self::RightChanges { .. } => 57,
            Self::MoveFailed { .. } => 58,
            Self::RolloutWaits { .. } => 59,
            Self::Unapproved { .. } => 60,
            Self::Unfenced { .. } => 61,
            Self::LeaseLapsed { .. } => 62,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// How many reasons there are: one more than the last place.
    const COUNT: usize = 63;

    #[test]
    fn no_reason_is_forgotten() {
        let examples = Reason::examples();
        let places: BTreeSet<_> = examples.iter().map(Reason::place).collect();
        assert_eq!(places, (0..COUNT).collect());
        let codes: BTreeSet<_> = examples.iter().map(Reason::code).collect();
        assert_eq!(codes.len(), COUNT);
    }
}
