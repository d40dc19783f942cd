//! Whose pages may ask.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::helpers::TestDatabase;

use super::visitor::{PASSWORD, Site, email, refused, told};

const OWN: &str = "https://id.example.com";
const LISTED: &str = "https://app.example.com";

const SETTINGS: [(&str, &str); 4] = [
    ("server.issuer", OWN),
    ("server.behind_tls_proxy", "true"),
    ("server.trusted_proxies", "127.0.0.1"),
    (
        "accounts.allowed_origins",
        "https://app.example.com,capacitor://localhost",
    ),
];

crate::on_both_databases!(a_page_of_another_origin_can_do_nothing_with_cookies, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let mut ada = site.person("ada").await;
    let csrf = ada.csrf().await;
    let login = json!({ "email": email("ada"), "password": PASSWORD });
    let strange: [&[(&str, &str)]; 11] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "https://id.example.com.evil.example")],
        &[("Origin", "https://id.example.com:8443")],
        &[("Origin", "http://id.example.com")],
        &[("Origin", "https://APP.example.com")],
        &[("Origin", LISTED), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Origin", OWN), ("Sec-Fetch-Site", "cross-site")],
        &[("Referer", "https://evil.example/page?https://id.example.com")],
        &[("Referer", "about:blank")],
    ];
    for headers in strange {
        for (path, body) in [
            ("/auth/login", Some(&login)),
            ("/auth/refresh", None),
            ("/auth/logout", None),
            ("/auth/logout-all", None),
        ] {
            let mut request = ada
                .with_cookies(Method::POST, path)
                .bearer_auth(&ada.access_token)
                .header("X-CSRF-Token", &csrf);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = told(request.send().await.unwrap()).await;
            assert_eq!(answer, refused(403, "cross_site"), "{path} {headers:?}");
        }
    }
    // Nothing was ended or used up, and pages of ours may.
    let own: [&[(&str, &str)]; 6] = [
        &[],
        &[("Origin", OWN), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", LISTED), ("Sec-Fetch-Site", "same-site")],
        &[("Origin", LISTED)],
        &[("Referer", "https://id.example.com/page")],
        &[("Sec-Fetch-Site", "none")],
    ];
    for headers in own {
        let mut request = ada
            .with_cookies(Method::POST, "/auth/refresh")
            .header("X-CSRF-Token", &csrf);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{headers:?}");
        ada.keep(answer.headers());
    }
    site.stop().await;
});

fn cors(headers: &HeaderMap) -> Vec<(String, String)> {
    let named = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"));
    named
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_listed_origins_read_answers_and_no_origin_is_reflected() {
    let site = Site::start(TestDatabase::sqlite(), &SETTINGS).await;
    let ada = site.person("ada").await;
    for (method, path) in [
        (Method::GET, "/auth/me"),
        (Method::GET, "/auth/csrf"),
        (Method::GET, "/auth/sessions"),
        (Method::POST, "/auth/login"),
        (Method::POST, "/auth/refresh"),
        (Method::DELETE, "/auth/sessions/nonsense"),
    ] {
        let ask = |method: &Method, origin: Option<&str>| {
            let mut request = ada.bearer(method.clone(), path);
            if let Some(origin) = origin {
                request = request.header("Origin", origin);
            }
            request.header("Access-Control-Request-Method", method.as_str()).send()
        };
        let answer = ask(&method, Some(LISTED)).await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], LISTED, "{path}");
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
        assert!(answer.headers().get_all("vary").iter().any(|value| value == "Origin"));
        let preflight = ask(&Method::OPTIONS, Some(LISTED)).await.unwrap();
        assert_eq!(preflight.status(), 204, "{path}");
        assert_eq!(preflight.headers()["access-control-allow-origin"], LISTED);
        assert_eq!(preflight.headers()["access-control-allow-credentials"], "true");
        // The web view of an app.
        let app = ask(&Method::OPTIONS, Some("capacitor://localhost")).await.unwrap();
        assert_eq!(
            app.headers()["access-control-allow-origin"],
            "capacitor://localhost",
            "{path}"
        );
        let methods = preflight.headers()["access-control-allow-methods"].to_str().unwrap();
        assert!(
            methods.split(", ").any(|known| known == method.as_str()),
            "{path}: {methods}"
        );
        let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap();
        assert_eq!(allowed, "Authorization, Content-Type, X-CSRF-Token");

        for origin in [
            "null",
            "https://evil.example",
            "https://app.example.com.evil.example",
            "capacitor://localhost.evil.example",
            "ionic://localhost",
            OWN,
            "*",
            "",
        ] {
            let answer = ask(&method, Some(origin)).await.unwrap();
            assert_eq!(cors(answer.headers()), [], "{path} from {origin}");
            assert!(answer.headers().get_all("vary").iter().any(|value| value == "Origin"));
            let preflight = ask(&Method::OPTIONS, Some(origin)).await.unwrap();
            assert_eq!(cors(preflight.headers()), [], "{path} from {origin}");
            assert_eq!(
                told(preflight).await,
                refused(403, "cross_site"),
                "{path} from {origin}"
            );
        }
        assert_eq!(cors(ask(&method, None).await.unwrap().headers()), [], "{path}");
        // No browser: it asks for the methods (RFC 9110 section 9.3.7).
        let options = ask(&Method::OPTIONS, None).await.unwrap();
        assert_eq!(options.status(), 204, "{path}");
        let allow = options.headers()["allow"].to_str().unwrap();
        assert_eq!(allow, format!("{methods}, OPTIONS"), "{path}");
        assert_eq!(cors(options.headers()), [], "{path}");
    }
    site.stop().await;
}

// A cookie is sent whether or not its owner means it; a token in the header is not.
crate::on_both_databases!(endpoints_for_bearers_ignore_cookies, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    ada.csrf().await;
    for (method, path) in [
        (Method::GET, "/auth/me"),
        (Method::GET, "/auth/sessions"),
        (Method::GET, "/auth/verify/default"),
        (Method::DELETE, "/auth/sessions/019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b"),
    ] {
        let answer = ada.with_cookies(method, path).send().await.unwrap();
        assert_eq!(told(answer).await, refused(401, "token_missing"), "{path}");
    }
    for path in ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"] {
        let form = [
            ("grant_type", "client_credentials"),
            ("token", ada.access_token.as_str()),
        ];
        let answer = ada.with_cookies(Method::POST, path).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    site.stop().await;
});
