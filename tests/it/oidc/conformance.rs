//! What the certification plans of the OpenID Foundation ask, as docs/conformance.md lists it.
//!
//! The clients are those of the suite: with a secret, and without PKCE unless a module is about it. Each test goes through both response modes
//! and both algorithms of ID tokens.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::Seconds;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::IdTokenClaims;
use keyround::jose::key::{PrivateKey, RsaBits};
use keyround::oauth::authorization::ResponseMode;
use keyround::oauth::client::{Client, ClientKind};
use reqwest::{Method, Response};
use serde_json::{Map, Value, json};

use super::flow::verified;
use super::logout::leave;
use super::party::{
    CALLBACK, VERIFIER, answer_at, answer_of, ask, hidden, leads_to, log_in, own, query, send, userinfo, visit,
};
use crate::auth::visitor::{Site, Visitor, email};
use crate::helpers::{TestApp, answered};
use crate::hostile_tokens::sign;

const SETTINGS: [(&str, &str); 1] = [("keys.algorithms", "RS256, ES256")];
const ISSUER: &str = "http://127.0.0.1:8080";
/// Where the logouts of the suite lead back to: an address without a query.
const LEFT: &str = "https://app.example.com/post_logout_redirect";

/// One client of the suite.
struct RelyingParty<'s> {
    site: &'s Site,
    id: String,
    secret: String,
    mode: ResponseMode,
    algorithm: Algorithm,
}

/// What a client got for a code.
struct Tokens {
    access_token: String,
    id_token: String,
    /// The claims of the ID token.
    id: Value,
    /// The whole answer.
    answer: Value,
}

impl<'s> RelyingParty<'s> {
    async fn register(site: &'s Site, mode: ResponseMode, algorithm: Algorithm, number: usize) -> Self {
        let id = format!("client-{number}-{}-{}", mode.name(), algorithm.name());
        let client = Client {
            kind: ClientKind::Confidential(None),
            is_pkce_optional: true,
            id_token_alg: Some(algorithm),
            post_logout_redirect_uris: vec![LEFT.parse().unwrap()],
            ..own(&id)
        };
        Self {
            secret: site.app.register(&client).await,
            site,
            id,
            mode,
            algorithm,
        }
    }

    /// One for each response mode and each algorithm.
    async fn of_each_kind(site: &'s Site) -> Vec<Self> {
        let mut parties = Vec::new();
        for mode in ResponseMode::ALL {
            for algorithm in Algorithm::ALL {
                parties.push(Self::register(site, mode, algorithm, 1).await);
            }
        }
        parties
    }

    fn query(&self, more: &[(&str, &str)]) -> String {
        // The suite leaves out the mode that is the default.
        let carried = match self.mode {
            ResponseMode::Query => "",
            ResponseMode::FormPost => "form_post",
        };
        let mut members = vec![
            ("scope", "openid"),
            ("code_challenge", ""),
            ("code_challenge_method", ""),
            ("response_mode", carried),
        ];
        members.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        members.extend(more);
        query(&self.id, &members)
    }

    async fn visit(&self, visitor: &mut Visitor<'_>, more: &[(&str, &str)]) -> Response {
        visit(visitor, &self.query(more)).await
    }

    /// The members of the answer that reaches the client.
    async fn answer_of(&self, response: Response) -> Value {
        let answer = match self.mode {
            ResponseMode::Query => answer_of(&response),
            ResponseMode::FormPost => {
                assert_eq!(response.status(), 200);
                assert_eq!(response.headers().get("location"), None, "nothing is in an address");
                posted(&response.text().await.unwrap())
            }
        };
        assert_eq!(answer["iss"], ISSUER);
        answer
    }

    /// The same for a person who has a login session: no page is shown.
    async fn answer(&self, visitor: &mut Visitor<'_>, more: &[(&str, &str)]) -> Value {
        let response = self.visit(visitor, more).await;
        self.answer_of(response).await
    }

    /// The answer after a login on the page that the response shows.
    async fn answer_after_login(&self, visitor: &mut Visitor<'_>, response: Response) -> Value {
        assert_eq!(response.status(), 200, "{:?}", response.headers().get("location"));
        let page = response.text().await.unwrap();
        assert!(page.contains("name=\"password\""), "{page}");
        let next = log_in(visitor, &page, "ada").await.text().await.unwrap();
        let next = leads_to(&next);
        let response = visit(visitor, next.split_once('?').unwrap().1).await;
        self.answer_of(response).await
    }

    /// A request of a browser without a login session.
    async fn log_in(&self, visitor: &mut Visitor<'_>, more: &[(&str, &str)]) -> Value {
        let response = self.visit(visitor, more).await;
        self.answer_after_login(visitor, response).await
    }

    /// Asks the token endpoint by `client_secret_basic`.
    async fn ask(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let request = self.site.app.http.post(format!("{}/oauth2/token", self.site.app.url));
        let answer = answered(request.basic_auth(&self.id, Some(&self.secret)).form(form)).await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn redeem(&self, answer: &Value) -> (u16, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", answer["code"].as_str().unwrap_or_else(|| panic!("{answer}"))),
            ("redirect_uri", CALLBACK),
        ];
        self.ask(&form).await
    }

    /// The tokens for a code, with an ID token that a client may accept.
    async fn tokens(&self, answer: &Value, nonce: Option<&str>) -> Tokens {
        let (status, answer) = self.redeem(answer).await;
        assert_eq!(status, 200, "{answer}");
        self.accept(answer, nonce).await
    }

    /// What a client verifies (OpenID Connect Core 1.0 section 3.1.3.7).
    async fn accept(&self, answer: Value, nonce: Option<&str>) -> Tokens {
        assert_eq!(answer["token_type"], "Bearer");
        assert!(answer["expires_in"].as_i64().unwrap() > 0, "{answer}");
        let token = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        let (access_token, id_token) = (token("access_token"), token("id_token"));
        let header = crate::token::header(&id_token);
        assert_eq!(header["alg"], self.algorithm.name());
        let keys = self.site.app.key_set().await;
        let mut keys = keys["keys"].as_array().unwrap().iter();
        let key = keys
            .find(|key| key["kid"] == header["kid"])
            .expect("the key is published");
        assert_eq!(key["alg"], header["alg"]);
        let id = verified(self.site, &id_token);
        assert_eq!((&id["iss"], &id["aud"]), (&json!(ISSUER), &json!(self.id)));
        assert_eq!(id.get("nonce").and_then(Value::as_str), nonce);
        assert_eq!(id["at_hash"], IdTokenClaims::hash_of(&access_token));
        assert!(!id["sub"].as_str().unwrap().is_empty());
        let time = |name: &str| id[name].as_i64().unwrap_or_else(|| panic!("{id}"));
        assert!(time("auth_time") <= time("iat") && time("iat") < time("exp"), "{id}");
        // Nothing of a person that the request did not ask for.
        let told: BTreeSet<&str> = id.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "iss",
            "sub",
            "aud",
            "exp",
            "iat",
            "auth_time",
            "nonce",
            "acr",
            "amr",
            "azp",
            "sid",
            "at_hash",
            "jti",
            "nbf",
        ];
        assert!(told.is_subset(&expected.into()), "{id}");
        Tokens {
            access_token,
            id_token,
            id,
            answer,
        }
    }

    async fn userinfo(&self, tokens: &Tokens) -> Value {
        let (status, told) = userinfo(self.site, &tokens.access_token).await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["sub"], tokens.id["sub"]);
        told
    }
}

/// The fields of the form that a page posts to the client.
fn posted(page: &str) -> Value {
    assert!(
        page.contains(&format!("<form method=\"post\" action=\"{CALLBACK}\">")),
        "{page}"
    );
    let names = page.split("<input type=\"hidden\" name=\"").skip(1);
    let fields = names.map(|rest| {
        let name = rest.split('"').next().unwrap();
        (name.to_owned(), Value::from(hidden(page, name)))
    });
    fields.collect::<Map<_, _>>().into()
}

/// What every refusal has (RFC 6749 section 4.1.2.1).
fn is_refused(answer: &Value, error: &str, state: &str) {
    assert_eq!((&answer["error"], &answer["state"]), (&json!(error), &json!(state)));
    let names: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(
        names.is_subset(&["error", "error_description", "state", "iss"].into()),
        "{answer}"
    );
    let description = answer["error_description"].as_str().unwrap();
    let is_allowed = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\';
    assert!(description.bytes().all(is_allowed), "{description}");
}

/// The parameter as long as the suite sends it.
fn long_state() -> String {
    "0123456789abcdef".repeat(8)
}

crate::on_both_databases!(a_login_gives_a_code_and_a_sound_id_token, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.log_in(&mut site.visitor(), &[]).await;
        let names: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["code", "iss", "state"].into());
        assert_eq!(answer["state"], "its state");
        // 256 bits in base64url: guessing is hopeless (RFC 6749 section 10.10).
        assert!(answer["code"].as_str().unwrap().len() >= 43, "{answer}");
        let tokens = party.tokens(&answer, Some("its nonce")).await;
        let told = party.userinfo(&tokens).await;
        assert_eq!(told.as_object().unwrap().len(), 1, "{told}");
    }
    site.stop().await;
});

crate::on_both_databases!(a_client_may_send_its_secret_in_the_form, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.answer(&mut ada, &[]).await;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", party.id.as_str()),
            ("client_secret", "wrong"),
            ("code", answer["code"].as_str().unwrap()),
            ("redirect_uri", CALLBACK),
        ];
        let (status, refused) = ask(&site, &form).await;
        assert_eq!((status, &refused["error"]), (401, &json!("invalid_client")));
        form[2].1 = &party.secret;
        let (status, answer) = ask(&site, &form).await;
        assert_eq!(status, 200, "{answer}");
        party.accept(answer, Some("its nonce")).await;
    }
    site.stop().await;
});

crate::on_both_databases!(a_request_needs_a_response_type, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.answer(&mut ada, &[("response_type", "")]).await;
        is_refused(&answer, "invalid_request", "its state");
    }
    site.stop().await;
});

crate::on_both_databases!(a_request_needs_no_nonce, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.log_in(&mut site.visitor(), &[("nonce", "")]).await;
        party.tokens(&answer, None).await;
    }
    site.stop().await;
});

crate::on_both_databases!(
    userinfo_takes_the_access_token_by_get_by_post_and_in_a_form,
    |database| {
        let site = Site::start(database, &SETTINGS).await;
        let mut ada = site.person("ada").await;
        for party in RelyingParty::of_each_kind(&site).await {
            let answer = party.answer(&mut ada, &[("scope", "openid profile email")]).await;
            let tokens = party.tokens(&answer, Some("its nonce")).await;
            let token = tokens.access_token.as_str();
            let expected = json!({
                "sub": tokens.id["sub"], "name": "ada", "email": email("ada"), "email_verified": false,
            });
            let asked = |method| ada.bare(method, "/oauth2/userinfo");
            let address = format!("/oauth2/userinfo?access_token={token}");
            for request in [
                asked(Method::GET).bearer_auth(token),
                asked(Method::POST).bearer_auth(token),
                asked(Method::POST).bearer_auth(token).form(&[("a", "b")]),
                asked(Method::POST).form(&[("access_token", token)]),
            ] {
                let answer = answered(request).await;
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.headers()["content-type"], "application/json");
                assert_eq!(answer.json::<Value>().await.unwrap(), expected);
            }
            // One place, and neither the address nor another kind of body.
            let twice = [("access_token", token), ("access_token", token)];
            for (request, status) in [
                (asked(Method::POST).bearer_auth(token).form(&twice[..1]), 400),
                (asked(Method::POST).form(&twice), 400),
                (asked(Method::POST).form(&[("access_token", "noise")]), 401),
                (
                    asked(Method::POST).form(&[("access_token", tokens.id_token.as_str())]),
                    401,
                ),
                (asked(Method::POST).json(&json!({ "access_token": token })), 401),
                (asked(Method::POST), 401),
                (ada.bare(Method::POST, &address), 401),
                (ada.bare(Method::GET, &address), 401),
            ] {
                assert_eq!(answered(request).await.status(), status);
            }
        }
        site.stop().await;
    }
);

crate::on_both_databases!(each_scope_brings_its_claims, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        // No account has an address or a telephone number, and no client is refused for asking.
        for (scope, granted, claims) in [
            ("openid profile", "openid profile", &["name", "sub"][..]),
            ("openid email", "openid email", &["email", "email_verified", "sub"]),
            ("email openid", "openid email", &["email", "email_verified", "sub"]),
            ("openid address", "openid", &["sub"]),
            ("openid phone", "openid", &["sub"]),
            (
                "openid email phone address profile",
                "openid email profile",
                &["email", "email_verified", "name", "sub"],
            ),
        ] {
            let answer = party.answer(&mut ada, &[("scope", scope)]).await;
            let tokens = party.tokens(&answer, Some("its nonce")).await;
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<String>>();
            assert_eq!(
                words(tokens.answer["scope"].as_str().unwrap()),
                words(granted),
                "{scope}"
            );
            let told = party.userinfo(&tokens).await;
            let names: BTreeSet<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(names, claims.iter().copied().collect(), "{scope}");
        }
    }
    site.stop().await;
});

crate::on_both_databases!(the_order_of_parameters_and_scopes_is_free, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let asked = party.query(&[("scope", "email openid")]);
        let reversed: Vec<&str> = asked.split('&').rev().collect();
        let response = visit(&mut ada, &reversed.join("&")).await;
        let answer = party.answer_of(response).await;
        let tokens = party.tokens(&answer, Some("its nonce")).await;
        assert_eq!(party.userinfo(&tokens).await["email"], email("ada"));
    }
    site.stop().await;
});

crate::on_both_databases!(a_wish_of_a_client_refuses_no_login, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        for (wish, shown) in [
            (("display", "page"), ""),
            (("display", "popup"), ""),
            (("extra", "foobar"), ""),
            (("login_hint", "buffy@127.0.0.1"), "value=\"buffy@127.0.0.1\""),
            (("ui_locales", "se"), "lang=\"en\""),
            (("ui_locales", "se de"), "lang=\"de\""),
            (("claims_locales", "se"), ""),
        ] {
            let mut ada = site.visitor();
            let page = party.visit(&mut ada, &[wish]).await.text().await.unwrap();
            assert!(page.contains(shown), "{wish:?}: {page}");
            let answer = party.log_in(&mut ada, &[wish]).await;
            party.tokens(&answer, Some("its nonce")).await;
        }
    }
    site.stop().await;
});

crate::on_both_databases!(an_id_token_says_a_level_that_was_asked_for, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    let url = format!("{}/.well-known/openid-configuration", site.app.url);
    let metadata: Value = site.app.http.get(url).send().await.unwrap().json().await.unwrap();
    let levels = metadata["acr_values_supported"].as_array().unwrap();
    let levels: Vec<&str> = levels.iter().map(|level| level.as_str().unwrap()).collect();
    for party in RelyingParty::of_each_kind(&site).await {
        let asked = levels.join(" ");
        let answer = party.log_in(&mut site.visitor(), &[("acr_values", &asked)]).await;
        let tokens = party.tokens(&answer, Some("its nonce")).await;
        assert!(levels.contains(&tokens.id["acr"].as_str().unwrap()), "{}", tokens.id);
    }
    site.stop().await;
});

crate::on_both_databases!(a_login_that_is_asked_for_again_is_a_later_one, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        for wish in [("prompt", "login"), ("max_age", "1")] {
            let mut ada = site.visitor();
            let answer = party.log_in(&mut ada, &[]).await;
            // As if it had been a while ago.
            site.raw
                .execute("UPDATE login_sessions SET auth_time = auth_time - 5")
                .await;
            let first = party.tokens(&answer, Some("its nonce")).await;
            let answer = party.log_in(&mut ada, &[wish]).await;
            let second = party.tokens(&answer, Some("its nonce")).await;
            let time = |tokens: &Tokens| tokens.id["auth_time"].as_i64().unwrap();
            assert!(time(&second) > time(&first), "{wish:?}: {}", second.id);
            assert_eq!(second.id["sub"], first.id["sub"]);
        }
    }
    site.stop().await;
});

crate::on_both_databases!(a_login_serves_the_next_request_without_a_page, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let mut ada = site.visitor();
        let answer = party.log_in(&mut ada, &[("max_age", "15000")]).await;
        // As if it had been a while ago.
        site.raw
            .execute("UPDATE login_sessions SET auth_time = auth_time - 5")
            .await;
        let first = party.tokens(&answer, Some("its nonce")).await;
        assert_ne!(first.id["auth_time"], first.id["iat"]);
        let hint = ("id_token_hint", first.id_token.as_str());
        for more in [
            &[("prompt", "none")][..],
            &[("prompt", "none"), hint],
            &[("max_age", "10000")],
        ] {
            let answer = party.answer(&mut ada, more).await;
            let second = party.tokens(&answer, Some("its nonce")).await;
            for claim in ["auth_time", "sub"] {
                assert_eq!(second.id[claim], first.id[claim], "{claim} of {more:?}");
            }
        }
    }
    site.stop().await;
});

crate::on_both_databases!(without_a_login_no_page_is_shown_for_prompt_none, |database| {
    let site = Site::start(database, &SETTINGS).await;
    for party in RelyingParty::of_each_kind(&site).await {
        let state = long_state();
        let asked = [("prompt", "none"), ("state", state.as_str())];
        let answer = party.answer(&mut site.visitor(), &asked).await;
        is_refused(&answer, "login_required", &state);
    }
    site.stop().await;
});

crate::on_both_databases!(a_code_that_comes_again_ends_what_it_got, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        for seconds in [0, 30] {
            let answer = party.answer(&mut ada, &[]).await;
            let tokens = party.tokens(&answer, Some("its nonce")).await;
            party.userinfo(&tokens).await;
            site.raw
                .execute(&format!(
                    "UPDATE authorization_codes SET expires_at = expires_at - {seconds}"
                ))
                .await;
            let (status, refused) = party.redeem(&answer).await;
            assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "{seconds}");
            let (status, _) = userinfo(&site, &tokens.access_token).await;
            assert_eq!(status, 401, "{seconds}");
        }
    }
    site.stop().await;
});

crate::on_both_databases!(no_answer_goes_to_an_address_that_is_not_registered, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let other = format!("{CALLBACK}/0a1B2c3D4e");
        let unsigned = request_object(&party, CALLBACK);
        for more in [
            &[("redirect_uri", other.as_str())][..],
            // Nor when a request object names a good one.
            &[("redirect_uri", other.as_str()), ("request", unsigned.as_str())],
        ] {
            let response = party.visit(&mut ada, more).await;
            assert_eq!(response.status(), 400);
            assert_eq!(response.headers().get("location"), None);
            let page = response.text().await.unwrap();
            assert!(page.contains("did not register the address"), "{page}");
            assert!(!page.contains("<form") && !page.contains(CALLBACK), "{page}");
        }
    }
    site.stop().await;
});

/// A request as an unsigned JWT (OpenID Connect Core 1.0 section 6.1).
fn request_object(party: &RelyingParty<'_>, redirect_uri: &str) -> String {
    let part = |value: &Value| BASE64URL.encode(value.to_string().as_bytes());
    let claims = json!({
        "client_id": party.id, "redirect_uri": redirect_uri, "response_type": "code", "scope": "openid",
        "state": "its state", "nonce": "its nonce",
    });
    format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims))
}

crate::on_both_databases!(a_request_object_is_refused_by_its_name, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let unsigned = request_object(&party, CALLBACK);
        for (request, error) in [
            (("request", unsigned.as_str()), "request_not_supported"),
            (
                ("request_uri", "https://app.example.com/request.jwt"),
                "request_uri_not_supported",
            ),
        ] {
            let answer = party.answer(&mut ada, &[request]).await;
            is_refused(&answer, error, "its state");
        }
    }
    site.stop().await;
});

crate::on_both_databases!(a_request_by_post_succeeds, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let mut ada = site.visitor();
        // The second time the person is logged in, and the form of another site brings no cookie along.
        for is_first in [true, false] {
            let asked = party.query(&[]);
            let form: Vec<(String, String)> = url::form_urlencoded::parse(asked.as_bytes()).into_owned().collect();
            let sent = ada
                .bare(Method::POST, "/oauth2/authorize")
                .header("Origin", "https://app.example.com")
                .header("Sec-Fetch-Site", "cross-site")
                .form(&form);
            let sent = answered(sent).await;
            assert_eq!(sent.status(), 303);
            let location = sent.headers()["location"].to_str().unwrap();
            let response = visit(&mut ada, location.split_once('?').unwrap().1).await;
            let answer = if is_first {
                party.answer_after_login(&mut ada, response).await
            } else {
                party.answer_of(response).await
            };
            party.tokens(&answer, Some("its nonce")).await;
        }
    }
    site.stop().await;
});

crate::on_both_databases!(an_essential_claim_is_at_userinfo, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    let claims = json!({ "userinfo": { "name": { "essential": true } } }).to_string();
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.answer(&mut ada, &[("claims", &claims)]).await;
        let tokens = party.tokens(&answer, Some("its nonce")).await;
        assert_eq!(party.userinfo(&tokens).await["name"], "ada");
    }
    site.stop().await;
});

crate::on_both_databases!(a_refresh_token_is_for_its_client_alone, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let other = RelyingParty::register(&site, party.mode, party.algorithm, 2).await;
        let asked = [("scope", "openid offline_access"), ("prompt", "consent")];
        let mut ada = site.visitor();
        let page = party.visit(&mut ada, &asked).await.text().await.unwrap();
        let next = leads_to(&log_in(&mut ada, &page, "ada").await.text().await.unwrap());
        let page = visit(&mut ada, next.split_once('?').unwrap().1).await;
        let page = page.text().await.unwrap();
        assert!(page.contains("Allow access?"), "{page}");
        let allowed = send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
        let allowed = allowed.text().await.unwrap();
        let answer = match party.mode {
            ResponseMode::Query => answer_at(&leads_to(&allowed)),
            ResponseMode::FormPost => posted(&allowed),
        };
        let first = party.tokens(&answer, Some("its nonce")).await;
        site.app.clock.advance(Seconds(1));
        let refresh = async |party: &RelyingParty<'_>, tokens: &Value| {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
                ("scope", "openid offline_access"),
            ];
            party.ask(&form).await
        };
        let (status, answer) = refresh(&party, &first.answer).await;
        assert_eq!(status, 200, "{answer}");
        // OpenID Connect Core 1.0 section 12.2.
        let second = party.accept(answer, None).await;
        for claim in ["iss", "sub", "aud", "azp", "auth_time"] {
            assert_eq!(second.id[claim], first.id[claim], "{claim}");
        }
        assert_ne!(second.access_token, first.access_token);
        let token = second.answer["refresh_token"].as_str().unwrap();
        assert!(token.len() >= 43 && token.bytes().all(|byte| byte.is_ascii_graphic()));
        party.userinfo(&second).await;
        let (status, refused) = refresh(&other, &second.answer).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    }
    site.stop().await;
});

crate::on_both_databases!(a_challenge_is_taken_from_a_client_that_need_not_send_one, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    let challenge = keyround::jose::jwk::sha256_base64url(VERIFIER.as_bytes());
    let asked = [
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    for party in RelyingParty::of_each_kind(&site).await {
        let answer = party.answer(&mut ada, &asked).await;
        let (status, refused) = party.redeem(&answer).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
        let form = [
            ("grant_type", "authorization_code"),
            ("code", answer["code"].as_str().unwrap()),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        let (status, answer) = party.ask(&form).await;
        assert_eq!(status, 200, "{answer}");
        party.accept(answer, Some("its nonce")).await;
    }
    site.stop().await;
});

crate::on_both_databases!(discovery_has_what_clients_look_for, |database| {
    let issuer = "https://id.example.com";
    let settings = [
        SETTINGS[0],
        ("server.issuer", issuer),
        ("server.trusted_proxies", "127.0.0.1"),
    ];
    let app = TestApp::start_with_clock(&database, &settings, keyround::clock::Clock::system()).await;
    let answer = answered(app.http.get(format!("{}/.well-known/openid-configuration", app.url))).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let metadata: Value = answer.json().await.unwrap();
    assert_eq!(metadata["issuer"], issuer);
    for (name, value) in metadata.as_object().unwrap() {
        if name.ends_with("_endpoint") || name == "jwks_uri" {
            let is_here = value
                .as_str()
                .is_some_and(|url| url.starts_with("https://id.example.com/"));
            assert!(is_here, "{name}: {value}");
        }
    }
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "end_session_endpoint",
        "jwks_uri",
    ] {
        assert!(metadata[name].is_string(), "{name}");
    }
    for (name, value) in [
        ("response_types_supported", "code"),
        ("response_modes_supported", "form_post"),
        ("subject_types_supported", "public"),
        ("id_token_signing_alg_values_supported", "RS256"),
        ("id_token_signing_alg_values_supported", "ES256"),
        ("token_endpoint_auth_methods_supported", "client_secret_basic"),
        ("token_endpoint_auth_methods_supported", "client_secret_post"),
        ("grant_types_supported", "authorization_code"),
        ("grant_types_supported", "refresh_token"),
        ("scopes_supported", "openid"),
        ("claims_supported", "sub"),
        ("code_challenge_methods_supported", "S256"),
        ("ui_locales_supported", "en"),
    ] {
        let values = metadata[name].as_array().unwrap_or_else(|| panic!("{name}"));
        assert!(values.contains(&json!(value)), "{name}");
    }
    // ID tokens without a signature, and request objects: those modules are skipped for a server that says so.
    let algorithms = metadata["id_token_signing_alg_values_supported"].as_array().unwrap();
    assert!(!algorithms.contains(&json!("none")));
    assert!("none".parse::<Algorithm>().is_err());
    for name in ["request_parameter_supported", "request_uri_parameter_supported"] {
        assert_eq!(metadata[name], false, "{name}");
    }
    let keys = app.key_set().await;
    let keys = keys["keys"].as_array().unwrap();
    let kids: BTreeSet<&str> = keys.iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(kids.len(), keys.len(), "each key has a name of its own");
    for key in keys {
        assert_eq!(key["use"], "sig");
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert_eq!(key.get(private), None, "{private}");
        }
    }
    app.running.stop().await;
});

/// A person who logs in, and the tokens of that login.
async fn logged_in<'s>(party: &RelyingParty<'s>) -> (Visitor<'s>, Tokens) {
    let mut ada = party.site.visitor();
    let answer = party.log_in(&mut ada, &[]).await;
    let tokens = party.tokens(&answer, Some("its nonce")).await;
    (ada, tokens)
}

crate::on_both_databases!(a_logout_leads_back_with_the_state_that_was_sent, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    let state = long_state();
    for party in RelyingParty::of_each_kind(&site).await {
        for (sent, expected) in [
            (&[("state", state.as_str())][..], format!("{LEFT}?state={state}")),
            (&[], LEFT.to_owned()),
        ] {
            let (mut ada, tokens) = logged_in(&party).await;
            let mut asked = vec![
                ("id_token_hint", tokens.id_token.as_str()),
                ("post_logout_redirect_uri", LEFT),
            ];
            asked.extend(sent);
            let left = leave(&mut ada, &asked).await;
            assert_eq!(left.status(), 303);
            assert_eq!(left.headers()["location"], expected.as_str());
            let answer = party.answer(&mut ada, &[("prompt", "none")]).await;
            is_refused(&answer, "login_required", "its state");
            assert_eq!(
                userinfo(&site, &tokens.access_token).await.0,
                401,
                "the login session has ended"
            );
        }
    }
    site.stop().await;
});

crate::on_both_databases!(a_logout_leads_nowhere_that_is_not_proved, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let (mut ada, tokens) = logged_in(&party).await;
        let signed = tokens.id_token.as_str();
        let payload = signed.split('.').nth(1).unwrap();
        let header = BASE64URL.encode(b"{\"alg\":\"none\"}");
        let unsigned = format!("{header}.{payload}.");
        // Signed by a key of the client's own.
        let key = PrivateKey::generate(party.algorithm, RsaBits::Bits2048).unwrap();
        let forged = sign(&key, &crate::token::header(signed).to_string(), &tokens.id.to_string());
        let (other, more) = (format!("{LEFT}/other"), format!("{LEFT}?foo=bar"));
        for (hint, uri) in [
            (signed, other.as_str()),
            (signed, more.as_str()),
            (unsigned.as_str(), LEFT),
            (forged.as_str(), LEFT),
            ("", LEFT),
        ] {
            let mut asked = vec![("post_logout_redirect_uri", uri), ("state", "its state")];
            if !hint.is_empty() {
                asked.push(("id_token_hint", hint));
            }
            let refused = leave(&mut ada, &asked).await;
            assert_eq!(refused.status(), 400, "{uri}");
            assert_eq!(refused.headers().get("location"), None, "{uri}");
            let page = refused.text().await.unwrap();
            assert!(!page.contains(LEFT), "{page}");
            let answer = party.answer(&mut ada, &[("prompt", "none")]).await;
            assert!(answer["code"].is_string(), "nothing has ended: {answer}");
        }
    }
    site.stop().await;
});

crate::on_both_databases!(a_logout_without_an_address_ends_on_a_page, |database| {
    let site = Site::start(database, &SETTINGS).await;
    site.register("ada").await;
    for party in RelyingParty::of_each_kind(&site).await {
        let (mut ada, mut tokens) = logged_in(&party).await;
        for names in [&["id_token_hint", "state"][..], &["state"], &[]] {
            let values = [("id_token_hint", tokens.id_token.as_str()), ("state", "its state")];
            let asked: Vec<(&str, &str)> = values.into_iter().filter(|(name, _)| names.contains(name)).collect();
            let mut page = leave(&mut ada, &asked).await.text().await.unwrap();
            if !names.contains(&"id_token_hint") {
                // Any page can lead here, so the person is asked.
                assert!(page.contains("Log out?"), "{page}");
                let answer = party.answer(&mut ada, &[("prompt", "none")]).await;
                assert!(answer["code"].is_string(), "{answer}");
                page = send(&mut ada, "/oauth2/logout/confirm", &page, &[])
                    .await
                    .text()
                    .await
                    .unwrap();
            }
            assert!(page.contains("You are logged out"), "{page}");
            let answer = party.answer(&mut ada, &[("prompt", "none")]).await;
            is_refused(&answer, "login_required", "its state");
            assert_eq!(
                userinfo(&site, &tokens.access_token).await.0,
                401,
                "the login session has ended"
            );
            let answer = party.log_in(&mut ada, &[]).await;
            tokens = party.tokens(&answer, Some("its nonce")).await;
        }
    }
    site.stop().await;
});
