//! What a person's browser is led through to log in at a client (OpenID Connect Core 1.0).

pub mod authorize;
pub mod consent;
pub mod consents;
pub mod login;
pub mod logout;
pub mod register;
mod request;
pub mod userinfo;
