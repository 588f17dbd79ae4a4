//! Arrow's types as JSON, for `#[serde(with = …)]`.
//!
//! Types without parameters are strings, those with parameters are objects with one key. The names
//! are written here and not taken from Arrow's `Debug`, which changes between its versions.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit, UnionFields, UnionMode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a type.
pub fn serialize<S: Serializer>(data_type: &DataType, serializer: S) -> Result<S::Ok, S::Error> {
    StoredType::from(data_type).serialize(serializer)
}

/// Reads a type.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DataType, D::Error> {
    StoredType::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredType {
    Null,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float16,
    Float32,
    Float64,
    Date32,
    Date64,
    Binary,
    LargeBinary,
    BinaryView,
    Utf8,
    LargeUtf8,
    Utf8View,
    FixedSizeBinary(i32),
    Decimal32(u8, i8),
    Decimal64(u8, i8),
    Decimal128(u8, i8),
    Decimal256(u8, i8),
    Timestamp(StoredUnit, Option<String>),
    Time32(StoredUnit),
    Time64(StoredUnit),
    Duration(StoredUnit),
    Interval(StoredInterval),
    List(Box<StoredField>),
    LargeList(Box<StoredField>),
    ListView(Box<StoredField>),
    LargeListView(Box<StoredField>),
    FixedSizeList(Box<StoredField>, i32),
    Struct(Vec<StoredField>),
    Map(Box<StoredField>, bool),
    Dictionary(Box<StoredType>, Box<StoredType>),
    RunEndEncoded(Box<StoredField>, Box<StoredField>),
    Union(StoredUnion, Vec<(i8, StoredField)>),
}

#[derive(Serialize, Deserialize)]
struct StoredField {
    name: String,
    data_type: StoredType,
    nullable: bool,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    metadata: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredUnit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredInterval {
    YearMonth,
    DayTime,
    MonthDayNano,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredUnion {
    Sparse,
    Dense,
}

impl From<&DataType> for StoredType {
    fn from(data_type: &DataType) -> StoredType {
        let field = |field: &Arc<Field>| Box::new(StoredField::from(field.as_ref()));
        let boxed = |data_type: &DataType| Box::new(StoredType::from(data_type));
        match data_type {
            DataType::Null => StoredType::Null,
            DataType::Boolean => StoredType::Boolean,
            DataType::Int8 => StoredType::Int8,
            DataType::Int16 => StoredType::Int16,
            DataType::Int32 => StoredType::Int32,
            DataType::Int64 => StoredType::Int64,
            DataType::UInt8 => StoredType::Uint8,
            DataType::UInt16 => StoredType::Uint16,
            DataType::UInt32 => StoredType::Uint32,
            DataType::UInt64 => StoredType::Uint64,
            DataType::Float16 => StoredType::Float16,
            DataType::Float32 => StoredType::Float32,
            DataType::Float64 => StoredType::Float64,
            DataType::Date32 => StoredType::Date32,
            DataType::Date64 => StoredType::Date64,
            DataType::Binary => StoredType::Binary,
            DataType::LargeBinary => StoredType::LargeBinary,
            DataType::BinaryView => StoredType::BinaryView,
            DataType::Utf8 => StoredType::Utf8,
            DataType::LargeUtf8 => StoredType::LargeUtf8,
            DataType::Utf8View => StoredType::Utf8View,
            DataType::FixedSizeBinary(size) => StoredType::FixedSizeBinary(*size),
            DataType::Decimal32(precision, scale) => StoredType::Decimal32(*precision, *scale),
            DataType::Decimal64(precision, scale) => StoredType::Decimal64(*precision, *scale),
            DataType::Decimal128(precision, scale) => StoredType::Decimal128(*precision, *scale),
            DataType::Decimal256(precision, scale) => StoredType::Decimal256(*precision, *scale),
            DataType::Timestamp(unit, zone) => {
                StoredType::Timestamp(unit.into(), zone.as_ref().map(|zone| zone.to_string()))
            }
            DataType::Time32(unit) => StoredType::Time32(unit.into()),
            DataType::Time64(unit) => StoredType::Time64(unit.into()),
            DataType::Duration(unit) => StoredType::Duration(unit.into()),
            DataType::Interval(unit) => StoredType::Interval(unit.into()),
            DataType::List(item) => StoredType::List(field(item)),
            DataType::LargeList(item) => StoredType::LargeList(field(item)),
            DataType::ListView(item) => StoredType::ListView(field(item)),
            DataType::LargeListView(item) => StoredType::LargeListView(field(item)),
            DataType::FixedSizeList(item, size) => StoredType::FixedSizeList(field(item), *size),
            DataType::Struct(fields) => {
                StoredType::Struct(fields.iter().map(|field| StoredField::from(field.as_ref())).collect())
            }
            DataType::Map(entries, sorted) => StoredType::Map(field(entries), *sorted),
            DataType::Dictionary(keys, values) => StoredType::Dictionary(boxed(keys), boxed(values)),
            DataType::RunEndEncoded(ends, values) => StoredType::RunEndEncoded(field(ends), field(values)),
            DataType::Union(fields, mode) => {
                let mode = match mode {
                    UnionMode::Sparse => StoredUnion::Sparse,
                    UnionMode::Dense => StoredUnion::Dense,
                };
                let fields = fields.iter().map(|(id, field)| (id, StoredField::from(field.as_ref())));
                StoredType::Union(mode, fields.collect())
            }
        }
    }
}

impl TryFrom<StoredType> for DataType {
    type Error = arrow::error::ArrowError;

    fn try_from(stored: StoredType) -> Result<DataType, Self::Error> {
        let field = |field: StoredField| Field::try_from(field).map(Arc::new);
        Ok(match stored {
            StoredType::Null => DataType::Null,
            StoredType::Boolean => DataType::Boolean,
            StoredType::Int8 => DataType::Int8,
            StoredType::Int16 => DataType::Int16,
            StoredType::Int32 => DataType::Int32,
            StoredType::Int64 => DataType::Int64,
            StoredType::Uint8 => DataType::UInt8,
            StoredType::Uint16 => DataType::UInt16,
            StoredType::Uint32 => DataType::UInt32,
            StoredType::Uint64 => DataType::UInt64,
            StoredType::Float16 => DataType::Float16,
            StoredType::Float32 => DataType::Float32,
            StoredType::Float64 => DataType::Float64,
            StoredType::Date32 => DataType::Date32,
            StoredType::Date64 => DataType::Date64,
            StoredType::Binary => DataType::Binary,
            StoredType::LargeBinary => DataType::LargeBinary,
            StoredType::BinaryView => DataType::BinaryView,
            StoredType::Utf8 => DataType::Utf8,
            StoredType::LargeUtf8 => DataType::LargeUtf8,
            StoredType::Utf8View => DataType::Utf8View,
            StoredType::FixedSizeBinary(size) => DataType::FixedSizeBinary(size),
            StoredType::Decimal32(precision, scale) => DataType::Decimal32(precision, scale),
            StoredType::Decimal64(precision, scale) => DataType::Decimal64(precision, scale),
            StoredType::Decimal128(precision, scale) => DataType::Decimal128(precision, scale),
            StoredType::Decimal256(precision, scale) => DataType::Decimal256(precision, scale),
            StoredType::Timestamp(unit, zone) => DataType::Timestamp(unit.into(), zone.map(Into::into)),
            StoredType::Time32(unit) => DataType::Time32(unit.into()),
            StoredType::Time64(unit) => DataType::Time64(unit.into()),
            StoredType::Duration(unit) => DataType::Duration(unit.into()),
            StoredType::Interval(unit) => DataType::Interval(unit.into()),
            StoredType::List(item) => DataType::List(field(*item)?),
            StoredType::LargeList(item) => DataType::LargeList(field(*item)?),
            StoredType::ListView(item) => DataType::ListView(field(*item)?),
            StoredType::LargeListView(item) => DataType::LargeListView(field(*item)?),
            StoredType::FixedSizeList(item, size) => DataType::FixedSizeList(field(*item)?, size),
            StoredType::Struct(fields) => {
                let fields: Result<Vec<Field>, _> = fields.into_iter().map(Field::try_from).collect();
                DataType::Struct(Fields::from(fields?))
            }
            StoredType::Map(entries, sorted) => DataType::Map(field(*entries)?, sorted),
            StoredType::Dictionary(keys, values) => {
                DataType::Dictionary(Box::new((*keys).try_into()?), Box::new((*values).try_into()?))
            }
            StoredType::RunEndEncoded(ends, values) => {
                DataType::RunEndEncoded(field(*ends)?, field(*values)?)
            }
            StoredType::Union(mode, stored) => {
                let mode = match mode {
                    StoredUnion::Sparse => UnionMode::Sparse,
                    StoredUnion::Dense => UnionMode::Dense,
                };
                let (mut ids, mut fields) = (Vec::new(), Vec::new());
                for (id, stored) in stored {
                    ids.push(id);
                    fields.push(Field::try_from(stored)?);
                }
                DataType::Union(UnionFields::try_new(ids, fields)?, mode)
            }
        })
    }
}

impl From<&Field> for StoredField {
    fn from(field: &Field) -> StoredField {
        StoredField {
            name: field.name().clone(),
            data_type: field.data_type().into(),
            nullable: field.is_nullable(),
            metadata: field.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

impl TryFrom<StoredField> for Field {
    type Error = arrow::error::ArrowError;

    fn try_from(stored: StoredField) -> Result<Field, Self::Error> {
        let field = Field::new(stored.name, stored.data_type.try_into()?, stored.nullable);
        Ok(field.with_metadata(stored.metadata.into_iter().collect()))
    }
}

impl From<&TimeUnit> for StoredUnit {
    fn from(unit: &TimeUnit) -> StoredUnit {
        match unit {
            TimeUnit::Second => StoredUnit::Second,
            TimeUnit::Millisecond => StoredUnit::Millisecond,
            TimeUnit::Microsecond => StoredUnit::Microsecond,
            TimeUnit::Nanosecond => StoredUnit::Nanosecond,
        }
    }
}

impl From<StoredUnit> for TimeUnit {
    fn from(unit: StoredUnit) -> TimeUnit {
        match unit {
            StoredUnit::Second => TimeUnit::Second,
            StoredUnit::Millisecond => TimeUnit::Millisecond,
            StoredUnit::Microsecond => TimeUnit::Microsecond,
            StoredUnit::Nanosecond => TimeUnit::Nanosecond,
        }
    }
}

impl From<&IntervalUnit> for StoredInterval {
    fn from(unit: &IntervalUnit) -> StoredInterval {
        match unit {
            IntervalUnit::YearMonth => StoredInterval::YearMonth,
            IntervalUnit::DayTime => StoredInterval::DayTime,
            IntervalUnit::MonthDayNano => StoredInterval::MonthDayNano,
        }
    }
}

impl From<StoredInterval> for IntervalUnit {
    fn from(unit: StoredInterval) -> IntervalUnit {
        match unit {
            StoredInterval::YearMonth => IntervalUnit::YearMonth,
            StoredInterval::DayTime => IntervalUnit::DayTime,
            StoredInterval::MonthDayNano => IntervalUnit::MonthDayNano,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super")] DataType);

    #[test]
    fn every_type_survives() {
        let field = |name: &str, data_type: DataType| {
            Field::new(name, data_type, true).with_metadata([("k".to_string(), "v".to_string())].into())
        };
        let item = Arc::new(field("item", DataType::Utf8));
        let pair =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), field("value", DataType::Int8)]);
        let union =
            UnionFields::try_new([0, 5], [field("a", DataType::Int8), field("b", DataType::Utf8)]).unwrap();
        use DataType::*;
        let mut types = vec![
            Null,
            Boolean,
            Int8,
            Int16,
            Int32,
            Int64,
            UInt8,
            UInt16,
            UInt32,
            UInt64,
            Float16,
            Float32,
            Float64,
            Date32,
            Date64,
            Binary,
            LargeBinary,
            BinaryView,
            Utf8,
            LargeUtf8,
            Utf8View,
            FixedSizeBinary(16),
            Decimal32(9, 2),
            Decimal64(18, 3),
            Decimal128(38, 10),
            Decimal256(76, -2),
            Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            List(item.clone()),
            LargeList(item.clone()),
            ListView(item.clone()),
            LargeListView(item.clone()),
            FixedSizeList(item.clone(), 3),
            Struct(pair.clone()),
            Map(Arc::new(Field::new("entries", Struct(pair), false)), true),
            Dictionary(Box::new(Int32), Box::new(Utf8)),
            RunEndEncoded(Arc::new(Field::new("run_ends", Int32, false)), item),
            Union(union.clone(), UnionMode::Dense),
            Union(union, UnionMode::Sparse),
        ];
        for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            types.extend([Timestamp(unit, None), Time32(unit), Time64(unit), Duration(unit)]);
        }
        types.extend(
            [IntervalUnit::YearMonth, IntervalUnit::DayTime, IntervalUnit::MonthDayNano].map(Interval),
        );
        for data_type in types {
            let json = serde_json::to_string(&Wrapped(data_type.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Wrapped>(&json).unwrap(), Wrapped(data_type), "{json}");
        }
    }

    #[test]
    fn the_stored_names_stay() {
        let json = |data_type: DataType| serde_json::to_string(&Wrapped(data_type)).unwrap();
        assert_eq!(json(DataType::Utf8), r#""utf8""#);
        assert_eq!(json(DataType::Decimal128(12, 2)), r#"{"decimal128":[12,2]}"#);
        assert_eq!(
            json(DataType::Timestamp(TimeUnit::Microsecond, None)),
            r#"{"timestamp":["microsecond",null]}"#
        );
    }

    #[test]
    fn an_unknown_type_is_an_error() {
        assert!(serde_json::from_str::<Wrapped>(r#""int128""#).is_err());
    }
}
