//! Random `MATCH_RECOGNIZE`.

use super::expr::{condition, order};
use super::query::{Output, Query};
use super::{Choices, Column, Grammar, Type};

/// Patterns over `a`, `b` and `c`; the second says whether some rows are not shown.
const PATTERNS: &[(&str, bool)] = &[
    ("a b", false),
    ("a+ b", false),
    ("a b* c", false),
    ("a", false),
    ("a*", false),
    ("a+? b", false),
    ("(a | b c)+", false),
    ("(a b?){1,2}", false),
    ("PERMUTE(a, b)", false),
    ("a b* $", false),
    ("^ a b*", false),
    ("a?? b", false),
    ("a {- b+ -} c?", true),
    ("{- a -} (b | c)*", true),
    ("a{2,} b{,2}", false),
];

impl Grammar<'_> {
    pub(super) fn row_patterns(&mut self, choices: &mut Choices, depth: usize) -> Query {
        let (from, columns) = self.source(choices, depth);
        let plain = |column: &Column| {
            let name = column.name.rsplit_once('.').map_or(column.name.as_str(), |(_, name)| name);
            Column { name: name.to_owned(), data_type: column.data_type }
        };
        let columns: Vec<Column> = columns.iter().map(plain).collect();
        let (pattern, is_excluding) = *choices.one(PATTERNS);
        let partition = match choices.below(3) {
            0 => None,
            _ => Some(choices.one(&columns).clone()),
        };
        let order = order(choices, &columns);
        let shown = match choices.below(if is_excluding { 4 } else { 5 }) {
            0 | 1 => "ONE ROW PER MATCH",
            2 => "ALL ROWS PER MATCH",
            3 => "ALL ROWS PER MATCH OMIT EMPTY MATCHES",
            _ => "ALL ROWS PER MATCH WITH UNMATCHED ROWS",
        };
        // Where TO LAST leads to is known of these only.
        let skip = match choices.below(4) {
            0 | 1 => "PAST LAST ROW",
            2 if pattern == "a b" || pattern == "a+ b" => "TO LAST b",
            _ => "TO NEXT ROW",
        };
        let integers: Vec<&Column> = columns.iter().filter(|column| column.data_type == Type::Int).collect();
        let number = match integers.is_empty() {
            true => None,
            false => Some(choices.one(&integers).name.clone()),
        };
        let define = |choices: &mut Choices, own: char| -> Option<String> {
            let other = *choices.one(&["a", "b"]);
            let other = if pattern.contains(other) { other } else { "a" };
            let n = choices.below(5);
            let Some(number) = &number else {
                return Some(format!("{own} AS {}", condition(choices, &columns, 1)));
            };
            Some(match choices.below(9) {
                0 => return None,
                1 => format!("{own} AS {own}.{number} < {n}"),
                2 => format!("{own} AS {number} >= PREV({number})"),
                3 => format!("{own} AS {own}.{number} <= FIRST({other}.{number})"),
                4 => format!("{own} AS sum({number}) < {}", n + 2),
                5 => format!("{own} AS count({other}.*) <= {n} AND NEXT({number}) IS NOT NULL"),
                6 => {
                    format!("{own} AS LAST({own}.{number}, 1) IS NULL OR {number} <> LAST({own}.{number}, 1)")
                }
                7 => format!("{own} AS {number} IS DISTINCT FROM PREV(FIRST({other}.{number}), 1)"),
                _ => format!("{own} AS {}", condition(choices, &columns, 1)),
            })
        };
        let mut defines: Vec<String> = "abc"
            .chars()
            .filter(|name| pattern.contains(*name))
            .filter_map(|name| define(choices, name))
            .collect();
        if defines.is_empty() {
            defines.push(format!("a AS {}", condition(choices, &columns, 1)));
        }
        let mut measures: Vec<(String, Type)> = Vec::new();
        for _ in 0..1 + choices.below(3) {
            let column = choices.one(&columns).clone();
            let name = &column.name;
            let scope = *choices.one(&["", "FINAL ", "RUNNING "]);
            let variable = *choices.one(&["", "a.", "b."]);
            let variable = if pattern.contains(variable.trim_end_matches('.')) { variable } else { "" };
            measures.push(match choices.below(8) {
                0 => (format!("{scope}LAST({variable}{name})"), column.data_type),
                1 => (format!("{scope}FIRST({variable}{name}, {})", choices.below(2)), column.data_type),
                2 => (format!("PREV(LAST({variable}{name}))"), column.data_type),
                3 => (format!("NEXT(LAST({variable}{name}), 1)"), column.data_type),
                4 => ("CLASSIFIER()".into(), Type::Text),
                5 => ("MATCH_NUMBER()".into(), Type::Int),
                6 => (format!("{scope}count({variable}*)"), Type::Int),
                _ => match &number {
                    Some(number) => (format!("{scope}sum({variable}{number})"), Type::Int),
                    None => (format!("{scope}count({variable}{name})"), Type::Int),
                },
            });
        }
        let passed = match (shown, &partition) {
            ("ONE ROW PER MATCH", None) => Vec::new(),
            ("ONE ROW PER MATCH", Some(column)) => vec![column.clone()],
            _ => columns.clone(),
        };
        let mut output = Output::default();
        for column in passed {
            output.add(column.name, column.data_type);
        }
        for (idx, (_, data_type)) in measures.iter().enumerate() {
            output.add(format!("m{idx}"), *data_type);
        }
        let measures: Vec<String> =
            measures.iter().enumerate().map(|(idx, (measure, _))| format!("{measure} AS m{idx}")).collect();
        let partition = partition.map_or(String::new(), |column| format!("PARTITION BY {} ", column.name));
        output.query(&format!(
            "FROM {from} MATCH_RECOGNIZE ({partition}ORDER BY {order} MEASURES {} {shown} AFTER MATCH SKIP {skip} \
             PATTERN ({pattern}) DEFINE {})",
            measures.join(", "),
            defines.join(", ")
        ))
    }
}
