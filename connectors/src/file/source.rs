//! Files as splits.
//!
//! Reading and decoding block, so they run on the runtime's threads for that, one batch ahead of
//! whoever asks. A call of `next` that is dropped leaves its work to the next call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use tidemill_core::SqlState;
use tidemill_core::source::{ConnectorError, Offset, Source, SourceBatch, Split, SplitId, SplitReader};
use tokio::task::JoinHandle;

use crate::file::config::{Compression, FileSourceConfig};
use crate::file::lines::{LinesConfig, LinesCursor, Splitter};
use crate::file::parquet::{self, ParquetConfig, ParquetCursor};
use crate::file::{UNDEFINED_FILE, io_error, listing};
use crate::formats::csv::CsvOptions;
use crate::formats::{Decoder, include};
use crate::options::Options;
use crate::registry::ConnectorSource;
use crate::spec::{Encode, Format, SourceSpec};

/// Reads one file, and blocks.
pub(super) trait Cursor: Send {
    /// The offset of the next record.
    fn position(&self) -> u64;

    /// Goes back to an offset.
    fn rewind(&mut self, to: u64) -> Result<(), ConnectorError>;

    /// See [`SplitReader::read_only`].
    fn read_only(&mut self, columns: &BTreeSet<usize>);

    /// A batch that ends at `until` at the latest.
    fn read(&mut self, until: Option<u64>) -> Result<ReadOut, ConnectorError>;
}

/// What a cursor gives.
pub(super) enum ReadOut {
    Batch(SourceBatch),
    /// Nothing now, but perhaps later.
    Idle,
    End,
}

/// The files of a path.
#[derive(Debug)]
pub struct FileSource {
    config: FileSourceConfig,
    opener: Opener,
}

/// How to open a file.
#[derive(Debug, Clone)]
enum Opener {
    Lines(Box<LinesConfig>, Option<Compression>),
    Parquet(Box<ParquetConfig>),
}

impl FileSource {
    pub fn new(spec: &SourceSpec<'_>) -> Result<FileSource, ConnectorError> {
        let config = read_config(spec.options)?;
        spec.check_include(&["offset", "file"])?;
        include::check_types(spec)?;
        let encode = actual_encode(spec.encode, &config)?;
        if matches!(encode, Encode::Bytes | Encode::Avro) {
            let message = format!("connector \"file\" cannot read ENCODE {encode}");
            return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Use ENCODE CSV, JSON or PARQUET."));
        }
        if encode == Encode::Parquet && spec.format == Format::Debezium {
            let message = "FORMAT DEBEZIUM with ENCODE PARQUET is not supported";
            return Err(
                ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint("Use ENCODE JSON.")
            );
        }
        let decoder = Decoder::new(spec, encode)?;
        let batch_rows = config.batch_rows as usize;
        let opener = if encode == Encode::Parquet {
            let column = |idx: usize| spec.schema.field(idx).clone();
            let columns: Vec<Field> = spec.value_columns().into_iter().map(column).collect();
            Opener::Parquet(Box::new(ParquetConfig { decoder, columns, batch_rows }))
        } else {
            let splitter = match encode {
                Encode::Csv => {
                    let options = csv_options(spec.encode_options)?;
                    Splitter::Csv { dialect: options.dialect(), header: options.header }
                }
                _ => Splitter::Lines,
            };
            let lines = LinesConfig {
                decoder,
                splitter,
                follow: false,
                batch_rows,
                record_bytes_max: config.max_record_bytes as usize,
            };
            Opener::Lines(Box::new(lines), config.compression)
        };
        Ok(FileSource { config, opener })
    }

    /// The files there are now.
    fn files(&self) -> Result<Vec<String>, ConnectorError> {
        let files = match listing::list(&self.config.path) {
            // Whoever watches may begin before the first file.
            Err(error) if self.config.watch && error.sqlstate == UNDEFINED_FILE => Vec::new(),
            files => files?,
        };
        if files.is_empty() && !self.config.watch {
            let message = format!("path \"{}\" matches no file", self.config.path);
            return Err(ConnectorError::fatal(UNDEFINED_FILE, message)
                .with_hint("The path is seen from the server. With watch = 'true', files may come later."));
        }
        Ok(files)
    }
}

fn read_config(options: &BTreeMap<String, String>) -> Result<FileSourceConfig, ConnectorError> {
    let mut options = Options::new("connector \"file\"", options);
    options.know("connector");
    let config = FileSourceConfig::take(&mut options)?;
    options.finish()?;
    if config.batch_rows == 0 || config.batch_rows > 1 << 16 {
        let message = "option \"batch_rows\" of connector \"file\" must be between 1 and 65536";
        return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message));
    }
    if let Some(compression @ (Compression::Snappy | Compression::Zstd)) = config.compression {
        let message = format!("connector \"file\" cannot read files compressed with {compression:?}");
        return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
            .with_hint("Parquet files say by themselves how they are compressed: leave the option out."));
    }
    Ok(config)
}

fn csv_options(options: &BTreeMap<String, String>) -> Result<CsvOptions, ConnectorError> {
    CsvOptions::take(&mut Options::new("ENCODE CSV", options))
}

/// What the files hold, by their ending where the statement does not say.
fn actual_encode(encode: Encode, config: &FileSourceConfig) -> Result<Encode, ConnectorError> {
    if encode != Encode::Native {
        return Ok(encode);
    }
    let path = config.path.strip_suffix(".gz").unwrap_or(&config.path);
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("csv" | "tsv") => Ok(Encode::Csv),
        Some("json" | "jsonl" | "ndjson") => Ok(Encode::Json),
        Some("parquet") => Ok(Encode::Parquet),
        _ => {
            let message = format!("path \"{}\" does not tell what its files hold", config.path);
            Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint("Add FORMAT PLAIN ENCODE CSV, JSON or PARQUET."))
        }
    }
}

/// The columns that the first file declares by itself.
pub(super) fn columns(spec: &SourceSpec<'_>) -> Result<Option<SchemaRef>, ConnectorError> {
    let config = read_config(spec.options)?;
    let encode = actual_encode(spec.encode, &config)?;
    let csv = if encode == Encode::Csv { Some(csv_options(spec.encode_options)?) } else { None };
    if !matches!((encode, &csv), (Encode::Parquet, _) | (_, Some(CsvOptions { header: true, .. }))) {
        return Ok(None);
    }
    let Some(path) = listing::list(&config.path)?.into_iter().next() else {
        return Ok(None);
    };
    let Some(csv) = csv else {
        return parquet::schema(&path).map(Some);
    };
    let gzip = is_gzip(&path, config.compression);
    match super::lines::read_header(&path, gzip, csv.dialect())? {
        Some(header) => {
            let field = |name: &String| Field::new(name, arrow::datatypes::DataType::Utf8, true);
            Ok(Some(Arc::new(Schema::new(header.iter().map(field).collect::<Vec<_>>()))))
        }
        None => Ok(None),
    }
}

fn is_gzip(path: &str, compression: Option<Compression>) -> bool {
    match compression {
        Some(compression) => compression == Compression::Gzip,
        None => path.ends_with(".gz"),
    }
}

impl Opener {
    fn open(self, path: &str, from: u64, watch: bool) -> Result<Box<dyn Cursor>, ConnectorError> {
        match self {
            Opener::Parquet(config) => Ok(Box::new(ParquetCursor::open(*config, path, from)?)),
            Opener::Lines(config, compression) => {
                let gzip = is_gzip(path, compression);
                let config = LinesConfig { follow: watch && !gzip, ..*config };
                Ok(Box::new(LinesCursor::open(config, path, gzip, from)?))
            }
        }
    }

    /// Whether a file has the declared columns.
    fn check(self, path: &str) -> Result<(), ConnectorError> {
        match self {
            Opener::Parquet(config) => parquet::check(&config.columns, path),
            Opener::Lines(mut config, compression) => {
                let Splitter::Csv { dialect, header: true } = config.splitter else {
                    return std::fs::File::open(path)
                        .map(drop)
                        .map_err(|error| io_error("open", path, &error));
                };
                match super::lines::read_header(path, is_gzip(path, compression), dialect)? {
                    Some(header) => config.decoder.set_csv_header(&header, path),
                    None => Ok(()),
                }
            }
        }
    }
}

#[async_trait]
impl Source for FileSource {
    async fn splits(&self) -> Result<Vec<Split>, ConnectorError> {
        let split = |path: String| Split { id: SplitId(path.into()), start: Offset::from(0) };
        Ok(self.files()?.into_iter().map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        !self.config.watch
    }

    fn n_records(&self, _: &SplitId, from: &Offset, to: &Offset) -> Option<u64> {
        match self.opener {
            // Its offsets are bytes.
            Opener::Lines(..) => None,
            Opener::Parquet(_) => Some(number(to).ok()?.saturating_sub(number(from).ok()?)),
        }
    }

    fn leaves_out_columns(&self) -> bool {
        match &self.opener {
            Opener::Lines(config, _) => config.decoder.leaves_out_columns(),
            Opener::Parquet(config) => config.decoder.leaves_out_columns(),
        }
    }

    async fn open(&self, split: &SplitId, from: &Offset) -> Result<Box<dyn SplitReader>, ConnectorError> {
        let (opener, path, from, watch) =
            (self.opener.clone(), split.0.clone(), number(from)?, self.config.watch);
        let cursor = tokio::task::spawn_blocking(move || opener.open(&path, from, watch));
        let cursor = cursor.await.map_err(|error| broken(&split.0, &error))??;
        Ok(Box::new(FileReader {
            path: split.0.clone(),
            work: Work::Rest(Some(cursor)),
            patience: Patience::new(self.config.discovery_interval),
        }))
    }
}

#[async_trait]
impl ConnectorSource for FileSource {
    async fn validate(&self) -> Result<(), ConnectorError> {
        // A pattern may match nothing yet, but a path that cannot be listed will not get better.
        let files = match self.config.watch && listing::is_pattern(&self.config.path) {
            true => self.files()?,
            false => listing::list(&self.config.path)?,
        };
        if files.is_empty() && !self.config.watch {
            self.files()?;
        }
        let Some(first) = files.into_iter().next() else {
            return Ok(());
        };
        let (opener, path) = (self.opener.clone(), first.clone());
        let checked = tokio::task::spawn_blocking(move || opener.check(&path));
        checked.await.map_err(|error| broken(&first, &error))?
    }
}

fn number(offset: &Offset) -> Result<u64, ConnectorError> {
    offset.0.parse().map_err(|_| {
        let message = format!("\"{offset}\" is not an offset of connector \"file\"");
        ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
    })
}

fn broken(path: &str, error: &tokio::task::JoinError) -> ConnectorError {
    ConnectorError::fatal(SqlState::INTERNAL_ERROR, format!("reading file \"{path}\" broke off: {error}"))
}

/// Reads one file, a batch ahead.
struct FileReader {
    path: Arc<str>,
    work: Work,
    patience: Patience,
}

/// Where the cursor is.
enum Work {
    /// Here. `None` only while it is handed over, or when it was lost with a panic.
    Rest(Option<Box<dyn Cursor>>),
    /// Reading up to `until`, from `from`.
    Reading {
        job: JoinHandle<(Box<dyn Cursor>, Result<ReadOut, ConnectorError>)>,
        from: u64,
        until: Option<u64>,
    },
}

impl Work {
    /// Has the cursor read its next batch.
    fn start(mut cursor: Box<dyn Cursor>, until: Option<u64>, rewind: Option<u64>) -> Work {
        let from = rewind.unwrap_or(cursor.position());
        let job = tokio::task::spawn_blocking(move || {
            let rewound = rewind.map_or(Ok(()), |to| cursor.rewind(to));
            let read = rewound.and_then(|()| cursor.read(until));
            (cursor, read)
        });
        Work::Reading { job, from, until }
    }
}

#[async_trait]
impl SplitReader for FileReader {
    fn read_only(&mut self, columns: &BTreeSet<usize>) {
        if let Work::Rest(Some(cursor)) = &mut self.work {
            cursor.read_only(columns);
        }
    }

    async fn next(&mut self, until: Option<&Offset>) -> Result<Option<SourceBatch>, ConnectorError> {
        let until = until.map(number).transpose()?;
        loop {
            if let Work::Rest(cursor) = &mut self.work {
                let Some(cursor) = cursor.take() else {
                    let message = format!("file \"{}\" is not being read any more", self.path);
                    return Err(ConnectorError::fatal(SqlState::INTERNAL_ERROR, message));
                };
                self.work = Work::start(cursor, until, None);
            }
            let Work::Reading { job, from, until: asked } = &mut self.work else {
                unreachable!("started above")
            };
            let (from, asked) = (*from, *asked);
            // A call dropped here finds its job again the next time.
            let (cursor, read) = match job.await {
                Ok(done) => done,
                Err(error) => {
                    self.work = Work::Rest(None);
                    return Err(broken(&self.path, &error));
                }
            };
            match read {
                Ok(ReadOut::Batch(_)) if until.is_some_and(|until| cursor.position() > until) => {
                    // Read ahead for somebody who had not said how far.
                    self.work = Work::start(cursor, until, Some(from));
                }
                Ok(ReadOut::Batch(batch)) => {
                    self.patience.reset();
                    self.work = Work::start(cursor, until, None);
                    return Ok(Some(batch));
                }
                Ok(ReadOut::End) if asked != until => self.work = Work::start(cursor, until, None),
                Ok(ReadOut::End) => {
                    self.work = Work::Rest(Some(cursor));
                    return Ok(None);
                }
                Ok(ReadOut::Idle) => {
                    self.work = Work::Rest(Some(cursor));
                    tokio::time::sleep(self.patience.more()).await;
                }
                Err(error) => {
                    self.work = Work::Rest(Some(cursor));
                    return Err(error);
                }
            }
        }
    }
}

/// How long to wait for a file to grow: the longer it has not, the longer.
struct Patience {
    now: Duration,
    max: Duration,
}

impl Patience {
    const MIN: Duration = Duration::from_millis(10);

    fn new(max: Duration) -> Patience {
        Patience { now: Patience::MIN, max }
    }

    fn reset(&mut self) {
        self.now = Patience::MIN;
    }

    fn more(&mut self) -> Duration {
        let now = self.now.min(self.max);
        self.now = (now * 2).max(Patience::MIN);
        now
    }
}
