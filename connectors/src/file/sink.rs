//! One file per batch, exactly once.
//!
//! A file is named after the sink and the last epoch in it, so that a batch that is written again
//! replaces its own file and nothing else. It is written under a hidden name, synced, renamed and
//! its directory synced: whoever lists the directory sees whole files only.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::ZstdLevel;
use parquet::file::properties::WriterProperties;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState};

use crate::file::config::{Compression, FileSinkConfig};
use crate::file::io_error;
use crate::formats::changelog::{self, Changelog, CsvSinkOptions};
use crate::options::Options;
use crate::spec::{Encode, Format, SinkSpec};

/// Writes the changes of its relation into a directory.
#[derive(Debug, Clone)]
pub struct FileSink {
    directory: PathBuf,
    name: String,
    schema: SchemaRef,
    changelog: Changelog,
    encoding: Encoding,
    compression: Compression,
}

/// How rows become a file.
#[derive(Debug, Clone)]
enum Encoding {
    Json,
    Csv(Box<arrow_csv::WriterBuilder>),
    Parquet,
}

impl FileSink {
    pub fn new(spec: &SinkSpec<'_>) -> Result<FileSink, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = FileSinkConfig::take(&mut options)?;
        options.finish()?;
        let encode = if spec.encode == Encode::Native { Encode::Json } else { spec.encode };
        let refuse = |message: String, hint: &str| {
            Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(hint))
        };
        if spec.format == Format::Upsert {
            return refuse(
                "connector \"file\" cannot write FORMAT UPSERT: nothing in a file can be replaced"
                    .to_string(),
                "Use FORMAT DEBEZIUM, or FORMAT PLAIN with op_column = '…'.",
            );
        }
        if spec.format == Format::Debezium && encode == Encode::Csv {
            return refuse(
                "FORMAT DEBEZIUM with ENCODE CSV is not supported".to_string(),
                "Use ENCODE JSON, or FORMAT PLAIN with op_column = '…'.",
            );
        }
        let mut encode_options = Options::new(format!("ENCODE {encode}"), spec.encode_options);
        let encoding = match encode {
            Encode::Json => Encoding::Json,
            Encode::Csv => {
                let csv = CsvSinkOptions::take(&mut encode_options)?;
                Encoding::Csv(Box::new(csv.writer()))
            }
            Encode::Parquet => Encoding::Parquet,
            other => {
                let message = format!("connector \"file\" cannot write ENCODE {other}");
                return refuse(message, "Use ENCODE JSON, CSV or PARQUET.");
            }
        };
        encode_options.finish()?;
        let compression = match (config.compression, &encoding) {
            (None, Encoding::Parquet) => Compression::Snappy,
            (None, _) => Compression::None,
            (
                Some(compression @ (Compression::Snappy | Compression::Zstd | Compression::None)),
                Encoding::Parquet,
            )
            | (
                Some(compression @ (Compression::Gzip | Compression::None)),
                Encoding::Json | Encoding::Csv(_),
            ) => compression,
            (Some(other), _) => {
                let message = format!("ENCODE {encode} with compression {other:?} is not supported");
                return refuse(message, "JSON and CSV: gzip or none. Parquet: snappy, zstd or none.");
            }
        };
        let changelog = Changelog::new(spec, config.force_append_only, config.op_column)?;
        let schema = changelog.schema(&spec.schema);
        if let (Encoding::Parquet, Err(error)) =
            (&encoding, ArrowWriter::try_new(Vec::new(), schema.clone(), None).map(drop))
        {
            let message = format!("sink \"{}\" cannot be written as Parquet: {error}", spec.name);
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
        }
        let directory = PathBuf::from(config.path);
        Ok(FileSink { directory, name: file_stem(spec.name), schema, changelog, encoding, compression })
    }

    /// The name of the file of a batch.
    fn file_name(&self, batch: &SinkBatch) -> String {
        let ending = match self.encoding {
            Encoding::Json => "jsonl",
            Encoding::Csv(_) => "csv",
            Encoding::Parquet => "parquet",
        };
        let gz = if self.compression == Compression::Gzip { ".gz" } else { "" };
        format!("{}-{:020}.{ending}{gz}", self.name, batch.to.0)
    }

    fn encode(&self, rows: &RecordBatch) -> Result<Vec<u8>, ConnectorError> {
        let bytes = match &self.encoding {
            Encoding::Json => changelog::json_lines(rows),
            Encoding::Csv(writer) => changelog::csv_lines(rows, writer),
            Encoding::Parquet => return self.encode_parquet(rows),
        };
        let bytes = bytes.map_err(|error| self.changelog.failed(&error))?;
        if self.compression != Compression::Gzip {
            return Ok(bytes);
        }
        // Without a time in the header, the same rows are the same bytes.
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder
            .write_all(&bytes)
            .and_then(|()| encoder.finish())
            .map_err(|error| self.changelog.failed(&error))
    }

    fn encode_parquet(&self, rows: &RecordBatch) -> Result<Vec<u8>, ConnectorError> {
        let compression = match self.compression {
            Compression::Snappy => parquet::basic::Compression::SNAPPY,
            Compression::Zstd => parquet::basic::Compression::ZSTD(ZstdLevel::default()),
            Compression::None | Compression::Gzip => parquet::basic::Compression::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder().set_compression(compression).build();
        let written =
            ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties)).and_then(|mut writer| {
                writer.write(rows)?;
                writer.into_inner()
            });
        written.map_err(|error| self.changelog.failed(&error))
    }

    fn write(&self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let entries = self.changelog.entries(batch)?;
        if entries.is_empty() {
            return Ok(());
        }
        let bytes = self.encode(&self.changelog.rows(batch, &entries)?)?;
        let name = self.file_name(batch);
        let hidden = self.directory.join(format!(".{name}.tmp"));
        let write = || {
            fs::create_dir_all(&self.directory)?;
            let mut file = File::create(&hidden)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&hidden, self.directory.join(&name))?;
            sync_directory(&self.directory)
        };
        write().map_err(|error| io_error("write", &self.directory.join(&name).to_string_lossy(), &error))
    }
}

/// A rename is durable only when its directory is.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The sink's name as the beginning of a file name that every system takes.
fn file_stem(name: &str) -> String {
    let safe = |c: char| {
        if c.is_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }
    };
    name.chars().map(safe).collect()
}

#[async_trait]
impl Sink for FileSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn validate(&self) -> Result<(), ConnectorError> {
        let path = self.directory.to_string_lossy();
        fs::create_dir_all(&self.directory).map_err(|error| io_error("create directory", &path, &error))?;
        let probe = self.directory.join(format!(".{}.probe", self.name));
        let probed = File::create(&probe).and_then(|_| fs::remove_file(&probe));
        probed.map_err(|error| io_error("write to directory", &path, &error))
    }

    async fn open(&self, _known: Epoch) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(FileWriter { sink: self.clone() }))
    }
}

struct FileWriter {
    sink: FileSink,
}

#[async_trait]
impl SinkWriter for FileWriter {
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let (sink, batch) = (self.sink.clone(), batch.clone());
        let written = tokio::task::spawn_blocking(move || sink.write(&batch));
        written.await.map_err(|error| {
            let message = format!("writing for sink \"{}\" broke off: {error}", self.sink.name);
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
        })?
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        // Each write syncs its file already.
        Ok(())
    }
}
