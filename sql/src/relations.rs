//! What the planner needs to know of the relations that a query names.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemill_plan::{InputKind, Properties, RelationId};

/// A relation whose changes a pipeline can read.
#[derive(Debug, Clone)]
pub struct Relation {
    pub id: RelationId,
    pub name: String,
    pub schema: SchemaRef,
    pub kind: InputKind,
    /// For [`InputKind::Upsert`], the columns of the primary key.
    pub primary_key: Vec<usize>,
    pub properties: Properties,
    /// Whether it is stored, or ends: what is kept of it does not grow by itself.
    pub is_finite: bool,
}

/// Stands for a relation while a query is planned; it has no rows.
#[derive(Debug)]
pub struct RelationTable {
    pub relation: Relation,
}

#[async_trait]
impl TableProvider for RelationTable {
    fn schema(&self) -> SchemaRef {
        self.relation.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = &self.relation.name;
        Err(DataFusionError::Internal(format!("relation \"{name}\" was planned, but not rewritten")))
    }
}

/// The relation behind a table provider, if it is one of ours.
pub fn relation_of(provider: &dyn TableProvider) -> Option<&Relation> {
    (provider as &dyn Any).downcast_ref::<RelationTable>().map(|table| &table.relation)
}
