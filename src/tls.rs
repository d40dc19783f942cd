//! TLS of the public listener: OpenSSL's settings, and a certificate that is taken anew when its files change.
//!
//! The files are read again every [`LOOK_EVERY`] and compared by their contents, so that it does not matter how they were
//! changed: written over, renamed, or reached through a symbolic link that was turned. New handshakes get the new pair;
//! connections that stand keep theirs.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::sha::Sha256;
use openssl::ssl::{
    AlpnError, ClientHelloResponse, Ssl, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslVersion, select_next_proto,
};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509StoreContext};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_openssl::SslStream;
use url::Host;

use crate::clock::{Clock, UnixTime, sleep};
use crate::config::{ConfigError, TlsFiles, TlsTexts};
use crate::supervision::{Pulse, Tasks};
use crate::telemetry::TlsMetrics;
use crate::text;
use crate::values::Issuer;

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A look that takes longer is reported by `/livez`.
const LONGEST_LOOK: Duration = Duration::from_secs(20);

/// The protocols that are spoken (RFC 7301), in their wire form, the preferred one first.
const PROTOCOLS: &[u8] = b"\x08http/1.1\x08http/1.0";

/// The pair of certificate and key that new handshakes get.
pub struct Tls {
    files: TlsFiles,
    issuer: Issuer,
    warning: Option<String>,
    current: Arc<ArcSwap<SslContext>>,
    /// Digest of what the last look saw, be it good or bad: each change is judged and told once.
    seen: Mutex<[u8; 32]>,
    metrics: TlsMetrics,
}

/// A connection with TLS.
pub type TlsStream = SslStream<TcpStream>;

/// What a listener accepts connections with.
#[derive(Clone)]
pub struct Acceptor(SslAcceptor);

impl Acceptor {
    /// Does the handshake.
    ///
    /// # Errors
    /// When the peer does not want what is offered, or speaks no TLS.
    pub async fn accept(&self, socket: TcpStream) -> Result<TlsStream, openssl::ssl::Error> {
        let mut stream = SslStream::new(Ssl::new(self.0.context())?, socket)?;
        Pin::new(&mut stream).accept().await?;
        Ok(stream)
    }
}

/// A pair that can be served.
struct Pair {
    context: SslContext,
    certificate: X509,
    expires_at: UnixTime,
}

impl Tls {
    /// Reads the pair, and judges it.
    ///
    /// # Errors
    /// A file that cannot be read, or a pair that cannot be served; see [`Tls::look`].
    pub fn load(files: &TlsFiles, issuer: &Issuer, metrics: TlsMetrics, now: UnixTime) -> Result<Self, ConfigError> {
        let texts = files.read()?;
        let pair = judge(files, &texts, now)?;
        metrics.served(pair.expires_at);
        Ok(Self {
            files: files.clone(),
            issuer: issuer.clone(),
            warning: host_warning(&pair.certificate, issuer),
            current: Arc::new(ArcSwap::from_pointee(pair.context)),
            seen: Mutex::new(digest(&Ok(texts))),
            metrics,
        })
    }

    /// What deserves a second thought in the pair that was loaded.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What a listener accepts connections with; each handshake gets the pair of its moment.
    ///
    /// # Errors
    /// When OpenSSL has no memory.
    pub fn acceptor(&self) -> Result<Acceptor, ErrorStack> {
        let current = Arc::clone(&self.current);
        let mut acceptor = settings()?;
        acceptor.set_client_hello_callback(move |ssl, _| {
            ssl.set_ssl_context(&current.load())?;
            Ok(ClientHelloResponse::SUCCESS)
        });
        Ok(Acceptor(acceptor.build()))
    }

    /// Looks at the files until told to stop.
    pub async fn follow(self: Arc<Self>, clock: Clock, tasks: Tasks, stop: watch::Receiver<bool>) {
        let look = |pulse: Arc<Pulse>| {
            let (this, clock, stop) = (Arc::clone(&self), clock.clone(), stop.clone());
            async move { this.look_until(&clock, &pulse, stop).await }
        };
        tasks.supervise("tls", LONGEST_LOOK, stop.clone(), look).await;
    }

    async fn look_until(self: Arc<Self>, clock: &Clock, pulse: &Pulse, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                _ = stop.wait_for(|&stop| stop) => return,
            }
            let (this, now) = (Arc::clone(&self), clock.read().wall);
            // A file system that does not answer must hold nothing else.
            tokio::select! {
                looked = tokio::task::spawn_blocking(move || this.look(now)) => match looked {
                    Ok(()) => pulse.beat(),
                    Err(error) => tracing::error!(%error, "the TLS certificate could not be looked at"),
                },
                _ = stop.wait_for(|&stop| stop) => return,
            }
        }
    }

    /// Takes the pair in the files if it changed. One that cannot be read, does not match, is encrypted, too weak for
    /// OpenSSL's security level or expired is refused, and the one before stays.
    pub fn look(&self, now: UnixTime) {
        let texts = self.files.read();
        let digest = digest(&texts);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *seen, digest) == digest {
            return;
        }
        match texts.and_then(|texts| judge(&self.files, &texts, now)) {
            Ok(pair) => {
                if let Some(warning) = host_warning(&pair.certificate, &self.issuer) {
                    tracing::warn!("{warning}");
                }
                self.current.store(Arc::new(pair.context));
                self.metrics.served(pair.expires_at);
                tracing::info!(expires_at = %pair.expires_at, "new connections get the new TLS certificate");
            }
            Err(error) => {
                self.metrics.refused();
                tracing::error!(%error, "the new TLS certificate is refused; the one before is served on");
            }
        }
    }
}

/// Tells contents apart, and reasons why there are none.
fn digest(texts: &Result<TlsTexts, ConfigError>) -> [u8; 32] {
    let mut digest = Sha256::new();
    match texts {
        Ok(texts) => {
            digest.update(&texts.certificate);
            // No PEM text holds it.
            digest.update(&[0]);
            digest.update(texts.key.as_bytes());
        }
        Err(error) => digest.update(error.to_string().as_bytes()),
    }
    digest.finish()
}

/// Whether a pair can be served; the file that is to blame is named.
fn judge(files: &TlsFiles, texts: &TlsTexts, now: UnixTime) -> Result<Pair, ConfigError> {
    let refuse = |setting, path: &std::path::PathBuf, why: String| ConfigError::TlsRefused {
        setting,
        path: path.clone(),
        why,
    };
    let bad_certificate = |why: String| refuse("server.tls_certificate_file", &files.certificate, why);
    let bad_key = |why: String| refuse("server.tls_key_file", &files.key, why);

    let chain = X509::stack_from_pem(&texts.certificate)
        .map_err(|error| bad_certificate(format!("does not hold certificates in PEM: {}", reason(&error))))?;
    let Some((certificate, issuers)) = chain.split_first() else {
        return Err(bad_certificate("holds no certificate in PEM".to_owned()));
    };
    let expires_at = expiry(certificate).map_err(|error| bad_certificate(reason(&error)))?;
    if expires_at <= now {
        return Err(bad_certificate(format!("expired at {expires_at}; renew it")));
    }
    let key = private_key(&texts.key).map_err(|error| {
        bad_key(format!(
            "does not hold an unencrypted private key in PEM: {}",
            reason(&error)
        ))
    })?;
    if !certificate.public_key().is_ok_and(|public| public.public_eq(&key)) {
        return Err(bad_key(format!(
            "does not belong to the first certificate in {}",
            files.certificate.display()
        )));
    }
    let context = context(certificate, issuers, &key)
        .map_err(|error| bad_certificate(format!("cannot be served: {}", reason(&error))))?;
    Ok(Pair {
        context,
        certificate: certificate.clone(),
        expires_at,
    })
}

/// The most names of a certificate that a warning repeats.
const MAX_SHOWN_NAMES: usize = 5;

/// That clients which check names refuse this certificate at the host of the issuer; none if they accept it, or if it cannot be told.
fn host_warning(certificate: &X509, issuer: &Issuer) -> Option<String> {
    if is_for(certificate, issuer).unwrap_or(true) {
        return None;
    }
    let names: Vec<String> = certificate
        .subject_alt_names()
        .into_iter()
        .flatten()
        .filter_map(|name| {
            let address = name.ipaddress().and_then(|octets| match octets.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
                _ => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
            });
            name.dnsname()
                .map(str::to_owned)
                .or(address.map(|address| address.to_string()))
        })
        .collect();
    let shown = match names.len() {
        0 => "no name (clients do not read its common name)".to_owned(),
        count if count > MAX_SHOWN_NAMES => format!(
            "{} and {} more",
            names[..MAX_SHOWN_NAMES].join(", "),
            count - MAX_SHOWN_NAMES
        ),
        _ => names.join(", "),
    };
    Some(text::printable(&format!(
        "the certificate of server.tls_certificate_file is for {shown}, and not for {}, the host of server.issuer: clients that connect to this \
         server by that name refuse it. Get a certificate for that name, or correct server.issuer. Behind a proxy that ends TLS for that \
         name and accepts this certificate, it is as it should be",
        issuer.host()
    )))
}

/// Whether the certificate is for the host of the issuer, by the rules of OpenSSL without those that browsers have left: no common
/// name, and no wildcard for a part of a label (RFC 9525 section 6).
fn is_for(certificate: &X509, issuer: &Issuer) -> Result<bool, ErrorStack> {
    // X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL.
    const MISMATCHES: [i32; 2] = [62, 64];
    let mut parameters = X509VerifyParam::new()?;
    parameters.set_hostflags(X509CheckFlags::NEVER_CHECK_SUBJECT | X509CheckFlags::NO_PARTIAL_WILDCARDS);
    match issuer.url().host() {
        Some(Host::Domain(name)) => parameters.set_host(name)?,
        Some(Host::Ipv4(address)) => parameters.set_ip(address.into())?,
        Some(Host::Ipv6(address)) => parameters.set_ip(address.into())?,
        None => return Ok(true),
    }
    // Its name alone is looked at, so it is trusted here as it is.
    parameters.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::NO_CHECK_TIME)?;
    let mut trusted = X509StoreBuilder::new()?;
    trusted.add_cert(certificate.clone())?;
    trusted.set_param(&parameters)?;
    let between = Stack::<X509>::new()?;
    let mut context = X509StoreContext::new()?;
    let result = context.init(&trusted.build(), certificate, &between, |context| {
        context.verify_cert()?;
        Ok(context.error().as_raw())
    })?;
    Ok(!MISMATCHES.contains(&result))
}

/// The key; never asks a terminal for a password.
fn private_key(text: &str) -> Result<PKey<Private>, ErrorStack> {
    PKey::private_key_from_pem_callback(text.as_bytes(), |_| Ok(0))
}

fn context(certificate: &X509, issuers: &[X509], key: &PKey<Private>) -> Result<SslContext, ErrorStack> {
    let mut builder = settings()?;
    builder.set_certificate(certificate)?;
    for issuer in issuers {
        builder.add_extra_chain_cert(issuer.clone())?;
    }
    builder.set_private_key(key)?;
    builder.check_private_key()?;
    Ok(builder.build().into_context())
}

/// Mozilla's "intermediate" settings, version 5: TLS 1.2 and 1.3, forward secrecy and authenticated encryption alone.
///
/// No session is resumed: every handshake shows the certificate of its moment, and no ticket key lives as long as the
/// process. A client that offers other protocols alone is refused (RFC 7301 section 3.2): it would be led to
/// take our answers for those of another protocol.
/// Forward secrecy by elliptic curves, and authenticated encryption.
const TLS_1_2_CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                               ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

fn settings() -> Result<SslAcceptorBuilder, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // Without DHE, which that list has for RSA certificates: a handshake costs the server much more than the client
    // (CVE-2002-20001, CVE-2022-40735).
    builder.set_cipher_list(TLS_1_2_CIPHERS)?;
    // Left alone, TLS 1.3 would also take finite fields of 8192 bits, and a stranger's handshake would cost much.
    builder.set_groups_list("X25519:P-256:P-384")?;
    builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    // A connection that waits for its next request holds no buffers.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    builder.set_alpn_select_callback(|_, offered| select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::ALERT_FATAL));
    Ok(builder)
}

fn expiry(certificate: &X509) -> Result<UnixTime, ErrorStack> {
    let from_epoch = Asn1Time::from_unix(0)?.diff(certificate.not_after())?;
    Ok(UnixTime(
        i64::from(from_epoch.days) * 86_400 + i64::from(from_epoch.secs),
    ))
}

/// The first thing that OpenSSL names, in few words.
fn reason(error: &ErrorStack) -> String {
    let first = error.errors().first().and_then(openssl::error::Error::reason);
    first.unwrap_or("OpenSSL does not say why").to_owned()
}
