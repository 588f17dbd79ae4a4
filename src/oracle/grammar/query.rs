//! Queries.

use std::fmt::Write;

use super::expr::{aggregate_call, condition, equality, expr, moment, order, pair};
use super::window::window_call;
use super::{Choices, Column, Table, Type};

/// A SELECT and what it gives.
#[derive(Debug, Clone)]
pub struct Query {
    pub sql: String,
    pub columns: Vec<Column>,
}

/// Makes queries over some tables.
pub struct Grammar<'a> {
    pub tables: &'a [Table],
    n_aliases: usize,
}

impl Grammar<'_> {
    pub fn new(tables: &[Table]) -> Grammar<'_> {
        Grammar { tables, n_aliases: 0 }
    }

    pub fn query(&mut self, choices: &mut Choices, depth: usize) -> Query {
        match choices.below(28) {
            0 | 1 => self.projection(choices, depth),
            2 | 3 => self.aggregate(choices, depth),
            4 | 5 => self.join(choices, depth),
            6 => self.semi_join(choices, depth),
            7 => self.set_operation(choices, depth),
            8 => self.distinct(choices, depth),
            9 => self.top_n(choices, depth),
            10 | 11 => self.window(choices, depth),
            12 => self.scalar_subquery(choices, depth),
            13 => self.shared(choices, depth),
            14 => self.grouping_sets(choices, depth),
            15 => self.lateral(choices, depth),
            16 => self.recursion(choices, depth),
            17 => self.time_windows(choices, depth),
            18 => self.qualify(choices, depth),
            19 => self.distinct_on(choices, depth),
            20 => self.with_ties(choices, depth),
            21 => self.marks(choices, depth),
            22 => self.unnest(choices, depth),
            23 => self.pairs(choices, depth),
            24 => self.row_patterns(choices, depth),
            25 | 26 => self.asof_join(choices, depth),
            _ => self.sessions(choices, depth),
        }
    }

    fn alias(&mut self, letter: char) -> String {
        self.n_aliases += 1;
        format!("{letter}{}", self.n_aliases)
    }

    /// Something to stand after FROM, and its columns, qualified.
    pub(super) fn source(&mut self, choices: &mut Choices, depth: usize) -> (String, Vec<Column>) {
        let alias = self.alias('r');
        let (sql, columns) = match choices.below(if depth == 0 { 9 } else { 16 }) {
            8 => self.windowed(choices),
            9.. => {
                let query = self.query(choices, depth - 1);
                (format!("({})", query.sql), query.columns)
            }
            _ => {
                let table = choices.one(self.tables);
                (table.name.clone(), table.columns.clone())
            }
        };
        (format!("{sql} AS {alias}"), qualified(&columns, &alias))
    }

    /// TUMBLE, HOP or CUMULATE over a table that has a time, or the table.
    fn windowed(&mut self, choices: &mut Choices) -> (String, Vec<Column>) {
        let Some((table, time)) = self.timed_table(choices) else {
            let table = choices.one(self.tables);
            return (table.name.clone(), table.columns.clone());
        };
        let function = match choices.below(4) {
            0 => format!("TUMBLE({}, {time}, INTERVAL '1 minute')", table.name),
            1 => format!("HOP({}, {time}, INTERVAL '20 seconds', INTERVAL '1 minute')", table.name),
            2 => format!("CUMULATE({}, {time}, INTERVAL '30 seconds', INTERVAL '90 seconds')", table.name),
            _ => format!("TUMBLE({}, {time}, INTERVAL '1 minute', INTERVAL '7 seconds')", table.name),
        };
        let mut columns = table.columns;
        columns.extend(
            ["window_start", "window_end"].map(|name| Column { name: name.into(), data_type: Type::Time }),
        );
        (function, columns)
    }

    fn timed_table(&self, choices: &mut Choices) -> Option<(Table, String)> {
        let timed: Vec<(&Table, &Column)> = self
            .tables
            .iter()
            .flat_map(|table| table.columns.iter().map(move |column| (table, column)))
            .filter(|(_, column)| column.data_type == Type::Time)
            .collect();
        if timed.is_empty() {
            return None;
        }
        let (table, time) = choices.one(&timed);
        Some(((*table).clone(), time.name.clone()))
    }

    fn filter(&mut self, choices: &mut Choices, columns: &[Column]) -> String {
        match choices.below(6) {
            0..=2 => String::new(),
            3 | 4 => format!(" WHERE {}", condition(choices, columns, 2)),
            _ => match moment(choices, columns) {
                Some(moment) if choices.below(2) == 0 => format!(" WHERE {moment}"),
                Some(moment) => format!(" WHERE {} AND {moment}", condition(choices, columns, 1)),
                None => format!(" WHERE {}", self.subquery_condition(choices, columns, 0)),
            },
        }
    }

    /// EXISTS, IN, ANY and ALL.
    fn subquery_condition(&mut self, choices: &mut Choices, columns: &[Column], depth: usize) -> String {
        let (inner, inner_columns) = self.source(choices, depth);
        let not = if choices.below(2) == 0 { "" } else { "NOT " };
        let (own, other) = pair(choices, columns, &inner_columns);
        let correlated = |choices: &mut Choices| match choices.rarely(3) {
            true => format!(" WHERE {}", equality(choices, columns, &inner_columns)),
            false => match choices.below(2) {
                0 => String::new(),
                _ => format!(" WHERE {}", condition(choices, &inner_columns, 1)),
            },
        };
        match choices.below(5) {
            0 | 1 => {
                let on = equality(choices, columns, &inner_columns);
                let residual = match choices.rarely(3) {
                    true => {
                        let both = [columns, &inner_columns].concat();
                        format!(" AND {}", condition(choices, &both, 1))
                    }
                    false => String::new(),
                };
                format!("{not}EXISTS (SELECT 1 FROM {inner} WHERE {on}{residual})")
            }
            2 | 3 => {
                let filter = correlated(choices);
                format!("{own} {not}IN (SELECT {other} FROM {inner}{filter})")
            }
            _ => {
                let comparison = choices.one(&["=", "<", ">=", "<>"]).to_owned();
                let quantifier = choices.one(&["ANY", "ALL"]).to_owned();
                let filter = correlated(choices);
                format!("{own} {comparison} {quantifier} (SELECT {other} FROM {inner}{filter})")
            }
        }
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
        let filter = self.filter(choices, &columns);
        output.query(&format!("FROM {from}{filter}"))
    }

    fn aggregate(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output::default();
        let mut groups = Vec::new();
        for _ in 0..choices.below(3) {
            let column = choices.one(&columns).clone();
            let group =
                if choices.rarely(4) { expr(choices, &columns, column.data_type, 1) } else { column.name };
            // A constant is taken for the number of a column.
            if !groups.contains(&group) && group.contains('.') {
                groups.push(group.clone());
                output.add(group, column.data_type);
            }
        }
        for _ in 0..1 + choices.below(3) {
            let (call, data_type) = aggregate_call(choices, &columns);
            output.add(call, data_type);
        }
        let filter = self.filter(choices, &columns);
        let mut rest = format!("FROM {from}{filter}");
        if !groups.is_empty() {
            write!(rest, " GROUP BY {}", groups.join(", ")).unwrap();
        }
        if choices.rarely(4) {
            match choices.below(3) {
                0 => write!(rest, " HAVING count(*) > {}", choices.below(3)).unwrap(),
                1 => {
                    let column = choices.one(&columns);
                    write!(rest, " HAVING count(DISTINCT {}) < 2", column.name).unwrap();
                }
                _ => match columns.iter().find(|column| column.data_type == Type::Time) {
                    Some(time) => {
                        write!(rest, " HAVING max({}) > now() - INTERVAL '30 seconds'", time.name).unwrap();
                    }
                    None => write!(rest, " HAVING count(*) = 1").unwrap(),
                },
            }
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
        let mut from = format!("{left} {kind} {right} ON {on}");
        let mut all = both;
        if choices.rarely(4) {
            let (third, third_columns) = self.source(choices, 0);
            let kind = choices.one(&["JOIN", "LEFT JOIN"]);
            let on = equality(choices, &all, &third_columns);
            write!(from, " {kind} {third} ON {on}").unwrap();
            all.extend(third_columns);
        }
        let filter = self.filter(choices, &all);
        output_of(&all).query(&format!("FROM {from}{filter}"))
    }

    /// A join with the nearest row.
    fn asof_join(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (left, left_columns) = self.source(choices, depth);
        let (right, right_columns) = self.source(choices, depth.saturating_sub(1));
        let pairs = |is_wanted: fn(Type) -> bool| -> Vec<(&str, &str)> {
            let of_left = left_columns.iter().filter(|own| is_wanted(own.data_type));
            let of_right = |own: &Column| {
                let data_type = own.data_type;
                right_columns.iter().filter(move |other| other.data_type == data_type)
            };
            of_left
                .flat_map(|own| of_right(own).map(|other| (own.name.as_str(), other.name.as_str())))
                .collect()
        };
        let times = pairs(|data_type| matches!(data_type, Type::Time | Type::Date | Type::Int | Type::Big));
        if times.is_empty() {
            return self.pairs(choices, depth);
        }
        let (own, other) = *choices.one(&times);
        let (comparison, swapped) = *choices.one(&[(">=", "<="), (">", "<"), ("<=", ">="), ("<", ">")]);
        let nearest = match choices.rarely(4) {
            true => format!("{other} {swapped} {own}"),
            false => format!("{own} {comparison} {other}"),
        };
        let keys = pairs(|_| true);
        let keys: Vec<String> = (0..[1, 0, 2][choices.below(3)])
            .map(|_| choices.one(&keys))
            .map(|(own, other)| format!("{own} = {other}"))
            .collect();
        let kind = choices.one(&["ASOF LEFT JOIN", "ASOF JOIN"]);
        let from = match keys.is_empty() {
            true => format!("{left} {kind} {right} MATCH_CONDITION ({nearest})"),
            false => format!("{left} {kind} {right} ON {nearest} AND {}", keys.join(" AND ")),
        };
        let all = [left_columns, right_columns].concat();
        let filter = self.filter(choices, &all);
        output_of(&all).query(&format!("FROM {from}{filter}"))
    }

    /// A join without an equality.
    fn pairs(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (left, left_columns) = self.source(choices, depth.min(1));
        let (right, right_columns) = self.source(choices, 0);
        let (own, other) = pair(choices, &left_columns, &right_columns);
        let both = [left_columns, right_columns].concat();
        let from = match choices.below(4) {
            0 => format!("{left} CROSS JOIN {right}"),
            1 => format!("{left} JOIN {right} ON {own} < {other}"),
            2 => format!("{left} LEFT JOIN {right} ON {own} >= {other}"),
            _ => format!("{left} FULL JOIN {right} ON {own} < {other} OR {}", condition(choices, &both, 0)),
        };
        let filter = self.filter(choices, &both);
        output_of(&both).query(&format!("FROM {from}{filter}"))
    }

    fn semi_join(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut filter = self.subquery_condition(choices, &columns, depth.saturating_sub(1));
        if choices.rarely(4) {
            let connective = choices.one(&["AND", "OR"]);
            write!(filter, " {connective} {}", condition(choices, &columns, 0)).unwrap();
        }
        output_of(&columns).query(&format!("FROM {from} WHERE {filter}"))
    }

    /// Subqueries as values.
    fn marks(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = output_of(&columns);
        let mark = self.subquery_condition(choices, &columns, 0);
        output.add(format!("({mark})"), Type::Bool);
        if choices.below(2) == 1 {
            let (inner, inner_columns) = self.source(choices, 0);
            let on = equality(choices, &columns, &inner_columns);
            let (call, data_type) = aggregate_call(choices, &inner_columns);
            output.add(format!("(SELECT {call} FROM {inner} WHERE {on})"), data_type);
        }
        output.query(&format!("FROM {from}"))
    }

    fn lateral(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let (inner, inner_columns) = self.source(choices, 0);
        let alias = self.alias('l');
        let on = equality(choices, &columns, &inner_columns);
        let residual = match choices.rarely(3) {
            true => format!(" AND {}", condition(choices, &inner_columns, 1)),
            false => String::new(),
        };
        let mut select = Output::default();
        let is_aggregate = choices.below(2) == 1;
        if is_aggregate {
            let (call, data_type) = aggregate_call(choices, &inner_columns);
            select.add(call, data_type);
        } else {
            for column in inner_columns.iter().take(2) {
                select.add(column.name.clone(), column.data_type);
            }
        }
        let select = select.query(&format!("FROM {inner} WHERE {on}{residual}"));
        let all = [columns, qualified(&select.columns, &alias)].concat();
        let join = match is_aggregate || choices.below(2) == 1 {
            true => format!(" LEFT JOIN LATERAL ({}) AS {alias} ON true", select.sql),
            false => format!(", LATERAL ({}) AS {alias}", select.sql),
        };
        output_of(&all).query(&format!("FROM {from}{join}"))
    }

    fn unnest(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let data_type = choices.one(&columns).data_type;
        let (first, second) = (expr(choices, &columns, data_type, 1), expr(choices, &columns, data_type, 1));
        let alias = self.alias('u');
        let mut list = format!("make_array({first}, {second})");
        if choices.rarely(3) {
            let (some, none) = (condition(choices, &columns, 0), condition(choices, &columns, 0));
            list = format!(
                "CASE WHEN {some} THEN {list} WHEN {none} THEN CAST(make_array() AS {}[]) END",
                data_type.sql()
            );
        }
        let mut all = columns;
        let x = |name: &str, data_type| Column { name: format!("{alias}.{name}"), data_type };
        all.push(x("x", data_type));
        let join = match choices.below(3) {
            0 => format!(", unnest({list}) AS {alias} (x)"),
            1 => format!(" LEFT JOIN LATERAL unnest({list}) AS {alias} (x) ON true"),
            _ => {
                all.push(x("o", Type::Int));
                format!(" CROSS JOIN LATERAL unnest({list}) WITH ORDINALITY AS {alias} (x, o)")
            }
        };
        output_of(&all).query(&format!("FROM {from}{join}"))
    }

    fn set_operation(&mut self, choices: &mut Choices, depth: usize) -> Query {
        const OPERATIONS: &[&str] =
            &["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        let (left, left_columns) = self.source(choices, depth);
        let mut first = Output::default();
        for column in left_columns.iter().take(1 + choices.below(3)) {
            first.add(column.name.clone(), column.data_type);
        }
        let columns = first.columns.clone();
        let first = first.query(&format!("FROM {left}"));
        let mut sql = first.sql;
        for _ in 0..1 + choices.below(2) {
            let (right, right_columns) = self.source(choices, depth.saturating_sub(1));
            let mut other = Output::default();
            for column in &columns {
                let same = right_columns.iter().find(|other| other.data_type == column.data_type);
                let value = same.map_or_else(|| column.data_type.value(choices), |other| other.name.clone());
                other.add(value, column.data_type);
            }
            let other = other.query(&format!("FROM {right}"));
            sql = format!("({sql}) {} ({})", choices.one(OPERATIONS), other.sql);
        }
        Query { sql, columns }
    }

    fn distinct(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = Output { distinct: "DISTINCT ".into(), ..Output::default() };
        for column in columns.iter().take(1 + choices.below(2)) {
            output.add(column.name.clone(), column.data_type);
        }
        output.query(&format!("FROM {from}"))
    }

    fn distinct_on(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let key = choices.one(&columns).name.clone();
        let mut output = output_of(&columns);
        output.distinct = format!("DISTINCT ON ({key}) ");
        let order = order(choices, &columns);
        let filter = self.filter(choices, &columns);
        output.query(&format!("FROM {from}{filter} ORDER BY {key}, {order}"))
    }

    fn top_n(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let order = order(choices, &columns);
        let limit = 1 + choices.below(4);
        let offset = if choices.rarely(3) { format!(" OFFSET {}", choices.below(3)) } else { String::new() };
        output_of(&columns).query(&format!("FROM {from} ORDER BY {order} LIMIT {limit}{offset}"))
    }

    fn with_ties(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let column = choices.one(&columns).name.clone();
        let direction = choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let n = 1 + choices.below(3);
        output_of(&columns)
            .query(&format!("FROM {from} ORDER BY {column}{direction} FETCH FIRST {n} ROWS WITH TIES"))
    }

    fn window(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let mut output = output_of(&columns);
        for _ in 0..1 + choices.below(2) {
            let (call, data_type) = window_call(choices, &columns);
            output.add(call, data_type);
        }
        let filter = self.filter(choices, &columns);
        output.query(&format!("FROM {from}{filter}"))
    }

    fn qualify(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let partition = match choices.below(3) {
            0 => String::new(),
            _ => format!("PARTITION BY {} ", choices.one(&columns).name),
        };
        let order = order(choices, &columns);
        let filter = self.filter(choices, &columns);
        let condition = match choices.below(5) {
            4 => {
                let column = choices.one(&columns).name.clone();
                format!("lag({column}) OVER ({partition}ORDER BY {order}) IS DISTINCT FROM {column}")
            }
            function => {
                let function = ["row_number()", "rank()", "dense_rank()", "count(*)"][function];
                let comparison = choices.one(&["<=", "=", "<", ">"]);
                format!("{function} OVER ({partition}ORDER BY {order}) {comparison} {}", 1 + choices.below(3))
            }
        };
        output_of(&columns).query(&format!("FROM {from}{filter} QUALIFY {condition}"))
    }

    fn scalar_subquery(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let (inner, inner_columns) = self.source(choices, depth.saturating_sub(1));
        let (own, other) = pair(choices, &columns, &inner_columns);
        let function = match inner_columns.iter().find(|column| column.name == other) {
            Some(column) if column.data_type == Type::Bool => "bool_or",
            _ => choices.one(&["min", "max"]),
        };
        let correlated = if choices.below(2) == 0 {
            String::new()
        } else {
            format!(" WHERE {}", equality(choices, &columns, &inner_columns))
        };
        let comparison = choices.one(&["=", "<", "<>"]);
        output_of(&columns).query(&format!(
            "FROM {from} WHERE {own} {comparison} (SELECT {function}({other}) FROM {inner}{correlated})"
        ))
    }

    /// A query that reads another one twice.
    fn shared(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let query = if depth == 0 {
            let table = choices.one(self.tables);
            let select = output_of(&table.columns);
            select.query(&format!("FROM {}", table.name))
        } else {
            self.query(choices, depth - 1)
        };
        let name = self.alias('q');
        let (x, y) = (self.alias('x'), self.alias('y'));
        let (left, right) = (qualified(&query.columns, &x), qualified(&query.columns, &y));
        let on = equality(choices, &left, &right);
        let joined = output_of(&[left, right].concat())
            .query(&format!("FROM {name} AS {x} JOIN {name} AS {y} ON {on}"));
        Query { sql: format!("WITH {name} AS ({}) {}", query.sql, joined.sql), columns: joined.columns }
    }

    /// Ends since each step counts up, or since numbers above four have no successors.
    fn recursion(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth.min(1));
        let start = expr(choices, &columns, Type::Int, 1);
        let filter = self.filter(choices, &columns);
        let table = choices.one(self.tables).clone();
        let name = self.alias('w');
        let (all, step) = match choices.below(4) {
            0 => ("ALL", format!("SELECT {name}.n + 1, {name}.d + 1 FROM {name} WHERE d < 2")),
            1 => (
                "ALL",
                format!(
                    "SELECT t.k, {name}.d + 1 FROM {name} JOIN {} AS t ON t.k = {name}.n + 1 WHERE d < 2",
                    table.name
                ),
            ),
            2 => (
                "",
                format!(
                    "SELECT t.k + 1, {name}.d + 1 FROM {name} JOIN {} AS t ON t.k = {name}.n WHERE d < 3",
                    table.name
                ),
            ),
            _ => ("", format!("SELECT {name}.n + 1, {name}.d FROM {name} WHERE n < 4")),
        };
        let recursive = format!(
            "WITH RECURSIVE {name} (n, d) AS (SELECT {start}, 0 FROM {from}{filter} UNION {all} {step})"
        );
        let mut output = Output::default();
        let rest = match choices.below(3) {
            0 => {
                output.add(format!("{name}.n"), Type::Int);
                output.add(format!("{name}.d"), Type::Int);
                format!("FROM {name}")
            }
            1 => {
                output.add(format!("{name}.d"), Type::Int);
                output.add("count(*)".into(), Type::Int);
                output.add(format!("max({name}.n)"), Type::Int);
                format!("FROM {name} GROUP BY {name}.d")
            }
            _ => {
                let (other, other_columns) = self.source(choices, 0);
                output.add(format!("{name}.n"), Type::Int);
                for column in &other_columns {
                    output.add(column.name.clone(), column.data_type);
                }
                format!("FROM {name} JOIN {other} ON {} = {name}.n", other_columns[0].name)
            }
        };
        let query = output.query(&rest);
        Query { sql: format!("{recursive} {}", query.sql), columns: query.columns }
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
            let (a, b) = (&first.name, second.name);
            match choices.below(5) {
                0 => format!("ROLLUP ({a}, {b})"),
                1 => format!("CUBE ({a}, {b})"),
                2 => format!("GROUPING SETS (({a}), ({b}), ())"),
                3 => format!("GROUPING SETS (({a}, {b}), ({a}), ({a}))"),
                _ => format!("{a}, ROLLUP ({b})"),
            }
        };
        if choices.rarely(3) {
            output.add(format!("grouping({})", first.name), Type::Int);
        }
        let (call, data_type) = aggregate_call(choices, &columns);
        output.add(call, data_type);
        let filter = self.filter(choices, &columns);
        output.query(&format!("FROM {from}{filter} GROUP BY {groups}"))
    }

    /// The counts of each window.
    fn time_windows(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let alias = self.alias('r');
        let (function, columns) = self.windowed(choices);
        let columns = qualified(&columns, &alias);
        let is_windowed = function.contains('(');
        if !is_windowed {
            return self.aggregate(choices, depth);
        }
        let mut output = Output::default();
        let mut groups: Vec<String> =
            columns[columns.len() - 2..].iter().map(|column| column.name.clone()).collect();
        if choices.below(2) == 1 {
            groups.push(columns[0].name.clone());
            output.add(columns[0].name.clone(), columns[0].data_type);
        }
        output.add(groups[0].clone(), Type::Time);
        output.add(groups[1].clone(), Type::Time);
        for _ in 0..1 + choices.below(2) {
            let (call, data_type) = aggregate_call(choices, &columns);
            output.add(call, data_type);
        }
        let filter = self.filter(choices, &columns);
        output.query(&format!("FROM {function} AS {alias}{filter} GROUP BY {}", groups.join(", ")))
    }

    fn sessions(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let Some((table, time)) = self.timed_table(choices) else {
            return self.aggregate(choices, depth);
        };
        let alias = self.alias('r');
        let key = match choices.below(3) {
            0 => String::new(),
            _ => format!(", {}", choices.one(&table.columns).name),
        };
        let function = format!("SESSION({}, {time}, INTERVAL '20 seconds'{key})", table.name);
        let mut columns = table.columns.clone();
        columns.extend(
            ["window_start", "window_end"].map(|name| Column { name: name.into(), data_type: Type::Time }),
        );
        let columns = qualified(&columns, &alias);
        if choices.below(2) == 0 {
            return output_of(&columns).query(&format!("FROM {function} AS {alias}"));
        }
        let (start, end) = (&columns[columns.len() - 2].name, &columns[columns.len() - 1].name);
        let mut output = Output::default();
        output.add(start.clone(), Type::Time);
        output.add(end.clone(), Type::Time);
        let (call, data_type) = aggregate_call(choices, &columns);
        output.add(call, data_type);
        output.query(&format!("FROM {function} AS {alias} GROUP BY {start}, {end}"))
    }
}

fn qualified(columns: &[Column], alias: &str) -> Vec<Column> {
    let qualified = columns
        .iter()
        .map(|column| Column { name: format!("{alias}.{}", column.name), data_type: column.data_type });
    qualified.collect()
}

/// The output columns of a SELECT, each with a name of its own.
#[derive(Default)]
pub(super) struct Output {
    /// `DISTINCT `, `DISTINCT ON (…) ` or nothing.
    distinct: String,
    exprs: Vec<String>,
    columns: Vec<Column>,
}

/// All of some columns.
fn output_of(columns: &[Column]) -> Output {
    let mut output = Output::default();
    for column in columns {
        output.add(column.name.clone(), column.data_type);
    }
    output
}

impl Output {
    pub(super) fn add(&mut self, expr: String, data_type: Type) {
        let name = format!("o{}", self.exprs.len());
        self.exprs.push(format!("{expr} AS {name}"));
        self.columns.push(Column { name, data_type });
    }

    pub(super) fn query(self, rest: &str) -> Query {
        Query {
            sql: format!("SELECT {}{} {rest}", self.distinct, self.exprs.join(", ")),
            columns: self.columns,
        }
    }
}
