//! The rows, by the tree they are measured on.

mod commits;
mod data;
mod large;
mod memory;
mod names;
mod programs;
mod small;

use super::options::Options;
use super::scene::Scene;

/// All scenes.
pub(crate) fn all(options: &Options) -> Vec<Scene> {
    let mut scenes = vec![
        data::scene(options),
        names::scene(options),
        small::scene(options),
        programs::scene(options),
        large::scene(options),
        large::used_much(options),
        commits::scene(options),
        memory::scene("memory", "memory after a walk of 10⁵ files", options.scaled(100_000), 64 << 20),
    ];
    if options.million {
        scenes.push(memory::scene(
            "memory of a million",
            "memory after a walk of 10⁶ files",
            options.scaled(1_000_000),
            200 << 20,
        ));
    }
    scenes
}
