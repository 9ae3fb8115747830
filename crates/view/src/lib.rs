//! One thread's working tree as nodes and operations: a base snapshot, frozen layers and an upper, merged top
//! down. It knows no FUSE; whoever serves a kernel, a test or an export calls the methods of [`View`].
//!
//! # Where things are
//!
//! - [`View`]'s operations: `names`, `attributes`, `contents`, `directories`.
//! - What they stand on: `state` (shared), `change` (one mutation in the making), `tables` (all catalogs as one),
//!   `open_table` (handles), `passthrough` (those that lead past the view), `inherit` (those of a worker that died).
//! - The disk: `catalog` (a layer's metadata: `journal`, `pending`, `database`, `bring_in`), `working_files` (its bytes), `patched` and `coverage`
//!   (those of large files that changed in part; `whole`: until that costs too much), `base` (the snapshot), `log_sync`.
//! - Time and trouble: `upkeep`, `background` (other threads of a view), `recovery`, `latch`, `clock`, [`crash`].

mod acl;
mod attr;
mod attributes;
mod background;
mod base;
mod body_codec;
mod bring_in;
mod build;
mod carry;
mod catalog;
mod change;
mod changed;
mod check;
mod claim;
mod clock;
mod collapse;
mod commit;
mod contents;
mod coverage;
pub mod crash;
mod database;
mod dir_stream;
mod directories;
mod error;
mod freeze;
mod held;
mod inherit;
mod inode;
mod journal;
mod known_names;
mod latch;
mod layers;
mod links;
mod listings;
mod log_sync;
mod merge;
mod names;
mod old_rows;
mod open_flags;
mod open_table;
mod parents;
mod passthrough;
mod patched;
mod pending;
mod recent;
mod record;
mod recovery;
mod request;
mod reserve;
mod rows;
mod side;
mod snapshot;
mod source;
mod space;
mod state;
#[expect(
    unsafe_code,
    reason = "what SQLite knows of the host's error numbers, leases, and shared memory; argued there"
)]
mod sys;
mod tables;
mod told_times;
mod upkeep;
mod view;
mod volatile;
mod whole;
mod working_files;

pub use attr::{
    AclKind, Allocate, Attr, DirEntry, RenameMode, SeekTo, SetAttr, SetId, SetTime, StatFs, XattrMode,
};
pub use changed::Changed;
pub use check::{check_layers, objects_of_layer};
pub use database::FORMAT as CATALOG_FORMAT;
pub use error::{Result, ViewError};
pub use inherit::Opened;
pub use layers::{remove_layers, remove_unneeded_layers};
pub use open_flags::OpenFlags;
pub use parents::FORMAT as PARENTS_FORMAT;
pub use passthrough::{HostFile, LastPassed, OpenedFile};
pub use patched::Patching;
pub use request::{Handle, Request, RequestKey, Via};
pub use side::{FileBytes, PatchedBytes, ViewSide};
pub use snapshot::SnapshotReport;
pub use sys::Words;
pub use view::{View, ViewOptions};
