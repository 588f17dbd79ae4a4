# dbt debug

BEGIN;
select 1 as id;
