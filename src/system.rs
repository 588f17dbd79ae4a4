//! System relations: what runs, as rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use tidemill_catalog::{Catalog, Kind, Object};
use tidemill_engine::{EngineStatus, OperatorStatus, PipelineStatus, StateSize};

use crate::audit::{Audit, Record};
use crate::session::api::SqlError;

/// All of them, but for `tm_dead_letters`, which is a table.
const NAMES: [&str; 11] = [
    "tm_sources",
    "tm_splits",
    "tm_tables",
    "tm_pipelines",
    "tm_operators",
    "tm_state",
    "tm_sinks",
    "tm_jobs",
    "tm_epochs",
    "tm_secrets",
    AUDIT_LOG,
];

/// What clients have done.
pub const AUDIT_LOG: &str = "tm_audit_log";

pub fn is_system_relation(name: &str) -> bool {
    NAMES.contains(&name) || name == "tm_dead_letters"
}

/// The rows of some system relations.
pub fn tables(
    names: &BTreeSet<String>,
    status: &EngineStatus,
    catalog: &Catalog,
    audit: &Audit,
) -> Result<BTreeMap<String, Arc<dyn TableProvider>>, SqlError> {
    let table = |name: &String| -> Result<(String, Arc<dyn TableProvider>), SqlError> {
        let rows = match name.as_str() {
            AUDIT_LOG => audited(&audit.records()),
            "tm_secrets" => secrets(catalog),
            _ => rows(name, status),
        };
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(SqlError::from_datafusion)?;
        Ok((name.clone(), Arc::new(table)))
    };
    names.iter().map(table).collect()
}

fn rows(name: &str, status: &EngineStatus) -> RecordBatch {
    match name {
        "tm_sources" => {
            let s = &status.sources;
            Columns::default()
                .int("oid", s.iter().map(|s| Some(i64::from(s.id.0))))
                .text("name", s.iter().map(|s| Some(s.name.clone())))
                .text("state", s.iter().map(|s| Some(s.state.name().into())))
                .time("since", s.iter().map(|s| s.since))
                .text("reason", s.iter().map(|s| s.state.reason().map(str::to_owned)))
                .int("rows", s.iter().map(|s| Some(s.rows as i64)))
                .int("bytes", s.iter().map(|s| Some(s.bytes as i64)))
                .int("bad_records", s.iter().map(|s| Some(s.bad_records as i64)))
                .time("watermark", s.iter().map(|s| s.watermark.filter(|w| *w != i64::MAX)))
                .int("splits", s.iter().map(|s| Some(s.splits.len() as i64)))
                .text(
                    "last_error",
                    s.iter().map(|s| s.state.error().map(str::to_owned).or_else(|| s.last_error.clone())),
                )
                .finish()
        }
        "tm_splits" => {
            let s: Vec<_> = status
                .sources
                .iter()
                .flat_map(|source| source.splits.iter().map(move |split| (source, split)))
                .collect();
            Columns::default()
                .text("source", s.iter().map(|(source, _)| Some(source.name.clone())))
                .text("split", s.iter().map(|(_, split)| Some(split.id.clone())))
                .text("offset", s.iter().map(|(_, split)| Some(split.offset.clone())))
                .text(
                    "state",
                    s.iter().map(|(_, s)| Some(if s.is_finished { "FINISHED" } else { "READING" }.into())),
                )
                .finish()
        }
        "tm_tables" => {
            let t = &status.tables;
            Columns::default()
                .int("oid", t.iter().map(|t| Some(i64::from(t.id.0))))
                .text("name", t.iter().map(|t| Some(t.name.clone())))
                .int("epoch", t.iter().map(|t| Some(t.epoch.0 as i64)))
                .int("rows", t.iter().map(|t| Some(t.rows)))
                .int("state_bytes", t.iter().map(|t| Some(t.state.bytes as i64)))
                .finish()
        }
        "tm_pipelines" => pipelines(&status.pipelines.iter().collect::<Vec<_>>()).finish(),
        "tm_operators" => operators(status),
        "tm_state" => state(status),
        "tm_sinks" => {
            let s = &status.sinks;
            pipelines(&s.iter().map(|sink| &sink.pipeline).collect::<Vec<_>>())
                .int("rows_delivered", s.iter().map(|s| Some(s.rows_delivered as i64)))
                .int("rows_refused", s.iter().map(|s| Some(s.rows_refused as i64)))
                .int("rows_pending", s.iter().map(|s| Some(s.rows_pending as i64)))
                .int("bytes_pending", s.iter().map(|s| Some(s.bytes_pending as i64)))
                .int("pending_ms", s.iter().map(|s| s.pending_for.map(|age| age.as_millis() as i64)))
                .int("delivered_epoch", s.iter().map(|s| Some(s.delivered_to.0 as i64)))
                .int("retries", s.iter().map(|s| Some(s.retries as i64)))
                .text("last_error", s.iter().map(|s| s.last_error.clone()))
                .finish()
        }
        "tm_jobs" => {
            let jobs = &status.jobs;
            Columns::default()
                .int("id", jobs.iter().map(|job| Some(job.id as i64)))
                .text("object", jobs.iter().map(|job| Some(job.object.clone())))
                .text("job", jobs.iter().map(|job| Some(job.kind.name().into())))
                .text("state", jobs.iter().map(|job| Some(job.state.name().into())))
                .int("rows_done", jobs.iter().map(|job| Some(job.rows_done as i64)))
                .int("rows_total", jobs.iter().map(|job| job.rows_total.map(|n| n as i64)))
                .time("started_at", jobs.iter().map(|job| Some(job.started)))
                .time("ended_at", jobs.iter().map(|job| job.ended))
                .time("eta", jobs.iter().map(|job| job.eta))
                .text("error", jobs.iter().map(|job| job.state.error().map(str::to_owned)))
                .finish()
        }
        _ => {
            let mut relations: Vec<(String, &'static str, u64)> = Vec::new();
            relations.push(("".into(), "database", status.epoch.0));
            relations.extend(status.pipelines.iter().map(|p| (p.name.clone(), "pipeline", p.epoch.0)));
            relations
                .extend(status.sinks.iter().map(|s| (s.pipeline.name.clone(), "sink", s.pipeline.epoch.0)));
            relations.extend(status.tables.iter().map(|t| (t.name.clone(), "table", t.epoch.0)));
            Columns::default()
                .text("kind", relations.iter().map(|r| Some(r.1.into())))
                .text("name", relations.iter().map(|r| (!r.0.is_empty()).then(|| r.0.clone())))
                .int("epoch", relations.iter().map(|r| Some(r.2 as i64)))
                .int(
                    "epochs_behind",
                    relations.iter().map(|r| Some(status.epoch.0.saturating_sub(r.2) as i64)),
                )
                .finish()
        }
    }
}

/// Without what they hold.
fn secrets(catalog: &Catalog) -> RecordBatch {
    let s: Vec<_> = catalog.objects_of(Kind::Secret).collect();
    let used_by = |secret: &Object| {
        let names = catalog.dependents(secret.oid).map(|object| object.describe());
        names.collect::<Vec<_>>().join(", ")
    };
    Columns::default()
        .int("oid", s.iter().map(|s| Some(i64::from(s.oid))))
        .text("schema", s.iter().map(|s| Some(s.schema.clone())))
        .text("name", s.iter().map(|s| Some(s.name.clone())))
        .text("owner", s.iter().map(|s| Some(s.owner.clone())))
        .time("created_at", s.iter().map(|s| Some(s.created_at)))
        .text("used_by", s.iter().map(|s| Some(used_by(s)).filter(|names| !names.is_empty())))
        .finish()
}

fn audited(a: &[Record]) -> RecordBatch {
    Columns::default()
        .time("at", a.iter().map(|a| Some(a.at)))
        .text("user", a.iter().map(|a| Some(a.user.clone())))
        .text("role", a.iter().map(|a| Some(a.role.clone())))
        .text("address", a.iter().map(|a| a.address.map(|address| address.to_string())))
        .text("action", a.iter().map(|a| Some(a.action.into())))
        .text("statement", a.iter().map(|a| a.statement.clone()))
        .text("sqlstate", a.iter().map(|a| Some(a.sqlstate.clone())))
        .text("message", a.iter().map(|a| a.message.clone()))
        .finish()
}

/// A row for each lane of each operator.
fn operators(status: &EngineStatus) -> RecordBatch {
    let all = status.pipelines.iter().chain(status.sinks.iter().map(|sink| &sink.pipeline));
    let o: Vec<_> = all
        .flat_map(|p| p.operators.iter().map(move |operator| (p, operator)))
        .flat_map(|(p, o)| o.lanes.iter().enumerate().map(move |(lane, status)| (p, o, lane, status)))
        .collect();
    Columns::default()
        .int("oid", o.iter().map(|(p, ..)| Some(i64::from(p.id.0))))
        .text("name", o.iter().map(|(p, ..)| Some(p.name.clone())))
        .text("operator_id", o.iter().map(|(_, o, ..)| Some(o.id.clone())))
        .text("operator", o.iter().map(|(_, o, ..)| Some(o.display.clone())))
        .int("lane", o.iter().map(|(_, _, lane, _)| Some(*lane as i64)))
        .int("steps", o.iter().map(|(.., s)| Some(s.steps as i64)))
        .int("rows_in", o.iter().map(|(.., s)| Some(s.rows_in as i64)))
        .int("rows_out", o.iter().map(|(.., s)| Some(s.rows_out as i64)))
        .int("time_us", o.iter().map(|(.., s)| Some((s.nanos / 1000) as i64)))
        .int("state_rows", o.iter().map(|(.., s)| Some(s.state_rows as i64)))
        .int("state_bytes", o.iter().map(|(.., s)| Some(s.state_bytes as i64)))
        .finish()
}

/// A row for each lane of each operator, each view, each table and each index that is used: how much it keeps, and where.
fn state(status: &EngineStatus) -> RecordBatch {
    struct Row<'a> {
        oid: u32,
        name: &'a str,
        operator: Option<(&'a OperatorStatus, usize)>,
        kind: &'static str,
        size: StateSize,
        bound: Option<&'static str>,
    }
    let mut rows: Vec<Row> = Vec::new();
    for p in status.pipelines.iter().chain(status.sinks.iter().map(|sink| &sink.pipeline)) {
        for o in &p.operators {
            rows.extend(o.lanes.iter().enumerate().map(|(lane, status)| Row {
                oid: p.id.0,
                name: &p.name,
                operator: Some((o, lane)),
                kind: "operator",
                size: StateSize {
                    rows: status.state_rows,
                    bytes: status.state_bytes,
                    heap_bytes: status.state_heap_bytes,
                },
                bound: Some(o.bound),
            }));
        }
        let view = |size| Row { oid: p.id.0, name: &p.name, operator: None, kind: "view", size, bound: None };
        rows.extend(p.view.map(view));
    }
    rows.extend(status.tables.iter().map(|t| Row {
        oid: t.id.0,
        name: &t.name,
        operator: None,
        kind: "table",
        size: t.state,
        bound: None,
    }));
    let indexes = status.pipelines.iter().flat_map(|p| &p.indexes);
    rows.extend(indexes.chain(status.tables.iter().flat_map(|t| &t.indexes)).map(|index| Row {
        oid: index.id.0,
        name: &index.name,
        operator: None,
        kind: "index",
        size: index.state,
        bound: None,
    }));
    Columns::default()
        .int("oid", rows.iter().map(|row| Some(i64::from(row.oid))))
        .text("name", rows.iter().map(|row| Some(row.name.to_owned())))
        .text("kind", rows.iter().map(|row| Some(row.kind.to_owned())))
        .text("operator_id", rows.iter().map(|row| row.operator.map(|(o, _)| o.id.clone())))
        .text("operator", rows.iter().map(|row| row.operator.map(|(o, _)| o.display.clone())))
        .int("lane", rows.iter().map(|row| row.operator.map(|(_, lane)| lane as i64)))
        .int("rows", rows.iter().map(|row| Some(row.size.rows as i64)))
        .int("memory_bytes", rows.iter().map(|row| Some(row.size.heap_bytes as i64)))
        .int("disk_bytes", rows.iter().map(|row| Some((row.size.bytes - row.size.heap_bytes) as i64)))
        .text("bound", rows.iter().map(|row| row.bound.map(str::to_owned)))
        .finish()
}

fn pipelines(p: &[&PipelineStatus]) -> Columns {
    Columns::default()
        .int("oid", p.iter().map(|p| Some(i64::from(p.id.0))))
        .text("name", p.iter().map(|p| Some(p.name.clone())))
        .text("state", p.iter().map(|p| Some(p.state.name().into())))
        .time("since", p.iter().map(|p| p.since))
        .text("reason", p.iter().map(|p| p.state.reason().map(str::to_owned)))
        .int("dataflow", p.iter().map(|p| Some(p.dataflow as i64)))
        .int("epoch", p.iter().map(|p| Some(p.epoch.0 as i64)))
        .int("checkpoint_epoch", p.iter().map(|p| Some(p.checkpoint_epoch.0 as i64)))
        .int("steps", p.iter().map(|p| Some(p.steps as i64)))
        .int("rows_in", p.iter().map(|p| Some(p.rows_in as i64)))
        .int("rows_out", p.iter().map(|p| Some(p.rows_out as i64)))
        .int("late_rows", p.iter().map(|p| Some(p.late_rows as i64)))
        .int("state_bytes", p.iter().map(|p| Some(p.state_bytes as i64)))
        .int("memory_bytes", p.iter().map(|p| Some(p.memory_bytes as i64)))
        .int("memory_limit", p.iter().map(|p| Some(p.memory_limit as i64)))
        .text("memory_error", p.iter().map(|p| p.memory_error.clone()))
        .int("latency_p50_us", p.iter().map(|p| Some(p.latency.quantile(0.5).as_micros() as i64)))
        .int("latency_p99_us", p.iter().map(|p| Some(p.latency.quantile(0.99).as_micros() as i64)))
        .text("error", p.iter().map(|p| p.state.error().map(str::to_owned)))
}

/// Columns of a relation, one after the other.
#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Columns {
    fn push(mut self, name: &str, column: ArrayRef) -> Columns {
        self.fields.push(Field::new(name, column.data_type().clone(), true));
        self.columns.push(column);
        self
    }

    fn int(self, name: &str, values: impl Iterator<Item = Option<i64>>) -> Columns {
        self.push(name, Arc::new(values.collect::<Int64Array>()))
    }

    fn text(self, name: &str, values: impl Iterator<Item = Option<String>>) -> Columns {
        self.push(name, Arc::new(values.collect::<StringArray>()))
    }

    fn time(self, name: &str, values: impl Iterator<Item = Option<i64>>) -> Columns {
        let times = values.collect::<TimestampMicrosecondArray>();
        self.push(name, Arc::new(times))
    }

    fn finish(self) -> RecordBatch {
        RecordBatch::try_new(Arc::new(Schema::new(self.fields)), self.columns).expect("columns of one length")
    }
}
