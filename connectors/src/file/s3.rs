//! Buckets of S3, and of whatever speaks its protocol.
//!
//! Where it is and who we are is said by the variables that other programs hear as well (`AWS_ENDPOINT_URL`, `AWS_REGION`,
//! `AWS_ACCESS_KEY_ID`, … , roles and instance metadata), with the sink's options over them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::file::config::FileSinkConfig;
use crate::file::place::Place;

/// How long one request is tried again. After that the engine tries again, and shows that it does.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a piece of a file may take.
const REQUEST_TIMEOUT: &str = "60 seconds";

/// The prefix of a path that is a bucket's.
pub const SCHEME: &str = "s3://";

/// The place that `s3://bucket/prefix` names.
pub fn open(config: &FileSinkConfig) -> Result<Place, ConnectorError> {
    let url = config.path.trim_end_matches('/');
    let invalid = |message: String, hint: &str| {
        Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message).with_hint(hint))
    };
    let (bucket, prefix) = url[SCHEME.len()..].split_once('/').unwrap_or((&url[SCHEME.len()..], ""));
    if bucket.is_empty() {
        return invalid(format!("path \"{url}\" names no bucket"), "Expected s3://bucket/prefix.");
    }
    if let Err(error) = Path::parse(prefix) {
        return invalid(format!("path \"{url}\" is not valid: {error}"), "Expected s3://bucket/prefix.");
    }
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: RETRY_TIMEOUT,
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT);
    if let Some(endpoint) = &config.s3_endpoint {
        // The variable for S3 alone counts for more than the one for all of AWS, and this for more than both.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &config.s3_region {
        builder = builder.with_region(region);
    }
    match (&config.s3_access_key_id, &config.s3_secret_access_key) {
        (Some(id), Some(secret)) => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        (None, None) => (),
        _ => {
            return invalid(
                "s3.access_key_id and s3.secret_access_key go together".into(),
                "Give both, or neither: then the server's environment says who it is.",
            );
        }
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://")) {
        let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
        if !is_loopback(&endpoint) && allowed.as_deref() != Some("true") {
            return invalid(
                format!("\"{endpoint}\" is not encrypted"),
                "Use https://. Should the network be safe, AWS_ALLOW_HTTP=true in the server's environment allows it.",
            );
        }
        builder = builder.with_allow_http(true);
    }
    match builder.build() {
        Ok(store) => Ok(Place::Bucket { url: url.into(), store: Arc::new(store), prefix: prefix.into() }),
        Err(error) => invalid(format!("\"{url}\" cannot be opened: {error}"), "See the options s3.…"),
    }
}

/// Whether what is sent there stays on this machine.
fn is_loopback(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use crate::declared::Declared;
    use crate::registry::create_sink;

    fn refused(options: &[(&str, &str)]) -> String {
        let mut declared = Declared::new("file", "id bigint");
        for (name, value) in options {
            declared = declared.with(name, value);
        }
        create_sink(&declared.sink()).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn places_are_checked() {
        let keys = [("s3.access_key_id", "a"), ("s3.secret_access_key", "b"), ("s3.region", "eu-north-1")];
        let with = |path: &'static str, endpoint: &'static str| {
            let mut options = keys.to_vec();
            options.extend([("path", path), ("s3.endpoint", endpoint)]);
            refused(&options)
        };
        assert_eq!(with("s3://bucket/a/b/", "http://127.0.0.1:1"), "");
        assert_eq!(with("s3://bucket", "https://minio.example"), "");
        assert_eq!(with("s3:///a", "https://minio.example"), "path \"s3:///a\" names no bucket");
        assert!(with("s3://bucket/a//b", "https://minio.example").contains("is not valid"));
        assert_eq!(with("s3://bucket", "http://10.0.0.1:9000"), "\"http://10.0.0.1:9000\" is not encrypted");
        let half = refused(&[("path", "s3://bucket"), ("s3.access_key_id", "a")]);
        assert_eq!(half, "s3.access_key_id and s3.secret_access_key go together");
        let elsewhere = FilePath::new("/tmp/x").display().to_string();
        assert!(refused(&[("path", &elsewhere), ("s3.region", "x")]).contains("\"s3.region\""));
    }
}
