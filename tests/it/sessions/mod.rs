//! Sessions on a real database: begun, refreshed without races, and ended for good.

mod crash;
mod grant;
mod races;
mod refresh;
mod theft;
pub mod world;
