//! Expressions, conditions and aggregate calls over some columns.

use super::{Choices, Column, Type};

/// A column of each side with the same type; the first ones are integers.
pub fn pair(choices: &mut Choices, left: &[Column], right: &[Column]) -> (String, String) {
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

/// What rows of two sides are joined by.
pub fn equality(choices: &mut Choices, left: &[Column], right: &[Column]) -> String {
    let (own, other) = pair(choices, left, right);
    match choices.below(6) {
        5 => {
            let (a, b) = (expr(choices, left, Type::Int, 1), expr(choices, right, Type::Int, 1));
            format!("{a} = {b} + 1")
        }
        4 => format!("{own} IS NOT DISTINCT FROM {other}"),
        3 => {
            let (second, third) = pair(choices, left, right);
            format!("{own} = {other} AND {second} = {third}")
        }
        _ => format!("{own} = {other}"),
    }
}

/// ORDER BY: all columns, or rarely one of them.
pub fn order(choices: &mut Choices, columns: &[Column]) -> String {
    let start = choices.below(columns.len());
    let n_columns = if choices.rarely(3) { 1 } else { columns.len() };
    let ordered = (0..n_columns).map(|idx| {
        let column = &columns[(start + idx) % columns.len()].name;
        let direction = choices.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        format!("{column}{direction}")
    });
    ordered.collect::<Vec<_>>().join(", ")
}

/// A comparison with the time, which may only stand as a condition of its own.
pub fn moment(choices: &mut Choices, columns: &[Column]) -> Option<String> {
    let times: Vec<&Column> =
        columns.iter().filter(|column| matches!(column.data_type, Type::Time | Type::Date)).collect();
    if times.is_empty() {
        return None;
    }
    let column = choices.one(&times);
    let name = &column.name;
    Some(match (column.data_type, choices.below(5)) {
        (Type::Date, 0 | 1) => format!("{name} >= current_date"),
        (Type::Date, _) => format!("{name} < current_date"),
        (_, 0) => format!("{name} > now() - INTERVAL '30 seconds'"),
        (_, 1) => format!("{name} <= now()"),
        (_, 2) => format!("{name} BETWEEN now() - INTERVAL '1 minute' AND now() + INTERVAL '10 seconds'"),
        (_, 3) => format!("{name} >= date_trunc('minute', now())"),
        _ => format!("NOT ({name} + INTERVAL '5 seconds' < now())"),
    })
}

pub fn condition(choices: &mut Choices, columns: &[Column], depth: usize) -> String {
    let column = choices.one(columns).clone();
    let name = &column.name;
    let value = |choices: &mut Choices| column.data_type.value(choices);
    match choices.below(if depth == 0 { 9 } else { 13 }) {
        0 => {
            let operator = *choices.one(&["=", "<", ">=", "<>"]);
            format!("{name} {operator} {}", value(choices))
        }
        1 => format!("{name} IS NOT NULL"),
        2 => format!("{name} IN ({}, {})", value(choices), value(choices)),
        3 => format!("{name} IS DISTINCT FROM {}", value(choices)),
        4 => {
            let other = columns.iter().rfind(|other| other.data_type == column.data_type);
            format!("{name} <= {}", other.expect("at least itself").name)
        }
        5 => format!("{name} BETWEEN {} AND {}", value(choices), value(choices)),
        6 => format!("{name} NOT IN ({}, {})", value(choices), value(choices)),
        7 if column.data_type == Type::Bool => format!("{name} IS NOT TRUE"),
        7 if column.data_type == Type::Text => {
            format!(
                "{name} {} {}",
                choices.one(&["LIKE", "NOT LIKE", "ILIKE"]),
                choices.one(&["'a%'", "'%b'", "'_'"])
            )
        }
        7 => format!("{name} IS NULL"),
        8 => {
            let data_type = *choices.one(&[Type::Int, Type::Text, Type::Float, Type::Decimal]);
            let (left, right) = (expr(choices, columns, data_type, 1), expr(choices, columns, data_type, 1));
            format!("{left} {} {right}", choices.one(&["=", "<", ">=", "<>", "IS DISTINCT FROM"]))
        }
        9 => format!("({} AND {})", condition(choices, columns, 0), condition(choices, columns, 0)),
        10 => format!("({} OR {})", condition(choices, columns, 0), condition(choices, columns, depth - 1)),
        11 => format!("({}) IS NOT TRUE", condition(choices, columns, depth - 1)),
        _ => format!("NOT ({})", condition(choices, columns, depth - 1)),
    }
}

/// An expression that cannot fail.
pub fn expr(choices: &mut Choices, columns: &[Column], data_type: Type, depth: usize) -> String {
    let of_type: Vec<&Column> = columns.iter().filter(|column| column.data_type == data_type).collect();
    if depth == 0 || choices.below(3) == 0 {
        return match of_type.is_empty() {
            true => data_type.value(choices),
            false => choices.one(&of_type).name.clone(),
        };
    }
    let one = |choices: &mut Choices| expr(choices, columns, data_type, depth - 1);
    let of = |choices: &mut Choices, data_type: Type| expr(choices, columns, data_type, depth - 1);
    match choices.below(6) {
        0 => format!("coalesce({}, {})", one(choices), data_type.value(choices)),
        1 => format!(
            "CASE WHEN {} THEN {} ELSE {} END",
            condition(choices, columns, 0),
            one(choices),
            one(choices)
        ),
        2 => format!("nullif({}, {})", one(choices), one(choices)),
        3 => format!("{}({}, {})", choices.one(&["greatest", "least"]), one(choices), one(choices)),
        _ => match data_type {
            Type::Int => match choices.below(4) {
                0 => format!("({} + {})", one(choices), one(choices)),
                1 => format!("({} - {})", one(choices), one(choices)),
                2 => format!("length({})", of(choices, Type::Text)),
                _ => format!("abs({})", one(choices)),
            },
            Type::Text => match choices.below(4) {
                0 => format!("({} || upper({}))", one(choices), one(choices)),
                1 => format!("substr({}, 1, 1)", one(choices)),
                2 => format!("CAST({} AS TEXT)", of(choices, Type::Int)),
                _ => format!("CAST({} AS TEXT)", of(choices, Type::Bool)),
            },
            Type::Float => match choices.below(3) {
                0 => format!("abs({})", one(choices)),
                1 => format!("(- {})", one(choices)),
                _ => format!("CAST({} AS DOUBLE PRECISION)", of(choices, Type::Int)),
            },
            Type::Bool => match choices.below(3) {
                0 => format!("(NOT {})", one(choices)),
                1 => format!("({})", condition(choices, columns, 0)),
                _ => format!("({} OR {})", one(choices), one(choices)),
            },
            Type::Time => match choices.below(3) {
                0 => format!("date_trunc('minute', {})", one(choices)),
                1 => format!("({} + INTERVAL '1 minute')", one(choices)),
                _ => format!("CAST({} AS TIMESTAMP)", of(choices, Type::Date)),
            },
            Type::Date => format!("CAST({} AS DATE)", of(choices, Type::Time)),
            Type::Big => format!("CAST({} AS BIGINT)", of(choices, Type::Int)),
            Type::Decimal => format!("CAST({} AS DECIMAL(9, 2))", of(choices, Type::Int)),
            Type::Numeric => format!("(- {})", one(choices)),
        },
    }
}

/// A call and its type. Results that are not exact are rounded, lest a comparison of them is decided by the last digit.
struct Call {
    call: String,
    data_type: Type,
    /// What stands around it: `array_to_string(…, ',')`.
    around: (&'static str, &'static str),
}

/// An aggregate function call.
pub fn aggregate_call(choices: &mut Choices, columns: &[Column]) -> (String, Type) {
    let column = choices.one(columns).clone();
    let Call { call, data_type, around } = match choices.below(4) {
        0 => counting(choices, columns, &column),
        1 => extreme(choices, &column),
        2 => summing(choices, &column),
        _ => ordered(choices, columns, &column),
    };
    let filter = match choices.rarely(4) {
        true => format!(" FILTER (WHERE {})", condition(choices, columns, 1)),
        false => String::new(),
    };
    (format!("{}{call}{filter}{}", around.0, around.1), data_type)
}

fn plain(call: String, data_type: Type) -> Call {
    Call { call, data_type, around: ("", "") }
}

fn counting(choices: &mut Choices, columns: &[Column], column: &Column) -> Call {
    let name = &column.name;
    match choices.below(4) {
        0 => plain("count(*)".into(), Type::Int),
        1 => plain(format!("count({name})"), Type::Int),
        2 => plain(format!("count(DISTINCT {name})"), Type::Int),
        _ => plain(format!("count({})", expr(choices, columns, column.data_type, 1)), Type::Int),
    }
}

fn extreme(choices: &mut Choices, column: &Column) -> Call {
    let name = &column.name;
    if column.data_type == Type::Bool {
        return plain(format!("{}({name})", choices.one(&["bool_or", "bool_and", "every"])), Type::Bool);
    }
    let distinct = if choices.rarely(5) { "DISTINCT " } else { "" };
    plain(format!("{}({distinct}{name})", choices.one(&["min", "max"])), column.data_type)
}

fn summing(choices: &mut Choices, column: &Column) -> Call {
    let name = &column.name;
    let distinct = if choices.rarely(4) { "DISTINCT " } else { "" };
    const ROUNDED: (&str, &str) = ("round(CAST(", " AS NUMERIC), 7)");
    match (column.data_type, choices.below(4)) {
        (Type::Int, 0 | 1) => plain(format!("sum({distinct}{name})"), Type::Int),
        (Type::Int, 2) => plain(format!("avg({distinct}{name})"), Type::Float),
        (Type::Int, _) => match choices.below(6) {
            0 => plain(format!("bit_or({name})"), Type::Int),
            1 => plain(format!("bit_and({name})"), Type::Int),
            2 => plain(format!("bit_xor({name})"), Type::Int),
            3 => Call { call: format!("stddev({name})"), data_type: Type::Numeric, around: ROUNDED },
            4 => Call { call: format!("var_pop({name})"), data_type: Type::Numeric, around: ROUNDED },
            _ => Call { call: format!("median({name})"), data_type: Type::Numeric, around: ROUNDED },
        },
        (Type::Float, 0 | 1) => plain(format!("sum({distinct}{name})"), Type::Float),
        (Type::Float, _) => plain(format!("avg({distinct}{name})"), Type::Float),
        (Type::Big, 0 | 1) => plain(format!("sum({distinct}{name})"), Type::Numeric),
        (Type::Decimal, 0 | 1) => plain(format!("sum({distinct}{name})"), Type::Numeric),
        (Type::Decimal, 2) => plain(format!("avg({distinct}{name})"), Type::Numeric),
        _ => plain(format!("count({distinct}{name})"), Type::Int),
    }
}

fn ordered(choices: &mut Choices, columns: &[Column], column: &Column) -> Call {
    let name = &column.name;
    let order = match choices.rarely(2) {
        true => order(choices, columns),
        false => name.clone(),
    };
    const JOINED: (&str, &str) = ("array_to_string(", ", ',', '-')");
    match choices.below(6) {
        0 => plain(format!("first_value({name} ORDER BY {order})"), column.data_type),
        1 => plain(format!("last_value({name} ORDER BY {order})"), column.data_type),
        2 => plain(format!("nth_value({name}, 2 ORDER BY {order})"), column.data_type),
        3 if column.data_type == Type::Text => {
            plain(format!("string_agg({name}, '/' ORDER BY {order})"), Type::Text)
        }
        4 if matches!(column.data_type, Type::Int | Type::Text) => Call {
            call: format!("array_agg(DISTINCT {name} ORDER BY {name})"),
            data_type: Type::Text,
            around: JOINED,
        },
        _ if matches!(column.data_type, Type::Int | Type::Text | Type::Big) => Call {
            call: format!("array_agg({name} ORDER BY {order})"),
            data_type: Type::Text,
            around: JOINED,
        },
        _ => plain(format!("count({name})"), Type::Int),
    }
}
