//! The versions of everything that a worker leaves for another one.

use selvedge_worker_proto::PROTOCOL_VERSION;

use crate::session_state;

/// Each format that a worker's successor has to share, by name, with its version.
pub fn formats() -> [(&'static str, u32); 5] {
    [
        ("catalog", selvedge_view::CATALOG_FORMAT),
        ("places", selvedge_view::PARENTS_FORMAT),
        ("repository", selvedge_store::FORMAT_VERSION),
        ("session_state", session_state::FORMAT),
        ("worker_protocol", PROTOCOL_VERSION),
    ]
}
