//! The endpoints of the admin listener.

pub mod health;
