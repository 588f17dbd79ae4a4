//! `CREATE SECRET`, `ALTER SECRET … AS`: texts that options of sources and sinks name.

use std::sync::Arc;

use tidemill_catalog::{
    Catalog, Definition, Kind, Object, OptionValue, Options, Privilege, SecretDefinition,
};
use tidemill_core::SqlState;
use tidemill_plan::RelationId;
use tidemill_sql::parser::ObjectName;
use tidemill_sql::statements::{CreateSecret, WithOption, WithOptions};

use super::create::{Head, enter, new_object};
use super::done;
use crate::database::{Database, uninterrupted};
use crate::privileges;
use crate::session::Session;
use crate::session::api::{Response, SqlError};
use crate::session::definitions::Changing;

pub async fn create(session: &mut Session, create: &CreateSecret) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let head =
        Head { name: &create.name, or_replace: create.or_replace, if_not_exists: create.if_not_exists };
    let nothing = Definition::Secret(SecretDefinition { key: String::new(), sealed: String::new() });
    let new = new_object(session, &head, nothing, &create.to_string())?;
    // It stays the same secret to those who use it.
    let catalog = session.catalog();
    let known = catalog.find(&new.schema, &new.name).filter(|known| known.kind() == Kind::Secret).cloned();
    if let Some(known) = known.filter(|_| create.or_replace) {
        set(session, &known, &create.value.0, changing).await?;
        return Ok(done("CREATE SECRET"));
    }
    let Some(entered) = enter(session, &head, new)? else { return Ok(done("CREATE SECRET")) };
    let oid = entered.object.oid;
    let sealed = session.database.secret_keys().seal(oid, &create.value.0)?;
    session.commit_catalog(changing, entered.catalog.set_secret(oid, sealed)).await?;
    Ok(done("CREATE SECRET"))
}

/// Another value, which what uses it connects anew with.
pub async fn set(
    session: &mut Session,
    secret: &Arc<Object>,
    value: &str,
    changing: Changing,
) -> Result<(), SqlError> {
    let sealed = session.database.secret_keys().seal(secret.oid, value)?;
    let catalog = session.catalog().set_secret(secret.oid, sealed);
    let Changing::Now(lock) = changing else {
        return session.commit_catalog(changing, catalog).await;
    };
    let (database, oid) = (session.database.clone(), secret.oid);
    uninterrupted(async move {
        let _lock = lock;
        database.put_catalog(catalog).await?;
        connect_anew(&database, oid).await;
        Ok(())
    })
    .await
}

/// Lets the sources and sinks that use a secret connect with its value of now. One that cannot does so when it is restarted.
pub async fn connect_anew(database: &Database, secret: u32) {
    if database.is_for_checks() {
        return;
    }
    let catalog = database.catalog();
    for object in catalog.dependents(secret) {
        let id = RelationId(object.oid);
        let told = match &object.definition {
            Definition::Source(_) => match database.source_spec(&catalog, object) {
                Ok(spec) => database.engine.alter_source(spec).await.map_err(SqlError::from),
                Err(error) => Err(error),
            },
            _ => match database.member_spec(object).await.map(|spec| spec.sink) {
                Ok(Some(sink)) => database.engine.alter_sink(id, sink).map_err(SqlError::from),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = told {
            tracing::warn!(object = object.full_name(), %error, "does not take another value of a secret before it is restarted");
        }
    }
}

/// Options as the catalog keeps them: secrets by their OIDs, which the user must be allowed to use.
pub fn options(session: &Session, options: &WithOptions) -> Result<Options, SqlError> {
    let catalog = session.catalog();
    let search_path = session.settings.search_path();
    let option = |option: &WithOption| {
        let value = match &option.secret {
            None => OptionValue::Text(option.value.clone()),
            Some(name) => {
                let at = |error: SqlError| error.with_position(name.position);
                let secret = catalog
                    .resolve_kind(Kind::Secret, name.schema.as_deref(), &name.name, &search_path)
                    .map_err(|error| at(SqlError::from(error)))?;
                privileges::require(&catalog, session.user(), secret, Privilege::Usage).map_err(at)?;
                if option.key == "connector" {
                    return Err(SqlError::new(
                        SqlState::INVALID_PARAMETER,
                        "which connector it is cannot be a secret",
                    )
                    .with_position(name.position));
                }
                OptionValue::Secret { secret: secret.oid }
            }
        };
        Ok((option.key.clone(), value))
    };
    options.0.iter().map(option).collect()
}

/// Options as a statement has them: secrets by the names that they have now.
pub fn with_options(
    catalog: &Catalog,
    options: &[(String, OptionValue)],
    position: usize,
) -> Vec<WithOption> {
    let option = |(key, value): &(String, OptionValue)| {
        let secret = match value {
            OptionValue::Text(_) => None,
            OptionValue::Secret { secret } => catalog.get(*secret).map(|secret| ObjectName {
                schema: (secret.schema != tidemill_catalog::PUBLIC).then(|| secret.schema.clone()),
                name: secret.name.clone(),
                position,
            }),
        };
        let value = value.text().unwrap_or_default().to_owned();
        WithOption { key: key.clone(), value, secret, position, value_position: position }
    };
    options.iter().map(option).collect()
}

/// Refuses a secret where an option is no secret.
pub fn refuse(options: &WithOptions) -> Result<(), SqlError> {
    match options.0.iter().find_map(|option| Some((option, option.secret.as_ref()?))) {
        None => Ok(()),
        Some((option, name)) => Err(SqlError::new(
            SqlState::INVALID_PARAMETER,
            format!("option \"{}\" cannot be a secret", option.key),
        )
        .with_hint("Secrets are for the options of connectors and of ENCODE.")
        .with_position(name.position)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::session::Session;
    use crate::statements::testing::{notices, on_a_runtime, open, run, tag, try_run};

    async fn error(session: &mut Session, sql: &str) -> String {
        let error = try_run(session, sql).await.expect_err(sql);
        let position = error.position.map_or(String::new(), |position| format!(" @{position}"));
        let more = [error.detail, error.hint].into_iter().flatten().collect::<Vec<_>>().join(" | ");
        format!("{}: {}{position} | {more}", error.sqlstate.0, error.message)
    }

    /// Until a pipeline shows so many rows.
    async fn wait(session: &mut Session, n_rows: &str) {
        for _ in 0..500 {
            if run(session, "SELECT count(*) FROM p").await == [[n_rows]] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the source is not read");
    }

    #[test]
    fn options_are_what_secrets_hold() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name).display().to_string();
            std::fs::write(path("in.csv"), "1\n2\n").unwrap();
            let mut session = open(&directory.path().join("data")).await;
            run(&mut session, &format!("CREATE SCHEMA k; CREATE SECRET k.place AS '{}'", path("in.csv")))
                .await;
            run(
                &mut session,
                "CREATE SOURCE s (a INT) WITH (connector = 'file', path = SECRET k.place) FORMAT PLAIN ENCODE CSV; \
                 CREATE PIPELINE p AS SELECT a FROM s",
            )
            .await;
            wait(&mut session, "2").await;
            // By its new name, and nowhere by its value.
            run(&mut session, "ALTER SECRET k.place RENAME TO \"Where\"").await;
            let shown = run(&mut session, "SHOW CREATE SOURCE s").await;
            assert!(shown[0][1].contains("path = SECRET k.\"Where\""), "{shown:?}");
            let shown = run(&mut session, "SHOW CREATE SECRET k.\"Where\"").await;
            assert_eq!(shown[0][1], "CREATE SECRET k.place AS '[redacted]';");
            let used = run(&mut session, "SELECT schema, name, owner, used_by FROM tm_secrets").await;
            assert_eq!(used, [["k", "Where", "tidemill", "source s"]]);
            assert_eq!(run(&mut session, "SHOW SECRETS FROM k").await, [["Where", "k", ""]]);
            let everything = [
                "SELECT * FROM tm_secrets",
                "SELECT * FROM tm_audit_log",
                "SELECT * FROM tm_sources",
                "SELECT ftoptions FROM pg_foreign_table",
                "SELECT relname FROM pg_class",
            ];
            for sql in everything {
                let rows = run(&mut session, sql).await;
                assert!(!format!("{rows:?}").contains("in.csv"), "{sql}: {rows:?}");
            }
            assert_eq!(run(&mut session, "SELECT * FROM pg_class WHERE relname = 'Where'").await.len(), 0);

            let refused = error(&mut session, "DROP SECRET k.\"Where\"").await;
            assert_eq!(
                refused,
                "2BP01: cannot drop secret k.Where because other objects depend on it | source s depends on secret k.Where\npipeline p depends on source s | \
                 Use DROP … CASCADE to drop the dependent objects too."
            );
            // After a restart, too; and CASCADE takes along what uses it.
            session.database.engine.shutdown().await.unwrap();
            drop(session);
            let mut session = open(&directory.path().join("data")).await;
            wait(&mut session, "2").await;
            run(&mut session, "DROP SECRET k.\"Where\" CASCADE").await;
            assert_eq!(run(&mut session, "SHOW SOURCES").await.len(), 0);
            assert_eq!(tag(&mut session, "DROP SECRET IF EXISTS k.\"Where\"").await, "DROP SECRET");
        });
    }

    #[test]
    fn another_value_is_taken_at_once() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name).display().to_string();
            let mut session = open(&directory.path().join("data")).await;
            let n_files = |name: &str| std::fs::read_dir(path(name)).map_or(0, |entries| entries.count());
            run(&mut session, "CREATE TABLE t (a INT)").await;
            for (idx, (alter, is_taken)) in [
                ("ALTER SECRET place AS '$'", true),
                ("CREATE OR REPLACE SECRET place AS '$'", true),
                ("BEGIN; ALTER SECRET place AS '$'; COMMIT", true),
                ("BEGIN; ALTER SECRET place AS '$'; ROLLBACK", false),
            ]
            .into_iter()
            .enumerate()
            {
                let (first, second) = (format!("a{idx}"), format!("b{idx}"));
                run(&mut session, &format!("CREATE SECRET place AS '{}'", path(&first))).await;
                run(
                    &mut session,
                    "CREATE SINK k FROM t WITH (connector = 'file', path = SECRET place) FORMAT DEBEZIUM ENCODE JSON; \
                     INSERT INTO t VALUES (1)",
                )
                .await;
                let mut n_looks = 0;
                while n_files(&first) == 0 {
                    n_looks += 1;
                    assert!(n_looks < 1000, "nothing arrives in {first}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                run(&mut session, &alter.replace('$', &path(&second))).await;
                run(&mut session, "INSERT INTO t VALUES (2)").await;
                // Where it had delivered for sure, the sink says that it does not know the place: it has looked there.
                let mut has_looked = false;
                for _ in 0..if is_taken { 1000 } else { 30 } {
                    let errors = run(&mut session, "SELECT last_error FROM tm_sinks").await;
                    has_looked = n_files(&second) > 0 || errors != [["NULL"]];
                    if has_looked {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert_eq!(has_looked, is_taken, "{alter}");
                run(&mut session, "DROP SINK k; DROP SECRET place").await;
            }
        });
    }

    #[test]
    fn definitions_of_a_block_name_its_secrets() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("in.csv"), "1\n").unwrap();
            let place = directory.path().join("in.csv").display().to_string();
            let mut session = open(&directory.path().join("data")).await;
            let define = format!(
                "BEGIN; CREATE SECRET place AS '{place}'; \
                 CREATE SOURCE s (a INT) WITH (connector = 'file', path = SECRET place) FORMAT PLAIN ENCODE CSV; \
                 CREATE PIPELINE p AS SELECT a FROM s;"
            );
            run(&mut session, &format!("{define} ROLLBACK")).await;
            assert_eq!(run(&mut session, "SELECT * FROM tm_secrets").await.len(), 0);
            run(&mut session, &format!("{define} COMMIT")).await;
            wait(&mut session, "1").await;
        });
    }

    #[test]
    fn mistakes_say_where_and_never_what() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let mut session = open(directory.path()).await;
            run(&mut session, "CREATE SECRET pw AS 'hunter2'; CREATE TABLE t (a INT); CREATE ROLE ann").await;
            for (sql, expected) in [
                ("CREATE SECRET pw AS 'x'", "42P07: relation \"pw\" already exists @15 | "),
                ("CREATE SECRET t AS 'x'", "42P07: relation \"t\" already exists @15 | "),
                ("CREATE SECRET s AS ''", "22023: a secret must not be empty @17 | "),
                (
                    "CREATE SECRET s 'hunter2'",
                    "42601: a secret needs AS and its value @17 | Write the value as a string: AS 'value'.",
                ),
                (
                    "ALTER SECRET pw AS hunter2",
                    "42601: a secret needs AS and its value @17 | Write the value as a string: AS 'value'.",
                ),
                (
                    "CREATE SECRET s WITH (backend = 'vault')",
                    "0A000: CREATE SECRET … WITH is not supported @17 | The server keeps secrets itself: CREATE SECRET name AS 'value'.",
                ),
                (
                    "ALTER SECRET pv AS 'x'",
                    "42704: secret \"pv\" does not exist @14 | Perhaps you meant \"pw\".",
                ),
                ("ALTER TABLE pw ADD COLUMN b INT", "42809: \"pw\" is a secret, not a table @13 | "),
                (
                    "SELECT * FROM pw",
                    "42809: \"pw\" is a secret, which cannot be read @15 | Options of sources and sinks name it: password = SECRET name.",
                ),
                (
                    "INSERT INTO pw VALUES (1)",
                    "42809: \"pw\" is a secret, not a table @13 | Only tables are written to.",
                ),
                ("SUBSCRIBE TO pw", "42809: cannot subscribe to secret \"pw\" @14"),
                (
                    "GRANT SELECT ON SECRET pw TO ann",
                    "0LP01: invalid privilege type SELECT for secret pw @7 | There is USAGE.",
                ),
                (
                    "CREATE SINK k FROM t WITH (connector = SECRET pw)",
                    "22023: which connector it is cannot be a secret @47 | ",
                ),
                (
                    "CREATE PIPELINE p WITH (memory_limit = SECRET pw) AS SELECT a FROM t",
                    "22023: option \"memory_limit\" cannot be a secret @47 | Secrets are for the options of connectors and of ENCODE.",
                ),
                (
                    "CREATE SINK k FROM t WITH (connector = 'blackhole', memory_limit = SECRET pq)",
                    "42704: secret \"pq\" does not exist @75 | Perhaps you meant \"pw\".",
                ),
                (
                    "CREATE SINK k FROM t WITH (connector = 'blackhole', x = SECRET t)",
                    "42809: \"t\" is a table, not a secret @64 | CREATE SECRET name AS 'value' makes one.",
                ),
            ] {
                let found = error(&mut session, sql).await;
                assert!(found.starts_with(expected), "{sql}: {found}");
                assert!(!found.contains("hunter2"), "{found}");
            }
            // A connector that repeats what it does not understand.
            let refused = error(
                &mut session,
                "CREATE SOURCE g WITH (connector = 'generator', table = 'bid', rate = SECRET pw)",
            )
            .await;
            assert!(refused.contains("[redacted]") && !refused.contains("hunter2"), "{refused}");
            assert_eq!(tag(&mut session, "CREATE SECRET IF NOT EXISTS pw AS 'x'").await, "CREATE SECRET");
            assert_eq!(notices(&mut session), ["NOTICE: relation \"pw\" already exists, skipping ()"]);
            let audited = run(&mut session, "SELECT statement, message FROM tm_audit_log").await;
            assert!(!format!("{audited:?}").contains("hunter2"), "{audited:?}");
        });
    }
}
