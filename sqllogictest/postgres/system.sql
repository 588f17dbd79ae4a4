# System information.

SELECT current_database() IS NOT NULL, current_schema(), current_schemas(true) IS NOT NULL, current_user = user, version() LIKE 'PostgreSQL%';
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: ?column? bool, ?column? bool, pg_is_in_recovery bool, ?column? bool, ?column? bool | t, t, f, t, t
-- tidemill: ?column? bool, ?column? bool, pg_is_in_recovery bool, ?column? bool, ?column? bool | t, t, f, f, f
SELECT pg_backend_pid() > 0, inet_client_addr() IS NULL OR true, pg_is_in_recovery(), pg_postmaster_start_time() IS NOT NULL, pg_conf_load_time() IS NOT NULL;
SELECT current_setting('search_path') IS NOT NULL, current_setting('nosuch.setting', true), set_config('application_name', 'x', false);
SELECT has_table_privilege('pg_class', 'select'), has_schema_privilege('public', 'usage'), has_database_privilege(current_database(), 'connect');
SELECT format_type(23, NULL), format_type(1043, 14), pg_get_userbyid(10) IS NOT NULL, pg_table_is_visible('pg_class'::regclass), pg_encoding_to_char(6);
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: text text, text text, to_regclass text, to_regclass regclass, to_regtype text | pg_class, integer, pg_class, NULL, integer
-- tidemill: text text, text text, to_regclass text, to_regclass oid, to_regtype text | pg_class, integer, 1259, NULL, 23
SELECT 'pg_class'::regclass::text, 'int4'::regtype::text, to_regclass('pg_class')::text, to_regclass('nosuch'), to_regtype('int4')::text;
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: ?column? bool, ?column? bool, ?column? bool | t, t, f
-- tidemill: ?column? bool, ?column? bool, ?column? bool | t, t, t
SELECT obj_description('pg_class'::regclass, 'pg_class') IS NULL OR true, col_description('pg_class'::regclass, 1) IS NULL OR true, shobj_description(1, 'pg_database') IS NULL;
SELECT pg_get_expr(NULL, 0), pg_get_viewdef(0) IS NULL, pg_get_indexdef(0) IS NULL, pg_get_constraintdef(0) IS NULL;
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: pg_size_pretty text, pg_size_pretty text, pg_size_pretty text, pg_size_bytes int8 | 1024 bytes, 1024 kB, 118 MB, 1024
-- tidemill: ERROR 42883
SELECT pg_size_pretty(1024::bigint), pg_size_pretty(1048576::bigint), pg_size_pretty(123456789::bigint), pg_size_bytes('1 kB');
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: ?column? bool, ?column? bool, ?column? bool | t, t, t
-- tidemill: ?column? bool, ?column? bool, ?column? bool | NULL, NULL, NULL
SELECT pg_relation_size('pg_class') >= 0, pg_total_relation_size('pg_class') >= 0, pg_database_size(current_database()) > 0;
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: ?column? bool, ?column? bool | t, t
-- tidemill: ERROR 42883
SELECT txid_current() > 0, pg_current_xact_id() IS NOT NULL;
SELECT pg_typeof(1), pg_typeof('a'::text);
SELECT pg_advisory_lock(1) IS NOT NULL, pg_try_advisory_lock(2), pg_advisory_unlock(1);
SELECT pg_client_encoding(), getdatabaseencoding();
SELECT row_number() OVER () FROM (VALUES (1)) AS t (x);
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: pg_collation_for text | NULL
-- tidemill: ERROR 42601
SELECT collation for ('a');
SELECT gen_random_uuid() <> gen_random_uuid();
SELECT uuid_generate_v4() IS NOT NULL;
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: pg_column_size int4, pg_column_size int4 | 4, 7
-- tidemill: ERROR 42883
SELECT pg_column_size(1), pg_column_size('abc'::text);
-- differs: what is particular to PostgreSQL's storage, locks and types is missing or NULL.
-- postgres: server_version_num text | 150018
-- tidemill: server_version_num text | 160006
SHOW server_version_num;
SHOW search_path;
SHOW timezone;
SHOW standard_conforming_strings;
SHOW nosuch_setting;
