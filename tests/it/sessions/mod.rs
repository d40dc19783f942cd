//! Sessions on a real database: begun, refreshed without races, and ended for good.

mod refresh;
mod world;
