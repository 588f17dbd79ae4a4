//! Random tables, rows, statements and queries.
//!
//! Everything is made of a list of choices, small numbers of which zero is the plainest. The same choices
//! make the same case again, and fewer or smaller ones make a simpler case: that is how a failing case is shrunk
//! (MacIver & Donaldson, *Test-Case Reduction via Test-Case Generation*, ECOOP 2020).
//!
//! Queries have one answer: what is ordered is ordered by all of its columns, floating-point values are multiples
//! of a quarter, whose sums are exact, and numbers stay small, except in columns with which nothing is computed.

use std::fmt::Write;

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

    pub(super) fn one<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// True once in `n` times.
    fn rarely(&mut self, n: usize) -> bool {
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
}

const TYPES: &[Type] =
    &[Type::Int, Type::Text, Type::Big, Type::Float, Type::Bool, Type::Decimal, Type::Time];

impl Type {
    fn sql(self) -> &'static str {
        match self {
            Type::Int => "INT",
            Type::Text => "TEXT",
            Type::Big => "BIGINT",
            Type::Float => "DOUBLE PRECISION",
            Type::Bool => "BOOLEAN",
            Type::Decimal => "DECIMAL(9, 2)",
            Type::Time => "TIMESTAMP",
        }
    }

    /// A literal, NULL now and then.
    fn value(self, choices: &mut Choices) -> String {
        if choices.rarely(7) {
            return format!("CAST(NULL AS {})", self.sql());
        }
        match self {
            Type::Int => choices.one(&["0", "1", "2", "3", "4", "-1", "6"]).to_string(),
            Type::Text => choices.one(&["'a'", "'b'", "''", "'ab'", "'Ä%'", "'a b'"]).to_string(),
            Type::Big => {
                let value = choices.one(&["0", "9223372036854775807", "-9223372036854775807", "-1"]);
                format!("CAST({value} AS BIGINT)")
            }
            Type::Float => {
                format!(
                    "CAST({} AS DOUBLE PRECISION)",
                    choices.one(&["0", "0.5", "1", "-0.25", "2.75", "1e9"])
                )
            }
            Type::Bool => choices.one(&["TRUE", "FALSE"]).to_string(),
            Type::Decimal => {
                format!("CAST({} AS DECIMAL(9, 2))", choices.one(&["0", "1.25", "-0.01", "99.99"]))
            }
            Type::Time => {
                let value =
                    choices.one(&["2026-01-01 00:00:00", "2026-01-01 00:01:30.5", "1999-12-31 23:59:59"]);
                format!("TIMESTAMP '{value}'")
            }
        }
    }
}

/// A column that an expression may use.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    pub data_type: Type,
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
}

impl Table {
    pub fn ddl(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", column.name, column.data_type.sql())).collect();
        format!("CREATE TABLE {} ({})", self.name, columns.join(", "))
    }
}

/// Two or three tables. The first column of each is `k INT`, so that they can be joined.
pub(super) fn tables(choices: &mut Choices) -> Vec<Table> {
    let table = |choices: &mut Choices, idx: usize| {
        let mut columns = vec![Column { name: "k".into(), data_type: Type::Int }];
        for column in 0..2 + choices.below(3) {
            columns.push(Column { name: format!("c{column}"), data_type: *choices.one(TYPES) });
        }
        Table { name: format!("t{idx}"), columns }
    };
    (0..2 + choices.below(2)).map(|idx| table(choices, idx)).collect()
}

/// A change of a table.
pub(super) fn statement(choices: &mut Choices, tables: &[Table]) -> String {
    let table = choices.one(tables).clone();
    let column = choices.one(&table.columns).clone();
    match choices.below(8) {
        0..=3 => {
            let row = |choices: &mut Choices| {
                let values: Vec<String> =
                    table.columns.iter().map(|column| column.data_type.value(choices)).collect();
                format!("({})", values.join(", "))
            };
            let rows: Vec<String> = (0..1 + choices.below(5)).map(|_| row(choices)).collect();
            format!("INSERT INTO {} VALUES {}", table.name, rows.join(", "))
        }
        4 => format!("DELETE FROM {} WHERE k = {}", table.name, choices.below(5)),
        5 => format!("UPDATE {} SET k = k + 1 WHERE k < 4", table.name),
        6 => {
            let value = column.data_type.value(choices);
            format!("UPDATE {} SET {} = {value} WHERE k > {}", table.name, column.name, choices.below(4))
        }
        _ => format!("DELETE FROM {} WHERE {} IS NULL OR k = {}", table.name, column.name, choices.below(5)),
    }
}

/// A SELECT and what it gives.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub sql: String,
    pub columns: Vec<Column>,
}

/// Makes queries over some tables.
pub(super) struct Grammar<'a> {
    pub tables: &'a [Table],
    n_aliases: usize,
}

impl Grammar<'_> {
    pub fn new(tables: &[Table]) -> Grammar<'_> {
        Grammar { tables, n_aliases: 0 }
    }

    pub fn query(&mut self, choices: &mut Choices, depth: usize) -> Query {
        match choices.below(14) {
            0 => self.projection(choices, depth),
            1 | 2 => self.aggregate(choices, depth),
            3 | 4 => self.join(choices, depth),
            5 => self.semi_join(choices, depth),
            6 => self.set_operation(choices, depth),
            7 => self.distinct(choices, depth),
            8 => self.top_n(choices, depth),
            9 => self.window(choices, depth),
            10 => self.scalar_subquery(choices, depth),
            11 => self.shared(choices, depth),
            12 => self.row_patterns(choices, depth),
            _ => self.grouping_sets(choices, depth),
        }
    }

    /// Something to stand after FROM, and its columns, qualified.
    pub(super) fn source(&mut self, choices: &mut Choices, depth: usize) -> (String, Vec<Column>) {
        self.n_aliases += 1;
        let alias = format!("r{}", self.n_aliases);
        let (sql, columns) = if depth == 0 || choices.below(2) == 0 {
            let table = choices.one(self.tables);
            (table.name.clone(), table.columns.clone())
        } else {
            let query = self.query(choices, depth - 1);
            (format!("({})", query.sql), query.columns)
        };
        let qualified = columns
            .into_iter()
            .map(|column| Column { name: format!("{alias}.{}", column.name), data_type: column.data_type });
        (format!("{sql} AS {alias}"), qualified.collect())
    }

    fn projection(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output::default();
        for column in &columns {
            let expr = if choices.rarely(3) {
                expr(choices, &columns, column.data_type, 2)
            } else {
                column.name.clone()
            };
            output.add(expr, column.data_type);
        }
        let filter = filter(choices, &columns);
        output.query(&format!("FROM {from}{filter}"))
    }

    fn aggregate(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output::default();
        let mut groups = Vec::new();
        for _ in 0..choices.below(3) {
            let column = choices.one(&columns).clone();
            if !groups.contains(&column.name) {
                groups.push(column.name.clone());
                output.add(column.name, column.data_type);
            }
        }
        for _ in 0..1 + choices.below(3) {
            let (call, data_type) = call(choices, &columns);
            output.add(call, data_type);
        }
        let filter = filter(choices, &columns);
        let mut rest = format!("FROM {from}{filter}");
        if !groups.is_empty() {
            write!(rest, " GROUP BY {}", groups.join(", ")).unwrap();
        }
        if choices.rarely(4) {
            write!(rest, " HAVING count(*) > {}", choices.below(3)).unwrap();
        }
        output.query(&rest)
    }

    fn join(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (left, left_columns) = self.source(choices, depth);
        let (right, right_columns) = self.source(choices, depth.saturating_sub(1));
        let kind = choices.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let mut on = equality(choices, &left_columns, &right_columns);
        let both = [left_columns, right_columns].concat();
        if choices.rarely(3) {
            write!(on, " AND {}", condition(choices, &both, 1)).unwrap();
        }
        let mut output = Output::default();
        for column in &both {
            output.add(column.name.clone(), column.data_type);
        }
        let filter = filter(choices, &both);
        output.query(&format!("FROM {left} {kind} {right} ON {on}{filter}"))
    }

    fn semi_join(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let (inner, inner_columns) = self.source(choices, depth.saturating_sub(1));
        let not = if choices.below(2) == 0 { "" } else { "NOT " };
        let condition = if choices.below(2) == 0 {
            let on = equality(choices, &columns, &inner_columns);
            let residual = if choices.rarely(3) {
                let both = [columns.clone(), inner_columns].concat();
                format!(" AND {}", condition(choices, &both, 1))
            } else {
                String::new()
            };
            format!("{not}EXISTS (SELECT 1 FROM {inner} WHERE {on}{residual})")
        } else {
            let (own, other) = pair(choices, &columns, &inner_columns);
            let filter = filter(choices, &inner_columns);
            format!("{own} {not}IN (SELECT {other} FROM {inner}{filter})")
        };
        let mut output = Output::default();
        for column in &columns {
            output.add(column.name.clone(), column.data_type);
        }
        output.query(&format!("FROM {from} WHERE {condition}"))
    }

    fn set_operation(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (left, left_columns) = self.source(choices, depth);
        let (right, right_columns) = self.source(choices, depth.saturating_sub(1));
        let operation =
            choices.one(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"]);
        let mut outputs = [Output::default(), Output::default()];
        for column in left_columns.iter().take(2) {
            outputs[0].add(column.name.clone(), column.data_type);
            let same = right_columns.iter().find(|other| other.data_type == column.data_type);
            let other = same.map_or_else(|| column.data_type.value(choices), |other| other.name.clone());
            outputs[1].add(other, column.data_type);
        }
        let [left_output, right_output] = outputs;
        let left = left_output.query(&format!("FROM {left}"));
        let right = right_output.query(&format!("FROM {right}"));
        Query { sql: format!("{} {operation} {}", left.sql, right.sql), columns: left.columns }
    }

    fn distinct(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output { distinct: true, ..Output::default() };
        for column in columns.iter().take(1 + choices.below(2)) {
            output.add(column.name.clone(), column.data_type);
        }
        output.query(&format!("FROM {from}"))
    }

    fn top_n(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output::default();
        for column in &columns {
            output.add(column.name.clone(), column.data_type);
        }
        let order = total_order(choices, &columns);
        let limit = 1 + choices.below(4);
        let offset = if choices.rarely(3) { format!(" OFFSET {}", choices.below(3)) } else { String::new() };
        output.query(&format!("FROM {from} ORDER BY {order} LIMIT {limit}{offset}"))
    }

    fn window(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output::default();
        for column in &columns {
            output.add(column.name.clone(), column.data_type);
        }
        let partition = match choices.below(3) {
            0 => String::new(),
            _ => format!("PARTITION BY {} ", choices.one(&columns).name),
        };
        let order = total_order(choices, &columns);
        let column = choices.one(&columns).clone();
        let frame =
            choices.one(&["", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", " ROWS 2 PRECEDING"]).to_string();
        let n = columns.iter().find(|column| column.data_type == Type::Int);
        let (call, data_type) = match choices.below(6) {
            0 => ("row_number()".to_owned(), Type::Int),
            1 => ("rank()".to_owned(), Type::Int),
            2 => (format!("lag({})", column.name), column.data_type),
            3 => (format!("lead({}, 2)", column.name), column.data_type),
            4 => (format!("count({})", column.name), Type::Int),
            _ => match n {
                Some(n) => (format!("sum({})", n.name), Type::Int),
                None => ("count(*)".to_owned(), Type::Int),
            },
        };
        let frame = if call.starts_with("count") || call.starts_with("sum") { &frame[..] } else { "" };
        output.add(format!("{call} OVER ({partition}ORDER BY {order}{frame})"), data_type);
        output.query(&format!("FROM {from}"))
    }

    fn scalar_subquery(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let (inner, inner_columns) = self.source(choices, depth.saturating_sub(1));
        let (own, other) = pair(choices, &columns, &inner_columns);
        let function = choices.one(&["min", "max"]);
        let correlated = if choices.below(2) == 0 {
            String::new()
        } else {
            format!(" WHERE {}", equality(choices, &columns, &inner_columns))
        };
        let comparison = choices.one(&["=", "<", "<>"]);
        let mut output = Output::default();
        for column in &columns {
            output.add(column.name.clone(), column.data_type);
        }
        output.query(&format!(
            "FROM {from} WHERE {own} {comparison} (SELECT {function}({other}) FROM {inner}{correlated})"
        ))
    }

    /// A query that reads another one twice.
    fn shared(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let query = if depth == 0 {
            let table = choices.one(self.tables);
            Query { sql: format!("SELECT * FROM {}", table.name), columns: table.columns.clone() }
        } else {
            self.query(choices, depth - 1)
        };
        self.n_aliases += 1;
        let n = self.n_aliases;
        let columns = |alias: char| -> Vec<Column> {
            let qualified = query.columns.iter().map(|column| Column {
                name: format!("{alias}{n}.{}", column.name),
                data_type: column.data_type,
            });
            qualified.collect()
        };
        let on = equality(choices, &columns('x'), &columns('y'));
        let mut output = Output::default();
        for column in columns('x').into_iter().chain(columns('y')) {
            output.add(column.name, column.data_type);
        }
        let joined = output.query(&format!("FROM q{n} AS x{n} JOIN q{n} AS y{n} ON {on}"));
        Query { sql: format!("WITH q{n} AS ({}) {}", query.sql, joined.sql), columns: joined.columns }
    }

    fn grouping_sets(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let (first, second) = (columns[0].clone(), columns[1 % columns.len()].clone());
        let mut output = Output::default();
        output.add(first.name.clone(), first.data_type);
        let groups = if first.name == second.name {
            format!("ROLLUP ({})", first.name)
        } else {
            output.add(second.name.clone(), second.data_type);
            let (a, b) = (first.name, second.name);
            match choices.below(3) {
                0 => format!("ROLLUP ({a}, {b})"),
                1 => format!("CUBE ({a}, {b})"),
                _ => format!("GROUPING SETS (({a}), ({b}), ())"),
            }
        };
        let (call, data_type) = call(choices, &columns);
        output.add(call, data_type);
        output.query(&format!("FROM {from} GROUP BY {groups}"))
    }
}

/// The output columns of a SELECT, each with a name of its own.
#[derive(Default)]
pub(super) struct Output {
    distinct: bool,
    exprs: Vec<String>,
    columns: Vec<Column>,
}

impl Output {
    pub(super) fn add(&mut self, expr: String, data_type: Type) {
        let name = format!("o{}", self.exprs.len());
        self.exprs.push(format!("{expr} AS {name}"));
        self.columns.push(Column { name, data_type });
    }

    pub(super) fn query(self, rest: &str) -> Query {
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        Query { sql: format!("SELECT {distinct}{} {rest}", self.exprs.join(", ")), columns: self.columns }
    }
}

/// A column of each side with the same type; the first ones are integers.
fn pair(choices: &mut Choices, left: &[Column], right: &[Column]) -> (String, String) {
    let pairs: Vec<(&Column, &Column)> = left
        .iter()
        .flat_map(|own| right.iter().map(move |other| (own, other)))
        .filter(|(own, other)| own.data_type == other.data_type)
        .collect();
    if pairs.is_empty() {
        return ("1".into(), "1".into());
    }
    let (own, other) = choices.one(&pairs);
    (own.name.clone(), other.name.clone())
}

fn equality(choices: &mut Choices, left: &[Column], right: &[Column]) -> String {
    let (own, other) = pair(choices, left, right);
    match choices.below(5) {
        4 => format!("{own} IS NOT DISTINCT FROM {other}"),
        3 => {
            let (second, third) = pair(choices, left, right);
            format!("{own} = {other} AND {second} = {third}")
        }
        _ => format!("{own} = {other}"),
    }
}

pub(super) fn total_order(choices: &mut Choices, columns: &[Column]) -> String {
    let start = choices.below(columns.len());
    let ordered = (0..columns.len()).map(|idx| {
        let column = &columns[(start + idx) % columns.len()].name;
        let direction = choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        format!("{column}{direction}")
    });
    ordered.collect::<Vec<_>>().join(", ")
}

fn filter(choices: &mut Choices, columns: &[Column]) -> String {
    if choices.below(2) == 0 { String::new() } else { format!(" WHERE {}", condition(choices, columns, 2)) }
}

pub(super) fn condition(choices: &mut Choices, columns: &[Column], depth: usize) -> String {
    let column = choices.one(columns).clone();
    let value = |choices: &mut Choices| column.data_type.value(choices);
    match choices.below(if depth == 0 { 5 } else { 8 }) {
        0 => {
            let operator = *choices.one(&["=", "<", ">=", "<>"]);
            format!("{} {operator} {}", column.name, value(choices))
        }
        1 => format!("{} IS NOT NULL", column.name),
        2 => format!("{} IN ({}, {})", column.name, value(choices), value(choices)),
        3 => format!("{} IS DISTINCT FROM {}", column.name, value(choices)),
        4 => {
            let other = columns.iter().rfind(|other| other.data_type == column.data_type);
            format!("{} <= {}", column.name, other.expect("at least itself").name)
        }
        5 => format!("({} AND {})", condition(choices, columns, 0), condition(choices, columns, 0)),
        6 => format!("({} OR {})", condition(choices, columns, 0), condition(choices, columns, depth - 1)),
        _ => format!("NOT ({})", condition(choices, columns, depth - 1)),
    }
}

fn expr(choices: &mut Choices, columns: &[Column], data_type: Type, depth: usize) -> String {
    let of_type: Vec<&Column> = columns.iter().filter(|column| column.data_type == data_type).collect();
    if depth == 0 || choices.below(3) == 0 {
        return match of_type.is_empty() {
            true => data_type.value(choices),
            false => choices.one(&of_type).name.clone(),
        };
    }
    let one = |choices: &mut Choices| expr(choices, columns, data_type, depth - 1);
    match choices.below(4) {
        0 => format!("coalesce({}, {})", one(choices), data_type.value(choices)),
        1 => format!(
            "CASE WHEN {} THEN {} ELSE {} END",
            condition(choices, columns, 0),
            one(choices),
            one(choices)
        ),
        2 => format!("nullif({}, {})", one(choices), one(choices)),
        _ => match data_type {
            Type::Int => {
                let operator = *choices.one(&["+", "-"]);
                format!("({} {operator} {})", one(choices), one(choices))
            }
            Type::Text => format!("({} || upper({}))", one(choices), one(choices)),
            Type::Float => format!("abs({})", one(choices)),
            Type::Bool => format!("(NOT {})", one(choices)),
            Type::Time => format!("date_trunc('minute', {})", one(choices)),
            Type::Big | Type::Decimal => one(choices),
        },
    }
}

/// An aggregate function call.
fn call(choices: &mut Choices, columns: &[Column]) -> (String, Type) {
    let column = choices.one(columns).clone();
    let name = &column.name;
    let filter = |choices: &mut Choices| match choices.rarely(4) {
        true => format!(" FILTER (WHERE {})", condition(choices, columns, 1)),
        false => String::new(),
    };
    let (call, data_type) = match (choices.below(7), column.data_type) {
        (0, _) => ("count(*)".to_owned(), Type::Int),
        (1, _) => (format!("count(DISTINCT {name})"), Type::Int),
        (2, Type::Bool) => (format!("bool_or({name})"), Type::Bool),
        (2, data_type) => (format!("min({name})"), data_type),
        (3, Type::Bool) => (format!("bool_and({name})"), Type::Bool),
        (3, data_type) => (format!("max({name})"), data_type),
        (4, Type::Int) => (format!("sum({name})"), Type::Int),
        (4, Type::Float) => (format!("sum({name})"), Type::Float),
        (4, Type::Text) => (format!("string_agg({name}, '/' ORDER BY {name})"), Type::Text),
        (5, Type::Int) => (format!("CAST(avg({name}) AS DOUBLE PRECISION)"), Type::Float),
        (5, data_type) => (format!("first_value({name} ORDER BY {name})"), data_type),
        (6, data_type @ (Type::Int | Type::Text)) => {
            (format!("mode() WITHIN GROUP (ORDER BY {name} DESC)"), data_type)
        }
        (6, data_type @ Type::Float) => {
            (format!("percentile_disc(0.3) WITHIN GROUP (ORDER BY {name})"), data_type)
        }
        _ => (format!("count({name})"), Type::Int),
    };
    match call.strip_prefix("CAST(").and_then(|call| call.split_once(" AS DOUBLE")) {
        Some((inner, rest)) => (format!("CAST({inner}{} AS DOUBLE{rest}", filter(choices)), data_type),
        None => (format!("{call}{}", filter(choices)), data_type),
    }
}
