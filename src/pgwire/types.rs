//! Arrow types and Postgres types.
//!
//! A field says its Postgres type in the metadata key [`PG_TYPE`] where the Arrow type alone does
//! not: `json` and `uuid` are text in Arrow, `oid` is an integer. The value is a name of
//! `pg_type.typname` or an SQL name of the type, with an optional modifier: `varchar(20)`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use pgwire::messages::data::FieldDescription;
// The `postgres_types` that is behind pgwire's `Type` too; pgwire does not re-export `Kind`.
use tokio_postgres::types::Kind;

use crate::session::api::PgType;

pub use tidemill_sql::types::PG_TYPE;

/// The metadata key for where a column of a result comes from: the OID of a relation, a point, and the number of the column in it.
pub const ORIGIN: &str = "tidemill.origin";

/// What a result column is to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    pub pg_type: PgType,
    /// The modifier, such as the length of `varchar(20)`; -1 for none.
    pub typmod: i32,
}

/// The Postgres type of a field.
pub fn column_type(field: &Field) -> ColumnType {
    if let Some(name) = field.metadata().get(PG_TYPE)
        && let Some(column_type) = named(name)
        && is_kept_as(field.data_type(), &column_type.pg_type)
    {
        return column_type;
    }
    ColumnType { pg_type: pg_type(field.data_type()), typmod: typmod(field.data_type()) }
}

/// Whether a type's values can be of an Arrow type. A cast to a number keeps the metadata of the `json` it was.
fn is_kept_as(data_type: &DataType, pg_type: &PgType) -> bool {
    let is_text =
        [PgType::JSON, PgType::JSONB, PgType::UUID, PgType::VARCHAR, PgType::BPCHAR].contains(pg_type);
    !is_text || !(data_type.is_primitive() || *data_type == DataType::Boolean)
}

/// The Postgres type of an Arrow type.
pub fn pg_type(data_type: &DataType) -> PgType {
    match data_type {
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => PgType::TEXT,
        DataType::Boolean => PgType::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => PgType::INT2,
        DataType::Int32 | DataType::UInt16 => PgType::INT4,
        // Unsigned ones of 64 bits are counts and positions; none of ours has the highest bit.
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => PgType::INT8,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => PgType::NUMERIC,
        DataType::Float16 | DataType::Float32 => PgType::FLOAT4,
        DataType::Float64 => PgType::FLOAT8,
        DataType::Timestamp(_, None) => PgType::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => PgType::TIMESTAMPTZ,
        DataType::Date32 | DataType::Date64 => PgType::DATE,
        DataType::Time32(_) | DataType::Time64(_) => PgType::TIME,
        DataType::Duration(_) | DataType::Interval(_) => PgType::INTERVAL,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            PgType::BYTEA
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => array_of(&innermost(field)),
        DataType::Struct(_) => PgType::RECORD,
        DataType::Map(..) => PgType::JSON,
        DataType::Dictionary(_, value) => pg_type(value),
        DataType::RunEndEncoded(_, value) => pg_type(value.data_type()),
        DataType::Union(..) => PgType::TEXT,
    }
}

/// In Postgres an array of arrays is one array of more dimensions.
fn innermost(field: &Field) -> PgType {
    match field.data_type() {
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::ListView(inner)
        | DataType::LargeListView(inner)
        | DataType::FixedSizeList(inner, _) => innermost(inner),
        _ => column_type(field).pg_type,
    }
}

/// The Arrow type that a parameter of a Postgres type becomes. `None` for what has no fixed one:
/// numeric, whose scale is the value's own.
pub fn arrow_type(pg_type: &PgType) -> Option<DataType> {
    let data_type = match *pg_type {
        PgType::BOOL => DataType::Boolean,
        PgType::INT2 => DataType::Int16,
        PgType::INT4 => DataType::Int32,
        PgType::INT8 | PgType::OID | PgType::XID | PgType::CID => DataType::Int64,
        PgType::FLOAT4 => DataType::Float32,
        PgType::FLOAT8 => DataType::Float64,
        PgType::NUMERIC => return None,
        PgType::BYTEA => DataType::Binary,
        PgType::DATE => DataType::Date32,
        PgType::TIME => DataType::Time64(TimeUnit::Microsecond),
        PgType::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        PgType::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        PgType::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => match element_of(pg_type) {
            Some(PgType::NUMERIC) => list_of(DataType::Decimal128(38, 10)),
            Some(element) => list_of(arrow_type(&element)?),
            None => DataType::Utf8,
        },
    };
    Some(data_type)
}

fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// The type of the elements of an array type.
pub fn element_of(pg_type: &PgType) -> Option<PgType> {
    match pg_type.kind() {
        Kind::Array(element) => Some(element.clone()),
        _ => None,
    }
}

/// The array type of an element type; text arrays for what has none.
pub fn array_of(element: &PgType) -> PgType {
    match *element {
        PgType::BOOL => PgType::BOOL_ARRAY,
        PgType::INT2 => PgType::INT2_ARRAY,
        PgType::INT4 => PgType::INT4_ARRAY,
        PgType::INT8 => PgType::INT8_ARRAY,
        PgType::FLOAT4 => PgType::FLOAT4_ARRAY,
        PgType::FLOAT8 => PgType::FLOAT8_ARRAY,
        PgType::NUMERIC => PgType::NUMERIC_ARRAY,
        PgType::BYTEA => PgType::BYTEA_ARRAY,
        PgType::DATE => PgType::DATE_ARRAY,
        PgType::TIME => PgType::TIME_ARRAY,
        PgType::TIMESTAMP => PgType::TIMESTAMP_ARRAY,
        PgType::TIMESTAMPTZ => PgType::TIMESTAMPTZ_ARRAY,
        PgType::INTERVAL => PgType::INTERVAL_ARRAY,
        PgType::RECORD => PgType::RECORD_ARRAY,
        PgType::JSON => PgType::JSON_ARRAY,
        PgType::JSONB => PgType::JSONB_ARRAY,
        PgType::UUID => PgType::UUID_ARRAY,
        PgType::OID => PgType::OID_ARRAY,
        PgType::NAME => PgType::NAME_ARRAY,
        PgType::CHAR => PgType::CHAR_ARRAY,
        PgType::BPCHAR => PgType::BPCHAR_ARRAY,
        PgType::VARCHAR => PgType::VARCHAR_ARRAY,
        PgType::ACLITEM => PgType::ACLITEM_ARRAY,
        PgType::REGTYPE => PgType::REGTYPE_ARRAY,
        PgType::REGCLASS => PgType::REGCLASS_ARRAY,
        PgType::INET => PgType::INET_ARRAY,
        PgType::XID => PgType::XID_ARRAY,
        _ => PgType::TEXT_ARRAY,
    }
}

/// `typlen` of `pg_type`: bytes, or -1 for types of any length.
pub fn type_size(pg_type: &PgType) -> i16 {
    match *pg_type {
        PgType::BOOL | PgType::CHAR => 1,
        PgType::INT2 => 2,
        PgType::INT4
        | PgType::FLOAT4
        | PgType::DATE
        | PgType::OID
        | PgType::XID
        | PgType::CID
        | PgType::REGPROC
        | PgType::REGPROCEDURE
        | PgType::REGOPER
        | PgType::REGOPERATOR
        | PgType::REGCLASS
        | PgType::REGTYPE
        | PgType::REGROLE
        | PgType::REGNAMESPACE
        | PgType::REGCONFIG
        | PgType::REGDICTIONARY
        | PgType::VOID => 4,
        PgType::TID => 6,
        PgType::INT8
        | PgType::FLOAT8
        | PgType::TIME
        | PgType::TIMESTAMP
        | PgType::TIMESTAMPTZ
        | PgType::MONEY
        | PgType::PG_LSN
        | PgType::XID8 => 8,
        PgType::TIMETZ => 12,
        PgType::INTERVAL | PgType::UUID => 16,
        PgType::NAME => 64,
        PgType::UNKNOWN | PgType::CSTRING => -2,
        _ => -1,
    }
}

/// Precision and scale in one number, as PostgreSQL's `make_numeric_typmod` does it.
fn numeric_typmod(precision: i32, scale: i32) -> i32 {
    ((precision << 16) | (scale & 0x7ff)) + 4
}

fn typmod(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => numeric_typmod(i32::from(*precision), i32::from(*scale)),
        DataType::Dictionary(_, value) => typmod(value),
        _ => -1,
    }
}

/// A type that a parameter can be of, by its name as a cast has it.
pub fn named_type(name: &str) -> Option<PgType> {
    let name = name.trim();
    let named = named(name.strip_prefix("pg_catalog.").unwrap_or(name))?.pg_type;
    let base = element_of(&named).unwrap_or(named.clone());
    // Those that are decoded; `regclass` and its kin are looked up, and come as text.
    let is_known = arrow_type(&base).is_some_and(|data_type| data_type != DataType::Utf8)
        || [
            PgType::NUMERIC,
            PgType::TEXT,
            PgType::VARCHAR,
            PgType::BPCHAR,
            PgType::NAME,
            PgType::UUID,
            PgType::JSON,
            PgType::JSONB,
        ]
        .contains(&base);
    is_known.then_some(named)
}

/// A type by its name, with an optional modifier and `[]`.
fn named(name: &str) -> Option<ColumnType> {
    let name = name.trim().to_ascii_lowercase();
    if let Some(element) = name.strip_suffix("[]") {
        let element = named(element)?;
        return Some(ColumnType { pg_type: array_of(&element.pg_type), typmod: element.typmod });
    }
    let (name, modifiers) = match name.split_once('(') {
        None => (name.as_str(), Vec::new()),
        Some((name, rest)) => {
            let modifiers = rest.trim_end_matches(')').split(',');
            let modifiers: Result<Vec<i32>, _> = modifiers.map(|m| m.trim().parse()).collect();
            (name.trim(), modifiers.ok()?)
        }
    };
    let pg_type = match name {
        "bool" | "boolean" => PgType::BOOL,
        "int2" | "smallint" => PgType::INT2,
        "int4" | "int" | "integer" => PgType::INT4,
        "int8" | "bigint" => PgType::INT8,
        "float4" | "real" => PgType::FLOAT4,
        "float8" | "double precision" => PgType::FLOAT8,
        "numeric" | "decimal" => PgType::NUMERIC,
        "text" => PgType::TEXT,
        "varchar" | "character varying" => PgType::VARCHAR,
        "bpchar" | "character" => PgType::BPCHAR,
        "char" => PgType::CHAR,
        "name" => PgType::NAME,
        "bytea" => PgType::BYTEA,
        "date" => PgType::DATE,
        "time" | "time without time zone" => PgType::TIME,
        "timestamp" | "timestamp without time zone" => PgType::TIMESTAMP,
        "timestamptz" | "timestamp with time zone" => PgType::TIMESTAMPTZ,
        "interval" => PgType::INTERVAL,
        "uuid" => PgType::UUID,
        "json" => PgType::JSON,
        "jsonb" => PgType::JSONB,
        "xml" => PgType::XML,
        "oid" => PgType::OID,
        "xid" => PgType::XID,
        "cid" => PgType::CID,
        "tid" => PgType::TID,
        "regproc" => PgType::REGPROC,
        "regprocedure" => PgType::REGPROCEDURE,
        "regclass" => PgType::REGCLASS,
        "regtype" => PgType::REGTYPE,
        "regrole" => PgType::REGROLE,
        "regnamespace" => PgType::REGNAMESPACE,
        "int2vector" => PgType::INT2_VECTOR,
        "oidvector" => PgType::OID_VECTOR,
        "pg_node_tree" => PgType::PG_NODE_TREE,
        "pg_lsn" => PgType::PG_LSN,
        "inet" => PgType::INET,
        "aclitem" => PgType::ACLITEM,
        "anyarray" => PgType::ANYARRAY,
        "record" => PgType::RECORD,
        "void" => PgType::VOID,
        "unknown" => PgType::UNKNOWN,
        // Arrays by their name in pg_type: `_int4`.
        name => array_of(&named(name.strip_prefix('_')?)?.pg_type),
    };
    let typmod = match (&pg_type, modifiers.as_slice()) {
        (_, []) => -1,
        (&PgType::NUMERIC, [precision]) => numeric_typmod(*precision, 0),
        (&PgType::NUMERIC, [precision, scale]) => numeric_typmod(*precision, *scale),
        (&PgType::VARCHAR | &PgType::BPCHAR, [length]) => length + 4,
        (_, [precision, ..]) => *precision,
    };
    Some(ColumnType { pg_type, typmod })
}

/// A column as `RowDescription` lists it; `format` is 0 for text, 1 for binary.
pub(crate) fn field_description(field: &Field, format: i16) -> FieldDescription {
    let ColumnType { pg_type, typmod } = column_type(field);
    let origin = field.metadata().get(ORIGIN).and_then(|origin| origin.split_once('.'));
    let (relation, column) = match origin {
        Some((relation, column)) => (relation.parse().unwrap_or(0), column.parse().unwrap_or(0)),
        None => (0, 0),
    };
    let size = type_size(&pg_type);
    FieldDescription::new(field.name().clone(), relation, column, pg_type.oid(), size, typmod, format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_metadata(data_type: DataType, name: &str) -> Field {
        Field::new("c", data_type, true).with_metadata([(PG_TYPE.into(), name.into())].into())
    }

    #[test]
    fn metadata_goes_before_the_arrow_type() {
        let of = |name| column_type(&with_metadata(DataType::Utf8, name));
        assert_eq!(of("jsonb").pg_type, PgType::JSONB);
        assert_eq!(of("varchar(20)").typmod, 24);
        assert_eq!(of("_int4").pg_type, PgType::INT4_ARRAY);
        assert_eq!(of("uuid[]").pg_type, PgType::UUID_ARRAY);
        assert_eq!(of("what").pg_type, PgType::TEXT);
    }

    #[test]
    fn numeric_carries_precision_and_scale() {
        // As `SELECT atttypmod` says for numeric(10,2) in PostgreSQL.
        let field = Field::new("c", DataType::Decimal128(10, 2), true);
        assert_eq!(column_type(&field).typmod, 655366);
    }

    #[test]
    fn nested_lists_are_arrays_of_the_innermost() {
        let inner = Arc::new(Field::new("item", DataType::Int64, true));
        let outer = DataType::List(Arc::new(Field::new("item", DataType::List(inner), true)));
        assert_eq!(pg_type(&outer), PgType::INT8_ARRAY);
    }

    #[test]
    fn unsigned_go_to_the_next_larger() {
        let types = [DataType::UInt8, DataType::UInt16, DataType::UInt32, DataType::UInt64];
        let expected = [PgType::INT2, PgType::INT4, PgType::INT8, PgType::INT8];
        assert_eq!(types.map(|data_type| pg_type(&data_type)), expected);
    }
}
