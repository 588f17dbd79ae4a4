# Aggregate functions, FILTER, DISTINCT, GROUPING SETS, HAVING.

CREATE TABLE sales (id int, region text, product text, amount int, price numeric(10, 2), weight float8, sold_at timestamp, ok boolean);
INSERT INTO sales VALUES (1, 'north', 'pen', 10, 1.50, 0.5, '2024-01-01 10:00:00', true), (2, 'north', 'ink', 5, 4.25, 1.25, '2024-01-02 11:00:00', false), (3, 'south', 'pen', 7, 1.45, 0.5, '2024-02-01 09:30:00', true), (4, 'south', 'pen', NULL, NULL, NULL, NULL, NULL), (5, NULL, 'ink', 3, 4.00, 1.5, '2024-02-03 00:00:00', true), (6, 'north', 'pen', 10, 1.50, 0.25, '2024-03-01 12:00:00', false);
SELECT count(*), count(amount), count(DISTINCT amount), sum(amount), min(amount), max(amount) FROM sales;
-- differs: avg of integers is double precision, which costs less state; cast to numeric for an exact average.
-- postgres: avg numeric | 7.0000000000000000
-- tidemill: avg float8 | 7
SELECT avg(amount) FROM sales;
SELECT region, count(*), sum(amount), avg(price), max(sold_at) FROM sales GROUP BY region ORDER BY region;
SELECT region, product, sum(amount) FROM sales GROUP BY region, product ORDER BY 1, 2;
SELECT sum(amount) FILTER (WHERE region = 'north'), count(*) FILTER (WHERE ok) FROM sales;
SELECT sum(DISTINCT amount), avg(DISTINCT price), count(DISTINCT region) FROM sales;
SELECT bool_and(ok), bool_or(ok), every(ok) FROM sales;
SELECT bit_and(amount), bit_or(amount), bit_xor(amount) FROM sales;
SELECT stddev(weight), stddev_samp(amount::float8), stddev_pop(weight), variance(weight), var_samp(weight), var_pop(weight) FROM sales;
SELECT corr(weight, amount), covar_pop(weight, amount), covar_samp(weight, amount), regr_slope(weight, amount), regr_intercept(weight, amount), regr_r2(weight, amount), regr_count(weight, amount), regr_avgx(weight, amount), regr_avgy(weight, amount), regr_sxx(weight, amount), regr_syy(weight, amount), regr_sxy(weight, amount) FROM sales;
SELECT string_agg(product, ',' ORDER BY id), array_agg(id ORDER BY id), array_agg(amount ORDER BY amount DESC NULLS LAST, id) FROM sales;
SELECT string_agg(DISTINCT product, ',' ORDER BY product) FROM sales;
-- differs: ordered-set aggregates other than percentile_cont are missing.
-- postgres: percentile_cont float8, percentile_disc int4, mode text | 7, 7, pen
-- tidemill: ERROR 42883
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount), percentile_disc(0.5) WITHIN GROUP (ORDER BY amount), mode() WITHIN GROUP (ORDER BY product) FROM sales;
-- differs: percentile_cont interpolates with fewer digits.
-- postgres: percentile_cont float8, percentile_cont float8 | 0.5, 0.35
-- tidemill: percentile_cont float8, percentile_cont float8 | 0.5, 0.34999975
SELECT percentile_cont(0.25) WITHIN GROUP (ORDER BY weight), percentile_cont(0.9) WITHIN GROUP (ORDER BY weight DESC) FROM sales;
SELECT region, sum(amount) FROM sales GROUP BY ROLLUP (region) ORDER BY region NULLS LAST, 2;
SELECT region, product, sum(amount), grouping(region), grouping(product), grouping(region, product) FROM sales GROUP BY CUBE (region, product) ORDER BY 1, 2, 4, 5;
SELECT region, product, count(*) FROM sales GROUP BY GROUPING SETS ((region), (product), ()) ORDER BY 1, 2, 3;
SELECT region, sum(amount) AS s FROM sales GROUP BY region HAVING sum(amount) > 5 ORDER BY s;
SELECT count(*) FROM sales HAVING count(*) > 100;
SELECT region FROM sales GROUP BY region HAVING count(*) = 1 ORDER BY 1;
SELECT count(*), sum(amount), avg(price), min(region), max(weight) FROM sales WHERE false;
SELECT region, count(*) FROM sales WHERE false GROUP BY region;
SELECT amount / 2 AS half, count(*) FROM sales GROUP BY half ORDER BY half;
SELECT amount % 2 = 0, count(*) FROM sales GROUP BY 1 ORDER BY 1;
SELECT sum(amount * price), sum(amount) * 2, avg(price) + 1, sum(price) / sum(amount) FROM sales;
SELECT region, amount FROM sales GROUP BY region;
SELECT sum(region) FROM sales;
SELECT sum(count(*)) FROM sales;
SELECT id FROM sales WHERE sum(amount) > 1;
SELECT max(region), min(product), max(ok::int), min(sold_at), max(price) FROM sales;
SELECT count(*) FROM (SELECT DISTINCT region, product FROM sales) AS t;
SELECT DISTINCT region FROM sales ORDER BY region;
SELECT DISTINCT ON (region) region, id FROM sales ORDER BY region, id DESC;
-- differs: what DataFusion has beyond PostgreSQL 15 can be used.
-- postgres: ERROR 42883
-- tidemill: ?column? bool | t
SELECT any_value(product) IS NOT NULL FROM sales;
SELECT sum(weight), avg(weight), min(weight), max(weight) FROM sales;
-- differs: sum of real is double precision, which loses less.
-- postgres: sum float4 | 4
-- tidemill: sum float8 | 4
SELECT sum(weight::real) FROM sales;
-- differs: two aggregates that differ only by a cast of their argument cannot stand in one query; name one of them in a subquery.
-- postgres: sum float8, sum float4 | 4, 4
-- tidemill: ERROR 42701
SELECT sum(weight), sum(weight::real) FROM sales;
SELECT date_trunc('month', sold_at) AS m, count(*), sum(price) FROM sales GROUP BY m ORDER BY m;
SELECT extract(month FROM sold_at) AS m, sum(amount) FROM sales GROUP BY m ORDER BY m;
SELECT count(DISTINCT (region, product)) FROM sales;
SELECT count(*) * 1.0 / 4, round(avg(price), 2), round(avg(weight)::numeric, 2), avg(amount)::int FROM sales;
SELECT sum(amount)::text, min(region) || 'x', coalesce(sum(NULL::int), 0) FROM sales;
SELECT max(amount) - min(amount), sum(amount) / count(*), sum(amount) / count(amount)::float8 FROM sales;
-- differs: aggregates that make JSON are missing.
-- postgres: region text, json_agg json | north, [1, 2, 6] | south, [3, 4] | NULL, [5]
-- tidemill: ERROR 42883
SELECT region, json_agg(id ORDER BY id) FROM sales GROUP BY region ORDER BY 1;
SELECT bool_and(amount > 1), bool_or(amount IS NULL) FROM sales;
SELECT max(ARRAY[amount, id]) FROM sales WHERE amount IS NOT NULL;
