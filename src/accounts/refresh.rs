//! What becomes of a presented refresh token: one successor, a short grace, and the end of the session for what may be a theft.
//!
//! Order is by generation alone; time decides only about the grace and about expiry. Nothing here changes anything.

use crate::clock::{Seconds, UnixTime};
use crate::crypto::keyed_hash::HashKey;

use super::refresh_token::RefreshToken;
use super::session::{EndedBy, Session};
use super::user::Role;

/// A session with its refresh chain and what its user may do: one row at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The session.
    pub session: Session,
    /// The generation of the token that may be used next.
    pub generation: i64,
    /// The digest of its secret.
    pub current_hash: String,
    /// The digest of the one before; none before the first refresh.
    pub previous_hash: Option<String>,
    /// What made the current one from the previous.
    pub salt: String,
    /// The roles of the user.
    pub roles: Vec<Role>,
    /// Since when the account is suspended.
    pub suspended_at: Option<UnixTime>,
    /// Since when its tenant is disabled.
    pub tenant_disabled_at: Option<UnixTime>,
}

/// What the operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A session that was not refreshed for this long has ended.
    pub idle: Seconds,
    /// How long a token may come again after its first use; zero means never.
    pub grace: Seconds,
}

/// Who presents a token, and what for.
#[derive(Clone, Copy, Debug)]
pub struct PresentedRefresh<'a> {
    /// The token.
    pub token: &'a RefreshToken,
    /// The client that presents it.
    pub client_id: &'a str,
    /// The resources that are asked for; none asks for the session's own.
    pub audiences: &'a [String],
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the current one: the next generation takes its place.
    Rotate,
    /// It came before, a moment ago, and its successor is unused: the answer was lost, or two asked at once. It gets the same
    /// successor.
    Replay,
    /// It was used, and what came of it was used as well or is old: somebody has a copy.
    Reuse,
    /// It is newer than the row: an older database was put in the place of the one that made it.
    Rollback,
    /// It gets nothing, and nothing changes.
    Refuse(Refused),
}

/// Why a refresh token gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The text is no refresh token of this server.
    #[error("it is no refresh token of this server")]
    NotOurs,
    /// There is no such session any more.
    #[error("its session is gone")]
    Unknown,
    /// It was given to another client.
    #[error("it was given to another client")]
    WrongClient,
    /// A resource is asked for that the session is not for.
    #[error("its session is not for this resource")]
    WrongAudience,
    /// The session was ended.
    #[error("its session was ended")]
    Ended(EndedBy),
    /// The session has reached its absolute limit.
    #[error("its session has expired")]
    Expired,
    /// The session was not refreshed in time.
    #[error("its session was not used for too long")]
    Idle,
    /// The account is suspended.
    #[error("the account is suspended")]
    Suspended,
    /// The tenant is disabled.
    #[error("the tenant is disabled")]
    TenantDisabled,
    /// By the database's clock it was used in the future.
    #[error("the database's clock went back; try again in a moment")]
    TooEarly,
    /// It was used before, and only a clock in doubt says how long ago.
    #[error(
        "it was used before, and the clock is in doubt, so nobody knows how long ago; try again after accounts.refresh_grace"
    )]
    ClockInDoubt,
    /// It was used before; its session has ended now.
    #[error("it was used before, so its session has ended")]
    Reused,
    /// It is newer than the database; its session has ended now.
    #[error("it is newer than the database, so its session has ended")]
    RolledBack,
}

impl Refused {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotOurs => "not_ours",
            Self::Unknown => "unknown",
            Self::WrongClient => "wrong_client",
            Self::WrongAudience => "wrong_audience",
            Self::Ended(_) => "ended",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Suspended => "suspended",
            Self::TenantDisabled => "tenant_disabled",
            Self::TooEarly => "too_early",
            Self::ClockInDoubt => "clock_in_doubt",
            Self::Reused => "reused",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Judges a token of ours against the row of its session, by the database's clock.
#[must_use]
pub fn judge(
    family: &Family,
    presented: &PresentedRefresh<'_>,
    key: &HashKey,
    now: UnixTime,
    limits: &Limits,
) -> Verdict {
    if let Some(refused) = may_not_act(family, presented, now) {
        return Verdict::Refuse(refused);
    }
    let age = now - family.session.rotated_at;
    let verdict = by_generation(family, presented.token, key, age, limits.grace);
    match verdict {
        Verdict::Rotate | Verdict::Replay if age >= limits.idle => Verdict::Refuse(Refused::Idle),
        verdict => verdict,
    }
}

/// Whatever forbids a grant before the token itself is asked. The client comes first: a stranger learns and changes nothing.
fn may_not_act(family: &Family, presented: &PresentedRefresh<'_>, now: UnixTime) -> Option<Refused> {
    let session = &family.session;
    if presented.client_id != session.client_id {
        return Some(Refused::WrongClient);
    }
    // For as long as it lasts: afterwards the session that it ended is one that has ended.
    if family.suspended_at.is_some() {
        return Some(Refused::Suspended);
    }
    if family.tenant_disabled_at.is_some() {
        return Some(Refused::TenantDisabled);
    }
    // What was ended by a person is no theft, whatever is presented afterwards.
    if let Some((_, by)) = session.ended {
        return Some(Refused::Ended(by));
    }
    if now >= session.expires_at {
        return Some(Refused::Expired);
    }
    if presented.audiences.iter().any(|audience| *audience != session.audience) {
        return Some(Refused::WrongAudience);
    }
    None
}

fn by_generation(family: &Family, token: &RefreshToken, key: &HashKey, age: Seconds, grace: Seconds) -> Verdict {
    let is_current = token.generation == family.generation;
    let is_previous = token.generation.checked_add(1) == Some(family.generation);
    if token.generation > family.generation {
        return Verdict::Rollback;
    }
    if is_current {
        // Of ours and of this generation, but not the one that the row made: the row was made again from an older one.
        let known = token.matches(key, &family.current_hash);
        return if known { Verdict::Rotate } else { Verdict::Rollback };
    }
    let matches = |digest: &String| token.matches(key, digest);
    if !is_previous || !family.previous_hash.as_ref().is_some_and(matches) || grace == Seconds::ZERO || age > grace {
        return Verdict::Reuse;
    }
    if age < Seconds::ZERO {
        return Verdict::Refuse(Refused::TooEarly);
    }
    Verdict::Replay
}

#[cfg(test)]
mod tests {
    use crate::accounts::refresh_token::new_salt;
    use crate::accounts::user::UserId;
    use crate::values::SessionId;

    use super::*;

    const START: UnixTime = UnixTime(1_800_000_000);
    const LIMITS: Limits = Limits {
        idle: Seconds(1_000),
        grace: Seconds(30),
    };

    struct Chain {
        key: HashKey,
        family: Family,
        /// From the first to the current.
        tokens: Vec<RefreshToken>,
    }

    fn chain(generations: usize) -> Chain {
        let key = HashKey::generate().unwrap();
        let sid = SessionId::generate(START);
        let mut tokens = vec![RefreshToken::first(sid).unwrap()];
        let mut salt = new_salt().unwrap();
        for _ in 1..generations {
            salt = new_salt().unwrap();
            tokens.push(tokens.last().unwrap().successor(&key, &salt));
        }
        let previous = tokens.iter().rev().nth(1).map(|token| token.digest(&key));
        let family = Family {
            session: Session {
                sid,
                login: None,
                user: UserId::generate(START),
                tenant: "default".parse().unwrap(),
                client_id: "app".to_owned(),
                audience: "https://api.example.com".to_owned(),
                scope: String::new(),
                created_at: START,
                rotated_at: START,
                expires_at: START + Seconds(5_000),
                ended: None,
                address: String::new(),
                user_agent: String::new(),
            },
            generation: i64::try_from(generations).unwrap(),
            current_hash: tokens.last().unwrap().digest(&key),
            previous_hash: previous,
            salt,
            roles: Vec::new(),
            suspended_at: None,
            tenant_disabled_at: None,
        };
        Chain { key, family, tokens }
    }

    impl Chain {
        fn at(&self, token: usize, after: i64) -> Verdict {
            self.with(token, after, &LIMITS)
        }

        fn with(&self, token: usize, after: i64, limits: &Limits) -> Verdict {
            self.present(&self.tokens[token], after, limits)
        }

        fn present(&self, token: &RefreshToken, after: i64, limits: &Limits) -> Verdict {
            let presented = PresentedRefresh {
                token,
                client_id: "app",
                audiences: &[],
            };
            judge(&self.family, &presented, &self.key, START + Seconds(after), limits)
        }
    }

    #[test]
    fn the_current_token_rotates_until_the_session_is_idle_or_over() {
        let chain = chain(3);
        for (after, verdict) in [
            (-100, Verdict::Rotate),
            (0, Verdict::Rotate),
            (999, Verdict::Rotate),
            (1_000, Verdict::Refuse(Refused::Idle)),
            (5_000, Verdict::Refuse(Refused::Expired)),
        ] {
            assert_eq!(chain.at(2, after), verdict, "{after}");
        }
    }

    #[test]
    fn the_one_before_comes_again_within_the_grace_alone() {
        let chain = chain(3);
        for (after, verdict) in [
            (-1, Verdict::Refuse(Refused::TooEarly)),
            (0, Verdict::Replay),
            (30, Verdict::Replay),
            (31, Verdict::Reuse),
            (2_000, Verdict::Reuse),
        ] {
            assert_eq!(chain.at(1, after), verdict, "{after}");
        }
        let strict = Limits {
            grace: Seconds::ZERO,
            ..LIMITS
        };
        assert_eq!(chain.with(1, 0, &strict), Verdict::Reuse);
        let short = Limits {
            idle: Seconds(5),
            ..LIMITS
        };
        assert_eq!(chain.with(1, 5, &short), Verdict::Refuse(Refused::Idle));
    }

    #[test]
    fn anything_older_is_reuse_at_any_time() {
        let chain = chain(4);
        for after in [-100, 0, 1, 31] {
            for token in [0, 1] {
                assert_eq!(chain.at(token, after), Verdict::Reuse, "{token} after {after}");
            }
        }
    }

    #[test]
    fn a_token_that_the_row_has_not_made_yet_means_an_older_database() {
        let long = chain(4);
        let older = Chain {
            family: Family {
                generation: 2,
                current_hash: long.tokens[1].digest(&long.key),
                previous_hash: Some(long.tokens[0].digest(&long.key)),
                ..long.family.clone()
            },
            ..long
        };
        assert_eq!(older.at(2, 0), Verdict::Rollback);
        assert_eq!(older.at(3, 0), Verdict::Rollback);
        assert_eq!(older.at(1, 0), Verdict::Rotate);
        // Restored, and then refreshed again by somebody else: the same generation, by another salt.
        let twin = older.tokens[0].successor(&older.key, "another salt");
        assert_eq!(older.present(&twin, 0, &LIMITS), Verdict::Rollback);
        let stranger = RefreshToken::first(older.family.session.sid).unwrap();
        assert_eq!(older.present(&stranger, 0, &LIMITS), Verdict::Reuse);
    }

    #[test]
    fn who_may_not_act_changes_nothing() {
        let good = chain(3);
        let refused = |change: &dyn Fn(&mut Family), client_id: &str, audiences: &[String]| {
            let mut family = good.family.clone();
            change(&mut family);
            // Even a token that would otherwise end the session.
            [0, 1, 2].map(|token| {
                let presented = PresentedRefresh {
                    token: &good.tokens[token],
                    client_id,
                    audiences,
                };
                judge(&family, &presented, &good.key, START + Seconds(40), &LIMITS)
            })
        };
        let all = |refused: Refused| [Verdict::Refuse(refused); 3];
        let nothing = |_: &mut Family| ();
        assert_eq!(refused(&nothing, "other", &[]), all(Refused::WrongClient));
        let other = ["https://other.example.com".to_owned()];
        assert_eq!(refused(&nothing, "app", &other), all(Refused::WrongAudience));
        let ended = |family: &mut Family| family.session.ended = Some((START, EndedBy::Logout));
        assert_eq!(refused(&ended, "app", &[]), all(Refused::Ended(EndedBy::Logout)));
        assert_eq!(refused(&ended, "other", &[]), all(Refused::WrongClient));
        let suspended = |family: &mut Family| family.suspended_at = Some(START);
        assert_eq!(refused(&suspended, "app", &[]), all(Refused::Suspended));
        let disabled = |family: &mut Family| family.tenant_disabled_at = Some(START);
        assert_eq!(refused(&disabled, "app", &[]), all(Refused::TenantDisabled));
        let own = ["https://api.example.com".to_owned()];
        let verdicts = [Verdict::Reuse, Verdict::Reuse, Verdict::Rotate];
        assert_eq!(refused(&nothing, "app", &own), verdicts);
    }
}
