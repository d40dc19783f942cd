//! The endpoints: one file each, the route table on one screen, one table from errors to answers.

pub mod auth;
pub mod body;
pub mod client_address;
mod client_assertion;
pub mod client_authentication;
pub mod connections;
pub mod database_probe;
mod endpoints;
pub mod error;
mod framing;
pub mod guard;
pub mod health;
pub mod introspect;
pub mod key_set;
pub mod listener;
pub mod metadata;
pub mod observation;
mod parser_refusal;
pub mod refresh_grant;
pub mod revoke;
pub mod root;
pub mod routes;
pub mod state;
pub mod stream;
pub mod token;
mod turns;
