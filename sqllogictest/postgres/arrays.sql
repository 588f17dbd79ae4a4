# Arrays.

SELECT ARRAY[1, 2, 3], ARRAY['a', 'b'], ARRAY[1, NULL, 3], ARRAY[]::int[], ARRAY[1.5, 2.5], ARRAY[[1, 2], [3, 4]];
SELECT (ARRAY[1, 2, 3])[1], (ARRAY[1, 2, 3])[4], (ARRAY[1, 2, 3])[0], (ARRAY[1, 2, 3])[2:3], (ARRAY[[1, 2], [3, 4]])[2][1];
SELECT (ARRAY[1, 2, 3])[:2];
SELECT ARRAY[1, 2] || 3, 0 || ARRAY[1, 2], ARRAY[1, 2] || ARRAY[3], array_append(ARRAY[1], 2), array_prepend(0, ARRAY[1]), array_cat(ARRAY[1], ARRAY[2]);
SELECT array_length(ARRAY[1, 2, 3], 1), array_length(ARRAY[]::int[], 1), array_length(ARRAY[1], 2), cardinality(ARRAY[1, 2, 3]), cardinality(ARRAY[]::int[]), cardinality(ARRAY[[1, 2], [3, 4]]);
SELECT array_ndims(ARRAY[[1, 2], [3, 4]]);
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
SELECT ARRAY(SELECT x FROM (VALUES (2), (1)) AS t (x) ORDER BY x);
SELECT array_to_string(ARRAY[1, 2, NULL], ','), array_to_json(ARRAY[1, 2]), string_to_array('1,2', ',')::int[];
SELECT array_fill(7, ARRAY[3]), trim_array(ARRAY[1, 2, 3], 1);
SELECT generate_series(1, 3);
SELECT * FROM generate_series(1, 3);
SELECT * FROM generate_series(1, 10, 3) AS g;
SELECT g FROM generate_series(5, 1, -2) AS g;
SELECT * FROM generate_series(3, 1);
SELECT * FROM generate_series(timestamp '2024-01-01', timestamp '2024-01-03', interval '1 day') AS g (t);
SELECT * FROM generate_series(timestamp '2024-01-01', timestamp '2024-03-01', '1 month') AS g (t);
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
-- differs: an array with NULL put behind it has one element more.
-- postgres: ?column? bool, ?column? bool, ?column? bool, ?column? _int4, ?column? _int4, ?column? _int4, ?column? _int4, ?column? _text | t, t, t, {1,2,3}, {0,1}, {1,2}, {1}, {a,b}
-- tidemill: ?column? bool, ?column? bool, ?column? bool, ?column? _int4, ?column? _int4, ?column? _int4, ?column? _int4, ?column? _text | t, t, t, {1,2,3}, {0,1}, {1,2}, {1,NULL}, {a,b}
SELECT ARRAY[1, 4, 3] @> ARRAY[3, 1, 3], ARRAY[2, 2, 7] <@ ARRAY[1, 7, 4, 2, 6], ARRAY[1, 4, 3] && ARRAY[2, 1], ARRAY[1, 2] || ARRAY[3], 0 || ARRAY[1], ARRAY[1] || 2, ARRAY[1] || NULL, ARRAY['a'] || 'b'::text;
-- differs: array_fill makes arrays of one dimension, array_upper and array_lower are bigint, and array_remove does not take NULL out.
-- postgres: array_append _int4, array_prepend _int4, array_cat _int4, array_dims text, array_fill _int4, array_fill _int4, array_length int4, array_lower int4, array_ndims int4, array_upper int4 | {1,2,3}, {0,1}, {1,2}, [1:2][1:2], {7,7,7}, {{0,0},{0,0}}, 2, 1, 2, 2
-- tidemill: ERROR 0A000
SELECT array_append(ARRAY[1, 2], 3), array_prepend(0, ARRAY[1]), array_cat(ARRAY[1], ARRAY[2]), array_dims(ARRAY[[1, 2], [3, 4]]), array_fill(7, ARRAY[3]), array_fill(0, ARRAY[2, 2]), array_length(ARRAY[1, 2], 1), array_lower(ARRAY[1], 1), array_ndims(ARRAY[[1], [2]]), array_upper(ARRAY[1, 2], 1);
SELECT array_position(ARRAY['a', 'b'], 'b'), array_position(ARRAY[1, 2, 1], 1, 2), array_positions(ARRAY[1, 2, 1], 1), array_remove(ARRAY[1, 2, 1], 1), array_replace(ARRAY[1, 2], 2, 3), array_to_string(ARRAY[1, 2], '-'), cardinality(ARRAY[[1, 2], [3, 4]]), trim_array(ARRAY[1, 2, 3], 1);
-- differs: array_fill makes arrays of one dimension, array_upper and array_lower are bigint, and array_remove does not take NULL out.
-- postgres: array_position int4, array_remove _int4, cardinality int4, array_length int4, array_upper int4, array_dims text, array_ndims int4 | NULL, {1}, 0, NULL, NULL, NULL, NULL
-- tidemill: array_position int4, array_remove _int4, cardinality int4, array_length int4, array_upper int8, array_dims text, array_ndims int4 | NULL, NULL, 0, NULL, NULL, NULL, 1
SELECT array_position(ARRAY[1], 5), array_remove(ARRAY[1, NULL], NULL), cardinality(ARRAY[]::int[]), array_length(ARRAY[]::int[], 1), array_upper(ARRAY[]::int[], 1), array_dims(ARRAY[]::int[]), array_ndims(ARRAY[]::int[]);
-- differs: a string is not taken for an array by an operator.
-- postgres: ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool | t, t, t, t, t
-- tidemill: ERROR 42883
SELECT ARRAY[1, 2] = ARRAY[1, 2], ARRAY[1, 2] <> ARRAY[2, 1], ARRAY[1, 2] < ARRAY[1, 2, 3], ARRAY[1, NULL] = ARRAY[1, NULL], ARRAY['a'] = '{a}';
-- differs: the text of an array is read with the dimensions of the type.
-- postgres: int4 _int4, int4 _int4, text _text, int4 _int4, array _bool, array _date, array _jsonb, array _numeric | {}, {NULL,1}, {"a b","c\"d"}, {{1,2},{3,4}}, {t,f}, {2024-01-01}, {"{\"a\": 1}"}, {1.5,2}
-- tidemill: ERROR 22P02
SELECT '{}'::int[], '{NULL,1}'::int[], '{"a b","c\"d"}'::text[], '{{1,2},{3,4}}'::int[], ARRAY[true, false], ARRAY[date '2024-01-01'], ARRAY['{"a":1}'::jsonb], ARRAY[1.5, 2];
SELECT '{1,2'::int[];
-- differs: arrays begin at 1.
-- postgres: int4 _int4 | [0:1]={1,2}
-- tidemill: int4 _int4 | {1,2}
SELECT '[0:1]={1,2}'::int[];
SELECT x[1], x[array_length(x, 1)] FROM (VALUES ('{1,2,3}'::int[])) AS t (x);
SELECT array_agg(x ORDER BY x) || 5 FROM (VALUES (1), (2)) AS t (x);
SELECT array_sample(ARRAY[1], 1), array_shuffle(ARRAY[1]);
SELECT ARRAY[1, 2]::text, ARRAY['a', 'b']::text, array_to_json(ARRAY[1, 2]), to_json(ARRAY['a']), array_to_json(ARRAY[[1, 2], [3, 4]]);
SELECT 2 = ANY (x), 2 = ALL (x), 2 <> ALL (x) FROM (VALUES (ARRAY[1, 2])) AS t (x);
SELECT (ARRAY['a', 'b', 'c'])[2:], (string_to_array('1,2,3', ',')::int[])[1], ('{5,6}'::int[])[2];
-- differs: a string is not taken for an array by an operator.
-- postgres: ?column? _int4, array_cat _int4 | {1,2,3,4}, {1,2}
-- tidemill: ERROR 42883
SELECT ARRAY[1, 2] || '{3,4}', array_cat('{1}', ARRAY[2]);
SELECT unnest(ARRAY[3, 1, 2]) AS x ORDER BY x;
SELECT array_to_string(array_agg(x ORDER BY x), ',') FROM unnest(ARRAY[3, 1, 2]) AS x;
SELECT x FROM (VALUES (ARRAY[2, 1]), (ARRAY[1, 5]), (ARRAY[1])) AS t (x) ORDER BY x;
SELECT x, count(*) FROM (VALUES (ARRAY[1]), (ARRAY[1])) AS t (x) GROUP BY x;
SELECT ARRAY[1, 'a'];
-- differs: the rows of a nested array may have different lengths.
-- postgres: ERROR 2202E
-- tidemill: array _int4 | {{1,2},{3}}
SELECT ARRAY[[1, 2], [3]];
