//! Keyround: an identity server whose signing keys rotate themselves.
//!
//! The promise: no valid token is ever refused because a key changed, and no revoked key is trusted longer than we said.
//!
//! # The map, in the order of who may import whom
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | the types of time, and the only code that reads it |
//! | [`supervision`] | tasks that run as long as the server |
//! | [`text`] | the encodings of text files |
//! | [`files`] | files that appear whole or not at all |
//! | [`values`] | what a person writes, parsed: lengths of time, issuers, origins, networks, secrets, addresses of databases |
//! | [`crypto`] | our own secrets: what seals them, keyed hashes with all their purposes, random values |
//! | [`jose`] | the standards: algorithms, keys, tokens |
//! | [`keys`] | the core: a key's life as pure functions of (keys, policy, now) |
//! | [`accounts`] | people and their sessions: the rules |
//! | [`events`] | what is audited: events by name, and their entries |
//! | [`config`] | what was written, then what was validated |
//! | [`telemetry`] | logs and metrics |
//! | [`oauth`] | the protocol's rules: clients, scopes, grants, metadata, refusals |
//! | [`store`] | the only SQL, one file a table, one text for SQLite and PostgreSQL |
//! | [`outbound`] | the one HTTP client, and what clients publish |
//! | [`registry`] | the clients as last read |
//! | [`keyring`] | the shared snapshot that requests sign and publish with |
//! | [`rotation`] | the scheduled task |
//! | [`hashing`] | password hashing off the workers, behind a bounded queue |
//! | [`sessions`] | the logins of people: begun, refreshed, ended |
//! | [`logins`] | who proves to be somebody, by a password or by another provider |
//! | [`tls`] | TLS of the public listener, and its certificate when it changes |
//! | [`http`] | the endpoints, one file each |
//! | [`app`] | the composition root |
//! | [`cli`] | the command line, one file a command group |
//!
//! A module imports only from modules above it; a test holds that. `actix_web` is named in [`http`] and [`app`] alone,
//! `sqlx` in [`store`], `reqwest` in [`outbound`], `openssl` in [`crypto`], [`jose`] and [`tls`], and `josekit`, `rsa` and `p256` in [`jose`].

pub mod accounts;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod events;
pub mod files;
pub mod hashing;
pub mod http;
pub mod jose;
pub mod keyring;
pub mod keys;
pub mod logins;
pub mod oauth;
pub mod outbound;
pub mod registry;
pub mod rotation;
pub mod sessions;
pub mod store;
pub mod supervision;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod values;
