//! VALUES of nothing but literals and parameters: there is nothing to plan.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, UnaryOperator, Value};

use super::describe::param_idx;

/// The rows of a query, if they can be told without planning it. `targets` are the types of the columns that they are for.
/// They have the types that a plan would give them, but for numbers where floating point is wanted: these stay text, which is
/// read without a detour.
pub fn literal_rows(query: &Query, targets: &[DataType], params: &[ScalarValue]) -> Option<RecordBatch> {
    let SetExpr::Values(values) = query.body.as_ref() else { return None };
    let is_more = query.with.is_some()
        || query.order_by.is_some()
        || query.limit_clause.is_some()
        || query.fetch.is_some()
        || !query.locks.is_empty();
    let n_columns = values.rows.first()?.len();
    if is_more || n_columns == 0 || n_columns > targets.len() {
        return None;
    }
    let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(values.rows.len()); n_columns];
    for row in &values.rows {
        if row.len() != n_columns {
            return None;
        }
        for (idx, expr) in row.iter().enumerate() {
            columns[idx].push(literal(expr, &targets[idx], params)?);
        }
    }
    let columns = columns.into_iter().enumerate().map(|(idx, cells)| Some((idx.to_string(), array(cells)?)));
    RecordBatch::try_from_iter_with_nullable(
        columns.collect::<Option<Vec<_>>>()?.into_iter().map(|(name, array)| (name, array, true)),
    )
    .ok()
}

fn literal(expr: &Expr, target: &DataType, params: &[ScalarValue]) -> Option<ScalarValue> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(text, false) => number(text.clone(), target),
            Value::SingleQuotedString(text) => Some(ScalarValue::Utf8(Some(text.clone()))),
            Value::Boolean(value) => Some(ScalarValue::Boolean(Some(*value))),
            Value::Null => Some(ScalarValue::Null),
            Value::Placeholder(name) => params.get(param_idx(name)?).cloned(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(text, false) => number(format!("-{text}"), target),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn number(text: String, target: &DataType) -> Option<ScalarValue> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    // A number has no negative zero, which its text would be read as.
    if text.starts_with('-') && !text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        return None;
    }
    match target {
        DataType::Float32 | DataType::Float64 => is_plain.then_some(ScalarValue::Utf8(Some(text))),
        // The smallest type that holds it, as a plan has it.
        _ => match text.parse::<i32>() {
            Ok(number) => Some(ScalarValue::Int32(Some(number))),
            Err(_) => Some(ScalarValue::Int64(Some(text.parse().ok()?))),
        },
    }
}

/// One column; none if the cells are of different types.
fn array(cells: Vec<ScalarValue>) -> Option<ArrayRef> {
    let mut types: Vec<DataType> = cells.iter().map(ScalarValue::data_type).collect();
    types.sort();
    types.dedup();
    let of = match &types.iter().filter(|of| **of != DataType::Null).collect::<Vec<_>>()[..] {
        [of] => (*of).clone(),
        [DataType::Int32, DataType::Int64] => DataType::Int64,
        _ => return None,
    };
    let cells = cells.into_iter().map(|cell| cell.cast_to(&of)).collect::<Result<Vec<_>, _>>().ok()?;
    ScalarValue::iter_to_array(cells).ok()
}

#[cfg(test)]
mod tests {
    use tidemill_sql::parser::parse_query;

    use super::*;
    use crate::statements::testing::{on_a_runtime, open, run, try_run};

    #[test]
    fn literals_become_what_a_plan_makes_of_them() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path()).await;
            let types = [
                "bigint",
                "smallint",
                "double precision",
                "numeric(10, 2)",
                "text",
                "boolean",
                "timestamp",
                "bytea",
            ];
            let values = [
                "1",
                "-7",
                "40000",
                "-9223372036854775808",
                "9223372036854775808",
                "-2.25",
                "1e3",
                "'12'",
                "'abc'",
                "'2024-02-29 12:00:00.5'",
                "'\\xff00'",
                "true",
                "NULL",
                "1 + 1",
                "DEFAULT",
            ];
            for (idx, of) in types.iter().enumerate() {
                run(&mut session, &format!("CREATE TABLE t{idx} (x {of}, y bigint)")).await;
                for value in values {
                    // The second row shows what a column becomes that is not all literals of one kind.
                    for other in ["NULL", "2"] {
                        let rows = format!("VALUES ({value}, 1), ({other}, 2)");
                        let mut outcomes = Vec::new();
                        for source in [rows.clone(), format!("SELECT * FROM ({rows}) AS v (x, y)")] {
                            // DEFAULT has a meaning in VALUES only.
                            let source =
                                source.replace("DEFAULT", if source == rows { "DEFAULT" } else { "NULL" });
                            let inserted =
                                try_run(&mut session, &format!("INSERT INTO t{idx} {source}")).await;
                            outcomes.push(match inserted {
                                Ok(_) => {
                                    Ok(run(&mut session, &format!("SELECT x FROM t{idx} ORDER BY y")).await)
                                }
                                Err(error) => Err(error.sqlstate),
                            });
                            run(&mut session, &format!("TRUNCATE t{idx}")).await;
                        }
                        assert_eq!(outcomes[0], outcomes[1], "{of}: {rows}");
                    }
                }
            }
        });
    }

    #[test]
    fn what_has_to_be_planned_is_not_taken() {
        let rows = |sql: &str, targets: &[DataType], params: &[ScalarValue]| {
            literal_rows(&parse_query(sql).unwrap(), targets, params)
        };
        let two = [DataType::Int64, DataType::Utf8];
        let taken = rows("VALUES (1, 'a'), ($1, NULL)", &two, &[ScalarValue::Int64(Some(7))]).unwrap();
        assert_eq!((taken.num_rows(), taken.num_columns()), (2, 2));
        for sql in [
            "VALUES (1, 'a'), (2)",
            "VALUES (1, 'a'), ('b', 'c')",
            "VALUES (1, lower('A'))",
            "VALUES (1, 'a', 3)",
            "VALUES (1, 'a') LIMIT 1",
            "VALUES (1, 'a') ORDER BY 1",
            "VALUES ($1, 'a')",
            "VALUES (1, NULL)",
            "VALUES (1.5, 'a')",
            "SELECT 1, 'a'",
        ] {
            assert!(rows(sql, &two, &[]).is_none(), "{sql}");
        }
    }
}
