//! The name of a change: 128 random bits that the database draws. A counter would repeat on a database that lost its last seconds,
//! as after a failover to an asynchronous standby; a random name does not.

use std::fmt;

use super::StoreError;

/// The last change of a table. What was read under one name holds as long as the database answers with that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeId(u128);

impl ChangeId {
    pub(super) fn read(table: &'static str, text: &str) -> Result<Self, StoreError> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| StoreError::Corrupt {
                table,
                row: text.to_owned(),
                reason: "its change_id".to_owned(),
            })
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
