//! Access control lists: heeded, inherited and kept as on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::WORKER;
use selvedge_test_support::Repo;

/// Runs `script` in `directory` and returns what it printed, failures of single commands included.
fn run(directory: &Path, script: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(script).current_dir(directory).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// Everything programs do with lists, and what others may then do. It prints what it sees.
const SCRIPT: &str = r#"
exec 2>&1
umask 027
show() { for path; do stat -c '%n %a' "$path"; getfacl -p --omit-header "$path"; done; }
as() { setpriv --reuid=$1 --regid=$2 --clear-groups sh -c "$3" && echo "$1:$2 may $3" || echo "$1:$2 may not $3"; }
chmod 755 .
echo x > file; chmod 640 file
setfacl -m u:4242:rw,g:4343:r file; show file
as 4242 4242 'cat file'; as 4242 4242 'echo y >> file'; as 4343 4343 'cat file'; as 4344 4343 'echo z >> file'
as 4344 4344 'cat file'
chmod 600 file; show file; as 4242 4242 'cat file'
chmod 664 file; show file; as 4242 4242 'cat file'
setfacl -m m::r file; show file; as 4242 4242 'echo y >> file'
setfacl -x u:4242 file; show file
setfacl -b file; show file
setfacl -b file; echo "again $?"
setfacl -m u::rwx,g::rx,o::- file; show file; getfattr -m - file
mkdir dir; chmod 770 dir
setfacl -m u:4242:rwx dir; setfacl -d -m u:4242:rwx,g::rx,o::r dir; show dir
echo in > dir/made; mkdir dir/sub; mkfifo dir/fifo; ln -s made dir/link; show dir/made dir/sub dir/fifo
umask 077; echo masked > dir/masked; mkdir dir/sub/deep; show dir/masked dir/sub/deep
mv "$(mktemp dir/XXXXXX)" dir/narrow; show dir/narrow
as 4242 4242 'cat dir/made'; as 4242 4242 'echo more > dir/theirs'; show dir/theirs
setfacl -k dir; show dir; echo plain > dir/plain; show dir/plain
setfacl -d -m u:4242:rwx file; echo "default on a file $?"
cp -p dir/made copied; show copied
mv dir/made moved; show moved
ln moved linked; setfacl -m u:4244:r linked; show moved
chown 4243:4343 moved; show moved
echo s > sg; chown 4242:4343 sg; chmod 2755 sg
as 4242 4242 'setfacl -m u:1:r sg'; show sg
chmod 2755 sg; as 4242 4343 'setfacl -m u:2:r sg'; show sg
"#;

#[test]
fn lists_are_heeded_inherited_and_shown_as_on_the_host() {
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).option("--allow-other").start();
    let host = repo.dir().join("host");
    fs::create_dir(&host).unwrap();
    for path in [repo.dir(), &host, mount.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let expected = run(&host, SCRIPT);
    assert!(expected.contains("user:4242:rw-"), "the host knows lists: {expected}");
    assert!(expected.contains("4242:4242 may cat file") && expected.contains("4344:4344 may not cat file"));
    assert_eq!(run(mount.path(), SCRIPT), expected);
    mount.stop();
}

#[test]
fn lists_survive_import_remount_and_export() {
    let repo = Repo::with_tree(|source| {
        run(
            source,
            "echo x > base; chmod 640 base; setfacl -m u:4242:r base; mkdir dir; setfacl -d -m u:4242:rwx dir",
        );
    });
    let mount = repo.mounting(WORKER).start();
    let look = "getfacl -p -R . | sort";
    assert!(run(mount.path(), "getfacl base").contains("user:4242:r--"));
    fs::write(mount.path().join("dir/new"), b"").unwrap();
    let before = run(mount.path(), look);
    assert!(before.contains("default:user:4242:rwx"), "{before}");
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert_eq!(run(mount.path(), look), before);
    assert_eq!(fs::metadata(mount.path().join("base")).unwrap().mode() & 0o777, 0o640);
    mount.stop();
}
