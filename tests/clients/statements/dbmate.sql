# dbmate

select true from pg_database where datname = 'tidemill';
create table if not exists public.schema_migrations (version varchar primary key);
BEGIN READ WRITE;
create table dbm (id int, v text);
insert into public.schema_migrations (version) values ('20260101000000');
COMMIT;
-- differs: what a text is declared as (varchar) does not outlive CASE, coalesce, nullif, unnest and aggregates.
-- postgres: version varchar | rows
-- tidemill: version text | rows
select version from public.schema_migrations order by version desc;
