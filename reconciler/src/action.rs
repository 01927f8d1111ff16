//! The steps a node can take. Each declares what it needs and what it provides; order follows from that.

mod condition;
mod kind;

use std::collections::BTreeSet;
use std::fmt;

use xeno_model::desired::{DesiredSliver, LayerRef, Remote};
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::observed::LayerLimits;

use crate::ports::Tuning;

pub use condition::Condition;
pub use kind::ActionKind;

/// What a sliver's stacks and its kernel are made from, and so what must be here before it can start.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ingredients {
    /// Templates.
    pub templates: BTreeSet<Digest>,
    /// File sets of the repository.
    pub files: BTreeSet<Digest>,
    /// Directories of remote file systems.
    pub remotes: BTreeSet<Remote>,
}

impl Ingredients {
    /// All that `sliver` needs to start: the template of its kernel, and every layer of its mounts.
    #[must_use]
    pub fn of(sliver: &DesiredSliver) -> Self {
        let mut all = Self::default();
        all.templates.insert(sliver.kernel.digest);
        all.remotes = Remote::all_of(sliver);
        for layer in sliver.mounts.iter().flat_map(|mount| &mount.layers) {
            match layer {
                LayerRef::Template(template) => {
                    all.templates.insert(template.digest);
                }
                LayerRef::Files { digest } => {
                    all.files.insert(*digest);
                }
                LayerRef::Directory { .. } | LayerRef::Remote { .. } => {}
            }
        }
        all
    }

    /// All that `sliver` needs to start again on the stacks it has: the template of its kernel, and that the remote
    /// directories among its layers answer.
    #[must_use]
    pub fn to_start(sliver: &DesiredSliver) -> Self {
        Self {
            templates: BTreeSet::from([sliver.kernel.digest]),
            files: BTreeSet::new(),
            remotes: Remote::all_of(sliver),
        }
    }

    fn conditions(&self) -> impl Iterator<Item = Condition> + '_ {
        let templates = self.templates.iter().copied().map(Condition::TemplatePresent);
        let files = self.files.iter().copied().map(Condition::FilesPresent);
        let remotes = self.remotes.iter().cloned().map(Condition::RemoteMounted);
        templates.chain(files).chain(remotes)
    }
}

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
    /// Makes checkpoints of the sliver's writable layers, in use or not.
    Checkpoint {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run they are open, or are opened for it.
        epoch: Epoch,
        /// What they are called.
        name: String,
        /// Whether ones of that name are made anew; otherwise they stay as they are.
        fresh: bool,
        /// Those that are dropped for them.
        drops: BTreeSet<String>,
        /// What the sliver will be started from again: what is fetched for an hour should not make them old.
        again: Ingredients,
    },
    /// Has the sliver's writable layers go back to checkpoints.
    Restore {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run they are open.
        epoch: Epoch,
        /// Which.
        name: String,
        /// The checkpoints that keep what is undone by it.
        keeps: String,
        /// The checkpoints that say afterwards that it is done.
        done: String,
    },
    /// Mounts a directory of a remote file system, once for all slivers that use it, and sees to it that it answers.
    MountRemote {
        /// Which.
        remote: Remote,
    },
    /// Opens the sliver's writable layers, making them when missing.
    OpenWritable {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run.
        epoch: Epoch,
        /// Remote directories that they lie in.
        remotes: BTreeSet<Remote>,
    },
    /// Gives the sliver's open writable layers other limits, and its exports another share of the file server. Whoever
    /// uses them goes on.
    Limit {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run its writable layers are open; `None`: it has none.
        epoch: Option<Epoch>,
        /// What each may hold.
        limits: LayerLimits,
        /// The share of its exports.
        share: u32,
    },
    /// Assembles the sliver's stacks.
    Stack {
        /// Whose.
        sliver: SliverId,
        /// What they consist of (`stack_digest`).
        stack: Digest,
        /// What must be here for it.
        from: Ingredients,
    },
    /// Serves the stacks to the sliver's domain, and to nobody else.
    Export {
        /// Whose.
        sliver: SliverId,
        /// Which stacks (`stack_digest`).
        stack: Digest,
    },
    /// Starts the domain.
    Boot {
        /// Which.
        sliver: SliverId,
        /// As what (`boot_digest`).
        boot: Digest,
        /// On which stacks (`stack_digest`).
        stack: Digest,
        /// With the kernel of which template.
        kernel: Digest,
        /// Remote directories that it reads from, and would wait for.
        remotes: BTreeSet<Remote>,
        /// When it gets its ports.
        ports: PortsFrom,
    },
    /// Goes on from an image instead of starting anew. The image is used up by it.
    Resume {
        /// Which.
        sliver: SliverId,
        /// As what it was started (`boot_digest`).
        boot: Digest,
        /// On which stacks (`stack_digest`).
        stack: Digest,
        /// With the kernel of which template.
        kernel: Digest,
        /// Remote directories that it reads from, and would wait for.
        remotes: BTreeSet<Remote>,
        /// What its writable layers must be like; `None` where the image is only sealed by this plan.
        mark: Option<Digest>,
    },
    /// Lets a domain go on that stands still.
    Unpause {
        /// Which.
        sliver: SliverId,
        /// On which stacks (`stack_digest`).
        stack: Digest,
    },
    /// Gives a running domain other limits and ports.
    Retune {
        /// Which.
        sliver: SliverId,
        /// What it has afterwards.
        tuning: Tuning,
    },
    /// Waits until the sliver's health check passes.
    AwaitHealthy {
        /// Which.
        sliver: SliverId,
    },
    /// Takes its published ports from a domain that another one replaces.
    Unpublish {
        /// Which.
        sliver: SliverId,
    },
    /// Publishes the ports for a domain that has replaced another one. It gets its limits by it too.
    Publish {
        /// Which.
        sliver: SliverId,
        /// What it has afterwards.
        tuning: Tuning,
    },
    /// Stops the domain: asks, waits, then destroys.
    Shutdown {
        /// Which.
        sliver: SliverId,
        /// What it will be started from again: must be here before it stops, so that a failed fetch takes nothing
        /// down. Empty where it stays stopped.
        again: Ingredients,
    },
    /// Stores the memory of the domain in an image, and ends the domain.
    Suspend {
        /// Which.
        sliver: SliverId,
    },
    /// Writes into the image what the closed writable layers are like, so that it is never resumed over others.
    Seal {
        /// Whose.
        sliver: SliverId,
    },
    /// Deletes the image.
    DiscardImage {
        /// Whose.
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
    /// Takes writable layers that were set aside into use again.
    Revive {
        /// Whose.
        sliver: SliverId,
    },
    /// Takes over the closed writable layers of a sliver that goes by another name now.
    Adopt {
        /// Whose they become.
        sliver: SliverId,
        /// Whose they were.
        from: SliverId,
    },
    /// Deletes what a tombstone has kept long enough.
    Purge {
        /// Whose.
        sliver: SliverId,
    },
}

/// When a domain gets the ports that its sliver publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortsFrom {
    /// At its start.
    Start,
    /// When it takes over from the domain beside it, which has them until then. At first only its health check reaches
    /// it, by other ports.
    Takeover,
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
    /// What it does, without to what.
    #[must_use]
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::FetchTemplate { .. } => ActionKind::FetchTemplate,
            Self::ImportFiles { .. } => ActionKind::ImportFiles,
            Self::MountRemote { .. } => ActionKind::MountRemote,
            Self::Unpublish { .. } => ActionKind::Unpublish,
            Self::Publish { .. } => ActionKind::Publish,
            Self::Shutdown { .. } => ActionKind::Shutdown,
            Self::Suspend { .. } => ActionKind::Suspend,
            Self::Unexport { .. } => ActionKind::Unexport,
            Self::CloseWritable { .. } => ActionKind::CloseWritable,
            Self::Seal { .. } => ActionKind::Seal,
            Self::Tombstone { .. } => ActionKind::Tombstone,
            Self::DiscardImage { .. } => ActionKind::DiscardImage,
            Self::Revive { .. } => ActionKind::Revive,
            Self::Adopt { .. } => ActionKind::Adopt,
            Self::OpenWritable { .. } => ActionKind::OpenWritable,
            Self::Limit { .. } => ActionKind::Limit,
            Self::Checkpoint { .. } => ActionKind::Checkpoint,
            Self::Restore { .. } => ActionKind::Restore,
            Self::Stack { .. } => ActionKind::Stack,
            Self::Export { .. } => ActionKind::Export,
            Self::Boot { .. } => ActionKind::Boot,
            Self::Resume { .. } => ActionKind::Resume,
            Self::Unpause { .. } => ActionKind::Unpause,
            Self::Retune { .. } => ActionKind::Retune,
            Self::AwaitHealthy { .. } => ActionKind::AwaitHealthy,
            Self::Purge { .. } => ActionKind::Purge,
        }
    }

    /// The word for what it does, as in its key.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        self.kind().verb()
    }

    /// The sliver it is about, in the berth that it is about; `None` where several may share it.
    #[must_use]
    pub fn sliver(&self) -> Option<&SliverId> {
        match self {
            Self::FetchTemplate { .. } | Self::ImportFiles { .. } | Self::MountRemote { .. } => None,
            Self::Unpublish { sliver, .. }
            | Self::Publish { sliver, .. }
            | Self::Shutdown { sliver, .. }
            | Self::Suspend { sliver, .. }
            | Self::Unexport { sliver, .. }
            | Self::CloseWritable { sliver, .. }
            | Self::Seal { sliver, .. }
            | Self::Tombstone { sliver, .. }
            | Self::DiscardImage { sliver, .. }
            | Self::Revive { sliver, .. }
            | Self::Adopt { sliver, .. }
            | Self::OpenWritable { sliver, .. }
            | Self::Limit { sliver, .. }
            | Self::Checkpoint { sliver, .. }
            | Self::Restore { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver, .. }
            | Self::Boot { sliver, .. }
            | Self::Resume { sliver, .. }
            | Self::Unpause { sliver, .. }
            | Self::Retune { sliver, .. }
            | Self::AwaitHealthy { sliver, .. }
            | Self::Purge { sliver, .. } => Some(sliver),
        }
    }

    /// Its key: the verb, and the sliver, the digest's first 12 digits or the remote directory.
    #[must_use]
    pub fn key(&self) -> ActionKey {
        let object = match self {
            Self::FetchTemplate { digest, .. } | Self::ImportFiles { digest } => digest.short(),
            Self::MountRemote { remote } => remote.to_string(),
            Self::Unpublish { sliver, .. }
            | Self::Publish { sliver, .. }
            | Self::Shutdown { sliver, .. }
            | Self::Suspend { sliver, .. }
            | Self::Unexport { sliver, .. }
            | Self::CloseWritable { sliver, .. }
            | Self::Seal { sliver, .. }
            | Self::Tombstone { sliver, .. }
            | Self::DiscardImage { sliver, .. }
            | Self::Revive { sliver, .. }
            | Self::Adopt { sliver, .. }
            | Self::OpenWritable { sliver, .. }
            | Self::Limit { sliver, .. }
            | Self::Checkpoint { sliver, .. }
            | Self::Restore { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver, .. }
            | Self::Boot { sliver, .. }
            | Self::Resume { sliver, .. }
            | Self::Unpause { sliver, .. }
            | Self::Retune { sliver, .. }
            | Self::AwaitHealthy { sliver, .. }
            | Self::Purge { sliver, .. } => sliver.to_string(),
        };
        ActionKey([self.verb(), ":", &object].concat())
    }

    /// Where it stands among actions that nothing orders; also the order of the steps of one sliver.
    #[must_use]
    pub fn rank(&self) -> u8 {
        self.kind().rank()
    }

    /// What must be true before it.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Condition> {
        let mine = |conditions: &[fn(SliverId) -> Condition], sliver: &SliverId| {
            conditions
                .iter()
                .map(|condition| condition(sliver.clone()))
                .collect::<BTreeSet<_>>()
        };
        match self {
            Self::FetchTemplate { .. }
            | Self::ImportFiles { .. }
            | Self::MountRemote { .. }
            | Self::Suspend { .. }
            | Self::Unpublish { .. }
            | Self::DiscardImage { .. } => BTreeSet::new(),
            Self::OpenWritable { sliver, remotes, .. } => {
                let mut needs = mine(&[Condition::Released], sliver);
                needs.extend(mounted(remotes));
                needs
            }
            Self::Limit { epoch: None, .. } => BTreeSet::new(),
            Self::Limit { sliver, .. } => mine(&[Condition::WritableOpen], sliver),
            Self::Stack { sliver, from, .. } => {
                let mut needs = mine(&[Condition::WritableOpen], sliver);
                needs.extend(from.conditions());
                needs
            }
            Self::Export { sliver, stack } => BTreeSet::from([Condition::Stacked(sliver.clone(), *stack)]),
            Self::Boot {
                sliver,
                stack,
                kernel,
                remotes,
                ..
            } => [
                Condition::Exported(sliver.clone(), *stack),
                Condition::DomainGone(sliver.clone()),
                // An image never outlives a start: what it remembers of the disk would be wrong from then on.
                Condition::ImageGone(sliver.clone()),
                Condition::TemplatePresent(*kernel),
            ]
            .into_iter()
            .chain(mounted(remotes))
            .collect(),
            Self::Resume {
                sliver,
                stack,
                kernel,
                remotes,
                ..
            } => [
                Condition::Exported(sliver.clone(), *stack),
                Condition::DomainGone(sliver.clone()),
                Condition::ImageSealed(sliver.clone()),
                Condition::TemplatePresent(*kernel),
            ]
            .into_iter()
            .chain(mounted(remotes))
            .collect(),
            Self::Unpause { sliver, stack } => BTreeSet::from([Condition::Exported(sliver.clone(), *stack)]),
            Self::AwaitHealthy { sliver } | Self::Retune { sliver, .. } | Self::Publish { sliver, .. } => {
                mine(&[Condition::Running], sliver)
            }
            Self::Seal { sliver } => mine(&[Condition::Released, Condition::ImageStored], sliver),
            Self::Revive { sliver } => mine(&[Condition::Released, Condition::SetAside], sliver),
            Self::Adopt { sliver, from } => {
                let mut needs = mine(&[Condition::DomainGone, Condition::Released], sliver);
                needs.extend(mine(
                    &[Condition::DomainGone, Condition::Unexported, Condition::Released],
                    from,
                ));
                needs
            }
            Self::Shutdown { again, .. } | Self::Checkpoint { again, .. } => again.conditions().collect(),
            Self::Restore { sliver, keeps, .. } => {
                let mut needs = mine(&[Condition::DomainGone, Condition::WritableOpen], sliver);
                needs.insert(Condition::Checkpointed(sliver.clone(), keeps.clone()));
                needs
            }
            Self::Unexport { sliver } => mine(&[Condition::DomainGone], sliver),
            Self::CloseWritable { sliver } => mine(&[Condition::DomainGone, Condition::Unexported], sliver),
            Self::Tombstone { sliver } => mine(
                &[Condition::DomainGone, Condition::Unexported, Condition::Released],
                sliver,
            ),
            Self::Purge { sliver } => mine(
                &[
                    Condition::DomainGone,
                    Condition::Unexported,
                    Condition::Released,
                    Condition::SetAside,
                ],
                sliver,
            ),
        }
    }

    /// What is true after it.
    #[must_use]
    pub fn provides(&self) -> BTreeSet<Condition> {
        match self {
            Self::FetchTemplate { digest, .. } => BTreeSet::from([Condition::TemplatePresent(*digest)]),
            Self::ImportFiles { digest } => BTreeSet::from([Condition::FilesPresent(*digest)]),
            Self::MountRemote { remote } => BTreeSet::from([Condition::RemoteMounted(remote.clone())]),
            Self::OpenWritable { sliver, .. } => BTreeSet::from([Condition::WritableOpen(sliver.clone())]),
            Self::Limit {
                sliver,
                limits,
                share,
                ..
            } => BTreeSet::from([Condition::Limited(sliver.clone(), *limits, *share)]),
            Self::Stack { sliver, stack, .. } => BTreeSet::from([Condition::Stacked(sliver.clone(), *stack)]),
            Self::Export { sliver, stack } => BTreeSet::from([Condition::Exported(sliver.clone(), *stack)]),
            Self::Boot { sliver, .. } | Self::Unpause { sliver, .. } => {
                BTreeSet::from([Condition::Running(sliver.clone())])
            }
            Self::Resume { sliver, .. } => BTreeSet::from([
                Condition::Running(sliver.clone()),
                Condition::ImageGone(sliver.clone()),
            ]),
            Self::Retune { sliver, tuning } | Self::Publish { sliver, tuning } => {
                BTreeSet::from([Condition::Tuned(sliver.clone(), tuning.clone())])
            }
            Self::AwaitHealthy { sliver } => BTreeSet::from([Condition::Healthy(sliver.clone())]),
            Self::Shutdown { sliver, .. } => BTreeSet::from([Condition::DomainGone(sliver.clone())]),
            Self::Suspend { sliver } => BTreeSet::from([
                Condition::DomainGone(sliver.clone()),
                Condition::ImageStored(sliver.clone()),
            ]),
            Self::Seal { sliver } => BTreeSet::from([Condition::ImageSealed(sliver.clone())]),
            Self::DiscardImage { sliver } => BTreeSet::from([Condition::ImageGone(sliver.clone())]),
            Self::Unexport { sliver } => BTreeSet::from([Condition::Unexported(sliver.clone())]),
            Self::CloseWritable { sliver } => BTreeSet::from([Condition::Released(sliver.clone())]),
            Self::Checkpoint { sliver, name, .. } => {
                BTreeSet::from([Condition::Checkpointed(sliver.clone(), name.clone())])
            }
            Self::Tombstone { sliver } => BTreeSet::from([Condition::SetAside(sliver.clone())]),
            Self::Restore { .. }
            | Self::Revive { .. }
            | Self::Adopt { .. }
            | Self::Unpublish { .. }
            | Self::Purge { .. } => BTreeSet::new(),
        }
    }

    /// Whether `condition` is no longer true after it: what needs that must come before it, or be provided anew.
    #[must_use]
    pub fn revokes(&self, condition: &Condition) -> bool {
        match self {
            Self::FetchTemplate { .. }
            | Self::ImportFiles { .. }
            | Self::MountRemote { .. }
            | Self::Limit { .. }
            | Self::Checkpoint { .. }
            | Self::Restore { .. }
            | Self::Stack { .. }
            | Self::AwaitHealthy { .. }
            | Self::Unpause { .. }
            | Self::Seal { .. }
            | Self::Adopt { .. }
            | Self::Tombstone { .. } => false,
            Self::Unpublish { sliver } => matches!(condition, Condition::Tuned(of, _) if of == sliver),
            Self::Retune { sliver, tuning } | Self::Publish { sliver, tuning } => {
                matches!(condition, Condition::Tuned(of, other) if of == sliver && other != tuning)
            }
            Self::Resume { sliver, .. } => matches!(
                condition,
                Condition::DomainGone(of) | Condition::ImageStored(of) | Condition::ImageSealed(of)
                    if of == sliver
            ),
            Self::Suspend { sliver } => matches!(
                condition,
                Condition::Running(of)
                    | Condition::Healthy(of)
                    | Condition::Tuned(of, _)
                    | Condition::ImageGone(of)
                    | Condition::ImageSealed(of)
                    if of == sliver
            ),
            Self::DiscardImage { sliver } => {
                matches!(condition, Condition::ImageStored(of) | Condition::ImageSealed(of) if of == sliver)
            }
            Self::OpenWritable { sliver, .. } => {
                matches!(condition, Condition::Released(of) | Condition::SetAside(of) if of == sliver)
            }
            Self::Export { sliver, .. } => matches!(condition, Condition::Unexported(of) if of == sliver),
            Self::Boot { sliver, .. } => matches!(condition, Condition::DomainGone(of) if of == sliver),
            Self::Shutdown { sliver, .. } => matches!(
                condition,
                Condition::Running(of) | Condition::Healthy(of) | Condition::Tuned(of, _) if of == sliver
            ),
            Self::Unexport { sliver } => matches!(condition, Condition::Exported(of, _) if of == sliver),
            Self::CloseWritable { sliver } => {
                matches!(
                    condition,
                    Condition::WritableOpen(of) | Condition::Limited(of, _, _) | Condition::Stacked(of, _)
                        if of == sliver
                )
            }
            Self::Purge { sliver } | Self::Revive { sliver } => {
                matches!(condition, Condition::SetAside(of) if of == sliver)
            }
        }
    }

    /// Whether it takes something away that runs, is served or is kept: see [`ActionKind::is_destructive`].
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        self.kind().is_destructive()
    }
}

fn mounted(remotes: &BTreeSet<Remote>) -> impl Iterator<Item = Condition> + '_ {
    remotes.iter().cloned().map(Condition::RemoteMounted)
}
