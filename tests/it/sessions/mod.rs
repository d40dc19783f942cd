//! Sessions on a real database: begun, refreshed without races, and ended for good.

mod connections;
mod crash;
mod grant;
mod kills;
mod login_sessions;
mod prune;
mod races;
mod refresh;
mod schedules;
mod theft;
pub mod world;
