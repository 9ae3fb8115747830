//! The set-user-id program of the FUSE package, `fusermount3` or `fusermount`.
