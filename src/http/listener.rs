//! A listener: bounded connections, TLS if there is any, and the HTTP library behind it.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_server::Server as Running;
use actix_service::{ServiceFactoryExt, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, web};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::clock::sleep;
use crate::supervision::Pulse;
use crate::tls::{Acceptor, TlsStream};

use super::connections::Connections;
use super::observation::observed;
use super::state::Server;
use super::stream::{IDLE_TICKS, Stream, TICK};

/// How long a connection is kept without a request.
pub const KEEP_ALIVE: Duration = Duration::from_secs(TICK.as_secs() * IDLE_TICKS as u64);

/// How long the first request of a connection may take to come up to its body.
pub const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection that is closed may take to say so.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the kernel holds for a peer that does not read or is not read, in bytes; Linux takes twice as much for its own use.
pub const SOCKET_BUFFER: usize = 128 * 1024;

/// How many connections wait to be accepted.
pub const BACKLOG: i32 = 1024;

/// How often a worker shows that it runs.
const WORKER_BEAT: Duration = Duration::from_secs(2);

/// A worker that shows nothing for so long is stuck; see `/livez`.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// What a listener serves.
pub struct Listening<R> {
    /// Where.
    pub bound: BoundSocket,
    /// With TLS.
    pub tls: Option<Acceptor>,
    /// By so many threads; one for each core otherwise.
    pub workers: Option<usize>,
    /// The connections.
    pub connections: Arc<Connections>,
    /// The most of them.
    pub most: usize,
    /// The routes.
    pub routes: R,
    /// How long requests under way may take once it is told to stop, in seconds.
    pub drain_seconds: u64,
}

/// Listens; answers with the address, and with what runs the listener.
///
/// # Errors
/// When another process listens there by now.
pub fn listen<R>(listening: Listening<R>, server: &web::Data<Server>) -> std::io::Result<(SocketAddr, Running)>
where
    R: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
{
    let address = listening.bound.address;
    let listener = listening.bound.listen()?;
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = listening.workers.unwrap_or_else(cores);
    let builder = Running::build()
        .workers(workers)
        // Beyond these the kernel holds them; more than enough that the connections themselves are the limit.
        .max_concurrent_connections(listening.most.div_ceil(workers) + 16)
        .shutdown_timeout(listening.drain_seconds)
        .disable_signals();
    let stops = builder.graceful_shutdown_signal();
    let data = server.clone();
    let has_https = data.issuer.starts_with("https://");
    let (tls, connections, routes) = (listening.tls, listening.connections, listening.routes);
    let running = builder.listen("http", listener, move || {
        actix_web::rt::spawn(beat(data.tasks.watch("listener", LONGEST_SILENCE)));
        let app = App::new()
            .wrap(from_fn(move |request, next| observed(has_https, request, next)))
            .app_data(data.clone())
            .configure(routes.clone());
        let stops = stops.clone();
        let http = HttpService::build()
            // The stream counts: the library's timer would begin again with each look.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(FIRST_HEAD_TIMEOUT)
            .client_disconnect_timeout(CLOSE_TIMEOUT)
            // Who hangs up wants no answer: else its password would still be hashed.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .graceful_shutdown_signal(move || {
                let stops = stops.clone();
                async move { stops.notified().await }
            })
            .on_connect_ext(|stream: &Stream<Socket>, data| {
                data.insert(stream.connection());
            })
            .h1(map_config(app, |()| AppConfig::default()));
        let (tls, connections) = (tls.clone(), Arc::clone(&connections));
        actix_service::fn_service(move |socket: TcpStream| {
            accept(socket, tls.clone(), Arc::clone(&connections), has_https)
        })
        .and_then(http.map_err(drop))
    })?;
    Ok((address, running.run()))
}

/// A connection, behind TLS or without.
pub type Socket = tokio_util::either::Either<TcpStream, TlsStream>;

async fn accept(
    socket: TcpStream,
    tls: Option<Acceptor>,
    connections: Arc<Connections>,
    has_https: bool,
) -> Result<(Stream<Socket>, Option<SocketAddr>), ()> {
    let peer = socket.peer_addr().map_err(drop)?;
    let (place, mut ended) = connections.admit(peer.ip()).ok_or(())?;
    let socket = match tls {
        None => Socket::Left(socket),
        Some(acceptor) => tokio::select! {
            handshake = acceptor.accept(socket) => Socket::Right(handshake.map_err(drop)?),
            () = sleep(HANDSHAKE_TIMEOUT) => return Err(()),
            _ = &mut ended => return Err(()),
        },
    };
    Ok((Stream::new(socket, place, ended, has_https), Some(peer)))
}

/// An address that is taken by this process. No connection is accepted yet: a load balancer that finds none goes to another node.
pub struct BoundSocket {
    socket: OwnedFd,
    /// The address, with the port that the system chose for port 0.
    pub address: SocketAddr,
}

impl BoundSocket {
    /// Takes an address.
    ///
    /// # Errors
    /// When another process listens there, this machine does not have the address, or this user may not have the port.
    pub fn new(address: SocketAddr) -> std::io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // Connections of a server that has just ended do not hold the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        // Accepted sockets inherit the sizes.
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
        let bound = TcpListener::from(socket);
        let address = bound.local_addr()?;
        Ok(Self {
            socket: bound.into(),
            address,
        })
    }

    fn listen(self) -> std::io::Result<TcpListener> {
        rustix::net::listen(&self.socket, BACKLOG)?;
        Ok(self.socket.into())
    }
}

/// Runs on each worker of a listener.
async fn beat(pulse: Arc<Pulse>) {
    loop {
        pulse.beat();
        sleep(WORKER_BEAT).await;
    }
}
