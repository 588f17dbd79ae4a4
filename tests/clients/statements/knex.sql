# knex

select "id" from "orders" where "id" = '1';
select * from information_schema.tables where table_name = 'orders' and table_schema = current_schema();
select * from information_schema.columns where table_name = 'orders' and table_catalog = current_database() and table_schema = current_schema();
create table "knx" ("id" serial primary key, "v" varchar(255));
