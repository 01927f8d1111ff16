//! Templates: immutable root file systems by digest, kept once per node however many stacks use them.
//!
//! A *store* is a directory that an ordinary user can own:
//!
//! ```text
//! content/ab/cdef…     what is in files, named by SHA-256, mode 0444; also kernels and initramfs images
//! index/abcdef…        whole trees (names, attributes, content hashes), named by SHA-256
//! templates/abc….json  a template: which index, which kernel, how to boot; named by SHA-256 of these very bytes
//! labels/abc….json     names that people gave a template; not part of what it is
//! tmp/                 imports under way; whatever an interrupted one left is removed at the next chance
//! lock                 held by whoever imports; readers need no lock
//! ```
//!
//! Everything but labels is written under another name, synced, and renamed into place, and never changes after that.
//! Opening a template checks the digests of its manifest and its index; the content of files is checked by
//! [`Store::verify`] alone, not on every read.

mod content;
mod digest;
mod fetch;
mod format;
mod index;
mod layer;
mod lend;
mod manifest;
mod open_files;
mod staging;
mod store;
mod tree;
mod verify;

pub use content::ContentStore;
pub use digest::{Digest, ParseDigestError};
pub use fetch::FetchError;
pub use index::{Index, IndexError};
pub use layer::TemplateLayer;
pub use manifest::{Boot, Manifest, ManifestError};
pub use staging::StageError;
pub use store::{BootFiles, FileToImport, Store, StoreError, Summary, TemplateOptions};
pub use tree::{Encoded, Leaf, Meta, Tree, TreeError, TreeId};
pub use verify::{Damage, VerifyReport};

pub(crate) use content::read_full;
pub(crate) use open_files::OpenFiles;
pub(crate) use staging::Staging;
