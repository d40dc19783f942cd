//! Accounts and sessions over HTTP, from the outside.

mod bearer;
pub mod browser;
mod cookies;
mod examples;
mod failures;
mod forms;
mod gateway;
mod origins;
mod reading;
mod registration;
mod token_types;
pub mod visitor;
pub mod web_driver;
