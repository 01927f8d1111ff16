#!/bin/busybox sh
# shellcheck shell=dash
# First program of the test guest: network and power button, then a marker and an echo of whatever is typed.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_balloon button evdev pvpanic pvpanic-pci; do
  insmod /modules/$module.ko || echo "TEST no $module"
done
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
echo "TEST cmdline $(cat /proc/cmdline)"

# A connection to each file server's place: what comes back is what the test says there.
case $(cat /proc/cmdline) in
  *xeno.server*)
    for server in 10.0.2.100 10.0.2.101; do
      echo "TEST $server says: $(printf 'hello from %s\n' "$server" | nc -w 20 $server 2049)"
    done
    # And one to the node itself, which must fail.
    nc -w 2 10.0.2.2 "$(sed 's/.*test.port=\([0-9]*\).*/\1/' /proc/cmdline)" </dev/null | grep -q . && echo "TEST reached the node"
    ;;
esac

mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\necho "TEST power button" >/dev/console\nsleep 0.2\npoweroff -f\n' >/etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
case $(cat /proc/cmdline) in
  *test.deaf*) ;;
  *) acpid -f -l /dev/null & ;;
esac
nc -ll -p 80 -e echo "TEST page" &
# Says back what it is told, for as long as it is told something.
nc -ll -p 81 -e cat &

read -r up rest </proc/uptime
echo "TEST ready up=$up"
while read -r line; do
  case $line in
    panic) echo c >/proc/sysrq-trigger ;;
    reboot) reboot -f ;;
    who) echo "TEST boot id $(cat /proc/sys/kernel/random/boot_id)" ;;
    memory) echo "TEST free $(sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo)" ;;
    # Counts for ever; a hole or a number said twice would show.
    count) (
      n=0
      while :; do
        n=$((n + 1))
        echo "TEST count $n"
        usleep 50000
      done
    ) & ;;
    # Writes to its memory as fast as it can.
    churn) (while dd if=/dev/zero of=/churn bs=1M count=24 conv=notrunc 2>/dev/null; do echo "TEST churned"; done) & ;;
    # Counts to its first file server for ever, and connects again whenever the connection ends.
    talk) (while :; do
      while echo; do usleep 20000; done | nc 10.0.2.100 2049
      usleep 20000
    done) & ;;
    *) echo "TEST typed $line" ;;
  esac
done </dev/console
