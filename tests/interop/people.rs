//! People who log in: their accounts by the command line, their tokens by HTTP.

use reqwest::RequestBuilder;
use serde_json::json;

use crate::site::Site;

/// What all of them log in with.
pub const PASSWORD: &str = "correct horse battery staple";

/// Makes the accounts of so many people.
pub fn create(site: &Site, count: usize) {
    let password = site.folder_of("people").join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let password = password.display().to_string();
    for person in 0..count {
        let create = [
            "users",
            "create",
            "--email",
            &email(person),
            "--email-verified",
            "--name",
            "Ada",
        ];
        site.keyround(&[&create[..], &["--password-file", &password]].concat());
    }
}

/// A login at the issuer's address, which is answered with both tokens.
pub fn login(http: &reqwest::Client, issuer: &str, person: usize) -> RequestBuilder {
    let login = json!({ "email": email(person), "password": PASSWORD, "token_delivery": "body" });
    http.post(format!("{issuer}/auth/login")).json(&login)
}

/// A refresh there.
pub fn refresh(http: &reqwest::Client, issuer: &str, refresh_token: &str) -> RequestBuilder {
    let refresh = json!({ "refresh_token": refresh_token, "token_delivery": "body" });
    http.post(format!("{issuer}/auth/refresh")).json(&refresh)
}

/// The address of this one.
pub fn email(person: usize) -> String {
    format!("ada{person}@example.com")
}
