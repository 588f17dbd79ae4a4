//! What the columns of a catalog query are declared as.
//!
//! `oid`, `name` and `"char"` are integers and texts to DataFusion, with a note in their field's metadata that does not outlive CASE,
//! `coalesce`, aggregates or subqueries. Drivers decode by these types: asyncpg, for one, looks up what it does not know, by a query
//! whose own answer it then must know. So they are worked out from the text of the query, as far as the system's relations
//! and functions say them.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, Select, SelectItem, SetExpr,
    TableAlias, TableFactor,
};
use tidemill_sql::column_name;

use crate::pg_catalog::functions::returned_type;
use crate::pg_catalog::layout;
use crate::pg_catalog::rewrite::{cast_name, folded, names_of};

/// Names of columns and of their types, where these are known.
type Columns = Vec<(String, Option<String>)>;

/// The relations that a name in a query may be of, by what they are called.
#[derive(Clone, Default)]
struct Scope {
    ctes: HashMap<String, Columns>,
    /// The innermost last.
    relations: Vec<(String, Columns)>,
}

/// The types of a query's columns by their names in `pg_type`; none when a wildcard is among them.
pub fn declared_types(query: &Query) -> Option<Vec<Option<String>>> {
    let columns = of_query(query, &Scope::default())?;
    Some(columns.into_iter().map(|(_, declared)| declared).collect())
}

fn of_query(query: &Query, outer: &Scope) -> Option<Columns> {
    let mut scope = outer.clone();
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let columns = of_query(&cte.query, &scope).unwrap_or_default();
        scope.ctes.insert(folded(&cte.alias.name), renamed(columns, &cte.alias));
    }
    of_body(&query.body, &scope)
}

fn of_body(body: &SetExpr, scope: &Scope) -> Option<Columns> {
    match body {
        SetExpr::Select(select) => of_select(select, scope),
        SetExpr::Query(query) => of_query(query, scope),
        // A recursive query has the types of its first part.
        SetExpr::SetOperation { left, .. } => of_body(left, scope),
        _ => None,
    }
}

/// Columns under the names that an alias gives them.
fn renamed(columns: Columns, alias: &TableAlias) -> Columns {
    let names = alias.columns.iter().map(|column| folded(&column.name));
    let mut columns = columns;
    for ((name, _), new) in columns.iter_mut().zip(names) {
        *name = new;
    }
    columns
}

fn of_select(select: &Select, outer: &Scope) -> Option<Columns> {
    let mut scope = outer.clone();
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let mut own = Vec::new();
    for factor in factors {
        add_relation(factor, &scope, &mut own);
    }
    scope.relations.extend(own.iter().cloned());
    let mut columns = Columns::new();
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => columns.push((column_name(expr), of_expr(expr, &scope))),
            SelectItem::ExprWithAlias { expr, alias } => columns.push((folded(alias), of_expr(expr, &scope))),
            SelectItem::Wildcard(_) if own.iter().all(|(_, columns)| !columns.is_empty()) => {
                columns.extend(own.iter().flat_map(|(_, columns)| columns.clone()));
            }
            _ => return None,
        }
    }
    Some(columns)
}

fn add_relation(factor: &TableFactor, scope: &Scope, relations: &mut Vec<(String, Columns)>) {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let names = names_of(name);
            let Some(own_name) = names.last().cloned() else { return };
            let columns = match names.as_slice() {
                [name] if scope.ctes.contains_key(name) => scope.ctes[name].clone(),
                [.., schema, name] => of_layout(layout::find(Some(schema), name)),
                [name] => of_layout(layout::find(None, name)),
                [] => Columns::new(),
            };
            relations.push(match alias {
                Some(alias) => (folded(&alias.name), renamed(columns, alias)),
                None => (own_name, columns),
            });
        }
        TableFactor::Derived { subquery, alias: Some(alias), .. } => {
            let columns = of_query(subquery, scope).unwrap_or_default();
            relations.push((folded(&alias.name), renamed(columns, alias)));
        }
        TableFactor::NestedJoin { table_with_joins, .. } => {
            add_relation(&table_with_joins.relation, scope, relations);
            for join in &table_with_joins.joins {
                add_relation(&join.relation, scope, relations);
            }
        }
        // Of others nothing is known but that they are there, so that no wildcard is taken for less than it is.
        _ => relations.push((String::new(), Columns::new())),
    }
}

fn of_layout(layout: Option<&layout::Layout>) -> Columns {
    let columns = layout.into_iter().flat_map(|layout| &layout.columns);
    columns.map(|(name, type_name)| ((*name).to_owned(), Some((*type_name).to_owned()))).collect()
}

fn of_expr(expr: &Expr, scope: &Scope) -> Option<String> {
    let column = |columns: &Columns, name: &str| {
        columns.iter().find(|(known, _)| known == name).and_then(|(_, declared)| declared.clone())
    };
    match expr {
        Expr::Nested(expr) | Expr::Collate { expr, .. } => of_expr(expr, scope),
        Expr::Identifier(ident) => {
            let name = folded(ident);
            scope.relations.iter().rev().find_map(|(_, columns)| column(columns, &name))
        }
        Expr::CompoundIdentifier(idents) => {
            let [.., relation, name] = idents.as_slice() else { return None };
            let (relation, name) = (folded(relation), folded(name));
            let (_, columns) = scope.relations.iter().rev().find(|(known, _)| *known == relation)?;
            column(columns, &name)
        }
        Expr::Case { conditions, else_result, .. } => {
            let mut results = conditions.iter().map(|when| &when.result).chain(else_result.as_deref());
            results.find_map(|result| of_expr(result, scope))
        }
        Expr::Cast { data_type, .. } => cast_name(data_type),
        Expr::Subquery(query) => of_query(query, scope)?.into_iter().next()?.1,
        Expr::Function(function) => of_function(function, scope),
        _ => None,
    }
}

fn of_function(function: &Function, scope: &Scope) -> Option<String> {
    let names = names_of(&function.name);
    let name = names.last()?.as_str();
    if let FunctionArguments::Subquery(query) = &function.args {
        let item = of_query(query, scope)?.into_iter().next()?.1?;
        return (name == "array" && !item.starts_with('_')).then(|| format!("_{item}"));
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let mut args = list.args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    match name {
        "coalesce" => args.find_map(|arg| of_expr(arg, scope)),
        "nullif" | "min" | "max" | "greatest" | "least" => of_expr(args.next()?, scope),
        "array_agg" => {
            of_expr(args.next()?, scope).filter(|item| !item.starts_with('_')).map(|item| format!("_{item}"))
        }
        "unnest" => match of_expr(args.next()?, scope)?.as_str() {
            "int2vector" => Some("int2".to_owned()),
            "oidvector" => Some("oid".to_owned()),
            array => array.strip_prefix('_').map(str::to_owned),
        },
        name => returned_type(name).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(sql: &str) -> Vec<String> {
        let query = tidemill_sql::parser::parse_query(sql).unwrap();
        let types = declared_types(&query).unwrap();
        types.into_iter().map(|declared| declared.unwrap_or_else(|| "?".to_owned())).collect()
    }

    #[test]
    fn types_come_through_expressions_and_subqueries() {
        let sql = "SELECT nullif(a.attidentity, ''), CASE WHEN c.relkind = 'r' THEN c.relname END, max(c.oid), 1 + 1, \
                   (SELECT array_agg(t.oid) FROM pg_type t), ARRAY(SELECT nspname FROM pg_namespace), a.attname::text, \
                   coalesce(NULL, c.relacl), unnest(i.indkey), current_schema() \
                   FROM pg_class c, pg_catalog.pg_attribute a, pg_index AS i";
        let expected = ["char", "name", "oid", "?", "_oid", "_name", "text", "_aclitem", "int2", "name"];
        assert_eq!(types(sql), expected);
        let recursive = "WITH RECURSIVE tree(o, n) AS (SELECT t.oid, t.typname FROM pg_type t UNION ALL SELECT o, n FROM tree) \
                         SELECT *, n AS again FROM (SELECT n, o FROM tree) AS turned";
        assert_eq!(types(recursive), ["name", "oid", "name"]);
    }
}
