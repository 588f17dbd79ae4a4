//! TPC-H: all 22 queries as pipelines over tables that are loaded in batches, with the refresh functions running: RF1
//! inserts new orders and their lines, RF2 deletes the oldest ones. Each equals its batch answer after every batch, in one
//! lane and in four, over a crash.
//!
//! The data are dbgen's, made by the crate `tpchgen`. `TIDEMILL_TPCH=0.1 cargo test --lib tpch` takes another scale factor.

use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::error::ArrowError;
use tidemill_engine::EngineConfig;
use tokio_util::sync::CancellationToken;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use super::suites::{SuiteQuery, compare, queries};
use super::{run, runtime};
use crate::database::Database;
use crate::session::Session;
use crate::session::api::{Response, SessionApi};

const SCALE_FACTOR: f64 = 0.01;
/// Orders and their lines come in so many parts: some to load, the others by refreshing.
const N_PARTS: i32 = 6;
const N_LOADED: i32 = 4;

const TABLES: &str = "
    CREATE TABLE region (r_regionkey BIGINT PRIMARY KEY, r_name TEXT, r_comment TEXT);
    CREATE TABLE nation (n_nationkey BIGINT PRIMARY KEY, n_name TEXT, n_regionkey BIGINT, n_comment TEXT);
    CREATE TABLE supplier (
        s_suppkey BIGINT PRIMARY KEY, s_name TEXT, s_address TEXT, s_nationkey BIGINT, s_phone TEXT,
        s_acctbal DECIMAL(15, 2), s_comment TEXT);
    CREATE TABLE part (
        p_partkey BIGINT PRIMARY KEY, p_name TEXT, p_mfgr TEXT, p_brand TEXT, p_type TEXT, p_size INT,
        p_container TEXT, p_retailprice DECIMAL(15, 2), p_comment TEXT);
    CREATE TABLE partsupp (
        ps_partkey BIGINT, ps_suppkey BIGINT, ps_availqty INT, ps_supplycost DECIMAL(15, 2), ps_comment TEXT,
        PRIMARY KEY (ps_partkey, ps_suppkey));
    CREATE TABLE customer (
        c_custkey BIGINT PRIMARY KEY, c_name TEXT, c_address TEXT, c_nationkey BIGINT, c_phone TEXT,
        c_acctbal DECIMAL(15, 2), c_mktsegment TEXT, c_comment TEXT);
    CREATE TABLE orders (
        o_orderkey BIGINT PRIMARY KEY, o_custkey BIGINT, o_orderstatus TEXT, o_totalprice DECIMAL(15, 2),
        o_orderdate DATE, o_orderpriority TEXT, o_clerk TEXT, o_shippriority INT, o_comment TEXT);
    CREATE TABLE lineitem (
        l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INT, l_quantity DECIMAL(15, 2),
        l_extendedprice DECIMAL(15, 2), l_discount DECIMAL(15, 2), l_tax DECIMAL(15, 2), l_returnflag TEXT,
        l_linestatus TEXT, l_shipdate DATE, l_commitdate DATE, l_receiptdate DATE, l_shipinstruct TEXT,
        l_shipmode TEXT, l_comment TEXT, PRIMARY KEY (l_orderkey, l_linenumber))";

/// Inserts rows as COPY does, all at once.
async fn load(
    session: &mut Session,
    table: &str,
    rows: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
) {
    let copy = SessionApi::parse(session, &format!("COPY {table} FROM STDIN")).unwrap().remove(0);
    let response = SessionApi::execute(session, &copy, Vec::new(), &CancellationToken::new()).await.unwrap();
    let Response::CopyIn { schema, mut sink, .. } = response else { panic!("{table}: not a COPY") };
    for batch in rows {
        let batch = batch.unwrap();
        let columns = batch
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>().unwrap();
        sink.write(RecordBatch::try_new(schema.clone(), columns).unwrap()).await.unwrap();
    }
    assert!(sink.finish().await.unwrap() > 0, "{table} has rows");
}

async fn load_orders(session: &mut Session, scale: f64, part: i32) {
    load(session, "orders", OrderArrow::new(OrderGenerator::new(scale, part, N_PARTS))).await;
    load(session, "lineitem", LineItemArrow::new(LineItemGenerator::new(scale, part, N_PARTS))).await;
}

/// RF2: the orders of a part, and their lines.
async fn delete_orders(session: &mut Session, scale: f64, part: i32) {
    let keys: Vec<i64> =
        OrderGenerator::new(scale, part, N_PARTS).iter().map(|order| order.o_orderkey).collect();
    let (first, last) = (keys.iter().min().unwrap(), keys.iter().max().unwrap());
    for (table, key) in [("lineitem", "l_orderkey"), ("orders", "o_orderkey")] {
        run(session, &format!("DELETE FROM {table} WHERE {key} BETWEEN {first} AND {last}")).await.unwrap();
    }
}

async fn open(directory: &Path, n_lanes: usize) -> Session {
    let config = EngineConfig { checkpoint_interval: Duration::from_millis(100), ..EngineConfig::default() };
    Session::new(Database::open(directory, n_lanes, config).await.unwrap(), "tidemill".into())
}

/// Creates the pipelines over some rows, and loads the rest.
async fn first_life(directory: &Path, n_lanes: usize, queries: &[SuiteQuery], scale: f64) {
    let mut session = open(directory, n_lanes).await;
    run(&mut session, TABLES).await.unwrap();
    run(&mut session, "CREATE SCHEMA shown").await.unwrap();
    load(&mut session, "region", RegionArrow::new(RegionGenerator::new(scale, 1, 1))).await;
    load(&mut session, "nation", NationArrow::new(NationGenerator::new(scale, 1, 1))).await;
    load(&mut session, "supplier", SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))).await;
    load(&mut session, "part", PartArrow::new(PartGenerator::new(scale, 1, 2))).await;
    load(&mut session, "partsupp", PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 2))).await;
    load(&mut session, "customer", CustomerArrow::new(CustomerGenerator::new(scale, 1, 2))).await;
    load_orders(&mut session, scale, 1).await;
    for SuiteQuery { name, sql } in queries {
        let created = run(&mut session, &format!("CREATE PIPELINE shown.{name} AS {sql}")).await;
        created.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let context = |what: &str| format!("{what}, in {n_lanes} lanes");
    compare(&mut session, queries, "shown", "public", &context("when created")).await;
    load(&mut session, "part", PartArrow::new(PartGenerator::new(scale, 2, 2))).await;
    load(&mut session, "partsupp", PartSuppArrow::new(PartSuppGenerator::new(scale, 2, 2))).await;
    compare(&mut session, queries, "shown", "public", &context("with all parts")).await;
    load(&mut session, "customer", CustomerArrow::new(CustomerGenerator::new(scale, 2, 2))).await;
    for part in 2..=N_LOADED {
        load_orders(&mut session, scale, part).await;
        compare(&mut session, queries, "shown", "public", &context(&format!("loaded part {part}"))).await;
    }
}

/// Refreshes, after a crash.
async fn second_life(directory: &Path, n_lanes: usize, queries: &[SuiteQuery], scale: f64) -> Vec<usize> {
    let mut session = open(directory, n_lanes).await;
    let context = |what: &str| format!("{what}, in {n_lanes} lanes");
    let mut n_rows = compare(&mut session, queries, "shown", "public", &context("after a crash")).await;
    for refresh in 1..=N_PARTS - N_LOADED {
        load_orders(&mut session, scale, N_LOADED + refresh).await;
        n_rows = compare(&mut session, queries, "shown", "public", &context(&format!("RF1 {refresh}"))).await;
        delete_orders(&mut session, scale, refresh).await;
        compare(&mut session, queries, "shown", "public", &context(&format!("RF2 {refresh}"))).await;
    }
    n_rows
}

#[test]
fn tpch_equals_its_batch_answers() {
    let queries = queries("examples/tpch/queries");
    assert_eq!(queries.len(), 22);
    let scale =
        std::env::var("TIDEMILL_TPCH").ok().and_then(|text| text.parse().ok()).unwrap_or(SCALE_FACTOR);
    for lanes in [[1, 4], [4, 1]] {
        let directory = tempfile::tempdir().unwrap();
        let life = runtime();
        life.block_on(first_life(directory.path(), lanes[0], &queries, scale));
        life.shutdown_timeout(Duration::ZERO);
        let life = runtime();
        let n_rows = life.block_on(second_life(directory.path(), lanes[1], &queries, scale));
        life.shutdown_timeout(Duration::ZERO);
        let empty: Vec<&str> =
            queries.iter().zip(&n_rows).filter(|(_, n)| **n == 0).map(|(query, _)| &query.name[..]).collect();
        println!("rows by query: {n_rows:?}; no rows: {empty:?}");
        assert!(empty.len() <= 3, "too little is compared: no rows of {empty:?}");
    }
}
