//! `CREATE POLICY`, `ALTER POLICY`, `DROP POLICY`, `ALTER … ROW LEVEL SECURITY`.

use std::sync::Arc;

use tidemill_catalog::{Catalog, Kind, Object, Policy, PolicyCommand, RowSecurity};
use tidemill_core::SqlState;
use tidemill_sql::parser::ObjectName;
use tidemill_sql::statements::{AlterPolicy, CreatePolicy, DropPolicy, PolicyExpr, RoleName};

use super::{access, done};
use crate::session::Session;
use crate::session::api::{Notice, Response, SqlError};
use crate::session::definitions::Changing;
use crate::{policies, privileges};

pub async fn create(session: &mut Session, create: &CreatePolicy) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let object = relation(session, &catalog, &create.relation)?;
    let policy = Policy {
        oid: 0,
        name: create.name.value.clone(),
        is_restrictive: create.is_restrictive,
        command: command(create.command),
        roles: roles(session, &catalog, &create.roles)?,
        using: condition(session, &object, &create.using)?,
        check: condition(session, &object, &create.check)?,
    };
    if object.kind() == Kind::Pipeline
        && !matches!(policy.command, PolicyCommand::All | PolicyCommand::Select)
    {
        let message = format!("a policy of a pipeline is FOR SELECT, not FOR {}", policy.command.keyword());
        return Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message)
            .with_hint("Nobody writes to a pipeline.")
            .with_position(create.relation.position));
    }
    let changed = catalog
        .create_policy(object.oid, policy)
        .map_err(|error| SqlError::from(error).with_position(create.name.position))?;
    session.commit_catalog(changing, changed).await?;
    if !object.row_security.is_enabled {
        session.notice(format!(
            "the policy holds once row security is enabled: ALTER {} {} ENABLE ROW LEVEL SECURITY",
            object.kind().keyword(),
            create.relation
        ));
    }
    Ok(done("CREATE POLICY"))
}

pub async fn alter(session: &mut Session, alter: &AlterPolicy) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let object = relation(session, &catalog, &alter.relation)?;
    let name = &alter.name;
    let mut policy = catalog
        .policy(&object, &name.value)
        .map_err(|error| SqlError::from(error).with_position(name.position))?
        .clone();
    if let Some(to) = &alter.rename_to {
        policy.name = to.value.clone();
    }
    if let Some(named) = &alter.roles {
        policy.roles = roles(session, &catalog, named)?;
    }
    let wrong = |message: &str, expr: &PolicyExpr| {
        Err(SqlError::new(SqlState::SYNTAX_ERROR, message).with_position(expr.position))
    };
    match (policy.command, &alter.using, &alter.check) {
        (PolicyCommand::Select | PolicyCommand::Delete, _, Some(check)) => {
            return wrong("only USING expression allowed for SELECT, DELETE", check);
        }
        (PolicyCommand::Insert, Some(using), _) => {
            return wrong("only WITH CHECK expression allowed for INSERT", using);
        }
        _ => (),
    }
    policy.using = condition(session, &object, &alter.using)?.or(policy.using);
    policy.check = condition(session, &object, &alter.check)?.or(policy.check);
    let position = alter.rename_to.as_ref().map_or(name.position, |to| to.position);
    let changed = catalog
        .alter_policy(object.oid, &name.value, policy)
        .map_err(|error| SqlError::from(error).with_position(position))?;
    session.commit_catalog(changing, changed).await?;
    Ok(done("ALTER POLICY"))
}

pub async fn drop(session: &mut Session, drop: &DropPolicy) -> Result<Response, SqlError> {
    let changing = session.change_definitions().await?;
    let catalog = session.catalog();
    let object = relation(session, &catalog, &drop.relation)?;
    if let Err(error) = catalog.policy(&object, &drop.name.value) {
        if !drop.if_exists {
            return Err(SqlError::from(error).with_position(drop.name.position));
        }
        let (name, table) = (&drop.name.value, &object.name);
        session.notice(format!("policy \"{name}\" for relation \"{table}\" does not exist, skipping"));
        return Ok(done("DROP POLICY"));
    }
    session.commit_catalog(changing, catalog.drop_policy(object.oid, &drop.name.value)).await?;
    Ok(done("DROP POLICY"))
}

/// `ENABLE`, `DISABLE`, `FORCE`, `NO FORCE ROW LEVEL SECURITY`.
pub async fn set(
    session: &mut Session,
    object: &Arc<Object>,
    (is_enabled, is_forced): (Option<bool>, Option<bool>),
    name: &ObjectName,
    changing: Changing,
) -> Result<(), SqlError> {
    require_rows(object, name)?;
    let catalog = session.catalog();
    let row_security = RowSecurity {
        is_enabled: is_enabled.unwrap_or(object.row_security.is_enabled),
        is_forced: is_forced.unwrap_or(object.row_security.is_forced),
    };
    session.commit_catalog(changing, catalog.set_row_security(object.oid, row_security)).await?;
    // These were made by somebody who saw all rows, and go on with all of them.
    let keeps = |reader: &&Arc<Object>| matches!(reader.kind(), Kind::Pipeline | Kind::Sink);
    let readers: Vec<String> =
        catalog.dependents(object.oid).filter(keeps).map(|reader| reader.describe()).collect();
    if is_enabled == Some(true) && !readers.is_empty() {
        let message = format!("what reads all rows of {} goes on to", object.describe());
        let mut notice = Notice::warning(SqlState::WARNING, message);
        notice.detail = Some(readers.join("\n"));
        notice.hint = Some("Give pipelines policies of their own.".into());
        session.notices.push(notice);
    }
    Ok(())
}

/// What policies are of, which must be the user's.
fn relation(session: &Session, catalog: &Catalog, name: &ObjectName) -> Result<Arc<Object>, SqlError> {
    let search_path = session.settings.search_path();
    let object = catalog
        .resolve(name.schema.as_deref(), &name.name, &search_path)
        .map_err(|error| SqlError::from(error).with_position(name.position))?;
    privileges::require_owner(catalog, session.user(), object, false)
        .map_err(|error| error.with_position(name.position))?;
    require_rows(object, name)?;
    Ok(object.clone())
}

/// Only what has rows of its own can hide some.
fn require_rows(object: &Object, name: &ObjectName) -> Result<(), SqlError> {
    let hint = match object.kind() {
        Kind::Table | Kind::Pipeline => return Ok(()),
        Kind::View => "A view shows what its owner may see: write policies for what it reads.",
        Kind::Source => "Nobody reads a source but pipelines: write policies for these.",
        _ => "Only tables and pipelines have rows that are read.",
    };
    let message = format!("\"{}\" is a {}, which has no policies", object.name, object.kind());
    Err(SqlError::new(SqlState::WRONG_OBJECT_TYPE, message).with_hint(hint).with_position(name.position))
}

fn roles(session: &Session, catalog: &Catalog, roles: &[(RoleName, usize)]) -> Result<Vec<String>, SqlError> {
    roles.iter().map(|(role, position)| access::one_role(session, catalog, role, *position)).collect()
}

fn condition(
    session: &Session,
    object: &Object,
    expr: &Option<PolicyExpr>,
) -> Result<Option<String>, SqlError> {
    let Some(PolicyExpr { parsed, position }) = expr else { return Ok(None) };
    policies::check_condition(&session.database, object, &parsed.text).map_err(|mut error| {
        // What was planned is not the text as it stands there.
        error.position = Some(*position);
        error
    })?;
    Ok(Some(parsed.text.clone()))
}

fn command(word: &str) -> PolicyCommand {
    match word {
        "SELECT" => PolicyCommand::Select,
        "INSERT" => PolicyCommand::Insert,
        "UPDATE" => PolicyCommand::Update,
        "DELETE" => PolicyCommand::Delete,
        _ => PolicyCommand::All,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use futures::{StreamExt, TryStreamExt};
    use tidemill_engine::EngineConfig;
    use tokio_util::sync::CancellationToken;

    use crate::database::Database;
    use crate::session::Session;
    use crate::session::api::{Response, SessionApi};
    use crate::statements::testing::{notices, on_a_runtime, run, try_run};

    /// `ann` owns what there is; `bob` and `eve` read it.
    const WORLD: &str = "
        CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE eve LOGIN; CREATE ROLE staff; CREATE ROLE auditor BYPASSRLS;
        GRANT staff TO eve; GRANT CREATE ON SCHEMA public TO PUBLIC;
        SET ROLE ann;
        CREATE TABLE t (id INT PRIMARY KEY, owner TEXT, n INT);
        INSERT INTO t VALUES (1, 'bob', 10), (2, 'bob', 5), (3, 'eve', 0), (4, 'ann', 7);
        CREATE INDEX t_owner ON t (owner);
        CREATE PIPELINE p AS SELECT owner, sum(n) AS n FROM t GROUP BY owner;
        GRANT ALL ON t TO PUBLIC; GRANT SELECT ON p TO PUBLIC;
        RESET ROLE;
    ";

    async fn open(directory: &Path) -> Arc<Database> {
        let database = Database::open(directory, 2, EngineConfig::default()).await.unwrap();
        run(&mut session(&database, "tidemill"), WORLD).await;
        database
    }

    fn session(database: &Arc<Database>, user: &str) -> Session {
        Session::new(database.clone(), user.into())
    }

    /// The rows of the first column, in order, or why there are none.
    async fn ids(database: &Arc<Database>, user: &str, sql: &str) -> String {
        let mut session = session(database, user);
        match try_run(&mut session, sql).await {
            Ok(rows) => {
                let mut ids: Vec<String> = rows.into_iter().map(|row| row[0].clone()).collect();
                ids.sort();
                ids.join(",")
            }
            Err(error) => format!("{}: {}", error.sqlstate.0, error.message),
        }
    }

    async fn as_ann(database: &Arc<Database>, sql: &str) {
        run(&mut session(database, "ann"), sql).await;
    }

    const ALL: &str = "SELECT id FROM t";

    #[test]
    fn policies_say_which_rows_are_seen() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let database = &open(directory.path()).await;
            // Nothing is hidden before row security is enabled, and everything without a policy.
            assert_eq!(ids(database, "bob", ALL).await, "1,2,3,4");
            as_ann(database, "ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
            assert_eq!(ids(database, "bob", ALL).await, "");
            for exempt in ["ann", "tidemill", "auditor"] {
                assert_eq!(ids(database, exempt, ALL).await, "1,2,3,4", "{exempt}");
            }
            as_ann(database, "CREATE POLICY own ON t USING (owner = current_user)").await;
            assert_eq!(ids(database, "bob", ALL).await, "1,2");
            assert_eq!(ids(database, "eve", ALL).await, "3");
            // Of permissive ones one is enough, of restrictive ones all have to let a row through; each for its roles.
            as_ann(database, "CREATE POLICY zero ON t FOR SELECT TO staff USING (t.n > 5)").await;
            assert_eq!(ids(database, "eve", ALL).await, "1,3,4");
            assert_eq!(ids(database, "bob", ALL).await, "1,2");
            as_ann(database, "CREATE POLICY small ON t AS RESTRICTIVE TO bob, eve USING (n < 10)").await;
            assert_eq!(ids(database, "eve", ALL).await, "3,4");
            assert_eq!(ids(database, "bob", ALL).await, "2");
            as_ann(database, "ALTER POLICY small ON t TO bob USING (id > 0)").await;
            assert_eq!(ids(database, "eve", ALL).await, "1,3,4");
            assert_eq!(ids(database, "bob", ALL).await, "1,2");
            as_ann(database, "DROP POLICY small ON t; DROP POLICY IF EXISTS small ON t").await;
            // The owner as well, if that is forced; never a superuser.
            as_ann(database, "ALTER TABLE t FORCE ROW LEVEL SECURITY").await;
            assert_eq!(ids(database, "ann", ALL).await, "4");
            assert_eq!(ids(database, "tidemill", ALL).await, "1,2,3,4");
            as_ann(database, "ALTER TABLE t NO FORCE ROW LEVEL SECURITY").await;
            assert_eq!(ids(database, "ann", ALL).await, "1,2,3,4");
            // What a session says of itself, which changes with SET ROLE.
            as_ann(database, "DROP POLICY zero ON t; ALTER POLICY own ON t USING (owner = current_setting('app.tenant', true))").await;
            assert_eq!(ids(database, "bob", ALL).await, "");
            assert_eq!(ids(database, "bob", "SET app.tenant = 'eve'; SELECT id FROM t").await, "3");
            as_ann(database, "ALTER POLICY own ON t USING (owner = session_user OR owner = current_user)")
                .await;
            assert_eq!(ids(database, "tidemill", "SET ROLE bob; SELECT id FROM t").await, "1,2");
            // After a restart, too.
            as_ann(
                database,
                "ALTER TABLE t DISABLE ROW LEVEL SECURITY; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            )
            .await;
            database.engine.shutdown().await.unwrap();
            let database = Database::open(directory.path(), 2, EngineConfig::default()).await.unwrap();
            assert_eq!(ids(&database, "bob", ALL).await, "1,2");
        });
    }

    #[test]
    fn policies_hold_on_every_way_to_the_rows() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let database = &open(directory.path()).await;
            as_ann(
                database,
                "CREATE VIEW anns AS SELECT id, owner FROM t; GRANT SELECT ON anns TO PUBLIC;
                 ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER PIPELINE p ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY own ON t USING (owner = current_user);
                 CREATE POLICY own ON p USING (owner = current_user)",
            )
            .await;
            for (sql, expected) in [
                ("SELECT count(*) FROM t", "2"),
                ("SELECT t.id FROM t JOIN t AS u ON t.id = u.id", "1,2"),
                ("SELECT id FROM t WHERE id = 3", ""),
                ("SELECT id FROM t WHERE owner = 'eve'", ""),
                ("SELECT id FROM t WHERE owner >= 'a' AND id IN (1, 3)", "1"),
                ("SELECT id FROM t WHERE id IN (SELECT id FROM t)", "1,2"),
                ("SELECT (SELECT max(id) FROM t)", "2"),
                ("SELECT id FROM t ORDER BY id DESC LIMIT 1", "2"),
                ("WITH x AS (SELECT * FROM t) SELECT id FROM x UNION ALL SELECT id FROM t", "1,1,2,2"),
                ("SELECT t.id FROM t, pg_class AS c WHERE c.relname = 't'", "1,2"),
                ("SELECT id FROM t WHERE owner = current_user", "1,2"),
                ("SELECT n FROM p", "15"),
                ("DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t; FETCH ALL FROM c", "1,2"),
                ("PREPARE q AS SELECT id FROM t; EXECUTE q", "1,2"),
                ("CREATE TABLE copied AS SELECT id FROM t; SELECT id FROM copied", "1,2"),
                ("BEGIN; SELECT id FROM t; COMMIT", "1,2"),
                // With the rights of the view's owner, as in PostgreSQL.
                ("SELECT id FROM anns", "1,2,3,4"),
                ("CREATE VIEW mine AS SELECT id FROM t; SELECT id FROM mine", "1,2"),
                ("VERIFY PIPELINE p", "42501: policies of pipeline p hide rows from role \"bob\""),
                (
                    "CREATE PIPELINE x AS SELECT id FROM t",
                    "42501: policies of table t hide rows from role \"bob\"",
                ),
                (
                    "CREATE PIPELINE x AS SELECT id FROM mine",
                    "42501: policies of table t hide rows from role \"bob\"",
                ),
                (
                    "EXPLAIN CREATE PIPELINE x AS SELECT id FROM t",
                    "42501: policies of table t hide rows from role \"bob\"",
                ),
                (
                    "CREATE SINK x FROM p WITH (connector = 'blackhole')",
                    "42501: policies of pipeline p hide rows from role \"bob\"",
                ),
                ("CREATE PIPELINE x AS SELECT id FROM anns; SELECT id FROM x", "1,2,3,4"),
            ] {
                assert_eq!(ids(database, "bob", sql).await, expected, "{sql}");
            }
            assert_eq!(
                ids(database, "eve", "SELECT id FROM mine").await,
                "42501: permission denied for view mine"
            );
            let mut bob = session(database, "bob");
            let analyzed =
                format!("{:?}", run(&mut bob, "EXPLAIN ANALYZE SELECT * FROM t WHERE n > 100").await);
            assert!(!analyzed.contains("eve"), "{analyzed}");
            let explained = format!("{:?}", run(&mut bob, "EXPLAIN SELECT * FROM t").await);
            assert!(explained.contains("t_owner") && explained.contains("policies"), "{explained}");
            for (sql, expected) in [
                ("COPY t TO STDOUT", 2),
                ("COPY (SELECT * FROM t) TO STDOUT", 2),
                ("SUBSCRIBE TO t", 2),
                ("SUBSCRIBE TO p", 1),
            ] {
                let parsed = SessionApi::parse(&mut bob, sql).unwrap().remove(0);
                let answer =
                    SessionApi::execute(&mut bob, &parsed, Vec::new(), &CancellationToken::new()).await;
                let n_rows = match answer.unwrap() {
                    Response::CopyOut { rows, .. } => {
                        let batches: Vec<_> = rows.try_collect().await.unwrap();
                        batches.iter().map(|batch| batch.num_rows()).sum()
                    }
                    Response::Rows { mut rows, .. } => {
                        // What comes later is held back, too.
                        let mut n_rows = rows.next().await.unwrap().unwrap().num_rows();
                        as_ann(database, "INSERT INTO t VALUES (9, 'eve', 1); DELETE FROM t WHERE id = 9")
                            .await;
                        n_rows += rows.next().await.unwrap().unwrap().num_rows();
                        n_rows
                    }
                    _ => panic!("{sql}"),
                };
                assert_eq!(n_rows, expected, "{sql}");
            }
        });
    }

    #[test]
    fn what_fails_on_hidden_rows_is_not_told() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let database = &open(directory.path()).await;
            as_ann(
                database,
                "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (owner = current_user)",
            )
            .await;
            // Eve's row has the zero.
            for sql in [
                "SELECT id FROM t WHERE 100 / n > 0",
                "SELECT id FROM t WHERE 100 / n > 0 AND owner = 'eve' OR 100 / n > 0",
                "SELECT id FROM (SELECT id, 100 / n AS q FROM t) AS x WHERE q > 0",
                "SELECT id FROM t WHERE CASE WHEN owner = 'eve' THEN 1 / (n - n) = 1 ELSE true END",
                "SELECT t.id FROM t JOIN t AS u ON t.id = u.id AND 100 / u.n > 0",
                "SELECT id FROM t WHERE owner::int > 0 OR true",
            ] {
                let seen = ids(database, "bob", sql).await;
                let fails_on_own = sql.contains("owner::int");
                assert!(
                    seen == "1,2" || (fails_on_own && seen.starts_with("22P02") && !seen.contains("eve")),
                    "{sql}: {seen}"
                );
            }
            assert!(ids(database, "ann", "SELECT id FROM t WHERE 100 / n > 0").await.starts_with("22012"));
        });
    }

    #[test]
    fn policies_say_which_rows_are_written() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let database = &open(directory.path()).await;
            as_ann(
                database,
                "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (owner = current_user);
                 CREATE POLICY positive ON t AS RESTRICTIVE FOR INSERT WITH CHECK (n > 0)",
            )
            .await;
            let violated = "42501: new row violates row-level security policy for table \"t\"";
            for (sql, expected) in [
                ("INSERT INTO t VALUES (5, 'bob', 1)", ""),
                ("INSERT INTO t VALUES (6, 'eve', 1)", violated),
                ("INSERT INTO t VALUES (6, NULL, 1)", violated),
                ("INSERT INTO t VALUES (6, 'bob', 0)", violated),
                ("INSERT INTO t VALUES (6, 'bob', 1), (7, 'eve', 1) RETURNING id", violated),
                ("BEGIN; INSERT INTO t VALUES (6, 'eve', 1); COMMIT", violated),
                ("UPDATE t SET n = n + 1 RETURNING id", "1,2,5"),
                ("UPDATE t SET owner = 'eve' WHERE id = 1", violated),
                // What a statement checks is what it writes, whatever has that name.
                ("CREATE TABLE __touched (id INT, owner TEXT, n INT); SELECT id FROM __touched", ""),
                ("INSERT INTO t VALUES (6, 'eve', 1)", violated),
                ("INSERT INTO t VALUES (6, 'bob', 1) RETURNING id", "6"),
                ("DROP TABLE __touched; DELETE FROM t WHERE id = 6 RETURNING id", "6"),
                ("UPDATE t SET n = 0 WHERE id = 5 RETURNING id", "5"),
                ("UPDATE t SET n = 1 WHERE id = 3 RETURNING id", ""),
                ("DELETE FROM t WHERE id IN (3, 5) RETURNING id", "5"),
                (
                    "INSERT INTO t VALUES (1, 'bob', 1) ON CONFLICT (id) DO UPDATE SET n = 1",
                    "0A000: INSERT … ON CONFLICT is not supported with row-level security",
                ),
                ("COPY t FROM STDIN", "0A000: COPY FROM is not supported with row-level security"),
                ("INSERT INTO t SELECT id + 100, owner, n FROM t RETURNING id", "101,102"),
                ("DELETE FROM t RETURNING id", "1,101,102,2"),
            ] {
                assert_eq!(ids(database, "bob", sql).await, expected, "{sql}");
            }
            assert_eq!(ids(database, "tidemill", ALL).await, "3,4");
            // Each command has its own, and what is read of what is changed is what may be read.
            as_ann(
                database,
                "DROP POLICY own ON t; CREATE POLICY see ON t FOR SELECT USING (true);
                 CREATE POLICY change ON t FOR UPDATE USING (owner = current_user) WITH CHECK (n < 100)",
            )
            .await;
            for (sql, expected) in [
                ("UPDATE t SET n = 50 RETURNING id", "3"),
                ("UPDATE t SET n = 100", violated),
                ("UPDATE t SET owner = 'bob' RETURNING id", "3"),
                ("DELETE FROM t RETURNING id", ""),
                ("INSERT INTO t VALUES (8, 'eve', 1)", violated),
            ] {
                assert_eq!(ids(database, "eve", sql).await, expected, "{sql}");
            }
            // Who may change the table itself changes all of it, and TRUNCATE asks no policy.
            as_ann(
                database,
                "ALTER TABLE t FORCE ROW LEVEL SECURITY; DROP PIPELINE p; ALTER TABLE t ADD COLUMN x INT",
            )
            .await;
            assert_eq!(ids(database, "tidemill", ALL).await, "3,4");
            assert_eq!(ids(database, "bob", ALL).await, "3,4");
            assert_eq!(ids(database, "bob", "DELETE FROM t RETURNING id").await, "");
            run(&mut session(database, "bob"), "TRUNCATE t").await;
            assert_eq!(ids(database, "tidemill", ALL).await, "");
        });
    }

    #[test]
    fn mistakes_in_policies() {
        on_a_runtime(async {
            let directory = tempfile::tempdir().unwrap();
            let database = &open(directory.path()).await;
            as_ann(
                database,
                "CREATE VIEW v AS SELECT 1 AS a; CREATE POLICY own ON t TO bob USING (owner = current_user)",
            )
            .await;
            let mut ann = session(database, "ann");
            for (sql, expected) in [
                (
                    "CREATE POLICY own ON t USING (true)",
                    "42710: policy \"own\" for relation \"t\" already exists @15",
                ),
                (
                    "CREATE POLICY a ON t USING (id)",
                    "42804: argument of a policy must be type boolean, not type integer @29",
                ),
                ("CREATE POLICY a ON t USING (ownr = 'x')", "42703: "),
                (
                    "CREATE POLICY a ON t USING (id IN (SELECT 1))",
                    "0A000: a subquery in a policy is not supported @29",
                ),
                (
                    "CREATE POLICY a ON t FOR SELECT WITH CHECK (true)",
                    "42601: WITH CHECK cannot be applied to SELECT or DELETE @45",
                ),
                (
                    "CREATE POLICY a ON t FOR INSERT USING (true)",
                    "42601: only WITH CHECK expression allowed for INSERT @40",
                ),
                ("CREATE POLICY a ON t FOR TRUNCATE", "42601: syntax error at or near \"TRUNCATE\" @26"),
                ("CREATE POLICY a ON t AS PERMISIVE", "42601: syntax error at or near \"PERMISIVE\" @25"),
                ("CREATE POLICY a ON t TO nobody", "42704: role \"nobody\" does not exist @25"),
                (
                    "CREATE POLICY a ON p FOR DELETE",
                    "42809: a policy of a pipeline is FOR SELECT, not FOR DELETE @20",
                ),
                ("CREATE POLICY a ON v", "42809: \"v\" is a view, which has no policies @20"),
                (
                    "ALTER VIEW v ENABLE ROW LEVEL SECURITY",
                    "42809: \"v\" is a view, which has no policies @12",
                ),
                (
                    "ALTER POLICY onw ON t USING (true)",
                    "42704: policy \"onw\" for relation \"t\" does not exist @14",
                ),
                ("ALTER POLICY own ON t", "42601: syntax error at end of input @22"),
                ("DROP POLICY onw ON t", "42704: policy \"onw\" for relation \"t\" does not exist @13"),
                ("ALTER TABLE t RENAME COLUMN owner TO whose", "2BP01: "),
            ] {
                let error = try_run(&mut ann, sql).await.expect_err(sql);
                let position = error.position.map_or(String::new(), |position| format!(" @{position}"));
                let shown = format!("{}: {}{position}", error.sqlstate.0, error.message);
                assert!(shown.starts_with(expected), "{sql}: {shown}");
            }
            as_ann(database, "DROP PIPELINE p; CREATE POLICY named ON t TO eve USING (t.n > 0)").await;
            let error = try_run(&mut ann, "ALTER TABLE t RENAME TO u").await.unwrap_err();
            assert_eq!(error.message, "cannot alter table u because policy named depends on its columns");
            as_ann(database, "DROP POLICY named ON t").await;
            let error = try_run(&mut ann, "ALTER TABLE t DROP COLUMN owner").await.unwrap_err();
            assert_eq!(error.message, "cannot alter table t because policy own depends on its columns");
            // A policy keeps its role from being dropped, and goes with it rather than be for everybody.
            let mut root = session(database, "tidemill");
            run(&mut root, "ALTER ROLE bob RENAME TO rob").await;
            let shown =
                "SELECT tablename, policyname, permissive, roles, cmd, qual, with_check FROM pg_policies";
            assert_eq!(
                run(&mut root, shown).await,
                [["t", "own", "PERMISSIVE", "[rob]", "ALL", "(owner = current_user)", "NULL"]]
            );
            let error = try_run(&mut root, "DROP ROLE rob").await.unwrap_err();
            assert!(error.detail.unwrap().contains("target of policy own on table t"));
            run(&mut root, "DROP OWNED BY rob; DROP ROLE rob").await;
            assert_eq!(run(&mut root, shown).await.len(), 0);
            // What replaces a relation hides what that hid.
            as_ann(
                database,
                "CREATE PIPELINE p AS SELECT owner FROM t; ALTER PIPELINE p ENABLE ROW LEVEL SECURITY",
            )
            .await;
            as_ann(database, "CREATE OR REPLACE PIPELINE p AS SELECT owner, n FROM t").await;
            let of_p = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'p'";
            assert_eq!(run(&mut root, of_p).await, [["true", "false"]]);
            as_ann(database, "CREATE POLICY n ON p USING (n > 0)").await;
            let error =
                try_run(&mut ann, "CREATE OR REPLACE PIPELINE p AS SELECT owner FROM t").await.unwrap_err();
            assert_eq!(error.sqlstate.0, "2BP01", "{error:?}");
            notices(&mut ann);
            run(&mut ann, "ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
            assert_eq!(
                notices(&mut ann),
                ["WARNING: what reads all rows of table t goes on to (pipeline p)"]
            );
            let error = try_run(&mut ann, "ALTER ROLE eve BYPASSRLS").await.unwrap_err();
            assert_eq!(error.sqlstate.0, "42501");
        });
    }
}
