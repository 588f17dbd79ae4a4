# node-pg-migrate 9

SELECT pg_try_advisory_lock(7241865325823964) AS "lockObtained";
SET search_path TO "public";
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name = 'pgmigrations';
CREATE TABLE "public"."pgmigrations" (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL);
SELECT name FROM "public"."pgmigrations" ORDER BY run_on, id;
BEGIN;
create table npg (id int);
INSERT INTO "public"."pgmigrations" (name, run_on) VALUES ('1700000000000_init', NOW());
COMMIT;
SELECT pg_advisory_unlock(7241865325823964) AS "lockReleased";
