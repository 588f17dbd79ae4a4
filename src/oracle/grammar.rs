//! Random tables, rows, statements and queries.
//!
//! Everything is made of a list of choices, small numbers of which zero is the plainest. The same choices
//! make the same case again, and fewer or smaller ones make a simpler case: that is how a failing case is shrunk
//! (MacIver & Donaldson, *Test-Case Reduction via Test-Case Generation*, ECOOP 2020).
//!
//! Queries have one answer: floating-point values are multiples of a quarter, whose sums are exact, or not finite; numbers
//! to compute with stay small; and rows that tie in an order stand in the order of all their columns, as everywhere in
//! Tidemill. Columns of the type [`Type::Big`] and dates are as extreme as they come, and are compared only.

mod change;
mod expr;
mod query;
mod window;

pub(super) use self::change::{Change, change};
pub(super) use self::query::Grammar;

/// Where decisions come from.
#[derive(Debug, Clone)]
pub(super) struct Choices {
    made: Vec<u32>,
    next: usize,
    /// What comes after the made ones: random numbers, or zeros.
    random: Option<u64>,
}

impl Choices {
    pub fn random(seed: u64) -> Choices {
        Choices { made: Vec::new(), next: 0, random: Some(seed) }
    }

    /// The same choices again, then always the plainest.
    pub fn replay(made: Vec<u32>) -> Choices {
        Choices { made, next: 0, random: None }
    }

    pub fn made(&self) -> &[u32] {
        &self.made[..self.next.min(self.made.len())]
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        if self.next == self.made.len() {
            let Some(state) = &mut self.random else { return 0 };
            self.made.push((super::split_mix(state) % n as u64) as u32);
        }
        self.next += 1;
        self.made[self.next - 1] as usize % n
    }

    pub fn one<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// True once in `n` times.
    pub fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// Small, to compute with.
    Int,
    Text,
    /// As extreme as they come, to compare only.
    Big,
    Float,
    Bool,
    Decimal,
    Time,
    Date,
    /// A sum of big numbers. No column of a table.
    Numeric,
}

const TYPES: &[Type] =
    &[Type::Int, Type::Text, Type::Big, Type::Float, Type::Bool, Type::Decimal, Type::Time, Type::Date];

impl Type {
    pub fn sql(self) -> &'static str {
        match self {
            Type::Int => "INT",
            Type::Text => "TEXT",
            Type::Big => "BIGINT",
            Type::Float => "DOUBLE PRECISION",
            Type::Bool => "BOOLEAN",
            Type::Decimal => "DECIMAL(9, 2)",
            Type::Time => "TIMESTAMP",
            Type::Date => "DATE",
            Type::Numeric => "NUMERIC",
        }
    }

    /// A literal, NULL now and then.
    pub fn value(self, choices: &mut Choices) -> String {
        if choices.rarely(7) {
            return format!("CAST(NULL AS {})", self.sql());
        }
        match self {
            Type::Int => choices.one(&["0", "1", "2", "3", "4", "-1", "6"]).to_string(),
            Type::Text => choices.one(&["'a'", "'b'", "''", "'ab'", "'Ä%'", "'a b'"]).to_string(),
            Type::Big => {
                let value = choices.one(&["0", "9223372036854775807", "-9223372036854775808", "-1"]);
                format!("CAST('{value}' AS BIGINT)")
            }
            Type::Float => {
                let value = choices.one(&[
                    "0",
                    "0.5",
                    "1",
                    "-0.25",
                    "2.75",
                    "1e9",
                    "-0.0",
                    "NaN",
                    "Infinity",
                    "-Infinity",
                ]);
                format!("CAST('{value}' AS DOUBLE PRECISION)")
            }
            Type::Bool => choices.one(&["TRUE", "FALSE"]).to_string(),
            Type::Decimal => {
                format!("CAST({} AS DECIMAL(9, 2))", choices.one(&["0", "1.25", "-0.01", "9999999.99"]))
            }
            // Around the time at which a case begins, and far away.
            Type::Time => {
                let value = choices.one(&[
                    "2026-01-01 00:00:00",
                    "2026-01-01 00:00:30",
                    "2026-01-01 00:01:30.5",
                    "2025-12-31 23:59:45",
                    "2026-01-01 00:00:05.000001",
                    "1999-12-31 23:59:59",
                    "0001-01-01 00:00:00",
                    "9999-12-31 23:59:59.999999",
                ]);
                format!("TIMESTAMP '{value}'")
            }
            Type::Date => {
                let value =
                    choices.one(&["2026-01-01", "2025-12-31", "2026-01-02", "0001-01-01", "9999-12-31"]);
                format!("DATE '{value}'")
            }
            Type::Numeric => format!("CAST({} AS NUMERIC)", choices.one(&["0", "-1", "2.5"])),
        }
    }
}

/// A column that an expression may use.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub name: String,
    pub data_type: Type,
}

/// What a query can read: a table, or a view or pipeline over some.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Whether the first column is a primary key.
    pub is_keyed: bool,
}

impl Table {
    pub fn ddl(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(idx, column)| {
                let key = if self.is_keyed && idx == 0 { " PRIMARY KEY" } else { "" };
                format!("{} {}{key}", column.name, column.data_type.sql())
            })
            .collect();
        format!("CREATE TABLE {} ({})", self.name, columns.join(", "))
    }
}

/// Two or three tables. The first column of each is `k INT`, so that they can be joined; the others have a name of their
/// own, so that the shrinking sees which of them are used.
pub(super) fn tables(choices: &mut Choices) -> Vec<Table> {
    let table = |choices: &mut Choices, idx: usize| {
        let mut columns = vec![Column { name: "k".into(), data_type: Type::Int }];
        for column in 0..2 + choices.below(3) {
            let name = format!("{}{column}", ["a", "b", "c"][idx]);
            columns.push(Column { name, data_type: *choices.one(TYPES) });
        }
        Table { name: format!("t{idx}"), columns, is_keyed: choices.rarely(4) }
    };
    (0..2 + choices.below(2)).map(|idx| table(choices, idx)).collect()
}
