//! The first rows of each partition: `ORDER BY … LIMIT`, `row_number() <= n`, and with ties `rank() <= n`.
//!
//! State: all rows, by partition, then in the order asked for, then by the other columns, so that ties are
//! broken the same way every time. A touched partition costs reading its first `offset + limit`
//! rows before and after the step, however many there are behind them.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{Snapshot, SortColumn};

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
    output: SchemaRef,
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
            output: build.output.clone(),
        })
    }

    /// The rows of a partition that are among the first, one entry per copy.
    fn first<'a>(&self, snapshot: &'a Snapshot, partition: &[u8]) -> Result<Vec<&'a [u8]>, Error> {
        let end = self.offset + self.limit;
        let mut rows = Vec::new();
        let mut n_seen = 0;
        let mut is_negative = false;
        if self.limit > 0 {
            snapshot.lookup_while(partition, |row, weight| {
                is_negative |= weight < 0;
                for _ in 0..weight {
                    if n_seen >= self.offset {
                        rows.push(row);
                    }
                    n_seen += 1;
                    // The copies of a row tie.
                    if n_seen >= end && !self.with_ties {
                        break;
                    }
                }
                n_seen < end
            });
        }
        if self.with_ties
            && n_seen >= end
            && let Some(last) = rows.last().copied()
        {
            let keys = self.order_keys(&[last])?;
            let key = keys.as_ref().map_or(partition, |keys| keys.row(0).data());
            snapshot.lookup_from(partition, last, |row, weight| {
                if row != last && row.starts_with(key) {
                    is_negative |= weight < 0;
                    rows.extend(std::iter::repeat_n(row, usize::try_from(weight).unwrap_or(0)));
                }
                row.starts_with(key)
            });
        }
        if is_negative {
            return Err(Error::NegativeWeight { operator: "LIMIT" });
        }
        Ok(rows)
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
        self.state.add(&columns, input.weights().values())?;
        let after = self.state.snapshot();

        let mut rows: Vec<&[u8]> = Vec::new();
        let mut ranks: Vec<u64> = Vec::new();
        let mut weights: Vec<i64> = Vec::new();
        for group in 0..grouping.len() {
            let old = self.first(&before, grouping.key(group))?;
            let new = self.first(&after, grouping.key(group))?;
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
        })
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
            property(top_n(vec![], order, offset, limit, false), &[columns], columns, &sql);
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
            property(top, &["k:t v:i s:t"], "k:t v:i s:t", &sql("k, v, s"));
            if offset == 0 {
                let top = top_n(partition, order, offset, limit, true);
                property(top, &["k:t v:i s:t"], "k:t v:i s:t n:u", &sql("k, v, s, n"));
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
        };
        Property::new(plan::Operator::TopN(top), &["k:t v:i"], "k:t v:i", sql).large(200).check();
    }
}
