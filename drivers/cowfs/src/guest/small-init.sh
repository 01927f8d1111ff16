#!/run/xeno/busybox sh
# shellcheck shell=dash
# Process 1 of a guest that runs one command: prepares the root, keeps the command running, and shuts down in order when
# the power button is pressed.
#
# /run/xeno/run holds the command, /run/xeno/mounts the further mounts. Signals are those of busybox: USR2 powers off,
# TERM and INT reboot, USR1 halts.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=linux LANG=C.UTF-8
# A variable and not a function: of a function in the background, $! would be the subshell's.
bb=/run/xeno/busybox
STOP_SECONDS_MAX=20

say() {
  echo "xeno: $*"
}

prepare() {
  $bb mkdir -p /dev/pts /dev/shm
  $bb mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
  $bb mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm
  $bb mkdir -p -m 1777 /tmp /run/lock
  $bb mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
  [ -e /dev/fd ] || $bb ln -s /proc/self/fd /dev/fd
  [ -e /dev/stdin ] || $bb ln -s /proc/self/fd/0 /dev/stdin
  [ -e /dev/stdout ] || $bb ln -s /proc/self/fd/1 /dev/stdout
  [ -e /dev/stderr ] || $bb ln -s /proc/self/fd/2 /dev/stderr
}

# The kernel reports the power button as an input event; acpid turns it into a signal to us. What Xen's tool stack asks for
# comes to the kernel itself, which runs this command then (sysctl/kernel.rst, poweroff_cmd; `xl shutdown`).
watch_power_button() {
  printf '#!/run/xeno/busybox sh\nkill -USR2 1\n' >/run/xeno/poweroff
  $bb chmod 755 /run/xeno/poweroff
  { echo /run/xeno/poweroff >/proc/sys/kernel/poweroff_cmd; } 2>/dev/null
  $bb mkdir -p /run/xeno/acpi/PWRF
  printf '#!/run/xeno/busybox sh\nkill -USR2 1\n' >/run/xeno/acpi/PWRF/00000080
  $bb chmod 755 /run/xeno/acpi/PWRF/00000080
  $bb setsid $bb acpid -f -c /run/xeno/acpi -l /dev/null -p /run/xeno/acpid.pid &
  acpid=$!
}

# While a guest lies in an image its wall clock stands still; the hardware clock, which the hypervisor keeps, does not.
# Only ever forward, and by seconds: smaller differences are the business of whoever keeps the time in the guest.
watch_clock() {
  while $bb sleep 5; do
    read -r hardware </sys/class/rtc/rtc0/since_epoch || return
    behind=$((hardware - $($bb date +%s)))
    if [ $behind -gt 2 ]; then
      $bb date -s "@$hardware" >/dev/null && say "the clock was $behind s behind and has been set"
    fi
  done
}

# Waits for the end of a process; what else ends meanwhile is collected too.
wait_for() {
  while $bb kill -0 "$1" 2>/dev/null; do
    wait "$1"
  done
}

# Runs within the handler of a signal, whatever we were doing, and does not return.
shut_down() {
  trap '' USR1 USR2 TERM INT
  say "stopping: $1"
  waited=0
  if [ "$service" != 0 ]; then
    $bb kill -TERM "-$service" 2>/dev/null
  fi
  while [ "$service" != 0 ] && [ $waited -lt $((STOP_SECONDS_MAX * 5)) ] &&
    $bb kill -0 "-$service" 2>/dev/null; do
    # Our own children stay zombies until they have been waited for.
    $bb sleep 0.2 &
    wait $!
    waited=$((waited + 1))
  done
  $bb kill -TERM "$acpid" 2>/dev/null
  # To all but ourselves.
  $bb kill -TERM -1 2>/dev/null
  $bb sleep 0.2
  $bb kill -KILL -1 2>/dev/null
  $bb sync
  backwards=''
  while read -r path; do
    backwards="$path
$backwards"
  done </run/xeno/mounts
  printf '%s' "$backwards" | while read -r path; do
    $bb umount "$path" || $bb mount -o remount,ro "$path"
  done
  $bb mount -o remount,ro /
  $bb sync
  say "stopped"
  $bb "$1" -f
  while :; do $bb sleep 3600; done
}

service=0
trap 'shut_down poweroff' USR2
trap 'shut_down reboot' TERM INT
trap 'shut_down halt' USR1

prepare
watch_power_button
if [ -r /sys/class/rtc/rtc0/since_epoch ]; then
  watch_clock </dev/null &
fi
if [ -x /bin/sh ]; then
  shell=/bin/sh
else
  shell='/run/xeno/busybox sh'
fi
read -r run </run/xeno/run
say "small init ready"

pause=1
while :; do
  started=$($bb cut -d. -f1 /proc/uptime)
  # A session of its own, so that one signal reaches all of it.
  # shellcheck disable=SC2086 # the shell may be two words
  $bb setsid $shell -c "$run" </dev/null &
  service=$!
  wait_for $service
  service=0
  ended=$($bb cut -d. -f1 /proc/uptime)
  if [ $((ended - started)) -gt 60 ]; then
    pause=1
  fi
  say "the command ended; starting it again in $pause s"
  $bb sleep $pause &
  wait_for $!
  if [ $pause -lt 16 ]; then
    pause=$((pause * 2))
  fi
done
