# node-pg-migrate 9

-- differs: there are no advisory locks yet.
-- postgres: lockObtained bool | rows
-- tidemill: ERROR 42883
SELECT pg_try_advisory_lock(7241865325823964) AS "lockObtained";
SET search_path TO "public";
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name = 'pgmigrations';
-- differs: there are no serial and identity columns yet.
-- postgres: done
-- tidemill: ERROR 0A000
CREATE TABLE "public"."pgmigrations" (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL);
-- differs: the table was refused above.
-- postgres: name varchar | no rows
-- tidemill: ERROR 42P01
SELECT name FROM "public"."pgmigrations" ORDER BY run_on, id;
BEGIN;
create table npg (id int);
-- differs: the table was refused above.
-- postgres: done
-- tidemill: ERROR 42P01
INSERT INTO "public"."pgmigrations" (name, run_on) VALUES ('1700000000000_init', NOW());
COMMIT;
-- differs: there are no advisory locks yet.
-- postgres: lockReleased bool | rows
-- tidemill: ERROR 42883
SELECT pg_advisory_unlock(7241865325823964) AS "lockReleased";
