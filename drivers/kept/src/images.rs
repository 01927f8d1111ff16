//! Memory of suspended domains on disk: one directory for each sliver.
//!
//! ```text
//! IMAGES/web-0/image.json          the description; only with it there is an image
//! IMAGES/web-0/1790….ram           the memory, as its driver writes it; named by the time it was taken
//! IMAGES/web-0/1790….ram.tmp       memory that was not written to its end: nothing
//! IMAGES/web-0/resuming.json       the description of an image that a guest may have gone on from: never used again
//! ```
//!
//! # What may die in between
//! An image begins to exist with the rename that makes its description, after its memory is on disk, and before the domain
//! is ended. It ceases to exist with the rename to `resuming.json`, before the guest is told to go on. So whoever
//! dies, there is at every moment at most one of a guest that may have run on and an image that can be resumed.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xeno_model::id::{Digest, SliverId, Timestamp};

use crate::files::{FileError, make_private, read_json, sync, write_json};

/// Directories that are looked at; far more than a node has slivers.
const IMAGES_MAX: usize = 10_000;
const DESCRIPTION: &str = "image.json";
const CONSUMED: &str = "resuming.json";
const UNFINISHED: &str = "tmp";

/// A stored image, as one driver describes it: the domain as it was.
pub trait Describe: Clone + Debug + Send + 'static {
    /// Ending of the file that holds the memory.
    const MEMORY: &'static str;

    /// The form in which it is stored.
    type Stored: Serialize + DeserializeOwned;

    /// Whose memory it is.
    fn sliver(&self) -> &SliverId;

    /// Length of the memory's file.
    fn bytes(&self) -> u64;

    /// When it was taken; also the name of its memory.
    fn at(&self) -> Timestamp;

    /// The same, belonging to this state of the disk.
    #[must_use]
    fn sealed(&self, mark: Digest) -> Self;

    /// As it is stored.
    fn store(&self) -> Self::Stored;

    /// From what was stored.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn read(stored: Self::Stored) -> Result<Self, String>;

    /// When what was stored was taken, whatever else is wrong with it.
    fn stored_at(stored: &Self::Stored) -> Timestamp;
}

/// The images of one node. All calls block.
#[derive(Clone, Debug)]
pub struct Images<I> {
    dir: PathBuf,
    described_by: PhantomData<fn() -> I>,
}

/// Memory that is being written.
#[derive(Debug)]
pub struct Unfinished {
    /// Where it goes.
    pub file: File,
    /// What that is called until it is whole.
    pub path: PathBuf,
    /// When it was begun; also the name of the memory.
    pub at: Timestamp,
}

/// A directory of images that was looked at.
#[derive(Debug)]
pub struct Found<I> {
    /// Whose it is.
    pub sliver: SliverId,
    /// An error: there is a description, and it is of no use.
    pub image: Result<I, FileError>,
}

impl<I: Describe> Images<I> {
    /// The images in `dir`, which is made when the first comes.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            described_by: PhantomData,
        }
    }

    /// The directory of a sliver.
    #[must_use]
    pub fn of(&self, sliver: &SliverId) -> PathBuf {
        self.dir.join(sliver.label())
    }

    /// All images.
    ///
    /// # Errors
    /// Of the file system.
    pub fn look(&self) -> io::Result<Vec<Found<I>>> {
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
    ///
    /// # Errors
    /// [`FileError`]: there is a description, and it is of no use.
    pub fn read(&self, sliver: &SliverId) -> Result<Option<I>, FileError> {
        let path = self.of(sliver).join(DESCRIPTION);
        let Some(stored) = read_json::<I::Stored>(&path)? else {
            return Ok(None);
        };
        let wrong = |what| FileError::Value {
            path: path.clone(),
            what,
        };
        let image = I::read(stored).map_err(wrong)?;
        if image.sliver() != sliver {
            return Err(wrong(format!("it is of {}", image.sliver())));
        }
        let memory = self.memory(&image);
        let len = fs::metadata(&memory).map(|status| status.len());
        match len {
            Ok(len) if len == image.bytes() => Ok(Some(image)),
            Ok(len) => Err(wrong(format!(
                "its memory has {len} bytes, not {}",
                image.bytes()
            ))),
            Err(source) => Err(FileError::Io { path: memory, source }),
        }
    }

    /// The file that holds the memory.
    #[must_use]
    pub fn memory(&self, image: &I) -> PathBuf {
        self.of(image.sliver()).join(memory_name::<I>(image.at()))
    }

    /// Bytes that the disk of images has left for us.
    ///
    /// # Errors
    /// Of the file system.
    pub fn free(&self) -> io::Result<u64> {
        make_private(&self.dir)?;
        let status = rustix::fs::statvfs(&self.dir)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Makes a place for memory to be written to, for its user alone.
    ///
    /// # Errors
    /// Of the file system.
    pub fn begin(&self, sliver: &SliverId, at: Timestamp) -> io::Result<Unfinished> {
        let dir = self.of(sliver);
        make_private(&self.dir)?;
        make_private(&dir)?;
        let path = dir
            .join(memory_name::<I>(at))
            .with_extension(format!("{}.{UNFINISHED}", I::MEMORY));
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
    ///
    /// # Errors
    /// [`FileError`]; see above.
    pub fn finish(&self, memory: &Unfinished, image: &I) -> Result<(), FileError> {
        let io_failed = |source| FileError::Io {
            path: memory.path.clone(),
            source,
        };
        memory.file.sync_all().map_err(io_failed)?;
        fs::rename(&memory.path, self.memory(image)).map_err(io_failed)?;
        let dir = self.of(image.sliver());
        for dir in [dir.as_path(), self.dir.as_path()] {
            sync(dir).map_err(io_failed)?;
        }
        self.describe(image)
    }

    fn describe(&self, image: &I) -> Result<(), FileError> {
        let path = self.of(image.sliver()).join(DESCRIPTION);
        write_json(&path, &image.store())
    }

    /// Notes which state of the disk an image belongs to.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn seal(&self, image: &I, mark: Digest) -> Result<(), FileError> {
        self.describe(&image.sealed(mark))
    }

    /// Makes sure that a stored image survives a power failure, whoever stored it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn settle(&self, image: &I) -> io::Result<()> {
        File::open(self.memory(image))?.sync_all()?;
        let dir = self.of(image.sliver());
        File::open(dir.join(DESCRIPTION))?.sync_all()?;
        sync(&dir)?;
        sync(&self.dir)
    }

    /// Takes the image out of everybody's reach, durably, before a guest goes on from it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn consume(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        fs::rename(dir.join(DESCRIPTION), dir.join(CONSUMED))?;
        sync(&dir)
    }

    /// Takes back [`Images::consume`], where it is certain that no guest has gone on.
    ///
    /// # Errors
    /// Of the file system.
    pub fn put_back(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        fs::rename(dir.join(CONSUMED), dir.join(DESCRIPTION))?;
        sync(&dir)
    }

    /// Whether there was an image that a guest may have gone on from.
    ///
    /// # Errors
    /// Of the file system.
    pub fn is_consumed(&self, sliver: &SliverId) -> io::Result<bool> {
        self.of(sliver).join(CONSUMED).try_exists()
    }

    /// Removes the image of a sliver and all remains of others. From the first step on there is none.
    ///
    /// # Errors
    /// Of the file system.
    pub fn discard(&self, sliver: &SliverId) -> io::Result<()> {
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
    ///
    /// # Errors
    /// Of the file system.
    pub fn clean(&self, sliver: &SliverId) -> io::Result<()> {
        let dir = self.of(sliver);
        let described = match read_json::<I::Stored>(&dir.join(DESCRIPTION)) {
            Ok(None) => None,
            Ok(Some(stored)) => Some(memory_name::<I>(I::stored_at(&stored))),
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
                .ends_with(&format!(".{}", I::MEMORY));
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

fn memory_name<I: Describe>(at: Timestamp) -> String {
    format!("{}.{}", at.0, I::MEMORY)
}

/// The sliver that a directory is of.
fn read_label(label: &str) -> Option<SliverId> {
    SliverId::of_label(label).filter(|sliver| sliver.label() == label)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Image {
        at: Timestamp,
        mark: Option<Digest>,
        sliver: SliverId,
    }

    #[derive(Serialize, Deserialize)]
    struct Stored {
        at: u64,
        mark: Option<String>,
        sliver: String,
    }

    impl Describe for Image {
        const MEMORY: &'static str = "save";
        type Stored = Stored;

        fn sliver(&self) -> &SliverId {
            &self.sliver
        }

        fn bytes(&self) -> u64 {
            6
        }

        fn at(&self) -> Timestamp {
            self.at
        }

        fn sealed(&self, mark: Digest) -> Self {
            Self {
                mark: Some(mark),
                ..self.clone()
            }
        }

        fn store(&self) -> Stored {
            Stored {
                at: self.at.0,
                mark: self.mark.map(|mark| mark.to_string()),
                sliver: self.sliver.to_string(),
            }
        }

        fn read(stored: Stored) -> Result<Self, String> {
            Ok(Self {
                at: Timestamp(stored.at),
                mark: stored.mark.map(|mark| Digest::parse(&mark).unwrap()),
                sliver: SliverId::parse(&stored.sliver).unwrap(),
            })
        }

        fn stored_at(stored: &Stored) -> Timestamp {
            Timestamp(stored.at)
        }
    }

    fn sliver() -> SliverId {
        SliverId::parse("web/0").unwrap()
    }

    fn image(at: u64) -> Image {
        Image {
            at: Timestamp(at),
            mark: None,
            sliver: sliver(),
        }
    }

    fn store(images: &Images<Image>, at: u64) -> Image {
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
        let images = Images::<Image>::new(dir.path().join("images"));
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
        images.put_back(&sliver()).unwrap();
        assert_eq!(images.read(&sliver()).unwrap(), Some(sealed));
        images.consume(&sliver()).unwrap();
        images.clean(&sliver()).unwrap();
        assert_eq!(names(&images.dir), [""; 0]);
        assert!(images.look().unwrap().is_empty());
        images.discard(&sliver()).unwrap();
    }

    #[test]
    fn what_is_no_image_is_swept_and_an_image_stays() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::<Image>::new(dir.path().to_owned());
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
}
