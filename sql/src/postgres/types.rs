//! Type names in expressions, which are those of column definitions.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;

use crate::types::parse_type;

/// Plans `CAST(x AS type)` with the types that `CREATE TABLE` has.
///
/// So a timestamp is of microseconds, in a cast as in a column, and `json`, `uuid` and `varchar(n)` are told apart from
/// text by the field's metadata.
#[derive(Debug)]
pub(crate) struct PostgresTypes;

impl TypePlanner for PostgresTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        match parse_type(&sql_type.to_string()) {
            Ok(mut column_type) => {
                // Said, since a cast keeps what its operand was declared as: the text of a jsonb is no jsonb.
                if column_type.data_type == DataType::Utf8 && column_type.pg_type.is_none() {
                    let is_varchar =
                        matches!(sql_type, ast::DataType::Varchar(_) | ast::DataType::CharacterVarying(_));
                    column_type.pg_type = Some(if is_varchar { "character varying" } else { "text" }.into());
                }
                Ok(Some(Arc::new(column_type.field("", true))))
            }
            // A name that nobody knows is the user's; what is left is DataFusion's own.
            Err(error) if matches!(sql_type, ast::DataType::Custom(..)) => {
                Err(DataFusionError::External(Box::new(error)))
            }
            Err(_) => Ok(None),
        }
    }
}
