//! Patches and statistics are what git prints for the same trees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use selvedge_cli::patch::{Stat, pieces};
use selvedge_store::Repository;
use selvedge_store::compare::{Options, SnapshotSide, compare};
use selvedge_store::import::{ImportOptions, import};

/// Names that occur in nothing else, so that they can be taken out of what git prints.
const OLD: &str = "OLD-TREE-OF-THE-TEST";
const NEW: &str = "NEW-TREE-OF-THE-TEST";

/// Two trees to compare.
struct Trees {
    dir: tempfile::TempDir,
}

impl Trees {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in [OLD, NEW, "home"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, tree: &str, name: impl AsRef<OsStr>) -> PathBuf {
        self.dir.path().join(tree).join(Path::new(name.as_ref()))
    }

    fn write(&self, tree: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(tree, name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn both(&self, name: &str, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) {
        self.write(OLD, name, old);
        self.write(NEW, name, new);
    }

    /// What git prints, as if both trees were at one place.
    fn git(&self, option: &str) -> String {
        let mut git = Command::new("git");
        git.current_dir(self.dir.path()).args([
            "diff",
            "--no-index",
            "--no-color",
            "-M100%",
            option,
            OLD,
            NEW,
        ]);
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("GIT_DIR");
        let output = git.output().unwrap();
        assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        for tree in [OLD, NEW] {
            for before in ["a/", "b/", "from ", "to ", "\""] {
                text = text.replace(&format!("{before}{tree}/"), before);
            }
        }
        text
    }

    /// What git prints as statistics of the trees as it keeps them; without an index its names hold the trees' own.
    fn git_statistics(&self) -> String {
        let git = |work_tree: &str, words: &[&str]| {
            let mut git = Command::new("git");
            git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
            git.env("GIT_DIR", self.dir.path().join("git"))
                .env("GIT_WORK_TREE", self.dir.path().join(work_tree));
            let output = git.args(words).current_dir(self.dir.path().join(work_tree)).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        git(OLD, &["init", "--quiet"]);
        let tree = |name| {
            git(name, &["add", "--all"]);
            git(name, &["write-tree"]).trim().to_owned()
        };
        git(OLD, &["diff", "--stat=80", "-M100%", &tree(OLD), &tree(NEW)])
    }

    /// What is printed here: the patch and the statistics.
    fn ours(&self) -> (String, String) {
        let repository = Repository::init(&self.dir.path().join("home")).unwrap().0;
        let exclude = globset::GlobSet::empty();
        let side = |tree: &str| {
            let source = self.dir.path().join(tree);
            let options = ImportOptions { source: &source, exclude: &exclude, message: b"", previous: None };
            let snapshot = import(&repository, &options, &|_| ()).unwrap().snapshot;
            SnapshotSide::new(repository.store().clone(), &snapshot).unwrap()
        };
        let (old, new) = (side(OLD), side(NEW));
        let changes = compare(&old, &new, &Options::default()).unwrap();
        let (mut patch, mut stat) = (Vec::new(), Stat::default());
        for piece in pieces(&changes) {
            let (before, after) = piece.load(&old, &new).unwrap();
            piece.write(&before, &after, &mut patch);
            stat.add(&piece, &before, &after);
        }
        (String::from_utf8_lossy(&patch).into_owned(), stat.text())
    }

    #[track_caller]
    fn assert_same_statistics(&self) {
        // Two trees that git keeps are compared in another order than two directories.
        let rows = |text: String| {
            let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
            rows.sort();
            rows.join("\n")
        };
        let (ours, git) = (rows(self.ours().1), rows(self.git_statistics()));
        assert!(ours == git, "=== here\n{ours}\n=== git\n{git}");
    }

    #[track_caller]
    fn assert_same(&self) {
        let (patch, _) = self.ours();
        let git = self.git("--patch");
        if patch != git {
            let at = patch.lines().zip(git.lines()).position(|(ours, theirs)| ours != theirs).unwrap_or(0);
            let around =
                |text: &str| text.lines().skip(at.saturating_sub(25)).take(50).collect::<Vec<_>>().join("\n");
            panic!("line {at}\n=== here\n{}\n=== git\n{}", around(&patch), around(&git));
        }
    }
}

/// A generator of numbers: the same ones in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

/// Numbers, one a line.
fn lines_of(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| format!("{number}\n")).collect::<Vec<_>>().concat()
}

/// Lines of few kinds, so that there are many ways to match them.
fn random_line(random: &mut Random, kinds: usize) -> String {
    const LINES: [&str; 20] = [
        "",
        "}",
        "  foo",
        "    bar();",
        "fn x() {",
        "\tq",
        "a",
        "b",
        "c",
        "  if x {",
        "  }",
        "    }",
        "$d",
        "_e",
        " ",
        "\t\t",
        "long line of text",
        "struct S",
        "z",
        "zz",
    ];
    format!("{}\n", LINES[random.below(kinds) % LINES.len()])
}

fn random_pair(random: &mut Random) -> (String, String) {
    let kinds = 2 + random.below(19);
    let len = random.below(80);
    let old: Vec<String> = (0..len).map(|_| random_line(random, kinds)).collect();
    let mut new = old.clone();
    for _ in 0..random.below(14) {
        let at = random.below(new.len() + 1);
        match random.below(3) {
            0 => new.insert(at, random_line(random, kinds)),
            1 if at < new.len() => drop(new.remove(at)),
            _ if at < new.len() => new[at] = String::from("new\n"),
            _ => {}
        }
    }
    let end = |random: &mut Random, lines: Vec<String>| {
        let mut text = lines.concat();
        if random.below(5) == 0 {
            text.pop();
        }
        text
    };
    (end(random, old), end(random, new))
}

/// Pieces of a real text added, removed, replaced and moved.
fn edited(random: &mut Random, text: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut new = lines.clone();
    for _ in 0..=random.below(30) {
        let (at, len) = (random.below(new.len() + 1), 1 + random.below(8));
        let until = (at + len).min(new.len());
        match random.below(4) {
            0 => {
                let from = random.below(lines.len());
                let copied: Vec<&str> = lines[from..(from + len).min(lines.len())].to_vec();
                new.splice(at..at, copied);
            }
            1 => drop(new.drain(at..until)),
            2 if at < new.len() => new[at] = "    new line;\n",
            _ => {
                let moved: Vec<&str> = new.drain(at..until).collect();
                let to = random.below(new.len() + 1);
                new.splice(to..to, moved);
            }
        }
    }
    new.concat()
}

fn sources() -> Vec<String> {
    let mut texts = Vec::new();
    let mut directories = vec![fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                texts.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    texts.retain(|text| !text.is_empty());
    texts
}

#[test]
fn patches_of_random_texts_are_gits() {
    let trees = Trees::new();
    let mut random = Random(0x5eed_0001);
    for number in 0..600 {
        let (old, new) = random_pair(&mut random);
        trees.both(&format!("{number:04}"), old, new);
    }
    trees.assert_same();
}

#[test]
fn patches_of_edited_sources_are_gits() {
    let trees = Trees::new();
    let mut random = Random(0x5eed_0002);
    for (number, text) in sources().iter().enumerate() {
        trees.both(&format!("{number:04}.rs"), text, edited(&mut random, text));
    }
    trees.assert_same();
}

#[test]
fn patches_of_long_texts_with_little_in_common_are_gits() {
    let trees = Trees::new();
    let mut random = Random(0x5eed_0003);
    let sources = sources();
    for number in 0..4 {
        let mut text = |count: usize| -> String {
            (0..count).map(|_| sources[random.below(sources.len())].as_str()).collect()
        };
        let (old, new) = (text(12), text(12));
        trees.both(&format!("{number}"), old, new);
    }
    // Longer than any search goes on without its short cuts.
    let mut lines = |kinds: usize| -> String { lines_of((0..6000).map(|_| random.below(kinds))) };
    for kinds in [3, 50, 700, 6000] {
        let (old, new) = (lines(kinds), lines(kinds));
        trees.both(&format!("of-{kinds}"), old, new);
    }
    trees.assert_same();
}

#[test]
fn patches_of_every_kind_of_change_are_gits() {
    let trees = Trees::new();
    kinds_of_change(&trees);
    trees.assert_same();
}

fn kinds_of_change(trees: &Trees) {
    trees.write(NEW, "added", "1\n2\n");
    trees.write(NEW, "added-empty", "");
    trees.write(NEW, "added-open-end", "no newline");
    trees.write(OLD, "deleted", "1\n2\n3\n");
    trees.write(OLD, "dir/sub/deleted-too", "4\n");
    trees.write(NEW, "dir/sub.x", "sorted after dir/sub\n");
    trees.both("binary", b"a\0b", b"a\0c");
    trees.write(NEW, "binary-added", b"\0\x01\x02");
    trees.write(OLD, "binary-deleted", b"\0\x03");
    trees.both("binary-to-text", b"\0", "text\n");
    trees.both("same", "same\n", "same\n");
    trees.both("mode", "same\n", "same\n");
    trees.both("mode-and-content", "one\n", "two\n");
    for name in ["mode", "mode-and-content"] {
        fs::set_permissions(trees.path(NEW, name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    trees.write(OLD, "moved/from here", "moved content\nof two lines\n");
    trees.write(NEW, "elsewhere/to there", "moved content\nof two lines\n");
    trees.write(OLD, "x/deep/same-name", "another\nmoved file\n");
    trees.write(NEW, "y/deep/same-name", "another\nmoved file\n");
    trees.both("name with spaces", "1\n", "2\n");
    trees.both("ümlaut", "1\n", "2\n");
    trees.both("tab\tand\nnewline\"quote\\", "1\n", "2\n");
    trees.write(NEW, "quoted\u{1}added", "1\n");
    let odd = OsStr::from_bytes(b"\xff\xfe");
    fs::write(trees.path(OLD, odd), "1\n").unwrap();
    fs::write(trees.path(NEW, odd), "2\n").unwrap();
    symlink("target", trees.path(OLD, "link")).unwrap();
    symlink("other target", trees.path(NEW, "link")).unwrap();
    symlink("new", trees.path(NEW, "link-added")).unwrap();
    symlink("become a file", trees.path(OLD, "type")).unwrap();
    trees.write(NEW, "type", "a file now\n");
    trees.write(OLD, "file-to-dir", "was a file\n");
    trees.write(NEW, "file-to-dir/inner", "is in a directory\n");
    trees.write(OLD, "dir-to-file/inner", "was in a directory\n");
    trees.write(NEW, "dir-to-file", "is a file\n");
    trees.both("crlf", "a\r\nb\r\n", "a\r\nc\r\n");
    trees.both("emptied", "a\nb\n", "");
    trees.both("filled", "", "a\n");
}

#[test]
fn statistics_are_gits() {
    let trees = Trees::new();
    kinds_of_change(&trees);
    let many = |count: usize| lines_of(0..count);
    trees.both("large", many(10), many(400));
    trees.both("small", many(120), many(3));
    trees.both(&format!("{}a-long-name-of-a-file-far-down", "directory/".repeat(9)), many(5), many(7));
    trees.assert_same_statistics();
    let trees = Trees::new();
    trees.both("only-one", "1\n2\n", "1\n");
    trees.assert_same_statistics();
}
