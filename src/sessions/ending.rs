//! The end of sessions before their time, by whoever may: committed first, and then known at once on this node.

use crate::accounts::session::EndedBy;
use crate::accounts::user::UserId;
use crate::events::{Entry, Event};
use crate::oauth::client::ClientId;
use crate::store::StoreError;
use crate::store::sessions::{ENDED_AT_ONCE, Ending, SessionEnd};
use crate::values::SessionId;

use super::Sessions;

impl Sessions {
    /// Ends the session of a refresh token of this client, whatever its generation (RFC 7009 section 2.1); what is no token of this
    /// client changes nothing. Answers with the session when there was one that had not ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_by_token(
        &self,
        token: &str,
        client_id: &str,
        by: EndedBy,
    ) -> Result<Option<SessionId>, StoreError> {
        let Ok(token) = self.open(token) else {
            return Ok(None);
        };
        let ended = match self.db.family(token.sid, self.now()).await? {
            Some((family, _)) if family.session.client_id == client_id => {
                self.end_own(token.sid, family.session.user, by).await?
            }
            None if self.may_be_lost(token.sid) && self.client.id.as_str() == client_id => {
                self.end_proven(token.sid, None, by, "the holder of its refresh token")
                    .await?
            }
            _ => return Ok(None),
        };
        Ok(ended.then_some(token.sid))
    }

    /// Whether the row of a session that began is gone before its time, as after a failover to a standby without the last seconds.
    fn may_be_lost(&self, sid: SessionId) -> bool {
        sid.created_at() + self.settings.absolute > self.now()
    }

    /// Ends a session by its own user, whose it is for certain: an access token says so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_own(&self, sid: SessionId, user: UserId, by: EndedBy) -> Result<bool, StoreError> {
        self.end_proven(sid, Some(user), by, &format!("user {user}")).await
    }

    /// Ends a session that a token of ours names, also if the database has lost it.
    async fn end_proven(
        &self,
        sid: SessionId,
        of: Option<UserId>,
        by: EndedBy,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let ending = Ending {
            sid,
            of,
            by,
            is_proven: true,
        };
        self.end_one(&ending, actor).await
    }

    /// Ends a session, of this user when one is given; false when there is none that has not ended. From its return on this node
    /// accepts nothing of it, and the others within `keys.replica_refresh`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end(&self, sid: SessionId, of: Option<UserId>, by: EndedBy, actor: &str) -> Result<bool, StoreError> {
        let ending = Ending {
            sid,
            of,
            by,
            is_proven: false,
        };
        self.end_one(&ending, actor).await
    }

    async fn end_one(&self, ending: &Ending, actor: &str) -> Result<bool, StoreError> {
        let entry = self.entry(Event::SessionEnded, ending.sid, actor, ending.by.name());
        self.commit_end(ending, &entry).await
    }

    /// Ends a session and notes this entry; false if it has ended already. Also an earlier end is made known to this node: the call that
    /// ended it a moment ago may have got no answer.
    pub(super) async fn commit_end(&self, ending: &Ending, entry: &Entry) -> Result<bool, StoreError> {
        let end = self.db.end_session(ending, entry).await?;
        match end {
            SessionEnd::New => self.have_ended(&[ending.sid], ending.by),
            SessionEnd::Earlier { at, expires_at } => self.keyring.session_had_ended(ending.sid, at, expires_at),
            SessionEnd::Absent => {}
        }
        Ok(end == SessionEnd::New)
    }

    /// Takes back what a person has allowed a client, and ends what the client was granted; false if it was allowed nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn withdraw_consent(&self, user: UserId, client: &ClientId) -> Result<bool, StoreError> {
        let actor = format!("user {user}");
        let entry = self.entry_about(client.to_string(), Event::ConsentWithdrawn, &actor, &actor);
        let Some(ended) = self.db.withdraw_consent(user, client, &entry).await? else {
            return Ok(false);
        };
        self.have_ended(&ended, EndedBy::Logout);
        tracing::info!(client.id = %client, user.id = %user, sessions = ended.len(), "a consent was withdrawn");
        Ok(true)
    }

    /// Ends every session of a user, but this one when one is given; answers with those that had not ended. Each transaction ends a
    /// few, and when one fails those before it hold.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_all(
        &self,
        user: UserId,
        except: Option<SessionId>,
        by: EndedBy,
        actor: &str,
    ) -> Result<Vec<SessionId>, StoreError> {
        let mut ended = Vec::new();
        loop {
            // A stamp of its own for each transaction: an end counts from its stamp.
            let entry = self.entry_about(String::new(), Event::SessionEnded, actor, by.name());
            let some = self.db.end_some_sessions_of(user, except, by, &entry).await?;
            self.have_ended(&some, by);
            let is_last = some.len() < ENDED_AT_ONCE as usize;
            ended.extend(some);
            if is_last {
                return Ok(ended);
            }
        }
    }

    /// Refuses the access tokens of sessions whose end was committed a moment ago, by whichever statement.
    pub fn have_ended(&self, sids: &[SessionId], by: EndedBy) {
        self.keyring.sessions_ended(sids.iter().copied());
        self.metrics.ended(by.name(), sids.len() as u64);
    }
}
