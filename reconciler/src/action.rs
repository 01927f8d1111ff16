//! The steps a node can take. Each declares what it needs and what it provides; order follows from that.

use std::fmt;

use xeno_model::id::{Digest, Epoch, SliverId};

/// One effect on one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Brings the content of a template here and checks it.
    FetchTemplate {
        /// The template.
        digest: Digest,
        /// Where to look, in order.
        sources: Vec<String>,
    },
    /// Makes a layer of files that the repository carries.
    ImportFiles {
        /// The file set.
        digest: Digest,
    },
    /// Opens the sliver's writable layers, making them when missing.
    OpenWritable {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run.
        epoch: Epoch,
    },
    /// Assembles the sliver's stacks.
    Stack {
        /// Whose.
        sliver: SliverId,
        /// What they consist of (`stack_digest`).
        stack: Digest,
    },
    /// Serves the stacks to the sliver's domain, and to nobody else.
    Export {
        /// Whose.
        sliver: SliverId,
    },
    /// Starts the domain.
    Boot {
        /// Which.
        sliver: SliverId,
        /// As what (`boot_digest`).
        boot: Digest,
    },
    /// Waits until the sliver's health check passes.
    AwaitHealthy {
        /// Which.
        sliver: SliverId,
    },
    /// Stops the domain: asks, waits, then destroys.
    Shutdown {
        /// Which.
        sliver: SliverId,
    },
    /// Stops serving the sliver's stacks.
    Unexport {
        /// Whose.
        sliver: SliverId,
    },
    /// Takes the stacks apart and closes the writable layers.
    CloseWritable {
        /// Whose.
        sliver: SliverId,
    },
    /// Sets the writable layers aside, to be purged after a delay.
    Tombstone {
        /// Whose.
        sliver: SliverId,
    },
    /// Deletes what a tombstone has kept long enough.
    Purge {
        /// Whose.
        sliver: SliverId,
    },
}

/// A fact that an action needs before it, or makes true.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The template's content is here.
    TemplatePresent(Digest),
    /// The file set has been made into a layer.
    FilesPresent(Digest),
    /// The writable layers are open.
    WritableOpen(SliverId),
    /// The stacks are assembled, and consist of this.
    Stacked(SliverId, Digest),
    /// The stacks are served.
    Exported(SliverId),
    /// The domain runs.
    Running(SliverId),
    /// The health check passes.
    Healthy(SliverId),
    /// There is no domain.
    DomainGone(SliverId),
    /// Nothing is served.
    Unexported(SliverId),
    /// The writable layers are closed and the stacks gone.
    Released(SliverId),
    /// The writable layers are set aside.
    SetAside(SliverId),
}

/// Names an action within a plan: stable, readable, and the order in which equals are sorted. `boot:web/0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionKey(pub String);

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Action {
    /// The word for what it does, as in its key.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::FetchTemplate { .. } => "fetch",
            Self::ImportFiles { .. } => "import",
            Self::OpenWritable { .. } => "open",
            Self::Stack { .. } => "stack",
            Self::Export { .. } => "export",
            Self::Boot { .. } => "boot",
            Self::AwaitHealthy { .. } => "await",
            Self::Shutdown { .. } => "shutdown",
            Self::Unexport { .. } => "unexport",
            Self::CloseWritable { .. } => "close",
            Self::Tombstone { .. } => "tombstone",
            Self::Purge { .. } => "purge",
        }
    }

    /// The sliver it is about; `None` where several may share it.
    #[must_use]
    pub fn sliver(&self) -> Option<&SliverId> {
        match self {
            Self::FetchTemplate { .. } | Self::ImportFiles { .. } => None,
            Self::OpenWritable { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver }
            | Self::Boot { sliver, .. }
            | Self::AwaitHealthy { sliver }
            | Self::Shutdown { sliver }
            | Self::Unexport { sliver }
            | Self::CloseWritable { sliver }
            | Self::Tombstone { sliver }
            | Self::Purge { sliver } => Some(sliver),
        }
    }

    /// Its key: the verb, and the sliver or the digest's first 12 digits.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        let object = match self {
            Self::FetchTemplate { digest, .. } | Self::ImportFiles { digest } => digest.short(),
            Self::OpenWritable { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver }
            | Self::Boot { sliver, .. }
            | Self::AwaitHealthy { sliver }
            | Self::Shutdown { sliver }
            | Self::Unexport { sliver }
            | Self::CloseWritable { sliver }
            | Self::Tombstone { sliver }
            | Self::Purge { sliver } => sliver.to_string(),
        };
        ActionKey(format!("{}:{object}", self.verb()))
    }
}
