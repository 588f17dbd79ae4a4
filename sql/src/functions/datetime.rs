//! Functions of dates, times and intervals.

use std::sync::Arc;

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Timelike,
};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::logical_expr::ScalarUDF;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::rows::{Kind, Overload, Value, function, overloaded, rescaled};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const OVERFLOW: SqlState = SqlState("22008");

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    use Kind::{
        Big, Bool, Date, Float, Int, Interval, Numeric, Numerics, Text, Time, Timestamp, Timestamps,
        Timestamptz, Timestamptzs,
    };
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    vec![
        overloaded(
            "extract",
            vec![
                overload(&[Text, Timestamp], Numeric(6), |args| of_timestamp(args, false)),
                overload(&[Text, Timestamptz], Numeric(6), |args| of_timestamp(args, true)),
                overload(&[Text, Date], Numeric(6), of_date),
                overload(&[Text, Time], Numeric(6), of_time),
                overload(&[Text, Interval], Numeric(6), of_interval),
            ],
        ),
        overloaded(
            "extract_field",
            vec![
                overload(&[Text, Timestamp], Numeric(0), |args| of_timestamp(args, false)),
                overload(&[Text, Timestamptz], Numeric(0), |args| of_timestamp(args, true)),
                overload(&[Text, Date], Numeric(0), of_date),
                overload(&[Text, Time], Numeric(0), of_time),
                overload(&[Text, Interval], Numeric(0), of_interval),
            ],
        ),
        overloaded(
            "date_part_of",
            vec![
                overload(&[Text, Timestamp], Float, |args| of_timestamp(args, false).map(as_float)),
                overload(&[Text, Timestamptz], Float, |args| of_timestamp(args, true).map(as_float)),
                overload(&[Text, Date], Float, |args| of_date(args).map(as_float)),
                overload(&[Text, Time], Float, |args| of_time(args).map(as_float)),
                overload(&[Text, Interval], Float, |args| of_interval(args).map(as_float)),
            ],
        ),
        overloaded(
            "timezone",
            vec![
                overload(&[Text, Timestamp], Timestamptz, |args| {
                    to_zone(zone(args[0].text())?, args[1].int())
                }),
                overload(&[Text, Timestamptz], Timestamp, |args| {
                    in_zone(zone(args[0].text())?, args[1].int())
                }),
                overload(&[Interval, Timestamp], Timestamptz, |args| {
                    Ok(Value::Int(args[1].int() - args[0].interval().nanoseconds / 1000))
                }),
                overload(&[Interval, Timestamptz], Timestamp, |args| {
                    Ok(Value::Int(args[1].int() + args[0].interval().nanoseconds / 1000))
                }),
            ],
        ),
        overloaded(
            "age",
            vec![overload(&[Timestamp, Timestamp], Interval, |args| age(args[0].int(), args[1].int()))],
        ),
        function("make_date", &[Big, Big, Big], Date, |args| {
            // There is no year zero: the year before 1 is -1.
            let year = args[0].int();
            let date = date_of(if year < 0 { year + 1 } else { year }, args[1].int(), args[2].int())?;
            Ok(Value::Int(days_of(date)))
        }),
        function("make_time", &[Big, Big, Float], Time, |args| {
            Ok(Value::Int(time_of(args[0].int(), args[1].int(), args[2].float())?))
        }),
        function("make_timestamp", &[Big, Big, Big, Big, Big, Float], Timestamp, make_timestamp),
        overloaded(
            "make_timestamptz",
            vec![
                overload(&[Big, Big, Big, Big, Big, Float], Timestamptz, make_timestamp),
                overload(&[Big, Big, Big, Big, Big, Float, Text], Timestamptz, |args| {
                    to_zone(zone(args[6].text())?, make_timestamp(args)?.int())
                }),
            ],
        ),
        // date_trunc to a number of years.
        overloaded(
            "date_trunc_years",
            vec![
                overload(&[Big, Timestamptz], Timestamptz, |args| {
                    truncated_years(args[0].int(), args[1].int())
                }),
                overload(&[Big, Timestamp], Timestamp, |args| truncated_years(args[0].int(), args[1].int())),
            ],
        ),
        function("make_interval", &[Big, Big, Big, Big, Big, Big, Float], Interval, make_interval),
        overloaded(
            "to_char",
            vec![
                overload(&[Timestamp, Text], Text, |args| {
                    Ok(Value::Text(crate::functions::to_char::timestamp(
                        datetime(args[0].int())?,
                        args[1].text(),
                    )))
                }),
                overload(&[Timestamptz, Text], Text, |args| {
                    Ok(Value::Text(crate::functions::to_char::timestamp(
                        datetime(args[0].int())?,
                        args[1].text(),
                    )))
                }),
                overload(&[Time, Text], Text, |args| {
                    let time = IntervalMonthDayNano::new(0, 0, args[0].int() * 1000);
                    Ok(Value::Text(crate::functions::to_char::interval(time, args[1].text())))
                }),
                overload(&[Interval, Text], Text, |args| {
                    let interval = args[0].interval();
                    Ok(Value::Text(crate::functions::to_char::interval(interval, args[1].text())))
                }),
                overload(&[Numeric(0), Text], Text, |args| {
                    let (digits, scale) = args[0].numeric();
                    crate::functions::to_char::number(digits, scale, args[1].text()).map(Value::Text)
                }),
                overload(&[Float, Text], Text, |args| {
                    let digits = (args[0].float() * 1e10).round();
                    crate::functions::to_char::number(digits as i128, 10, args[1].text()).map(Value::Text)
                }),
            ],
        ),
        overloaded(
            "to_timestamp",
            vec![
                overload(&[Text, Text], Timestamptz, |args| {
                    let (date, micros) = crate::functions::to_char::parse(args[0].text(), args[1].text())?;
                    Ok(Value::Int(days_of(date) * MICROS_PER_DAY + micros))
                }),
                overload(&[Float], Timestamptz, |args| {
                    Ok(Value::Int((args[0].float() * 1e6).round() as i64))
                }),
            ],
        ),
        function("to_date", &[Text, Text], Date, |args| {
            let (date, _) = crate::functions::to_char::parse(args[0].text(), args[1].text())?;
            Ok(Value::Int(days_of(date)))
        }),
        overloaded(
            "isfinite",
            vec![
                overload(&[Timestamp], Bool, |args| {
                    Ok(Value::Bool(![i64::MIN, i64::MAX].contains(&args[0].int())))
                }),
                overload(&[Date], Bool, |args| {
                    Ok(Value::Bool(![i64::from(i32::MIN), i64::from(i32::MAX)].contains(&args[0].int())))
                }),
                overload(&[Interval], Bool, |_| Ok(Value::Bool(true))),
            ],
        ),
        function("justify_hours", &[Interval], Interval, |args| {
            Ok(Value::Interval(justify_hours(args[0].interval())))
        }),
        function("justify_days", &[Interval], Interval, |args| {
            Ok(Value::Interval(justify_days(args[0].interval())))
        }),
        function("justify_interval", &[Interval], Interval, |args| {
            Ok(Value::Interval(justify_interval(args[0].interval())))
        }),
        overloaded(
            "generate_series_array",
            vec![
                overload(&[Int, Int], Kind::Ints, |args| integers(args[0].int(), args[1].int(), 1)),
                overload(&[Int, Int, Int], Kind::Ints, |args| {
                    integers(args[0].int(), args[1].int(), args[2].int())
                }),
                overload(&[Big, Big], Kind::Bigs, |args| integers(args[0].int(), args[1].int(), 1)),
                overload(&[Big, Big, Big], Kind::Bigs, |args| {
                    integers(args[0].int(), args[1].int(), args[2].int())
                }),
                overload(&[Timestamp, Timestamp, Interval], Timestamps, |args| {
                    times(args[0].int(), args[1].int(), args[2].interval())
                }),
                overload(&[Date, Date, Interval], Timestamptzs, |args| {
                    let midnight = |days: i64| days * MICROS_PER_DAY;
                    times(midnight(args[0].int()), midnight(args[1].int()), args[2].interval())
                }),
                overload(&[Timestamptz, Timestamptz, Interval], Timestamptzs, |args| {
                    times(args[0].int(), args[1].int(), args[2].interval())
                }),
                overload(&[Numeric(0), Numeric(0)], Numerics, |args| {
                    numbers(args[0].numeric(), args[1].numeric(), (1, 0))
                }),
                overload(&[Numeric(0), Numeric(0), Numeric(0)], Numerics, |args| {
                    numbers(args[0].numeric(), args[1].numeric(), args[2].numeric())
                }),
            ],
        ),
    ]
}

/// Signatures of functions that DataFusion has with others.
pub(crate) fn extensions() -> Vec<(&'static str, Vec<Overload>)> {
    use Kind::{Interval, Text, Timestamptz};
    let overload = |args, result, eval| Overload { args, variadic: false, result, eval };
    vec![(
        "date_trunc",
        vec![
            overload(&[Text, Interval], Interval, |args| truncated(args[0].text(), args[1].interval())),
            overload(&[Text, Timestamptz, Text], Timestamptz, |args| {
                let zone = zone(args[2].text())?;
                let local = datetime(in_zone(zone, args[1].int())?.int())?;
                let truncated = truncated_time(args[0].text(), local)?;
                to_zone(zone, truncated.and_utc().timestamp_micros())
            }),
        ],
    )]
}

/// `date_trunc` of an interval: its fields below the unit are gone.
fn truncated(unit: &str, interval: IntervalMonthDayNano) -> Result<Value> {
    let IntervalMonthDayNano { months, days, nanoseconds } = interval;
    let to_months = |n: i32| Ok(Value::Interval(IntervalMonthDayNano::new(months / n * n, 0, 0)));
    let to_nanos = |n: i64| Ok(Value::Interval(IntervalMonthDayNano::new(months, days, nanoseconds / n * n)));
    match unit.to_lowercase().trim_end_matches('s') {
        "millennium" => to_months(12_000),
        "century" => to_months(1200),
        "decade" => to_months(120),
        "year" => to_months(12),
        "quarter" => to_months(3),
        "month" => to_months(1),
        "day" => Ok(Value::Interval(IntervalMonthDayNano::new(months, days, 0))),
        "hour" => to_nanos(3_600_000_000_000),
        "minute" => to_nanos(60_000_000_000),
        "second" => to_nanos(1_000_000_000),
        "millisecond" => to_nanos(1_000_000),
        "microsecond" => to_nanos(1000),
        "week" => {
            Err(Error::new(SqlState::FEATURE_NOT_SUPPORTED, "unit \"week\" not supported for type interval")
                .with_detail("Months usually have fractional weeks."))
        }
        unit => Err(unit_error(unit, "interval")),
    }
}

fn truncated_time(unit: &str, time: NaiveDateTime) -> Result<NaiveDateTime> {
    let date = time.date();
    let midnight = |date: Option<NaiveDate>| {
        let time = date.map(|date| date.and_time(NaiveTime::MIN));
        time.ok_or_else(|| Error::new(OVERFLOW, "timestamp out of range"))
    };
    let micros_of_day =
        i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1000);
    let of_day = |n: i64| {
        let rest = chrono::TimeDelta::microseconds(micros_of_day / n * n);
        midnight(Some(date)).map(|midnight| midnight + rest)
    };
    match unit.to_lowercase().trim_end_matches('s') {
        "year" => midnight(date.with_ordinal(1)),
        "quarter" => midnight(NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1)),
        "month" => midnight(date.with_day(1)),
        "week" => midnight(date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into()))),
        "day" => midnight(Some(date)),
        "hour" => of_day(3_600_000_000),
        "minute" => of_day(60_000_000),
        "second" => of_day(1_000_000),
        "millisecond" => of_day(1000),
        "microsecond" => of_day(1),
        unit => Err(unit_error(unit, "timestamp with time zone")),
    }
}

/// Decades begin with a year that ends in 0, centuries and millennia with one that ends in 1.
fn truncated_years(n_years: i64, micros: i64) -> Result<Value> {
    let year = i64::from(datetime(micros)?.year());
    let first = if n_years == 10 { 0 } else { 1 };
    let year = (year - first).div_euclid(n_years) * n_years + first;
    Ok(Value::Int(days_of(date_of(year, 1, 1)?) * MICROS_PER_DAY))
}

/// A series of exact numbers, at the largest of their scales.
fn numbers(start: (i128, i8), stop: (i128, i8), step: (i128, i8)) -> Result<Value> {
    let scale = start.1.max(stop.1).max(step.1);
    let overflow = || Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value overflows numeric format");
    let at = |(digits, from): (i128, i8)| rescaled(digits, from, scale).ok_or_else(overflow);
    let (mut value, stop, step) = (at(start)?, at(stop)?, at(step)?);
    if step == 0 {
        return Err(Error::new(SqlState::INVALID_PARAMETER, "step size cannot equal zero"));
    }
    let mut values = Vec::new();
    while if step > 0 { value <= stop } else { value >= stop } {
        if values.len() >= SERIES_MAX {
            return Err(too_long());
        }
        values.push(Value::Numeric(value, scale));
        value = value.checked_add(step).ok_or_else(overflow)?;
    }
    Ok(Value::List(values))
}

fn unit_error(unit: &str, of: &str) -> Error {
    Error::new(SqlState::INVALID_PARAMETER, format!("unit \"{unit}\" not recognized for type {of}"))
}

fn unsupported_unit(unit: &str, of: &str) -> Error {
    Error::new(SqlState::FEATURE_NOT_SUPPORTED, format!("unit \"{unit}\" not supported for type {of}"))
}

fn whole(value: i64) -> Value {
    Value::Numeric(value.into(), 0)
}

fn micros(value: i64) -> Value {
    Value::Numeric(value.into(), 6)
}

fn as_float(value: Value) -> Value {
    let (digits, scale) = value.numeric();
    Value::Float(digits as f64 / 10f64.powi(scale.into()))
}

fn datetime(micros: i64) -> Result<NaiveDateTime> {
    DateTime::from_timestamp_micros(micros)
        .map(|time| time.naive_utc())
        .ok_or_else(|| Error::new(OVERFLOW, "timestamp out of range"))
}

fn days_of(date: NaiveDate) -> i64 {
    i64::from(date.num_days_from_ce()) - 719_163
}

fn date_of(year: i64, month: i64, day: i64) -> Result<NaiveDate> {
    let date =
        || NaiveDate::from_ymd_opt(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?);
    date().ok_or_else(|| {
        Error::new(OVERFLOW, format!("date field value out of range: {year}-{month:02}-{day:02}"))
    })
}

fn time_of(hour: i64, minute: i64, second: f64) -> Result<i64> {
    if !(0..=24).contains(&hour) || !(0..60).contains(&minute) || !(0.0..=60.0).contains(&second) {
        return Err(Error::new(
            OVERFLOW,
            format!("time field value out of range: {hour}:{minute:02}:{second}"),
        ));
    }
    Ok((hour * 60 + minute) * 60_000_000 + (second * 1e6).round() as i64)
}

fn make_timestamp(args: &[Value]) -> Result<Value> {
    let date = date_of(args[0].int(), args[1].int(), args[2].int())?;
    Ok(Value::Int(days_of(date) * MICROS_PER_DAY + time_of(args[3].int(), args[4].int(), args[5].float())?))
}

fn make_interval(args: &[Value]) -> Result<Value> {
    let int = |idx: usize| args[idx].int();
    let overflow = || Error::new(OVERFLOW, "interval out of range");
    let months = int(0).checked_mul(12).and_then(|years| years.checked_add(int(1))).ok_or_else(overflow)?;
    let days = int(2).checked_mul(7).and_then(|weeks| weeks.checked_add(int(3))).ok_or_else(overflow)?;
    let nanos = (int(4) * 60 + int(5)) as f64 * 60e9 + (args[6].float() * 1e6).round() * 1e3;
    let field = |value: i64| i32::try_from(value).map_err(|_| overflow());
    Ok(Value::Interval(IntervalMonthDayNano::new(field(months)?, field(days)?, nanos as i64)))
}

fn of_timestamp(args: &[Value], zoned: bool) -> Result<Value> {
    let of = if zoned { "timestamp with time zone" } else { "timestamp without time zone" };
    let unit = args[0].text().to_lowercase();
    let time = datetime(args[1].int())?;
    let of_day = args[1].int().rem_euclid(MICROS_PER_DAY);
    match unit.as_str() {
        "epoch" => Ok(micros(args[1].int())),
        "julian" => {
            let days = args[1].int().div_euclid(MICROS_PER_DAY) + 2_440_588;
            Ok(Value::Numeric(
                i128::from(days) * 1_000_000 + (i128::from(of_day) * 1_000_000 / i128::from(MICROS_PER_DAY)),
                6,
            ))
        }
        "timezone" | "timezone_hour" | "timezone_minute" if zoned => Ok(whole(0)),
        unit => match of_clock(unit, of_day).or_else(|| of_calendar(unit, time.date())) {
            Some(value) => Ok(value),
            None if unit.starts_with("timezone") => Err(unsupported_unit(unit, of)),
            None => Err(unit_error(unit, of)),
        },
    }
}

fn of_date(args: &[Value]) -> Result<Value> {
    let unit = args[0].text().to_lowercase();
    let days = args[1].int();
    let date = datetime(days * MICROS_PER_DAY)?.date();
    match unit.as_str() {
        "epoch" => Ok(whole(days * 86_400)),
        "julian" => Ok(whole(days + 2_440_588)),
        unit => match of_calendar(unit, date) {
            Some(value) => Ok(value),
            None if of_clock(unit, 0).is_some() => Err(unsupported_unit(unit, "date")),
            None => Err(unit_error(unit, "date")),
        },
    }
}

fn of_time(args: &[Value]) -> Result<Value> {
    let unit = args[0].text().to_lowercase();
    match unit.as_str() {
        "epoch" => Ok(micros(args[1].int())),
        unit => match of_clock(unit, args[1].int()) {
            Some(value) => Ok(value),
            None if of_calendar(unit, NaiveDate::default()).is_some() => {
                Err(unsupported_unit(unit, "time without time zone"))
            }
            None => Err(unit_error(unit, "time without time zone")),
        },
    }
}

fn of_interval(args: &[Value]) -> Result<Value> {
    let unit = args[0].text().to_lowercase();
    let interval = args[1].interval();
    let (months, of_day) = (i64::from(interval.months), interval.nanoseconds / 1000);
    Ok(match unit.trim_end_matches('s') {
        "millennium" | "millennia" => whole(months / 12_000),
        "century" | "centurie" => whole(months / 1200),
        "decade" => whole(months / 120),
        "year" => whole(months / 12),
        "quarter" => whole(months % 12 / 3 + 1),
        "month" => whole(months % 12),
        "day" => whole(interval.days.into()),
        "hour" => whole(of_day / 3_600_000_000),
        "minute" => whole(of_day / 60_000_000 % 60),
        "second" => micros(of_day % 60_000_000),
        "millisecond" => Value::Numeric((of_day % 60_000_000).into(), 3),
        "microsecond" => whole(of_day % 60_000_000),
        "epoch" => {
            // A year has 365.25 days here, a month outside of a year 30.
            let days = i128::from(months / 12) * 1461 * 6 + i128::from(months % 12) * 30 * 24;
            let seconds = days * 3600 + i128::from(interval.days) * 86_400;
            Value::Numeric(seconds * 1_000_000 + i128::from(of_day), 6)
        }
        unit => return Err(unit_error(unit, "interval")),
    })
}

fn of_clock(unit: &str, of_day: i64) -> Option<Value> {
    Some(match unit.trim_end_matches('s') {
        "hour" => whole(of_day / 3_600_000_000),
        "minute" => whole(of_day / 60_000_000 % 60),
        "second" => micros(of_day % 60_000_000),
        "millisecond" => Value::Numeric((of_day % 60_000_000).into(), 3),
        "microsecond" => whole(of_day % 60_000_000),
        _ => return None,
    })
}

fn of_calendar(unit: &str, date: NaiveDate) -> Option<Value> {
    let year = i64::from(date.year());
    let weekday = i64::from(date.weekday().num_days_from_sunday());
    Some(whole(match unit.trim_end_matches('s') {
        // There is no year 0.
        "year" => {
            if year > 0 {
                year
            } else {
                year - 1
            }
        }
        "month" => date.month().into(),
        "day" => date.day().into(),
        "quarter" => (i64::from(date.month()) - 1) / 3 + 1,
        "dow" => weekday,
        "isodow" => {
            if weekday == 0 {
                7
            } else {
                weekday
            }
        }
        "doy" => date.ordinal().into(),
        "week" => date.iso_week().week().into(),
        "isoyear" => date.iso_week().year().into(),
        "decade" => year.div_euclid(10),
        "century" | "centurie" => {
            if year > 0 {
                (year + 99) / 100
            } else {
                (year - 100) / 100
            }
        }
        "millennium" | "millennia" => {
            if year > 0 {
                (year + 999) / 1000
            } else {
                (year - 1000) / 1000
            }
        }
        _ => return None,
    }))
}

/// A zone by its name, its abbreviation for UTC, or its offset. As in POSIX, which PostgreSQL follows, the sign of an
/// offset is turned around.
fn zone(name: &str) -> Result<Tz> {
    let error = || {
        Error::new(SqlState::INVALID_PARAMETER, format!("time zone \"{name}\" not recognized"))
            .with_hint("Write a name such as Europe/Berlin.")
    };
    let trimmed = name.trim();
    let upper = trimmed.to_uppercase();
    let known = match upper.as_str() {
        "UTC" | "GMT" | "Z" | "ZULU" => "+00:00".to_owned(),
        _ => match trimmed.as_bytes().first() {
            Some(b'+') => format!("-{}", &trimmed[1..]),
            Some(b'-') => format!("+{}", &trimmed[1..]),
            _ => trimmed.to_owned(),
        },
    };
    known.parse().map_err(|_| error())
}

/// The moment at which clocks in a zone show a time.
fn to_zone(zone: Tz, local: i64) -> Result<Value> {
    let time = datetime(local)?;
    let offset = match zone.offset_from_local_datetime(&time) {
        chrono::LocalResult::Single(offset) => offset,
        // As in PostgreSQL, the standard time, which is the later of the two.
        chrono::LocalResult::Ambiguous(_, later) => later,
        // In a gap, as if the clocks had not been put forward.
        chrono::LocalResult::None => zone.offset_from_utc_datetime(&(time - chrono::Duration::hours(3))),
    };
    Ok(Value::Int(local - i64::from(offset.fix().local_minus_utc()) * 1_000_000))
}

/// What clocks in a zone show at a moment.
fn in_zone(zone: Tz, moment: i64) -> Result<Value> {
    let offset = zone.offset_from_utc_datetime(&datetime(moment)?);
    Ok(Value::Int(moment + i64::from(offset.fix().local_minus_utc()) * 1_000_000))
}

/// The difference in years, months, days and time, as a calendar counts it; see `timestamp_age`.
fn age(later: i64, earlier: i64) -> Result<Value> {
    let sign = if later < earlier { -1 } else { 1 };
    let (from, to) = (datetime(earlier.min(later))?, datetime(earlier.max(later))?);
    let mut months = (to.year() - from.year()) * 12 + to.month() as i32 - from.month() as i32;
    let mut days = to.day() as i32 - from.day() as i32;
    let micros = |time: NaiveTime| {
        i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond()) / 1000
    };
    let mut time = micros(to.time()) - micros(from.time());
    if time < 0 {
        time += MICROS_PER_DAY;
        days -= 1;
    }
    if days < 0 {
        // The days of the earlier time's month are what is borrowed, or of the month before the later's.
        let borrowed = if sign > 0 {
            from.date()
        } else {
            to.date().checked_sub_months(Months::new(1)).unwrap_or(to.date())
        };
        let first = borrowed.with_day(1).expect("every month has a first day");
        let next = first.checked_add_months(Months::new(1)).unwrap_or(first);
        days += (next - first).num_days() as i32;
        months -= 1;
    }
    Ok(Value::Interval(IntervalMonthDayNano::new(months * sign, days * sign, time * 1000 * i64::from(sign))))
}

const NANOS_PER_DAY: i64 = MICROS_PER_DAY * 1000;

fn justify_hours(interval: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let mut days = i64::from(interval.days) + interval.nanoseconds / NANOS_PER_DAY;
    let mut nanos = interval.nanoseconds % NANOS_PER_DAY;
    if days > 0 && nanos < 0 {
        nanos += NANOS_PER_DAY;
        days -= 1;
    } else if days < 0 && nanos > 0 {
        nanos -= NANOS_PER_DAY;
        days += 1;
    }
    IntervalMonthDayNano::new(interval.months, days as i32, nanos)
}

fn justify_days(interval: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let mut months = interval.months + interval.days / 30;
    let mut days = interval.days % 30;
    if months > 0 && days < 0 {
        days += 30;
        months -= 1;
    } else if months < 0 && days > 0 {
        days -= 30;
        months += 1;
    }
    IntervalMonthDayNano::new(months, days, interval.nanoseconds)
}

fn justify_interval(interval: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let total = crate::postgres::interval_length(interval);
    let days = (total / i128::from(NANOS_PER_DAY)) as i64;
    let nanos = (total % i128::from(NANOS_PER_DAY)) as i64;
    IntervalMonthDayNano::new((days / 30) as i32, (days % 30) as i32, nanos)
}

/// More elements than one array should have.
const SERIES_MAX: usize = 10_000_000;

fn integers(start: i64, stop: i64, step: i64) -> Result<Value> {
    if step == 0 {
        return Err(Error::new(SqlState::INVALID_PARAMETER, "step size cannot equal zero"));
    }
    let mut values = Vec::new();
    let mut next = Some(start);
    while let Some(value) = next.filter(|value| if step > 0 { *value <= stop } else { *value >= stop }) {
        if values.len() >= SERIES_MAX {
            return Err(too_long());
        }
        values.push(Value::Int(value));
        next = value.checked_add(step);
    }
    Ok(Value::List(values))
}

fn times(start: i64, stop: i64, step: IntervalMonthDayNano) -> Result<Value> {
    let length = crate::postgres::interval_length(step);
    if length == 0 {
        return Err(Error::new(SqlState::INVALID_PARAMETER, "step size cannot equal zero"));
    }
    let mut values = Vec::new();
    let mut time = start;
    while if length > 0 { time <= stop } else { time >= stop } {
        if values.len() >= SERIES_MAX {
            return Err(too_long());
        }
        values.push(Value::Int(time));
        time = later(time, step)?;
    }
    Ok(Value::List(values))
}

fn too_long() -> Error {
    Error::new(SqlState("54000"), format!("a series has at most {SERIES_MAX} elements"))
}

fn later(micros: i64, step: IntervalMonthDayNano) -> Result<i64> {
    let moved = || {
        let time = DateTime::from_timestamp_micros(micros)?.naive_utc();
        let months = Months::new(step.months.unsigned_abs());
        let time =
            if step.months < 0 { time.checked_sub_months(months)? } else { time.checked_add_months(months)? };
        let days = Days::new(step.days.unsigned_abs().into());
        let time = if step.days < 0 { time.checked_sub_days(days)? } else { time.checked_add_days(days)? };
        time.and_utc().timestamp_micros().checked_add(step.nanoseconds / 1000)
    };
    moved().ok_or_else(|| Error::new(OVERFLOW, "timestamp out of range"))
}
