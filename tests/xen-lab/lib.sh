# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts that source this use these
# What the scripts of the laboratory share: settings, and how a machine is reached.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lab_dir=${XEN_LAB_DIR:-$repository/target/xen-lab}
port_base=${XEN_LAB_PORT_BASE:-42200} # ssh: base + ID; the private segment: base + 100 + ID
machine_mib=${XEN_LAB_MEM:-1536}
dom0_mib=${XEN_LAB_DOM0_MEM:-640}
cpus=${XEN_LAB_SMP:-1}
cpu=${XEN_LAB_CPU:-qemu64}
boot_seconds_max=${XEN_LAB_BOOT_SECONDS:-300}

image_dir=$lab_dir/image
key=$image_dir/id_ed25519
# Fixed, so that a machine resumed from its snapshot may find other files on it than the one the snapshot is of.
data_disk_size=6G

die() {
  echo "xen-lab: $*" >&2
  exit 1
}

say() {
  echo "xen-lab: $*" >&2
}

check_id() {
  [[ ${1:-} =~ ^[12]$ ]] || die "machines are called 1 and 2, not '${1:-}'"
}

machine_dir() {
  echo "$lab_dir/machine$1"
}

# Prints the pid of a machine's QEMU. A number that now belongs to another process does not count: the command line has to
# name this machine's own disk.
machine_pid() {
  local dir pid
  dir=$(machine_dir "$1")
  [ -s "$dir/pid" ] || return 1
  pid=$(<"$dir/pid")
  grep -qzF "file=$dir/disk.qcow2" "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

# Arguments: machine, and what ssh gets. One connection is shared by all commands: a handshake costs an emulated CPU seconds.
# Its socket has a relative name, since those of sockets may only be 108 bytes long.
machine_ssh() {
  local id=$1
  shift
  (
    cd "$(machine_dir "$id")" || exit 1
    exec ssh -q -p $((port_base + id)) -i "$key" \
      -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
      -o ConnectTimeout=60 -o ServerAliveInterval=15 -o ServerAliveCountMax=20 \
      -o ControlMaster=auto -o ControlPersist=600 -o ControlPath=ssh.sock \
      root@127.0.0.1 "$@"
  )
}

# Ends the shared connection; its server is about to go.
hang_up() {
  (cd "$(machine_dir "$1")" && ssh -q -O exit -o ControlPath=ssh.sock root@127.0.0.1 2>/dev/null) || true
}

# One command of QEMU's monitor (qemu(1), "QEMU Monitor").
monitor() {
  (cd "$(machine_dir "$1")" && printf '%s\n' "$2" | socat -t600 - UNIX-CONNECT:monitor.sock)
}

# Prints the Debian repositories apt knows, as lines of a sources.list.
debian_sources() {
  # shellcheck disable=SC2016 # the words in $( ) are apt's, not the shell's
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
    grep -E ' main$' | sort -u
}

# Prints the one dependency of a package that begins with a word: of xen-system-amd64, say, the hypervisor.
dependency() {
  apt-cache depends "$1" | sed -n "s/^ *Depends: \($2.*\)/\1/p" | head -n 1
}
