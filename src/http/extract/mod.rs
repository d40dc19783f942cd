//! What handlers read of a request, one kind a file. All of it is bounded, and every refusal names what would be right.

pub mod bearer;
pub mod body;
mod client_assertion;
pub mod client_authentication;
pub mod json;
pub mod members;
