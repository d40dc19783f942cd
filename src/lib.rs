//! Keyround: an identity server whose signing keys rotate themselves.
//!
//! The promise: no valid token is ever refused because a key changed, and no revoked key is trusted longer than we said.
//!
//! # The map, in the order of who may import whom
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | the types of time, and the only code that reads it |
//! | [`supervision`] | tasks that run as long as the server |
//! | [`text`] | the encodings of text files |
//! | [`files`] | files that appear whole or not at all |
//! | [`values`] | what a person writes, parsed: lengths of time, issuers, origins, networks, secrets, addresses of databases |
//! | [`crypto`] | our own secrets: what seals them, keyed hashes with all their purposes, random values |
//! | [`jose`] | the standards: algorithms, keys, tokens |
//! | [`keys`] | the core: a key's life as pure functions of (keys, policy, now) |
//! | [`revocations`] | what is refused before its time, and how a node learns of it |
//! | [`accounts`] | people and their sessions: the rules |
//! | [`events`] | what is audited: events by name, and their entries |
//! | [`config`] | what was written, then what was validated |
//! | [`telemetry`] | logs and metrics |
//! | [`oauth`] | the protocol's rules: clients, scopes, grants, metadata, refusals |
//! | [`store`] | the only SQL, one file a table, one text for SQLite and PostgreSQL |
//! | [`outbound`] | the one HTTP client, and what clients publish |
//! | [`registry`] | the clients as last read |
//! | [`keyring`] | the shared snapshot that requests sign and publish with |
//! | [`tasks`] | what a server does beside requests and rotation: heartbeats, and forgetting what has expired |
//! | [`rotation`] | the scheduled task |
//! | [`hashing`] | password hashing off the workers, behind a bounded queue |
//! | [`sessions`] | the logins of people: begun, refreshed, ended |
//! | [`logins`] | who proves to be somebody, by a password or by another provider |
//! | [`tls`] | TLS of the public listener, and its certificate when it changes |
//! | [`http`] | the endpoints, one file each |
//! | [`app`] | the composition root |
//! | [`cli`] | the command line, one file a command group |
//!
//! A module imports only from modules above it; a test holds that. `actix_web` is named in [`http`] and [`app`] alone,
//! `sqlx` in [`store`], `reqwest` in [`outbound`], `openssl` in [`crypto`], [`jose`] and [`tls`], and `josekit`, `rsa` and `p256` in [`jose`].
//!
//! # Glossary
//!
//! One word for each thing, in code, documents and logs. Where a standard has a word, it is that one.
//!
//! | word | what it is |
//! |---|---|
//! | key set | the JWK Set (RFC 7517) that is published: every pending, active and retired key |
//! | kid | the name of a key in a token's header; a key that was made here has its thumbprint (RFC 7638) |
//! | generation | the number of a key among those of its algorithm: a newer one supersedes an older one |
//! | state | pending, active, retired, expired or revoked: computed from a key's row, the policy and the time, never stored |
//! | policy | the windows and periods that the settings give to keys |
//! | rotation | a new generation is inserted, published ahead of time, and then signs |
//! | revocation | the end of trust in a key, a token or a session before its time is over |
//! | node | one running server; several share a database |
//! | look | one reading of the database by a node, each `keys.replica_refresh`; what it finds is a snapshot |
//! | snapshot | the keys and revocations that a node signs and verifies with; one that is older than `keys.snapshot_max_age` signs nothing |
//! | ledger | the file of revoked keys beside a node, which outlives a database that is set back |
//! | doubt | the time after a start or a jump in which the clock may be wrong: nothing irreversible is done |
//! | master key | seals the private halves of signing keys and other secrets in the database (a key-encryption key, NIST SP 800-57) |
//! | client | a program that asks for tokens (RFC 6749 section 2): a confidential one proves itself, a public one cannot; a first-party one is the operator's own |
//! | access token | the signed token that services verify (RFC 9068) |
//! | login session | a login of a person in one browser or app, until it ends or expires; `sid` in its tokens |
//! | grant | what one client got by a login session: refresh tokens, of which the newest is valid; `grant_id` in its access tokens, a row of the table `sessions`. It ends with its login session |
//! | session | a login session with the grant that the login itself made, which have one id and end together |
//! | denied token | an access token that was revoked by name (RFC 7009) and has not expired |
//! | provider | another identity provider that people log in with (OpenID Connect) |
//! | tenant | a group of users with providers and policies of its own |
//! | policy of a gateway | what `/auth/verify/NAME` asks of a token: scopes and roles |
//! | audit | the table of what happened, written in the transaction of what it records |

pub mod accounts;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod events;
pub mod files;
pub mod hashing;
pub mod http;
pub mod jose;
pub mod keyring;
pub mod keys;
pub mod logins;
pub mod oauth;
pub mod outbound;
pub mod registry;
pub mod revocations;
pub mod rotation;
pub mod sessions;
pub mod store;
pub mod supervision;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod values;
