//! What the measurements share: a live worker, a place to run, figures.

mod figures;
mod large_tree;
mod live;
pub mod perf;
mod placement;
mod programs;
mod threads;

pub use figures::Figures;
pub use large_tree::LargeTree;
pub use live::{Live, Wire};
pub use placement::Placement;
pub use programs::{built, resident, run};
pub use threads::Threads;
