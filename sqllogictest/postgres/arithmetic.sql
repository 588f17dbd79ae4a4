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
-- differs: BETWEEN SYMMETRIC is missing; write least(…) and greatest(…).
-- postgres: ?column? bool | t
-- tidemill: ERROR 42601
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
-- differs: pg_typeof, setseed and functions about the scale of a numeric are missing.
-- postgres: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | integer, numeric, text, timestamp with time zone, boolean
-- tidemill: ERROR 42883
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
