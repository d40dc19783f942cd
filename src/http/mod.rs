//! The endpoints, one file each: [`account`] for people, [`oauth`] for clients, [`oidc`] for people on their way to a
//! client, with the [`pages`] that they see, [`operations`] for whoever runs the server. [`extract`] reads
//! requests, [`routes`] is the table of paths, and [`state`] what all handlers work with.

pub mod account;
pub mod client_address;
pub mod codes;
pub mod connections;
pub mod cookies;
pub mod database_probe;
mod endpoints;
pub mod extract;
mod framing;
pub mod guard;
mod headers;
pub mod listener;
pub mod oauth;
pub mod observation;
pub mod oidc;
pub mod operations;
pub mod pages;
mod parser_refusal;
pub mod problem;
pub mod root;
pub mod routes;
pub mod state;
pub mod stream;
