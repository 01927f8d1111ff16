//! What the owner of a site allows there. The site's word is last: it beats what slices and tenants ask for.

use std::collections::BTreeSet;
use std::fmt;

use super::{AddressRange, DesiredSliver};
use crate::id::{SiteName, SliceName, SliverId, TenantName, Timestamp};
use crate::units::Bytes;

/// What a site's owner allows there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SitePolicy {
    /// The site; `None` only for a node that the repository does not name.
    pub site: Option<SiteName>,
    /// How much anybody may have.
    pub caps: SiteCaps,
    /// What does not run there.
    pub vetoes: Vetoes,
    /// When changes may disturb what runs there.
    pub windows: Windows,
    /// Public addresses that slivers may have there. None without a word.
    pub addresses: Vec<AddressRange>,
}

/// How much anybody may have at a site; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteCaps {
    /// Most memory of one sliver.
    pub sliver_memory: Option<Bytes>,
    /// Most virtual CPUs of one sliver.
    pub sliver_vcpus: Option<u32>,
    /// Most slivers of one slice.
    pub slice_slivers: Option<u32>,
    /// Most slivers of one tenant.
    pub tenant_slivers: Option<u32>,
}

/// What does not run at a site: its slivers are stopped and keep their data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vetoes {
    /// Slices.
    pub slices: BTreeSet<SliceName>,
    /// Tenants, with all their slices.
    pub tenants: BTreeSet<TenantName>,
}

/// The rule of a site for which a sliver does not run there. Its `Display` fits after "the site".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteRule {
    /// Its slice is vetoed.
    VetoedSlice(SliceName),
    /// Its tenant is vetoed.
    VetoedTenant(TenantName),
    /// It asks for more memory than one sliver may have.
    SliverMemory {
        /// What it asks for, with its room to grow.
        asked: Bytes,
        /// What it may have.
        cap: Bytes,
    },
    /// It asks for more virtual CPUs than one sliver may have.
    SliverVcpus {
        /// What it asks for.
        asked: u32,
        /// What it may have.
        cap: u32,
    },
    /// Its slice has as many slivers there as it may have.
    SliceSlivers {
        /// How many it asks for.
        asked: u32,
        /// How many it may have: those with the lowest numbers.
        cap: u32,
    },
    /// Its tenant has as many slivers there as it may have.
    TenantSlivers {
        /// Which tenant.
        tenant: TenantName,
        /// How many it asks for.
        asked: u32,
        /// How many it may have: the first by slice and number.
        cap: u32,
    },
}

impl SiteRule {
    /// Whether it is a veto; else it is a cap.
    #[must_use]
    pub fn is_veto(&self) -> bool {
        match self {
            Self::VetoedSlice(_) | Self::VetoedTenant(_) => true,
            Self::SliverMemory { .. }
            | Self::SliverVcpus { .. }
            | Self::SliceSlivers { .. }
            | Self::TenantSlivers { .. } => false,
        }
    }
}

impl SitePolicy {
    /// The rule that forbids a sliver whatever else runs at the site; `None` if there is none.
    #[must_use]
    pub fn forbids(&self, sliver: &DesiredSliver) -> Option<SiteRule> {
        let SliverId { slice, .. } = &sliver.id;
        if self.vetoes.slices.contains(slice) {
            return Some(SiteRule::VetoedSlice(slice.clone()));
        }
        let vetoed = sliver
            .tenant
            .as_ref()
            .filter(|tenant| self.vetoes.tenants.contains(tenant));
        if let Some(tenant) = vetoed {
            return Some(SiteRule::VetoedTenant(tenant.clone()));
        }
        let asked = sliver.resources.memory_most();
        if let Some(cap) = self.caps.sliver_memory.filter(|cap| asked > *cap) {
            return Some(SiteRule::SliverMemory { asked, cap });
        }
        let asked = sliver.resources.vcpus;
        let cap = self.caps.sliver_vcpus.filter(|cap| asked > *cap)?;
        Some(SiteRule::SliverVcpus { asked, cap })
    }

    /// Whether nothing is forbidden at all, so that only the windows say something.
    #[must_use]
    pub fn forbids_nothing(&self) -> bool {
        self.caps == SiteCaps::default() && self.vetoes == Vetoes::default()
    }
}

impl fmt::Display for SiteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VetoedSlice(slice) => write!(f, "does not run the slice {slice}"),
            Self::VetoedTenant(tenant) => write!(f, "does not run slices of the tenant {tenant}"),
            Self::SliverMemory { asked, cap } => {
                write!(
                    f,
                    "gives a sliver at most {cap} of memory, and this one asks for {asked}"
                )
            }
            Self::SliverVcpus { asked, cap } => {
                write!(
                    f,
                    "gives a sliver at most {cap} vCPUs, and this one asks for {asked}"
                )
            }
            Self::SliceSlivers { asked, cap } => {
                write!(
                    f,
                    "runs at most {cap} slivers of a slice, and this one asks for {asked}"
                )
            }
            Self::TenantSlivers { tenant, asked, cap } => {
                write!(
                    f,
                    "runs at most {cap} slivers of a tenant, and {tenant} asks for {asked}"
                )
            }
        }
    }
}

/// When changes may disturb what runs at a site. None at all: at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Open while any of these is.
    pub weekly: Vec<Window>,
}

/// A span of time that comes back every week, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// Days on which it begins; at least one.
    pub days: BTreeSet<Weekday>,
    /// When it begins, in minutes since midnight: below 1440.
    pub from_min: u32,
    /// When it ends, in minutes since midnight: up to 1440. At or before the beginning: on the next day.
    pub until_min: u32,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

const MINUTE_MS: u64 = 60_000;
const DAY_MIN: u64 = 1_440;
const WEEK_MIN: u64 = 7 * DAY_MIN;

impl Weekday {
    /// All seven, from Monday.
    pub const ALL: [Self; 7] = [
        Self::Mon,
        Self::Tue,
        Self::Wed,
        Self::Thu,
        Self::Fri,
        Self::Sat,
        Self::Sun,
    ];

    /// As manifests write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    /// Days since Monday.
    fn index(self) -> u64 {
        match self {
            Self::Mon => 0,
            Self::Tue => 1,
            Self::Wed => 2,
            Self::Thu => 3,
            Self::Fri => 4,
            Self::Sat => 5,
            Self::Sun => 6,
        }
    }
}

impl Window {
    /// How long it is, in minutes.
    fn len_min(&self) -> u64 {
        let (from, until) = (u64::from(self.from_min), u64::from(self.until_min));
        if until > from {
            until - from
        } else {
            until + DAY_MIN - from
        }
    }

    /// Its beginnings, in minutes of the week from Monday 00:00.
    fn begins(&self) -> impl Iterator<Item = u64> + '_ {
        let day = |day: &Weekday| day.index() * DAY_MIN + u64::from(self.from_min);
        self.days.iter().map(day)
    }
}

impl Windows {
    /// Whether changes may disturb what runs at this moment.
    #[must_use]
    pub fn open_at(&self, now: Timestamp) -> bool {
        self.weekly.is_empty() || self.spans(now).any(|(begin, end)| begin <= now.0 && now.0 < end)
    }

    /// The first moment, now or later, at which changes may disturb what runs.
    #[must_use]
    pub fn opens_after(&self, now: Timestamp) -> Timestamp {
        if self.open_at(now) {
            return now;
        }
        let next = self
            .spans(now)
            .map(|(begin, _)| begin)
            .filter(|begin| *begin >= now.0)
            .min();
        next.map_or(now, Timestamp)
    }

    /// The end of the time in which `now` is open; `None` if it is not, or never ends.
    #[must_use]
    pub fn closes_after(&self, now: Timestamp) -> Option<Timestamp> {
        let mut end = now.0;
        // Windows may touch or overlap: a chain of them that goes round the whole week never closes.
        while let Some(later) = self
            .spans(now)
            .filter(|(b, e)| *b <= end && end < *e)
            .map(|(_, e)| e)
            .max()
        {
            end = later;
            if end - now.0 >= WEEK_MIN * MINUTE_MS {
                return None;
            }
        }
        (end > now.0).then_some(Timestamp(end))
    }

    /// Beginnings and ends around a moment: from the week before to two weeks after.
    fn spans(&self, now: Timestamp) -> impl Iterator<Item = (u64, u64)> + '_ {
        // 1 January 1970 was a Thursday: the Monday before was three days earlier.
        const SHIFT_MS: u64 = 3 * DAY_MIN * MINUTE_MS;
        let week = now.0.saturating_add(SHIFT_MS) / (WEEK_MIN * MINUTE_MS);
        (week.saturating_sub(1)..=week.saturating_add(2)).flat_map(move |week| {
            self.weekly.iter().flat_map(move |window| {
                window.begins().filter_map(move |begin| {
                    let minute = week.checked_mul(WEEK_MIN)?.checked_add(begin)?;
                    let end = minute.checked_add(window.len_min())?.checked_mul(MINUTE_MS)?;
                    // What ended before 1970 is of no interest; what began before and ends after is.
                    let begin = minute.checked_mul(MINUTE_MS)?.saturating_sub(SHIFT_MS);
                    Some((begin, end.checked_sub(SHIFT_MS)?))
                })
            })
        })
    }
}

impl fmt::Display for Window {
    /// `sat, sun 22:00–04:00`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = self.days.iter().map(|day| day.as_str()).collect();
        let clock = |min: u32| format!("{:02}:{:02}", min / 60, min % 60);
        write!(
            f,
            "{} {}–{}",
            days.join(", "),
            clock(self.from_min),
            clock(self.until_min)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn windows(weekly: &[(&[Weekday], u32, u32)]) -> Windows {
        let window = |(days, from_min, until_min): &(&[Weekday], u32, u32)| Window {
            days: days.iter().copied().collect(),
            from_min: *from_min,
            until_min: *until_min,
        };
        Windows {
            weekly: weekly.iter().map(window).collect(),
        }
    }

    fn at(text: &str) -> Timestamp {
        time::parse(text).unwrap()
    }

    /// Says when it opens, and until when it then stays open.
    fn check(windows: &Windows, now: &str, opens: &str, closes: Option<&str>) {
        let opened = windows.opens_after(at(now));
        assert_eq!(time::rfc3339(opened), opens, "opens after {now}");
        assert!(windows.open_at(opened));
        assert_eq!(windows.open_at(at(now)), now == opens, "{now}");
        let closed = windows.closes_after(opened).map(time::rfc3339);
        assert_eq!(closed.as_deref(), closes, "closes after {opens}");
    }

    #[test]
    fn no_window_is_always_open() {
        check(
            &windows(&[]),
            "2026-11-22T08:00:00Z",
            "2026-11-22T08:00:00Z",
            None,
        );
    }

    #[test]
    fn a_window_comes_back_every_week() {
        // 22 November 2026 is a Sunday.
        let nights = windows(&[(&[Weekday::Sat, Weekday::Tue], 22 * 60, 24 * 60)]);
        check(
            &nights,
            "2026-11-22T08:00:00Z",
            "2026-11-24T22:00:00Z",
            Some("2026-11-25T00:00:00Z"),
        );
        check(
            &nights,
            "2026-11-24T23:59:59Z",
            "2026-11-24T23:59:59Z",
            Some("2026-11-25T00:00:00Z"),
        );
        check(
            &nights,
            "2026-11-25T00:00:00Z",
            "2026-11-28T22:00:00Z",
            Some("2026-11-29T00:00:00Z"),
        );
        assert_eq!(nights.closes_after(at("2026-11-22T08:00:00Z")), None);
    }

    #[test]
    fn a_window_may_cross_midnight_and_the_week() {
        let night = windows(&[(&[Weekday::Sun], 23 * 60, 4 * 60)]);
        check(
            &night,
            "2026-11-23T03:59:59Z",
            "2026-11-23T03:59:59Z",
            Some("2026-11-23T04:00:00Z"),
        );
        check(
            &night,
            "2026-11-23T04:00:00Z",
            "2026-11-29T23:00:00Z",
            Some("2026-11-30T04:00:00Z"),
        );
    }

    #[test]
    fn windows_that_touch_are_one() {
        let days = windows(&[
            (&[Weekday::Mon], 0, 24 * 60),
            (&[Weekday::Tue], 0, 60),
            (&[Weekday::Tue], 30, 90),
        ]);
        check(
            &days,
            "2026-11-23T12:00:00Z",
            "2026-11-23T12:00:00Z",
            Some("2026-11-24T01:30:00Z"),
        );
        check(
            &windows(&[(&Weekday::ALL, 60, 60)]),
            "2026-11-23T12:00:00Z",
            "2026-11-23T12:00:00Z",
            None,
        );
    }

    #[test]
    fn the_first_week_of_1970_has_windows_too() {
        let all = windows(&[(&[Weekday::Wed], 23 * 60, 60)]);
        check(
            &all,
            "1970-01-01T00:30:00Z",
            "1970-01-01T00:30:00Z",
            Some("1970-01-01T01:00:00Z"),
        );
        assert!(all.opens_after(Timestamp(u64::MAX)).0 == u64::MAX);
    }
}
