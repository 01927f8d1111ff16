//! What is served: a template and two overlays over it, as directories for one server and as templates for the other.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cowfs::import::Source;
use cowfs::template::{Store, TemplateOptions};

use crate::Failure;

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Directories of the template; each has `files` files.
    pub(crate) directories: usize,
    pub(crate) files: usize,
    /// Bytes of each big file.
    pub(crate) big: u64,
    /// Big files that are there to be written to for the first time.
    pub(crate) first: usize,
}

/// The layers, nearest first.
pub(crate) struct Ground {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) store: PathBuf,
    pub(crate) templates: Vec<String>,
}

/// The layers in `dir`, and a store with templates of them; made where they are not there yet, which takes a while.
pub(crate) fn make(dir: &Path, shape: Shape) -> Result<Ground, Failure> {
    let names = ["overlay-2", "overlay-1", "base"];
    let dirs: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let made = dir.join(format!("made-{shape:?}").replace(' ', ""));
    if !made.exists() {
        for dir in dirs.iter().chain([&dir.join("store")]) {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        fill(&dirs, shape)?;
    }
    let store_dir = dir.join("store");
    let store = Store::open(&store_dir)?;
    let mut templates = Vec::new();
    for (name, dir) in names.iter().zip(&dirs) {
        let digest = match store.named(name)?.first() {
            Some(digest) => *digest,
            None => {
                let options = TemplateOptions {
                    name: Some((*name).to_owned()),
                    ..TemplateOptions::default()
                };
                store.import(&Source::at(dir)?, &options, &mut |_| {})?.digest
            }
        };
        templates.push(digest.to_string());
    }
    fs::write(made, "")?;
    Ok(Ground {
        dirs,
        store: store_dir,
        templates,
    })
}

fn fill(dirs: &[PathBuf], shape: Shape) -> Result<(), Failure> {
    let [second, first, base] = dirs else {
        return Err("three layers".into());
    };
    for directory in 0..shape.directories {
        // As deep as a Debian root mostly is.
        let path = format!("usr/share/part-{}/d{directory}", directory % 8);
        for (layer, every, from) in [(base, 1, 0), (first, 10, 0), (second, 20, 5)] {
            let here = layer.join(&path);
            fs::create_dir_all(&here)?;
            for file in (from..shape.files).step_by(every) {
                // Most files of a root are small: half of these have less than 3 KiB, few more than 30.
                let size = 200 + (directory * 7919 + file * 104_729) % 5000 * (1 + file % 7);
                let fill = u8::try_from(every)?;
                fs::write(here.join(format!("f{directory}-{file}")), vec![fill; size])?;
            }
        }
        // What an overlay adds.
        fs::write(
            first.join(&path).join(format!("o{directory}")),
            b"of the first overlay",
        )?;
    }
    for name in std::iter::once("big".to_owned()).chain((0..shape.first).map(|n| format!("first-{n}"))) {
        let mut file = fs::File::create(base.join(name))?;
        let block: Vec<u8> = (0..1_u32 << 20)
            .map(|n| u8::try_from(n % 251).unwrap_or(0))
            .collect();
        let mut left = shape.big;
        while left > 0 {
            let now = left.min(1 << 20);
            file.write_all(&block[..usize::try_from(now)?])?;
            left -= now;
        }
    }
    Ok(())
}
