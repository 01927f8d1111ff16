//! A guest's link to its node: the MAC and the addresses that follow from the identity of its domain. Pure.
