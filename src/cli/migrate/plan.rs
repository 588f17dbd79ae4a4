//! What migrations would do to each object.
//!
//! Read from the statements, not tried out: to fill a pipeline only to throw it away would cost what the migration
//! costs. Rows are counted where they are stored; how many a source has, nobody knows before it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName as AstName, Query, Visitor};
use tidemill_sql::parser::{ObjectName, parse_one, quote, split_statements};
use tidemill_sql::statements::{AlterAction, ObjectKind, SinkInput, Statement, TableAction};
use tokio_postgres::Client;

use super::super::{Failure, print};
use super::PENDING;
use super::files::Migration;
use super::history::{History, rows};
use super::run;

/// What becomes of a pipeline that others read when its query changes.
fn under_readers(readers: &[String]) -> String {
    format!(
        "changes under {}, which keep their state; sinks write what is different. Not in a transaction",
        readers.join(", ")
    )
}

/// What is known of an object.
#[derive(Debug, Clone, Default)]
struct Known {
    kind: String,
    /// What it reads.
    inputs: BTreeSet<String>,
    /// Whether a pending migration makes it, so that no rows of it are there yet.
    is_new: bool,
}

/// The database as it would be.
#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<String, Known>,
    touched: BTreeSet<String>,
    n_rows: BTreeMap<String, u64>,
}

/// Prints what the pending migrations would do.
pub async fn print_plan(client: &Client, history: &History, migrations: &[Migration]) -> Result<(), Failure> {
    let pending = run::pending(history, migrations, None, false)?;
    if pending.is_empty() {
        print("Nothing to apply: the database is as the files say.\n");
        return Ok(());
    }
    let mut world = World::read(client).await?;
    world.objects.remove(&history.table.replace('"', ""));
    let mut out = String::new();
    for migration in &pending {
        out += &format!("{}\n", migration.up.file);
        let statements = split_statements(&migration.up.sql).unwrap_or_default();
        for (_, sql) in statements {
            let Ok(parsed) = parse_one(&sql) else { continue };
            for line in world.apply(client, &parsed.statement).await? {
                out += &format!("  {line}\n");
            }
        }
    }
    let unchanged: Vec<&String> =
        world.objects.keys().filter(|name| !world.touched.contains(*name)).collect();
    out += &match unchanged.len() {
        0 => "Nothing else is there.\n".to_owned(),
        n if n <= 12 => {
            let names: Vec<&str> = unchanged.iter().map(|name| name.as_str()).collect();
            format!("Unchanged: {}.\n", names.join(", "))
        }
        n => format!("Unchanged: {n} other objects.\n"),
    };
    print(&out);
    Err(Failure::Code(PENDING))
}

impl World {
    /// The database as it is.
    async fn read(client: &Client) -> Result<World, Failure> {
        let mut world = World::default();
        let sql = "SELECT c.oid, n.nspname, c.relname, c.relkind
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v', 'm', 'f')";
        let mut names = BTreeMap::new();
        for row in rows(client, sql).await? {
            let [Some(oid), Some(schema), Some(name), Some(kind)] = &row[..] else { continue };
            let kind = match kind.as_str() {
                "r" => "table",
                "v" => "view",
                "m" => "pipeline",
                _ => "source",
            };
            let full_name = format!("{schema}.{name}");
            names.insert(oid.clone(), full_name.clone());
            world.objects.insert(full_name, Known { kind: kind.into(), ..Known::default() });
        }
        let sql = "SELECT r.ev_class, d.refobjid
                   FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.objid = r.oid
                   WHERE d.deptype = 'n'";
        for row in rows(client, sql).await? {
            let [Some(reader), Some(read)] = &row[..] else { continue };
            if let (Some(reader), Some(read)) = (names.get(reader), names.get(read))
                && let Some(known) = world.objects.get_mut(reader)
            {
                known.inputs.insert(read.clone());
            }
        }
        for row in rows(client, "SHOW SINKS").await? {
            let [Some(name), Some(schema), ..] = &row[..] else { continue };
            let sql = format!("SHOW CREATE SINK {}.{}", quote(schema), quote(name));
            let text = rows(client, &sql).await?.first().and_then(|row| row.get(1).cloned().flatten());
            let inputs = match text.and_then(|text| parse_one(&text).ok()).map(|parsed| parsed.statement) {
                Some(Statement::CreateSink(create)) => world.inputs_of_sink(&create.input),
                _ => BTreeSet::new(),
            };
            let known = Known { kind: "sink".into(), inputs, is_new: false };
            world.objects.insert(format!("{schema}.{name}"), known);
        }
        Ok(world)
    }

    /// The object that a name means: there, or where it would be made.
    fn name(&self, name: &ObjectName) -> String {
        format!("{}.{}", name.schema.as_deref().unwrap_or("public"), name.name)
    }

    fn inputs_of_sink(&self, input: &SinkInput) -> BTreeSet<String> {
        match input {
            SinkInput::From(name) => BTreeSet::from([self.name(name)]),
            SinkInput::Query { query, .. } => self.inputs_of(query),
        }
    }

    /// The known objects that a query names.
    fn inputs_of(&self, query: &Query) -> BTreeSet<String> {
        let mut relations = Relations::default();
        let _ = tidemill_sql::visit::walk(query, &mut relations);
        relations.0.into_iter().filter(|name| self.objects.contains_key(name)).collect()
    }

    /// What reads an object, directly or not.
    fn readers(&self, name: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        let mut next = vec![name.to_owned()];
        while let Some(name) = next.pop() {
            for (reader, known) in &self.objects {
                if known.inputs.contains(&name) && found.insert(reader.clone()) {
                    next.push(reader.clone());
                }
            }
        }
        found.into_iter().map(|name| format!("{} {name}", self.objects[&name].kind)).collect()
    }

    /// What a fill of something that reads `inputs` has to take in.
    async fn fill(&mut self, client: &Client, inputs: &BTreeSet<String>) -> Result<String, Failure> {
        let mut stored = BTreeSet::new();
        let mut sources = BTreeSet::new();
        let mut next: Vec<String> = inputs.iter().cloned().collect();
        while let Some(name) = next.pop() {
            let Some(known) = self.objects.get(&name) else { continue };
            match known.kind.as_str() {
                "view" => next.extend(known.inputs.iter().cloned()),
                "source" => drop(sources.insert(name)),
                _ => drop(stored.insert(name)),
            }
        }
        let mut n_rows = 0;
        for name in &stored {
            n_rows += self.count(client, name).await?;
        }
        let mut parts = Vec::new();
        if !stored.is_empty() || sources.is_empty() {
            parts.push(format!("back-fill of about {n_rows} rows"));
        }
        if !sources.is_empty() {
            let names: Vec<&str> = sources.iter().map(String::as_str).collect();
            parts.push(format!("source {} is read from its start", names.join(", ")));
        }
        Ok(parts.join("; "))
    }

    async fn count(&mut self, client: &Client, name: &str) -> Result<u64, Failure> {
        if self.objects.get(name).is_some_and(|known| known.is_new) {
            return Ok(0);
        }
        if let Some(n_rows) = self.n_rows.get(name) {
            return Ok(*n_rows);
        }
        let (schema, relation) = name.split_once('.').unwrap_or(("public", name));
        let sql = format!("SELECT count(*) FROM {}.{}", quote(schema), quote(relation));
        let counted = rows(client, &sql).await?;
        let n_rows = counted.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(0);
        self.n_rows.insert(name.to_owned(), n_rows);
        Ok(n_rows)
    }

    /// What a statement does, in lines; and the database is as it would be behind it.
    async fn apply(&mut self, client: &Client, statement: &Statement) -> Result<Vec<String>, Failure> {
        let none = BTreeSet::new();
        match statement {
            Statement::CreateTable(create) => {
                let inputs = create.query.as_ref().map_or(none, |query| self.inputs_of(query));
                let note = match create.query {
                    Some(_) => format!("with the rows of its query: {}", self.fill(client, &inputs).await?),
                    None => String::new(),
                };
                let name = self.name(&create.name);
                Ok(self.create(
                    "table",
                    name,
                    create.or_replace,
                    create.if_not_exists,
                    BTreeSet::new(),
                    &note,
                ))
            }
            Statement::CreateSource(create) => {
                let name = self.name(&create.name);
                Ok(self.create("source", name, create.or_replace, create.if_not_exists, none, ""))
            }
            Statement::CreateView(create) => {
                let inputs = self.inputs_of(&create.query);
                let name = self.name(&create.name);
                Ok(self.create("view", name, create.or_replace, create.if_not_exists, inputs, ""))
            }
            Statement::CreatePipeline(create) => {
                let inputs = self.inputs_of(&create.query);
                let note = self.fill(client, &inputs).await?;
                let name = self.name(&create.name);
                Ok(self.create("pipeline", name, create.or_replace, create.if_not_exists, inputs, &note))
            }
            Statement::CreateSink(create) => {
                let inputs = self.inputs_of_sink(&create.input);
                let note = format!("it delivers what is there: {}", self.fill(client, &inputs).await?);
                let name = self.name(&create.name);
                Ok(self.create("sink", name, create.or_replace, create.if_not_exists, inputs, &note))
            }
            Statement::CreateSchema(create) => Ok(vec![format!("+ schema {}: created", create.name.value)]),
            Statement::CreateSequence(create) => {
                Ok(vec![format!("+ sequence {}: created", self.name(&create.name))])
            }
            Statement::CreateSecret(create) => {
                let name = self.name(&create.name);
                Ok(self.create("secret", name, create.or_replace, create.if_not_exists, none, ""))
            }
            Statement::CreateIndex(create) => {
                let name = create.name.as_ref().map_or(String::new(), |name| format!(" {}", name.value));
                let table = self.name(&create.table);
                Ok(vec![format!("+ index{name} on {table}")])
            }
            Statement::Drop(drop) => {
                let mut lines = Vec::new();
                for name in &drop.names {
                    let shown = match drop.kind {
                        ObjectKind::Schema => name.name.clone(),
                        _ => self.name(name),
                    };
                    lines.push(self.drop(drop.kind.name(), &shown, drop.if_exists, drop.cascade));
                }
                Ok(lines)
            }
            Statement::Alter(alter) => {
                let name = self.name(&alter.name);
                self.touched.insert(name.clone());
                let kind = alter.kind.name();
                let what = match &alter.action {
                    AlterAction::RenameTo(to) => {
                        if let Some(known) = self.objects.remove(&name) {
                            let schema = alter.name.schema.as_deref().unwrap_or("public");
                            let renamed = format!("{schema}.{}", to.value);
                            self.touched.insert(renamed.clone());
                            self.objects.insert(renamed, known);
                        }
                        format!("renamed to {}; its state stays", to.value)
                    }
                    AlterAction::Table(actions) => {
                        let only_words =
                            actions.iter().all(|action| matches!(action, TableAction::SetDefault { .. }));
                        match only_words {
                            true => "changed, its rows stay".to_owned(),
                            false => {
                                let n_rows = self.count(client, &name).await.unwrap_or(0);
                                format!("changed, about {n_rows} rows are copied")
                            }
                        }
                    }
                    AlterAction::Redefine(create) => {
                        let inputs = self.inputs_of(&create.query);
                        let note = self.fill(client, &inputs).await?;
                        let readers = self.readers(&name);
                        if let Some(known) = self.objects.get_mut(&name) {
                            known.inputs = inputs;
                        }
                        let what = match readers.is_empty() {
                            true => "rebuilt".to_owned(),
                            false => under_readers(&readers),
                        };
                        return Ok(vec![format!("~ {kind} {name}: {what}: {note}")]);
                    }
                    AlterAction::RowSecurity { .. } => "its policies hold, or do not".to_owned(),
                    AlterAction::Value(_) => "gets another value".to_owned(),
                    AlterAction::OwnerTo { .. } => "gets another owner; its state stays".to_owned(),
                    AlterAction::Pause => "stands still".to_owned(),
                    AlterAction::Resume => "goes on".to_owned(),
                    AlterAction::Restart => "begins again from its checkpoint".to_owned(),
                    AlterAction::Set(_) | AlterAction::Reset(_) => {
                        "other options; its state stays".to_owned()
                    }
                    AlterAction::CountFrom(_) => "counts from another number".to_owned(),
                };
                let readers = self.readers(&name);
                let readers = match readers.is_empty() {
                    true => String::new(),
                    false => format!("; read by {}", readers.join(", ")),
                };
                Ok(vec![format!("~ {kind} {name}: {what}{readers}")])
            }
            Statement::Insert(insert) => Ok(vec![format!("  rows into {}", self.name(&insert.table))]),
            Statement::Update(update) => Ok(vec![format!("  rows of {} changed", self.name(&update.table))]),
            Statement::Delete(delete) => Ok(vec![format!("  rows of {} deleted", self.name(&delete.table))]),
            Statement::Truncate(truncate) => {
                let line = |name| format!("  all rows of {} deleted", self.name(name));
                Ok(truncate.names.iter().map(line).collect())
            }
            Statement::Comment(_) => Ok(vec!["  a comment: metadata only".to_owned()]),
            Statement::GrantPrivileges(_) | Statement::AlterDefaultPrivileges(_) => {
                Ok(vec!["  privileges: metadata only".to_owned()])
            }
            Statement::CreatePolicy(_) | Statement::AlterPolicy(_) | Statement::DropPolicy(_) => {
                Ok(vec!["  row policies: metadata only".to_owned()])
            }
            Statement::CreateRole(_)
            | Statement::AlterRole(_)
            | Statement::DropRole(_)
            | Statement::GrantRoles(_) => Ok(vec!["  roles: metadata only".to_owned()]),
            _ => Ok(Vec::new()),
        }
    }

    fn create(
        &mut self,
        kind: &str,
        name: String,
        or_replace: bool,
        if_not_exists: bool,
        inputs: BTreeSet<String>,
        note: &str,
    ) -> Vec<String> {
        let is_there = self.objects.contains_key(&name);
        if is_there && if_not_exists {
            return vec![format!("= {kind} {name}: unchanged, it is there")];
        }
        let behind = if note.is_empty() { String::new() } else { format!(": {note}") };
        let line = match (is_there, or_replace) {
            (true, true) => {
                let readers = self.readers(&name);
                match (readers.is_empty(), kind) {
                    (true, _) => format!("~ {kind} {name}: rebuilt{behind}"),
                    (false, "pipeline") => {
                        format!("~ {kind} {name}: {}{behind}", under_readers(&readers))
                    }
                    (false, _) => {
                        format!("~ {kind} {name}: refused while it is read by {}", readers.join(", "))
                    }
                }
            }
            (true, false) => format!("! {kind} {name}: fails, the name is taken"),
            (false, _) => format!("+ {kind} {name}: created{behind}"),
        };
        self.touched.insert(name.clone());
        self.objects.insert(name, Known { kind: kind.to_owned(), inputs, is_new: true });
        vec![line]
    }

    fn drop(&mut self, kind: &str, name: &str, if_exists: bool, cascade: bool) -> String {
        let is_counted = !matches!(kind, "schema" | "index" | "sequence");
        if is_counted && !self.objects.contains_key(name) {
            return match if_exists {
                true => format!("= {kind} {name}: unchanged, it is not there"),
                false => format!("! {kind} {name}: fails, it is not there"),
            };
        }
        let readers = self.readers(name);
        self.touched.insert(name.to_owned());
        let line = match (readers.is_empty(), cascade) {
            (true, _) => format!("- {kind} {name}: dropped"),
            (false, true) => format!("- {kind} {name}: dropped, and with it {}", readers.join(", ")),
            (false, false) => {
                return format!("! {kind} {name}: fails, it is read by {}", readers.join(", "));
            }
        };
        self.objects.remove(name);
        for reader in readers {
            if let Some((_, reader)) = reader.split_once(' ') {
                self.objects.remove(reader);
                self.touched.insert(reader.to_owned());
            }
        }
        line
    }
}

/// The relations that a query names.
#[derive(Default)]
struct Relations(BTreeSet<String>);

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &AstName) -> ControlFlow<()> {
        let part = |ident: &datafusion::sql::sqlparser::ast::Ident| match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        };
        let parts: Vec<String> = relation.0.iter().filter_map(|name| name.as_ident()).map(part).collect();
        match parts.as_slice() {
            [name] => drop(self.0.insert(format!("public.{name}"))),
            [.., schema, name] => drop(self.0.insert(format!("{schema}.{name}"))),
            [] => (),
        }
        ControlFlow::Continue(())
    }
}
