//! The facts that order actions.

use std::fmt;

use xeno_model::desired::Remote;
use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::LayerLimits;

use crate::ports::Tuning;

/// A fact that an action needs before it, or makes true.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The template's content is here.
    TemplatePresent(Digest),
    /// The file set has been made into a layer.
    FilesPresent(Digest),
    /// The remote directory is mounted, and answers.
    RemoteMounted(Remote),
    /// The writable layers are open.
    WritableOpen(SliverId),
    /// The open writable layers may hold this much each, and what is served has this share of the file server.
    Limited(SliverId, LayerLimits, u32),
    /// The writable layers have checkpoints of this name.
    Checkpointed(SliverId, String),
    /// The stacks are assembled, and consist of this.
    Stacked(SliverId, Digest),
    /// The stacks are served, and consist of this.
    Exported(SliverId, Digest),
    /// The domain runs.
    Running(SliverId),
    /// The running domain has these limits and ports.
    Tuned(SliverId, Tuning),
    /// The health check passes.
    Healthy(SliverId),
    /// There is no domain.
    DomainGone(SliverId),
    /// Its memory is stored in an image.
    ImageStored(SliverId),
    /// The image says what the writable layers were like, and they still are.
    ImageSealed(SliverId),
    /// There is no image.
    ImageGone(SliverId),
    /// Nothing is served.
    Unexported(SliverId),
    /// The writable layers are closed and the stacks gone.
    Released(SliverId),
    /// The writable layers are set aside.
    SetAside(SliverId),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TemplatePresent(digest) => write!(f, "template {} present", digest.short()),
            Self::FilesPresent(digest) => write!(f, "files {} present", digest.short()),
            Self::RemoteMounted(remote) => write!(f, "{remote} mounted"),
            Self::WritableOpen(sliver) => write!(f, "writable layers of {sliver} open"),
            Self::Limited(sliver, limits, share) => {
                write!(
                    f,
                    "writable layers of {sliver} limited to {limits}, share {share}"
                )
            }
            Self::Checkpointed(sliver, name) => write!(f, "checkpoint {name} of {sliver}"),
            Self::Stacked(sliver, stack) => write!(f, "{sliver} stacked as {}", stack.short()),
            Self::Exported(sliver, stack) => write!(f, "{sliver} served as {}", stack.short()),
            Self::Running(sliver) => write!(f, "{sliver} running"),
            Self::Tuned(sliver, tuning) => {
                write!(f, "{sliver} with {} MiB and its limits", tuning.memory_mib)
            }
            Self::Healthy(sliver) => write!(f, "{sliver} healthy"),
            Self::DomainGone(sliver) => write!(f, "no domain of {sliver}"),
            Self::ImageStored(sliver) => write!(f, "image of {sliver} stored"),
            Self::ImageSealed(sliver) => write!(f, "image of {sliver} sealed with its writable layers"),
            Self::ImageGone(sliver) => write!(f, "no image of {sliver}"),
            Self::Unexported(sliver) => write!(f, "nothing served to {sliver}"),
            Self::Released(sliver) => write!(f, "writable layers of {sliver} closed"),
            Self::SetAside(sliver) => write!(f, "writable layers of {sliver} set aside"),
        }
    }
}
