//! The columns of a schema, where none are declared.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use tidemill_core::PG_TYPE;

use crate::formats::avro::reader::WriterFields;

/// What a source with this schema has as columns, or why it cannot have any.
pub fn infer(schema: &str) -> Result<SchemaRef, String> {
    let fields = WriterFields::parse(schema)?.arrow_schema()?;
    Ok(Arc::new(Schema::new(columns(fields.fields()))))
}

/// [`infer`] of the rows in a Debezium envelope: the fields of its image after the change.
pub fn infer_of_envelope(schema: &str) -> Result<SchemaRef, String> {
    let fields = WriterFields::parse(schema)?.arrow_schema()?;
    match fields.field_with_name("after").map(Field::data_type) {
        Ok(DataType::Struct(fields)) => Ok(Arc::new(Schema::new(columns(fields)))),
        _ => Err("it is no Debezium envelope: it has no record \"after\"".to_string()),
    }
}

/// The column that holds a field as SQL has it: unions and NULL as text, enums as text, times in microseconds.
pub fn column(field: &FieldRef) -> Field {
    let of_type = |data_type: DataType| Field::new(field.name(), data_type, field.is_nullable());
    let of_pg_type =
        |name: &str| of_type(DataType::Utf8).with_metadata([(PG_TYPE.to_string(), name.to_string())].into());
    match field.data_type() {
        DataType::FixedSizeBinary(_) if is_uuid(field) => of_pg_type("uuid"),
        DataType::FixedSizeBinary(_) => of_type(DataType::Binary),
        DataType::Union(..) => of_pg_type("jsonb"),
        DataType::Null | DataType::Dictionary(..) => of_type(DataType::Utf8),
        DataType::Timestamp(_, zone) => {
            let zone = zone.as_ref().map(|_| "UTC".into());
            of_type(DataType::Timestamp(TimeUnit::Microsecond, zone))
        }
        DataType::Time32(_) | DataType::Time64(_) => of_type(DataType::Time64(TimeUnit::Microsecond)),
        DataType::Interval(_) => of_type(DataType::Interval(IntervalUnit::MonthDayNano)),
        DataType::List(item) => of_type(DataType::List(Arc::new(column(item).with_nullable(true)))),
        DataType::Struct(fields) => of_type(DataType::Struct(columns(fields))),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else { unreachable!("entries are structs") };
            let value = column(&fields[1]).with_nullable(true);
            let entries = entries.as_ref().clone();
            let entries =
                entries.with_data_type(DataType::Struct(Fields::from(vec![fields[0].clone(), value.into()])));
            of_type(DataType::Map(Arc::new(entries), *sorted))
        }
        other => of_type(other.clone()),
    }
}

/// All may be NULL, whatever this schema says: a later one may say something else.
fn columns(fields: &Fields) -> Fields {
    fields.iter().map(|field| column(field).with_nullable(true)).collect()
}

/// Whether the bytes of a field are a UUID's.
pub fn is_uuid(field: &Field) -> bool {
    field.metadata().get("logicalType").is_some_and(|logical| logical.trim_matches('"') == "uuid")
}
