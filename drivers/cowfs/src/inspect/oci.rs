//! An OCI image layout with one layer, as other tools take it (image-layout.md and manifest.md of the OCI image
//! specification).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::Inspection;
use super::publish::{PublishError, Published};
use crate::template::Digest;

/// Writes the layer's changes as an image of one layer into `dir`, which is made and must be empty.
///
/// # Errors
/// [`PublishError`]; then `dir` is to be thrown away.
pub fn publish(inspection: &Inspection, dir: &Path) -> Result<Published, PublishError> {
    let blobs = dir.join("blobs/sha256");
    let write = PublishError::Write;
    fs::create_dir_all(&blobs).map_err(write)?;
    if dir.join("index.json").exists() {
        return Err(write(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let temporary = dir.join("layer.tar");
    let file = File::create(&temporary).map_err(write)?;
    let published = inspection.publish(BufWriter::with_capacity(1 << 20, file))?;
    fs::rename(&temporary, blobs.join(published.digest.hex())).map_err(write)?;
    let config = blob(
        &blobs,
        &json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [published.digest.to_string()] },
        }),
    )
    .map_err(write)?;
    let manifest = blob(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor(
                "application/vnd.oci.image.layer.v1.tar",
                &(published.digest, published.bytes),
            )],
        }),
    )
    .map_err(write)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)],
    });
    put(&dir.join("index.json"), index.to_string().as_bytes()).map_err(write)?;
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    put(&dir.join("oci-layout"), layout.to_string().as_bytes()).map_err(write)?;
    Ok(published)
}

fn descriptor(media_type: &str, (digest, bytes): &(Digest, u64)) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes })
}

fn blob(blobs: &Path, value: &Value) -> io::Result<(Digest, u64)> {
    let bytes = value.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    put(&blobs.join(digest.hex()), &bytes)?;
    Ok((digest, crate::writable::log::as_u64(bytes.len())))
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)
}

/// As Go, and so the specification, calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
