# Casts between types and from and to text.

SELECT CAST(2.5 AS int), CAST(3.5 AS int), CAST(-2.5 AS int), 2.4::int, 2.6::bigint, 0.5::smallint, 1.5::int;
SELECT 2.5::float8::int, 3.5::float8::int, -2.5::float8::int, 0.5::float8::bigint, 1e10::float8::bigint;
SELECT 2.5::real::int, 3.5::real::smallint;
SELECT 1e10::float8::int;
SELECT 3000000000::int;
SELECT 40000::smallint;
SELECT 99999999999999999999::bigint;
SELECT 'NaN'::float8::int;
SELECT 1::boolean, 0::boolean, 5::boolean, true::int, false::int;
SELECT '42'::int, ' 42 '::int, '-7'::int, '+7'::int;
SELECT ''::int;
SELECT 'abc'::int;
SELECT '1.5'::int;
SELECT '3000000000'::int;
SELECT '1.5'::float8, '1e3'::float8, 'inf'::float8, ' 2.5 '::float8, '-infinity'::float8;
SELECT 'x'::float8;
SELECT '1.5'::numeric, '1.50'::numeric, '-0.001'::numeric(10, 2), '1e3'::numeric;
SELECT 'x'::numeric;
SELECT 123.456::numeric(5, 2), 0.005::numeric(3, 2), 99.995::numeric(5, 2);
SELECT 1234.5::numeric(5, 2);
SELECT 1::numeric, 1::numeric(10, 2), 1.5::numeric(10, 0), 123::numeric(3);
SELECT 't'::boolean, 'true'::boolean, 'yes'::boolean, 'on'::boolean, '1'::boolean, 'f'::boolean, 'off'::boolean, 'no'::boolean, 'TRUE'::boolean;
SELECT 'maybe'::boolean;
SELECT true::text, false::text;
SELECT 1::text, 1.5::text, 1.50::text, 1e10::float8::text, 0.1::float8::text, 1::float8::text, 1.0::numeric(5,2)::text, 1::real::text;
SELECT '2024-01-02'::date::text, '2024-01-02 03:04:05'::timestamp::text, '2024-01-02 03:04:05.678'::timestamp::text, '03:04:05'::time::text;
SELECT '2024-01-02 03:04:05+00'::timestamptz::text, '1 day 2 hours'::interval::text;
SELECT '2024-01-02'::date || 'x', '2024-01-02 03:04:05'::timestamp || 'x', true || 'x', 1.5::float8 || 'x';
SELECT ARRAY[1, 2, 3]::text, ARRAY['a', 'b c', NULL]::text, '{1,2,3}'::int[], '{a,"b c",NULL}'::text[];
SELECT '{1,2}'::bigint[], ARRAY[1, 2]::bigint[], ARRAY['1', '2']::int[], ARRAY[1.5, 2.5]::int[];
SELECT '{1,x}'::int[];
SELECT 'abc'::varchar(2), 'abc'::char(2), 'a'::char(3) || 'x', 'a'::char(3) = 'a';
SELECT 'abc'::varchar;
-- differs: varchar without a length is text, and char without a length has any.
-- postgres: bpchar bpchar | a
-- tidemill: bpchar text | abc
SELECT 'abc'::char;
SELECT 'a'::bpchar(3);
SELECT '\x0102'::bytea, 'abc'::bytea, '\x0102'::bytea::text;
-- differs: bad bytes have the SQLSTATE of any other bad text.
-- postgres: ERROR 22023
-- tidemill: ERROR 22P02
SELECT '\xzz'::bytea;
SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid, '{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}'::uuid;
SELECT 'nouuid'::uuid;
SELECT '{"a": 1}'::json, '{"a":1, "b": [1,2]}'::jsonb, '{"b":1,"a":2}'::jsonb;
SELECT '{x}'::json;
SELECT '{"a": }'::jsonb;
SELECT '2024-01-02'::date, '20240102'::date, '2024-1-2'::date;
-- differs: dates are written in numbers, and times with 24 hours.
-- postgres: date date | 2024-01-02
-- tidemill: ERROR 22007
SELECT 'Jan 2, 2024'::date;
SELECT '2024-02-30'::date;
SELECT '2024-13-01'::date;
SELECT 'notadate'::date;
SELECT '2024-01-02 03:04:05'::timestamp, '2024-01-02T03:04:05'::timestamp, '2024-01-02 03:04'::timestamp, '2024-01-02'::timestamp, '2024-01-02 03:04:05.123456'::timestamp;
SELECT '2024-01-02 03:04:05+02'::timestamptz, '2024-01-02 03:04:05Z'::timestamptz, '2024-01-02 03:04:05-05:30'::timestamptz, '2024-01-02 03:04:05'::timestamptz;
SELECT '2024-01-02 25:00:00'::timestamp;
SELECT '2024-01-02 03:04:05'::timestamp::date, '2024-01-02'::date::timestamp, '2024-01-02 03:04:05'::timestamp::time;
SELECT '2024-01-02 03:04:05+02'::timestamptz::timestamp, '2024-01-02 03:04:05'::timestamp::timestamptz, '2024-01-02 03:04:05+02'::timestamptz::date;
SELECT '0001-01-01'::date, '9999-12-31'::date, '1500-06-15 12:00:00'::timestamp, '3000-01-01 00:00:00'::timestamp, '9999-12-31 23:59:59'::timestamp;
SELECT '0044-03-15 BC'::date, 'infinity'::timestamp, 'epoch'::timestamp;
SELECT '03:04:05'::time, '03:04'::time, '23:59:59.5'::time;
-- differs: dates are written in numbers, and times with 24 hours.
-- postgres: time time | 15:04:00
-- tidemill: ERROR 22007
SELECT '3:04 PM'::time;
SELECT '25:00'::time;
-- differs: time and interval are not cast into each other.
-- postgres: interval interval, time time | 03:04:05, 03:04:05
-- tidemill: ERROR 0A000
SELECT '03:04:05'::time::interval, '1 day 03:04:05'::interval::time;
SELECT '1 day'::interval, '1 year 2 mons'::interval, '03:04:05'::interval, '1 day ago'::interval, '-1 day'::interval, 'P1Y2M3DT4H5M6S'::interval, '1.5 hours'::interval, '2 weeks'::interval;
SELECT 'x'::interval;
SELECT int4 '42', int '1' + 1, float8 '1.5', date '2024-01-02', timestamp '2024-01-02 03:04:05', interval '1 day', bool 't', numeric '1.5';
SELECT CAST('2024-01-02' AS date), CAST('5' AS smallint), CAST(5 AS double precision), CAST(1.7 AS text);
SELECT CAST(NULL AS int), NULL::text, NULL::date;
SELECT 1::nosuchtype;
SELECT 'a'::text::varchar(5), 1::bigint::int, 1.0::float8::numeric, 0.1::float8::numeric, 123456.789::float8::numeric;
-- differs: numeric without precision has ten digits behind the point, and a cast of real to it shows them.
-- postgres: numeric numeric | 0.1
-- tidemill: numeric numeric | 0.1000000015
SELECT 0.1::real::numeric;
SELECT '1'::int + '2'::int, '1.5'::numeric + 1, '5' = 5;
SELECT now()::date = current_date, now() - now(), localtimestamp::date = current_date;
-- differs: the internal type "char" and bit strings are missing.
-- postgres: char char | A
-- tidemill: "char" text | 65
SELECT 65::"char";
SELECT '12:00'::time + interval '1 hour', '23:30'::time + interval '1 hour';
SELECT true::int + 1, 'true'::boolean AND 1 = 1;
SELECT 5::int::boolean::text, 0.0::float8::text, '-0'::float8::text;
SELECT date '2024-01-02'::text;
-- differs: a string behind an expression is its name.
-- postgres: ERROR 42601
-- tidemill: b text | a
SELECT 'a' 'b';
SELECT E'a\tb\n', E'\x41', U&'\0041', 'it''s', $$dollar$$, $q$a'b$q$;
-- differs: the internal type "char" and bit strings are missing.
-- postgres: ?column? bit | 101
-- tidemill: ERROR 42P17
SELECT B'101';
-- differs: a hexadecimal string is bytea, not a bit string.
-- postgres: ?column? bit | 00011111
-- tidemill: ?column? bytea | \x1f
SELECT X'1F';
CREATE TABLE us (id int PRIMARY KEY, u uuid, j jsonb);
INSERT INTO us VALUES (1, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"a": 1, "b": 2}'), (2, NULL, NULL);
SELECT id FROM us WHERE u = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11';
SELECT id FROM us WHERE 'A0EEBC999C0B4EF8BB6D6BB9BD380A11' = u;
SELECT id FROM us WHERE u IN ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT id FROM us WHERE u <> 'B0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11';
SELECT id FROM us WHERE u = 'xyz';
SELECT id, coalesce(u, 'B0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')::uuid FROM us ORDER BY id;
SELECT u FROM us UNION SELECT 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11' ORDER BY 1;
SELECT id FROM us WHERE j = '{"b":2,"a":1}';
SELECT id::text, max(id::text) FROM us GROUP BY id::text ORDER BY 1;
SELECT string_agg(id::text, ',' ORDER BY id::text), max(id::text), count(id::text) FROM us;
