//! The headers of every answer, also of those that the HTTP library gives by itself.

use actix_web::http::header::{self, HeaderName};

/// The headers of every answer.
pub(super) fn protective_headers(has_https: bool) -> impl Iterator<Item = (HeaderName, &'static str)> {
    let always = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let with_https = has_https.then_some((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
    always.into_iter().chain(with_https)
}
