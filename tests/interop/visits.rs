//! Visits of people to real relying parties, through real rotations: people log in, the programs call an API for them, refresh and log out,
//! and a login may be under way while the key changes.
//!
//! Two set-ups on both databases, and a control. They start thirty programs, so they take the machine for one alone: beside the set-ups of
//! the libraries that last for minutes, which are little work by then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyround::clock::{Seconds, sleep};
use keyround::jose::alg::Algorithm;
use serde_json::Value;
use tokio::task::JoinHandle;
use url::Url;

use crate::COMMON;
use crate::browser::{self, Browser, Landing, Page};
use crate::front::Address;
use crate::people;
use crate::relying_parties::{Program, RELYING_PARTIES, RelyingParty, kept_log};
use crate::site::{Kind, Site};
use crate::watch::{Figures, Watch};

/// What all set-ups have in common: the issuer's address is a front that ends TLS.
const LOGINS: [(&str, &str); 11] = [
    // As by default: `/oauth2/userinfo`, which some ask at each login, answers only if the node has read the database so long ago at most.
    ("keys.replica_refresh", "5s"),
    ("keys.snapshot_max_age", "15s"),
    ("keys.rotation_period", "5s"),
    ("tokens.access_token_ttl", "20s"),
    ("tokens.max_token_ttl", "20s"),
    ("accounts.access_token_ttl", "20s"),
    ("accounts.bcrypt_cost", "4"),
    // Each person logs in with every client at once.
    ("accounts.limit_account", "1000/1h"),
    ("accounts.limit_address_and_account", "900/15m"),
    ("server.behind_tls_proxy", "true"),
    ("server.trusted_proxies", "127.0.0.1"),
];
/// `openid-client` fetches again 60 s after the last fetch at the earliest; a second more, and it holds with certainty.
const LEAD: [(&str, &str); 3] = [
    ("keys.verifier_cache", "61s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "73s"),
];
/// A new key signs soon after the key set was given to the front for the last time.
const SHORT_LEAD: [(&str, &str); 3] = [
    ("keys.verifier_cache", "0s"),
    ("keys.jwks_max_age", "0s"),
    ("keys.prepublish", "12s"),
];
/// Rotations of each algorithm while people log in.
const ROTATIONS: usize = 12;
/// After as many rotations no key of the start signs any more.
const ROTATIONS_UNTIL_STALE: usize = 5;
/// How many more the control goes through.
const ROTATIONS_OF_THE_CONTROL: usize = 3;
/// No run takes longer, even on a loaded machine.
const PATIENCE: Seconds = Seconds(600);
/// How many people log in with each client.
const PEOPLE: usize = 3;
/// Between two calls of the API in one session.
const PAUSE: Duration = Duration::from_millis(2400);
/// How often a session calls the API. It lasts as long as it takes the programs to refresh, which some do after 10 s.
const CALLS: usize = 5;
/// What each client must have done at least, or the run says nothing.
const LEAST: usize = 5;

/// What is held open until the key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    /// The page on which the person logs in.
    Page,
    /// The code, on its way back.
    Code,
}

/// What a client did.
#[derive(Debug, Default)]
struct Tally {
    logins: usize,
    held_pages: usize,
    held_codes: usize,
    calls: usize,
    refreshes: usize,
    logouts: usize,
    refusals: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.logins += other.logins;
        self.held_pages += other.held_pages;
        self.held_codes += other.held_codes;
        self.calls += other.calls;
        self.refreshes += other.refreshes;
        self.logouts += other.logouts;
        self.refusals.extend(other.refusals);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            logins,
            held_pages,
            held_codes,
            calls,
            refreshes,
            logouts,
            refusals,
        } = self;
        write!(
            f,
            "{logins} logins ({held_pages} with the page and {held_codes} with the code held over a rotation), {calls} calls, {refreshes} \
             refreshes, {logouts} logouts, {} refusals",
            refusals.len()
        )
    }
}

/// What all browsers see of the run.
struct Run {
    http: reqwest::Client,
    issuer: String,
    watch: Watch,
    is_over: AtomicBool,
}

impl Run {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until the signing key of this algorithm changes.
    async fn wait_for_a_rotation(&self, alg: Algorithm) {
        let before = self.watch.rotations_of(alg);
        while self.watch.rotations_of(alg) == before && !self.is_over() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The program of one client, and the people of its browsers.
struct Party {
    kind: &'static RelyingParty,
    alg: Algorithm,
    program: Program,
    run: Arc<Run>,
}

/// A browser in which a person is logged in.
struct Session<'a> {
    of: &'a Party,
    browser: Browser,
    /// The access token of the last call.
    jti: String,
}

impl Party {
    /// Two browsers in which people come and go, and one in which a person stays.
    fn start_browsers(self: &Arc<Self>) -> [JoinHandle<Tally>; PEOPLE] {
        let comes_and_goes = |person| {
            let party = Arc::clone(self);
            tokio::spawn(async move { party.come_and_go(person).await })
        };
        let party = Arc::clone(self);
        let stays = tokio::spawn(async move { party.stay(PEOPLE - 1).await });
        [comes_and_goes(0), comes_and_goes(1), stays]
    }

    fn at(&self, path: &str) -> Url {
        Url::parse(&self.program.url).unwrap().join(path).unwrap()
    }

    /// Logins and logouts until the run is over.
    async fn come_and_go(&self, person: usize) -> Tally {
        let mut tally = Tally::default();
        for held in [Held::Page, Held::Code, Held::Nothing].into_iter().cycle().skip(person) {
            if self.run.is_over() {
                break;
            }
            if let Err(refusal) = self.log_in_and_out(person, held, &mut tally).await {
                tally.refusals.push(refusal);
                sleep(PAUSE).await;
            }
        }
        tally
    }

    async fn log_in_and_out(&self, person: usize, held: Held, tally: &mut Tally) -> Result<(), String> {
        let mut session = self.log_in(person, held, tally).await?;
        for _ in 0..CALLS {
            sleep(PAUSE).await;
            session.call(tally).await?;
        }
        session.log_out(tally).await
    }

    /// One login that lasts until the run is over.
    async fn stay(&self, person: usize) -> Tally {
        let mut tally = Tally::default();
        if let Err(refusal) = self.log_in_and_stay(person, &mut tally).await {
            tally.refusals.push(format!("the one that stays: {refusal}"));
        }
        tally
    }

    async fn log_in_and_stay(&self, person: usize, tally: &mut Tally) -> Result<(), String> {
        let mut session = self.log_in(person, Held::Nothing, tally).await?;
        while !self.run.is_over() {
            sleep(PAUSE).await;
            session.call(tally).await?;
        }
        session.log_out(tally).await
    }

    async fn log_in(&self, person: usize, held: Held, tally: &mut Tally) -> Result<Session<'_>, String> {
        let mut browser = Browser::new(&self.run.http);
        let page = browser.open(self.at(self.kind.home)).await?;
        self.hold_login_page(&page)?;
        let changes = self.run.watch.rotations_of(self.alg);
        if held == Held::Page {
            self.run.wait_for_a_rotation(self.alg).await;
        }
        let (email, password) = (people::email(person), people::PASSWORD);
        let fields = [("email", email.as_str()), ("password", password)];
        let callback = self.at(self.kind.callback);
        let back = match browser.send(&page, &fields, Some(callback.as_str())).await? {
            Landing::Before(url) => url,
            Landing::Page(page) => return Err(format!("login: {}", page.summary())),
        };
        if held == Held::Code {
            self.run.wait_for_a_rotation(self.alg).await;
        }
        let home = browser.open(back).await?;
        let jti = token_of(&home).map_err(|refusal| format!("login: {refusal}"))?;
        tally.logins += 1;
        tally.calls += 1;
        let has_changed = self.run.watch.rotations_of(self.alg) > changes;
        tally.held_pages += usize::from(held == Held::Page && has_changed);
        tally.held_codes += usize::from(held == Held::Code && has_changed);
        Ok(Session { of: self, browser, jti })
    }

    fn hold_login_page(&self, page: &Page) -> Result<(), String> {
        let is_login_page = page.url.as_str().starts_with(&self.run.issuer) && page.body.contains("id=\"password\"");
        if is_login_page {
            Ok(())
        } else {
            Err(format!("no login page: {}", page.summary()))
        }
    }
}

/// The access token that the API saw.
fn token_of(page: &Page) -> Result<String, String> {
    let answer: Option<Value> = serde_json::from_str(&page.body).ok();
    let jti = answer.as_ref().and_then(|answer| answer["jti"].as_str());
    match jti {
        Some(jti) if page.status == 200 => Ok(jti.to_owned()),
        _ => Err(page.summary()),
    }
}

impl Session<'_> {
    async fn call(&mut self, tally: &mut Tally) -> Result<(), String> {
        let of = self.of;
        let page = self.browser.open(of.at(of.kind.home)).await?;
        let jti = token_of(&page).map_err(|refusal| format!("call: {refusal}"))?;
        // Otherwise a refresh that failed would look like the next login.
        if let Some(url) = page.visited.iter().find(|url| url.as_str().starts_with(&of.run.issuer)) {
            return Err(format!(
                "call: the session was lost, and the browser was sent to {}",
                url.path()
            ));
        }
        tally.calls += 1;
        tally.refreshes += usize::from(jti != self.jti);
        self.jti = jti;
        Ok(())
    }

    /// Afterwards neither the relying party nor the issuer knows the browser.
    async fn log_out(mut self, tally: &mut Tally) -> Result<(), String> {
        let of = self.of;
        let start = (of.kind.logout)(&of.program.url, &of.run.issuer);
        let mut page = self.browser.open(of.at(&start)).await?;
        // Its own page may ask first. The issuer has the ID token of this login as a hint, and does not ask.
        if page.url.as_str().starts_with(&of.program.url) && page.body.contains("<form") {
            page = match self.browser.send(&page, &[], None).await? {
                Landing::Page(page) => page,
                Landing::Before(url) => return Err(format!("logout: stopped before {url}")),
            };
        }
        if !page.url.as_str().starts_with(of.at(of.kind.goodbye).as_str()) || page.status != 200 {
            return Err(format!("logout: {}", page.summary()));
        }
        let page = self.browser.open(of.at(of.kind.home)).await?;
        of.hold_login_page(&page)
            .map_err(|refusal| format!("after the logout: {refusal}"))?;
        tally.logouts += 1;
        Ok(())
    }
}

/// Looks at the keys until they have rotated often enough.
async fn watch_rotations(site: &Site, run: &Run, rotations: usize) {
    let deadline = run.watch.now() + PATIENCE;
    for turn in 0.. {
        for alg in Algorithm::ALL {
            let token = site.token(turn % site.nodes(), alg).await;
            run.watch.add(&token, alg);
        }
        run.watch.look(site).await;
        if run.watch.fewest_rotations() >= rotations {
            return;
        }
        assert!(run.watch.now() < deadline, "{}: too few rotations", site.name);
        sleep(Duration::from_millis(500)).await;
    }
}

type Tallies = BTreeMap<(&'static str, Algorithm), Tally>;

/// Servers, and the relying parties that browsers are led through.
struct Setup {
    name: &'static str,
    kind: Kind,
    nodes: usize,
    lead: &'static [(&'static str, &'static str)],
    address: Address,
    algorithms: &'static [Algorithm],
    /// Rotations of each algorithm before the first login. The first key signs for as long as its successor is published ahead.
    before: usize,
    /// Rotations while people log in.
    rotations: usize,
}

impl Setup {
    /// What each client did.
    async fn run(self) -> (Tallies, Figures) {
        let settings = [&COMMON[..], &LOGINS, self.lead].concat();
        let site = Site::start_at(self.name, self.kind, self.nodes, &settings, self.address).await;
        if self.address == Address::Stale {
            site.front.serve(&site.key_set(0).await);
        }
        people::create(&site, PEOPLE);
        let api = Program::api(&site).await;
        let run = Arc::new(Run {
            http: browser::http(site.front.authority()),
            issuer: site.front.issuer(),
            watch: Watch::new(),
            is_over: AtomicBool::new(false),
        });
        let parties = self.parties(&site, &api, &run).await;
        watch_rotations(&site, &run, self.before).await;
        let browsers: Vec<_> = parties.iter().map(Party::start_browsers).collect();
        watch_rotations(&site, &run, self.before + self.rotations).await;
        run.is_over.store(true, Ordering::Relaxed);
        let mut tallies = BTreeMap::new();
        for (party, browsers) in parties.iter().zip(browsers) {
            let mut tally = Tally::default();
            for browser in browsers {
                tally.add(browser.await.unwrap());
            }
            if self.address == Address::Https && !tally.refusals.is_empty() {
                println!("see {}", party.program.keep_log(self.name).display());
                site.keep_logs(&kept_log(self.name, "servers"));
            }
            tallies.insert((party.kind.name, party.alg), tally);
        }
        let figures = run.watch.figures();
        println!("{}: {figures:?}", self.name);
        (tallies, figures)
    }

    async fn parties(&self, site: &Site, api: &Program, run: &Arc<Run>) -> Vec<Arc<Party>> {
        let mut parties = Vec::new();
        for kind in RELYING_PARTIES.iter().filter(|kind| !kind.is_left_out()) {
            for &alg in self.algorithms {
                parties.push(Arc::new(Party {
                    kind,
                    alg,
                    program: Program::start(kind, alg, site, api),
                    run: Arc::clone(run),
                }));
            }
        }
        for party in &parties {
            party.program.wait_until_it_serves().await;
        }
        parties
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn relying_parties_refuse_no_login_while_keys_rotate() {
    let _alone = crate::MACHINE.write().await;
    let sqlite = Setup {
        name: "visits SQLite",
        kind: Kind::Sqlite,
        nodes: 1,
        lead: &LEAD,
        address: Address::Https,
        algorithms: &Algorithm::ALL,
        before: 1,
        rotations: crate::rotations(ROTATIONS),
    };
    let postgres = Setup {
        name: "visits PostgreSQL",
        kind: Kind::Postgres,
        nodes: 2,
        ..sqlite
    };
    // The relying parties see the key set of the start: what the keys of today sign must be refused, or nothing is shown above.
    let stale = Setup {
        name: "visits stale",
        lead: &SHORT_LEAD,
        address: Address::Stale,
        algorithms: &[Algorithm::Rs256],
        before: ROTATIONS_UNTIL_STALE,
        rotations: ROTATIONS_OF_THE_CONTROL,
        ..sqlite
    };
    let run = |setup: Setup| tokio::spawn(setup.run());
    let all = tokio::try_join!(run(sqlite), run(postgres), run(stale)).unwrap();
    let ((sqlite, sqlite_figures), (postgres, postgres_figures), (stale, stale_figures)) = all;
    let sound: Vec<_> = sqlite.iter().chain(&postgres).collect();
    for ((name, alg), tally) in sound.iter().copied().chain(&stale) {
        println!("{name} {alg}: {tally}");
        for refusal in tally.refusals.iter().take(2) {
            println!("REFUSED: {name} {alg}: {refusal}");
        }
    }
    for figures in [sqlite_figures, postgres_figures, stale_figures] {
        assert!(figures.outside.is_empty(), "{figures:?}");
    }
    for ((name, alg), tally) in sound {
        let first = tally.refusals.first();
        assert!(first.is_none(), "{name} {alg}: {tally}: {first:?}");
        let least = [tally.logins, tally.refreshes, tally.logouts, tally.calls / CALLS];
        assert!(
            least.iter().all(|count| *count >= LEAST) && tally.held_pages > 1 && tally.held_codes > 1,
            "{name} {alg} did too little: {tally}"
        );
    }
    for ((name, alg), tally) in &stale {
        assert_eq!(tally.logins, 0, "{name} {alg} checks nothing: {tally}");
        assert!(tally.refusals.len() > 2, "blind: {name} {alg}: {tally}");
        // The API refuses the access token of the one that trusts TLS.
        let of_the_api = "401 Unauthorized at ";
        let refuses = |refusal: &String| refusal.contains(of_the_api) == (*name == "openid-client");
        assert!(tally.refusals.iter().all(refuses), "{name} {alg}: {:?}", tally.refusals);
    }
}
