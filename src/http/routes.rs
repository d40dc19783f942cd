//! The tables of routes, on one screen.

use actix_web::http::header;
use actix_web::middleware::DefaultHeaders;
use actix_web::{HttpRequest, HttpResponse, Resource, Route, web};

use crate::oauth::endpoints::{
    AUTHORIZATION_CONSENT_PATH, AUTHORIZATION_LOGIN_PATH, AUTHORIZATION_PATH, AUTHORIZATION_REGISTER_PATH,
    AUTHORIZATION_SERVER, CONSENTS_PAGE_PATH, END_SESSION_CONFIRMATION_PATH, END_SESSION_PATH, INTROSPECTION_PATH,
    ISSUING_PATH, KEY_SET_PATH, LIVENESS_PATH, METRICS_PATH, OPENID_CONFIGURATION, READINESS_PATH, REVOCATION_PATH,
    SCRIPT_PATH, STYLE_PATH, TOKEN_PATH, USERINFO_PATH,
};

use super::oauth::{introspect, key_set, metadata, revoke, token};
use super::oidc::{authorize, consent, consents, login, logout, register, userinfo};
use super::operations::health;
use super::problem::{self, Problem};
use super::state::Server;
use super::{account, pages, root};

/// The routes of the public listener. Everything lies below the issuer's path; well-known documents also lie where
/// RFC 8414 section 3.1 inserts that path.
pub fn public_routes(server: &Server) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let path = server.issuer_path.clone();
    let has_accounts = server.has_accounts;
    move |routes| {
        let mut key_sets = vec![KEY_SET_PATH.to_owned()];
        let mut documents = vec![
            format!("{path}{OPENID_CONFIGURATION}"),
            format!("{path}{AUTHORIZATION_SERVER}"),
        ];
        if !path.is_empty() {
            key_sets.push(format!("{path}{KEY_SET_PATH}"));
            documents.push(format!("{OPENID_CONFIGURATION}{path}"));
            documents.push(format!("{AUTHORIZATION_SERVER}{path}"));
        }
        routes.service(for_readers(&format!("{path}/"), root::answer));
        if !path.is_empty() {
            routes.service(for_readers(&path, root::answer));
        }
        for key_set in key_sets {
            routes.service(published(&key_set, key_set::answer));
        }
        for document in documents {
            routes.service(published(&document, metadata::answer));
        }
        let token = web::post().to(token::answer);
        let token = for_clients(&format!("{path}{TOKEN_PATH}"), token, may_send("POST"));
        routes.service(token.wrap(for_any_page()));
        let introspection = web::post().to(introspect::answer);
        let introspection = for_clients(&format!("{path}{INTROSPECTION_PATH}"), introspection, options("POST"));
        routes.service(introspection);
        let revocation = web::post().to(revoke::answer);
        let revocation = for_clients(&format!("{path}{REVOCATION_PATH}"), revocation, may_send("POST"));
        routes.service(revocation.wrap(for_any_page()));
        if has_accounts {
            account::routes::routes(&path, routes);
            for_visitors(&path, routes);
        }
        routes.default_service(web::to(nothing_here));
    }
}

/// What a browser is led through to log in at a client.
fn for_visitors(path: &str, routes: &mut web::ServiceConfig) {
    let mut endpoint = |at: &str, allow: &'static str, methods: Vec<Route>| {
        let resource = web::resource(format!("{path}{at}")).route(options(allow));
        let resource = methods.into_iter().fold(resource, Resource::route);
        routes.service(resource.default_service(web::to(move || async move {
            Problem::method_not_allowed(allow).answer()
        })));
    };
    let both = vec![web::get().to(authorize::by_query), web::post().to(authorize::by_form)];
    endpoint(AUTHORIZATION_PATH, "GET, POST", both);
    let of_form = |answer: Route| vec![answer, web::get().to(login::nothing_here)];
    endpoint(AUTHORIZATION_LOGIN_PATH, "POST", of_form(web::post().to(login::answer)));
    endpoint(
        AUTHORIZATION_CONSENT_PATH,
        "POST",
        of_form(web::post().to(consent::answer)),
    );
    let both = vec![web::get().to(register::show), web::post().to(register::answer)];
    endpoint(AUTHORIZATION_REGISTER_PATH, "GET, POST", both);
    let both = vec![web::get().to(logout::by_query), web::post().to(logout::by_form)];
    endpoint(END_SESSION_PATH, "GET, POST", both);
    endpoint(
        END_SESSION_CONFIRMATION_PATH,
        "POST",
        of_form(web::post().to(logout::confirmed)),
    );
    let both = vec![web::get().to(consents::show), web::post().to(consents::withdraw)];
    endpoint(CONSENTS_PAGE_PATH, "GET, POST", both);
    for (at, content_type, body) in [
        (STYLE_PATH, "text/css; charset=utf-8", pages::STYLE),
        (SCRIPT_PATH, "text/javascript; charset=utf-8", pages::SCRIPT),
    ] {
        let answer = move || async move {
            HttpResponse::Ok()
                .insert_header((header::CACHE_CONTROL, "public, max-age=3600"))
                .content_type(content_type)
                .body(body)
        };
        endpoint(at, "GET, HEAD", vec![web::get().to(answer), web::head().to(answer)]);
    }
    let userinfo = web::resource(format!("{path}{USERINFO_PATH}"))
        .route(web::get().to(userinfo::by_header))
        .route(web::post().to(userinfo::by_post))
        .route(may_send("GET, POST"))
        .default_service(web::to(|| async { Problem::method_not_allowed("GET, POST").answer() }));
    routes.service(userinfo.wrap(for_any_page()));
}

/// The page of the issuer lists every path.
async fn nothing_here(server: web::Data<Server>, request: HttpRequest) -> HttpResponse {
    let base = &server.issuer_path;
    let asked = request.path().strip_prefix(base.as_str()).unwrap_or_default();
    let about_accounts = if !server.has_accounts && (asked == "/auth" || asked.starts_with("/auth/")) {
        "this server has no accounts (accounts.enabled is false), and so no path below /auth; "
    } else {
        ""
    };
    Problem::not_found(&format!("{about_accounts}GET {base}/ lists the paths")).answer()
}

/// The routes of the admin listener.
pub fn admin_routes(routes: &mut web::ServiceConfig) {
    let read_only = |path: &str, route: Route| {
        web::resource(path.to_owned())
            .route(route)
            .route(options("GET"))
            .default_service(web::to(|| async { Problem::method_not_allowed("GET").answer() }))
    };
    routes
        .service(read_only(LIVENESS_PATH, web::get().to(health::live)))
        .service(read_only(READINESS_PATH, web::get().to(health::ready_to_publish)))
        .service(read_only(ISSUING_PATH, web::get().to(health::ready_to_issue)))
        .service(read_only(METRICS_PATH, web::get().to(health::metrics)))
        .default_service(web::to(|| async {
            Problem::not_found(&format!(
                "the paths of this listener are {LIVENESS_PATH}, {READINESS_PATH}, {ISSUING_PATH} and {METRICS_PATH}"
            ))
            .answer()
        }));
}

/// An endpoint that a client proves itself at: a form, and nothing else.
fn for_clients(path: &str, route: Route, options: Route) -> Resource {
    web::resource(path.to_owned())
        .route(route)
        .route(options)
        .default_service(web::to(|| async { Problem::only_post().answer() }))
}

/// A page that any caller may read.
fn for_readers<F, Args>(path: &str, answer: F) -> Resource
where
    F: actix_web::Handler<Args, Output = HttpResponse> + Copy,
    Args: actix_web::FromRequest + 'static,
{
    readable(path, answer, options("GET, HEAD"))
}

fn readable<F, Args>(path: &str, answer: F, options: Route) -> Resource
where
    F: actix_web::Handler<Args, Output = HttpResponse> + Copy,
    Args: actix_web::FromRequest + 'static,
{
    web::resource(path.to_owned())
        .route(web::get().to(answer))
        .route(web::head().to(answer))
        .route(options)
        .default_service(web::to(|| async { Problem::method_not_allowed("GET, HEAD").answer() }))
}

/// The same for a page of another origin too (CORS).
fn published<F, Args>(path: &str, answer: F) -> Resource
where
    F: actix_web::Handler<Args, Output = HttpResponse> + Copy,
    Args: actix_web::FromRequest + 'static,
{
    // For `If-None-Match` a page is asked for leave first.
    let options =
        web::method(actix_web::http::Method::OPTIONS).to(|| async { preflight("GET, HEAD", "If-None-Match") });
    readable(path, answer, options)
}

/// Names the methods of an endpoint whose answers no page of another origin reads.
fn options(methods: &'static str) -> Route {
    web::method(actix_web::http::Method::OPTIONS).to(move || async move { problem::options(methods) })
}

/// Lets a page of any origin send requests with credentials of its own.
fn may_send(methods: &'static str) -> Route {
    let answer = move || async move { preflight(methods, "Authorization, Content-Type") };
    web::method(actix_web::http::Method::OPTIONS).to(answer)
}

/// Lets a page of any origin read every answer of an endpoint, refusals too. It reads no cookies: who asks has a code, a token or a secret.
fn for_any_page() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .add((header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After, WWW-Authenticate"))
}

/// The answer to a browser that asks for leave (Fetch Standard, CORS-preflight fetch).
fn preflight(methods: &'static str, headers: &'static str) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ALLOW, problem::with_options(methods)))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, methods))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, headers))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}
