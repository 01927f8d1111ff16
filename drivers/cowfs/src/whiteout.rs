//! The two ways in which layers made elsewhere say "deleted here": names of OCI layers and marks of overlayfs.
//!
//! Sources: the OCI image specification, `layer.md` ("Representing Changes"), and the kernel's
//! `Documentation/filesystems/overlayfs.rst` ("whiteouts and opaque directories").

use crate::attr::{Device, FileType};

/// The prefix that OCI layers reserve.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// The name that makes the directory it lies in opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The extended attributes by which overlayfs marks a directory as opaque, with the value `y`: the first where root
/// made the layer, the second where a user did.
pub const OVERLAYFS_OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Extended attributes of overlayfs that say "the rest of this object lies in another layer, found by another path".
/// A layer that holds one cannot be understood by itself.
pub const OVERLAYFS_INCOMPLETE: [&str; 4] = [
    "trusted.overlay.redirect",
    "user.overlay.redirect",
    "trusted.overlay.metacopy",
    "user.overlay.metacopy",
];

/// What a name means in a layer that follows OCI's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OciName<'a> {
    /// Nothing special.
    Plain,
    /// `.wh.NAME`: deletes `NAME`.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: hides everything below the directory it lies in.
    Opaque,
    /// Other names that begin with `.wh..wh.`: bookkeeping of aufs, of no meaning to anyone else.
    Bookkeeping,
}

/// Tells what `name` means.
#[must_use]
pub fn oci_name(name: &[u8]) -> OciName<'_> {
    if name == OPAQUE {
        return OciName::Opaque;
    }
    match name.strip_prefix(PREFIX) {
        None => OciName::Plain,
        Some(rest) if rest.starts_with(PREFIX) => OciName::Bookkeeping,
        // A file of the bare name `.wh.` deletes nothing.
        Some(b"") => OciName::Bookkeeping,
        Some(rest) => OciName::Whiteout(rest),
    }
}

/// Whether a node is a whiteout of overlayfs: a character device 0:0.
#[must_use]
pub fn is_overlayfs_whiteout(file_type: FileType, device: Device) -> bool {
    file_type == FileType::Character && device == Device { major: 0, minor: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_oci_layers() {
        assert_eq!(oci_name(b"passwd"), OciName::Plain);
        assert_eq!(oci_name(b".wh.passwd"), OciName::Whiteout(b"passwd"));
        assert_eq!(oci_name(b".wh..wh..opq"), OciName::Opaque);
        assert_eq!(oci_name(b".wh..wh.plnk"), OciName::Bookkeeping);
        assert_eq!(oci_name(b".wh."), OciName::Bookkeeping);
    }
}
