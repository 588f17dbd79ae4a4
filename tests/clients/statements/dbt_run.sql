# dbt build

BEGIN;
-- other rows
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "connection_name": "list_tidemill"} */

    select distinct nspname from pg_namespace;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "connection_name": "list_tidemill_public"} */
select
      'tidemill' as database,
      tablename as name,
      schemaname as schema,
      'table' as type
    from pg_tables
    where schemaname ilike 'public'
    union all
    select
      'tidemill' as database,
      viewname as name,
      schemaname as schema,
      'view' as type
    from pg_views
    where schemaname ilike 'public'
    union all
    select
      'tidemill' as database,
      matviewname as name,
      schemaname as schema,
      'materialized_view' as type
    from pg_matviews
    where schemaname ilike 'public'
    union all
    select distinct
     'tidemill' as database,
     proname as name,
     ns.nspname as schema,
     'function' as type
    from pg_proc
     join pg_namespace as ns on pronamespace = ns.oid
    where ns.nspname ilike 'public';
ROLLBACK;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "connection_name": "master"} */
select distinct
        dependent_namespace.nspname as dependent_schema,
        dependent_class.relname as dependent_name,
        referenced_namespace.nspname as referenced_schema,
        referenced_class.relname as referenced_name

    -- Query for views: views are entries in pg_class with an entry in pg_rewrite, but we avoid
    -- a seq scan on pg_rewrite by leveraging the fact there is an "internal" row in pg_depend for
    -- the view...
    from pg_class as dependent_class
    join pg_namespace as dependent_namespace on dependent_namespace.oid = dependent_class.relnamespace
    join pg_depend as dependent_depend on dependent_depend.refobjid = dependent_class.oid
        and dependent_depend.classid = 'pg_rewrite'::regclass
        and dependent_depend.refclassid = 'pg_class'::regclass
        and dependent_depend.deptype = 'i'

    -- ... and via pg_depend (that has a row per column, hence the need for "distinct" above, and
    -- making sure to exclude the internal row to avoid a view appearing to depend on itself)...
    join pg_depend as joining_depend on joining_depend.objid = dependent_depend.objid
        and joining_depend.classid = 'pg_rewrite'::regclass
        and joining_depend.refclassid = 'pg_class'::regclass
        and joining_depend.refobjid != dependent_depend.refobjid

    -- ... we can find the tables they query from in pg_class, but excluding system tables. Note we
    -- don't need need to exclude _dependent_ system tables, because they only query from other
    -- system tables, and so are automatically excluded by excluding _referenced_ system tables
    join pg_class as referenced_class on referenced_class.oid = joining_depend.refobjid
    join pg_namespace as referenced_namespace on referenced_namespace.oid = referenced_class.relnamespace
        and referenced_namespace.nspname != 'information_schema'
        and referenced_namespace.nspname not like 'pg\_%'

    order by
        dependent_schema, dependent_name, referenced_schema, referenced_name;
COMMIT;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.t1"} */




  create  table "tidemill"."public"."t1__dbt_tmp"


    as

  (
     select id, amount from orders where amount > 1
  );
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.t1"} */
alter table "tidemill"."public"."t1__dbt_tmp" rename to "t1";
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.t1"} */
drop table if exists "tidemill"."public"."t1__dbt_backup" cascade;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.v1"} */

  create view "tidemill"."public"."v1__dbt_tmp"


  as (
     select id, amount from orders
  );
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.v1"} */
alter table "tidemill"."public"."v1__dbt_tmp" rename to "v1";
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "model.tm.v1"} */
drop view if exists "tidemill"."public"."v1__dbt_backup" cascade;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "test.tm.not_null_v1_id.81ca223621"} */


    select
      count(*) as failures,
      count(*) != 0 as should_warn,
      count(*) != 0 as should_error
    from (








select id
from "tidemill"."public"."v1"
where id is null






    ) dbt_internal_test;
/* {"app": "dbt", "dbt_version": "1.11.16", "profile_name": "tm", "target_name": "dev", "node_id": "test.tm.unique_v1_id.e36a8b80eb"} */


    select
      count(*) as failures,
      count(*) != 0 as should_warn,
      count(*) != 0 as should_error
    from (






select
    id as unique_field,
    count(*) as n_records

from "tidemill"."public"."v1"
where id is not null
group by id
having count(*) > 1






    ) dbt_internal_test;
