# json and jsonb.

SELECT '{"a": {"b": [1, 2, {"c": "x"}]}}'::json -> 'a', '{"a": {"b": 1}}'::json -> 'a' -> 'b', '[1,2,3]'::json -> 1, '[1,2,3]'::json -> -1;
SELECT '{"a": "x"}'::json ->> 'a', '{"a": {"b": 1}}'::json ->> 'a', '[1,"x",null]'::json ->> 1, '[1,"x",null]'::json ->> 2, '{"a": 1}'::json ->> 'z', '{"a": null}'::json -> 'a';
SELECT '{"a": {"b": [1, 2]}}'::json #> '{a,b}', '{"a": {"b": [1, 2]}}'::json #>> '{a,b,1}', '{"a": {"b": [1, 2]}}'::jsonb #> '{a,b,0}';
SELECT '{"a": 1, "b": 2}'::jsonb @> '{"a": 1}'::jsonb, '{"a": 1}'::jsonb <@ '{"a": 1, "b": 2}'::jsonb, '[1,2,3]'::jsonb @> '[1,3]'::jsonb, '{"a": {"b": 1, "c": 2}}'::jsonb @> '{"a": {"b": 1}}'::jsonb;
SELECT '{"a": 1}'::jsonb ? 'a', '{"a": 1}'::jsonb ? 'b', '["a","b"]'::jsonb ? 'a', '{"a":1,"b":2}'::jsonb ?| ARRAY['a', 'z'], '{"a":1,"b":2}'::jsonb ?& ARRAY['a', 'b'];
SELECT '{"a": 1}'::jsonb || '{"b": 2}'::jsonb, '{"a": 1, "b": 2}'::jsonb - 'a', '["a", "b"]'::jsonb - 1, '{"a": {"b": 1, "c": 2}}'::jsonb #- '{a,b}', '{"a":1}'::jsonb = '{"a": 1}'::jsonb;
SELECT json_array_length('[1,2,3]'), jsonb_array_length('[]'::jsonb), json_typeof('{"a":1}'), jsonb_typeof('[1]'), jsonb_typeof('"x"'), jsonb_typeof('1.5'), jsonb_typeof('true'), jsonb_typeof('null');
SELECT json_extract_path('{"a": {"b": 1}}', 'a', 'b'), json_extract_path_text('{"a": {"b": "x"}}', 'a', 'b'), jsonb_extract_path_text('{"a": [1, 2]}', 'a', '1');
SELECT to_json('a"b'::text), to_json(1), to_json(true), to_jsonb(1.5), to_json(ARRAY[1, 2]), to_jsonb('x'::text), to_json(NULL::int), to_json(timestamp '2024-01-02 03:04:05'), to_json(date '2024-01-02');
SELECT json_build_object('a', 1, 'b', 'x', 'c', NULL), json_build_array(1, 'x', true, NULL), jsonb_build_object('b', 1, 'a', 2), jsonb_build_array(1, 2.5);
-- differs: functions that make JSON of rows and arrays of text, and aggregates that do, are missing.
-- postgres: json_object json, json_object json | {"a" : "1", "b" : "2"}, {"a" : "1", "b" : "2"}
-- tidemill: ERROR 42883
SELECT json_object('{a,1,b,2}'), json_object('{a,b}', '{1,2}');
-- differs: functions that make JSON of rows and arrays of text, and aggregates that do, are missing.
-- postgres: json_agg json, jsonb_agg jsonb | [1, 2], [1, 2]
-- tidemill: ERROR 42883
SELECT json_agg(x ORDER BY x), jsonb_agg(x ORDER BY x) FROM (VALUES (2), (1)) AS t (x);
-- differs: functions that make JSON of rows and arrays of text, and aggregates that do, are missing.
-- postgres: json_object_agg json, jsonb_object_agg jsonb | { "a" : 1, "b" : 2 }, {"a": 1, "b": 2}
-- tidemill: ERROR 42883
SELECT json_object_agg(k, v ORDER BY k), jsonb_object_agg(k, v) FROM (VALUES ('a', 1), ('b', 2)) AS t (k, v);
SELECT jsonb_set('{"a": 1}', '{a}', '2'), jsonb_set('{"a": {"b": 1}}', '{a,c}', '5'), jsonb_insert('{"a": [0, 1]}', '{a, 1}', '"new"'), jsonb_strip_nulls('{"a": 1, "b": null}');
-- differs: a part of a json is written in one form, with a space behind each comma and colon.
-- postgres: json_strip_nulls json | {"a":1}
-- tidemill: json_strip_nulls json | {"a": 1}
SELECT json_strip_nulls('{"a":1,"b":null}');
SELECT jsonb_pretty('{"a": [1, 2]}');
-- differs: the elements that json_array_elements gives have the type text.
-- postgres: value json | "x" | 1 | null
-- tidemill: value text | "x" | 1 | null
SELECT * FROM json_array_elements('[1, "x", null]');
SELECT * FROM json_array_elements_text('[1, "x", null]');
-- differs: the elements that json_array_elements gives have the type text.
-- postgres: jsonb_array_elements jsonb | 1 | {"a": 2}
-- tidemill: jsonb_array_elements text | 1 | {"a": 2}
SELECT jsonb_array_elements('[1, {"a": 2}]');
SELECT * FROM jsonb_array_elements_text('["a", "b"]') AS t (x);
-- differs: json_each and its kin, which give two columns, are missing.
-- postgres: key text, value json | a, 1 | b, "x"
-- tidemill: ERROR 42P17
SELECT * FROM json_each('{"a": 1, "b": "x"}');
-- differs: json_each and its kin, which give two columns, are missing.
-- postgres: key text, value text | a, 1 | b, x
-- tidemill: ERROR 42P17
SELECT * FROM jsonb_each_text('{"a": 1, "b": "x"}');
SELECT json_object_keys('{"a": 1, "b": 2}');
SELECT jsonb_object_keys('{"b": 1, "a": 2}');
-- differs: functions that make JSON of rows and arrays of text, and aggregates that do, are missing.
-- postgres: row_to_json json | {"a":1,"b":"x"}
-- tidemill: ERROR 42883
SELECT row_to_json(t) FROM (VALUES (1, 'x')) AS t (a, b);
SELECT ('{"a": 5}'::jsonb -> 'a')::int, ('{"a": 1.5}'::jsonb -> 'a')::numeric, ('{"a": true}'::jsonb -> 'a')::boolean, ('{"a": "5"}'::jsonb ->> 'a')::int;
-- differs: SQL/JSON paths are missing.
-- postgres: jsonb_path_query jsonb | 2 | 3
-- tidemill: ERROR 42883
SELECT jsonb_path_query('{"a": [1, 2, 3]}', '$.a[*] ? (@ > 1)');
-- differs: SQL/JSON paths are missing.
-- postgres: jsonb_path_exists bool, jsonb_path_query_array jsonb, jsonb_path_query_first jsonb | t, [1, 2], 1
-- tidemill: ERROR 42883
SELECT jsonb_path_exists('{"a": 1}', '$.a'), jsonb_path_query_array('{"a": [1, 2]}', '$.a[*]'), jsonb_path_query_first('{"a": [1, 2]}', '$.a[*]');
SELECT j ->> 'k' AS k, count(*) FROM (VALUES ('{"k": "a"}'::jsonb), ('{"k": "b"}'), ('{"k": "a"}')) AS t (j) GROUP BY j ->> 'k' ORDER BY 1;
SELECT '{"a": 1, "a": 2}'::jsonb, '{"a": 1, "a": 2}'::json, ' [1 , 2] '::jsonb, '"\u0041"'::jsonb;
SELECT j -> 'a' -> 0 ->> 'b' FROM (VALUES ('{"a": [{"b": "x"}]}'::json)) AS t (j);
SELECT (j -> 'n')::int + 1, j ->> 'n' = '5' FROM (VALUES ('{"n": 5}'::jsonb)) AS t (j);
SELECT '"x"'::jsonb #>> '{}', '{"a":1}'::jsonb -> 'a' = '1'::jsonb;
-- differs: numbers in a jsonb lose the zeros at their end.
-- postgres: jsonb jsonb | 1.50
-- tidemill: jsonb jsonb | 1.5
SELECT '1.50'::jsonb;
SELECT is_json FROM (SELECT 1 AS is_json) AS t;
