//! The listening side: a task per connection, and their common end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgwire::api::RandomPidSecretKeyGenerator;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::pgwire::startup::{Peer, Shared, Started, start};
use crate::pgwire::throttle::Throttle;
use crate::pgwire::tls::{self, Negotiated, Socket, Tls};
use crate::session::api::{Connections, SessionFactory};

/// How many clients are served, and how long they may take.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// One more is turned away with 53300.
    pub n_connections_max: usize,
    /// How many may be about to say who they are. One more is disconnected without a word.
    pub n_starting_max: usize,
    /// A client that has not said who it is by then is disconnected.
    pub startup_time_max: Duration,
    /// What sessions have to end after a shutdown before they are dropped.
    pub shutdown_time_max: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            n_connections_max: 1000,
            n_starting_max: 1000,
            startup_time_max: Duration::from_secs(60),
            shutdown_time_max: Duration::from_secs(5),
        }
    }
}

/// A server of the Postgres protocol.
pub struct Server {
    config: ServerConfig,
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
}

impl Server {
    /// `shutdown` ends the server: running statements are cancelled with 57P01.
    pub fn new(config: ServerConfig, factory: Arc<dyn SessionFactory>, shutdown: CancellationToken) -> Self {
        let connections = Connections::new(config.n_connections_max, shutdown.clone());
        let shared = Shared {
            factory,
            connections,
            pids: RandomPidSecretKeyGenerator::default(),
            throttle: Throttle::default(),
        };
        Server { config, shared: Arc::new(shared), tls: None, shutdown }
    }

    /// With encryption, for clients that ask for it.
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Server { tls, ..self }
    }

    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.shared.connections)
    }

    /// Serves the clients of `listener` until the shutdown, and returns when all have ended.
    pub async fn serve(self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        let starting = Arc::new(Semaphore::new(self.config.n_starting_max));
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(ended) = tasks.join_next() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => {
                        let Ok(place) = starting.clone().try_acquire_owned() else {
                            tracing::warn!(%peer, "connection dropped: too many have not said who they are");
                            continue;
                        };
                        let shared = Arc::clone(&self.shared);
                        let (config, shutdown) = (self.config.clone(), self.shutdown.clone());
                        let accepted = Accepted { socket, peer, tls: self.tls.clone(), _place: place };
                        tasks.spawn(serve_socket(accepted, shared, config, shutdown));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: others must close first.
                        tracing::warn!(%error, "connection not accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let all_ended = async {
            while let Some(ended) = tasks.join_next().await {
                log_panic(ended);
            }
        };
        if timeout(self.config.shutdown_time_max, all_ended).await.is_err() {
            tracing::warn!(n_connections = tasks.len(), "connections dropped at shutdown");
        }
        tasks.shutdown().await;
    }
}

/// A socket on which nothing has been said.
struct Accepted {
    socket: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    /// Among those who have not said who they are.
    _place: OwnedSemaphorePermit,
}

impl Accepted {
    async fn start(self, shared: &Shared) -> Option<Started<Socket>> {
        let Accepted { socket, peer, tls, _place } = self;
        let negotiated = match tls::negotiate(socket, tls.as_deref()).await {
            Ok(negotiated) => negotiated,
            Err(error) => {
                tracing::debug!(%peer, %error, "no agreement on encryption");
                return None;
            }
        };
        let Negotiated { socket, certificate, is_refused } = negotiated;
        start(socket, &Peer { address: peer, certificate, is_refused }, shared).await
    }
}

async fn serve_socket(
    accepted: Accepted,
    shared: Arc<Shared>,
    config: ServerConfig,
    shutdown: CancellationToken,
) {
    let peer = accepted.peer;
    if let Err(error) = prepare(&accepted.socket) {
        tracing::debug!(%peer, %error, "socket options not set");
    }
    let started = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        started = timeout(config.startup_time_max, accepted.start(&shared)) => started,
    };
    match started {
        Ok(Some((connection, registration))) => {
            tracing::debug!(%peer, pid = registration.backend.pid, "connected");
            connection.serve().await;
            tracing::debug!(%peer, pid = registration.backend.pid, "disconnected");
        }
        Ok(None) => (),
        Err(_) => tracing::debug!(%peer, "startup timed out"),
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    // Our writes are whole answers already.
    socket.set_nodelay(true)
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "connection ended by a panic");
    }
}
