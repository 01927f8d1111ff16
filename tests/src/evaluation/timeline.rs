//! What was done when, and by whom.

use serde::{Deserialize, Serialize};

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// Agent and file server.
    Ours,
    /// Our hotplug script, which the tool stack runs.
    Link,
    /// `xl` asked something: which domains there are, how much memory is free.
    Asking,
    /// `xl` makes or restores the domain, without our script.
    Hypervisor,
    /// The guest works, or is waited for.
    Guest,
}

impl Owner {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ours,
        Self::Link,
        Self::Asking,
        Self::Hypervisor,
        Self::Guest,
    ];

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Ours => "agent and file server",
            Self::Link => "our link script",
            Self::Asking => "xl asked",
            Self::Hypervisor => "xl makes the domain",
            Self::Guest => "guest",
        }
    }

    /// Whether it is our own share.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Link)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What it is.
    pub what: String,
    /// Whose time it is, where no other operation says otherwise.
    pub owner: Owner,
    /// Milliseconds after the beginning of the timeline.
    pub began_ms: u64,
    /// The same of its end.
    pub ended_ms: u64,
}

impl Span {
    /// One that took from `began_ms` until `ended_ms`.
    #[must_use]
    pub fn new(what: impl Into<String>, owner: Owner, began_ms: u64, ended_ms: u64) -> Self {
        Self {
            what: what.into(),
            owner,
            began_ms,
            ended_ms: ended_ms.max(began_ms),
        }
    }

    /// How long it took.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.ended_ms - self.began_ms
    }
}

/// From the moment that somebody asked until the service answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Operations by their beginning. They may lie within each other.
    pub spans: Vec<Span>,
    /// What a guest said, and when.
    pub marks: Vec<(u64, String)>,
    /// The whole.
    pub total_ms: u64,
}

impl Timeline {
    /// Puts spans and marks in order.
    #[must_use]
    pub fn new(mut spans: Vec<Span>, mut marks: Vec<(u64, String)>, total_ms: u64) -> Self {
        spans.sort_by_key(|span| (span.began_ms, std::cmp::Reverse(span.ended_ms)));
        marks.sort();
        Self {
            spans,
            marks,
            total_ms,
        }
    }

    /// How much of the whole is whose. Each moment counts once: our script's where it runs, else the hypervisor's, else the
    /// guest's, else that of a question to `xl`, else ours, since somebody has to answer for what nobody names.
    #[must_use]
    pub fn shares(&self) -> Vec<(Owner, u64)> {
        let order = [Owner::Link, Owner::Hypervisor, Owner::Guest, Owner::Asking];
        let mut edges: Vec<u64> = self
            .spans
            .iter()
            .flat_map(|span| [span.began_ms, span.ended_ms])
            .chain([0, self.total_ms])
            .filter(|edge| *edge <= self.total_ms)
            .collect();
        edges.sort_unstable();
        edges.dedup();
        let mut shares: Vec<(Owner, u64)> = Owner::ALL.into_iter().map(|owner| (owner, 0)).collect();
        for pair in edges.windows(2) {
            let within = |owner: &Owner| {
                self.spans
                    .iter()
                    .any(|span| span.owner == *owner && span.began_ms <= pair[0] && span.ended_ms >= pair[1])
            };
            let owner = order.into_iter().find(within).unwrap_or(Owner::Ours);
            for share in &mut shares {
                if share.0 == owner {
                    share.1 += pair[1] - pair[0];
                }
            }
        }
        shares
    }

    /// Our own share of the whole, in milliseconds.
    #[must_use]
    pub fn ours_ms(&self) -> u64 {
        let shares = self.shares().into_iter();
        shares
            .filter(|(owner, _)| owner.is_ours())
            .map(|(_, ms)| ms)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_counts_once_and_what_nobody_names_is_ours() {
        let timeline = Timeline::new(
            vec![
                Span::new("boot", Owner::Ours, 10, 80),
                Span::new("xl create", Owner::Hypervisor, 20, 70),
                Span::new("link", Owner::Link, 40, 50),
                Span::new("guest", Owner::Guest, 90, 100),
                Span::new("xl list", Owner::Asking, 85, 95),
            ],
            Vec::new(),
            110,
        );
        let shares = timeline.shares();
        let expected = [
            (Owner::Ours, 45),
            (Owner::Link, 10),
            (Owner::Asking, 5),
            (Owner::Hypervisor, 40),
            (Owner::Guest, 10),
        ];
        assert_eq!(shares, expected);
        assert_eq!(timeline.ours_ms(), 55);
    }
}
