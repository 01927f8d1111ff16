//! Ports of the node that lead to a guest, kept by nftables in dom0.
