# SQL/JSON paths.

SELECT '{"a": [1, 2, 3, 4, 5]}'::jsonb @? '$.a[*] ? (@ > 2)', '{"a": [1, 2, 3, 4, 5]}'::jsonb @@ '$.a[*] > 2', '{"a": 1}'::jsonb @? '$.b';
SELECT jsonb_path_query('{"a": [1, 2, 3]}', '$.a[1 to last]');
SELECT jsonb_path_query_array('{"a": [1, 2, 3]}', '$.a[0, 2]'), jsonb_path_query_array('{"a": [1, 2, 3]}', '$.a[last]'), jsonb_path_query_array('{"a": [1, 2, 3]}', '$.a[last - 1]');
SELECT jsonb_path_query_array('{"a": {"b": 1}, "c": {"b": 2}}', '$.*.b'), jsonb_path_query_array('{"a": {"b": 1}, "c": [{"b": 2}]}', '$.**.b'), jsonb_path_query_array('{"a": {"b": {"c": 1}}}', '$.**{1}'), jsonb_path_query_array('{"a": {"b": {"c": 1}}}', '$.**{2 to last}');
SELECT jsonb_path_query_array('[{"a": 1}, {"a": 2}]', '$.a'), jsonb_path_query_array('[{"a": 1}, {"a": 2}]', '$[*].a'), jsonb_path_query_array('[{"a": 1}, {"b": 2}]', 'lax $[*].a');
SELECT jsonb_path_query('[{"a": 1}, {"b": 2}]', 'strict $[*].a');
SELECT jsonb_path_query('{"a": 1}', 'strict $.b');
SELECT jsonb_path_query('{"a": 1}', 'strict $.b', '{}', true);
SELECT jsonb_path_query_array('[1, 2, 3, 4]', '$[*] ? (@ > 1 && @ < 4)'), jsonb_path_query_array('[1, 2, 3, 4]', '$[*] ? (@ == 1 || @ == 4)'), jsonb_path_query_array('[1, 2, 3, 4]', '$[*] ? (!(@ == 1))'), jsonb_path_query_array('[1, 2, 3]', '$[*] ? (@ <> 2)'), jsonb_path_query_array('[1, 2, 3]', '$[*] ? (@ != 2)');
SELECT jsonb_path_query_array('{"track": {"segments": [{"hr": 73, "t": "a"}, {"hr": 135, "t": "b"}]}}', '$.track.segments[*] ? (@.hr > 130)."t"');
SELECT jsonb_path_query_array('{"track": {"segments": [{"hr": 73, "t": "a"}, {"hr": 135, "t": "b"}]}}', '$.track ? (exists(@.segments[*] ? (@.hr > 130))).segments.size()');
SELECT jsonb_path_query_array('["abc", "abd", "xyz"]', '$[*] ? (@ starts with "ab")'), jsonb_path_query_array('["abc", "ABD", "xyz"]', '$[*] ? (@ like_regex "^ab")'), jsonb_path_query_array('["abc", "ABD", "xyz"]', '$[*] ? (@ like_regex "^ab" flag "i")');
SELECT jsonb_path_query_array('[1, "2", {}]', '$[*].type()'), jsonb_path_query_array('[1, [2, 3]]', '$.size()'), jsonb_path_query_array('[1.3, -1.3]', '$[*].floor()'), jsonb_path_query_array('[1.3, -1.3]', '$[*].ceiling()'), jsonb_path_query_array('[1.3, -1.3]', '$[*].abs()'), jsonb_path_query_array('["1.5", 2]', '$[*].double()');
SELECT jsonb_path_query_array('{"a": 1, "b": [2]}', '$.keyvalue()');
-- differs: numbers in a jsonb lose the zeros at their end.
-- postgres: jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb | [5], [3], [3], [-7], [-1, -2], [3.5000000000000000]
-- tidemill: jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb, jsonb_path_query_array jsonb | [5], [3], [3], [-7], [-1, -2], [3.5]
SELECT jsonb_path_query_array('{"a": 2, "b": 3}', '$.a + $.b'), jsonb_path_query_array('{"a": 2, "b": 3}', '$.a * 2 - 1'), jsonb_path_query_array('{"a": 7}', '$.a % 4'), jsonb_path_query_array('{"a": 7}', '-$.a'), jsonb_path_query_array('[1, 2]', '-$[*]'), jsonb_path_query_array('{"a": 7}', '$.a / 2');
SELECT jsonb_path_query('{"a": 1}', '$.a / 0');
SELECT jsonb_path_query('{"a": "x"}', '$.a + 1');
SELECT jsonb_path_query_array('[1, 2, 3]', '$[*] ? (@ >= $min && @ <= $max)', '{"min": 2, "max": 4}'), jsonb_path_exists('{"a": [1, 2, 3, 4, 5]}', '$.a[*] ? (@ >= $min && @ <= $max)', '{"min": 2, "max": 4}');
SELECT jsonb_path_query('1', '$x');
SELECT jsonb_path_match('{"a": [1, 2, 3, 4, 5]}', 'exists($.a[*] ? (@ >= 2 && @ <= 4))'), jsonb_path_match('{"a": 1}', '$.a == 1'), '{"a": 1}'::jsonb @@ '$.a';
SELECT jsonb_path_match('{"a": 1}', '$.a');
SELECT jsonb_path_query_first('[1, 2, 3]', '$[*] ? (@ > 1)'), jsonb_path_query_first('[1, 2, 3]', '$[*] ? (@ > 5)');
SELECT jsonb_path_query_array('[null, 1, "a", true]', '$[*] ? (@ == null)'), jsonb_path_query_array('[null, 1, "a", true]', '$[*] ? (@ == true)'), jsonb_path_query_array('[null, 1, "a", true]', '$[*] ? (@ == "a")');
SELECT jsonb_path_query_array('[{"a": 1, "b": 2}, {"a": 3}]', '$[*] ? ((@.b == 2) is unknown)'), jsonb_path_query_array('["a", 1]', '$[*] ? ((@ > 0) is unknown)');
SELECT jsonb_path_query_array('{"a b": 1}', '$."a b"'), jsonb_path_query_array('[1, 2]', '$ [ * ]'), jsonb_path_query_array('{"a": {"b": 5}}', '$.a ? (@.b > 3).b');
-- differs: a path is a text: there is no type jsonpath.
-- postgres: jsonpath jsonpath | $."a"
-- tidemill: ERROR 42704
SELECT '$.a'::jsonpath;
SELECT jsonb_path_query('1', '$.');
SELECT jsonb_path_query('1', 'x');
SELECT j @? '$.tags[*] ? (@ == "a")' FROM (VALUES ('{"tags": ["a", "b"]}'::jsonb), ('{"tags": []}')) AS t (j);
SELECT jsonb_path_query(j, '$.xs[*]') FROM (VALUES ('{"xs": [1, 2]}'::jsonb), ('{"xs": []}')) AS t (j);
SELECT jsonb_path_query_array('[12, {"a": 13}, {"b": 14}]', 'lax $[*].a'), jsonb_path_query_array('[1, [2, [3]]]', '$[*][*]'), jsonb_path_query_array('{"a": [[1, 2], [3]]}', '$.a[*][0]');
SELECT jsonb_path_query_array('[1, 2, 3]', '$[*] ? (@ > 1) ? (@ < 3)'), jsonb_path_query_array('[1, 2, 3, 4]', '$[$[0] to $[2]]'), jsonb_path_query_array('"x"', '$[0]'), jsonb_path_query_array('1', '$[*]');
SELECT jsonb_path_query('[1, 2]', 'strict $[5]');
-- differs: a path is a text: there is no type jsonpath, and no method datetime().
-- postgres: jsonb_path_query_array jsonb | ["2024-01-02"]
-- tidemill: ERROR 0A000
SELECT jsonb_path_query_array('"2024-01-02"', '$.datetime()');
SELECT jsonb_path_query_array('{"a": true}', '$.a == true'), jsonb_path_query_array('[1,2,3]', '$.size() > 2');
