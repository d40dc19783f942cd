//! The page of inputs. Its table is the one below, and every row is driven against the code: each example that is accepted, and each one that
//! is refused, with a part of the reason.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;

use actix_web::test::TestRequest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::accounts::email::Email;
use keyround::accounts::federation::claims::{ExpectedIdToken, Identity, identity};
use keyround::accounts::federation::metadata::ProviderMetadata;
use keyround::accounts::federation::{self, Provider, ProviderIssuer};
use keyround::accounts::password_hash::PasswordHash;
use keyround::accounts::user::Name;
use keyround::config::{Config, Sources};
use keyround::http::client_address::ClientAddresses;
use keyround::jose::assertion::Assertion;
use keyround::jose::id_token::IdToken;
use keyround::jose::import::{Passphrase, read};
use keyround::jose::jwk::Kid;
use keyround::jose::jwk_set::{IssuerKey, JwkSet, KeyIssuer};
use keyround::jose::numeric_date::whole_seconds;
use keyround::oauth::client::{Audience, ClientId};
use keyround::oauth::client_keys;
use keyround::oauth::credentials::Credentials;
use keyround::oauth::scope::Scope;
use keyround::oauth::token::Parameters;
use keyround::telemetry::Request;
use keyround::text;
use keyround::values::{Issuer, Origin};
use openssl::bn::{BigNum, BigNumRef};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client_assertions::Pair;
use crate::helpers::{START, TestApp, TestDatabase, config};
use crate::process::run;
use crate::raw::Connection;

/// A row of the page.
struct Row {
    input: &'static str,
    accepted: &'static str,
    refused: &'static str,
    because: &'static str,
    /// The code that reads such an input, on an example.
    judge: fn(&Site, &str) -> Result<(), String>,
    good: &'static [&'static str],
    /// With a part of the reason.
    bad: &'static [(&'static str, &'static str)],
}

/// A server, for what comes by HTTP.
struct Site {
    url: String,
    config: Config,
    folder: std::path::PathBuf,
}

const TABLE: &[Row] = &[
    Row {
        input: "A key as PEM",
        accepted: "PKCS#8, PKCS#1, SEC1, SPKI; any line end, also the `\\n` of a JSON or environment file, the spaces of a folded YAML text or an unquoted shell variable, or none; a byte order mark; text around it; its certificate or its public half beside it",
        refused: "UTF-16, DER, PKCS#12, OpenSSH's own format, a PEM in base64, several keys, a certificate of another key, a certificate alone",
        because: "RFC 7468 sections 2 and 3. Two keys leave open which is meant.",
        judge: |_, recipe| key(recipe),
        good: &[
            "rsa.pkcs8.pem",
            "rsa.pkcs1.pem",
            "p256.sec1.pem",
            "p256.sec1.parameters.pem",
            "rsa.spki.pem",
            "rsa.public.pkcs1.pem",
            "rsa.pkcs8.pem crlf",
            "rsa.pkcs8.pem cr",
            "p256.spki.pem escaped",
            "rsa.pkcs8.pem spaces",
            "p256.spki.pem spaces text",
            "p256.sec1.parameters.pem spaces",
            "rsa.pkcs1.pem joined",
            "rsa.certified.pem spaces",
            "p256.spki.pem+p256.sec1.pem joined",
            "rsa.pkcs8.pem mark",
            "rsa.pkcs8.pem text",
            "rsa.certified.pem",
            "p256.spki.pem+p256.sec1.pem",
        ],
        bad: &[
            ("rsa.pkcs8.pem utf16", "UTF-16"),
            ("rsa.pkcs8.pem der", "binary (DER or PKCS#12)"),
            ("rsa.pkcs8.pem pkcs12", "binary (DER or PKCS#12)"),
            ("rsa.pkcs8.pem base64", "PEM in base64"),
            ("rsa.pkcs8.pem openssh", "ssh-keygen -p -m PKCS8"),
            ("refused.two.pem", "holds 2 keys"),
            ("refused.two.pem spaces", "holds 2 keys"),
            ("rsa.pkcs8.pem spaces cut", "the PEM is damaged"),
            ("refused.certified.pem", "a certificate of another key"),
            ("refused.certificate.pem", "holds a certificate"),
        ],
    },
    Row {
        input: "An encrypted key",
        accepted: "what OpenSSL 3 opens: PBES2 with AES, 3DES, also in the headers of RFC 1421",
        refused: "DES, RC2, RC4, MD2, MD5: the refusal names the algorithm and the command that encrypts the key again",
        because: "RFC 8018. OpenSSL's default provider does not have them any more.",
        judge: |_, recipe| key(recipe),
        good: &[
            "rsa.pkcs8.encrypted.pem",
            "rsa.pkcs1.encrypted.pem",
            "p256.sec1.encrypted.pem crlf",
            "p256.sec1.encrypted.pem spaces",
            "rsa.pkcs1.encrypted.pem spaces",
            "rsa.pkcs8.encrypted.pem joined",
            "rsa.pkcs8.3des.pem",
        ],
        bad: &[
            ("refused.pbe-md5-des.pem", "encrypted with PBE-MD5-DES"),
            ("refused.pbe-md5-des.pem", "openssl pkcs8"),
            ("refused.pbe-md5-des.pem md2", "PBE-MD2-DES"),
            ("refused.pbe-sha1-rc2-40.pem", "PBE-SHA1-RC2-40"),
            ("refused.pbe-sha1-rc2-40.pem rc4", "PBE-SHA1-RC4-128"),
            ("refused.pbes2-des.pem", "DES-CBC"),
            ("refused.dek-des.pem", "DES-CBC"),
        ],
    },
    Row {
        input: "A key as JWK",
        accepted: "RSA and P-256, public or private; a private RSA key with `d` alone; unknown members, `null` as absent",
        refused: "`use` other than `sig`, an `alg` of another kind, `key_ops` that do not fit, some of the members beside `d` without the others",
        because: "RFC 7517 section 4, RFC 7518 section 6.3.2.",
        judge: |_, recipe| key(recipe),
        good: &[
            "rsa.jwk",
            "p256.jwk",
            "rsa.public.jwk",
            "rsa.jwk -p -q -dp -dq -qi",
            "p256.public.jwk -use -alg -kid",
            "p256.public.jwk x5t=\"AA\" ext=true",
            "p256.public.jwk use=null",
            "p256.public.jwk key_ops=[\"verify\"]",
        ],
        bad: &[
            ("rsa.jwk -qi", "no 'qi'"),
            ("rsa.public.jwk use=\"enc\"", "'use' must be sig"),
            ("rsa.public.jwk alg=\"PS256\"", "'alg' must be RS256"),
            ("p256.public.jwk key_ops=[\"encrypt\"]", "'key_ops'"),
            ("p256.public.jwk kty=\"OKP\"", "another kind"),
        ],
    },
    Row {
        input: "The strength of a key",
        accepted: "RSA from 2048 to 4096 bits with exponent 65537; P-256",
        refused: "other sizes, exponents and curves; keys of the ROCA library; parts that do not belong together",
        because: "RFC 7518 sections 3.3 and 3.4, NIST SP 800-57, CVE-2017-15361.",
        judge: |_, recipe| key(recipe),
        good: &[
            "rsa.spki.pem",
            "p256.spki.pem",
            "rsa.public.jwk bits2048",
            "rsa.public.jwk bits4096",
        ],
        bad: &[
            ("rsa.public.jwk bits2047", "2047 bits"),
            ("rsa.public.jwk bits4097", "4097 bits"),
            ("rsa.public.jwk roca", "ROCA"),
            ("refused.rsa1024.pem", "1024 bits"),
            ("refused.exponent3.pem", "exponent"),
            ("refused.p384.pem", "another curve"),
            ("refused.secp256k1.pem", "another curve"),
            ("refused.ed25519.pem", "another kind"),
            ("refused.rsa-pss.pem", "another kind"),
            ("rsa.jwk d=\"AQAB\"", "do not belong together"),
        ],
    },
    Row {
        input: "A JWK set",
        accepted: "every set with at least one key that can be used; the others are left out, and commands name them with the reason",
        refused: "a set in which nothing can be used, one JWK, PEM, more than 64 keys",
        because: "RFC 7517 section 5.",
        judge: |_, recipe| {
            JwkSet::read(expanded(recipe).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string())
        },
        good: &[
            "{\"keys\":[P256]}",
            "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"},RSA],\"more\":1}",
            "{\"keys\":[7,P256,{}]}",
            "\u{feff}{\"keys\":[P256]}",
        ],
        bad: &[
            (
                "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"}]}",
                "key 1: the key is of another kind",
            ),
            ("{\"keys\":[PRIVATE]}", "private key"),
            ("P256", "one JWK"),
            ("{\"keys\":[]}", "is empty"),
            ("{\"keys\":[MANY]}", "at most 64"),
            ("-----BEGIN PUBLIC KEY-----", "it is PEM"),
            ("x", "not JSON"),
        ],
    },
    Row {
        input: "A JWK set that is registered with a client (`--jwks-file`)",
        accepted: "such a set with 1 to 10 keys that can be used; the others are left out and named",
        refused: "the whole set if one of its keys is private or symmetric; two keys with one `kid` and one algorithm",
        because: "A file with a private key was not meant to be given away. A set at `--jwks-uri` is read as in the row above.",
        judge: |_, recipe| client_keys::read(expanded(recipe).as_bytes()).map(drop),
        good: &[
            "{\"keys\":[P256]}",
            "{\"keys\":[P256,P256]}",
            "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"},RSA,7]}",
        ],
        bad: &[
            ("{\"keys\":[P256,PRIVATE]}", "private key"),
            ("{\"keys\":[P256,{\"kty\":\"oct\",\"k\":\"AA\"}]}", "symmetric"),
            ("P256", "one JWK"),
            ("{\"keys\":[7]}", "no key that can be used"),
        ],
    },
    Row {
        input: "The name of a key, `kid`",
        accepted: "in keys and tokens of others any text up to 512 bytes: spaces, quotes, other scripts, control characters, none; commands and logs escape what cannot be seen",
        refused: "U+0000, which PostgreSQL cannot store; longer texts",
        because: "RFC 7517 section 4.5.",
        judge: |_, text| {
            let kid: Kid = text
                .parse()
                .map_err(|error: keyround::jose::jwk::InvalidKid| error.to_string())?;
            let shown = kid.to_string();
            assert!(!shown.contains(['\n', '\u{1b}', '\u{202e}']), "{shown:?}");
            Ok(())
        },
        good: &[
            "my key",
            "a\"b\\c",
            "cl\u{e9}",
            "https://vault.example/keys/1?a=b",
            "a\nb",
            "a\u{1b}[2J\u{202e}b",
            "\u{674e}",
            "",
        ],
        bad: &[("a\0b", "U+0000"), (LONG, "512 bytes")],
    },
    Row {
        input: "The `kid` that `--kid` gives to an imported key",
        accepted: "such a text, also with spaces in it",
        refused: "control characters, a blank at its beginning or end, an empty text",
        because: "A file or a shell added them. A name that is really so is given by a JWK.",
        judge: |_, text| {
            let kid: Kid = text.parse().map_err(|_| "no kid")?;
            kid.mistake().map_or(Ok(()), |mistake| Err(mistake.to_owned()))
        },
        good: &["my key", "a\"b\\c", "cl\u{e9}", "https://vault.example/keys/1?a=b"],
        bad: &[
            ("a\n", "control character"),
            ("\ta", "control character"),
            ("a\u{1b}b", "control character"),
            ("a ", "begins or ends with a blank"),
            ("\u{3000}a", "begins or ends with a blank"),
            (" ", "begins or ends with a blank"),
            ("", "empty"),
        ],
    },
    Row {
        input: "The header of a client's assertion",
        accepted: "any member beside `alg`, `typ` and `kid`: it is ignored, also a key that it brings; white space of JSON around the object; a `typ` of `JWT` or `client-authentication+jwt`, in capitals or not, also behind `application/`",
        refused: "`crit`, `b64`, a name twice, a `kid` that is no text, another `typ`",
        because: "RFC 7515 sections 4, 4.1.9 and 4.1.11, RFC 7797, RFC 8259 section 2.",
        judge: |_, header| assertion(header, r#""exp":1"#),
        good: &[
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"ES256","kid":"my key","typ":"JWT","cty":"x","x5t":"AA","x5t#S256":"AA","x5c":["AA"],"jku":"https://a.example"}"#,
            r#"{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256"},"zip":7}"#,
            "{\"alg\":\"ES256\"}\n",
            "\t\r\n {\"alg\":\"ES256\"} ",
            r#"{"alg":"ES256","typ":"application/jwt"}"#,
            r#"{"alg":"ES256","typ":"Application/JWT"}"#,
            r#"{"alg":"ES256","typ":"application/client-authentication+jwt"}"#,
        ],
        bad: &[
            (r#"{"alg":"ES256","crit":["exp"]}"#, "crit or b64"),
            (r#"{"alg":"ES256","b64":false}"#, "crit or b64"),
            (r#"{"alg":"ES256","alg":"ES256"}"#, "occurs once"),
            (r#"{"alg":"ES256","kid":7}"#, "must be strings"),
            ("\u{c}{\"alg\":\"ES256\"}", "JSON object"),
            ("\u{feff}{\"alg\":\"ES256\"}", "JSON object"),
            ("{\"alg\":\"ES256\"}\n{}", "JSON object"),
            (r#"{"alg":"ES256","typ":"application/at+jwt"}"#, "typ must be"),
            (r#"{"alg":"ES256","typ":"application/application/jwt"}"#, "typ must be"),
            (r#"{"alg":"ES256","typ":"text/jwt"}"#, "typ must be"),
        ],
    },
    Row {
        input: "The header and the claims of a provider's ID token",
        accepted: "any member beside `alg`, `typ` and `kid` of the header: it is ignored, also a key that it brings; white space of JSON around both objects; a `typ` of `JWT`, in capitals or not, also behind `application/`",
        refused: "`crit`, `b64`, a name twice, a `kid` that is no text, another `typ`",
        because: "As of an assertion. RFC 8725 section 3.11: another kind of token must not pass for an ID token.",
        judge: |_, parts| {
            let (header, claims) = parts.split_once(" . ").unwrap_or((parts, r#"{"sub":"ada"}"#));
            let token = PAIR.sign(header, claims);
            let key = IssuerKey {
                jwk: PAIR.jwk.clone(),
                issuer: KeyIssuer::Any,
            };
            let claims = IdToken::parse(&token).and_then(|token| token.verified(&[key]));
            let claims = claims.map_err(|error| error.to_string())?;
            assert_eq!(claims["sub"], "ada", "{parts}");
            Ok(())
        },
        good: &[
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"ES256","kid":"my key","typ":"JWT","x5t":"AA","jku":"https://a.example"}"#,
            "{\"alg\":\"ES256\"}\n . {\"sub\":\"ada\"}\r\n",
            "\t{\"alg\":\"ES256\"} . \n{\"sub\":\"ada\"}",
            r#"{"alg":"ES256","typ":"application/jwt"}"#,
            r#"{"alg":"ES256","typ":"APPLICATION/JWT"}"#,
        ],
        bad: &[
            (r#"{"alg":"ES256","crit":["exp"]}"#, "crit and b64"),
            (r#"{"alg":"ES256","b64":false}"#, "crit and b64"),
            (r#"{"alg":"ES256","alg":"ES256"}"#, "every name stands once"),
            (r#"{"alg":"ES256","kid":7}"#, "a text as kid"),
            (r#"{"alg":"ES256","typ":"application/at+jwt"}"#, "no other typ than JWT"),
            (r#"{"alg":"ES256","typ":"logout+jwt"}"#, "no other typ than JWT"),
            (
                r#"{"alg":"ES256"} . {"sub":"ada","sub":"eve"}"#,
                "every name stands once",
            ),
            (r#"{"alg":"ES256"} . {"sub":"ada"}{}"#, "JSON object"),
            ("{\"alg\":\"ES256\"} . \u{c}{\"sub\":\"ada\"}", "JSON object"),
        ],
    },
    Row {
        input: "A time in a token of others",
        accepted: "a JSON number, also with a fraction or an exponent: the whole second that contains it",
        refused: "texts, `null`, other values, whole numbers beyond 2^63 and others beyond 2^53",
        because: "RFC 7519 section 2.",
        judge: |_, value| {
            let claim = format!(r#""exp":{value}"#);
            let is_number = whole_seconds(&serde_json::from_str(value).unwrap_or_default()).is_some();
            let read = assertion(r#"{"alg":"ES256"}"#, &claim);
            assert_eq!(read.is_ok(), is_number, "{value}");
            read
        },
        good: &[
            "1795895060",
            "1795895060.5",
            "1.795895060e9",
            "-1",
            "9007199254740992.0",
            "9223372036854775807",
        ],
        bad: &[
            ("9007199254740994.0", "its exp must be a number of seconds"),
            ("9223372036854775808", "its exp must be a number of seconds"),
            ("\"1795895060\"", "its exp must be a number of seconds"),
            ("null", "its exp must be a number of seconds"),
            ("1e300", "its exp must be a number of seconds"),
            ("[1]", "its exp must be a number of seconds"),
        ],
    },
    Row {
        input: "The metadata of a provider",
        accepted: "`null` as absent, unknown members, a byte order mark",
        refused: "another issuer, an endpoint that is needed and is not https, a name twice",
        because: "OpenID Connect Discovery section 3, RFC 8414 section 3.2.",
        judge: |_, change| metadata(change),
        good: &[
            "",
            r#""userinfo_endpoint":null"#,
            r#""token_endpoint_auth_methods_supported":null"#,
            r#""more":{"a":[]}"#,
        ],
        bad: &[
            (r#""userinfo_endpoint":"http://id.example/u""#, "userinfo_endpoint"),
            (r#""jwks_uri":null"#, "name stands once"),
            (
                r#"!"issuer":"https://other.example""#,
                "names the issuer 'https://other.example'",
            ),
            (r#"!"issuer":"https://id.example/""#, "byte for byte"),
            (
                r#"!"jwks_uri":"http://id.example/k""#,
                "https URL without a user and a fragment as jwks_uri",
            ),
            (r#"!"token_endpoint":null"#, "as token_endpoint"),
            (r#""userinfo_endpoint":7"#, "userinfo_endpoint"),
        ],
    },
    Row {
        input: "For whom a provider's ID token is: `aud` and `azp`",
        accepted: "our client id as `aud`, or a list with it; no `azp` if there is one recipient, else our client id as `azp`",
        refused: "another `aud`; several recipients without an `azp`; an `azp` that is another client, `null` or no text",
        because: "OpenID Connect Core section 3.1.3.7, items 3 to 5. Each of several recipients could present the token here.",
        judge: |_, change| id_token(false, change).map(drop),
        good: &[
            "",
            r#""aud":["keyround"]"#,
            r#""aud":["other","keyround"],"azp":"keyround""#,
            r#""azp":"keyround""#,
        ],
        bad: &[
            (r#""aud":"other""#, "its aud must be our client id"),
            (r#""aud":["keyround",7]"#, "its aud must be our client id"),
            (r#""aud":["other","keyround"]"#, "its azp must be our client id"),
            (r#""azp":"other""#, "its azp must be our client id"),
            (
                r#""aud":["other","keyround"],"azp":"other""#,
                "its azp must be our client id",
            ),
            (r#""azp":null"#, "its azp must be our client id"),
            (r#""azp":["keyround"]"#, "its azp must be our client id"),
        ],
    },
    Row {
        input: "Whether a provider has verified an address: `email_verified` and `xms_edov`",
        accepted: "`true`; with `--email-verified-as-text` also the text `\"true\"` and, if `email_verified` is absent or `null`, an `xms_edov` that is `true`, 1 or one of them as a text",
        refused: "every other value, and an `xms_edov` of `true` beside `false`; without the option the text and `xms_edov`",
        because: "OpenID Connect Core section 5.1 has a JSON boolean. `xms_edov` is an optional claim of Microsoft Entra ID.",
        judge: |_, change| {
            let (is_lenient, change) = change
                .strip_prefix("as text ")
                .map_or((false, change), |change| (true, change));
            let identity = id_token(is_lenient, change)?;
            identity.email_doubt.map_or(Ok(()), |doubt| Err(doubt.to_string()))
        },
        good: &[
            r#""email_verified":true"#,
            r#"as text "email_verified":"true""#,
            r#"as text "xms_edov":true"#,
            r#"as text "xms_edov":1"#,
            r#"as text "xms_edov":"1""#,
            r#"as text "xms_edov":"true""#,
            r#"as text "email_verified":null,"xms_edov":true"#,
        ],
        bad: &[
            ("", "does not say whether"),
            (r#""email_verified":"true""#, "--email-verified-as-text"),
            (r#""xms_edov":true"#, "sends xms_edov in place of email_verified"),
            (r#""email_verified":1"#, "has not verified"),
            (r#"as text "email_verified":"yes""#, "has not verified"),
            (r#"as text "email_verified":false,"xms_edov":true"#, "has not verified"),
            (r#"as text "xms_edov":false"#, "has not verified"),
            (r#"as text "xms_edov":"0""#, "has not verified"),
        ],
    },
    Row {
        input: "`traceparent` and `X-Request-Id`",
        accepted: "a `traceparent` whose version is not `ff`, with a trace id and a parent id that are not zero, in lower-case hexadecimal digits; a later version may have more behind it; an `X-Request-Id` of 1 to 128 letters, digits and `-._~+/=:@`",
        refused: "every other one: it is left out of log lines and answers, and the request gets a random id",
        because: "W3C Trace Context section 3.2. No visitor writes into a log line what reads as a part of it.",
        judge: |_, line| {
            let (name, value) = line.split_once(": ").unwrap();
            let taken = if name == "traceparent" {
                let request = Request::new(None, Some(value.as_bytes()));
                request.trace_id() == value.split('-').nth(1) && request.trace_id().is_some()
            } else {
                Request::new(Some(value.as_bytes()), None).id() == value
            };
            if taken { Ok(()) } else { Err("left out".to_owned()) }
        },
        good: &[
            "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "traceparent: cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "X-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e",
            "X-Request-Id: Root=1-67891233-abcdef012345678912345678",
        ],
        bad: &[
            (
                "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                "left out",
            ),
            (
                "traceparent: ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "left out",
            ),
            (
                "traceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                "left out",
            ),
            (
                "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                "left out",
            ),
            (
                "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                "left out",
            ),
            ("traceparent: 4bf92f3577b34da6a3ce929d0e0e4736", "left out"),
            ("X-Request-Id: a b", "left out"),
            ("X-Request-Id: a\"b", "left out"),
            ("X-Request-Id: ", "left out"),
        ],
    },
    Row {
        input: "A request head",
        accepted: "up to `server.max_header_bytes` (32768) of headers, 96 of them, and 8192 bytes of path and query",
        refused: "more: 431 `headers_too_large` and 414 `address_too_long`, at OAuth endpoints in the form of RFC 6749; what is not HTTP: 400 `invalid_request`",
        because: "RFC 6585 section 5, RFC 9110 section 15.5.15.",
        judge: head,
        good: &["header 100", "header 32757", "number 90", "path 8000"],
        bad: &[
            ("header 32758", "431 headers_too_large"),
            ("header 150000", "431 headers_too_large"),
            ("number 100", "431 headers_too_large"),
            ("path 9000", "414 address_too_long"),
            ("broken", "400 invalid_request"),
        ],
    },
    Row {
        input: "Cookies of other applications",
        accepted: "any bytes that a header may have, also a tab and bytes beyond ASCII: they do not matter",
        refused: "control characters, as in every header: 400 `invalid_request`",
        because: "RFC 6265 section 5.4, RFC 9110 section 5.5.",
        judge: cookie,
        good: &[
            "user=J\u{fc}rgen",
            "a",
            "=",
            "a=b=c; ;;",
            "\u{ff}=\u{80}",
            "keyround-csrf2=a",
            "a\tb=c\td",
            "\"quoted\"=\"a b\"",
            "=nameless",
            ";;;",
            "a=\u{e2}\u{82}\u{ac}",
            "__Host-=",
            "a=%00%0d%0a",
            "a=<script>",
            "a={\"b\":[1,2]}",
            "a, b=c",
            "$Version=1; $Path=/",
        ],
        bad: &[
            ("a=\u{1}", "invalid_request"),
            ("a=\0", "invalid_request"),
            ("\u{1b}[31m=a", "invalid_request"),
            ("a=\u{7f}", "invalid_request"),
            ("a=\u{8}b", "invalid_request"),
            ("a=\u{1f}", "invalid_request"),
            ("a=b\rc", "invalid_request"),
        ],
    },
    Row {
        input: "`X-Forwarded-For` of a trusted proxy",
        accepted: "IPv4 and IPv6, with a port, in brackets, in quotes, with a zone; empty elements of the list are ignored",
        refused: "other texts: each counts as one client of its own, never as the proxy, and one log line says so; a list without an address: the proxy counts",
        because: "RFC 7239 section 6 has the same forms. RFC 9110 section 5.6.1.2.",
        judge: |site, value| forwarded(site, "X-Forwarded-For", value),
        good: &[
            "198.51.100.1",
            "198.51.100.1:4711",
            "[2001:db8::1]",
            "[2001:db8::1]:4711",
            "\"[2001:db8::1]:4711\"",
            "2001:db8::1",
            "fe80::1%eth0",
            "1.1.1.1, 198.51.100.1",
            "\t2001:DB8::1 ",
            "198.51.100.1,",
            ",1.1.1.1,, 198.51.100.1 , ,",
        ],
        bad: &[
            (",", "the proxy"),
            ("unknown,", "unreadable:"),
            ("unknown", "unreadable:"),
            ("_hidden", "unreadable:"),
            ("010.0.0.1", "unreadable:"),
            ("1.2.3", "unreadable:"),
            ("", "the proxy"),
        ],
    },
    Row {
        input: "`Forwarded`, `X-Real-IP` and other headers with a client's address",
        accepted: "none is read; a proxy that sends one without `X-Forwarded-For` is named in a log line",
        refused: "all: the proxy's own address counts, which its clients share",
        because: "With two headers, a visitor could send the one that the proxy does not overwrite.",
        judge: |site, line| {
            let (name, value) = line.split_once(": ").unwrap();
            forwarded(site, name, value)
        },
        good: &[],
        bad: &[
            ("Forwarded: for=198.51.100.1", "the proxy"),
            ("X-Real-IP: 198.51.100.1", "the proxy"),
            ("CF-Connecting-IP: 198.51.100.1", "the proxy"),
        ],
    },
    Row {
        input: "The id of a client",
        accepted: "1 to 255 visible ASCII characters: a name, `svc:prod`, a URL, a UUID",
        refused: "spaces, quotation marks, backslashes, other scripts; at registration a UUID of version 7, which is the id of a user",
        because: "RFC 6749 appendix A.1, less what lists and log lines would have to quote. RFC 9068 section 5: a client must not look like a person.",
        judge: |site, text| {
            let id: ClientId = text
                .parse()
                .map_err(|error: keyround::oauth::client::InvalidClientId| error.to_string())?;
            // What only a registration refuses.
            if Uuid::parse_str(id.as_str()).is_ok() {
                registered(site, id.as_str(), "a")
            } else {
                Ok(())
            }
        },
        good: &[
            "billing",
            "svc:prod",
            "https://app.example.com",
            "a+b%41@c",
            "0oa1b2c3",
            "3f0c1a52-7b9e-4d1f-8a36-5e2c9b7d0f14",
            "*",
        ],
        bad: &[
            ("", "1 to 255 visible ASCII"),
            ("a b", "1 to 255 visible ASCII"),
            ("a\"b", "a quotation mark"),
            ("a\\b", "a backslash"),
            ("d\u{fc}nn", "visible ASCII"),
            ("01890a5d-ac96-774b-bcce-b302099a8057", "is a UUID of version 7"),
        ],
    },
    Row {
        input: "Client credentials in the Basic scheme",
        accepted: "id and secret form-encoded, and as they are (`curl --user`), also with colons in one of the two",
        refused: "as they are, with colons in both: nothing tells where the id ends",
        because: "RFC 6749 section 2.3.1 encodes them; many clients do not.",
        judge: |_, text| basic(text),
        good: &[
            "svc%3Aprod:s%2Bcret",
            "svc:prod:secret",
            "billing:s:cret",
            "billing:s+cret",
        ],
        bad: &[("svc:prod:s:cret", "is not among"), ("billing", "with a colon between")],
    },
    Row {
        input: "An audience",
        accepted: "1 to 2048 visible ASCII characters: a name, or a URI of any scheme",
        refused: "spaces, other scripts, a URI with a fragment; at registration a colon that makes no absolute URI, and a URI with a user or a password, which each token would repeat",
        because: "RFC 7519 section 2 (StringOrURI), RFC 8707 section 2, RFC 3986 sections 3.2.1 and 4.3, RFC 9110 section 4.2.",
        judge: |site, text| {
            let audience: Audience = text
                .parse()
                .map_err(|error: keyround::oauth::client::InvalidAudience| error.to_string())?;
            // What only a registration refuses.
            if text.contains('@') || keyround::text::uri_fault(text).is_some() {
                registered(site, "billing", audience.as_str())
            } else {
                Ok(())
            }
        },
        good: &[
            "orders",
            "https://api.example.com",
            "urn:example:api",
            "api://0f8fad5b",
            "Orders/v2",
            "localhost:8080",
            "https://api.example.com:99999/%7Ea?b=c",
            "https://10.0.0.256",
            "https://[2001:db8::1]:8443",
            "https://[v1.a:b]/",
            "urn:example:a%C3%A4",
        ],
        bad: &[
            ("", "1 to 2048 visible ASCII"),
            ("\u{e4}pi", "visible ASCII"),
            ("a b", "without a space"),
            ("https://api.example.com/#a", "without a fragment"),
            (
                "https://ada:pw@api.example.com",
                "an audience has no user and no password",
            ),
            (
                "https://token@api.example.com",
                "an audience has no user and no password",
            ),
            ("1:a", "is a URI"),
            ("urn:a|b", "has characters that no URI has"),
            ("urn:100%", "has characters that no URI has"),
            ("a_b:c", "with a colon is a URI"),
            ("https:api", "is no URI of a web server"),
            ("https://a\\b", "is no URI of a web server"),
        ],
    },
    Row {
        input: "A password hash of another system",
        accepted: "bcrypt, Argon2 version 19, PBKDF2 (SHA-1, SHA-256, SHA-512) and scrypt, as PHC, passlib, Django (also `bcrypt_sha256$`), Werkzeug and ASP.NET Core Identity write them, with or without padding, within the bounds of a login",
        refused: "MD5, SHA-1, SHA-2 and DES in every form (crypt, LDAP, PostgreSQL, MySQL), yescrypt, `$2$`, `$2x$`, Argon2d, Argon2 without `v=` (version 16), WordPress's `$wp$`, passlib's `$bcrypt-sha256$`; a hash that was cut off or is in quotation marks, and the marks of accounts without a password; what costs more or less than the bounds: by their name; a kind that would make a wrong password cost more than 2 s",
        because: "RFC 8018, RFC 7914, RFC 9106. It is replaced at the next login.",
        judge: |_, text| PasswordHash::parse(text).map(drop).map_err(|error| error.to_string()),
        good: &[
            "$2y$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
            "pbkdf2_sha256$1500$kJ3nWq7ZtR1xYb5c$RZ0X2+5dSF91WLcD1V7wE5qR2rrb9yULxZEkmVuF6CI=",
            "$scrypt$ln=4,r=8,p=1$AQIDBAUGBwgJCgsMDQ4PEA$NF7z++FNpLOvV2uLtf/RxRwTx8CEBEFsz0nysP/hBY4",
            "AAECAwQFBgcICQoLDA0ODxCzwap/TWh+foz8MOoLiq527bO8yzOrtTkQBC1VM1EgZQ==",
            "bcrypt_sha256$$2b$05$GgtbH6j30sC0Yw5PceZ3CuWQy1mVAT7OsxIHnnEazVi1Zx73PQo8.",
            "$argon2id$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg==$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4=",
        ],
        bad: &[
            ("5f4dcc3b5aa765d61d8327deb882cf99", "a hash of MD5"),
            ("$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", "a hash of MD5"),
            (
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO",
                "a hash of SHA-512 (sha512crypt)",
            ),
            ("$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o", "a hash of yescrypt"),
            (
                "$2x$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "a hash of bcrypt $2x$",
            ),
            (
                "$argon2d$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg==$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4=",
                "a hash of Argon2d",
            ),
            (
                "$argon2id$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg==$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4=",
                "Argon2 without v=, which means version 16",
            ),
            (
                "$wp$2y$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "bcrypt over HMAC-SHA-384 (WordPress 6.8",
            ),
            (
                "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2",
                "bcrypt over HMAC-SHA-256 (passlib)",
            ),
            (
                "\"$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy\"",
                "in quotation marks; leave them out",
            ),
            ("!", "no password, or whose password is locked"),
            (
                "pbkdf2_sha256$999$kJ3nWq7ZtR1xYb5c$RZ0X2+5dSF91WLcD1V7wE5qR2rrb9yULxZEkmVuF6CI=",
                "costs too much to check, or too little",
            ),
            ("$5$rounds=5000$saltstring$5B8vYYiY", "a hash of SHA-256 (sha256crypt)"),
            ("rl0uE0MNT1xhA", "a hash of DES (crypt)"),
            ("_J9..rasmBYk8r9AiWNc", "a hash of DES (BSDi's crypt)"),
            (
                "$2$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "a hash of bcrypt $2$",
            ),
            ("{SSHA}c2FsdGVkc2FsdGVkc2FsdGVk", "a hash of SHA-1 (LDAP)"),
            (
                "$2b$16$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "costs too much",
            ),
        ],
    },
    Row {
        input: "An e-mail address",
        accepted: "capitals, width and composition of letters do not matter; a domain in Unicode and in ASCII (`xn--`) is one",
        refused: "characters that cannot be seen, quoted local parts, domains that DNS cannot have, IP addresses with or without brackets, and other domains that end with a number",
        because: "IDNA 2008 (RFC 5891), UTS #46: one mailbox, one account. RFC 1123 section 2.1: no top-level domain is a number; RFC 5321 section 4.1.3 has addresses in brackets alone.",
        judge: |_, text| {
            let email: Email = text
                .parse()
                .map_err(|error: keyround::accounts::email::InvalidEmail| error.to_string())?;
            let again: Email = email.spellings().1.unwrap_or(email.as_str()).parse().unwrap();
            assert_eq!(again, email, "both spellings are one");
            Ok(())
        },
        good: &[
            "ada@example.com",
            " Ada@Example.COM. ",
            "ada@b\u{fc}cher.example",
            "ada@xn--bcher-kva.example",
            "\u{ff41}da@example.com",
            "ada@\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}.\u{92d}\u{93e}\u{930}\u{924}",
            "j\u{fc}rgen@example.com",
            "ada@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
        ],
        bad: &[
            ("a\u{200b}da@example.com", "each of them visible"),
            ("a\u{e000}da@example.com", "each of them visible"),
            ("\u{489}ada@example.com", "each of them visible"),
            ("ada@exam\u{ad}ple.com", "visible"),
            ("\"ada\"@example.com", "looks like"),
            ("ada@\u{2665}.example", "one of DNS"),
            ("ada@\u{5d0}a.example", "one of DNS"),
            ("ada@example", "looks like"),
            (
                "ada@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
                "one of DNS",
            ),
            (
                "ada@xn--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
                "one of DNS",
            ),
        ],
    },
    Row {
        input: "The name of a person",
        accepted: "any script; spaces, of which several between two words become one; the invisible joiners that change how a word is written (Persian, Indic scripts) or make one emoji of several",
        refused: "every other character that cannot be seen, private and unassigned ones, more than 8 combining marks on one",
        because: "UAX #44, `Default_Ignorable_Code_Point` and `General_Category`; RFC 5892 appendices A.1 and A.2, UTS #51. Two names that look the same are the same.",
        judge: |_, text| {
            let name: Name = text
                .parse()
                .map_err(|error: keyround::accounts::user::InvalidName| error.to_string())?;
            assert!(!name.as_str().contains("  "), "{name}");
            Ok(())
        },
        good: &[
            "Ada Lovelace",
            " Ada   Lovelace ",
            "\u{912}\u{928}\u{941}",
            "O'Neil",
            "\u{674e}",
            "\u{639}\u{644}\u{6cc}\u{200c}\u{631}\u{636}\u{627}",
            // The first of the two does not join to the left: the non-joiner is left out.
            "\u{646}\u{6cc}\u{645}\u{627}\u{200c}\u{6cc}\u{648}\u{634}\u{6cc}\u{62c}",
            "\u{1f469}\u{200d}\u{1f4bb}",
        ],
        bad: &[
            ("Ada\u{200b}", "name"),
            ("\u{3164}", "name"),
            ("A\u{200d}da", "visible"),
            ("A\u{200c}B", "visible"),
            ("\u{639}\u{644}\u{6cc}\u{200c}", "visible"),
            ("1\u{fe0f}", "visible"),
            ("Ada\nX", "name"),
            ("Ada\u{e000}", "visible"),
            ("Ada\u{378}", "visible"),
            ("Ada\u{13441}", "visible"),
            (
                "Ada\u{489}\u{489}\u{489}\u{489}\u{489}\u{489}\u{489}\u{489}\u{489}",
                "combining marks",
            ),
        ],
    },
    Row {
        input: "`scope`",
        accepted: "words of printable ASCII, single spaces between them, repetitions",
        refused: "quotes, backslashes, other spaces, other scripts: `invalid_scope`",
        because: "RFC 6749 section 3.3.",
        judge: |_, text| text.parse::<Scope>().map(drop).map_err(|error| error.to_string()),
        good: &["", "read", "read read write:all", "https://api.example.com/.default"],
        bad: &[
            ("read  write", "single spaces"),
            (" read", "single spaces"),
            ("l\u{e9}", "ASCII"),
            ("a\"b", "quotes"),
            ("a\\b", "backslash"),
            ("a\tb", "spaces"),
        ],
    },
    Row {
        input: "A text file: settings, secrets, passwords, keys",
        accepted: "UTF-8, with or without a byte order mark, any line end",
        refused: "UTF-16 and other encodings, by their name or their line",
        because: "RFC 3629 section 6. A password that was read wrongly cannot be typed.",
        judge: |_, recipe| {
            let octets: Vec<u8> = recipe
                .chars()
                .map(|character| u8::try_from(u32::from(character)).unwrap())
                .collect();
            text::decode(&octets).map(drop).map_err(|error| error.to_string())
        },
        // Each character is one octet.
        good: &["a\n", "a\r\n", "\u{ef}\u{bb}\u{bf}a", "J\u{c3}\u{bc}rgen", ""],
        bad: &[
            ("\u{ff}\u{fe}a\0", "UTF-16"),
            ("a\0b\0", "UTF-16"),
            ("\u{fe}\u{ff}\0a", "UTF-16"),
            ("a\nJ\u{fc}rgen", "line 2 is not UTF-8"),
        ],
    },
    Row {
        input: "A file with a secret",
        accepted: "mode 0600 or less, also in arguments (`--password-file`, `keys import`); 0640 if it is root's and the process is not root, as Kubernetes mounts it for `fsGroup`",
        refused: "files that others may read",
        because: "The rule of PostgreSQL's private keys.",
        judge: secret_file,
        good: &["0600", "0400"],
        bad: &[("0644", "0644"), ("0604", "0604"), ("0666", "0666"), ("0640", "0640")],
    },
    Row {
        input: "Environment variables that begin with `KEYROUND_`",
        accepted: "settings, and what Kubernetes and Docker set for a service of our name",
        refused: "every other one, with \"did you mean\"",
        because: "A misspelt setting must not be ignored.",
        judge: |site, line| {
            let (name, value) = line.split_once('=').unwrap();
            let sources = Sources {
                environment: [
                    (name.to_owned(), value.to_owned()),
                    ("KEYROUND_SERVER__ISSUER".to_owned(), site.url.clone()),
                ]
                .into(),
                ..Sources::default()
            };
            Config::load(&sources).map(drop).map_err(|error| error.to_string())
        },
        good: &[
            "KEYROUND_SERVER__LISTEN=127.0.0.1:8081",
            "KEYROUND_PORT=tcp://10.0.0.1:80",
            "KEYROUND_SERVICE_HOST=10.0.0.1",
            "KEYROUND_PORT_80_TCP_ADDR=10.0.0.1",
            "KEYROUND_PG_SERVICE_PORT=5432",
            "KEYROUND_NAME=/app/keyround",
            "KEYROUND_ENV_PATH=/bin",
        ],
        bad: &[
            ("KEYROUND_SERVER__LISTN=127.0.0.1:8081", "KEYROUND_SERVER__LISTEN"),
            ("KEYROUND_PORT=8080", "which is not a setting of Keyround"),
        ],
    },
    Row {
        input: "The issuer",
        accepted: "a URL with or without a path",
        refused: "a path with percent-encoding, a query, a fragment, a trailing slash, a host that DNS cannot have",
        because: "RFC 8414 section 2. Verifiers compare it byte for byte.",
        judge: |_, text| text.parse::<Issuer>().map(drop).map_err(|error| error.to_string()),
        good: &["https://id.example.com", "https://id.example.com/a/b"],
        bad: &[
            ("https://id.example.com/%C3%A9", "percent"),
            ("https://id.example.com/?a", "has a query or a fragment"),
            ("https://id.example.com/#a", "has a query or a fragment"),
            ("https://id.example.com/", "ends with a slash"),
            ("https://id..example.com", "a label that is empty"),
        ],
    },
    Row {
        input: "An allowed origin",
        accepted: "scheme, host and port, as browsers send them; an underscore, which names of services and machines have; the scheme of an app with a web view, such as `capacitor://localhost`",
        refused: "`null`, `file:`, patterns, paths, port 0, a host that DNS cannot have: empty or long labels, a dot or a hyphen at an end, an underscore in the last label, a number as the last label",
        because: "RFC 6454 section 6.1, RFC 1035 section 2.3, RFC 1123 section 2.1. It would never match.",
        judge: |_, text| text.parse::<Origin>().map(drop).map_err(|error| error.to_string()),
        good: &[
            "https://app.example.com",
            "https://app.example.com:8443",
            "http://localhost:3000",
            "http://my_service:8080",
            "https://my_app.example.com",
            "capacitor://localhost",
            "ionic://localhost",
            "app://my.app:8100",
            "chrome-extension://abcdefghijklmnop",
        ],
        bad: &[
            ("https://app..example.com", "a label that is empty"),
            ("https://app.example.com.", "a dot at its end"),
            ("https://-app.example.com", "a hyphen"),
            ("https://app.my_zone", "an underscore in its last label"),
            ("https://app.example.123", "whose last label is a number"),
            ("https://app.example.com:0", "port 0"),
            (
                "https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
                "more than 63 characters",
            ),
            ("https://*.example.com", "a wildcard matches no origin"),
            ("https://app.example.com/a", "whose origin is https://app.example.com"),
            ("*", "is no origin"),
            ("null", "is no origin"),
            ("file://localhost", "is no origin"),
            ("capacitor://localhost/", "is no origin"),
            ("capacitor://*", "is no origin"),
            ("Capacitor://localhost", "is no origin"),
            ("capacitor://", "is no origin"),
            ("app://localhost:0", "is no origin"),
        ],
    },
];

/// Longer than a kid may be.
const LONG: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/keys")
            .join(name),
    )
    .unwrap()
}

/// A fixture, or several behind one another, and what was done to it.
fn key(recipe: &str) -> Result<(), String> {
    let mut words = recipe.split(' ');
    let names = words.next().unwrap();
    let mut content: Vec<u8> = names.split('+').flat_map(fixture).collect();
    for word in words {
        let text = || String::from_utf8(content.clone()).unwrap();
        content = match word {
            "crlf" => text().replace('\n', "\r\n").into_bytes(),
            "cr" => text().replace('\n', "\r").into_bytes(),
            "spaces" => text().replace('\n', " ").into_bytes(),
            "joined" => text().replace('\n', "").into_bytes(),
            "cut" => text().split_at(600).0.to_owned().into_bytes(),
            "escaped" => text().replace('\n', "\\n").into_bytes(),
            "mark" => [b"\xef\xbb\xbf", &*content].concat(),
            "text" => format!("Bag Attributes\n  friendlyName: a\n{}", text()).into_bytes(),
            "utf16" => text().encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "der" => openssl::pkey::PKey::private_key_from_pem(&content)
                .unwrap()
                .private_key_to_der()
                .unwrap(),
            "pkcs12" => pkcs12(&content),
            // The last octet of an object identifier (RFC 8018 appendix A.3, RFC 7292 appendix C).
            "md2" => with_octets(&content, b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", 3, 1),
            "rc4" => with_octets(&content, b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01", 6, 1),
            "roca" => with_modulus(&content, &roca_modulus()),
            "bits2047" | "bits2048" | "bits4096" | "bits4097" => {
                with_modulus(&content, &modulus(word[4..].parse().unwrap()))
            }
            "base64" => openssl::base64::encode_block(&content).into_bytes(),
            "openssh" => text().replace("PRIVATE KEY", "OPENSSH PRIVATE KEY").into_bytes(),
            change => {
                let mut jwk: Value = serde_json::from_slice(&content).unwrap();
                match change.split_once('=') {
                    Some((name, value)) => jwk[name] = serde_json::from_str(value).unwrap(),
                    None => drop(jwk.as_object_mut().unwrap().remove(change.strip_prefix('-').unwrap())),
                }
                jwk.to_string().into_bytes()
            }
        };
    }
    read(&content, Passphrase::Text("opens-the-fixtures"))
        .map(drop)
        .map_err(|error| error.to_string())
}

fn pkcs12(pem: &[u8]) -> Vec<u8> {
    let key = openssl::pkey::PKey::private_key_from_pem(pem).unwrap();
    let mut builder = openssl::pkcs12::Pkcs12::builder();
    builder.pkey(&key);
    builder.build2("opens-the-fixtures").unwrap().to_der().unwrap()
}

/// A PEM whose DER has another octet behind these.
fn with_octets(pem: &[u8], before: &[u8], from: u8, to: u8) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut der = openssl::base64::decode_block(&body).unwrap();
    let place = der.windows(before.len()).position(|octets| octets == before).unwrap() + before.len();
    assert_eq!(der[place], from);
    der[place] = to;
    let body = openssl::base64::encode_block(&der);
    format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{body}\n-----END ENCRYPTED PRIVATE KEY-----\n").into_bytes()
}

/// A JWK of an RSA key with this modulus; a public key need not have known factors.
fn with_modulus(jwk: &[u8], modulus: &BigNumRef) -> Vec<u8> {
    let mut jwk: Value = serde_json::from_slice(jwk).unwrap();
    jwk["n"] = BASE64URL.encode(modulus.to_vec()).into();
    jwk.to_string().into_bytes()
}

/// 2^(bits-1) + 1.
fn modulus(bits: i32) -> BigNum {
    let mut modulus = BigNum::from_u32(1).unwrap();
    modulus.set_bit(bits - 1).unwrap();
    modulus
}

/// 1 modulo each of the primes that the fingerprint is taken with, and so a power of its generator.
fn roca_modulus() -> BigNum {
    let is_prime = |number: &u32| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
    let mut modulus = BigNum::from_u32(1).unwrap();
    for prime in (3..168).filter(is_prime) {
        modulus.mul_word(prime).unwrap();
    }
    let missing = 2048 - modulus.num_bits();
    let mut shifted = BigNum::new().unwrap();
    shifted.lshift(&modulus, missing).unwrap();
    shifted.add_word(1).unwrap();
    shifted
}

/// The claims of an ID token, changed; with a provider whose claims are read leniently or not.
fn id_token(is_lenient: bool, change: &str) -> Result<Identity, String> {
    let provider = Provider {
        name: "acme".parse().unwrap(),
        issuer: "https://id.example".parse().unwrap(),
        directories: None,
        client_id: "keyround".parse().unwrap(),
        scope: federation::DEFAULT_SCOPE.parse().unwrap(),
        links_verified_emails_since: None,
        reads_email_verified_text_since: is_lenient.then_some(START),
        created_at: START,
        disabled_at: None,
    };
    let mut claims = json!({
        "iss": "https://id.example", "sub": "1", "aud": "keyround", "nonce": "n", "iat": START.0, "exp": START.0 + 300,
        "email": "jane@example.com",
    });
    let change: Value = serde_json::from_str(&format!("{{{change}}}")).unwrap();
    claims
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    let expected = ExpectedIdToken {
        provider: &provider,
        nonce: "n",
        now: START,
    };
    identity(claims.as_object().unwrap(), expected).map_err(|error| error.to_string())
}

/// Registers a client by the command.
fn registered(site: &Site, id: &str, audience: &str) -> Result<(), String> {
    let url = format!("sqlite:{}", site.folder.join("registered.db").display());
    let variables = [
        ("KEYROUND_SERVER__ISSUER", site.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_DATABASE__URL", &url),
    ];
    let create = ["clients", "create", "--grant", "client_credentials"];
    let output = run(
        &site.folder,
        &variables,
        &[&create[..], &["--id", id, "--audience", audience]].concat(),
    );
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

fn expanded(recipe: &str) -> String {
    let text = |name| String::from_utf8(fixture(name)).unwrap();
    recipe
        .replace("P256", &text("p256.public.jwk"))
        .replace("RSA", &text("rsa.public.jwk"))
        .replace("PRIVATE", &text("p256.jwk"))
        .replace("MANY", &["{}"; 65].join(","))
}

static PAIR: LazyLock<Pair> = LazyLock::new(|| Pair::new(keyround::jose::alg::Algorithm::Es256, "my key"));

fn assertion(header: &str, claim: &str) -> Result<(), String> {
    let token = PAIR.sign(
        header,
        &format!(r#"{{"iss":"a","sub":"a","aud":"a","jti":"a",{claim}}}"#),
    );
    let read = Assertion::parse(&token).map_err(|error| error.to_string())?;
    read.verify(std::slice::from_ref(&PAIR.jwk))
        .map(drop)
        .map_err(|error| error.to_string())
}

fn metadata(change: &str) -> Result<(), String> {
    let issuer: ProviderIssuer = "https://id.example".parse().unwrap();
    let mut members = json!({
        "issuer": "https://id.example", "authorization_endpoint": "https://id.example/a", "token_endpoint": "https://id.example/t",
        "jwks_uri": "https://id.example/k",
    });
    let mut document = members.to_string();
    if let Some(change) = change.strip_prefix('!') {
        let Value::Object(change) = serde_json::from_str(&format!("{{{change}}}")).unwrap() else {
            unreachable!()
        };
        members.as_object_mut().unwrap().extend(change);
        document = members.to_string();
    } else if !change.is_empty() {
        document.insert_str(1, &format!("{change},"));
    }
    ProviderMetadata::parse(format!("\u{feff}{document}").as_bytes(), &issuer)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A request whose head is as the recipe says.
fn head(site: &Site, recipe: &str) -> Result<(), String> {
    let (what, count) = recipe.split_once(' ').unwrap_or((recipe, "0"));
    let count: usize = count.parse().unwrap();
    let (path, lines) = match what {
        "header" => (String::new(), format!("X-Wide: {}\r\n", "x".repeat(count))),
        "number" => (String::new(), "X-Many: 1\r\n".repeat(count)),
        "path" => (format!("?{}", "x".repeat(count)), String::new()),
        _ => (String::new(), "Broken header\r\n".to_owned()),
    };
    for (at, status) in [("/.well-known/jwks.json", 200), ("/oauth2/token", 405)] {
        let mut connection = Connection::open(&site.url);
        connection.send(format!("GET {at}{path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        let answer = connection.answer().unwrap();
        if answer.status() == status {
            continue;
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        if at == "/oauth2/token" {
            assert_eq!(body["error"], "invalid_request", "{recipe}");
            assert!(body["error_description"].is_string());
            continue;
        }
        let mut other = Connection::open(&site.url);
        other.send(format!("POST /oauth2/token{path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        let form: Value = serde_json::from_slice(&other.answer().unwrap().body).unwrap();
        assert_eq!(form["error"], "invalid_request", "{recipe}");
        return Err(format!("{} {}", answer.status(), body["code"].as_str().unwrap()));
    }
    Ok(())
}

/// A login with a wrong password, which gets as far as the password only if our cookie is found.
fn cookie(site: &Site, other: &str) -> Result<(), String> {
    let mut connection = Connection::open(&site.url);
    connection.send("GET /auth/csrf HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = connection.answer().unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let own = answer
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    // Each character is one octet.
    let other: Vec<u8> = other
        .chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap())
        .collect();
    // Each login is about another account, so that no limit is met.
    let email = format!(
        "{}@example.com",
        other.iter().map(|&octet| u32::from(octet)).sum::<u32>()
    );
    let login = format!(r#"{{"email":"{email}","password":"seven green umbrellas"}}"#);
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\nX-CSRF-Token: {}\r\nCookie: ",
        login.len(),
        body["csrf_token"].as_str().unwrap()
    );
    let line = [
        head.as_bytes(),
        &other,
        b"; ",
        own.as_bytes(),
        b"\r\n\r\n",
        login.as_bytes(),
    ]
    .concat();
    connection.send(line);
    let answer = connection.answer().unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    match body["code"].as_str().unwrap() {
        "login_failed" => Ok(()),
        other => Err(other.to_owned()),
    }
}

fn forwarded(site: &Site, name: &str, value: &str) -> Result<(), String> {
    let request = TestRequest::default()
        .peer_addr("10.0.0.1:4711".parse().unwrap())
        .insert_header((name, value))
        .to_http_request();
    let client = ClientAddresses::new(&site.config.server).of(&request).to_string();
    if client == "10.0.0.1" {
        return Err("the proxy".to_owned());
    }
    if client.starts_with("unreadable:") {
        Err(client)
    } else {
        Ok(())
    }
}

fn secret_file(site: &Site, mode: &str) -> Result<(), String> {
    let path = site.folder.join(format!("secret-{mode}"));
    std::fs::write(&path, "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=").unwrap();
    let mode = std::fs::Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap());
    std::fs::set_permissions(&path, mode).unwrap();
    let settings = [
        ("server.issuer", site.url.as_str()),
        ("keys.master_key_file", path.to_str().unwrap()),
    ];
    let sources = Sources {
        flags: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Sources::default()
    };
    let config = Config::load(&sources).map_err(|error| error.to_string())?;
    config.master_key_text().map(drop).map_err(|error| error.to_string())
}

/// Whether one reading of these credentials is the client that they are of.
fn basic(text: &str) -> Result<(), String> {
    let header = format!(
        "Basic {}",
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text)
    );
    let parameters = Parameters::parse("grant_type=client_credentials").map_err(|error| error.description)?;
    let credentials = Credentials::find(Some(&header), &parameters).map_err(|error| error.description)?;
    let known = [
        ("svc:prod", "s+cret"),
        ("svc:prod", "secret"),
        ("svc:prod", "s:cret"),
        ("billing", "s:cret"),
        ("billing", "s+cret"),
    ];
    let is_known = credentials
        .readings()
        .any(|reading| known.contains(&(reading.client_id.as_str(), reading.secret.as_str())));
    if is_known {
        Ok(())
    } else {
        Err(format!("{text} is not among the clients"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_page_does_what_it_says() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let site = Site {
        url: app.url.clone(),
        config: config(
            &database,
            &[
                ("server.behind_tls_proxy", "true"),
                ("server.trusted_proxies", "10.0.0.0/8"),
            ],
        ),
        folder: database.folder.path().to_owned(),
    };
    for row in TABLE {
        assert!(!row.good.is_empty() || !row.bad.is_empty(), "{}", row.input);
        for example in row.good {
            let judged = (row.judge)(&site, example);
            assert!(judged.is_ok(), "{}: {example:?} is refused: {judged:?}", row.input);
        }
        for (example, reason) in row.bad {
            assert!(!reason.is_empty(), "{}: {example:?} has no reason", row.input);
            let refusal = (row.judge)(&site, example).expect_err(example);
            assert!(refusal.contains(reason), "{}: {example:?}: {refusal}", row.input);
        }
    }
    app.running.stop().await;
}

#[test]
fn the_page_has_the_table() {
    let rows: Vec<String> = TABLE
        .iter()
        .map(|row| {
            format!(
                "| {} | {} | {} | {} |\n",
                row.input, row.accepted, row.refused, row.because
            )
        })
        .collect();
    let rows = rows.concat();
    let table = format!("| input | accepted | refused | because |\n|---|---|---|---|\n{rows}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/input.md");
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains(&table), "{} lacks:\n{table}", path.display());
    assert_eq!(
        page.matches("\n| ").count(),
        TABLE.len() + 1,
        "a row that no test drives"
    );
}
