//! People and their sessions: the rules, pure where they can be. No clock, no database, nothing that waits.

pub mod client_address;
pub mod csrf;
mod domain;
pub mod email;
pub mod federation;
pub mod limits;
pub mod node_limits;
pub mod password;
pub mod password_hash;
pub mod refresh;
pub mod refresh_token;
pub mod session;
pub mod settings;
pub mod tenant;
pub mod user;
pub mod visible;
