//! A key set that forgets: in front of a node, and without the keys that have a successor, although their tokens live.
//!
//! Libraries that fetch at once refuse nothing however short the lead is. What they need of a key set is that it keeps its
//! keys, so this is what a control has to take from them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::watch::Watch;

/// The set as it was last given, on a port of its own.
pub struct Forgetful {
    address: SocketAddr,
    body: Arc<Mutex<String>>,
}

impl Forgetful {
    /// Serves an empty set until it is given one; ends with the process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let body = Arc::new(Mutex::new(json!({"keys": []}).to_string()));
        let served = Arc::clone(&body);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that went away is its own affair.
                let _ = connection.and_then(|connection| answer(connection, &served.lock().unwrap().clone()));
            }
        });
        Self { address, body }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    /// Takes the keys over that have no successor yet.
    pub fn take(&self, mut set: Value, watch: &Watch) {
        let superseded = watch.superseded();
        let keys = set["keys"].as_array_mut().unwrap();
        keys.retain(|key| !superseded.contains(key["kid"].as_str().unwrap()));
        *self.body.lock().unwrap() = set.to_string();
    }
}

fn answer(mut connection: TcpStream, body: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(
        connection,
        "HTTP/1.1 200 OK\r\ncontent-type: application/jwk-set+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
