//! Picks the modules a guest needs out of a kernel's module directory, with all they depend on, in loading order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest list (`modules.dep`) and largest module that are read.
const SIZE_MAX: u64 = 64 << 20;
/// Modules that depend on each other in a row.
const DEPTH_MAX: usize = 64;

/// A module that cannot be missing.
const NEEDED: [&str; 3] = ["virtio_pci", "virtio_net", "nfsv3"];
/// Modules that are taken if the kernel has them: other buses, the power button, memory, entropy, crash reports.
const WELCOME: [&str; 8] = [
    "virtio_mmio",
    "xen_netfront",
    "button",
    "evdev",
    "virtio_balloon",
    "virtio_rng",
    "pvpanic_pci",
    "pvpanic",
];

/// Why the modules could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such module, built in or not.
    #[error("{} has no module {name}, which a guest needs", directory.display())]
    Missing {
        /// The module directory.
        directory: PathBuf,
        /// The module.
        name: String,
    },
    /// The list of modules makes no sense.
    #[error("{} makes no sense: {what}", path.display())]
    BadList {
        /// The list.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// A module, uncompressed.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules a guest needs from `directory` (`/lib/modules/VERSION`), each after those it depends on.
pub(super) fn pick(directory: &Path) -> Result<Vec<Module>, ModulesError> {
    let list = List::read(directory)?;
    let mut picked = Vec::new();
    let mut seen = BTreeSet::new();
    for name in NEEDED {
        if !list.modules.contains_key(name) && !list.builtin.contains(name) {
            return Err(ModulesError::Missing {
                directory: directory.to_owned(),
                name: name.to_owned(),
            });
        }
    }
    for name in NEEDED.into_iter().chain(WELCOME) {
        if list.modules.contains_key(name) {
            list.pick(name, &mut seen, &mut picked, 0)?;
        }
    }
    Ok(picked)
}

struct List {
    directory: PathBuf,
    /// Path and dependencies (by name) of each module.
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl List {
    fn read(directory: &Path) -> Result<Self, ModulesError> {
        let path = directory.join("modules.dep");
        let bad = |what| ModulesError::BadList {
            path: path.clone(),
            what,
        };
        let text = read_text(&path)?;
        let mut modules = BTreeMap::new();
        for line in text.lines() {
            let (file, needs) = line
                .split_once(':')
                .ok_or_else(|| bad("a line without a colon"))?;
            if file.starts_with('/') || file.split('/').any(|part| part == "..") {
                return Err(bad("a path that leads out of the directory"));
            }
            let needs = needs.split_whitespace().map(name_of).collect();
            modules.insert(name_of(file), (file.to_owned(), needs));
        }
        let builtin = directory.join("modules.builtin");
        let builtin = if builtin.exists() {
            read_text(&builtin)?
        } else {
            String::new()
        };
        Ok(Self {
            directory: directory.to_owned(),
            modules,
            builtin: builtin.lines().map(name_of).collect(),
        })
    }

    fn pick(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        picked: &mut Vec<Module>,
        depth: usize,
    ) -> Result<(), ModulesError> {
        let bad = |what| ModulesError::BadList {
            path: self.directory.join("modules.dep"),
            what,
        };
        if depth > DEPTH_MAX {
            return Err(bad("modules depend on each other without end"));
        }
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let (file, needs) = self
            .modules
            .get(name)
            .ok_or_else(|| bad("a module needs one that is not listed"))?;
        for need in needs {
            self.pick(need, seen, picked, depth + 1)?;
        }
        picked.push(Module {
            name: name.to_owned(),
            bytes: read_module(&self.directory.join(file))?,
        });
        Ok(())
    }
}

/// The name of a module by its file, as the kernel has it: without directories and endings, `_` for `-`.
fn name_of(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn read_text(path: &Path) -> Result<String, ModulesError> {
    let bytes = read_bounded(path)?;
    String::from_utf8(bytes).map_err(|_| ModulesError::BadList {
        path: path.to_owned(),
        what: "it is not text",
    })
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let bytes = read_bounded(path)?;
    let unpack = |mut from: Box<dyn Read + '_>| {
        let mut out = Vec::new();
        from.as_mut().take(SIZE_MAX).read_to_end(&mut out).map(|_| out)
    };
    let unpacked = match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => unpack(Box::new(flate2::read::MultiGzDecoder::new(bytes.as_slice()))),
        Some("zst") => {
            zstd::stream::read::Decoder::new(bytes.as_slice()).and_then(|from| unpack(Box::new(from)))
        }
        Some("xz") => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "modules compressed with xz are not supported: unpack them first",
        )),
        _ => Ok(bytes),
    };
    unpacked.map_err(|source| ModulesError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|source| ModulesError::Read {
        path: path.to_owned(),
        source,
    })
}
