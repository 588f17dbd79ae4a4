//! The first rows of each partition: `ORDER BY … LIMIT`, `row_number() <= n`, and with ties `rank() <= n`.
//!
//! State: rows by partition, then in the order asked for, then by the other columns, so that ties are
//! broken the same way every time. All rows are kept, since those behind the first move up when others leave; over
//! append-only input none ever leaves, and just the first `offset + limit` of each partition are. A touched partition costs
//! reading as many, however many there are behind them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{Run, RunBuilder, Snapshot, SortColumn, sort_rows};

use super::{Build, Grouping, Operator, Output, StateTable, StepContext, ascending, output_batch};
use crate::Error;

pub(crate) struct TopN {
    state: StateTable,
    /// The input's columns in the order of the state.
    columns: Vec<usize>,
    n_partition: usize,
    /// The columns up to those of the order.
    n_order: usize,
    offset: usize,
    limit: usize,
    rank: bool,
    with_ties: bool,
    is_append_only: bool,
    output: SchemaRef,
}

/// A row, and how many copies of it are meant.
type Copies<'a> = (&'a [u8], i64);

/// The rows of each touched partition that are kept for sure: the first `offset + limit`, and what ties with the last of
/// them where that counts.
#[derive(Default)]
struct Firsts<'a> {
    rows: Vec<Copies<'a>>,
    /// Where the rows of each partition end.
    ends: Vec<usize>,
}

impl<'a> Firsts<'a> {
    fn of(&self, group: usize) -> &[Copies<'a>] {
        let start = group.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rows[start..self.ends[group]]
    }
}

impl TopN {
    pub fn new(top_n: &plan::TopN, build: &Build) -> Result<TopN, Error> {
        let input = &build.inputs[0];
        let mut columns = top_n.partition.clone();
        let mut sort_columns = ascending(input, &columns);
        for order in &top_n.order_by {
            if columns.contains(&order.column) {
                continue;
            }
            columns.push(order.column);
            sort_columns.push(SortColumn {
                descending: order.descending,
                nulls_first: order.nulls_first,
                ..SortColumn::ascending(input.field(order.column))
            });
        }
        let n_order = columns.len();
        let rest = super::others(input, &columns);
        sort_columns.extend(ascending(input, &rest));
        columns.extend(rest);
        let n_partition = top_n.partition.len();
        Ok(TopN {
            state: StateTable::new("rows", sort_columns, n_partition, (0..n_partition).collect())?,
            columns,
            n_partition,
            n_order,
            offset: top_n.offset,
            limit: top_n.limit,
            rank: top_n.rank,
            with_ties: top_n.with_ties,
            is_append_only: top_n.is_append_only,
            output: build.output.clone(),
        })
    }

    /// The first rows of the touched partitions.
    fn firsts<'a>(&self, snapshot: &'a Snapshot, grouping: &Grouping) -> Result<Firsts<'a>, Error> {
        let end = (self.offset + self.limit) as i64;
        let mut firsts = Firsts { rows: Vec::new(), ends: vec![0; grouping.len()] };
        if self.limit == 0 {
            return Ok(firsts);
        }
        let mut is_negative = false;
        let mut of = 0;
        let mut n_seen = 0;
        // Of a partition without rows nothing is heard.
        let close = |ends: &mut [usize], range: Range<usize>, n_rows| ends[range].fill(n_rows);
        let Firsts { rows, ends } = &mut firsts;
        snapshot.lookup_firsts(grouping.keys(), |group, row, weight| {
            if group != of {
                close(ends, of..group, rows.len());
                (of, n_seen) = (group, 0);
            }
            is_negative |= weight < 0;
            // The copies of a row tie.
            let copies = if self.with_ties { weight } else { weight.min(end - n_seen) };
            rows.push((row, copies));
            n_seen += copies;
            n_seen < end
        });
        close(ends, of..grouping.len(), rows.len());
        if is_negative {
            return Err(Error::NegativeWeight { operator: "LIMIT" });
        }
        match self.with_ties {
            true => self.ties(snapshot, grouping, &firsts),
            false => Ok(firsts),
        }
    }

    /// The same, with the rows that tie with the last.
    fn ties<'a>(
        &self,
        snapshot: &'a Snapshot,
        grouping: &Grouping,
        firsts: &Firsts<'a>,
    ) -> Result<Firsts<'a>, Error> {
        let mut is_negative = false;
        let mut tied = Firsts::default();
        for group in 0..grouping.len() {
            let first = firsts.of(group);
            tied.rows.extend(first);
            let n_rows: i64 = first.iter().map(|(_, copies)| copies).sum();
            if let Some((last, _)) = first.last()
                && n_rows >= (self.offset + self.limit) as i64
            {
                let keys = self.order_keys(&[last])?;
                let key = keys.as_ref().map_or(grouping.key(group), |keys| keys.row(0).data());
                snapshot.lookup_from(grouping.key(group), last, |row, weight| {
                    if row != *last && row.starts_with(key) {
                        is_negative |= weight < 0;
                        tied.rows.push((row, weight));
                    }
                    row.starts_with(key)
                });
            }
            tied.ends.push(tied.rows.len());
        }
        match is_negative {
            true => Err(Error::NegativeWeight { operator: "LIMIT" }),
            false => Ok(tied),
        }
    }

    /// The first rows of what has been and of what has come, and the change of the state that leaves only these. Both
    /// `change` and the partitions ascend.
    fn firsts_with<'a>(
        &self,
        before: &Firsts<'a>,
        change: &'a Run,
        grouping: &Grouping,
    ) -> Result<(Firsts<'a>, Arc<Run>), Error> {
        let end = (self.offset + self.limit) as i64;
        let mut after = Firsts::default();
        let mut trimmed = RunBuilder::with_capacity(0, 0);
        let mut next = 0;
        for group in 0..grouping.len() {
            let mut known = before.of(group).iter().copied().peekable();
            let mut n_seen = 0;
            let mut tie: Option<Vec<u8>> = None;
            loop {
                let has_come = next < change.len() && change.row(next).starts_with(grouping.key(group));
                let new = has_come.then(|| change.row(next));
                let row = match (known.peek(), new) {
                    (Some((row, _)), Some(new)) => (*row).min(new),
                    (Some((row, _)), None) => *row,
                    (None, Some(new)) => new,
                    (None, None) => break,
                };
                let (_, had) = known.next_if(|(known, _)| *known == row).unwrap_or((row, 0));
                let mut total = had;
                if new == Some(row) {
                    total += change.weight(next);
                    next += 1;
                }
                if total < had {
                    return Err(Error::NegativeWeight { operator: "LIMIT" });
                }
                let has = match () {
                    () if self.limit == 0 => 0,
                    () if n_seen < end && !self.with_ties => total.min(end - n_seen),
                    () if n_seen < end => total,
                    () if tie.as_ref().is_some_and(|tie| row.starts_with(tie)) => total,
                    () => 0,
                };
                if self.with_ties && n_seen < end && n_seen + has >= end {
                    let keys = self.order_keys(&[row])?;
                    tie = Some(keys.as_ref().map_or(grouping.key(group), |keys| keys.row(0).data()).to_vec());
                }
                n_seen += has;
                if has > 0 {
                    after.rows.push((row, has));
                }
                trimmed.push(row, has - had);
            }
            after.ends.push(after.rows.len());
        }
        Ok((after, trimmed.finish()))
    }

    /// What is shown of the first rows of a partition, one entry per copy.
    fn shown<'a>(&self, rows: &[Copies<'a>]) -> Vec<&'a [u8]> {
        let copies = rows.iter().flat_map(|(row, copies)| std::iter::repeat_n(*row, *copies as usize));
        copies.skip(self.offset).collect()
    }

    /// The bytes of rows up to the columns of the order, if there are any.
    fn order_keys(&self, rows: &[&[u8]]) -> Result<Option<Rows>, Error> {
        if self.n_order == 0 {
            return Ok(None);
        }
        let layout = self.state.layout();
        let fields = layout.columns()[..self.n_order]
            .iter()
            .map(|column| {
                let options = SortOptions { descending: column.descending, nulls_first: column.nulls_first };
                SortField::new_with_options(column.data_type.clone(), options)
            })
            .collect();
        let columns = layout.decode(rows.iter().copied())?;
        Ok(Some(RowConverter::new(fields)?.convert_columns(&columns[..self.n_order])?))
    }

    /// The place of each of the first rows, from 1: its number, or with ties its rank.
    fn places<'a>(&self, rows: Vec<&'a [u8]>) -> Result<Vec<(&'a [u8], usize)>, Error> {
        let keys = if self.with_ties && !rows.is_empty() { self.order_keys(&rows)? } else { None };
        let mut places = Vec::with_capacity(rows.len());
        let mut place = 1;
        for (row_idx, row) in rows.into_iter().enumerate() {
            let is_tie = row_idx > 0
                && self.with_ties
                && keys.as_ref().is_none_or(|keys| keys.row(row_idx) == keys.row(row_idx - 1));
            if !is_tie {
                place = row_idx + 1;
            }
            places.push((row, place));
        }
        Ok(places)
    }
}

impl Operator for TopN {
    fn step(&mut self, _: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [input] = inputs else { unreachable!("top-N has one input") };
        let mut output = Output::default();
        if input.is_empty() {
            return Ok(output);
        }
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|column| input.batch().column(*column).clone()).collect();
        let grouping = Grouping::new(&columns[..self.n_partition], input.len())?;
        let before = self.state.snapshot();
        let old = self.firsts(&before, &grouping)?;
        let encoded = self.state.layout().encode_rows(&columns)?;
        let change = sort_rows(&encoded, input.weights().values());
        let after;
        let new = if self.is_append_only {
            let (new, trimmed) = self.firsts_with(&old, &change, &grouping)?;
            self.state.arrangement.append(trimmed);
            new
        } else {
            self.state.arrangement.append(change);
            after = self.state.snapshot();
            self.firsts(&after, &grouping)?
        };

        let mut rows: Vec<&[u8]> = Vec::new();
        let mut ranks: Vec<u64> = Vec::new();
        let mut weights: Vec<i64> = Vec::new();
        for group in 0..grouping.len() {
            if old.of(group) == new.of(group) {
                continue;
            }
            let (old, new) = (self.shown(old.of(group)), self.shown(new.of(group)));
            let mut push = |row, rank: usize, weight| {
                rows.push(row);
                ranks.push(rank as u64);
                weights.push(weight);
            };
            if self.rank {
                // A row is the same only at the same place. Both lists ascend by row and place.
                let (old, new) = (self.places(old)?, self.places(new)?);
                difference(&old, &new, |(row, place), weight| push(row, place, weight));
            } else {
                difference(&old, &new, |row, weight| push(row, 0, weight));
            }
        }
        let decoded = self.state.layout().decode(rows)?;
        let n_columns = self.output.fields().len() - 1 - usize::from(self.rank);
        let position =
            |column: usize| self.columns.iter().position(|known| *known == column).expect("a permutation");
        let mut columns: Vec<ArrayRef> =
            (0..n_columns).map(|column| decoded[position(column)].clone()).collect();
        if self.rank {
            let ranks: ArrayRef = Arc::new(UInt64Array::from(ranks));
            columns.push(cast(&ranks, self.output.field(n_columns).data_type())?);
        }
        output.push(output_batch(&self.output, columns, weights)?);
        Ok(output)
    }

    fn is_divisible(&self) -> bool {
        true
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        vec![&mut self.state]
    }
}

/// What turns one ascending list into another.
fn difference<T: Copy + Ord>(old: &[T], new: &[T], mut push: impl FnMut(T, i64)) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => {
                push(**a, -1);
                old.next();
            }
            (_, Some(b)) => {
                push(**b, 1);
                new.next();
            }
            (Some(a), None) => {
                push(**a, -1);
                old.next();
            }
            (None, None) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_plan as plan;
    use tidemill_plan::OrderColumn;

    use crate::operators::testing::Bench;
    use crate::operators::testing::property::{Property, property};

    fn top(offset: usize, limit: usize, rank: bool) -> Bench {
        let order = OrderColumn { column: 1, descending: true, nulls_first: false };
        let operator = plan::Operator::TopN(plan::TopN {
            partition: vec![0],
            order_by: vec![order],
            offset,
            limit,
            rank,
            with_ties: false,
            is_append_only: false,
        });
        let output: &[&str] = if rank { &["k:t", "v:i", "n:i"] } else { &["k:t", "v:i"] };
        Bench::new(operator, &["k:t v:i"], &[&output.join(" ")])
    }

    #[test]
    fn rows_move_up_when_the_first_leaves() {
        top(0, 2, false)
            .check("+ a 1; + a 3; + b 9", "+ a 1; + a 3; + b 9")
            .check("+ a 2", "- a 1; + a 2")
            .check("- a 3", "- a 3; + a 1")
            .check("+ a NULL; + a 0", "");
    }

    #[test]
    fn copies_count_and_offset_skips() {
        top(1, 2, false).check("+3 a 5", "+2 a 5").check("+ a 9", "").check("-2 a 5", "- a 5");
    }

    /// Over `k:t v:i w:i`, by `k`, in the order of `v`, with the rank.
    fn with_ties(limit: usize) -> Bench {
        let operator = plan::Operator::TopN(plan::TopN {
            partition: vec![0],
            order_by: vec![OrderColumn { column: 1, descending: false, nulls_first: false }],
            offset: 0,
            limit,
            rank: true,
            with_ties: true,
            is_append_only: false,
        });
        Bench::new(operator, &["k:t v:i w:i"], &["k:t v:i w:i n:i"])
    }

    #[test]
    fn rows_that_tie_with_the_last_come_along() {
        with_ties(2)
            .check("+ a 1 1; + a 2 1; + a 2 2; + a 3 1", "+ a 1 1 1; + a 2 1 2; + a 2 2 2")
            .check("+2 a 1 0", "- a 2 1 2; - a 2 2 2; +2 a 1 0 1")
            .check(
                "-2 a 1 0; + b NULL 1; + b NULL 2; + b NULL 3",
                "-2 a 1 0 1; + a 2 1 2; + a 2 2 2; + b NULL 1 1; + b NULL 2 1; + b NULL 3 1",
            )
            .check("- a 1 1", "- a 1 1 1; - a 2 1 2; - a 2 2 2; + a 2 1 1; + a 2 2 1");
    }

    #[test]
    fn rank_is_part_of_the_row() {
        top(0, 2, true)
            .check("+ a 1; + a 2", "+ a 2 1; + a 1 2")
            .check("+ a 3", "- a 2 1; + a 3 1; - a 1 2; + a 2 2");
    }

    /// `order` as in SQL; behind it come the other columns, as the operator breaks ties.
    fn top_n(partition: Vec<usize>, order: &str, offset: usize, limit: usize, rank: bool) -> plan::Operator {
        let order_by = order.split(", ").map(|column| OrderColumn {
            column: "kvs".find(&column[..1]).unwrap(),
            descending: column.contains("DESC"),
            nulls_first: !column.contains("LAST"),
        });
        plan::Operator::TopN(plan::TopN {
            partition,
            order_by: order_by.collect(),
            offset,
            limit,
            rank,
            with_ties: false,
            is_append_only: false,
        })
    }

    /// The answer is right whatever comes and goes, and over append-only input where only the first rows are kept.
    #[track_caller]
    fn check(top: plan::Operator, input: &str, output: &str, sql: &str) {
        let plan::Operator::TopN(over_appends) = &top else { unreachable!("a top-N") };
        let over_appends = plan::TopN { is_append_only: true, ..over_appends.clone() };
        property(top, &[input], output, sql);
        let over_appends = plan::Operator::TopN(over_appends);
        Property::new(over_appends, &[input], output, sql).append_only().check();
    }

    #[test]
    fn ties_are_the_batch_answer() {
        for limit in [1, 2, 4] {
            let sql = format!(
                "SELECT k, v, w, n FROM (SELECT *, rank() OVER (PARTITION BY k ORDER BY v NULLS LAST) AS n FROM i0) \
                 WHERE n <= {limit}"
            );
            let top = plan::TopN {
                partition: vec![0],
                order_by: vec![OrderColumn { column: 1, descending: false, nulls_first: false }],
                offset: 0,
                limit,
                rank: true,
                with_ties: true,
                is_append_only: false,
            };
            check(plan::Operator::TopN(top), "k:t v:i w:i", "k:t v:i w:i n:u", &sql);
        }
    }

    #[test]
    fn over_append_only_input_the_first_rows_alone_are_kept() {
        let top = |limit, with_ties| plan::TopN {
            partition: vec![0],
            order_by: vec![OrderColumn { column: 1, descending: true, nulls_first: false }],
            offset: 1,
            limit,
            rank: false,
            with_ties,
            is_append_only: true,
        };
        let bench = |top| Bench::new(plan::Operator::TopN(top), &["k:t v:i w:i"], &["k:t v:i w:i"]);
        let mut some = bench(top(2, false))
            .check("+ a 1 1; +9 a 3 1; + a 2 1; + b 1 1", "+2 a 3 1")
            .check("+ a 4 1; + a 4 2; + a 0 0", "-2 a 3 1; + a 4 2; + a 3 1");
        assert_eq!(some.n_state_rows(), 4, "3 of a, 1 of b");
        let mut tied = bench(top(1, true)).check("+ a 1 1; + a 1 2; + a 1 3; + a 0 1", "+ a 1 2; + a 1 3");
        assert_eq!(tied.n_state_rows(), 3);
        let mut none = bench(top(0, false)).check("+ a 1 1; + b 2 2", "");
        assert_eq!(none.n_state_rows(), 0);
    }

    #[test]
    fn limit_is_the_batch_answer() {
        for (order, rest, offset, limit) in [
            ("v DESC NULLS LAST", "k, s", 0, 3),
            ("v DESC NULLS FIRST", "k, s", 2, 2),
            ("s NULLS LAST, v DESC NULLS FIRST", "k", 1, 4),
            ("k NULLS FIRST", "v, s", 0, 1),
            ("v NULLS FIRST", "k, s", 3, 0),
        ] {
            let rest: Vec<String> = rest.split(", ").map(|column| format!("{column} NULLS FIRST")).collect();
            let sql = format!(
                "SELECT * FROM i0 ORDER BY {order}, {} LIMIT {limit} OFFSET {offset}",
                rest.join(", ")
            );
            let columns = "k:t v:i s:t";
            check(top_n(vec![], order, offset, limit, false), columns, columns, &sql);
        }
    }

    #[test]
    fn row_number_is_the_batch_answer() {
        for (partition, order, rest, offset, limit) in [
            (vec![0], "v DESC NULLS LAST", "s NULLS FIRST", 0, 2),
            (vec![0], "v NULLS FIRST", "s NULLS FIRST", 1, 2),
            (vec![2, 0], "v DESC NULLS FIRST", "k", 0, 1),
            (vec![1], "v NULLS FIRST, s DESC NULLS LAST", "k NULLS FIRST", 0, 3),
        ] {
            let by: Vec<&str> = partition.iter().map(|column| ["k", "v", "s"][*column]).collect();
            let sql = |columns: &str| {
                format!(
                    "SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY {} ORDER BY {order}, {rest}) \
                     AS n FROM i0) WHERE n > {offset} AND n <= {}",
                    by.join(", "),
                    offset + limit
                )
            };
            let top = top_n(partition.clone(), order, offset, limit, false);
            check(top, "k:t v:i s:t", "k:t v:i s:t", &sql("k, v, s"));
            if offset == 0 {
                let top = top_n(partition, order, offset, limit, true);
                check(top, "k:t v:i s:t", "k:t v:i s:t n:u", &sql("k, v, s, n"));
            }
        }
    }

    #[test]
    fn many_first_rows_are_the_batch_answer() {
        let sql = "SELECT k, v FROM i0 ORDER BY v, k NULLS FIRST LIMIT 100 OFFSET 20";
        let order = OrderColumn { column: 1, descending: false, nulls_first: false };
        let top = plan::TopN {
            partition: vec![],
            order_by: vec![order],
            offset: 20,
            limit: 100,
            rank: false,
            with_ties: false,
            is_append_only: false,
        };
        Property::new(plan::Operator::TopN(top), &["k:t v:i"], "k:t v:i", sql).large(200).check();
    }
}
