//! A network between a server and its PostgreSQL, which a test can close.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use keyround::clock::sleep;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// They are passed on, for connections that began in this era; all others are dead and nobody says so, as behind a firewall
    /// that forgot them.
    Open {
        /// Its number.
        era: u32,
    },
    /// They are passed on as if it were open, and each answer of the database takes so much longer.
    Slow {
        /// As that of [`Network::Open`].
        era: u32,
        /// How much.
        by: Duration,
    },
    /// They wait without a word.
    Closed,
}

impl Network {
    /// The era whose connections live.
    pub fn era(self) -> Option<u32> {
        match self {
            Self::Open { era } | Self::Slow { era, .. } => Some(era),
            Self::Closed => None,
        }
    }
}

/// Whose bytes they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Server,
    Database,
}

async fn pass_on(
    of: Of,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    began: u32,
    mut network: watch::Receiver<Network>,
) {
    let mut bytes = [0; 8_192];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let open = network.wait_for(|network| network.era() == Some(began)).await;
        let Ok(open) = open.map(|open| *open) else {
            return;
        };
        if let (Network::Slow { by, .. }, Of::Database) = (open, of) {
            sleep(by).await;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Begins to pass on what is meant for the PostgreSQL of this URL; answers with the URL that leads through it.
pub async fn network(url: &str, network: watch::Receiver<Network>) -> String {
    network_at(Ipv4Addr::LOCALHOST.into(), url, network).await
}

/// The same at this address of ours.
pub async fn network_at(near: IpAddr, url: &str, network: watch::Receiver<Network>) -> String {
    let mut url = url::Url::parse(url).unwrap();
    let database = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let listener = TcpListener::bind((near, 0)).await.unwrap();
    url.set_ip_host(near).unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (database, mut network) = (database.clone(), network.clone());
            tokio::spawn(async move {
                let open = network.wait_for(|network| network.era().is_some()).await;
                let Some(era) = open.ok().and_then(|open| open.era()) else {
                    return;
                };
                let (near_reads, near_writes) = near.into_split();
                let (far_reads, far_writes) = TcpStream::connect(&database).await.unwrap().into_split();
                tokio::join!(
                    pass_on(Of::Server, near_reads, far_writes, era, network.clone()),
                    pass_on(Of::Database, far_reads, near_writes, era, network)
                );
            });
        }
    });
    url.to_string()
}
