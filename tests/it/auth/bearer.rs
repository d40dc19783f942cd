//! Access tokens in the header `Authorization` (RFC 6750), and what gateways are told.

use keyround::oauth::client::Client;
use keyround::store::clients::ClientChange;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::helpers::TestDatabase;
use crate::token::{change, client, register};

use super::visitor::{Site, email, refused, told};

/// What the header `WWW-Authenticate` says.
fn challenge(answer: &Response) -> &str {
    answer.headers()["www-authenticate"].to_str().unwrap()
}

// RFC 6750 section 2: a token in the address would be logged.
crate::on_both_databases!(a_token_comes_in_the_header_and_nowhere_else, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let token = &ada.access_token;
    for path in ["/auth/me", "/auth/sessions", "/auth/verify/default"] {
        let bare = || ada.bare(Method::GET, path);
        for request in [
            bare(),
            bare().header("Authorization", ""),
            bare().header("Authorization", "Bearer"),
            bare().header("Authorization", "Bearer "),
            bare().header("Authorization", token.as_str()),
            bare().basic_auth("ada", Some(token)),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(challenge(&answer), r#"Bearer realm="keyround""#);
            assert_eq!(told(answer).await, refused(401, "token_missing"), "{path}");
        }
        let twice = bare()
            .bearer_auth(token)
            .header("Authorization", format!("Bearer {token}"));
        assert_eq!(
            told(twice.send().await.unwrap()).await,
            refused(400, "invalid_request"),
            "{path}"
        );
        // The address that a gateway asks may end with its visitor's, so there the query is not read at all.
        let is_gateways = path == "/auth/verify/default";
        let in_address = || ada.bare(Method::GET, &format!("{path}?access_token={token}"));
        let alone = if is_gateways {
            refused(401, "token_missing")
        } else {
            refused(400, "invalid_request")
        };
        assert_eq!(told(in_address().send().await.unwrap()).await, alone, "{path}");
        let besides = in_address().bearer_auth(token).send().await.unwrap();
        assert_eq!(besides.status(), if is_gateways { 200 } else { 400 }, "{path}");
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let request = bare().header("Authorization", format!("{scheme} {token}"));
            assert_eq!(request.send().await.unwrap().status(), 200, "{path} {scheme}");
        }
        let answer = bare().bearer_auth("garbage").send().await.unwrap();
        assert!(challenge(&answer).starts_with(r#"Bearer realm="keyround", error="invalid_token""#));
    }
    site.stop().await;
});

crate::on_both_databases!(the_account_is_shown_as_it_is_now, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let claims = crate::token::claims(&ada.access_token);
    for name in ["email", "name", "email_verified"] {
        assert!(claims.get(name).is_none(), "{claims}");
    }
    site.raw
        .execute("UPDATE users SET roles = 'admin reader', email_verified_at = 7")
        .await;
    let answer = ada.bearer(Method::GET, "/auth/me").send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let me: Value = answer.json().await.unwrap();
    let expected = json!({
        "sub": claims["sub"], "email": email("ada"), "email_verified": true, "name": "ada", "tenant": "default",
        "roles": ["admin", "reader"], "created_at": me["created_at"],
    });
    assert_eq!(me, expected);
    assert!(me["created_at"].is_i64());
    site.raw.execute("DELETE FROM users").await;
    assert_eq!(ada.me().await, refused(401, "token_invalid"));
    site.stop().await;
});

crate::on_both_databases!(a_clients_token_is_no_persons, |database| {
    let settings = [("accounts.audience", "https://api.example.com")];
    let site = Site::start(database, &settings).await;
    let secret = register(&site.app, &client("billing")).await;
    let mut billing = site.visitor();
    billing.access_token = site.app.token("billing", &secret).await;
    let answer = billing.bearer(Method::GET, "/auth/me").send().await.unwrap();
    assert!(challenge(&answer).starts_with(r#"Bearer realm="keyround", error="insufficient_scope""#));
    assert_eq!(told(answer).await, refused(403, "insufficient_scope"));
    // Gateways let both through, and tell services who it is.
    assert_eq!(billing.verify().await, 200);
    site.stop().await;
});

/// What gateways require in these tests; semicolons separate policies.
const POLICIES: [(&str, &str); 1] = [(
    "forward_auth.policies",
    "default; admins role=admin; staff role=owner role=reader; owners role=owner; people-read scope=read; \
     api audience=https://api.example.com; api-read audience=https://api.example.com scope=read; \
     api-all audience=https://api.example.com scope=write scope=read; api-admin audience=https://api.example.com role=admin; \
     api-delete audience=https://api.example.com scope=read scope=delete; api-prefix audience=https://api.example.com scope=rea",
)];

/// Asks in the name of a gateway; `rest` is what follows `/auth/verify`.
async fn verify(site: &Site, token: &str, rest: &str) -> Response {
    let mut visitor = site.visitor();
    token.clone_into(&mut visitor.access_token);
    let path = format!("/auth/verify{rest}");
    visitor.bearer(Method::GET, &path).send().await.unwrap()
}

crate::on_both_databases!(a_gateway_is_told_who_asks, |database| {
    let site = Site::start(database, &POLICIES).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'admin reader'").await;
    ada.refresh().await;
    let answer = verify(&site, &ada.access_token, "/default").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let claims = crate::token::claims(&ada.access_token);
    let told_of = |answer: &Response| {
        ["subject", "client", "session", "tenant", "roles", "scope"]
            .map(|name| answer.headers()[&format!("x-auth-{name}")].to_str().unwrap().to_owned())
    };
    let subject = claims["sub"].as_str().unwrap();
    assert_eq!(
        told_of(&answer),
        [subject, "first-party", &ada.sid, "default", "admin reader", ""]
    );
    assert_eq!(answer.text().await.unwrap(), "");

    // A service's own token, for its own audience.
    let secret = register(&site.app, &client("billing")).await;
    let token = site.app.token("billing", &secret).await;
    assert_eq!(
        told(verify(&site, &token, "/default").await).await,
        refused(401, "token_invalid")
    );
    let answer = verify(&site, &token, "/api").await;
    assert_eq!(told_of(&answer), ["billing", "billing", "", "", "", "read write"]);
    assert_eq!(
        told(verify(&site, &ada.access_token, "/api").await).await,
        refused(401, "token_invalid")
    );
    site.stop().await;
});

crate::on_both_databases!(a_policy_asks_for_scope_and_role, |database| {
    let site = Site::start(database, &POLICIES).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'admin reader'").await;
    ada.refresh().await;
    let secret = register(&site.app, &client("billing")).await;
    let service = site.app.token("billing", &secret).await;
    let enough = [
        (&ada.access_token, "/admins"),
        (&ada.access_token, "/staff"),
        (&service, "/api-read"),
        (&service, "/api-all"),
    ];
    for (token, policy) in enough {
        assert_eq!(verify(&site, token, policy).await.status(), 200, "{policy}");
    }
    let too_little = [
        (&ada.access_token, "/owners"),
        (&ada.access_token, "/people-read"),
        (&service, "/api-admin"),
        (&service, "/api-delete"),
        (&service, "/api-prefix"),
    ];
    for (token, policy) in too_little {
        let answer = verify(&site, token, policy).await;
        assert_eq!(told(answer).await, refused(403, "insufficient_scope"), "{policy}");
    }
    site.stop().await;
});

/// Sends an address as it stands here, which no client library does, and answers with the status.
async fn raw_status(site: &Site, token: &str, address: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let host = site.app.url.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(host).await.unwrap();
    let request =
        format!("GET {address} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}

crate::on_both_databases!(nothing_behind_a_policys_name_changes_what_is_asked, |database| {
    let site = Site::start(database, &POLICIES).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'reader'").await;
    ada.refresh().await;
    let token = &ada.access_token;
    // What a visitor can write behind it: Envoy appends the path and the query.
    let visitors = [
        "",
        "/",
        "?",
        "?role=reader",
        "?role=admin&for=/admin&role=reader",
        "?audience=https://api.example.com&scope=&scope=read&access_token=x",
        "/orders?audience=x&role=reader",
        "/../default",
        "/../../default",
        "/..%2fdefault",
        "/%2e%2e/default",
        "/./../default",
        "//default",
        "/;/default",
        "/default",
        "/auth/verify/default",
        "/%00/default",
        "/%zz?%zz",
        "/a/b/c/d/e/f?x=/auth/verify/default",
        "?/auth/verify/default",
        "/{policy}/{rest}*",
    ];
    for rest in visitors {
        assert_eq!(
            raw_status(&site, token, &format!("/auth/verify/admins{rest}")).await,
            403,
            "{rest}"
        );
        assert_eq!(
            raw_status(&site, token, &format!("/auth/verify/staff{rest}")).await,
            200,
            "{rest}"
        );
    }
    // Another spelling of a name is no policy, and neither is a name with more.
    for address in [
        "/auth/verify/%64efault",
        "/auth/verify/Default",
        "/auth/verify/default%2f",
        "/auth/verify/default%20",
        "/auth/verify/default;role=reader",
        "/auth/verify/default;",
        "/auth/verify/default,staff",
        "/auth/verify/staff*",
        "/auth/verify/nothing",
        "/auth/verify//default",
        "/auth/verify/",
        "/auth/verify/./default",
        "/auth/verify/x/../default",
        "/auth/%76erify/default",
        "/auth/verify;x/default",
    ] {
        assert_eq!(raw_status(&site, token, address).await, 404, "{address}");
    }
    // The address of versions before is refused with what to write.
    for query in ["", "?role=reader", "?audience=http%3A%2F%2F127.0.0.1%3A8080"] {
        let answer = verify(&site, token, query).await;
        assert_eq!(answer.status(), 404);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "policy_unknown");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("/auth/verify/POLICY") && detail.contains("forward_auth.policies"),
            "{detail}"
        );
    }
    let answer = verify(&site, token, "/nothing").await;
    assert_eq!(told(answer).await, refused(404, "policy_unknown"));
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_asked_for_below_the_issuers_path() {
    let settings = [
        ("server.issuer", "http://127.0.0.1:8080/tenants/acme"),
        ("forward_auth.policies", "staff role=reader"),
    ];
    let site = Site::start(TestDatabase::sqlite(), &settings).await;
    for (address, status) in [
        ("/tenants/acme/auth/verify/staff/tenants/acme/auth/verify/open", 401),
        ("/tenants/acme/auth/verify/default", 404),
        ("/auth/verify/staff", 404),
    ] {
        assert_eq!(raw_status(&site, "x", address).await, status, "{address}");
    }
    site.stop().await;
}

crate::on_both_databases!(a_disabled_client_passes_no_gateway, |database| {
    let site = Site::start(database, &[("accounts.audience", "https://api.example.com")]).await;
    let billing: Client = client("billing");
    let secret = register(&site.app, &billing).await;
    let token = site.app.token("billing", &secret).await;
    assert_eq!(verify(&site, &token, "/default").await.status(), 200);
    change(&site.app, "billing", ClientChange::Disable).await;
    site.app.until_clients_are_read_anew().await;
    assert_eq!(
        told(verify(&site, &token, "/default").await).await,
        refused(401, "token_invalid")
    );
    site.stop().await;
});
