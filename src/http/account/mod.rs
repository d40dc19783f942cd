//! Accounts and sessions over HTTP: JSON in, JSON out, refusals with a stable `code`.
//!
//! Two ways to hold a refresh token: browsers in a cookie, apps in the body. A request that uses or sets a cookie passes the guard
//! (origin and CSRF token); one that does neither needs no such token, for no page can send it in somebody's name.

mod consents;
mod cors;
mod csrf;
pub mod delivery;
mod federated;
mod login;
mod logout;
mod me;
mod password;
mod refresh;
pub mod routes;
mod sessions;
mod verify;
