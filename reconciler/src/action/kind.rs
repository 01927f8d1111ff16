//! Actions without what they are about: what all of a kind have in common.

use xeno_model::id::SliverId;

use super::ActionKey;

/// What an action does, without to what. The order is that in which the steps of one sliver are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKind {
    /// [`Action::FetchTemplate`](super::Action::FetchTemplate).
    FetchTemplate,
    /// [`Action::ImportFiles`](super::Action::ImportFiles).
    ImportFiles,
    /// [`Action::MountRemote`](super::Action::MountRemote).
    MountRemote,
    /// [`Action::Checkpoint`](super::Action::Checkpoint).
    Checkpoint,
    /// [`Action::Unpublish`](super::Action::Unpublish).
    Unpublish,
    /// [`Action::Shutdown`](super::Action::Shutdown).
    Shutdown,
    /// [`Action::Suspend`](super::Action::Suspend).
    Suspend,
    /// [`Action::Unexport`](super::Action::Unexport).
    Unexport,
    /// [`Action::CloseWritable`](super::Action::CloseWritable).
    CloseWritable,
    /// [`Action::Seal`](super::Action::Seal).
    Seal,
    /// [`Action::Tombstone`](super::Action::Tombstone).
    Tombstone,
    /// [`Action::DiscardImage`](super::Action::DiscardImage).
    DiscardImage,
    /// [`Action::Revive`](super::Action::Revive).
    Revive,
    /// [`Action::Adopt`](super::Action::Adopt).
    Adopt,
    /// [`Action::OpenWritable`](super::Action::OpenWritable).
    OpenWritable,
    /// [`Action::Limit`](super::Action::Limit).
    Limit,
    /// [`Action::Restore`](super::Action::Restore).
    Restore,
    /// [`Action::Stack`](super::Action::Stack).
    Stack,
    /// [`Action::Export`](super::Action::Export).
    Export,
    /// [`Action::Boot`](super::Action::Boot).
    Boot,
    /// [`Action::Resume`](super::Action::Resume).
    Resume,
    /// [`Action::Unpause`](super::Action::Unpause).
    Unpause,
    /// [`Action::Retune`](super::Action::Retune).
    Retune,
    /// [`Action::AwaitHealthy`](super::Action::AwaitHealthy).
    AwaitHealthy,
    /// [`Action::Publish`](super::Action::Publish).
    Publish,
    /// [`Action::Purge`](super::Action::Purge).
    Purge,
}

impl ActionKind {
    /// Every kind, in order.
    pub const ALL: [Self; 26] = [
        Self::FetchTemplate,
        Self::ImportFiles,
        Self::MountRemote,
        Self::Checkpoint,
        Self::Unpublish,
        Self::Shutdown,
        Self::Suspend,
        Self::Unexport,
        Self::CloseWritable,
        Self::Seal,
        Self::Tombstone,
        Self::DiscardImage,
        Self::Revive,
        Self::Adopt,
        Self::OpenWritable,
        Self::Limit,
        Self::Restore,
        Self::Stack,
        Self::Export,
        Self::Boot,
        Self::Resume,
        Self::Unpause,
        Self::Retune,
        Self::AwaitHealthy,
        Self::Publish,
        Self::Purge,
    ];

    /// The word for what it does, as in the keys of its actions.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::FetchTemplate => "fetch",
            Self::ImportFiles => "import",
            Self::Checkpoint => "checkpoint",
            Self::MountRemote => "mount",
            Self::Unpublish => "unpublish",
            Self::Shutdown => "shutdown",
            Self::Suspend => "suspend",
            Self::Unexport => "unexport",
            Self::CloseWritable => "close",
            Self::Seal => "seal",
            Self::Tombstone => "tombstone",
            Self::DiscardImage => "discard",
            Self::Revive => "revive",
            Self::Adopt => "adopt",
            Self::OpenWritable => "open",
            Self::Limit => "limit",
            Self::Restore => "restore",
            Self::Stack => "stack",
            Self::Export => "export",
            Self::Boot => "boot",
            Self::Resume => "resume",
            Self::Unpause => "unpause",
            Self::Retune => "retune",
            Self::AwaitHealthy => "await",
            Self::Publish => "publish",
            Self::Purge => "purge",
        }
    }

    /// The key of the action of this kind for a sliver.
    pub(crate) fn key(self, sliver: &SliverId) -> ActionKey {
        ActionKey(format!("{}:{sliver}", self.verb()))
    }

    /// Where it stands among actions that nothing orders; also the order of the steps of one sliver.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::FetchTemplate => 0,
            Self::ImportFiles => 1,
            Self::MountRemote => 2,
            Self::Checkpoint => 3,
            Self::Unpublish => 4,
            Self::Shutdown => 5,
            Self::Suspend => 6,
            Self::Unexport => 7,
            Self::CloseWritable => 8,
            Self::Seal => 9,
            Self::Tombstone => 10,
            Self::DiscardImage => 11,
            Self::Revive => 12,
            Self::Adopt => 13,
            Self::OpenWritable => 14,
            Self::Limit => 15,
            Self::Restore => 16,
            Self::Stack => 17,
            Self::Export => 18,
            Self::Boot => 19,
            Self::Resume => 20,
            Self::Unpause => 21,
            Self::Retune => 22,
            Self::AwaitHealthy => 23,
            Self::Publish => 24,
            Self::Purge => 25,
        }
    }

    /// Whether it takes something away that runs, is served or is kept. A run that is superseded stops before the
    /// first such action of a sliver or after its last, never between.
    #[must_use]
    pub fn is_destructive(self) -> bool {
        match self {
            Self::Unpublish
            | Self::Shutdown
            | Self::Suspend
            | Self::Unexport
            | Self::CloseWritable
            | Self::Tombstone
            | Self::DiscardImage
            | Self::Adopt
            | Self::Restore
            | Self::Purge => true,
            Self::FetchTemplate
            | Self::ImportFiles
            | Self::Checkpoint
            | Self::MountRemote
            | Self::Seal
            | Self::Revive
            | Self::OpenWritable
            | Self::Limit
            | Self::Stack
            | Self::Export
            | Self::Boot
            | Self::Resume
            | Self::Unpause
            | Self::Retune
            | Self::AwaitHealthy
            | Self::Publish => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_are_listed_once_and_in_order() {
        let mut sorted = ActionKind::ALL.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, ActionKind::ALL);
        let ranks: Vec<_> = ActionKind::ALL
            .iter()
            .map(|kind| usize::from(kind.rank()))
            .collect();
        assert_eq!(ranks, (0..ActionKind::ALL.len()).collect::<Vec<_>>());
        let verbs: BTreeSet<_> = ActionKind::ALL.iter().map(|kind| kind.verb()).collect();
        assert_eq!(verbs.len(), ActionKind::ALL.len());
    }
}
