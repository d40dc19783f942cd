//! A real Envoy with `jwt_authn` in front of a service, through real rotations.
//!
//! Envoy never fetches because of an unknown kid: only the lead of a key keeps it from refusing tokens. Its copy is ten seconds old
//! at most here instead of ten minutes, and the windows are scaled with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyround::clock::{self, Seconds};
use keyround::jose::alg::Algorithm;
use serde_json::{Value, json};

use crate::COMMON;
use crate::SUITS_NO_CACHE;
use crate::ports::free_port;
use crate::site::{AUDIENCE, Kind, Site, Token};
use crate::verifier::is_left_out;
use crate::watch::Watch;

/// What stands for it in `TEST_WITHOUT_VERIFIERS`.
pub const NAME: &str = "envoy";

/// A copy of ten seconds, and two for the fetch.
const SUITS_ENVOY: [(&str, &str); 6] = [
    ("keys.rotation_period", "5s"),
    ("keys.verifier_cache", "12s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "16s"),
    ("tokens.access_token_ttl", "20s"),
    ("tokens.max_token_ttl", "20s"),
];

const ROTATIONS: usize = 24;
const ROTATIONS_OF_THE_CONTROL: usize = 8;
/// Refusals that show that the harness can see them. Rotations of 5 s and a copy of 10 s keep step, so how many come in a number of
/// rotations depends on how they happen to meet: the control goes on until it has seen as many.
const SEEN_WHEN_BROKEN: usize = 50;
/// No run takes longer, even on a loaded machine.
const PATIENCE: Seconds = Seconds(360);

/// A running Envoy in front of a service that answers 200.
pub struct Envoy {
    process: Child,
    url: String,
    http: reqwest::Client,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/interop/envoy/envoy/_bin/envoy");
    assert!(
        program.exists(),
        "the gateway {NAME} is not installed: run make test, or set TEST_WITHOUT_VERIFIERS={NAME} to go on without it"
    );
    program
}

/// Fetched on a request and by each worker, or ahead of time by the main thread.
fn configuration(site: &Site, port: u16, ahead: bool) -> Value {
    let endpoint = |node: usize| {
        let url = url::Url::parse(&site.key_set_url(node)).unwrap();
        let address = json!({ "address": "127.0.0.1", "port_value": url.port().unwrap() });
        json!({ "endpoint": { "address": { "socket_address": address } } })
    };
    let endpoints: Vec<Value> = (0..site.nodes()).map(endpoint).collect();
    let mut remote = json!({
        "http_uri": { "uri": "http://keyround/.well-known/jwks.json", "cluster": "keyround", "timeout": "5s" },
        "cache_duration": "10s",
    });
    if ahead {
        remote["async_fetch"] = json!({ "failed_refetch_duration": "1s" });
    }
    let provider = json!({ "issuer": site.front.issuer(), "audiences": [AUDIENCE], "remote_jwks": remote });
    let filters = "type.googleapis.com/envoy.extensions.filters";
    let http_filters = json!([
        {
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": format!("{filters}.http.jwt_authn.v3.JwtAuthentication"),
                "providers": { "keyround": provider },
                "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "keyround" } }],
            },
        },
        {
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{filters}.http.router.v3.Router") },
        },
    ]);
    let routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let connections = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "service",
            "route_config": { "virtual_hosts": [{ "name": "service", "domains": ["*"], "routes": routes }] },
            "http_filters": http_filters,
        },
    });
    json!({ "static_resources": {
        "listeners": [{
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
            "filter_chains": [{ "filters": [connections] }],
        }],
        "clusters": [{
            "name": "keyround",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": "keyround", "endpoints": [{ "lb_endpoints": endpoints }] },
        }],
    } })
}

impl Envoy {
    /// Starts one that keeps the key set for ten seconds: fetched ahead of time, or on a request.
    pub async fn start(site: &Site, ahead: bool) -> Self {
        let port = free_port();
        let process = Command::new(program())
            .args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "error"])
            .arg("--config-yaml")
            .arg(configuration(site, port, ahead).to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()
            .unwrap();
        let mut envoy = Self {
            process,
            url: format!("http://127.0.0.1:{port}/"),
            http,
        };
        for _ in 0..600 {
            let ended = envoy.process.try_wait().unwrap();
            assert!(ended.is_none(), "Envoy did not start: {ended:?}");
            if envoy.http.get(&envoy.url).send().await.is_ok() {
                return envoy;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        panic!("Envoy does not answer");
    }

    /// What a request with this token gets.
    pub async fn status(&self, token: &str) -> u16 {
        let answer = self.http.get(&self.url).bearer_auth(token).send().await.unwrap();
        answer.status().as_u16()
    }
}

/// What came of one run.
#[derive(Debug)]
struct Outcome {
    rotations: usize,
    tokens: usize,
    requests: usize,
    refused: usize,
}

/// Tokens of both algorithms every second, each sent again and again until it expires, until the keys have rotated and tokens were
/// refused often enough.
async fn run(site: Site, ahead: bool, rotations: usize, refused: usize) -> Outcome {
    let envoy = Envoy::start(&site, ahead).await;
    assert_eq!(
        envoy.status("a.b.c").await,
        401,
        "{}: Envoy lets anything through",
        site.name
    );
    let watch = Watch::new();
    let deadline = watch.now() + PATIENCE;
    let mut live: Vec<Token> = Vec::new();
    let mut outcome = Outcome {
        rotations: 0,
        tokens: 0,
        requests: 0,
        refused: 0,
    };
    loop {
        let goes_on = outcome.rotations < rotations || outcome.refused < refused;
        if !goes_on && live.is_empty() {
            return outcome;
        }
        if goes_on {
            for (offset, alg) in Algorithm::ALL.into_iter().enumerate() {
                let token = site.token((outcome.tokens + offset) % site.nodes(), alg).await;
                watch.add(&token, alg);
                live.push(token);
            }
            outcome.tokens += 2;
        }
        for _ in 0..2 {
            // A request under way must not outlive its token.
            live.retain(|token| watch.now() + Seconds(1) < token.expires_at);
            for token in &live {
                outcome.requests += 1;
                outcome.refused += usize::from(envoy.status(&token.text).await != 200);
            }
            clock::sleep(Duration::from_millis(400)).await;
        }
        outcome.rotations = watch.fewest_rotations();
        assert!(
            watch.now() < deadline,
            "{}: too few of {rotations} rotations or {refused} refusals: {outcome:?}",
            site.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn envoy_lets_every_valid_token_through_and_the_harness_sees_when_it_does_not() {
    if is_left_out(NAME) {
        return;
    }
    let _shared = crate::MACHINE.read().await;
    let run = async |name, kind, nodes, policy: &[(&str, &str)], ahead, rotations, refused| {
        let site = Site::start(name, kind, nodes, &[&COMMON, policy].concat()).await;
        tokio::spawn(run(site, ahead, rotations, refused)).await.unwrap()
    };
    let (on_request, ahead, no_lead) = tokio::join!(
        run("Envoy SQLite", Kind::Sqlite, 1, &SUITS_ENVOY, false, ROTATIONS, 0),
        run("Envoy PostgreSQL", Kind::Postgres, 2, &SUITS_ENVOY, true, ROTATIONS, 0),
        run(
            "Envoy no lead",
            Kind::Sqlite,
            1,
            &SUITS_NO_CACHE,
            false,
            ROTATIONS_OF_THE_CONTROL,
            SEEN_WHEN_BROKEN
        ),
    );
    println!("fetched on a request: {on_request:?}\nfetched ahead of time: {ahead:?}\nno lead: {no_lead:?}");
    for outcome in [on_request, ahead] {
        assert_eq!(outcome.refused, 0, "{outcome:?}");
        assert!(outcome.requests > 10 * outcome.tokens, "{outcome:?}");
    }
    assert!(no_lead.refused >= SEEN_WHEN_BROKEN, "blind: {no_lead:?}");
}

#[test]
fn the_configuration_for_production_is_one_that_envoy_takes() {
    if is_left_out(NAME) {
        return;
    }
    let output = Command::new(program())
        .args(["--mode", "validate", "-c", "deploy/envoy/envoy.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `keyround config check` says with this lead.
fn check(prepublish: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_keyround"))
        .args(["config", "check"])
        .env_clear()
        .env("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080")
        .env("KEYROUND_KEYS__VERIFIER_CACHE", "5m")
        .env("KEYROUND_KEYS__PREPUBLISH", prepublish)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_check_of_the_settings_says_that_the_lead_must_cover_envoys_cache() {
    let configuration =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/envoy.yaml")).unwrap();
    assert!(configuration.contains("cache_duration: 600s") && configuration.contains("async_fetch:"));
    // Ten minutes, two refreshes and the clocks' difference.
    let (short, long) = (check("10m"), check("11m10s"));
    let warning = short.lines().find(|line| line.contains("Envoy")).unwrap_or(&short);
    assert_eq!(
        warning,
        "warning: keys.prepublish is 10m, too short for Envoy and Rust jwt-authorizer with default caching: a key must be visible \
         for 10m before it signs, so after each rotation valid tokens may be refused for up to 1m10s; lengthen keys.prepublish to \
         11m10s if you have such verifiers"
    );
    assert!(!long.contains("Envoy"), "{long}");
}
