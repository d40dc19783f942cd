//! Visitors who write what only a gateway may write, in every spelling that some service reads as the same name.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use serde_json::{Map, Value};

const NAMES: [&str; 6] = ["subject", "client", "session", "tenant", "roles", "scope"];
/// What a header's name may have besides letters and digits (RFC 9110 section 5.6.2).
const MARKS: &[u8] = b"-_.!#$%&'*+^`|~";
/// How many headers are sent at once.
const BATCH: usize = 40;

/// Addresses by which a visitor would like to be asked `open`.
pub const ADDRESSES: [&str; 14] = [
    "/",
    "/?",
    "/?scope=&role=&audience=https://open.example.com",
    "/orders?access_token=x&audience=x",
    "/open",
    "//open",
    "/auth/verify/open",
    "/../open",
    "/../../../auth/verify/open",
    "/%2e%2e/open",
    "/a/..%2f..%2fopen",
    "/;/../open",
    "/?/../open",
    "/./open?x=/auth/verify/open",
];

/// Sends one request as it stands here; answers with the status and with what the service read, if the request reached it.
pub fn send(url: &str, address: &str, lines: &[&str], after: &str) -> (u16, Option<Map<String, Value>>) {
    let url = url::Url::parse(url).unwrap();
    let mut request = format!("GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for line in lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.push_str(after);
    let connection = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).unwrap();
    connection.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let mut answer = Vec::new();
    if url.scheme() == "https" {
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        let mut connection = connector.build().connect("localhost", connection).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        // A refusal may end the connection without a farewell.
        let _ = connection.read_to_end(&mut answer);
    } else {
        let mut connection = connection;
        connection.write_all(request.as_bytes()).unwrap();
        let _ = connection.read_to_end(&mut answer);
    }
    let answer = String::from_utf8_lossy(&answer);
    let answer = match answer.split_once("\r\n\r\n") {
        Some((interim, last)) if interim.starts_with("HTTP/1.1 100 ") => last,
        _ => &answer,
    };
    // Closed without an answer: refused as well.
    let status = answer.get(9..12).map_or(400, |status| status.parse().unwrap());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let seen = serde_json::from_str(body)
        .ok()
        .filter(|seen: &Map<String, Value>| seen.contains_key("HTTP_HOST"));
    (status, seen)
}

/// Every spelling of one name: all marks in its two places, in three cases.
fn spellings(name: &str, marks: &[u8]) -> Vec<String> {
    let pairs = marks
        .iter()
        .flat_map(|first| marks.iter().map(move |second| (*first as char, *second as char)));
    pairs
        .flat_map(|(first, second)| {
            let lower = format!("x{first}auth{second}{name}");
            let upper = lower.to_uppercase();
            let (initial, rest) = name.split_at(1);
            [
                lower,
                upper,
                format!("X{first}Auth{second}{}{rest}", initial.to_uppercase()),
            ]
        })
        .collect()
}

/// What the service takes for the identity, its names as a service would fold them that folds most.
fn identity_of(seen: &Map<String, Value>) -> BTreeMap<String, String> {
    let fold = |name: &str| {
        name.replace(|character: char| !character.is_ascii_alphanumeric(), "_")
            .to_uppercase()
    };
    seen.iter()
        .filter_map(|(name, value)| {
            let name = fold(name).strip_prefix("HTTP_X_AUTH_")?.to_owned();
            Some((name, value.as_str().unwrap().to_owned()))
        })
        // One that is left out and one that is empty say the same.
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// What a gateway drops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    /// The six headers that Keyround answers with.
    Identity,
    /// Whatever begins with `X-Auth-`.
    Everything,
}

/// Sends every spelling, all of them with a valid token: the service sees this identity, or the request does not reach it.
pub fn reaches_no_service(name: &str, url: &str, token: &str, drops: Drops, identity: &BTreeMap<&str, &str>) {
    let bearer = format!("Authorization: Bearer {token}");
    let honest: BTreeMap<String, String> = identity
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let mut refused = 0;
    let mut ask = |lines: &[&str], after: &str| -> u16 {
        let lines: Vec<&str> = [&[bearer.as_str()], lines].concat();
        let (status, seen) = send(url, "/", &lines, after);
        match seen {
            Some(seen) => assert_eq!(identity_of(&seen), honest, "{name}: {lines:#?}"),
            None => assert!(status >= 400, "{name}: {status} {lines:#?}"),
        }
        refused += usize::from(status != 200);
        status
    };
    assert_eq!(ask(&[], ""), 200, "{name}");

    let mut forged: Vec<String> = spellings("roles", MARKS);
    for name in NAMES {
        forged.extend(spellings(name, b"-_"));
    }
    if drops == Drops::Everything {
        for name in ["email", "user", "roles-", "roles_2"] {
            forged.extend(spellings(name, b"-_"));
        }
    }
    let forged: Vec<String> = forged.iter().map(|name| format!("{name}: forged")).collect();
    for batch in forged.chunks(BATCH) {
        let lines: Vec<&str> = batch.iter().map(String::as_str).collect();
        if ask(&lines, "") != 200 {
            for line in lines {
                ask(&[line], "");
            }
        }
    }

    for lines in [
        &["X-Auth-Roles: forged", "X-Auth-Roles: forged"][..],
        &["X-Auth-Roles:", "x-auth-roles: forged"],
        &["X-Auth-Roles: ", "X_Auth_Roles:"],
        &["X-Auth-Roles: a, forged"],
        &["X-Auth-Roles:\tforged"],
        &["X-Auth-Roles : forged"],
        &["X-Other: a", " X-Auth-Roles: forged"],
        &["X-Auth-Roles: a", "\tforged"],
        &["X-Other: a\nX-Auth-Roles: forged"],
        &["X-Other: a\rX-Auth-Roles: forged"],
        &["X-Auth-Roles\0: forged"],
        &["X-Auth-Roles\u{a0}: forged"],
        &["Connection: X-Auth-Roles", "X-Auth-Roles: forged"],
        &["TE: trailers", "X_AUTH_SCOPE: forged"],
        &["Upgrade: websocket", "X_Auth_Roles: forged"],
        &["Expect: 100-continue", "X-Auth-Roles: forged", "X_Auth_Roles: forged"],
    ] {
        ask(lines, "");
    }
    ask(
        &["Transfer-Encoding: chunked", "Trailer: X-Auth-Roles"],
        "1\r\na\r\n0\r\nX-Auth-Roles: forged\r\nX_Auth_Roles: forged\r\n\r\n",
    );
    println!("{name}: {refused} forged requests were refused, the others reached the service without what was forged");
}
