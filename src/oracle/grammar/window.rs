//! Window functions and their frames.

use super::expr::{condition, order};
use super::{Choices, Column, Type};

/// A call with its OVER.
pub fn window_call(choices: &mut Choices, columns: &[Column]) -> (String, Type) {
    let partition = match choices.below(3) {
        0 => String::new(),
        _ => format!("PARTITION BY {} ", choices.one(columns).name),
    };
    match choices.below(3) {
        0 => {
            let order = order(choices, columns);
            let (call, data_type) = placed(choices, columns);
            (format!("{call} OVER ({partition}ORDER BY {order})"), data_type)
        }
        1 => {
            let Frame { order, frame, is_growing } = frame(choices, columns);
            let (call, data_type) = framed(choices, columns, is_growing);
            (format!("{call} OVER ({partition}{order}{frame})"), data_type)
        }
        _ => {
            let Frame { order, frame, .. } = frame(choices, columns);
            let column = choices.one(columns).clone();
            let call = match choices.below(4) {
                0 => format!("first_value({})", column.name),
                1 => format!("last_value({})", column.name),
                2 => format!("nth_value({}, 2)", column.name),
                _ => format!("first_value({}) IGNORE NULLS", column.name),
            };
            (format!("{call} OVER ({partition}{order}{frame})"), column.data_type)
        }
    }
}

/// Numbers that come of the row's place, and rows that are so far away.
fn placed(choices: &mut Choices, columns: &[Column]) -> (String, Type) {
    let column = choices.one(columns).clone();
    let name = &column.name;
    match choices.below(9) {
        0 => ("row_number()".into(), Type::Int),
        1 => ("rank()".into(), Type::Int),
        2 => ("dense_rank()".into(), Type::Int),
        3 => (format!("lag({name})"), column.data_type),
        4 => (format!("lead({name}, 2)"), column.data_type),
        5 => (format!("lag({name}, 1, {})", column.data_type.value(choices)), column.data_type),
        6 => ("ntile(3)".into(), Type::Int),
        7 => (format!("lag({name}) IGNORE NULLS"), column.data_type),
        _ => (choices.one(&["percent_rank()", "cume_dist()"]).to_string(), Type::Float),
    }
}

/// An aggregate over a frame. Those that cannot take a row back need a frame that only grows.
fn framed(choices: &mut Choices, columns: &[Column], is_growing: bool) -> (String, Type) {
    let column = choices.one(columns).clone();
    let name = &column.name;
    let filter = match choices.rarely(4) {
        true => format!(" FILTER (WHERE {})", condition(choices, columns, 0)),
        false => String::new(),
    };
    let (call, data_type) = match (choices.below(if is_growing { 6 } else { 5 }), column.data_type) {
        (0, _) => ("count(*)".into(), Type::Int),
        (1, Type::Int) => (format!("sum({name})"), Type::Int),
        (1, Type::Float) => (format!("sum({name})"), Type::Float),
        (1 | 2, Type::Decimal) => (format!("sum({name})"), Type::Numeric),
        (2, Type::Int | Type::Float) => (format!("avg({name})"), Type::Float),
        (3, data_type) if data_type != Type::Bool => (format!("min({name})"), data_type),
        (4, data_type) if data_type != Type::Bool => (format!("max({name})"), data_type),
        (5, Type::Bool) => (format!("bool_and({name})"), Type::Bool),
        (5, Type::Text) => (format!("string_agg({name}, '/')"), Type::Text),
        (5, Type::Int) => (format!("bit_or({name})"), Type::Int),
        _ => (format!("count({name})"), Type::Int),
    };
    (format!("{call}{filter}"), data_type)
}

struct Frame {
    /// With its ORDER BY, or nothing.
    order: String,
    frame: String,
    /// Whether it begins with the partition.
    is_growing: bool,
}

fn frame(choices: &mut Choices, columns: &[Column]) -> Frame {
    let kind = choices.below(6);
    if kind == 0 {
        let order = match choices.below(2) {
            0 => String::new(),
            _ => format!("ORDER BY {}", order(choices, columns)),
        };
        return Frame { order, frame: String::new(), is_growing: true };
    }
    // What RANGE can measure distances by.
    let measured: Vec<&Column> =
        columns.iter().filter(|column| matches!(column.data_type, Type::Int | Type::Time)).collect();
    let (unit, order, offset): (_, _, fn(i32) -> String) = match kind {
        1 | 2 if !measured.is_empty() => {
            let column = choices.one(&measured);
            let direction = choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
            let offset: fn(i32) -> String = match column.data_type {
                Type::Int => |n| n.to_string(),
                _ => |n| format!("INTERVAL '{} seconds'", n * 15),
            };
            ("RANGE", format!("{}{direction}", column.name), offset)
        }
        3 => ("GROUPS", order(choices, columns), |n| n.to_string()),
        _ => ("ROWS", order(choices, columns), |n| n.to_string()),
    };
    const UNBOUNDED: i32 = 9;
    let start = *choices.one(&[-UNBOUNDED, -1, 0, -2, 1]);
    let ends: Vec<i32> = [0, UNBOUNDED, 1, 2, -1].into_iter().filter(|end| *end >= start).collect();
    let end = *choices.one(&ends);
    let bound = |at: i32| match at {
        0 => "CURRENT ROW".to_owned(),
        -9 => "UNBOUNDED PRECEDING".to_owned(),
        9 => "UNBOUNDED FOLLOWING".to_owned(),
        at if at < 0 => format!("{} PRECEDING", offset(-at)),
        at => format!("{} FOLLOWING", offset(at)),
    };
    Frame {
        order: format!("ORDER BY {order}"),
        frame: format!(" {unit} BETWEEN {} AND {}", bound(start), bound(end)),
        is_growing: start == -UNBOUNDED,
    }
}
