//! Whole configurations, as a person writes them.

use crate::accounts::password_hash::HashParameters;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const ISSUER: (&str, &str) = ("KEYROUND_SERVER__ISSUER", "https://id.example.com");
const LEDGER: (&str, &str) = ("KEYROUND_KEYS__LEDGER_FILE", "ledger/revoked-kids");
const PROXIES: (&str, &str) = ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1");

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut environment = map(&[ISSUER, PROXIES, LEDGER]);
    environment.extend(map(variables));
    Config::load(&Sources {
        environment,
        ..Sources::default()
    })
}

fn refusal(variables: &[(&str, &str)]) -> String {
    load(variables).unwrap_err().to_string()
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    Config::load(&Sources {
        file: Some(path),
        environment: map(&[ISSUER, PROXIES, LEDGER]),
        ..Sources::default()
    })
}

/// The refusal of a file, with its folder cut away.
fn file_refusal(text: &str) -> String {
    let refusal = from_file(text).unwrap_err().to_string();
    refusal
        .find("config.toml")
        .map_or(refusal.clone(), |at| refusal[at..].to_owned())
}

fn secret_file(folder: &Path, content: &str, mode: u32) -> PathBuf {
    let path = folder.join("secret");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let config = load(&[]).unwrap();
    let windows = config.keys.policy.windows();
    assert_eq!(windows.algorithms, Algorithm::ALL);
    assert_eq!(windows.rotation_period, Seconds(30 * 86_400));
    assert_eq!(windows.verify_window, None);
    assert_eq!(
        (windows.max_published, windows.max_set_bytes, windows.rsa_bits.bits()),
        (16, 8192, 2048)
    );
    let accounts = &config.accounts;
    assert_eq!(accounts.sessions.idle, Seconds(7 * 86_400));
    assert_eq!(
        (accounts.client.access_token_ttl, accounts.sessions.refresh_grace),
        (Seconds(600), Seconds(30))
    );
    assert_eq!(
        (accounts.client.id.as_str(), accounts.client.audience.as_str()),
        ("first-party", ISSUER.1)
    );
    assert_eq!(accounts.logins.password_min_length, 8);
    assert_eq!(accounts.logins.password_hash, HashParameters::Bcrypt { cost: 12 });
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.database.to_string(), "sqlite:data/keyround.db");
    assert_eq!(config.tokens.access_token_ttl, Seconds(600));
    assert_eq!(config.keys.master_key, MasterKeySource::Missing);
    assert_eq!(
        (config.log.format, config.log.filter.as_str()),
        (LogFormatSetting::Text, "info,actix_server=warn")
    );
    assert!(matches!(config.master_key_text(), Err(ConfigError::NoMasterKey)));
}

#[test]
fn each_layer_overrides_the_one_below() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(
        &path,
        "[server]\nissuer = \"https://file.example\"\n[keys]\nrotation_period = \"20d\"\nprepublish = \"20h\"\nrsa_bits = 3072\n",
    )
    .unwrap();
    let config = Config::load(&Sources {
        file: Some(path),
        environment: map(&[
            PROXIES,
            ("KEYROUND_KEYS__ROTATION_PERIOD", "15d"),
            ("KEYROUND_KEYS__PREPUBLISH", "15h"),
            ("HOME", "/"),
        ]),
        flags: map(&[("keys.prepublish", "10h")]),
        development: false,
    })
    .unwrap();
    let windows = config.keys.policy.windows();
    assert_eq!(windows.clock_skew, Seconds(60), "the default");
    assert_eq!(windows.rsa_bits, RsaBits::Bits3072, "the file");
    assert_eq!(windows.rotation_period, Seconds(15 * 86_400), "the environment");
    assert_eq!(windows.prepublish, Seconds(10 * 3_600), "the flag");
}

#[test]
fn the_example_file_changes_nothing() {
    let example = settings::example_file().replace("# issuer", "issuer");
    let config = from_file(&example).unwrap();
    assert_eq!(config.to_toml(), load(&[]).unwrap().to_toml());
}

#[test]
fn the_example_file_takes_either_setting_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = secret_file(folder.path(), "postgres://a:b@h/k", 0o600);
    let example = settings::example_file().replace("# issuer", "issuer");
    let other = example.replace(
        "# url_file = \"/run/secrets/keyround_database_url\"",
        &format!("url_file = \"{}\"", path.display()),
    );
    assert_ne!(example, other);
    assert_eq!(from_file(&other).unwrap().database_setting(), "database.url_file");
}

#[test]
fn the_environment_writes_every_kind_of_value() {
    let config = load(&[
        ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
        ("KEYROUND_SERVER__LISTEN", "0.0.0.0:8080"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ("KEYROUND_KEYS__ALGORITHMS", "ES256"),
        ("KEYROUND_KEYS__MAX_PUBLISHED", "9"),
        ("KEYROUND_KEYS__VERIFY_WINDOW", "1d12h"),
        ("KEYROUND_TOKENS__DEFAULT_ALGORITHM", "ES256"),
        ("KEYROUND_LOG__FORMAT", "json"),
        ("KEYROUND_LOG__FILTER", "warn,keyround=debug"),
    ])
    .unwrap();
    assert!(config.server.behind_tls_proxy);
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert!(config.server.trusted_proxies[1].contains("::1".parse().unwrap()));
    assert_eq!(config.keys.policy.algorithms(), [Algorithm::Es256]);
    assert_eq!(config.keys.policy.windows().max_published, 9);
    assert_eq!(config.keys.policy.windows().verify_window, Some(Seconds(129_600)));
    assert_eq!(config.log.format, LogFormatSetting::Json);
    let plain = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", ""),
    ];
    assert!(load(&plain).unwrap().server.trusted_proxies.is_empty());
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    for name in [
        "KEYROUND_KEYS__ROTATE",
        "KEYROUND_KEYS_ROTATION_PERIOD",
        "KEYROUND__KEYS__ROTATION_PERIOD",
        "KEYROUND_keys__rotation_period",
        "keyround_keys__rotation_period",
        "KEYROUND_ROTATION_PERIOD",
        "KEYROUND_KEYS",
        "KEYROUND_",
        "KEYROUND_KEYS__MASTER_KEY__FILE",
    ] {
        let refusal = refusal(&[(name, "s3cret")]);
        assert!(
            refusal.starts_with(&format!("the environment has {name}, which is not")),
            "{refusal}"
        );
        assert!(!refusal.contains("s3cret"), "{refusal}");
    }
    assert_eq!(
        refusal(&[("KEYROUND_KEYS_ROTATION_PERIOD", "10s")]),
        "the environment has KEYROUND_KEYS_ROTATION_PERIOD, which is not a setting of Keyround; did you mean \
         KEYROUND_KEYS__ROTATION_PERIOD?"
    );
}

#[test]
fn what_was_probably_meant_is_named() {
    for (variable, meant) in [
        ("KEYROUND_SERVER_LISTEN", "KEYROUND_SERVER__LISTEN"),
        ("KEYROUND_SERVER__LISTNE", "KEYROUND_SERVER__LISTEN"),
        ("KEYROUND_LISTEN", "KEYROUND_SERVER__LISTEN"),
        ("KEYROUND_SERVER__ISUER", "KEYROUND_SERVER__ISSUER"),
        ("KEYROUND_DATABASE_URL", "KEYROUND_DATABASE__URL"),
        ("KEYROUND_KEYS__MASTERKEY_FILE", "KEYROUND_KEYS__MASTER_KEY_FILE"),
        ("keyround_keys__rotation_period", "KEYROUND_KEYS__ROTATION_PERIOD"),
        // A port is no Service's unless its value is an address.
        ("KEYROUND_SERVER_LISTEN_PORT", "KEYROUND_SERVER__LISTEN"),
    ] {
        let refusal = refusal(&[(variable, "8080")]);
        assert!(refusal.ends_with(&format!("; did you mean {meant}?")), "{refusal}");
    }
    for variable in ["KEYROUND_X", "KEYROUND_", "KEYROUND_FAVOURITE__COLOUR"] {
        let refusal = refusal(&[(variable, "8080")]);
        assert!(!refusal.contains("did you mean"), "{refusal}");
    }
}

#[test]
fn every_setting_that_is_nearly_right_is_proposed() {
    let mut without = Vec::new();
    for setting in super::settings::SETTINGS {
        let letters: Vec<char> = setting.field.chars().collect();
        let mut fields = vec![
            setting.field.replace('_', "-"),
            setting.field.replace('_', ""),
            format!("{}s", setting.field),
        ];
        for at in 0..letters.len() {
            fields.extend(text::misspelt(setting.field, at));
        }
        let sections = [&setting.section[1..], &format!("{}s", setting.section), setting.section];
        let names = fields.into_iter().map(|field| format!("{}.{field}", setting.section));
        let names = names.chain(sections.map(|section| format!("{section}.{}", setting.field)));
        for name in names {
            if super::settings::find(&name).is_some() {
                continue;
            }
            let variable = format!("KEYROUND_{}", name.replace('.', "__").to_uppercase());
            let refusal = refusal(&[(&variable, "8080")]);
            if !refusal.contains("did you mean") {
                without.push(refusal);
            }
        }
    }
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn a_separator_behind_the_last_item_of_a_list_says_nothing() {
    for (variable, value, expected) in [
        ("KEYROUND_FORWARD_AUTH__POLICIES", "api role=admin; web role=a;", 2),
        ("KEYROUND_FORWARD_AUTH__POLICIES", "api role=a;\n", 1),
        ("KEYROUND_FORWARD_AUTH__POLICIES", "api role=a", 1),
    ] {
        let config = load(&[(variable, value)]).unwrap();
        let known = ["api", "web"]
            .iter()
            .filter(|name| config.forward_auth.policy(name).is_some());
        assert_eq!(known.count(), expected, "{value:?}");
    }
    let config = load(&[
        ("KEYROUND_KEYS__ALGORITHMS", "ES256, "),
        ("KEYROUND_TOKENS__DEFAULT_ALGORITHM", "ES256"),
    ])
    .unwrap();
    assert_eq!(config.keys.policy.algorithms().len(), 1);
    for (variable, value) in [
        ("KEYROUND_FORWARD_AUTH__POLICIES", ";api"),
        ("KEYROUND_FORWARD_AUTH__POLICIES", "default;;web role=a"),
        ("KEYROUND_FORWARD_AUTH__POLICIES", "default;;"),
        ("KEYROUND_KEYS__ALGORITHMS", "ES256,,"),
    ] {
        assert!(load(&[(variable, value)]).is_err(), "{value}");
    }
}

#[test]
fn services_of_kubernetes_are_no_settings() {
    let config = load(&[
        ("KEYROUND_SERVICE_HOST", "10.0.0.1"),
        ("KEYROUND_SERVICE_PORT", "80"),
        ("KEYROUND_SERVICE_PORT_HTTP", "80"),
        ("KEYROUND_PORT", "tcp://10.0.0.1:80"),
        ("KEYROUND_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("KEYROUND_PORT_80_TCP_PROTO", "tcp"),
        ("KEYROUND_PORT_80_TCP_PORT", "80"),
        ("KEYROUND_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("KEYROUND_SERVER_SERVICE_HOST", "10.0.0.2"),
        ("KEYROUND_PG_PORT_5432_TCP_ADDR", "10.0.0.3"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:8081"),
    ])
    .unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8081");
}

#[test]
fn a_file_with_a_byte_order_mark_is_read() {
    let config = from_file("\u{feff}[server]\r\nlisten = \"127.0.0.1:8081\"\r\n").unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8081");
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    for (text, name) in [
        ("[keys]\nrotate = \"1d\"", "keys.rotate"),
        ("[key]\nrotation_period = \"1d\"", "key"),
        ("rotation_period = \"1d\"", "rotation_period"),
        ("[Keys]\nrotation_period = \"1d\"", "Keys"),
        ("[keys]\nRotation_Period = \"1d\"", "keys.Rotation_Period"),
        ("[keys.prepublish]\n[keys.deep.er]\n", "keys.deep"),
        ("\"keys.rotation_period\" = \"1d\"", "keys.rotation_period"),
        ("[keys]\n\"deep.er\" = 1", "keys.deep.er"),
    ] {
        let refusal = file_refusal(text);
        assert!(
            refusal.starts_with(&format!("config.toml has {name}, which is not")),
            "{refusal}"
        );
    }
    let mut sources = Sources::default();
    sources.flags.insert("keys.rotate".to_owned(), "1d".to_owned());
    let refusal = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(refusal, "a flag sets keys.rotate, which is not a setting of Keyround");
}

#[test]
fn a_bad_value_is_refused_by_name_with_the_right_form() {
    for (variable, value, expected) in [
        (
            "KEYROUND_KEYS__PREPUBLISH",
            "30",
            "KEYROUND_KEYS__PREPUBLISH '30' has no unit; write 30s, 30m, 30h or 30d",
        ),
        (
            "KEYROUND_KEYS__RSA_BITS",
            "big",
            "KEYROUND_KEYS__RSA_BITS is 'big', but must be a whole number",
        ),
        (
            "KEYROUND_KEYS__MAX_PUBLISHED",
            "-1",
            "KEYROUND_KEYS__MAX_PUBLISHED '-1' is out of range",
        ),
        (
            "KEYROUND_SERVER__BEHIND_TLS_PROXY",
            "yes",
            "KEYROUND_SERVER__BEHIND_TLS_PROXY is 'yes', but must be true or false",
        ),
        (
            "KEYROUND_KEYS__ALGORITHMS",
            "RS256,none",
            "KEYROUND_KEYS__ALGORITHMS holds 'none', which is not an algorithm of Keyround; write RS256 or ES256",
        ),
        (
            "KEYROUND_LOG__FILTER",
            "a=b=c",
            "KEYROUND_LOG__FILTER 'a=b=c' is not a log filter",
        ),
        (
            "KEYROUND_LOG__FORMAT",
            "xml",
            "KEYROUND_LOG__FORMAT 'xml' is not a form of log lines; write text or json",
        ),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "",
            "KEYROUND_KEYS__MASTER_KEY is empty; leave it out, or write a value",
        ),
        (
            "KEYROUND_SERVER__LISTEN",
            "localhost:80",
            "KEYROUND_SERVER__LISTEN 'localhost:80' is not an IP address with a port",
        ),
    ] {
        let refusal = refusal(&[(variable, value)]);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
    for (text, expected) in [
        (
            "[keys]\nprepublish = 30",
            "keys.prepublish '30' has no unit; write 30s, 30m, 30h or 30d",
        ),
        (
            "[keys]\nalgorithms = [1]",
            "keys.algorithms is an array, but must be a list of RS256 and ES256",
        ),
        (
            "[keys]\nmaster_key = 123456",
            "keys.master_key is a number, but must be a text",
        ),
        (
            "[keys]\nprepublish = { hours = 1 }",
            "keys.prepublish is a table, but must be a length of time such as \"30d\"",
        ),
        (
            "keys = 3",
            "config.toml has a value for keys, which is a section; write [keys] and its fields below",
        ),
        (
            "[keys]\nprepublish = \"1h\"\nprepublish = \"2h\"",
            "config.toml is not TOML, in line 3: ",
        ),
    ] {
        let refusal = file_refusal(text);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn every_broken_window_is_refused_with_its_numbers() {
    for (variable, value, expected) in [
        (
            "KEYROUND_KEYS__ALGORITHMS",
            "",
            "keys.algorithms is [], but must be one or more",
        ),
        (
            "KEYROUND_KEYS__ALGORITHMS",
            "RS256,RS256",
            "keys.algorithms is [\"RS256\", \"RS256\"], but must be",
        ),
        (
            "KEYROUND_KEYS__ROTATION_PERIOD",
            "0s",
            "keys.rotation_period is 0s, but must be at least 1s",
        ),
        (
            "KEYROUND_KEYS__REPLICA_REFRESH",
            "0s",
            "keys.replica_refresh is 0s, but must be at least 1s",
        ),
        (
            "KEYROUND_KEYS__CLOCK_SKEW",
            "1s",
            "keys.clock_skew is 1s, but must be at least 2s",
        ),
        (
            "KEYROUND_TOKENS__MAX_TOKEN_TTL",
            "0s",
            "tokens.max_token_ttl is 0s, but must be at least 1s",
        ),
        (
            "KEYROUND_KEYS__RSA_BITS",
            "1024",
            "keys.rsa_bits is 1024, but must be 2048, 3072 or 4096",
        ),
        (
            "KEYROUND_KEYS__MAX_PUBLISHED",
            "101",
            "keys.max_published is 101, but must be 1 to 100",
        ),
        (
            "KEYROUND_KEYS__VERIFIER_CACHE",
            "1m",
            "keys.verifier_cache is 1m, but at least 5m is needed",
        ),
        (
            "KEYROUND_KEYS__SNAPSHOT_MAX_AGE",
            "9s",
            "keys.snapshot_max_age is 9s, but at least 10s is needed",
        ),
        (
            "KEYROUND_KEYS__PREPUBLISH",
            "31m",
            "keys.prepublish is 31m, but at least 31m10s is needed",
        ),
        (
            "KEYROUND_KEYS__VERIFY_WINDOW",
            "1h",
            "keys.verify_window is 1h, but at least 1h6m30s is needed",
        ),
        (
            "KEYROUND_KEYS__MAX_PUBLISHED",
            "3",
            "this policy leads to 4 keys in the key set, but keys.max_published is 3",
        ),
        ("KEYROUND_KEYS__MAX_SET_BYTES", "500", "this policy leads to "),
    ] {
        let refusal = refusal(&[(variable, value)]);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn tokens_fit_the_policy() {
    assert_eq!(
        refusal(&[("KEYROUND_TOKENS__ACCESS_TOKEN_TTL", "2h")]),
        "tokens.access_token_ttl is 2h, but tokens.max_token_ttl is 1h; shorten tokens.access_token_ttl or lengthen \
         tokens.max_token_ttl"
    );
    assert!(load(&[("KEYROUND_TOKENS__ACCESS_TOKEN_TTL", "1h")]).is_ok());
    assert!(refusal(&[("KEYROUND_TOKENS__ACCESS_TOKEN_TTL", "0s")]).ends_with("must be at least 1s"));
    assert_eq!(
        refusal(&[("KEYROUND_KEYS__ALGORITHMS", "ES256")]),
        "tokens.default_algorithm is RS256, which keys.algorithms does not enable; enable it there, or choose one of: ES256"
    );
}

/// Whether a server with this issuer, these listeners and this proxy may start.
fn may_start(issuer: &str, listen: &str, admin_listen: &str, proxy: &str) -> bool {
    load(&[
        ("KEYROUND_SERVER__ISSUER", issuer),
        ("KEYROUND_SERVER__LISTEN", listen),
        ("KEYROUND_SERVER__ADMIN_LISTEN", admin_listen),
        ("KEYROUND_SERVER__BEHIND_TLS_PROXY", proxy),
    ])
    .is_ok()
}

#[test]
fn plain_http_stays_on_loopback_or_behind_a_proxy() {
    let (inside, outside, admin, open_admin) = ("127.0.0.1:80", "0.0.0.0:80", "127.0.0.1:90", "[::]:90");
    for (issuer, listen, admin_listen, proxy, may) in [
        ("https://id.example.com", inside, admin, "false", true),
        ("https://id.example.com", outside, admin, "false", false),
        ("https://id.example.com", inside, open_admin, "false", false),
        ("https://id.example.com", outside, open_admin, "true", true),
        ("http://id.example.com", inside, admin, "false", false),
        ("http://id.example.com", outside, admin, "false", false),
        ("http://id.example.com", outside, admin, "true", true),
        ("http://127.0.0.1", inside, admin, "false", true),
        ("http://localhost", outside, admin, "false", true),
        ("http://localhost.example.com", inside, admin, "false", false),
    ] {
        assert_eq!(
            may_start(issuer, listen, admin_listen, proxy),
            may,
            "{issuer} {listen} {admin_listen} {proxy}"
        );
    }
    assert!(
        !may_start("https://id.example.com", inside, inside, "false"),
        "one address for both"
    );
}

#[test]
fn a_proxy_that_ends_tls_is_listed() {
    let unlisted = ("KEYROUND_SERVER__TRUSTED_PROXIES", "");
    let proxied = ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true");
    let plain = ("KEYROUND_SERVER__ISSUER", "http://id.example.com");
    let on_loopback = ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1");
    let tls = [
        ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "a.pem"),
        ("KEYROUND_SERVER__TLS_KEY_FILE", "a.key"),
    ];
    for refused in [
        &[unlisted, proxied][..],
        &[unlisted, proxied, plain],
        &[unlisted, proxied, on_loopback],
        // An issuer with https and a listener without: a proxy is in front, whatever the settings say of it.
        &[unlisted],
        &[unlisted, proxied, tls[0], tls[1]],
    ] {
        let refusal = refusal(refused);
        assert!(refusal.contains("server.trusted_proxies lists no proxy"), "{refusal}");
        assert!(
            refusal.contains("KEYROUND_SERVER__TRUSTED_PROXIES=127.0.0.1"),
            "{refusal}"
        );
    }
    for accepted in [
        &[proxied][..],
        &[],
        &[unlisted, on_loopback],
        &[unlisted, tls[0], tls[1]],
    ] {
        assert_eq!(load(accepted).unwrap().warnings(), Vec::<String>::new());
    }
    for all in [
        "0.0.0.0/0",
        "10.0.0.0/8,::/0",
        "0.0.0.0/1,128.0.0.0/1",
        "128.0.0.0/1,10.0.0.0/8,64.0.0.0/2,0.0.0.0/2",
        "::/1,8000::/1",
    ] {
        let warnings = load(&[("KEYROUND_SERVER__TRUSTED_PROXIES", all)]).unwrap().warnings();
        assert!(
            warnings[0].starts_with("server.trusted_proxies holds every address"),
            "{warnings:?}"
        );
    }
}

#[test]
fn an_admin_listener_that_others_reach_is_warned_of() {
    let warnings = |address: &str, proxy: &str, listen: &str| {
        load(&[
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", listen),
            ("KEYROUND_SERVER__ADMIN_LISTEN", address),
            ("KEYROUND_SERVER__BEHIND_TLS_PROXY", proxy),
        ])
        .unwrap()
        .warnings()
    };
    let inside = "127.0.0.1:8080";
    for (address, proxy, is_told) in [
        ("127.0.0.1:9090", "false", false),
        ("[::1]:9090", "false", false),
        ("[::ffff:127.0.0.1]:9090", "false", false),
        ("0.0.0.0:9090", "false", true),
        ("10.0.0.7:9090", "false", true),
        ("[::]:9090", "false", true),
        ("0.0.0.0:9090", "true", false),
        ("[::]:9090", "true", false),
        ("10.0.0.7:9090", "true", false),
        ("172.16.0.7:9090", "true", false),
        ("100.64.0.7:9090", "true", false),
        ("[fd00::7]:9090", "true", false),
        ("203.0.113.7:9090", "true", true),
        ("100.128.0.7:9090", "true", true),
        ("[2001:db8::7]:9090", "true", true),
        ("[::ffff:203.0.113.7]:9090", "true", true),
    ] {
        let told = warnings(address, proxy, inside);
        assert_eq!(!told.is_empty(), is_told, "{address} {proxy}: {told:?}");
        for warning in &told {
            for part in [
                "which other machines can reach",
                "health and metrics",
                "listen on a loopback address",
            ] {
                assert!(warning.contains(part), "{warning}");
            }
            assert!(!warning.contains("tokens"), "it serves none: {warning}");
        }
    }
    assert_eq!(
        warnings("127.0.0.1:9090", "false", "0.0.0.0:8080"),
        ["server.listen is 0.0.0.0:8080: secrets and tokens cross the network in plain http; listen on loopback"]
    );
}

#[test]
fn a_certificate_lets_the_public_listener_out() {
    let (certificate, key) = ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "KEYROUND_SERVER__TLS_KEY_FILE");
    let open = ("KEYROUND_SERVER__LISTEN", "0.0.0.0:443");
    let pair = [(certificate, "a.pem"), (key, "a.key")];
    let config = load(&[pair[0], pair[1], open]).unwrap();
    let files = config.server.tls.as_ref().unwrap();
    assert_eq!(
        (files.certificate.to_str(), files.key.to_str()),
        (Some("a.pem"), Some("a.key"))
    );
    assert_eq!(config.warnings(), Vec::<String>::new());
    let admin = [pair[0], pair[1], ("KEYROUND_SERVER__ADMIN_LISTEN", "0.0.0.0:90")];
    let said = refusal(&admin);
    assert!(
        said.starts_with("server.admin_listen is 0.0.0.0:90, which other machines can reach"),
        "{said}"
    );
    for part in [
        "health and metrics to any caller",
        "also if server.listen has a certificate",
        "127.0.0.1:9090",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(
        refusal(&pair[..1]),
        "server.tls_certificate_file is set, but server.tls_key_file is not; TLS needs server.tls_certificate_file and \
         server.tls_key_file, plain http neither"
    );
    assert!(refusal(&pair[1..]).starts_with("server.tls_key_file is set, but server.tls_certificate_file is not"));
    let plain = [pair[0], pair[1], ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1")];
    assert!(refusal(&plain).starts_with("server.issuer is http://127.0.0.1, but server.tls_certificate_file makes"));
}

#[test]
fn plain_http_that_is_allowed_is_warned_of() {
    let open = load(&[
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1"),
        ("KEYROUND_SERVER__LISTEN", "0.0.0.0:80"),
    ])
    .unwrap();
    assert!(open.warnings()[0].starts_with("server.listen is 0.0.0.0:80: secrets and tokens"));
    let proxied = [
        ("KEYROUND_SERVER__ISSUER", "http://id.example.com"),
        ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
    ];
    assert!(
        load(&proxied).unwrap().warnings()[0].starts_with("server.issuer is http://id.example.com, which is not https")
    );
    let few = ("KEYROUND_SERVER__MAX_CONNECTIONS", "100");
    assert_eq!(load(&[few]).unwrap().warnings(), Vec::<String>::new());
    let of_one = [few, ("KEYROUND_SERVER__MAX_CONNECTIONS_PER_ADDRESS", "101")];
    assert!(
        load(&of_one).unwrap().warnings()[0]
            .starts_with("server.max_connections_per_address is 101, more than server.max_connections (100)")
    );
    let inward = [("KEYROUND_OUTBOUND__ALLOWED_NETWORKS", "0.0.0.0/0")];
    assert!(load(&inward).unwrap().warnings()[0].starts_with("outbound.allowed_networks holds every address"));
    assert_eq!(load(&[]).unwrap().warnings(), Vec::<String>::new());
}

#[test]
fn verifiers_that_fetch_too_seldom_are_named() {
    let warnings = load(&[("KEYROUND_KEYS__PREPUBLISH", "1h")]).unwrap().warnings();
    assert_eq!(warnings.len(), 2);
    assert_eq!(
        warnings[1],
        "keys.prepublish is 1h, too short for .NET JwtBearer with default caching: a key must be visible for 13h before it signs, \
         so after each rotation valid tokens may be refused for up to 12h1m10s; lengthen keys.prepublish to 13h1m10s if you have \
         such verifiers"
    );
}

#[test]
fn the_issuer_is_required_except_in_development() {
    let refusal = Config::load(&Sources::default()).unwrap_err().to_string();
    assert!(
        refusal.starts_with(
            "server.issuer is not set, and has no default; set KEYROUND_SERVER__ISSUER=https://id.example.com,"
        ) && refusal.contains("--dev"),
        "{refusal}"
    );
    let develop = |environment: &[(&str, &str)]| {
        Config::load(&Sources {
            environment: map(environment),
            development: true,
            ..Sources::default()
        })
    };
    let config = develop(&[]).unwrap();
    assert_eq!(config.server.issuer.as_str(), "http://127.0.0.1:8080");
    assert_eq!(config.keys.master_key, MasterKeySource::File("keys/master.key".into()));
    assert!(config.to_toml().contains("issuer = \"http://127.0.0.1:8080\""));
    for (listen, issuer) in [("0.0.0.0:81", "http://127.0.0.1:81"), ("[::]:81", "http://[::1]:81")] {
        let config = develop(&[("KEYROUND_SERVER__LISTEN", listen)]).unwrap();
        assert_eq!(config.server.issuer.as_str(), issuer);
    }
    assert!(develop(&[("KEYROUND_SERVER__LISTEN", "192.0.2.1:80")]).is_err());
    let config = develop(&[("KEYROUND_KEYS__MASTER_KEY", "c2VjcmV0")]).unwrap();
    assert!(matches!(config.keys.master_key, MasterKeySource::Value(_)));
}

#[test]
fn the_master_key_comes_from_the_value_or_a_file_of_mode_0600() {
    let folder = tempfile::tempdir().unwrap();
    let from = |path: &Path| {
        load(&[("KEYROUND_KEYS__MASTER_KEY_FILE", path.to_str().unwrap())])
            .unwrap()
            .master_key_text()
    };
    for mode in [0o600, 0o400] {
        let path = secret_file(folder.path(), "c2VjcmV0\n", mode);
        assert_eq!(*from(&path).unwrap(), "c2VjcmV0");
        fs::remove_file(path).unwrap();
    }
    for mode in [0o640, 0o604, 0o620, 0o610, 0o777] {
        let path = secret_file(folder.path(), "c2VjcmV0\n", mode);
        let refusal = from(&path).unwrap_err().to_string();
        assert!(refusal.contains(&format!("has mode {mode:04o}")), "{refusal}");
        assert!(
            refusal.contains(&format!("run: chmod 600 {} ", path.display())),
            "{refusal}"
        );
        assert!(!refusal.contains("c2VjcmV0"), "{refusal}");
    }
    let with_mark = secret_file(folder.path(), "\u{feff}c2VjcmV0\r\n", 0o600);
    assert_eq!(*from(&with_mark).unwrap(), "c2VjcmV0");
    for (content, expected) in [
        (" \n", "is empty"),
        ("\u{feff}", "is empty"),
        ("c\0", "UTF-16"),
        (&"a".repeat(5000), "is longer than 4096 bytes"),
    ] {
        let refusal = from(&secret_file(folder.path(), content, 0o600))
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    assert!(
        from(&folder.path().join("none"))
            .unwrap_err()
            .to_string()
            .contains("does not exist; if this is a new server")
    );
    assert!(from(folder.path()).unwrap_err().to_string().starts_with("cannot read "));
    let value = load(&[("KEYROUND_KEYS__MASTER_KEY", "c2VjcmV0")])
        .unwrap()
        .master_key_text()
        .unwrap();
    assert_eq!(*value, "c2VjcmV0");
}

#[test]
fn the_database_url_may_lie_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = "postgres://app:swordfish@db.example.com/keyround";
    let path = secret_file(folder.path(), &format!("{url}\n"), 0o600);
    let variable = ("KEYROUND_DATABASE__URL_FILE", path.to_str().unwrap());
    let config = load(&[variable]).unwrap();
    assert!(matches!(&config.database, Database::Postgres(read) if read.reveal() == url));
    assert!(
        config
            .to_toml()
            .contains("url = \"postgres://app:hidden@db.example.com/keyround\"")
    );
    secret_file(folder.path(), "swordfish", 0o600);
    let refusal = refusal(&[variable]);
    assert!(
        refusal.contains("database.url_file") && !refusal.contains("swordfish"),
        "{refusal}"
    );
}

#[test]
fn a_secret_and_its_file_are_not_both_given() {
    assert_eq!(
        refusal(&[
            ("KEYROUND_KEYS__MASTER_KEY", "c2VjcmV0"),
            ("KEYROUND_KEYS__MASTER_KEY_FILE", "f")
        ]),
        "keys.master_key and keys.master_key_file are both set; keep one of them"
    );
    assert_eq!(
        refusal(&[
            ("KEYROUND_DATABASE__URL", "sqlite:a.db"),
            ("KEYROUND_DATABASE__URL_FILE", "f")
        ]),
        "database.url and database.url_file are both set; keep one of them"
    );
}

#[test]
fn a_secret_is_in_no_output() {
    let variables = [
        ("KEYROUND_KEYS__MASTER_KEY", "swordfish"),
        (
            "KEYROUND_DATABASE__URL",
            "postgres://app:swordfish@db.example.com/keyround",
        ),
    ];
    let config = load(&variables).unwrap();
    let sources = Sources {
        environment: map(&variables),
        flags: map(&variables),
        ..Sources::default()
    };
    let outputs = format!("{config:?} {} {} {sources:?}", config.to_toml(), config.to_json());
    assert!(
        outputs.contains("master_key = \"hidden\"") && !outputs.contains("swordfish"),
        "{outputs}"
    );
    for text in [
        "[keys]\nmaster_key = swordfish",
        "[keys]\nmaster_key = \"swordfish",
        "[keys]\nmaster_key = \"swordfish\" swordfish",
        "[keys]\nmaster_key = \"a\\swordfish\"",
        "[keys]\nmaster_key = [\"swordfish\"]",
        "[database]\nurl = \"swordfish\"",
        "[database]\nurl = { swordfish = 1 }",
    ] {
        let error = from_file(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("swordfish"), "{error:?}");
    }
}

#[test]
fn show_is_toml_that_loads_again_and_json_with_every_setting() {
    let config = load(&[("KEYROUND_KEYS__MASTER_KEY", "c2VjcmV0")]).unwrap();
    let shown = config.to_toml();
    assert!(shown.contains("# verify_window is derived: 1h6m30s\n"), "{shown}");
    assert_eq!(from_file(&shown).unwrap().to_toml(), shown);
    let json = config.to_json();
    assert_eq!(json["keys"]["rotation_period"], "30d");
    assert_eq!(json["keys"]["master_key"], "hidden");
    assert_eq!(json["derived"]["verify_window"], "1h6m30s");
    for setting in settings::SETTINGS {
        assert!(json[setting.section].get(setting.field).is_some(), "{}", setting.name());
    }
}

#[test]
fn account_settings_have_bounds_and_defaults_give_way() {
    let with = |name: &str, value: &str| refusal(&[(name, value)]);
    for (name, value, needed) in [
        ("KEYROUND_ACCOUNTS__ACCESS_TOKEN_TTL", "16m", "from 1s to 15m"),
        ("KEYROUND_ACCOUNTS__SESSION_ABSOLUTE", "91d", "from 1s to 90d"),
        ("KEYROUND_ACCOUNTS__SESSION_IDLE", "8d", "from 1s to 7d"),
        ("KEYROUND_ACCOUNTS__REFRESH_GRACE", "61s", "from 0s to 1m"),
        ("KEYROUND_ACCOUNTS__PASSWORD_MIN_LENGTH", "7", "from 8 to 64"),
        ("KEYROUND_ACCOUNTS__BCRYPT_COST", "16", "from 4 to 15"),
        ("KEYROUND_ACCOUNTS__PASSWORD_HASH", "md5", "bcrypt or argon2id"),
        (
            "KEYROUND_ACCOUNTS__ALLOWED_ORIGINS",
            "https://a.example/",
            "https://a.example; write that",
        ),
    ] {
        assert!(with(name, value).contains(needed), "{name}: {}", with(name, value));
    }
    let config = load(&[
        ("KEYROUND_TOKENS__MAX_TOKEN_TTL", "5m"),
        ("KEYROUND_TOKENS__ACCESS_TOKEN_TTL", "5m"),
    ])
    .unwrap();
    assert_eq!(config.accounts.client.access_token_ttl, Seconds(300));
    let config = load(&[("KEYROUND_ACCOUNTS__SESSION_ABSOLUTE", "1d")]).unwrap();
    assert_eq!(config.accounts.sessions.idle, Seconds(86_400));
}

#[test]
fn unprotected_cookies_stay_on_loopback() {
    let refused = refusal(&[("KEYROUND_ACCOUNTS__PLAIN_HTTP_COOKIES", "true")]);
    assert!(
        refused.starts_with("accounts.plain_http_cookies is true, but"),
        "{refused}"
    );
    let development = |variables: &[(&str, &str)]| {
        Config::load(&Sources {
            environment: map(variables),
            development: true,
            ..Sources::default()
        })
        .unwrap()
    };
    let config = development(&[]);
    assert!(config.accounts.plain_http_cookies);
    assert!(
        config
            .warnings()
            .iter()
            .any(|warning| warning.contains("no Secure attribute"))
    );
    assert!(!development(&[ISSUER, PROXIES]).accounts.plain_http_cookies);
}

#[test]
fn key_sets_that_nginx_does_not_read_are_named() {
    let warnings = |variables: &[(&str, &str)]| load(variables).unwrap().warnings();
    let large = [
        ("KEYROUND_KEYS__RSA_BITS", "4096"),
        ("KEYROUND_KEYS__ROTATION_PERIOD", "6h"),
        ("KEYROUND_KEYS__MAX_SET_BYTES", "20000"),
    ];
    let told = warnings(&large);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("keys.rsa_bits") && told[0].contains("nginx auth_jwt reads 4096"),
        "{told:?}"
    );
    let many = [
        ("KEYROUND_KEYS__ALGORITHMS", "ES256"),
        ("KEYROUND_TOKENS__DEFAULT_ALGORITHM", "ES256"),
        ("KEYROUND_KEYS__MAX_PUBLISHED", "65"),
    ];
    let told = warnings(&many);
    assert!(
        told.len() == 1 && told[0].starts_with("keys.max_published is 65") && told[0].contains("at most 64"),
        "{told:?}"
    );
    assert_eq!(
        warnings(&[many[0], many[1], ("KEYROUND_KEYS__MAX_PUBLISHED", "64")]),
        Vec::<String>::new()
    );
    let told = warnings(&[("KEYROUND_KEYS__JWKS_MAX_AGE", "0s")]);
    assert!(
        told.len() == 1 && told[0].starts_with("keys.jwks_max_age is 0s: Vert.x") && told[0].contains("SmallRye"),
        "{told:?}"
    );
}

#[test]
fn a_ledger_beside_its_database_is_warned_of() {
    let warnings = |variables: &[(&str, &str)]| {
        let mut environment = map(&[ISSUER, PROXIES]);
        environment.extend(map(variables));
        let sources = Sources {
            environment,
            ..Sources::default()
        };
        Config::load(&sources).unwrap().warnings()
    };
    let (ledger, database) = (LEDGER.0, "KEYROUND_DATABASE__URL");
    let postgres = "postgres://keyround@localhost/keyround";
    let trial = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", ""),
    ];
    for (variables, is_warned) in [
        (&[][..], true),
        (&[(ledger, "data/revoked")], true),
        (&[(ledger, "a/revoked"), (database, "sqlite:a/b.db")], true),
        (&[(ledger, "keys/revoked-kids")], false),
        (&[(database, postgres)], false),
        (&trial, false),
    ] {
        let told = warnings(variables);
        let is_told = told.iter().any(|warning| warning.contains("write keys.ledger_file"));
        assert_eq!(is_told, is_warned, "{variables:?}: {told:?}");
    }
}
