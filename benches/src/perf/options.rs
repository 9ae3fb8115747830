//! What is to be measured.

use std::path::PathBuf;

use clap::Parser;

use super::subject::Subject;

/// Measures Selvedge beside the host's directory, bindfs, fuse-overlayfs and the kernel's overlayfs. Needs root.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Only rows whose names contain one of these.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<String>,
    /// How often each row is measured, for each subject.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Only these subjects.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub subjects: Vec<Subject>,
    /// Everything a tenth as large: for trying out.
    #[arg(long)]
    pub quick: bool,
    /// Also measure the memory of a worker after a walk of a million files.
    #[arg(long)]
    pub million: bool,
    /// Where to work: an existing directory on a disk with room for the image.
    #[arg(long)]
    pub dir: PathBuf,
    /// The size of the image, of which the disk holds what is used.
    #[arg(long, default_value_t = 24)]
    pub image_gib: u64,
    /// Where to write all figures.
    #[arg(long, default_value = "summary.json")]
    pub summary: PathBuf,
    /// A document that has a generated section for the tables.
    #[arg(long)]
    pub document: Option<PathBuf>,
}

impl Options {
    /// Whether the row is to be reported.
    pub fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|part| row.contains(part.as_str()))
    }

    /// The subjects, in the order of the table.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        if self.subjects.is_empty() {
            return Subject::ALL.to_vec();
        }
        let mut wanted = self.subjects.clone();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// So many, or a tenth of it.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(10) } else { count }
    }
}
