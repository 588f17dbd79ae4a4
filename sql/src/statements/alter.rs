//! `ALTER kind name …`: another name, another owner, other options, standing still and going on; of a table, other columns;
//! of a sequence, another number to go on with.

use tidemill_core::SqlState;

use super::alter_table::{self, TableAction};
use super::create::Head;
use super::create_pipeline::{self, CreatePipeline};
use super::options::{self, WithOptions, parse_key};
use super::role::{Password, RoleName, role_name};
use super::{ObjectKind, Statement, grant, object_kind, policy, role, secret, sequence};
use crate::error::Error;
use crate::parser::cursor::{Cursor, Name, ObjectName};

/// A change to an object that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Alter {
    pub kind: ObjectKind,
    /// A pipeline under the name that PostgreSQL has for it.
    pub is_materialized_view: bool,
    pub name: ObjectName,
    pub if_exists: bool,
    pub action: AlterAction,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq)]
pub enum AlterAction {
    RenameTo(Name),
    OwnerTo {
        role: RoleName,
        position: usize,
    },
    /// It stands still until it is told to go on.
    Pause,
    Resume,
    /// It begins again from its checkpoint.
    Restart,
    /// `SET (key = value, …)`
    Set(WithOptions),
    /// `RESET (key, …)`
    Reset(Vec<Name>),
    /// Of a pipeline: another query, under those who read it.
    Redefine(Box<CreatePipeline>),
    /// Of a table.
    Table(Vec<TableAction>),
    /// `ENABLE | DISABLE | FORCE | NO FORCE ROW LEVEL SECURITY`
    RowSecurity {
        is_enabled: Option<bool>,
        is_forced: Option<bool>,
    },
    /// Of a secret: another value.
    Value(Password),
    /// Of a sequence: where it goes on; at its start without a number.
    CountFrom(Option<i64>),
}

impl Alter {
    /// `ALTER PIPELINE`, as the command's tag has it.
    pub fn tag(&self) -> String {
        match self.is_materialized_view {
            true => "ALTER MATERIALIZED VIEW".into(),
            false => format!("ALTER {}", self.kind.keyword()),
        }
    }
}

impl AlterAction {
    fn word(&self) -> &'static str {
        match self {
            AlterAction::RenameTo(_) => "RENAME",
            AlterAction::OwnerTo { .. } => "OWNER",
            AlterAction::Pause => "PAUSE",
            AlterAction::Resume => "RESUME",
            AlterAction::Restart => "RESTART",
            AlterAction::Set(_) => "SET",
            AlterAction::Reset(_) => "RESET",
            AlterAction::Redefine(_) | AlterAction::Value(_) => "AS",
            AlterAction::Table(_) => "COLUMN",
            AlterAction::RowSecurity { .. } => "ROW LEVEL SECURITY",
            AlterAction::CountFrom(_) => "RESTART",
        }
    }

    /// Whether only what runs can be told so.
    fn is_of_what_runs(&self) -> bool {
        match self {
            AlterAction::Pause
            | AlterAction::Resume
            | AlterAction::Restart
            | AlterAction::Set(_)
            | AlterAction::Reset(_) => true,
            AlterAction::RenameTo(_)
            | AlterAction::OwnerTo { .. }
            | AlterAction::Redefine(_)
            | AlterAction::Value(_)
            | AlterAction::RowSecurity { .. }
            | AlterAction::Table(_)
            | AlterAction::CountFrom(_) => false,
        }
    }
}

const ACTIONS: [&str; 7] = ["RENAME TO", "OWNER TO", "PAUSE", "RESUME", "RESTART", "SET", "RESET"];
const HINT: &str = "To change a definition, use CREATE OR REPLACE.";

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    cursor.expect("ALTER")?;
    if role::is_next(cursor) {
        return role::parse_alter(cursor).map(Statement::AlterRole);
    }
    if cursor.is("DEFAULT") {
        return grant::parse_defaults(cursor).map(Statement::AlterDefaultPrivileges);
    }
    if cursor.is("POLICY") {
        return policy::parse_alter(cursor).map(Statement::AlterPolicy);
    }
    parse_object(cursor).map(Statement::Alter)
}

fn parse_object(cursor: &mut Cursor<'_>) -> Result<Alter, Error> {
    if cursor.is("SYSTEM") {
        return Err(Error::unsupported("ALTER SYSTEM").at(cursor.position()));
    }
    let is_materialized_view = cursor.is("MATERIALIZED");
    let kind = object_kind(cursor, "ALTER")?;
    let if_exists = cursor.eat_all(&["IF", "EXISTS"]);
    if kind == ObjectKind::Table {
        cursor.eat("ONLY");
    }
    let name = cursor.object_name()?;
    let position = cursor.position();
    if let Some(action) = parse_row_security(cursor) {
        return Ok(Alter { kind, is_materialized_view, name, if_exists, action });
    }
    let action = match kind {
        ObjectKind::Table if alter_table::is_next(cursor) => alter_table::parse(cursor)?,
        ObjectKind::Sequence if cursor.eat("RESTART") => {
            let is_said = cursor.eat("WITH") || !cursor.at_end();
            AlterAction::CountFrom(is_said.then(|| sequence::signed(cursor)).transpose()?)
        }
        ObjectKind::Secret if !cursor.is("RENAME") && !cursor.is("OWNER") => {
            AlterAction::Value(secret::parse_value(cursor)?)
        }
        ObjectKind::Pipeline if create_pipeline::is_definition_next(cursor) => {
            let head = Head { name: name.clone(), or_replace: true, if_not_exists: false };
            let create = create_pipeline::parse_definition(cursor, head, Vec::new())?;
            AlterAction::Redefine(Box::new(create))
        }
        _ => parse_action(cursor, kind)?,
    };
    let runs = matches!(kind, ObjectKind::Source | ObjectKind::Pipeline | ObjectKind::Sink);
    if !runs && action.is_of_what_runs() {
        let message = format!("ALTER {} … {} makes no sense", kind.keyword(), action.word());
        return Err(Error::new(SqlState::WRONG_OBJECT_TYPE, message)
            .with_hint("Only a SOURCE, a PIPELINE and a SINK run, and have options.")
            .at(position));
    }
    Ok(Alter { kind, is_materialized_view, name, if_exists, action })
}

/// What is said about row security, if it is that.
fn parse_row_security(cursor: &mut Cursor<'_>) -> Option<AlterAction> {
    const WAYS: [(&[&str], Option<bool>, Option<bool>); 4] = [
        (&["ENABLE"], Some(true), None),
        (&["DISABLE"], Some(false), None),
        (&["FORCE"], None, Some(true)),
        (&["NO", "FORCE"], None, Some(false)),
    ];
    WAYS.into_iter().find_map(|(words, is_enabled, is_forced)| {
        let words: Vec<&str> = words.iter().copied().chain(["ROW", "LEVEL", "SECURITY"]).collect();
        cursor.eat_all(&words).then_some(AlterAction::RowSecurity { is_enabled, is_forced })
    })
}

fn parse_action(cursor: &mut Cursor<'_>, kind: ObjectKind) -> Result<AlterAction, Error> {
    let position = cursor.position();
    if cursor.eat_all(&["OWNER", "TO"]) {
        let position = cursor.position();
        return Ok(AlterAction::OwnerTo { role: role_name(cursor, false)?, position });
    }
    match cursor.eat_one_of(&["PAUSE", "RESUME", "RESTART", "SET", "RESET", "RENAME"]) {
        Some("PAUSE") => Ok(AlterAction::Pause),
        Some("RESUME") => Ok(AlterAction::Resume),
        Some("RESTART") => Ok(AlterAction::Restart),
        Some("SET") => {
            let position = cursor.position();
            let options = options::parse(cursor)?;
            match options.is_empty() {
                true => Err(Error::new(SqlState::SYNTAX_ERROR, "SET needs an option").at(position)),
                false => Ok(AlterAction::Set(options)),
            }
        }
        Some("RESET") => Ok(AlterAction::Reset(cursor.parenthesized(|cursor| {
            let position = cursor.position();
            Ok(Name { value: parse_key(cursor)?, position })
        })?)),
        Some(_) => {
            if !cursor.is("TO") && !cursor.at_end() {
                let feature = format!("ALTER {} … RENAME COLUMN", kind.keyword());
                return Err(Error::unsupported(feature).with_hint(HINT).at(position));
            }
            cursor.expect("TO")?;
            Ok(AlterAction::RenameTo(cursor.name()?))
        }
        None => Err(match cursor.word() {
            Some(word) => match tidemill_core::did_you_mean(&word, ACTIONS) {
                Some(_) => cursor.unexpected_word("what to alter", &ACTIONS),
                None => Error::unsupported(format!("ALTER {} … {word}", kind.keyword()))
                    .with_hint(format!("What there is: {}. {HINT}", ACTIONS.join(", ")))
                    .at(position),
            },
            None => cursor.unexpected("RENAME TO, OWNER TO, PAUSE, RESUME, RESTART, SET or RESET"),
        }),
    }
}
