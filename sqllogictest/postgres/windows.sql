# Window functions.

CREATE TABLE w (id int, g text, v int, f float8, ts timestamp);
INSERT INTO w VALUES (1, 'a', 10, 1.5, '2024-01-01 00:00'), (2, 'a', 20, 2.5, '2024-01-01 00:10'), (3, 'a', 20, NULL, '2024-01-01 00:20'), (4, 'b', 5, 0.5, '2024-01-01 00:00'), (5, 'b', NULL, 9.5, '2024-01-01 01:00'), (6, NULL, 7, 7, NULL);
SELECT id, row_number() OVER (ORDER BY id), rank() OVER (ORDER BY v), dense_rank() OVER (ORDER BY v), percent_rank() OVER (ORDER BY v), cume_dist() OVER (ORDER BY v) FROM w ORDER BY id;
-- differs: ntile gives bigint.
-- postgres: id int4, ntile int4 | 1, 1 | 2, 1 | 3, 2 | 4, 2 | 5, 3 | 6, 4
-- tidemill: id int4, ntile int8 | 1, 1 | 2, 1 | 3, 2 | 4, 2 | 5, 3 | 6, 4
SELECT id, ntile(4) OVER (ORDER BY id) FROM w ORDER BY id;
SELECT id, lag(v) OVER (ORDER BY id), lead(v) OVER (ORDER BY id), lag(v, 2, 0) OVER (ORDER BY id), lead(v, 1, -1) OVER (PARTITION BY g ORDER BY id) FROM w ORDER BY id;
SELECT id, first_value(v) OVER (PARTITION BY g ORDER BY id), last_value(v) OVER (PARTITION BY g ORDER BY id), nth_value(v, 2) OVER (PARTITION BY g ORDER BY id) FROM w ORDER BY id;
SELECT id, sum(v) OVER (PARTITION BY g), avg(f) OVER (PARTITION BY g), count(*) OVER (PARTITION BY g), min(v) OVER (PARTITION BY g), max(v) OVER () FROM w ORDER BY id;
SELECT id, sum(v) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING), sum(v) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), sum(v) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING), sum(v) OVER (ORDER BY id ROWS 2 PRECEDING) FROM w ORDER BY id;
SELECT id, sum(v) OVER (ORDER BY v RANGE BETWEEN 5 PRECEDING AND 5 FOLLOWING), count(*) OVER (ORDER BY v RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), sum(v) OVER (ORDER BY v GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM w ORDER BY id;
SELECT id, count(*) OVER (PARTITION BY g ORDER BY ts RANGE BETWEEN interval '10 minutes' PRECEDING AND CURRENT ROW) FROM w ORDER BY id;
SELECT id, sum(f) OVER (PARTITION BY g ORDER BY id), avg(f) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM w ORDER BY id;
SELECT id, sum(v) OVER w1, count(*) OVER w1 FROM w WINDOW w1 AS (PARTITION BY g ORDER BY id) ORDER BY id;
SELECT id, sum(v) OVER (w1 ORDER BY id) FROM w WINDOW w1 AS (PARTITION BY g) ORDER BY id;
-- differs: EXCLUDE in a window's frame is missing.
-- postgres: id int4, sum int8 | 1, 52 | 2, 42 | 3, 42 | 4, 57 | 5, 62 | 6, 55
-- tidemill: ERROR 42601
SELECT id, sum(v) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW) FROM w ORDER BY id;
SELECT id, sum(v) FILTER (WHERE v > 5) OVER (ORDER BY id) FROM w ORDER BY id;
SELECT id, rank() OVER (PARTITION BY g ORDER BY v DESC NULLS LAST) FROM w ORDER BY id;
SELECT g, sum(v), rank() OVER (ORDER BY sum(v) DESC) FROM w GROUP BY g ORDER BY g;
SELECT * FROM (SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS n FROM w) AS t WHERE n = 1 ORDER BY id;
SELECT id, v - lag(v) OVER (ORDER BY id) AS d FROM w ORDER BY id;
SELECT id, sum(sum(v)) OVER (ORDER BY id) FROM w GROUP BY id ORDER BY id;
-- differs: a window function in WHERE is refused with another SQLSTATE.
-- postgres: ERROR 42P20
-- tidemill: ERROR 0A000
SELECT id FROM w WHERE row_number() OVER (ORDER BY id) = 1;
-- differs: IGNORE NULLS is understood, as the SQL standard has it.
-- postgres: ERROR 42601
-- tidemill: id int4, lag int4 | 1, NULL | 2, 10 | 3, 20 | 4, 20 | 5, 5 | 6, 5
SELECT id, lag(v) IGNORE NULLS OVER (ORDER BY id) FROM w ORDER BY id;
SELECT id, string_agg(g, ',') OVER (ORDER BY id), array_agg(v) OVER (PARTITION BY g ORDER BY id) FROM w ORDER BY id;
SELECT id, ntile(0) OVER (ORDER BY id) FROM w;
SELECT sum(v) OVER (ORDER BY id ROWS BETWEEN -1 PRECEDING AND CURRENT ROW) FROM w;
SELECT id, bool_or(v > 10) OVER (PARTITION BY g), stddev(f) OVER (PARTITION BY g) FROM w ORDER BY id;
SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN CURRENT ROW AND 1 PRECEDING) FROM generate_series(1, 3) AS g(x);
SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN 1 FOLLOWING AND CURRENT ROW) FROM generate_series(1, 3) AS g(x);
SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN UNBOUNDED FOLLOWING AND CURRENT ROW) FROM generate_series(1, 3) AS g(x);
SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING) FROM generate_series(1, 3) AS g(x) ORDER BY 1;
