//! Files of rows, exactly once.
//!
//! Batches are gathered into a *group* of files, one or more for each folder, until they are large or old enough. A group
//! becomes visible in three steps; what a crash leaves between them, the next writer completes:
//!
//! ```text
//!  1  _tidemill/_<id>   reached 17, writing up to 23: a=1/<id>-23.jsonl, a=2/<id>-23.jsonl
//!  2  the files, each as a whole
//!  3  _tidemill/_<id>   reached 23
//! ```
//!
//! Before step 1 nothing has happened, after step 3 everything. In between, the next writer gets the same batches again,
//! and writes those up to 23 as a group of their own, whatever its options for gathering say: the same rows, into files of the
//! same names. So whoever reads sees whole files only, and each row in one of them.
//!
//! Names are made of the sink's id, which stays when the sink is renamed, and the last epoch in the file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written, check_reached};
use tidemill_core::source::ConnectorError;
use tidemill_core::{Epoch, SqlState, crash_point};
use tokio::task::JoinHandle;

use crate::file::config::{Compression, FileSinkConfig};
use crate::file::encoder::{Encoding, FileEncoder, FileFormat};
use crate::file::partition::Partitioning;
use crate::file::place::{Named, Place};
use crate::file::s3;
use crate::formats::changelog::{Changelog, CsvSinkOptions};
use crate::options::Options;
use crate::spec::{Encode, Format, SinkSpec};

/// Where sinks keep how far they have come. Other programs pass over what begins with an underscore.
const PROGRESS: &str = "_tidemill";

/// Rows that are encoded at once.
const SLICE_ROWS: usize = 8192;

/// Files are no larger than about this, unless somebody wants them to be.
const FILE_BYTES: usize = 128 << 20;
/// One request of S3 takes no more, and the file is in memory until it is whole.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// With so much in memory a group is large enough, however many folders it has.
const GROUP_BYTES: usize = 256 << 20;

/// How long files are filled where their size alone is given.
const ROLL_INTERVAL: Duration = Duration::from_secs(60);

/// Writes the changes of its relation as files.
#[derive(Debug, Clone)]
pub struct FileSink {
    place: Place,
    name: Arc<str>,
    id: Arc<str>,
    changelog: Changelog,
    partitioning: Partitioning,
    encoding: Encoding,
    file_bytes: usize,
    roll_interval: Duration,
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
        if spec.format == Format::Debezium && config.partition_by.is_some() {
            return refuse(
                "FORMAT DEBEZIUM with partition_by is not supported: an update may be of two folders"
                    .to_string(),
                "Use FORMAT PLAIN with op_column = '…'.",
            );
        }
        let place = place(&config)?;
        let (file_bytes, roll_interval) = rolling(&config)?;
        let changelog = Changelog::new(spec, config.force_append_only, config.op_column)?;
        let rows = changelog.schema(&spec.schema);
        let partitioning = match &config.partition_by {
            Some(columns) => Partitioning::new(columns, &rows)?,
            None => Partitioning::default(),
        };
        let schema = partitioning.schema(&rows);
        let mut encode_options = Options::new(format!("ENCODE {encode}"), spec.encode_options);
        let format = match encode {
            Encode::Json => FileFormat::Json,
            Encode::Csv => {
                let csv = CsvSinkOptions::take(&mut encode_options)?;
                let header = csv.header;
                FileFormat::Csv { writer: Box::new(csv.writer()), header }
            }
            Encode::Parquet => FileFormat::Parquet,
            other => {
                let message = format!("connector \"file\" cannot write ENCODE {other}");
                return refuse(message, "Use ENCODE JSON, CSV or PARQUET.");
            }
        };
        encode_options.finish()?;
        let compression = match (config.compression, &format) {
            (None, FileFormat::Parquet) => Compression::Snappy,
            (None, _) => Compression::None,
            (
                Some(compression @ (Compression::Snappy | Compression::Zstd | Compression::None)),
                FileFormat::Parquet,
            )
            | (
                Some(compression @ (Compression::Gzip | Compression::None)),
                FileFormat::Json | FileFormat::Csv { .. },
            ) => compression,
            (Some(other), _) => {
                let message = format!("ENCODE {encode} with compression {other:?} is not supported");
                return refuse(message, "JSON and CSV: gzip or none. Parquet: snappy, zstd or none.");
            }
        };
        if let (FileFormat::Parquet, Err(error)) =
            (&format, ArrowWriter::try_new(Vec::new(), schema.clone(), None).map(drop))
        {
            let message = format!("sink \"{}\" cannot be written as Parquet: {error}", spec.name);
            return Err(ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, message));
        }
        Ok(FileSink {
            place,
            name: spec.name.into(),
            id: spec.id.into(),
            changelog,
            partitioning,
            encoding: Encoding { format, compression, schema },
            file_bytes,
            roll_interval,
        })
    }

    fn progress_name(&self) -> String {
        format!("{PROGRESS}/_{}", self.id)
    }

    async fn read_progress(&self) -> Result<Option<Progress>, ConnectorError> {
        let name = self.progress_name();
        let Some(bytes) = self.place.get(&name).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let message = format!(
                "\"{}/{name}\" does not say how far sink \"{}\" is: {error}",
                self.place.name(),
                self.name
            );
            ConnectorError::fatal(SqlState::DATA_CORRUPTED, message)
                .with_hint("Nothing is written. To begin anew, drop the sink and create it again.")
        })
    }

    async fn write_progress(&self, progress: &Progress) -> Result<(), ConnectorError> {
        let bytes = serde_json::to_vec(progress).expect("progress is plain data").into();
        self.place.put_all(vec![Named { name: self.progress_name(), bytes }]).await
    }
}

fn place(config: &FileSinkConfig) -> Result<Place, ConnectorError> {
    if config.path.starts_with(s3::SCHEME) {
        return s3::open(config);
    }
    let given = [
        ("s3.endpoint", &config.s3_endpoint),
        ("s3.region", &config.s3_region),
        ("s3.access_key_id", &config.s3_access_key_id),
        ("s3.secret_access_key", &config.s3_secret_access_key),
    ];
    if let Some((name, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
        let message = format!("option \"{name}\" says nothing of the directory \"{}\"", config.path);
        return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
            .with_hint("Write path = 's3://bucket/prefix', or leave the option out."));
    }
    if let Some((scheme, _)) = config.path.split_once("://") {
        let message = format!("files cannot be written to \"{scheme}://\"");
        return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
            .with_hint("Write path = 's3://bucket/prefix', or a directory."));
    }
    Ok(Place::Directory(config.path.as_str().into()))
}

/// How large files become, and how long they are filled.
fn rolling(config: &FileSinkConfig) -> Result<(usize, Duration), ConnectorError> {
    if let Some(size) = config.roll_size.filter(|size| size.0 == 0 || size.0 > FILE_BYTES_MAX) {
        let message = format!("option \"roll_size\" of connector \"file\" cannot be {size}");
        return Err(ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
            .with_hint("Expected a size of no more than 4GB: a file is in memory until it is whole."));
    }
    let default = if config.roll_size.is_some() { ROLL_INTERVAL } else { Duration::ZERO };
    let file_bytes = config.roll_size.map_or(FILE_BYTES, |size| size.0 as usize);
    Ok((file_bytes, config.roll_interval.unwrap_or(default)))
}

/// How far a sink has come at its destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Up to this epoch everything is there.
    reached: u64,
    /// What has been begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writing: Option<Begun>,
}

/// A group that may be there in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    to: u64,
    files: Vec<String>,
}

#[async_trait]
impl Sink for FileSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn validate(&self) -> Result<(), ConnectorError> {
        self.place.probe(&format!("{PROGRESS}/_{}.probe", self.id)).await
    }

    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let turn = self.turn();
        let _turn = turn.lock().await;
        let found = self.read_progress().await?;
        let destination = format!("\"{}\"", self.place.name());
        let reached = found.as_ref().map(|progress| Epoch(progress.reached));
        check_reached(&destination, reached, written)?;
        let progress = found.unwrap_or_default();
        // Begun by a server that knew more than this one.
        let begun = progress.writing.as_ref().map(|begun| Epoch(begun.to));
        check_reached(&destination, begun.or(reached), written)?;
        Ok(Box::new(FileWriter {
            sink: Arc::new(self.clone()),
            reached: Epoch(progress.reached),
            progress,
            group: Group::default(),
            commit: None,
        }))
    }
}

/// Gathers rows, and writes them as a group of files.
struct FileWriter {
    sink: Arc<FileSink>,
    reached: Epoch,
    /// What stands at the destination.
    progress: Progress,
    group: Group,
    /// The group that is being written.
    commit: Option<JoinHandle<Result<Progress, ConnectorError>>>,
}

/// Files in the making.
#[derive(Default)]
struct Group {
    folders: BTreeMap<String, Folder>,
    /// The last epoch in it, if there is any.
    to: Option<Epoch>,
    since: Option<Instant>,
}

#[derive(Default)]
struct Folder {
    full: Vec<Bytes>,
    current: Option<FileEncoder>,
}

impl Group {
    fn add(&mut self, sink: &FileSink, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let entries = sink.changelog.entries(batch)?;
        let rows = sink.changelog.rows(batch, &entries)?;
        self.to = Some(batch.to);
        self.since.get_or_insert_with(Instant::now);
        if rows.num_rows() == 0 {
            return Ok(());
        }
        for (folder, rows) in sink.partitioning.divide(rows).map_err(|error| sink.changelog.failed(&error))? {
            let folder = self.folders.entry(folder).or_default();
            folder.add(sink, &rows).map_err(|error| sink.changelog.failed(&error))?;
        }
        Ok(())
    }

    fn is_large(&self, sink: &FileSink) -> bool {
        let n_bytes = |folder: &Folder| {
            let current = folder.current.as_ref().map_or(0, FileEncoder::n_bytes);
            current + folder.full.iter().map(Bytes::len).sum::<usize>()
        };
        let folders = self.folders.values();
        folders.clone().any(|folder| !folder.full.is_empty())
            || folders.map(n_bytes).sum::<usize>() >= GROUP_BYTES.max(sink.file_bytes)
    }

    /// Closes the files, and gives them their names.
    fn finish(self, sink: &FileSink) -> Result<(Vec<Named>, Epoch), ConnectorError> {
        let to = self.to.expect("a group that is written has something in it");
        let mut files = Vec::new();
        for (folder, Folder { mut full, current }) in self.folders {
            if let Some(encoder) = current {
                full.push(encoder.finish().map_err(|error| sink.changelog.failed(&error))?);
            }
            let (id, ending, is_one) = (&sink.id, sink.encoding.ending(), full.len() == 1);
            for (idx, bytes) in full.into_iter().enumerate() {
                let number = if is_one { String::new() } else { format!("-{idx:04}") };
                let name = format!("{folder}{id}-{:020}{number}.{ending}", to.0);
                files.push(Named { name, bytes });
            }
        }
        Ok((files, to))
    }
}

impl Folder {
    fn add(
        &mut self,
        sink: &FileSink,
        rows: &RecordBatch,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for begin in (0..rows.num_rows()).step_by(SLICE_ROWS) {
            let slice = rows.slice(begin, SLICE_ROWS.min(rows.num_rows() - begin));
            let encoder = match &mut self.current {
                Some(encoder) => encoder,
                None => self.current.insert(sink.encoding.encoder()?),
            };
            encoder.write(&slice)?;
            if encoder.n_bytes() >= sink.file_bytes {
                let encoder = self.current.take().expect("it was just written to");
                self.full.push(encoder.finish()?);
            }
        }
        Ok(())
    }
}

impl FileSink {
    /// One at a time looks at the destination or changes it: a writer that is dropped in the middle of that
    /// still ends what it has begun.
    fn turn(&self) -> Arc<tokio::sync::Mutex<()>> {
        static TURNS: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let name = format!("{}/{}", self.place.name(), self.id);
        if let Some(turn) = turns.get(&name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(name, Arc::downgrade(&turn));
        turn
    }

    /// Makes a group visible; gives what stands at the destination then.
    async fn commit(&self, group: Group, before: Progress) -> Result<Progress, ConnectorError> {
        let turn = self.turn();
        let _turn = turn.lock().await;
        let (files, to) = group.finish(self)?;
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let begun = Begun { to: to.0, files: names };
        let left_over: Vec<String> = match &before.writing {
            Some(earlier) => {
                earlier.files.iter().filter(|name| !begun.files.contains(name)).cloned().collect()
            }
            None => Vec::new(),
        };
        if !files.is_empty() && before.writing.as_ref() != Some(&begun) {
            // What an earlier one has begun is named until it is completed or gone.
            let mut named = begun.clone();
            named.files.extend(left_over.iter().cloned());
            self.write_progress(&Progress { reached: before.reached, writing: Some(named) }).await?;
            crash_point("file.begun");
        }
        for name in &left_over {
            self.place.delete(name).await?;
        }
        self.place.put_all(files).await?;
        crash_point("file.shown");
        let after = Progress { reached: to.0, writing: None };
        self.write_progress(&after).await?;
        Ok(after)
    }
}

impl FileWriter {
    fn broken(&self, error: &tokio::task::JoinError) -> ConnectorError {
        let message = format!("writing for sink \"{}\" broke off: {error}", self.sink.name);
        ConnectorError::fatal(SqlState::INTERNAL_ERROR, message)
    }

    async fn add(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let (sink, batch, mut group) = (self.sink.clone(), batch.clone(), std::mem::take(&mut self.group));
        // Encoding takes its time.
        let added = tokio::task::spawn_blocking(move || group.add(&sink, &batch).map(|()| group));
        self.group = added.await.map_err(|error| self.broken(&error))??;
        Ok(())
    }
}

#[async_trait]
impl SinkWriter for FileWriter {
    fn reached(&self) -> Option<Epoch> {
        Some(self.reached)
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        if self.commit.is_some() {
            self.flush().await?;
        }
        self.add(batch).await?;
        // What was begun before a crash is completed as it was begun, before anything else comes in.
        if self.progress.writing.as_ref().is_some_and(|begun| begun.to <= batch.to.0) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        if self.commit.is_none() {
            if self.group.to.is_none() {
                return Ok(());
            }
            let (sink, before) = (self.sink.clone(), self.progress.clone());
            let group = std::mem::take(&mut self.group);
            self.commit = Some(tokio::spawn(async move { sink.commit(group, before).await }));
        }
        let commit = self.commit.as_mut().expect("begun above, or before");
        let outcome = commit.await;
        self.commit = None;
        self.progress = outcome.map_err(|error| self.broken(&error))??;
        Ok(())
    }

    fn flush_at(&self) -> Option<Instant> {
        let since = self.group.since.filter(|_| !self.group.is_large(&self.sink))?;
        Some(since + self.sink.roll_interval)
    }
}
