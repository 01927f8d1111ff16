//! The small file that makes a directory a writable layer: its identity and the key of its handles.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::WritableError;
use super::disk::{Disk, Mode};
use super::segment::LogKey;
use crate::handle::HandleKey;
use crate::layer::LayerId;

/// Its name in the layer's directory.
pub(crate) const FILE: &str = "layer.json";
const FORMAT: u32 = 1;
/// A layer file is about 150 bytes.
const BYTES_MAX: usize = 4096;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    layer: String,
    key: String,
}

/// Who a writable layer is.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) layer: LayerId,
    pub(crate) key: HandleKey,
}

impl Meta {
    /// What the checks of its log's records are made with.
    pub(crate) fn log_key(&self) -> LogKey {
        LogKey(self.key.for_the_log())
    }

    /// Makes the file in `dir`, with fresh random identity, all or nothing.
    pub(crate) fn create(disk: &Disk, dir: &Path) -> Result<(), WritableError> {
        let at = |source| WritableError::Io {
            doing: "making its metadata file",
            path: dir.join(FILE),
            source,
        };
        let mut random = [0; 40];
        disk.random(&mut random).map_err(at)?;
        let text = Text {
            format: FORMAT,
            layer: to_hex(&random[..8]),
            key: to_hex(&random[8..]),
        };
        let bytes = serde_json::to_vec_pretty(&text).map_err(|error| at(error.into()))?;
        // The name is our own process's, so that two servers that make the same layer do not write into one file.
        let temporary = dir.join(format!(".{FILE}.{}", std::process::id()));
        let file = disk.open(&temporary, Mode::Truncate).map_err(at)?;
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.sync())
            .map_err(at)?;
        disk.rename(&temporary, &dir.join(FILE)).map_err(at)?;
        disk.sync_dir(dir).map_err(at)
    }

    /// Reads the file in `dir`; `None` if there is none.
    pub(crate) fn read(disk: &Disk, dir: &Path) -> Result<Option<Self>, WritableError> {
        let path = dir.join(FILE);
        let at = |source| WritableError::Io {
            doing: "reading its metadata file",
            path: path.clone(),
            source,
        };
        let file = match disk.open(&path, Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        let mut bytes = vec![0; BYTES_MAX];
        let len = file.read_at(&mut bytes, 0).map_err(at)?;
        bytes.truncate(len);
        let damaged = |what: String| WritableError::Damaged {
            file: path.clone(),
            position: 0,
            what,
        };
        // The format alone first, so that a newer layer is called newer and not damaged.
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format.is_some_and(|format| format != u64::from(FORMAT)) {
            return Err(WritableError::Newer {
                file: path,
                what: format!("format {}", format.unwrap_or_default()),
            });
        }
        let text: Text = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        let layer =
            from_hex(&text.layer).ok_or_else(|| damaged("`layer` is not 16 hex digits".to_owned()))?;
        let key = from_hex(&text.key).ok_or_else(|| damaged("`key` is not 64 hex digits".to_owned()))?;
        Ok(Some(Self {
            layer: LayerId(layer),
            key: HandleKey::new(key),
        }))
    }
}

/// Fills `bytes` from the kernel's random generator.
pub(crate) fn random_bytes(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}
