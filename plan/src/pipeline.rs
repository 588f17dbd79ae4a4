//! A planned pipeline.

use std::fmt;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use serde::{Deserialize, Serialize};

use crate::explain::ExplainedNode;
use crate::operator::CloseSource;

/// A relation of the catalog, by its OID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelationId(pub u32);

impl fmt::Display for RelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What holds for the rows of a plan at every epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// No row is ever retracted.
    pub is_append_only: bool,
    /// Sets of columns of which no two rows agree in all. The empty set says: at most one row.
    pub unique_keys: Vec<Vec<usize>>,
    /// For each column, when its values are complete; empty where they never are.
    pub closes: Vec<Vec<CloseSource>>,
}

/// A query as an incremental plan.
#[derive(Debug, Clone)]
pub struct PipelinePlan {
    /// Over deltas; the last column of every node is its weight.
    pub delta_plan: LogicalPlan,
    /// The result's columns.
    pub schema: SchemaRef,
    pub properties: Properties,
    /// The relations it reads, each once.
    pub inputs: Vec<RelationId>,
    /// Joins that compare every pair of rows, each as EXPLAIN shows it.
    pub cross_joins: Vec<String>,
    /// What EXPLAIN says of it.
    pub explained: ExplainedNode,
}
