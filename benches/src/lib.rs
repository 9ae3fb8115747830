//! What the measurements share: a live worker, a place to run, figures.

mod figures;
mod live;
mod placement;
mod programs;

pub use figures::Figures;
pub use live::{Live, Wire};
pub use placement::Placement;
pub use programs::{built, run};
