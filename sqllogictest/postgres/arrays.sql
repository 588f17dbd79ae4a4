# Arrays.

SELECT ARRAY[1, 2, 3], ARRAY['a', 'b'], ARRAY[1, NULL, 3], ARRAY[]::int[], ARRAY[1.5, 2.5], ARRAY[[1, 2], [3, 4]];
SELECT (ARRAY[1, 2, 3])[1], (ARRAY[1, 2, 3])[4], (ARRAY[1, 2, 3])[0], (ARRAY[1, 2, 3])[2:3], (ARRAY[[1, 2], [3, 4]])[2][1];
-- differs: a slice needs its lower bound: [1:2].
-- postgres: array _int4 | {1,2}
-- tidemill: ERROR 0A000
SELECT (ARRAY[1, 2, 3])[:2];
SELECT ARRAY[1, 2] || 3, 0 || ARRAY[1, 2], ARRAY[1, 2] || ARRAY[3], array_append(ARRAY[1], 2), array_prepend(0, ARRAY[1]), array_cat(ARRAY[1], ARRAY[2]);
SELECT array_length(ARRAY[1, 2, 3], 1), array_length(ARRAY[]::int[], 1), array_length(ARRAY[1], 2), cardinality(ARRAY[1, 2, 3]), cardinality(ARRAY[]::int[]), cardinality(ARRAY[[1, 2], [3, 4]]);
SELECT array_ndims(ARRAY[[1, 2], [3, 4]]);
-- differs: array_dims is an array of lengths, and bounds are bigint.
-- postgres: array_dims text | [1:3]
-- tidemill: array_dims _int8 | {3}
SELECT array_dims(ARRAY[1, 2, 3]);
-- differs: array_dims is an array of lengths, and bounds are bigint.
-- postgres: array_lower int4, array_upper int4 | 1, 2
-- tidemill: array_lower int8, array_upper int8 | 1, 2
SELECT array_lower(ARRAY[1, 2], 1), array_upper(ARRAY[1, 2], 1);
SELECT array_position(ARRAY['a', 'b', 'c'], 'b'), array_position(ARRAY['a'], 'z'), array_remove(ARRAY[1, 2, 1], 1), array_replace(ARRAY[1, 2, 1], 1, 9);
SELECT ARRAY[1, 2, 3] @> ARRAY[2], ARRAY[1] <@ ARRAY[1, 2], ARRAY[1, 2] && ARRAY[2, 3], ARRAY[1, 2] && ARRAY[4], ARRAY[1, 2] @> ARRAY[1, 2, 3];
SELECT ARRAY[1, 2] = ARRAY[1, 2], ARRAY[1, 2] < ARRAY[1, 3], ARRAY[1, 2] <> ARRAY[2, 1], ARRAY[1] < ARRAY[1, 0];
SELECT unnest(ARRAY[1, 2, 3]);
SELECT unnest(ARRAY['a', NULL, 'b']) AS x;
SELECT * FROM unnest(ARRAY[1, 2, 3]) AS t (x);
SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b', 'c']) AS t (x, y);
SELECT * FROM unnest(ARRAY['a', 'b']) WITH ORDINALITY AS t (x, n);
SELECT unnest(ARRAY[1, 2]) AS a, unnest(ARRAY['x', 'y', 'z']) AS b;
SELECT array_agg(x ORDER BY x), array_agg(x ORDER BY x DESC) FROM (VALUES (2), (1), (3)) AS t (x);
SELECT array_agg(x) FROM (SELECT 1 AS x WHERE false) AS t;
-- differs: ARRAY(SELECT …) is missing; use (SELECT array_agg(…) …).
-- postgres: array _int4 | {1,2}
-- tidemill: ERROR 42883
SELECT ARRAY(SELECT x FROM (VALUES (2), (1)) AS t (x) ORDER BY x);
SELECT array_to_string(ARRAY[1, 2, NULL], ','), array_to_json(ARRAY[1, 2]), string_to_array('1,2', ',')::int[];
-- differs: array_fill and trim_array are missing.
-- postgres: array_fill _int4, trim_array _int4 | {7,7,7}, {1,2}
-- tidemill: ERROR 42883
SELECT array_fill(7, ARRAY[3]), trim_array(ARRAY[1, 2, 3], 1);
SELECT generate_series(1, 3);
SELECT * FROM generate_series(1, 3);
SELECT * FROM generate_series(1, 10, 3) AS g;
SELECT g FROM generate_series(5, 1, -2) AS g;
SELECT * FROM generate_series(3, 1);
SELECT * FROM generate_series(timestamp '2024-01-01', timestamp '2024-01-03', interval '1 day') AS g (t);
SELECT * FROM generate_series(timestamp '2024-01-01', timestamp '2024-03-01', '1 month') AS g (t);
-- differs: WITH ORDINALITY is missing; use row_number() over the rows.
-- postgres: a int4, n int8 | 1, 1 | 2, 2 | 3, 3
-- tidemill: ERROR 0A000
SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS t (a, n);
SELECT g * 2 AS x FROM generate_series(1, 3) AS g WHERE g > 1;
SELECT * FROM generate_series(1, 2, 0);
SELECT sum(g) FROM generate_series(1, 100) AS g;
SELECT generate_subscripts(ARRAY['a', 'b'], 1);
SELECT x FROM (VALUES (ARRAY[1, 2]), (ARRAY[1]), (NULL)) AS t (x) ORDER BY x;
SELECT x, count(*) FROM (VALUES (ARRAY[1, 2]), (ARRAY[1, 2])) AS t (x) GROUP BY x;
SELECT 2 = ANY (x) FROM (VALUES (ARRAY[1, 2]), (ARRAY[3])) AS t (x) ORDER BY 1;
SELECT t.id, u.x FROM (VALUES (1, ARRAY[10, 20]), (2, ARRAY[30])) AS t (id, xs), unnest(t.xs) AS u (x) ORDER BY 1, 2;
SELECT t.id, u.x FROM (VALUES (1, ARRAY[10, 20]), (2, ARRAY[30])) AS t (id, xs) CROSS JOIN LATERAL unnest(t.xs) AS u (x) ORDER BY 1, 2;
-- differs: what DataFusion has beyond PostgreSQL 15 can be used.
-- postgres: ERROR 42883
-- tidemill: array_sort _int4 | {1,2}
SELECT array_sort(ARRAY[2, 1]);
SELECT ARRAY[1, 2]::text, ARRAY['a b', 'c"d', ''], ARRAY[true, false], ARRAY[date '2024-01-01'], ARRAY[NULL]::int[];
SELECT ARRAY[1, 'x'];
-- differs: an empty array is text[] until it is cast.
-- postgres: ERROR 42P18
-- tidemill: array _text | {}
SELECT ARRAY[];
SELECT array_length(string_to_array('a b c', ' '), 1), 'b' = ANY (string_to_array('a b', ' '));
