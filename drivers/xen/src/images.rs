//! Memory of suspended domains on disk: one directory for each sliver.
//!
//! ```text
//! IMAGES/web-0/image.json          the description; only with it there is an image
//! IMAGES/web-0/1790….save          the memory, as `xl save` writes it; named by the time it was taken
//! IMAGES/web-0/1790….save.tmp      memory that was not written to its end: nothing
//! IMAGES/web-0/resuming.json       the description of an image that a guest may have gone on from: never used again
//! ```
//!
//! # What may die in between
//! An image begins to exist with the rename that makes its description, after its memory is on disk, and before the domain is
//! destroyed. It ceases to exist with the rename to `resuming.json`, before the guest is told to go on. So whoever
//! dies, there is at every moment at most one of a guest that may have run on and an image that can be resumed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, SliverId, Timestamp};

use crate::config::GuestKind;
use crate::files::{FileError, make_private, read_json, sync, write_json};
use crate::record::StoredPublish;

/// Directories that are looked at; far more than a node has slivers.
const IMAGES_MAX: usize = 10_000;
const IMAGE_VERSION: u32 = 1;
const DESCRIPTION: &str = "image.json";
const CONSUMED: &str = "resuming.json";
const MEMORY: &str = "save";
const UNFINISHED: &str = "tmp";

/// The images of one node. All calls block.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    dir: PathBuf,
}

/// A stored image: the domain as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) sliver: SliverId,
    pub(crate) uuid: DomainUuid,
    /// What the domain was started as.
    pub(crate) boot: Digest,
    pub(crate) memory_mib: u64,
    /// What it was started with: a domain that takes the image must have as much.
    pub(crate) memory_max_mib: u64,
    pub(crate) vcpus: u32,
    pub(crate) publish: Vec<Publish>,
    /// Its virtualisation: memory of one kind does not load into another.
    pub(crate) guest: GuestKind,
    pub(crate) bytes: u64,
    /// When it was taken; also the name of its memory.
    pub(crate) at: Timestamp,
    /// The state of the disk that it belongs to; `None`: not sealed yet.
    pub(crate) mark: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredImage {
    version: u32,
    sliver: String,
    uuid: String,
    boot: String,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
    publish: Vec<StoredPublish>,
    guest: String,
    bytes: u64,
    at_unix_ms: u64,
    mark: Option<String>,
}

/// Memory that is being written.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) at: Timestamp,
}

/// A directory of images that was looked at.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) sliver: SliverId,
    /// An error: there is a description, and it is of no use.
    pub(crate) image: Result<Image, FileError>,
}

impl Images {
    /// The images in `dir`, which is made when the first comes.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn of(&self, sliver: &SliverId) -> PathBuf {
        self.dir.join(sliver.label())
    }

    /// All images.
    pub(crate) fn look(&self) -> io::Result<Vec<Found>> {
        let listing = match fs::read_dir(&self.dir) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for (count, entry) in listing.enumerate() {
            if count >= IMAGES_MAX {
                return Err(io::Error::other("the directory of images holds too many entries"));
            }
            let name = entry?.file_name();
            // Others' files are left alone.
            let Some(sliver) = name.to_str().and_then(read_label) else {
                continue;
            };
            match self.read(&sliver) {
                Ok(None) => {}
                Ok(Some(image)) => all.push(Found {
                    sliver,
                    image: Ok(image),
                }),
                Err(error) => all.push(Found {
                    sliver,
                    image: Err(error),
                }),
            }
        }
        Ok(all)
    }

    /// The image of a sliver, if it has one whose memory is all there.
    pub(crate) fn read(&self, sliver: &SliverId) -> Result<Option<Image>, FileError> {
        let path = self.of(sliver).join(DESCRIPTION);
        let Some(stored) = read_json::<StoredImage>(&path)? else {
            return Ok(None);
        };
        let wrong = |what| FileError::Value {
            path: path.clone(),
            what,
        };
        let image = stored.into_image().map_err(wrong)?;
        if image.sliver != *sliver {
            return Err(wrong(format!("it is of {}", image.sliver)));
        }
        let memory = self.memory(&image);
        let len = fs::metadata(&memory).map(|status| status.len());
        match len {
            Ok(len) if len == image.bytes => Ok(Some(image)),
            Ok(len) => Err(wrong(format!("its memory has {len} bytes, not {}", image.bytes))),
            Err(source) => Err(FileError::Io { path: memory, source }),
        }
    }

    /// The file that holds the memory.
    pub(crate) fn memory(&self, image: &Image) -> PathBuf {
        self.of(&image.sliver).join(memory_name(image.at))
    }

    /// Bytes that the disk of images has left for us.
    pub(crate) fn free(&self) -> io::Result<u64> {
        make_private(&self.dir)?;
        let status = rustix::fs::statvfs(&self.dir)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Makes a place for memory to be written to, for its user alone.
    pub(crate) fn begin(&self, sliver: &SliverId, at: Timestamp) -> io::Result<Unfinished> {
        let dir = self.of(sliver);
        make_private(&self.dir)?;
        make_private(&dir)?;
        let path = dir
            .join(memory_name(at))
            .with_extension(format!("{MEMORY}.{UNFINISHED}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Unfinished { file, path, at })
    }

    /// Makes an image of memory that was written to its end. Durable when it returns; where it fails, whether there is
    /// an image is not known, and [`Images::discard`] makes it so that there is none.
    pub(crate) fn finish(&self, memory: &Unfinished, image: &Image) -> Result<(), FileError> {
        let io_failed = |source| FileError::Io {
            path: memory.path.clone(),
            source,
        };
        memory.file.sync_all().map_err(io_failed)?;
        fs::rename(&memory.path, self.memory(image)).map_err(io_failed)?;
        let dir = self.of(&image.sliver);
        for dir in [dir.as_path(), self.dir.as_path()] {
            sync(dir).map_err(io_failed)?;
        }
        self.describe(image)
    }

    fn describe(&self, image: &Image) -> Result<(), FileError> {
        let path = self.of(&image.sliver).join(DESCRIPTION);
        write_json(&path, &StoredImage::from(image))
    }

    /// Notes which state of the disk an image belongs to.
    pub(crate) fn seal(&self, image: &Image, mark: Digest) -> Result<(), FileError> {
        self.describe(&Image {
            mark: Some(mark),
            ..image.clone()
        })
    }

    /// Makes sure that a stored image survives a power failure, whoever stored it.
    pub(crate) fn settle(&self, image: &Image) -> io::Result<()> {
        File::open(self.memory(image))?.sync_all()?;
        let dir = self.of(&image.sliver);
        File::open(dir.join(DESCRIPTION))?.sync_all()?;
        sync(&dir)?;
        sync(&self.dir)
    }

    /// Takes the image out of everybody's reach, durably, before a guest goes on from it.
    pub(crate) fn consume(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        fs::rename(dir.join(DESCRIPTION), dir.join(CONSUMED))?;
        sync(&dir)
    }

    /// Whether there was an image that a guest may have gone on from.
    pub(crate) fn is_consumed(&self, sliver: &SliverId) -> io::Result<bool> {
        self.of(sliver).join(CONSUMED).try_exists()
    }

    /// Removes the image of a sliver and all remains of others. From the first step on there is none.
    pub(crate) fn discard(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        match fs::remove_file(dir.join(DESCRIPTION)) {
            Ok(()) => sync(&dir)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.clean(sliver)
    }

    /// Removes what is no image: memory that was not written to its end or that nothing describes, and what a guest has
    /// gone on from.
    pub(crate) fn clean(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        let described = match read_json::<StoredImage>(&dir.join(DESCRIPTION)) {
            Ok(None) => None,
            Ok(Some(stored)) => Some(memory_name(Timestamp(stored.at_unix_ms))),
            // Whoever wrote it may know which memory is its.
            Err(_) => return Ok(()),
        };
        let listing = match fs::read_dir(&dir) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in listing {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let memory = name
                .trim_end_matches(&format!(".{UNFINISHED}"))
                .ends_with(&format!(".{MEMORY}"));
            let gone = name == CONSUMED || memory && Some(name) != described.as_deref();
            if gone {
                fs::remove_file(dir.join(name))?;
            }
        }
        if described.is_none() {
            match fs::remove_dir(&dir) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn memory_name(at: Timestamp) -> String {
    format!("{}.{MEMORY}", at.0)
}

/// The sliver that a directory is of.
fn read_label(label: &str) -> Option<SliverId> {
    SliverId::of_label(label).filter(|sliver| sliver.label() == label)
}

impl From<&Image> for StoredImage {
    fn from(image: &Image) -> Self {
        Self {
            version: IMAGE_VERSION,
            sliver: image.sliver.to_string(),
            uuid: image.uuid.to_string(),
            boot: image.boot.to_string(),
            memory_mib: image.memory_mib,
            memory_max_mib: image.memory_max_mib,
            vcpus: image.vcpus,
            publish: image.publish.iter().map(StoredPublish::from).collect(),
            guest: image.guest.word().to_owned(),
            bytes: image.bytes,
            at_unix_ms: image.at.0,
            mark: image.mark.map(|mark| mark.to_string()),
        }
    }
}

impl StoredImage {
    fn into_image(self) -> Result<Image, String> {
        if self.version != IMAGE_VERSION {
            return Err(format!("its version is {}, not {IMAGE_VERSION}", self.version));
        }
        let guest = GuestKind::parse(&self.guest).ok_or("it is of no known kind of guest")?;
        let mark = self.mark.map(|mark| Digest::parse(&mark)).transpose();
        Ok(Image {
            sliver: SliverId::parse_embodiment(&self.sliver).map_err(|error| error.to_string())?,
            uuid: DomainUuid::parse(&self.uuid).map_err(|error| error.to_string())?,
            boot: Digest::parse(&self.boot).map_err(|error| error.to_string())?,
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib,
            vcpus: self.vcpus,
            publish: self.publish.into_iter().map(Publish::from).collect(),
            guest,
            bytes: self.bytes,
            at: Timestamp(self.at_unix_ms),
            mark: mark.map_err(|error| error.to_string())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn sliver() -> SliverId {
        SliverId::parse("web/0").unwrap()
    }

    fn image(at: u64) -> Image {
        Image {
            sliver: sliver(),
            uuid: DomainUuid([7; 16]),
            boot: Digest::of(b"boot"),
            memory_mib: 128,
            memory_max_mib: 256,
            vcpus: 1,
            publish: vec![Publish {
                guest: 80,
                host: 8080,
            }],
            guest: GuestKind::Pv,
            bytes: 6,
            at: Timestamp(at),
            mark: None,
        }
    }

    fn store(images: &Images, at: u64) -> Image {
        let mut memory = images.begin(&sliver(), Timestamp(at)).unwrap();
        memory.file.write_all(b"memory").unwrap();
        assert_eq!(
            images.read(&sliver()).unwrap(),
            None,
            "it is no image before its end"
        );
        images.finish(&memory, &image(at)).unwrap();
        image(at)
    }

    fn names(dir: &Path) -> Vec<String> {
        let listing = fs::read_dir(dir.join("web-0")).into_iter().flatten();
        let mut names: Vec<_> = listing
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_is_stored_sealed_and_consumed_once() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().join("images"));
        assert!(images.look().unwrap().is_empty());
        let stored = store(&images, 5);
        assert_eq!(images.read(&sliver()).unwrap(), Some(stored.clone()));
        let mode = fs::metadata(images.memory(&stored)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mark = Digest::of(b"disk");
        images.seal(&stored, mark).unwrap();
        let sealed = images.read(&sliver()).unwrap().unwrap();
        assert_eq!(sealed.mark, Some(mark));
        images.settle(&sealed).unwrap();

        images.consume(&sliver()).unwrap();
        assert_eq!(images.read(&sliver()).unwrap(), None);
        assert!(images.is_consumed(&sliver()).unwrap());
        images.clean(&sliver()).unwrap();
        assert_eq!(names(&images.dir), [""; 0]);
        assert!(images.look().unwrap().is_empty());
        images.discard(&sliver()).unwrap();
    }

    #[test]
    fn what_is_no_image_is_swept_and_an_image_stays() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().to_owned());
        drop(images.begin(&sliver(), Timestamp(1)).unwrap());
        let second = store(&images, 2);
        fs::write(dir.path().join("web-0/3.save"), "nobody knows it").unwrap();
        fs::write(dir.path().join("web-0/notes"), "a person's").unwrap();
        images.clean(&sliver()).unwrap();
        assert_eq!(names(dir.path()), ["2.save", "image.json", "notes"]);
        assert_eq!(images.read(&sliver()).unwrap(), Some(second));
        images.discard(&sliver()).unwrap();
        assert_eq!(names(dir.path()), ["notes"]);
    }

    #[test]
    fn a_damaged_image_is_seen_and_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().to_owned());
        let stored = store(&images, 2);
        let check = |words: &str| {
            let found = images.look().unwrap();
            let error = found[0].image.as_ref().unwrap_err();
            assert!(crate::chain(error).contains(words), "{error}");
            images.clean(&sliver()).unwrap();
            assert!(images.memory(&stored).exists(), "nothing of it may be removed");
        };
        let description = dir.path().join("web-0/image.json");
        let good = fs::read_to_string(&description).unwrap();
        fs::write(images.memory(&stored), "mem").unwrap();
        check("has 3 bytes, not 6");
        fs::write(images.memory(&stored), "memory").unwrap();
        for (from, to, words) in [
            ("\"version\": 1", "\"version\": 2", "its version is 2"),
            ("web/0", "web/1", "it is of web/1"),
            ("\"pv\"", "\"vm\"", "no known kind"),
            ("{", "garbage", "cannot understand"),
        ] {
            fs::write(&description, good.replacen(from, to, 1)).unwrap();
            check(words);
        }
    }
}
