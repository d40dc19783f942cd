//! The issuer's address: in front of the nodes, as a balancer is, by HTTP and by HTTPS.
//!
//! For a control it forgets: it serves a key set without the keys that have a successor, although their tokens live. Libraries that
//! fetch at once refuse nothing however short the lead is. What they need of a key set is that it keeps its keys, so this is what
//! a control has to take from them.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;

use crate::watch::Watch;

/// What verifiers ask of an issuer.
const KEY_SET: &str = "/.well-known/jwks.json";

/// What the issuer's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Plain HTTP.
    Http,
    /// HTTPS, which relying parties ask for.
    Https,
    /// Plain HTTP, and the key set forgets.
    Forgetful,
    /// HTTPS, and the key set stays as it was given.
    Stale,
}

/// Listens at two ports until it is dropped.
pub struct Front {
    address: Address,
    http_port: u16,
    https_port: u16,
    authority: PathBuf,
    behind: Arc<Behind>,
    tasks: [JoinHandle<()>; 2],
}

/// What it passes connections on to.
#[derive(Default)]
struct Behind {
    nodes: Mutex<Vec<String>>,
    turn: AtomicUsize,
    key_set: Option<Mutex<String>>,
}

impl Front {
    /// Has no nodes yet. One that forgets serves an empty set until it is given one.
    pub async fn start(folder: &Path, address: Address) -> Self {
        let empty = || Mutex::new(json!({"keys": []}).to_string());
        let behind = Arc::new(Behind {
            key_set: matches!(address, Address::Forgetful | Address::Stale).then(empty),
            ..Behind::default()
        });
        let (certificate, key) = certificate();
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, certificate.to_pem().unwrap()).unwrap();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&certificate).unwrap();
        acceptor.set_private_key(&key).unwrap();
        let (http, https) = (listener().await, listener().await);
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        Self {
            address,
            http_port: port(&http),
            https_port: port(&https),
            authority,
            tasks: [
                tokio::spawn(serve(http, None, Arc::clone(&behind))),
                tokio::spawn(serve(https, Some(acceptor.build()), Arc::clone(&behind))),
            ],
            behind,
        }
    }

    /// The issuer.
    pub fn issuer(&self) -> String {
        match self.address {
            Address::Http | Address::Forgetful => format!("http://127.0.0.1:{}", self.http_port),
            Address::Https | Address::Stale => format!("https://127.0.0.1:{}", self.https_port),
        }
    }

    /// Where its key set is.
    pub fn key_set_url(&self) -> String {
        format!("{}{KEY_SET}", self.issuer())
    }

    /// Whether it forgets.
    pub fn forgets(&self) -> bool {
        self.address == Address::Forgetful
    }

    /// The same for those that take it by HTTPS alone.
    pub fn https_key_set_url(&self) -> String {
        format!("https://127.0.0.1:{}{KEY_SET}", self.https_port)
    }

    /// The certificate to trust there.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// Passes connections on to these addresses in turn.
    pub fn pass_on_to(&self, nodes: Vec<String>) {
        *self.behind.nodes.lock().unwrap() = nodes;
    }

    /// Takes over the keys that have no successor yet.
    pub fn take(&self, mut set: Value, watch: &Watch) {
        let superseded = watch.superseded();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.retain(|key| !superseded.contains(key["kid"].as_str().unwrap()));
        self.serve(&set);
    }

    /// Serves this set from now on.
    pub fn serve(&self, set: &Value) {
        *self.behind.key_set.as_ref().unwrap().lock().unwrap() = set.to_string();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Behind {
    async fn connect(&self) -> Result<TcpStream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let node = {
            let nodes = self.nodes.lock().unwrap();
            nodes[turn % nodes.len()].clone()
        };
        TcpStream::connect(node).await
    }

    async fn pass(&self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        match &self.key_set {
            None => copy_bidirectional(&mut client, &mut self.connect().await?)
                .await
                .map(drop),
            Some(key_set) => self.answer(client, key_set).await,
        }
    }

    /// One request and one answer.
    async fn answer(&self, client: impl AsyncRead + AsyncWrite + Unpin, key_set: &Mutex<String>) -> Result<()> {
        let mut client = BufReader::new(client);
        let mut request = String::new();
        client.read_line(&mut request).await?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            let mut line = String::new();
            client.read_line(&mut line).await?;
            if line.trim_end().is_empty() {
                break;
            }
            if !line.to_ascii_lowercase().starts_with("connection:") {
                request.push_str(&line);
            }
        }
        if path == KEY_SET {
            let body = key_set.lock().unwrap().clone();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/jwk-set+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            client.write_all(format!("{head}{body}").as_bytes()).await?;
            client.shutdown().await
        } else {
            let mut node = self.connect().await?;
            node.write_all(format!("{request}connection: close\r\n\r\n").as_bytes())
                .await?;
            copy_bidirectional(&mut client, &mut node).await.map(drop)
        }
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve(listener: TcpListener, tls: Option<SslAcceptor>, behind: Arc<Behind>) {
    while let Ok((connection, _)) = listener.accept().await {
        let (tls, behind) = (tls.clone(), Arc::clone(&behind));
        tokio::spawn(async move {
            // A client that went away is its own affair.
            let _ = match tls {
                None => behind.pass(connection).await,
                Some(tls) => pass_tls(&tls, connection, &behind).await,
            };
        });
    }
}

async fn pass_tls(tls: &SslAcceptor, connection: TcpStream, behind: &Behind) -> Result<()> {
    let mut stream = SslStream::new(Ssl::new(tls.context())?, connection)?;
    Pin::new(&mut stream).accept().await.map_err(std::io::Error::other)?;
    behind.pass(stream).await
}

/// One that signs itself, for the machine's own address.
fn certificate() -> (X509, PKey<Private>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "issuer").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    let context = certificate.x509v3_context(None, None);
    let address = SubjectAlternativeName::new().ip("127.0.0.1").build(&context).unwrap();
    certificate
        .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
        .unwrap();
    certificate.append_extension(address).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    (certificate.build(), key)
}
