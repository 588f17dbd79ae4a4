//! The names of a query's columns, as PostgreSQL would give them.
//!
//! DataFusion calls `count(*)` "count(*)"; PostgreSQL calls it "count", and tools read by name. The rules are
//! those of `FigureColname` in PostgreSQL's parse_target.c: a column by its own name, a function by the
//! function's, a cast by its operand's or else the type's, CASE "case", anything else "?column?".

use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, Expr, Ident, ObjectNamePart, Query, Select, SelectItem, SetExpr, TrimWhereField,
};

/// Aliases the unnamed columns of `query`, so that no two have the same name.
///
/// Gives the names to be shown, which may repeat, or `None` where only planning tells (`SELECT *`).
pub fn name_columns(query: &mut Query) -> Option<Vec<String>> {
    let select = first_select(&mut query.body)?;
    let mut shown = Some(Vec::new());
    let mut used: Vec<String> = Vec::new();
    for item in &mut select.projection {
        let name = match item {
            SelectItem::UnnamedExpr(expr) => column_name(expr),
            SelectItem::ExprWithAlias { alias, .. } => normalize(alias),
            _ => {
                shown = None;
                continue;
            }
        };
        let unique = if used.contains(&name) {
            (1..)
                .map(|n| format!("{name}:{n}"))
                .find(|name| !used.contains(name))
                .expect("some number is free")
        } else {
            name.clone()
        };
        if let SelectItem::UnnamedExpr(expr) = item {
            // A plain column keeps its relation's name as qualifier, which ORDER BY may use.
            let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            if !is_column || unique != name {
                *item =
                    SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', &unique) };
            }
        } else if let SelectItem::ExprWithAlias { alias, .. } = item
            && unique != name
        {
            *alias = Ident::with_quote('"', &unique);
        }
        used.push(unique);
        if let Some(shown) = &mut shown {
            shown.push(name);
        }
    }
    shown
}

/// The SELECT that names the columns: of a set operation, the first one.
fn first_select(body: &mut SetExpr) -> Option<&mut Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&mut query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn normalize(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The name of an unnamed column.
pub fn column_name(expr: &Expr) -> String {
    strong_name(expr).unwrap_or_else(|| match expr {
        Expr::Cast { data_type, .. } => type_name(&data_type.to_string()),
        Expr::TypedString(typed) => type_name(&typed.data_type.to_string()),
        Expr::Interval(_) => "interval".into(),
        Expr::Case { .. } => "case".into(),
        Expr::CompoundFieldAccess { root, .. } | Expr::Nested(root) => column_name(root),
        _ => "?column?".into(),
    })
}

fn strong_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normalize(ident)),
        Expr::CompoundIdentifier(idents) => idents.last().map(normalize),
        Expr::Function(function) => match function.name.0.last() {
            Some(ObjectNamePart::Identifier(ident)) => Some(normalize(ident)),
            _ => None,
        },
        Expr::Nested(expr) | Expr::Collate { expr, .. } => strong_name(expr),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, .. } => strong_name(expr),
        Expr::Case { else_result: Some(expr), .. } => strong_name(expr),
        Expr::Extract { .. } => Some("extract".into()),
        Expr::Exists { .. } => Some("exists".into()),
        Expr::Substring { shorthand, .. } => Some(if *shorthand { "substr" } else { "substring" }.into()),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(field) => strong_name(field),
                AccessExpr::Subscript(_) => None,
            });
            field.or_else(|| strong_name(root))
        }
        Expr::Position { .. } => Some("position".into()),
        Expr::Trim { trim_where, .. } => Some(
            match trim_where {
                Some(TrimWhereField::Leading) => "ltrim",
                Some(TrimWhereField::Trailing) => "rtrim",
                _ => "btrim",
            }
            .into(),
        ),
        Expr::BinaryOp { op, .. } if op.to_string().eq_ignore_ascii_case("overlaps") => {
            Some("overlaps".into())
        }
        Expr::Ceil { .. } => Some("ceil".into()),
        Expr::Floor { .. } => Some("floor".into()),
        Expr::Overlay { .. } => Some("overlay".into()),
        Expr::Array(_) => Some("array".into()),
        Expr::Tuple(_) => Some("row".into()),
        Expr::AtTimeZone { .. } => Some("timezone".into()),
        Expr::Subquery(query) => {
            let mut query = query.clone();
            let select = first_select(&mut query.body)?;
            match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
                SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A type's internal name, which is what PostgreSQL uses here.
fn type_name(written: &str) -> String {
    let lower = written.to_lowercase();
    let base = lower.split(['(', '[']).next().unwrap_or_default().trim();
    match base {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "real" => "float4",
        "double precision" | "double" | "float" => "float8",
        "boolean" => "bool",
        "decimal" => "numeric",
        "character varying" => "varchar",
        "character" | "char" => "bpchar",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        "time with time zone" => "timetz",
        "time without time zone" => "time",
        other => other,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn columns_are_named_as_in_postgresql() {
        let sql = "SELECT count(*), 1, a, t.B, a AS \"X\", a::bigint, 1::bigint, CASE WHEN a THEN 1 END, a + 1, \
                   (SELECT max(z) FROM u), EXTRACT(year FROM d), COUNT(a)";
        let mut query = *Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_query().unwrap();
        let names = name_columns(&mut query).unwrap();
        let expected =
            ["count", "?column?", "a", "b", "X", "a", "int8", "case", "?column?", "max", "extract", "count"];
        assert_eq!(names, expected);
        assert!(query.to_string().contains("COUNT(a) AS \"count:1\""), "{query}");
    }
}
