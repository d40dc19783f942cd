//! Table `sessions`: one row a login, however often it refreshes.

use crate::clock::UnixTime;

use super::{Db, StoreError, on_read};

const ENDED: &str = "SELECT sid FROM sessions WHERE revoked_at >= $1";

impl Db {
    /// The ids of the sessions that were ended at this time or later, in no order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ended_sessions(&self, since: UnixTime) -> Result<Vec<String>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(ENDED)
            .bind(since.0)
            .fetch_all(pool)
            .await)?)
    }
}
