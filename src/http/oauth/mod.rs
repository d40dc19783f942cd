//! The endpoints for clients and for whoever verifies tokens.

pub mod introspect;
pub mod key_set;
pub mod metadata;
pub mod refresh_grant;
pub mod revoke;
pub mod token;
mod turns;
