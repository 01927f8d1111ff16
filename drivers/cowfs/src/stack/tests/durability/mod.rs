//! What a crash, a fault or a full disk leaves of a writable layer, over a file system in memory that records what is done
//! to it.
//!
//! A *story* is a list of things a client does, each answered before the next. While it runs, [`Facts`] are kept after
//! each answer: what must be there from then on, whatever happens, and what may be. Then every moment of the recording is
//! a crash, with every combination of what was not durable yet (or many of them, where there are too many).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::attr::Device;
use crate::fsck::fsck_on;
use crate::service::{Changed, InDirectory};
use crate::testing::Dice;
use crate::writable::WritableError;
use crate::writable::disk::Disk;
use crate::writable::disk::simulated::{Image, Simulated};
use crate::writable::saved::SavedError;

mod crashes;
mod explore;
mod facts;
mod faults;
mod stories;
mod takeover;

use facts::Facts;

/// Where the layer is.
pub(super) const PATH: &str = "/w";

/// Something a client does.
#[derive(Clone, Debug)]
pub(super) enum Do {
    Create(&'static str),
    Mkdir(&'static str),
    Symlink(&'static str),
    Mknod(&'static str),
    Remove(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Mode(&'static str, u32),
    Size(&'static str, u64),
    /// So many bytes of this value from this offset on.
    Write(&'static str, u64, usize, u8, Stability),
    Commit(&'static str),
    FlushAll,
    /// The log is made short while it is served.
    Compact,
    /// The server is killed and started again under the same epoch.
    Restart,
    /// Another server takes over under the next epoch.
    TakeOver,
    /// The server ends in order, and another takes over.
    HandOver,
    /// A checkpoint of this name, while the layer is served.
    Save(&'static str),
    /// It is removed.
    Forget(&'static str),
    /// The server is killed; the layer goes back to the checkpoint and is served again.
    Restore(&'static str),
}

/// The layer below.
pub(super) fn lower() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/conf", &[b'o'; 5000])
        .file("bin/perl", b"#!perl")
        .link("bin/perl", "bin/perl5")
        .file("usr/lib/deep/so", b"elf")
}

/// A server over a file system in memory.
pub(super) struct Server {
    pub(super) disk: Simulated,
    pub(super) epoch: u64,
    /// Taken away only between two servers.
    world: Option<World>,
}

/// Opens the layer, making it when it is missing; back at a checkpoint if one is named.
fn open_world(disk: &Simulated, epoch: u64, back_to: Option<&str>) -> Result<World, String> {
    let disk = Disk::Simulated(disk.clone());
    let text = |error: &dyn std::error::Error| {
        let source = error
            .source()
            .map_or_else(String::new, |source| format!(": {source}"));
        format!("{error}{source}")
    };
    let path = Path::new(PATH);
    let writable = Writable::create_if_missing_on(&disk, path)
        .and_then(|()| Writable::open_on(&disk, path, epoch, Options::default()))
        .map_err(|error: WritableError| text(&error))?;
    let writable = match back_to {
        Some(name) => writable.restore(name).map_err(|error| text(&error))?,
        None => writable,
    };
    let spec = StackSpec {
        layers: vec![Arc::new(lower())],
        writable: Some(writable),
        content: MemoryContent::of(&[]),
        read_only_key: [0; 32],
    };
    Ok(World {
        stack: open(spec).map_err(|error| text(&error))?,
        root: Caller::root(),
    })
}

impl Server {
    pub(super) fn start(image: Image, epoch: u64) -> Result<Self, String> {
        Self::start_on(Simulated::holding(image), epoch)
    }

    pub(super) fn start_on(disk: Simulated, epoch: u64) -> Result<Self, String> {
        let world = Some(open_world(&disk, epoch, None)?);
        Ok(Self { disk, epoch, world })
    }

    pub(super) fn world(&self) -> &World {
        self.world.as_ref().expect("a server runs")
    }

    /// Ends the server without a word, and starts another.
    pub(super) fn restart(&mut self, epoch: u64) -> Result<(), String> {
        self.restart_at(epoch, None)
    }

    fn restart_at(&mut self, epoch: u64, back_to: Option<&str>) -> Result<(), String> {
        self.disk.kill();
        self.world = None;
        let next = self.disk.another_process();
        self.disk.bequeath(&next);
        self.disk = next;
        self.epoch = epoch;
        self.world = Some(open_world(&self.disk, epoch, back_to)?);
        Ok(())
    }

    /// What a step that ends the server does after that.
    pub(super) fn start_over(&mut self, step: &Do, epoch: u64) -> Result<(), String> {
        let back_to = if let Do::Restore(name) = step {
            Some(*name)
        } else {
            None
        };
        self.restart_at(epoch, back_to)
    }

    fn settled<T>(&self, changed: Changed<T>) -> FsResult<()> {
        let settled = self.world().stack.settle(changed.ticket);
        self.world().stack.tend(&|| true);
        settled
    }

    /// Does it, and waits until it is durable, as a server does before it answers.
    pub(super) fn run(&mut self, what: &Do) -> FsResult<()> {
        match what {
            Do::Restart => return self.restart(self.epoch).map_err(|_| Status::ServerFault),
            Do::TakeOver => return self.restart(self.epoch + 1).map_err(|_| Status::ServerFault),
            Do::Restore(name) => {
                return self
                    .restart_at(self.epoch, Some(name))
                    .map_err(|_| Status::ServerFault);
            }
            Do::HandOver => {
                self.world().stack.flush_all()?;
                self.world = None;
                return self.restart(self.epoch + 1).map_err(|_| Status::ServerFault);
            }
            _ => {}
        }
        let world = self.world();
        let (stack, root) = (&world.stack, &world.root);
        let set = SetAttr {
            mode: Some(0o640),
            ..SetAttr::default()
        };
        let spot = |path: &'static str| -> FsResult<(Handle, &'static [u8])> {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            Ok((world.at(dir)?.handle, name.as_bytes()))
        };
        let made: FsResult<Changed<InDirectory>> = match *what {
            Do::Create(path) => {
                let (dir, name) = spot(path)?;
                stack.create(root, None, &dir, name, CreateMode::Guarded(set))
            }
            Do::Mkdir(path) => {
                let (dir, name) = spot(path)?;
                stack.mkdir(root, None, &dir, name, &set)
            }
            Do::Symlink(path) => {
                let (dir, name) = spot(path)?;
                stack.symlink(root, None, &dir, name, b"some/where", &set)
            }
            Do::Mknod(path) => {
                let (dir, name) = spot(path)?;
                let device = Special {
                    file_type: FileType::Character,
                    device: Device { major: 0, minor: 0 },
                };
                stack.mknod(root, None, &dir, name, device, &set)
            }
            Do::Remove(path) => {
                let (dir, name) = spot(path)?;
                stack.remove(root, None, &dir, name)
            }
            Do::Rmdir(path) => {
                let (dir, name) = spot(path)?;
                stack.rmdir(root, None, &dir, name)
            }
            Do::Link(old, new) => {
                let (dir, name) = spot(new)?;
                stack.link(root, None, &world.at(old)?.handle, &dir, name)
            }
            Do::Rename(from, to) => {
                let (from, to) = (spot(from)?, spot(to)?);
                let renamed = stack.rename(root, None, (&from.0, from.1), (&to.0, to.1))?;
                return self.settled(renamed);
            }
            Do::Mode(path, mode) => {
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                let changed = stack.setattr(root, None, &world.at(path)?.handle, &set, None)?;
                return self.settled(changed);
            }
            Do::Size(path, size) => {
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                let changed = stack.setattr(root, None, &world.at(path)?.handle, &set, None)?;
                return self.settled(changed);
            }
            Do::Write(path, offset, len, value, stability) => {
                let handle = world.at(path)?.handle;
                let written = stack.write(root, &handle, offset, &vec![value; len], stability)?;
                return self.settled(written);
            }
            Do::Commit(path) => return stack.commit(root, &world.at(path)?.handle).map(drop),
            Do::FlushAll => return stack.flush_all(),
            Do::Compact => return stack.compact(),
            Do::Save(name) => return stack.save(name).map_err(saved_status),
            Do::Forget(name) => return stack.delete_saved(name).map_err(saved_status),
            Do::Restart | Do::TakeOver | Do::HandOver | Do::Restore(_) => Err(Status::ServerFault),
        };
        self.settled(made?)
    }

    /// Whether the layer, with nobody at it, is whole.
    pub(super) fn fsck(disk: &Simulated) -> Result<(), String> {
        let report = match fsck_on(&Disk::Simulated(disk.clone()), Path::new(PATH)) {
            Ok(report) => report,
            // The crash came before there was a layer.
            Err(WritableError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        if report.problems.is_empty() {
            Ok(())
        } else {
            Err(format!("fsck: {:?}", report.problems))
        }
    }
}

fn saved_status(error: SavedError) -> Status {
    match error {
        SavedError::Flush(status) => status,
        SavedError::Layer(WritableError::Io { doing, source, .. }) => {
            super::super::data::io_status(doing, &source)
        }
        _ => Status::ServerFault,
    }
}

impl Do {
    /// Whether another server runs afterwards.
    pub(super) fn is_restart(&self) -> bool {
        matches!(
            self,
            Self::Restart | Self::TakeOver | Self::HandOver | Self::Restore(_)
        )
    }
}

/// What ran, and what was known after each answer; entry 0 is before the first.
pub(super) struct Told {
    pub(super) steps: Vec<Do>,
    pub(super) facts: Vec<Facts>,
    pub(super) disk: Simulated,
}

/// Runs a story on an empty disk to its end; steps that the server refuses are left out of it.
pub(super) fn tell(story: &[Do]) -> Told {
    let mut server = Server::start(Image::default(), 1).expect("a new layer");
    server.disk.mark(0);
    let mut told = Told {
        steps: Vec::new(),
        facts: vec![Facts::first(server.world())],
        disk: server.disk.clone(),
    };
    for step in story {
        if let Err(status) = server.run(step) {
            assert!(
                matches!(
                    status,
                    Status::NoEnt
                        | Status::Exist
                        | Status::NotEmpty
                        | Status::IsDir
                        | Status::NotDir
                        | Status::Inval
                        | Status::Perm
                ),
                "{step:?}: {status}"
            );
            // Looking may have copied something up, which is no change.
            continue;
        }
        let before = told.facts.last().expect("there is the first");
        let after = before.after(step, server.world());
        told.steps.push(step.clone());
        told.facts.push(after);
        server.disk.mark(told.steps.len());
    }
    told
}
