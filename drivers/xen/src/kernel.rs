//! The bare kernel out of a bzImage.
//!
//! libxl unpacks a bzImage at every start, which costs a processor's seconds; the kernel inside is the same each time,
//! so it is kept, by digest of the image.
//!
//! # Source
//! Linux: `Documentation/arch/x86/boot.rst` (protocol 2.08: `payload_offset`, `payload_length`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xeno_model::id::Digest;

/// Longest image that is read; a kernel with everything built in has some tens of MiB.
const IMAGE_LEN_MAX: u64 = 256 << 20;
/// Longest kernel that comes out of one.
const KERNEL_LEN_MAX: u64 = 1 << 30;
/// Memory that unpacking may take, in KiB: Linux compresses with dictionaries of at most 128 MiB.
const UNPACK_KIB_MAX: u32 = 160 << 10;
/// The same for zstd, as a power of two.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Kernels that are kept; the one that was used least lately goes.
const KEPT_MAX: usize = 8;

/// Why there is no bare kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file cannot be read or written.
    #[error("access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than any kernel.
    #[error("{} has more than {IMAGE_LEN_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// What is packed in it cannot be unpacked.
    #[error("unpack the kernel in {}", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How the kernel in an image is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// gzip (RFC 1952).
    Gzip,
    /// XZ.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// What an image of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image<'a> {
    /// A bare kernel already.
    Elf,
    /// A bzImage with this inside.
    Packed(Packing, &'a [u8]),
    /// Something else, or packed in a way that is not known here: libxl may know it.
    Other,
}

/// Looks at an image. Pure.
#[must_use]
pub fn look(image: &[u8]) -> Image<'_> {
    if image.starts_with(b"\x7fELF") {
        return Image::Elf;
    }
    let Some(payload) = payload(image) else {
        return Image::Other;
    };
    let magics: [(&[u8], Packing); 3] = [
        (b"\x1f\x8b\x08", Packing::Gzip),
        (b"\xfd7zXZ\0", Packing::Xz),
        (b"\x28\xb5\x2f\xfd", Packing::Zstd),
    ];
    let found = magics.into_iter().find(|(magic, _)| payload.starts_with(magic));
    found.map_or(Image::Other, |(_, packing)| Image::Packed(packing, payload))
}

/// The payload of a bzImage, by its setup header.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    if image.get(0x202..0x206)? != b"HdrS" || version < 0x208 {
        return None;
    }
    // For old boot loaders 0 means 4.
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let offset = usize::try_from(word(0x248)?).ok()?;
    let len = usize::try_from(word(0x24c)?).ok()?;
    let from = ((sectors + 1) * 512).checked_add(offset)?;
    image.get(from..from.checked_add(len)?)
}

/// Unpacks a kernel. What follows it in the payload (its length) is not read.
///
/// # Errors
/// Of the writer; where it is damaged, too long, or no ELF file.
pub fn unpack(packing: Packing, payload: &[u8], to: &mut impl Write) -> io::Result<()> {
    match packing {
        Packing::Gzip => copy_elf(flate2::read::GzDecoder::new(payload), to),
        Packing::Xz => copy_elf(
            lzma_rust2::XzReader::new_mem_limit(payload, false, UNPACK_KIB_MAX),
            to,
        ),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            copy_elf(decoder, to)
        }
    }
}

fn copy_elf(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut magic = [0; 4];
    from.read_exact(&mut magic)?;
    if &magic != b"\x7fELF" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ELF file"));
    }
    to.write_all(&magic)?;
    let copied = io::copy(&mut from.take(KERNEL_LEN_MAX), to)?;
    if copied == KERNEL_LEN_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is longer than any kernel",
        ));
    }
    Ok(())
}

/// The file that domains start from: the bare kernel in `kept`, by digest of the image, or the image itself where
/// nothing can or need be taken out of it. Blocks.
///
/// # Errors
/// [`KernelError`].
pub fn bare(image: &Path, kept: &Path) -> Result<PathBuf, KernelError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| KernelError::Io { path, source }
    };
    let file = File::open(image).map_err(at(image))?;
    let mut content = Vec::new();
    file.take(IMAGE_LEN_MAX + 1)
        .read_to_end(&mut content)
        .map_err(at(image))?;
    if content.len() as u64 > IMAGE_LEN_MAX {
        return Err(KernelError::TooLong {
            path: image.to_owned(),
        });
    }
    let (packing, payload) = match look(&content) {
        Image::Elf | Image::Other => return Ok(image.to_owned()),
        Image::Packed(packing, payload) => (packing, payload),
    };
    let path = kept.join(format!("{}.vmlinux", Digest::of(&content).hex()));
    if path.is_file() {
        // When it was used last: see `evict`. One that cannot be told is only evicted earlier.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        return Ok(path);
    }
    xeno_kept::files::make_private(kept).map_err(at(kept))?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(at(&new))?;
    unpack(packing, payload, &mut file).map_err(|source| KernelError::Unpack {
        path: image.to_owned(),
        source,
    })?;
    file.sync_all()
        .and_then(|()| fs::rename(&new, &path))
        .map_err(at(&path))?;
    evict(kept, &path);
    Ok(path)
}

/// Removes kernels beyond [`KEPT_MAX`], except `used`. They come back by themselves, so failures do not matter.
fn evict(kept: &Path, used: &Path) {
    let Ok(listing) = fs::read_dir(kept) else { return };
    let mut all: Vec<(SystemTime, PathBuf)> = listing
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is_kernel = entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "vmlinux");
            is_kernel.then_some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, path)| path != used)
        .collect();
    all.sort();
    let surplus = (all.len() + 1).saturating_sub(KEPT_MAX);
    for (_, path) in all.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
