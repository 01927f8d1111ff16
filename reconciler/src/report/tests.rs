use xeno_model::id::Timestamp;

use super::*;

#[test]
fn every_reason_reads_well() {
    let text: Vec<_> = Reason::examples().iter().map(sentence).collect();
    assert_eq!(
        text.join("\n"),
        "\
new in the repository
vcpus 1 → 2
removed on 2026-11-22 06:10:48 UTC, and taken into use again with what it wrote
an earlier run began it and did not finish
its domain is gone
its domain has crashed
its domain was started as something else (abababababab)
its files are not being served
its files are not those it was started on (stack abababababab)
its writable layers are limited to 1GiB, which nobody asked for
its writable layers have no limit
not enforced by qemu on this node: cpu cap 50%, network rate 10Mbit
it was stopped, and something of it is there again
should be stopped; what it wrote is kept
no longer in the repository
the repository places it on another node
removed on 2026-11-22 06:10:48 UTC, and kept for as long as was promised
domains could not be seen because the hypervisor does not answer
removing it would exceed the delete budget (2 allowed, 1 used, 3 asked for)
the repository does not name this node, which therefore stays as it is
the commit asks for nothing at all, and nothing is removed on the word of an empty commit
needs 512 MiB, and 256 of the node's 2048 MiB are free for it
port 8080 of the node is held by db/0
this version cannot do it: keeping a suspended sliver's memory in an image
boot:web/0 failed (no kernel) and is tried again at 2026-11-22 06:10:48 UTC
boot:web/0 failed (no kernel), which somebody has to change; tried again at 2026-11-22 06:10:48 UTC in case it was"
    );
}

#[test]
fn moments_are_read_from_the_calendar() {
    for (ms, text) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_400_000, "2000-02-29 00:00:00 UTC"),
        (4_107_542_399_999, "2100-02-28 23:59:59 UTC"),
        (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(utc(Timestamp(ms)), text);
    }
}
