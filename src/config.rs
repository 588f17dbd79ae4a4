//! Settings of the server: flags over environment over file over defaults.
//!
//! A file is found at `./tidemill.toml`, `$XDG_CONFIG_HOME/tidemill/tidemill.toml` or
//! `/etc/tidemill/tidemill.toml`; the first one counts. A variable is called as its key, in upper case
//! behind `TIDEMILL_`, with `__` where a key has a dot. An unknown key of a file is an error. An unknown
//! variable is one only if it looks like a key misspelt: others may have variables of that
//! prefix as well (Kubernetes sets `TIDEMILL_PORT` for a service of that name).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};
use tidemill_core::{ByteSize, Diagnostic, SqlState, did_you_mean};
use tidemill_storage::RootOptions;

use crate::pgwire::tls::TlsFiles;

const PREFIX: &str = "TIDEMILL_";

/// A variable that no key of a file stands for, and that nothing shows.
const SECRET_KEY: &str = "TIDEMILL_SECRET_KEY";

/// Where SQL is served.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7432);
/// Where HTTP is served.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7433);

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data directory, or the URL of an object store.
    pub data: String,
    /// Where files of state lie while the data is in an object store; empty for a directory in the user's cache.
    pub cache: String,
    /// Where S3 is, instead of where `AWS_ENDPOINT_URL` says; empty for that.
    pub s3_endpoint: String,
    /// The region of the bucket, instead of `AWS_REGION`; empty for that.
    pub s3_region: String,
    /// How many checkpoints stay of each dataflow and table.
    pub checkpoints_kept: u64,
    /// Where to serve SQL.
    #[serde(with = "address")]
    pub listen: SocketAddr,
    /// Where to serve HTTP; `off` for nowhere.
    #[serde(with = "address_or_off")]
    pub http: Option<SocketAddr>,
    /// Whether to serve addresses that others can reach, although they are asked for no password there.
    pub insecure_listen: bool,
    /// Who is asked for a password.
    pub auth: Auth,
    /// A file with the password that the role `tidemill` gets if it has none; empty for none.
    pub password_file: String,
    /// A file with the keys that secrets are encrypted with, the newest first; empty for none.
    pub secret_key_file: String,
    /// The same keys as a text, which only the environment gives: `TIDEMILL_SECRET_KEY`.
    #[serde(skip)]
    pub secret_key: SecretText,
    /// The server's certificate and its key, in PEM; empty for no encryption.
    pub tls_cert: String,
    pub tls_key: String,
    /// Whose certificates clients must show, beside their passwords; empty for none.
    pub tls_client_ca: String,
    /// Whether SQL is refused without encryption.
    pub tls_required: bool,
    /// What is recorded of what clients do.
    pub audit: AuditLevel,
    /// Into how many parts a dataflow is cut; as many as there are cores.
    pub lanes: usize,
    /// How long rows wait at most before they are made an epoch.
    #[serde(with = "duration")]
    pub epoch_interval: Duration,
    /// How often state is made durable.
    #[serde(with = "duration")]
    pub checkpoint_interval: Duration,
    /// How much memory the state of all pipelines and tables may take. More than that lies in files. Half of the
    /// memory that there is.
    #[serde(with = "byte_size")]
    pub memory_limit: ByteSize,
    /// How often a pipeline that fails begins again by itself within `restart_interval`.
    pub restart_limit: u32,
    /// See `restart_limit`.
    #[serde(with = "duration")]
    pub restart_interval: Duration,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a list such as `warn,tidemill=debug`.
    pub log: String,
    pub log_format: LogFormat,
    /// How many clients may be connected at once.
    pub max_connections: usize,
}

/// The keys of [`Config`], in its order.
pub const KEYS: [&str; 25] = [
    "data",
    "cache",
    "s3_endpoint",
    "s3_region",
    "checkpoints_kept",
    "listen",
    "http",
    "insecure_listen",
    "auth",
    "password_file",
    "secret_key_file",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_required",
    "audit",
    "lanes",
    "epoch_interval",
    "checkpoint_interval",
    "memory_limit",
    "restart_limit",
    "restart_interval",
    "log",
    "log_format",
    "max_connections",
];

/// With less there is no room for the steps themselves.
const MEMORY_LIMIT_MIN: u64 = 16 << 20;

/// Keys whose values are text, even if they look like something else.
const TEXT_KEYS: [&str; 16] = [
    "data",
    "cache",
    "s3_endpoint",
    "s3_region",
    "listen",
    "http",
    "auth",
    "password_file",
    "secret_key_file",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "audit",
    "memory_limit",
    "log",
    "log_format",
];

/// A text that nothing prints.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(pub Option<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// Who is asked for a password. A role that has one is asked for it, but under `trust`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// All but the role `tidemill` from this machine, until it has a password.
    #[default]
    Local,
    /// Everybody.
    Password,
    /// Nobody from this machine.
    Trust,
}

/// What is recorded of what clients do; each has what those before it have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditLevel {
    Off,
    /// Logins, what is defined, roles and privileges, and what is denied.
    #[default]
    Changes,
    /// And changes of rows.
    Writes,
    /// And reads.
    All,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: "./tidemill-data".into(),
            cache: String::new(),
            s3_endpoint: String::new(),
            s3_region: String::new(),
            checkpoints_kept: RootOptions::default().n_kept,
            listen: DEFAULT_LISTEN,
            http: Some(DEFAULT_HTTP),
            insecure_listen: false,
            auth: Auth::Local,
            password_file: String::new(),
            secret_key_file: String::new(),
            secret_key: SecretText(None),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_client_ca: String::new(),
            tls_required: false,
            audit: AuditLevel::Changes,
            lanes: std::thread::available_parallelism().map_or(1, |n| n.get()),
            epoch_interval: Duration::from_millis(10),
            checkpoint_interval: Duration::from_secs(1),
            memory_limit: ByteSize(crate::machine::memory().map_or(1 << 30, |bytes| bytes / 2)),
            restart_limit: 3,
            restart_interval: Duration::from_secs(600),
            log: "warn,tidemill=info".into(),
            log_format: LogFormat::Text,
            max_connections: 100,
        }
    }
}

impl Config {
    /// Where certificates are, if there are any.
    pub fn tls_files(&self) -> Option<TlsFiles> {
        let given = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
        Some(TlsFiles {
            certificate: given(&self.tls_cert)?,
            key: given(&self.tls_key)?,
            client_ca: given(&self.tls_client_ca),
        })
    }

    /// How the data is opened.
    pub fn root_options(&self) -> RootOptions {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        RootOptions {
            cache: given(&self.cache).map(PathBuf::from),
            n_kept: self.checkpoints_kept,
            s3_endpoint: given(&self.s3_endpoint),
            s3_region: given(&self.s3_region),
        }
    }
}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if one was named or found.
    pub file: Option<PathBuf>,
    /// Variables of the environment, with their whole names.
    pub variables: Vec<(String, String)>,
    /// Keys and values of the command line.
    pub flags: Vec<(&'static str, Value)>,
}

impl Sources {
    /// Those of this process: `file` or `TIDEMILL_CONFIG`, else the first file that is found.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static str, Value)>) -> Sources {
        let named = file.or_else(|| std::env::var_os("TIDEMILL_CONFIG").map(PathBuf::from));
        let file = named.or_else(|| search_path().into_iter().find(|path| path.is_file()));
        // A name or value that is not Unicode cannot be meant for us.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Sources { file, variables, flags }
    }

    /// The settings, checked.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = &self.file {
            figment = figment.merge(file(path)?);
        }
        figment = figment.merge(self.environment()?).merge(self.command_line());
        let mut config: Config = figment.extract().map_err(|error| ConfigError::Value(Box::new(error)))?;
        let secret_key = self.variables.iter().find(|(name, _)| name == SECRET_KEY);
        config.secret_key = SecretText(secret_key.map(|(_, text)| text.clone()));
        check(&config, &figment)?;
        Ok(Loaded { config, figment })
    }

    fn environment(&self) -> Result<Layer, ConfigError> {
        let mut dict = Dict::new();
        for (name, text) in &self.variables {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = key.to_lowercase();
            if key == "config" || name == SECRET_KEY {
                continue;
            }
            if KEYS.contains(&key.as_str()) {
                let value = match TEXT_KEYS.contains(&key.as_str()) {
                    true => Value::from(text.clone()),
                    false => match text.parse::<Value>() {
                        Ok(value) => value,
                        Err(never) => match never {},
                    },
                };
                dict.insert(key, value);
            } else if let Some(near) = did_you_mean(&key, KEYS) {
                return Err(ConfigError::UnknownKey {
                    key: name.clone(),
                    origin: "the environment".into(),
                    near: Some(format!("{PREFIX}{}", near.to_uppercase())),
                });
            }
        }
        Ok(Layer { name: "environment", source: None, dict })
    }

    fn command_line(&self) -> Layer {
        let dict = self.flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Layer { name: "command line", source: None, dict }
    }
}

/// Settings, and where each came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    figment: Figment,
}

impl Loaded {
    /// The settings, with another filter for the log unless one was chosen.
    pub fn with_default_log(self, filter: &str) -> Config {
        let is_chosen =
            self.figment.find_metadata("log").is_some_and(|from| origin("log", from) != "default");
        match is_chosen {
            true => self.config,
            false => Config { log: filter.into(), ..self.config },
        }
    }

    /// Each key with its value and its origin.
    pub fn origins(&self) -> Vec<(&'static str, String, String)> {
        KEYS.iter()
            .map(|key| {
                let value = self.figment.find_value(key).map(|value| display(&value)).unwrap_or_default();
                let origin = self.figment.find_metadata(key).map(|metadata| origin(key, metadata));
                (*key, value, origin.unwrap_or_else(|| "default".into()))
            })
            .collect()
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file \"{}\": {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("unknown key \"{key}\" in {origin}")]
    UnknownKey { key: String, origin: String, near: Option<String> },
    #[error("{}", value_error(.0))]
    Value(Box<figment::Error>),
    #[error("invalid value of \"{key}\" from {origin}: {reason}")]
    Invalid { key: &'static str, origin: String, reason: String },
    #[error("{what} listens on {address}, where other machines can reach it, and asks nobody for a password")]
    InsecureListen { what: &'static str, address: SocketAddr },
}

impl Diagnostic for ConfigError {
    fn sqlstate(&self) -> SqlState {
        match self {
            ConfigError::File { .. } => SqlState::IO_ERROR,
            _ => SqlState::INVALID_PARAMETER,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConfigError::File { .. } | ConfigError::Invalid { .. } => None,
            ConfigError::UnknownKey { near: Some(near), .. } => Some(format!("Did you mean \"{near}\"?")),
            ConfigError::UnknownKey { near: None, .. } => Some(format!("The keys are {}.", KEYS.join(", "))),
            ConfigError::Value(error) => {
                let key = error.path.last()?;
                key.ends_with("_interval").then(|| "Write a number and a unit, such as '10ms' or '1s'.".into())
            }
            ConfigError::InsecureListen { what: "SQL", .. } => Some(
                "Give the role tidemill a password, with --password-file or while the server listens on 127.0.0.1: \
                 ALTER ROLE tidemill PASSWORD '…'. And do not start with auth = 'trust'. Or allow it with --insecure-listen."
                    .into(),
            ),
            ConfigError::InsecureListen { .. } => Some(
                "HTTP tells what runs, and how it is, to whoever reaches it. Listen on 127.0.0.1, ask clients for \
                 certificates with tls_client_ca, or allow it with --insecure-listen."
                    .into(),
            ),
        }
    }
}

/// Where a file is looked for.
fn search_path() -> Vec<PathBuf> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let mut paths = vec![PathBuf::from("tidemill.toml")];
    paths.extend(user.map(|user| user.join("tidemill/tidemill.toml")));
    paths.push("/etc/tidemill/tidemill.toml".into());
    paths
}

fn file(path: &Path) -> Result<Layer, ConfigError> {
    let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let data = Toml::string(&text).data().map_err(|error| failed(error.to_string()))?;
    let dict = data.into_iter().next().map(|(_, dict)| dict).unwrap_or_default();
    if let Some(key) = dict.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let near = did_you_mean(key, KEYS).map(str::to_owned);
        return Err(ConfigError::UnknownKey { key: key.clone(), origin: path.display().to_string(), near });
    }
    Ok(Layer { name: "file", source: Some(path.to_owned()), dict })
}

fn check(config: &Config, figment: &Figment) -> Result<(), ConfigError> {
    let invalid = |key, reason: &str| {
        let origin = figment.find_metadata(key).map(|metadata| origin(key, metadata)).unwrap_or_default();
        Err(ConfigError::Invalid { key, origin, reason: reason.into() })
    };
    match config {
        Config { data, .. } if data.is_empty() => invalid("data", "it must not be empty"),
        Config { checkpoints_kept: 0 | 1001.., .. } => {
            invalid("checkpoints_kept", "it must be between 1 and 1000")
        }
        Config { lanes: 0 | 1025.., .. } => invalid("lanes", "it must be between 1 and 1024"),
        Config { tls_cert, tls_key, .. } if tls_cert.is_empty() != tls_key.is_empty() => {
            let (missing, given) = match tls_cert.is_empty() {
                true => ("tls_cert", "tls_key"),
                false => ("tls_key", "tls_cert"),
            };
            invalid(given, &format!("it goes with {missing}, which is missing"))
        }
        Config { tls_cert, tls_required: true, .. } if tls_cert.is_empty() => {
            invalid("tls_required", "there is no tls_cert")
        }
        Config { tls_cert, tls_client_ca, .. } if tls_cert.is_empty() && !tls_client_ca.is_empty() => {
            invalid("tls_client_ca", "there is no tls_cert")
        }
        Config { secret_key: SecretText(Some(_)), secret_key_file, .. } if !secret_key_file.is_empty() => {
            invalid("secret_key_file", "TIDEMILL_SECRET_KEY says the keys already")
        }
        Config { max_connections: 0, .. } => invalid("max_connections", "it must be at least 1"),
        Config { epoch_interval, .. } if epoch_interval.is_zero() || epoch_interval.as_secs() >= 60 => {
            invalid("epoch_interval", "it must be more than 0 and less than a minute")
        }
        Config { checkpoint_interval, .. } if checkpoint_interval.is_zero() => {
            invalid("checkpoint_interval", "it must be more than 0")
        }
        Config { restart_interval, .. } if restart_interval.is_zero() => {
            invalid("restart_interval", "it must be more than 0")
        }
        Config { memory_limit: ByteSize(..MEMORY_LIMIT_MIN), .. } => {
            invalid("memory_limit", "it must be at least 16MB")
        }
        _ => Ok(()),
    }
}

/// Refuses addresses that others can reach without a password, unless that was allowed. Whether there is a password
/// shows only when the data is open: see [`check_sql_address`].
pub fn check_addresses(config: &Config) -> Result<(), ConfigError> {
    check_sql_address(config, config.auth != Auth::Trust)?;
    let asks_nobody = config.tls_client_ca.is_empty();
    match config.http.filter(|address| is_exposed(config, *address) && asks_nobody) {
        Some(address) => Err(ConfigError::InsecureListen { what: "HTTP", address }),
        None => Ok(()),
    }
}

/// The same for SQL, knowing whether anybody has a password.
pub fn check_sql_address(config: &Config, has_password: bool) -> Result<(), ConfigError> {
    match is_exposed(config, config.listen) && !has_password {
        true => Err(ConfigError::InsecureListen { what: "SQL", address: config.listen }),
        false => Ok(()),
    }
}

fn is_exposed(config: &Config, address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback() && !config.insecure_listen
}

fn origin(key: &str, metadata: &Metadata) -> String {
    match &*metadata.name {
        "environment" => format!("variable {PREFIX}{}", key.to_uppercase()),
        "command line" => format!("flag --{}", key.replace('_', "-")),
        "file" => match &metadata.source {
            Some(figment::Source::File(path)) => format!("file {}", path.display()),
            _ => "file".into(),
        },
        _ => "default".into(),
    }
}

fn value_error(error: &figment::Error) -> String {
    let key = error.path.last().map_or("", String::as_str);
    let reason = error.kind.to_string();
    match &error.metadata {
        Some(metadata) => format!("invalid value of \"{key}\" from {}: {reason}", origin(key, metadata)),
        None => format!("invalid value of \"{key}\": {reason}"),
    }
}

fn display(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, is_set) => is_set.to_string(),
        Value::Num(_, number) => match (number.to_u128(), number.to_i128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (_, _, Some(number)) => number.to_string(),
            _ => String::new(),
        },
        other => format!("{other:?}"),
    }
}

/// One place that settings come from.
struct Layer {
    name: &'static str,
    source: Option<PathBuf>,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named(self.name);
        match &self.source {
            Some(path) => metadata.source(figment::Source::File(path.clone())),
            None => metadata,
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// `host:port`, `:port` or a port; the host is an IP address or `localhost`.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", text),
    };
    let ip = match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse().ok(),
    };
    match (ip, port.parse()) {
        (Some(ip), Ok(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!("\"{text}\" is not an address such as 127.0.0.1:7432")),
    }
}

/// A number with a unit: `us`, `ms`, `s`, `m`, `min` or `h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration such as 10ms, 1.5s or 5m");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let seconds = match text[end..].trim() {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "sec" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// The shortest text that [`parse_duration`] reads as the same.
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        micros if !micros.is_multiple_of(1_000) => format!("{micros}us"),
        micros if !micros.is_multiple_of(1_000_000) => format!("{}ms", micros / 1_000),
        micros => format!("{}s", micros / 1_000_000),
    }
}

mod address {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        parse_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

mod address_or_off {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(None),
            text => parse_address(text).map(Some).map_err(serde::de::Error::custom),
        }
    }
}

mod byte_size {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(size: &ByteSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(size)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Bytes(u64),
            Text(String),
        }
        match Given::deserialize(deserializer)? {
            Given::Bytes(bytes) => Ok(ByteSize(bytes)),
            Given::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

mod duration {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Auth::Local => "local",
            Auth::Password => "password",
            Auth::Trust => "trust",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: Option<&Path>, variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
        Sources {
            file: file.map(Path::to_owned),
            variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            flags: flags.iter().map(|(key, value)| (*key, Value::from(*value))).collect(),
        }
    }

    fn toml(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidemill.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn keys_are_the_fields() {
        let value = serde_json::to_value(Config::default()).unwrap();
        let fields: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, KEYS);
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_defaults() {
        let (_dir, path) =
            toml("data = \"from-file\"\nlanes = 3\nepoch_interval = \"5ms\"\nlisten = \"0.0.0.0:1\"");
        let loaded = sources(
            Some(&path),
            &[("TIDEMILL_LANES", "4"), ("TIDEMILL_EPOCH_INTERVAL", "7ms"), ("TIDEMILL_CONFIG", "x")],
            &[("epoch_interval", "9ms"), ("http", "off")],
        )
        .load()
        .unwrap();
        let expected = Config {
            data: "from-file".into(),
            listen: "0.0.0.0:1".parse().unwrap(),
            http: None,
            lanes: 4,
            epoch_interval: Duration::from_millis(9),
            ..Config::default()
        };
        assert_eq!(loaded.config, expected);
        let origins = loaded.origins();
        let of = |key: &str| {
            let (_, value, origin) = origins.iter().find(|(k, ..)| *k == key).unwrap();
            format!("{value} <- {origin}")
        };
        assert_eq!(of("data"), format!("from-file <- file {}", path.display()));
        assert_eq!(of("lanes"), "4 <- variable TIDEMILL_LANES");
        assert_eq!(of("epoch_interval"), "9ms <- flag --epoch-interval");
        assert_eq!(of("checkpoint_interval"), "1s <- default");
        assert_eq!(of("http"), "off <- flag --http");
    }

    #[test]
    fn unknown_keys_name_the_closest() {
        let (_dir, path) = toml("lane = 3");
        let error = sources(Some(&path), &[], &[]).load().unwrap_err();
        assert_eq!(error.to_string(), format!("unknown key \"lane\" in {}", path.display()));
        assert_eq!(error.hint().unwrap(), "Did you mean \"lanes\"?");

        let error = sources(None, &[("TIDEMILL_LISTN", "x")], &[]).load().unwrap_err();
        assert_eq!(error.to_string(), "unknown key \"TIDEMILL_LISTN\" in the environment");
        assert_eq!(error.hint().unwrap(), "Did you mean \"TIDEMILL_LISTEN\"?");

        // Somebody else's.
        sources(None, &[("TIDEMILL_PORT_7432_TCP_ADDR", "10.0.0.1")], &[]).load().unwrap();
    }

    #[test]
    fn wrong_values_say_where_they_stand() {
        let error = sources(None, &[("TIDEMILL_EPOCH_INTERVAL", "10 parsecs")], &[]).load().unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value of \"epoch_interval\" from variable TIDEMILL_EPOCH_INTERVAL: \
             \"10 parsecs\" is not a duration such as 10ms, 1.5s or 5m"
        );
        let error = sources(None, &[("TIDEMILL_EPOCH_INTERVAL", "10")], &[]).load().unwrap_err();
        assert_eq!(error.hint().unwrap(), "Write a number and a unit, such as '10ms' or '1s'.");

        let (_dir, path) = toml("lanes = 0");
        let error = sources(Some(&path), &[], &[]).load().unwrap_err();
        let file = path.display();
        assert_eq!(
            error.to_string(),
            format!("invalid value of \"lanes\" from file {file}: it must be between 1 and 1024")
        );

        let (_dir, path) = toml("lanes = ");
        assert!(matches!(sources(Some(&path), &[], &[]).load(), Err(ConfigError::File { .. })));
        let missing = sources(Some(Path::new("/nowhere/t.toml")), &[], &[]).load().unwrap_err();
        assert!(missing.to_string().starts_with("cannot read configuration file \"/nowhere/t.toml\": "));
    }

    #[test]
    fn addresses_that_others_reach_are_refused() {
        let exposed: SocketAddr = "0.0.0.0:7432".parse().unwrap();
        let sql = Config { listen: exposed, ..Config::default() };
        check_addresses(&sql).expect("it is not known yet whether there is a password");
        check_sql_address(&sql, true).unwrap();
        let error = check_sql_address(&sql, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "SQL listens on 0.0.0.0:7432, where other machines can reach it, and asks nobody for a password"
        );
        assert!(error.hint().unwrap().contains("--password-file"));
        check_sql_address(&Config { insecure_listen: true, ..sql.clone() }, false).unwrap();
        let trusting = Config { auth: Auth::Trust, ..sql };
        assert!(check_addresses(&trusting).is_err());
        check_addresses(&Config { insecure_listen: true, ..trusting }).unwrap();
        let http = Config { http: Some(exposed), ..Config::default() };
        assert!(check_addresses(&http).unwrap_err().hint().unwrap().contains("tls_client_ca"));
        check_addresses(&Config { tls_client_ca: "ca.pem".into(), ..http.clone() }).unwrap();
        check_addresses(&Config { insecure_listen: true, ..http }).unwrap();
        check_addresses(&Config { auth: Auth::Trust, ..Config::default() }).unwrap();
    }

    #[test]
    fn a_certificate_goes_with_its_key() {
        for (text, key, reason) in [
            ("tls_cert = \"c\"", "tls_cert", "it goes with tls_key, which is missing"),
            ("tls_key = \"k\"", "tls_key", "it goes with tls_cert, which is missing"),
            ("tls_required = true", "tls_required", "there is no tls_cert"),
            ("tls_client_ca = \"c\"", "tls_client_ca", "there is no tls_cert"),
        ] {
            let (_dir, path) = toml(text);
            let error = sources(Some(&path), &[], &[]).load().unwrap_err().to_string();
            assert_eq!(error, format!("invalid value of \"{key}\" from file {}: {reason}", path.display()));
        }
        let (_dir, path) =
            toml("tls_cert = \"c\"\ntls_key = \"k\"\ntls_required = true\nauth = \"password\"");
        assert_eq!(sources(Some(&path), &[], &[]).load().unwrap().config.auth, Auth::Password);
    }

    #[test]
    fn durations_and_addresses_are_read_and_written() {
        for (text, micros) in [
            ("10ms", 10_000),
            ("1.5s", 1_500_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("250 us", 250),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_micros(micros));
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for text in ["", "10", "ms", "-1s", "1 fortnight", "1..2s", "1e9h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let local = |port| Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        assert_eq!(parse_address("localhost:7432"), local(7432));
        assert_eq!(parse_address(":0"), local(0));
        assert_eq!(parse_address("9"), local(9));
        assert_eq!(parse_address("[::1]:5"), Ok("[::1]:5".parse().unwrap()));
        for text in ["", "example.com:1", "127.0.0.1:", "127.0.0.1:99999"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
