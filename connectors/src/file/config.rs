//! The options of files.

use std::time::Duration;

use tidemill_core::ByteSize;

use crate::options::{option_enum, options};

option_enum! {
    /// How a file is compressed as a whole.
    pub enum Compression {
        None = "none",
        Gzip = "gzip",
        /// Parquet only.
        Snappy = "snappy",
        /// Parquet only.
        Zstd = "zstd",
    }
}

options! {
    /// `WITH (connector = 'file', …)` of a source
    pub struct FileSourceConfig {
        /// A file, a pattern such as `/data/*.csv` or `/data/**/*.json`, or a directory, of which all
        /// files are read that do not begin with a dot or an underscore. Seen from the server.
        "path" => path: String,
        /// Whether to go on: new files are read as they appear, and lines that are added to files that
        /// are not compressed. Otherwise the source ends with its files.
        "watch" => watch: bool = "false",
        /// How soon new files and lines are seen when watching.
        "discovery_interval" => discovery_interval: Duration = "1s",
        /// `gzip` or `none`. By default the ending `.gz` decides. Parquet says it by itself.
        "compression" => compression: Option<Compression>,
        /// The largest number of rows in one batch.
        "batch_rows" => batch_rows: u64 = "8192",
        /// A longer record is a bad record.
        "max_record_bytes" => max_record_bytes: u64 = "16777216",
    }
}

options! {
    /// `WITH (connector = 'file', …)` of a sink
    pub struct FileSinkConfig {
        /// The directory to write to, which is created if need be; or `s3://bucket/prefix`.
        "path" => path: String,
        /// Columns whose values become folders, `a=1/b=x/`, as `'a, b'`. They are left out of the files.
        "partition_by" => partition_by: Option<String>,
        /// A file that has come to be so large is closed, and written. By default files are written after each
        /// checkpoint, and are no larger than 128 MB.
        "roll_size" => roll_size: Option<ByteSize>,
        /// How long rows are gathered before their files are written. The default is a minute with `roll_size`, and
        /// otherwise not at all: files are written after each checkpoint.
        "roll_interval" => roll_interval: Option<Duration>,
        /// `gzip` or `none` for JSON and CSV, `snappy`, `zstd` or `none` for Parquet.
        "compression" => compression: Option<Compression>,
        /// With `FORMAT PLAIN`: the name of a first column that says `insert` or `delete`, so that
        /// changes can be written too.
        "op_column" => op_column: Option<String>,
        /// With `FORMAT PLAIN`: drop retractions instead of refusing a query that makes them.
        "force_append_only" => force_append_only: bool = "false",
        /// The columns of the key, where the query does not tell; read by `CREATE SINK`.
        "primary_key" => primary_key: Option<String>,
        /// Where S3 is, instead of where `AWS_ENDPOINT_URL` says, or at Amazon.
        "s3.endpoint" => s3_endpoint: Option<String>,
        /// The region, instead of `AWS_REGION`.
        "s3.region" => s3_region: Option<String>,
        /// The name of the key to sign with, instead of what the environment says: `AWS_ACCESS_KEY_ID`, a role, the machine's.
        "s3.access_key_id" => s3_access_key_id: Option<String>,
        /// The key, which `SHOW CREATE` does not show.
        "s3.secret_access_key" => s3_secret_access_key: Option<String>,
    }
}
