//! `SET` and `SHOW`: a session's settings.
//!
//! Settings that something here depends on are checked; the others of PostgreSQL are stored, since
//! clients set them and expect to read them back; names that neither has are an error.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_core::{SqlState, did_you_mean};

use super::api::SqlError;

/// Name, value at the start, and whether clients are told of changes.
const KNOWN: &[(&str, &str, bool)] = &[
    ("application_name", "", true),
    ("bytea_output", "hex", false),
    ("client_encoding", "UTF8", true),
    ("client_min_messages", "notice", false),
    ("cross_joins", "warn", false),
    ("datestyle", "ISO, MDY", true),
    ("default_transaction_isolation", "read committed", false),
    ("default_transaction_read_only", "off", false),
    ("extra_float_digits", "1", false),
    ("freshness", "session", false),
    ("idle_in_transaction_session_timeout", "0", false),
    ("integer_datetimes", "on", true),
    ("intervalstyle", "postgres", true),
    ("is_superuser", "on", true),
    ("jit", "off", false),
    ("lock_timeout", "0", false),
    ("max_index_keys", "32", false),
    ("max_identifier_length", "63", false),
    ("role", "none", false),
    ("row_security", "on", false),
    ("search_path", "\"$user\", public", false),
    ("server_encoding", "UTF8", true),
    ("server_version", "16.6", true),
    ("server_version_num", "160006", false),
    ("session_authorization", "", true),
    ("standard_conforming_strings", "on", true),
    ("statement_timeout", "0", false),
    ("synchronize_seqscans", "on", false),
    ("timezone", "UTC", true),
    ("transaction_isolation", "read committed", false),
    ("transaction_read_only", "off", false),
    ("unbounded_state", "warn", false),
    ("verify_memory", "1GB", false),
];

/// Settings that cannot be set.
const FIXED: &[&str] = &[
    "integer_datetimes",
    "is_superuser",
    "max_index_keys",
    "max_identifier_length",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// Settings that say who the session is, which are set by statements of their own.
pub const IDENTITY: [&str; 2] = ["role", "session_authorization"];

/// A session's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// What RESET goes back to.
    start: BTreeMap<String, String>,
    /// What SET LOCAL has covered, until the transaction ends.
    covered: BTreeMap<String, String>,
    reported: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Settings {
        let values: BTreeMap<String, String> =
            KNOWN.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings { start: values.clone(), values, covered: BTreeMap::new(), reported: Vec::new() }
    }
}

impl Settings {
    /// Who has logged in.
    pub fn log_in(&mut self, user: &str, is_superuser: bool) {
        self.set_identity("session_authorization", user, is_superuser, false);
        self.start = self.values.clone();
    }

    /// Sets who the session is, which was found to be allowed.
    pub fn set_identity(&mut self, name: &str, value: &str, is_superuser: bool, is_local: bool) {
        assert!(IDENTITY.contains(&name), "{name} is no identity");
        self.put(name, value.to_owned(), is_local);
        self.put("is_superuser", if is_superuser { "on" } else { "off" }.to_owned(), is_local);
    }

    /// The role whose rights the session has taken.
    pub fn role(&self) -> Option<&str> {
        self.values.get("role").map(String::as_str).filter(|role| *role != "none")
    }

    fn put(&mut self, name: &str, value: String, is_local: bool) {
        let before = self.values.insert(name.to_owned(), value.clone()).unwrap_or_default();
        let is_changed = before != value;
        if is_local {
            self.covered.entry(name.to_owned()).or_insert(before);
        }
        if is_changed {
            self.report(name, value);
        }
    }

    /// A setting of the startup message. Unknown ones are kept: clients send what they like.
    pub fn set_at_startup(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let name = name.to_lowercase();
        if FIXED.contains(&name.as_str()) || IDENTITY.contains(&name.as_str()) {
            return Ok(());
        }
        check(&name, value)?;
        let value = canonical(&name, value.to_owned());
        self.values.insert(name.clone(), value.clone());
        self.start.insert(name, value);
        Ok(())
    }

    pub fn set(&mut self, name: &str, value: Option<String>, is_local: bool) -> Result<(), SqlError> {
        let name = name.to_lowercase();
        if FIXED.contains(&name.as_str()) || IDENTITY.contains(&name.as_str()) {
            return Err(SqlError::new(SqlState("55P02"), format!("parameter \"{name}\" cannot be changed")));
        }
        // A name with a dot is the client's own, as in PostgreSQL.
        if !self.values.contains_key(&name) && !name.contains('.') {
            return Err(unknown(&name));
        }
        let value = match value {
            Some(value) => value,
            None => self.start.get(&name).cloned().unwrap_or_default(),
        };
        check(&name, &value)?;
        let value = canonical(&name, value);
        let before = self.values.insert(name.clone(), value.clone());
        if is_local {
            self.covered.entry(name.clone()).or_insert(before.unwrap_or_default());
        }
        self.report(&name, value);
        Ok(())
    }

    fn report(&mut self, name: &str, value: String) {
        if KNOWN.iter().any(|(known, _, is_reported)| known == &name && *is_reported) {
            self.reported.push((display_name(name).to_owned(), value));
        }
    }

    pub fn get(&self, name: &str) -> Result<&str, SqlError> {
        let name = name.to_lowercase();
        self.values.get(&name).map(String::as_str).ok_or_else(|| unknown(&name))
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (display_name(name), value.as_str()))
    }

    /// All settings as they were at the start, but for what a transaction is.
    pub fn reset_all(&mut self) {
        for (name, value) in self.start.clone() {
            // As in PostgreSQL, that does not change who the session is, nor what its transaction is.
            let is_kept = IDENTITY.contains(&name.as_str()) || name == "is_superuser";
            if is_kept || name.starts_with("transaction_") {
                continue;
            }
            self.covered.remove(&name);
            if self.values.get(&name) != Some(&value) {
                self.report(&name, value.clone());
                self.values.insert(name, value);
            }
        }
        let is_identity = |name: &String| IDENTITY.contains(&name.as_str());
        self.values.retain(|name, _| self.start.contains_key(name) || is_identity(name));
    }

    /// Takes back what was set since `before`.
    pub fn roll_back(&mut self, before: Settings) {
        for (name, value) in &before.values {
            if self.values.get(name) != Some(value) {
                self.report(name, value.clone());
            }
        }
        self.values = before.values;
        self.covered.clear();
    }

    /// Whether a setting that is on or off is on.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.values.get(name).map(String::as_str), Some("on" | "true" | "yes" | "1"))
    }

    /// Ends what SET LOCAL began.
    pub fn end_transaction(&mut self) {
        for (name, value) in std::mem::take(&mut self.covered) {
            self.report(&name, value.clone());
            self.values.insert(name, value);
        }
    }

    pub fn take_reported(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.reported)
    }

    /// A timeout; zero is none.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        let duration = parse_duration(self.values.get(name)?)?;
        (!duration.is_zero()).then_some(duration)
    }

    /// A number of bytes.
    pub fn bytes(&self, name: &str) -> Option<usize> {
        parse_bytes(self.values.get(name)?)
    }

    /// The schemas in which names are looked up.
    pub fn search_path(&self) -> Vec<String> {
        let path = self.values.get("search_path").map(String::as_str).unwrap_or_default();
        path.split(',')
            .map(|schema| schema.trim().trim_matches('"').to_owned())
            .filter(|schema| !schema.is_empty() && schema != "$user")
            .collect()
    }
}

/// As clients are shown a setting's name.
pub fn display_name(name: &str) -> &str {
    match name.to_lowercase().as_str() {
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        "timezone" => "TimeZone",
        _ => name,
    }
}

fn check(name: &str, value: &str) -> Result<(), SqlError> {
    let invalid = |hint: &str| {
        let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
        Err(SqlError::new(SqlState::INVALID_PARAMETER, message).with_hint(hint))
    };
    match name {
        "client_encoding" if !["utf8", "unicode", "sqlascii"].contains(&encoding(value).as_str()) => {
            invalid("All text is UTF8.")
        }
        "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout"
            if parse_duration(value).is_none() =>
        {
            invalid("Write milliseconds or a duration: 500, '30s', '5min'.")
        }
        "cross_joins" if !["allow", "warn", "reject"].contains(&value.to_lowercase().as_str()) => {
            invalid("Available values: allow, warn, reject.")
        }
        "freshness" if !["session", "strict", "latest"].contains(&value.to_lowercase().as_str()) => {
            invalid("Available values: session, strict, latest.")
        }
        "unbounded_state" if !["allow", "warn", "reject"].contains(&value.to_lowercase().as_str()) => {
            invalid("Available values: allow, warn, reject.")
        }
        "transaction_isolation" | "default_transaction_isolation"
            if !["read uncommitted", "read committed", "repeatable read", "serializable"]
                .contains(&value.to_lowercase().as_str()) =>
        {
            invalid("Available values: serializable, repeatable read, read committed, read uncommitted.")
        }
        "transaction_read_only" | "default_transaction_read_only"
            if !["on", "off", "true", "false", "yes", "no", "1", "0"]
                .contains(&value.to_lowercase().as_str()) =>
        {
            invalid("Available values: on, off.")
        }
        "verify_memory" if parse_bytes(value).is_none_or(|bytes| bytes == 0) => {
            invalid("Write a number with a unit: '64MB', '2GB'.")
        }
        _ => Ok(()),
    }
}

/// An encoding's name without what PostgreSQL does not look at in it: some clients put it in quotes.
fn encoding(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// A value as it is kept and shown.
fn canonical(name: &str, value: String) -> String {
    match name {
        "transaction_isolation" | "default_transaction_isolation" => value.to_lowercase(),
        "client_encoding" => "UTF8".to_owned(),
        "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout" => {
            let Some(duration) = parse_duration(&value) else { return value };
            let millis = duration.as_micros().div_ceil(1000);
            let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];
            match units.iter().find(|(_, unit)| millis % unit == 0) {
                Some((name, unit)) if millis > 0 => format!("{}{name}", millis / unit),
                _ => "0".to_owned(),
            }
        }
        _ => value,
    }
}

/// As PostgreSQL writes amounts of memory: kilobytes, or a number with a unit.
fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "B" => 1,
        "" | "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Milliseconds, or a number with a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let micros = match text[digits..].trim() {
        "" | "ms" => 1000,
        "us" => 1,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.checked_mul(micros)?))
}

fn unknown(name: &str) -> SqlError {
    let error =
        SqlError::new(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""));
    match did_you_mean(name, KNOWN.iter().map(|(known, _, _)| *known)) {
        Some(near) => error.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_local_ones_end() {
        let mut settings = Settings::default();
        settings.set("statement_timeout", Some("2s".into()), false).unwrap();
        assert_eq!(settings.duration("statement_timeout"), Some(Duration::from_secs(2)));
        settings.set("Statement_Timeout", Some("90000".into()), false).unwrap();
        assert_eq!(settings.get("statement_timeout").unwrap(), "90s");
        settings.set("statement_timeout", Some("2000ms".into()), false).unwrap();
        settings.set_at_startup("client_encoding", "'utf-8'").unwrap();
        assert_eq!(settings.get("client_encoding").unwrap(), "UTF8");
        settings.set("Statement_Timeout", Some("0".into()), true).unwrap();
        assert_eq!(settings.duration("statement_timeout"), None);
        settings.end_transaction();
        assert_eq!(settings.get("statement_timeout").unwrap(), "2s");
        assert_eq!(settings.set("statement_timeot", None, false).unwrap_err().sqlstate.0, "42704");
        assert_eq!(
            settings.set("client_encoding", Some("latin1".into()), false).unwrap_err().sqlstate.0,
            "22023"
        );
        assert_eq!(settings.set("server_version", Some("9".into()), false).unwrap_err().sqlstate.0, "55P02");
        settings.set("verify_memory", Some("64MB".into()), false).unwrap();
        assert_eq!(settings.bytes("verify_memory"), Some(64 << 20));
        assert_eq!(
            settings.set("verify_memory", Some("much".into()), false).unwrap_err().sqlstate.0,
            "22023"
        );
        settings.set("transaction_read_only", Some("on".into()), true).unwrap();
        settings.set("freshness", Some("strict".into()), true).unwrap();
        settings.set("a.b", Some("1".into()), false).unwrap();
        settings.reset_all();
        settings.end_transaction();
        assert_eq!(settings.get("freshness").unwrap(), "session");
        assert_eq!(settings.get("transaction_read_only").unwrap(), "off");
        assert!(settings.get("a.b").is_err());
        settings.set("search_path", Some("a, \"B\"".into()), false).unwrap();
        assert_eq!(settings.search_path(), ["a", "B"]);
    }
}
