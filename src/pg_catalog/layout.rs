//! The system relations' names and columns, as PostgreSQL has them.
//!
//! `data/columns.txt` was written by a query over `pg_attribute` of PostgreSQL 15 and has the columns that 16
//! added; the other files in `data/` are rows of those relations whose contents are the same in
//! every database, limited to what Tidemill knows.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Field, Schema, SchemaRef};
use tidemill_catalog::Oid;

use crate::pg_catalog::value::{Value, arrow_type_of};
use crate::pgwire::types::PG_TYPE;

/// A system relation.
#[derive(Debug)]
pub struct Layout {
    pub schema: &'static str,
    pub name: &'static str,
    pub oid: Oid,
    /// Names of columns, and of their types in `pg_type`.
    pub columns: Vec<(&'static str, &'static str)>,
    pub arrow_schema: SchemaRef,
}

/// All system relations, as in the file.
pub static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(read_layouts);

static BY_NAME: LazyLock<HashMap<(&'static str, &'static str), usize>> = LazyLock::new(|| {
    let named = LAYOUTS.iter().enumerate();
    named.map(|(idx, layout)| ((layout.schema, layout.name), idx)).collect()
});

/// Relations without an OID that clients know get one from here, which is below those of users.
const FIRST_OTHER_OID: Oid = 12_000;

fn read_layouts() -> Vec<Layout> {
    let known: HashMap<&str, Oid> = include_str!("data/system_oids.tsv")
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(name, oid)| Some((name, oid.parse().ok()?)))
        .collect();
    let lines = include_str!("data/columns.txt").lines().enumerate();
    lines
        .filter_map(|(idx, line)| {
            let (full_name, columns) = line.split_once(' ')?;
            let (schema, name) = full_name.split_once('.')?;
            let oid = match known.get(name) {
                Some(oid) if schema == "pg_catalog" => *oid,
                _ => FIRST_OTHER_OID + idx as Oid,
            };
            let columns: Vec<(&str, &str)> =
                columns.split(' ').filter_map(|column| column.split_once(':')).collect();
            let fields: Vec<Field> = columns.iter().map(|(name, type_name)| field(name, type_name)).collect();
            Some(Layout { schema, name, oid, columns, arrow_schema: Arc::new(Schema::new(fields)) })
        })
        .collect()
}

/// A column of a type of PostgreSQL.
pub fn field(name: &str, type_name: &str) -> Field {
    Field::new(name, arrow_type_of(type_name), true)
        .with_metadata([(PG_TYPE.to_owned(), type_name.to_owned())].into())
}

/// The relation of this name; without a schema, of `pg_catalog`.
pub fn find(schema: Option<&str>, name: &str) -> Option<&'static Layout> {
    let schema = match schema {
        None | Some("pg_catalog") => "pg_catalog",
        Some("information_schema") => "information_schema",
        Some(_) => return None,
    };
    BY_NAME.get(&(schema, name)).map(|idx| &LAYOUTS[*idx])
}

/// Rows under construction.
pub struct Rows {
    layout: &'static Layout,
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    pub fn new(layout: &'static Layout) -> Rows {
        Rows { layout, rows: Vec::new() }
    }

    /// Adds a row. What is not named gets the value that means "none": zero, false, the empty
    /// string, in `information_schema` NULL.
    pub fn push(&mut self, named: Vec<(&str, Value)>) {
        debug_assert!(
            named.iter().all(|(name, _)| self.layout.columns.iter().any(|(column, _)| column == name)),
            "{} has no such column: {:?}",
            self.layout.name,
            named.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
        let mut row = Vec::with_capacity(self.layout.columns.len());
        for (name, type_name) in &self.layout.columns {
            let value = named.iter().find(|(named, _)| named == name).map(|(_, value)| value.clone());
            row.push(value.unwrap_or_else(|| self.none(type_name)));
        }
        self.rows.push(row);
    }

    fn none(&self, type_name: &str) -> Value {
        if self.layout.schema == "information_schema" {
            return Value::Null;
        }
        match type_name {
            "bool" => Value::Bool(false),
            "oid" | "regproc" | "regtype" | "int2" | "int4" | "int8" | "xid" => Value::Int(0),
            "float4" | "float8" => Value::Float(0.0),
            "char" | "name" => Value::from(""),
            "int2vector" | "oidvector" => Value::List(Vec::new()),
            _ => Value::Null,
        }
    }

    /// Adds the rows of a data file: a header with names of columns, then PostgreSQL's COPY format.
    pub fn push_file(&mut self, file: &str) {
        for row in read_file(file) {
            self.push(row);
        }
    }
}

/// The rows of a data file, with the columns' names.
pub fn read_file(file: &str) -> Vec<Vec<(&str, Value)>> {
    let mut lines = file.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    lines
        .map(|line| {
            let values = line.split('\t').map(|value| match value {
                r"\N" => Value::Null,
                text => Value::from(text.replace(r"\\", r"\")),
            });
            names.iter().copied().zip(values).collect()
        })
        .collect()
}
