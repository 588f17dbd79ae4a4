//! `pg_subquery(kind, query, outer…)`: a subquery of a catalog query, run once for each set of outer values.
//!
//! DataFusion plans a correlated subquery only where it can turn it into a join, which excludes most of what
//! `psql` sends: `ARRAY(SELECT …)`, a scalar subquery without an aggregate, outer columns in its SELECT list. The
//! definition of a correlated subquery is a loop, and over a catalog a loop is fast enough. In `query` the
//! outer values are called [`outer_name`]; it can name system relations only.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::sql::sqlparser::ast::{Expr, Query, VisitorMut};
use tidemill_core::SqlState;
use tidemill_sql::{DeltaError, Names, Planner, QueryPlan, Refusal, Resolved};

use crate::pg_catalog::PgCatalog;
use crate::pg_catalog::functions::{columnar, functions, rows_of};
use crate::pg_catalog::rewrite::{call, string};
use crate::pg_catalog::value::{Value, list_of};
use crate::pgwire::types::PG_TYPE;
use crate::session::api::SqlError;

/// The function's name.
pub const SUBQUERY: &str = "pg_subquery";

/// What the `idx`th outer value is called in the query.
pub fn outer_name(idx: usize) -> String {
    format!("__outer_{idx}")
}

/// The system relations alone, as a planner asks for them.
impl Names for PgCatalog {
    fn resolve(&self, schema: Option<&str>, name: &str) -> std::result::Result<Option<Resolved>, Refusal> {
        Ok(self.table(schema, name).map(Resolved::Table))
    }
}

pub struct Subquery {
    pg: Arc<PgCatalog>,
    signature: Signature,
    /// Made at the first call, as its functions have this one among them.
    planner: OnceLock<Planner>,
    /// What calls return, by their query and the types of the outer values: planning asks for it again and again.
    fields: Mutex<HashMap<String, FieldRef>>,
    /// What calls have returned, by their query and the outer values: the snapshot is one and the same for all of them, and a recursive
    /// query asks again in each of its rounds.
    results: Mutex<HashMap<String, Value>>,
}

/// What becomes of the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Scalar,
    Array,
    Exists,
}

impl Subquery {
    pub fn new(pg: &Arc<PgCatalog>) -> Subquery {
        Subquery {
            pg: pg.clone(),
            signature: Signature::new(TypeSignature::VariadicAny, Volatility::Stable),
            planner: OnceLock::new(),
            fields: Mutex::default(),
            results: Mutex::default(),
        }
    }

    fn planner(&self) -> &Planner {
        self.planner.get_or_init(|| {
            Planner::with_text(1, Arc::new(crate::pgwire::text_format::PostgresText))
                .with_functions(functions(&self.pg))
        })
    }

    async fn plan(&self, query: &Query, outer: &[Expr]) -> Result<QueryPlan> {
        let mut query = query.clone();
        let _ = tidemill_sql::visit::walk_mut(&mut query, &mut Outer { values: outer });
        self.planner().plan_query(&query, self.pg.as_ref()).await.map_err(|error| match error {
            DeltaError::Refused(refusal) => DataFusionError::External(Box::new(SqlError::from(refusal))),
            DeltaError::DataFusion(error) => error,
        })
    }

    async fn run(&self, kind: Kind, query: &Query, row: &[Value], types: &[DataType]) -> Result<Value> {
        let outer: Result<Vec<Expr>> =
            row.iter().zip(types).map(|(value, data_type)| literal(value, data_type)).collect();
        let plan = self.plan(query, &outer?).await?;
        let batches = DataFrame::new(plan.state, plan.plan).collect().await?;
        let mut values = Vec::new();
        for batch in &batches {
            for row_idx in 0..batch.num_rows() {
                values.push(Value::of(batch.column(0).as_ref(), row_idx)?);
            }
        }
        Ok(match (kind, values.len()) {
            (Kind::Exists, n_rows) => Value::Bool(n_rows > 0),
            (Kind::Array, _) => Value::List(values),
            (Kind::Scalar, 0) => Value::Null,
            (Kind::Scalar, 1) => values.remove(0),
            (Kind::Scalar, _) => {
                return Err(DataFusionError::External(Box::new(SqlError::new(
                    SqlState("21000"),
                    "more than one row returned by a subquery used as an expression",
                ))));
            }
        })
    }
}

impl std::fmt::Debug for Subquery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subquery")
    }
}

impl PartialEq for Subquery {
    fn eq(&self, other: &Subquery) -> bool {
        Arc::ptr_eq(&self.pg, &other.pg)
    }
}

impl Eq for Subquery {}

impl Hash for Subquery {
    fn hash<H: Hasher>(&self, state: &mut H) {
        SUBQUERY.hash(state);
    }
}

impl ScalarUDFImpl for Subquery {
    fn name(&self) -> &str {
        SUBQUERY
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        plan_err!("the type of {SUBQUERY} depends on its query")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let constants: Vec<Option<Value>> = args
            .scalar_arguments
            .iter()
            .map(|scalar| scalar.map(Value::of_scalar).transpose())
            .collect::<Result<_>>()?;
        let (Some(Some(kind)), Some(Some(sql))) = (constants.first(), constants.get(1)) else {
            return plan_err!("{SUBQUERY} takes a kind and a query");
        };
        let (kind, query) = parsed(kind, sql)?;
        if kind == Kind::Exists {
            return Ok(Arc::new(Field::new("exists", DataType::Boolean, true)));
        }
        let types: Vec<&DataType> = args.arg_fields[2..].iter().map(|field| field.data_type()).collect();
        let key = format!("{kind:?} {types:?} {sql:?}");
        if let Some(known) = self.fields.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let outer: Vec<Expr> = types.into_iter().map(null_of).collect();
        let plan = blocking(self.plan(&query, &outer))?;
        let field = plan.plan.schema().field(0).clone();
        let data_type = match field.data_type() {
            DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            other => other.clone(),
        };
        let field = Arc::new(match kind {
            Kind::Array => {
                let array = Field::new("array", list_of(data_type), true);
                match field.metadata().get(PG_TYPE) {
                    Some(item) => array.with_metadata([(PG_TYPE.to_owned(), format!("_{item}"))].into()),
                    None => array,
                }
            }
            _ => field.as_ref().clone().with_data_type(data_type).with_nullable(true),
        });
        self.fields.lock().unwrap_or_else(PoisonError::into_inner).insert(key, field.clone());
        Ok(field)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = rows_of(&args)?;
        let Some(first) = rows.first() else { return columnar(&args, &[]) };
        let (kind, query) = parsed(&first[0], &first[1])?;
        let types: Vec<DataType> =
            args.arg_fields[2..].iter().map(|field| field.data_type().clone()).collect();
        let values = blocking(async {
            let results = || self.results.lock().unwrap_or_else(PoisonError::into_inner);
            let mut values = Vec::with_capacity(rows.len());
            for row in &rows {
                let key = format!("{row:?}");
                let known = results().get(&key).cloned();
                let value = match known {
                    Some(value) => value,
                    None => {
                        let value = self.run(kind, &query, &row[2..], &types).await?;
                        results().insert(key, value.clone());
                        value
                    }
                };
                values.push(value);
            }
            Ok(values)
        })?;
        columnar(&args, &values)
    }
}

fn parsed(kind: &Value, sql: &Value) -> Result<(Kind, Query)> {
    let (Value::Text(kind), Value::Text(sql)) = (kind, sql) else {
        return exec_err!("{SUBQUERY} takes a kind and a query");
    };
    let kind = match kind.as_str() {
        "array" => Kind::Array,
        "exists" => Kind::Exists,
        _ => Kind::Scalar,
    };
    let query = tidemill_sql::parser::parse_query(sql)
        .map_err(|error| DataFusionError::External(Box::new(SqlError::from(error))))?;
    Ok((kind, *query))
}

/// Runs to the end on a thread of its own: the caller is inside of a poll, where waiting would hold up, and
/// tokio's budget might never let finish, whatever is waited for.
fn blocking<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    const STACK_BYTES: usize = 8 << 20;
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("catalog".into()).stack_size(STACK_BYTES);
        let worker = worker
            .spawn_scoped(scope, || tokio::runtime::Builder::new_current_thread().build()?.block_on(work))?;
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Puts values where the query names outer ones.
struct Outer<'a> {
    values: &'a [Expr],
}

impl VisitorMut for Outer<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr
            && let Some(number) = ident.value.strip_prefix("__outer_")
            && let Some(value) = number.parse().ok().and_then(|idx: usize| self.values.get(idx))
        {
            *expr = value.clone();
        }
        ControlFlow::Continue(())
    }
}

/// NULL of a type.
fn null_of(data_type: &DataType) -> Expr {
    match data_type {
        DataType::Null => Expr::value(datafusion::sql::sqlparser::ast::Value::Null),
        data_type => call(
            "arrow_cast",
            vec![Expr::value(datafusion::sql::sqlparser::ast::Value::Null), string(&data_type.to_string())],
        ),
    }
}

/// A value as SQL has it, of exactly its type.
fn literal(value: &Value, data_type: &DataType) -> Result<Expr> {
    use datafusion::sql::sqlparser::ast;
    let number = |text: String| Expr::value(ast::Value::Number(text, false));
    let plain = match (value, data_type) {
        (Value::Null, _) => return Ok(null_of(data_type)),
        (Value::Bool(value), _) => return Ok(Expr::value(ast::Value::Boolean(*value))),
        (Value::Text(text), _) => return Ok(string(text)),
        (Value::Int(value), DataType::Int64) if *value >= 0 => return Ok(number(value.to_string())),
        (Value::List(values), DataType::List(item)) => {
            let items: Result<Vec<Expr>> =
                values.iter().map(|value| literal(value, item.data_type())).collect();
            call("make_array", items?)
        }
        (value, data_type) => match value.scalar(data_type)? {
            scalar @ ScalarValue::TimestampMicrosecond(..) => {
                string(&scalar.cast_to(&DataType::Utf8)?.to_string())
            }
            _ => string(&value.text().unwrap_or_default()),
        },
    };
    Ok(call("arrow_cast", vec![plain, string(&data_type.to_string())]))
}
