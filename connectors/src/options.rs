//! The options of `WITH (…)` and `ENCODE x (…)`: text to values, strictly.
//!
//! [`options!`] declares a connector's options once: the struct, its parser and the table of its
//! manual page come from the same lines, so they cannot disagree. An option that nobody declared
//! is an error that names the closest one; nothing is ignored silently.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tidemill_core::sink::Delivery;
use tidemill_core::source::ConnectorError;
use tidemill_core::{ByteSize, SqlState, did_you_mean};

/// One option, for the manual and `SHOW CONNECTORS`.
#[derive(Debug, Clone, Copy)]
pub struct OptionDoc {
    pub name: &'static str,
    /// What its value is: `text`, `integer`, `duration` …
    pub kind: &'static str,
    pub default: Option<&'static str>,
    pub required: bool,
    /// Sentences of Markdown.
    pub text: &'static str,
}

/// Something that the text of an option's value can be read as.
pub trait OptionValue: Sized {
    const KIND: &'static str;

    /// Whether an option of this type must be given, unless it has a default.
    const REQUIRED: bool = true;

    /// The value, or what was expected instead.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value of an option without default that is not given; `None` where it must be.
    fn missing() -> Option<Self> {
        None
    }
}

/// The options of one object while they are being read.
#[derive(Debug)]
pub struct Options<'a> {
    /// Who is asking, as error messages call it: `connector "file"`.
    owner: String,
    values: &'a BTreeMap<String, String>,
    known: Vec<String>,
    /// Prefixes behind which every name is known: `properties.`
    prefixes: Vec<&'static str>,
}

impl<'a> Options<'a> {
    pub fn new(owner: impl Into<String>, values: &'a BTreeMap<String, String>) -> Options<'a> {
        Options { owner: owner.into(), values, known: Vec::new(), prefixes: Vec::new() }
    }

    /// Says that the option exists, for whoever reads it elsewhere.
    pub fn know(&mut self, name: &str) {
        self.known.push(name.to_string());
    }

    /// The value of `name`; without one the `default`, and without that whatever the type says.
    pub fn take<T: OptionValue>(&mut self, name: &str, default: Option<&str>) -> Result<T, ConnectorError> {
        self.know(name);
        let Some(text) = self.values.get(name).map(String::as_str).or(default) else {
            return T::missing().ok_or_else(|| self.missing(name));
        };
        T::parse(text).map_err(|expected| {
            let message = format!("option \"{name}\" of {} cannot be \"{text}\"", self.owner);
            ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
                .with_hint(format!("Expected {expected}."))
        })
    }

    /// All options that begin with `prefix`, without it.
    pub fn take_prefixed(&mut self, prefix: &'static str) -> BTreeMap<String, String> {
        self.prefixes.push(prefix);
        let behind =
            |(name, value): (&String, &String)| Some((name.strip_prefix(prefix)?.to_string(), value.clone()));
        self.values.iter().filter_map(behind).collect()
    }

    /// The error of a required option that is not given.
    pub fn missing(&self, name: &str) -> ConnectorError {
        let message = format!("{} needs the option \"{name}\"", self.owner);
        let error = ConnectorError::fatal(SqlState::INVALID_PARAMETER, message);
        let given = self.values.keys().map(String::as_str).filter(|given| !self.is_known(given));
        match did_you_mean(name, given) {
            Some(given) => {
                error.with_hint(format!("Perhaps you meant \"{name}\" where you wrote \"{given}\"."))
            }
            None => error.with_hint(format!("Add {name} = '…' to the list of options.")),
        }
    }

    /// Refuses what nobody has taken.
    pub fn finish(self) -> Result<(), ConnectorError> {
        let Some(unknown) = self.values.keys().find(|name| !self.is_known(name)) else {
            return Ok(());
        };
        let message = format!("{} has no option \"{unknown}\"", self.owner);
        let error = ConnectorError::fatal(SqlState::INVALID_PARAMETER, message);
        let mut known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        Err(match did_you_mean(unknown, known.iter().copied()) {
            Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
            None if known.is_empty() => error.with_hint("It has no options."),
            None => {
                known.sort_unstable();
                error.with_hint(format!("Its options are: {}.", known.join(", ")))
            }
        })
    }

    fn is_known(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Declares a struct of options: `"name" => field: Type = "default"`, where the default is
/// written as a user would write it. Without one an option is required, unless its type is an
/// `Option`.
macro_rules! options {
    (
        $(#[$meta:meta])*
        $vis:vis struct $struct:ident {
            $( $(#[doc = $doc:literal])+ $name:literal => $field:ident : $type:ty $(= $default:literal)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $struct {
            $( $(#[doc = $doc])+ pub $field: $type, )*
        }

        impl $struct {
            /// The options for the manual, in the order of their declaration.
            pub const DOCS: &'static [$crate::options::OptionDoc] = &[
                $( $crate::options::OptionDoc {
                    name: $name,
                    kind: <$type as $crate::options::OptionValue>::KIND,
                    default: $crate::options::options!(@default $($default)?),
                    required: $crate::options::options!(@required $type $(, $default)?),
                    text: concat!($($doc),+),
                }, )*
            ];

            /// Takes these options out of `options`; the caller finishes them.
            #[allow(unused_variables)]
            pub fn take(
                options: &mut $crate::options::Options<'_>,
            ) -> Result<Self, tidemill_core::source::ConnectorError> {
                Ok(Self {
                    $( $field: options.take($name, $crate::options::options!(@default $($default)?))?, )*
                })
            }
        }
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
    (@required $type:ty) => { <$type as $crate::options::OptionValue>::REQUIRED };
    (@required $type:ty, $default:literal) => { false };
}
pub(crate) use options;

impl OptionValue for String {
    const KIND: &'static str = "text";

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_string())
    }
}

impl OptionValue for bool {
    const KIND: &'static str = "boolean";

    fn parse(text: &str) -> Result<bool, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "on" | "yes" | "1" => Ok(true),
            "false" | "f" | "off" | "no" | "0" => Ok(false),
            _ => Err("true or false".to_string()),
        }
    }
}

impl OptionValue for u64 {
    const KIND: &'static str = "integer";

    fn parse(text: &str) -> Result<u64, String> {
        // Underscores as in SQL's and Rust's own literals.
        let digits = text.trim().replace('_', "");
        digits.parse().map_err(|_| "a whole number, such as 1000".to_string())
    }
}

impl OptionValue for i64 {
    const KIND: &'static str = "integer";

    fn parse(text: &str) -> Result<i64, String> {
        let digits = text.trim().replace('_', "");
        digits.parse().map_err(|_| "a whole number, such as 1000".to_string())
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    const KIND: &'static str = T::KIND;
    const REQUIRED: bool = false;

    fn parse(text: &str) -> Result<Option<T>, String> {
        T::parse(text).map(Some)
    }

    fn missing() -> Option<Option<T>> {
        Some(None)
    }
}

impl OptionValue for Duration {
    const KIND: &'static str = "duration";

    fn parse(text: &str) -> Result<Duration, String> {
        parse_duration(text).ok_or_else(|| "a duration, such as 10ms, 5s or 1 minute".to_string())
    }
}

impl OptionValue for ByteSize {
    const KIND: &'static str = "size";

    fn parse(text: &str) -> Result<ByteSize, String> {
        text.parse().map_err(|_| "a size, such as 64MB or 1GB".to_string())
    }
}

impl OptionValue for Delivery {
    const KIND: &'static str = "`exactly_once` `at_least_once`";

    fn parse(text: &str) -> Result<Delivery, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "exactly_once" => Ok(Delivery::ExactlyOnce),
            "at_least_once" => Ok(Delivery::AtLeastOnce),
            _ => Err("one of exactly_once, at_least_once".to_string()),
        }
    }
}

/// Takes an option that is not the connector's out of its options.
pub fn take_duration(
    options: &mut BTreeMap<String, String>,
    name: &str,
) -> Result<Option<Duration>, ConnectorError> {
    let Some(text) = options.remove(name) else { return Ok(None) };
    match <Duration as OptionValue>::parse(&text) {
        Ok(duration) => Ok(Some(duration)),
        Err(expected) => Err(ConnectorError::fatal(
            SqlState::INVALID_PARAMETER,
            format!("option \"{name}\" is \"{text}\", but must be {expected}"),
        )),
    }
}

/// A single ASCII character, such as a CSV delimiter; `\t` may be written for the tabulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsciiChar(pub u8);

impl OptionValue for AsciiChar {
    const KIND: &'static str = "character";

    fn parse(text: &str) -> Result<AsciiChar, String> {
        match text {
            "\\t" | "tab" => Ok(AsciiChar(b'\t')),
            _ if text.len() == 1 && text.is_ascii() => Ok(AsciiChar(text.as_bytes()[0])),
            _ => Err("one ASCII character".to_string()),
        }
    }
}

impl fmt::Display for AsciiChar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.0))
    }
}

/// `10ms`, `5 seconds`, `1.5 s`, `2min`, `1 hour`.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let number: f64 = number.parse().ok()?;
    let unit_seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "us" | "µs" | "microsecond" | "microseconds" => 1e-6,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit_seconds).ok()
}

/// Declares an enum whose values have names: `On = "on"`; the error of another name lists them.
macro_rules! option_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $enum { $( $(#[$variant_meta])* $variant ),+ }

        impl $crate::options::OptionValue for $enum {
            const KIND: &'static str = concat!($("`", $text, "` "),+);

            fn parse(text: &str) -> Result<$enum, String> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $( $text => Ok($enum::$variant), )+
                    _ => Err(format!("one of {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}
pub(crate) use option_enum;

#[cfg(test)]
mod tests {
    use super::*;

    options! {
        /// For these tests.
        struct Sample {
            /// Where.
            "path" => path: String,
            /// How often.
            "discovery_interval" => interval: Duration = "1s",
            /// How many.
            "count" => count: Option<u64>,
        }
    }

    fn read(values: &[(&str, &str)]) -> Result<Sample, ConnectorError> {
        let values = values.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut options = Options::new("connector \"sample\"", &values);
        let sample = Sample::take(&mut options)?;
        options.finish()?;
        Ok(sample)
    }

    #[test]
    fn values_and_defaults() {
        let sample = read(&[("path", "x"), ("count", "1_000")]).unwrap();
        assert_eq!(
            (sample.path.as_str(), sample.interval, sample.count),
            ("x", Duration::from_secs(1), Some(1000))
        );
        assert_eq!(Sample::DOCS[1].default, Some("1s"));
        assert_eq!(Sample::DOCS.iter().map(|doc| doc.required).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn unknown_option_names_the_nearest() {
        let error = read(&[("path", "x"), ("discovery_intervall", "1s")]).unwrap_err();
        assert_eq!(error.to_string(), "connector \"sample\" has no option \"discovery_intervall\"");
        assert_eq!(error.hint.as_deref(), Some("Perhaps you meant \"discovery_interval\"."));
        let error = read(&[("path", "x"), ("zzz", "")]).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("Its options are: count, discovery_interval, path."));
    }

    #[test]
    fn missing_option_is_named() {
        let error = read(&[("pth", "x")]).unwrap_err();
        assert_eq!(error.to_string(), "connector \"sample\" needs the option \"path\"");
        assert!(error.hint.unwrap().contains("\"pth\""));
    }

    #[test]
    fn bad_value_says_what_was_expected() {
        let error = read(&[("path", "x"), ("count", "many")]).unwrap_err();
        assert_eq!(error.to_string(), "option \"count\" of connector \"sample\" cannot be \"many\"");
        assert_eq!(error.hint.as_deref(), Some("Expected a whole number, such as 1000."));
    }

    #[test]
    fn durations() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("10ms"), Some(10));
        assert_eq!(ms("5 seconds"), Some(5000));
        assert_eq!(ms("1.5s"), Some(1500));
        assert_eq!(ms(" 2 MIN "), Some(120_000));
        for bad in ["", "5", "s", "-1s", "5 parsecs", "1e400s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}
