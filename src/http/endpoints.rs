//! The endpoints by the patterns of their paths, for metrics: a path itself is a stranger's, and of any number.

use crate::oauth::endpoints::{
    AUTHORIZATION_CONSENT_PATH, AUTHORIZATION_LOGIN_PATH, AUTHORIZATION_PATH, AUTHORIZATION_REGISTER_PATH,
    AUTHORIZATION_SERVER, CALLBACK_PATH, CONSENT_PATH, CONSENTS_PAGE_PATH, CONSENTS_PATH, CSRF_PATH,
    END_SESSION_CONFIRMATION_PATH, END_SESSION_PATH, FEDERATED_PATH, INTROSPECTION_PATH, ISSUING_PATH, KEY_SET_PATH,
    LIVENESS_PATH, LOGIN_PATH, LOGOUT_ALL_PATH, LOGOUT_PATH, ME_PATH, METRICS_PATH, OPENID_CONFIGURATION,
    PASSWORD_PATH, READINESS_PATH, REFRESH_PATH, REGISTER_PATH, REVOCATION_PATH, SCRIPT_PATH, SESSION_PATH,
    SESSIONS_PATH, STYLE_PATH, TOKEN_PATH, USERINFO_PATH, VERIFY_PATH,
};

/// Everything that is no endpoint.
const OTHER: &str = "other";

/// The patterns without a part that varies; those that are asked for most come first.
const FIXED: [&str; 32] = [
    KEY_SET_PATH,
    TOKEN_PATH,
    REFRESH_PATH,
    INTROSPECTION_PATH,
    REVOCATION_PATH,
    AUTHORIZATION_PATH,
    AUTHORIZATION_LOGIN_PATH,
    AUTHORIZATION_CONSENT_PATH,
    AUTHORIZATION_REGISTER_PATH,
    USERINFO_PATH,
    END_SESSION_PATH,
    END_SESSION_CONFIRMATION_PATH,
    STYLE_PATH,
    SCRIPT_PATH,
    LOGIN_PATH,
    REGISTER_PATH,
    LOGOUT_PATH,
    LOGOUT_ALL_PATH,
    ME_PATH,
    PASSWORD_PATH,
    SESSIONS_PATH,
    CONSENTS_PATH,
    CONSENTS_PAGE_PATH,
    CSRF_PATH,
    OPENID_CONFIGURATION,
    AUTHORIZATION_SERVER,
    VERIFY_PATH,
    LIVENESS_PATH,
    READINESS_PATH,
    ISSUING_PATH,
    METRICS_PATH,
    "/",
];

/// The pattern of a path below the issuer's path, or of a well-known document with that path behind it.
pub fn endpoint(path: &str, issuer_path: &str) -> &'static str {
    let below = path.strip_prefix(issuer_path);
    let inner = match below {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    };
    if let Some(fixed) = fixed(inner) {
        return fixed;
    }
    // Documents also lie where RFC 8414 section 3.1 inserts the issuer's path, and the key set at the root.
    if !issuer_path.is_empty()
        && let Some(document) = path.strip_suffix(issuer_path).and_then(fixed)
    {
        return document;
    }
    let Some(rest) = inner.strip_prefix("/auth/") else {
        return OTHER;
    };
    let mut parts = rest.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("verify"), Some(_), ..) => VERIFY_PATH,
        (Some("sessions"), Some(_), None, None) => SESSION_PATH,
        (Some("consents"), Some(_), None, None) => CONSENT_PATH,
        (Some("federated"), Some(_), None, None) => FEDERATED_PATH,
        (Some("federated"), Some(_), Some("callback"), None) => CALLBACK_PATH,
        _ => OTHER,
    }
}

fn fixed(path: &str) -> Option<&'static str> {
    FIXED.into_iter().find(|fixed| *fixed == path)
}

/// The method, if it is a usual one.
pub fn method(name: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH"];
    METHODS.into_iter().find(|method| *method == name).unwrap_or(OTHER)
}

/// The class of a status.
pub const fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_name_of_its_endpoint_and_no_other() {
        for (path, issuer_path, name) in [
            ("/oauth2/token", "", TOKEN_PATH),
            ("/", "", "/"),
            ("/tenant", "/tenant", "/"),
            ("/tenant/", "/tenant", "/"),
            ("/tenant/oauth2/token", "/tenant", TOKEN_PATH),
            ("/tenants/oauth2/token", "/tenant", OTHER),
            ("/.well-known/jwks.json", "/tenant", KEY_SET_PATH),
            (
                "/.well-known/openid-configuration/tenant",
                "/tenant",
                OPENID_CONFIGURATION,
            ),
            ("/auth/sessions/0b1c", "", SESSION_PATH),
            ("/auth/sessions", "", SESSIONS_PATH),
            ("/auth/consents/app", "", CONSENT_PATH),
            ("/auth/sessions/a/b", "", OTHER),
            ("/auth/verify/staff/orders/7", "", VERIFY_PATH),
            ("/tenant/auth/federated/google", "/tenant", FEDERATED_PATH),
            ("/auth/federated/google/callback", "", CALLBACK_PATH),
            ("/auth/federated/google/other", "", OTHER),
            ("/auth/", "", OTHER),
            ("/a-stranger's-own", "", OTHER),
            ("", "", "/"),
        ] {
            assert_eq!(endpoint(path, issuer_path), name, "{path} below {issuer_path}");
        }
        assert_eq!((method("GET"), method("BREW"), method("get")), ("GET", OTHER, OTHER));
        assert_eq!((class(204), class(499), class(503)), ("2xx", "4xx", "5xx"));
    }
}
