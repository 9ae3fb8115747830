# What programs of daily life do and print; run on two file systems, it prints the same. usage: programs.sh DIRECTORY
mkdir "$1"
cd "$1"
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
export HOME=$PWD/home LC_ALL=C SOURCE_DATE_EPOCH=1000000000
mkdir home
unset CARGO_TARGET_DIR
ok() { printf 'ok %s\n' "$1"; }
tree() { (cd "$1" && find . -mindepth 1 -printf '%P %y %m %s %n %l\n' | sed -E 's/^(\S+) d (\S+) [0-9]+ /\1 d \2 - /' | sort); }

mkdir src && printf 'int answer(void) { return 42; }\n' >src/a.c
printf '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%%d\\n", answer()); }\n' >src/b.c
printf 'all: prog\nprog: a.o b.o\n\tcc -o $@ $^\n%%.o: %%.c\n\tcc -c -o $@ $<\n' >src/Makefile
(cd src; make -s)
src/prog
(cd src; make -q)
ok make
touch -d '1 hour' src/a.c
if (cd src; make -q 2>&1); then exit 1; fi
(cd src; make -s)
ok 'make again'

printf 'one\ntwo\n' >text
vim -u NONE -es -c '%s/two/three/' -c 'set backup' -c wq text
cat text
ok vim
sqlite3 data.db 'create table t(a); insert into t values (1),(2); select sum(a) from t; pragma integrity_check;'
ok sqlite3

mkdir tree
printf x >tree/file
chmod 4751 tree/file
ln tree/file tree/hard
ln -s file tree/soft
mkfifo tree/fifo
setfattr -n user.note -v kept tree/file
setfacl -m u:4242:rw tree/file
mkdir tree/dir
setfacl -d -m u:4242:rwx tree/dir
truncate -s 1M tree/sparse
printf end >>tree/sparse
touch -d '1969-12-31 23:59:58.5 UTC' tree/dir/old
touch -d '2003-05-18 03:33:20.123456789 UTC' tree/dir/new
rsync -aHAX --sparse tree/ synced/
rsync -aHAX --delete --itemize-changes --dry-run tree/ synced/
ok rsync
tree synced
(cd synced && find . | sort | xargs getfacl -p && find . | sort | xargs getfattr -h -d && stat -c '%n %Y %y' dir/old dir/new)
ok 'rsync kept'
tar --xattrs --acls --sparse -cf tree.tar tree
mkdir untarred
tar --xattrs --acls -xpf tree.tar -C untarred
tree untarred/tree
(cd untarred/tree && find . | sort | xargs getfacl -p && find . | sort | xargs getfattr -h -d)
ok tar
test "$(stat -c %b synced/sparse)" -lt 100
cp --sparse=always tree/sparse copied
test "$(stat -c %b copied)" -lt 100
cmp tree/sparse copied
ok sparse

flock lock sh -c 'flock -n lock true || echo held'
flock -n lock echo free
ok flock
mkdir watched && (timeout 20 inotifywait -q -m --format '%e %f' watched >events 2>/dev/null & echo $! >watcher)
for _ in $(seq 100); do touch watched/probe; sleep 0.05; grep -q probe events && break; done
echo a >watched/a
mv watched/a watched/b
chmod 600 watched/b
rm watched/b
mkdir watched/end
for _ in $(seq 100); do grep -q 'end$' events && break; sleep 0.05; done
kill "$(cat watcher)"
grep -v probe events
ok inotify

mkdir crate
cd crate
cargo init -q --name suite --vcs none .
cargo build -q --offline
target/debug/suite
cargo build -q --offline
ok cargo
cd ..
mkdir node
cd node
printf '{"name":"suite","version":"1.0.0","dependencies":{"left-pad":"1.3.0","semver":"7.6.3"}}' >package.json
npm install --silent --no-audit --no-fund
npm ci --silent --no-audit --no-fund
node -e 'console.log(require("left-pad")("x", 3), require("semver").inc("1.2.3", "minor"))'
ok npm
cd ..
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check six==1.17.0
venv/bin/python -c 'import six; print(six.__version__)'
ok pip
