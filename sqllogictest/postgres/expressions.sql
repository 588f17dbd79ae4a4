# Expressions: rows, arrays, patterns, COLLATE, CASE, the types of literals.

SELECT 'abc' LIKE ANY (ARRAY['x%', 'a%']), 'abc' LIKE ALL (ARRAY['a%', '%c']), 'abc' NOT LIKE ANY (ARRAY['x%', 'a%']), 'abc' NOT LIKE ALL (ARRAY['x%', 'y%']), 'ABC' ILIKE ANY (ARRAY['a%']);
SELECT x FROM (VALUES ('apple'), ('banana'), (NULL)) AS t (x) WHERE x LIKE ANY (ARRAY['a%', 'c%']);
SELECT x FROM (VALUES ('apple'), ('banana'), (NULL)) AS t (x) WHERE x NOT LIKE ALL (ARRAY['a%', 'c%']);
SELECT x LIKE ANY (ps) FROM (VALUES ('apple', ARRAY['a%', NULL]), ('banana', ARRAY['a%', NULL]), ('banana', ARRAY[]::text[])) AS t (x, ps);
SELECT x LIKE ALL (ps) FROM (VALUES ('apple', ARRAY['a%', NULL]), ('banana', ARRAY['a%', NULL]), ('banana', ARRAY[]::text[])) AS t (x, ps);
SELECT 'abc' ~ ANY (ARRAY['x', '^a']), 'abc' LIKE ANY ('{a%,b%}');
SELECT 'abc' LIKE 'a_c', 'abc' NOT LIKE 'b%', 'a%c' LIKE 'a\%c', 'a%c' LIKE 'a!%c' ESCAPE '!', 'abc' ~~ 'a%', 'abc' !~~ 'a%', 'ABC' ~~* 'a%', 'ABC' !~~* 'a%';
SELECT 'abc' SIMILAR TO '(a|b)%', 'abc' NOT SIMILAR TO '%(b|d)%', 'abc' SIMILAR TO 'a__', 'a+c' SIMILAR TO 'a\+c';
SELECT p, 'abc' SIMILAR TO p FROM (VALUES ('a%'), ('b%')) AS t (p) ORDER BY p;
SELECT 'abc' LIKE p ESCAPE '!' FROM (VALUES ('a%'), ('a!%')) AS t (p) ORDER BY p;
SELECT 1 BETWEEN SYMMETRIC 2 AND 0, 1 NOT BETWEEN SYMMETRIC 2 AND 0, 1 NOT BETWEEN 2 AND 3, 1 BETWEEN ASYMMETRIC 0 AND 2;
SELECT true IS TRUE, false IS NOT TRUE, NULL::boolean IS UNKNOWN, NULL::boolean IS NOT UNKNOWN, NULL IS NULL, 1 NOTNULL, 1 ISNULL, NULL::int IS DISTINCT FROM 1, 1 IS NOT DISTINCT FROM 1;
SELECT ROW(1, 'a') = ROW(1, 'a'), (1, 2) < (1, 3), ROW(1, NULL) = ROW(1, 2), (1, 2) <> (2, 1);
SELECT ROW(1, NULL) IS NULL, ROW(NULL, NULL) IS NULL, ROW(1, 2) IS NOT NULL, ROW(1, NULL) IS NOT NULL;
SELECT (1, 2) IS DISTINCT FROM (1, 2), ROW(1, NULL) IS NOT DISTINCT FROM ROW(1, NULL);
SELECT 'a' COLLATE "C" < 'b', 'a' < 'B' COLLATE "C", 'x' COLLATE "POSIX";
SELECT x FROM (VALUES ('b'), ('A'), ('a')) AS t (x) ORDER BY x COLLATE "C";
SELECT CASE WHEN false THEN 1 ELSE 2.5 END, CASE WHEN true THEN NULL ELSE 1 END, CASE 1 WHEN 1 THEN 'a' END, CASE WHEN true THEN 1 ELSE 2::bigint END;
SELECT COALESCE(NULL, 1, 2.5), COALESCE(NULL, 'x'), COALESCE(1, 2::bigint), COALESCE(NULL::date, '2024-01-01');
SELECT NULLIF(1, 1), NULLIF('a', 'b'), NULLIF(2, 1.0), NULLIF(1, 1.5);
SELECT GREATEST(1, 2.5, NULL), LEAST('b', 'a'), GREATEST(date '2024-01-01', '2024-02-01'), GREATEST(NULL, NULL);
SELECT NULL, 'x', 1, 2.5, true, 3000000000, 1e5, -1, 1.0, 'x'::text;
SELECT * FROM (VALUES (1, 'a', NULL), (2.5, 'b', NULL)) AS t (a, b, c) ORDER BY a;
SELECT * FROM (VALUES (NULL), (1)) AS t (a) ORDER BY a;
SELECT * FROM (VALUES (1::bigint), (2)) AS t (a) ORDER BY a;
SELECT 1 UNION ALL SELECT 2.5 ORDER BY 1;
SELECT NULL UNION ALL SELECT 1 ORDER BY 1;
SELECT 'a' UNION ALL SELECT NULL ORDER BY 1;
SELECT 1 UNION ALL SELECT 2::bigint UNION ALL SELECT 3.5::float8 ORDER BY 1;
SELECT date '2024-01-01' UNION ALL SELECT timestamp '2024-01-01 10:00' ORDER BY 1;
SELECT '2024-01-01' UNION ALL SELECT date '2024-01-02' ORDER BY 1;
-- differs: some errors have another SQLSTATE.
-- postgres: ERROR 42804
-- tidemill: ERROR 42P17
SELECT 1 UNION ALL SELECT true;
-- differs: the columns of INTERSECT and EXCEPT are described before their common type is found.
-- postgres: ?column? numeric | 1
-- tidemill: ?column? int4 | 1
SELECT 1 INTERSECT SELECT 1.0;
SELECT (ARRAY[10, 20, 30])[2], (ARRAY[10, 20, 30])[2:3], (ARRAY[10, 20, 30])[:2], (ARRAY[10, 20, 30])[2:], (ARRAY[10, 20, 30])[:], (ARRAY[10, 20, 30])[4], (ARRAY[10, 20, 30])[0];
-- differs: a slice is of one dimension.
-- postgres: array int4, array _int4, array _int4 | 3, {{1,2}}, {{2},{4}}
-- tidemill: array int4, array _int4, array _int4 | 3, {{1,2}}, {{3,4}}
SELECT (ARRAY[[1, 2], [3, 4]])[2][1], (ARRAY[[1, 2], [3, 4]])[1:1], (ARRAY[[1, 2], [3, 4]])[1:2][2:2];
SELECT ARRAY(SELECT x FROM (VALUES (2), (1)) AS t (x) ORDER BY x), ARRAY(SELECT 1 WHERE false);
-- differs: the elements of an array of numeric have one scale.
-- postgres: array _numeric, array _int4, array _text, array _int4, array _text, array _int4 | {1,2.5}, {NULL,1}, {a,NULL}, {{1,2},{3,4}}, {1,2}, {}
-- tidemill: array _numeric, array _int4, array _text, array _int4, array _text, array _int4 | {1.0,2.5}, {NULL,1}, {a,NULL}, {{1,2},{3,4}}, {1,2}, {}
SELECT ARRAY[1, 2.5], ARRAY[NULL, 1], ARRAY['a', NULL], ARRAY[[1, 2], [3, 4]], ARRAY[1, 2]::text[], ARRAY[]::int[];
SELECT '{1,2}'::int[] = ARRAY[1, 2], ARRAY[1, 2] < ARRAY[1, 3], 1 = ANY (ARRAY[1, 2]), 3 <> ALL (ARRAY[1, 2]), 1 = ANY ('{1,2}'), NULL = ANY (ARRAY[1]), 1 = ANY (ARRAY[NULL, 2]);
SELECT 5 > ALL (ARRAY[1, 2]), 1 < ANY (ARRAY[0, 2]), 2 = SOME (ARRAY[1, 2]);
SELECT 2 * 3 + 4, 2 + 3 * 4, (2 + 3) * 4, -2 ^ 2, 7 / 2, -7 / 2, 7 % 3, -7 % 3, 2 ^ 3 ^ 2, 5 - 3 - 1, NOT true OR true;
SELECT 1 = 1 AND 2 > 1, 1 <> 2, 1 != 2, 'a' || 'b' || 'c', 'a' || 1, 1 || 'a', 'a' || NULL;
SELECT CAST('1' AS int), '1'::int, int '1', int4('1'), text(1), float8(1), date('2024-01-01');
SELECT (SELECT max(x) FROM (VALUES (1), (2)) AS t (x)), EXISTS (SELECT 1), 1 IN (1, 2), 3 NOT IN (1, 2), NULL IN (1), 1 IN (1, NULL), 2 IN (1, NULL);
-- differs: a text stands for the same date at all times: today and now are functions, current_date and now().
-- postgres: ?column? bool, ?column? bool, ?column? int4, ?column? int4, ?column? bool | t, t, 1, -1, t
-- tidemill: ERROR 22007
SELECT 'now' IS NOT NULL, 'today'::date = current_date, 'tomorrow'::date - current_date, 'yesterday'::date - current_date, 'now'::timestamp IS NOT NULL;
SELECT date '2024-01-01', time '10:00', timestamp '2024-01-01 10:00', timestamptz '2024-01-01 10:00+02', interval '1 day', timestamp with time zone '2024-01-01 10:00+00', time without time zone '10:00';
-- differs: the internal type "char" is missing.
-- postgres: ?column? bool | t
-- tidemill: ERROR 42883
SELECT "char"('x') IS NOT NULL;
SELECT 1::int2 + 1::int2, 1::int2 + 1, 1 + 1::bigint, 1 + 1.5, 1 + 1.5::float8, 1::real + 1::real, 1::real + 1::float8, 1.5 + 1::float8;
-- differs: avg of integers is double precision, which costs less state; cast to numeric for an exact average.
-- postgres: sum int8, avg numeric, max int2 | 3, 1.5000000000000000, 2
-- tidemill: sum int8, avg float8, max int2 | 3, 1.5, 2
SELECT sum(x), avg(x), max(x) FROM (VALUES (1::smallint), (2::smallint)) AS t (x);
SELECT sum(x), avg(x), max(x) FROM (VALUES (1::numeric), (2.5)) AS t (x);
-- differs: a row cannot be selected by the name of its relation; make an object of its columns.
-- postgres: t record | (1,a)
-- tidemill: ERROR 42703
SELECT t FROM (VALUES (1, 'a')) AS t (a, b);
SELECT t.* FROM (VALUES (1, 'a')) AS t (a, b);
-- differs: a row cannot be selected by the name of its relation; make an object of its columns.
-- postgres: a int4 | 1
-- tidemill: ERROR 0A000
SELECT (t).a FROM (VALUES (1, 'a')) AS t (a, b);
-- differs: a row cannot be selected by the name of its relation; make an object of its columns.
-- postgres: count int8 | 1
-- tidemill: ERROR 42703
SELECT count(t) FROM (VALUES (1, 'a')) AS t (a, b);
SELECT count(*) FILTER (WHERE x > 1), sum(x) FILTER (WHERE x > 5) FROM (VALUES (1), (2), (3)) AS t (x);
-- differs: UESCAPE, and strings that go on in the next line, are missing.
-- postgres: ?column? text, ?column? text, ?column? text, ?column? text | data, data, A, A
-- tidemill: ERROR 42601
SELECT U&'d\0061t\+000061', U&'d!0061t!+000061' UESCAPE '!', E'\u0041', E'\101';
-- differs: UESCAPE, and strings that go on in the next line, are missing.
-- postgres: ?column? text | foobar
-- tidemill: bar text | foo
SELECT 'foo'
'bar';
-- differs: a word behind a number is its name.
-- postgres: ERROR 42601
-- tidemill: b101 int4, o17 int4 | 0, 0
SELECT 0b101, 0o17;
SELECT 'it''s', "x" FROM (SELECT 1 AS x) AS t;
SELECT 1 AS "a b", 2 AS value, 3 AS name, 4 c;
SELECT 1 a, 2 b ORDER BY a;
SELECT 10 OPERATOR(pg_catalog.+) 5;
SELECT ALL 1;
SELECT pg_catalog.abs(-1), pg_catalog.lower('A');
SELECT current_schema, current_user IS NOT NULL, current_catalog IS NOT NULL, user IS NOT NULL, session_user IS NOT NULL;
SELECT '{"a": 1}' IS JSON;
SELECT x[1], x[2:3] FROM (VALUES (ARRAY[1, 2, 3])) AS t (x);
-- differs: an aggregate can be subscripted without parentheses.
-- postgres: ERROR 42601
-- tidemill: array_agg int4 | 1
SELECT array_agg(x)[1] FROM (VALUES (1)) AS t (x);
SELECT (array_agg(x ORDER BY x))[1] FROM (VALUES (1), (2)) AS t (x);
SELECT (regexp_match('a1', '\d'))[1], (string_to_array('a,b', ','))[2], split_part('a,b', ',', 2);
