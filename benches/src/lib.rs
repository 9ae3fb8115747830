//! What the measurements share: a live worker, a place to run, figures.

mod figures;
mod live;
mod placement;

pub use figures::Figures;
pub use live::{Live, Wire};
pub use placement::Placement;
