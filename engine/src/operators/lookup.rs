//! `FOR SYSTEM_TIME AS OF now()`: each left row with the right rows of its key that are there when it comes.
//!
//! ```text
//!   right   ──a=1──────────a=2────────▶ epochs
//!   left    ─────────l1───────────l2──
//!                    a=1          a=2      and l1 stays with a=1
//! ```
//!
//! What comes to the right in the same epoch is there. What a left row has met is not revised, and goes with the row:
//! where left rows are taken back, what each has met is kept. Of rows that are equal in all columns the one that came last
//! goes first. A row that comes and goes within an epoch has not come.
//!
//! While a pipeline is being filled its inputs come one after the other, and which comes first means nothing. So left rows
//! wait until all of the right is there.
//!
//! State: the right rows by key. For left rows that can be taken back, by row and epoch, latest first: how many came,
//! and behind that what they met. During a fill, the left rows that wait.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_core::Delta;
use tidemill_plan as plan;
use tidemill_storage::{RunBuilder, Snapshot, SortColumn, sort_rows};

use super::{
    BATCH_ROWS, Build, Grouping, Operator, Output, StateTable, StepContext, ascending, output_batch,
};
use crate::Error;

/// How many rows that waited are looked up at once.
const WAITED_ROWS: usize = 64 * 1024;

pub(crate) struct Lookup {
    left: Side,
    right: Side,
    is_outer: bool,
    rights: StateTable,
    /// Left rows of a fill.
    waiting: StateTable,
    /// The left row, the epoch, whether it is something met, the right row: how many came, or met it.
    met: Option<StateTable>,
    output: SchemaRef,
}

/// One input's columns as the state has them: keys first.
struct Side {
    columns: Vec<usize>,
    n_keys: usize,
    n_pair: usize,
}

/// Left rows of a step, each once.
struct Rows {
    /// In the order of the state.
    columns: Vec<ArrayRef>,
    weights: Vec<i64>,
}

impl Side {
    fn new(keys: &[usize], n_pair: usize) -> Side {
        let mut columns = keys.to_vec();
        columns.extend((0..n_pair).filter(|column| !keys.contains(column)));
        Side { columns, n_keys: keys.len(), n_pair }
    }

    /// Rows of no columns are rows all the same, and state needs something to count.
    fn layout(&self, schema: &SchemaRef) -> Vec<SortColumn> {
        match self.columns.is_empty() {
            true => vec![SortColumn::ascending(&Field::new("row", DataType::Int64, false))],
            false => ascending(schema, &self.columns),
        }
    }

    fn values(&self, input: &Delta) -> Vec<ArrayRef> {
        match self.columns.is_empty() {
            true => vec![Arc::new(Int64Array::from_value(0, input.len()))],
            false => self.columns.iter().map(|column| input.batch().column(*column).clone()).collect(),
        }
    }

    /// The state's columns as the pair's.
    fn pair_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        (0..self.n_pair)
            .map(|column| {
                let position = self.columns.iter().position(|known| *known == column).expect("all are kept");
                columns[position].clone()
            })
            .collect()
    }
}

impl Lookup {
    pub fn new(lookup: &plan::Lookup, build: &Build) -> Result<Lookup, Error> {
        let left = Side::new(&lookup.left_keys, lookup.n_left);
        let right = Side::new(&lookup.right_keys, lookup.n_right);
        let (left_layout, right_layout) = (left.layout(&build.inputs[0]), right.layout(&build.inputs[1]));
        let n_left = left_layout.len();
        let by_key: Vec<usize> = (0..left.n_keys).collect();
        let met = match lookup.is_append_only {
            true => None,
            false => {
                let epoch = SortColumn::ascending(&Field::new("__epoch", DataType::UInt64, false));
                let is_met = SortColumn::ascending(&Field::new("__is_met", DataType::Boolean, false));
                let arrival = vec![SortColumn { descending: true, ..epoch }, is_met];
                let layout = [left_layout.clone(), arrival, right_layout.clone()].concat();
                Some(StateTable::new("met", layout, n_left, by_key.clone())?)
            }
        };
        Ok(Lookup {
            is_outer: lookup.is_outer,
            rights: StateTable::new("right", right_layout, right.n_keys, by_key.clone())?,
            waiting: StateTable::new("waiting", left_layout, left.n_keys, by_key)?,
            met,
            left,
            right,
            output: build.output.clone(),
        })
    }

    /// Left rows with their weights, each once and in order.
    fn left_rows<'a>(&self, rows: impl IntoIterator<Item = (&'a [u8], i64)>) -> Result<Rows, Error> {
        let (rows, weights): (Vec<&[u8]>, Vec<i64>) = rows.into_iter().unzip();
        Ok(Rows { columns: self.waiting.layout().decode(rows)?, weights })
    }

    fn arrive(&mut self, context: &StepContext, rows: Rows, output: &mut Output) -> Result<(), Error> {
        let picked = |is_wanted: fn(i64) -> bool| -> Result<Rows, Error> {
            let wanted: UInt32Array = (0..rows.weights.len() as u32)
                .filter(|row| is_wanted(rows.weights[*row as usize]))
                .collect::<Vec<_>>()
                .into();
            Ok(Rows {
                columns: taken(&rows.columns, &wanted)?,
                weights: wanted.values().iter().map(|row| rows.weights[*row as usize]).collect(),
            })
        };
        let gone = picked(|weight| weight < 0)?;
        if !gone.weights.is_empty() {
            self.take_back(&gone, output)?;
        }
        let come = picked(|weight| weight > 0)?;
        if !come.weights.is_empty() {
            self.meet(context.epoch.0, &come, output)?;
        }
        Ok(())
    }

    /// Gives out new left rows with what is there.
    fn meet(&mut self, epoch: u64, rows: &Rows, output: &mut Output) -> Result<(), Error> {
        let n_rows = rows.weights.len();
        let keys = &rows.columns[..self.left.n_keys];
        let grouping = Grouping::new(keys, n_rows)?;
        let (members, of_group) = grouping.members();
        let is_matchable: Vec<bool> =
            grouping.firsts.iter().map(|row| keys.iter().all(|key| key.is_valid(*row as usize))).collect();
        let mut has_met = vec![false; n_rows];
        let mut pairs = Pairs::default();
        let mut failure = None;
        let rights = self.rights.snapshot();
        rights.lookup(grouping.keys(), |group, right, weight| {
            if failure.is_some() || !is_matchable[group] {
                return;
            }
            if weight < 0 {
                failure = Some(Error::NegativeWeight { operator: "FOR SYSTEM_TIME AS OF" });
                return;
            }
            for row in &of_group[members[group].clone()] {
                has_met[*row as usize] = true;
                pairs.left.push(*row);
                pairs.right.push(right);
                pairs.weights.push(rows.weights[*row as usize] * weight);
                if pairs.left.len() == BATCH_ROWS {
                    failure = self.emit_met(epoch, rows, &mut pairs, output).err();
                }
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.emit_met(epoch, rows, &mut pairs, output)?;
        if let Some(met) = &mut self.met {
            // That they came.
            let mut columns = rows.columns.clone();
            columns.extend(arrival(epoch, false, n_rows));
            let n_right = met.layout().columns().len() - columns.len();
            let rights = &met.layout().columns()[columns.len()..][..n_right];
            columns.extend(rights.iter().map(|column| new_null_array(&column.data_type, n_rows)));
            met.add(&columns, &rows.weights)?;
        }
        if self.is_outer {
            let alone: Vec<u32> = (0..n_rows as u32).filter(|row| !has_met[*row as usize]).collect();
            for alone in alone.chunks(BATCH_ROWS) {
                let mut columns =
                    self.left.pair_columns(&taken(&rows.columns, &UInt32Array::from(alone.to_vec()))?);
                for column in columns.len()..self.output.fields().len() - 1 {
                    columns.push(new_null_array(self.output.field(column).data_type(), alone.len()));
                }
                let weights = alone.iter().map(|row| rows.weights[*row as usize]).collect();
                output.push(output_batch(&self.output, columns, weights)?);
            }
        }
        Ok(())
    }

    fn emit_met(
        &mut self,
        epoch: u64,
        rows: &Rows,
        pairs: &mut Pairs<'_>,
        output: &mut Output,
    ) -> Result<(), Error> {
        let Pairs { left, right, weights } = std::mem::take(pairs);
        if left.is_empty() {
            return Ok(());
        }
        let left = taken(&rows.columns, &UInt32Array::from(left))?;
        let right = self.rights.layout().decode(right)?;
        let columns = [self.left.pair_columns(&left), self.right.pair_columns(&right)].concat();
        output.push(output_batch(&self.output, columns, weights.clone())?);
        if let Some(met) = &mut self.met {
            let columns = [left, arrival(epoch, true, weights.len()).to_vec(), right].concat();
            met.add(&columns, &weights)?;
        }
        Ok(())
    }

    /// Takes left rows back together with what they met.
    fn take_back(&mut self, rows: &Rows, output: &mut Output) -> Result<(), Error> {
        let negative = || Error::NegativeWeight { operator: "FOR SYSTEM_TIME AS OF" };
        let met = self.met.as_mut().ok_or_else(negative)?;
        let n_left = met.layout().n_keys();
        let keys = met.layout().encode_keys(&rows.columns)?;
        let snapshot = met.snapshot();
        let mut found: Vec<(usize, &[u8], i64)> = Vec::new();
        let keys: Vec<&[u8]> = (0..rows.weights.len()).map(|row| keys.row(row).data()).collect();
        snapshot.lookup(keys, |idx, row, weight| found.push((idx, row, weight)));
        let columns = met.layout().decode(found.iter().map(|(_, row, _)| *row))?;
        let is_met = columns[n_left + 1].as_boolean();
        let mut gone = RunBuilder::with_capacity(found.len(), 0);
        let (mut given, mut weights) = (Vec::new(), Vec::new());
        // How many are still to be taken back, and the arrival that is looked at: how many came and how many of them go.
        let mut wanted: Vec<i64> = rows.weights.iter().map(|weight| -weight).collect();
        let (mut n_came, mut n_go) = (1, 0);
        for (place, (idx, row, weight)) in found.iter().enumerate() {
            let is_arrival = !is_met.value(place);
            if is_arrival {
                n_came = *weight;
                n_go = wanted[*idx].min(n_came);
                wanted[*idx] -= n_go;
            }
            if n_go == 0 {
                continue;
            }
            let change = weight / n_came * n_go;
            gone.push(row, -change);
            let is_last =
                found.get(place + 1).is_none_or(|(next, ..)| next != idx || !is_met.value(place + 1));
            // An arrival that nothing follows met nothing, and came out alone.
            if !is_arrival || (is_last && self.is_outer) {
                given.push(place as u32);
                weights.push(-change);
            }
        }
        if wanted.iter().any(|wanted| *wanted > 0) {
            return Err(negative());
        }
        met.arrangement.append(gone.finish());
        for (given, weights) in given.chunks(BATCH_ROWS).zip(weights.chunks(BATCH_ROWS)) {
            let columns = taken(&columns, &UInt32Array::from(given.to_vec()))?;
            let (left, right) = (&columns[..n_left], &columns[n_left + 2..]);
            let pair = [self.left.pair_columns(left), self.right.pair_columns(right)].concat();
            output.push(output_batch(&self.output, pair, weights.to_vec())?);
        }
        Ok(())
    }
}

/// When rows came, and whether that is something they met.
fn arrival(epoch: u64, is_met: bool, n_rows: usize) -> [ArrayRef; 2] {
    let epochs = arrow::array::UInt64Array::from_value(epoch, n_rows);
    [Arc::new(epochs), Arc::new(BooleanArray::from(vec![is_met; n_rows]))]
}

fn taken(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>, Error> {
    Ok(columns.iter().map(|column| take(column, rows, None)).collect::<Result<_, _>>()?)
}

/// Left rows, each with a right one.
#[derive(Default)]
struct Pairs<'a> {
    left: Vec<u32>,
    right: Vec<&'a [u8]>,
    weights: Vec<i64>,
}

impl Operator for Lookup {
    fn step(&mut self, context: &StepContext, inputs: &[Delta]) -> Result<Output, Error> {
        let [left, right] = inputs else { unreachable!("a join has two inputs") };
        let mut output = Output::default();
        if !right.is_empty() {
            self.rights.add(&self.right.values(right), right.weights().values())?;
        }
        let rows = self.waiting.layout().encode_rows(&self.left.values(left))?;
        let run = sort_rows(&rows, left.weights().values());
        if context.is_filling {
            self.waiting.arrangement.append(run);
            return Ok(output);
        }
        if self.waiting.arrangement.current().runs().is_empty() {
            if !run.is_empty() {
                let rows = self.left_rows((0..run.len()).map(|idx| (run.row(idx), run.weight(idx))))?;
                self.arrive(context, rows, &mut output)?;
            }
            return Ok(output);
        }
        self.waiting.arrangement.append(run);
        let waited = self.waiting.snapshot();
        let mut cursor = waited.cursor();
        loop {
            let rows: Vec<(&[u8], i64)> = cursor.by_ref().take(WAITED_ROWS).collect();
            if rows.is_empty() {
                break;
            }
            let rows = self.left_rows(rows)?;
            self.arrive(context, rows, &mut output)?;
        }
        let layout = self.waiting.arrangement.layout().clone();
        self.waiting.arrangement.reset(Snapshot::of(layout, Vec::new()));
        Ok(output)
    }

    fn state(&mut self) -> Vec<&mut StateTable> {
        let mut tables = vec![&mut self.rights, &mut self.waiting];
        tables.extend(&mut self.met);
        tables
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_plan as plan;

    use crate::operators::testing::property::{Multiset, Rng, n_seeds};
    use crate::operators::testing::{Bench, show};

    fn lookup(is_outer: bool, is_append_only: bool) -> Bench {
        let operator = plan::Operator::Lookup(plan::Lookup {
            left_keys: vec![0],
            right_keys: vec![0],
            n_left: 2,
            n_right: 2,
            is_outer,
            is_append_only,
        });
        Bench::new(operator, &["k:t a:i", "r:t b:i"], &["k:t a:i r:t b:i"])
    }

    #[test]
    fn a_row_meets_what_is_there_when_it_comes() {
        lookup(true, true)
            .check2("+ x 1", "", "+ x 1 NULL NULL")
            .check2(
                "+ x 2; +2 y 3; + NULL 4",
                "+ x 7; + NULL 1",
                "+ x 2 x 7; +2 y 3 NULL NULL; + NULL 4 NULL NULL",
            )
            .check2("", "- x 7; + x 8", "")
            .check2("+ x 5", "", "+ x 5 x 8")
            .n_state(&[2, 0]);
        lookup(false, true).check2("+ x 1", "+2 x 7; + x 8; + y 1", "+2 x 1 x 7; + x 1 x 8").check2(
            "+ z 1; + w 2; - w 2",
            "- x 7",
            "",
        );
    }

    #[test]
    fn a_row_that_is_taken_back_takes_along_what_it_met() {
        lookup(true, false)
            .check2("+ x 1; + y 2", "+ x 7", "+ x 1 x 7; + y 2 NULL NULL")
            .check2("", "- x 7; + x 8; + y 9", "")
            // An update is a row that goes and one that comes.
            .check2("- x 1; + x 3; - y 2", "", "- x 1 x 7; + x 3 x 8; - y 2 NULL NULL")
            .check2("- x 3; + x 3", "- x 8", "")
            .check2("- x 3", "", "- x 3 x 8")
            .n_state(&[1, 0, 0]);
    }

    #[test]
    fn of_equal_rows_the_last_goes_first() {
        let bench = lookup(false, false)
            .epoch(1)
            .check2("+ x 1", "", "")
            .epoch(2)
            .check2("+2 x 1", "+ x 7; +2 x 8", "+2 x 1 x 7; +4 x 1 x 8")
            .epoch(3)
            .check2("+ x 1", "- x 7", "+ x 1 x 8; + x 1 x 8")
            .epoch(4)
            .check2("-2 x 1", "", "-2 x 1 x 8; - x 1 x 7; -2 x 1 x 8")
            .check2("- x 1", "", "- x 1 x 7; -2 x 1 x 8")
            .check2("- x 1", "", "");
        bench.n_state(&[2, 0, 0]).fails2("- x 1", "", "never there");
    }

    #[test]
    fn while_a_pipeline_is_filled_left_rows_wait() {
        lookup(true, false)
            .filling(true)
            .check2("+ x 1; + y 2", "", "")
            .check2("- y 2; + z 3", "+ x 7", "")
            .n_state(&[1, 2, 0])
            .filling(false)
            .check2("", "", "+ x 1 x 7; + z 3 NULL NULL")
            .n_state(&[1, 0, 3]);
    }

    /// What has been given out is, for each left row that is there, what there was when it came.
    #[test]
    fn rows_are_those_of_a_list_of_arrivals() {
        for seed in 0..n_seeds(40) {
            let mut rng = Rng(seed);
            let is_outer = rng.below(2) == 0;
            let mut bench = lookup(is_outer, false);
            let mut right: BTreeMap<(&str, u64), i64> = BTreeMap::new();
            // Each with what it met.
            let mut left: Vec<((&str, u64), Vec<String>)> = Vec::new();
            let mut given = Multiset::new();
            for epoch in 0..12 {
                bench = bench.epoch(epoch);
                if rng.below(4) == 0 {
                    bench.rebuild();
                }
                let key = |rng: &mut Rng| ["x", "y", "NULL"][rng.below(3) as usize];
                let mut right_change = Vec::new();
                for _ in 0..rng.below(4) {
                    let row = (key(&mut rng), rng.below(2));
                    let copies = right.entry(row).or_default();
                    let weight = if *copies > 0 && rng.below(2) == 0 { -1 } else { 1 };
                    *copies += weight;
                    right_change.push(format!("{weight} {} {}", row.0, row.1));
                }
                right.retain(|_, copies| *copies > 0);
                let mut left_change = Vec::new();
                // Those that go were there before the step.
                for _ in 0..rng.below(3) {
                    if left.is_empty() {
                        break;
                    }
                    let row = left[rng.below(left.len() as u64) as usize].0;
                    let last = left.iter().rposition(|(known, _)| *known == row).expect("it was found");
                    left.remove(last);
                    left_change.push((-1, row));
                }
                for _ in 0..rng.below(4) {
                    let row = (key(&mut rng), rng.below(2));
                    // A row that goes and comes within the step has stayed.
                    if left_change.iter().any(|(_, known)| *known == row) {
                        continue;
                    }
                    let of_key = right.iter().filter(|((k, _), _)| *k == row.0 && row.0 != "NULL");
                    let mut met: Vec<String> = of_key
                        .flat_map(|((k, b), copies)| vec![format!("{k} {b}"); *copies as usize])
                        .collect();
                    if met.is_empty() && is_outer {
                        met.push("NULL NULL".into());
                    }
                    left.push((row, met));
                    left_change.push((1, row));
                }
                let left_change: Vec<String> =
                    left_change.iter().map(|(weight, (k, a))| format!("{weight} {k} {a}")).collect();
                let output = bench.step(&[&left_change.join("; "), &right_change.join("; ")]).unwrap();
                for (row, weight) in show(&output.batches) {
                    *given.entry(row).or_default() += weight;
                }
                given.retain(|_, weight| *weight != 0);
                let mut expected = Multiset::new();
                for ((k, a), met) in &left {
                    met.iter().for_each(|met| *expected.entry(format!("{k} {a} {met}")).or_default() += 1);
                }
                assert_eq!(given, expected, "seed {seed}, epoch {epoch}");
            }
        }
    }
}
