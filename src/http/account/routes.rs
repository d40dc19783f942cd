//! The routes of accounts, and what stands around their handlers.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpRequest, Route, web};

use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::{
    CALLBACK_PATH, CONSENT_PATH, CONSENTS_PATH, CSRF_PATH, FEDERATED_PATH, LOGIN_PATH, LOGOUT_ALL_PATH, LOGOUT_PATH,
    ME_PATH, PASSWORD_PATH, REFRESH_PATH, REGISTER_PATH, SESSION_PATH, SESSIONS_PATH, VERIFY_PATH,
};

use super::{consents, cors, csrf, federated, login, logout, me, password, refresh, sessions, verify};

/// The routes of accounts, below the issuer's path.
pub fn routes(path: &str, routes: &mut web::ServiceConfig) {
    let mut endpoint = |at: &str, allow: &'static str, methods: Vec<Route>| {
        let preflight = move |server: web::Data<Server>, request: HttpRequest| async move {
            cors::preflight(&server, &request, allow)
        };
        let mut resource =
            web::resource(format!("{path}{at}")).route(web::method(actix_web::http::Method::OPTIONS).to(preflight));
        for method in methods {
            resource = resource.route(method);
        }
        let resource = resource.default_service(web::to(move || async move {
            Err::<&str, _>(Problem::method_not_allowed(allow))
        }));
        routes.service(resource.wrap(from_fn(around)));
    };
    endpoint(REGISTER_PATH, "POST", vec![web::post().to(login::register)]);
    endpoint(LOGIN_PATH, "POST", vec![web::post().to(login::log_in)]);
    endpoint(PASSWORD_PATH, "POST", vec![web::post().to(password::answer)]);
    endpoint(REFRESH_PATH, "POST", vec![web::post().to(refresh::answer)]);
    endpoint(LOGOUT_PATH, "POST", vec![web::post().to(logout::one)]);
    endpoint(LOGOUT_ALL_PATH, "POST", vec![web::post().to(logout::all)]);
    endpoint(SESSION_PATH, "DELETE", vec![web::delete().to(sessions::end)]);
    endpoint(
        SESSIONS_PATH,
        "GET, HEAD",
        vec![web::get().to(sessions::list), web::head().to(sessions::list)],
    );
    endpoint(CONSENT_PATH, "DELETE", vec![web::delete().to(consents::withdraw)]);
    endpoint(
        CONSENTS_PATH,
        "GET, HEAD",
        vec![web::get().to(consents::list), web::head().to(consents::list)],
    );
    endpoint(
        ME_PATH,
        "GET, HEAD",
        vec![web::get().to(me::answer), web::head().to(me::answer)],
    );
    endpoint(
        CSRF_PATH,
        "GET, HEAD",
        vec![web::get().to(csrf::answer), web::head().to(csrf::answer)],
    );
    // Not HEAD, which changes nothing.
    endpoint(FEDERATED_PATH, "GET", vec![web::get().to(federated::begin)]);
    endpoint(CALLBACK_PATH, "GET", vec![web::get().to(federated::finish)]);
    // Of any method: Envoy asks with the one of the request that it holds back.
    // With anything behind the policy: Envoy appends the path of that request.
    routes.service(
        web::resource([
            format!("{path}{VERIFY_PATH}"),
            format!("{path}{VERIFY_PATH}/{{policy}}"),
            format!("{path}{VERIFY_PATH}/{{policy}}/{{rest}}*"),
        ])
        .route(web::to(verify::answer))
        .wrap(from_fn(around)),
    );
}

/// What every answer gets: no cache keeps it, and listed origins may read it.
async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let server = request.app_data::<web::Data<Server>>().cloned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.call(request).await?.map_into_boxed_body();
    let Some(server) = server else {
        return Ok(response);
    };
    let answer = response.headers_mut();
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    cors::allow(&server, origin, answer);
    Ok(response)
}
