//! The steps a node can take. Each declares what it needs and what it provides; order follows from that.

use std::collections::BTreeSet;
use std::fmt;

use xeno_model::desired::{DesiredSliver, LayerRef};
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::units::Bytes;

/// What a sliver's stacks and its kernel are made from, and so what must be here before it can start.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ingredients {
    /// Templates.
    pub templates: BTreeSet<Digest>,
    /// File sets of the repository.
    pub files: BTreeSet<Digest>,
}

impl Ingredients {
    /// All that `sliver` needs to start: the template of its kernel, and every layer of its mounts.
    #[must_use]
    pub fn of(sliver: &DesiredSliver) -> Self {
        let mut all = Self::default();
        all.templates.insert(sliver.kernel.digest);
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

    /// All that `sliver` needs to start again on the stacks it has: the template of its kernel.
    #[must_use]
    pub fn kernel_of(sliver: &DesiredSliver) -> Self {
        Self {
            templates: BTreeSet::from([sliver.kernel.digest]),
            files: BTreeSet::new(),
        }
    }

    fn conditions(&self) -> impl Iterator<Item = Condition> + '_ {
        let templates = self.templates.iter().copied().map(Condition::TemplatePresent);
        templates.chain(self.files.iter().copied().map(Condition::FilesPresent))
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
    /// Opens the sliver's writable layers, making them when missing.
    OpenWritable {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run.
        epoch: Epoch,
    },
    /// Gives the sliver's open writable layers another limit. Whoever uses them goes on.
    Limit {
        /// Whose.
        sliver: SliverId,
        /// Under which right to run they are open.
        epoch: Epoch,
        /// Most bytes that each may hold.
        disk: Option<Bytes>,
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
        /// What it will be started from again: must be here before it stops, so that a failed fetch takes nothing
        /// down. Empty where it stays stopped.
        again: Ingredients,
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
    /// The open writable layers may hold this much each.
    Limited(SliverId, Option<Bytes>),
    /// The stacks are assembled, and consist of this.
    Stacked(SliverId, Digest),
    /// The stacks are served, and consist of this.
    Exported(SliverId, Digest),
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
            Self::Limit { .. } => "limit",
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
            | Self::Limit { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver, .. }
            | Self::Boot { sliver, .. }
            | Self::AwaitHealthy { sliver }
            | Self::Shutdown { sliver, .. }
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
            | Self::Limit { sliver, .. }
            | Self::Stack { sliver, .. }
            | Self::Export { sliver, .. }
            | Self::Boot { sliver, .. }
            | Self::AwaitHealthy { sliver }
            | Self::Shutdown { sliver, .. }
            | Self::Unexport { sliver }
            | Self::CloseWritable { sliver }
            | Self::Tombstone { sliver }
            | Self::Purge { sliver } => sliver.to_string(),
        };
        ActionKey(format!("{}:{object}", self.verb()))
    }

    /// Where it stands among actions that nothing orders; also the order of the steps of one sliver.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self {
            Self::FetchTemplate { .. } => 0,
            Self::ImportFiles { .. } => 1,
            Self::Shutdown { .. } => 2,
            Self::Unexport { .. } => 3,
            Self::CloseWritable { .. } => 4,
            Self::Tombstone { .. } => 5,
            Self::OpenWritable { .. } => 6,
            Self::Limit { .. } => 7,
            Self::Stack { .. } => 8,
            Self::Export { .. } => 9,
            Self::Boot { .. } => 10,
            Self::AwaitHealthy { .. } => 11,
            Self::Purge { .. } => 12,
        }
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
            Self::FetchTemplate { .. } | Self::ImportFiles { .. } => BTreeSet::new(),
            Self::OpenWritable { sliver, .. } => mine(&[Condition::Released], sliver),
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
                ..
            } => BTreeSet::from([
                Condition::Exported(sliver.clone(), *stack),
                Condition::DomainGone(sliver.clone()),
                Condition::TemplatePresent(*kernel),
            ]),
            Self::AwaitHealthy { sliver } => mine(&[Condition::Running], sliver),
            Self::Shutdown { again, .. } => again.conditions().collect(),
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
    pub fn provides(&self) -> Option<Condition> {
        match self {
            Self::FetchTemplate { digest, .. } => Some(Condition::TemplatePresent(*digest)),
            Self::ImportFiles { digest } => Some(Condition::FilesPresent(*digest)),
            Self::OpenWritable { sliver, .. } => Some(Condition::WritableOpen(sliver.clone())),
            Self::Limit { sliver, disk, .. } => Some(Condition::Limited(sliver.clone(), *disk)),
            Self::Stack { sliver, stack, .. } => Some(Condition::Stacked(sliver.clone(), *stack)),
            Self::Export { sliver, stack } => Some(Condition::Exported(sliver.clone(), *stack)),
            Self::Boot { sliver, .. } => Some(Condition::Running(sliver.clone())),
            Self::AwaitHealthy { sliver } => Some(Condition::Healthy(sliver.clone())),
            Self::Shutdown { sliver, .. } => Some(Condition::DomainGone(sliver.clone())),
            Self::Unexport { sliver } => Some(Condition::Unexported(sliver.clone())),
            Self::CloseWritable { sliver } => Some(Condition::Released(sliver.clone())),
            Self::Tombstone { sliver } => Some(Condition::SetAside(sliver.clone())),
            Self::Purge { .. } => None,
        }
    }

    /// Whether `condition` is no longer true after it: what needs that must come before it, or be provided anew.
    #[must_use]
    pub fn revokes(&self, condition: &Condition) -> bool {
        match self {
            Self::FetchTemplate { .. }
            | Self::ImportFiles { .. }
            | Self::Limit { .. }
            | Self::Stack { .. }
            | Self::AwaitHealthy { .. }
            | Self::Tombstone { .. } => false,
            Self::OpenWritable { sliver, .. } => {
                matches!(condition, Condition::Released(of) | Condition::SetAside(of) if of == sliver)
            }
            Self::Export { sliver, .. } => matches!(condition, Condition::Unexported(of) if of == sliver),
            Self::Boot { sliver, .. } => matches!(condition, Condition::DomainGone(of) if of == sliver),
            Self::Shutdown { sliver, .. } => {
                matches!(condition, Condition::Running(of) | Condition::Healthy(of) if of == sliver)
            }
            Self::Unexport { sliver } => matches!(condition, Condition::Exported(of, _) if of == sliver),
            Self::CloseWritable { sliver } => {
                matches!(
                    condition,
                    Condition::WritableOpen(of) | Condition::Limited(of, _) | Condition::Stacked(of, _)
                        if of == sliver
                )
            }
            Self::Purge { sliver } => matches!(condition, Condition::SetAside(of) if of == sliver),
        }
    }

    /// Whether it takes something away that runs, is served or is kept. A run that is superseded stops before the
    /// first such action of a sliver or after its last, never between.
    #[must_use]
    pub fn is_destructive(&self) -> bool {
        match self {
            Self::Shutdown { .. }
            | Self::Unexport { .. }
            | Self::CloseWritable { .. }
            | Self::Tombstone { .. }
            | Self::Purge { .. } => true,
            Self::FetchTemplate { .. }
            | Self::ImportFiles { .. }
            | Self::OpenWritable { .. }
            | Self::Limit { .. }
            | Self::Stack { .. }
            | Self::Export { .. }
            | Self::Boot { .. }
            | Self::AwaitHealthy { .. } => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TemplatePresent(digest) => write!(f, "template {} present", digest.short()),
            Self::FilesPresent(digest) => write!(f, "files {} present", digest.short()),
            Self::WritableOpen(sliver) => write!(f, "writable layers of {sliver} open"),
            Self::Limited(sliver, disk) => {
                let disk = disk.map_or_else(|| "no limit".to_owned(), |disk| disk.to_string());
                write!(f, "writable layers of {sliver} limited to {disk}")
            }
            Self::Stacked(sliver, stack) => write!(f, "{sliver} stacked as {}", stack.short()),
            Self::Exported(sliver, stack) => write!(f, "{sliver} served as {}", stack.short()),
            Self::Running(sliver) => write!(f, "{sliver} running"),
            Self::Healthy(sliver) => write!(f, "{sliver} healthy"),
            Self::DomainGone(sliver) => write!(f, "no domain of {sliver}"),
            Self::Unexported(sliver) => write!(f, "nothing served to {sliver}"),
            Self::Released(sliver) => write!(f, "writable layers of {sliver} closed"),
            Self::SetAside(sliver) => write!(f, "writable layers of {sliver} set aside"),
        }
    }
}
