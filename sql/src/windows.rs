//! `TUMBLE`, `HOP`, `CUMULATE` and `SESSION` in FROM, rewritten to subqueries that add `window_start` and `window_end`.
//!
//! ```sql
//! FROM TUMBLE(bid, date_time, INTERVAL '10 seconds' [, offset]) AS b
//! FROM HOP(bid, date_time, INTERVAL '2 seconds' /*slide*/, INTERVAL '10 seconds' /*size*/ [, offset]) AS b
//! FROM CUMULATE(bid, date_time, INTERVAL '1 hour' /*step*/, INTERVAL '1 day' /*size*/ [, offset]) AS b
//! FROM SESSION(bid, date_time, INTERVAL '5 minutes' /*gap*/ [, key, …]) AS b
//! ```
//!
//! A window holds its start, not its end. Both are ordinary columns afterwards, so that a window can be
//! grouped by, joined on and filtered like anything else; the delta rewrite recognises them by
//! the expressions made here when it derives what a watermark completes.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, TableAlias, TableFactor,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemill_core::SqlState;

use crate::parser::row_pattern::ROWS_OF;
use crate::refusal::Refusal;

/// Rewrites every window function in a FROM clause of `query`.
pub fn rewrite_windows(query: &mut Query) -> Result<(), Refusal> {
    match crate::visit::walk_mut(query, &mut WindowRewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct WindowRewriter;

impl VisitorMut for WindowRewriter {
    type Break = Refusal;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        match rewritten(factor) {
            Ok(Some(subquery)) => *factor = subquery,
            Ok(None) => (),
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        ControlFlow::Continue(())
    }
}

fn rewritten(factor: &TableFactor) -> Result<Option<TableFactor>, Refusal> {
    if let Some(subquery) = rows_of_subquery(factor) {
        return Ok(Some(subquery));
    }
    let TableFactor::Table { name, alias, args: Some(args), .. } = factor else { return Ok(None) };
    let [ObjectNamePart::Identifier(function)] = &name.0[..] else { return Ok(None) };
    let function = function.value.to_lowercase();
    let usage = match function.as_str() {
        "tumble" => "TUMBLE(relation, time_column, size [, offset])",
        "hop" => "HOP(relation, time_column, slide, size [, offset])",
        "cumulate" => "CUMULATE(relation, time_column, step, size [, offset])",
        "session" => "SESSION(relation, time_column, gap [, key_column, …])",
        _ => return Ok(None),
    };
    let wrong = |what: String| Refusal {
        sqlstate: SqlState::WINDOWING,
        message: what,
        hint: Some(format!("Write {usage}, for example with INTERVAL '10 seconds'.")),
        near: Some(function.clone()),
    };
    let args = args.args.iter().map(plain).collect::<Option<Vec<&Expr>>>();
    let args =
        args.ok_or_else(|| wrong(format!("the arguments of {} are not named", function.to_uppercase())))?;
    let (relation, time, slide, size, offset) = match (&function[..], &args[..]) {
        ("tumble", [relation, time, size]) => (relation, time, size, size, None),
        ("tumble", [relation, time, size, offset]) => (relation, time, size, size, Some(offset)),
        ("session", [relation, time, gap, ..]) => (relation, time, gap, gap, None),
        ("hop" | "cumulate", [relation, time, slide, size]) => (relation, time, slide, size, None),
        ("hop" | "cumulate", [relation, time, slide, size, offset]) => {
            (relation, time, slide, size, Some(offset))
        }
        _ => {
            return Err(wrong(format!("{} does not take {} arguments", function.to_uppercase(), args.len())));
        }
    };
    let Some(relation) = relation_name(relation) else {
        return Err(wrong(format!(
            "the first argument of {} names a relation, not \"{relation}\"",
            function.to_uppercase()
        )));
    };
    for duration in [Some(slide), Some(size), offset].into_iter().flatten() {
        if !matches!(duration, Expr::Interval(_)) {
            return Err(wrong(format!("\"{duration}\" is not an interval")));
        }
    }
    if let (Some(slide_micros), Some(size_micros)) = (interval_micros(slide), interval_micros(size))
        && (slide_micros <= 0 || size_micros % slide_micros != 0)
    {
        return Err(Refusal {
            sqlstate: SqlState::INVALID_PARAMETER,
            message: match function.as_str() {
                "hop" => format!("the window size {size} is not a multiple of the slide {slide}"),
                "cumulate" => format!("the window size {size} is not a multiple of the step {slide}"),
                _ => format!("the window size {size} is not positive"),
            },
            hint: Some("Choose a size that the slide or step divides.".into()),
            near: Some(function.clone()),
        });
    }
    let (before, after) = match offset {
        Some(offset) => (format!("({time} - {offset})"), format!(" + {offset}")),
        None => (time.to_string(), String::new()),
    };
    let sql = if function == "session" {
        let keys = args[3..].iter().map(|key| key.to_string()).collect::<Vec<_>>().join(", ");
        let partition = if keys.is_empty() { String::new() } else { format!("PARTITION BY {keys} ") };
        format!(
            "SELECT *, session_start({time}, {size}) OVER ({partition}ORDER BY {time}) AS window_start, \
             session_end({time}, {size}) OVER ({partition}ORDER BY {time}) AS window_end \
             FROM {relation} WHERE {time} IS NOT NULL"
        )
    } else if function == "cumulate" {
        format!(
            "SELECT *, date_bin({size}, {before}){after} AS window_start, \
             unnest(cumulate_ends({slide}, {size}, {before})){after} AS window_end FROM {relation}"
        )
    } else if function == "tumble" {
        format!(
            "SELECT *, date_bin({size}, {before}){after} AS window_start, \
             date_bin({size}, {before}){after} + {size} AS window_end FROM {relation}"
        )
    } else {
        format!(
            "SELECT *, window_start + {size} AS window_end FROM \
             (SELECT *, unnest(hop_starts({slide}, {size}, {before})){after} AS window_start FROM {relation}) \
             AS windowed"
        )
    };
    let query = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(&sql)
        .and_then(|mut parser| parser.parse_query())
        .map_err(|error| wrong(error.to_string()))?;
    let default_alias = || TableAlias {
        explicit: true,
        name: match relation.0.last() {
            Some(ObjectNamePart::Identifier(ident)) => ident.clone(),
            _ => Ident::new(&function),
        },
        columns: Vec::new(),
        at: None,
    };
    Ok(Some(TableFactor::Derived {
        lateral: false,
        subquery: query,
        alias: Some(alias.clone().unwrap_or_else(default_alias)),
        sample: None,
    }))
}

/// The subquery that the parser has made the argument of a function, for MATCH_RECOGNIZE to stand behind it.
fn rows_of_subquery(factor: &TableFactor) -> Option<TableFactor> {
    let TableFactor::Table { name, alias, args: Some(args), .. } = factor else { return None };
    let ([ObjectNamePart::Identifier(function)], [arg]) = (&name.0[..], &args.args[..]) else { return None };
    let Some(Expr::Subquery(subquery)) = plain(arg).filter(|_| function.value == ROWS_OF) else {
        return None;
    };
    Some(TableFactor::Derived {
        lateral: false,
        subquery: subquery.clone(),
        alias: alias.clone(),
        sample: None,
    })
}

fn plain(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn relation_name(expr: &Expr) -> Option<ObjectName> {
    match expr {
        Expr::Identifier(ident) => Some(ObjectName::from(vec![ident.clone()])),
        Expr::CompoundIdentifier(idents) => Some(ObjectName::from(idents.clone())),
        _ => None,
    }
}

/// The length of a simple interval, for checks before planning.
fn interval_micros(expr: &Expr) -> Option<i64> {
    let Expr::Interval(interval) = expr else { return None };
    let text = match &*interval.value {
        Expr::Value(value) => value.value.clone().into_string()?,
        _ => return None,
    };
    let text = match &interval.leading_field {
        Some(field) => format!("{text} {field}"),
        None => text,
    };
    let mut micros = 0;
    let mut words = text.split_whitespace();
    while let Some(count) = words.next() {
        let count: i64 = count.parse().ok()?;
        let unit = match words.next()?.to_lowercase().trim_end_matches('s') {
            "microsecond" => 1,
            "millisecond" => 1000,
            "second" | "sec" => 1_000_000,
            "minute" | "min" => 60_000_000,
            "hour" => 3_600_000_000,
            "day" => 86_400_000_000,
            _ => return None,
        };
        micros += count * unit;
    }
    Some(micros)
}
