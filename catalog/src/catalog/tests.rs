use arrow::datatypes::DataType;
use tidemill_core::{Diagnostic, SqlState};

use crate::*;

fn path() -> Vec<String> {
    vec!["public".to_string()]
}

fn new(name: &str, definition: Definition, dependencies: &[Oid]) -> NewObject {
    NewObject {
        schema: "public".to_string(),
        name: name.to_string(),
        columns: vec![
            Column::new("id", DataType::Int64, false),
            Column::new("amount", DataType::Decimal128(12, 2), true),
        ],
        primary_key: vec!["id".to_string()],
        definition,
        sql: format!("CREATE {name}"),
        search_path: path(),
        dependencies: dependencies.to_vec(),
        owner: "tidemill".to_string(),
        created_at: 1,
    }
}

fn source() -> Definition {
    Definition::Source(SourceDefinition {
        options: vec![("connector".into(), "kafka".into()), ("a".into(), "b".into())],
        format: Some("PLAIN".into()),
        encode: Some("JSON".into()),
        include: vec![Include { kind: "header".into(), header: Some("h".into()), column: "c".into() }],
        watermark: Some(Watermark { column: "ts".into(), expr: "ts - INTERVAL '5 s'".into() }),
        ..SourceDefinition::default()
    })
}

fn table() -> Definition {
    Definition::Table(TableDefinition::default())
}

fn pipeline() -> Definition {
    Definition::Pipeline(PipelineDefinition { query: "SELECT 1".into(), ..PipelineDefinition::default() })
}

fn view() -> Definition {
    Definition::View(ViewDefinition { query: "SELECT 1".into() })
}

fn sink_from(oid: Oid) -> Definition {
    Definition::Sink(SinkDefinition {
        input: SinkInput::From { oid },
        options: vec![("connector".into(), "print".into())],
        format: None,
        encode: None,
        encode_options: vec![],
    })
}

#[test]
fn what_is_paused_and_altered_stays_so() {
    let (catalog, oid) = create(&Catalog::new(), "s", source(), &[]);
    let changes = [("a".to_string(), None), ("rate".to_string(), Some("9".to_string()))];
    let altered = catalog.pause(oid, Some(7)).set_options(oid, &changes);
    let read = Catalog::from_bytes(&altered.to_bytes()).unwrap();
    let object = read.get(oid).unwrap();
    assert_eq!(object.paused, Some(7));
    let options: Vec<_> =
        object.definition.options().iter().map(|(k, v)| (k.as_str(), v.text().unwrap())).collect();
    assert_eq!(options, [("connector", "kafka"), ("rate", "9")]);
    assert_eq!(read.pause(oid, None).get(oid).unwrap().paused, None);
    assert_eq!(read.version(), catalog.version() + 2);
    // A document from before there were pauses is read as one without.
    assert!(!String::from_utf8(catalog.to_bytes()).unwrap().contains("paused"));
}

fn create(catalog: &Catalog, name: &str, definition: Definition, dependencies: &[Oid]) -> (Catalog, Oid) {
    let (catalog, created) = catalog.create(new(name, definition, dependencies), OnConflict::Fail).unwrap();
    (catalog, created.object().oid)
}

/// `s → p → q → k`, and `v` on `s`.
fn chain() -> (Catalog, [Oid; 5]) {
    let (catalog, s) = create(&Catalog::new(), "s", source(), &[]);
    let (catalog, p) = create(&catalog, "p", pipeline(), &[s]);
    let (catalog, q) = create(&catalog, "q", pipeline(), &[p]);
    let (catalog, k) = create(&catalog, "k", sink_from(q), &[q]);
    let (catalog, v) = create(&catalog, "v", view(), &[s]);
    (catalog, [s, p, q, k, v])
}

fn names(objects: &[std::sync::Arc<Object>]) -> Vec<&str> {
    objects.iter().map(|object| object.name.as_str()).collect()
}

/// SQLSTATE, text, detail, hint.
fn told(error: Error) -> String {
    let mut text = format!("{}: {error}", error.sqlstate());
    if let Some(detail) = error.detail() {
        text += &format!(" DETAIL: {}", detail.replace('\n', "; "));
    }
    if let Some(hint) = error.hint() {
        text += &format!(" HINT: {hint}");
    }
    text
}

#[test]
fn a_new_database_has_postgres_schemas() {
    let catalog = Catalog::new();
    let schemas: Vec<_> = catalog.schemas().map(|schema| (schema.name.as_str(), schema.oid)).collect();
    assert_eq!(schemas, [("information_schema", 13_000), ("pg_catalog", 11), ("public", 2200)]);
    assert_eq!((catalog.version(), catalog.objects().count()), (0, 0));
}

#[test]
fn a_snapshot_does_not_see_later_changes() {
    let before = Catalog::new();
    let (after, oid) = create(&before, "t", table(), &[]);
    assert!(before.find("public", "t").is_none());
    assert_eq!(after.find("public", "t").unwrap().oid, oid);
    assert_eq!((before.version(), after.version()), (0, 1));
}

#[test]
fn a_taken_name_is_refused_kept_or_replaced() {
    let (catalog, oid) = create(&Catalog::new(), "t", table(), &[]);
    let error = catalog.create(new("t", table(), &[]), OnConflict::Fail).unwrap_err();
    assert_eq!(
        told(error),
        "42P07: relation \"t\" already exists HINT: There is a table of this name: DROP TABLE t first, or use IF NOT EXISTS."
    );

    let (kept, created) = catalog.create(new("t", pipeline(), &[]), OnConflict::Keep).unwrap();
    assert_eq!(created.notice().as_deref(), Some("relation \"t\" already exists, skipping"));
    assert_eq!((kept.version(), created.object().oid), (catalog.version(), oid));

    let (replaced, created) = catalog.create(new("t", table(), &[]), OnConflict::Replace).unwrap();
    assert!(matches!(&created, Created::Replaced { old, new } if old.oid == oid && new.oid > oid));
    assert_eq!(replaced.version(), catalog.version() + 1);
    assert!(replaced.get(oid).is_none());
}

#[test]
fn replacing_keeps_kind_and_dependents() {
    let (catalog, [s, p, ..]) = chain();
    let error = catalog.create(new("s", table(), &[]), OnConflict::Replace).unwrap_err();
    assert_eq!(error.to_string(), "\"s\" is a source, not a table");
    let error = catalog.create(new("p", pipeline(), &[s]), OnConflict::Replace).unwrap_err();
    assert_eq!(
        told(error),
        "2BP01: cannot replace pipeline p because other objects depend on it \
         DETAIL: pipeline q depends on pipeline p; sink k depends on pipeline q \
         HINT: Drop the dependent objects first, or create the new one under another name."
    );
    // A pipeline cannot read the one that it replaces.
    let (catalog, _) = catalog.drop(&[p], true).unwrap();
    let (catalog, p) = create(&catalog, "p", pipeline(), &[s]);
    let error = catalog.create(new("p", pipeline(), &[p]), OnConflict::Replace).unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::UNDEFINED_OBJECT);
}

#[test]
fn an_oid_is_never_given_twice() {
    let (catalog, oid) = create(&Catalog::new(), "t", table(), &[]);
    let (catalog, _) = catalog.drop(&[oid], false).unwrap();
    let catalog = Catalog::from_bytes(&catalog.to_bytes()).unwrap();
    let (_, again) = create(&catalog, "t", table(), &[]);
    assert!(again > oid);
}

#[test]
fn dropping_needs_cascade_when_something_depends() {
    let (catalog, [s, p, q, k, v]) = chain();
    let error = catalog.drop(&[p], false).unwrap_err();
    assert_eq!(
        told(error),
        "2BP01: cannot drop pipeline p because other objects depend on it \
         DETAIL: pipeline q depends on pipeline p; sink k depends on pipeline q \
         HINT: Use DROP … CASCADE to drop the dependent objects too."
    );
    let (after, dropped) = catalog.drop(&[p], true).unwrap();
    assert_eq!(names(&dropped), ["k", "q", "p"]);
    assert!(after.get(s).is_some() && after.get(v).is_some() && after.get(q).is_none());
    // All at once needs no CASCADE.
    let (after, dropped) = catalog.drop(&[p, q, k], false).unwrap();
    assert_eq!((dropped.len(), after.objects().count()), (3, 2));
    assert_eq!(after.version(), catalog.version() + 1);
}

#[test]
fn dependencies_are_known_in_both_directions() {
    let (catalog, [s, p, q, ..]) = chain();
    let of = |objects: Vec<&std::sync::Arc<Object>>| objects.iter().map(|it| it.oid).collect::<Vec<_>>();
    assert_eq!(of(catalog.dependencies(q).collect()), [p]);
    assert_eq!(catalog.dependents(s).map(|object| object.name.as_str()).collect::<Vec<_>>(), ["p", "v"]);
    let error = catalog.create(new("x", pipeline(), &[99]), OnConflict::Fail).unwrap_err();
    assert_eq!(error.to_string(), "object 99, which \"x\" refers to, does not exist");
}

#[test]
fn names_are_resolved_along_the_search_path() {
    let (catalog, t) = create(&Catalog::new(), "orders", table(), &[]);
    let catalog = catalog.create_schema("sales", "tidemill", false).unwrap();
    let in_sales = NewObject { schema: "sales".into(), ..new("orders", table(), &[]) };
    let (catalog, created) = catalog.create(in_sales, OnConflict::Fail).unwrap();
    let other = created.object().oid;
    let only_sales = NewObject { schema: "sales".into(), ..new("returns", table(), &[]) };
    let (catalog, _) = catalog.create(only_sales, OnConflict::Fail).unwrap();

    assert_eq!(catalog.resolve(None, "orders", &path()).unwrap().oid, t);
    assert_eq!(catalog.resolve(None, "orders", &["sales".into(), "public".into()]).unwrap().oid, other);
    assert_eq!(catalog.resolve(Some("sales"), "orders", &path()).unwrap().oid, other);
    let error = |schema, name| told(catalog.resolve(schema, name, &path()).unwrap_err());
    assert_eq!(
        error(None, "ordres"),
        "42P01: relation \"ordres\" does not exist HINT: Perhaps you meant \"orders\"."
    );
    assert_eq!(
        error(None, "returns"),
        "42P01: relation \"returns\" does not exist HINT: There is one in schema \"sales\": write sales.returns, or add the schema to search_path."
    );
    assert_eq!(
        error(Some("sale"), "x"),
        "3F000: schema \"sale\" does not exist HINT: Perhaps you meant \"sales\"."
    );
    assert_eq!(error(Some("sales"), "zzz"), "42P01: relation \"sales.zzz\" does not exist");
}

#[test]
fn a_wrong_kind_is_named_with_the_right_one() {
    let (catalog, _) = chain();
    let error = |kind, name| told(catalog.resolve_kind(kind, None, name, &path()).unwrap_err());
    assert_eq!(
        error(Kind::Table, "s"),
        "42809: \"s\" is a source, not a table HINT: The rows of a source come from its connector; to INSERT, UPDATE or DELETE, use CREATE TABLE."
    );
    assert_eq!(
        error(Kind::Table, "p"),
        "42809: \"p\" is a pipeline, not a table HINT: The rows of a pipeline follow from its query; change the tables that it reads."
    );
    assert_eq!(error(Kind::View, "p"), "42809: \"p\" is a pipeline, not a view HINT: Use PIPELINE instead.");
    assert!(catalog.resolve_kind(Kind::Pipeline, None, "p", &path()).is_ok());
}

#[test]
fn renaming_breaks_no_reference() {
    let (catalog, [s, _, q, k, _]) = chain();
    // The sink refers to q by OID, the pipelines refer to s by name.
    let renamed = catalog.rename(q, "totals").unwrap();
    assert_eq!(renamed.find("public", "totals").unwrap().oid, q);
    assert!(renamed.find("public", "q").is_none());
    assert_eq!(renamed.dependencies(k).next().unwrap().name, "totals");
    let error = catalog.rename(s, "t").unwrap_err();
    assert_eq!(
        told(error),
        "2BP01: cannot rename source s because other objects depend on it \
         DETAIL: pipeline p depends on source s; view v depends on source s \
         HINT: Their queries have the old name in their text: drop them first, or keep the name."
    );
    assert_eq!(catalog.rename(q, "v").unwrap_err().sqlstate(), SqlState::DUPLICATE_TABLE);
    assert_eq!(catalog.rename(q, "").unwrap_err().sqlstate(), SqlState("42602"));
}

#[test]
fn comments_come_and_go() {
    let (catalog, t) = create(&Catalog::new(), "t", table(), &[]);
    let catalog = catalog
        .comment(t, Some("orders".into()))
        .comment_column(t, "amount", Some("in euro".into()))
        .unwrap();
    let object = catalog.get(t).unwrap();
    assert_eq!(
        (object.comment.as_deref(), object.columns[1].comment.as_deref()),
        (Some("orders"), Some("in euro"))
    );
    assert!(catalog.comment(t, None).get(t).unwrap().comment.is_none());
    let error = catalog.comment_column(t, "amuont", None).unwrap_err();
    assert_eq!(
        told(error),
        "42703: column \"amuont\" of relation \"t\" does not exist HINT: Perhaps you meant \"amount\"."
    );
    let catalog = catalog.comment_schema("public", Some("all".into())).unwrap();
    assert_eq!(catalog.schema("public").unwrap().comment.as_deref(), Some("all"));
}

#[test]
fn schemas_are_created_and_dropped() {
    let catalog = Catalog::new().create_schema("s", "tidemill", false).unwrap();
    assert_eq!(catalog.create_schema("s", "x", true).unwrap(), catalog);
    assert_eq!(catalog.create_schema("s", "x", false).unwrap_err().sqlstate(), SqlState::DUPLICATE_SCHEMA);
    let (catalog, created) =
        catalog.create(NewObject { schema: "s".into(), ..new("t", table(), &[]) }, OnConflict::Fail).unwrap();
    let (catalog, _) = create(&catalog, "p", pipeline(), &[created.object().oid]);
    assert_eq!(
        told(catalog.drop_schema("s", false).unwrap_err()),
        "2BP01: cannot drop schema s because other objects depend on it DETAIL: table s.t depends on schema s HINT: Use DROP … CASCADE to drop the dependent objects too."
    );
    let (catalog, dropped) = catalog.drop_schema("s", true).unwrap();
    assert_eq!(names(&dropped), ["p", "t"]);
    assert!(catalog.schema("s").is_err());
    for name in ["public", "pg_catalog", "information_schema"] {
        assert_eq!(catalog.drop_schema(name, true).unwrap_err().sqlstate(), SqlState("42501"));
    }
    assert_eq!(catalog.create_schema("pg_x", "x", false).unwrap_err().sqlstate(), SqlState("42501"));
    let in_system = NewObject { schema: "pg_catalog".into(), ..new("t", table(), &[]) };
    assert_eq!(catalog.create(in_system, OnConflict::Fail).unwrap_err().sqlstate(), SqlState("42501"));
    assert_eq!(catalog.creation_schema(&["pg_catalog".into(), "public".into()]).unwrap().name, "public");
    assert_eq!(catalog.creation_schema(&["gone".into()]).unwrap_err().sqlstate(), SqlState::UNDEFINED_SCHEMA);
}

#[test]
fn columns_and_keys_are_checked() {
    let twice =
        NewObject { columns: vec![Column::new("a", DataType::Int64, true); 2], ..new("t", table(), &[]) };
    assert_eq!(
        Catalog::new().create(twice, OnConflict::Fail).unwrap_err().sqlstate(),
        SqlState::DUPLICATE_COLUMN
    );
    let no_key = NewObject { primary_key: vec!["ids".into()], ..new("t", table(), &[]) };
    assert_eq!(
        told(Catalog::new().create(no_key, OnConflict::Fail).unwrap_err()),
        "42703: column \"ids\" named in key does not exist HINT: Perhaps you meant \"id\"."
    );
    let (catalog, t) = create(&Catalog::new(), "t", table(), &[]);
    let object = catalog.get(t).unwrap();
    assert_eq!(object.primary_key, [0]);
    assert_eq!(object.arrow_schema().field(1).data_type(), &DataType::Decimal128(12, 2));
}

#[test]
fn the_catalog_survives_as_bytes() {
    let (catalog, [s, ..]) = chain();
    let mut column = Column::new("j", DataType::Utf8, true);
    column.metadata.insert("tidemill.pg_type".into(), "jsonb".into());
    column.default = Some("'{}'".into());
    let with_json = NewObject { columns: vec![column], primary_key: vec![], ..new("j", table(), &[]) };
    let (catalog, _) = catalog.create(with_json, OnConflict::Fail).unwrap();
    let catalog = catalog.comment(s, Some("é \"quoted\"".into()));
    let bytes = catalog.to_bytes();
    let read = Catalog::from_bytes(&bytes).unwrap();
    assert_eq!(read, catalog);
    assert_eq!(read.to_bytes(), bytes);
}

#[test]
fn no_damaged_document_reads_as_a_catalog() {
    let (catalog, _) = chain();
    let text = String::from_utf8(catalog.to_bytes()).unwrap();
    let error = |text: &str| told(Catalog::from_bytes(text.as_bytes()).unwrap_err());
    for damaged in ["", "{}", "null", "[]", &text[..text.len() / 2]] {
        assert!(error(damaged).starts_with("XX001: catalog cannot be read: "), "{damaged}");
    }
    assert_eq!(
        error(r#"{"format": 5, "anything": []}"#),
        "XX001: catalog is of format 5; this version reads format 4 HINT: The data directory was written by a newer version; start that one, or restore a backup."
    );
    let edited = |from: String, to: &str| {
        assert!(text.contains(&from), "{from}");
        error(&text.replacen(&from, to, 1))
    };
    assert!(edited("\"next_oid\": 16389".into(), "\"next_oid\": 16385").contains("out of range"));
    assert!(edited("\"name\": \"q\"".into(), "\"name\": \"p\"").contains("stands twice"));
    assert!(edited("\"schema\": \"public\"".into(), "\"schema\": \"gone\"").contains("missing"));
    assert!(edited("\"int64\"".into(), "\"int65\"").contains("unknown variant"));
}
