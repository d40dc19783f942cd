//! Logins: whoever comes, and who it is.

pub mod federated;
