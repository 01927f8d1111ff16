//! What goes before a guest's memory: the machine that it is the memory of.
//!
//! QEMU takes memory only into a machine with the same devices, of the same type and size, and says no more than that it
//! could not, where it is another. The target knows the sliver's manifest, and that may have changed since the guest was
//! started: so the source says what the guest really has. The other node is trusted, but not more than needed: what
//! comes is short, of known form, and has to fit.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult};

use crate::accel::Accel;
use crate::images::is_machine;
use crate::record::Record;
use crate::spec::MEMORY_MIB;

/// Before the length: tells this form from any other.
const MAGIC: [u8; 8] = *b"xenoqmv1";
/// Longest text; it has about 300 bytes.
const LEN_MAX: u32 = 4096;

/// The machine that a guest's memory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    /// The domain's identity.
    pub(crate) uuid: String,
    /// What it was started as.
    pub(crate) boot: String,
    /// QEMU's machine type with its version.
    pub(crate) machine: String,
    /// What executes its code: the processor it sees depends on it.
    pub(crate) accel: Accel,
    /// Memory that it was told to keep to, in MiB.
    pub(crate) memory_mib: u64,
    /// Memory that it was started with, in MiB.
    pub(crate) memory_max_mib: u64,
    /// Virtual CPUs.
    pub(crate) vcpus: u32,
}

/// The same, as it travels. Fields that are not known are passed over: a later version may say more.
#[derive(Serialize, Deserialize)]
struct Sent {
    uuid: String,
    boot: String,
    machine: String,
    accel: Accel,
    memory_mib: u64,
    memory_max_mib: u64,
    vcpus: u32,
}

/// Why what came is no preamble.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreambleError {
    /// The pipe failed, or ended.
    #[error("the pipe to the other node failed")]
    Io(#[source] std::io::Error),
    /// It begins otherwise.
    #[error("what comes from the other node is not a guest of QEMU in a form that is known here")]
    Magic,
    /// It is too long.
    #[error("it has {0} bytes, more than {LEN_MAX}")]
    Length(u32),
    /// It is no such text.
    #[error("it cannot be understood")]
    Text(#[source] serde_json::Error),
    /// A value that nothing is done with.
    #[error("its {0} is out of bounds")]
    Value(&'static str),
}

impl Preamble {
    /// Of a running domain.
    pub(crate) fn of(record: &Record, machine: String, accel: Accel) -> Self {
        Self {
            uuid: record.uuid.to_string(),
            boot: record.boot.to_string(),
            machine,
            accel,
            memory_mib: record.memory_mib,
            memory_max_mib: record.memory_max_mib,
            vcpus: record.vcpus,
        }
    }

    /// Sends it.
    pub(crate) async fn write(&self, to: &mut (impl AsyncWriteExt + Unpin)) -> Result<(), PreambleError> {
        let text = serde_json::to_vec(&Sent {
            uuid: self.uuid.clone(),
            boot: self.boot.clone(),
            machine: self.machine.clone(),
            accel: self.accel,
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib,
            vcpus: self.vcpus,
        });
        let text = text.map_err(PreambleError::Text)?;
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        if len > LEN_MAX {
            return Err(PreambleError::Length(len));
        }
        let bytes = [MAGIC.as_slice(), &len.to_be_bytes(), &text].concat();
        to.write_all(&bytes).await.map_err(PreambleError::Io)
    }

    /// Reads what the other end sent, and not a byte more.
    pub(crate) async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> Result<Self, PreambleError> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).await.map_err(PreambleError::Io)?;
        if magic != MAGIC {
            return Err(PreambleError::Magic);
        }
        let len = from.read_u32().await.map_err(PreambleError::Io)?;
        if len > LEN_MAX {
            return Err(PreambleError::Length(len));
        }
        let mut text = vec![0; len as usize];
        from.read_exact(&mut text).await.map_err(PreambleError::Io)?;
        let sent: Sent = serde_json::from_slice(&text).map_err(PreambleError::Text)?;
        if !is_machine(&sent.machine) {
            return Err(PreambleError::Value("machine type"));
        }
        if !MEMORY_MIB.contains(&sent.memory_max_mib)
            || !(*MEMORY_MIB.start()..=sent.memory_max_mib).contains(&sent.memory_mib)
        {
            return Err(PreambleError::Value("memory"));
        }
        Ok(Self {
            uuid: sent.uuid,
            boot: sent.boot,
            machine: sent.machine,
            accel: sent.accel,
            memory_mib: sent.memory_mib,
            memory_max_mib: sent.memory_max_mib,
            vcpus: sent.vcpus,
        })
    }

    /// Whether a domain as `spec` says is the one that comes.
    pub(crate) fn fits(&self, spec: &DomainSpec) -> PortResult<()> {
        let sliver = &spec.sliver;
        let other = |what: &str| {
            Err(PortError::never(format!(
                "what comes from the other node for {sliver} is of another {what} than is expected here"
            )))
        };
        if self.uuid != spec.uuid.to_string() {
            return other("domain");
        }
        if self.boot != spec.boot.to_string() {
            return other("kernel, stack or number of CPUs");
        }
        if self.vcpus > spec.vcpus_max {
            return other("number of CPUs");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn preamble() -> Preamble {
        Preamble {
            uuid: "8a8a8a8a-8a8a-8a8a-8a8a-8a8a8a8a8a8a".into(),
            boot: "sha256:00".into(),
            machine: "pc-i440fx-7.2".into(),
            accel: Accel::Tcg,
            memory_mib: 128,
            memory_max_mib: 256,
            vcpus: 1,
        }
    }

    async fn sent(preamble: &Preamble) -> Vec<u8> {
        let mut bytes = Vec::new();
        preamble.write(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn it_comes_as_it_was_sent_and_leaves_the_memory_alone() {
        let mut bytes = sent(&preamble()).await;
        bytes.extend(b"memory");
        let mut rest = bytes.as_slice();
        assert_eq!(Preamble::read(&mut rest).await.unwrap(), preamble());
        assert_eq!(rest, b"memory");
    }

    async fn check(bytes: &[u8], words: &str) {
        let error = Preamble::read(&mut &*bytes).await.unwrap_err();
        let said = crate::chain(&error);
        assert!(said.contains(words), "{said}");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let good = sent(&preamble()).await;
        check(&good[..good.len() - 1], "the pipe").await;
        check(b"", "the pipe").await;
        check(b"QEVM\0\0\0\x03rest", "not a guest of QEMU").await;
        check(
            &[MAGIC.as_slice(), &u32::MAX.to_be_bytes()].concat(),
            "more than 4096",
        )
        .await;
        check(
            &[MAGIC.as_slice(), &2_u32.to_be_bytes(), b"[]"].concat(),
            "understood",
        )
        .await;
        for (broken, words) in [
            (
                Preamble {
                    machine: "pc,accel=kvm".into(),
                    ..preamble()
                },
                "machine type",
            ),
            (
                Preamble {
                    memory_max_mib: 1 << 40,
                    ..preamble()
                },
                "memory",
            ),
            (
                Preamble {
                    memory_mib: 512,
                    ..preamble()
                },
                "memory",
            ),
        ] {
            check(&sent(&broken).await, words).await;
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..100), len in 0_u32..200) {
            let bytes = [MAGIC.as_slice(), &len.to_be_bytes(), &text].concat();
            let read = async { Preamble::read(&mut bytes.as_slice()).await.is_err() };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(runtime.block_on(read));
        }
    }
}
