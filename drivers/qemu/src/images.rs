//! What the driver knows of a stored image: memory as QEMU writes it to migrate, and the domain as it was.
//!
//! How images are kept, and what may die in between, is in [`xeno_kept::images`].

use serde::{Deserialize, Serialize};
pub(crate) use xeno_kept::images::Unfinished;
use xeno_kept::images::{self, Describe};
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, SliverId, Timestamp};

use crate::accel::Accel;
use crate::record::StoredPublish;

/// Longest name of a machine type that is believed.
const MACHINE_LEN_MAX: usize = 64;
const IMAGE_VERSION: u32 = 1;

/// The images of one node.
pub(crate) type Images = images::Images<Image>;
/// A directory of images that was looked at.
pub(crate) type Found = images::Found<Image>;

/// A stored image: the domain as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) sliver: SliverId,
    pub(crate) uuid: DomainUuid,
    /// What the domain was started as.
    pub(crate) boot: Digest,
    pub(crate) memory_mib: u64,
    /// What it was started with: a QEMU that takes the image must have as much.
    pub(crate) memory_max_mib: u64,
    pub(crate) vcpus: u32,
    pub(crate) publish: Vec<Publish>,
    /// QEMU's machine type with its version: what an alias means changes with QEMU.
    pub(crate) machine: String,
    /// The processor a guest sees depends on it.
    pub(crate) accel: Accel,
    pub(crate) bytes: u64,
    /// When it was taken; also the name of its memory.
    pub(crate) at: Timestamp,
    /// The state of the disk that it belongs to; `None`: not sealed yet.
    pub(crate) mark: Option<Digest>,
}

/// The same, as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredImage {
    version: u32,
    sliver: String,
    uuid: String,
    boot: String,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
    publish: Vec<StoredPublish>,
    machine: String,
    accel: Accel,
    bytes: u64,
    at_unix_ms: u64,
    mark: Option<String>,
}

/// Whether a machine type can be given to QEMU as it is.
pub(crate) fn is_machine(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !name.is_empty() && name.len() <= MACHINE_LEN_MAX && name.bytes().all(plain)
}

impl Describe for Image {
    const MEMORY: &'static str = "ram";
    type Stored = StoredImage;

    fn sliver(&self) -> &SliverId {
        &self.sliver
    }

    fn bytes(&self) -> u64 {
        self.bytes
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

    fn store(&self) -> StoredImage {
        StoredImage {
            version: IMAGE_VERSION,
            sliver: self.sliver.to_string(),
            uuid: self.uuid.to_string(),
            boot: self.boot.to_string(),
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib,
            vcpus: self.vcpus,
            publish: self.publish.iter().map(StoredPublish::from).collect(),
            machine: self.machine.clone(),
            accel: self.accel,
            bytes: self.bytes,
            at_unix_ms: self.at.0,
            mark: self.mark.map(|mark| mark.to_string()),
        }
    }

    fn read(stored: StoredImage) -> Result<Self, String> {
        if stored.version != IMAGE_VERSION {
            return Err(format!("its version is {}, not {IMAGE_VERSION}", stored.version));
        }
        if !is_machine(&stored.machine) {
            return Err("its machine type is none".into());
        }
        let mark = stored.mark.map(|mark| Digest::parse(&mark)).transpose();
        Ok(Self {
            sliver: SliverId::parse_embodiment(&stored.sliver).map_err(|error| error.to_string())?,
            uuid: DomainUuid::parse(&stored.uuid).map_err(|error| error.to_string())?,
            boot: Digest::parse(&stored.boot).map_err(|error| error.to_string())?,
            memory_mib: stored.memory_mib,
            memory_max_mib: stored.memory_max_mib,
            vcpus: stored.vcpus,
            publish: stored.publish.into_iter().map(Publish::from).collect(),
            machine: stored.machine,
            accel: stored.accel,
            bytes: stored.bytes,
            at: Timestamp(stored.at_unix_ms),
            mark: mark.map_err(|error| error.to_string())?,
        })
    }

    fn stored_at(stored: &StoredImage) -> Timestamp {
        Timestamp(stored.at_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

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
            machine: "pc-i440fx-7.2".into(),
            accel: Accel::Tcg,
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
            ("pc-i440fx", "pc,i440fx", "its machine type"),
            ("{", "garbage", "cannot understand"),
        ] {
            fs::write(&description, good.replacen(from, to, 1)).unwrap();
            check(words);
        }
    }
}
