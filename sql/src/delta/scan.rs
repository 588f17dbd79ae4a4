//! A relation is read as its changes.

use std::any::Any;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::{DFSchema, TableReference};
use datafusion::functions_table::generate_series::GenerateSeriesTable;
use datafusion::logical_expr::{Extension, LogicalPlan, TableScan};
use tidemill_plan::{IncrementalNode, Input, InputKind, Operator, Upsert};

use super::columns::{project, with_weight};
use super::constant::constant;
use super::expire::expiring;
use super::properties::project_columns;
use super::{Node, Result, Rewriter, internal};
use crate::refusal::Refusal;
use crate::relations::relation_of;

impl Rewriter {
    pub(super) fn table_scan(&mut self, scan: &TableScan) -> Result<Node> {
        let provider = source_as_provider(&scan.source)?;
        if is_series(provider.as_ref()) {
            return constant(&LogicalPlan::TableScan(scan.clone()));
        }
        let Some(relation) = relation_of(provider.as_ref()) else {
            return Err(Refusal::not_incremental(format!("the system relation \"{}\"", scan.table_name))
                .near(scan.table_name.table())
                .into());
        };
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(internal("a filter or limit was pushed into a relation"));
        }
        self.inputs.insert(relation.id);
        if relation.is_finite {
            self.explained.finite(relation.id);
        }
        let n_columns = relation.schema.fields().len();
        let wanted: Vec<usize> = scan.projection.clone().unwrap_or_else(|| (0..n_columns).collect());
        let node = |operator, inputs, schema| {
            LogicalPlan::Extension(Extension { node: Arc::new(IncrementalNode { operator, inputs, schema }) })
        };
        let project_properties = |columns: &[usize]| {
            project_columns(&relation.properties, &columns.iter().map(|c| Some(*c)).collect::<Vec<_>>())
        };
        if relation.kind != InputKind::Upsert {
            let input = Input {
                relation: relation.id,
                name: relation.name.clone(),
                projection: wanted.clone(),
                kind: relation.kind,
            };
            let schema = with_weight(&scan.projected_schema)?;
            return Ok(Node {
                plan: node(Operator::Input(input), Vec::new(), schema),
                properties: project_properties(&wanted),
            });
        }
        // A changelog by key is turned into a delta before anything else may look at it; that needs
        // the key, whether the query does or not.
        let mut columns = wanted.clone();
        columns.extend(relation.primary_key.iter().filter(|key| !wanted.contains(key)));
        let keys = relation
            .primary_key
            .iter()
            .map(|key| columns.iter().position(|column| column == key).expect("keys were added above"))
            .collect();
        let qualified = |field: &FieldRef| (Some(scan.table_name.clone()), field.clone());
        let fields: Vec<(Option<TableReference>, FieldRef)> =
            columns.iter().map(|column| qualified(&relation.schema.fields()[*column])).collect();
        let upserted = with_weight(&DFSchema::new_with_metadata(fields.clone(), Default::default())?)?;
        let mut sequenced = fields;
        sequenced.push((None, Arc::new(Field::new(tidemill_plan::SEQUENCE, DataType::Int64, false))));
        let sequenced = with_weight(&DFSchema::new_with_metadata(sequenced, Default::default())?)?;
        let input = Input {
            relation: relation.id,
            name: relation.name.clone(),
            projection: columns.clone(),
            kind: InputKind::Upsert,
        };
        let changelog = node(Operator::Input(input), Vec::new(), sequenced);
        let ttl = self.ttl_of(&LogicalPlan::TableScan(scan.clone()), &changelog)?;
        let upsert = node(Operator::Upsert(Upsert { keys, ttl }), vec![changelog], upserted);
        let n_kept = wanted.len();
        let kept = project(upsert, |fields| fields[..n_kept].to_vec())?;
        Ok(Node { plan: kept, properties: expiring(project_properties(&wanted), ttl) })
    }
}

/// `generate_series(…)` and `range(…)` in FROM, whose arguments are always constants.
fn is_series(provider: &dyn TableProvider) -> bool {
    (provider as &dyn Any).is::<GenerateSeriesTable>()
}
