# knex

select "id" from "orders" where "id" = '1';
select * from information_schema.tables where table_name = 'orders' and table_schema = current_schema();
select * from information_schema.columns where table_name = 'orders' and table_catalog = current_database() and table_schema = current_schema();
-- differs: there are no serial and identity columns yet.
-- postgres: done
-- tidemill: ERROR 0A000
create table "knx" ("id" serial primary key, "v" varchar(255));
