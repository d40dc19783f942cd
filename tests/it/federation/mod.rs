//! Logins with other OpenID providers: with the real npm `oidc-provider`, and with an upstream of our own that does what no
//! honest one can be made to do.

mod bad_days;
mod changes;
mod commands;
mod crooked;
mod directories;
mod entra;
mod http;
mod real;
mod refusals;
mod rows;
mod unreachable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyround::accounts::user::User;
use keyround::app::Foundation;
use keyround::clock::{Clock, Reading};
use keyround::config::Config;
use keyround::logins::federated::{Confirmed, FederatedLogins, NotLoggedIn, Returned};
use keyround::outbound::Outbound;
use keyround::outbound::providers::{ProviderError, Providers};
use keyround::store::Db;
use url::Url;

use crate::client_assertions::keyround;
use crate::helpers::{TestDatabase, config};
use crate::process::Serving;
use crate::rows::Raw;

/// Our secret at every provider, with characters that a careless encoding would break.
const CLIENT_SECRET: &str = "a secret+with%every:thing&";

/// What logs people in, on one database.
struct Site {
    database: TestDatabase,
    db: Db,
    clock: Clock,
    logins: FederatedLogins,
}

/// A server of its own process with the provider `acme`, and with one more variable.
async fn serve(database: &TestDatabase, upstream: &crooked::Upstream, more: (&str, &str)) -> Serving {
    create(database, "acme", &upstream.issuer, &[]);
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_OUTBOUND__CA_FILE", upstream.ca_file.to_str().unwrap()),
        ("KEYROUND_OUTBOUND__ALLOWED_NETWORKS", "127.0.0.0/8,::1"),
        more,
    ];
    let db = database.open().await;
    db.ensure_default_tenant(Clock::system().read().wall).await.unwrap();
    db.close().await;
    Serving::start(database.folder.path(), &variables, &["serve"])
}

impl Site {
    /// With a provider `acme` of this issuer, whose certificate this authority signed.
    async fn new(database: TestDatabase, ca_file: &Path, issuer: &str, more: &[&str]) -> Self {
        Self::with_settings(database, ca_file, issuer, more, &[]).await
    }

    async fn with_settings(
        database: TestDatabase,
        ca_file: &Path,
        issuer: &str,
        more: &[&str],
        settings: &[(&str, &str)],
    ) -> Self {
        let outbound = [
            ("outbound.ca_file", ca_file.to_str().unwrap()),
            ("outbound.allowed_networks", "127.0.0.0/8,::1"),
        ];
        let config: Config = config(&database, &[&outbound, settings].concat());
        let clock = Clock::system();
        let foundation = Foundation::open(&config, clock.clone()).await.unwrap();
        create(&database, "acme", issuer, more);
        let db = foundation.rotator.db.clone();
        db.ensure_default_tenant(clock.read().wall).await.unwrap();
        let logins = FederatedLogins {
            db: db.clone(),
            providers: Providers::new(Outbound::new(&config.outbound).unwrap()),
            hash_key: Arc::new(foundation.hash_key),
            master_keys: foundation.rotator.master_key,
            issuer: config.server.issuer,
            allowed_origins: config.accounts.allowed_origins,
            registration: config.accounts.logins.registration,
        };
        Self {
            database,
            db,
            clock,
            logins,
        }
    }

    fn now(&self) -> Reading {
        self.clock.read()
    }

    /// As after a restart: nothing that the provider published is cached.
    fn forget_what_was_fetched(&mut self, ca_file: &Path) {
        let outbound = keyround::config::OutboundSettings {
            ca_file: Some(ca_file.to_owned()),
            allowed_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        };
        self.logins.providers = Providers::new(Outbound::new(&outbound).unwrap());
    }

    /// Where the browser is sent; the browser keeps what it is given.
    async fn begin(&self, browser: &mut Browser) -> Result<Url, &'static str> {
        let secret = browser.secret.as_deref();
        let begun = self.logins.begin("acme", Some("/home"), secret, None, self.now()).await;
        let begun = begun.map_err(|error| code(&error))?;
        browser.secret = Some(begun.secrets.browser.to_string());
        Ok(begun.url)
    }

    /// Brings back what a provider answered.
    async fn finish(&self, browser: &Browser, callback: &Url) -> Result<Confirmed, &'static str> {
        let returned = Returned {
            provider: "acme",
            query: callback.query().unwrap(),
            browser: browser.secret.as_deref(),
        };
        let finished = self.logins.finish(&returned, self.now()).await;
        finished.map_err(|error| code(&error))
    }

    /// A whole login; answers with whose account it is.
    async fn login(&self, browser: &mut Browser) -> Result<User, &'static str> {
        let url = self.begin(browser).await?;
        let callback = browser.log_in(url).await;
        Ok(self.finish(browser, &callback).await?.user.user)
    }

    /// How many accounts there are, and how many people at providers are known.
    async fn counts(&self) -> (i64, i64) {
        let raw = Raw::open(&self.database).await;
        let users = raw.number("SELECT COUNT(*) FROM users").await;
        let identities = raw.number("SELECT COUNT(*) FROM federated_identities").await;
        raw.close().await;
        (users, identities)
    }

    async fn execute(&self, statement: &str) {
        let raw = Raw::open(&self.database).await;
        raw.execute(statement).await;
        raw.close().await;
    }
}

/// The reason in one word, as it is answered.
const fn code(error: &NotLoggedIn) -> &'static str {
    match error {
        NotLoggedIn::UnknownProvider => "provider_unknown",
        NotLoggedIn::ReturnTo(_) | NotLoggedIn::Callback(_) => "invalid_request",
        NotLoggedIn::State => "state_invalid",
        NotLoggedIn::Denied => "federation_denied",
        NotLoggedIn::Refused
        | NotLoggedIn::Issuer
        | NotLoggedIn::Provider(ProviderError::Refused(_))
        | NotLoggedIn::IdToken(_)
        | NotLoggedIn::Claims(_) => "federation_failed",
        NotLoggedIn::Unavailable | NotLoggedIn::Provider(_) => "provider_unavailable",
        NotLoggedIn::EmailNotVerified(_) => "email_not_verified",
        NotLoggedIn::AccountExists => "account_exists",
        NotLoggedIn::RegistrationClosed => "registration_closed",
        NotLoggedIn::Suspended => "account_suspended",
        NotLoggedIn::Secret(_) | NotLoggedIn::Randomness(_) | NotLoggedIn::NoSecret | NotLoggedIn::Store(_) => {
            "temporarily_unavailable"
        }
    }
}

fn secret_file(database: &TestDatabase) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let file = database.folder.path().join("client-secret");
    std::fs::write(&file, format!("{CLIENT_SECRET}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Registers a provider by the command line.
fn create(database: &TestDatabase, name: &str, issuer: &str, more: &[&str]) {
    let file = secret_file(database);
    let create = [
        "providers",
        "create",
        name,
        "--issuer",
        issuer,
        "--client-id",
        "keyround",
    ];
    let secret = ["--client-secret-file", file.to_str().unwrap()];
    let (code, _, err) = keyround(database, &[&create[..], &secret, more].concat());
    assert_eq!(code, 0, "{err}");
}

/// A browser, as far as a login needs one, and the person before it.
struct Browser {
    http: reqwest::Client,
    /// Our own cookie.
    secret: Option<String>,
    /// The provider's cookies.
    jar: BTreeMap<String, String>,
    /// Who types a name and a password at the provider; none presses "cancel".
    person: Option<&'static str>,
}

impl Browser {
    fn new(ca_file: &Path, person: impl Into<Option<&'static str>>) -> Self {
        let authority = reqwest::Certificate::from_pem(&std::fs::read(ca_file).unwrap()).unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge([authority])
            .build()
            .unwrap();
        Self {
            http,
            secret: None,
            jar: BTreeMap::new(),
            person: person.into(),
        }
    }

    /// Goes where it is sent, until it is sent back to us.
    async fn log_in(&mut self, mut url: Url) -> Url {
        let provider = url.origin();
        while url.origin() == provider {
            let cookies: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut request = self.http.get(url.clone()).header("Cookie", cookies.join("; "));
            if let Some(person) = self.person {
                request = request.header("X-Account", person);
            }
            let answer = request.send().await.unwrap();
            for cookie in answer.headers().get_all("set-cookie") {
                let (pair, _) = cookie.to_str().unwrap().split_once(';').unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                self.jar.insert(name.to_owned(), value.to_owned());
            }
            let location = answer.headers().get("location");
            let location = location.unwrap_or_else(|| panic!("{url} leads nowhere: {}", answer.status()));
            url = url.join(location.to_str().unwrap()).unwrap();
        }
        url
    }
}

/// The value of a parameter of an address.
fn parameter(url: &Url, name: &str) -> String {
    let found = url.query_pairs().find(|(given, _)| given == name);
    found.unwrap_or_else(|| panic!("{url} has no {name}")).1.into_owned()
}
