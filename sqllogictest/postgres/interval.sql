# Intervals: arithmetic, comparison by estimated length, text.

SELECT interval '1 day' = interval '24 hours', interval '168 hours' <= interval '5 days', interval '1 month' = interval '30 days', interval '1 month' > interval '29 days', interval '1 year' < interval '365 days';
SELECT interval '1 day' <> interval '24 hours', interval '1 hour' < interval '2 hours', interval '1 day' IS DISTINCT FROM interval '24 hours', interval '1 day' BETWEEN interval '1 hour' AND interval '2 days', interval '1 day' IN (interval '24 hours');
SELECT interval '1 day' + interval '2 hours', interval '1 day' - interval '2 hours', interval '1 day' * 2, 2 * interval '1 day', interval '1 day' / 2, interval '1 day' * 1.5, -interval '1 day', interval '1 month' / 2, interval '1 hour' * 0.5;
SELECT interval '1 day' / 0;
SELECT interval '1' day, interval '2' hour, interval '1:30' minute to second, interval '3 4' day to hour;
-- differs: the SQL standard's interval literals with a dash or with bare days are not read; write units.
-- postgres: interval interval | 1 year 2 mons
-- tidemill: ERROR 22007
SELECT interval '1-2' year to month;
-- differs: the SQL standard's interval literals with a dash or with bare days are not read; write units.
-- postgres: interval interval | 1 day 02:03:04
-- tidemill: ERROR 22007
SELECT interval '1 2:03:04';
SELECT interval '1 year 2 months 3 days 4 hours 5 minutes 6.789 seconds', interval '-1 year +2 days', interval '0', interval '100 hours', interval '1 week', interval '1 decade', interval '1 century', interval '90 minutes', interval '0.5 months', interval '1.5 days';
SELECT extract(day FROM interval '40 days 5 hours'), extract(hour FROM interval '40 days 5 hours'), extract(epoch FROM interval '1 day 1 hour'), extract(month FROM interval '14 months'), extract(year FROM interval '14 months'), extract(epoch FROM interval '1 month'), extract(second FROM interval '1.5 seconds');
SELECT date_part('hour', interval '5 hours'), date_part('epoch', interval '1.5 seconds');
SELECT i FROM (VALUES (interval '1 day'), (interval '25 hours'), (interval '23 hours'), (interval '1 month'), (NULL)) AS t (i) ORDER BY i;
SELECT i FROM (VALUES (interval '1 day'), (interval '25 hours'), (interval '23 hours')) AS t (i) ORDER BY i DESC;
SELECT min(i), max(i), sum(i) FROM (VALUES (interval '1 day'), (interval '25 hours'), (interval '23 hours')) AS t (i);
-- differs: grouping, DISTINCT, greatest and least tell intervals apart by their fields: 1 day and 24 hours are two.
-- postgres: count int8 | 1
-- tidemill: count int8 | 2
SELECT count(DISTINCT i) FROM (VALUES (interval '1 day'), (interval '24 hours')) AS t (i);
SELECT i, count(*) FROM (VALUES (interval '1 day'), (interval '2 days'), (interval '1 day')) AS t (i) GROUP BY i ORDER BY i;
SELECT a.i FROM (VALUES (interval '1 day')) AS a (i) JOIN (VALUES (interval '24 hours')) AS b (i) ON a.i = b.i;
-- differs: grouping, DISTINCT, greatest and least tell intervals apart by their fields: 1 day and 24 hours are two.
-- postgres: greatest interval | 25:00:00
-- tidemill: greatest interval | 1 day
SELECT greatest(interval '1 day', interval '25 hours');
SELECT interval '1 day'::text, interval '-1 day -02:03:04'::text, interval '1 mon -1 day'::text, interval '1 second'::text, interval '0.000001 seconds'::text;
SELECT timestamp '2024-03-31' - interval '1 month', timestamp '2024-01-31' + interval '1 month', timestamp '2024-02-29' + interval '1 year';
SELECT CASE WHEN ts2 - ts1 > interval '1 hour' THEN 'long' ELSE 'short' END FROM (VALUES (timestamp '2024-01-01 00:00', timestamp '2024-01-01 00:30'), (timestamp '2024-01-01 00:00', timestamp '2024-01-02 00:30')) AS t (ts1, ts2) ORDER BY ts1, ts2;
SELECT ts2 - ts1 FROM (VALUES (timestamp '2024-01-01 00:00', timestamp '2024-01-01 00:30'), (timestamp '2024-01-01 00:00', timestamp '2024-01-03 00:30')) AS t (ts1, ts2) ORDER BY ts2 - ts1;
-- differs: avg of intervals is missing; average extract(epoch FROM …).
-- postgres: avg interval | 1 day 12:00:00
-- tidemill: ERROR 42883
SELECT avg(i) FROM (VALUES (interval '1 day'), (interval '2 days')) AS t (i);
SELECT interval '1 day' > '1 hour', interval '1 day' + '1 hour';
