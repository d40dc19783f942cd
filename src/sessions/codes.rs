//! Authorization codes: given to a client for a login session, and redeemed once for a grant of it (RFC 6749 section 4.1).

use zeroize::Zeroizing;

use crate::accounts::refresh_token::{RefreshToken, new_salt};
use crate::accounts::session::{Device, EndedBy, LoginSession};
use crate::accounts::user::UserId;
use crate::clock::Seconds;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::{NoRandomness, random_secret};
use crate::events::Event;
use crate::keyring::CannotSign;
use crate::oauth::authorization::{AuthorizationRequest, OFFLINE_ACCESS, OPENID, needs_consent};
use crate::oauth::client::Client;
use crate::oauth::pkce::CodeChallenge;
use crate::oauth::scope::Scope;
use crate::store::authorization_codes::{CodeGrant, NewCode, Redeemed, Redemption};
use crate::store::{StoreError, outage};
use crate::values::SessionId;

use super::{Owner, Sessions, audience};

/// A code as a client presents it.
#[derive(Clone, Copy)]
pub struct PresentedCode<'a> {
    /// The code.
    pub code: &'a str,
    /// The client, which has proved itself unless it is public.
    pub client: &'a Client,
    /// The redirect URI of its request.
    pub redirect_uri: &'a str,
    /// What its verifier answers.
    pub code_challenge: Option<&'a CodeChallenge>,
    /// Where it is presented from.
    pub device: &'a Device,
}

/// What a client gets for a code.
pub struct CodeTokens {
    /// The grant.
    pub grant: SessionId,
    /// Who logged in.
    pub user: UserId,
    /// The access token.
    pub access_token: String,
    /// How long it is valid.
    pub expires_in: Seconds,
    /// What it allows.
    pub scope: Scope,
    /// Who logged in, if that was asked for.
    pub id_token: Option<String>,
    /// What gets the next one, if access without the person was granted.
    pub refresh_token: Option<Zeroizing<String>>,
}

/// Why a code gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum CannotRedeem {
    /// `invalid_grant` (RFC 6749 section 5.2): it is unknown, expired, used, or bound to something else.
    #[error("the code is unknown, has expired, was used, or belongs to another client, redirect_uri or code_verifier")]
    Refused,
    /// Nothing can be signed; the code is as good as before.
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    /// The database does not answer; whether the code is used up is unknown.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness; the code is as good as before.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl Sessions {
    /// A code for this client, of a login session that lives; none when it has ended meanwhile.
    ///
    /// # Errors
    /// When nothing can be signed, there is no randomness, or the database does not answer.
    pub async fn give_code(
        &self,
        login: &LoginSession,
        client: &Client,
        redirect_uri: &str,
        request: &AuthorizationRequest,
    ) -> Result<Option<Zeroizing<String>>, CannotRedeem> {
        let code = random_secret()?;
        let default = audience(client.default_audience()).or_else(|_| audience(&self.issuer))?;
        let new = NewCode {
            digest: &self.hash_key.digest(Purpose::AuthorizationCode, &code),
            client_id: &client.id,
            redirect_uri,
            code_challenge: request.code_challenge.as_ref(),
            login_session: login.id,
            scope: &request.scope,
            audience: request.audience.as_ref().unwrap_or(&default),
            nonce: request.nonce.as_deref(),
            claims: &request.claims.id_token,
            needs_consent: needs_consent(client),
        };
        let now = self.now();
        let given = self.db.create_code(&new, now).await?;
        self.db.use_login_session(login.id, now, self.settings.idle).await?;
        Ok(given.then_some(code))
    }

    /// The tokens that a code gets, once. The second time it gets none, and those of the first time end.
    ///
    /// # Errors
    /// When it gets none.
    pub async fn redeem_code(&self, presented: &PresentedCode<'_>) -> Result<CodeTokens, CannotRedeem> {
        let client = presented.client;
        self.keyring.signing(self.alg_of(client), self.clock.read())?;
        self.keyring.signing(self.id_token_alg_of(client), self.clock.read())?;
        let token = RefreshToken::first(SessionId::generate(self.now()))?;
        let redemption = Redemption {
            digest: &self.hash_key.digest(Purpose::AuthorizationCode, presented.code),
            client_id: &client.id,
            redirect_uri: presented.redirect_uri,
            code_challenge: presented.code_challenge,
            grant: token.sid,
            current_hash: &token.digest(&self.hash_key),
            salt: &new_salt()?,
            device: presented.device,
        };
        let actor = format!("client {}", client.id);
        let begun = self.entry(Event::GrantStarted, token.sid, &actor, "a code was redeemed");
        let reused = self.entry_about(
            String::new(),
            Event::CodeReuseDetected,
            &actor,
            "a code came again after it was redeemed",
        );
        let granted = match self.db.redeem_code(&redemption, self.now(), &begun, &reused).await? {
            Redeemed::Now(granted) => granted,
            Redeemed::Before(grant) => {
                self.have_ended(&[grant], EndedBy::Reuse);
                tracing::warn!(client.id = %client.id, session.sid = %grant, "a code came again after it was redeemed");
                return Err(CannotRedeem::Refused);
            }
            Redeemed::No => return Err(CannotRedeem::Refused),
        };
        let tokens = self.tokens_of(client, &token, granted).await;
        tokens.map_err(|error| {
            // The code is used up, and its tokens were given to no client.
            if !matches!(error, CannotRedeem::Refused) {
                outage::report("the tokens of a redeemed code could not be made", &error);
            }
            CannotRedeem::Refused
        })
    }

    /// The tokens of a grant that was made a moment ago.
    async fn tokens_of(
        &self,
        client: &Client,
        token: &RefreshToken,
        granted: CodeGrant,
    ) -> Result<CodeTokens, CannotRedeem> {
        let found = self.db.family(token.sid, self.now()).await?;
        let (family, now) = found.ok_or(CannotRedeem::Refused)?;
        let login = self
            .db
            .login_session(granted.login_session, now, self.settings.idle)
            .await?;
        // It ended in this moment, or its user was suspended.
        let login = login.ok_or(CannotRedeem::Refused)?;
        let scope = self
            .still_allowed(client, &family.session, &granted.scope)
            .map_err(|_| CannotRedeem::Refused)?;
        let owner = Owner {
            login: granted.login_session,
            user: family.session.user,
            tenant: &family.session.tenant,
            roles: &family.roles,
            client,
            audience: granted.audience.as_str(),
            scope: scope.clone(),
            rest: family.session.expires_at - now,
        };
        let tokens = self.tokens(token, &owner)?;
        let id_token = if scope.contains(OPENID) {
            let nonce = granted.nonce;
            Some(
                self.id_token(&login, &owner, nonce, &granted.claims, &tokens.access_token)
                    .await?,
            )
        } else {
            None
        };
        Ok(CodeTokens {
            grant: token.sid,
            user: owner.user,
            access_token: tokens.access_token,
            expires_in: tokens.expires_in,
            refresh_token: scope.contains(OFFLINE_ACCESS).then_some(tokens.refresh_token),
            scope,
            id_token,
        })
    }
}
