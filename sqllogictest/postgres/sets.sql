# Functions that give rows.

SELECT * FROM generate_series(1, 3);
SELECT * FROM generate_series(5, 1, -2) AS g;
SELECT * FROM generate_series(1.1, 4, 1.3);
SELECT * FROM generate_series(1::bigint, 3);
SELECT * FROM generate_series(1, 5, 0);
SELECT * FROM generate_series(timestamp '2024-01-01 00:00', '2024-01-02 00:00', '10 hours');
SELECT * FROM generate_series(timestamp '2024-01-31', timestamp '2024-04-30', interval '1 month');
SELECT * FROM generate_series(timestamptz '2024-01-01 00:00+00', timestamptz '2024-01-01 10:00+00', interval '5 hours');
SELECT * FROM generate_series(date '2024-01-01', date '2024-01-03', interval '1 day');
SELECT d::date FROM generate_series('2024-01-01'::date, '2024-01-03', '1 day') AS d;
SELECT current_date + s.a - current_date FROM generate_series(0, 14, 7) AS s (a);
SELECT generate_series(1, 3) AS x, 'a' AS y;
SELECT generate_series(1, 2), generate_series(1, 3);
SELECT generate_series(1, 3) * 2;
SELECT x, generate_series(1, x) FROM (VALUES (1), (2)) AS t (x) ORDER BY 1, 2;
SELECT t.x, g FROM (VALUES (1), (2)) AS t (x), generate_series(1, t.x) AS g ORDER BY 1, 2;
SELECT t.x, g.n FROM (VALUES (1), (2)) AS t (x) CROSS JOIN LATERAL generate_series(1, t.x) AS g (n) ORDER BY 1, 2;
SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS t (a, n);
SELECT * FROM generate_subscripts('{NULL,1,NULL,2}'::int[], 1) AS s;
SELECT generate_subscripts(ARRAY[10, 20], 1);
SELECT a, s, a[s] FROM (VALUES (ARRAY[10, 20])) AS t (a), generate_subscripts(t.a, 1) AS s ORDER BY s;
SELECT * FROM unnest(ARRAY[1, 2]);
SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b', 'c']) AS t (n, s);
SELECT * FROM unnest(ARRAY['x', 'y']) WITH ORDINALITY AS t (v, n);
SELECT unnest(ARRAY[1, 2]), unnest(ARRAY['a', 'b']);
SELECT unnest('{1,2}'::int[]);
-- differs: unnest takes one level off an array of arrays.
-- postgres: unnest int4 | 1 | 2 | 3 | 4
-- tidemill: unnest _int4 | {1,2} | {3,4}
SELECT unnest(ARRAY[[1, 2], [3, 4]]);
SELECT count(*) FROM unnest(ARRAY[]::int[]);
SELECT x, u FROM (VALUES (1, ARRAY['a', 'b']), (2, NULL)) AS t (x, xs) LEFT JOIN LATERAL unnest(t.xs) AS u ON true ORDER BY 1, 2;
SELECT * FROM regexp_matches('foobarbequebazilbarfbonk', '(b[^b]+)(b[^b]+)', 'g');
SELECT * FROM string_to_table('xx~^~yy~^~zz', '~^~', 'yy');
SELECT string_to_table('a,b', ',');
SELECT * FROM regexp_split_to_table('a b c', '\s');
SELECT * FROM json_array_elements('[1, true, [2, false]]');
SELECT * FROM jsonb_array_elements('[1, true, [2, false]]') AS e;
SELECT * FROM json_array_elements_text('["foo", "bar"]');
SELECT json_array_elements('[1, 2]');
SELECT * FROM json_each('{"a": "foo", "b": {"c": 1}}');
SELECT * FROM jsonb_each('{"a": "foo", "b": {"c": 1}}');
SELECT * FROM json_each_text('{"a": "foo", "b": null}');
SELECT * FROM jsonb_each_text('{"a": "foo", "b": 1}') AS t (k, v);
SELECT e.key, e.value FROM (VALUES ('{"a": 1, "b": 2}'::jsonb)) AS t (j), jsonb_each(t.j) AS e ORDER BY 1;
SELECT key, value::int + 1 AS n FROM jsonb_each_text('{"a": 1, "b": 2}') ORDER BY key;
SELECT * FROM json_object_keys('{"f1": "abc", "f2": {"f3": "a"}}');
SELECT * FROM json_to_record('{"a": 1, "b": "x"}') AS t (a int, b text);
SELECT * FROM jsonb_to_recordset('[{"a": 1, "b": "foo"}, {"a": 2, "c": "bar"}]') AS t (a int, b text) ORDER BY a;
SELECT r.a, r.b FROM (VALUES ('[{"a": 1, "b": "foo"}]'::jsonb)) AS t (j), jsonb_to_recordset(t.j) AS r (a int, b text);
SELECT (e ->> 'a')::int FROM jsonb_array_elements('[{"a": 1}, {"a": 2}]') AS e ORDER BY 1;
SELECT e.value -> 'a' FROM (VALUES ('[{"a": 1}]'::jsonb)) AS t (j), jsonb_array_elements(t.j) AS e;
SELECT value ->> 'a' FROM json_array_elements('[{"a": 1}]');
SELECT count(*) FROM generate_series(1, 100) AS g WHERE g % 7 = 0;
SELECT sum(g) FROM generate_series(1, 100) g;
SELECT g FROM generate_series(1, 3) AS g ORDER BY g DESC;
SELECT array_agg(g) FROM generate_series(1, 3) AS g;
SELECT a.n, b.n FROM generate_series(1, 2) AS a (n), generate_series(1, 2) AS b (n) ORDER BY 1, 2;
-- differs: in FROM stand functions that give rows, one at a time.
-- postgres: a int4, b int4 | NULL, 3 | 1, 1 | 2, 2
-- tidemill: ERROR 42601
SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) AS t (a, b);
SELECT jsonb_path_query('[1, 2, 3]', '$[*] ? (@ >= 2)');
SELECT * FROM jsonb_path_query('[1, 2, 3]', '$[*] ? (@ >= 2)') AS x;
-- differs: in FROM stand functions that give rows, one at a time.
-- postgres: lower text | abc
-- tidemill: ERROR 42P17
SELECT * FROM lower('ABC');
-- differs: in FROM stand functions that give rows, one at a time.
-- postgres: a int4 | 5
-- tidemill: ERROR 42P17
SELECT * FROM abs(-5) AS a;
