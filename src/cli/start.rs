//! `tidemill start`: the server, until it is told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tidemill_core::SqlState;
use tokio_util::sync::CancellationToken;

use super::lock::DataLock;
use super::settings::{ConfigFlags, usage};
use super::{Failure, VERSION, psql_line, say, start_logging, stop_requests};
use crate::config::{Auth, check_addresses};
use crate::server::{self, Service, StartOptions};
use crate::session::api::SqlError;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill start
  tidemill start --data /var/lib/tidemill --listen 127.0.0.1:7432 --http 127.0.0.1:7433
  tidemill start --listen :0 --http off --ready-file /tmp/ready.json
  AWS_REGION=eu-central-1 tidemill start --data s3://bucket/prefix

Ctrl-C and SIGTERM drain, take a checkpoint and exit with 0; a second one exits at once.")]
pub struct Start {
    /// Data directory, or s3://bucket/prefix (default: ./tidemill-data) [env: TIDEMILL_DATA]
    #[arg(long, value_name = "DIR|URL")]
    data: Option<String>,
    /// Address for SQL, port 0 for a free one (default: 127.0.0.1:7432) [env: TIDEMILL_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for HTTP, or off (default: 127.0.0.1:7433) [env: TIDEMILL_HTTP]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Serve addresses that other machines can reach, although they are asked for no password there
    #[arg(long)]
    insecure_listen: bool,
    /// Who is asked for a password: all but tidemill from this machine until it has one, everybody, or nobody from this machine (default: local) [env: TIDEMILL_AUTH]
    #[arg(long, value_name = "WHO", value_enum)]
    auth: Option<Auth>,
    /// File with the password that the role tidemill gets if it has none [env: TIDEMILL_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// File with the keys that secrets are encrypted with, the newest first; or TIDEMILL_SECRET_KEY has them [env: TIDEMILL_SECRET_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<String>,
    /// The server's certificate in PEM; read again at SIGHUP [env: TIDEMILL_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The key of the certificate in PEM [env: TIDEMILL_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Whose certificates clients must show, beside their passwords [env: TIDEMILL_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
    /// Refuse SQL without encryption [env: TIDEMILL_TLS_REQUIRED]
    #[arg(long)]
    tls_required: bool,
    /// How many clients may be connected at once (default: 100) [env: TIDEMILL_MAX_CONNECTIONS]
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Written once ready, with {"sql", "http", "pid"} as JSON
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// For tests: abort at a place, PLACE or PLACE:NTH
    #[arg(long, value_name = "PLACE", hide = true)]
    crash_at: Option<String>,
    #[command(flatten)]
    flags: ConfigFlags,
}

impl Start {
    pub async fn run(self) -> Result<(), Failure> {
        let began = Instant::now();
        let mut sources = self.flags.sources();
        let texts = [
            ("data", &self.data),
            ("listen", &self.listen),
            ("http", &self.http),
            ("password_file", &self.password_file),
            ("secret_key_file", &self.secret_key_file),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
        ];
        sources.flags.extend(texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?.into()))));
        sources.flags.extend(self.insecure_listen.then(|| ("insecure_listen", true.into())));
        sources.flags.extend(self.tls_required.then(|| ("tls_required", true.into())));
        sources.flags.extend(self.auth.map(|auth| ("auth", auth.to_string().into())));
        sources.flags.extend(self.max_connections.map(|n| ("max_connections", n.into())));
        let config = sources.load().map_err(usage)?.config;
        check_addresses(&config).map_err(usage)?;
        start_logging(&config)?;
        self.arm()?;
        // Before anything else, so that a signal during recovery is heard.
        let stop = stop_requests().map_err(|error| Failure::io("cannot handle signals", &error))?;
        let _lock = DataLock::acquire(&config.data)?;
        let data_dir = config.data.clone();
        let scheme = if config.tls_cert.is_empty() { "http" } else { "https" };
        let options = StartOptions {
            data_dir: data_dir.clone(),
            listen: Some(config.listen),
            http: config.http,
            is_catalog_only: false,
            config,
        };
        let service = tokio::select! {
            service = server::start(options) => service?,
            () = stop.cancelled() => return Ok(()),
        };
        say(&banner(&service, &data_dir, scheme, began.elapsed()));
        if let Some(path) = &self.ready_file {
            write_ready_file(path, &service)
                .map_err(|error| Failure::io(&format!("cannot write \"{}\"", path.display()), &error))?;
        }
        let _reloading = reload_requests(service.clone())
            .map_err(|error| Failure::io("cannot handle signals", &error))?
            .drop_guard();
        tokio::select! {
            () = stop.cancelled() => (),
            error = service.lost() => {
                service.abandon().await;
                return Err(Failure::TakenOver(error));
            }
        }
        say("Stopping: draining and taking a checkpoint. Once more to stop at once.\n");
        service.shutdown().await?;
        if let Some(path) = &self.ready_file {
            // It says that somebody is there. That it is gone already is as good.
            let _ = std::fs::remove_file(path);
        }
        say("Stopped.\n");
        Ok(())
    }
}

impl Start {
    /// Lets the process end at a place that a test has chosen.
    fn arm(&self) -> Result<(), Failure> {
        let Some(text) = &self.crash_at else { return Ok(()) };
        let (point, nth) = text.split_once(':').unwrap_or((text, "1"));
        match nth.parse().is_ok_and(|nth| tidemill_core::arm(point, nth)) {
            true => Ok(()),
            false => Err(Failure::Usage(SqlError::new(
                SqlState::INVALID_PARAMETER,
                format!("--crash-at: there is no place \"{text}\""),
            ))),
        }
    }
}

/// Reads certificates again at each SIGHUP, until the token that it gives is cancelled.
fn reload_requests(service: Arc<dyn Service>) -> std::io::Result<CancellationToken> {
    let ended = CancellationToken::new();
    #[cfg(unix)]
    {
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        let ended = ended.clone();
        tokio::spawn(async move {
            while let Some(Some(())) = ended.run_until_cancelled(hangup.recv()).await {
                match service.reload() {
                    Ok(()) => tracing::info!("certificates read again"),
                    Err(error) => {
                        tracing::error!(%error, "certificates not read again; those from before stay")
                    }
                }
            }
        });
    }
    Ok(ended)
}

fn banner(service: &Arc<dyn Service>, data_dir: &str, scheme: &str, took: Duration) -> String {
    let psql = psql_line(service).unwrap_or_default();
    let http = service.http_addr().map_or("off".to_owned(), |address| format!("{scheme}://{address}/"));
    let shell = service.sql_addr().map_or_else(String::new, |address| match address.port() {
        7432 => String::new(),
        _ => format!(" postgres://tidemill@{address}/tidemill"),
    });
    format!(
        "Tidemill {VERSION}, ready in {} ms

  SQL    {psql}
  HTTP   {http}  (/metrics, /healthz, /readyz)
  Data   {data_dir}

  Next   tidemill shell{shell}
         CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', rate = '1000');
         CREATE PIPELINE bids AS SELECT auction, count(*) FROM bid GROUP BY auction;

",
        took.as_millis()
    )
}

/// Appears whole or not at all.
fn write_ready_file(path: &Path, service: &Arc<dyn Service>) -> std::io::Result<()> {
    let address = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let ready = json!({
        "sql": address(service.sql_addr()),
        "http": address(service.http_addr()),
        "pid": std::process::id(),
    });
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    std::fs::write(&unfinished, format!("{ready}\n"))?;
    std::fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::FakeService;

    #[test]
    fn the_banner_says_where_to_go() {
        let service: Arc<dyn Service> = Arc::new(FakeService::example());
        let banner = banner(&service, "./tidemill-data", "http", Duration::from_millis(12));
        for line in [
            &*format!("Tidemill {VERSION}, ready in 12 ms"),
            "  SQL    psql postgres://tidemill@127.0.0.1:7432/tidemill",
            "  HTTP   http://127.0.0.1:7433/  (/metrics, /healthz, /readyz)",
            "  Data   ./tidemill-data",
            "  Next   tidemill shell",
        ] {
            assert!(banner.lines().any(|found| found == line), "{line}\n{banner}");
        }
    }

    #[test]
    fn the_ready_file_is_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        let service: Arc<dyn Service> = Arc::new(FakeService::example());
        write_ready_file(&path, &service).unwrap();
        let ready: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let expected = json!({"sql": "127.0.0.1:7432", "http": "127.0.0.1:7433", "pid": std::process::id()});
        assert_eq!(ready, expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
