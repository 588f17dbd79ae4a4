//! Session windows: rows of a key that follow each other within a gap.
//!
//! ```text
//!      gap          a row here joins the two
//!   ├──────┤                   ▼
//!   ●  ●   ●  · · · · ┊ ●●  ●         ●   ● · · · · ┊
//!   [ start       end )[                       end )
//! ```
//!
//! State: all rows by key and time, and each key's sessions, the latest first, so that the sessions that a
//! time touches are found by one search. A step reads the sessions that its rows touch, adds its rows,
//! and cuts what it has at the gaps; rows whose window has become another one leave and come again. The
//! other sessions of a key are not read: they are a gap away from the touched ones, and stay so.
//!
//! With `EMIT ON WINDOW CLOSE` a session leaves once, when the watermark has passed its end, and is forgotten. A
//! row that would make a session that is over by then is late. Early, it has left with every change, and closing
//! only forgets it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_plan::{CloseSource, SessionBound};
use tidemill_storage::{RunBuilder, Snapshot, SortColumn, sort_rows};

use super::closing::{limit, ticks};
use super::{
    BATCH_ROWS, Build, Grouping, LateRows, Operator, Output, StateTable, StepContext, ascending, others,
    output_batch,
};
use crate::Error;

pub(crate) struct Session {
    /// The input's columns in the order of the state: keys, time, the others.
    columns: Vec<usize>,
    n_keys: usize,
    n_columns: usize,
    bounds: Vec<SessionBound>,
    /// In units of the time column, as all times here.
    gap: i64,
    close: Option<Vec<CloseSource>>,
    /// Sessions leave before they close as well.
    is_early: bool,
    time_type: DataType,
    rows: StateTable,
    /// Keys, start (descending), time of the last row.
    sessions: StateTable,
    /// Time of the last row, keys, start; only where sessions close.
    open: Option<StateTable>,
    output: SchemaRef,
}

/// A session of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    group: u32,
    start: i64,
    last: i64,
}

/// A row of the state, its weight, and its session.
type Member<'a> = (&'a [u8], i64, Span);

/// A row that a step looks at.
struct Entry<'a> {
    row: &'a [u8],
    group: u32,
    before: i64,
    after: i64,
    old: Option<Span>,
    new: Option<Span>,
}

impl Session {
    pub fn new(session: &plan::Session, build: &Build) -> Result<Session, Error> {
        let input = &build.inputs[0];
        let mut columns = session.partition.clone();
        columns.push(session.time);
        columns.extend(others(input, &columns));
        let n_keys = session.partition.len();
        let keys = ascending(input, &session.partition);
        let time = |name: &str| SortColumn::ascending(&Field::new(name, DataType::Int64, false));
        let mut session_columns = keys.clone();
        session_columns.push(SortColumn { descending: true, ..time("__start") });
        session_columns.push(time("__last"));
        let mut open_columns = vec![time("__last")];
        open_columns.extend(keys);
        open_columns.push(time("__start"));
        let time_type = input.field(session.time).data_type().clone();
        let gap = match &time_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => session.gap.saturating_mul(1000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => session.gap,
            DataType::Timestamp(TimeUnit::Millisecond, _) => session.gap / 1000,
            DataType::Timestamp(TimeUnit::Second, _) => session.gap / 1_000_000,
            other => return Err(Error::Unsupported(format!("sessions over a column of type {other}"))),
        };
        let open = match &session.close {
            Some(_) => Some(StateTable::new("open", open_columns, 1, (1..=n_keys).collect())?),
            None => None,
        };
        Ok(Session {
            rows: StateTable::new("rows", ascending(input, &columns), n_keys + 1, (0..n_keys).collect())?,
            sessions: StateTable::new("sessions", session_columns, n_keys + 1, (0..n_keys).collect())?,
            open,
            columns,
            n_keys,
            n_columns: session.n_columns,
            bounds: session.bounds.clone(),
            gap,
            close: session.close.clone(),
            is_early: session.is_early,
            time_type,
            output: build.output.clone(),
        })
    }

    fn update(&mut self, context: &StepContext, input: &Delta, output: &mut Output) -> Result<(), Error> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let encoded = self.rows.layout().encode_rows(&columns)?;
        let change = sort_rows(&encoded, input.weights().values());
        if change.is_empty() {
            return Ok(());
        }
        let changed: Vec<&[u8]> = (0..change.len()).map(|idx| change.row(idx)).collect();
        let columns = self.rows.layout().decode(changed.iter().copied())?;
        let times = ticks(&columns[self.n_keys])?;
        let grouping = Grouping::new(&columns[..self.n_keys], changed.len())?;
        let keys: Vec<ArrayRef> = {
            let firsts = UInt32Array::from(grouping.firsts.clone());
            columns[..self.n_keys].iter().map(|key| take(key, &firsts, None)).collect::<Result<_, _>>()?
        };

        let sessions = self.sessions.snapshot();
        let touched = self.touched(&sessions, &columns[..self.n_keys], &times, &grouping)?;
        let rows = self.rows.snapshot();
        let old = self.rows_of(&rows, &touched, &keys)?;
        let mut entries = merge(&old, &change, &changed, &grouping)?;
        let decoded = self.rows.layout().decode(entries.iter().map(|entry| entry.row))?;
        let times = ticks(&decoded[self.n_keys])?;
        let made = self.cut(&mut entries, &times);

        let Some(sources) = &self.close else {
            self.emit_difference(&entries, &decoded, output)?;
            self.rows.arrangement.append(change);
            return self.replace_sessions(&touched, &made, &keys);
        };
        // Sessions that were over before this step are made of late rows alone.
        let over = self.last_over(limit(sources, &context.watermarks_before));
        let is_late = |entry: &Entry<'_>| {
            entry.after < 0 || entry.new.is_some_and(|span| over.is_some_and(|over| span.last <= over))
        };
        let late: BooleanArray = entries.iter().map(|entry| Some(is_late(entry))).collect();
        if late.true_count() > 0 {
            let all = self.output_columns(&decoded, &(0..entries.len() as u32).collect::<Vec<_>>())?;
            let schema = arrow::datatypes::Schema::new(self.output.fields()[..self.n_columns].to_vec());
            let rows = arrow::array::RecordBatch::try_new(Arc::new(schema), all)?;
            let reason = "its session has been emitted".into();
            output.late.push(LateRows { rows: filter_record_batch(&rows, &late)?, reason });
        }
        let mut kept = RunBuilder::with_capacity(entries.len(), 0);
        for (idx, entry) in entries.iter().enumerate() {
            let after = if late.value(idx) { 0 } else { entry.after };
            if after != entry.before {
                kept.push(entry.row, after - entry.before);
            }
        }
        self.rows.arrangement.append(kept.finish());
        if self.is_early {
            for (_, entry) in entries.iter_mut().enumerate().filter(|(idx, _)| late.value(*idx)) {
                (entry.after, entry.new) = (0, None);
            }
            self.emit_difference(&entries, &decoded, output)?;
        }
        let made: Vec<Span> =
            made.into_iter().filter(|span| over.is_none_or(|over| span.last > over)).collect();
        self.replace_sessions(&touched, &made, &keys)
    }

    /// The sessions that some of the times, each of a key, are within a gap of.
    fn touched(
        &self,
        sessions: &Snapshot,
        keys: &[ArrayRef],
        times: &Int64Array,
        grouping: &Grouping,
    ) -> Result<Vec<Span>, Error> {
        let reach: ArrayRef =
            Arc::new(times.unary::<_, Int64Type>(|time| time.saturating_add(self.gap).saturating_sub(1)));
        let seeks = self.sessions.layout().encode_keys(&[keys, &[reach]].concat())?;
        let mut found: Vec<&[u8]> = Vec::new();
        let mut causes: Vec<usize> = Vec::new();
        for row in 0..times.len() {
            let mut cursor = sessions.cursor();
            cursor.seek(seeks.row(row).data());
            let key = grouping.key(grouping.ids[row] as usize);
            // The latest that begins within reach, and the one before it: any other is a gap away.
            for (session, _) in cursor.take_while(|(session, _)| session.starts_with(key)).take(2) {
                found.push(session);
                causes.push(row);
            }
        }
        let decoded = self.sessions.layout().decode(found)?;
        let starts = decoded[self.n_keys].as_primitive::<Int64Type>();
        let lasts = decoded[self.n_keys + 1].as_primitive::<Int64Type>();
        let mut touched: BTreeMap<(u32, i64), Span> = BTreeMap::new();
        for (idx, row) in causes.into_iter().enumerate() {
            let (start, last, time) = (starts.value(idx), lasts.value(idx), times.value(row));
            if time > start.saturating_sub(self.gap) && time < last.saturating_add(self.gap) {
                let group = grouping.ids[row];
                touched.insert((group, start), Span { group, start, last });
            }
        }
        Ok(touched.into_values().collect())
    }

    /// The rows of some sessions, in order, with the session of each.
    fn rows_of<'a>(
        &self,
        rows: &'a Snapshot,
        spans: &[Span],
        keys: &[ArrayRef],
    ) -> Result<Vec<Member<'a>>, Error> {
        let ends = |time: fn(&Span) -> i64| -> Result<_, Error> {
            let mut columns = keys_of(spans, keys)?;
            let times: ArrayRef = Arc::new(Int64Array::from_iter_values(spans.iter().map(time)));
            columns.push(cast(&times, &self.time_type)?);
            Ok(self.rows.layout().encode_keys(&columns)?)
        };
        let (firsts, lasts) = (ends(|span| span.start)?, ends(|span| span.last)?);
        let mut found = Vec::new();
        for (idx, span) in spans.iter().enumerate() {
            let last = lasts.row(idx).data();
            let mut cursor = rows.cursor();
            cursor.seek(firsts.row(idx).data());
            let within = cursor.take_while(|(row, _)| *row <= last || row.starts_with(last));
            found.extend(within.map(|(row, weight)| (row, weight, *span)));
        }
        Ok(found)
    }

    /// Gives each row its session; says which there are.
    fn cut(&self, entries: &mut [Entry<'_>], times: &Int64Array) -> Vec<Span> {
        let mut made: Vec<Span> = Vec::new();
        let mut of: Vec<Option<usize>> = vec![None; entries.len()];
        for (idx, entry) in entries.iter().enumerate() {
            if entry.after <= 0 {
                continue;
            }
            let time = times.value(idx);
            match made.last_mut() {
                Some(span) if span.group == entry.group && time < span.last.saturating_add(self.gap) => {
                    span.last = time;
                }
                _ => made.push(Span { group: entry.group, start: time, last: time }),
            }
            of[idx] = Some(made.len() - 1);
        }
        for (entry, of) in entries.iter_mut().zip(of) {
            entry.new = of.map(|span| made[span]);
        }
        made
    }

    fn emit_difference(
        &self,
        entries: &[Entry<'_>],
        decoded: &[ArrayRef],
        output: &mut Output,
    ) -> Result<(), Error> {
        let mut rows: Vec<(u32, Span, i64)> = Vec::new();
        for (idx, entry) in entries.iter().enumerate() {
            if entry.after < 0 {
                return Err(Error::NegativeWeight { operator: "SESSION" });
            }
            let mut push = |span: Option<Span>, weight: i64| {
                if let (Some(span), true) = (span, weight != 0) {
                    rows.push((idx as u32, span, weight));
                }
            };
            if entry.old == entry.new {
                push(entry.new, entry.after - entry.before);
            } else {
                push(entry.old, -entry.before);
                push(entry.new, entry.after);
            }
        }
        self.emit(&rows, decoded, output)
    }

    fn emit(
        &self,
        rows: &[(u32, Span, i64)],
        decoded: &[ArrayRef],
        output: &mut Output,
    ) -> Result<(), Error> {
        for rows in rows.chunks(BATCH_ROWS) {
            let mut columns =
                self.output_columns(decoded, &rows.iter().map(|row| row.0).collect::<Vec<_>>())?;
            for bound in &self.bounds {
                let times = rows.iter().map(|(_, span, _)| match bound {
                    SessionBound::Start => span.start,
                    SessionBound::End => span.last.saturating_add(self.gap),
                });
                let times: ArrayRef = Arc::new(Int64Array::from_iter_values(times));
                columns.push(cast(&times, &self.time_type)?);
            }
            output.push(output_batch(&self.output, columns, rows.iter().map(|row| row.2).collect())?);
        }
        Ok(())
    }

    /// Some rows of the state's columns, in the order of the output.
    fn output_columns(&self, decoded: &[ArrayRef], rows: &[u32]) -> Result<Vec<ArrayRef>, Error> {
        let rows = UInt32Array::from(rows.to_vec());
        let column = |column: usize| {
            let position = self.columns.iter().position(|known| *known == column).expect("a permutation");
            Ok(take(&decoded[position], &rows, None)?)
        };
        (0..self.n_columns).map(column).collect()
    }

    fn replace_sessions(&mut self, old: &[Span], new: &[Span], keys: &[ArrayRef]) -> Result<(), Error> {
        let spans = [old, new].concat();
        let mut weights = vec![-1; old.len()];
        weights.resize(spans.len(), 1);
        let keys = keys_of(&spans, keys)?;
        let start: ArrayRef = Arc::new(Int64Array::from_iter_values(spans.iter().map(|span| span.start)));
        let last: ArrayRef = Arc::new(Int64Array::from_iter_values(spans.iter().map(|span| span.last)));
        self.sessions.add(&[&keys[..], &[start.clone(), last.clone()]].concat(), &weights)?;
        if let Some(open) = &mut self.open {
            open.add(&[&[last], &keys[..], &[start]].concat(), &weights)?;
        }
        Ok(())
    }

    /// The time up to which a session that has its last row there is over, given the last complete end.
    fn last_over(&self, limit_micros: Option<i64>) -> Option<i64> {
        let limit = limit_micros?;
        let ticks = match &self.time_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => limit.saturating_mul(1000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => limit.div_euclid(1000),
            DataType::Timestamp(TimeUnit::Second, _) => limit.div_euclid(1_000_000),
            _ => limit,
        };
        Some(ticks.saturating_sub(self.gap))
    }

    /// Emits the sessions that the watermark has completed, and forgets them.
    fn close(&mut self, context: &StepContext, output: &mut Output) -> Result<(), Error> {
        let (Some(sources), Some(open)) = (&self.close, &mut self.open) else { return Ok(()) };
        let before = limit(sources, &context.watermarks_before);
        let Some(now) = limit(sources, &context.watermarks) else { return Ok(()) };
        let snapshot = open.snapshot();
        let behind = |open: &StateTable, last: i64| -> Result<Vec<u8>, Error> {
            let last: ArrayRef = Arc::new(Int64Array::from(vec![last.saturating_add(1)]));
            Ok(open.layout().encode_keys(&[last])?.row(0).data().to_vec())
        };
        let (before, now) = (self.last_over(before), self.last_over(Some(now)));
        let open = self.open.as_mut().expect("looked at above");
        let mut cursor = snapshot.cursor();
        if let Some(before) = before {
            cursor.seek(&behind(open, before)?);
        }
        let end = behind(open, now.expect("there is a limit"))?;
        let closed: Vec<&[u8]> = cursor.take_while(|(row, _)| *row < &end[..]).map(|(row, _)| row).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let columns = open.layout().decode(closed.iter().copied())?;
        let lasts = columns[0].as_primitive::<Int64Type>();
        let starts = columns[self.n_keys + 1].as_primitive::<Int64Type>();
        let keys = &columns[1..=self.n_keys];
        let mut spans: Vec<Span> = (0..closed.len())
            .map(|row| Span { group: row as u32, start: starts.value(row), last: lasts.value(row) })
            .collect();
        // In the order of the rows.
        let order = Grouping::new(keys, closed.len())?;
        spans.sort_by_key(|span| (order.ids[span.group as usize], span.start));
        let rows = self.rows.snapshot();
        let found = self.rows_of(&rows, &spans, keys)?;
        let decoded = self.rows.layout().decode(found.iter().map(|(row, ..)| *row))?;
        if !self.is_early {
            let emitted: Vec<(u32, Span, i64)> = found
                .iter()
                .enumerate()
                .map(|(idx, (_, weight, span))| (idx as u32, *span, *weight))
                .collect();
            self.emit(&emitted, &decoded, output)?;
        }
        let mut gone = RunBuilder::with_capacity(found.len(), 0);
        found.iter().for_each(|(row, weight, _)| gone.push(row, -weight));
        self.rows.arrangement.append(gone.finish());
        let keys = keys.to_vec();
        self.replace_sessions(&spans, &[], &keys)
    }
}

/// The key columns of some sessions, given those of each group.
fn keys_of(spans: &[Span], keys: &[ArrayRef]) -> Result<Vec<ArrayRef>, Error> {
    let groups = UInt32Array::from_iter_values(spans.iter().map(|span| span.group));
    Ok(keys.iter().map(|key| take(key, &groups, None)).collect::<Result<_, _>>()?)
}

/// Old rows and changed rows in one ascending list.
fn merge<'a>(
    old: &[Member<'a>],
    change: &tidemill_storage::Run,
    changed: &[&'a [u8]],
    grouping: &Grouping,
) -> Result<Vec<Entry<'a>>, Error> {
    let mut entries = Vec::with_capacity(old.len() + changed.len());
    let (mut at, mut with) = (0, 0);
    while at < old.len() || with < changed.len() {
        let order = match (old.get(at), changed.get(with)) {
            (Some((row, ..)), Some(changed)) => row.cmp(changed),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        let mut entry = Entry { row: &[], group: 0, before: 0, after: 0, old: None, new: None };
        if order.is_le() {
            let (row, weight, span) = old[at];
            entry =
                Entry { row, group: span.group, before: weight, after: weight, old: Some(span), new: None };
            at += 1;
        }
        if order.is_ge() {
            entry.row = changed[with];
            entry.group = grouping.ids[with];
            entry.after += change.weight(with);
            with += 1;
        }
        entries.push(entry);
    }
    Ok(entries)
}

impl Operator for Session {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("a session window has one input") };
        let mut output = Output::default();
        let times = input.batch().column(self.columns[self.n_keys]);
        let input = match times.null_count() {
            // A row without a time is in no session.
            0 => input.clone(),
            _ => Delta::new(filter_record_batch(input.batch(), &arrow::compute::is_not_null(times)?)?),
        };
        if !input.is_empty() {
            self.update(context, &input, &mut output)?;
        }
        self.close(context, &mut output)?;
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        [&mut self.rows, &mut self.sessions].into_iter().chain(&mut self.open).collect()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;
    use tidemill_plan::{CloseSource, RelationId, SessionBound};

    use crate::operators::testing::Bench;

    fn session(close: Option<Vec<CloseSource>>) -> Bench {
        session_with(close, false)
    }

    fn session_with(close: Option<Vec<CloseSource>>, is_early: bool) -> Bench {
        let session = plan::Session {
            n_columns: 3,
            partition: vec![0],
            time: 1,
            gap: 10,
            bounds: vec![SessionBound::Start, SessionBound::End],
            close,
            is_early,
        };
        Bench::new(plan::Operator::Session(session), &["k:t at:ts v:i"], &["k:t at:ts v:i s:ts e:ts"])
    }

    #[test]
    fn rows_within_the_gap_are_one_session() {
        session(None)
            .check("+ a 0 1; + a 9 2; + a 19 3; + b 5 4", "+ a 0 1 0 19; + a 9 2 0 19; + a 19 3 19 29; + b 5 4 5 15")
            // Joins both.
            .check(
                "+ a 12 5",
                "- a 0 1 0 19; - a 9 2 0 19; - a 19 3 19 29; + a 0 1 0 29; + a 9 2 0 29; + a 12 5 0 29; + a 19 3 0 29",
            )
            // Without it they are two again; copies stay.
            .check(
                "- a 12 5; +2 a 9 2",
                "- a 0 1 0 29; - a 9 2 0 29; - a 12 5 0 29; - a 19 3 0 29; + a 0 1 0 19; +3 a 9 2 0 19; + a 19 3 19 29",
            )
            .check("- a 0 1; + b 15 6; + NULL 5 7", "- a 0 1 0 19; -3 a 9 2 0 19; +3 a 9 2 9 19; + b 15 6 15 25; + NULL 5 7 5 15")
            .check("+ c NULL 1", "")
            .fails("- b 5 9", "never there");
    }

    #[test]
    fn sessions_far_away_are_left_alone() {
        session(None)
            .check("+ a 0 1; + a 100 2; + a 200 3", "+ a 0 1 0 10; + a 100 2 100 110; + a 200 3 200 210")
            .check("+ a 109 4", "- a 100 2 100 110; + a 100 2 100 119; + a 109 4 100 119")
            .check(
                "+ a 91 5",
                "- a 100 2 100 119; - a 109 4 100 119; + a 91 5 91 119; + a 100 2 91 119; + a 109 4 91 119",
            )
            .check("+ a 10 6", "+ a 10 6 10 20");
    }

    #[test]
    fn early_sessions_leave_with_each_change_and_are_forgotten_when_they_close() {
        let source = RelationId(1);
        session_with(Some(vec![CloseSource { relation: source, delay: 0 }]), true)
            .watermark(source, 5)
            .check("+ a 0 1; + b 3 3", "+ a 0 1 0 10; + b 3 3 3 13")
            .watermark(source, 9)
            .check("+ a 9 2", "- a 0 1 0 10; + a 0 1 0 19; + a 9 2 0 19")
            .watermark(source, 13)
            .check("", "")
            .watermark(source, 14)
            // The session of b is over, and so would this one be.
            .check(
                "+ b 3 5; + a 12 4",
                "- a 0 1 0 19; - a 9 2 0 19; + a 0 1 0 22; + a 9 2 0 22; + a 12 4 0 22",
            )
            .late(1)
            .watermark(source, 22)
            .check("", "")
            .n_state(&[0, 0, 0]);
    }

    #[test]
    fn closed_sessions_leave_once() {
        let source = RelationId(1);
        session(Some(vec![CloseSource { relation: source, delay: 0 }]))
            .watermark(source, 5)
            .check("+ a 0 1; + a 9 2; + b 3 3", "")
            .watermark(source, 13)
            .check("", "+ b 3 3 3 13")
            .watermark(source, 18)
            // Late by its time, but its session is open; the other would be over.
            .check("+ a 4 4; + b 2 5", "")
            .late(1)
            .watermark(source, 19)
            .check("+ a 25 6", "+ a 0 1 0 19; + a 4 4 0 19; + a 9 2 0 19")
            .watermark(source, 100)
            .check("", "+ a 25 6 25 35");
    }
}
