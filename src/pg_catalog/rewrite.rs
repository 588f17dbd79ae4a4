//! Catalog queries, in the SQL that DataFusion plans.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, JoinConstraint,
    JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, Subscript, TableAlias,
    TableFactor, TableFunctionArgs, Value, Visitor, VisitorMut,
};
use tidemill_sql::column_name;

use crate::pg_catalog::PgCatalog;
use crate::pg_catalog::functions::is_known;
use crate::pg_catalog::layout::{self, LAYOUTS};
use crate::pg_catalog::subquery::{SUBQUERY, outer_name};
use crate::session::api::SqlError;

/// Whether a query names a system relation, or a function or type of `pg_catalog` that DataFusion has not. Only
/// such a query may be given to [`rewrite`].
pub fn is_catalog_query(query: &Query) -> bool {
    tidemill_sql::visit::walk(query, &mut Detector).is_break()
}

struct Detector;

impl Visitor for Detector {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let names = names_of(relation);
        let is_catalog = match names.as_slice() {
            [name] => layout::find(None, name).is_some() || is_known(name),
            [.., schema, _] => is_system_schema(schema),
            [] => false,
        };
        if is_catalog { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let is_catalog = match expr {
            Expr::Function(function) => match names_of(&function.name).as_slice() {
                [name] => is_known(name),
                [schema, _] => is_system_schema(schema),
                _ => false,
            },
            Expr::Cast { data_type, .. } => matches!(mapped(data_type), Some(Mapped::Reg { .. })),
            Expr::BinaryOp { op: BinaryOperator::PGCustomBinaryOperator(_), .. } => true,
            Expr::Identifier(ident) => keyword_function(ident).is_some(),
            _ => false,
        };
        if is_catalog { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Functions that are written without parentheses; as words they are reserved, so no column has the name.
fn keyword_function(ident: &Ident) -> Option<&'static str> {
    const NAMES: [&str; 6] =
        ["current_schema", "current_catalog", "current_user", "current_role", "session_user", "user"];
    let is_it = |name: &&&str| ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(name);
    NAMES.iter().find(is_it).copied()
}

fn is_system_schema(name: &str) -> bool {
    name == "pg_catalog" || name == "information_schema"
}

/// The parts of a name, folded.
pub fn names_of(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(|part| part.as_ident().map(folded)).collect()
}

pub fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Replaces what DataFusion cannot plan. See the module's remarks on where this may be used.
pub fn rewrite(query: &mut Query, catalog: &PgCatalog) -> Result<(), SqlError> {
    // Nothing of the snapshot is needed yet: names are looked up when the functions run.
    let _ = catalog;
    let mut rewriter = Rewriter::default();
    match tidemill_sql::visit::walk_mut(query, &mut rewriter) {
        ControlFlow::Break(error) => return Err(error),
        ControlFlow::Continue(()) => (),
    }
    show_names(&mut query.body);
    Ok(())
}

/// In the result, `regclass` and its kin are shown by name.
fn show_names(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                    to_reg_text(expr);
                }
            }
        }
        SetExpr::Query(query) => show_names(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            show_names(left);
            show_names(right);
        }
        _ => (),
    }
}

/// `pg_regclass_oid(x)` becomes `pg_regclass_text(x)`, also in a `coalesce`. Whether it was one.
fn to_reg_text(expr: &mut Expr) -> bool {
    if let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr
        && names_of(name) == ["coalesce"]
    {
        return list.args.iter_mut().fold(false, |was_one, arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => to_reg_text(arg) | was_one,
            _ => was_one,
        });
    }
    if let Expr::Function(function) = expr
        && let [name] = names_of(&function.name).as_slice()
        && let Some(kind) = name.strip_prefix("pg_reg").and_then(|kind| kind.strip_suffix("_oid"))
    {
        function.name = object_name(&format!("pg_reg{kind}_text"));
        return true;
    }
    false
}

/// A call of a function.
pub fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: object_name(name),
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

/// A literal.
pub fn string(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_owned()))
}

fn number(value: i64) -> Expr {
    Expr::value(Value::Number(value.to_string(), false))
}

fn object_name(name: &str) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))])
}

fn string_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text.clone()),
            _ => None,
        },
        Expr::Nested(expr) => string_of(expr),
        Expr::Cast { expr, data_type, .. } if matches!(mapped(data_type), Some(Mapped::Text)) => {
            string_of(expr)
        }
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => {
            Some(string_of(left)? + &string_of(right)?)
        }
        _ => None,
    }
}

#[derive(Default)]
struct Rewriter {
    /// What the relations of each SELECT around are called.
    scopes: Vec<Vec<Relation>>,
}

impl VisitorMut for Rewriter {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        name_items(select);
        split_unnest(select);
        join_unnest(select);
        qualify_using(select);
        self.scopes.push(relations_of(select));
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        self.scopes.pop();
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                let _ = tidemill_sql::visit::walk_mut(expr, &mut ExistsToCall);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        if let TableFactor::Table { name, alias: alias @ None, args: None, .. } = factor
            && let [.., schema, table] = names_of(name).as_slice()
            && is_system_schema(schema)
        {
            let name = Ident::with_quote('"', table);
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        if let Some(replaced) = table_of_function(factor) {
            *factor = replaced;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        if let Expr::CompoundFieldAccess { root, access_chain } = expr
            && let Some(replaced) = element_access(root, access_chain)
        {
            *expr = replaced;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let replaced = match expr {
            Expr::Identifier(ident) => keyword_function(ident).map(|name| call(name, Vec::new())),
            Expr::Case { operand: Some(operand), conditions, .. } if is_bool_column(operand) => {
                conditions.iter_mut().for_each(|when| to_bool(&mut when.condition));
                None
            }
            Expr::Collate { expr, .. } => Some(std::mem::replace(expr.as_mut(), Expr::value(Value::Null))),
            Expr::BinaryOp { left, op, right } => binary(left, op, right),
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                unescape(pattern, escape_char);
                None
            }
            Expr::Function(function) => function_of(function),
            Expr::Cast { expr, data_type, kind, .. } => cast(expr, data_type, kind),
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => in_list(left, right, false),
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => in_list(left, right, true),
            Expr::Subquery(query) => correlated("scalar", query, false),
            Expr::CompoundIdentifier(idents) => self.system_column(idents).or_else(|| unqualified(idents)),
            Expr::CompoundFieldAccess { root, access_chain } => field_access(root, access_chain),
            _ => None,
        };
        if let Some(replaced) = replaced {
            *expr = replaced;
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter {
    /// `c.tableoid` and its kin, which are no columns here.
    fn system_column(&self, idents: &[Ident]) -> Option<Expr> {
        let [.., qualifier, column] = idents else { return None };
        let column = folded(column);
        if !["tableoid", "xmin", "ctid"].contains(&column.as_str()) {
            return None;
        }
        let qualifier = folded(qualifier);
        let relation =
            self.scopes.iter().rev().flatten().find(|relation| relation.name.as_ref() == Some(&qualifier))?;
        let layout = relation.layout?;
        Some(match column.as_str() {
            "tableoid" => number(layout.oid.into()),
            "xmin" => string("1"),
            _ => string("(0,1)"),
        })
    }
}

/// Gives each unnamed item of a SELECT list the name that PostgreSQL would, so that what is around can
/// use it after the item was rewritten; a name twice gets a number, as DataFusion wants them unique.
fn name_items(select: &mut Select) {
    let mut used = HashSet::new();
    for item in &mut select.projection {
        let (expr, name) = match item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), column_name(expr)),
            SelectItem::ExprWithAlias { alias, .. } => {
                used.insert(folded(alias));
                continue;
            }
            _ => continue,
        };
        let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        let is_new = used.insert(name.clone());
        if is_column && is_new && !["tableoid", "xmin", "ctid"].contains(&name.as_str()) {
            continue;
        }
        let mut alias = name.clone();
        let mut number = 0;
        while !is_new && !used.insert(alias.clone()) {
            number += 1;
            alias = format!("{name}:{number}");
        }
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) };
    }
}

/// `pg_catalog.pg_class.relname`: the relation was given its own name as an alias.
fn unqualified(idents: &[Ident]) -> Option<Expr> {
    match idents {
        [schema, rest @ ..] if rest.len() == 2 && is_system_schema(&folded(schema)) => {
            Some(Expr::CompoundIdentifier(rest.to_vec()))
        }
        _ => None,
    }
}

/// `c.conkey[1]` as a column and a subscript. Vectors count from zero in PostgreSQL, lists from one here.
fn element_access(root: &Expr, access_chain: &[AccessExpr]) -> Option<Expr> {
    let mut idents = match root {
        Expr::Identifier(ident) => vec![ident.clone()],
        Expr::CompoundIdentifier(idents) => idents.clone(),
        _ => return None,
    };
    let mut rest = access_chain;
    while let [AccessExpr::Dot(Expr::Identifier(ident)), more @ ..] = rest {
        idents.push(ident.clone());
        rest = more;
    }
    let column = match idents.as_slice() {
        [ident] => Expr::Identifier(ident.clone()),
        _ => Expr::CompoundIdentifier(idents),
    };
    match rest {
        [] => Some(column),
        [AccessExpr::Subscript(Subscript::Index { index })] if list_column(&column).is_some() => {
            let index = match list_column(&column) {
                Some(true) => Expr::BinaryOp {
                    left: Box::new(Expr::Nested(Box::new(index.clone()))),
                    op: BinaryOperator::Plus,
                    right: Box::new(number(1)),
                },
                _ => index.clone(),
            };
            Some(call("array_element", vec![column, index]))
        }
        _ => None,
    }
}

/// Columns that are boolean wherever there is one of that name.
static BOOLS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let columns = || LAYOUTS.iter().flat_map(|layout| layout.columns.iter());
    let others: HashSet<&str> =
        columns().filter(|(_, type_name)| *type_name != "bool").map(|(name, _)| *name).collect();
    columns().map(|(name, _)| *name).filter(|name| !others.contains(name)).collect()
});

fn is_bool_column(expr: &Expr) -> bool {
    let ident = match expr {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(idents) => idents.last(),
        _ => None,
    };
    ident.is_some_and(|ident| BOOLS.contains(folded(ident).as_str()))
}

/// `'t'` and `'f'`, which PostgreSQL reads as booleans beside one.
fn to_bool(expr: &mut Expr) {
    let value = match string_of(expr).map(|text| text.to_lowercase()).as_deref() {
        Some("t" | "true") => true,
        Some("f" | "false") => false,
        _ => return,
    };
    *expr = Expr::value(Value::Boolean(value));
}

fn binary(left: &mut Expr, op: &mut BinaryOperator, right: &mut Expr) -> Option<Expr> {
    if is_bool_column(left) {
        to_bool(right);
    }
    // An array beside its text: `relacl <> '{}'`.
    if list_column(left) == Some(false) && string_of(right).is_some() {
        *left = call("pg_array_text", vec![left.clone()]);
    }
    if let BinaryOperator::PGCustomBinaryOperator(parts) = op {
        *op = match parts.last()?.as_str() {
            "=" => BinaryOperator::Eq,
            "<>" | "!=" => BinaryOperator::NotEq,
            "<" => BinaryOperator::Lt,
            ">" => BinaryOperator::Gt,
            "<=" => BinaryOperator::LtEq,
            ">=" => BinaryOperator::GtEq,
            "||" => BinaryOperator::StringConcat,
            "+" => BinaryOperator::Plus,
            "-" => BinaryOperator::Minus,
            "*" => BinaryOperator::Multiply,
            "/" => BinaryOperator::Divide,
            "~" => BinaryOperator::PGRegexMatch,
            "~*" => BinaryOperator::PGRegexIMatch,
            "!~" => BinaryOperator::PGRegexNotMatch,
            "!~*" => BinaryOperator::PGRegexNotIMatch,
            "~~" => BinaryOperator::PGLikeMatch,
            "!~~" => BinaryOperator::PGNotLikeMatch,
            "~~*" => BinaryOperator::PGILikeMatch,
            "!~~*" => BinaryOperator::PGNotILikeMatch,
            _ => return None,
        };
    }
    // Rows are compared value by value.
    if let (Expr::Tuple(left), BinaryOperator::Eq, Expr::Tuple(right)) = (&*left, &*op, &*right)
        && left.len() == right.len()
    {
        let pairs = left.iter().zip(right).map(|(left, right)| Expr::BinaryOp {
            left: Box::new(left.clone()),
            op: BinaryOperator::Eq,
            right: Box::new(right.clone()),
        });
        return pairs.reduce(|left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        });
    }
    None
}

/// `LIKE 'a/_' ESCAPE '/'` means `LIKE 'a\_'`.
fn unescape(pattern: &mut Expr, escape_char: &mut Option<datafusion::sql::sqlparser::ast::ValueWithSpan>) {
    let Some(escape) = escape_char.as_ref().and_then(|value| match &value.value {
        Value::SingleQuotedString(text) => Some(text.clone()),
        _ => None,
    }) else {
        return;
    };
    let Some(text) = string_of(pattern) else { return };
    let escape = escape.chars().next();
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => {
                out.push('\\');
                out.extend(chars.next());
            }
            '\\' => out.push_str(r"\\"),
            c => out.push(c),
        }
    }
    *pattern = string(&out);
    *escape_char = None;
}

/// Columns that are `int2vector` or `oidvector`, and those that are arrays.
static LISTS: LazyLock<HashMap<&str, bool>> = LazyLock::new(|| {
    let columns = LAYOUTS.iter().flat_map(|layout| layout.columns.iter());
    columns
        .filter(|(_, type_name)| type_name.starts_with('_') || type_name.ends_with("vector"))
        .map(|(name, type_name)| (*name, type_name.ends_with("vector")))
        .collect()
});

/// Whether a list column counts from zero; none when it is no list.
fn list_column(expr: &Expr) -> Option<bool> {
    let ident = match expr {
        Expr::Identifier(ident) => ident,
        Expr::CompoundIdentifier(idents) => idents.last()?,
        _ => return None,
    };
    LISTS.get(folded(ident).as_str()).copied()
}

fn function_of(function: &mut Function) -> Option<Expr> {
    let names = names_of(&function.name);
    let name = match names.as_slice() {
        [name] => name.clone(),
        [schema, name] if is_system_schema(schema) => {
            function.name = object_name(name);
            name.clone()
        }
        _ => return None,
    };
    if name == "array"
        && let FunctionArguments::Subquery(query) = &function.args
    {
        return correlated("array", query, true);
    }
    // `current_user` and its kin are written without parentheses.
    if matches!(function.args, FunctionArguments::None) && is_known(&name) {
        return Some(call(&name, Vec::new()));
    }
    let args = args_of(&function.args);
    match (name.as_str(), args.as_slice()) {
        ("generate_subscripts", [array, _]) => {
            let first = if list_column(array) == Some(true) { 0 } else { 1 };
            Some(call("unnest", vec![call("pg_subscripts", vec![array.clone(), number(first)])]))
        }
        ("_pg_expandarray", [array]) => {
            let pairs = [("x", array.clone()), ("n", call("pg_subscripts", vec![array.clone(), number(1)]))];
            // A list of numbers and a list of elements, side by side.
            let fields = pairs.map(|(name, expr)| (string(name), call("unnest", vec![expr])));
            Some(call("named_struct", fields.into_iter().flat_map(|(name, expr)| [name, expr]).collect()))
        }
        // An array beside the text of an empty one.
        ("coalesce", [array, empty])
            if string_of(empty).as_deref() == Some("{}")
                && matches!(array, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) =>
        {
            Some(call("coalesce", vec![array.clone(), call("make_array", Vec::new())]))
        }
        ("timezone", [zone, time]) => {
            Some(Expr::AtTimeZone { timestamp: Box::new(time.clone()), time_zone: Box::new(zone.clone()) })
        }
        _ => None,
    }
}

fn args_of(args: &FunctionArguments) -> Vec<Expr> {
    let FunctionArguments::List(list) = args else { return Vec::new() };
    let exprs = list.args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    });
    exprs.collect()
}

/// `(f(x)).n`, and `(_pg_expandarray(x)).n` before all.
fn field_access(root: &Expr, access_chain: &[AccessExpr]) -> Option<Expr> {
    let [AccessExpr::Dot(Expr::Identifier(field))] = access_chain else { return None };
    let field = folded(field);
    let mut inner = root;
    while let Expr::Nested(expr) = inner {
        inner = expr;
    }
    if let Expr::Function(function) = inner
        && names_of(&function.name) == ["named_struct"]
    {
        let args = args_of(&function.args);
        let mut pairs = args.chunks(2);
        return pairs
            .find(|pair| string_of(&pair[0]).as_ref() == Some(&field))
            .and_then(|pair| pair.get(1).cloned());
    }
    Some(call("get_field", vec![inner.clone(), string(&field)]))
}

/// The name in `pg_type` of what a query casts to, of those types that are something else here. `regclass` and its kin become texts.
pub fn cast_name(data_type: &DataType) -> Option<String> {
    if let DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) = data_type {
        return cast_name(item).map(|item| format!("_{item}"));
    }
    match (mapped(data_type)?, data_type) {
        (Mapped::Reg { .. }, _) => Some("text".to_owned()),
        (_, DataType::Custom(name, _)) => names_of(name).pop(),
        (Mapped::Text, DataType::Text) => Some("text".to_owned()),
        _ => None,
    }
}

/// What a type of PostgreSQL is here.
enum Mapped {
    /// `regclass`, `regtype`, …, or an array of them.
    Reg {
        name: &'static str,
    },
    Text,
    TextArray,
    Number(DataType),
    NumberArray(DataType),
}

fn mapped(data_type: &DataType) -> Option<Mapped> {
    let name = match data_type {
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => {
            return Some(match mapped(item)? {
                reg @ Mapped::Reg { .. } => reg,
                Mapped::Text => Mapped::TextArray,
                Mapped::Number(item) => Mapped::NumberArray(item),
                _ => return None,
            });
        }
        DataType::Regclass => "regclass".to_owned(),
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => "text".to_owned(),
        DataType::Custom(name, _) => match names_of(name).as_slice() {
            [name] => name.clone(),
            [schema, name] if is_system_schema(schema) => name.clone(),
            _ => return None,
        },
        DataType::Bool | DataType::Boolean => "bool".to_owned(),
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => "int4".to_owned(),
        DataType::BigInt(None) | DataType::Int8(None) => "int8".to_owned(),
        DataType::SmallInt(None) | DataType::Int2(None) => "int2".to_owned(),
        _ => return None,
    };
    Some(match name.as_str() {
        "regclass" => Mapped::Reg { name: "regclass" },
        "regtype" => Mapped::Reg { name: "regtype" },
        "regproc" | "regprocedure" => Mapped::Reg { name: "regproc" },
        "regnamespace" => Mapped::Reg { name: "regnamespace" },
        "regrole" => Mapped::Reg { name: "regrole" },
        // Of these there are none with a name here.
        "regoper" | "regoperator" | "regconfig" | "regdictionary" | "regcollation" => {
            Mapped::Reg { name: "regother" }
        }
        "text" | "varchar" | "bpchar" | "name" | "char" | "cstring" | "pg_node_tree" | "aclitem"
        | "pg_lsn" | "inet" | "json" | "jsonb" | "uuid" | "sql_identifier" | "character_data"
        | "yes_or_no" | "int2vector" | "oidvector" => Mapped::Text,
        "oid" | "xid" | "cid" | "int8" | "bigint" => Mapped::Number(DataType::BigInt(None)),
        "int4" | "int" | "integer" | "cardinal_number" => Mapped::Number(DataType::Integer(None)),
        "int2" | "smallint" => Mapped::Number(DataType::SmallInt(None)),
        "bool" | "boolean" => Mapped::Number(DataType::Boolean),
        "float8" => Mapped::Number(DataType::DoublePrecision),
        "float4" => Mapped::Number(DataType::Real),
        "timestamptz" => {
            Mapped::Number(DataType::Timestamp(None, datafusion::sql::sqlparser::ast::TimezoneInfo::Tz))
        }
        _ => return None,
    })
}

fn cast(inner: &mut Expr, data_type: &DataType, kind: &CastKind) -> Option<Expr> {
    if matches!(kind, CastKind::TryCast | CastKind::SafeCast) {
        return None;
    }
    let plain = |data_type: DataType, expr: &Expr| Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr.clone()),
        data_type,
        array: false,
        format: None,
    };
    match mapped(data_type)? {
        Mapped::Reg { name } => {
            let is_array = matches!(data_type, DataType::Array(_));
            let items = string_of(inner).filter(|_| is_array).and_then(|text| array_literal(&text));
            let arg = match items {
                Some(items) => call("make_array", items.iter().map(|item| string(item)).collect()),
                None => inner.clone(),
            };
            Some(call(&format!("pg_{name}_oid"), vec![arg]))
        }
        Mapped::Text | Mapped::TextArray if to_reg_text(inner) => Some(inner.clone()),
        Mapped::Text => Some(match list_column(inner) {
            Some(true) => call("pg_vector_text", vec![inner.clone()]),
            Some(false) => call("pg_array_text", vec![inner.clone()]),
            None => plain(DataType::Text, inner),
        }),
        Mapped::Number(data_type) => Some(plain(data_type, inner)),
        Mapped::TextArray | Mapped::NumberArray(_) => {
            if let (Expr::Value(_), Some(item)) = (&*inner, list_item(data_type))
                && string_of(inner).is_none()
            {
                // A parameter.
                return Some(plain(
                    DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(item), None)),
                    inner,
                ));
            }
            // What is no literal is a list already.
            let Some(items) = string_of(inner).and_then(|text| array_literal(&text)) else {
                return Some(inner.clone());
            };
            let items = items.into_iter().map(|item| match mapped(data_type) {
                Some(Mapped::NumberArray(item_type)) => plain(item_type, &string(&item)),
                _ => string(&item),
            });
            Some(call("make_array", items.collect()))
        }
    }
}

/// The type of an array type's elements.
fn list_item(data_type: &DataType) -> Option<DataType> {
    match mapped(data_type)? {
        Mapped::TextArray => Some(DataType::Text),
        Mapped::NumberArray(item) => Some(item),
        _ => None,
    }
}

/// The elements of `{a,"b c"}`.
fn array_literal(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    while chars.peek().is_some() {
        let mut item = String::new();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            match c {
                '"' => quoted = !quoted,
                '\\' => item.extend(chars.next()),
                ',' if !quoted => break,
                c => item.push(c),
            }
        }
        items.push(item);
    }
    Some(items)
}

/// `x = ANY ('{a,b}')` and `x = ANY (ARRAY['a','b'])`.
fn in_list(left: &Expr, right: &Expr, negated: bool) -> Option<Expr> {
    let mut right = right;
    while let Expr::Nested(inner) = right {
        right = inner;
    }
    let list: Vec<Expr> = match right {
        Expr::Array(array) => array.elem.clone(),
        Expr::Function(function) if names_of(&function.name) == ["make_array"] => args_of(&function.args),
        other => array_literal(&string_of(other)?)?.iter().map(|item| string(item)).collect(),
    };
    if list.is_empty() {
        return Some(Expr::value(Value::Boolean(negated)));
    }
    Some(Expr::InList { expr: Box::new(left.clone()), list, negated })
}

/// Remaining `EXISTS` in a SELECT list, where DataFusion cannot have it.
struct ExistsToCall;

impl VisitorMut for ExistsToCall {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Exists { subquery, negated } = expr
            && let Some(exists) = correlated("exists", subquery, true)
        {
            *expr = match negated {
                true => call_not(exists),
                false => exists,
            };
        }
        ControlFlow::Continue(())
    }
}

fn call_not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: datafusion::sql::sqlparser::ast::UnaryOperator::Not, expr: Box::new(expr) }
}

/// A subquery over system relations as a call of [`SUBQUERY`], when it names something outside, or `always`.
fn correlated(kind: &str, query: &Query, always: bool) -> Option<Expr> {
    if tidemill_sql::visit::walk(query, &mut OnlySystem::default()).is_break() {
        return None;
    }
    let mut query = query.clone();
    let mut free = Free::default();
    let _ = tidemill_sql::visit::walk_mut(&mut query, &mut free);
    if free.found.is_empty() && !always {
        return None;
    }
    let mut args = vec![string(kind), string(&query.to_string())];
    args.extend(free.found);
    Some(call(SUBQUERY, args))
}

/// Stops at a relation that is not the system's.
#[derive(Default)]
struct OnlySystem {
    ctes: Vec<String>,
}

impl Visitor for OnlySystem {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| with.cte_tables.iter());
        self.ctes.extend(ctes.map(|cte| folded(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let names = names_of(relation);
        let is_system = match names.as_slice() {
            [name] => layout::find(None, name).is_some() || self.ctes.contains(name),
            [.., schema, name] => layout::find(Some(schema), name).is_some(),
            [] => false,
        };
        if is_system { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// A relation in FROM.
struct Relation {
    name: Option<String>,
    layout: Option<&'static layout::Layout>,
    /// None when only planning tells.
    columns: Option<Vec<String>>,
}

fn relations_of(select: &Select) -> Vec<Relation> {
    let joined = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let mut relations = Vec::new();
    for factor in joined {
        add_relations(factor, &mut relations);
    }
    relations
}

fn add_relations(factor: &TableFactor, relations: &mut Vec<Relation>) {
    let alias_name = |alias: &Option<TableAlias>| alias.as_ref().map(|alias| folded(&alias.name));
    let alias_columns = |alias: &Option<TableAlias>| {
        let columns = alias.as_ref().map(|alias| alias.columns.iter().map(|column| folded(&column.name)));
        columns.map(Iterator::collect::<Vec<_>>).filter(|columns| !columns.is_empty())
    };
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let names = names_of(name);
            let layout = match names.as_slice() {
                [name] => layout::find(None, name),
                [.., schema, name] => layout::find(Some(schema), name),
                [] => None,
            };
            let columns =
                layout.map(|layout| layout.columns.iter().map(|(name, _)| (*name).to_owned()).collect());
            relations.push(Relation {
                name: alias_name(alias).or_else(|| names.last().cloned()),
                layout,
                columns: alias_columns(alias).or(columns),
            });
        }
        TableFactor::Derived { subquery, alias, .. } => relations.push(Relation {
            name: alias_name(alias),
            layout: None,
            columns: alias_columns(alias).or_else(|| output_names(&subquery.body)),
        }),
        TableFactor::NestedJoin { table_with_joins, .. } => {
            add_relations(&table_with_joins.relation, relations);
            for join in &table_with_joins.joins {
                add_relations(&join.relation, relations);
            }
        }
        TableFactor::Table { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::UNNEST { alias, .. } => {
            let name = alias_name(alias);
            let columns = alias_columns(alias).or_else(|| name.clone().map(|name| vec![name]));
            relations.push(Relation { name, layout: None, columns });
        }
        _ => relations.push(Relation { name: None, layout: None, columns: None }),
    }
}

/// The names of a query's columns; none when a wildcard is among them.
fn output_names(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => {
            let names = select.projection.iter().map(|item| match item {
                SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            });
            names.collect()
        }
        SetExpr::Query(query) => output_names(&query.body),
        SetExpr::SetOperation { left, .. } => output_names(left),
        _ => None,
    }
}

fn all_relations(body: &SetExpr, relations: &mut Vec<Relation>) {
    match body {
        SetExpr::Select(select) => {
            relations.extend(relations_of(select));
            // ORDER BY may use the names of the result.
            let aliases = select.projection.iter().filter_map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            });
            relations.push(Relation { name: None, layout: None, columns: Some(aliases.collect()) });
        }
        SetExpr::Query(query) => all_relations(&query.body, relations),
        SetExpr::SetOperation { left, right, .. } => {
            all_relations(left, relations);
            all_relations(right, relations);
        }
        _ => (),
    }
}

/// Finds columns that no relation of a query has, and parameters, and gives them names of [`outer_name`].
#[derive(Default)]
struct Free {
    scopes: Vec<Vec<Relation>>,
    found: Vec<Expr>,
}

impl Free {
    fn is_free(&self, expr: &Expr) -> bool {
        let mut relations = self.scopes.iter().flatten();
        match expr {
            Expr::Identifier(ident) => {
                let name = folded(ident);
                !name.starts_with("__outer_")
                    && !relations.any(|relation| match &relation.columns {
                        Some(columns) => columns.contains(&name),
                        None => true,
                    })
            }
            Expr::CompoundIdentifier(idents) => {
                let [.., qualifier, _] = idents.as_slice() else { return false };
                let qualifier = folded(qualifier);
                !relations.any(|relation| relation.name.as_ref() == Some(&qualifier))
            }
            Expr::Value(value) => matches!(value.value, Value::Placeholder(_)),
            _ => false,
        }
    }
}

impl VisitorMut for Free {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mut relations = Vec::new();
        all_relations(&query.body, &mut relations);
        self.scopes.push(relations);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.is_free(expr) {
            let idx = self.found.iter().position(|found| found == expr).unwrap_or_else(|| {
                self.found.push(expr.clone());
                self.found.len() - 1
            });
            *expr = Expr::Identifier(Ident::new(outer_name(idx)));
        }
        ControlFlow::Continue(())
    }
}

/// A function in FROM, as a subquery.
fn table_of_function(factor: &TableFactor) -> Option<TableFactor> {
    if let TableFactor::UNNEST { array_exprs, alias, with_ordinality, .. } = factor {
        return unnest_table(array_exprs, alias.as_ref(), *with_ordinality);
    }
    let (name, args, alias) = match factor {
        TableFactor::Table { name, args: Some(TableFunctionArgs { args, .. }), alias, .. }
        | TableFactor::Function { name, args, alias, .. } => (name, args, alias),
        _ => return None,
    };
    let names = names_of(name);
    let name = match names.as_slice() {
        [name] => name,
        [schema, name] if is_system_schema(schema) => name,
        _ => return None,
    };
    let args = args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    let args: Vec<&Expr> = args.collect();
    if name == "unnest" {
        let exprs: Vec<Expr> = args.into_iter().cloned().collect();
        return unnest_table(&exprs, alias.as_ref(), false);
    }
    if name == "generate_series" {
        let series = call("generate_series", args.into_iter().cloned().collect());
        let named = TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None };
        return unnest_table(&[series], Some(alias.as_ref().unwrap_or(&named)), false);
    }
    let args: Vec<String> = args.into_iter().map(Expr::to_string).collect();
    let sql = match name.as_str() {
        "pg_options_to_table" => format!(
            "SELECT split_part(o, '=', 1) AS option_name, substr(o, strpos(o, '=') + 1) AS option_value \
             FROM (SELECT unnest({}) AS o) AS options",
            args.first()?
        ),
        "pg_show_all_settings" => "SELECT * FROM pg_catalog.pg_settings".to_owned(),
        "pg_get_keywords" => keywords(),
        "aclexplode" => "SELECT CAST(0 AS BIGINT) AS grantor, CAST(0 AS BIGINT) AS grantee, '' AS \
                         privilege_type, false AS is_grantable FROM pg_catalog.pg_am WHERE false"
            .to_owned(),
        name if is_known(name) => {
            format!("SELECT {name}({}) AS {}", args.join(", "), tidemill_sql::parser::quote(name))
        }
        _ => return None,
    };
    let subquery = tidemill_sql::parser::parse_query(&sql).ok()?;
    let alias = alias.clone().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(name.clone()),
        columns: Vec::new(),
        at: None,
    });
    Some(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None })
}

/// PostgreSQL's keywords: word, category, and whether it can be a label without AS.
fn keywords() -> String {
    let words = include_str!("data/keywords.txt").lines().collect::<Vec<_>>().join(",");
    format!(
        "SELECT word, catcode, barelabel, \
         CASE catcode WHEN 'U' THEN 'unreserved' WHEN 'R' THEN 'reserved' \
         WHEN 'T' THEN 'reserved (can be function or type name)' \
         ELSE 'unreserved (cannot be function or type name)' END AS catdesc, \
         CASE WHEN barelabel THEN 'can be bare label' ELSE 'requires AS' END AS baredesc \
         FROM (SELECT split_part(k, ' ', 1) AS word, split_part(k, ' ', 2) AS catcode, split_part(k, ' ', 3) = 't' AS barelabel \
         FROM (SELECT unnest(string_to_array('{words}', ',')) AS k) AS lines) AS keywords"
    )
}

/// The items of `unnest(…)` in FROM as a SELECT list.
fn unnest_items(exprs: &[Expr], alias: Option<&TableAlias>, with_ordinality: bool) -> Vec<SelectItem> {
    let mut arrays: Vec<Expr> = exprs.to_vec();
    if let (true, Some(first)) = (with_ordinality, exprs.first()) {
        arrays.push(call("pg_subscripts", vec![first.clone(), number(1)]));
    }
    let name_of = |idx: usize| {
        let column = alias.and_then(|alias| alias.columns.get(idx)).map(|column| folded(&column.name));
        column.unwrap_or_else(|| match alias {
            Some(alias) if idx == 0 && exprs.len() == 1 => folded(&alias.name),
            _ if with_ordinality && idx == exprs.len() => "ordinality".to_owned(),
            _ => "unnest".to_owned(),
        })
    };
    let items = arrays.into_iter().enumerate().map(|(idx, array)| SelectItem::ExprWithAlias {
        expr: call("unnest", vec![array]),
        alias: Ident::with_quote('"', name_of(idx)),
    });
    items.collect()
}

fn unnest_table(exprs: &[Expr], alias: Option<&TableAlias>, with_ordinality: bool) -> Option<TableFactor> {
    let mut subquery = tidemill_sql::parser::parse_query("SELECT 1").ok()?;
    if let SetExpr::Select(select) = subquery.body.as_mut() {
        select.projection = unnest_items(exprs, alias, with_ordinality);
    }
    let name = alias.map_or_else(|| Ident::new("unnest"), |alias| alias.name.clone());
    let alias = TableAlias { explicit: true, name, columns: Vec::new(), at: None };
    Some(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None })
}

/// `FROM pg_index i, unnest(i.indkey) k`, where the second reads the first, becomes one subquery `i` that has the
/// columns of both.
fn join_unnest(select: &mut Select) {
    let mut factors: Vec<TableFactor> = Vec::new();
    for from in &select.from {
        factors.push(from.relation.clone());
        for join in &from.joins {
            if !matches!(join.join_operator, JoinOperator::CrossJoin(_)) {
                return;
            }
            factors.push(join.relation.clone());
        }
    }
    let [relation, TableFactor::UNNEST { array_exprs, alias: Some(unnested), with_ordinality, .. }] =
        factors.as_slice()
    else {
        return;
    };
    let mut relations = Vec::new();
    add_relations(relation, &mut relations);
    let [Relation { name: Some(name), .. }] = relations.as_slice() else { return };
    let Ok(mut subquery) = tidemill_sql::parser::parse_query("SELECT * FROM pg_class") else { return };
    let SetExpr::Select(inner) = subquery.body.as_mut() else { return };
    inner.projection.extend(unnest_items(array_exprs, Some(unnested), *with_ordinality));
    inner.from[0].relation = relation.clone();
    let (from, to) = (folded(&unnested.name), Ident::with_quote('"', name));
    select.from.truncate(1);
    select.from[0].joins.clear();
    let alias = TableAlias { explicit: true, name: to.clone(), columns: Vec::new(), at: None };
    select.from[0].relation =
        TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None };
    let _ = tidemill_sql::visit::walk_mut(select, &mut Requalify { from, to });
}

/// Gives the columns of one relation another qualifier.
struct Requalify {
    from: String,
    to: Ident,
}

impl VisitorMut for Requalify {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(idents) = expr
            && let [qualifier, _] = idents.as_mut_slice()
            && folded(qualifier) == self.from
        {
            *qualifier = self.to.clone();
        }
        ControlFlow::Continue(())
    }
}

/// A SELECT with `unnest` in its list, and an item named as a column that it reads, which DataFusion finds
/// ambiguous, in two steps: the items in a subquery, `unnest` above it.
fn split_unnest(select: &mut Select) {
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    if is_grouped || select.distinct.is_some() || select.having.is_some() {
        return;
    }
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    let (mut is_ambiguous, mut unnests) = (false, false);
    for (idx, item) in select.projection.iter().enumerate() {
        let (expr, name) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, column_name(expr)),
            SelectItem::ExprWithAlias { expr, alias } => (expr, folded(alias)),
            _ => return,
        };
        let alias = Ident::with_quote('"', &name);
        if let Expr::Function(function) = expr
            && names_of(&function.name) == ["unnest"]
            && let [array] = args_of(&function.args).as_slice()
        {
            unnests = true;
            let below = Ident::new(format!("__unnest_{idx}"));
            inner.push(SelectItem::ExprWithAlias { expr: array.clone(), alias: below.clone() });
            let expr = call("unnest", vec![Expr::Identifier(below)]);
            outer.push(SelectItem::ExprWithAlias { expr, alias });
        } else {
            let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            is_ambiguous |= !is_column && tidemill_sql::visit::walk(expr, &mut NamesColumn(&name)).is_break();
            inner.push(SelectItem::ExprWithAlias { expr: expr.clone(), alias: alias.clone() });
            outer.push(SelectItem::UnnamedExpr(Expr::Identifier(alias)));
        }
    }
    if !unnests || !is_ambiguous {
        return;
    }
    let Ok(mut around) = tidemill_sql::parser::parse_query("SELECT 1 FROM (SELECT 1) AS unnested") else {
        return;
    };
    let SetExpr::Select(around) = around.body.as_mut() else { return };
    around.projection = outer;
    std::mem::swap(select, around.as_mut());
    around.projection = inner;
    if let Some(from) = select.from.first_mut()
        && let TableFactor::Derived { subquery, .. } = &mut from.relation
    {
        *subquery.body = SetExpr::Select(Box::new(around.as_ref().clone()));
    }
}

/// Stops at a column of this name.
struct NamesColumn<'a>(&'a str);

impl Visitor for NamesColumn<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::CompoundIdentifier(idents) if idents.last().map(folded).as_deref() == Some(self.0) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Qualifies columns that `USING` made one of two: DataFusion forgets which they are after one more join.
fn qualify_using(select: &mut Select) {
    let mut columns = Vec::new();
    for join in select.from.iter().flat_map(|from| from.joins.iter()) {
        let (JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)) = &join.join_operator
        else {
            continue;
        };
        if let JoinConstraint::Using(names) = constraint {
            columns.extend(names.iter().filter_map(|name| names_of(name).pop()));
        }
    }
    if columns.is_empty() {
        return;
    }
    let relations = relations_of(select);
    let owner = |column: &String| {
        let mut owners = relations.iter().filter(|relation| match &relation.columns {
            Some(columns) => columns.contains(column),
            None => false,
        });
        owners.next().and_then(|relation| relation.name.clone())
    };
    let owned = columns.into_iter().filter_map(|column| Some((column.clone(), owner(&column)?))).collect();
    let _ = tidemill_sql::visit::walk_mut(select, &mut Qualify { owned, depth: 0 });
}

/// Puts the names of relations before bare columns, outside of subqueries.
struct Qualify {
    owned: HashMap<String, String>,
    depth: usize,
}

impl VisitorMut for Qualify {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0
            && let Expr::Identifier(ident) = expr
            && let Some(owner) = self.owned.get(&folded(ident))
        {
            *expr = Expr::CompoundIdentifier(vec![Ident::with_quote('"', owner), ident.clone()]);
        }
        ControlFlow::Continue(())
    }
}
