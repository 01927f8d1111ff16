//! What must be there after a crash, and what may be.

use super::*;

/// What is known at one moment.
#[derive(Clone, Debug)]
pub(in crate::stack::tests) struct Facts {
    /// By path: type, mode, owner, links, identity; of anything but files the content too.
    tree: BTreeMap<String, String>,
    /// By path: identity of the regular file.
    paths: BTreeMap<String, u64>,
    /// By identity.
    files: BTreeMap<u64, File>,
    /// What checkpoints hold.
    saved: BTreeMap<&'static str, Box<Facts>>,
}

/// Content of a file.
#[derive(Clone, Debug, Default)]
struct File {
    /// What was promised.
    sure: Vec<u8>,
    /// What was written since, and may be there or not.
    maybe: Vec<Written>,
}

#[derive(Clone, Debug)]
struct Written {
    at: usize,
    bytes: Vec<u8>,
    /// Whether a COMMIT will cover it: not what failed, and not what an earlier server took (RFC 1813 §4.8: the client
    /// sees another verifier, and writes it again).
    owed: bool,
}

impl Written {
    fn end(&self) -> usize {
        self.at + self.bytes.len()
    }
}

impl File {
    fn sure(sure: Vec<u8>) -> Self {
        let maybe = Vec::new();
        Self { sure, maybe }
    }

    fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.sure.len() < end {
            self.sure.resize(end, 0);
        }
        self.sure[at..end].copy_from_slice(bytes);
        // Earlier doubts about these bytes are settled.
        let mut left = Vec::new();
        for old in std::mem::take(&mut self.maybe) {
            if old.at < at {
                let bytes = old.bytes[..(at - old.at).min(old.bytes.len())].to_vec();
                left.push(Written { bytes, ..old });
            }
            if old.end() > end {
                let from = end.max(old.at);
                let bytes = old.bytes[from - old.at..].to_vec();
                left.push(Written {
                    at: from,
                    bytes,
                    ..old
                });
            }
        }
        self.maybe = left;
    }

    fn commit(&mut self) {
        for written in std::mem::take(&mut self.maybe) {
            if written.owed {
                self.overwrite(written.at, &written.bytes);
            } else {
                self.maybe.push(written);
            }
        }
    }

    fn cut(&mut self, size: usize) {
        self.sure.resize(size, 0);
        self.maybe.retain(|written| written.at < size);
        for written in &mut self.maybe {
            written.bytes.truncate(size - written.at);
        }
    }

    /// Says what is wrong with `found`, if anything is.
    fn check(&self, found: &[u8]) -> Result<(), String> {
        let longest = self.maybe.iter().map(Written::end).max();
        let longest = longest.unwrap_or(0).max(self.sure.len());
        if !(self.sure.len()..=longest).contains(&found.len()) {
            return Err(format!(
                "{} bytes, where {} to {longest} may be",
                found.len(),
                self.sure.len()
            ));
        }
        for (at, byte) in found.iter().enumerate() {
            let sure = self.sure.get(at).copied().unwrap_or(0);
            let may = |written: &Written| {
                at.checked_sub(written.at).and_then(|at| written.bytes.get(at)) == Some(byte)
            };
            if *byte != sure && !self.maybe.iter().any(may) {
                return Err(format!("byte {at} is {byte}, promised was {sure}"));
            }
        }
        Ok(())
    }
}

impl Facts {
    /// What a new layer shows.
    pub(in crate::stack::tests) fn first(world: &World) -> Self {
        let mut facts = Self::look(world).0;
        facts.files = BTreeMap::new();
        facts.learn(world);
        facts
    }

    /// The tree as it is, and content by path.
    fn look(world: &World) -> (Self, BTreeMap<String, Vec<u8>>) {
        let (mut tree, mut paths, mut content) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (path, text) in world.tree_with(&mut |path, object| {
            paths.insert(path.to_owned(), object.fileid);
            content.insert(path.to_owned(), world.read(path));
        }) {
            tree.insert(path, text);
        }
        let (files, saved) = (BTreeMap::new(), BTreeMap::new());
        let facts = Self {
            tree,
            paths,
            files,
            saved,
        };
        (facts, content)
    }

    /// What is known once the client sees another verifier: it will write everything again, and what it has written may be
    /// there or not.
    pub(in crate::stack::tests) fn with_another_verifier(mut self) -> Self {
        let written = self.files.values_mut().flat_map(|file| &mut file.maybe);
        written.for_each(|written| written.owed = false);
        self
    }

    /// Takes content of files that nothing is known of as promised, and forgets files that are gone.
    fn learn(&mut self, world: &World) {
        for (path, id) in &self.paths {
            self.files
                .entry(*id)
                .or_insert_with(|| File::sure(world.read(path)));
        }
        let paths = &self.paths;
        self.files.retain(|id, _| paths.values().any(|known| known == id));
    }

    /// What is known once the server has answered.
    pub(in crate::stack::tests) fn after(&self, step: &Do, world: &World) -> Self {
        // What the server shows while it lives is what a client wrote, whatever a crash may take.
        self.done(step, world)
            .unwrap_or_else(|wrong| panic!("after {step:?}: {wrong}"))
    }

    /// What is known if the step was carried out; an error if `world` shows that it was not.
    pub(in crate::stack::tests) fn done(&self, step: &Do, world: &World) -> Result<Self, String> {
        if let Do::Restore(name) = step {
            let facts = self.restored(name).ok_or("nothing was saved")?;
            facts.check(world)?;
            return Ok(facts);
        }
        let mut facts = Self::look(world).0;
        facts.files = self.files.clone();
        facts.saved.clone_from(&self.saved);
        facts.learn(world);
        match step {
            Do::Write(path, offset, len, value, stability) => {
                let at = usize::try_from(*offset).expect("it is small");
                if let Some(file) = facts.file(path) {
                    let bytes = vec![*value; *len];
                    match stability {
                        Stability::Unstable => file.maybe.push(Written {
                            at,
                            bytes,
                            owed: true,
                        }),
                        Stability::DataSync | Stability::FileSync => file.overwrite(at, &bytes),
                    }
                }
            }
            Do::Size(path, size) => {
                if let Some(file) = facts.file(path) {
                    file.cut(usize::try_from(*size).expect("it is small"));
                }
            }
            Do::Commit(path) => {
                if let Some(file) = facts.file(path) {
                    file.commit();
                }
            }
            Do::FlushAll | Do::Compact => facts.files.values_mut().for_each(File::commit),
            Do::Save(name) => {
                facts.files.values_mut().for_each(File::commit);
                // Nothing that an earlier server took is in doubt in it: it is what shows now.
                let mut saved = Self::first(world);
                saved.saved = BTreeMap::new();
                facts.saved.insert(name, Box::new(saved));
            }
            Do::Forget(name) => {
                facts.saved.remove(name);
            }
            Do::Restart | Do::TakeOver | Do::HandOver => {
                if matches!(step, Do::HandOver) {
                    facts.files.values_mut().for_each(File::commit);
                }
                facts = facts.with_another_verifier();
            }
            _ => {}
        }
        facts.check(world)?;
        Ok(facts)
    }

    /// What going back to a checkpoint shows.
    pub(in crate::stack::tests) fn restored(&self, name: &str) -> Option<Self> {
        let mut facts = Self::clone(self.saved.get(name)?);
        facts.saved.clone_from(&self.saved);
        Some(facts)
    }

    /// Whether there is a checkpoint of this name.
    pub(in crate::stack::tests) fn holds(&self, name: &str) -> bool {
        self.saved.contains_key(name)
    }

    fn file(&mut self, path: &str) -> Option<&mut File> {
        let id = self.paths.get(&format!("/{path}"))?;
        self.files.get_mut(id)
    }

    /// What may be there while `step` is under way and nothing of it has been answered.
    pub(in crate::stack::tests) fn during(&self, step: &Do) -> Self {
        let mut facts = self.clone();
        if let Do::Write(path, offset, len, value, _) = step {
            let at = usize::try_from(*offset).expect("it is small");
            if let Some(file) = facts.file(path) {
                file.maybe.push(Written {
                    at,
                    bytes: vec![*value; *len],
                    owed: false,
                });
            }
        }
        facts
    }

    /// Says what in `world` contradicts this, if anything does.
    pub(in crate::stack::tests) fn check(&self, world: &World) -> Result<(), String> {
        let (found, content) = Self::look(world);
        for (path, text) in &self.tree {
            let there = found.tree.get(path);
            if there != Some(text) {
                return Err(format!("`{path}` is {there:?} and should be {text}"));
            }
        }
        if let Some((path, text)) = found.tree.iter().find(|(path, _)| !self.tree.contains_key(*path)) {
            return Err(format!("`{path}` should not be there: {text}"));
        }
        for (path, bytes) in &content {
            let known = self.paths.get(path).and_then(|id| self.files.get(id));
            if let Some(file) = known {
                file.check(bytes).map_err(|wrong| format!("`{path}`: {wrong}"))?;
            }
        }
        Ok(())
    }
}
