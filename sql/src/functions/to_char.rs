//! Templates of `to_char`, `to_date`, `to_timestamp` and `to_number`; see PostgreSQL's formatting.c.

use std::cell::RefCell;

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};
use datafusion::arrow::datatypes::IntervalMonthDayNano;
use tidemill_core::SqlState;

use crate::error::Error;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Keywords, longer ones first where one begins another.
const KEYWORDS: [&str; 43] = [
    "Y,YYY", "YYYY", "IYYY", "MONTH", "Month", "month", "HH24", "HH12", "SSSS", "IDDD", "A.M.", "P.M.",
    "a.m.", "p.m.", "YYY", "IYY", "MON", "Mon", "mon", "DAY", "Day", "day", "DDD", "YY", "IY", "HH", "MI",
    "SS", "MS", "US", "MM", "DD", "DY", "Dy", "dy", "WW", "IW", "ID", "CC", "RM", "TZ", "AM", "PM",
];
const SHORT: [&str; 9] = ["am", "pm", "Y", "I", "D", "W", "Q", "J", "tz"];

enum Token {
    Keyword { word: &'static str, fill: bool, ordinal: Option<bool> },
    Text(String),
}

fn tokens(template: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            tokens.push(Token::Text(quoted[..end].to_owned()));
            rest = quoted.get(end + 1..).unwrap_or("");
            continue;
        }
        let (fill, behind) = match rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            Some(behind) => (false, behind),
            None => (true, rest),
        };
        // Only names and halves of the day care for case, so their own case comes first.
        let exact = |word: &&&str| behind.starts_with(**word);
        let loose = |word: &&&str| {
            behind.get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word))
                && !word.chars().any(char::is_lowercase)
        };
        let mut words = KEYWORDS.iter().chain(&SHORT);
        match words.clone().find(exact).or_else(|| words.find(loose)) {
            Some(word) => {
                rest = &behind[word.len()..];
                let ordinal = match rest.get(..2) {
                    Some("th") => Some(false),
                    Some("TH") => Some(true),
                    _ => None,
                };
                if ordinal.is_some() {
                    rest = &rest[2..];
                }
                tokens.push(Token::Keyword { word, fill, ordinal });
            }
            None => {
                tokens.push(Token::Text(first.to_string()));
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    tokens
}

struct Fields {
    year: i64,
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    date: Option<NaiveDate>,
}

/// A timestamp.
pub(crate) fn timestamp(time: NaiveDateTime, template: &str) -> String {
    let fields = Fields {
        year: time.year().into(),
        month: time.month() as usize,
        day: time.day().into(),
        hour: time.hour().into(),
        minute: time.minute().into(),
        second: time.second().into(),
        micros: i64::from(time.nanosecond()) / 1000,
        date: Some(time.date()),
    };
    formatted(&fields, template)
}

/// An interval, of which only the numbers make sense.
pub(crate) fn interval(interval: IntervalMonthDayNano, template: &str) -> String {
    let micros = interval.nanoseconds / 1000;
    let fields = Fields {
        year: i64::from(interval.months / 12),
        month: (interval.months % 12).unsigned_abs() as usize,
        day: interval.days.into(),
        hour: micros / 3_600_000_000,
        minute: micros / 60_000_000 % 60,
        second: micros / 1_000_000 % 60,
        micros: micros % 1_000_000,
        date: None,
    };
    formatted(&fields, template)
}

thread_local! {
    /// The last template, as it was read: that of the next row is the same, as a rule.
    static LAST: RefCell<(String, Vec<Token>)> = const { RefCell::new((String::new(), Vec::new())) };
}

fn formatted(fields: &Fields, template: &str) -> String {
    LAST.with_borrow_mut(|(last, read)| {
        if last != template {
            *read = tokens(template);
            template.clone_into(last);
        }
        written(fields, read)
    })
}

fn written(fields: &Fields, tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Text(literal) => text.push_str(literal),
            Token::Keyword { word, fill, ordinal } => {
                let value = keyword(fields, word, *fill);
                text.push_str(&value);
                if let Some(upper) = ordinal {
                    let suffix = ordinal_of(value.trim());
                    text.push_str(&if *upper { suffix.to_uppercase() } else { suffix.to_owned() });
                }
            }
        }
    }
    text
}

fn ordinal_of(number: &str) -> &'static str {
    let tens = number.len() >= 2 && number.as_bytes()[number.len() - 2] == b'1';
    match number.as_bytes().last() {
        Some(b'1') if !tens => "st",
        Some(b'2') if !tens => "nd",
        Some(b'3') if !tens => "rd",
        _ => "th",
    }
}

fn keyword(fields: &Fields, word: &str, fill: bool) -> String {
    let number = |value: i64, width: usize| match fill {
        true => format!("{value:0width$}"),
        false => value.to_string(),
    };
    let name = |name: &str| {
        let cased = match word {
            word if word.chars().all(char::is_uppercase) => name.to_uppercase(),
            word if word.chars().all(char::is_lowercase) => name.to_lowercase(),
            _ => name.to_owned(),
        };
        if fill { format!("{cased:<9}") } else { cased }
    };
    let short = |name: &str| match word {
        word if word.chars().all(char::is_uppercase) => name[..3].to_uppercase(),
        word if word.chars().all(char::is_lowercase) => name[..3].to_lowercase(),
        _ => name[..3].to_owned(),
    };
    let date = fields.date.unwrap_or_default();
    let weekday = date.weekday().num_days_from_sunday();
    let twelve = if fields.hour % 12 == 0 { 12 } else { fields.hour % 12 };
    match word {
        "YYYY" => number(fields.year, 4),
        "YYY" => number(fields.year % 1000, 3),
        "YY" => number(fields.year % 100, 2),
        "Y" => number(fields.year % 10, 1),
        "Y,YYY" => format!("{},{:03}", fields.year / 1000, fields.year % 1000),
        "IYYY" => number(date.iso_week().year().into(), 4),
        "IYY" => number(i64::from(date.iso_week().year()) % 1000, 3),
        "IY" => number(i64::from(date.iso_week().year()) % 100, 2),
        "I" => number(i64::from(date.iso_week().year()) % 10, 1),
        "MM" => number(fields.month as i64, 2),
        "DD" => number(fields.day, 2),
        "DDD" => number(date.ordinal().into(), 3),
        "D" => number(i64::from(weekday) + 1, 1),
        "ID" => number(if weekday == 0 { 7 } else { weekday.into() }, 1),
        "HH24" => number(fields.hour, 2),
        "HH12" | "HH" => number(twelve, 2),
        "MI" => number(fields.minute, 2),
        "SS" => number(fields.second, 2),
        "MS" => number(fields.micros / 1000, 3),
        "US" => number(fields.micros, 6),
        "SSSS" => number(fields.hour * 3600 + fields.minute * 60 + fields.second, 5),
        "IW" => number(date.iso_week().week().into(), 2),
        "WW" => number((i64::from(date.ordinal()) - 1) / 7 + 1, 2),
        "W" => number((fields.day - 1) / 7 + 1, 1),
        "Q" => number((fields.month as i64 - 1) / 3 + 1, 1),
        "CC" => number((fields.year + 99) / 100, 2),
        "J" => (i64::from(date.num_days_from_ce()) + 1_721_425).to_string(),
        "TZ" => "UTC".into(),
        "tz" => "utc".into(),
        "AM" | "PM" => if fields.hour < 12 { "AM" } else { "PM" }.into(),
        "am" | "pm" => if fields.hour < 12 { "am" } else { "pm" }.into(),
        "A.M." | "P.M." => if fields.hour < 12 { "A.M." } else { "P.M." }.into(),
        "a.m." | "p.m." => if fields.hour < 12 { "a.m." } else { "p.m." }.into(),
        "RM" => {
            const ROMAN: [&str; 12] =
                ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];
            let month = ROMAN.get(fields.month.wrapping_sub(1)).copied().unwrap_or("");
            if fill { format!("{month:<4}") } else { month.into() }
        }
        word => {
            let month = MONTHS.get(fields.month.wrapping_sub(1)).copied().unwrap_or("");
            let day = DAYS[weekday as usize];
            match word.to_lowercase().as_str() {
                "month" => name(month),
                "mon" if !month.is_empty() => short(month),
                "day" => name(day),
                "dy" => short(day),
                _ => String::new(),
            }
        }
    }
}

/// A date and a time of day in microseconds, read by a template.
pub(crate) fn parse(text: &str, template: &str) -> Result<(NaiveDate, i64), Error> {
    let mut rest = text.trim_start();
    let invalid = |word: &str, rest: &str| {
        let value: String = rest.chars().take(word.len()).collect();
        Error::new(SqlState::DATETIME_FORMAT, format!("invalid value \"{value}\" for \"{word}\""))
            .with_detail("Value must be an integer.")
    };
    let (mut year, mut month, mut day, mut ordinal) = (1, 1, 1, None);
    let (mut hour, mut minute, mut second, mut micros) = (0, 0, 0, 0);
    let (mut afternoon, mut twelve) = (None, false);
    for token in tokens(template) {
        let (word, fill) = match token {
            Token::Text(literal) => {
                for expected in literal.chars() {
                    // Any separator may stand for any other.
                    match rest.chars().next() {
                        Some(found) if expected.is_alphanumeric() && found == expected => {
                            rest = &rest[found.len_utf8()..];
                        }
                        Some(found) if !expected.is_alphanumeric() && !found.is_alphanumeric() => {
                            rest = &rest[found.len_utf8()..];
                        }
                        _ => (),
                    }
                }
                continue;
            }
            Token::Keyword { word, fill, .. } => (word, fill),
        };
        rest = rest.trim_start();
        let mut number = |n_digits: usize| -> Result<i64, Error> {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let length = if fill { length.min(n_digits) } else { length };
            let (digits, behind) = rest.split_at(length);
            let value = digits.parse().map_err(|_| invalid(word, rest))?;
            rest = behind;
            Ok(value)
        };
        match word {
            "YYYY" | "IYYY" => year = number(4)?,
            "YY" => {
                let short = number(2)?;
                year = if short < 70 { 2000 + short } else { 1900 + short };
            }
            "MM" => month = number(2)?,
            "DD" => day = number(2)?,
            "DDD" => ordinal = Some(number(3)?),
            "HH24" => hour = number(2)?,
            "HH12" | "HH" => {
                hour = number(2)?;
                twelve = true;
            }
            "MI" => minute = number(2)?,
            "SS" => second = number(2)?,
            "MS" => micros = number(3)? * 1000,
            "US" => micros = number(6)?,
            word => match word.to_lowercase().as_str() {
                "am" | "pm" | "a.m." | "p.m." => {
                    let is_pm = rest.starts_with(['p', 'P']);
                    let length = rest.find(|c: char| !c.is_alphabetic() && c != '.').unwrap_or(rest.len());
                    rest = &rest[length..];
                    afternoon = Some(is_pm);
                }
                "month" | "mon" => {
                    let found = MONTHS.iter().position(|name| {
                        rest.get(..3).is_some_and(|start| name[..3].eq_ignore_ascii_case(start))
                    });
                    let Some(found) = found else { return Err(invalid(word, rest)) };
                    month = found as i64 + 1;
                    let full = MONTHS[found];
                    let is_full =
                        rest.get(..full.len()).is_some_and(|start| start.eq_ignore_ascii_case(full));
                    rest = &rest[if is_full { full.len() } else { 3 }..];
                }
                "day" | "dy" => {
                    let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
                    rest = &rest[length..];
                }
                _ => {
                    return Err(Error::unsupported(format!("the template \"{word}\" for input")));
                }
            },
        }
    }
    if twelve {
        hour = hour % 12 + if afternoon == Some(true) { 12 } else { 0 };
    }
    let out_of_range =
        || Error::new(SqlState("22008"), format!("date/time field value out of range: \"{text}\""));
    let date = match ordinal {
        Some(ordinal) => NaiveDate::from_yo_opt(year as i32, ordinal as u32),
        None => NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return Err(out_of_range());
    }
    Ok((date.ok_or_else(out_of_range)?, ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros))
}

/// A number of `digits` of which `scale` are behind the point.
pub(crate) fn number(digits: i128, scale: i8, template: &str) -> Result<String, Error> {
    let upper = template.to_uppercase();
    let (fill, pattern) = match upper.strip_prefix("FM") {
        Some(pattern) => (false, pattern),
        None => (true, upper.as_str()),
    };
    if pattern.contains("EEEE") || pattern.contains('V') || pattern.contains("TH") {
        return Err(Error::unsupported(format!("the number template \"{template}\"")));
    }
    if pattern == "RN" {
        let roman = roman(digits / 10i128.pow(scale.max(0) as u32));
        return Ok(if fill { format!("{roman:>15}") } else { roman });
    }
    let (whole, fraction) = match pattern.find(['.', 'D']) {
        Some(at) => (&pattern[..at], Some(&pattern[at + 1..])),
        None => (pattern, None),
    };
    let count = |part: &str| part.bytes().filter(|byte| matches!(byte, b'9' | b'0')).count();
    let n_fraction = fraction.map_or(0, count);
    let rounded = crate::functions::rows::rescaled(digits, scale, n_fraction as i8)
        .ok_or_else(|| Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "value overflows numeric format"))?;
    let negative = rounded < 0;
    let all = format!("{:0width$}", rounded.unsigned_abs(), width = n_fraction + 1);
    let (int, frac) = all.split_at(all.len() - n_fraction);
    let int = int.trim_start_matches('0');
    let n_whole = count(whole);
    let overflows = int.len() > n_whole;
    // Digits go into the places from the right; a `0` and all behind it are shown.
    let first_zero = whole.bytes().filter(|byte| matches!(byte, b'9' | b'0')).position(|byte| byte == b'0');
    let mut places = vec![' '; n_whole];
    for (idx, place) in places.iter_mut().enumerate() {
        let from_right = n_whole - idx;
        if overflows {
            *place = '#';
        } else if from_right <= int.len() {
            *place = int.as_bytes()[int.len() - from_right] as char;
        } else if first_zero.is_some_and(|zero| idx >= zero) {
            *place = '0';
        }
    }
    if int.is_empty() && n_fraction == 0 && n_whole > 0 && places[n_whole - 1] == ' ' {
        places[n_whole - 1] = '0';
    }
    let mut text = String::new();
    let mut next = places.into_iter();
    let mut started = false;
    let mut sign_at = None;
    let mut literal_sign = false;
    for byte in whole.chars() {
        match byte {
            '9' | '0' => {
                let place = next.next().expect("a place for each digit");
                if place != ' ' && !started {
                    started = true;
                    sign_at = Some(text.len());
                }
                if place != ' ' || fill {
                    text.push(place);
                }
            }
            ',' | 'G' if started => text.push(','),
            ',' | 'G' if fill => text.push(' '),
            'S' | 'P' | 'R' | 'L' => literal_sign |= byte == 'S',
            ' ' => text.push(' '),
            _ => (),
        }
    }
    let sign_at = sign_at.unwrap_or(text.len());
    if let Some(fraction) = fraction {
        let n_kept = match fill {
            true => n_fraction,
            // Zeros at the end go, except where the template has a 0.
            false => {
                let needed = fraction
                    .bytes()
                    .filter(|byte| matches!(byte, b'9' | b'0'))
                    .collect::<Vec<_>>()
                    .iter()
                    .rposition(|byte| *byte == b'0')
                    .map_or(0, |last| last + 1);
                frac.trim_end_matches('0').len().max(needed)
            }
        };
        text.push('.');
        text.push_str(if overflows {
            "###################################".get(..n_kept).unwrap_or("#")
        } else {
            &frac[..n_kept]
        });
    }
    let behind = fraction.unwrap_or(whole);
    if behind.ends_with('S') {
        text.push(if negative { '-' } else { '+' });
    } else if literal_sign {
        text.insert(sign_at, if negative { '-' } else { '+' });
    } else if pattern.ends_with("MI") {
        match (negative, fill) {
            (true, _) => text.push('-'),
            (false, true) => text.push(' '),
            _ => (),
        }
    } else if pattern.ends_with("PR") {
        if negative {
            text.insert(sign_at, '<');
            text.push('>');
        } else if fill {
            text.insert(0, ' ');
            text.push(' ');
        }
    } else if negative {
        text.insert(sign_at, '-');
    } else if fill {
        text.insert(0, ' ');
    }
    Ok(text)
}

fn roman(number: i128) -> String {
    if !(1..4000).contains(&number) {
        return "#".repeat(15);
    }
    const PARTS: [(i128, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let (mut rest, mut text) = (number, String::new());
    for (value, letters) in PARTS {
        while rest >= value {
            text.push_str(letters);
            rest -= value;
        }
    }
    text
}

/// The digits of a text behind what a template has of signs, commas and currency.
pub(crate) fn to_number(text: &str) -> Result<(i128, i8), Error> {
    let negative = text.contains('-') || text.contains('<');
    let mut digits = String::new();
    let mut scale = None;
    for c in text.chars() {
        match c {
            '0'..='9' => {
                digits.push(c);
                scale = scale.map(|scale: i8| scale + 1);
            }
            '.' => scale = Some(0),
            _ => (),
        }
    }
    let value: i128 = digits.parse().map_err(|_| {
        Error::new(SqlState::INVALID_TEXT, format!("invalid input syntax for type numeric: \"{text}\""))
    })?;
    Ok((if negative { -value } else { value }, scale.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_their_places() {
        let shown = |digits, scale, template| number(digits, scale, template).unwrap();
        assert_eq!(shown(125, 0, "999"), " 125");
        assert_eq!(shown(1485, 0, "9,999"), " 1,485");
        assert_eq!(shown(12, 0, "00000"), " 00012");
        assert_eq!(shown(1_234_567_891, 3, "FM9,999,999.00"), "1,234,567.89");
        assert_eq!(shown(-5, 0, "999"), "  -5");
        assert_eq!(shown(1234, 0, "99"), " ##");
    }
}
