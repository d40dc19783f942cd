//! The endpoints for clients and for whoever verifies tokens.

mod code_grant;
pub(super) mod introspect;
pub(super) mod key_set;
pub(super) mod metadata;
mod presented_token;
mod refresh_grant;
pub(super) mod revoke;
pub(super) mod token;
mod turns;
