//! A source that reads what it is given.
//!
//! Offsets are numbers of records. What is given at once is read as one batch, so that it comes in one epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, Scalar};
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use async_trait::async_trait;
use tidemill_core::source::{
    BadRecord, Changes, ConnectorError, Offset, Source, SourceBatch, Split, SplitId, SplitReader,
};
use tidemill_core::{Delta, SqlState};

use super::{GivenSource, StandIns, State};
use crate::formats::records::{Record, Records};
use crate::formats::{Decoder, filler, include};
use crate::registry::ConnectorSource;
use crate::spec::{Encode, Format, IncludeColumn, SourceSpec};

/// The engine reads no more splits of a source that ends at once.
const BOUNDED_SPLITS_MAX: u32 = 4;

/// A source and what it was given.
#[derive(Debug)]
pub(super) struct Given {
    name: String,
    schema: arrow::datatypes::SchemaRef,
    primary_key: Vec<usize>,
    include: Vec<IncludeColumn>,
    format: Format,
    /// Of records as bytes; nothing where the source's are none.
    decoder: Option<Decoder>,
    is_bounded: bool,
    /// Its end, once it has one.
    end: Option<Place>,
    splits: Vec<GivenSplit>,
}

#[derive(Debug, Default)]
struct GivenSplit {
    gifts: Vec<Gift>,
    n_records: u64,
    /// Where readers wait for more.
    waiting: BTreeMap<u64, u64>,
    /// A reader has seen that it has ended.
    has_ended: bool,
}

/// When something was read for the first time, if it was.
type Place = Option<u64>;

/// What was given at once.
#[derive(Debug)]
struct Gift {
    place: Place,
    from: u64,
    to: u64,
    batch: SourceBatch,
}

/// Records as they would come from the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenRecord {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Rows for a source.
#[derive(Debug)]
pub struct GivenRows<'a> {
    pub partition: u32,
    /// In the columns of the source's records; NULLs have not been looked at.
    pub rows: RecordBatch,
    /// Which columns somebody has thought of.
    pub columns: &'a [usize],
    /// Whether the rows are taken back.
    pub are_deleted: bool,
    /// The time, in microseconds since 1970.
    pub now: i64,
}

impl Given {
    pub fn new(spec: &SourceSpec<'_>, n_splits: u32, is_bounded: bool) -> Given {
        let mut given = Given {
            name: String::new(),
            schema: spec.schema.clone(),
            primary_key: Vec::new(),
            include: Vec::new(),
            format: spec.format,
            decoder: None,
            is_bounded,
            end: None,
            splits: (0..n_splits.max(1)).map(|_| GivenSplit::default()).collect(),
        };
        given.declare(spec);
        given
    }

    /// Takes over how it is declared now.
    pub fn declare(&mut self, spec: &SourceSpec<'_>) {
        self.name = spec.name.to_owned();
        self.schema = spec.schema.clone();
        self.primary_key = spec.primary_key.to_vec();
        self.include = spec.include.to_vec();
        self.format = spec.format;
        // Without a word for it, records are JSON, as they are in Kafka.
        let encode = if spec.encode == Encode::Native { Encode::Json } else { spec.encode };
        self.decoder = match encode {
            // Nobody is asked for schemas here.
            Encode::Parquet | Encode::Avro => None,
            encode => Decoder::new(spec, encode).ok(),
        };
    }

    pub fn forget_readers(&mut self) {
        for split in &mut self.splits {
            split.waiting.clear();
            split.has_ended = false;
        }
    }

    /// Whether readers have come to the end of what is shown.
    pub fn is_read(&self, shown: Option<u64>) -> bool {
        let has_to_end = self.has_ended(shown);
        self.splits.iter().all(|split| {
            let last = split.gifts.iter().take_while(|gift| is_shown(gift.place, shown)).last();
            let end = last.map_or(0, |gift| gift.to);
            split.has_ended || (!has_to_end && split.waiting.values().any(|at| *at >= end))
        })
    }

    pub fn has_ended(&self, shown: Option<u64>) -> bool {
        self.end.is_some_and(|place| is_shown(place, shown))
    }

    /// In which rounds something of it was read.
    pub fn rounds(&self) -> impl Iterator<Item = u64> {
        let of_gifts = self.splits.iter().flat_map(|split| &split.gifts).filter_map(|gift| gift.place);
        of_gifts.chain(self.end.flatten())
    }

    fn takes_deletes(&self) -> bool {
        !self.primary_key.is_empty() || self.format == Format::Debezium
    }

    fn split(&mut self, partition: u32) -> Result<&mut GivenSplit, ConnectorError> {
        let message = match (self.end, self.splits.len()) {
            (Some(_), _) => format!("source \"{}\" has ended", self.name),
            (None, n) if partition as usize >= n => {
                format!("source \"{}\" has no partition {partition}", self.name)
            }
            (None, _) if self.is_bounded && partition >= BOUNDED_SPLITS_MAX => {
                format!(
                    "source \"{}\" ends, and of such a test has {BOUNDED_SPLITS_MAX} partitions",
                    self.name
                )
            }
            _ => return Ok(&mut self.splits[partition as usize]),
        };
        Err(ConnectorError::fatal(SqlState::NOT_IN_PREREQUISITE_STATE, message))
    }

    /// Rows as a batch, with what is known of each record in the columns of `INCLUDE` that nobody has thought of.
    fn batch(&mut self, given: GivenRows<'_>) -> Result<SourceBatch, ConnectorError> {
        let GivenRows { partition, rows, columns: thought_of, are_deleted, now } = given;
        let n_rows = rows.num_rows();
        let from = self.split(partition)?.n_records;
        let number = |idx: usize| from as i64 + idx as i64;
        let records: Vec<Record> = (0..n_rows)
            .map(|idx| Record {
                offset: number(idx),
                timestamp_millis: Some(now / 1000),
                ..Record::default()
            })
            .collect();
        let records =
            Records { records: &records, partition: i32::try_from(partition).ok(), ..Records::default() };
        let all: Vec<usize> = (0..n_rows).collect();
        let mut columns = rows.columns().to_vec();
        for include in self.include.iter().filter(|include| !thought_of.contains(&include.column_idx)) {
            let field = self.schema.field(include.column_idx);
            columns[include.column_idx] =
                include::column(&include.kind, field, &records, &all, &mut Vec::new());
        }
        for (idx, (column, field)) in columns.iter_mut().zip(self.schema.fields()).enumerate() {
            let is_key = self.primary_key.contains(&idx);
            if column.null_count() == 0 || (field.is_nullable() && !is_key) {
                continue;
            }
            if are_deleted && !is_key && !self.primary_key.is_empty() {
                // Of a deleted row only the key counts, but the schema wants a value: any will do.
                *column = filled(column);
                continue;
            }
            let message = format!("column \"{}\" is NULL but must not be", field.name());
            return Err(ConnectorError::fatal(SqlState::NOT_NULL_VIOLATION, message));
        }
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| ConnectorError::fatal(SqlState::DATATYPE_MISMATCH, error.to_string()))?;
        let changes = match (self.primary_key.is_empty(), are_deleted) {
            (false, _) => Changes::Upsert { rows, deleted: BooleanArray::from(vec![are_deleted; n_rows]) },
            (true, _) if self.format != Format::Debezium => Changes::Append(rows),
            (true, false) => Changes::Delta(Delta::inserts(&rows)),
            (true, true) => Changes::Delta(Delta::retractions(&rows)),
        };
        Ok(SourceBatch { changes, next: Offset::from(from + n_rows as u64), bad: Vec::new(), n_bytes: 0 })
    }

    /// Records as a batch, decoded as the source's are.
    fn decode(
        &mut self,
        partition: u32,
        given: &[GivenRecord],
        now: i64,
    ) -> Result<SourceBatch, ConnectorError> {
        let from = self.split(partition)?.n_records;
        let Some(decoder) = &self.decoder else {
            let message = format!("the records of source \"{}\" are no bytes", self.name);
            return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Give it rows: GIVEN source VALUES (…)."));
        };
        let mut bytes = Vec::new();
        let mut push = |part: &Option<Vec<u8>>| {
            let part = part.as_ref()?;
            let start = bytes.len();
            bytes.extend_from_slice(part);
            Some(start..bytes.len())
        };
        let records: Vec<Record> = given
            .iter()
            .zip(from as i64..)
            .map(|(record, offset)| Record {
                key: push(&record.key),
                value: push(&record.value),
                offset,
                timestamp_millis: Some(now / 1000),
                headers: 0..0,
            })
            .collect();
        let n_bytes = bytes.len();
        let records = Records {
            bytes: &bytes,
            records: &records,
            headers: &[],
            partition: i32::try_from(partition).ok(),
            file: None,
        };
        let (changes, faults) = decoder.decode(&records);
        let bad = faults.into_iter().map(|(idx, fault)| BadRecord {
            offset: Offset::from(from + idx as u64),
            raw: records.raw(idx).to_vec(),
            sqlstate: fault.sqlstate,
            reason: fault.reason,
        });
        let next = Offset::from(from + given.len() as u64);
        Ok(SourceBatch { changes, next, bad: bad.collect(), n_bytes })
    }
}

/// While something is hidden, so is what nobody has read.
fn is_shown(place: Place, shown: Option<u64>) -> bool {
    shown.is_none_or(|shown| place.is_some_and(|place| place <= shown))
}

/// The column with some value in the place of NULL.
fn filled(column: &ArrayRef) -> ArrayRef {
    let missing = is_null(column).expect("a column has NULLs or not");
    zip(&missing, &Scalar::new(filler(column)), column).expect("the filler has the column's type")
}

impl State {
    fn source(&mut self, id: u32) -> Result<&mut Given, ConnectorError> {
        self.sources.get_mut(&id).ok_or_else(|| {
            ConnectorError::fatal(SqlState::INTERNAL_ERROR, "nothing stands in for the source")
        })
    }

    fn put(&mut self, id: u32, partition: u32, batch: SourceBatch) -> Result<(), ConnectorError> {
        let split = &mut self.source(id)?.splits[partition as usize];
        let from = split.n_records;
        let to = batch.next.0.parse().expect("offsets are numbers here");
        split.n_records = to;
        split.gifts.push(Gift { place: None, from, to, batch });
        Ok(())
    }
}

impl StandIns {
    /// What can be asked of a source; nothing where it is not known.
    pub fn given(&self, id: u32) -> Option<GivenSource> {
        let state = self.state();
        let given = state.sources.get(&id)?;
        Some(GivenSource { schema: given.schema.clone(), takes_deletes: given.takes_deletes() })
    }

    /// Gives rows to a source, to be read at once.
    pub fn give(&self, id: u32, given: GivenRows<'_>) -> Result<(), ConnectorError> {
        let mut state = self.state();
        let source = state.source(id)?;
        if given.are_deleted && !source.takes_deletes() {
            let message = format!("source \"{}\" takes no row back", source.name);
            return Err(ConnectorError::fatal(SqlState::WRONG_OBJECT_TYPE, message).with_hint(
                "Each of its records is a new row; one with a PRIMARY KEY, or FORMAT DEBEZIUM, can delete.",
            ));
        }
        let partition = given.partition;
        if given.rows.num_rows() == 0 {
            return source.split(partition).map(drop);
        }
        let batch = source.batch(given)?;
        state.put(id, partition, batch)?;
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }

    /// Gives records to a source, as they would come from the outside.
    pub fn give_records(
        &self,
        id: u32,
        partition: u32,
        records: &[GivenRecord],
        now: i64,
    ) -> Result<(), ConnectorError> {
        let mut state = self.state();
        let source = state.source(id)?;
        if records.is_empty() {
            return source.split(partition).map(drop);
        }
        let batch = source.decode(partition, records, now)?;
        state.put(id, partition, batch)?;
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }

    /// Says that a source has no more rows.
    pub fn finish(&self, id: u32) -> Result<(), ConnectorError> {
        let mut state = self.state();
        let source = state.source(id)?;
        if !source.is_bounded {
            let message = format!("source \"{}\" never ends", source.name);
            return Err(ConnectorError::fatal(SqlState::WRONG_OBJECT_TYPE, message).with_hint(
                "Its watermark follows its rows: GIVEN it a row of a later time, to which windows close.",
            ));
        }
        source.split(0)?;
        source.end = Some(None);
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct StandInSource {
    pub stand_ins: Arc<StandIns>,
    pub id: u32,
    pub is_bounded: bool,
}

#[async_trait]
impl Source for StandInSource {
    async fn splits(&self) -> Result<Vec<Split>, ConnectorError> {
        let n_splits = self.stand_ins.state().source(self.id)?.splits.len();
        let split = |idx: usize| Split { id: SplitId(idx.to_string().into()), start: Offset::from(0) };
        Ok((0..n_splits).map(split).collect())
    }

    fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    fn n_records(&self, _split: &SplitId, from: &Offset, to: &Offset) -> Option<u64> {
        to.0.parse::<u64>().ok()?.checked_sub(from.0.parse().ok()?)
    }

    async fn open(&self, split: &SplitId, from: &Offset) -> Result<Box<dyn SplitReader>, ConnectorError> {
        let (split, at) = match (split.0.parse(), from.0.parse()) {
            (Ok(split), Ok(at)) => (split, at),
            _ => {
                let message = format!("a test has no split \"{split}\" with an offset \"{from}\"");
                return Err(ConnectorError::fatal(SqlState::INTERNAL_ERROR, message));
            }
        };
        let mut state = self.stand_ins.state();
        state.n_readers += 1;
        let reader = state.n_readers;
        Ok(Box::new(StandInReader { stand_ins: self.stand_ins.clone(), id: self.id, split, at, reader }))
    }
}

#[async_trait]
impl ConnectorSource for StandInSource {}

struct StandInReader {
    stand_ins: Arc<StandIns>,
    id: u32,
    split: usize,
    at: u64,
    /// Tells it from others.
    reader: u64,
}

/// What there is for a reader.
enum Found {
    Batch(SourceBatch, u64),
    End,
    Nothing,
}

impl StandInReader {
    fn look(&self, until: Option<&Offset>) -> Result<Found, ConnectorError> {
        let mut state = self.stand_ins.state();
        let (shown, round) = (state.shown, state.round);
        let source = state.source(self.id)?;
        let split = &mut source.splits[self.split];
        split.waiting.remove(&self.reader);
        if until.is_some_and(|until| *until == Offset::from(self.at)) {
            return Ok(Found::End);
        }
        // Up to an offset that somebody has reached, all was shown once.
        let is_there = |gift: &&mut Gift| until.is_some() || is_shown(gift.place, shown);
        if let Some(gift) = split.gifts.iter_mut().find(|gift| gift.from >= self.at).filter(is_there) {
            gift.place.get_or_insert(round);
            return Ok(Found::Batch(gift.batch.clone(), gift.to));
        }
        if let Some(place) = source.end.as_mut().filter(|place| is_shown(**place, shown)) {
            place.get_or_insert(round);
            split.has_ended |= until.is_none();
            return Ok(Found::End);
        }
        split.waiting.insert(self.reader, self.at);
        Ok(Found::Nothing)
    }
}

/// A reader that waits. Where it is dropped, nobody does any more.
struct Waiting<'a>(&'a StandInReader);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Ok(source) = self.0.stand_ins.state().source(self.0.id) {
            source.splits[self.0.split].waiting.remove(&self.0.reader);
        }
    }
}

#[async_trait]
impl SplitReader for StandInReader {
    async fn next(&mut self, until: Option<&Offset>) -> Result<Option<SourceBatch>, ConnectorError> {
        loop {
            let stand_ins = self.stand_ins.clone();
            let news = stand_ins.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let found = self.look(until)?;
            stand_ins.read.notify_waiters();
            match found {
                Found::Batch(batch, to) => {
                    self.at = to;
                    return Ok(Some(batch));
                }
                Found::End => return Ok(None),
                Found::Nothing => {
                    let _waiting = Waiting(self);
                    news.await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use tidemill_core::source::Offsets;

    use super::*;
    use crate::conformance::{check, lines, poll_once};
    use crate::declared::Declared;

    fn rows(schema: &arrow::datatypes::SchemaRef, ids: &[i64]) -> RecordBatch {
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids.to_vec()))]).unwrap()
    }

    fn give(
        stand_ins: &StandIns,
        partition: u32,
        rows: RecordBatch,
        are_deleted: bool,
    ) -> Result<(), ConnectorError> {
        stand_ins.give(1, GivenRows { partition, rows, columns: &[0], are_deleted, now: 0 })
    }

    #[tokio::test]
    async fn source_conforms() {
        let declared = Declared::new("generator", "auction bigint").named("s").with("table", "bid");
        let stand_ins = StandIns::new(BTreeMap::from([("s".to_owned(), 2)]));
        let source = stand_ins.source(1, &declared.source()).unwrap();
        for (partition, ids) in [(0, &[1, 2][..]), (1, &[3]), (0, &[4, 5, 6]), (0, &[7])] {
            give(&stand_ins, partition, rows(&declared.schema, ids), false).unwrap();
        }
        let end = |split: &str, end: u64| (SplitId::from(split), Offset::from(end));
        let read = check(source.as_ref(), &Offsets::from([end("0", 6), end("1", 1)])).await;
        assert_eq!(read.rows, ["1", "2", "4", "5", "6", "7", "3"]);
        let error = give(&stand_ins, 2, rows(&declared.schema, &[8]), false).unwrap_err();
        assert_eq!(error.to_string(), "source \"s\" has no partition 2");
        let error = give(&stand_ins, 0, rows(&declared.schema, &[8]), true).unwrap_err();
        assert_eq!(error.to_string(), "source \"s\" takes no row back");
        assert_eq!(stand_ins.finish(1).unwrap_err().to_string(), "source \"s\" never ends");
    }

    #[tokio::test]
    async fn what_is_hidden_is_shown_piece_by_piece() {
        let declared = Declared::new("generator", "auction bigint").with("table", "bid").with("events", "9");
        let stand_ins = StandIns::new(BTreeMap::new());
        let source = stand_ins.source(1, &declared.source()).unwrap();
        let (split, start) = (SplitId::from("0"), Offset::from(0));
        let shown = |batch: SourceBatch| match batch.changes {
            Changes::Append(rows) => lines(&rows).join(","),
            other => panic!("{other:?}"),
        };
        let mut reader = source.open(&split, &start).await.unwrap();
        for id in [1, 2] {
            assert!(poll_once(reader.next(None)).is_none(), "there is nothing yet");
            give(&stand_ins, 0, rows(&declared.schema, &[id]), false).unwrap();
            assert!(poll_once(stand_ins.read(&[1])).is_none(), "who does not wait has not read");
            assert_eq!(reader.next(None).await.unwrap().map(shown), Some(id.to_string()));
            {
                let mut next = std::pin::pin!(reader.next(None));
                assert!(futures::poll!(next.as_mut()).is_pending());
                assert!(poll_once(stand_ins.read(&[1])).is_some(), "it waits");
            }
        }
        stand_ins.finish(1).unwrap();
        assert!(reader.next(None).await.unwrap().is_none());
        stand_ins.hide();
        let mut reader = source.open(&split, &start).await.unwrap();
        assert!(poll_once(reader.next(None)).is_none(), "nothing is shown");
        for expected in [Some("1"), Some("2"), None] {
            assert!(stand_ins.show());
            let batch = reader.next(None).await.unwrap().map(shown);
            assert_eq!(batch.as_deref(), expected);
        }
        assert!(!stand_ins.show());
        assert!(poll_once(stand_ins.read(&[1])).is_some(), "it has ended");
        let error = give(&stand_ins, 0, rows(&declared.schema, &[3]), false).unwrap_err();
        assert_eq!(error.to_string(), "source \"s\" has ended");
    }

    #[test]
    fn records_are_decoded_and_bad_ones_kept_beside_them() {
        let declared = Declared::new("kafka", "id bigint, name text")
            .with("topic", "t")
            .with("properties.bootstrap.servers", "nowhere:1")
            .format(Format::Upsert)
            .encode(Encode::Json, &[])
            .key(&[0]);
        let stand_ins = StandIns::new(BTreeMap::new());
        stand_ins.source(1, &declared.source()).unwrap();
        let record = |key: &str, value: Option<&str>| GivenRecord {
            key: Some(key.into()),
            value: value.map(|value| value.into()),
        };
        let given = [record("1", Some("{\"name\": \"a\"}")), record("1", None), record("x", Some("{"))];
        stand_ins.give_records(1, 0, &given, 0).unwrap();
        let state = stand_ins.state();
        let mut transcript = crate::conformance::Transcript::default();
        transcript.add(&SplitId::from("0"), &state.sources[&1].splits[0].gifts[0].batch);
        assert_eq!(transcript.rows, ["+ 1 | a", "- 1 | NULL"]);
        assert_eq!(transcript.bad.len(), 1);
    }
}
