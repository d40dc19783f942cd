//! Settings as people get them wrong. Each is answered in one sentence by its name, what is wrong, and what would be right.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::process::run;

/// A wrong setting: lines of the settings file, variables, and what the sentence must hold, the setting's name first.
type Row = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

const WRONG: &[Row] = &[
    // The issuer.
    (
        "[server]\nissuer = \"id.example.com\"",
        &[],
        &["server.issuer", "has no scheme", "write https://id.example.com"],
    ),
    (
        "[server]\nissuer = \"id.example.com/{tenant}\"",
        &[],
        &[
            "server.issuer",
            "is not an https URL",
            "one such as https://id.example.com",
        ],
    ),
    (
        "[server]\nissuer = \"https://id..example.com\"",
        &[],
        &[
            "server.issuer",
            "a label that is empty",
            "one such as https://id.example.com",
        ],
    ),
    (
        "[server]\nissuer = \"https://id.example.com.\"",
        &[],
        &["server.issuer", "a dot at its end", "write https://id.example.com"],
    ),
    (
        "[accounts]\nallowed_origins = [\"https://app.my_zone\"]",
        &[],
        &[
            "accounts.allowed_origins",
            "an underscore in its last label",
            "one such as",
        ],
    ),
    (
        "[accounts]\nallowed_origins = [\"https://app.example.123\"]",
        &[],
        &[
            "accounts.allowed_origins",
            "whose last label is a number",
            "one such as",
        ],
    ),
    (
        "[sever]\nlisten = \"127.0.0.1:8080\"",
        &[],
        &["sever", "did you mean [server]?"],
    ),
    (
        "",
        &[("KEYROUND_FORWARD_AUTH__POLICIES", "default;;web role=a")],
        &[
            "KEYROUND_FORWARD_AUTH__POLICIES",
            "has a semicolon with nothing before it",
            "leave it out",
        ],
    ),
    (
        "[server]\nissuer = \"https://id.example.com/\"",
        &[],
        &["server.issuer", "ends with a slash", "write https://id.example.com"],
    ),
    (
        "[server]\nissuer = \"ftp://id.example.com\"",
        &[],
        &["server.issuer", "is not an https URL", "such as https://id.example.com"],
    ),
    (
        "[server]\nissuer = \"http://id.example.com\"",
        &[],
        &["server.issuer", "is not https", "server.behind_tls_proxy = true"],
    ),
    (
        "[server]\nissuer = \"https://ID.example.com\"",
        &[],
        &[
            "server.issuer",
            "not in its normal form",
            "write https://id.example.com",
        ],
    ),
    (
        "[server]\nissuer = \"https://id.example.com?a=1\"",
        &[],
        &["server.issuer", "has a query", "leave out"],
    ),
    (
        "[server]\nissuer = \"https://ada:pw@id.example.com\"",
        &[],
        &["server.issuer", "a user or a password", "leave them out"],
    ),
    (
        "[server]\nissuer = \"https://id.example.com:0\"",
        &[],
        &["server.issuer", "port 0", "write the port"],
    ),
    (
        "[server]\nissuer = \"https://id.example.com:70000\"",
        &[],
        &["server.issuer", "has a port beyond 65535", "such as"],
    ),
    (
        "[server]\nissuer = \"https://id.example.com/a//b\"",
        &[],
        &["server.issuer", "a path that not every client", "use letters"],
    ),
    (
        "[server]\nissuer = \"\"",
        &[],
        &["server.issuer", "is empty", "write a value"],
    ),
    (
        "[server]\nissuer = 7",
        &[],
        &["server.issuer", "is a number", "but must be a URL"],
    ),
    (
        "",
        &[("KEYROUND_SERVER__ISSUER", "")],
        &["KEYROUND_SERVER__ISSUER", "is empty", "leave it out"],
    ),
    (
        "",
        &[("KEYROUND_SERVER__ISSUER", "\"https://id.example.com\"")],
        &["KEYROUND_SERVER__ISSUER", "quotation marks", "leave them out"],
    ),
    // Listeners.
    (
        "[server]\nlisten = \"localhost:8080\"",
        &[],
        &["server.listen", "is not an IP address with a port", "127.0.0.1:8080"],
    ),
    (
        "[server]\nlisten = \"127.0.0.1:70000\"",
        &[],
        &["server.listen", "a port beyond 65535", "from 1 to 65535"],
    ),
    (
        "[server]\nlisten = \"127.0.0.1\"",
        &[],
        &["server.listen", "has no port", "127.0.0.1:8080"],
    ),
    (
        "[server]\nlisten = 8080",
        &[],
        &["server.listen", "is a number", "an IP address with a port"],
    ),
    (
        "[server]\nlisten = \"0.0.0.0:8080\"",
        &[],
        &[
            "server.listen",
            "plain http beyond loopback",
            "listen on a loopback address",
        ],
    ),
    (
        "[server]\nadmin_listen = \"0.0.0.0:8080\"",
        &[],
        &[
            "server.admin_listen 0.0.0.0:8080",
            "takes the port of the other",
            "give each its own port",
        ],
    ),
    (
        "[server]\nadmin_listen = \"127.0.0.1:8080\"",
        &[],
        &[
            "server.admin_listen",
            "are both 127.0.0.1:8080",
            "give each its own port",
        ],
    ),
    (
        "",
        &[("KEYROUND_SERVER__ADMIN_LISTEN", "[::]:9090")],
        &["server.admin_listen", "plain http beyond loopback", "loopback"],
    ),
    (
        "[server]\nmax_connections = 5",
        &[],
        &["server.max_connections", "is 5", "from 16 to 100000"],
    ),
    (
        "[server]\nmax_connections_per_address = -1",
        &[],
        &["server.max_connections_per_address", "out of range", "such as 256"],
    ),
    (
        "[server]\nshutdown_delay = \"10m\"",
        &[],
        &["server.shutdown_delay", "too long", "the most is 5m"],
    ),
    (
        "[server]\nbehind_tls_proxy = \"yes\"",
        &[],
        &["server.behind_tls_proxy", "is 'yes'", "true or false"],
    ),
    // Proxies.
    (
        "[server]\ntrusted_proxies = []",
        &[],
        &[
            "server.trusted_proxies",
            "lists no proxy",
            "KEYROUND_SERVER__TRUSTED_PROXIES=127.0.0.1",
        ],
    ),
    (
        "[server]\ntrusted_proxies = [\"10.0.0.1/8\"]",
        &[],
        &["server.trusted_proxies", "begins at 10.0.0.0", "write 10.0.0.0/8"],
    ),
    (
        "[server]\ntrusted_proxies = [\"10.0.0.0/33\"]",
        &[],
        &["server.trusted_proxies", "10.0.0.0/33", "a network such as 10.0.0.0/8"],
    ),
    (
        "[server]\ntrusted_proxies = [\"proxy\"]",
        &[],
        &[
            "server.trusted_proxies",
            "'proxy'",
            "neither an IP address nor a network",
        ],
    ),
    (
        "[server]\ntrusted_proxies = \"10.0.0.0/8 10.1.0.0/16\"",
        &[],
        &["server.trusted_proxies", "10.0.0.0/8 10.1.0.0/16", "such as"],
    ),
    (
        "",
        &[("KEYROUND_SERVER__TRUSTED_PROXIES", "[\"10.0.0.0/8\",\"::1\"]")],
        &["KEYROUND_SERVER__TRUSTED_PROXIES", "comma separated", "10.0.0.0/8,::1"],
    ),
    // TLS.
    (
        "[server]\ntls_certificate_file = \"a.pem\"",
        &[],
        &["server.tls_certificate_file", "server.tls_key_file is not", "TLS needs"],
    ),
    (
        "[server]\ntls_certificate_file = \"nowhere/nope\"\ntls_key_file = \"nowhere/nope.key\"",
        &[],
        &[
            "server.tls_certificate_file",
            "cannot read nowhere/nope,",
            "cannot read nowhere/nope.key, which server.tls_key_file names",
        ],
    ),
    (
        "[server]\ntls_certificate_file = \"certificate.pem\"\ntls_key_file = \"open.key\"",
        &[],
        &["server.tls_key_file", "has mode 0644", "chmod 600 open.key"],
    ),
    (
        "[server]\ntls_certificate_file = \"text\"\ntls_key_file = \"closed.key\"",
        &[],
        &["server.tls_certificate_file", "holds no certificate", "PEM"],
    ),
    (
        "[server]\nissuer = \"http://127.0.0.1\"\ntls_certificate_file = \"a\"\ntls_key_file = \"b\"",
        &[],
        &["server.issuer", "speak TLS", "https URL"],
    ),
    (
        "[outbound]\nca_file = \"nowhere/nope\"",
        &[],
        &["outbound.ca_file", "nowhere/nope", "No such file"],
    ),
    (
        "[outbound]\nca_file = \"text\"",
        &[],
        &["outbound.ca_file", "text", "holds no certificate in PEM"],
    ),
    (
        "[outbound]\nallowed_networks = [\"internal\"]",
        &[],
        &["outbound.allowed_networks", "'internal'", "such as 10.0.0.0/8"],
    ),
    // The database.
    (
        "[database]\nurl = \"localhost/keyround\"",
        &[],
        &["database.url", "has no scheme", "write sqlite:PATH or postgres://"],
    ),
    (
        "[database]\nurl = \"mysql://localhost/keyround\"",
        &[],
        &["database.url", "is the URL of MySQL", "postgres://"],
    ),
    (
        "[database]\nurl = \"sqlite:\"",
        &[],
        &["database.url", "names no file", "sqlite:data/keyround.db"],
    ),
    (
        "[database]\nurl = \"sqlite:a.db?mode=ro\"",
        &[],
        &["database.url", "has parameters", "sqlite:PATH alone"],
    ),
    (
        "[database]\nurl = \"postgres://localhost\"",
        &[],
        &["database.url", "names no database", "HOST/DATABASE"],
    ),
    (
        "[database]\nurl = \"postgres://localhost:99999/k\"",
        &[],
        &["database.url", "a port that is not a number", "from 1 to 65535"],
    ),
    (
        "[database]\nurl = \"postgres://localhost/k?sslmod=verify-full\"",
        &[],
        &["database.url", "'sslmod', which is unknown", "did you mean 'sslmode'?"],
    ),
    (
        "[database]\nurl = \"postgres://localhost/k?sslmode=on\"",
        &[],
        &["database.url", "unknown sslmode", "write one of disable"],
    ),
    (
        "[database]\nurl = \"postgres://localhost/k?sslmode=verify-full&sslrootcert=nowhere/nope\"",
        &[],
        &["database.url", "sslrootcert", "cannot read nowhere/nope"],
    ),
    (
        "[database]\nurl_file = \"nowhere/nope\"",
        &[],
        &["database.url_file", "cannot read nowhere/nope", "No such file"],
    ),
    (
        "[database]\nurl = \"sqlite:a.db\"\nurl_file = \"closed.key\"",
        &[],
        &["database.url_file", "both set", "keep one"],
    ),
    (
        "[database]\nurl = \"sqlite:text/none/a.db\"",
        &[],
        &["database.url", "text", "folder"],
    ),
    (
        "[database]\nurl = \"sqlite:text\"",
        &[],
        &["database.url", "is not an SQLite database", "name another file"],
    ),
    (
        "[database]\nurl = \"sqlite:text/a.db\"",
        &[],
        &["database.url", "text is not a folder", "cannot be made"],
    ),
    (
        "[database]\nurl = \"sqlite:master.key\"",
        &[],
        &["database.url", "keys.master_key_file", "give each its own file"],
    ),
    // Keys.
    (
        "[keys]\nprepublish = 30",
        &[],
        &["keys.prepublish", "has no unit", "write 30s, 30m, 30h or 30d"],
    ),
    (
        "[keys]\nprepublish = \"-1h\"",
        &[],
        &["keys.prepublish", "is not a length of time", "such as 30d"],
    ),
    (
        "[keys]\nprepublish = \"1.5h\"",
        &[],
        &["keys.prepublish", "is not a length of time", "1h30m"],
    ),
    (
        "[keys]\nprepublish = \"24 hours\"",
        &[],
        &["keys.prepublish", "is not a length of time", "24h"],
    ),
    (
        "[keys]\nrotation_period = \"200y\"",
        &[],
        &["keys.rotation_period", "is not a length of time", "30d"],
    ),
    (
        "[keys]\nrotation_period = \"99999d\"",
        &[],
        &["keys.rotation_period", "is too long", "the most is"],
    ),
    (
        "[keys]\nprepublish = \"10m\"",
        &[],
        &[
            "keys.prepublish",
            "at least 31m10s is needed",
            "lengthen keys.prepublish",
        ],
    ),
    (
        "[keys]\nrotation_period = \"1h\"",
        &[],
        &["keys.max_published", "leads to 54 keys", "rotation_period"],
    ),
    (
        "[keys]\nverifier_cache = \"1m\"",
        &[],
        &[
            "keys.verifier_cache",
            "at least 5m is needed",
            "shorten keys.jwks_max_age",
        ],
    ),
    (
        "[keys]\nverify_window = \"1s\"",
        &[],
        &[
            "keys.verify_window",
            "at least 1h6m30s is needed",
            "leave keys.verify_window out",
        ],
    ),
    (
        "[keys]\nclock_skew = \"0s\"",
        &[],
        &["keys.clock_skew", "is 0s", "at least 2s"],
    ),
    (
        "[keys]\nrsa_bits = 1024",
        &[],
        &["keys.rsa_bits", "is 1024", "2048, 3072 or 4096"],
    ),
    (
        "[keys]\nrsa_bits = \"big\"",
        &[],
        &["keys.rsa_bits", "is 'big'", "a whole number"],
    ),
    (
        "[keys]\nalgorithms = \"RS512\"",
        &[],
        &["keys.algorithms", "holds 'RS512'", "write RS256 or ES256"],
    ),
    (
        "[keys]\nalgorithms = [\"es256\"]",
        &[],
        &["keys.algorithms", "holds 'es256'", "did you mean ES256?"],
    ),
    (
        "[tokens]\ndefault_algorithm = \"ES384\"",
        &[],
        &[
            "tokens.default_algorithm 'ES384' is not an algorithm",
            "write RS256 or ES256",
        ],
    ),
    (
        "[accounts]\npassword_hash = \"argon2\"",
        &[],
        &["accounts.password_hash", "did you mean argon2id?"],
    ),
    (
        "[accounts]\ntoken_type = \"at_jwt\"",
        &[],
        &["accounts.token_type", "did you mean at+jwt?"],
    ),
    ("[log]\nformat = \"JSON\"", &[], &["log.format", "did you mean json?"]),
    (
        "[accounts]\nlimit_address = \"150/hour\"",
        &[],
        &["accounts.limit_address", "'150/hour'", "write 150/1h"],
    ),
    (
        "[accounts]\nrefresh_limit_session = \"5 per minute\"",
        &[],
        &["accounts.refresh_limit_session", "write 5/1m"],
    ),
    (
        "[accounts]\nsession_idle = \"60d\"",
        &[],
        &["accounts.session_idle is 60d", "which is accounts.session_absolute"],
    ),
    (
        "[accounts]\naccess_token_ttl = \"10m\"\n[tokens]\naccess_token_ttl = \"1m\"\nmax_token_ttl = \"5m\"",
        &[],
        &[
            "accounts.access_token_ttl is 10m",
            "to 5m, which is tokens.max_token_ttl",
        ],
    ),
    (
        "[database]\nurl = \"postgres://u@h/d?pool_size=5\"",
        &[],
        &[
            "database.url",
            "the option 'pool_size', which is unknown",
            "the options are",
        ],
    ),
    (
        "[keys]\nalgorithms = [\"RS256\", \"RS256\"]",
        &[],
        &["keys.algorithms", "\"RS256\", \"RS256\"", "each once"],
    ),
    (
        "",
        &[("KEYROUND_KEYS__ALGORITHMS", "['RS256']")],
        &["KEYROUND_KEYS__ALGORITHMS", "comma separated", "write RS256"],
    ),
    (
        "[keys]\nmax_published = 1000",
        &[],
        &["keys.max_published", "is 1000", "1 to 100"],
    ),
    (
        "[keys]\nmaster_key_file = \"nowhere/nope\"",
        &[],
        &[
            "keys.master_key_file",
            "nowhere/nope, which keys.master_key_file names, does not exist",
            "'keyround master-key generate nowhere/nope' makes it",
            "only the master key that sealed them opens them",
        ],
    ),
    // Names that other programs have.
    (
        "[log]\nlevel = \"debug\"",
        &[],
        &["log.level", "did you mean log.filter?"],
    ),
    (
        "[server]\nport = 8080",
        &[],
        &["server.port", "did you mean server.listen?"],
    ),
    (
        "",
        &[("KEYROUND_PORT", "8080")],
        &["KEYROUND_PORT", "did you mean KEYROUND_SERVER__LISTEN?"],
    ),
    (
        "",
        &[("KEYROUND_CONFIG", "keyround.toml")],
        &["KEYROUND_CONFIG", "the settings file is named by --config FILE"],
    ),
    // Only a shell knows '~'.
    (
        "[keys]\nmaster_key_file = \"~/master.key\"",
        &[],
        &[
            "keys.master_key_file '~/master.key'",
            "which only a shell replaces",
            "write the whole path, such as /",
        ],
    ),
    (
        "",
        &[("KEYROUND_DATABASE__URL", "sqlite:~/keyround.db")],
        &[
            "KEYROUND_DATABASE__URL",
            "which only a shell replaces",
            "write the whole path, such as sqlite:/",
        ],
    ),
    (
        "[keys]\nledger_file = \"~ada/revoked\"",
        &[],
        &["keys.ledger_file", "which only a shell replaces", "/home/USER/FILE"],
    ),
    // Times that must be some.
    (
        "[keys]\nrotation_period = \"0s\"",
        &[],
        &["keys.rotation_period is 0s", "must be at least 1s, such as 30d"],
    ),
    (
        "[keys]\nrotation_period = 0",
        &[],
        &["keys.rotation_period", "has no unit; write a length such as 30d"],
    ),
    (
        "[keys]\nprepublish = \"0s\"",
        &[],
        &["keys.prepublish is 0s", "at least", "lengthen keys.prepublish"],
    ),
    (
        "[keys]\nreplica_refresh = \"0s\"",
        &[],
        &["keys.replica_refresh is 0s", "at least 1s"],
    ),
    (
        "[keys]\nsnapshot_max_age = \"0s\"",
        &[],
        &["keys.snapshot_max_age is 0s", "at least 10s"],
    ),
    (
        "[keys]\nverify_window = \"0s\"",
        &[],
        &["keys.verify_window is 0s", "at least", "leave keys.verify_window out"],
    ),
    (
        "[tokens]\naccess_token_ttl = \"0s\"",
        &[],
        &["tokens.access_token_ttl is 0s", "at least 1s"],
    ),
    (
        "[accounts]\nsession_idle = \"0s\"",
        &[],
        &["accounts.session_idle is 0s", "from 1s to 7d"],
    ),
    (
        "[keys]\nmaster_key_file = \".\"",
        &[],
        &["keys.master_key_file", "cannot read .", "directory"],
    ),
    (
        "[keys]\nmaster_key_file = \"open.key\"",
        &[],
        &["keys.master_key_file", "has mode 0644", "chmod 600 open.key"],
    ),
    (
        "[keys]\nmaster_key_file = \"empty.key\"",
        &[],
        &["keys.master_key_file", "empty.key", "is empty"],
    ),
    (
        "[keys]\nmaster_key_file = \"closed.key\"",
        &[],
        &[
            "keys.master_key_file",
            "holds no master key",
            "keyround master-key generate",
        ],
    ),
    (
        "",
        &[
            ("KEYROUND_KEYS__MASTER_KEY", "c2VjcmV0"),
            ("KEYROUND_KEYS__MASTER_KEY_FILE", ""),
        ],
        &["KEYROUND_KEYS__MASTER_KEY_FILE", "is empty", "leave it out"],
    ),
    (
        "[keys]\nmaster_key = \"c2VjcmV0\"\nmaster_key_file = \"master.key\"",
        &[],
        &["keys.master_key_file", "both set", "keep one"],
    ),
    (
        "[keys]\nledger_file = \"text/none/ledger\"",
        &[],
        &["keys.ledger_file", "text", "folder"],
    ),
    (
        "[keys]\nledger_file = \"/dev/null\"",
        &[],
        &["keys.ledger_file", "not a regular file", "name another file"],
    ),
    (
        "[keys]\nledger_file = \"master.key\"",
        &[],
        &["keys.ledger_file", "keys.master_key_file", "give each its own file"],
    ),
    // Tokens and accounts.
    (
        "[tokens]\naccess_token_ttl = \"2h\"",
        &[],
        &["tokens.access_token_ttl", "max_token_ttl is 1h", "shorten"],
    ),
    (
        "[tokens]\ndefault_algorithm = \"HS256\"",
        &[],
        &["tokens.default_algorithm", "'HS256'", "RS256 or ES256"],
    ),
    (
        "",
        &[("KEYROUND_KEYS__ALGORITHMS", "HS256")],
        &[
            "KEYROUND_KEYS__ALGORITHMS",
            "write RS256 or ES256; HS256 is symmetric",
            "could sign them too",
        ],
    ),
    (
        "[keys]\nalgorithms = [\"ES256\"]",
        &[],
        &[
            "tokens.default_algorithm",
            "RS256, which keys.algorithms does not enable",
            "choose one of: ES256",
        ],
    ),
    (
        "[accounts]\naccess_token_ttl = \"1h\"",
        &[],
        &["accounts.access_token_ttl", "is 1h", "from 1s to 15m"],
    ),
    (
        "[accounts]\nbcrypt_cost = 31",
        &[],
        &["accounts.bcrypt_cost", "is 31", "from 4 to 15"],
    ),
    (
        "[accounts]\npassword_hash = \"md5\"",
        &[],
        &["accounts.password_hash", "'md5'", "bcrypt or argon2id"],
    ),
    (
        "[accounts]\nlimit_account = \"20\"",
        &[],
        &[
            "accounts.limit_account",
            "is not a number and a length of time",
            "20/1h",
        ],
    ),
    (
        "[accounts]\nallowed_origins = [\"https://*.example.com\"]",
        &[],
        &[
            "accounts.allowed_origins",
            "a wildcard matches no origin",
            "list each origin",
        ],
    ),
    (
        "[accounts]\nallowed_origins = [\"https://app.example.com/\"]",
        &[],
        &["accounts.allowed_origins", "whose origin is", "write that"],
    ),
    (
        "[accounts]\nrefresh_cookie = \"__Host-x\"",
        &[],
        &["accounts.refresh_cookie", "without a prefix", "keyround-refresh"],
    ),
    (
        "[accounts]\ncsrf_cookie = \"keyround-refresh-binding\"",
        &[],
        &[
            "accounts.csrf_cookie",
            "__Host-keyround-refresh-binding",
            "binds accounts.refresh_cookie",
            "write another name",
        ],
    ),
    (
        "[accounts]\nrefresh_cookie = \"session\"\ncsrf_cookie = \"session-binding\"",
        &[],
        &["accounts.csrf_cookie", "__Host-session-binding", "write another name"],
    ),
    (
        "[accounts]\ncsrf_cookie = \"keyround-federated\"",
        &[],
        &["accounts.csrf_cookie", "logins with a provider", "write another name"],
    ),
    (
        "[server]\nissuer = \"http://127.0.0.1:8080\"\n[accounts]\nplain_http_cookies = true\ncsrf_cookie = \"keyround-refresh\"",
        &[],
        &[
            "accounts.csrf_cookie",
            "the cookie of accounts.refresh_cookie",
            "write another name",
        ],
    ),
    (
        "[server]\nissuer = \"http://127.0.0.1:8080\"\n[accounts]\nplain_http_cookies = true\nrefresh_cookie = \"keyround-federated\"",
        &[],
        &[
            "accounts.refresh_cookie",
            "logins with a provider",
            "write another name",
        ],
    ),
    (
        "[forward_auth]\npolicies = [\"a scope=a role=b\"]",
        &[],
        &["forward_auth.policies", "a scope and a role", "write a policy for each"],
    ),
    (
        "[accounts]\nplain_http_cookies = true",
        &[],
        &["accounts.plain_http_cookies", "only for development", "take it out"],
    ),
    (
        "[accounts]\ntoken_type = \"jwt\"",
        &[],
        &["accounts.token_type", "'jwt'", "at+jwt or JWT"],
    ),
    // Gateways and logs.
    (
        "[forward_auth]\npolicies = [\"Api\"]",
        &[],
        &[
            "forward_auth.policies",
            "does not begin with a name",
            "write a policy such as",
        ],
    ),
    (
        "[forward_auth]\npolicies = [\"api role=y\", \"api scope=x\"]",
        &[],
        &["forward_auth.policies", "two policies named 'api'", "write one"],
    ),
    (
        "",
        &[("KEYROUND_FORWARD_AUTH__POLICIES", "api role=admin;owner")],
        &[
            "KEYROUND_FORWARD_AUTH__POLICIES",
            "'owner', a policy that requires nothing",
            "role=admin role=owner",
        ],
    ),
    (
        "[forward_auth]\npolicies = [\"api role=admin\", \"owner\"]",
        &[],
        &["forward_auth.policies", "requires nothing", "owner audience=http"],
    ),
    (
        "",
        &[("KEYROUND_FORWARD_AUTH__POLICIES", "api audience=\"https://a.example\"")],
        &["KEYROUND_FORWARD_AUTH__POLICIES", "quotation marks", "leave them out"],
    ),
    (
        "",
        &[("KEYROUND_FORWARD_AUTH__POLICIES", "api role=admin,owner")],
        &[
            "KEYROUND_FORWARD_AUTH__POLICIES",
            "has a comma",
            "role=admin role=owner",
        ],
    ),
    (
        "",
        &[(
            "KEYROUND_FORWARD_AUTH__POLICIES",
            "api audience=https://a.example,b scope=x; default",
        )],
        &["KEYROUND_FORWARD_AUTH__POLICIES", "has a comma", "in the settings file"],
    ),
    (
        "[log]\nfilter = \"warning\"",
        &[],
        &["log.filter", "'warning'", "did you mean warn?"],
    ),
    (
        "",
        &[("KEYROUND_LOG__FILTER", "verbose")],
        &["KEYROUND_LOG__FILTER", "did you mean debug?"],
    ),
    ("[log]\nformat = \"xml\"", &[], &["log.format", "'xml'", "text or json"]),
    (
        "[log]\nfilter = \"a=b=c\"",
        &[],
        &["log.filter", "is not a log filter", "info,keyround=debug"],
    ),
    // Lists with nothing between two separators.
    (
        "",
        &[("KEYROUND_KEYS__ALGORITHMS", "RS256,,ES256")],
        &[
            "KEYROUND_KEYS__ALGORITHMS",
            "has a comma with nothing before it",
            "leave it out",
        ],
    ),
    (
        "",
        &[("KEYROUND_ACCOUNTS__ALLOWED_ORIGINS", ",https://app.example.com")],
        &[
            "KEYROUND_ACCOUNTS__ALLOWED_ORIGINS",
            "has a comma with nothing before it",
            "leave it out",
        ],
    ),
    (
        "[accounts]\naudience = \"https://ada:pw@api.example.com\"",
        &[],
        &["accounts.audience", "has a user or a password", "leave them out"],
    ),
    // Names and the file itself.
    (
        "[server]\nlisen = \"127.0.0.1:8080\"",
        &[],
        &["server.lisen", "not a setting", "did you mean server.listen?"],
    ),
    (
        "[sever]\nlisten = \"127.0.0.1:8080\"",
        &[],
        &["sever", "not a setting", "of Keyround"],
    ),
    (
        "listen = \"127.0.0.1:8080\"",
        &[],
        &["listen", "not a setting", "did you mean server.listen?"],
    ),
    (
        "server = \"127.0.0.1\"",
        &[],
        &["server", "is a section", "write [server]"],
    ),
    (
        "[server]\nlisten = 127.0.0.1:8080",
        &[],
        &["settings.toml", "is not TOML, in line 2", "config.example.toml"],
    ),
    (
        "{\"server\": {}}",
        &[],
        &["settings.toml", "is not TOML, in line 1", "config.example.toml"],
    ),
    (
        "[log]\nformat = \"text\"\nformat = \"json\"",
        &[],
        &["settings.toml", "line 3", "duplicate key"],
    ),
    (
        "",
        &[("KEYROUND_LISTEN", "127.0.0.1:8080")],
        &[
            "KEYROUND_LISTEN",
            "not a setting",
            "did you mean KEYROUND_SERVER__LISTEN?",
        ],
    ),
    // Paths with what nobody sees.
    (
        "",
        &[("KEYROUND_DATABASE__URL", "sqlite:data/keyround.db\r")],
        &[
            "KEYROUND_DATABASE__URL",
            "ends with a carriage return",
            "write the path without it",
        ],
    ),
    (
        "[database]\nurl = \"\"\"\nsqlite:data/keyround.db\n\"\"\"",
        &[],
        &["database.url", "ends with a line end", "write the path without it"],
    ),
    (
        "",
        &[("KEYROUND_KEYS__LEDGER_FILE", "data/revoked-kids\r")],
        &["KEYROUND_KEYS__LEDGER_FILE", "ends with a carriage return"],
    ),
    (
        "[keys]\nledger_file = \"\"\"\ndata/revoked-kids\n\"\"\"",
        &[],
        &["keys.ledger_file", "ends with a line end"],
    ),
    (
        "",
        &[("KEYROUND_KEYS__LEDGER_FILE", "data/revoked-kids ")],
        &["KEYROUND_KEYS__LEDGER_FILE", "ends with a blank"],
    ),
    (
        "",
        &[("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key\n")],
        &["KEYROUND_KEYS__MASTER_KEY_FILE", "ends with a line end"],
    ),
    (
        "[server]\ntls_certificate_file = \" certificate.pem\"\ntls_key_file = \"master.key\"",
        &[],
        &["server.tls_certificate_file", "begins with a blank"],
    ),
    (
        "[server]\ntls_certificate_file = \"certificate.pem\"\ntls_key_file = \"master\\u001b.key\"",
        &[],
        &["server.tls_key_file", "holds the character U+001B"],
    ),
    (
        "",
        &[("KEYROUND_OUTBOUND__CA_FILE", "certificate.pem\t")],
        &["KEYROUND_OUTBOUND__CA_FILE", "ends with a tab"],
    ),
    (
        "",
        &[("KEYROUND_DATABASE__URL_FILE", "url\u{200b}")],
        &["KEYROUND_DATABASE__URL_FILE", "ends with the character U+200B"],
    ),
    (
        "",
        &[("KEYROUND_SERVER_LISTEN", "127.0.0.1:8080")],
        &["KEYROUND_SERVER_LISTEN", "not a setting", "KEYROUND_SERVER__LISTEN"],
    ),
    (
        "",
        &[("keyround_server__listen", "127.0.0.1:8080")],
        &["keyround_server__listen", "not a setting", "KEYROUND_SERVER__LISTEN"],
    ),
];

/// A folder with the files that the rows name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("master.key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=\n", 0o600);
    write("open.key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=\n", 0o644);
    write("closed.key", "swordfish\n", 0o600);
    write("empty.key", "", 0o600);
    write("text", "no PEM and no database\n", 0o600);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys/refused.certificate.pem");
    write("certificate.pem", &std::fs::read_to_string(fixture).unwrap(), 0o644);
    folder
}

/// The environment of a row: what is right, unless the row or its file says something else.
fn environment<'a>(file: &str, variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let right = [
        ("KEYROUND_SERVER__ISSUER", "issuer", "https://id.example.com"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "trusted_proxies", "127.0.0.1"),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "master_key", "master.key"),
    ];
    let mut environment = variables.to_vec();
    for (variable, field, value) in right {
        let is_given = variables.iter().any(|(name, _)| *name == variable);
        let is_in_file = file.lines().any(|line| line.starts_with(field));
        let needs_no_proxy = field == "trusted_proxies" && file.contains("http://127.0.0.1");
        if !is_given && !is_in_file && !needs_no_proxy {
            environment.push((variable, value));
        }
    }
    environment
}

#[test]
fn each_is_answered_by_name_reason_and_cure() {
    assert!(WRONG.len() >= 60, "{}", WRONG.len());
    let folder = folder();
    let mut bad = Vec::new();
    for (file, variables, words) in WRONG {
        std::fs::write(folder.path().join("settings.toml"), file).unwrap();
        let environment = environment(file, variables);
        let output = run(
            folder.path(),
            &environment,
            &["config", "check", "--config", "settings.toml"],
        );
        let error = String::from_utf8(output.stderr).unwrap();
        let is_sentence = error.starts_with("keyround: ") && error.lines().count() == 1;
        let lacking: Vec<&&str> = words.iter().filter(|words| !error.contains(**words)).collect();
        if output.status.code() != Some(2) || !is_sentence || !lacking.is_empty() || error.contains("swordfish") {
            bad.push(format!(
                "{file:?} {variables:?}: {lacking:?} in {:?} {error}",
                output.status.code()
            ));
        }
    }
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), WRONG.len(), bad.join("\n"));
}

#[test]
fn flags_and_the_file_are_answered_too() {
    let folder = folder();
    for (arguments, words) in [
        (
            &["--set", "server.lisen=1", "config", "check"][..],
            &["server.lisen", "did you mean server.listen?"][..],
        ),
        (
            &["--set", "server.listen", "config", "check"],
            &["--set takes SETTING=VALUE", "such as"],
        ),
        (
            &["--set", "keys.master_key=x", "config", "check"],
            &["keys.master_key", "keys.master_key_file"],
        ),
        (
            &["--set", "server.listen=1", "config", "check"],
            &["server.listen", "127.0.0.1:8080"],
        ),
        (
            &["--config", "nowhere/nope.toml", "config", "check"],
            &["nowhere/nope.toml", "No such file"],
        ),
        (
            &["--config", ".", "config", "check"],
            &["cannot read the settings in .", "directory"],
        ),
        (
            &["--confg", "a", "config", "check"],
            &["--confg", "did you mean '--config'?"],
        ),
        (&["config", "chek"], &["chek", "did you mean 'check'?"]),
        (&["sreve"], &["sreve", "'serve'?"]),
    ] {
        let output = run(
            folder.path(),
            &[("KEYROUND_SERVER__ISSUER", "http://127.0.0.1")],
            arguments,
        );
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            words.iter().all(|words| error.contains(words)),
            "{arguments:?}: {error}"
        );
    }
    let output = run(folder.path(), &[], &["config", "check"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("server.issuer is not set") && error.contains("KEYROUND_SERVER__ISSUER=https"),
        "{error}"
    );
}

#[test]
fn every_file_that_is_wrong_is_named_at_once_and_nothing_is_made() {
    let folder = folder();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
        ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "nowhere/nope.pem"),
        ("KEYROUND_SERVER__TLS_KEY_FILE", "open.key"),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "empty.key"),
        ("KEYROUND_DATABASE__URL", "sqlite:text/none/keyround.db"),
        ("KEYROUND_KEYS__LEDGER_FILE", "text/none/revoked-kids"),
    ];
    let output = run(folder.path(), &variables, &["config", "check", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["faults"].as_array().unwrap().len(), 5, "{report}");
    let right = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1"),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key"),
        ("KEYROUND_DATABASE__URL", "sqlite:new/folder/keyround.db"),
    ];
    let output = run(folder.path(), &right, &["config", "check"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "the settings hold\n");
    assert!(!folder.path().join("new").exists(), "a check makes nothing");
    // Without a master key no server starts, but the settings can be checked where the key must not be.
    let output = run(folder.path(), &right[..1], &["config", "check"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && told.starts_with("warning: no master key is set"),
        "{told}"
    );
}

#[test]
fn a_database_that_is_down_is_named_with_host_and_port() {
    let folder = folder();
    let port = crate::process::free_port();
    let url = format!("postgres://app:swordfish@127.0.0.1:{port}/keyround");
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key"),
        ("KEYROUND_DATABASE__URL", url.as_str()),
    ];
    assert!(run(folder.path(), &variables, &["config", "check"]).status.success());
    for arguments in [
        &["config", "check", "--connect"][..],
        &["serve"],
        &["db", "check"],
        &["db", "migrate"],
        &["keys", "list"],
        &["clients", "list"],
        &["users", "list"],
        &["audit", "list"],
        &["backup", "a.json"],
        &["keys", "rotate", "--reason", "x"],
        &["master-key", "status"],
    ] {
        let output = run(folder.path(), &variables, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        let told = error.lines().last().unwrap();
        assert!(
            !output.status.success() && told.contains(&format!("127.0.0.1:{port}")) && told.contains("refused"),
            "{arguments:?}: {error}"
        );
        assert!(
            !error.contains("pool") && !error.contains("swordfish"),
            "{arguments:?}: {error}"
        );
    }
}

/// A server that refuses every password, as PostgreSQL does. That of the tests asks for none.
fn refuses_passwords() -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let fields = "SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"kr\"\0\0";
            let mut message = vec![b'E'];
            message.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
            message.extend(fields.as_bytes());
            let _ = stream.write_all(&message);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thing_that_does_not_exist_needs_no_confirmation() {
    let database = crate::helpers::TestDatabase::sqlite();
    let app = crate::helpers::TestApp::start(&database, &[("accounts.enabled", "true")]).await;
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_ACCOUNTS__ENABLED", "true"),
    ];
    for arguments in [
        ["clients", "delete", "nobody"],
        ["providers", "delete", "nobody"],
        ["users", "delete", "nobody@example.com"],
    ] {
        let output = run(database.folder.path(), &variables, &arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("nobody") && !told.contains("--yes"), "{told}");
    }
    app.running.stop().await;
}

#[test]
fn a_health_check_of_port_0_asks_for_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(folder.path(), &variables, &["healthcheck"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("server.admin_listen=127.0.0.1:PORT"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_the_connection_is_told_with_its_setting_and_a_cure() {
    let folder = tempfile::tempdir().unwrap();
    let address = refuses_passwords();
    let database = crate::helpers::TestDatabase::postgres().await;
    let mut stranger = url::Url::parse(&database.url).unwrap();
    stranger.set_username("kr_is_no_role").unwrap();
    let closed = crate::ports::free_port();
    for (url, told, has_no_password) in [
        (
            format!("postgres://kr@{address}/kr?sslmode=disable"),
            "password authentication failed",
            true,
        ),
        (
            format!("postgres://kr:hunter22@{address}/kr?sslmode=disable"),
            "password authentication failed",
            false,
        ),
        (stranger.to_string(), "kr_is_no_role", false),
        (format!("postgres://kr@127.0.0.1:{closed}/kr"), "refused", false),
    ] {
        let file = folder.path().join("url");
        std::fs::write(&file, &url).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (variable, value, setting) in [
            ("KEYROUND_DATABASE__URL", url.as_str(), "database.url"),
            ("KEYROUND_DATABASE__URL_FILE", "url", "database.url_file"),
        ] {
            let variables = [
                ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
                ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
                ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
                (
                    "KEYROUND_KEYS__MASTER_KEY",
                    "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
                ),
                (variable, value),
            ];
            for arguments in [&["serve"][..], &["clients", "list"], &["db", "migrate"]] {
                let output = run(folder.path(), &variables, arguments);
                let error = String::from_utf8_lossy(&output.stderr);
                let sentence = error.lines().last().unwrap();
                assert_eq!(output.status.code(), Some(1), "{error}");
                assert!(sentence.contains(told), "{sentence}");
                assert!(
                    sentence.contains(&format!(
                        "correct the URL that {setting} gives (postgres://USER:PASSWORD@HOST:PORT/DATABASE)"
                    )),
                    "{sentence}"
                );
                assert_eq!(
                    sentence.contains("the URL gives no password"),
                    has_no_password,
                    "{sentence}"
                );
                assert!(!error.contains("hunter22"), "{error}");
            }
        }
    }
}
