#!/bin/sh
# Runs in the guest: real programs on a root file system that cowfs serves. One line for each step on the console:
# "root ok STEP", or "root FAIL STEP: " and what was said.
export HOME=/var/tmp/work LANG=C DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=/var/tmp/work

now() { cut -d. -f1 /proc/uptime; }

step() {
  name=$1
  shift
  from=$(now)
  if "$@" >/tmp/said 2>&1; then
    echo "root ok $name, $(($(now) - from)) s"
  else
    echo "root FAIL $name: $(tail -n 12 /tmp/said | tr '\n' '|')"
  fi
}

# What is checked afterwards comes from the server, not from this kernel's memory.
forget() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}

names() { dpkg-deb --showformat '${Package}\n' -W "$1"; }

# Everything but what package tools write about themselves.
tree() {
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /packages \
    -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path $work \) -prune \
    -o -printf '%p %y %m %u:%g %l\n' | LC_ALL=C sort
}

tree_before() { tree >$work/before; }

installs() {
  apt-get install -y -q --no-install-recommends /packages/*.deb
}

is_whole() {
  forget
  [ -z "$(dpkg --audit)" ] || return 1
  for package in $(cat $work/names); do
    dpkg-query -W -f '${Status}\n' "$package" | grep -qx 'install ok installed' || return 1
  done
  # The sums of all their files; documentation is left out by this system's own configuration.
  xargs dpkg --verify <$work/names >$work/verified
  ! grep -vE ' /usr/share/(doc|man|info|locale)/' $work/verified
}

they_run() {
  python3 -c 'import json, sqlite3, ssl; print(json.dumps({"ok": sqlite3.sqlite_version}))' || return 1
  git --version && sqlite3 -version
}

git_works() {
  git config --global user.name guest && git config --global user.email guest@example.org || return 1
  git init -q -b main $work/one && cd $work/one || return 1
  cp -a /usr/share/git-core /etc/apt /usr/lib/python3.11/json . && git add -A && git commit -qm 'Begin' || return 1
  i=1
  while [ $i -le 8 ]; do
    echo "$i" >>file && mv file "file$i" && cp "file$i" file && git add -A && git commit -qm "Change $i" || return 1
    i=$((i + 1))
  done
  git checkout -qb side HEAD~4 && echo side >side && git add side && git commit -qm 'On the side' || return 1
  git checkout -q main && git merge -q --no-edit side && git gc -q --aggressive || return 1
  # Hard links between the two repositories.
  git clone -q --local $work/one $work/two && cd $work/two && git rm -q -r json && git commit -qm 'Less' || return 1
  git push -q origin HEAD:less
}

git_is_whole() {
  forget
  for repository in one two; do
    cd "$work/$repository" && git fsck --full --strict && [ -z "$(git status --porcelain)" ] || return 1
  done
  [ "$(git -C $work/two rev-parse HEAD)" = "$(git -C $work/one rev-parse less)" ]
}

# 200 rows in one transaction, many pages of them before the end.
transaction() {
  sqlite3 "$1" "PRAGMA cache_size=10; BEGIN; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<200)
    INSERT INTO t(body) SELECT '$2 ' || hex(randomblob(300)) FROM c; COMMIT;"
}

# The host kills the file server meanwhile, once for each hint.
transactions() {
  sqlite3 "$1" "PRAGMA journal_mode=$2; CREATE TABLE t(n INTEGER PRIMARY KEY, body TEXT);" >/dev/null || return 1
  i=1
  while [ $i -le 12 ]; do
    transaction "$1" $i || return 1
    echo "root transaction $2 $i" >/dev/console
    i=$((i + 1))
  done
}

# A writer that dies between BEGIN and COMMIT leaves a journal that the next reader rolls back.
dies_in_between() {
  mkfifo $work/orders
  sqlite3 $work/rollback.db <$work/orders >$work/answers &
  writer=$!
  exec 9>$work/orders
  echo "PRAGMA cache_size=10; BEGIN; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<2000)
    INSERT INTO t(body) SELECT 'lost ' || hex(randomblob(300)) FROM c; SELECT 'written';" >&9
  until grep -q written $work/answers; do sleep 0.2; done
  kill -9 $writer
  wait $writer
  exec 9>&-
  [ -s $work/rollback.db-journal ] || return 1
}

databases_are_whole() {
  forget
  for database in rollback wal; do
    [ "$(sqlite3 $work/$database.db 'PRAGMA integrity_check')" = ok ] || return 1
    [ "$(sqlite3 $work/$database.db 'SELECT count(*) FROM t')" = 2400 ] || return 1
    [ "$(sqlite3 $work/$database.db "SELECT count(*) FROM t WHERE body LIKE 'lost%'")" = 0 ] || return 1
  done
}

removes() { xargs apt-get purge -y -q <$work/names; }

nothing_is_left() {
  forget
  for package in $(cat $work/names); do
    ! dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -vx 'not-installed' || return 1
  done
  tree >$work/after
  diff $work/before $work/after
}

# The service is healthy from here on: an agent that waits for it would not repair what is killed below.
echo 'root begins'
rm -rf $work
mkdir -p $work
for package in /packages/*.deb; do names "$package"; done >$work/names
echo "root has $(wc -l <$work/names) packages"
step 'the tree is noted' tree_before
step 'packages are installed' installs
step 'their files are whole' is_whole
step 'their programs run' they_run
step 'git works' git_works
step 'git fsck finds both repositories whole' git_is_whole
step 'transactions with a rollback journal' transactions $work/rollback.db delete
step 'transactions with a write-ahead log' transactions $work/wal.db wal
step 'a writer dies in its transaction' dies_in_between
step 'integrity_check finds both databases whole' databases_are_whole
step 'packages are removed' removes
step 'nothing of them is left' nothing_is_left
echo 'root finished'
exec sleep infinity
