//! How fast the server is, beside the limit of what it does and beside others: `make bench`.
//!
//! The server and its rivals run on one core, one at a time under load, and the load comes from another. Every figure is
//! the median of runs that alternate, and every ratio is taken within one round: only ratios carry over to another machine.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may end loudly")]

mod figures;
mod flow;
mod limits;
mod load;
mod machine;
mod people;
mod picture;
mod reference;
mod report;
mod servers;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::jose::alg::Algorithm;

use figures::{Comparison, Rounds, Target};
use limits::Limits;
use load::Load;
use machine::{Cores, pinned};
use servers::{KEY_SET, Server, Site, get};

const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("reference") => reference::serve(Path::new(&arguments[2])),
        Some("bcrypt") => println!("{}", people::bcrypt()),
        Some("spin") => people::spin(),
        Some("people") => print(async |cores| people::run(cores).await),
        Some("flow") => print(async |cores| flow::run(cores).await),
        Some("isolation") => print(async |cores| isolation(cores).await),
        Some("limits") => println!("{}", serde_json::to_string(&Limits::measure()).unwrap()),
        _ => run(),
    }
}

fn run() {
    let before = machine::load_average();
    // While this process may still run on all of them.
    let cores = Cores::find();
    let mut comparisons = in_runtime(&cores, async |cores| {
        let mut comparisons = speed(cores).await;
        comparisons.extend(isolation(cores).await);
        comparisons.extend(growth(cores).await);
        comparisons.extend(footprint(cores).await);
        comparisons
    });
    // Before the logins begin, which take both cores for minutes: what was measured stands.
    report::write(&comparisons, ROUNDS, before);
    comparisons.extend(in_runtime(&cores, async |cores| people::run(cores).await));
    report::write(&comparisons, ROUNDS, before);
}

/// A part alone, which changes no file.
fn print(measure: impl AsyncFnOnce(&Cores) -> Vec<Comparison>) {
    let cores = Cores::find();
    println!("{}", report::rows(&in_runtime(&cores, measure)));
}

fn in_runtime(cores: &Cores, measure: impl AsyncFnOnce(&Cores) -> Vec<Comparison>) -> Vec<Comparison> {
    pin_to(&cores.load);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(cores))
}

/// This process shares the load's core: the servers' is theirs alone.
fn pin_to(core: &str) {
    let process = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", core, &process])
        .output();
    assert!(status.unwrap().status.success(), "taskset failed");
}

fn names(algorithms: &[Algorithm]) -> Vec<(String, Algorithm)> {
    algorithms.iter().map(|&alg| (alg.name().to_lowercase(), alg)).collect()
}

/// Tokens, key sets, introspections and forward authentications, each beside its limit and its rivals.
async fn speed(cores: &Cores) -> Vec<Comparison> {
    let algorithms = Algorithm::ALL;
    let mut site = Site::new(&names(&algorithms)).await;
    site.people(1).await;
    let mut session_tokens = Vec::new();
    // The last is the default, under which the server is measured.
    for alg in [Algorithm::Es256, Algorithm::Rs256] {
        site.set("tokens.default_algorithm", alg.name());
        session_tokens.push((alg, site.serve(cores).await.session_token()));
    }
    let ours = site.serve(cores).await;
    let key_set = get(&ours.address, KEY_SET).unwrap();
    let reference = site.reference(cores, &algorithms, &key_set);
    let nginx = site.nginx(cores, &key_set);
    let rival = site.oidc_provider(cores, &algorithms);
    let etag = key_set
        .headers
        .iter()
        .find(|(name, _)| name == "etag")
        .unwrap()
        .1
        .clone();

    let unchanged = Load::get_with(&ours, KEY_SET, &format!("If-None-Match: {etag}\r\n"));
    let mut loads = vec![
        ("key set", Load::get(&ours, KEY_SET)),
        ("key set, actix", Load::get(&reference, "/key-set")),
        ("key set, nginx", Load::get(&nginx, KEY_SET)),
        ("key set, rival", Load::get(&rival, "/jwks")),
    ];
    let mut beside_rival = Vec::new();
    for (client, alg) in algorithms.into_iter().enumerate() {
        let tokens = |path: &str| site.token_requests(path, [client]);
        let introspection_form = format!("token={}", ours.token(&site, client));
        let introspections = |path: &str| vec![site.form(path, client, &introspection_form)];
        let [
            token,
            token_reference,
            token_beside_rival,
            token_rival,
            introspection,
            empty,
            forward,
            forward_empty,
        ] = figures::names_of(alg);
        beside_rival.extend([
            (token_beside_rival, Load::new(&ours, tokens("/oauth2/token"))),
            (token_rival, Load::new(&rival, tokens("/token"))),
        ]);
        let (_, session_token) = session_tokens.iter().find(|(of, _)| *of == alg).unwrap();
        let bearer = format!("Authorization: Bearer {session_token}\r\n");
        loads.extend([
            (token, Load::new(&ours, tokens("/oauth2/token"))),
            (token_reference, Load::new(&reference, tokens("/token"))),
            (introspection, Load::new(&ours, introspections("/oauth2/introspect"))),
            (empty, Load::new(&reference, introspections("/"))),
            (forward, Load::get_with(&ours, "/auth/verify/default", &bearer)),
            (forward_empty, Load::get_with(&reference, "/", &bearer)),
        ]);
    }
    // What differs from its target by less than the machine does within a round is measured side by side, and more often.
    for _ in 0..3 {
        loads.extend(beside_rival.iter().cloned());
        loads.extend([
            ("key set, 200", Load::get(&ours, KEY_SET)),
            ("key set, 304", unchanged.clone()),
        ]);
    }
    for (_, load) in &loads {
        load.clone().for_seconds(1).run();
    }
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        println!("speed, round {} of {ROUNDS}", round + 1);
        // A machine that is shared is not as fast at the end of a round as at its beginning.
        let before = limits(cores);
        rounds.measure(&loads, round);
        rounds.limits.push(before.mean(&limits(cores)));
    }
    figures::speed(&rounds)
}

fn limits(cores: &Cores) -> Limits {
    let mut command = pinned(&cores.server, std::env::current_exe().unwrap());
    let output = command.arg("limits").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The key set while every other request is a signature.
async fn isolation(cores: &Cores) -> Vec<Comparison> {
    let site = Site::new(&names(&Algorithm::ALL)).await;
    let server = site.serve(cores).await;
    let key_set = Load::get(&server, KEY_SET);
    let mut comparisons = Vec::new();
    for (client, alg) in Algorithm::ALL.into_iter().enumerate() {
        let tokens = Load::new(&server, site.token_requests("/oauth2/token", [client]));
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            println!("isolation, {alg}, round {} of {ROUNDS}", round + 1);
            idle.push(key_set.run().p99);
            busy.push(key_set.run_beside(&tokens).p99);
        }
        comparisons.push(
            Comparison::new(
                format!("key set, p99 while the token endpoint is saturated ({alg})"),
                busy,
                "p99 while it is idle",
                &idle,
                Target::AtMost(3.0),
            )
            .in_microseconds(),
        );
    }
    comparisons
}

/// What more clients and more keys cost.
async fn growth(cores: &Cores) -> Vec<Comparison> {
    let es256 = |count: usize| -> Vec<_> { (0..count).map(|n| (format!("client-{n}"), Algorithm::Es256)).collect() };
    let [few, many, keys] = [
        Site::new(&es256(1)).await,
        Site::new(&es256(10_000)).await,
        Site::new(&es256(1)).await,
    ];
    keys.publish(16).await;
    let (with_few, with_many, with_keys) = (few.serve(cores).await, many.serve(cores).await, keys.serve(cores).await);
    let published = get(&with_keys.address, KEY_SET)
        .unwrap()
        .body
        .matches("\"kid\"")
        .count();
    assert_eq!(published, 16, "so many keys are published");

    let tokens = |site: &Site, server: &Server, clients: usize| {
        Load::new(server, site.token_requests("/oauth2/token", 0..clients))
    };
    let introspections = |site: &Site, server: &Server| {
        let form = format!("token={}", server.token(site, 0));
        Load::new(server, vec![site.form("/oauth2/introspect", 0, &form)])
    };
    let same = keys.reference(cores, &[Algorithm::Es256], &get(&with_keys.address, KEY_SET).unwrap());
    let loads = [
        ("token", tokens(&few, &with_few, 1)),
        ("token, many clients", tokens(&many, &with_many, 10_000)),
        ("token, many keys", tokens(&keys, &with_keys, 1)),
        ("introspection", introspections(&few, &with_few)),
        ("introspection, many keys", introspections(&keys, &with_keys)),
        ("key set, many keys", Load::get(&with_keys, KEY_SET)),
        ("key set, many keys, actix", Load::get(&same, "/key-set")),
    ];
    for (_, load) in &loads {
        load.clone().for_seconds(1).run();
    }
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        println!("growth, round {} of {ROUNDS}", round + 1);
        rounds.measure(&loads, round);
    }
    figures::growth(&rounds)
}

/// Memory and start.
async fn footprint(cores: &Cores) -> Vec<Comparison> {
    let site = Site::new(&names(&Algorithm::ALL)).await;
    let clock = Clock::system();
    let (mut milliseconds, mut megabytes) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        println!("start and memory, round {} of {ROUNDS}", round + 1);
        milliseconds.push(site.seconds_to_first_answer(cores, &clock).await * 1e3);
        let server = site.serve(cores).await;
        sleep(Duration::from_secs(2)).await;
        megabytes.push(server.process.resident_megabytes());
    }
    vec![
        Comparison::alone("start to first answer, with keys, SQLite", milliseconds, "ms", 200.0),
        Comparison::alone("resident memory when idle, SQLite", megabytes, "MB", 25.0),
    ]
}
