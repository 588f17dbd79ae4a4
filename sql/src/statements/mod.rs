//! One file per kind of statement: its struct, its parse function, its text for `SHOW CREATE`.
//!
//! Positions inside count characters from 1 in the statement's own text.

pub mod alter;
pub mod alter_table;
pub mod column;
pub mod comment;
pub mod copy;
pub mod create;
pub mod create_index;
pub mod create_pipeline;
pub mod create_schema;
pub mod create_sink;
pub mod create_source;
pub mod create_table;
pub mod create_view;
pub mod cursor;
pub mod dml;
pub mod drop;
pub mod explain;
pub mod grant;
pub mod maintenance;
pub mod notify;
pub mod options;
pub mod policy;
pub mod prepare;
pub mod query;
pub mod role;
pub mod secret;
pub mod sequence;
pub mod set;
pub mod show;
pub mod subscribe;
pub mod transaction;
pub mod verify;

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::Token;

pub use self::alter::{Alter, AlterAction};
pub use self::alter_table::TableAction;
pub use self::column::{ColumnDef, ParsedExpr};
pub use self::comment::{Comment, CommentTarget};
pub use self::copy::{Copied, CopyDirection, CopyFormat, CopyOptions, CopyRows, ForceQuote};
pub use self::create_index::{CreateIndex, IndexKey, index_column};
pub use self::create_pipeline::CreatePipeline;
pub use self::create_schema::CreateSchema;
pub use self::create_sink::{CreateSink, SinkInput};
pub use self::create_source::{CreateSource, Include, IncludeKind, Watermark};
pub use self::create_table::CreateTable;
pub use self::create_view::CreateView;
pub use self::cursor::{Close, Declare, DeclaredOf, Fetch, FetchCount};
pub use self::dml::{Delete, Insert, Truncate, Update};
pub use self::drop::DropObjects;
pub use self::explain::{Explain, ExplainFormat, ExplainOf, ExplainOption};
pub use self::grant::{
    AlterDefaultPrivileges, Created, GrantOn, GrantPrivileges, GrantRoles, unknown_privilege,
};
pub use self::maintenance::{Analyze, CancelJob, Flush, Lock, Refresh, Vacuum};
pub use self::notify::{Listen, Notify, Unlisten};
pub use self::options::{WithOption, WithOptions, is_secret, redact};
pub use self::policy::{AlterPolicy, CreatePolicy, DropPolicy, PolicyExpr};
pub use self::prepare::{Deallocate, Execute, Prepare};
pub use self::query::SelectQuery;
pub use self::role::{
    AlterRole, AlterRoleAction, CreateRole, DropOwned, DropRole, Password, ReassignOwned, RoleName,
    RoleOptions,
};
pub use self::secret::CreateSecret;
pub use self::sequence::{ColumnSequence, CreateSequence, IdentityKind, SequenceOptions};
pub use self::set::{
    Discard, Reset, Set, SetRole, SetScope, SetSessionAuthorization, SetValue, ShowVariable,
};
pub use self::show::{Describe, Like, Show, list_meant};
pub use self::subscribe::{Subscribe, SubscribeTo};
pub use self::transaction::{
    Begin, Commit, IsolationLevel, Release, Rollback, RollbackTo, Savepoint, TransactionModes,
};
pub use self::verify::Verify;
use crate::error::Error;
use crate::parser::cursor::Cursor;

/// Everything that a session can be asked.
#[derive(Debug, Clone, PartialEq)]
// One is made per statement and soon taken apart: boxing each variant would buy nothing.
#[allow(clippy::large_enum_variant)]
pub enum Statement {
    CreateSource(CreateSource),
    CreateTable(CreateTable),
    CreatePipeline(CreatePipeline),
    CreateView(CreateView),
    CreateSink(CreateSink),
    CreateSchema(CreateSchema),
    CreateSequence(CreateSequence),
    CreateIndex(CreateIndex),
    CreateSecret(CreateSecret),
    CreatePolicy(CreatePolicy),
    AlterPolicy(AlterPolicy),
    DropPolicy(DropPolicy),
    Alter(Alter),
    Drop(DropObjects),
    Show(Show),
    ShowVariable(ShowVariable),
    Describe(Describe),
    Comment(Comment),
    CreateRole(CreateRole),
    AlterRole(AlterRole),
    DropRole(DropRole),
    GrantRoles(GrantRoles),
    GrantPrivileges(GrantPrivileges),
    AlterDefaultPrivileges(AlterDefaultPrivileges),
    ReassignOwned(ReassignOwned),
    DropOwned(DropOwned),
    Explain(Explain),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Truncate(Truncate),
    Copy(CopyRows),
    Query(SelectQuery),
    Subscribe(Subscribe),
    Declare(Declare),
    Fetch(Fetch),
    Move(Fetch),
    Close(Close),
    Set(Set),
    Reset(Reset),
    SetRole(SetRole),
    SetSessionAuthorization(SetSessionAuthorization),
    Discard(Discard),
    Begin(Begin),
    SetTransaction(TransactionModes),
    Commit(Commit),
    Rollback(Rollback),
    Savepoint(Savepoint),
    Release(Release),
    RollbackTo(RollbackTo),
    Prepare(Prepare),
    Execute(Execute),
    Deallocate(Deallocate),
    Flush(Flush),
    CancelJob(CancelJob),
    Refresh(Refresh),
    Verify(Verify),
    Listen(Listen),
    Unlisten(Unlisten),
    Notify(Notify),
    Lock(Lock),
    Analyze(Analyze),
    Vacuum(Vacuum),
    /// Blanks and comments only.
    Empty,
}

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    Source,
    Table,
    Pipeline,
    View,
    Sink,
    Schema,
    Sequence,
    Index,
    Secret,
}

impl ObjectKind {
    /// In lower case, as messages have it.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Source => "source",
            ObjectKind::Table => "table",
            ObjectKind::Pipeline => "pipeline",
            ObjectKind::View => "view",
            ObjectKind::Sink => "sink",
            ObjectKind::Schema => "schema",
            ObjectKind::Sequence => "sequence",
            ObjectKind::Index => "index",
            ObjectKind::Secret => "secret",
        }
    }

    /// In upper case, as statements have it.
    pub fn keyword(self) -> &'static str {
        match self {
            ObjectKind::Source => "SOURCE",
            ObjectKind::Table => "TABLE",
            ObjectKind::Pipeline => "PIPELINE",
            ObjectKind::View => "VIEW",
            ObjectKind::Sink => "SINK",
            ObjectKind::Schema => "SCHEMA",
            ObjectKind::Sequence => "SEQUENCE",
            ObjectKind::Index => "INDEX",
            ObjectKind::Secret => "SECRET",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const KINDS: [&str; 10] = [
    "SOURCE",
    "TABLE",
    "PIPELINE",
    "MATERIALIZED VIEW",
    "VIEW",
    "SINK",
    "SCHEMA",
    "SEQUENCE",
    "INDEX",
    "SECRET",
];

/// `SOURCE`, `MATERIALIZED VIEW`, …; `verb` names the statement in errors.
fn object_kind(cursor: &mut Cursor<'_>, verb: &str) -> Result<ObjectKind, Error> {
    let kind = match cursor.word().as_deref() {
        Some("SOURCE") => ObjectKind::Source,
        Some("TABLE") => ObjectKind::Table,
        Some("PIPELINE") => ObjectKind::Pipeline,
        Some("MATERIALIZED") => {
            cursor.advance();
            ObjectKind::Pipeline
        }
        Some("VIEW") => ObjectKind::View,
        Some("SINK") => ObjectKind::Sink,
        Some("SCHEMA") => ObjectKind::Schema,
        Some("SEQUENCE") => ObjectKind::Sequence,
        Some("INDEX") => ObjectKind::Index,
        Some("SECRET") => ObjectKind::Secret,
        Some(word) if NOT_OURS.contains(&word) => {
            let feature = format!("{verb} {word}");
            return Err(Error::unsupported(feature)
                .at(cursor.position())
                .with_hint(format!("{verb} takes {}.", KINDS.join(", "))));
        }
        _ => return Err(cursor.unexpected_word("a kind of object", &KINDS)),
    };
    if !cursor.eat(kind.keyword()) {
        // Behind MATERIALIZED.
        cursor.expect("VIEW")?;
    }
    Ok(kind)
}

/// What other databases have, and a user may ask for by its right name.
const NOT_OURS: [&str; 22] = [
    "AGGREGATE",
    "CAST",
    "CLUSTER",
    "COLLATION",
    "CONNECTION",
    "DATABASE",
    "DOMAIN",
    "EXTENSION",
    "EXTERNAL",
    "FOREIGN",
    "FUNCTION",
    "LANGUAGE",
    "OPERATOR",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "RULE",
    "STREAM",
    "SUBSCRIPTION",
    "TRIGGER",
    "TYPE",
    "USER",
];

/// What a statement can begin with.
const VERBS: [&str; 50] = [
    "ABORT",
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CANCEL",
    "CLOSE",
    "COMMENT",
    "COMMIT",
    "COPY",
    "CREATE",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISCARD",
    "DROP",
    "END",
    "EXECUTE",
    "EXPLAIN",
    "FETCH",
    "FLUSH",
    "FROM",
    "GRANT",
    "INSERT",
    "LISTEN",
    "LOCK",
    "MOVE",
    "NOTIFY",
    "PREPARE",
    "REASSIGN",
    "REFRESH",
    "RELEASE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "SUBSCRIBE",
    "TABLE",
    "TRUNCATE",
    "UNLISTEN",
    "UPDATE",
    "VACUUM",
    "VALUES",
    "VERIFY",
    "WITH",
];

/// What a statement can begin with, for who lists them.
pub fn verbs() -> &'static [&'static str] {
    &VERBS
}

/// Statements that other databases have.
const FOREIGN_VERBS: [&str; 10] =
    ["MERGE", "CALL", "DO", "CHECKPOINT", "REINDEX", "CLUSTER", "IMPORT", "LOAD", "SECURITY", "TAIL"];

/// Whether a statement begins with the word here, or in other databases.
pub(crate) fn is_verb(word: &str) -> bool {
    VERBS.contains(&word) || FOREIGN_VERBS.contains(&word)
}

/// The statement that the cursor stands before.
pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Statement, Error> {
    if cursor.is_token(&Token::LParen) {
        return query::parse(cursor).map(Statement::Query);
    }
    let Some(verb) = cursor.word() else {
        return Err(cursor.unexpected("a statement"));
    };
    Ok(match verb.as_str() {
        "SELECT" | "VALUES" | "TABLE" | "FROM" => Statement::Query(query::parse(cursor)?),
        "WITH" => dml::parse_with(cursor)?,
        "CREATE" => create::parse(cursor)?,
        "ALTER" => alter::parse(cursor)?,
        "DROP" => drop::parse(cursor)?,
        "GRANT" | "REVOKE" => grant::parse(cursor)?,
        "REASSIGN" => role::parse_reassign(cursor)?,
        "SHOW" => show::parse(cursor)?,
        "DESCRIBE" | "DESC" => Statement::Describe(show::parse_describe(cursor)?),
        "COMMENT" => Statement::Comment(comment::parse(cursor)?),
        "EXPLAIN" => Statement::Explain(explain::parse(cursor)?),
        "INSERT" => Statement::Insert(dml::parse_insert(cursor)?),
        "UPDATE" => Statement::Update(dml::parse_update(cursor)?),
        "DELETE" => Statement::Delete(dml::parse_delete(cursor)?),
        "TRUNCATE" => Statement::Truncate(dml::parse_truncate(cursor)?),
        "COPY" => Statement::Copy(copy::parse(cursor)?),
        "SUBSCRIBE" => Statement::Subscribe(subscribe::parse(cursor)?),
        "DECLARE" => Statement::Declare(self::cursor::parse_declare(cursor)?),
        "FETCH" => Statement::Fetch(self::cursor::parse_fetch(cursor)?),
        "MOVE" => Statement::Move(self::cursor::parse_fetch(cursor)?),
        "CLOSE" => Statement::Close(self::cursor::parse_close(cursor)?),
        "SET" => set::parse(cursor)?,
        "RESET" => set::parse_reset(cursor)?,
        "DISCARD" => Statement::Discard(set::parse_discard(cursor)?),
        "BEGIN" | "START" => Statement::Begin(transaction::parse_begin(cursor)?),
        "COMMIT" | "END" => Statement::Commit(transaction::parse_commit(cursor)?),
        "ROLLBACK" | "ABORT" => transaction::parse_rollback(cursor)?,
        "SAVEPOINT" => Statement::Savepoint(transaction::parse_savepoint(cursor)?),
        "RELEASE" => Statement::Release(transaction::parse_release(cursor)?),
        "PREPARE" => Statement::Prepare(prepare::parse_prepare(cursor)?),
        "EXECUTE" => Statement::Execute(prepare::parse_execute(cursor)?),
        "DEALLOCATE" => Statement::Deallocate(prepare::parse_deallocate(cursor)?),
        "VERIFY" => Statement::Verify(verify::parse(cursor)?),
        "CANCEL" => Statement::CancelJob(maintenance::parse_cancel(cursor)?),
        "FLUSH" => Statement::Flush(maintenance::parse_flush(cursor)?),
        "REFRESH" => Statement::Refresh(maintenance::parse_refresh(cursor)?),
        "LISTEN" => Statement::Listen(notify::parse_listen(cursor)?),
        "UNLISTEN" => Statement::Unlisten(notify::parse_unlisten(cursor)?),
        "NOTIFY" => Statement::Notify(notify::parse_notify(cursor)?),
        "LOCK" => Statement::Lock(maintenance::parse_lock(cursor)?),
        "ANALYZE" | "ANALYSE" => Statement::Analyze(maintenance::parse_analyze(cursor)?),
        "VACUUM" => Statement::Vacuum(maintenance::parse_vacuum(cursor)?),
        foreign if FOREIGN_VERBS.contains(&foreign) => {
            return Err(Error::unsupported(foreign).at(cursor.position()));
        }
        _ => return Err(cursor.unexpected_word("a statement", &VERBS)),
    })
}

/// Gives a definition other options than it was written with, and what stands behind ENCODE.
pub fn set_options(statement: &mut Statement, options: Vec<WithOption>, encode_options: Vec<WithOption>) {
    match statement {
        Statement::CreateSource(create) => {
            (create.options.0, create.encode_options.0) = (options, encode_options);
        }
        Statement::CreateSink(create) => {
            (create.options.0, create.encode_options.0) = (options, encode_options);
        }
        Statement::CreatePipeline(create) => create.options.0 = options,
        _ => (),
    }
}

/// The statement as `SHOW CREATE` prints it, for those that define something.
///
/// Built from what was parsed, so that it parses to the same again; queries and expressions are
/// the user's own text. Option values whose key looks like a secret's are redacted.
pub fn show_create(statement: &Statement) -> Option<String> {
    let text = match statement {
        Statement::CreateSource(create) => create.to_string(),
        Statement::CreateTable(create) => create.to_string(),
        Statement::CreatePipeline(create) => create.to_string(),
        Statement::CreateView(create) => create.to_string(),
        Statement::CreateSink(create) => create.to_string(),
        Statement::CreateSchema(create) => create.to_string(),
        Statement::CreateSequence(create) => create.to_string(),
        Statement::CreateSecret(create) => create.to_string(),
        _ => return None,
    };
    Some(text + ";")
}
