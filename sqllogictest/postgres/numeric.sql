# Exact numbers: scale of results, rounding, division.

CREATE TABLE prices (id int, p numeric(12, 2), q numeric(5, 3), n int);
INSERT INTO prices VALUES (1, 10.00, 1.125, 3), (2, 20.50, 2.250, 7), (3, 0.01, 0.333, 1), (4, NULL, NULL, NULL), (5, -5.55, 9.999, 11);
SELECT id, p + q, p - q, p * q FROM prices ORDER BY id;
SELECT id, p / q FROM prices ORDER BY id;
SELECT id, p / n, p / 3, p * 2, p + 1 FROM prices ORDER BY id;
SELECT id, p % 3, -p, abs(p) FROM prices ORDER BY id;
SELECT sum(p), avg(p), min(p), max(p), count(p) FROM prices;
SELECT sum(q), avg(q), sum(n) FROM prices;
SELECT avg(p) FILTER (WHERE id < 3), avg(DISTINCT p) FROM prices;
SELECT n > 5 AS big, avg(p), sum(p) FROM prices GROUP BY n > 5 ORDER BY 1;
SELECT round(p, 1), round(p), ceil(p), floor(p), trunc(p, 1) FROM prices ORDER BY id;
SELECT id FROM prices WHERE p <> round(p, 1) ORDER BY id;
SELECT 1.0 / 3, 2 / 3.0, 10.0 / 4, 1.00 / 7.000, 100 / 3.0;
SELECT 1.1 * 1.1, 1.10 + 1.1, 3.0 - 1.25, 0.1 * 3 = 0.3;
SELECT 12345678901234567890, 0.00000000000000000001, 12345678901234567890.123456789;
SELECT 12345678901234567890 + 1, 99999999999999999999.5 * 2;
SELECT 1e20, 1.5e-3, 1e0;
-- differs: numeric has no NaN and no infinity, and 38 digits.
-- postgres: numeric numeric | NaN
-- tidemill: ERROR 0A000
SELECT 'NaN'::numeric;
SELECT p::float8, p::int, p::text, p::numeric(10, 1) FROM prices ORDER BY id;
SELECT p = 10, p > 5.5, p BETWEEN 0 AND 15, p IN (10, 20.5), p = 10::float8 FROM prices ORDER BY id;
SELECT 1.5 = 1.50, 1.5 = 1.5::float8, 2 = 2.0, 1.0::text;
SELECT stddev(n)::float8, variance(n)::float8, stddev_pop(n)::float8, var_pop(n)::float8 FROM prices;
SELECT sum(id::bigint), sum(1.5::float8), avg(1.5::float8) FROM prices;
SELECT sum(id::smallint) FROM prices;
SELECT sum(9223372036854775807::bigint) FROM prices;
SELECT sum(9223372036854775807::bigint) + 1 FROM prices;
SELECT sum(2147483647) FROM prices;
-- differs: avg of integers is double precision, which costs less state; cast to numeric for an exact average.
-- postgres: avg numeric | 9223372036854775807
-- tidemill: avg float8 | 9.223372036854776e+18
SELECT avg(9223372036854775807::bigint) FROM prices;
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: sqrt numeric, exp numeric, ln numeric, power numeric, log numeric | 1.414213562373095, 2.7182818284590452, 0.6931471805599453, 1.4142135623730950, 2.0000000000000000
-- tidemill: sqrt float8, exp float8, ln float8, power float8, log float8 | 1.4142135623730951, 2.718281828459045, 0.6931471805599453, 1.4142135623730951, 2
SELECT sqrt(2.0), exp(1.0), ln(2.0), power(2.0, 0.5), log(100.0);
SELECT sum(p) / count(*), sum(p) * 1.0 / count(p) FROM prices;
SELECT greatest(p, q), least(p, n), coalesce(p, 0), nullif(p, 10) FROM prices ORDER BY id;
SELECT CASE WHEN p > 5 THEN p ELSE 0 END, CASE WHEN n > 5 THEN 1.5 ELSE n END FROM prices ORDER BY id;
SELECT p / 0 FROM prices;
SELECT p % 0 FROM prices;
SELECT sum(p) OVER (ORDER BY id), sum(n) OVER (ORDER BY id) FROM prices ORDER BY id;
SELECT avg(p) OVER (ORDER BY id) FROM prices ORDER BY id;
-- differs: powers, roots, logarithms and signs of numeric are computed in double precision.
-- postgres: ?column? numeric, ?column? numeric | 100.0000000000000000, 1.4142135623730950
-- tidemill: ?column? float8, ?column? float8 | 100, 1.4142135623730951
SELECT 10.0 ^ 2, 2 ^ 0.5::numeric;
SELECT 7.0 / 2, 7 / 2.0, -7.0 / 2, div(7.0, 2.0);
SELECT round(42.4382, 2), round(42.5), round(-42.5), round(0.5), round(1.5), round(2.5);
SELECT 0.5::numeric(2,1)::int, 1.5::numeric(2,1)::int, (-0.5)::numeric(2,1)::int;
SELECT 1 + 2.50, 3 * 1.5, 10 - 0.1, 1.0 * 1;
SELECT 1.5 + 1::float8, 1.5 * 2::real, 1.5::float8 = 1.5::numeric;
SELECT to_number('12,454.8-', '99G999D9S');
-- differs: avg of numeric over a window is cut off after the digits of its argument and four more.
-- postgres: avg numeric | 3.0000000000000000 | 5.0000000000000000 | 3.6666666666666667 | 3.6666666666666667 | 5.5000000000000000
-- tidemill: avg numeric | 3.00000000000000 | 5.00000000000000 | 3.66666666666666 | 3.66666666666666 | 5.50000000000000
SELECT avg(n::numeric) OVER (ORDER BY id) FROM prices ORDER BY id;
SELECT ceil(0.5), ceil(9.5), floor(-0.5), floor((-9.99)::numeric(3, 2)), ceil((-0.5)::numeric(2, 1));
CREATE TABLE fl (id int, x double precision, y real);
INSERT INTO fl VALUES (1, 1e-20, 0.1), (2, 1e16, 2.5), (5, 0, 0), (6, NULL, NULL);
INSERT INTO fl VALUES (3, 'NaN', 1), (4, 'Infinity', -1);
SELECT id FROM fl WHERE x > 0.0 ORDER BY id;
SELECT id FROM fl WHERE x > 1.5 ORDER BY id;
SELECT id FROM fl WHERE x = 0.0 ORDER BY id;
SELECT id FROM fl WHERE x BETWEEN 0.0 AND 1e15 ORDER BY id;
SELECT id FROM fl WHERE x IN (0.0, 10000000000000000.0) ORDER BY id;
SELECT id FROM fl WHERE y > 0.1 ORDER BY id;
SELECT id FROM fl WHERE y = 2.5 ORDER BY id;
SELECT id, coalesce(x, 0.5), greatest(x, 1.5), CASE WHEN id > 3 THEN 1.5 ELSE x END FROM fl ORDER BY id;
SELECT x FROM fl WHERE id = 1 UNION ALL SELECT 1.5 ORDER BY 1;
SELECT f.id FROM fl f JOIN (SELECT 2.5 AS n) d ON f.y = d.n;
SELECT count(*) FROM fl GROUP BY x HAVING x > 1.5 AND x < 1e17;
INSERT INTO fl VALUES (7, 1e17, 0.5), (8, 'NaN', 1), (9, -2.5, 2.5e0);
SELECT id, x, y FROM fl WHERE id > 6 ORDER BY id;
