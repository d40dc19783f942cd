//! A login at a client, as often as one core can: the authorization endpoint with a login session, the token endpoint, and the userinfo
//! endpoint, one after the other, beside the same of npm oidc-provider.
//!
//! Rates are told per second of the processor's time that the server took, as in [`crate::load`].

use std::path::Path;
use std::time::Duration;

use keyround::clock::Clock;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::sha256_base64url;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use url::Url;

use crate::ROUNDS;
use crate::figures::{Comparison, Target};
use crate::machine::{Cores, seconds_on_core};
use crate::report;
use crate::servers::{PASSWORD, Server, Site, person};

/// How many people log in at once, each in a browser with a login session of its own.
const PEOPLE: usize = 16;
const LENGTH: Duration = Duration::from_secs(4);
/// Where a login leads back to.
pub const CALLBACK: &str = "https://app.example.com/callback";
/// What every code is bound to.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The endpoints of a server.
#[derive(Clone, Copy)]
struct Paths {
    authorization: &'static str,
    token: &'static str,
    userinfo: &'static str,
}

const OURS: Paths = Paths {
    authorization: "/oauth2/authorize",
    token: "/oauth2/token",
    userinfo: "/oauth2/userinfo",
};
const RIVALS: Paths = Paths {
    authorization: "/auth",
    token: "/token",
    userinfo: "/me",
};

/// The client that signs with this algorithm.
#[must_use]
pub fn client_of(alg: Algorithm) -> String {
    format!("app-{}", alg.name().to_lowercase())
}

/// Flows of ours beside those of the rival.
pub async fn run(cores: &Cores) -> Vec<Comparison> {
    let mut site = Site::new(&[]).await;
    // No person logs in so often in one browser.
    site.set("accounts.refresh_limit_session", "1000/1s");
    site.set("accounts.refresh_limit_address", "1000/1s");
    site.set("accounts.limit_address", "1000000/1000000s");
    for alg in Algorithm::ALL {
        site.register_app(&client_of(alg), alg, CALLBACK).await;
    }
    site.people(PEOPLE).await;
    let ours = site.serve(cores).await;
    let rival = site.oidc_provider(cores, &[]);
    let (mut our_browsers, mut rivals_browsers) = (Vec::new(), Vec::new());
    for number in 0..PEOPLE {
        our_browsers.push(log_in(&ours, number).await);
        rivals_browsers.push(log_in_at_rival(&rival, &client_of(Algorithm::Es256)).await);
    }
    let mut comparisons = Vec::new();
    for alg in Algorithm::ALL {
        let (mut our_rates, mut rival_rates) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            println!("code flow, {alg}, round {round} of {ROUNDS}");
            let measure_ours = async || rate(&ours, OURS, alg, &our_browsers).await;
            let measure_rival = async || rate(&rival, RIVALS, alg, &rivals_browsers).await;
            let (of_ours, of_rival) = if round % 2 == 0 {
                let of_ours = measure_ours().await;
                (of_ours, measure_rival().await)
            } else {
                let of_rival = measure_rival().await;
                (measure_ours().await, of_rival)
            };
            // The first finds both cold.
            if round > 0 {
                our_rates.push(of_ours);
                rival_rates.push(of_rival);
            }
        }
        let target = match alg {
            Algorithm::Es256 => Target::AtLeast(5.0),
            Algorithm::Rs256 => Target::AtLeast(1.0),
        };
        let what = format!("{alg} code flows (authorize, token, userinfo)");
        comparisons.push(Comparison::new(
            what,
            our_rates,
            "npm oidc-provider",
            &rival_rates,
            target,
        ));
    }
    write(&comparisons);
    comparisons
}

const EXPLANATION: &str = "# A login at a client\n\n\
    Written by `make bench`, on the machine of [the speed of one core](results.md). One flow is `GET /oauth2/authorize` in a browser that is logged \
    in, with PKCE; `POST /oauth2/token` with the code; and `GET /oauth2/userinfo` with the access token. Sixteen browsers do so at once, without a pause, \
    and a rate is told per second of the processor's time that the server took, on one core.\n\n\
    Keyround keeps its codes and grants in SQLite, on the disk, and signs two tokens in a flow, for its access tokens are JWTs. npm oidc-provider keeps \
    everything in memory, its access tokens are opaque, and it signs the ID token alone.\n\n\
    | what | ours | beside | its | ratio (least to greatest) | goal | met |\n|---|---|---|---|---|---|---|\n";

fn write(comparisons: &[Comparison]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance/code-flow.md");
    let page = format!("{EXPLANATION}{}", report::rows(comparisons));
    std::fs::write(path, page).unwrap();
}

/// A browser: its cookies, and its connections.
struct Browser {
    client: Client,
    cookies: String,
}

fn browser() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

fn keep(cookies: &mut Vec<(String, String)>, answer: &reqwest::Response) {
    for line in answer.headers().get_all(SET_COOKIE) {
        let pair = line.to_str().unwrap().split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        cookies.retain(|(known, _)| known != name);
        if !value.is_empty() {
            cookies.push((name.to_owned(), value.to_owned()));
        }
    }
}

fn header(cookies: &[(String, String)]) -> String {
    let pairs: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("; ")
}

/// A browser of a person who has logged in at this server.
async fn log_in(server: &Server, number: usize) -> Browser {
    let client = browser();
    let at = |path: &str| format!("http://{}{path}", server.address);
    let mut cookies = Vec::new();
    let answer = client.get(at("/auth/csrf")).send().await.unwrap();
    keep(&mut cookies, &answer);
    let token: Value = answer.json().await.unwrap();
    let answer = client
        .post(at("/auth/login"))
        .header("X-CSRF-Token", token["csrf_token"].as_str().unwrap())
        .header(COOKIE, header(&cookies))
        .json(&serde_json::json!({ "email": person(number), "password": PASSWORD }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    keep(&mut cookies, &answer);
    // What a browser sends along to the authorization endpoint.
    cookies.retain(|(name, _)| name.contains("login"));
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    Browser {
        client,
        cookies: header(&cookies),
    }
}

/// The same at the rival, which ends its interaction by itself.
async fn log_in_at_rival(server: &Server, app: &str) -> Browser {
    let client = browser();
    let mut cookies = Vec::new();
    let mut next = authorization(server, RIVALS, app);
    loop {
        let answer = client
            .get(next.clone())
            .header(COOKIE, header(&cookies))
            .send()
            .await
            .unwrap();
        keep(&mut cookies, &answer);
        let location = answer
            .headers()
            .get(LOCATION)
            .expect("a redirect")
            .to_str()
            .unwrap()
            .to_owned();
        if location.starts_with(CALLBACK) {
            return Browser {
                client,
                cookies: header(&cookies),
            };
        }
        next = next.join(&location).unwrap();
        // It writes its issuer, and listens elsewhere.
        let (host, port) = server.address.split_once(':').unwrap();
        next.set_host(Some(host)).unwrap();
        next.set_port(Some(port.parse().unwrap())).unwrap();
    }
}

fn authorization(server: &Server, paths: Paths, app: &str) -> Url {
    let mut url = Url::parse(&format!("http://{}{}", server.address, paths.authorization)).unwrap();
    url.query_pairs_mut().extend_pairs([
        ("client_id", app),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid email"),
        ("state", "af0ifjsldkj"),
        ("nonce", "n-0S6_WzA2Mj"),
        ("code_challenge", &sha256_base64url(VERIFIER.as_bytes())),
        ("code_challenge_method", "S256"),
    ]);
    url
}

/// Flows for a second of the server's time on its core.
async fn rate(server: &Server, paths: Paths, alg: Algorithm, browsers: &[Browser]) -> f64 {
    let clock = Clock::system();
    let begin = clock.read().monotonic;
    let before = seconds_on_core(server.process.id());
    let app = client_of(alg);
    let flows = browsers.iter().map(|browser| {
        let (clock, app) = (&clock, &app);
        async move {
            let mut count = 0_u32;
            while clock.read().monotonic.saturating_sub(begin) < LENGTH {
                flow(server, paths, app, browser).await;
                count += 1;
            }
            count
        }
    });
    let count: u32 = futures_util::future::join_all(flows).await.into_iter().sum();
    f64::from(count) / (seconds_on_core(server.process.id()) - before)
}

/// One login, to its end.
async fn flow(server: &Server, paths: Paths, app: &str, browser: &Browser) {
    let at = |path: &str| format!("http://{}{path}", server.address);
    let answer = browser
        .client
        .get(authorization(server, paths, app))
        .header(COOKIE, &browser.cookies)
        .send()
        .await
        .unwrap();
    let location = answer
        .headers()
        .get(LOCATION)
        .map(|value| value.to_str().unwrap().to_owned());
    let Some(location) = location.filter(|location| location.starts_with(CALLBACK)) else {
        panic!("no code: {} {}", answer.status(), answer.text().await.unwrap());
    };
    let location = Url::parse(&location).unwrap();
    let (_, code) = location.query_pairs().find(|(name, _)| name == "code").expect("a code");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", app),
        ("code", &code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let answer = browser.client.post(at(paths.token)).form(&form).send().await.unwrap();
    let tokens: Value = answer.json().await.unwrap();
    assert!(tokens["id_token"].is_string(), "{tokens}");
    let answer = browser
        .client
        .get(at(paths.userinfo))
        .bearer_auth(tokens["access_token"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    let told: Value = answer.json().await.unwrap();
    assert!(told["email"].is_string(), "{told}");
}
