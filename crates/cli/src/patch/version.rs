//! One version of a file, as git would keep it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use selvedge_store::compare::{Body, Item, Side};
use selvedge_store::export::FileReader;
use sha1::{Digest, Sha1};

use super::has_bytes;
use crate::error::{CliError, Result};
use crate::sorting::from_source;
use crate::ui::show_os;

/// Larger files are not compared line by line: both versions, their lines and the work of comparing are in memory.
const TEXT_LIMIT: u64 = 64 << 20;

/// How much is read at a time.
const BUFFER: usize = 256 * 1024;

/// A NUL among the first bytes makes a file binary: this many are looked at.
const PROBE: usize = 8000;

/// One version of a file; of no file at all, if it has no mode.
#[derive(Debug)]
pub struct Version {
    /// Type and permissions in git's form.
    pub mode: Option<u32>,
    /// The id that git gives these bytes: 40 hexadecimal digits, zeros for no file.
    pub id: String,
    /// How many bytes it has.
    pub size: u64,
    pub(super) content: Content,
}

/// What a patch shows of a version.
#[derive(Debug)]
pub(super) enum Content {
    Text(Vec<u8>),
    Binary,
    TooLarge,
}

impl Version {
    /// The version of a file that is not there.
    pub fn none() -> Self {
        Self { mode: None, id: "0".repeat(40), size: 0, content: Content::Text(Vec::new()) }
    }

    /// Reads the version that `side` has at `path`.
    pub fn load(side: &dyn Side, path: &[u8], item: &Item) -> Result<Self> {
        let mode = Some(mode(item));
        if let Body::Symlink { target } = &item.body {
            return Ok(Self::of(mode, target.clone()));
        }
        if !has_bytes(item) {
            return Ok(Self::of(mode, Vec::new()));
        }
        let tried = || format!("cannot read {}", show_os(OsStr::from_bytes(path)));
        // What is gone by now is shown as empty.
        let Some(file) = side.open(item).map_err(|error| from_source(error).context(tried()))? else {
            return Ok(Self::of(mode, Vec::new()));
        };
        let read = if file.size() <= TEXT_LIMIT {
            read_all(&*file).map(|bytes| Self::of(mode, bytes))
        } else {
            hash(&*file).map(|id| Self { mode, id, size: file.size(), content: Content::TooLarge })
        };
        read.map_err(|error| CliError::io(tried(), &error))
    }

    fn of(mode: Option<u32>, bytes: Vec<u8>) -> Self {
        let mut hasher = hasher(bytes.len() as u64);
        hasher.update(&bytes);
        let (id, size) = (hex(hasher), bytes.len() as u64);
        let binary = bytes.iter().take(PROBE).any(|&byte| byte == 0);
        Self { mode, id, size, content: if binary { Content::Binary } else { Content::Text(bytes) } }
    }
}

/// A file's type and permissions as git keeps them: of those only whether its owner may execute it. Files of kinds
/// that git does not keep show what they have.
pub(super) const fn mode(item: &Item) -> u32 {
    match item.body {
        Body::Regular { .. } if item.mode & 0o100 != 0 => 0o100_755,
        Body::Regular { .. } => 0o100_644,
        Body::Symlink { .. } => 0o120_000,
        Body::Directory { .. } => 0o040_000,
        Body::Fifo => 0o010_000 | item.mode,
        Body::Socket => 0o140_000 | item.mode,
        Body::CharDevice { .. } => 0o020_000 | item.mode,
        Body::BlockDevice { .. } => 0o060_000 | item.mode,
    }
}

fn read_all(file: &dyn FileReader) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for_each_piece(file, |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

fn hash(file: &dyn FileReader) -> std::io::Result<String> {
    let mut hasher = hasher(file.size());
    for_each_piece(file, |piece| hasher.update(piece))?;
    Ok(hex(hasher))
}

/// Reads at most as much as the file had when it was opened: a live one may grow meanwhile.
fn for_each_piece(file: &dyn FileReader, mut use_piece: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < file.size() {
        let piece = usize::try_from(file.size() - at).unwrap_or(BUFFER).min(BUFFER);
        match file.read_at(&mut buffer[..piece], at) {
            Ok(0) => break,
            Ok(read) => {
                use_piece(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn hasher(size: u64) -> Sha1 {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {size}\0"));
    hasher
}

fn hex(hasher: Sha1) -> String {
    hasher.finalize().iter().fold(String::with_capacity(40), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_id_that_git_gives_them() {
        assert_eq!(Version::of(None, Vec::new()).id, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(Version::of(None, b"content\n".to_vec()).id, "d95f3ad14dee633a758d2e331151e950dd13e4ed");
    }
}
