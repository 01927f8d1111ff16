#!/bin/sh
# shellcheck shell=dash
# Makes an overlay by hand, in a guest: `xeno overlay edit` serves the tree to this kernel, which mounts it. Each step says
# whether it held.
echo "edit begins"
/run/xeno/busybox ip link set lo up
export NO_COLOR=1
tools=/tools work=/root/work
mkdir -p $work/base/etc $work/base/srv/old $work/base/bin
cd $work || exit

printf 'one\n' >base/etc/motd
printf 'issue\n' >base/etc/issue
printf 'page\n' >base/srv/old/page
printf '#!/bin/sh\n' >base/bin/tool

step() { # NAME COMMAND...
  name=$1
  shift
  if "$@" >said 2>&1; then
    echo "edit ok $name"
  else
    echo "edit FAIL $name"
    sed 's/^/  /' said
  fi
}

xeno() {
  $tools/xeno "$@"
}

# What a person does in the tree, as root, on a mount of the kernel's.
cat >changes <<'END'
set -e
grep -q "^127.0.0.1:/edit $XENO_OVERLAY_ROOT nfs .*vers=3" /proc/mounts
[ "$PWD" = "$XENO_OVERLAY_ROOT" ]
[ "$(cat etc/motd)" = one ]
printf 'two\n' >>etc/motd
rm etc/issue
mv srv/old srv/new
ln -s motd etc/link
ln etc/motd etc/again
mknod etc/null c 1 3
chown 7:8 bin/tool
chmod 4755 bin/tool
mkdir -m 700 etc/secret
printf 'key\n' >etc/secret/key
END

edited() {
  xeno overlay edit base --store store --into made -- sh $work/changes
}

# The directory is what `overlay:` in a manifest takes.
kept() {
  [ "$(cat made/etc/motd)" = "$(printf 'one\ntwo')" ] &&
    [ "$(stat -c '%a %u:%g' made/bin/tool)" = "4755 7:8" ] &&
    [ "$(stat -c '%F %t:%T' made/etc/null)" = "character special file 1:3" ] &&
    [ "$(stat -c %i made/etc/motd)" = "$(stat -c %i made/etc/again)" ] &&
    [ "$(readlink made/etc/link)" = motd ] &&
    [ "$(stat -c %a made/etc/secret)" = 700 ] &&
    [ -e made/etc/.wh.issue ] && [ -e made/srv/.wh.old ] && [ "$(cat made/srv/new/page)" = page ]
}

nothing_is_left() {
  ! grep 127.0.0.1:/edit /proc/mounts && ! ls -d /tmp/xeno-overlay-*
}

failed_keeps_nothing() {
  xeno overlay edit base --store store --file lost.tar -- sh -c 'rm etc/motd; exit 3' && return 1
  [ ! -e lost.tar ] && nothing_is_left
}

# Over the directory that was made, from where it was put: both layers show, and a second overlay holds the difference.
again() {
  xeno overlay edit ./made base --store store --file second.tar -- \
    sh -c '[ ! -e etc/issue ] && [ "$(cat srv/new/page)" = page ] && [ "$(cat etc/secret/key)" = key ] && rm etc/link' &&
    tar -tf second.tar | grep -qx etc/.wh.link
}

step import xeno template import base --store store --name base --owner 0:0
step edit edited
step kept kept
step unmounted nothing_is_left
step failure failed_keeps_nothing
step again again
echo "edit finished"
exec sleep infinity
