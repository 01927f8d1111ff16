//! Exports of stacks: who may reach them, and what becomes of calls that run when that changes.

use std::sync::Arc;

use super::{
    Assembly, AssemblyError, AssemblyResult, ExportPart, Kind, QUIESCE_MAX, blocking, parse_clients,
};
use crate::control::api::ExportSpec;
use crate::export::{Export, ExportName, State};
use crate::lease::Instant;
use crate::service::StackOpener;

impl<O: StackOpener> Assembly<O> {
    /// Exports a stack, or changes the state of its export.
    pub async fn put_export(&self, name: &str, spec: ExportSpec) -> AssemblyResult<()> {
        let export_name = ExportName::parse(name).map_err(|why| AssemblyError::Invalid(why.to_string()))?;
        let clients = parse_clients(&spec)?;
        let name = export_name.as_str().to_owned();
        let _held = self.hold(vec![
            (Kind::Export, name.clone()),
            (Kind::Stack, spec.stack.clone()),
        ])?;
        if let Some(export) = self.restate(&name, &spec)? {
            return self.change_state(&name, &export, spec.state).await;
        }
        let service = match self.lock().stacks.get(&spec.stack) {
            Some(stack) => Arc::clone(&stack.service),
            None => {
                return Err(AssemblyError::Missing {
                    kind: Kind::Stack,
                    name: spec.stack,
                });
            }
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>, retryable| AssemblyError::Failed {
            kind: Kind::Export,
            name: name.clone(),
            retryable,
            source,
        };
        let export = Export::new(export_name.clone(), service, clients, spec.state);
        let export = export.map_err(|error| failed(error.into(), false))?;
        let export = export.on_link(spec.link.clone()).under(self.server.lease());
        let export = Arc::new(export);
        export.set_leased(spec.leased);
        export.set_weight(spec.weight);
        let registered = self.server.exports().add(Arc::clone(&export));
        registered.map_err(|error| failed(error.into(), false))?;
        let listening = match &spec.socket {
            None => None,
            Some(socket) => match self
                .server
                .listen_unix(socket, spec.peer_uid, Arc::clone(&export))
                .await
            {
                Ok(listening) => Some(listening),
                Err(error) => {
                    self.server.exports().remove(&export_name);
                    return Err(failed(error.into(), true));
                }
            },
        };
        let part = ExportPart {
            spec,
            export,
            _listening: listening,
        };
        self.lock().exports.insert(name, part);
        Ok(())
    }

    /// The export `name` if it is there already; it may differ from `spec` in its state, its weight and whether it is leased
    /// alone. The latter two are changed at once.
    fn restate(&self, name: &str, spec: &ExportSpec) -> AssemblyResult<Option<Arc<Export>>> {
        let mut parts = self.lock();
        let Some(there) = parts.exports.get_mut(name) else {
            return Ok(None);
        };
        let same = ExportSpec {
            state: spec.state,
            weight: spec.weight,
            leased: spec.leased,
            ..there.spec.clone()
        };
        if same != *spec {
            return Err(AssemblyError::Conflict(format!(
                "export `{name}` is there and differs in more than its state, weight and lease"
            )));
        }
        there.spec.state = spec.state;
        there.spec.weight = spec.weight;
        there.spec.leased = spec.leased;
        there.export.set_leased(spec.leased);
        there.export.set_weight(spec.weight);
        Ok(Some(Arc::clone(&there.export)))
    }

    async fn change_state(&self, name: &str, export: &Export, state: State) -> AssemblyResult<()> {
        export.set_state(state);
        if state == State::Active {
            return Ok(());
        }
        let quiet = tokio::time::timeout(QUIESCE_MAX, export.quiesce()).await;
        quiet.map_err(|elapsed| AssemblyError::Failed {
            kind: Kind::Export,
            name: name.to_owned(),
            retryable: true,
            source: elapsed.into(),
        })
    }

    /// Stops exporting: closes the socket and every connection, and waits for calls that run.
    pub async fn delete_export(&self, name: &str) -> AssemblyResult<()> {
        let export_name = ExportName::parse(name).map_err(|why| AssemblyError::Invalid(why.to_string()))?;
        let part = {
            let mut parts = self.lock();
            let _held = self.hold(vec![(Kind::Export, export_name.as_str().to_owned())])?;
            parts.exports.remove(export_name.as_str())
        };
        let Some(part) = part else {
            return Ok(());
        };
        self.server.exports().remove(&export_name);
        let export = Arc::clone(&part.export);
        drop(part);
        let quiet = tokio::time::timeout(QUIESCE_MAX, export.quiesce()).await;
        quiet.map_err(|elapsed| AssemblyError::Failed {
            kind: Kind::Export,
            name: name.to_owned(),
            retryable: true,
            source: elapsed.into(),
        })
    }

    /// Holds an export still: calls that come wait, as in standby. Once this is done none is under way, and all that was
    /// answered is durable. If it fails, the export goes on as it was.
    pub async fn park(&self, name: &str) -> AssemblyResult<()> {
        let export = self.exported(name)?;
        let was = export.set_parked(true);
        let quiet = tokio::time::timeout(QUIESCE_MAX, export.quiesce()).await;
        let still = match quiet {
            Ok(()) => self.flush(name).await,
            Err(elapsed) => Err(AssemblyError::Failed {
                kind: Kind::Export,
                name: name.to_owned(),
                retryable: true,
                source: elapsed.into(),
            }),
        };
        if still.is_err() {
            export.set_parked(was);
        }
        still
    }

    /// Lets an export that was parked answer again.
    pub fn unpark(&self, name: &str) -> AssemblyResult<()> {
        self.exported(name)?.set_parked(false);
        Ok(())
    }

    /// Has the server's lease last until this instant.
    pub fn renew_lease(&self, until: Instant) -> AssemblyResult<()> {
        let renewed = self.server.renew_lease(until);
        renewed.map_err(|why| AssemblyError::Invalid(why.to_string()))
    }

    /// Has a leased export answer under the server's lease, which lasts until this instant at least.
    pub fn enter_lease(&self, name: &str, until: Instant) -> AssemblyResult<()> {
        let export = self.exported(name)?;
        // Others have to learn of a lapse too.
        self.renew_lease(until)?;
        let entered = export.enter(until);
        entered.map_err(|why| AssemblyError::Invalid(why.to_string()))
    }

    fn exported(&self, name: &str) -> AssemblyResult<Arc<Export>> {
        let export_name = ExportName::parse(name).map_err(|why| AssemblyError::Invalid(why.to_string()))?;
        let found = self.server.exports().get(&export_name);
        found.ok_or_else(|| AssemblyError::Missing {
            kind: Kind::Export,
            name: name.to_owned(),
        })
    }

    /// Makes everything written through an export durable.
    pub async fn flush(&self, name: &str) -> AssemblyResult<()> {
        let export = self.exported(name)?;
        let service = Arc::clone(export.service());
        blocking(Kind::Export, name, move || {
            service.flush_all().map_err(|status| crate::service::OpenError {
                what: "flushing".to_owned(),
                retryable: true,
                source: status.into(),
            })
        })
        .await
    }
}
