//! The metadata documents (RFC 8414 section 3; OpenID Connect Discovery 1.0 section 4).

use actix_web::http::header;
use actix_web::{HttpResponse, web};

use crate::http::pages::Texts;
use crate::http::state::Server;
use crate::jose::alg::Algorithm;
use crate::oauth::metadata::{LoginMetadata, Metadata};

/// The metadata; it comes from the configuration, whatever the request says of hosts.
pub async fn answer(server: web::Data<Server>) -> HttpResponse {
    let policy = server.keyring.policy();
    // An algorithm that was removed stays announced while its keys are published: some verifiers take this list for good.
    let published = server.keyring.snapshot();
    let algorithms: Vec<Algorithm> = Algorithm::ALL
        .into_iter()
        .filter(|&alg| {
            let still_published = published.key_set.jwks().iter().any(|jwk| jwk.alg == alg);
            still_published || policy.algorithms().contains(&alg)
        })
        .collect();
    let logins = server
        .has_accounts
        .then(|| LoginMetadata::new(&server.issuer, Texts::languages()));
    HttpResponse::Ok()
        .insert_header((
            header::CACHE_CONTROL,
            format!("public, max-age={}", policy.windows().jwks_max_age.0),
        ))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .json(Metadata::new(&server.issuer, &algorithms, logins))
}
