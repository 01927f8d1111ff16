//! What a root file system asks of the file server: see `table.rs` for what is demanded and where it is shown.

mod behaviour;
mod cost;
mod made_up;
mod support;
mod table;
