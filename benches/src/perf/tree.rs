//! Trees and contents, the same at every run.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Words that text is made of.
const WORDS: [&str; 16] = [
    "thread", "layer", "warp", "weft", "loom", "shuttle", "heddle", "reed", "yarn", "bobbin", "spindle",
    "felt", "twill", "satin", "tuft", "pile",
];

/// Numbers that look random and are the same for the same seed (xorshift64).
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Lines of words, one to four KiB of them.
pub(crate) fn text(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let length = 1000 + usize::try_from(numbers.below(3000)).unwrap_or(0);
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        let word = WORDS[usize::try_from(numbers.below(WORDS.len() as u64)).unwrap_or(0)];
        text.extend_from_slice(word.as_bytes());
        text.push(if numbers.below(8) == 0 { b'\n' } else { b' ' });
    }
    text
}

/// The block number `at` of a large file: no two are alike, and none can be compressed.
pub(crate) fn block(at: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(at + 1);
    let mut block = Vec::with_capacity(length + 8);
    while block.len() < length {
        block.extend_from_slice(&numbers.next().to_le_bytes());
    }
    block.truncate(length);
    block
}

/// Writes a file of so many blocks.
pub(crate) fn write_blocks(file: &File, blocks: u64, length: usize) -> Result<()> {
    for at in 0..blocks {
        file.write_all_at(&block(at, length), at * length as u64)?;
    }
    Ok(())
}

/// Compares a file with what [`write_blocks`] writes.
pub(crate) fn check_blocks(path: &Path, blocks: u64, length: usize) -> Result<()> {
    let mut file = File::open(path)?;
    let mut read = vec![0; length];
    for at in 0..blocks {
        file.read_exact(&mut read)?;
        ensure!(read == block(at, length), "{} differs in block {at}", path.display());
    }
    ensure!(file.read(&mut read)? == 0, "{} is too long", path.display());
    Ok(())
}

/// The path of the small file number `number` in a tree.
pub(crate) fn small_path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("d{}/f{number}", number / 100))
}

/// So many small files, a hundred to a directory.
pub(crate) fn small_files(root: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        if number % 100 == 0 {
            fs::create_dir_all(root.join(format!("d{}", number / 100)))?;
        }
        File::create_new(small_path(root, number))?.write_all(&text(number as u64))?;
    }
    Ok(())
}

/// Compares small files with what [`small_files`] writes.
pub(crate) fn check_small_files(root: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let path = small_path(root, number);
        ensure!(fs::read(&path)? == text(number as u64), "{} differs", path.display());
    }
    Ok(())
}

/// Lists every directory and asks for the attributes of every entry; tells how many there are.
pub(crate) fn walk(root: &Path) -> Result<usize> {
    let mut directories = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            seen += 1;
            if entry.metadata()?.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(seen)
}
