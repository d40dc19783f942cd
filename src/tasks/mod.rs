//! What a server does beside its requests, and besides rotation.

pub mod heartbeat;
pub mod housekeeping;
