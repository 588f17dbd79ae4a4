//! Encryption: the server's certificate, read from files and again on request, and the sockets that it protects.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::session::api::SqlError;

/// `SSLRequest`: may we encrypt?
const SSL_REQUEST: u32 = 80_877_103;
/// `GSSENCRequest`: may we encrypt with Kerberos?
const GSS_REQUEST: u32 = 80_877_104;
/// `CancelRequest`, which libpq sends in the clear, whatever the connection that it is about.
const CANCEL_REQUEST: u32 = 80_877_102;
/// What a client that encrypts without asking first names as its protocol.
const ALPN: &[u8] = b"postgresql";

/// A client that has not agreed on keys by then is disconnected.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(30);

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those between it and the root, in PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates clients must show, if they must.
    pub client_ca: Option<PathBuf>,
}

/// What was read from the files.
#[derive(Clone)]
struct Loaded {
    sql: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    /// For the binding of SCRAM to the connection.
    pem: Arc<[u8]>,
}

/// The server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    /// Whether SQL is refused without.
    pub is_required: bool,
    loaded: RwLock<Loaded>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles, is_required: bool) -> Result<Tls, SqlError> {
        let loaded = RwLock::new(read(&files)?);
        Ok(Tls { files, is_required, loaded })
    }

    /// Reads the files again, for connections from now on. Where that fails, what was read before stays.
    pub fn reload(&self) -> Result<(), SqlError> {
        let loaded = read(&self.files)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    fn loaded(&self) -> Loaded {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a client of HTTP must have a certificate.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Encrypts a socket of HTTP.
    pub async fn accept_http(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from(self.loaded().http).accept(socket);
        tokio::time::timeout(HANDSHAKE_TIME_MAX, handshake).await?
    }
}

fn read(files: &TlsFiles) -> Result<Loaded, SqlError> {
    let wrong = |path: &Path, what: &str, reason: &dyn std::fmt::Display| {
        SqlError::new(SqlState("F0000"), format!("cannot read the {what} \"{}\": {reason}", path.display()))
    };
    let certificates = |path: &Path, what: &str| {
        let read: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        match read {
            Ok(certificates) if certificates.is_empty() => {
                Err(wrong(path, what, &"it has no certificate in PEM"))
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(wrong(path, what, &error)),
        }
    };
    let chain = certificates(&files.certificate, "certificate")?;
    check_key_is_private(&files.key)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, "key", &error))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, "client CA")? {
                roots.add(root).map_err(|error| wrong(path, "client CA", &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(path, "client CA", &error))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.certificate, "certificate", &format!("with its key: {error}")))?;
    let http = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let pem = std::fs::read(&files.certificate)
        .map_err(|error| wrong(&files.certificate, "certificate", &error))?;
    Ok(Loaded { sql: Arc::new(config), http: Arc::new(http), pem: pem.into() })
}

/// As PostgreSQL does, and for the same reason: a key that others can read is no secret.
pub(crate) fn check_key_is_private(path: &Path) -> Result<(), SqlError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
        // A file of root's may be read by the group, as distributions do it.
        let others = if metadata.uid() == 0 { 0o027 } else { 0o077 };
        if metadata.mode() & others != 0 {
            let message = format!("the key \"{}\" can be read by others", path.display());
            return Err(SqlError::new(SqlState("F0000"), message).with_hint("chmod 0600 it."));
        }
    }
    Ok(())
}

// ---- Sockets -------------------------------------------------------------------------------

/// A client's socket once it is settled whether it is encrypted.
pub(crate) enum Socket {
    Plain(Prefixed<TcpStream>),
    Encrypted(Box<TlsStream<Prefixed<TcpStream>>>),
}

/// A socket with what was read from it already.
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

/// What became of the question.
pub(crate) struct Negotiated {
    pub(crate) socket: Socket,
    /// The server's certificate in PEM, on an encrypted connection.
    pub(crate) certificate: Option<Arc<[u8]>>,
    /// The connection was to be encrypted, and is not.
    pub(crate) is_refused: bool,
}

/// Answers whether the connection may be encrypted, and encrypts it. Not a byte more than the question is read before: what
/// was sent in the clear must not be taken for what came encrypted.
pub(crate) async fn negotiate(mut socket: TcpStream, tls: Option<&Tls>) -> io::Result<Negotiated> {
    let mut has_asked = [false; 2];
    loop {
        let mut head = [0; 8];
        socket.read_exact(&mut head).await?;
        let [length, code] =
            [0, 4].map(|at| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let prefixed = |inner| Prefixed { prefix: Bytes::copy_from_slice(&head), inner };
        match (length, code, tls) {
            // A handshake right away, as libpq 17 does with sslnegotiation=direct.
            _ if head[0] == 0x16 => {
                let Some(tls) = tls else { return Err(io::ErrorKind::Unsupported.into()) };
                let negotiated = encrypt(tls, prefixed(socket)).await?;
                return match &negotiated.socket {
                    Socket::Encrypted(stream) if stream.get_ref().1.alpn_protocol() == Some(ALPN) => {
                        Ok(negotiated)
                    }
                    _ => Err(io::ErrorKind::InvalidData.into()),
                };
            }
            (8, SSL_REQUEST, _) if !std::mem::replace(&mut has_asked[0], true) => match tls {
                Some(tls) => {
                    socket.write_all(b"S").await?;
                    let plain = Prefixed { prefix: Bytes::new(), inner: socket };
                    return encrypt(tls, plain).await;
                }
                None => socket.write_all(b"N").await?,
            },
            (8, GSS_REQUEST, _) if !std::mem::replace(&mut has_asked[1], true) => {
                socket.write_all(b"N").await?
            }
            _ => {
                let is_refused = tls.is_some_and(|tls| tls.is_required) && code != CANCEL_REQUEST;
                return Ok(Negotiated {
                    socket: Socket::Plain(prefixed(socket)),
                    certificate: None,
                    is_refused,
                });
            }
        }
    }
}

async fn encrypt(tls: &Tls, socket: Prefixed<TcpStream>) -> io::Result<Negotiated> {
    let loaded = tls.loaded();
    let stream = TlsAcceptor::from(loaded.sql).accept(socket).await?;
    Ok(Negotiated {
        socket: Socket::Encrypted(Box::new(stream)),
        certificate: Some(loaded.pem),
        is_refused: false,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let n = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Encrypted(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Encrypted(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Encrypted(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Encrypted(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
