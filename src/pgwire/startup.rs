//! From a socket, encrypted or not, to a session: cancel requests, protocol version, parameters, who the client
//! is, and the first words of the server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pgwire::api::{ClientInfo, DefaultClient, PidSecretKeyGenerator, RandomPidSecretKeyGenerator};
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Startup,
};
use pgwire::messages::{DecodeContext, Message, PgWireBackendMessage, ProtocolVersion};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pgwire::connection::{Connection, Failure, Inbound, Outbound, protocol_violation};
use crate::pgwire::error::error_response;
use crate::pgwire::scram;
use crate::pgwire::throttle::Throttle;
use crate::session::api::{Admission, Connections, Registration, SessionFactory, SqlError, StartupParams};

/// The version of PostgreSQL whose behaviour clients may expect.
pub const SERVER_VERSION: &str = "16.6";

/// The settings that a client is told of when it connects. What its session has in
/// `take_parameter_changes` follows and overrides.
pub const PARAMETERS: [(&str, &str); 12] = [
    ("server_version", SERVER_VERSION),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("is_superuser", "on"),
    ("scram_iterations", "4096"),
];

/// What connections have in common.
pub(crate) struct Shared {
    pub(crate) factory: Arc<dyn SessionFactory>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) pids: RandomPidSecretKeyGenerator,
    pub(crate) throttle: Throttle,
}

/// What a client is before it has said anything.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The server's certificate, on an encrypted connection.
    pub(crate) certificate: Option<Arc<[u8]>>,
    /// The connection had to be encrypted, and is not.
    pub(crate) is_refused: bool,
}

/// A socket that became a session, and its place among the connections.
pub(crate) type Started<S> = (Connection<S>, Registration);

/// Greets a client; `None` when it came for something else or was turned away.
pub(crate) async fn start<S: AsyncRead + AsyncWrite>(
    socket: S,
    peer: &Peer,
    shared: &Shared,
) -> Option<Started<S>> {
    let (reader, writer) = tokio::io::split(socket);
    let (mut inbound, mut outbound) = (Inbound::new(reader), Outbound::new(writer));
    match greet(&mut inbound, &mut outbound, peer, shared).await {
        Ok(None) => None,
        Ok(Some((registration, session))) => {
            let backend = Arc::clone(&registration.backend);
            Some((Connection::new(inbound, outbound, backend, session), registration))
        }
        Err(Failure::Error(error)) => {
            let message = error_response(&error.fatal());
            outbound.put(PgWireBackendMessage::ErrorResponse(message));
            outbound.close().await;
            None
        }
        Err(Failure::Stream(_) | Failure::Disconnected) => None,
    }
}

type Greeted = Option<(Registration, Box<dyn crate::session::api::SessionApi>)>;

async fn greet<S: AsyncRead + AsyncWrite>(
    inbound: &mut Inbound<S>,
    outbound: &mut Outbound<S>,
    peer: &Peer,
    shared: &Shared,
) -> Result<Greeted, Failure> {
    let Some(startup) = first_message(inbound, outbound, shared).await? else {
        return Ok(None);
    };
    if peer.is_refused {
        let message = "the server takes encrypted connections only";
        return Err(SqlError::new(SqlState::INVALID_AUTHORIZATION, message)
            .with_hint("Connect with sslmode=require, or better with verify-full.")
            .into());
    }
    let version = negotiate(&startup, outbound);
    let mut parameters = startup.parameters;
    let user = parameters.remove("user").filter(|user| !user.is_empty()).ok_or_else(|| {
        let message = "no PostgreSQL user name specified in startup packet";
        SqlError::new(SqlState::INVALID_AUTHORIZATION, message)
    })?;
    let database = parameters.remove("database").filter(|name| !name.is_empty());
    let database = database.unwrap_or_else(|| user.clone());
    if matches!(parameters.remove("replication").as_deref(), Some("database" | "true" | "on" | "1")) {
        let message = "replication connections are not supported";
        return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).into());
    }
    parameters.retain(|name, _| !name.starts_with("_pq_."));
    let options = match parameters.remove("options") {
        Some(options) => command_line(&options)?,
        None => BTreeMap::new(),
    };
    parameters.extend(options);

    authenticate(inbound, outbound, &user, peer, shared).await?;

    let mut client = DefaultClient::<()>::new(peer.address, peer.certificate.is_some());
    client.set_protocol_version(version);
    let (pid, secret) = shared.pids.generate(&client);
    let registration =
        shared.connections.register(pid, secret.to_bytes(), peer.address, &user).ok_or_else(|| {
            let message = "sorry, too many clients already";
            SqlError::new(SqlState::TOO_MANY_CONNECTIONS, message)
                .with_hint("Close idle connections, use a pool, or raise max_connections.")
        })?;

    let application_name = parameters.get("application_name").cloned().unwrap_or_default();
    let startup = StartupParams {
        user: user.clone(),
        database,
        options: parameters,
        peer: peer.address,
        backend: Arc::clone(&registration.backend),
        connections: Arc::clone(&shared.connections),
    };
    let session = shared.factory.connect(startup).await?;

    outbound.put(PgWireBackendMessage::Authentication(Authentication::Ok));
    let own = [("application_name", application_name.as_str()), ("session_authorization", &user)];
    for (name, value) in PARAMETERS.into_iter().chain(own) {
        let message = ParameterStatus::new(name.to_owned(), value.to_owned());
        outbound.put(PgWireBackendMessage::ParameterStatus(message));
    }
    outbound.put(PgWireBackendMessage::BackendKeyData(BackendKeyData::new(pid, secret)));
    Ok(Some((registration, session)))
}

/// Settles who the client is.
async fn authenticate<S: AsyncRead + AsyncWrite>(
    inbound: &mut Inbound<S>,
    outbound: &mut Outbound<S>,
    user: &str,
    peer: &Peer,
    shared: &Shared,
) -> Result<(), Failure> {
    let verifier = match shared.factory.admit(user, peer.address) {
        Admission::Trusted => return Ok(()),
        Admission::Refused(error) => {
            shared.factory.turned_away(user, peer.address, &error);
            return Err(error.into());
        }
        Admission::Password(verifier) => verifier,
    };
    let Some(wait) = shared.throttle.wait(peer.address.ip()) else {
        let message = "too many failed attempts to log in from this address";
        return Err(SqlError::new(SqlState::TOO_MANY_CONNECTIONS, message)
            .with_hint("Wait a minute, and try again.")
            .into());
    };
    tokio::time::sleep(wait).await;
    let certificate = peer.certificate.as_deref();
    let outcome = scram::authenticate(inbound, outbound, user, verifier, certificate).await;
    if let Err(Failure::Error(error)) = &outcome {
        tracing::warn!(peer = %peer.address, user, reason = error.message, "login failed");
        shared.throttle.failed(peer.address.ip());
        shared.factory.turned_away(user, peer.address, error);
    }
    outcome
}

/// The startup message; or it is not a startup at all but a cancel request.
async fn first_message<S: AsyncRead + AsyncWrite>(
    inbound: &mut Inbound<S>,
    outbound: &mut Outbound<S>,
    shared: &Shared,
) -> Result<Option<Startup>, Failure> {
    let buffer = inbound.peek(8).await?;
    let header = buffer.first_chunk::<8>().expect("eight bytes were asked for");
    let [l0, l1, l2, l3, code @ ..] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let code = i32::from_be_bytes(code);
    // As in PostgreSQL; what begins otherwise is not our protocol.
    if !(8..=10_000).contains(&length) {
        return Err(protocol_violation("invalid length of startup packet").into());
    }
    let buffer = inbound.peek(length).await?;
    let mut message = buffer.split_to(length);
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
    let invalid = |_| protocol_violation("invalid startup packet layout");
    if CancelRequest::is_cancel_request_packet(&message) {
        context.awaiting_frontend_ssl = false;
        let request = CancelRequest::decode(&mut message, &context).map_err(invalid)?;
        if let Some(request) = request {
            let secret = request.secret_key.to_bytes();
            shared.connections.cancel_with_secret(request.pid, &secret);
        }
        // No answer, whatever came of it; the client waits for the socket to close.
        outbound.close().await;
        return Ok(None);
    }
    // Among them whoever asks for encryption a second time.
    if code >> 16 != 3 {
        let (major, minor) = (code >> 16, code & 0xffff);
        let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message).into());
    }
    let startup = Startup::decode(&mut message, &context).map_err(invalid)?;
    let startup = startup.ok_or_else(|| protocol_violation("incomplete startup packet"))?;
    Ok(Some(startup))
}

/// Says which version will be spoken, if it is not the one asked for.
fn negotiate<S: AsyncWrite>(startup: &Startup, outbound: &mut Outbound<S>) -> ProtocolVersion {
    let asked = startup.protocol_number_minor;
    // 3.1 was never released; whoever asks for it understands 3.0.
    let version = match asked {
        0 | 1 => ProtocolVersion::PROTOCOL3_0,
        2.. => ProtocolVersion::PROTOCOL3_2,
    };
    let unknown: Vec<String> =
        startup.parameters.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
    if version.version_number().1 != asked || !unknown.is_empty() {
        let message = NegotiateProtocolVersion::new(version.into(), unknown);
        outbound.put(PgWireBackendMessage::NegotiateProtocolVersion(message));
    }
    version
}

/// `-c name=value --name=value`, where a backslash keeps a space inside a word.
fn command_line(options: &str) -> Result<BTreeMap<String, String>, SqlError> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        let word = words.last_mut().expect("there is always a last word");
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => words.push(String::new()),
            c => word.push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = BTreeMap::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => word.clone(),
        };
        let Some((name, value)) = setting.split_once('=').filter(|_| word.starts_with('-')) else {
            let message = format!("invalid command-line argument for server process: {word}");
            return Err(
                SqlError::new(SqlState::SYNTAX_ERROR, message).with_hint("Write options as -c name=value.")
            );
        };
        settings.insert(name.replace('-', "_"), value.to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings() {
        let settings = command_line("-c a=1 -cb=x\\ y --search-path=s -c c=").unwrap();
        let expected = [("a", "1"), ("b", "x y"), ("c", ""), ("search_path", "s")];
        assert_eq!(settings, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(command_line("-z").unwrap_err().sqlstate, SqlState::SYNTAX_ERROR);
        assert!(command_line("a=1").is_err());
    }
}
