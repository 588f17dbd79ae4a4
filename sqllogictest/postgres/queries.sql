# Joins, subqueries, set operations, CTEs, ORDER BY and LIMIT.

CREATE TABLE a (id int, x int, name text);
CREATE TABLE b (id int, a_id int, y int);
INSERT INTO a VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three'), (4, NULL, NULL);
INSERT INTO b VALUES (1, 1, 100), (2, 1, 150), (3, 2, 200), (4, NULL, 400), (5, 9, 900);
SELECT a.id, b.id FROM a JOIN b ON a.id = b.a_id ORDER BY 1, 2;
SELECT a.id, b.id FROM a LEFT JOIN b ON a.id = b.a_id ORDER BY 1, 2;
SELECT a.id, b.id FROM a RIGHT JOIN b ON a.id = b.a_id ORDER BY 2;
SELECT a.id, b.id FROM a FULL JOIN b ON a.id = b.a_id ORDER BY 1, 2;
SELECT count(*) FROM a CROSS JOIN b;
SELECT a.id, b.id FROM a, b WHERE a.id = b.a_id AND b.y > 100 ORDER BY 1, 2;
SELECT * FROM a JOIN b USING (id) ORDER BY id;
SELECT * FROM a NATURAL JOIN b ORDER BY id;
SELECT a.id, b.id FROM a JOIN b ON a.id < b.id ORDER BY 1, 2;
SELECT a.id, b.id FROM a LEFT JOIN b ON a.id = b.a_id AND b.y > 120 ORDER BY 1, 2;
SELECT a1.id, a2.id FROM a AS a1 JOIN a AS a2 ON a1.x IS NOT DISTINCT FROM a2.x ORDER BY 1, 2;
SELECT id FROM a WHERE id IN (SELECT a_id FROM b) ORDER BY id;
SELECT id FROM a WHERE id NOT IN (SELECT a_id FROM b) ORDER BY id;
SELECT id FROM a WHERE id NOT IN (SELECT a_id FROM b WHERE a_id IS NOT NULL) ORDER BY id;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.a_id = a.id) ORDER BY id;
SELECT id FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.a_id = a.id) ORDER BY id;
SELECT id, (SELECT max(y) FROM b WHERE b.a_id = a.id) FROM a ORDER BY id;
SELECT id, (SELECT count(*) FROM b WHERE b.a_id = a.id) FROM a ORDER BY id;
SELECT (SELECT y FROM b WHERE b.a_id = 1);
SELECT (SELECT y FROM b WHERE b.a_id = 77);
SELECT id FROM a WHERE x = (SELECT max(x) FROM a);
SELECT id FROM a WHERE id = ANY (SELECT a_id FROM b) ORDER BY id;
SELECT id FROM a WHERE id <> ALL (SELECT a_id FROM b WHERE a_id IS NOT NULL) ORDER BY id;
SELECT id FROM a WHERE x >= ALL (SELECT x FROM a WHERE x IS NOT NULL);
SELECT id FROM a WHERE x > ANY (SELECT x FROM a) ORDER BY id;
SELECT id FROM a WHERE x < SOME (SELECT x FROM a) ORDER BY id;
SELECT id FROM a WHERE x >= ALL (SELECT x FROM a) ORDER BY id;
SELECT id FROM a WHERE x >= ALL (SELECT x FROM a WHERE false) ORDER BY id;
SELECT id FROM a WHERE (id, x) IN (SELECT a_id, y / 10 FROM b) ORDER BY id;
SELECT id FROM a WHERE (id, x) IN ((1, 10), (2, 21)) ORDER BY id;
SELECT id FROM a WHERE (id, x) = (1, 10);
SELECT id FROM a UNION SELECT a_id FROM b ORDER BY 1;
SELECT id FROM a UNION ALL SELECT a_id FROM b ORDER BY 1;
SELECT id FROM a INTERSECT SELECT a_id FROM b ORDER BY 1;
SELECT id FROM a EXCEPT SELECT a_id FROM b ORDER BY 1;
SELECT a_id FROM b INTERSECT ALL SELECT a_id FROM b ORDER BY 1;
SELECT a_id FROM b EXCEPT ALL SELECT id FROM a ORDER BY 1;
SELECT id FROM a UNION SELECT a_id FROM b EXCEPT SELECT 1 ORDER BY 1;
SELECT 1 UNION SELECT 2.5 UNION SELECT NULL ORDER BY 1;
SELECT 1 AS x UNION ALL SELECT 'a';
SELECT 1, 2 UNION SELECT 3;
SELECT 'a' UNION SELECT 1::text ORDER BY 1;
SELECT id FROM a ORDER BY x DESC;
SELECT id FROM a ORDER BY x DESC NULLS LAST, id;
SELECT id, x AS z FROM a ORDER BY z;
SELECT id FROM a ORDER BY 1 DESC LIMIT 2;
SELECT id FROM a ORDER BY id LIMIT 2 OFFSET 1;
SELECT id FROM a ORDER BY id OFFSET 2;
SELECT id FROM a ORDER BY id FETCH FIRST 2 ROWS ONLY;
SELECT id FROM a ORDER BY id FETCH NEXT ROW ONLY;
SELECT id FROM a ORDER BY id OFFSET 1 ROW FETCH FIRST 2 ROWS ONLY;
SELECT y / 100 AS h FROM b ORDER BY h FETCH FIRST 1 ROWS WITH TIES;
SELECT id FROM a ORDER BY id LIMIT ALL;
SELECT id FROM a ORDER BY id LIMIT 0;
SELECT id FROM a LIMIT -1;
SELECT id FROM a ORDER BY 5;
WITH t AS (SELECT id, x FROM a WHERE x > 10) SELECT * FROM t ORDER BY id;
WITH t AS (SELECT 1 AS n), u AS (SELECT n + 1 AS m FROM t) SELECT * FROM t, u;
WITH t (p, q) AS (SELECT id, x FROM a) SELECT p FROM t WHERE q = 20;
WITH t AS MATERIALIZED (SELECT 1 AS n) SELECT * FROM t;
WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t ORDER BY n;
WITH RECURSIVE t (n) AS (SELECT 1 UNION SELECT n % 3 + 1 FROM t) SELECT n FROM t ORDER BY n;
SELECT t.id, u.m FROM a AS t, LATERAL (SELECT max(y) AS m FROM b WHERE b.a_id = t.id) AS u ORDER BY 1;
-- differs: LATERAL with LIMIT is missing; use row_number() over a partition.
-- postgres: id int4, y int4 | 1, 150 | 2, 200 | 3, NULL | 4, NULL
-- tidemill: ERROR 0A000
SELECT t.id, u.y FROM a AS t LEFT JOIN LATERAL (SELECT y FROM b WHERE b.a_id = t.id ORDER BY y DESC LIMIT 1) AS u ON true ORDER BY 1;
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS t (n, s) ORDER BY n;
VALUES (1, 'a'), (2, 'b');
SELECT x FROM (SELECT id AS x FROM a) AS t WHERE x > 2 ORDER BY x;
SELECT count(*) FROM (SELECT id FROM a) t;
SELECT a.* FROM a WHERE id = 1;
SELECT id, count(*) OVER () FROM a ORDER BY id LIMIT 1;
SELECT nosuch FROM a;
SELECT * FROM nosuch;
SELECT id FROM a JOIN b ON a.id = b.a_id;
SELECT a.id FROM a AS t;
SELECT DISTINCT x / 20 FROM a ORDER BY 1;
SELECT id FROM a WHERE x = 10 OR x = 30 AND name = 'x' ORDER BY id;
SELECT id FROM a WHERE NOT x = 10 ORDER BY id;
SELECT id FROM a WHERE x;
SELECT id FROM a WHERE name LIKE 't%' ORDER BY id;
SELECT id, CASE name WHEN 'one' THEN 1 WHEN 'two' THEN 2 ELSE 0 END AS c FROM a ORDER BY id;
SELECT sum(x) FROM a WHERE id > (SELECT avg(id) FROM a);
SELECT name, x FROM a WHERE x IS NULL;
SELECT "id", "a"."x" FROM "a" WHERE "name" = 'two';
SELECT id AS "Some Name" FROM a WHERE id = 1;
SELECT count(*) AS count, id FROM a GROUP BY id ORDER BY id;
SELECT id FROM a GROUP BY id, x HAVING x > 10 ORDER BY id;
-- differs: EXISTS stands in WHERE only.
-- postgres: exists bool, ?column? bool | t, t
-- tidemill: exists bool, exists bool | t, t
SELECT exists(SELECT 1 FROM a), NOT exists(SELECT 1 FROM a WHERE false);
-- differs: TABLESAMPLE is missing.
-- postgres: id int4 | 1 | 2 | 3 | 4
-- tidemill: ERROR 0A000
SELECT id FROM a TABLESAMPLE SYSTEM (100) ORDER BY id;
SELECT id FROM a WHERE id = 1 FOR UPDATE;
-- differs: TABLE name and a SELECT without columns are missing.
-- postgres: id int4, x int4, name text | 1, 10, one | 2, 20, two | 3, 30, three | 4, NULL, NULL
-- tidemill: ERROR 0A000
TABLE a;
SELECT FROM a;
SELECT 1 WHERE false;
-- differs: TABLE name and a SELECT without columns are missing.
-- postgres: |
-- tidemill: ERROR 42601
SELECT;
SELECT ROW(1, 'a');
SELECT (SELECT 1), (SELECT 'x' AS y), ((SELECT 2)) + 1;
SELECT current_user = session_user, current_schema, current_database() IS NOT NULL, version() LIKE 'PostgreSQL%';
-- differs: a row cannot be selected by the name of its relation.
-- postgres: a a | (1,10,one)
-- tidemill: ERROR 42703
SELECT a FROM a WHERE id = 1;
SELECT gen_random_uuid() IS NOT NULL, length(gen_random_uuid()::text);
SELECT u FROM (VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid), ('b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')) AS t (u) WHERE u > 'a1eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' ORDER BY u;
CREATE TABLE r (k int, z int);
INSERT INTO r VALUES (2, 7), (100, 8);
SELECT k, x FROM (SELECT id AS k, x FROM a) l LEFT JOIN r USING (k) ORDER BY 1;
-- differs: RIGHT and FULL JOIN merge no columns; use ON.
-- postgres: k int4 | 2 | 100
-- tidemill: ERROR 0A000
SELECT k FROM (SELECT id AS k FROM a) l RIGHT JOIN r USING (k) ORDER BY 1;
-- differs: RIGHT and FULL JOIN merge no columns; use ON.
-- postgres: k int4 | 1 | 2 | 3 | 4 | 100
-- tidemill: ERROR 0A000
SELECT k FROM (SELECT id AS k FROM a) l NATURAL FULL JOIN r ORDER BY 1;
-- differs: TABLESAMPLE is missing.
-- postgres: count int8 | 0
-- tidemill: ERROR 0A000
SELECT count(*) FROM a TABLESAMPLE BERNOULLI (0);
