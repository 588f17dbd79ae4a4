//! Statements of real clients over a small catalog.

use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::dataframe::DataFrame;
use tidemill_catalog::{
    Column, Definition, NewObject, OnConflict, PipelineDefinition, Role, SourceDefinition, TableDefinition,
    ViewDefinition,
};
use tidemill_sql::Planner;

use super::*;

fn new(name: &str, columns: Vec<Column>, definition: Definition) -> NewObject {
    NewObject {
        schema: "public".into(),
        name: name.into(),
        columns,
        primary_key: Vec::new(),
        definition,
        sql: String::new(),
        search_path: vec!["public".into()],
        dependencies: Vec::new(),
        owner: "tidemill".into(),
        created_at: 0,
    }
}

fn declared(mut column: Column, type_name: &str) -> Column {
    column.metadata.insert(tidemill_sql::types::PG_TYPE.into(), type_name.into());
    column
}

/// A table with a key, a view over it, a pipeline, a source, and comments.
fn sample() -> PgCatalog {
    let create = |catalog: &Catalog, object: NewObject| {
        let (catalog, created) = catalog.create(object, OnConflict::Fail).unwrap();
        (catalog, created.object().oid)
    };
    let column = |name: &str, data_type: DataType| Column::new(name, data_type, true);
    let text_list = DataType::List(Arc::new(arrow::datatypes::Field::new("item", DataType::Utf8, true)));
    let mut note = declared(column("note", DataType::Utf8), "varchar(20)");
    note.default = Some("'x'".into());
    let columns = vec![
        Column::new("id", DataType::Int64, false),
        Column::new("customer", DataType::Utf8, false),
        column("amount", DataType::Decimal128(12, 2)),
        note,
        column("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        column("tags", text_list),
    ];
    let mut orders = new("orders", columns.clone(), Definition::Table(TableDefinition::default()));
    orders.primary_key = vec!["id".into()];
    let alice = Role { can_login: true, ..Role::new("alice") };
    let (catalog, orders) = create(&Catalog::new().create_role(alice).unwrap(), orders);
    let query = "SELECT * FROM orders WHERE amount > 100".to_owned();
    let mut view = new("big_orders", columns, Definition::View(ViewDefinition { query }));
    view.dependencies = vec![orders];
    let (catalog, _) = create(&catalog, view);
    let pipeline = PipelineDefinition {
        query: "SELECT customer, sum(amount) AS total FROM orders GROUP BY customer".into(),
        ..Default::default()
    };
    let columns =
        vec![Column::new("customer", DataType::Utf8, false), column("total", DataType::Decimal128(38, 10))];
    let mut totals = new("totals", columns, Definition::Pipeline(pipeline));
    totals.dependencies = vec![orders];
    totals.primary_key = vec!["customer".into()];
    let (catalog, totals) = create(&catalog, totals);
    let source = SourceDefinition {
        options: vec![
            ("connector".into(), "kafka".into()),
            ("topic".into(), "clicks".into()),
            ("sasl.password".into(), "hunter2".into()),
        ],
        ..Default::default()
    };
    let columns = vec![column("url", DataType::Utf8), column("n", DataType::Int32)];
    let (catalog, _) = create(&catalog, new("clicks", columns, Definition::Source(source)));
    let catalog = catalog.comment(orders, Some("what was bought".into()));
    let catalog = catalog.comment(totals, Some("by customer".into()));
    let catalog = catalog.comment_column(orders, "amount", Some("in euros".into())).unwrap();
    PgCatalog {
        catalog: Arc::new(catalog),
        user: "alice".into(),
        session_user: "alice".into(),
        database: "tidemill".into(),
        search_path: vec!["public".into()],
        settings: vec![("application_name".into(), "psql".into())],
        backend_pid: 7,
        connections: None,
        announcements: Default::default(),
        locks: Vec::new(),
        sequences: Arc::default(),
    }
}

/// The rows of a statement, as text; `NULL` for NULL.
async fn try_run(pg: &PgCatalog, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let mut sql = sql.to_owned();
    for object in pg.catalog.objects() {
        sql = sql.replace(&format!("${{{}}}", object.name), &object.oid.to_string());
        let index = format!("${{{}_pkey}}", object.name);
        sql = sql.replace(&index, &relations::index_oid(object.oid).to_string());
    }
    let mut query = tidemill_sql::parser::parse_query(&sql).map_err(|error| format!("parse: {error}"))?;
    if !is_catalog_query(&query) {
        return Err("not taken for a catalog query".into());
    }
    rewrite(&mut query, pg).map_err(|error| format!("rewrite: {error}"))?;
    let shown = if std::env::var_os("SHOW").is_some() { format!("\n   {query}") } else { String::new() };
    let planner = Planner::new(2).with_functions(pg.functions());
    let planned = planner.plan_query(&query, pg).await.map_err(|error| format!("plan: {error}{shown}"))?;
    let frame = DataFrame::new(planned.state, planned.plan);
    let batches = frame.collect().await.map_err(|error| format!("run: {error}{shown}"))?;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row_idx in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row_idx).to_string()).collect());
        }
    }
    Ok(rows)
}

async fn run(sql: &str) -> Vec<Vec<String>> {
    try_run(&sample(), sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"))
}

/// The statements of a data file, with the command that sent each.
fn statements(file: &str) -> Vec<(&str, &str)> {
    file.split("\n--@ ").skip(1).filter_map(|part| part.split_once('\n')).collect()
}

/// Runs a file; the failures.
async fn failures(file: &str) -> Vec<String> {
    let pg = sample();
    let mut failures = Vec::new();
    for (command, sql) in statements(file) {
        if let Err(error) = try_run(&pg, sql).await {
            let start: String = sql.split_whitespace().collect::<Vec<_>>().join(" ");
            failures.push(format!("{command}: {error}\n   {}", start.chars().take(400).collect::<String>()));
        }
    }
    failures
}

#[tokio::test]
async fn psql_commands_run() {
    let failures = failures(include_str!("testdata/psql.sql")).await;
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn client_statements_run() {
    let failures = failures(include_str!("testdata/clients.sql")).await;
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// The statements that psql sends for one command.
fn sent(command: &str) -> Vec<&'static str> {
    let all = statements(include_str!("testdata/psql.sql")).into_iter();
    all.filter(|(of, _)| *of == command).map(|(_, sql)| sql).collect()
}

async fn first_of(command: &str) -> Vec<Vec<String>> {
    run(sent(command)[0]).await
}

/// Rows as a client would see them, without trailing blanks of the test's own table.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    rows.iter().map(|row| row.join("|")).collect()
}

#[tokio::test]
async fn psql_lists_each_kind() {
    let list = ["public|big_orders|view|tidemill", "public|clicks|foreign table|tidemill"];
    let tables = table(&first_of("\\d").await);
    assert_eq!(tables[..2], list);
    assert!(tables.contains(&"public|orders|table|tidemill".to_owned()), "{tables:?}");
    assert!(tables.contains(&"public|totals|materialized view|tidemill".to_owned()), "{tables:?}");
    assert_eq!(tables.len(), 4);
    assert_eq!(table(&first_of("\\dt").await), ["public|orders|table|tidemill"]);
    assert_eq!(table(&first_of("\\dm").await), ["public|totals|materialized view|tidemill"]);
    assert_eq!(table(&first_of("\\dv").await), ["public|big_orders|view|tidemill"]);
    assert_eq!(
        table(&first_of("\\di").await),
        ["public|orders_pkey|index|tidemill|orders", "public|totals_pkey|index|tidemill|totals"]
    );
    let with_comments = first_of("\\dt+").await;
    assert_eq!(with_comments[0].last().map(String::as_str), Some("what was bought"));
    assert_eq!(table(&first_of("\\dn").await), ["public|tidemill"]);
}

#[tokio::test]
async fn psql_lists_databases_and_roles() {
    let databases: Vec<String> = first_of("\\l").await.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(databases, ["postgres", "template0", "template1", "tidemill"]);
    let roles: Vec<String> = first_of("\\du").await.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(roles, ["alice", "tidemill"]);
}

#[tokio::test]
async fn psql_describes_a_table() {
    let sent = sent("\\d orders");
    let columns = sent.iter().find(|sql| sql.contains("pg_attrdef")).unwrap();
    let rows = run(columns).await;
    let columns: Vec<[&str; 4]> =
        rows.iter().map(|row| [row[0].as_str(), row[1].as_str(), row[2].as_str(), row[3].as_str()]).collect();
    assert_eq!(
        columns,
        [
            ["id", "bigint", "NULL", "true"],
            ["customer", "text", "NULL", "true"],
            ["amount", "numeric(12,2)", "NULL", "false"],
            ["note", "character varying(20)", "'x'", "false"],
            ["at", "timestamp with time zone", "NULL", "false"],
            ["tags", "text[]", "NULL", "false"],
        ]
    );
    let keys = sent.iter().find(|sql| sql.contains("pg_get_constraintdef")).unwrap();
    let rows = table(&run(keys).await);
    assert_eq!(rows.len(), 1);
    assert!(
        rows[0]
            .contains("CREATE UNIQUE INDEX orders_pkey ON public.orders USING btree (id)|PRIMARY KEY (id)")
    );
}

#[tokio::test]
async fn secrets_of_sources_are_not_shown() {
    let rows = run("SELECT ftoptions FROM pg_foreign_table").await;
    assert_eq!(rows, [["[connector=kafka, topic=clicks, sasl.password=********]"]]);
}

#[tokio::test]
async fn regclass_has_two_faces() {
    let rows = run("SELECT c.oid = 'orders'::regclass, c.oid::regclass, c.oid::regclass::text \
                    FROM pg_class c WHERE c.oid = 'public.orders'::regclass")
    .await;
    assert_eq!(rows, [["true", "orders", "orders"]]);
    assert_eq!(run("SELECT 'pg_class'::regclass::oid").await, [["1259"]]);
    assert_eq!(run("SELECT 'pg_catalog.pg_class'::regclass").await, [["pg_class"]]);
    assert_eq!(run("SELECT to_regclass('nowhere') IS NULL").await, [["true"]]);
}

#[tokio::test]
async fn an_unknown_relation_has_its_sqlstate() {
    let pg = sample();
    let mut query = tidemill_sql::parser::parse_query("SELECT 'nowhere'::regclass").unwrap();
    rewrite(&mut query, &pg).unwrap();
    let planner = Planner::new(1).with_functions(pg.functions());
    let planned = planner.plan_query(&query, &pg).await.unwrap();
    let error = DataFrame::new(planned.state, planned.plan).collect().await.unwrap_err();
    let error = crate::session::api::SqlError::from_datafusion(error);
    assert_eq!(error.sqlstate.0, "42P01");
    assert_eq!(error.message, "relation \"nowhere\" does not exist");
}

#[tokio::test]
async fn subqueries_see_outer_columns() {
    let rows = run("SELECT c.relname, (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0), \
                    ARRAY(SELECT attname || '/' || c.relname FROM pg_attribute WHERE attrelid = c.oid ORDER BY attnum LIMIT 2), \
                    EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid) \
                    FROM pg_class c WHERE c.relname IN ('orders', 'clicks') ORDER BY 1")
    .await;
    assert_eq!(
        table(&rows),
        ["clicks|2|[url/clicks, n/clicks]|false", "orders|6|[id/orders, customer/orders]|true"]
    );
    let error = try_run(
        &sample(),
        "SELECT (SELECT attname FROM pg_attribute a WHERE a.attrelid = c.oid) \
                                    FROM pg_class c WHERE relname = 'orders'",
    )
    .await
    .unwrap_err();
    assert!(error.contains("more than one row returned by a subquery"), "{error}");
}

#[tokio::test]
async fn arrays_and_patterns_mean_what_they_do_in_postgresql() {
    let rows =
        run("SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg/_' || '%' ESCAPE '/' ORDER BY 1")
            .await;
    assert_eq!(rows, [["information_schema"], ["public"]]);
    let rows =
        run("SELECT relname FROM pg_class WHERE relkind = ANY ('{v,m}') AND relnamespace = 2200 ORDER BY 1")
            .await;
    assert_eq!(rows, [["big_orders"], ["totals"]]);
    let rows =
        run("SELECT i.indnatts, k.key, k.n FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(key, n) \
                    WHERE i.indrelid = ${orders}")
        .await;
    assert_eq!(rows, [["1", "1", "1"]]);
    let rows = run("SELECT indkey::text, indkey[0] FROM pg_index WHERE indrelid = ${orders}").await;
    assert_eq!(rows, [["1", "1"]]);
}

#[tokio::test]
async fn information_schema_has_types_of_postgresql() {
    let rows = run(
        "SELECT column_name, data_type, udt_name, numeric_precision, character_maximum_length, is_nullable \
                    FROM information_schema.columns WHERE table_name = 'orders' ORDER BY ordinal_position",
    )
    .await;
    assert_eq!(
        table(&rows),
        [
            "id|bigint|int8|64|NULL|NO",
            "customer|text|text|NULL|NULL|NO",
            "amount|numeric|numeric|12|NULL|YES",
            "note|character varying|varchar|NULL|20|YES",
            "at|timestamp with time zone|timestamptz|NULL|NULL|YES",
            "tags|ARRAY|_text|NULL|NULL|YES",
        ]
    );
    let rows = run("SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1").await;
    assert_eq!(table(&rows), ["big_orders|VIEW", "clicks|FOREIGN", "orders|BASE TABLE", "totals|VIEW"]);
}

#[tokio::test]
async fn views_depend_on_what_they_read() {
    // As dbt asks.
    let rows = run("SELECT dependent.relname, referenced.relname FROM pg_class dependent \
                    JOIN pg_depend d ON d.refobjid = dependent.oid AND d.classid = 'pg_rewrite'::regclass AND d.deptype = 'i' \
                    JOIN pg_depend j ON j.objid = d.objid AND j.refobjid != d.refobjid \
                    JOIN pg_class referenced ON referenced.oid = j.refobjid ORDER BY 1")
    .await;
    assert_eq!(table(&rows), ["big_orders|orders", "totals|orders"]);
}

#[tokio::test]
async fn the_session_shows_through() {
    let rows = run("SELECT version(), current_user, current_schema, current_schemas(true), \
                    current_setting('server_version_num')::int, current_setting('application_name')")
    .await;
    assert_eq!(table(&rows), [format!("{VERSION}|alice|public|[pg_catalog, public]|160006|psql")]);
    let error = try_run(&sample(), "SELECT current_setting('no.such')").await.unwrap_err();
    assert!(error.contains("unrecognized configuration parameter"), "{error}");
    assert_eq!(run("SELECT current_setting('no.such', true)").await, [["NULL"]]);
}

#[tokio::test]
async fn system_rows_have_real_oids() {
    let rows = run(
        "SELECT oid, typname, typarray FROM pg_type WHERE typname IN ('int8', 'jsonb', '_text') ORDER BY 1",
    )
    .await;
    assert_eq!(table(&rows), ["20|int8|1016", "1009|_text|0", "3802|jsonb|3807"]);
    let rows =
        run("SELECT oid, nspname FROM pg_namespace WHERE nspname IN ('public', 'pg_catalog') ORDER BY 1")
            .await;
    assert_eq!(table(&rows), ["11|pg_catalog", "2200|public"]);
    let rows = run("SELECT c.tableoid, c.relkind FROM pg_class c WHERE c.oid = 1259").await;
    assert_eq!(table(&rows), ["1259|r"]);
}

#[test]
fn queries_of_users_are_left_alone() {
    let is = |sql: &str| is_catalog_query(&tidemill_sql::parser::parse_query(sql).unwrap());
    assert!(!is(
        "SELECT count(*), (SELECT max(b) FROM u WHERE u.a = t.a) FROM t WHERE x LIKE 'a/_' ESCAPE '/'"
    ));
    assert!(!is("SELECT a::text, b::bigint FROM public.orders WHERE a ~ 'b'"));
    assert!(is("SELECT * FROM pg_class"));
    assert!(is("SELECT 1 FROM information_schema.tables"));
    assert!(is("SELECT version()"));
    assert!(is("SELECT current_schema"));
    assert!(is("SELECT 'orders'::regclass"));
    assert!(is("SELECT (SELECT pg_catalog.now())"));
}

#[test]
fn no_relation_has_two_oids() {
    let mut oids: Vec<Oid> = layout::LAYOUTS.iter().map(|layout| layout.oid).collect();
    oids.sort_unstable();
    oids.dedup();
    assert_eq!(oids.len(), layout::LAYOUTS.len());
    let pg = sample();
    for layout in layout::LAYOUTS.iter() {
        assert!(pg.table(Some(layout.schema), layout.name).is_some(), "{}", layout.name);
    }
    assert!(pg.table(Some("public"), "pg_class").is_none());
}
