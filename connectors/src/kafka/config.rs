//! The options of Kafka.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use tidemill_core::SqlState;
use tidemill_core::sink::Delivery;
use tidemill_core::source::ConnectorError;

use crate::options::{Options, option_enum, options};

option_enum! {
    /// Where to begin in a partition that has never been read.
    pub enum Startup {
        Earliest = "earliest",
        Latest = "latest",
        Timestamp = "timestamp",
        Offsets = "offsets",
    }
}

option_enum! {
    /// How a sink writes keys.
    pub enum KeyEncode {
        /// An object with the columns of the primary key.
        Json = "json",
        /// The text of the only key column.
        Text = "text",
    }
}

options! {
    /// `WITH (connector = 'kafka', …)` of a source
    pub struct KafkaSourceConfig {
        /// The topic to read.
        "topic" => topic: String,
        /// The brokers to begin with, as `host:port,host:port`.
        "properties.bootstrap.server" => bootstrap_server: Option<String>,
        /// The same, as librdkafka spells it.
        "properties.bootstrap.servers" => bootstrap_servers: Option<String>,
        /// The same, in short.
        "brokers" => brokers: Option<String>,
        /// Where to begin in partitions that there are when the source is first read: `earliest`,
        /// `latest`, `timestamp` or `offsets`. Partitions that come later are read from their beginning.
        "scan.startup.mode" => startup: Startup = "earliest",
        /// For `timestamp`: milliseconds since 1970. The first record that is not older is the first read.
        "scan.startup.timestamp.millis" => startup_millis: Option<i64>,
        /// For `offsets`: the first offset by partition, as `0:42,1:17`. Other partitions are read from
        /// their beginning.
        "scan.startup.offsets" => startup_offsets: Option<String>,
        /// The largest number of rows in one batch.
        "batch_rows" => batch_rows: u64 = "8192",
    }
}

options! {
    /// `WITH (connector = 'kafka', …)` of a sink
    pub struct KafkaSinkConfig {
        /// The topic to write to. It must exist.
        "topic" => topic: String,
        /// The brokers to begin with, as `host:port,host:port`.
        "properties.bootstrap.server" => bootstrap_server: Option<String>,
        /// The same, as librdkafka spells it.
        "properties.bootstrap.servers" => bootstrap_servers: Option<String>,
        /// The same, in short.
        "brokers" => brokers: Option<String>,
        /// `exactly_once` writes a transaction after each checkpoint, `at_least_once` each message as soon as its
        /// row is there, and after a crash some of them again.
        "delivery" => delivery: Delivery = "exactly_once",
        /// With `FORMAT PLAIN`: drop retractions instead of refusing a query that makes them.
        "force_append_only" => force_append_only: bool = "false",
        /// How the columns of the primary key become the message's key: `json`, an object, or `text`, the
        /// text of the only column.
        "key.encode" => key_encode: KeyEncode = "json",
        /// The columns of the key, where the query does not tell; read by `CREATE SINK`.
        "primary_key" => primary_key: Option<String>,
    }
}

/// The prefix of options that go to librdkafka as they are.
const PROPERTIES: &str = "properties.";

/// The client's configuration: what is best by default, then what the user says, then what must be.
pub fn client(
    options: &mut Options<'_>,
    bootstrap: [Option<&String>; 3],
    defaults: &[(&str, &str)],
    musts: &[(&str, &str)],
) -> Result<ClientConfig, ConnectorError> {
    let Some(bootstrap) = bootstrap.into_iter().flatten().next() else {
        return Err(options.missing("properties.bootstrap.server"));
    };
    let mut client = ClientConfig::new();
    for (name, value) in defaults {
        client.set(*name, *value);
    }
    for (name, value) in options.take_prefixed(PROPERTIES) {
        let ours = musts.iter().find(|(must, _)| *must == name);
        if let Some((_, must)) = ours.filter(|(_, must)| *must != value) {
            let message = format!("option \"{PROPERTIES}{name}\" of connector \"kafka\" cannot be changed");
            return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint(format!("Tidemill needs it to be {must}.")));
        }
        if !name.starts_with("bootstrap.server") {
            client.set(name, value);
        }
    }
    client.set("bootstrap.servers", bootstrap);
    for (name, value) in musts {
        client.set(*name, *value);
    }
    // librdkafka knows its properties: unknown ones and wrong values are found here, offline.
    client.create_native_config().map_err(|error| {
        let reason = match &error {
            rdkafka::error::KafkaError::ClientConfig(_, reason, name, _) => {
                format!("option \"{PROPERTIES}{name}\" of connector \"kafka\" is not valid: {reason}")
            }
            other => format!("the options of connector \"kafka\" are not valid: {other}"),
        };
        ConnectorError::fatal(SqlState::INVALID_PARAMETER, reason)
            .with_hint("The properties are those of librdkafka; this build has neither TLS nor Kerberos.")
    })?;
    Ok(client)
}

/// `0:42,1:17`
pub fn parse_offsets(text: &str) -> Result<BTreeMap<i32, i64>, ConnectorError> {
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        let offset: i64 = offset.trim().parse().ok()?;
        Some((partition.trim().parse().ok()?, offset)).filter(|(_, offset)| *offset >= 0)
    };
    let pairs = text.split(',').map(pair).collect::<Option<BTreeMap<i32, i64>>>();
    pairs.ok_or_else(|| {
        let message = format!("option \"scan.startup.offsets\" of connector \"kafka\" cannot be \"{text}\"");
        ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
            .with_hint("Expected the first offset by partition, such as 0:42,1:17.")
    })
}
