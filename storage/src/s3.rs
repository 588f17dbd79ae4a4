//! Roots in S3, and in whatever speaks its protocol.
//!
//! Where it is and who we are is said by the variables that other programs hear as well (`AWS_ENDPOINT_URL`,
//! `AWS_REGION`, `AWS_ACCESS_KEY_ID`, … , roles and instance metadata), with the configuration over them.

use std::net::IpAddr;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

use crate::{Error, RootOptions};

/// How long one request is tried again. Whoever can wait longer than this asks again himself.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// The bucket of `s3://bucket/prefix`, and the prefix in it.
pub(crate) fn open(url: &str, options: &RootOptions) -> Result<(AmazonS3, Path), Error> {
    let invalid = |reason: String| Error::InvalidUrl { url: url.to_owned(), reason };
    let rest = url.strip_prefix("s3://").ok_or_else(|| invalid("it does not begin with s3://".into()))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(invalid("it names no bucket".into()));
    }
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| invalid(error.to_string()))?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 1000,
        retry_timeout: RETRY_TIMEOUT,
    });
    if let Some(endpoint) = &options.s3_endpoint {
        // The variable for S3 alone counts for more than the one for all of AWS, and this for more than both.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = &options.s3_region {
        builder = builder.with_region(region);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://")) {
        let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
        if !is_loopback(&endpoint) && allowed.as_deref() != Some("true") {
            return Err(Error::Unencrypted { endpoint });
        }
        builder = builder.with_allow_http(true);
    }
    let store =
        builder.build().map_err(|source| Error::Object { verb: "opened", path: url.into(), source })?;
    Ok((store, prefix))
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
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_a_prefix() {
        let options = RootOptions::default();
        for (url, expected) in [("s3://b", ""), ("s3://b/", ""), ("s3://b/a/b", "a/b"), ("s3://b/a/", "a")] {
            assert_eq!(open(url, &options).unwrap().1.as_ref(), expected, "{url}");
        }
        for url in ["s3://", "s3:///x", "gs://b/x", "s3://b/a//b"] {
            assert!(matches!(open(url, &options), Err(Error::InvalidUrl { .. })), "{url}");
        }
    }

    #[test]
    fn unencrypted_endpoints_are_refused() {
        let at =
            |endpoint: &str| RootOptions { s3_endpoint: Some(endpoint.into()), ..RootOptions::default() };
        assert!(matches!(open("s3://b", &at("http://10.0.0.1:9000")), Err(Error::Unencrypted { .. })));
        for endpoint in ["http://127.0.0.1:9000", "https://10.0.0.1:9000"] {
            open("s3://b", &at(endpoint)).unwrap();
        }
    }

    #[test]
    fn only_loopback_goes_without_encryption() {
        for endpoint in
            ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:9000/x", "http://127.0.0.5/"]
        {
            assert!(is_loopback(endpoint), "{endpoint}");
        }
        for endpoint in
            ["http://10.0.0.1:9000", "https://127.0.0.1", "http://localhost.example.com", "127.0.0.1"]
        {
            assert!(!is_loopback(endpoint), "{endpoint}");
        }
    }
}
