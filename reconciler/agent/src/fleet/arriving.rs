//! The end of a move at which a sliver arrives: one task for each. It gets what the sliver needs, takes layers and memory as they
//! come, and says what it has. Whether the copy may run, the loop decides.

use std::sync::Arc;

use tokio::io::{WriteHalf, split};
use tokio::sync::mpsc;
use xeno_model::desired::DesiredNode;
use xeno_model::id::{MigrationId, SliverId};
use xeno_model::normal::boot_digest;
use xeno_reconciler::exec::Outcome;
use xeno_reconciler::plan::ingredients;
use xeno_reconciler::ports::{MountSpec, MoveLayers, MoveMemory};
use xeno_reconciler::tenure::BootId;

use super::pump::pipe_over;
use super::wire::{Lines, Order, Reply, Wire, say};
use super::{News, Teller};
use crate::crash;
use crate::dispatch::{Ports, Work, carry_out, domain_spec};

/// A sliver that arrives.
#[derive(Clone, Debug)]
pub(crate) struct Arrive {
    pub(crate) sliver: SliverId,
    pub(crate) migration: MigrationId,
    /// Whether its memory is taken too.
    pub(crate) memory: bool,
    /// In which life of this machine.
    pub(crate) boot: BootId,
    pub(crate) desired: Arc<DesiredNode>,
    /// Whether layers of it were set aside here, of a time when it was here before.
    pub(crate) leftovers: bool,
}

/// A connection that belongs to a move which is under way.
pub(crate) enum Stream {
    Memory(Wire),
    Layers(Wire),
}

/// Receives a sliver. Returns why that ended.
pub(crate) async fn arrive<H: MoveMemory, S: MoveLayers>(
    ports: Arc<Ports<H, S>>,
    arrive: Arrive,
    wire: Wire,
    tell: Teller,
    mut streams: mpsc::Receiver<Stream>,
) -> String {
    let (read, mut write) = split(wire);
    let mut orders = Lines::<Order>::of(read);
    let prepared = tokio::select! {
        prepared = prepare(&ports, &arrive) => prepared,
        why = orders.hung_up() => return why,
    };
    if let Err(why) = prepared {
        // Who has hung up meanwhile knows enough.
        let _ = say(&mut write, &Reply::Refused { why: why.clone() }).await;
        return why;
    }
    let ready = Reply::ready(arrive.boot, arrive.memory);
    if let Err(why) = say(&mut write, &ready).await {
        return why;
    }
    loop {
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else {
                    return "it was called off".to_owned();
                };
                let taken = tokio::select! {
                    taken = take(&ports, &arrive, stream, &mut write, &tell) => taken,
                    why = orders.hung_up() => return why,
                };
                if let Err(why) = taken {
                    let _ = say(&mut write, &Reply::Refused { why: why.clone() }).await;
                    return why;
                }
            }
            order = orders.next() => match order {
                Ok(Order::Go) => tell.say(News::Go),
                Err(why) => return why,
            },
        }
    }
}

/// Brings here what it is made of, and makes room for its layers.
async fn prepare<H: MoveMemory, S: MoveLayers>(ports: &Ports<H, S>, arrive: &Arrive) -> Result<(), String> {
    let desired = &arrive.desired;
    let sliver = desired
        .slivers
        .get(&arrive.sliver)
        .ok_or("it is not wanted here any more")?;
    for action in ingredients(sliver) {
        match carry_out(ports, Work::new(&action, desired)).await {
            Outcome::Done => {}
            Outcome::Failed { why, .. } => return Err(format!("{}: {why}", action.key())),
        }
    }
    if arrive.leftovers {
        // The record says who has the right, so these are of another time, and nobody will ever open them again.
        ports
            .storage
            .purge(&arrive.sliver)
            .await
            .map_err(|error| error.what)?;
    }
    Ok(())
}

async fn take<H: MoveMemory, S: MoveLayers>(
    ports: &Ports<H, S>,
    arrive: &Arrive,
    stream: Stream,
    write: &mut WriteHalf<Wire>,
    tell: &Teller,
) -> Result<(), String> {
    let sliver = arrive
        .desired
        .slivers
        .get(&arrive.sliver)
        .ok_or("it is not wanted here any more")?;
    match stream {
        Stream::Layers(wire) => {
            let (pipe, carrying) = pipe_over(wire)?;
            let mounts = MountSpec::of(sliver);
            let taken = ports
                .storage
                .receive_layers(&arrive.sliver, arrive.migration, &mounts, pipe)
                .await;
            // What was said last is on its way while this end is closed already.
            drop(carrying);
            taken.map_err(|error| error.what)?;
            crash::after_move("receive");
            Ok(())
        }
        Stream::Memory(wire) => {
            if !arrive.memory {
                return Err("its memory was not asked for".to_owned());
            }
            let (pipe, carrying) = pipe_over(wire)?;
            let spec = domain_spec(ports, sliver, &boot_digest(sliver), &sliver.kernel.digest)
                .await
                .map_err(|error| error.what)?;
            // Where it fails, the connection ends by itself, and not before the other end was told why.
            let whole = ports.hypervisor.arrive(&spec, arrive.migration, pipe).await;
            whole.map_err(|error| error.what)?;
            carrying.abort();
            crash::after_move("arrive");
            // First here: who hears of it there may order what rests on it.
            tell.say(News::Whole);
            say(write, &Reply::Whole).await
        }
    }
}
