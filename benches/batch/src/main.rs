//! DataFusion by itself: a query over Parquet files, once, as a batch.
//!
//! ```text
//! cargo run --release -p tidemill-batch -- DIRECTORY QUERY.sql
//! ```
//!
//! Each folder of DIRECTORY is a table, and the Parquet files in it are its rows; reading them is a part of the query. Prints one
//! line of JSON: the rows of the answer and the seconds it took. This is what `benches/compare/run` holds Tidemill
//! against: the same DataFusion, with nothing of Tidemill's around it. It reads what DataFusion's own Parquet source would
//! read, that is the columns in use, strings as views, and tells the optimizer how many rows there are.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, stream};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

/// The allocator of the server, so that the two differ by what they do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What q13 joins with, and no file has.
const SIDE_INPUT: &str = "CREATE TABLE side_input AS \
    SELECT value AS key, concat('side ', CAST(value AS VARCHAR)) AS value FROM generate_series(0, 9999)";

/// A row group.
#[derive(Debug, Clone)]
struct Piece {
    path: Arc<Path>,
    metadata: ArrowReaderMetadata,
    idx: usize,
}

impl Piece {
    fn n_rows(&self) -> usize {
        self.metadata.metadata().row_group(self.idx).num_rows() as usize
    }

    fn open(&self, projection: &[usize], batch_rows: usize) -> Result<ParquetRecordBatchReader> {
        let file = File::open(&self.path)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), projection.iter().copied());
        builder
            .with_projection(mask)
            .with_row_groups(vec![self.idx])
            .with_batch_size(batch_rows)
            .build()
            .map_err(external)
    }
}

fn external(error: parquet::errors::ParquetError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The Parquet files of a folder.
#[derive(Debug)]
struct Files {
    schema: SchemaRef,
    pieces: Vec<Piece>,
}

impl Files {
    fn open(folder: &Path) -> Result<Files> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
        paths.sort();
        let mut schema = None;
        let mut pieces = Vec::new();
        for path in paths {
            let file = File::open(&path)?;
            let written = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(external)?;
            let read = schema.get_or_insert_with(|| with_views(written.schema()));
            let options = ArrowReaderOptions::new().with_schema(read.clone());
            let metadata =
                ArrowReaderMetadata::try_new(written.metadata().clone(), options).map_err(external)?;
            let path: Arc<Path> = path.into();
            pieces.extend((0..metadata.metadata().num_row_groups()).map(|idx| Piece {
                path: path.clone(),
                metadata: metadata.clone(),
                idx,
            }));
        }
        let schema = schema.ok_or_else(|| {
            DataFusionError::Execution(format!("there is no Parquet file in {}", folder.display()))
        })?;
        Ok(Files { schema, pieces })
    }

    /// Row groups of about as many rows for each partition.
    fn deal(&self, n_partitions: usize) -> Vec<Vec<Piece>> {
        let mut pieces = self.pieces.clone();
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.n_rows()));
        let mut partitions = vec![Vec::new(); n_partitions];
        for piece in pieces {
            let n_rows = |partition: &&mut Vec<Piece>| partition.iter().map(Piece::n_rows).sum::<usize>();
            partitions.iter_mut().min_by_key(n_rows).expect("there is a partition").push(piece);
        }
        partitions
    }
}

/// DataFusion reads strings of Parquet as views, which it compares and groups faster.
fn with_views(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = (0..self.schema.fields().len()).collect();
        let projection = projection.cloned().unwrap_or(all);
        let partitions = self.deal(state.config().target_partitions());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::new(self.schema.project(&projection)?)),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(Scan { projection, partitions, properties: Arc::new(properties) }))
    }

    fn statistics(&self) -> Option<Statistics> {
        let n_rows = self.pieces.iter().map(Piece::n_rows).sum();
        Some(Statistics::new_unknown(&self.schema).with_num_rows(Precision::Exact(n_rows)))
    }
}

/// Reads row groups.
#[derive(Debug)]
struct Scan {
    /// Ascending: Parquet gives columns in the order of the file.
    projection: Vec<usize>,
    partitions: Vec<Vec<Piece>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Scan: columns={:?}", self.projection)
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &str {
        "Scan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let batch_rows = context.session_config().batch_size();
        let projection = self.projection.clone();
        let batches = stream::iter(self.partitions[partition].clone()).flat_map({
            let schema = schema.clone();
            move |piece| match piece.open(&projection, batch_rows) {
                Ok(reader) => {
                    let schema = schema.clone();
                    // A projection of one column in another order than the file's does not occur.
                    let batch = move |batch: std::result::Result<arrow::array::RecordBatch, _>| {
                        Ok(batch?.with_schema(schema.clone())?)
                    };
                    stream::iter(reader.map(batch)).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let n_rows = |pieces: &Vec<Piece>| pieces.iter().map(Piece::n_rows).sum::<usize>();
        let n_rows = match partition {
            Some(partition) => n_rows(&self.partitions[partition]),
            None => self.partitions.iter().map(n_rows).sum(),
        };
        Ok(Arc::new(Statistics::new_unknown(&self.schema()).with_num_rows(Precision::Exact(n_rows))))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, query] = args.as_slice() else {
        eprintln!("usage: batch DIRECTORY QUERY.sql");
        std::process::exit(2);
    };
    let text = std::fs::read_to_string(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(16 << 20)
        .build()
        .expect("a runtime");
    let start = Instant::now();
    match runtime.block_on(runtime.spawn(run(PathBuf::from(directory), text))).expect("no panic") {
        Ok(n_rows) => println!("{{\"rows\": {n_rows}, \"seconds\": {:.6}}}", start.elapsed().as_secs_f64()),
        Err(error) => {
            eprintln!("batch: {query}: {error}");
            std::process::exit(1);
        }
    }
}

/// The number of rows that the answer has.
async fn run(directory: PathBuf, query: String) -> Result<usize> {
    let context = SessionContext::new_with_config(SessionConfig::new());
    for entry in std::fs::read_dir(&directory)? {
        let folder = entry?.path();
        if folder.is_dir() {
            let name = folder.file_name().expect("it is in a directory").to_string_lossy().into_owned();
            context.register_table(name, Arc::new(Files::open(&folder)?))?;
        }
    }
    if query.contains("side_input") {
        context.sql(SIDE_INPUT).await?.collect().await?;
    }
    let mut n_rows = 0;
    let plan = context.sql(&query).await?.create_physical_plan().await?;
    // All partitions at once, each dropped as it comes: the counterpart of a sink that takes everything.
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..plan.properties().partitioning.partition_count() {
        let mut batches = plan.execute(partition, context.task_ctx())?;
        tasks.spawn(async move {
            let mut n_rows = 0;
            while let Some(batch) = batches.next().await {
                n_rows += batch?.num_rows();
            }
            Ok::<usize, DataFusionError>(n_rows)
        });
    }
    while let Some(result) = tasks.join_next().await {
        n_rows += result.map_err(|error| DataFusionError::External(Box::new(error)))??;
    }
    Ok(n_rows)
}
