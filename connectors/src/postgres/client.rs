//! Connections to the server, and its errors as ours.

use std::time::Duration;

use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Config, NoTls};

/// Waiting for an answer to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection over which nothing is acknowledged for so long is broken.
const SILENCE: Duration = Duration::from_secs(30);

/// Text means the same whatever the server's settings are, and nobody is waited for without end: a predecessor whose
/// connection hangs holds its locks until the server notices.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET lock_timeout = '20s'; \
                        SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '60s'";

/// A server, as error messages name it.
#[derive(Debug, Clone)]
pub struct Server {
    config: Config,
    pub name: String,
}

impl Server {
    pub fn new(url: &str, password: Option<&str>, sink: &str) -> Result<Server, ConnectorError> {
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            // The URL itself may hold a password.
            let message =
                format!("option \"url\" of connector \"postgres\" is not a URL of a server: {reason}");
            ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("Expected postgresql://user@host:5432/database.")
        })?;
        if config.get_hosts().is_empty() {
            let message = "option \"url\" of connector \"postgres\" names no host";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("Expected postgresql://user@host:5432/database."));
        }
        if config.get_password().is_some() {
            let message = "option \"url\" of connector \"postgres\" holds a password";
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("Give it as password = '…', which SHOW CREATE does not show."));
        }
        if let Some(password) = password {
            config.password(password);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.tcp_user_timeout(SILENCE).keepalives_idle(SILENCE);
        if config.get_application_name().is_none() {
            config.application_name(format!("tidemill sink {sink}"));
        }
        let name = describe(&config);
        Ok(Server { config, name })
    }

    pub async fn connect(&self) -> Result<Client, ConnectorError> {
        let failed = |error| self.error("connect to", &error);
        let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
        // It ends with the client, or with the server, which the client's next call then says.
        tokio::spawn(async move { drop(connection.await) });
        client.batch_execute(SETTINGS).await.map_err(failed)?;
        Ok(client)
    }

    /// An error of PostgreSQL as one of ours.
    pub fn error(&self, what: &str, error: &tokio_postgres::Error) -> ConnectorError {
        let Some(said) = error.as_db_error() else {
            let reason = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
            let message = format!("cannot {what} PostgreSQL at \"{}\": {reason}", self.name);
            return ConnectorError::transient(SqlState::CONNECTION_FAILURE, message).with_hint(
                "Is the server there, and does it take connections without TLS from this machine?",
            );
        };
        let code = said.code().code();
        let message = format!("cannot {what} PostgreSQL at \"{}\": {} ({code})", self.name, said.message());
        let of_the_moment = ["08", "40", "53", "57", "58", "XX"];
        let is_transient = of_the_moment.contains(&&code[..2])
            || code == "55P03"
            || matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
                && !code.starts_with("28");
        let mut made = match &code[..2] {
            "08" | "57" => ConnectorError::transient(SqlState::CONNECTION_FAILURE, message),
            "28" => ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message),
            "22" | "23" => ConnectorError::fatal(SqlState::DATA_EXCEPTION, message),
            "3D" => ConnectorError::fatal(SqlState::UNDEFINED_DATABASE, message),
            _ if code == "42501" => ConnectorError::fatal(SqlState::INVALID_AUTHORIZATION, message),
            "42" => ConnectorError::fatal(SqlState::UNDEFINED_TABLE, message),
            _ => ConnectorError::fatal(SqlState::IO_ERROR, message),
        };
        made.transient = is_transient;
        made.hint =
            [said.detail(), said.hint()].into_iter().flatten().map(str::to_owned).reduce(|a, b| a + " " + &b);
        made
    }
}

/// `host:port/database`
fn describe(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{host}:{port}/{database}")
}

/// A name as SQL has it.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
