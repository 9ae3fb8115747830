//! Which paths count, and their order.

use std::cmp::Ordering;

/// The order of a walk that visits names in the order of their bytes, and what is in a directory right after it.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    // A slash ends a name, so it comes before every byte that could go on with it. No name has NUL.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Limits a comparison to some paths and what is beneath them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathFilter {
    /// Without empty, `.` and `..` names. None at all: everything counts.
    paths: Vec<Vec<u8>>,
}

impl PathFilter {
    /// Lets those paths count, relative to the root and without `.` and `..`; all of them if there are none.
    pub fn new(paths: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let paths: Vec<Vec<u8>> = paths.into_iter().collect();
        // The root's path is empty, and everything is beneath it.
        if paths.iter().any(Vec::is_empty) { Self::default() } else { Self { paths } }
    }

    /// Whether `path` counts.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| is_at_or_beneath(path, wanted))
    }

    /// Whether anything that counts may be beneath the directory `path`.
    pub fn leads(&self, path: &[u8]) -> bool {
        self.covers(path) || self.paths.iter().any(|wanted| is_at_or_beneath(wanted, path))
    }
}

fn is_at_or_beneath(path: &[u8], top: &[u8]) -> bool {
    match path.strip_prefix(top) {
        Some(rest) => top.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_directory_follows_it_at_once() {
        let mut paths: [&[u8]; 6] = [b"a.b", b"a/x", b"a", b"a/x/y", b"", b"a/x-"];
        paths.sort_by(|a, b| path_order(a, b));
        assert_eq!(paths, [&b""[..], b"a", b"a/x", b"a/x/y", b"a/x-", b"a.b"]);
    }

    #[test]
    fn a_path_counts_with_what_is_beneath_it_and_its_parents_lead_there() {
        let filter = PathFilter::new([b"dir/sub".to_vec()]);
        let tell = |path: &str| (filter.covers(path.as_bytes()), filter.leads(path.as_bytes()));
        assert_eq!(tell(""), (false, true));
        assert_eq!(tell("dir"), (false, true));
        assert_eq!(tell("dir/sub"), (true, true));
        assert_eq!(tell("dir/sub/x"), (true, true));
        assert_eq!(tell("dir/subway"), (false, false));
        assert_eq!(tell("other"), (false, false));
        assert!(PathFilter::new([Vec::new()]).covers(b"anything"));
    }
}
