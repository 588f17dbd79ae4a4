//! The parsed query, with what DataFusion does not plan written in what it does.
//!
//! Nothing is decided here that needs a type, except that of a literal: a number is `integer` where it fits, else
//! `bigint`, else `numeric`, and only the text still says which.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, ExactNumberInfo, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Interval, LimitClause,
    NamedWindowDefinition, NamedWindowExpr, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
    TableAlias, TableAliasColumnDef, TableFactor, TimezoneInfo, UnaryOperator, Value, ValueWithSpan,
    VisitMut, VisitorMut, WindowFrame, WindowFrameBound, WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidemill_core::SqlState;

use crate::naming::name_columns;
use crate::refusal::Refusal;

/// Rewrites a query and all that it holds.
pub fn rewrite_query(query: &mut Query) -> Result<(), Refusal> {
    match VisitMut::visit(query, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Rewrites an expression that stands alone.
pub fn rewrite_expr(expr: &mut Expr) -> Result<(), Refusal> {
    match VisitMut::visit(expr, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Functions whose result has the type of their arguments, so that a literal's type shows.
const POLYMORPHIC: &[&str] = &[
    "abs",
    "array_agg",
    "array_append",
    "array_cat",
    "array_fill",
    "array_position",
    "array_positions",
    "array_prepend",
    "array_remove",
    "array_replace",
    "avg",
    "coalesce",
    "first_value",
    "gcd",
    "generate_series",
    "greatest",
    "lag",
    "last_value",
    "lcm",
    "lead",
    "least",
    "max",
    "min",
    "mod",
    "mode",
    "nth_value",
    "nullif",
    "pg_typeof",
    "sum",
    "to_json",
    "to_jsonb",
    "json_build_array",
    "jsonb_build_array",
    "json_build_object",
    "jsonb_build_object",
];

/// Functions that give rows, and the function that gives those rows as one array.
const SET_RETURNING: &[(&str, &str)] = &[
    ("generate_series", "generate_series_array"),
    ("generate_subscripts", "generate_subscripts_array"),
    ("regexp_matches", "regexp_matches_array"),
    ("regexp_split_to_table", "regexp_split_to_array"),
    ("string_to_table", "string_to_array"),
    ("json_array_elements", "json_array_elements_array"),
    ("json_array_elements_text", "json_array_elements_text_array"),
    ("jsonb_array_elements", "jsonb_array_elements_array"),
    ("jsonb_array_elements_text", "jsonb_array_elements_text_array"),
    ("json_object_keys", "json_object_keys_array"),
    ("jsonb_object_keys", "jsonb_object_keys_array"),
];

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        // The columns of a subquery have PostgreSQL's names for the query around it, too.
        name_columns(query);
        match fetch_to_limit(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        narrow_outputs(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        // Before its parts are looked at: a negated number is one literal, and binds tighter than a power.
        if let Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } = expr
            && let Expr::BinaryOp { left, op: BinaryOperator::PGExp, right } = operand.as_mut()
        {
            let base = Expr::UnaryOp { op: UnaryOperator::Minus, expr: take(left) };
            *expr = Expr::BinaryOp { left: Box::new(base), op: BinaryOperator::PGExp, right: take(right) };
        }
        if let Expr::UnaryOp { op: UnaryOperator::Not, expr: operand } = expr
            && has_row_subquery(operand)
        {
            return ControlFlow::Break(not_in_rows());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        match rewritten(expr) {
            Ok(Some(replacement)) => *expr = replacement,
            Ok(None) => (),
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        if let Some(replacement) = rows_of_function(factor) {
            *factor = replacement;
        }
        ControlFlow::Continue(())
    }
}

fn rewritten(expr: &mut Expr) -> Result<Option<Expr>, Refusal> {
    Ok(Some(match expr {
        Expr::Interval(interval) => match interval_text(interval) {
            Some(text) => cast(string(text), interval_type()),
            None => return Ok(None),
        },
        Expr::AtTimeZone { timestamp, time_zone } => {
            call("timezone", vec![take_expr(time_zone), take_expr(timestamp)])
        }
        Expr::Extract { field, expr, .. } => {
            let field = match field {
                DateTimeField::Custom(ident) => ident.value.to_lowercase(),
                other => other.to_string().to_lowercase().trim_matches('\'').to_owned(),
            };
            // Only these have digits behind the point.
            let is_fractional = ["second", "millisecond", "epoch", "julian"]
                .iter()
                .any(|unit| field.trim_end_matches('s') == *unit);
            let function = if is_fractional { "extract" } else { "extract_field" };
            call(function, vec![string(field), take_expr(expr)])
        }
        Expr::UnaryOp { op, expr } => {
            let function = match op {
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::BitwiseNot => {
                    let all = cast(
                        Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number_literal(1)) },
                        DataType::SmallInt(None),
                    );
                    let operand = nested(narrowed(take_expr(expr)));
                    return Ok(Some(nested(operation(operand, BinaryOperator::PGBitwiseXor, all))));
                }
                _ => return Ok(None),
            };
            call(function, vec![narrowed(take_expr(expr))])
        }
        Expr::BinaryOp { left, op, right } => return Ok(binary(left, op, right)),
        Expr::InList { expr, list, negated } => {
            let Expr::Tuple(left) = expr.as_ref() else { return Ok(None) };
            let mut rows = Vec::new();
            for item in list.iter() {
                let Expr::Tuple(right) = item else { return Ok(None) };
                rows.push(nested(rows_equal(left, right)?));
            }
            let any = rows.into_iter().reduce(|a, b| operation(a, BinaryOperator::Or, b));
            let any = nested(any.expect("a list has items"));
            if *negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) } } else { any }
        }
        Expr::InSubquery { expr, subquery, negated } => {
            let Expr::Tuple(left) = expr.as_ref() else { return Ok(None) };
            if *negated {
                return Err(not_in_rows());
            }
            row_in_subquery(left, subquery)?
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let escape = escape_of(escape_char.as_ref());
            let (Some(pattern), Some(escape)) = (literal_text(pattern), escape) else {
                return Err(unsupported_pattern("SIMILAR TO"));
            };
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            nested(operation(nested(take_expr(expr)), op, string(similar_to_regex(&pattern, escape))))
        }
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let Some(escape) = escape_char.take() else { return Ok(None) };
            let (Some(text), Some(escape)) = (literal_text(pattern), escape_of(Some(&escape))) else {
                return Err(unsupported_pattern("LIKE with ESCAPE"));
            };
            **pattern = string(with_backslashes(&text, escape));
            return Ok(None);
        }
        Expr::Function(function) => return Ok(function_call(function)),
        Expr::Case { conditions, else_result, .. } => {
            for when in conditions {
                when.result = narrowed(when.result.clone());
            }
            if let Some(result) = else_result {
                **result = narrowed(take_expr(result));
            }
            return Ok(None);
        }
        Expr::Array(array) => {
            for element in &mut array.elem {
                *element = narrowed(element.clone());
            }
            return Ok(None);
        }
        Expr::Value(ValueWithSpan { value: Value::UnicodeStringLiteral(text), .. }) => string(text.clone()),
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
            let hex = digits.to_lowercase();
            // What exact numbers do not hold is a floating-point one.
            let exponent = hex.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
            if exponent.is_some_and(|exponent| exponent.abs() > 30) {
                return Ok(Some(cast(string(hex), DataType::DoublePrecision)));
            }
            // More than a `bigint` holds, except what a minus sign in front makes fit.
            if (19..=38).contains(&hex.len())
                && hex.parse::<i64>().is_err()
                && hex.parse::<u128>().is_ok_and(|n| n != 1 << 63)
            {
                return Ok(Some(cast(
                    string(hex),
                    DataType::Numeric(ExactNumberInfo::PrecisionAndScale(38, 0)),
                )));
            }
            let Some(hex) = hex.strip_prefix("0x") else { return Ok(None) };
            let Ok(number) = i64::from_str_radix(hex, 16) else { return Ok(None) };
            number_literal(number)
        }
        _ => return Ok(None),
    }))
}

fn binary(left: &mut Expr, op: &BinaryOperator, right: &mut Expr) -> Option<Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    match (&*left, &*right) {
        (Expr::Tuple(a), Expr::Tuple(b)) if a.len() == b.len() && !a.is_empty() => {
            let compared = match op {
                Eq => rows_equal(a, b).ok()?,
                NotEq => {
                    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(rows_equal(a, b).ok()?)) }
                }
                Lt | LtEq | Gt | GtEq => rows_compared(a, op, b),
                _ if op.to_string().eq_ignore_ascii_case("overlaps") => overlaps(a, b)?,
                _ => return None,
            };
            return Some(nested(compared));
        }
        _ => (),
    }
    match op {
        BinaryOperator::PGStartsWith => Some(call("starts_with", vec![left.clone(), right.clone()])),
        BinaryOperator::PGOverlap => Some(call("array_has_any", vec![left.clone(), right.clone()])),
        BinaryOperator::PGExp => Some(call("power", vec![left.clone(), right.clone()])),
        _ => None,
    }
}

/// `(a, b) = (c, d)`: equal where all are, NULL where that is not known.
fn rows_equal(left: &[Expr], right: &[Expr]) -> Result<Expr, Refusal> {
    if left.len() != right.len() {
        return Err(Refusal {
            sqlstate: SqlState::SYNTAX_ERROR,
            message: "unequal number of entries in row expressions".into(),
            hint: None,
            near: None,
        });
    }
    let pairs = left.iter().zip(right);
    let equal = pairs.map(|(a, b)| operation(nested(a.clone()), BinaryOperator::Eq, nested(b.clone())));
    Ok(equal.reduce(|a, b| operation(a, BinaryOperator::And, b)).expect("a row has columns"))
}

/// `(a, b) < (c, d)` as `a < c OR a = c AND b < d`.
fn rows_compared(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Expr {
    let (a, b) = (nested(left[0].clone()), nested(right[0].clone()));
    if left.len() == 1 {
        return operation(a, op.clone(), b);
    }
    let strict = match op {
        BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::Gt,
        op => op.clone(),
    };
    let rest = nested(rows_compared(&left[1..], op, &right[1..]));
    let tied = operation(operation(a.clone(), BinaryOperator::Eq, b.clone()), BinaryOperator::And, rest);
    operation(operation(a, strict, b), BinaryOperator::Or, nested(tied))
}

/// `(s1, e1) OVERLAPS (s2, e2)`, each pair in either order, and ends that are not part of their span.
fn overlaps(left: &[Expr], right: &[Expr]) -> Option<Expr> {
    let ([s1, e1], [s2, e2]) = (left, right) else { return None };
    let end = |start: &Expr, end: &Expr| match end {
        Expr::Interval(_) => nested(operation(start.clone(), BinaryOperator::Plus, end.clone())),
        Expr::Cast { data_type: DataType::Interval { .. }, .. } => {
            nested(operation(start.clone(), BinaryOperator::Plus, end.clone()))
        }
        _ => end.clone(),
    };
    let (e1, e2) = (end(s1, e1), end(s2, e2));
    let first = |a: &Expr, b: &Expr| call("least", vec![a.clone(), b.clone()]);
    let last = |a: &Expr, b: &Expr| call("greatest", vec![a.clone(), b.clone()]);
    let below = |a, b| operation(a, BinaryOperator::Lt, b);
    let meet = operation(first(s1, &e1), BinaryOperator::Eq, first(s2, &e2));
    let cross = operation(
        below(first(s1, &e1), last(s2, &e2)),
        BinaryOperator::And,
        below(first(s2, &e2), last(s1, &e1)),
    );
    Some(operation(nested(meet), BinaryOperator::Or, nested(cross)))
}

/// `(a, b) IN (SELECT …)` as `EXISTS`, which is as good where only true counts.
fn row_in_subquery(left: &[Expr], subquery: &Query) -> Result<Expr, Refusal> {
    let names: Vec<String> = (0..left.len()).map(|idx| format!("row_{idx}")).collect();
    let outer: Vec<Expr> = left.to_vec();
    let columns: Vec<Expr> = names
        .iter()
        .map(|name| Expr::CompoundIdentifier(vec![Ident::new("row_in"), Ident::new(name)]))
        .collect();
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM ({subquery}) AS row_in ({}) WHERE {})",
        names.join(", "),
        rows_equal(&columns, &outer)?
    );
    let query = parsed(&sql).ok_or_else(not_in_rows)?;
    let SetExpr::Select(select) = *query.body else { return Err(not_in_rows()) };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(exists)) => Ok(exists),
        _ => Err(not_in_rows()),
    }
}

fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        Expr::Nested(inner) => literal_text(inner),
        _ => None,
    }
}

/// The escape character: a backslash, unless another is named or, with `''`, none.
fn escape_of(escape: Option<&ValueWithSpan>) -> Option<Option<char>> {
    match escape {
        None => Some(Some('\\')),
        Some(value) => {
            let text = value.value.clone().into_string()?;
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (escape, None) => Some(escape),
                _ => None,
            }
        }
    }
}

fn unsupported_pattern(what: &str) -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: format!("{what} is supported for a constant pattern and one character as ESCAPE"),
        hint: Some("Use ~ with a regular expression.".into()),
        near: None,
    }
}

/// A pattern of LIKE with another escape character, escaped by backslashes.
fn with_backslashes(pattern: &str, escape: Option<char>) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                text.push('\\');
                text.extend(chars.next());
            }
            '\\' => text.push_str("\\\\"),
            c => text.push(c),
        }
    }
    text
}

/// The regular expression of a pattern of SIMILAR TO, which matches a whole text.
fn similar_to_regex(pattern: &str, escape: Option<char>) -> String {
    let mut regex = String::from("^(?:");
    let mut in_set = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                if let Some(escaped) = chars.next() {
                    if !escaped.is_alphanumeric() {
                        regex.push('\\');
                    }
                    regex.push(escaped);
                }
            }
            '[' | ']' => {
                in_set = c == '[';
                regex.push(c);
            }
            c if in_set => regex.push(c),
            '%' => regex.push_str("(?s:.*)"),
            '_' => regex.push_str("(?s:.)"),
            '.' | '^' | '$' | '\\' => {
                regex.push('\\');
                regex.push(c);
            }
            c => regex.push(c),
        }
    }
    regex.push_str(")$");
    regex
}

fn has_row_subquery(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => has_row_subquery(inner),
        Expr::InSubquery { expr, .. } => matches!(expr.as_ref(), Expr::Tuple(_)),
        Expr::BinaryOp { left, right, .. } => has_row_subquery(left) || has_row_subquery(right),
        _ => false,
    }
}

fn not_in_rows() -> Refusal {
    Refusal {
        sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
        message: "NOT over a comparison of rows with a subquery is not supported".into(),
        hint: Some(
            "Write NOT EXISTS (SELECT 1 FROM … WHERE a = … AND b = …), which treats NULLs as unequal.".into(),
        ),
        near: Some("not".into()),
    }
}

/// A frame's bound is read as it was written, before there are types.
fn keep_bounds(frame: &mut WindowFrame) {
    let bounds = std::iter::once(&mut frame.start_bound).chain(frame.end_bound.as_mut());
    for bound in bounds {
        let (WindowFrameBound::Preceding(Some(offset)) | WindowFrameBound::Following(Some(offset))) = bound
        else {
            continue;
        };
        if let Expr::Cast { expr, data_type: DataType::Interval { .. }, .. } = offset.as_mut()
            && let Expr::Value(_) = expr.as_ref()
        {
            **offset = Expr::Interval(Interval {
                value: take(expr),
                leading_field: None,
                leading_precision: None,
                last_field: None,
                fractional_seconds_precision: None,
            });
        }
    }
}

/// `OVER (w ORDER BY x)` with what the window `w` is defined as.
fn spell_out_windows(select: &mut Select) {
    struct Windows(Vec<(String, WindowSpec)>);
    impl VisitorMut for Windows {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && let Some(WindowType::WindowSpec(spec)) = &mut function.over
                && let Some(name) = &spec.window_name
                && let Some((_, named)) = self.0.iter().find(|(known, _)| *known == name.value.to_lowercase())
            {
                spec.window_name = named.window_name.clone();
                if spec.partition_by.is_empty() {
                    spec.partition_by = named.partition_by.clone();
                }
                if spec.order_by.is_empty() {
                    spec.order_by = named.order_by.clone();
                }
                if spec.window_frame.is_none() {
                    spec.window_frame = named.window_frame.clone();
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut windows = Vec::new();
    for NamedWindowDefinition(name, definition) in &mut select.named_window {
        if let NamedWindowExpr::WindowSpec(spec) = definition {
            spec.window_frame.iter_mut().for_each(keep_bounds);
            windows.push((name.value.to_lowercase(), spec.clone()));
        }
    }
    if !windows.is_empty() {
        let _ = VisitMut::visit(&mut select.projection, &mut Windows(windows));
    }
}

fn function_call(function: &mut Function) -> Option<Expr> {
    if let Some(WindowType::WindowSpec(spec)) = &mut function.over {
        spec.window_frame.iter_mut().for_each(keep_bounds);
    }
    let [ObjectNamePart::Identifier(ident)] = &function.name.0[..] else { return None };
    let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
    if POLYMORPHIC.contains(&name.as_str())
        && let FunctionArguments::List(list) = &mut function.args
    {
        for arg in &mut list.args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg {
                *expr = narrowed(expr.clone());
            }
        }
    }
    if function.over.is_none()
        && let Some((_, array)) = SET_RETURNING.iter().find(|(set, _)| *set == name)
    {
        let mut array_call = function.clone();
        array_call.name = ObjectName::from(vec![Ident::new(*array)]);
        return Some(call("unnest", vec![Expr::Function(array_call)]));
    }
    let arguments = || match &function.args {
        FunctionArguments::List(list) => positional(&list.args),
        _ => Some(Vec::new()),
    };
    match name.as_str() {
        // The clock of DataFusion has nanoseconds; ours and PostgreSQL's has microseconds.
        "now" | "current_timestamp" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp" => {
            Some(cast(call("now", Vec::new()), timestamp_type(true)))
        }
        "localtimestamp" => Some(cast(call("now", Vec::new()), timestamp_type(false))),
        "localtime" => Some(cast(call("now", Vec::new()), DataType::Time(None, TimezoneInfo::None))),
        "mod" => {
            let arguments = arguments()?;
            let [a, b] = &arguments[..] else { return None };
            Some(nested(operation(nested(a.clone()), BinaryOperator::Modulo, nested(b.clone()))))
        }
        // PostgreSQL's other name for the same.
        "ceiling" | "every" | "variance" | "gen_random_uuid" | "array_remove" | "array_replace"
        | "date_part" => {
            let other = match name.as_str() {
                // DataFusion's own of these names do less: the first element only, and no fractions.
                "array_remove" => "array_remove_all",
                "array_replace" => "array_replace_all",
                "date_part" => "date_part_of",
                "ceiling" => "ceil",
                "every" => "bool_and",
                "variance" => "var_samp",
                _ => "uuid",
            };
            let mut renamed = function.clone();
            renamed.name = ObjectName::from(vec![Ident::new(other)]);
            let renamed = Expr::Function(renamed);
            Some(if other == "uuid" { cast(renamed, DataType::Uuid) } else { renamed })
        }
        // DataFusion counts in unsigned numbers.
        "cardinality" | "array_position" | "array_ndims" | "array_upper" | "array_lower" | "regexp_count"
        | "regexp_instr" => Some(cast(Expr::Function(function.clone()), DataType::Int(None))),
        // An empty array has no length.
        "array_length" => {
            let length = call("nullif", vec![Expr::Function(function.clone()), number_literal(0)]);
            Some(cast(length, DataType::Int(None)))
        }
        "make_interval" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let mut fields: Vec<Expr> = (0..7).map(|_| number_literal(0)).collect();
            const NAMES: [&str; 7] = ["years", "months", "weeks", "days", "hours", "mins", "secs"];
            for (idx, arg) in list.args.iter().enumerate() {
                let (idx, value) = match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (idx, value),
                    FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                        let named = name.value.to_lowercase();
                        (NAMES.iter().position(|known| *known == named)?, value)
                    }
                    _ => return None,
                };
                *fields.get_mut(idx)? = value.clone();
            }
            Some(call("make_interval", fields)).filter(|replacement| {
                // Unchanged when it is full already, or it would be made again and again.
                *replacement != Expr::Function(function.clone())
            })
        }
        // Who asked for the rows of a function by unnest() has them already.
        "unnest" => match &arguments()?[..] {
            [Expr::Function(inner)] if inner.name == function.name => Some(Expr::Function(inner.clone())),
            _ => None,
        },
        "timezone" => {
            let arguments = arguments()?;
            (arguments.len() == 1).then(|| call("timezone", vec![string("UTC"), arguments[0].clone()]))
        }
        _ => None,
    }
}

fn positional(args: &[FunctionArg]) -> Option<Vec<Expr>> {
    args.iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect()
}

/// A function in FROM that gives rows, as UNNEST of the function that gives an array.
fn rows_of_function(factor: &mut TableFactor) -> Option<TableFactor> {
    let (name, args, alias, with_ordinality) = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            (name, &args.args, alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            (name, &*args, alias, *with_ordinality)
        }
        TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } => {
            for array in array_exprs.iter_mut() {
                if let Expr::Array(array) = array {
                    array.elem.iter_mut().for_each(|element| *element = narrowed(element.clone()));
                }
            }
            // `unnest(x) AS t` has a column t.
            if let Some(alias) = alias
                && alias.columns.is_empty()
                && array_exprs.len() == 1
                && !*with_ordinality
            {
                alias.columns.push(column(alias.name.clone()));
            }
            return None;
        }
        _ => return None,
    };
    let [ObjectNamePart::Identifier(ident)] = &name.0[..] else { return None };
    let function = ident.value.to_lowercase();
    let args: Vec<Expr> = positional(args)?.into_iter().map(narrowed).collect();
    if function == "unnest" {
        let mut alias = alias.clone();
        if let Some(alias) = &mut alias
            && alias.columns.is_empty()
            && args.len() == 1
            && !with_ordinality
        {
            alias.columns.push(column(alias.name.clone()));
        }
        return Some(unnest(args, alias, with_ordinality));
    }
    let (_, array) = SET_RETURNING.iter().find(|(set, _)| *set == function)?;
    // The rows of a function have the name of its alias, or else of itself.
    let mut alias = alias.clone().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(&function),
        columns: Vec::new(),
        at: None,
    });
    if alias.columns.is_empty() {
        let own = match function.as_str() {
            name if name.contains("array_elements") => Ident::new("value"),
            _ => alias.name.clone(),
        };
        alias.columns.push(column(own));
        if with_ordinality {
            alias.columns.push(column(Ident::new("ordinality")));
        }
    }
    Some(unnest(vec![call(array, args)], Some(alias), with_ordinality))
}

fn unnest(array_exprs: Vec<Expr>, alias: Option<TableAlias>, with_ordinality: bool) -> TableFactor {
    TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality }
}

fn column(name: Ident) -> TableAliasColumnDef {
    TableAliasColumnDef { name, data_type: None }
}

/// `FETCH FIRST n ROWS ONLY` as `LIMIT n`.
fn fetch_to_limit(query: &mut Query) -> Result<(), Refusal> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        let what = if fetch.percent { "PERCENT" } else { "WITH TIES" };
        return Err(Refusal {
            sqlstate: SqlState::FEATURE_NOT_SUPPORTED,
            message: format!("FETCH FIRST … {what} is not supported"),
            hint: Some("Use rank() OVER (ORDER BY …) in a subquery, and a bound on it.".into()),
            near: Some("fetch".into()),
        });
    }
    let quantity = fetch.quantity.unwrap_or_else(|| number_literal(1));
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, .. }) => *limit = Some(quantity),
        clause => {
            *clause =
                Some(LimitClause::LimitOffset { limit: Some(quantity), offset: None, limit_by: Vec::new() });
        }
    }
    Ok(())
}

/// The types of literals that are columns of a result.
fn narrow_outputs(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            spell_out_windows(select);
            narrow_projection(select);
        }
        SetExpr::SetOperation { left, right, .. } => {
            narrow_outputs(left);
            narrow_outputs(right);
        }
        SetExpr::Values(values) => {
            // A long list is an INSERT's, whose columns have their own types; a cast for each would only cost.
            const ROWS_MAX: usize = 64;
            adopt_types(&mut values.rows.iter_mut().map(|row| &mut row.content[..]).collect::<Vec<_>>());
            if values.rows.len() <= ROWS_MAX {
                for row in &mut values.rows {
                    row.content.iter_mut().for_each(|value| *value = narrowed(value.clone()));
                }
            }
        }
        _ => (),
    }
}

/// In a column of VALUES, strings without a type have that of a cast in the same column.
fn adopt_types(rows: &mut [&mut [Expr]]) {
    let n_columns = rows.first().map_or(0, |row| row.len());
    for column in 0..n_columns {
        let declared = rows.iter().find_map(|row| match row.get(column) {
            Some(Expr::Cast { data_type, .. }) => Some(data_type.clone()),
            Some(Expr::TypedString(typed)) => Some(typed.data_type.clone()),
            _ => None,
        });
        let Some(declared) = declared else { continue };
        for row in rows.iter_mut() {
            if let Some(value) = row.get_mut(column)
                && matches!(
                    value,
                    Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_) | Value::Null, .. })
                )
            {
                *value = cast(value.clone(), declared.clone());
            }
        }
    }
}

fn narrow_projection(select: &mut Select) {
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                *expr = narrowed(expr.clone());
            }
            _ => (),
        }
    }
}

/// A literal number that fits, as `integer`.
fn narrowed(expr: Expr) -> Expr {
    let digits = match &expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => digits.replace('_', ""),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => {
                format!("-{}", digits.replace('_', ""))
            }
            _ => return expr_of(expr.as_ref(), UnaryOperator::Minus),
        },
        Expr::Nested(inner) => return narrowed(inner.as_ref().clone()).into_nested(),
        _ => return expr,
    };
    match digits.parse::<i32>() {
        Ok(_) => cast(expr, DataType::Int(None)),
        Err(_) => expr,
    }
}

fn expr_of(operand: &Expr, op: UnaryOperator) -> Expr {
    Expr::UnaryOp { op, expr: Box::new(operand.clone()) }
}

trait IntoNested {
    fn into_nested(self) -> Expr;
}

impl IntoNested for Expr {
    fn into_nested(self) -> Expr {
        Expr::Nested(Box::new(self))
    }
}

/// The text of an interval literal with its fields, in words that the type's input understands.
fn interval_text(interval: &Interval) -> Option<String> {
    let Expr::Value(ValueWithSpan { value, .. }) = interval.value.as_ref() else { return None };
    let text = match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => text.clone(),
        Value::DollarQuotedString(text) => text.value.clone(),
        Value::Number(digits, _) => digits.clone(),
        _ => return None,
    };
    let is_plain = text.trim().parse::<f64>().is_ok();
    let words = match (&interval.leading_field, &interval.last_field) {
        (None, _) => text,
        (Some(field), None) if is_plain => format!("{text} {field}"),
        // `'1:30' MINUTE TO SECOND` has no hours.
        (Some(DateTimeField::Minute), Some(_)) if text.matches(':').count() == 1 => format!("00:{text}"),
        // `'3 4' DAY TO HOUR`
        (Some(DateTimeField::Day), Some(DateTimeField::Hour)) if !text.contains(':') => {
            let (days, hours) = text.trim().split_once(' ')?;
            format!("{days} days {hours} hours")
        }
        _ => text,
    };
    Some(words)
}

fn interval_type() -> DataType {
    DataType::Interval { fields: None, precision: None }
}

fn timestamp_type(zoned: bool) -> DataType {
    DataType::Timestamp(None, if zoned { TimezoneInfo::WithTimeZone } else { TimezoneInfo::None })
}

fn parsed(sql: &str) -> Option<Box<Query>> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).ok()?.parse_query().ok()
}

pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn operation(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn nested(expr: Expr) -> Expr {
    match expr {
        Expr::Nested(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) => expr,
        other => Expr::Nested(Box::new(other)),
    }
}

fn string(text: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.into()).into())
}

fn number_literal(number: i64) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).into())
}

fn take(expr: &mut Box<Expr>) -> Box<Expr> {
    Box::new(take_expr(expr))
}

fn take_expr(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}
