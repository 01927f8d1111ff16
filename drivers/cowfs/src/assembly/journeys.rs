//! Writable layers that go to another machine, or come from one. All of it blocks: it reads and writes files.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Assembly, AssemblyError, AssemblyResult, Kind, Place};
use crate::control::api::{Journey, LayerToSend, ReceiveSpec, SendSpec};
use crate::export::State;
use crate::service::StackOpener;
use crate::writable::travel::{Arrival, Ashore, Refusal, Sending, TravelError, receive};

/// Why layers did not travel.
#[derive(Debug, thiserror::Error)]
pub enum JourneyError {
    /// It does not fit what is open here.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The round broke off.
    #[error(transparent)]
    Travel(#[from] TravelError),
}

impl JourneyError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Assembly(error) => match error {
                AssemblyError::Busy { .. } => true,
                AssemblyError::Failed { retryable, .. } => *retryable,
                AssemblyError::Invalid(_) | AssemblyError::Conflict(_) | AssemblyError::Missing { .. } => {
                    false
                }
            },
            Self::Travel(error) => error.is_retryable(),
        }
    }
}

impl<O: StackOpener> Assembly<O> {
    /// Sends what the other end of `stream` lacks of layers, open or closed.
    pub fn send_layers(&self, spec: &SendSpec, stream: impl Read + Write) -> Result<Journey, JourneyError> {
        let mut sending = Sending::begin(stream, spec.layers.len(), spec.last)?;
        for layer in &spec.layers {
            if let Err(error) = self.send_layer(layer, &mut sending) {
                match &error {
                    JourneyError::Travel(error) => sending.leave(error),
                    // What is open here, and as what, is nothing to the other end.
                    JourneyError::Assembly(_) => sending.leave(&TravelError::Refuses {
                        why: Refusal::Open,
                        text: "it is in use there; its own log says more".to_owned(),
                    }),
                }
                return Err(error);
            }
        }
        Ok(Journey {
            bytes: sending.finish()?,
            last: spec.last,
        })
    }

    fn send_layer(&self, layer: &LayerToSend, sending: &mut Sending<'_>) -> Result<(), JourneyError> {
        absolute(&layer.path)?;
        let (held, place) = {
            let mut parts = self.lock();
            let held = self.hold(vec![(Kind::Writable, layer.name.clone())])?;
            if let Some(there) = parts.writables.get(&layer.name)
                && there.spec.path != layer.path
            {
                let path = there.spec.path.display();
                let what = format!("writable layer `{}` is open as `{path}`", layer.name);
                return Err(AssemblyError::Conflict(what).into());
            }
            let mut users = parts.stacks.iter();
            let user = users.find(|(_, stack)| stack.spec.writable.as_ref() == Some(&layer.name));
            let place = match user {
                Some((stack, part)) => {
                    let of_it = parts
                        .exports
                        .values()
                        .filter(|export| export.spec.stack == *stack);
                    if sending.is_last() && of_it.clone().any(|part| part.export.state() == State::Active) {
                        let what = format!("stack `{stack}` is being served: park its exports first");
                        return Err(AssemblyError::Conflict(what).into());
                    }
                    Some(Place::Stacked(Arc::clone(&part.service)))
                }
                None => {
                    let open = parts.writables.get_mut(&layer.name);
                    open.and_then(|part| part.open.take()).map(Place::Alone)
                }
            };
            (held, place)
        };
        match place {
            Some(Place::Stacked(service)) => {
                // It may take long, and others may look after the layer meanwhile.
                drop(held);
                service.embark(sending)?;
            }
            Some(Place::Alone(open)) => {
                let sent = self.opener.embark(&open, sending);
                if let Some(part) = self.lock().writables.get_mut(&layer.name) {
                    part.open = Some(open);
                }
                sent?;
            }
            None => Ashore::lock(&layer.path)?.send(sending)?,
        }
        Ok(())
    }

    /// Receives layers that the other end of `stream` sends, each into a directory aside. Once that has taken its place, the
    /// sender is to be told with [`crate::writable::travel::in_place`].
    pub fn receive_layers(
        &self,
        spec: &ReceiveSpec,
        stream: impl Read + Write,
    ) -> Result<Journey, JourneyError> {
        let mut arrivals = Vec::with_capacity(spec.layers.len());
        for layer in &spec.layers {
            for path in [&layer.staging, &layer.place] {
                absolute(path)?;
                if let Some((name, _)) = self
                    .lock()
                    .writables
                    .iter()
                    .find(|(_, there)| there.spec.path == *path)
                {
                    let what = format!("`{}` is open as writable layer `{name}`", path.display());
                    return Err(AssemblyError::Conflict(what).into());
                }
            }
            arrivals.push(Arrival {
                staging: layer.staging.clone(),
                place: layer.place.clone(),
                bytes_max: layer.bytes_max,
            });
        }
        let arrived = receive(stream, &arrivals, &self.ledgers)?;
        Ok(Journey {
            bytes: arrived.bytes,
            last: arrived.last,
        })
    }
}

fn absolute(path: &Path) -> AssemblyResult<()> {
    let plain = |path: &Path| path.components().collect::<PathBuf>() == path;
    if path.is_absolute() && plain(path) && !path.components().any(|part| part.as_os_str() == "..") {
        Ok(())
    } else {
        Err(AssemblyError::Invalid(format!(
            "`{}` is not an absolute path",
            path.display()
        )))
    }
}
