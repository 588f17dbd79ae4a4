//! What happens to the tables.

use super::{Choices, Table, Type};

/// A change of a table, or of the time.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Apart from others, so that its rows can be left out one by one.
    Insert {
        table: String,
        rows: Vec<Vec<String>>,
        on_conflict: String,
    },
    Statement(String),
    /// The clock goes on by so many seconds, and no row comes.
    Pass(u64),
}

impl Change {
    pub fn sql(&self) -> String {
        match self {
            Change::Insert { table, rows, on_conflict } => {
                let rows: Vec<String> = rows.iter().map(|row| format!("({})", row.join(", "))).collect();
                format!("INSERT INTO {table} VALUES {}{on_conflict}", rows.join(", "))
            }
            Change::Statement(sql) => sql.clone(),
            Change::Pass(seconds) => format!("-- {seconds} seconds pass"),
        }
    }
}

pub fn change(choices: &mut Choices, tables: &[Table]) -> Change {
    let table = choices.one(tables).clone();
    let column = choices.one(&table.columns).clone();
    let name = &table.name;
    // A key that is changed may meet another one; that is an error, and changes nothing.
    let sql = match choices.below(14) {
        0..=5 => return insert(choices, &table),
        6 => format!("DELETE FROM {name} WHERE k = {}", choices.below(5)),
        7 => format!("UPDATE {name} SET k = k + 1 WHERE k < 4"),
        8 => {
            let value = column.data_type.value(choices);
            format!("UPDATE {name} SET {} = {value} WHERE k > {}", column.name, choices.below(4))
        }
        9 => format!("DELETE FROM {name} WHERE {} IS NULL OR k = {}", column.name, choices.below(5)),
        // Copies.
        10 => format!("INSERT INTO {name} SELECT * FROM {name} WHERE k = {}", choices.below(4)),
        11 if choices.rarely(2) => format!("TRUNCATE {name}"),
        11 => format!("DELETE FROM {name} WHERE {0} IN (SELECT max({0}) FROM {name})", comparable(&table)),
        _ => return Change::Pass([1, 7, 20, 60, 86_400][choices.below(5)]),
    };
    Change::Statement(sql)
}

/// A column that has a maximum.
fn comparable(table: &Table) -> &str {
    let last = table.columns.iter().rfind(|column| column.data_type != Type::Bool);
    &last.expect("the first is a number").name
}

fn insert(choices: &mut Choices, table: &Table) -> Change {
    let row = |choices: &mut Choices| -> Vec<String> {
        let values = table.columns.iter().enumerate().map(|(idx, column)| match table.is_keyed && idx == 0 {
            true => choices.below(12).to_string(),
            false => column.data_type.value(choices),
        });
        values.collect()
    };
    let mut rows: Vec<Vec<String>> = (0..1 + choices.below(5)).map(|_| row(choices)).collect();
    let on_conflict = match table.is_keyed {
        false => String::new(),
        true => {
            // A key that stands twice in one statement is an error.
            let mut keys = std::collections::BTreeSet::new();
            rows.retain(|row| keys.insert(row[0].clone()));
            match choices.below(2) {
                0 => " ON CONFLICT DO NOTHING".into(),
                _ => format!(" ON CONFLICT (k) DO UPDATE SET {0} = excluded.{0}", table.columns[1].name),
            }
        }
    };
    Change::Insert { table: table.name.clone(), rows, on_conflict }
}
