//! Objects on a disk.

/// Objects in a repository: small ones in one SQLite database that several processes may open,
/// large blobs as plain read-only files.
#[derive(Debug)]
pub struct LocalBackend;
