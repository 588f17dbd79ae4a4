//! Statements of real clients over a small catalog.

use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::dataframe::DataFrame;
use tidemill_catalog::{
    Column, Definition, NewObject, OnConflict, PipelineDefinition, SourceDefinition, TableDefinition,
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
    let (catalog, orders) = create(&Catalog::new(), orders);
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
        database: "tidemill".into(),
        search_path: vec!["public".into()],
        settings: vec![("application_name".into(), "psql".into())],
        backend_pid: 7,
        backends: Vec::new(),
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
