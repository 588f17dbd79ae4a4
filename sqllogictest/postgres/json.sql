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
SELECT json_object('{a,1,b,2}'), json_object('{a,b}', '{1,2}');
SELECT json_agg(x ORDER BY x), jsonb_agg(x ORDER BY x) FROM (VALUES (2), (1)) AS t (x);
SELECT json_object_agg(k, v ORDER BY k), jsonb_object_agg(k, v) FROM (VALUES ('a', 1), ('b', 2)) AS t (k, v);
SELECT jsonb_set('{"a": 1}', '{a}', '2'), jsonb_set('{"a": {"b": 1}}', '{a,c}', '5'), jsonb_insert('{"a": [0, 1]}', '{a, 1}', '"new"'), jsonb_strip_nulls('{"a": 1, "b": null}');
-- differs: a part of a json is written in one form, with a space behind each comma and colon.
-- postgres: json_strip_nulls json | {"a":1}
-- tidemill: json_strip_nulls json | {"a": 1}
SELECT json_strip_nulls('{"a":1,"b":null}');
SELECT jsonb_pretty('{"a": [1, 2]}');
SELECT * FROM json_array_elements('[1, "x", null]');
SELECT * FROM json_array_elements_text('[1, "x", null]');
SELECT jsonb_array_elements('[1, {"a": 2}]');
SELECT * FROM jsonb_array_elements_text('["a", "b"]') AS t (x);
SELECT * FROM json_each('{"a": 1, "b": "x"}');
SELECT * FROM jsonb_each_text('{"a": 1, "b": "x"}');
SELECT json_object_keys('{"a": 1, "b": 2}');
SELECT jsonb_object_keys('{"b": 1, "a": 2}');
-- differs: a row cannot be selected by the name of its relation; make an object of its columns.
-- postgres: row_to_json json | {"a":1,"b":"x"}
-- tidemill: ERROR 42703
SELECT row_to_json(t) FROM (VALUES (1, 'x')) AS t (a, b);
SELECT ('{"a": 5}'::jsonb -> 'a')::int, ('{"a": 1.5}'::jsonb -> 'a')::numeric, ('{"a": true}'::jsonb -> 'a')::boolean, ('{"a": "5"}'::jsonb ->> 'a')::int;
SELECT jsonb_path_query('{"a": [1, 2, 3]}', '$.a[*] ? (@ > 1)');
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
-- differs: json_object takes arrays of one dimension.
-- postgres: json_object json, json_object json, json_object json, jsonb_object jsonb, jsonb_object jsonb | {"a" : "1", "b" : "def", "c" : "3.5"}, {"a" : "1", "b" : "def"}, {"a" : "1", "b" : "2"}, {"a": "1", "b": null}, {"a": "1"}
-- tidemill: ERROR 22P02
SELECT json_object('{a, 1, b, "def", c, 3.5}'), json_object('{{a, 1}, {b, "def"}}'), json_object('{a,b}', '{1,2}'), jsonb_object('{a,b}', '{1,NULL}'), jsonb_object('{a,1}');
SELECT json_build_object(), json_build_array(), jsonb_build_object('a', ARRAY[1, 2], 'b', jsonb_build_object('c', 1)), json_build_object('d', date '2024-01-01', 'n', 1.50, 'j', '{"x":1}'::json);
SELECT json_build_object('a');
SELECT json_build_object(NULL, 1);
-- differs: a row cannot be selected by the name of its relation; make an object of its columns.
-- postgres: row_to_json json, row_to_json json, to_json json, to_jsonb jsonb | {"f1":1,"f2":"foo"}, {"a":1,"b":"x"}, {"a":1,"b":"x"}, {"a": 1, "b": "x"}
-- tidemill: ERROR 42703
SELECT row_to_json(ROW(1, 'foo')), row_to_json(t), to_json(t), to_jsonb(t) FROM (VALUES (1, 'x')) AS t (a, b);
-- differs: functions that make JSON take values without a type.
-- postgres: ERROR 42804
-- tidemill: to_json json, to_jsonb jsonb, to_json json, to_jsonb jsonb, to_json json, to_json json, to_json json, to_json json | "Fred said \"Hi.\"", {"f1": 42, "f2": "Fred said \"Hi.\""}, null, "1 day", "\\x01", 1.50, 1e20, "NaN"
SELECT to_json('Fred said "Hi."'::text), to_jsonb(row(42, 'Fred said "Hi."'::text)), to_json(NULL), to_jsonb(interval '1 day'), to_json('\x01'::bytea), to_json(1.50), to_json(1e20::float8), to_json('NaN'::float8);
-- differs: jsonb_set_lax and json_populate_record are missing.
-- postgres: jsonb_set_lax jsonb, jsonb_set_lax jsonb | {"f1": null}, {"f2": 2}
-- tidemill: ERROR 42883
SELECT jsonb_set_lax('{"f1": 1}', '{f1}', NULL), jsonb_set_lax('{"f1": 1, "f2": 2}', '{f1}', NULL, true, 'delete_key');
SELECT jsonb_insert('{"a": [0, 1, 2]}', '{a, 1}', '"new"', true), jsonb_insert('{"a": [0, 1, 2]}', '{a, -1}', '"new"'), jsonb_set('[{"f1": 1}, 2]', '{0,f1}', '[2, 3]', false), jsonb_set('{"a": 1}', '{b}', '2', false);
SELECT jsonb_insert('{"a": 1}', '{a}', '2');
SELECT '{"a": 1, "b": 2}'::jsonb - ARRAY['a', 'b'], '{"a": 1}'::jsonb - 'z', '["a", "b"]'::jsonb - 'a', '[1, 2]'::jsonb - -1;
SELECT '{"a": 1}'::jsonb - 1;
SELECT '[1]'::jsonb || '2'::jsonb, '1'::jsonb || '2'::jsonb, '{"a": 1}'::jsonb || '[1]'::jsonb, '{"a": 1}'::jsonb || '{"a": 2}', '[]'::jsonb || '{"a": 1}'::jsonb;
-- differs: numbers in a jsonb are equal if they are written alike, and a jsonb is sorted by its text; < and > compare values.
-- postgres: ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool | t, t, t, t, t, t, t
-- tidemill: ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool | f, t, t, t, t, t, t
SELECT '{"a": 1}'::jsonb = '{"a": 1.0}'::jsonb, '[1, 2]'::jsonb < '[1, 3]'::jsonb, '1'::jsonb < '2'::jsonb, '10'::jsonb > '9'::jsonb, '"a"'::jsonb < '"b"'::jsonb, '{"a": 1}'::jsonb > '[1]'::jsonb, 'null'::jsonb < '1'::jsonb;
-- differs: numbers in a jsonb are equal if they are written alike, and a jsonb is sorted by its text; < and > compare values.
-- postgres: j jsonb | null | "a" | 9 | 10 | true | [1] | {}
-- tidemill: j jsonb | "a" | 10 | 9 | [1] | null | true | {}
SELECT j FROM (VALUES ('10'::jsonb), ('9'), ('"a"'), ('null'), ('true'), ('[1]'), ('{}')) AS t (j) ORDER BY j;
SELECT jsonb_typeof(j -> 'a'), j -> 'a' ->> 0, j #>> '{a,0}', j ? 'a', j @> '{"a": [1]}' FROM (VALUES ('{"a": [1, 2]}'::jsonb)) AS t (j);
SELECT j['a'], j['a'][1], j['z'] FROM (VALUES ('{"a": [1, 2]}'::jsonb)) AS t (j);
SELECT ('{"a": {"b": 1}}'::jsonb)['a']['b'];
-- differs: numbers in a jsonb lose the zeros at their end.
-- postgres: jsonb jsonb, ?column? json, ?column? jsonb, jsonb jsonb, numeric numeric | {"a": 1.10, "b": 1000, "c": 12345678901234567890.5}, 1.10, 1.10, 100000000000000000000, 0.1
-- tidemill: jsonb jsonb, ?column? json, ?column? jsonb, jsonb jsonb, numeric numeric | {"a": 1.1, "b": 1000.0, "c": 1.2345678901234567e+19}, 1.1, 1.1, 1e+20, 0.1000000000
SELECT '{"a": 1.10, "b": 1e3, "c": 12345678901234567890.5}'::jsonb, '{"a": 1.10}'::json -> 'a', '{"a": 1.10}'::jsonb -> 'a', '100000000000000000000'::jsonb, '0.1'::jsonb::numeric;
SELECT json_typeof('1.5'), jsonb_typeof('[]'), json_array_length('[1, [2]]'), jsonb_array_length('[]');
SELECT json_array_length('{}');
SELECT jsonb_array_length('1');
SELECT json_extract_path('{"a": [1, {"b": 2}]}', 'a', '1', 'b'), jsonb_extract_path('{"a": 1}', 'z'), '{"a": [1]}'::json #> '{a,0}', '{"a": {"b": "x"}}'::json #>> '{a,b}', '{"a": {"b": "x"}}'::json #>> '{a}';
-- differs: a part of a json is written in one form, with a space behind each comma and colon.
-- postgres: json_strip_nulls json, jsonb_strip_nulls jsonb, jsonb_pretty text | [{"b":[null]}], {"a": {}}, {\n    "a": {\n        "b": [\n            1,\n            {\n                "c": null\n            }\n        ]\n    },\n    "d": {\n    }\n}
-- tidemill: json_strip_nulls json, jsonb_strip_nulls jsonb, jsonb_pretty text | [{"b": [null]}], {"a": {}}, {\n    "a": {\n        "b": [\n            1,\n            {\n                "c": null\n            }\n        ]\n    },\n    "d": {\n    }\n}
SELECT json_strip_nulls('[{"a": null, "b": [null]}]'), jsonb_strip_nulls('{"a": {"b": null}}'), jsonb_pretty('{"a": {"b": [1, {"c": null}]}, "d": {}}');
SELECT ('{"a": "1"}'::jsonb ->> 'a')::int, ('{"a": 1}'::jsonb -> 'a')::int, ('{"a": 1.5}'::jsonb -> 'a')::float8, ('{"a": 1.5}'::jsonb -> 'a')::int, ('true'::jsonb)::boolean;
-- differs: some errors have another SQLSTATE.
-- postgres: ERROR 22023
-- tidemill: ERROR 22P02
SELECT ('{"a": "x"}'::jsonb -> 'a')::int;
SELECT '"a"'::jsonb::text, '{"a":1}'::json::text, '{"a":1}'::json::jsonb, '{"b":1,"a":2}'::text::jsonb, '{"a": 1}'::jsonb::json;
-- differs: jsonb_set_lax and json_populate_record are missing.
-- postgres: ERROR 42804
-- tidemill: ERROR 42883
SELECT json_populate_record(NULL::int, '{}');
SELECT count(*), j ->> 'k' FROM (VALUES ('{"k": 1}'::jsonb), ('{"k": 1}'), ('{}')) AS t (j) GROUP BY 2 ORDER BY 2;
SELECT DISTINCT j FROM (VALUES ('{"k": 1}'::jsonb), ('{"k":1}')) AS t (j);
-- differs: what is json in PostgreSQL only by a cast is so by its use.
-- postgres: ERROR 42883
-- tidemill: ?column? json | 1
SELECT j -> 'a' FROM (VALUES ('{"a": 1}')) AS t (j);
-- differs: what is json in PostgreSQL only by a cast is so by its use.
-- postgres: ERROR 42725
-- tidemill: ?column? json | 1
SELECT '{"a": 1}' -> 'a';
-- differs: what is json in PostgreSQL only by a cast is so by its use.
-- postgres: ERROR 42883
-- tidemill: ?column? bool | t
SELECT '{"a":1}'::json = '{"a":1}'::json;
SELECT jsonb '{"a": 1}' -> 'a', json '[1]' -> 0, jsonb_build_array(1, NULL, 'a', true, 1.5, ARRAY[1], '{"x": 1}'::jsonb, date '2024-01-01', timestamp '2024-01-01 10:00', timestamptz '2024-01-01 10:00+00');
SELECT (j ->> 'n')::numeric * 2, (j ->> 'b')::boolean, (j ->> 'd')::date FROM (VALUES ('{"n": 1.5, "b": true, "d": "2024-01-01"}'::jsonb)) AS t (j);
SELECT j -> 'a' IS NULL, j -> 'b' IS NULL, j ->> 'b' IS NULL, j -> 'b' = 'null' FROM (VALUES ('{"b": null}'::jsonb)) AS t (j);
SELECT '["a", "b"]'::jsonb ?| ARRAY['b', 'c'], '{"a": 1}'::jsonb ?& '{a,b}', '"a"'::jsonb ? 'a';
SELECT '{"a": [1, 2, {"b": 3}]}'::jsonb @> '{"a": [{"b": 3}]}', '[1, 2]'::jsonb @> '1', '1'::jsonb <@ '[1, 2]', '{"a": {}}'::jsonb @> '{"a": {}}';
