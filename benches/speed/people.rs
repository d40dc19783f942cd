//! Many people who log in at once: how many of them a server lets in, and what everybody else waits for meanwhile.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use serde_json::Value;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::ROUNDS;
use crate::figures::{Comparison, Target, median};
use crate::machine::{Cores, Process, pinned, seconds_on_core};
use crate::servers::{JSON, KEY_SET, PASSWORD, Server, Site, login, person, post};

/// How many log in at once.
const PEOPLE: usize = 500;
/// How many of them hold sessions that are refreshed.
const APPS: usize = 4;
const READERS: usize = 8;

const IDLE: Duration = Duration::from_secs(20);
const WARMING_UP: Duration = Duration::from_secs(2);
const BUSY: Duration = Duration::from_secs(20);
/// What a server hashes when its clients have gone is done by then.
const CALM: Duration = Duration::from_secs(1);

/// How often each of those asks whose waiting is measured.
const READER_PAUSE: Duration = Duration::from_millis(80);
const APP_PAUSE: Duration = Duration::from_millis(200);

/// The pairs of a round of logins with wrong passwords.
const PAIRS: usize = 8;

/// The cost and the number of hashes of which one is timed.
const COST: u32 = 12;
const HASHES: u32 = 5;

/// Microseconds of the processor's time for one bcrypt.
pub fn bcrypt() -> f64 {
    let process = std::process::id();
    let started = seconds_on_core(process);
    for _ in 0..HASHES {
        black_box(bcrypt::hash_with_salt(black_box(PASSWORD), COST, [7; 16]).unwrap());
    }
    (seconds_on_core(process) - started) * 1e6 / f64::from(HASHES)
}

/// What one round saw; times in microseconds.
#[derive(Default)]
struct Seen {
    bcrypt: f64,
    logins: f64,
    idle: Waits,
    /// While nobody logs in, but both cores have as little rest.
    spinning: Waits,
    busy: Waits,
    known: f64,
    unknown: f64,
}

/// The 99th percentiles of the time until an answer.
#[derive(Clone, Copy, Default)]
struct Waits {
    key_set: f64,
    refresh: f64,
}

/// Logins beside what the cores could do, and what others wait meanwhile beside what they wait otherwise.
pub async fn run(cores: &Cores) -> Vec<Comparison> {
    let mut site = Site::new(&[]).await;
    // Everybody comes from one address, and many type wrong passwords.
    for limit in ["limit_address", "limit_account", "limit_address_and_account"] {
        site.set(&format!("accounts.{limit}"), "1000000/1000000s");
    }
    site.set("accounts.refresh_limit_session", "1000/1s");
    site.people(PEOPLE + APPS).await;
    let server = site.serve_on(&cores.both()).await;
    let clock = Clock::system();
    let mut apps = Vec::new();
    for app in PEOPLE..PEOPLE + APPS {
        let reply = ask(&server.address, &log_in(&person(app), PASSWORD)).await;
        apps.push(reply.refresh_token());
    }
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        println!("logins, round {} of {ROUNDS}", round + 1);
        let mut seen = Seen {
            bcrypt: one_bcrypt(cores),
            ..Seen::default()
        };
        (seen.known, seen.unknown) = wrong_passwords(&server, &clock, round).await;
        seen.idle = waits(&server, &clock, &mut apps, IDLE).await;
        seen.spinning = {
            let _loops = loops(cores);
            waits(&server, &clock, &mut apps, IDLE).await
        };
        (seen.logins, seen.busy) = crowd(&server, &clock, &mut apps).await;
        sleep(CALM).await;
        rounds.push(seen);
    }
    comparisons(&rounds)
}

fn comparisons(rounds: &[Seen]) -> Vec<Comparison> {
    let all = |figure: fn(&Seen) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
    vec![
        Comparison::new(
            format!("logins while {PEOPLE} people log in, on two cores"),
            all(|seen| seen.logins),
            "two cores over the time of one bcrypt",
            &all(|seen| 2e6 / seen.bcrypt),
            Target::AtLeast(0.95),
        ),
        Comparison::new(
            format!("key set, p99 while {PEOPLE} people log in"),
            all(|seen| seen.busy.key_set),
            "p99 while nobody does",
            &all(|seen| seen.idle.key_set),
            Target::AtMost(2.0),
        )
        .in_microseconds(),
        Comparison::new(
            format!("key set, p99 while {PEOPLE} people log in"),
            all(|seen| seen.busy.key_set),
            "p99 while nobody does, beside an idle-priority loop on each core",
            &all(|seen| seen.spinning.key_set),
            Target::AtMost(1.5),
        )
        .in_microseconds(),
        Comparison::new(
            format!("refresh, p99 while {PEOPLE} people log in"),
            all(|seen| seen.busy.refresh),
            "p99 while nobody does",
            &all(|seen| seen.idle.refresh),
            Target::AtMost(3.0),
        )
        .in_microseconds(),
        Comparison::new(
            "login at an unknown account",
            all(|seen| seen.unknown),
            "with a wrong password at a known one",
            &all(|seen| seen.known),
            Target::Within(0.05),
        )
        .in_microseconds(),
    ]
}

fn one_bcrypt(cores: &Cores) -> f64 {
    let program = std::env::current_exe().unwrap();
    let output = pinned(&cores.server, program).arg("bcrypt").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// The median times of a refusal at accounts that exist, and at those that do not.
async fn wrong_passwords(server: &Server, clock: &Clock, round: usize) -> (f64, f64) {
    let mut times = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        let emails = [
            person(round * PAIRS + pair),
            format!("nobody-{round}-{pair}@example.com"),
        ];
        let first = pair % 2;
        for which in [first, 1 - first] {
            let request = log_in(&emails[which], "not the password of anybody");
            let (reply, time) = timed(clock, ask(&server.address, &request)).await;
            assert_eq!(reply.status, 401, "{}", reply.body);
            times[which].push(time);
        }
    }
    let [known, unknown] = times;
    (median(&known), median(&unknown))
}

/// What the crowd was answered.
#[derive(Default)]
struct Crowd {
    logins: u32,
    refused: u32,
}

/// The rate of logins when all people log in again and again, and what others wait.
async fn crowd(server: &Server, clock: &Clock, apps: &mut [String]) -> (f64, Waits) {
    let crowd = Arc::new(Mutex::new(Crowd::default()));
    let (address, seen) = (server.address.clone(), Arc::clone(&crowd));
    let (go, gone) = oneshot::channel();
    let people = std::thread::spawn(move || people(&address, &seen, gone));
    sleep(WARMING_UP).await;
    let before = crowd.lock().unwrap().logins;
    let (waits, time) = timed(clock, waits(server, clock, apps, BUSY)).await;
    let logins = crowd.lock().unwrap().logins - before;
    go.send(()).expect("somebody gave up");
    people.join().unwrap();
    assert!(crowd.lock().unwrap().refused > 0, "the queue was never full");
    (f64::from(logins) * 1e6 / time, waits)
}

/// The people, until they are told to go. They have a thread of their own, which gives way: whose waiting is measured must wait for
/// the server, not for hundreds of others to be asked for by the same thread.
fn people(address: &str, crowd: &Arc<Mutex<Crowd>>, gone: oneshot::Receiver<()>) {
    give_way();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut people = JoinSet::new();
        for number in 0..PEOPLE {
            people.spawn(log_in_for_ever(address.to_owned(), number, Arc::clone(crowd)));
        }
        tokio::select! {
            _ = gone => (),
            ended = people.join_next() => panic!("somebody gave up: {ended:?}"),
        }
    });
}

fn give_way() {
    let when_idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, when_idle).unwrap();
}

/// Does nothing, for as long as there is nothing else to do.
pub fn spin() -> ! {
    give_way();
    loop {
        std::hint::spin_loop();
    }
}

/// A loop on each core.
fn loops(cores: &Cores) -> [Process; 2] {
    [&cores.server, &cores.load].map(|core| {
        let program = std::env::current_exe().unwrap();
        Process(pinned(core, program).arg("spin").spawn().unwrap())
    })
}

async fn log_in_for_ever(address: String, number: usize, crowd: Arc<Mutex<Crowd>>) {
    let request = log_in(&person(number), PASSWORD);
    loop {
        let reply = ask(&address, &request).await;
        match reply.status {
            200 => crowd.lock().unwrap().logins += 1,
            503 => {
                crowd.lock().unwrap().refused += 1;
                sleep(reply.retry_after()).await;
            }
            status => panic!("{status}: {}", reply.body),
        }
    }
}

/// What readers of the key set and apps that refresh their sessions wait, for so long.
async fn waits(server: &Server, clock: &Clock, apps: &mut [String], length: Duration) -> Waits {
    let until = clock.read().monotonic + length;
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(read(server.address.clone(), clock.clone(), until));
    }
    let mut refreshing = JoinSet::new();
    for app in apps.iter_mut() {
        let token = std::mem::take(app);
        refreshing.spawn(refresh(server.address.clone(), clock.clone(), until, token));
    }
    let key_sets = readers.join_all().await.concat();
    let (tokens, refreshes): (Vec<_>, Vec<_>) = refreshing.join_all().await.into_iter().unzip();
    for (app, token) in apps.iter_mut().zip(tokens) {
        *app = token;
    }
    Waits {
        key_set: p99(key_sets),
        refresh: p99(refreshes.concat()),
    }
}

async fn read(address: String, clock: Clock, until: Duration) -> Vec<f64> {
    let request = format!("GET {KEY_SET} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut connection = Connection::open(&address).await;
    let mut times = Vec::new();
    while clock.read().monotonic < until {
        let (reply, time) = timed(&clock, connection.ask(&request)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        times.push(time);
        sleep(READER_PAUSE).await;
    }
    times
}

async fn refresh(address: String, clock: Clock, until: Duration, mut token: String) -> (String, Vec<f64>) {
    let mut connection = Connection::open(&address).await;
    let mut times = Vec::new();
    while clock.read().monotonic < until {
        let request = post("/auth/refresh", JSON, &format!(r#"{{"refresh_token":"{token}"}}"#));
        let (reply, time) = timed(&clock, connection.ask(&request)).await;
        token = reply.refresh_token();
        times.push(time);
        sleep(APP_PAUSE).await;
    }
    (token, times)
}

/// An answer, and the microseconds until it.
async fn timed<T>(clock: &Clock, answer: impl Future<Output = T>) -> (T, f64) {
    let started = clock.read().monotonic;
    let answer = answer.await;
    let time = clock.read().monotonic.saturating_sub(started);
    (answer, time.as_secs_f64() * 1e6)
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

fn log_in(email: &str, password: &str) -> String {
    post("/auth/login", JSON, &login(email, password))
}

/// Asks over a connection of its own: the server closes those that are silent for as long as who was refused must wait.
async fn ask(address: &str, request: &str) -> Reply {
    Connection::open(address).await.ask(request).await
}

struct Connection(BufReader<TcpStream>);

struct Reply {
    status: u16,
    retry_after: Option<u64>,
    body: String,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    async fn ask(&mut self, request: &str) -> Reply {
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).await.unwrap(), 0, "no answer, but {head:?}");
        }
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let (_, value) = lines.find(|(named, _)| named.eq_ignore_ascii_case(name))?;
            value.parse::<u64>().ok()
        };
        let mut body = vec![0; usize::try_from(header("content-length").unwrap()).unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        Reply {
            status: head.split_whitespace().nth(1).unwrap().parse().unwrap(),
            retry_after: header("retry-after"),
            body: String::from_utf8(body).unwrap(),
        }
    }
}

impl Reply {
    fn retry_after(&self) -> Duration {
        Duration::from_secs(self.retry_after.expect("a 503 says when to come again"))
    }

    fn refresh_token(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["refresh_token"].as_str().unwrap().to_owned()
    }
}
