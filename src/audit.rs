//! What was done, by whom and from where: logins, changes, and what was denied.
//!
//! Each record is a line of the log, under the target `tidemill::audit`, which is where it lasts; the newest are also at
//! hand as `tm_audit_log`. Statements are cut to a length, and values of secrets in them are replaced.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_sql::statements::redact;

use crate::config::AuditLevel;
use crate::session::api::SqlError;

/// How many records `tm_audit_log` has.
const N_RECORDS_MAX: usize = 2_000;
/// The longest text of a statement that is kept, in characters.
const STATEMENT_MAX: usize = 2_000;

/// What a record is about; each is of interest at a level and those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A client came, or was turned away.
    Login,
    /// A statement was denied.
    Denied,
    /// Something was defined, or a role or privilege changed, or somebody became somebody else.
    Change,
    /// Rows were changed.
    Write,
    /// Rows were read.
    Read,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Login => "login",
            Action::Denied => "denied",
            Action::Change => "change",
            Action::Write => "write",
            Action::Read => "read",
        }
    }

    fn level(self) -> AuditLevel {
        match self {
            Action::Login | Action::Denied | Action::Change => AuditLevel::Changes,
            Action::Write => AuditLevel::Writes,
            Action::Read => AuditLevel::All,
        }
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Microseconds since 1970.
    pub at: i64,
    /// Who logged in, or wanted to.
    pub user: String,
    /// Whose rights were used.
    pub role: String,
    /// None for what the server does by itself.
    pub address: Option<SocketAddr>,
    pub action: &'static str,
    pub statement: Option<String>,
    /// `00000` for what succeeded.
    pub sqlstate: String,
    pub message: Option<String>,
}

/// Who does something.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub user: &'a str,
    pub role: &'a str,
    pub address: Option<SocketAddr>,
}

/// The newest records.
#[derive(Debug, Default)]
pub struct Audit {
    level: AtomicU8,
    records: Mutex<VecDeque<Record>>,
}

impl Audit {
    pub fn set_level(&self, level: AuditLevel) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Whether such things are recorded.
    pub fn wants(&self, action: Action) -> bool {
        action.level() as u8 <= self.level.load(Ordering::Relaxed)
    }

    /// Records what was done, and what came of it.
    pub fn record(
        &self,
        action: Action,
        who: Who<'_>,
        statement: Option<&str>,
        outcome: Result<(), &SqlError>,
    ) {
        if !self.wants(action) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            at: now.as_micros() as i64,
            user: who.user.to_owned(),
            role: who.role.to_owned(),
            address: who.address,
            action: action.name(),
            statement: statement.map(|sql| shortened(&redact(sql))),
            sqlstate: outcome.err().map_or("00000", |error| error.sqlstate.0).to_owned(),
            message: outcome.err().map(|error| error.message.clone()),
        };
        tracing::info!(
            target: "tidemill::audit",
            user = record.user,
            role = record.role,
            address = record.address.map(tracing::field::display),
            action = record.action,
            statement = record.statement,
            sqlstate = record.sqlstate,
            message = record.message,
        );
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= N_RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The newest records, the oldest of them first.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(STATEMENT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who<'static> = Who { user: "ann", role: "team", address: None };

    #[test]
    fn what_is_recorded_depends_on_the_level() {
        let audit = Audit::default();
        audit.record(Action::Change, WHO, Some("DROP TABLE t"), Ok(()));
        assert_eq!(audit.records(), [], "off until it is told");
        audit.set_level(AuditLevel::Writes);
        for action in [Action::Login, Action::Denied, Action::Change, Action::Write, Action::Read] {
            audit.record(action, WHO, None, Ok(()));
        }
        let actions: Vec<&str> = audit.records().iter().map(|record| record.action).collect();
        assert_eq!(actions, ["login", "denied", "change", "write"]);
    }

    #[test]
    fn secrets_are_replaced_and_long_texts_cut() {
        let audit = Audit::default();
        audit.set_level(AuditLevel::Changes);
        let error = SqlError::new(tidemill_core::SqlState("42501"), "no");
        audit.record(Action::Denied, WHO, Some("ALTER ROLE ann PASSWORD 'hunter2'"), Err(&error));
        audit.record(Action::Change, WHO, Some(&"é".repeat(STATEMENT_MAX + 1)), Ok(()));
        let records = audit.records();
        assert!(!format!("{records:?}").contains("hunter2"));
        assert_eq!((records[0].sqlstate.as_str(), records[0].message.as_deref()), ("42501", Some("no")));
        assert_eq!(records[1].statement.as_ref().unwrap().chars().count(), STATEMENT_MAX + 1);
        for _ in 0..N_RECORDS_MAX + 5 {
            audit.record(Action::Login, WHO, None, Ok(()));
        }
        assert_eq!(audit.records().len(), N_RECORDS_MAX);
    }
}
