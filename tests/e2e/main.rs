//! Whole programs at work in two mounts of one checkout: git, cargo, tar, rsync, editors; and what export says
//! of it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the contract's tests use more of it")]
#[path = "../../crates/cli/tests/cli/sandbox.rs"]
mod sandbox;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sandbox::{Held, Outcome, Sandbox, finish};

/// A real source tree: this project's own crates, in a git repository of their own.
struct Checkout {
    sandbox: Sandbox,
    _mounts: [Held; 2],
}

impl Checkout {
    /// Imports the tree and mounts two threads of it, `a` and `b`.
    fn mounted() -> Self {
        let sandbox = Sandbox::empty();
        let script = "cp -r \"$0\" crates; find crates -name target -prune -exec rm -rf {} +; \
                      printf 'target\\n' > .gitignore; ln -s crates/store store-link; \
                      git init -q -b main; git add -A; git commit -q -m first";
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        finish(git(sandbox.program("sh")).args(["-ec", script]).arg(crates)).ok();
        sandbox.run(["init"]).ok();
        sandbox.run(["import"]).ok();
        sandbox.run(["thread", "create", "a"]).ok();
        sandbox.run(["thread", "create", "b"]).ok();
        let mounts = [sandbox.mount("a", "a"), sandbox.mount("b", "b")];
        for mount in sandbox.mounts() {
            let device = rustix::fs::makedev(mount.device.major, mount.device.minor);
            for inside in ["", ".git/index", "crates/store/src/lib.rs"] {
                assert_eq!(fs::metadata(mount.mount_point.join(inside)).unwrap().dev(), device, "{inside}");
            }
        }
        Self { sandbox, _mounts: mounts }
    }

    fn a(&self) -> PathBuf {
        self.sandbox.path("a")
    }

    fn b(&self) -> PathBuf {
        self.sandbox.path("b")
    }

    /// Runs a script in a directory of the sandbox.
    #[track_caller]
    fn sh(&self, directory: &Path, script: &str) -> Outcome {
        let mut command = git(self.sandbox.program("sh"));
        finish(command.args(["-ec", script]).current_dir(directory)).ok()
    }

    /// The mount and its export are the same tree: names, kinds, bytes, modes, times, links, attributes.
    fn assert_export_agrees(&self, thread: &str) {
        let out = self.sandbox.path(format!("out-{thread}"));
        self.sandbox.run(["export", thread, out.to_str().unwrap()]).ok();
        let mount = self.sandbox.path(thread);
        // diff calls any two named pipes different; rsync below compares them.
        let same = format!("diff -r --no-dereference --exclude fifo {} {}", mount.display(), out.display());
        assert_eq!(self.sh(self.sandbox.root(), &same).stdout, "");
        let difference = format!("rsync -aHAXnic --delete {}/ {}/", mount.display(), out.display());
        assert_eq!(self.sh(self.sandbox.root(), &difference).stdout, "");
    }
}

fn git(mut command: std::process::Command) -> std::process::Command {
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.invalid"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.invalid"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ] {
        command.env(name, value);
    }
    command
}

#[test]
fn git_finds_a_clean_tree_and_rehashes_nothing() {
    let checkout = Checkout::mounted();
    for mount in [checkout.a(), checkout.b()] {
        // diff-files trusts the index alone: an inode number, time or size that is not the source's would show.
        assert_eq!(checkout.sh(&mount, "git diff-files --raw").stdout, "");
        assert_eq!(checkout.sh(&mount, "git status --porcelain").stdout, "");
        checkout.sh(&mount, "git fsck --strict --no-progress");
    }
}

#[test]
fn git_commits_in_one_mount_are_not_seen_in_the_other() {
    let checkout = Checkout::mounted();
    let (a, b) = (checkout.a(), checkout.b());
    checkout.sh(&a, "echo a >> crates/store/src/lib.rs; echo new > new; git add -A; git commit -qm in-a");
    checkout.sh(&b, "git mv crates/view crates/sight; git commit -qm in-b; git tag of-b");
    assert_eq!(checkout.sh(&a, "git log --format=%s").stdout, "in-a\nfirst\n");
    assert_eq!(checkout.sh(&b, "git log --format=%s").stdout, "in-b\nfirst\n");
    for mount in [&a, &b] {
        assert_eq!(checkout.sh(mount, "git status --porcelain").stdout, "");
        checkout.sh(mount, "git gc -q; git fsck --strict --no-progress");
    }
    assert!(!b.join("new").exists() && a.join("crates/view").exists() && !b.join("crates/view").exists());
    assert_eq!(checkout.sh(&a, "git tag").stdout, "");
    // The rest of git's life: branches, a rebase, a checkout of what was.
    checkout.sh(&a, "git checkout -q -b side HEAD~1; echo s > side; git add side; git commit -qm side; git rebase -q main");
    assert_eq!(checkout.sh(&a, "git log --format=%s").stdout, "side\nin-a\nfirst\n");
    checkout.sh(&a, "git stash list; git checkout -q HEAD~2; git checkout -q main; git clone -q . ../clone");
    assert_eq!(
        checkout.sh(&checkout.sandbox.repo(), "git log --format=%s").stdout,
        "first\n",
        "the source is as it was"
    );
    assert_eq!(checkout.sh(&checkout.sandbox.repo(), "git status --porcelain").stdout, "");
    checkout.assert_export_agrees("a");
    checkout.assert_export_agrees("b");
}

/// Makes a small program with a library and a test.
const PROJECT: &str = "mkdir -p hello/src; cd hello; \
        printf '[package]\\nname = \"hello\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[workspace]\\n' > Cargo.toml; \
        printf 'pub fn word() -> &str { \"hello\" }' | sed \"s/&str/\\&'static str/\" > src/lib.rs; \
        printf 'fn main() { println!(\"{}\", hello::word()); }' > src/main.rs; \
        printf '#[test] fn word() { assert_eq!(hello::word(), \"hello\"); }' > src/../word.rs; mkdir tests; mv word.rs tests/";

/// Builds and runs it. The test runner's own cargo variables would send the build elsewhere.
const BUILD: &str = "unset $(env | sed -n 's/^\\(CARGO[A-Z_]*\\)=.*/\\1/p' | grep -v CARGO_HOME); \
                 export RUSTUP_HOME CARGO_HOME; cargo build --offline 2>&1; target/debug/hello";

#[test]
fn cargo_builds_in_a_mount_and_finds_its_work_again_after_a_remount() {
    let checkout = Checkout::mounted();
    checkout.sh(&checkout.a(), PROJECT);
    let hello = checkout.a().join("hello");
    let built = checkout.with_toolchain(&hello, BUILD);
    assert!(built.stdout.ends_with("hello\n") && built.stdout.contains("Compiling"), "{built:?}");
    checkout.with_toolchain(&hello, &BUILD.replace("cargo build", "cargo test -q"));
    assert!(!checkout.b().join("hello").exists());

    let Checkout { sandbox, _mounts: [a, b] } = checkout;
    a.stop(Signal::TERM).ok();
    let checkout = Checkout { _mounts: [sandbox.mount("a", "a"), b], sandbox };
    let again = checkout.with_toolchain(&hello, BUILD);
    assert!(!again.stdout.contains("Compiling"), "nothing is built again: {again:?}");
}

#[test]
fn git_and_cargo_find_nothing_to_do_in_a_fork_of_a_changed_mount() {
    let checkout = Checkout::mounted();
    let a = checkout.a();
    checkout.sh(&a, PROJECT);
    checkout.with_toolchain(&a.join("hello"), BUILD);
    checkout.sh(
        &a,
        "echo a >> crates/store/src/lib.rs; git add -A; git commit -qm changed; git status --porcelain",
    );
    checkout.sandbox.run(["thread", "create", "fork", "--from", "a"]).ok();
    checkout.sandbox.run(["snapshot", "a"]).ok();
    checkout.sandbox.run(["thread", "create", "snap", "--from", "a"]).ok();
    checkout.sh(&a, "rm -rf crates hello/src; git commit -qam gone");
    for thread in ["fork", "snap"] {
        let _mount = checkout.sandbox.mount(thread, thread);
        let fork = checkout.sandbox.path(thread);
        // diff-files trusts the index alone: any number, time or size that is another would show.
        assert_eq!(checkout.sh(&fork, "git diff-files --raw").stdout, "", "{thread}");
        let index = || fs::read(fork.join(".git/index")).unwrap();
        let before = index();
        assert_eq!(checkout.sh(&fork, "git status --porcelain").stdout, "", "{thread}");
        assert!(index() == before, "git had nothing to note in the index of {thread}");
        let built = checkout.with_toolchain(&fork.join("hello"), BUILD);
        assert!(
            built.stdout.ends_with("hello\n") && !built.stdout.contains("Compiling"),
            "{thread}: {built:?}"
        );
    }
}

impl Checkout {
    /// Runs a script that needs the Rust toolchain, which may live in the home of whoever runs the tests.
    fn with_toolchain(&self, directory: &Path, script: &str) -> Outcome {
        let mut command = self.sandbox.program("sh");
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        for (name, default) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
            command.env(name, std::env::var_os(name).unwrap_or_else(|| home.join(default).into()));
        }
        finish(command.args(["-ec", script]).current_dir(directory)).ok()
    }
}

#[test]
fn tar_extracts_into_a_mount_what_it_packed_on_the_host() {
    let checkout = Checkout::mounted();
    let repo = checkout.sandbox.repo();
    // With what archives can hold: links, holes, odd modes and names, old times.
    checkout.sh(
        &repo,
        "mkdir -p odd/empty; ln crates/store/Cargo.toml odd/hard; mkfifo odd/fifo; truncate -s 8M odd/sparse; \
         printf x | dd of=odd/sparse bs=1 seek=5000000 conv=notrunc 2>/dev/null; touch -d @1.5 odd/empty; \
         printf 1 > \"$(printf 'odd/na\\377me')\"; chmod 4711 odd/sparse; setfattr -n user.x -v 1 odd/sparse; \
         tar --sparse --xattrs -cf ../odd.tar --exclude .selvedge .",
    );
    checkout.sh(&checkout.b(), "mkdir from-tar; tar --xattrs -xpf ../odd.tar -C from-tar");
    let inside = checkout.b().join("from-tar");
    let difference =
        format!("rsync -aHAXnic --delete --exclude .selvedge {}/ {}/", repo.display(), inside.display());
    assert_eq!(checkout.sh(checkout.sandbox.root(), &difference).stdout, "");
    let blocks = fs::metadata(inside.join("odd/sparse")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "holes are kept: {blocks} blocks");
    checkout.sh(&inside, "git status --porcelain && git fsck --no-progress");
    assert!(!checkout.a().join("from-tar").exists());
    checkout.assert_export_agrees("b");
}

#[test]
fn rsync_copies_into_a_mount_and_agrees_afterwards() {
    let checkout = Checkout::mounted();
    let (a, repo) = (checkout.a(), checkout.sandbox.repo());
    checkout.sh(
        &repo,
        "echo more >> crates/store/Cargo.toml; rm crates/view/Cargo.toml; mkdir fresh; echo f > fresh/f",
    );
    let copy = format!("rsync -aHAX --delete --exclude .selvedge {}/ {}/", repo.display(), a.display());
    checkout.sh(checkout.sandbox.root(), &copy);
    assert_eq!(checkout.sh(checkout.sandbox.root(), &copy.replace("-aHAX", "-aHAXnic")).stdout, "");
    // A second run over a tree that agrees transfers nothing, by sizes and times alone.
    assert_eq!(checkout.sh(checkout.sandbox.root(), &copy.replace("-aHAX", "-aHAXni")).stdout, "");
    assert!(checkout.b().join("crates/view/Cargo.toml").exists());
    checkout.assert_export_agrees("a");
}

#[test]
fn editors_that_save_by_rename_keep_every_file_whole() {
    let checkout = Checkout::mounted();
    let (a, b) = (checkout.a(), checkout.b());
    let before = fs::read_to_string(b.join("crates/store/Cargo.toml")).unwrap();
    // sed and perl write a new file and rename it over the old one; perl keeps a backup as vim does.
    checkout.sh(&a, "sed -i 's/store/STORE/g' crates/store/Cargo.toml; perl -pi.bak -e 's/STORE/Store/g' crates/store/Cargo.toml");
    assert_eq!(
        fs::read_to_string(a.join("crates/store/Cargo.toml")).unwrap(),
        before.replace("store", "Store")
    );
    assert_eq!(
        fs::read_to_string(a.join("crates/store/Cargo.toml.bak")).unwrap(),
        before.replace("store", "STORE")
    );
    assert_eq!(fs::read_to_string(b.join("crates/store/Cargo.toml")).unwrap(), before);
    // As emacs, vim and most others save: write beside it, sync, rename over; while somebody reads.
    let place = a.join("crates/view/Cargo.toml");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                let beside = a.join("crates/view/.Cargo.toml.tmp");
                let file = fs::File::create(&beside).unwrap();
                std::io::Write::write_all(&mut &file, format!("{round}\n").repeat(500).as_bytes()).unwrap();
                file.sync_all().unwrap();
                fs::rename(&beside, &place).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let first = fs::read_to_string(&place).unwrap();
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let seen = fs::read_to_string(&place).unwrap();
            let line = seen.lines().next().unwrap_or_default();
            assert!(seen == first || seen == format!("{line}\n").repeat(500), "half a file: {seen:?}");
        }
    });
    assert_eq!(fs::read_to_string(&place).unwrap(), "199\n".repeat(500));
    checkout.assert_export_agrees("a");
}

#[test]
fn everything_is_there_after_a_remount() {
    let checkout = Checkout::mounted();
    checkout.sh(
        &checkout.a(),
        "git rm -rq crates/store; git commit -qm gone; ln .gitignore again; mkdir -p x/y; mv crates x/y/",
    );
    checkout
        .sh(&checkout.a(), "find . -printf '%p %y %m %i %n %s %T@ %C@ %l\\n' | LC_ALL=C sort > ../before");
    let Checkout { sandbox, _mounts: [a, b] } = checkout;
    a.stop(Signal::TERM).ok();
    let checkout = Checkout { _mounts: [sandbox.mount("a", "a"), b], sandbox };
    checkout.sh(
        &checkout.a(),
        "find . -printf '%p %y %m %i %n %s %T@ %C@ %l\\n' | LC_ALL=C sort | diff - ../before",
    );
    assert_eq!(checkout.sh(&checkout.a(), "git log --format=%s").stdout, "gone\nfirst\n");
    checkout.assert_export_agrees("a");
}
