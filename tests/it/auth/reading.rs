//! Reading changes nothing: what a link or an image can send is safe.

use keyround::clock::UnixTime;
use keyround::crypto::sealing::MasterKeys;
use reqwest::Method;

use super::visitor::Site;
use crate::helpers::master_key;

/// Every address that the public listener answers to a GET.
const ADDRESSES: [&str; 17] = [
    "/.well-known/jwks.json",
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    "/auth/me",
    "/auth/sessions",
    "/auth/csrf",
    "/auth/verify",
    "/auth/verify/default",
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/logout",
    "/auth/logout-all",
    "/auth/password",
    "/oauth2/token",
    "/oauth2/introspect",
    "/oauth2/revoke",
];

crate::on_both_databases!(no_get_or_head_changes_a_row, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    ada.csrf().await;
    let db = &site.app.running.server.db;
    let (now, keys) = (UnixTime(0), MasterKeys::from(master_key()));
    let before = rows(&db.dump(now).await.unwrap().to_text(&keys));
    assert!(before.iter().any(|row| row.contains("ada@example.com")));
    let session = format!("/auth/sessions/{}", ada.sid);
    for path in ADDRESSES.iter().chain([&session.as_str()]) {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            let csrf = ada.csrf().await;
            let request = ada
                .with_cookies(method, path)
                .bearer_auth(&ada.access_token)
                .header("X-CSRF-Token", csrf);
            request.send().await.unwrap();
        }
    }
    assert_eq!(before, rows(&db.dump(now).await.unwrap().to_text(&keys)));
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

/// Every row but what nodes write down by the clock: that they live, and how often they saw each key.
fn rows(dump: &str) -> Vec<String> {
    let lines: Vec<&str> = dump.lines().collect();
    let (_, rows) = lines[..lines.len() - 1].split_first().unwrap();
    let by_the_clock = [r#""table":"nodes""#, r#""table":"key_uses""#];
    let kept = rows
        .iter()
        .filter(|row| !by_the_clock.iter().any(|table| row.contains(table)));
    kept.map(|row| (*row).to_owned()).collect()
}
