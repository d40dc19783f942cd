//! Logging in by another OpenID provider: begin a login, and make of what comes back the account that it is for.

use std::sync::Arc;

use url::Url;
use zeroize::Zeroizing;

use crate::accounts::email::Email;
use crate::accounts::federation::callback::{Callback, CallbackError, Outcome};
use crate::accounts::federation::claims::{ClaimsError, EmailDoubt, ExpectedIdToken, Identity, identity};
use crate::accounts::federation::login::{LOGIN_LIFETIME, LoginSecrets};
use crate::accounts::federation::metadata::ProviderMetadata;
use crate::accounts::federation::return_to::{NotAllowed, ReturnTo};
use crate::accounts::federation::{Directories, Provider, ProviderName};
use crate::accounts::settings::Registration;
use crate::accounts::tenant::TenantId;
use crate::accounts::user::{Name, User, UserId};
use crate::clock::{Reading, UnixTime};
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::random::NoRandomness;
use crate::crypto::sealing::{MasterKeys, SealError};
use crate::events::{Entry, Event};
use crate::jose::id_token::{IdToken, IdTokenError};
use crate::jose::jwk_set::IssuerKey;
use crate::keyring::secret_binding;
use crate::oauth::endpoints::CALLBACK_PATH;
use crate::outbound::providers::{AuthorizationCode, ProviderCredentials, ProviderError, Providers, TokenAnswer};
use crate::store::federated_identities::FederatedIdentity;
use crate::store::federated_logins::FederatedLogin;
use crate::store::users::StoredUser;
use crate::store::{Db, StoreError};
use crate::values::SessionId;
use crate::values::{Issuer, Origin};

/// How often an account is looked for when the same person comes twice in one moment.
const TRIES: usize = 3;

/// Where a provider sends people back to.
#[must_use]
pub fn redirect_uri(issuer: &str, provider: &ProviderName) -> String {
    format!("{issuer}{}", CALLBACK_PATH.replace("{provider}", provider.as_str()))
}

/// Why somebody is not logged in. What is told to people is said where it is answered; this is for the log, and holds nothing
/// that a provider or a browser wrote.
#[derive(Debug, thiserror::Error)]
pub enum NotLoggedIn {
    /// No such provider, or a disabled one.
    #[error("there is no identity provider of this name that is enabled")]
    UnknownProvider,
    /// The wish for an address.
    #[error(transparent)]
    ReturnTo(#[from] NotAllowed),
    /// The answer is none.
    #[error(transparent)]
    Callback(#[from] CallbackError),
    /// It answers no login of this browser.
    #[error("the login was begun in another browser, took longer than {LOGIN_LIFETIME}, or was used already")]
    State,
    /// The person, or the provider, said no.
    #[error("the provider answered that access was denied")]
    Denied,
    /// It cannot now.
    #[error("the provider answered that it is not available")]
    Unavailable,
    /// Our registration there is not in order.
    #[error("the provider answered with an error; look at what was registered there")]
    Refused,
    /// RFC 9207.
    #[error("the answer does not name this provider as its issuer")]
    Issuer,
    /// The provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The signature.
    #[error("the provider's ID token is not accepted: {0}")]
    IdToken(#[from] IdTokenError),
    /// The claims.
    #[error("the provider's ID token is not accepted: {0}")]
    Claims(#[from] ClaimsError),
    /// Nobody is known by an e-mail that could be anybody's.
    #[error(transparent)]
    EmailNotVerified(#[from] EmailDoubt),
    /// An account that must not be given away.
    #[error("there is an account with this e-mail, and it is not linked to the provider")]
    AccountExists,
    /// Operators alone make accounts.
    #[error("there is no account for this person, and registration is closed")]
    RegistrationClosed,
    /// It may do nothing.
    #[error("the account is suspended")]
    Suspended,
    /// Our client secret.
    #[error("the provider's client secret cannot be read: {0}")]
    Secret(#[from] SealError),
    /// No secrets for the login.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// Our client secret is not there.
    #[error("the provider has no client secret; give it one by 'keyround providers set-secret'")]
    NoSecret,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A login that began.
pub struct Begun {
    /// Where the browser goes.
    pub url: Url,
    /// What it keeps: the secret, and the digests by which the login is known.
    pub secrets: LoginSecrets,
}

/// A login that the provider has confirmed.
#[derive(Debug)]
pub struct Confirmed {
    /// Whose account it is, as it was read a moment ago.
    pub user: StoredUser,
    /// Where the browser goes.
    pub return_to: ReturnTo,
    /// The session that the browser was in when the login began.
    pub replaces: Option<SessionId>,
}

/// One question to a provider.
struct Asked {
    provider: Provider,
    metadata: Arc<ProviderMetadata>,
    now: Reading,
}

/// What comes back by a browser.
pub struct Returned<'a> {
    /// The name in the address.
    pub provider: &'a str,
    /// The query of the address.
    pub query: &'a str,
    /// The secret in the browser's cookie.
    pub browser: Option<&'a str>,
}

/// Logins by other providers.
pub struct FederatedLogins {
    /// The database.
    pub db: Db,
    /// The providers.
    pub providers: Providers,
    /// What secrets are digested with.
    pub hash_key: Arc<HashKey>,
    /// What client secrets lie under.
    pub master_keys: Arc<MasterKeys>,
    /// Who we are.
    pub issuer: Issuer,
    /// Where a login may lead beside our own origin.
    pub allowed_origins: Vec<Origin>,
    /// Whether people may have accounts that no operator made.
    pub registration: Registration,
}

impl FederatedLogins {
    /// Begins a login. `browser` is the secret that the browser has from a login before; `replaces` is the session that the browser is in.
    ///
    /// # Errors
    /// [`NotLoggedIn`] says why it does not begin.
    pub async fn begin(
        &self,
        provider: &str,
        return_to: Option<&str>,
        browser: Option<&str>,
        replaces: Option<SessionId>,
        now: Reading,
    ) -> Result<Begun, NotLoggedIn> {
        let allowed_origins = self.allowed_origins.iter().map(Origin::as_str);
        let return_to = ReturnTo::parse(return_to, self.issuer.url(), allowed_origins)?;
        let provider = self.provider(provider).await?;
        let metadata = self.providers.metadata(&provider.issuer, now.monotonic).await?;
        let secrets = LoginSecrets::new(browser)?;
        let login = self.login(&provider, &secrets);
        self.db
            .begin_federated_login(&login, &return_to, replaces, now.wall + LOGIN_LIFETIME)
            .await?;
        let redirect_uri = redirect_uri(self.issuer.as_str(), &provider.name);
        Ok(Begun {
            url: secrets.authorization_url(&provider, &metadata, &redirect_uri, &self.hash_key),
            secrets,
        })
    }

    /// Ends a login: who it is for, when everything fits.
    ///
    /// # Errors
    /// [`NotLoggedIn`] says what does not.
    pub async fn finish(&self, returned: &Returned<'_>, now: Reading) -> Result<Confirmed, NotLoggedIn> {
        let provider = self.provider(returned.provider).await?;
        let callback = Callback::parse(returned.query)?;
        let secrets = LoginSecrets::returned(&callback.state, returned.browser).ok_or(NotLoggedIn::State)?;
        // Nothing is asked of anybody before the answer is found to be one to our question, and nothing twice.
        let login = self.login(&provider, &secrets);
        let return_to = self.db.take_federated_login(&login, now.wall).await?;
        let (return_to, replaces) = return_to.ok_or(NotLoggedIn::State)?;
        let asked = Asked {
            metadata: self.providers.metadata(&provider.issuer, now.monotonic).await?,
            provider,
            now,
        };
        let tokens = self.exchange(&asked, &callback, &secrets).await?;
        let identity = self.identify(&asked, &tokens, &secrets).await?;
        let user = self.account(&asked, &tokens, &identity).await?;
        Ok(Confirmed {
            user,
            return_to,
            replaces,
        })
    }

    async fn provider(&self, name: &str) -> Result<Provider, NotLoggedIn> {
        let name: ProviderName = name.parse().map_err(|_| NotLoggedIn::UnknownProvider)?;
        let found = self.db.identity_provider(&name).await?;
        found
            .filter(|provider| provider.disabled_at.is_none())
            .ok_or(NotLoggedIn::UnknownProvider)
    }

    fn login(&self, provider: &Provider, secrets: &LoginSecrets) -> FederatedLogin {
        FederatedLogin {
            state_digest: secrets.state_digest(&self.hash_key),
            provider: provider.name.clone(),
            browser_digest: secrets.browser_digest(&self.hash_key),
        }
    }

    /// Exchanges the code.
    async fn exchange(
        &self,
        asked: &Asked,
        callback: &Callback,
        secrets: &LoginSecrets,
    ) -> Result<TokenAnswer, NotLoggedIn> {
        let Asked { provider, metadata, .. } = asked;
        // Before the code goes anywhere: one of another provider must not reach this one (RFC 9700 section 4.4).
        if !callback.is_from(&provider.issuer, metadata) {
            return Err(NotLoggedIn::Issuer);
        }
        let code = match &callback.outcome {
            Outcome::Code(code) => code,
            Outcome::Denied => return Err(NotLoggedIn::Denied),
            Outcome::Unavailable => return Err(NotLoggedIn::Unavailable),
            Outcome::Failed => return Err(NotLoggedIn::Refused),
        };
        let client_secret = self.client_secret(provider).await?;
        let credentials = ProviderCredentials {
            client_id: &provider.client_id,
            client_secret: &client_secret,
        };
        let code = AuthorizationCode {
            code,
            redirect_uri: &redirect_uri(self.issuer.as_str(), &provider.name),
            code_verifier: &secrets.code_verifier(&self.hash_key),
        };
        Ok(self.providers.exchange(metadata, &credentials, &code).await?)
    }

    /// Verifies the ID token.
    async fn identify(
        &self,
        asked: &Asked,
        tokens: &TokenAnswer,
        secrets: &LoginSecrets,
    ) -> Result<Identity, NotLoggedIn> {
        let token = IdToken::parse(&tokens.id_token)?;
        let fits = |keys: &[IssuerKey]| keys.iter().any(|key| token.fits(&key.jwk));
        let keys = self.providers.keys(&asked.metadata, asked.now.monotonic, fits).await?;
        let expected = ExpectedIdToken {
            provider: &asked.provider,
            nonce: &secrets.nonce(&self.hash_key),
            now: asked.now.wall,
        };
        Ok(identity(&token.verified(&keys)?, expected)?)
    }

    /// What the provider says of a person that is new here: in the ID token, else at its userinfo endpoint.
    async fn complete(
        &self,
        asked: &Asked,
        tokens: &TokenAnswer,
        identity: &Identity,
    ) -> Result<Identity, NotLoggedIn> {
        match (&asked.metadata.userinfo_endpoint, &tokens.access_token) {
            (Some(endpoint), Some(access_token)) if identity.email.is_none() => {
                let userinfo = self.providers.userinfo(endpoint, access_token).await?;
                Ok(identity.completed(&userinfo, &asked.provider)?)
            }
            _ => Ok(identity.clone()),
        }
    }

    async fn client_secret(&self, provider: &Provider) -> Result<Zeroizing<String>, NotLoggedIn> {
        let name = provider.name.secret_name();
        let sealed = self.db.secret(&name).await?.ok_or(NotLoggedIn::NoSecret)?;
        let opened = self.master_keys.open(&secret_binding(&name), &sealed)?;
        let text = std::str::from_utf8(&opened).map_err(|_| NotLoggedIn::NoSecret)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// The account that somebody at a provider has here; a new one, or one that is linked now, where that is allowed.
    async fn account(
        &self,
        asked: &Asked,
        tokens: &TokenAnswer,
        identity: &Identity,
    ) -> Result<StoredUser, NotLoggedIn> {
        let stored = if let Some(stored) = self.known(&asked.provider, identity).await? {
            stored
        } else {
            let person = self.complete(asked, tokens, identity).await?;
            self.link_or_register(&asked.provider, &person, asked.now.wall).await?
        };
        match stored.user.suspended_at {
            Some(_) => Err(NotLoggedIn::Suspended),
            None => Ok(stored),
        }
    }

    async fn known(&self, provider: &Provider, identity: &Identity) -> Result<Option<StoredUser>, StoreError> {
        let known = FederatedIdentity {
            provider,
            subject: &identity.unique_subject(),
        };
        match self.db.federated_user(known).await? {
            Some(id) => self.db.user(id).await,
            None => Ok(None),
        }
    }

    async fn link_or_register(
        &self,
        provider: &Provider,
        person: &Identity,
        now: UnixTime,
    ) -> Result<StoredUser, NotLoggedIn> {
        // An address that could be anybody's is no name of an account.
        let text = person.email.as_deref().ok_or(EmailDoubt::Missing)?;
        person.email_doubt.map_or(Ok(()), Err)?;
        let email: Email = text.parse().map_err(|_| EmailDoubt::Address)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_link_or_register(provider, person, &email, now).await {
                // The same person came twice in one moment.
                Err(NotLoggedIn::Store(StoreError::Conflict)) if tries < TRIES => {}
                done => return done,
            }
        }
    }

    async fn try_link_or_register(
        &self,
        provider: &Provider,
        person: &Identity,
        email: &Email,
        now: UnixTime,
    ) -> Result<StoredUser, NotLoggedIn> {
        let identity = FederatedIdentity {
            provider,
            subject: &person.unique_subject(),
        };
        let is_spelled = person.email.as_deref().is_some_and(|text| email.is_spelled(text));
        let Some(existing) = self.db.user_by_email(email).await? else {
            // The provider has verified another spelling, which may be another person's mailbox.
            if !is_spelled {
                return Err(EmailDoubt::Spelling.into());
            }
            return self
                .register(identity, person.name.as_deref(), email.clone(), now)
                .await;
        };
        if existing.user.suspended_at.is_some() {
            return Err(NotLoggedIn::Suspended);
        }
        let linked = entry(Event::UserIdentityLinked, &existing.user, provider, now);
        if is_spelled && self.db.link_federated_user(identity, &existing, &linked).await? {
            return Ok(existing);
        }
        // The account may be this person's own: made in this moment by another login.
        let known = self.known(provider, person).await?;
        known.ok_or(NotLoggedIn::AccountExists)
    }

    async fn register(
        &self,
        identity: FederatedIdentity<'_>,
        name: Option<&str>,
        email: Email,
        now: UnixTime,
    ) -> Result<StoredUser, NotLoggedIn> {
        let tenant = self.db.tenant(&TenantId::default()).await?;
        let is_disabled = tenant.is_some_and(|tenant| tenant.disabled_at.is_some());
        if self.registration == Registration::Closed || is_disabled {
            return Err(NotLoggedIn::RegistrationClosed);
        }
        let name: Option<Name> = name.and_then(|name| name.parse().ok());
        let user = User {
            id: UserId::generate(now),
            tenant: TenantId::default(),
            name: match name {
                Some(name) => name,
                None => email.local_part().parse().map_err(|_| ClaimsError::Text)?,
            },
            email,
            // Whoever owns a directory may write any address into it, and another provider would later link by a verified one.
            email_verified_at: (identity.provider.directories != Some(Directories::Any)).then_some(now),
            roles: Vec::new(),
            created_at: now,
            suspended_at: None,
        };
        let entries =
            [Event::UserCreated, Event::UserIdentityLinked].map(|event| entry(event, &user, identity.provider, now));
        let stored = StoredUser {
            user,
            password_hash: None,
        };
        let created = self
            .db
            .create_federated_user(identity, &stored, entries.each_ref())
            .await?;
        // Somebody took the address in this moment: look again.
        created.then_some(stored).ok_or(StoreError::Conflict.into())
    }
}

/// Names the account and the provider; the person stays out of the log.
fn entry(event: Event, user: &User, provider: &Provider, now: UnixTime) -> Entry {
    Entry::new(
        event,
        user.id,
        now,
        format!("user {}", user.id),
        format!("logged in with {}", provider.name),
    )
}
