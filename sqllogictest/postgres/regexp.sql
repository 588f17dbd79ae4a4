# Regular expressions.

SELECT 'abc' ~ 'b', 'abc' ~ '^b', 'ABC' ~* 'b', 'abc' !~ 'x', 'ABC' !~* 'b';
SELECT regexp_replace('foobarbaz', 'b..', 'X'), regexp_replace('foobarbaz', 'b..', 'X', 'g'), regexp_replace('foobar', 'o(.)', '\1\1', 'g'), regexp_replace('Foo', 'f', 'x', 'i'), regexp_replace('foo', '(o)', '[\&]');
SELECT regexp_replace('foobarbaz', 'b(..)', 'X\1Y', 'g'), regexp_replace('abc', 'x', 'y');
SELECT regexp_match('foobarbequebaz', 'bar.*que'), regexp_match('foobarbequebaz', '(bar)(beque)'), regexp_match('abc', 'x'), regexp_match('ABC', 'b', 'i');
SELECT regexp_matches('foobarbequebazilbarfbonk', '(b[^b]+)(b[^b]+)', 'g');
SELECT regexp_matches('foo', 'x');
SELECT regexp_split_to_array('hello world foo', '\s+'), regexp_split_to_array('abc', '');
SELECT regexp_split_to_table('a b c', ' ');
SELECT * FROM regexp_split_to_table('hello world', '\s+') AS t (w);
SELECT regexp_count('123123', '12'), regexp_count('ABCABC', 'b', 1, 'i'), regexp_like('Hello World', 'world$', 'i'), regexp_like('abc', 'd'), regexp_instr('number of your street, town zip, FR', '[^,]+', 1, 2), regexp_substr('number of your street, town zip, FR', '[^,]+', 1, 2);
SELECT regexp_substr('abc', 'x'), regexp_substr('abc', 'b.');
SELECT 'abc' ~ '(';
SELECT regexp_replace('abc', '(', 'x');
SELECT 'a.c' ~ 'a\.c', 'abc' ~ 'a\.c', 'a1' ~ '\d', 'ab' ~ '^\w+$', 'x y' ~ '\s';
SELECT 'abc' ~ 'a|x', 'aaa' ~ '^a{3}$', 'foo' ~ '[[:alpha:]]+', 'é' ~ '^.$';
SELECT NULL ~ 'a', 'a' ~ NULL, regexp_replace(NULL, 'a', 'b'), regexp_match(NULL, 'a');
SELECT x FROM (VALUES ('apple'), ('banana'), ('cherry')) AS t (x) WHERE x ~ 'an' ORDER BY 1;
SELECT x, regexp_match(x, '(.)\w+(.)') FROM (VALUES ('apple'), ('x')) AS t (x) ORDER BY 1;
SELECT (regexp_match('foo=bar', '(\w+)=(\w+)'))[2];
