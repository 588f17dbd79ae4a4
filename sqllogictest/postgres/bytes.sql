# Bytes: bytea and its functions.

SELECT '\x1234'::bytea || '\x5678'::bytea, length('\x1234567890'::bytea), octet_length('\x123456'::bytea), bit_length('\x1234'::bytea);
SELECT get_byte('\x1234567890'::bytea, 4), set_byte('\x1234567890'::bytea, 4, 64), get_bit('\x1234567890'::bytea, 30), set_bit('\x1234567890'::bytea, 30, 0);
SELECT substring('\x1234567890'::bytea from 3 for 2), substring('\x1234567890'::bytea, 2), substr('\x1234567890'::bytea, 3, 2);
SELECT overlay('\x1234567890'::bytea placing '\002\003'::bytea from 2 for 3);
SELECT position('\x5678'::bytea in '\x1234567890'::bytea);
SELECT trim('\x9012'::bytea from '\x1234567890'::bytea);
SELECT btrim('\x1234567890'::bytea, '\x9012'::bytea), ltrim('\x1234567890'::bytea, '\x9012'::bytea), rtrim('\x1234567890'::bytea, '\x9012'::bytea);
SELECT encode('\x1234567890'::bytea, 'hex'), encode('abc'::bytea, 'base64'), encode('a\000\\'::bytea, 'escape');
SELECT decode('1234567890', 'hex'), decode('YWJj', 'base64'), decode('a\000b', 'escape');
SELECT decode('zz', 'hex');
SELECT decode('YWJ', 'base64');
SELECT encode('abc'::bytea, 'nosuch');
SELECT encode(repeat('x', 80)::bytea, 'base64');
SELECT md5('abc'::bytea), sha224('abc'::bytea), sha256('abc'::bytea), sha384('abc'::bytea), sha512('abc'::bytea);
SELECT convert_from('\x746578745f696e5f75746638'::bytea, 'UTF8'), convert_to('some_text', 'UTF8');
SELECT bit_count('\x1234567890'::bytea);
-- differs: string_agg of bytea is text.
-- postgres: string_agg bytea | \x010002
-- tidemill: string_agg text | \x01\x00\x02
SELECT string_agg(b, '\x00'::bytea ORDER BY b) FROM (VALUES ('\x01'::bytea), ('\x02'::bytea)) AS t (b);
-- differs: LIKE is of text.
-- postgres: ?column? bool, ?column? bool, ?column? bool, ?column? bool | t, t, t, t
-- tidemill: ERROR 42804
SELECT '\x01'::bytea < '\x02'::bytea, '\x01'::bytea = '\x01'::bytea, '\x0102'::bytea > '\x01'::bytea, '\x01'::bytea LIKE '\x01'::bytea;
-- differs: what DataFusion has beyond PostgreSQL 15 can be used.
-- postgres: ERROR 42883
-- tidemill: max bytea | \x02
SELECT max(b) FROM (VALUES ('\x01'::bytea), ('\x02'::bytea)) AS t (b);
SELECT get_byte('\x12'::bytea, 4);
SELECT reverse('abc'), '\xDEADBEEF'::bytea, E'\\000abc'::bytea;
SELECT b FROM (VALUES ('\x02'::bytea), ('\x01')) AS t (b) ORDER BY b;
SELECT count(DISTINCT b) FROM (VALUES ('\x02'::bytea), ('\x01'), ('\x02')) AS t (b);
