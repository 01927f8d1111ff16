//! The hypervisor port on unprivileged QEMU.
