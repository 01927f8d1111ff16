//! Writable layers: opened by themselves, looked after wherever they are, and closed once no stack is made with them.

use std::sync::Arc;

use super::{
    Assembly, AssemblyError, AssemblyResult, Kind, Place, WritablePart, blocking, drop_elsewhere, valid_name,
};
use crate::control::api::WritableSpec;
use crate::quota::Quota;
use crate::service::StackOpener;
use crate::writable::saved::{Saved, SavedError};

impl<O: StackOpener> Assembly<O> {
    /// Opens a writable layer, making it when it is missing; or changes the quota of one that is open.
    pub async fn put_writable(&self, name: &str, spec: WritableSpec) -> AssemblyResult<()> {
        valid_name(Kind::Writable, name)?;
        if !spec.path.is_absolute() {
            return Err(AssemblyError::Invalid(format!(
                "`{}` is not an absolute path",
                spec.path.display()
            )));
        }
        let _held = {
            let mut parts = self.lock();
            let held = self.hold(vec![(Kind::Writable, name.to_owned())])?;
            match parts.writables.get_mut(name) {
                Some(there) if (&there.spec.path, there.spec.epoch) == (&spec.path, spec.epoch) => {
                    there.quota.set(spec.quota_bytes, spec.quota_inodes);
                    there.spec.quota_bytes = spec.quota_bytes;
                    there.spec.quota_inodes = spec.quota_inodes;
                    return Ok(());
                }
                Some(there) => {
                    return Err(AssemblyError::Conflict(format!(
                        "writable layer `{name}` is open as `{}` under epoch {}",
                        there.spec.path.display(),
                        there.spec.epoch
                    )));
                }
                None => {}
            }
            let same_place = parts
                .writables
                .iter()
                .find(|(_, there)| there.spec.path == spec.path);
            if let Some((other, _)) = same_place {
                let path = spec.path.display();
                return Err(AssemblyError::Conflict(format!(
                    "`{path}` is open as writable layer `{other}`"
                )));
            }
            held
        };
        let quota = Quota::with_objects(spec.quota_bytes, spec.quota_inodes);
        let open = self.open_writable(name, &spec, quota.clone()).await?;
        let part = WritablePart {
            spec,
            quota,
            open: Some(open),
        };
        self.lock().writables.insert(name.to_owned(), part);
        Ok(())
    }

    pub(super) async fn open_writable(
        &self,
        name: &str,
        spec: &WritableSpec,
        quota: Quota,
    ) -> AssemblyResult<O::Writable> {
        let (opener, path, epoch) = (Arc::clone(&self.opener), spec.path.clone(), spec.epoch);
        blocking(Kind::Writable, name, move || {
            opener.open_writable(&path, epoch, quota)
        })
        .await
    }

    /// The checkpoints of a writable layer.
    pub async fn checkpoints(&self, name: &str) -> AssemblyResult<Vec<Saved>> {
        let look = |opener: &O, held: Place<O::Writable>| match held {
            Place::Stacked(service) => (service.saved(), None),
            Place::Alone(writable) => (opener.saved(&writable), Some(writable)),
        };
        self.with_writable(name, "", look).await
    }

    /// Makes a checkpoint of a writable layer, also while it is served; one of that name that is there stays as it is.
    pub async fn checkpoint(&self, name: &str, checkpoint: &str) -> AssemblyResult<()> {
        let wanted = checkpoint.to_owned();
        let save = move |opener: &O, held: Place<O::Writable>| match held {
            Place::Stacked(service) => (service.save(&wanted), None),
            Place::Alone(mut writable) => (opener.save(&mut writable, &wanted), Some(writable)),
        };
        self.with_writable(name, checkpoint, save).await
    }

    /// Removes a checkpoint of a writable layer, if there is one of that name.
    pub async fn delete_checkpoint(&self, name: &str, checkpoint: &str) -> AssemblyResult<()> {
        let wanted = checkpoint.to_owned();
        let delete = move |opener: &O, held: Place<O::Writable>| match held {
            Place::Stacked(service) => (service.delete_saved(&wanted), None),
            Place::Alone(mut writable) => (opener.delete_saved(&mut writable, &wanted), Some(writable)),
        };
        self.with_writable(name, checkpoint, delete).await
    }

    /// Has a writable layer go back to a checkpoint. It must not be part of a stack.
    pub async fn restore(&self, name: &str, checkpoint: &str) -> AssemblyResult<()> {
        let wanted = checkpoint.to_owned();
        let layer = name.to_owned();
        let restore = move |opener: &O, held: Place<O::Writable>| match held {
            Place::Stacked(_) => (Ok(Err(layer)), None),
            Place::Alone(writable) => match opener.restore(writable, &wanted) {
                Ok(writable) => (Ok(Ok(())), Some(writable)),
                Err(error) => (Err(error), None),
            },
        };
        let stacked = self.with_writable(name, checkpoint, restore).await?;
        stacked.map_err(|name| {
            AssemblyError::Conflict(format!(
                "writable layer `{name}` is part of a stack: delete that first"
            ))
        })
    }

    /// Makes the log of a writable layer as short as it can be, also while it is served.
    pub async fn compact(&self, name: &str) -> AssemblyResult<()> {
        let compact = |opener: &O, held: Place<O::Writable>| match held {
            Place::Stacked(service) => (service.compact().map_err(SavedError::Flush), None),
            Place::Alone(writable) => match opener.compact(writable) {
                Ok(writable) => (Ok(()), Some(writable)),
                Err(error) => (Err(error), None),
            },
        };
        self.with_writable(name, "", compact).await
    }

    /// Does something with a writable layer, wherever it is; opens it again where it was part of a stack that is gone.
    async fn with_writable<T: Send + 'static>(
        &self,
        name: &str,
        checkpoint: &str,
        work: impl FnOnce(&O, Place<O::Writable>) -> (Result<T, SavedError>, Option<O::Writable>) + Send + 'static,
    ) -> AssemblyResult<T> {
        let (_held, place) = {
            let mut parts = self.lock();
            let held = self.hold(vec![(Kind::Writable, name.to_owned())])?;
            let user = parts
                .stacks
                .values()
                .find(|stack| stack.spec.writable.as_deref() == Some(name));
            let stacked = user.map(|stack| Arc::clone(&stack.service));
            let part = parts
                .writables
                .get_mut(name)
                .ok_or_else(|| AssemblyError::Missing {
                    kind: Kind::Writable,
                    name: name.to_owned(),
                })?;
            let place = match stacked {
                Some(service) => Ok(Place::Stacked(service)),
                None => match part.open.take() {
                    Some(open) => Ok(Place::Alone(open)),
                    None => Err((part.spec.clone(), part.quota.clone())),
                },
            };
            (held, place)
        };
        let place = match place {
            Ok(place) => place,
            Err((spec, quota)) => Place::Alone(self.open_writable(name, &spec, quota).await?),
        };
        let opener = Arc::clone(&self.opener);
        let done = tokio::task::spawn_blocking(move || work(&opener, place)).await;
        let failed = |retryable, source| AssemblyError::Failed {
            kind: Kind::Writable,
            name: name.to_owned(),
            retryable,
            source,
        };
        let (outcome, back) = done.map_err(|panicked| failed(false, panicked.into()))?;
        if let Some(part) = self.lock().writables.get_mut(name)
            && let Some(back) = back
        {
            part.open = Some(back);
        }
        outcome.map_err(|error| match error {
            SavedError::Name(_) => AssemblyError::Invalid(error.to_string()),
            SavedError::Missing(_) => AssemblyError::Missing {
                kind: Kind::Checkpoint,
                name: checkpoint.to_owned(),
            },
            SavedError::TooMany | SavedError::ReadOnly => AssemblyError::Conflict(error.to_string()),
            SavedError::Flush(_) | SavedError::Layer(_) => failed(true, error.into()),
        })
    }

    /// Closes a writable layer. It must not be part of a stack any more.
    pub async fn delete_writable(&self, name: &str) -> AssemblyResult<()> {
        let part = {
            let mut parts = self.lock();
            let _held = self.hold(vec![(Kind::Writable, name.to_owned())])?;
            let user = parts
                .stacks
                .iter()
                .find(|(_, stack)| stack.spec.writable.as_deref() == Some(name));
            if let Some((stack, _)) = user {
                return Err(AssemblyError::Conflict(format!(
                    "writable layer `{name}` is part of stack `{stack}`: delete that first"
                )));
            }
            parts.writables.remove(name)
        };
        // Closing may write.
        drop_elsewhere(part).await;
        Ok(())
    }
}
