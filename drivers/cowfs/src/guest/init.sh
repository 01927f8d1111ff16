#!/bin/busybox sh
# shellcheck shell=dash
# First program of a Xenoslice guest: brings up the network, mounts the root file system over NFS and goes over to it.
#
# Kernel arguments (values may have %XX for any byte):
#   xeno.addr=ADDRESS/BITS     address of the guest, IPv4 or IPv6; may be repeated
#   xeno.device=NAME           its network device; eth0 if not given
#   xeno.gateway=ADDRESS       default route, IPv4 or link-local IPv6; one of each at most. It need not be in the network of
#                              an address
#   xeno.server=ADDRESS        file server; a link-local one with its device: fe80::1%eth0
#   xeno.port=PORT             its port for NFS and MOUNT; 2049 if not given
#   xeno.export=PATH           export that is the root
#   xeno.mount=PATH:EXPORT     further export for a path below the root; may be repeated, outer paths first
#   xeno.mount=PATH:SERVER:EXPORT  the same, from a server of its own
#   xeno.hostname=NAME         host name
#   xeno.init=native|small     what to start: /sbin/init of the root, or the small init
#   xeno.run=COMMAND           what the small init runs
# Lines beginning with "xeno:" on the console are for programs to wait for.

say() {
  echo "xeno: $*"
}

# Prints a value with its %XX decoded.
decode() {
  printf '%b' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/%/\\x/g')"
}

# A guest that cannot go on stays visible instead of rebooting for ever.
give_up() {
  say "failed: $*"
  while :; do sleep 3600; done
}

# Arguments of both: server, export, path.
mount_nfs() {
  case $1 in
    # Brackets, since an IPv6 address has colons too; the device belongs to a link-local address (ipv6(7)).
    *:*) from="[$1]" over=tcp6 ;;
    *) from=$1 over=tcp ;;
  esac
  mount -t nfs -o "vers=3,proto=$over,mountproto=$over,nolock,hard,timeo=20,retrans=2,port=$port,mountport=$port,addr=$1,mountaddr=$1" "$from:$2" "$3"
}

# Mounts an export however long it takes the server to answer. Says why it waits, but not every time.
mount_patiently() {
  tries=0
  until problem=$(mount_nfs "$1" "$2" "$3" 2>&1); do
    if [ $((tries % 20)) = 0 ]; then
      say "waiting for $1:$2: $problem"
    fi
    tries=$((tries + 1))
    sleep 0.25
  done
}

/bin/busybox --install -s /bin
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o mode=0755,nosuid dev /dev
say "initramfs started"

hypervisor='' addresses='' device=eth0 gateways='' server='' port=2049 export='' mounts='' init=native run=''
read -r arguments </proc/cmdline
# No file names are to be made of the words.
set -f
for word in $arguments; do
  value=$(decode "${word#*=}")
  case $word in
    xeno.addr=*) addresses="$addresses $value" ;;
    xeno.device=*) device=$value ;;
    xeno.gateway=*) gateways="$gateways $value" ;;
    xeno.server=*) server=$value ;;
    xeno.port=*) port=$value ;;
    xeno.export=*) export=$value ;;
    xeno.mount=*) mounts="$mounts ${word#*=}" ;;
    xeno.hostname=*) hostname "$value" ;;
    xeno.init=*) init=$value ;;
    xeno.run=*) run=$value ;;
  esac
done
[ -n "$server" ] && [ -n "$export" ] || give_up "xeno.server or xeno.export is missing"

read -r hypervisor 2>/dev/null </sys/hypervisor/type
while read -r module; do
  # Loads on Xen alone.
  [ "$module" != xen_netfront.ko ] || [ "$hypervisor" = xen ] || continue
  insmod "/modules/$module" || say "module $module was not loaded"
done </modules/order

tries=0
until [ -e "/sys/class/net/$device" ]; do
  tries=$((tries + 1))
  [ $tries -lt 600 ] || give_up "no network device $device"
  sleep 0.1
done
ip link set lo up
# Nobody else is on a link: its address can be used at once, and nobody is to give it others. Where there is no IPv6, nothing
# needs it.
for setting in accept_dad accept_ra; do
  { echo 0 >"/proc/sys/net/ipv6/conf/$device/$setting"; } 2>/dev/null
done
ip link set "$device" up
for address in $addresses; do
  ip addr add "$address" dev "$device" || give_up "cannot set address $address"
done
for gateway in $gateways; do
  family=-4
  case $gateway in
    *:*) family=-6 ;;
    # Where no address has a network that it is in.
    *) ip route get "$gateway" >/dev/null 2>&1 || ip route add "$gateway" dev "$device" ;;
  esac
  ip "$family" route add default via "$gateway" dev "$device" || give_up "cannot set gateway $gateway"
done

mount_patiently "$server" "$export" /root
say "root mounted"
for mount in $mounts; do
  path=$(decode "${mount%%:*}")
  mkdir -p "/root$path"
  from=$server
  what=${mount#*:}
  case $what in
    *:*)
      from=$(decode "${what%%:*}")
      what=${what#*:}
      ;;
  esac
  mount_patiently "$from" "$(decode "$what")" "/root$path"
  say "mounted $path"
done

mkdir -p /root/dev /root/proc /root/sys /root/run
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
case $init in
  native)
    [ -x /root/sbin/init ] || [ -L /root/sbin/init ] || give_up "the root has no /sbin/init"
    say "starting /sbin/init"
    exec switch_root -c /dev/console /root /sbin/init
    ;;
  small)
    # The root stays as it is: what the small init needs lies in memory.
    mount -t tmpfs -o mode=0755,nosuid,nodev run /root/run
    mkdir /root/run/xeno
    cp /bin/busybox /small-init /root/run/xeno/
    printf '%s\n' "$run" >/root/run/xeno/run
    for mount in $mounts; do
      decode "${mount%%:*}"
      echo
    done >/root/run/xeno/mounts
    exec switch_root -c /dev/console /root /run/xeno/small-init
    ;;
  *) give_up "no such init: $init" ;;
esac
give_up "the root cannot be entered"
