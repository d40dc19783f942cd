//! What holds for every answer, and for requests that are none.

use std::time::Duration;

use crate::helpers::{TestApp, TestDatabase};
use crate::raw::{Answer, Connection};

const KEY_SET: &str = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n";

fn ask(url: &str, request: &str) -> Option<Answer> {
    let mut connection = Connection::open(url);
    connection.send(request);
    connection.answer()
}

/// The headers that browsers act on are on every answer, errors too.
async fn check_every_answer(issuer: &str, hsts: Option<&str>) {
    let settings = [
        ("server.issuer", issuer),
        ("server.behind_tls_proxy", "true"),
        ("server.trusted_proxies", "127.0.0.1"),
    ];
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &settings).await;
    let long = "x".repeat(20_000);
    let wide = "x".repeat(33_000);
    let many = "X-Many: 1\r\n".repeat(200);
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length";
    let public = [
        (200, "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (304, format!("{KEY_SET}If-None-Match: *\r\n\r\n")),
        (
            204,
            "OPTIONS /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            405,
            "DELETE /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            200,
            "GET /.well-known/openid-configuration HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (404, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (405, "GET /oauth2/token HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (
            415,
            "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            401,
            format!("POST /oauth2/token HTTP/1.1\r\nHost: a\r\n{form}: 0\r\n\r\n"),
        ),
        (
            413,
            format!("POST /oauth2/token HTTP/1.1\r\nHost: a\r\n{form}: 20000\r\n\r\n{long}"),
        ),
        (431, format!("{KEY_SET}X-Wide: {wide}\r\n\r\n")),
        (431, format!("{KEY_SET}{many}\r\n")),
        (431, format!("{KEY_SET}X-Wide: {wide}{wide}{wide}{wide}\r\n\r\n")),
        (400, format!("{KEY_SET}Broken header\r\n\r\n")),
    ];
    let admin = [
        (200, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (200, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (405, "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (404, "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
    ];
    let all = public
        .iter()
        .map(|(status, request)| (&app.url, *status, request))
        .chain(admin.iter().map(|(status, request)| (&app.admin_url, *status, request)));
    for (url, status, request) in all {
        let what = &request[..request.len().min(80)];
        let answer = ask(url, request).unwrap();
        assert_eq!(answer.status(), status, "{what}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
        let csp = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(answer.header("content-security-policy"), Some(csp), "{what}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{what}");
        assert_eq!(answer.header("strict-transport-security"), hsts, "{what}");
        assert_eq!(answer.header("server"), None, "{what}");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_carries_the_protective_headers() {
    check_every_answer("http://127.0.0.1:8080", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_issuer_promises_https_for_a_year() {
    check_every_answer("https://id.example.com", Some("max-age=31536000")).await;
}

/// The members of a refusal, in the form that the endpoint promises.
fn refusal(answer: &Answer, path: &str) -> String {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let content_type = answer.header("content-type").unwrap();
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    if path.contains("/oauth2/") {
        assert_eq!(content_type, "application/json", "{path}");
        assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()));
        body["error"].as_str().unwrap().to_owned()
    } else {
        assert_eq!(content_type, "application/problem+json", "{path}");
        assert_eq!(body["status"], answer.status(), "{path}");
        assert!(body["detail"].as_str().is_some_and(|text| !text.is_empty()));
        body["code"].as_str().unwrap().to_owned()
    }
}

const PATHS: [&str; 5] = [
    "/.well-known/jwks.json",
    "/auth/me",
    "/nothing",
    "/oauth2/token",
    "/oauth2/introspect?a=b",
];

/// RFC 6585 section 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_beyond_the_setting_or_too_many_are_refused_in_the_promised_form() {
    let database = TestDatabase::sqlite();
    for (settings, most) in [(&[][..], 32_768), (&[("server.max_header_bytes", "8192")][..], 8_192)] {
        let app = TestApp::start(&database, settings).await;
        let wide = |path: &str, length: usize| {
            let wide = "x".repeat(length);
            ask(
                &app.url,
                &format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-Wide: {wide}\r\n\r\n"),
            )
            .unwrap()
        };
        // "Host", "a" and "X-Wide" count too.
        let room = most - 11;
        assert_eq!(wide("/.well-known/jwks.json", room).status(), 405);
        for path in PATHS {
            let is_oauth = path.contains("/oauth2/");
            let many = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Many: 1\r\n".repeat(200));
            for answer in [
                wide(path, room + 1),
                wide(path, 100_000),
                wide(path, 200_000),
                ask(&app.url, &many).unwrap(),
            ] {
                assert_eq!(answer.status(), 431, "{path}");
                let expected = if is_oauth {
                    "invalid_request"
                } else {
                    "headers_too_large"
                };
                assert_eq!(refusal(&answer, path), expected);
            }
            let long = format!("POST {}{} HTTP/1.1\r\nHost: a\r\n\r\n", path, "x".repeat(9_000));
            let answer = ask(&app.url, &long).unwrap();
            assert_eq!(answer.status(), 414);
            assert_eq!(
                refusal(&answer, path),
                if is_oauth {
                    "invalid_request"
                } else {
                    "address_too_long"
                }
            );
            let broken = format!("POST {path} HTTP/1.1\r\nBroken header\r\n\r\n");
            let answer = ask(&app.url, &broken).unwrap();
            assert_eq!(
                (answer.status(), refusal(&answer, path).as_str()),
                (400, "invalid_request")
            );
        }
        let answer = ask(&app.admin_url, "GET /livez HTTP/1.1\r\nBroken header\r\n\r\n").unwrap();
        assert_eq!(refusal(&answer, "/livez"), "invalid_request");
        let path = "x".repeat(200_000);
        let long_line = format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(ask(&app.url, &long_line).unwrap().status(), 431);
        assert_eq!(ask(&app.url, &format!("{KEY_SET}\r\n")).unwrap().status(), 200);
        app.running.stop().await;
    }
}

/// Programs decide by `code`, wherever they came by a wrong path or method.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_and_another_method_have_a_code_everywhere() {
    let database = TestDatabase::sqlite();
    for settings in [
        &[][..],
        &[("accounts.enabled", "false")],
        &[("server.issuer", "http://127.0.0.1:8080/issuer")],
    ] {
        let app = TestApp::start(&database, settings).await;
        let prefix = if settings.iter().any(|(name, _)| *name == "server.issuer") {
            "/issuer"
        } else {
            ""
        };
        let mut requests = Vec::new();
        for path in [
            "/auth",
            "/auth/",
            "/auth/nothing",
            "/auth/sessions/",
            "/auth/sessions/a/b",
            "/auth//me",
            "/auth/federated",
            "/auth/federated/a/b",
            "/auth/me/",
            "/AUTH/me",
            "/oauth2",
            "/oauth2/nothing",
            "/oauth2/token/",
            "/.well-known/nothing",
            "/%2e%2e",
            "/auth/%ff",
        ] {
            requests.push((404, "GET", format!("{prefix}{path}")));
            requests.push((404, "BREW", format!("{prefix}{path}")));
        }
        requests.push((405, "BREW", format!("{prefix}/.well-known/jwks.json")));
        requests.push((405, "PUT", format!("{prefix}/.well-known/openid-configuration")));
        if !settings.iter().any(|(name, _)| *name == "accounts.enabled") {
            for path in [
                "/auth/me",
                "/auth/login",
                "/auth/sessions",
                "/auth/sessions/a",
                "/auth/csrf",
                "/auth/federated/a",
            ] {
                requests.push((405, "BREW", format!("{prefix}{path}")));
            }
        }
        for (status, method, path) in requests {
            let answer = ask(&app.url, &format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(answer.status(), status, "{method} {path}");
            let expected = if status == 404 {
                "not_found"
            } else {
                "method_not_allowed"
            };
            // Nothing is there, so it is no OAuth endpoint.
            assert_eq!(refusal(&answer, ""), expected, "{method} {path}");
            assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
        }
        for (status, method, path) in [(404, "GET", "/nothing"), (405, "POST", "/livez")] {
            let answer = ask(&app.admin_url, &format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(answer.status(), status);
            refusal(&answer, path);
        }
        app.running.stop().await;
    }
}

/// What two readers could take for different requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_ambiguous_requests_are_refused() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let post = "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let smuggled = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";
    for request in [
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET / HTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "G\u{7f}T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        format!("{KEY_SET}Broken header\r\n\r\n"),
        format!("{KEY_SET}Na me: x\r\n\r\n"),
        format!("{KEY_SET}X: a\u{0}b\r\n\r\n"),
        format!("{KEY_SET}X: a\r\n folded\r\n\r\n"),
        format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nx=1&y{smuggled}"),
        format!("{post}Content-Length: -1\r\n\r\n"),
        format!("{post}Content-Length: +5\r\n\r\nx=1&y"),
        format!("{post}Content-Length: 5 5\r\n\r\nx=1&y"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"),
    ] {
        let mut connection = Connection::open(&app.url);
        connection.send(&request);
        assert_eq!(connection.answer().unwrap().status(), 400, "{request:?}");
        let behind = connection.rest();
        assert!(behind.is_empty(), "{request:?}: {}", String::from_utf8_lossy(&behind));
    }
    assert_eq!(ask(&app.url, &format!("{KEY_SET}\r\n")).unwrap().status(), 200);
    app.running.stop().await;
}

/// A refusal leaves no byte of its request behind for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_sane_after_a_refusal() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let form = "Host: a\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let mut connection = Connection::open(&app.url);
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        (
            "DELETE /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            405,
        ),
        (
            format!("POST /oauth2/token HTTP/1.1\r\n{form}Content-Length: 3\r\n\r\nx=1"),
            401,
        ),
        (
            format!("POST /oauth2/token HTTP/1.1\r\n{form}Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n"),
            401,
        ),
        (format!("{KEY_SET}\r\n"), 200),
    ] {
        connection.send(&request);
        assert_eq!(connection.answer().unwrap().status(), status, "{request}");
    }
    // A long body that looks like a request must not be taken for one: either it is read to its end, or the connection closes.
    let disguised = format!("{KEY_SET}\r\n").repeat(1_000);
    let length = disguised.len();
    let mut connection = Connection::open(&app.url);
    connection.send(format!(
        "POST /oauth2/token HTTP/1.1\r\n{form}Content-Length: {length}\r\n\r\n"
    ));
    connection.send(&disguised);
    assert_eq!(connection.answer().unwrap().status(), 413);
    connection.send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.answer().is_none_or(|answer| answer.status() == 404));
    assert_eq!(ask(&app.url, &format!("{KEY_SET}\r\n")).unwrap().status(), 200);
    app.running.stop().await;
}

/// A form in pieces is read to its end, and no further than it may be long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_may_come_in_pieces() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let mut connection = Connection::open(&app.url);
    let mut send = |pieces: &[&str]| {
        let pieces = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()));
        connection.send(format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            pieces.collect::<String>()
        ));
        let answer = connection.answer().unwrap();
        (answer.status(), String::from_utf8(answer.body).unwrap())
    };
    let (status, body) = send(&["client_id=a&client_", "secret=b&client_sec", "ret=c"]);
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("client_secret is given more than once"), "{body}");
    let quarter = "x=".repeat(2 * 1024);
    assert_eq!(send(&[quarter.as_str(); 4]).0, 401, "16 KiB may come");
    let (status, body) = send(&[quarter.as_str(), &quarter, &quarter, &quarter, "x"]);
    assert_eq!(status, 413, "{body}");
    app.running.stop().await;
}

/// Both deadlines are 5 s, and run side by side here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn headers_and_forms_that_never_end_are_cut() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let cut = |request: &'static str| {
        let url = app.url.clone();
        tokio::task::spawn_blocking(move || {
            let mut connection = Connection::open(&url);
            connection.send(request);
            connection.answer()
        })
    };
    let form = "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 100\r\n\r\ngrant_type=";
    let both = async { tokio::join!(cut("GET /.well-known/jwks.json HTTP/1.1\r\nHost: "), cut(form)) };
    let (headers, form) = tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
    let headers = headers.unwrap().unwrap();
    assert_eq!(
        (headers.status(), refusal(&headers, "").as_str()),
        (408, "head_timeout")
    );
    assert_eq!(form.unwrap().unwrap().status(), 408);
    app.running.stop().await;
}
