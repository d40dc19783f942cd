//! Logins: who proves to be somebody by a password, and what follows from it.
//!
//! There is one way for every path that looks at a password, in this order: a place in the queue of hashes, a charge to the limits,
//! the user's row, the hash. What is unknown, suspended or without a password goes all of it, and is answered like a wrong one.

pub mod federated;
pub mod hash_costs;

use std::sync::Arc;

use crate::accounts::client_address::ClientAddress;
use crate::accounts::email::Email;
use crate::accounts::limits::Attempt;
use crate::accounts::password::{AccountWords, Password, RefusedPassword};
use crate::accounts::password_hash::{HashParameters, HashingFailed, PasswordHash, StoredCosts};
use crate::accounts::session::{Device, EndedBy, LoginMethod};
use crate::accounts::settings::LoginSettings;
use crate::accounts::settings::Registration;
use crate::accounts::tenant::TenantId;
use crate::accounts::user::{Name, User, UserId};
use crate::clock::Seconds;
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::random::NoRandomness;
use crate::events::{Entry, Event};
use crate::hashing::{Hashing, NoAnswer, Overflow, QueueSlot};
use crate::keyring::CannotSign;
use crate::sessions::{CannotBegin, SessionTokens, Sessions};
use crate::store::allowance::to_the_end;
use crate::store::limits::{Charged, Charging};
use crate::store::outage;
use crate::store::users::StoredUser;
use crate::store::{Db, StoreError};
use crate::telemetry::LoginMetrics;
use crate::values::SessionId;

use hash_costs::HashCosts;

/// What proves people by their passwords.
pub struct Logins {
    /// The database.
    pub db: Db,
    /// What begins and ends their sessions.
    pub sessions: Arc<Sessions>,
    /// Where passwords are hashed.
    pub hashing: Hashing,
    /// What a wrong password costs.
    pub hash_costs: HashCosts,
    /// What passwords are digested with before they are hashed.
    pub hash_key: Arc<HashKey>,
    /// The rules.
    pub settings: LoginSettings,
    /// The host of the issuer, which no password is made of.
    pub host: String,
    /// What is counted.
    pub metrics: LoginMetrics,
}

/// Why somebody got nothing for a password.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The e-mail address or the password is wrong; or the account is suspended, its tenant is disabled, or it has no password.
    #[error("the e-mail address or the password is wrong")]
    Wrong,
    /// Too many attempts; this one was not looked at.
    #[error("too many attempts; try again in {retry_after}")]
    Limited {
        /// When one would be.
        retry_after: Seconds,
    },
    /// Too many passwords wait to be checked; this one was not.
    #[error(transparent)]
    Busy(#[from] Overflow),
    /// The new password will not do.
    #[error(transparent)]
    Password(#[from] RefusedPassword),
    /// People do not register by themselves here.
    #[error("nobody registers here; ask the operator for an account")]
    RegistrationClosed,
    /// There is an account with this address. Only where that is told.
    #[error("there is an account with this e-mail address already")]
    EmailTaken,
    /// Nothing can be signed; nothing was changed.
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The hash function failed.
    #[error(transparent)]
    Hashing(#[from] HashingFailed),
    /// The hash was not computed to its end.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

impl LoginError {
    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Limited { .. } => "limited",
            Self::Busy(_) => "busy",
            Self::Password(_) => "password_refused",
            Self::RegistrationClosed => "registration_closed",
            Self::EmailTaken => "email_taken",
            Self::CannotSign(_) => "cannot_sign",
            Self::Store(_) => "store",
            Self::Randomness(_) | Self::Hashing(_) | Self::NoAnswer(_) => "failed",
        }
    }
}

/// What became of a registration.
#[derive(Debug)]
pub enum Registered {
    /// The account is there, and may begin a session.
    Account(Box<StoredUser>),
    /// It is there now, or was there before: which is not told.
    Untold,
}

/// A user who has proved to be the one.
struct Proof {
    user: StoredUser,
    attempt: Attempt,
    charged: Charged,
}

/// What a thread found out.
enum Checked {
    Wrong,
    Right { rehashed: Option<PasswordHash> },
}

impl Logins {
    /// Makes an account for whoever asks, of the default tenant.
    ///
    /// # Errors
    /// When nobody registers here, the password will not do, too many tries came from this address, the address is taken and that
    /// is told, or something of ours failed.
    pub async fn register(
        &self,
        email: Email,
        password: Password,
        name: Name,
        address: ClientAddress,
    ) -> Result<Registered, LoginError> {
        let answer = self.try_to_register(email, password, name, address).await;
        self.told("registration", address, answer)
    }

    async fn try_to_register(
        &self,
        email: Email,
        password: Password,
        name: Name,
        address: ClientAddress,
    ) -> Result<Registered, LoginError> {
        if self.settings.registration == Registration::Closed || self.is_default_tenant_disabled().await? {
            return Err(LoginError::RegistrationClosed);
        }
        let place = self.hashing.reserve()?;
        // It is not given back: each costs a hash and a row.
        let attempt = Attempt::without_account(address, &self.settings.attempts, &self.hash_key);
        self.charge(&attempt).await?;
        let hash = self.hash_new(place, password, &email, &name).await?;
        let now = self.sessions.now();
        let user = User {
            id: UserId::generate(now),
            tenant: TenantId::default(),
            email,
            email_verified_at: None,
            name,
            roles: Vec::new(),
            created_at: now,
            suspended_at: None,
        };
        let whose = user.id.to_string();
        let stored = StoredUser {
            user,
            password_hash: Some(hash.as_str().to_owned()),
        };
        let created = self
            .db
            .create_user(&stored, &self.entry(Event::UserRegistered, &whose))
            .await?;
        match (self.settings.registration == Registration::OpenAndRevealing, created) {
            (true, true) => Ok(Registered::Account(Box::new(stored))),
            (true, false) => Err(LoginError::EmailTaken),
            (false, _) => Ok(Registered::Untold),
        }
    }

    /// Whether the tenant that new accounts belong to is disabled: then they could not log in.
    async fn is_default_tenant_disabled(&self) -> Result<bool, StoreError> {
        let tenant = self.db.tenant(&TenantId::default()).await?;
        Ok(tenant.is_some_and(|tenant| tenant.disabled_at.is_some()))
    }

    /// Begins a session of the user with this address and password.
    ///
    /// # Errors
    /// When they are wrong, too many tries came before, or something of ours failed.
    pub async fn log_in(
        &self,
        email: &Email,
        password: Password,
        address: ClientAddress,
        device: &Device,
    ) -> Result<SessionTokens, LoginError> {
        let answer = self.try_to_log_in(email, password, address, device).await;
        self.told("login", address, answer)
    }

    async fn try_to_log_in(
        &self,
        email: &Email,
        password: Password,
        address: ClientAddress,
        device: &Device,
    ) -> Result<SessionTokens, LoginError> {
        let proof = self.prove(email, password, address).await?;
        let begun = self.sessions.begin(&proof.user, LoginMethod::Password, device).await;
        match begun {
            Ok(tokens) => {
                self.accept(&proof).await;
                Ok(tokens)
            }
            // Suspended, or changed, while the password was checked. So is a user whose tenant is disabled.
            Err(CannotBegin::AccountChanged) => Err(LoginError::Wrong),
            Err(failed) => {
                self.give_back(&proof.charged).await;
                Err(match failed {
                    CannotBegin::CannotSign(error) => error.into(),
                    CannotBegin::Store(error) => error.into(),
                    CannotBegin::Randomness(error) => error.into(),
                    CannotBegin::AccountChanged => LoginError::Wrong,
                })
            }
        }
    }

    /// Changes the password of a user who knows the current one, and ends the user's sessions, but this one when one is given;
    /// answers with those that it ended. From its return on this node accepts nothing of them.
    ///
    /// # Errors
    /// When the current password is wrong, the new one will not do, too many tries came before, or something of ours failed.
    pub async fn change_password(
        &self,
        user: UserId,
        current: Password,
        new: Password,
        except: Option<SessionId>,
        address: ClientAddress,
    ) -> Result<Vec<SessionId>, LoginError> {
        let answer = self.try_to_change(user, current, new, except, address).await;
        self.told("password change", address, answer)
    }

    async fn try_to_change(
        &self,
        user: UserId,
        current: Password,
        new: Password,
        except: Option<SessionId>,
        address: ClientAddress,
    ) -> Result<Vec<SessionId>, LoginError> {
        let known = self.db.user(user).await?.ok_or(LoginError::Wrong)?.user;
        let proof = self.prove(&known.email, current, address).await?;
        self.accept(&proof).await;
        if proof.user.user.id != user {
            return Err(LoginError::Wrong);
        }
        let place = self.hashing.reserve()?;
        let hash = self.hash_new(place, new, &known.email, &known.name).await?;
        let entry = self.entry(Event::UserPasswordChanged, &user.to_string());
        let ended = self
            .db
            .change_password(&proof.user, hash.as_str(), except, &entry)
            .await?;
        let ended = ended.ok_or(LoginError::Wrong)?;
        self.sessions.have_ended(&ended, EndedBy::PasswordChange);
        Ok(ended)
    }

    /// The user whose address and password these are. Whoever acts on it asks again whether the user may, in the same transaction:
    /// a suspension may come at any moment.
    async fn prove(&self, email: &Email, password: Password, address: ClientAddress) -> Result<Proof, LoginError> {
        let place = self.hashing.reserve()?;
        let attempt = self.attempt(email, address);
        let charged = self.charge(&attempt).await?;
        let user = self.user_with(place, email, password).await;
        // A hash that cannot be computed tells a wrong password from a right one as well, so it costs an attempt too.
        let is_answer = |error: &LoginError| matches!(error, LoginError::Wrong | LoginError::Hashing(_));
        if user.as_ref().is_err_and(|error| !is_answer(error)) {
            self.give_back(&charged).await;
        }
        Ok(Proof {
            user: user?,
            attempt,
            charged,
        })
    }

    async fn user_with(&self, place: QueueSlot, email: &Email, password: Password) -> Result<StoredUser, LoginError> {
        let user = self.db.user_by_email(email).await?;
        // After the account, so that its cost is among them.
        let costs = self.hash_costs.read(&self.db, self.settings.password_hash).await;
        match (self.check(place, user.as_ref(), costs, password).await?, user) {
            (Checked::Right { rehashed }, Some(mut user)) => {
                self.rehash(&mut user, rehashed).await?;
                Ok(user)
            }
            _ => Err(LoginError::Wrong),
        }
    }

    async fn charge(&self, attempt: &Attempt) -> Result<Charged, LoginError> {
        match self.db.charge(attempt, self.sessions.now()).await? {
            Charging::Taken(charged) => Ok(charged),
            Charging::Refused { retry_after } => Err(LoginError::Limited { retry_after }),
        }
    }

    async fn check(
        &self,
        place: QueueSlot,
        user: Option<&StoredUser>,
        costs: StoredCosts,
        password: Password,
    ) -> Result<Checked, LoginError> {
        let may_act = user.is_some_and(|user| user.user.suspended_at.is_none());
        let stored = user.and_then(|user| self.readable_hash(user));
        let (parameters, key) = (self.settings.password_hash, Arc::clone(&self.hash_key));
        let checked = place
            .run(move || check(stored.as_ref(), may_act, &password, parameters, &costs, &key))
            .await?;
        Ok(checked?)
    }

    /// The hash of a user's password. A corrupted one lets nobody in, and whoever runs the server hears of it.
    fn readable_hash(&self, user: &StoredUser) -> Option<PasswordHash> {
        let stored = user.password_hash.as_deref()?;
        PasswordHash::parse(stored)
            .inspect_err(|error| {
                self.metrics.unreadable_hash();
                tracing::error!(user.id = %user.user.id, %error, "the stored hash of a password cannot be read");
            })
            .ok()
    }

    /// Keeps the stored hash at the cost of today. When the account has changed meanwhile, what begins next will find so.
    async fn rehash(&self, user: &mut StoredUser, rehashed: Option<PasswordHash>) -> Result<(), StoreError> {
        if let (Some(hash), Some(checked)) = (rehashed, user.password_hash.as_deref())
            && self
                .db
                .replace_password_hash(user.user.id, checked, hash.as_str())
                .await?
        {
            user.password_hash = Some(hash.as_str().to_owned());
        }
        Ok(())
    }

    /// The hash of a new password, if it may be one.
    async fn hash_new(
        &self,
        place: QueueSlot,
        password: Password,
        email: &Email,
        name: &Name,
    ) -> Result<PasswordHash, LoginError> {
        let words = AccountWords::new(email.as_str(), name.as_str(), &self.host);
        let least = self.settings.password_min_length;
        let (parameters, key) = (self.settings.password_hash, Arc::clone(&self.hash_key));
        let work = move || {
            password.refuse_as_new(least, &words)?;
            Ok(PasswordHash::new(&password, parameters, &key)?)
        };
        place.run(work).await?
    }

    /// The attempt was no guess. It is not undone when that cannot be written down.
    async fn accept(&self, proof: &Proof) {
        let (db, now) = (self.db.clone(), self.sessions.now());
        let (attempt, charged) = (proof.attempt.clone(), proof.charged.clone());
        to_the_end(async move {
            if let Err(error) = db.succeed(&attempt, &charged, now).await {
                outage::report("an attempt that was right could not be taken off the limits", &error);
            }
        })
        .await;
    }

    /// Also when the request has no time left, which is why there was no answer: or people would be locked out by a slow database.
    async fn give_back(&self, charged: &Charged) {
        let (db, now, charged) = (self.db.clone(), self.sessions.now(), charged.clone());
        to_the_end(async move {
            if let Err(error) = db.give_back(&charged, now).await {
                outage::report(
                    "an attempt that got no answer could not be taken off the limits",
                    &error,
                );
            }
        })
        .await;
    }

    fn attempt(&self, email: &Email, address: ClientAddress) -> Attempt {
        Attempt::new(email.as_str(), address, &self.settings.attempts, &self.hash_key)
    }

    fn told<T>(&self, what: &str, address: ClientAddress, answer: Result<T, LoginError>) -> Result<T, LoginError> {
        let outcome = answer.as_ref().err().map_or("right", LoginError::name);
        self.metrics.tried(outcome);
        if answer.is_err() {
            tracing::info!(client.ip = %address, outcome, "a {what} was refused");
        }
        answer
    }

    fn entry(&self, event: Event, user: &str) -> Entry {
        let now = self.sessions.now();
        Entry::new(event, user, now, format!("user {user}"), "")
    }
}

/// The work of a thread. A wrong password is the same work for every account, and for none.
fn check(
    stored: Option<&PasswordHash>,
    may_act: bool,
    password: &Password,
    parameters: HashParameters,
    costs: &StoredCosts,
    key: &HashKey,
) -> Result<Checked, HashingFailed> {
    if let Some(stored) = stored
        && stored.matches(password, key)?
        && may_act
    {
        let rehashed = stored
            .needs_rehash(parameters)
            .then(|| PasswordHash::new(password, parameters, key));
        return Ok(Checked::Right {
            rehashed: rehashed.transpose()?,
        });
    }
    for cost in costs.lacking(stored.map(PasswordHash::cost)) {
        cost.spend(password, key)?;
    }
    Ok(Checked::Wrong)
}
