//! The same service by hand: the whole root exported by the kernel's NFS server at the far end, the guest made with `xl`.

use super::deploy::number;
use super::report::{Deployment, Kind, Place};
use super::timeline::{Owner, Span, Timeline};
use super::wire::Wire;
use crate::lab::{LabError, LabResult};
use crate::xen_lab::machine::Machine;

/// What such a guest runs first.
pub const INIT: &str = "#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for dir in /run /tmp /var/log; do mount -t tmpfs tmpfs $dir; done
mkdir -p /run/lock /var/log/apache2
exec apache2ctl -D FOREGROUND
";

const CONFIG: &str = r#"name = "by-hand"
kernel = "/srv/lab/vmlinux"
ramdisk = "/srv/lab/guest-initrd"
extra = "console=hvc0 quiet mitigations=off lab.addr=10.99.0.103/24 lab.root=10.99.0.2:/srv/data/whole lab.init=/sbin/by-hand"
memory = 128
vcpus = 1
vif = [ "mac=00:16:3e:00:00:03,bridge=xenbr0" ]
"#;

const PAGE: &str = "until curl -s -o /dev/null --max-time 5 http://10.99.0.103/; do sleep 0.2; done";

/// Makes the guest, saves it and restores it.
///
/// # Errors
/// What `xl` said.
pub fn measure(node: &Machine, far: &Machine) -> LabResult<Vec<Deployment>> {
    node.write("/root/by-hand.cfg", CONFIG)?;
    let boot = one(node, far, Kind::BootNew, "xl create -q /root/by-hand.cfg")?;
    node.run("xl save by-hand /root/by-hand.image >/dev/null 2>&1")?;
    let resume = one(
        node,
        far,
        Kind::ResumeSuspended,
        "xl restore /root/by-hand.image >/dev/null 2>&1",
    )?;
    node.run("xl destroy by-hand; rm -f /root/by-hand.image")?;
    Ok(vec![boot, resume])
}

fn one(node: &Machine, far: &Machine, kind: Kind, command: &str) -> LabResult<Deployment> {
    let before = Wire::counted(node, far)?;
    let said = node.run(&format!(
        "date +%s%3N; {command}; date +%s%3N; {PAGE}; date +%s%3N"
    ))?;
    let after = Wire::counted(node, far)?;
    let times = said
        .lines()
        .map(|line| number(line.trim()))
        .collect::<LabResult<Vec<u64>>>()?;
    let &[began, made, answers] = times.as_slice() else {
        return Err(LabError::Check(format!("no times in {said:?}")));
    };
    let verb = match kind {
        Kind::BootNew => "xl create",
        Kind::ResumeSuspended => "xl restore",
    };
    Ok(Deployment {
        kind,
        place: Place::ByHand,
        timeline: Timeline::new(
            vec![
                Span::new(verb, Owner::Hypervisor, 0, made.saturating_sub(began)),
                Span::new(
                    "guest, until its page comes",
                    Owner::Guest,
                    made.saturating_sub(began),
                    answers.saturating_sub(began),
                ),
            ],
            Vec::new(),
            answers.saturating_sub(began),
        ),
        wire: after.since(&before),
        commit_bytes: 0,
        agent_cpu_ms: 0,
        cowfs_cpu_ms: 0,
    })
}
