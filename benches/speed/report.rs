//! Writes what was measured: `docs/performance/results.md`, the picture, and the part of docs/performance.md.

use std::fmt::Write as _;
use std::path::Path;

use crate::figures::{Comparison, Target, median};
use crate::{machine, picture, servers};

pub fn write(comparisons: &[Comparison], rounds: usize, load_before: f64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = results(comparisons, rounds, load_before);
    print!("{results}");
    std::fs::write(root.join("docs/performance/results.md"), results).unwrap();
    std::fs::write(root.join("docs/performance/results.svg"), picture::draw(comparisons)).unwrap();
    let page = root.join("docs/performance.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once("<!-- speed -->\n").expect("the first marker");
    let (_, after) = rest.split_once("<!-- /speed -->").expect("the second marker");
    let text = format!("{before}<!-- speed -->\n{}<!-- /speed -->{after}", summary(comparisons));
    std::fs::write(page, text).unwrap();
}

fn results(comparisons: &[Comparison], rounds: usize, load_before: f64) -> String {
    let mut text = String::from("# How fast it is\n\nWritten by `make bench`.\n\n");
    for (name, value) in environment() {
        writeln!(text, "- {name}: {value}").unwrap();
    }
    write!(
        text,
        "- load average of the machine before the run: {load_before:.1}; what runs beside the benchmark disturbs it\n\n\
         {EXPLANATION}\n\n{TABLE_HEAD}\n"
    )
    .unwrap();
    text.push_str(&rows(comparisons));
    let missed = comparisons.iter().filter(|comparison| !comparison.is_met()).count();
    writeln!(
        text,
        "\n{} of {} targets are met in this run of {rounds} rounds.",
        comparisons.len() - missed,
        comparisons.len()
    )
    .unwrap();
    if let Some(ratio) = limit_beside_rival(comparisons) {
        writeln!(
            text,
            "The limit of RS256 tokens, the reference handler and one signature, is itself {ratio:.2} times npm oidc-provider."
        )
        .unwrap();
    }
    text
}

/// How many times faster than the rival an RS256 token could be issued at all.
fn limit_beside_rival(comparisons: &[Comparison]) -> Option<f64> {
    let beside = |other: &str| {
        let mut tokens = comparisons
            .iter()
            .filter(|comparison| comparison.what == "RS256 tokens");
        tokens.find(|comparison| comparison.other == other)
    };
    let limit = beside("reference handler and one signature")?;
    Some(median(&limit.others) / median(&beside("npm oidc-provider")?.others))
}

const EXPLANATION: &str = "\
The server is the release binary with its defaults: clients and keys in SQLite, metrics and logs on (to a file). It and
everything that it is held against run on one core, one at a time under load. The load comes from the other core over 16 kept
connections for 2 s, in every round once, and the rounds go through the table in one order and then in the other. It never
sleeps: on a virtual machine it costs a server as much as a small handler to wake who asked, and only a handler that is fast
enough to keep them awake would be spared. A rate is told per second of the processor's time that the server's process took,
which is all of its core where nothing else runs. A ratio is taken within its round; the table shows medians, and of the ratios
also the least and the greatest.

- *Reference handler*: actix, the same form parsed, the client found in a map, the SHA-256 of its secret compared, the claims
  by serde, the reply. It contains no code of ours, and no signature. *Signature* and *verification* are OpenSSL's cheapest calls
  on a digest, keys parsed and contexts used again, measured on the server's core before and after the same round. The limit is the rate of
  a handler that takes as long as both together.
- *The same bytes*: an actix handler with the body and the headers that the server answers with, held in memory.
- *npm oidc-provider* issues JWT access tokens of the same client, algorithm and lifetime, in memory.
- *Saturated*: 16 connections ask for tokens while 16 ask for the key set; *idle*: those 16 alone.
- *Forward authentication* is `/auth/verify/default` of a session's access token; its *empty handler* gets the same request.
- *500 people log in*: the server has both cores and its defaults, but no limits on passwords; each person logs in again as
  soon as a login was answered, or after the `Retry-After` of a 503. Counted are logins answered within 20 s. *One bcrypt* is
  timed in the same round, alone on an idle core. Meanwhile 8 connections ask for the key set, 100 times a second in all, and 4
  apps refresh their sessions, 20 times a second in all, as they did before, while nobody logged in. Those who log in do so from a
  thread that gives way, so that the others wait for the server alone. What of their waiting is the machine's, whose cores never
  rest then, an *idle-priority loop* on each core shows: it only spins, as gladly interrupted as a hash.
- *304 beside 200*, and tokens beside npm oidc-provider: three times in a round, side by side, because what decides is less than what
  the machine differs by within a round.
- *Unknown account*: the median of 8 logins with a wrong password, alternating with 8 at accounts that exist.";

const TABLE_HEAD: &str = "\
| what | Keyround | beside it | | ratio (least to greatest) | target | met |
|---|---|---|---|---|---|---|";

fn environment() -> Vec<(String, String)> {
    let mut lines = machine::description();
    lines.push(("Keyround".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    lines.push((
        "rivals".to_owned(),
        format!(
            "npm oidc-provider {}, {}",
            rival_version(),
            machine::said(servers::nginx(), "-v")
                .unwrap_or_default()
                .replace("nginx version: ", "")
        ),
    ));
    lines
}

fn rival_version() -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/oidc-provider/node_modules/oidc-provider/package.json");
    let package: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    package["version"].as_str().unwrap().to_owned()
}

/// The table's lines, for who wants to see some figures alone.
pub fn rows(comparisons: &[Comparison]) -> String {
    comparisons.iter().map(|comparison| row(comparison) + "\n").collect()
}

fn row(comparison: &Comparison) -> String {
    let least = comparison.ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = comparison.ratios.iter().copied().fold(0.0, f64::max);
    format!(
        "| {} | {} | {} | {} | {:.2} ({least:.2} to {greatest:.2}) | {} | {} |",
        comparison.what,
        figure(median(&comparison.ours), comparison.unit),
        comparison.other,
        figure(median(&comparison.others), comparison.unit),
        comparison.ratio(),
        match comparison.target {
            Target::AtLeast(bound) => format!("at least {bound:.2}"),
            Target::AtMost(bound) => format!("at most {bound:.2}"),
            Target::Within(bound) => format!("{:.2} to {:.2}", 1.0 - bound, 1.0 + bound),
        },
        if comparison.is_met() { "yes" } else { "**no**" },
    )
}

/// `12,345/s`, `8.4/s`, `87 µs`, `17.3 MB`.
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "/s" if value < 100.0 => format!("{value:.1}/s"),
        "/s" => format!("{}/s", thousands(value)),
        "MB" => format!("{value:.1} MB"),
        _ => format!("{} {unit}", thousands(value)),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What the page claims: nothing but these figures.
fn summary(comparisons: &[Comparison]) -> String {
    let missed: Vec<String> = comparisons
        .iter()
        .filter(|comparison| !comparison.is_met())
        .map(|comparison| {
            format!(
                "{} beside {} ({:.2})",
                comparison.what,
                comparison.other,
                comparison.ratio()
            )
        })
        .collect();
    let verdict = if missed.is_empty() {
        "Every target was met".to_owned()
    } else {
        format!("Targets that were missed: {}", missed.join("; "))
    };
    format!("![Rates of one core, beside their limits and others](performance/results.svg)\n\n{verdict}.\n")
}
