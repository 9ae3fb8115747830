//! Snapshots as objects: what is accepted is the one encoding of what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_fuzz::bounded;
use selvedge_store::Snapshot;

fuzz_target!(|data: &[u8]| {
    // Names and values of attributes are kept apart, which costs more than the shortest of them.
    let Ok(snapshot) = bounded(64 * data.len() + 4096, || Snapshot::decode(data)) else { return };
    assert_eq!(snapshot.encode().expect("what was read can be written"), data);
});
