# Integers, floats and bits: types of results, overflow, division, operators' precedence.

SELECT 1, -1, 2147483647, 2147483648, 1.5, 1e3, -2147483648;
SELECT 1 + 1, 1 - 2, 2 * 3, 7 / 2, 7 % 3, -7 / 2, -7 % 3;
SELECT 2147483647 + 1;
SELECT 2147483647 + 1::bigint;
SELECT -2147483648 - 1;
SELECT 65536 * 65536;
SELECT 65536::bigint * 65536;
SELECT 9223372036854775807 + 1;
SELECT 9223372036854775807 - (-1);
SELECT 9223372036854775807 * 2;
SELECT 32767::smallint + 1::smallint;
SELECT 32767::smallint + 1;
SELECT 1::smallint + 1::smallint;
SELECT (-32768)::smallint * (-1)::smallint;
SELECT -(-2147483648);
SELECT 1 / 0;
SELECT 1 % 0;
SELECT 1.0 / 0;
SELECT 1::float8 / 0;
SELECT 1::float8 / 0::float8;
SELECT 0::float8 / 0::float8;
-- differs: the remainder of floating-point numbers is computed, where PostgreSQL refuses it.
-- postgres: ERROR 42883
-- tidemill: ?column? float8 | 0.5
SELECT 1.5::float8 % 1;
SELECT 1 / 0.0;
SELECT 1::bigint / 0;
SELECT mod(7, 3), mod(-7, 3), mod(7.5, 2);
SELECT mod(1, 0);
SELECT div(7, 2), div(-7, 2), div(7.5, 2);
SELECT 2 ^ 10, 2 ^ 3 ^ 2, -2 ^ 2;
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: ?column? numeric | 1.4142135623730950
-- tidemill: ?column? float8 | 1.4142135623730951
SELECT 2 ^ 0.5;
SELECT 2::float8 ^ 10;
SELECT power(2, 10), pow(2::float8, 0.5), power(0, 0);
SELECT |/ 16.0::float8, ||/ 27::float8;
SELECT @ -5, abs(-5), abs(-5.5), abs('-1e3'::float8);
SELECT 5 & 3, 5 | 3, 5 # 3, ~5, 1 << 4, 256 >> 4;
SELECT 5::bigint & 3, 1::bigint << 40;
SELECT sign(-5), sign(0), sign(-0.5::float8);
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: sign numeric | -1
-- tidemill: sign float8 | -1
SELECT sign(-5.5);
SELECT sqrt(2::float8), cbrt(27::float8), exp(1::float8), ln(10::float8), log(100::float8);
SELECT sqrt(-1::float8);
-- differs: the logarithm of zero is -Infinity, as IEEE 754 has it.
-- postgres: ERROR 2201E
-- tidemill: ln float8 | -Infinity
SELECT ln(0::float8);
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: log numeric | 6.0000000000000000
-- tidemill: log float8 | 6
SELECT log(2.0, 64.0);
SELECT log10(1000::float8);
SELECT sin(1::float8), cos(1::float8), tan(1::float8), asin(1::float8), acos(1::float8), atan(1::float8), atan2(1::float8, 2::float8);
SELECT sinh(1::float8), cosh(1::float8), tanh(1::float8), cot(1::float8);
SELECT degrees(pi()), radians(180::float8), pi();
SELECT sind(30), cosd(60), tand(45);
SELECT round(2.5::float8), round(3.5::float8), round(-2.5::float8), round(0.5::float8), round(1.4::float8);
SELECT round(2.5), round(3.5), round(-2.5), round(1.45, 1), round(1234.567, -2), round(2.567, 2);
SELECT trunc(2.7::float8), trunc(-2.7::float8), trunc(2.789, 2), trunc(-2.7), trunc(1234.5, -2);
SELECT ceil(2.1::float8), ceiling(-2.1::float8), floor(-2.1::float8), ceil(2.1), floor(-2.1);
SELECT ceil(5), floor(5), round(5), trunc(5);
-- differs: gcd, lcm and factorial give bigint.
-- postgres: gcd int4, lcm int4 | 6, 12
-- tidemill: gcd int8, lcm int8 | 6, 12
SELECT gcd(12, 18), lcm(4, 6);
-- differs: gcd, lcm and factorial give bigint.
-- postgres: factorial numeric | 3628800
-- tidemill: factorial int8 | 3628800
SELECT factorial(10);
SELECT factorial(-1);
SELECT width_bucket(5.35::float8, 0.024::float8, 10.06::float8, 5), width_bucket(5, 0, 10, 4);
SELECT width_bucket(11, 0, 10, 4), width_bucket(-1, 0, 10, 4);
SELECT greatest(1, 2, 3), least(1, 2, 3), greatest(1, NULL, 3), least(NULL, 2);
SELECT greatest(1, 2.5), least('a', 'b'), greatest(NULL, NULL);
SELECT 1 < 2, 1 > 2, 1 = 1.0, 1 <> 2, 1 != 1, 1 <= 1, 2 >= 3;
SELECT 1 BETWEEN 0 AND 2, 1 NOT BETWEEN 0 AND 2;
SELECT 1 BETWEEN SYMMETRIC 2 AND 0;
SELECT NULL + 1, NULL = NULL, NULL IS NULL, 1 IS NOT NULL, NULL::int + 1;
SELECT 1 IS DISTINCT FROM 2, NULL IS DISTINCT FROM NULL, 1 IS NOT DISTINCT FROM 1;
SELECT 1 IS DISTINCT FROM 22 OR true, 1 IS DISTINCT FROM 1 OR false, 1 IS DISTINCT FROM 1 AND true;
SELECT true AND NULL, false AND NULL, true OR NULL, NOT NULL::boolean, NOT true;
SELECT true IS TRUE, NULL::boolean IS UNKNOWN, false IS NOT TRUE, true = (1 = 1);
SELECT 2 + 3 * 4, (2 + 3) * 4, 2 - 3 - 4, 100 / 10 / 2, -2 * 3;
SELECT 1 + 1.5, 1 + 1.5::float8, 1::smallint + 1::bigint, 1::real + 1, 1::real + 1::float8;
SELECT 1::real / 3, 1::float8 / 3;
-- differs: floating-point overflow gives Infinity, as IEEE 754 has it; only division by zero is an error.
-- postgres: ERROR 22003
-- tidemill: ?column? float8 | Infinity
SELECT 1e308::float8 * 10;
SELECT 'NaN'::float8, 'Infinity'::float8, '-Infinity'::float8, 'NaN'::float8 = 'NaN'::float8, 'NaN'::float8 > 'Infinity'::float8;
SELECT 0.1::float8 + 0.2::float8, 0.1 + 0.2, 0.1::real + 0.2::real;
SELECT 1e15::float8, 1e16::float8, 1e-5::float8, 123456789012345678::float8, 0.0001::float8;
SELECT 5 % 3.0, -5.5 % 2, 5.5 % 0.5;
SELECT 1 + NULL, NULL || 'a', 1 = NULL;
SELECT 1 = ANY (ARRAY[1, 2]), 3 = ANY (ARRAY[1, 2]), 1 < ALL (ARRAY[2, 3]), 1 <> ALL (ARRAY[1, 2]);
SELECT 1 IN (1, 2), 3 IN (1, 2), 3 IN (1, NULL), 3 NOT IN (1, NULL), 3 NOT IN (1, 2);
SELECT CASE WHEN 1 = 1 THEN 'a' ELSE 'b' END, CASE 2 WHEN 1 THEN 'one' WHEN 2 THEN 'two' END, CASE WHEN false THEN 1 END;
SELECT coalesce(NULL, 1), coalesce(NULL, NULL, 'x'), nullif(1, 1), nullif(1, 2), coalesce(1, 2.5);
SELECT num_nulls(1, NULL, 2), num_nonnulls(1, NULL, 2);
SELECT (1, 2) = (1, 2), (1, 2) = (1, 3), (1, 2) < (1, 3), (1, NULL) = (1, 2), (2, 1) > (1, 5);
SELECT (1, 2) IN ((1, 2), (3, 4)), ROW(1, 2) = ROW(1, 2), (1, 2) <> (1, 3);
SELECT 'a' < 'b', 'a' = 'A', 'abc' > 'ab', 'Z' < 'a';
SELECT 1 = '1', '2' + 3, 1 || 'a', 'a' || 1, 1.5 || 'x';
SELECT 'a' + 1;
SELECT true + 1;
SELECT 1 || 2;
SELECT nosuchfunction(1);
SELECT nosuchcolumn;
-- differs: a string literal is not taken for a number by a function.
-- postgres: ERROR 22P02
-- tidemill: ERROR 42883
SELECT sqrt('a');
SELECT abs(-2147483648);
SELECT pg_typeof(1), pg_typeof(1.5), pg_typeof('a'::text), pg_typeof(now()), pg_typeof(true);
SELECT random() BETWEEN 0 AND 1;
-- differs: pg_typeof, setseed and functions about the scale of a numeric are missing.
-- postgres: ?column? bool | f
-- tidemill: ERROR 42883
SELECT setseed(0.5) IS NULL;
SELECT bit_count('\x0f'::bytea);
SELECT scale(8.4100);
-- differs: pg_typeof, setseed and functions about the scale of a numeric are missing.
-- postgres: min_scale int4, trim_scale numeric | 2, 8.41
-- tidemill: ERROR 42883
SELECT min_scale(8.4100), trim_scale(8.4100);
SELECT 3 != -1, 3 <> - 1, 2 + -1, 2 - -1;
-- differs: numbers can be written with underscores, as in PostgreSQL 16; hexadecimal ones are bytes.
-- postgres: ERROR 42601
-- tidemill: ?column? bytea | \x1f
SELECT 0x1F;
-- differs: numbers can be written with underscores, as in PostgreSQL 16; hexadecimal ones are bytes.
-- postgres: ERROR 42601
-- tidemill: ?column? int4 | 1000
SELECT 1_000;
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: abs numeric, cbrt float8, ceil numeric, ceiling numeric, degrees float8, div numeric, exp numeric, factorial numeric, floor numeric, gcd int4, lcm int4, ln numeric, log float8, log10 float8, log numeric | 17.4, 4, 43, -42, 28.64788975654116, 2, 2.7182818284590452, 120, 42, 21, 23562, 0.6931471805599453, 2, 3, 6.0000000000000000
-- tidemill: abs numeric, cbrt float8, ceil numeric, ceiling numeric, degrees float8, div numeric, exp float8, factorial int8, floor numeric, gcd int8, lcm int8, ln float8, log float8, log10 float8, log float8 | 17.4, 4, 43.0, -42.0, 28.64788975654116, 2, 2.718281828459045, 120, 42.0, 21, 23562, 0.6931471805599453, 2, 3, 6
SELECT abs(-17.4), cbrt(64.0), ceil(42.2), ceiling(-42.8), degrees(0.5), div(9, 4), exp(1.0), factorial(5), floor(42.8), gcd(1071, 462), lcm(1071, 462), ln(2.0), log(100), log10(1000), log(2.0, 64.0);
-- differs: pg_typeof of a string without a type is text; setseed and trim_scale are missing.
-- postgres: min_scale int4, mod int4, pi float8, power float8, radians float8, round numeric, round numeric, round numeric, scale int4, sign numeric, sqrt float8, trim_scale numeric, trunc numeric, trunc numeric, trunc numeric, trunc numeric | 2, 1, 3.141592653589793, 729, 0.7853981633974483, 42, 42.44, 1230, 4, -1, 1.4142135623730951, 8.41, 42, -42, 42.43, 1200
-- tidemill: ERROR 42883
SELECT min_scale(8.4100), mod(9, 4), pi(), power(9, 3), radians(45.0), round(42.4), round(42.4382, 2), round(1234.56, -1), scale(8.4100), sign(-8.4), sqrt(2), trim_scale(8.4100), trunc(42.8), trunc(-42.8), trunc(42.4382, 2), trunc(1234.56, -2);
-- differs: width_bucket over an array of bounds is missing.
-- postgres: width_bucket int4, ?column? bool, width_bucket int4 | 3, t, 3
-- tidemill: ERROR 42883
SELECT width_bucket(5.35, 0.024, 10.06, 5), width_bucket(now(), ARRAY['2024-01-01']::timestamptz[]) > 0, width_bucket(5, ARRAY[1, 3, 4]);
-- differs: trigonometric functions of degrees are sind, cosd and tand.
-- postgres: acos float8, asin float8, atan float8, atan2 float8, cos float8, cot float8, sin float8, tan float8, sinh float8, cosh float8, tanh float8, asinh float8, acosh float8, atanh float8, acosd float8, asind float8, atand float8, atan2d float8, cosd float8, cotd float8, sind float8, tand float8 | 0, 1.5707963267948966, 0.7853981633974483, 1.5707963267948966, 1, 1.830487721712452, 0.8414709848078965, 1.5574077246549023, 1.1752011936438014, 1, 0.7615941559557649, 0.881373587019543, 0, 0.5493061443340548, 60, 30, 45, 90, 0.5, 1, 0.5, 1
-- tidemill: ERROR 42883
SELECT acos(1), asin(1), atan(1), atan2(1, 0), cos(0), cot(0.5), sin(1), tan(1), sinh(1), cosh(0), tanh(1), asinh(1), acosh(1), atanh(0.5), acosd(0.5), asind(0.5), atand(1), atan2d(1, 0), cosd(60), cotd(45), sind(30), tand(45);
-- differs: pg_typeof of a string without a type is text; setseed and trim_scale are missing.
-- postgres: ?column? bool, ?column? bool | t, t
-- tidemill: ERROR 42883
SELECT random() BETWEEN 0 AND 1, setseed(0.5) IS NOT NULL;
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? numeric, ?column? float8, ?column? float8, ?column? numeric, ?column? int4 | 1, 7, 6, -2, 16, 4, 5.0, 5, 3.0000000000000004, 8.0000000000000000, 1
-- tidemill: ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? int4, ?column? numeric, ?column? float8, ?column? float8, ?column? float8, ?column? int4 | 1, 7, 6, -2, 16, 4, 5.0, 5, 3, 8, 1
SELECT 5 & 3, 5 | 3, 5 # 3, ~1, 1 << 4, 16 >> 2, @ -5.0, |/ 25.0, ||/ 27.0, 2.0 ^ 3.0, 5 % 4;
SELECT 1.0 / 3, 2 / 3.0, 10.0 / 4, 1.5 * 1.5, 1.10 + 1.105, 5.5 % 2, -7.5 % 2, 1e2, 1.5e-3;
SELECT round(2.5), round(3.5), round(-2.5), round(2.5::float8), round(3.5::float8), round(-0.5::float8), round(5), round(5::bigint), trunc(5), ceil(5), floor(5::bigint);
SELECT ceil(2.5::numeric(5, 2)), floor(-2.5::numeric), trunc(2.567, 1), abs(-5), abs(-5::bigint), abs(-5::smallint), sign(5), sign(-5.5::float8);
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: power float8, power numeric, power float8, sqrt float8, sqrt numeric, exp float8, ln float8, log float8 | 1024, 1024.0000000000000000, 0.5, 4, 4.000000000000000, 1, 0, 1
-- tidemill: power float8, power float8, power float8, sqrt float8, sqrt float8, exp float8, ln float8, log float8 | 1024, 1024, 0.5, 4, 4, 1, 0, 1
SELECT power(2, 10), power(2::numeric, 10), power(2, -1), sqrt(16), sqrt(16::numeric), exp(0), ln(1), log(10);
SELECT sqrt(-1);
-- differs: the logarithm of zero is -Infinity, as IEEE 754 has it.
-- postgres: ERROR 2201E
-- tidemill: ln float8 | -Infinity
SELECT ln(0);
-- differs: some errors of functions have a general SQLSTATE.
-- postgres: ERROR 2201F
-- tidemill: ERROR 22000
SELECT power(0, -1);
SELECT 1 / 0;
SELECT 1.0 / 0;
SELECT 1 % 0;
SELECT 32767::smallint + 1::smallint;
SELECT 2147483647 + 1;
SELECT 9223372036854775807 + 1;
-- differs: the literal 9223372036854775808, of which a minus sign makes a bigint, is one.
-- postgres: ?column? int4, ?column? int8, ?column? int8, ?column? numeric | -2147483648, -9223372036854775808, 2147483648, 9223372036854775808
-- tidemill: ?column? int4, ?column? int8, ?column? int8, ?column? int8 | -2147483648, -9223372036854775808, 2147483648, 9223372036854775808
SELECT -2147483648, -9223372036854775808, 2147483648, 9223372036854775808;
SELECT abs(-2147483648);
SELECT 'NaN'::float8 = 'NaN'::float8, 'Infinity'::float8 > 1e308, 'NaN'::float8 > 'Infinity'::float8, -0.0 = 0.0, '-0'::float8;
SELECT 0.1::float8 + 0.2::float8, 1e15::float8, 1e16::float8, 123456789012345678::float8, 1e-5::float8, 0.0001::float8, 1::float8 / 3, 1::real / 3;
SELECT greatest(1, 2, 3), least(1.5, 2), 3 BETWEEN 1 AND 5, 5 IN (1, 2, 5);
SELECT 12345678901234567890123456789.123456789, 0.000000000000000000001;
SELECT '1_000'::int;
-- differs: avg of integers is double precision, which costs less state; cast to numeric for an exact average.
-- postgres: sum int8, avg numeric, stddev numeric, variance numeric, min int4, max int4, count int8 | 55, 5.5000000000000000, 3.0276503540974917, 9.1666666666666667, 1, 10, 10
-- tidemill: sum int8, avg float8, stddev float8, variance float8, min int4, max int4, count int8 | 55, 5.5, 3.0276503540974917, 9.166666666666666, 1, 10, 10
SELECT sum(x), avg(x), stddev(x), variance(x), min(x), max(x), count(x) FROM generate_series(1, 10) AS t (x);
-- differs: avg of integers is double precision, which costs less state; cast to numeric for an exact average.
-- postgres: avg numeric, avg float8, avg numeric, avg numeric, sum float4, sum numeric, sum numeric, sum int8 | 2.5000000000000000, 2.5, 2.5000000000000000, 2.5000000000000000, 10, 10, 10, 10
-- tidemill: avg numeric, avg float8, avg float8, avg float8, sum float8, sum numeric, sum numeric, sum int8 | 2.5000000000000000, 2.5, 2.5, 2.5, 10, 10.0000000000, 10, 10
SELECT avg(x::numeric), avg(x::float8), avg(x::bigint), avg(x::smallint), sum(x::real), sum(x::numeric), sum(x::bigint), sum(x::smallint) FROM generate_series(1, 4) AS t (x);
SELECT erf(0.5);
-- differs: ranges, XML, and bit strings are missing.
-- postgres: to_hex text, to_hex text, bit_count int8 | ff, ff, 2
-- tidemill: ERROR 42P17
SELECT to_hex(255), to_hex(255::bigint), bit_count(B'101');
SELECT random_normal() IS NOT NULL;
SELECT isfinite(1);
SELECT 5 / 2, -5 / 2, 5 / -2, 5.0 / 2, 5 / 2.0, 5::float8 / 2, 5 % -3;
-- differs: pg_typeof of a string without a type is text; setseed and trim_scale are missing.
-- postgres: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | integer, numeric, unknown, unknown, integer[], timestamp with time zone, jsonb, integer, character, character varying, interval
-- tidemill: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | integer, numeric, text, unknown, integer[], timestamp with time zone, jsonb, integer, character, character varying, interval
SELECT pg_typeof(1), pg_typeof(1.5), pg_typeof('a'), pg_typeof(NULL), pg_typeof(ARRAY[1]), pg_typeof(now()), pg_typeof('{}'::jsonb), pg_typeof(1::smallint + 1), pg_typeof('a'::char(3)), pg_typeof('a'::varchar(3)), pg_typeof(interval '1 day');
SELECT x::text FROM (VALUES (1.0::float8), (0.1), (1e20), (1e-7), ('NaN'), ('Infinity')) AS t (x);
