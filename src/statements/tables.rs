//! `ALTER TABLE`, and what goes with tables: sequences and indexes.
//!
//! A table whose columns change is copied into one with the new columns, which takes its place in one step of the
//! catalog: rows are encoded by their columns' types. Who has written to it meanwhile makes the statement fail, and who
//! writes to it later, having planned on the old one, is told to try again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Visitor};
use tidemill_catalog::{
    AlteredTable, Catalog, Column, Definition, Identity, Kind, NewObject, Object, SequenceDefinition,
};
use tidemill_core::{Epoch, SqlState, crash_point};
use tidemill_plan::RelationId;
use tidemill_sql::parser::{Name, ObjectName, parse_expr, parse_query, quote, quote_literal};
use tidemill_sql::statements::{
    ColumnDef, ColumnSequence, CreateIndex, CreateSequence, IdentityKind, SequenceOptions, TableAction,
    index_column,
};
use tokio_util::sync::CancellationToken;

use super::create::{Entered, Head, Work, enter_into, install, new_object};
use super::{dml, done, engine_error, query, transaction, unsupported};
use crate::database::{index_specs, indexed_columns, table_spec, uninterrupted};
use crate::policies::{self, Change};
use crate::privileges;
use crate::session::Session;
use crate::session::api::{Response, SqlError};
use crate::session::definitions::{Changing, Definitions};

/// The columns that have a sequence of their own.
pub fn counted(columns: &[ColumnDef]) -> Vec<(&str, &ColumnSequence)> {
    columns.iter().filter_map(|column| Some((column.name.as_str(), column.sequence.as_ref()?))).collect()
}

/// What the catalog keeps of `GENERATED … AS IDENTITY`.
pub fn identity(column: &ColumnDef) -> Option<Identity> {
    match column.sequence.as_ref()?.identity? {
        IdentityKind::Always => Some(Identity::Always),
        IdentityKind::ByDefault => Some(Identity::ByDefault),
    }
}

/// Enters a table with the sequences of its columns.
pub fn enter_counted(
    session: &mut Session,
    head: &Head<'_>,
    mut new: NewObject,
    counted: &[(&str, &ColumnSequence)],
) -> Result<Option<Entered>, SqlError> {
    let mut catalog = session.catalog().as_ref().clone();
    if head.if_not_exists && catalog.find(&new.schema, &new.name).is_some() {
        return enter_into(session, &catalog.clone(), head, new);
    }
    // What is replaced stays its owner's, and what it counts with is too.
    if let Some(old) = catalog.find(&new.schema, &new.name).filter(|_| head.or_replace) {
        new.owner = old.owner.clone();
    }
    let mut sequences = Vec::new();
    for (column, sequence) in counted {
        let (changed, sequence) = with_sequence(&catalog, &new, column, &sequence.options)?;
        catalog = changed;
        new.dependencies.push(sequence.oid);
        let of_column = new.columns.iter_mut().filter(|known| known.name == *column);
        of_column.for_each(|known| known.default = Some(next_of(&sequence)));
        sequences.push((sequence.oid, (*column).to_owned()));
    }
    let Some(mut entered) = enter_into(session, &catalog, head, new)? else { return Ok(None) };
    for (sequence, column) in sequences {
        entered.catalog = entered.catalog.own(sequence, entered.object.oid, &column);
    }
    Ok(Some(entered))
}

/// A catalog with a sequence for a column of a table.
fn with_sequence(
    catalog: &Catalog,
    table: &NewObject,
    column: &str,
    options: &SequenceOptions,
) -> Result<(Catalog, Arc<Object>), SqlError> {
    let free = |name: &String| {
        catalog.find(&table.schema, name).is_none() && catalog.find_index(&table.schema, name).is_none()
    };
    let base = format!("{}_{column}_seq", table.name);
    let mut names = std::iter::once(base.clone()).chain((1..).map(|n: u32| format!("{base}{n}")));
    let name = names.find(free).unwrap_or(base);
    let sequence = NewObject {
        name,
        columns: sequence_columns(),
        primary_key: Vec::new(),
        definition: Definition::Sequence(sequence_definition(options)?),
        sql: String::new(),
        dependencies: Vec::new(),
        ..table.clone()
    };
    let text = create_sequence_text(&sequence, options);
    let (catalog, created) =
        catalog.create(NewObject { sql: text, ..sequence }, tidemill_catalog::OnConflict::Fail)?;
    Ok((catalog, created.object().clone()))
}

fn create_sequence_text(sequence: &NewObject, options: &SequenceOptions) -> String {
    let name = full_name(&sequence.schema, &sequence.name);
    format!("CREATE SEQUENCE {name} {options}").trim_end().to_owned()
}

fn full_name(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// The default of a column that a sequence counts for, as PostgreSQL writes it.
fn next_of(sequence: &Object) -> String {
    format!("nextval({}::regclass)", quote_literal(&full_name(&sequence.schema, &sequence.name)))
}

/// A sequence as a relation has one row of them.
fn sequence_columns() -> Vec<Column> {
    use arrow::datatypes::DataType::{Boolean, Int64};
    vec![
        Column::new("last_value", Int64, false),
        Column::new("log_cnt", Int64, false),
        Column::new("is_called", Boolean, false),
    ]
}

fn sequence_definition(options: &SequenceOptions) -> Result<SequenceDefinition, SqlError> {
    let data_type = options.data_type.clone().unwrap_or_else(|| "bigint".into());
    let (least, most) = match data_type.as_str() {
        "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let increment = options.increment.unwrap_or(1);
    let (min, max) = match increment > 0 {
        true => (options.min.unwrap_or(1), options.max.unwrap_or(most)),
        false => (options.min.unwrap_or(least), options.max.unwrap_or(-1)),
    };
    let wrong = |message: String| {
        Err(SqlError::new(SqlState::INVALID_PARAMETER, message).with_position(options.position))
    };
    if min < least || max > most {
        let (word, value) = if min < least { ("MINVALUE", min) } else { ("MAXVALUE", max) };
        return wrong(format!("{word} ({value}) is out of range for sequence data type {data_type}"));
    }
    if min >= max {
        return wrong(format!("MINVALUE ({min}) must be less than MAXVALUE ({max})"));
    }
    let start = options.start.unwrap_or(if increment > 0 { min } else { max });
    if start < min {
        return wrong(format!("START value ({start}) cannot be less than MINVALUE ({min})"));
    }
    if start > max {
        return wrong(format!("START value ({start}) cannot be greater than MAXVALUE ({max})"));
    }
    Ok(SequenceDefinition { start, increment, min, max, cycle: options.cycle, data_type, owned_by: None })
}

pub async fn create_sequence(
    session: &mut Session,
    create: &CreateSequence,
    sql: &str,
) -> Result<Response, SqlError> {
    let head = Head { name: &create.name, or_replace: false, if_not_exists: create.if_not_exists };
    let definition = sequence_definition(&create.options)?;
    let changing = session.change_definitions().await?;
    let new = NewObject {
        columns: sequence_columns(),
        ..new_object(session, &head, Definition::Sequence(definition), sql)?
    };
    let catalog = session.catalog();
    let Some(mut entered) = enter_into(session, &catalog, &head, new)? else {
        return Ok(done("CREATE SEQUENCE"));
    };
    if let Some((table, column)) = &create.options.owned_by {
        let search_path = session.settings.search_path();
        let owner = catalog
            .resolve_kind(Kind::Table, table.schema.as_deref(), &table.name, &search_path)
            .map_err(|error| SqlError::from(error).with_position(table.position))?;
        privileges::require_owner(&catalog, session.user(), owner, false)
            .map_err(|error| error.with_position(table.position))?;
        if owner.column_idx(column).is_none() {
            return Err(dml::no_column(owner, column, Some(table.position)));
        }
        entered.catalog = entered.catalog.own(entered.object.oid, owner.oid, column);
    }
    install(session, changing, entered, Work::Sequence).await?;
    Ok(done("CREATE SEQUENCE"))
}

/// `ALTER SEQUENCE s RESTART`
pub async fn count_from(
    session: &mut Session,
    object: &Object,
    number: Option<i64>,
) -> Result<Response, SqlError> {
    let Definition::Sequence(definition) = &object.definition else {
        return Err(SqlError::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("\"{}\" is not a sequence", object.name),
        ));
    };
    let database = session.database.clone();
    if !database.is_for_checks() {
        database.sequences.set(object, number.unwrap_or(definition.start), false)?;
        database.sequences.settle(&database.engine, &session.catalog()).await?;
    }
    Ok(done("ALTER SEQUENCE"))
}

pub async fn create_index(session: &mut Session, create: &CreateIndex) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let table = catalog
        .resolve(create.table.schema.as_deref(), &create.table.name, &search_path)
        .map_err(|error| SqlError::from(error).with_position(create.table.position))?;
    if !matches!(table.kind(), Kind::Table | Kind::Pipeline) {
        let message = format!("cannot create an index on {}", table.describe());
        let hint = match table.kind() {
            Kind::View => {
                "Indexes are of tables and pipelines: create it on what the view reads, or make the view a pipeline."
            }
            _ => "Indexes are of tables and pipelines, whose rows are stored.",
        };
        return Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message)
            .with_hint(hint)
            .with_position(create.table.position));
    }
    privileges::require_owner(&catalog, session.user(), table, false)
        .map_err(|error| error.with_position(create.table.position))?;
    for key in &create.keys {
        if let Some(column) = &key.column
            && table.column_idx(column).is_none()
        {
            return Err(dml::no_column(table, column, Some(key.position)));
        }
    }
    let mut indexed: Vec<Option<usize>> =
        create.keys.iter().map(|key| table.column_idx(key.column.as_deref()?)).collect();
    indexed.sort_unstable();
    let mut of_key: Vec<Option<usize>> = table.primary_key.iter().copied().map(Some).collect();
    of_key.sort_unstable();
    if create.is_unique && (indexed != of_key || of_key.is_empty()) {
        return Err(unsupported("a unique index on other columns than the primary key's")
            .with_hint("Nothing would keep the rows unique. Make the columns the primary key, or watch for double rows with a \
                 pipeline.")
            .with_position(create.position));
    }
    let words = create.keys.iter().map(|key| key.column.as_deref().unwrap_or("expr"));
    let base = format!("{}_{}_idx", table.name, words.collect::<Vec<_>>().join("_"));
    let free = |name: &String| {
        catalog.find(&table.schema, name).is_none() && catalog.find_index(&table.schema, name).is_none()
    };
    let name = match &create.name {
        Some(name) => name.value.clone(),
        None => {
            let mut names = std::iter::once(base.clone()).chain((1..).map(|n: u32| format!("{base}{n}")));
            names.find(free).unwrap_or(base)
        }
    };
    if create.if_not_exists && !free(&name) {
        session.notice(format!("relation \"{name}\" already exists, skipping"));
        return Ok(done("CREATE INDEX"));
    }
    let keys: Vec<String> = create.keys.iter().map(|key| key.text.clone()).collect();
    let columns = indexed_columns(table, &keys);
    let table = table.clone();
    let changed = catalog.create_index(table.oid, &name, keys, create.is_unique).map_err(|error| {
        let position = create.name.as_ref().map_or(create.position, |name| name.position);
        SqlError::from(error).with_position(position)
    })?;
    let is_of_columns = create.keys.iter().all(|key| key.column.is_some());
    match columns {
        None if is_of_columns => session.notice(format!(
            "index \"{name}\" is a name only: values of its first column are not looked up, whatever the order"
        )),
        None => session.notice(format!("index \"{name}\" is a name only: expressions are not indexed")),
        Some(_) if create.is_partial => {
            session.notice(format!("index \"{name}\" has all rows: WHERE is not looked at"));
        }
        Some(_) => (),
    }
    build_index(session, changing, &table, changed).await?;
    Ok(done("CREATE INDEX"))
}

/// Builds what a catalog has more of indexes of a table or pipeline, and lets that one count; or neither. In a block, COMMIT does.
async fn build_index(
    session: &mut Session,
    changing: Changing,
    before: &Object,
    catalog: Catalog,
) -> Result<(), SqlError> {
    let after = catalog.get(before.oid).map(|object| index_specs(object)).unwrap_or_default();
    let before_specs = index_specs(before);
    let lock = match changing {
        Changing::Now(lock) if after != before_specs && !session.database.is_for_checks() => lock,
        changing => return session.commit_catalog(changing, catalog).await,
    };
    let (database, id) = (session.database.clone(), RelationId(before.oid));
    let cancelled = CancellationToken::new();
    let _cancel_at_end = cancelled.clone().drop_guard();
    uninterrupted(async move {
        let _lock = lock;
        let built = async { database.engine.set_indexes(id, after).await?.done().await };
        let built = cancelled.run_until_cancelled(built).await;
        let built = built.unwrap_or(Err(tidemill_engine::Error::Cancelled));
        let outcome = match built {
            Ok(()) => {
                crash_point("index.built");
                database.put_catalog(catalog).await
            }
            Err(error) => Err(engine_error(&database, error)),
        };
        if outcome.is_err()
            && let Err(error) = database.engine.set_indexes(id, before_specs).await
        {
            // What has failed begins again without it.
            tracing::warn!(relation = id.0, %error, "an index that was not created goes at the next start");
        }
        outcome
    })
    .await
}

/// Those indexes of a pipeline that one of other columns can have as well.
pub fn indexes_that_fit(old: &Object, new: &Object) -> Vec<tidemill_catalog::Index> {
    let fits = |index: &&tidemill_catalog::Index| indexed_columns(new, &index.keys).is_some();
    old.indexes.iter().filter(fits).cloned().collect()
}

/// The sequences that defaults name.
pub fn sequences_of(session: &Session, columns: &[Column]) -> Result<Vec<u32>, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let mut oids = Vec::new();
    for text in columns.iter().filter_map(|column| column.default.as_deref()) {
        let mut named = NamedSequences(Vec::new());
        let _ = tidemill_sql::visit::walk(&parse_expr(text)?, &mut named);
        for name in named.0 {
            let parsed = tidemill_sql::parser::parse_one(&format!("DROP SEQUENCE {name}"));
            let name: ObjectName = match parsed.map(|parsed| parsed.statement) {
                Ok(tidemill_sql::statements::Statement::Drop(mut drop)) => match drop.names.pop() {
                    Some(name) => name,
                    None => continue,
                },
                _ => continue,
            };
            let found =
                catalog.resolve_kind(Kind::Sequence, name.schema.as_deref(), &name.name, &search_path)?;
            oids.push(found.oid);
        }
    }
    Ok(oids)
}

/// Collects the literals that `nextval` is called with.
struct NamedSequences(Vec<String>);

impl Visitor for NamedSequences {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.0.last().and_then(|part| part.as_ident());
        if name.is_none_or(|name| !name.value.eq_ignore_ascii_case("nextval")) {
            return ControlFlow::Continue(());
        }
        let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
        let mut argument = match list.args.first() {
            Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) => argument,
            _ => return ControlFlow::Continue(()),
        };
        while let Expr::Cast { expr, .. } | Expr::Nested(expr) = argument {
            argument = expr;
        }
        if let Expr::Value(value) = argument
            && let Some(text) = value.value.clone().into_string()
        {
            self.0.push(text);
        }
        ControlFlow::Continue(())
    }
}

/// What a table is to become, and where each column's values come from.
struct Altered {
    columns: Vec<(Column, String)>,
    primary_key: Vec<String>,
    indexes: Vec<tidemill_catalog::Index>,
    renamed: Vec<(String, String)>,
    /// Columns that are to have a sequence of their own.
    counted: Vec<(String, ColumnSequence)>,
    /// Whether rows are encoded anew; else only words change.
    is_copied: bool,
}

/// An altered table that has its place in a catalog that does not count yet.
struct EnteredAltered {
    catalog: Catalog,
    table: Arc<Object>,
    /// Those that are new.
    sequences: Vec<Arc<Object>>,
}

pub async fn alter(
    session: &mut Session,
    changing: Changing,
    table: &Arc<Object>,
    actions: &[TableAction],
) -> Result<Response, SqlError> {
    let mut altered = Altered::of(table);
    for action in actions {
        altered.apply(session, table, action)?;
    }
    if !altered.is_copied {
        let columns: Vec<Column> = altered.columns.into_iter().map(|(column, _)| column).collect();
        let dependencies = sequences_of(session, &columns)?;
        let object = Object { columns, dependencies, ..table.as_ref().clone() };
        let object = Object { sql: create_table_text(&object), ..object };
        let catalog = session.catalog().redefine(object);
        session.commit_catalog(changing, catalog).await?;
        return Ok(done("ALTER TABLE"));
    }
    if session.database.is_for_checks() {
        let catalog = altered.enter(session, table)?.catalog;
        session.commit_catalog(changing, catalog).await?;
        return Ok(done("ALTER TABLE"));
    }
    let lock = match changing {
        Changing::Now(lock) => lock,
        Changing::InBlock => {
            altered.copy(session, table).await?;
            return Ok(done("ALTER TABLE"));
        }
    };
    // A block of its own, which ends with the statement however that ends.
    let owner = session.block.owner(&session.database.engine);
    let announcements = session.block.announcements.clone();
    transaction::begin_block(session)?;
    session.block.make_implicit(owner);
    session.block.definitions = Some(Definitions::begin(session.database.clone(), lock));
    let outcome = match altered.copy(session, table).await {
        Ok(()) => transaction::commit(session).await,
        Err(error) => Err(error),
    };
    transaction::end_block(session);
    session.block.announcements = announcements;
    outcome.map(|()| done("ALTER TABLE"))
}

impl Altered {
    /// As it is.
    fn of(table: &Object) -> Altered {
        let column = |column: &Column| (column.clone(), quote(&column.name));
        Altered {
            columns: table.columns.iter().map(column).collect(),
            primary_key: table.primary_key.iter().map(|idx| table.columns[*idx].name.clone()).collect(),
            indexes: table.indexes.clone(),
            renamed: Vec::new(),
            counted: Vec::new(),
            is_copied: false,
        }
    }

    fn position_of(&self, table: &Object, name: &Name) -> Result<usize, SqlError> {
        let found = self.columns.iter().position(|(column, _)| column.name == name.value);
        found.ok_or_else(|| dml::no_column(table, &name.value, Some(name.position)))
    }

    fn apply(&mut self, session: &mut Session, table: &Object, action: &TableAction) -> Result<(), SqlError> {
        let taken = |name: &Name| {
            let message = format!("column \"{}\" of relation \"{}\" already exists", name.value, table.name);
            SqlError::new(SqlState::DUPLICATE_COLUMN, message).with_position(name.position)
        };
        self.is_copied |= !matches!(action, TableAction::SetDefault { .. });
        match action {
            TableAction::AddColumn { column, is_key, if_not_exists } => {
                let name = Name { value: column.name.clone(), position: column.position };
                if self.columns.iter().any(|(known, _)| known.name == name.value) {
                    if !if_not_exists {
                        return Err(taken(&name));
                    }
                    session.notice(format!(
                        "column \"{}\" of relation \"{}\" already exists, skipping",
                        name.value, table.name
                    ));
                    return Ok(());
                }
                let field = column.column_type.field(&column.name, !column.not_null);
                let new = Column {
                    default: column.default.as_ref().map(|default| default.text.clone()),
                    identity: identity(column),
                    ..Column::from(&field)
                };
                let values = new.default.clone().unwrap_or_else(|| "NULL".into());
                self.columns.push((new, values));
                if let Some(sequence) = &column.sequence {
                    self.counted.push((column.name.clone(), sequence.clone()));
                }
                if *is_key {
                    self.set_key(table, vec![name.value], column.position)?;
                }
            }
            TableAction::DropColumn { name, if_exists } => {
                if *if_exists && !self.columns.iter().any(|(column, _)| column.name == name.value) {
                    session.notice(format!(
                        "column \"{}\" of relation \"{}\" does not exist, skipping",
                        name.value, table.name
                    ));
                    return Ok(());
                }
                let idx = self.position_of(table, name)?;
                self.columns.remove(idx);
                if self.primary_key.contains(&name.value) {
                    self.primary_key.clear();
                }
                self.counted.retain(|(column, _)| *column != name.value);
                self.indexes.retain(|index| !index.keys.iter().any(|key| mentions(key, &name.value)));
            }
            TableAction::RenameColumn { name, to } => {
                let idx = self.position_of(table, name)?;
                if self.columns.iter().any(|(column, _)| column.name == to.value) {
                    return Err(taken(to));
                }
                self.columns[idx].0.name = to.value.clone();
                let key = self.primary_key.iter_mut().filter(|column| **column == name.value);
                key.for_each(|column| *column = to.value.clone());
                for key in self.indexes.iter_mut().flat_map(|index| &mut index.keys) {
                    if mentions(key, &name.value) {
                        // Behind a name in quotes, in which there may be blanks, or behind a word.
                        let len = match key.strip_prefix('"').and_then(|name| name.find('"')) {
                            Some(end) => end + 2,
                            None => key.find(' ').unwrap_or(key.len()),
                        };
                        *key = quote(&to.value) + &key[len..];
                    }
                }
                self.renamed.push((name.value.clone(), to.value.clone()));
            }
            TableAction::SetDefault { name, default } => {
                let idx = self.position_of(table, name)?;
                let column = &mut self.columns[idx].0;
                if column.identity.is_some() {
                    let message = format!(
                        "column \"{}\" of relation \"{}\" is an identity column",
                        name.value, table.name
                    );
                    return Err(SqlError::new(SqlState::SYNTAX_ERROR, message).with_position(name.position));
                }
                column.default = default.as_ref().map(|default| default.text.clone());
            }
            TableAction::SetNotNull { name, not_null } => {
                let idx = self.position_of(table, name)?;
                if !not_null && self.primary_key.contains(&name.value) {
                    let message = format!("column \"{}\" is in a primary key", name.value);
                    return Err(SqlError::new(SqlState::INVALID_TABLE_DEFINITION, message)
                        .with_position(name.position));
                }
                self.columns[idx].0.nullable = !not_null;
            }
            TableAction::SetType { name, column_type, using } => {
                let idx = self.position_of(table, name)?;
                let (column, values) = &mut self.columns[idx];
                let field = column_type.field(&column.name, column.nullable);
                let new = Column::from(&field);
                let type_name = tidemill_sql::types::pg_type_of(&field);
                *values = match using {
                    Some(using) => format!("({})", using.text),
                    None => format!("CAST({values} AS {type_name})"),
                };
                (column.data_type, column.metadata) = (new.data_type, new.metadata);
            }
            TableAction::AddPrimaryKey { columns, position } => {
                for name in columns {
                    self.position_of(table, name)?;
                }
                self.set_key(table, columns.iter().map(|name| name.value.clone()).collect(), *position)?;
            }
            TableAction::DropConstraint { name, if_exists } => {
                let is_key = !self.primary_key.is_empty() && name.value == format!("{}_pkey", table.name);
                if is_key {
                    self.primary_key.clear();
                } else if *if_exists {
                    session.notice(format!(
                        "constraint \"{}\" of relation \"{}\" does not exist, skipping",
                        name.value, table.name
                    ));
                } else {
                    let message = format!(
                        "constraint \"{}\" of relation \"{}\" does not exist",
                        name.value, table.name
                    );
                    let error =
                        SqlError::new(SqlState::UNDEFINED_OBJECT, message).with_position(name.position);
                    return Err(match self.primary_key.is_empty() {
                        true => error,
                        false => error.with_hint(format!(
                            "The primary key is \"{}_pkey\", whatever it was called.",
                            table.name
                        )),
                    });
                }
            }
        }
        Ok(())
    }

    fn set_key(&mut self, table: &Object, key: Vec<String>, position: usize) -> Result<(), SqlError> {
        if !self.primary_key.is_empty() {
            let message = format!("multiple primary keys for table \"{}\" are not allowed", table.name);
            return Err(SqlError::new(SqlState::INVALID_TABLE_DEFINITION, message).with_position(position));
        }
        for (column, _) in &mut self.columns {
            column.nullable &= !key.contains(&column.name);
        }
        self.primary_key = key;
        Ok(())
    }

    /// The catalog with the altered table, the table, and the sequences that are new.
    fn enter(&mut self, session: &Session, table: &Object) -> Result<EnteredAltered, SqlError> {
        let mut catalog = session.catalog().as_ref().clone();
        let mut sequences = Vec::new();
        for (name, sequence) in &self.counted {
            let of_table = NewObject {
                schema: table.schema.clone(),
                name: table.name.clone(),
                columns: Vec::new(),
                primary_key: Vec::new(),
                definition: table.definition.clone(),
                sql: String::new(),
                search_path: table.search_path.clone(),
                dependencies: Vec::new(),
                owner: table.owner.clone(),
                created_at: table.created_at,
            };
            let (changed, created) = with_sequence(&catalog, &of_table, name, &sequence.options)?;
            catalog = changed;
            let of_column = self.columns.iter_mut().filter(|(column, _)| column.name == *name);
            of_column.for_each(|(column, values)| {
                *values = next_of(&created);
                column.default = Some(next_of(&created));
            });
            sequences.push((created, name.clone()));
        }
        let columns: Vec<Column> = self.columns.iter().map(|(column, _)| column.clone()).collect();
        let mut dependencies: Vec<u32> = sequences.iter().map(|(sequence, _)| sequence.oid).collect();
        let known: Vec<Column> = columns
            .iter()
            .filter(|column| !self.counted.iter().any(|(name, _)| *name == column.name))
            .cloned()
            .collect();
        dependencies.extend(sequences_of(session, &known)?);
        let shape = Object {
            primary_key: self
                .primary_key
                .iter()
                .filter_map(|name| columns.iter().position(|column| column.name == *name))
                .collect(),
            columns: columns.clone(),
            ..table.clone()
        };
        let altered = AlteredTable {
            columns,
            primary_key: self.primary_key.clone(),
            sql: create_table_text(&shape),
            dependencies,
            indexes: self.indexes.clone(),
            renamed: self.renamed.clone(),
        };
        let (mut catalog, new) = catalog.alter_table(table.oid, altered)?;
        policies::check(&session.database, &new)?;
        for (sequence, column) in &sequences {
            catalog = catalog.own(sequence.oid, new.oid, column);
        }
        // A sequence goes with its column.
        let orphans: Vec<u32> = catalog
            .owned(new.oid)
            .filter(|sequence| match &sequence.definition {
                Definition::Sequence(definition) => definition
                    .owned_by
                    .as_ref()
                    .is_some_and(|owned_by| new.column_idx(&owned_by.column).is_none()),
                _ => false,
            })
            .map(|sequence| sequence.oid)
            .collect();
        if !orphans.is_empty() {
            catalog = catalog.drop(&orphans, false)?.0;
        }
        let sequences = sequences.into_iter().map(|(sequence, _)| sequence).collect();
        Ok(EnteredAltered { catalog, table: new, sequences })
    }

    /// Puts a table of the new columns, with the rows of the old one, into its place.
    async fn copy(mut self, session: &mut Session, table: &Arc<Object>) -> Result<(), SqlError> {
        let database = session.database.clone();
        let EnteredAltered { catalog, table: new, sequences } = self.enter(session, table)?;
        dml::hold(session, table).await?;
        dml::look_again(session);
        let id = RelationId(table.oid);
        let changed = database.engine.changed(id).await.unwrap_or_default();
        session.written = session.written.max(changed);
        session.block.since = session.block.since.max(changed);
        let Some(definitions) = &mut session.block.definitions else {
            unreachable!("a block that changes definitions has them");
        };
        // The values of new columns come from them.
        if !sequences.is_empty() {
            let mut counting = definitions.catalog().as_ref().clone();
            for sequence in &sequences {
                definitions.make(sequence.clone());
                counting = counting.with(sequence.clone());
            }
            definitions.set_catalog(counting);
            for sequence in &sequences {
                database.sequences.create(&database.engine, sequence).await?;
            }
        }
        // Whoever owns a table may read it.
        session.changes = Some(Change { relation: table.oid, command: None });
        let values: Vec<&str> = self.columns.iter().map(|(_, values)| values.as_str()).collect();
        let rows = match values.is_empty() {
            true => return Err(unsupported("a table without columns")),
            false => {
                let sql =
                    format!("SELECT {} FROM {}", values.join(", "), full_name(&table.schema, &table.name));
                let parsed = parse_query(&sql)?;
                let (_, batches) =
                    query::collect(session, &parsed, &sql, Vec::new(), &BTreeMap::new()).await?;
                let all: Vec<usize> = (0..new.columns.len()).collect();
                let mut arranged: Vec<RecordBatch> = Vec::new();
                for batch in &batches {
                    arranged.push(dml::arrange(session, &new, &all, batch).await?);
                }
                dml::concat(&new.arrow_schema(), &arranged)?
            }
        };
        let Some(definitions) = &mut session.block.definitions else {
            unreachable!("a block that changes definitions has them");
        };
        definitions.make(new.clone());
        // What was copied is what was read, whatever is there by now.
        let since = session.pinned.as_ref().map_or(Epoch::ZERO, |view| view.epoch);
        definitions.copied(id, since);
        definitions.set_catalog(catalog);
        let making = definitions.making().await;
        let spec = table_spec(&new);
        let engine = database.engine.clone();
        let filled = uninterrupted(async move {
            let _making = making;
            let filled = engine.create_filled_table(spec, rows).await;
            Ok(filled)
        })
        .await?;
        filled.map_err(|error| match error {
            tidemill_engine::Error::NullValue { column, .. } => SqlError::new(
                SqlState::NOT_NULL_VIOLATION,
                format!("column \"{column}\" of relation \"{}\" contains null values", table.name),
            )
            .with_hint("Give the column a DEFAULT, or fill it before it is NOT NULL."),
            other => engine_error(&database, other),
        })
    }
}

/// Whether an index's key is this column, in some direction.
fn mentions(key: &str, column: &str) -> bool {
    index_column(key).is_some_and(|name| name == column)
}

/// The statement that would make a table as it is.
fn create_table_text(table: &Object) -> String {
    let mut lines: Vec<String> = Vec::new();
    for column in &table.columns {
        let mut line =
            format!("{} {}", quote(&column.name), tidemill_sql::types::pg_type_of(&column.field()));
        match (column.identity, &column.default) {
            (Some(Identity::Always), _) => line += " GENERATED ALWAYS AS IDENTITY",
            (Some(Identity::ByDefault), _) => line += " GENERATED BY DEFAULT AS IDENTITY",
            (None, Some(default)) => line += &format!(" DEFAULT {default}"),
            (None, None) => (),
        }
        if !column.nullable {
            line += " NOT NULL";
        }
        lines.push(line);
    }
    if !table.primary_key.is_empty() {
        let key = table.primary_key.iter().map(|idx| quote(&table.columns[*idx].name));
        lines.push(format!("PRIMARY KEY ({})", key.collect::<Vec<_>>().join(", ")));
    }
    let name = match table.schema == tidemill_catalog::PUBLIC {
        true => quote(&table.name),
        false => full_name(&table.schema, &table.name),
    };
    format!("CREATE TABLE {name} (\n    {}\n)", lines.join(",\n    "))
}
