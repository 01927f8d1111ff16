//! Xenoslice on real Xen: a dom0 in the laboratory of `tests/xen-lab`, and pushes.
//!
//! Needs root and what `lab build` makes; `make test-xen` sees to both, and has the tests run one after the other: they
//! share one machine.
#![cfg(feature = "xen")]

mod contract;
mod hostile;
mod laboratory;
mod moves;
mod pushes;
mod remotes;
