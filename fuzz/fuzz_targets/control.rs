//! What commands and the processes that hold mounts say to each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_cli::control::{Reply, Request};
use selvedge_fuzz::message;

fuzz_target!(|data: &[u8]| {
    message::<Request>(data);
    message::<Reply>(data);
});
