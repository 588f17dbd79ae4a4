# Dates, times and timestamps.

SELECT date '2024-01-31' + 1, date '2024-01-31' - 1, date '2024-03-01' - date '2024-02-01', 1 + date '2024-01-31';
SELECT date '2024-01-31' + interval '1 month', date '2024-01-31' - interval '1 day', timestamp '2024-01-31 10:00' + interval '1 month 1 day 1 hour', interval '1 day' + date '2024-01-01';
SELECT timestamp '2024-01-02 03:04:05' - timestamp '2024-01-01 00:00:00', timestamp '2024-01-01' - timestamp '2024-03-01', timestamptz '2024-01-02 00:00:00+00' - timestamptz '2024-01-01 00:00:00+00';
SELECT date '2024-01-01' + time '10:30', time '10:30' + interval '90 minutes', time '10:30' - time '09:00', time '10:30' - interval '11 hours';
SELECT date '2024-01-01' < date '2024-01-02', date '2024-01-01' = timestamp '2024-01-01 00:00:00', timestamp '2024-01-01' < timestamptz '2024-01-02 00:00:00+00', date '2024-01-01' < '2024-02-01';
SELECT extract(year FROM timestamp '2024-02-29 13:14:15.678'), extract(month FROM date '2024-02-29'), extract(day FROM date '2024-02-29'), extract(hour FROM timestamp '2024-02-29 13:14:15'), extract(minute FROM timestamp '2024-02-29 13:14:15'), extract(second FROM timestamp '2024-02-29 13:14:15.678');
SELECT extract(dow FROM date '2024-02-25'), extract(isodow FROM date '2024-02-25'), extract(doy FROM date '2024-02-29'), extract(week FROM date '2024-12-30'), extract(isoyear FROM date '2024-12-30'), extract(quarter FROM date '2024-05-01'), extract(century FROM date '2024-01-01'), extract(decade FROM date '2024-01-01'), extract(millennium FROM date '2024-01-01'), extract(julian FROM date '2024-01-01');
SELECT extract(epoch FROM timestamp '2024-01-01 00:00:00.5'), extract(epoch FROM date '2024-01-01'), extract(epoch FROM timestamptz '2024-01-01 00:00:00+01'), extract(milliseconds FROM timestamp '2024-01-01 00:00:01.5'), extract(microseconds FROM timestamp '2024-01-01 00:00:01.5');
SELECT extract(hour FROM time '13:14:15'), extract(epoch FROM time '01:00:00'), extract(second FROM time '13:14:15.5');
SELECT extract(timezone FROM timestamptz '2024-01-01 00:00:00+00');
SELECT extract(nosuch FROM date '2024-01-01');
SELECT extract(hour FROM date '2024-01-01');
SELECT date_part('year', timestamp '2024-02-29 13:14:15.678'), date_part('second', timestamp '2024-02-29 13:14:15.678'), date_part('epoch', timestamp '2024-01-01'), date_part('dow', date '2024-02-25'), date_part('week', date '2024-12-30'), date_part('hour', time '10:00');
SELECT date_trunc('year', timestamp '2024-05-06 07:08:09.5'), date_trunc('quarter', timestamp '2024-05-06 07:08:09'), date_trunc('month', timestamp '2024-05-06 07:08:09'), date_trunc('week', timestamp '2024-05-08 07:08:09'), date_trunc('day', timestamp '2024-05-06 07:08:09'), date_trunc('hour', timestamp '2024-05-06 07:08:09'), date_trunc('minute', timestamp '2024-05-06 07:08:09'), date_trunc('second', timestamp '2024-05-06 07:08:09.5');
-- differs: date_trunc knows microsecond to year, in the singular, over timestamps and dates in UTC.
-- postgres: date_trunc timestamp | 2024-05-06 07:08:09.123
-- tidemill: ERROR 22023
SELECT date_trunc('milliseconds', timestamp '2024-05-06 07:08:09.123456');
-- differs: date_trunc knows microsecond to year, in the singular, over timestamps and dates in UTC.
-- postgres: date_trunc timestamp, date_trunc timestamp, date_trunc timestamp | 2020-01-01 00:00:00, 2001-01-01 00:00:00, 2001-01-01 00:00:00
-- tidemill: ERROR 22023
SELECT date_trunc('decade', timestamp '2024-05-06 07:08:09'), date_trunc('century', timestamp '2024-05-06'), date_trunc('millennium', timestamp '2024-05-06');
-- differs: date_trunc of a date is a timestamp without time zone.
-- postgres: date_trunc timestamptz | 2024-05-01 00:00:00+00
-- tidemill: date_trunc timestamp | 2024-05-01 00:00:00
SELECT date_trunc('month', date '2024-05-06');
SELECT date_trunc('day', timestamptz '2024-05-06 07:08:09+00');
-- differs: date_trunc knows microsecond to year, in the singular, over timestamps and dates in UTC.
-- postgres: date_trunc timestamptz | 2024-05-06 15:00:00+00
-- tidemill: ERROR 42883
SELECT date_trunc('day', timestamptz '2024-05-06 20:00:00+00', 'Asia/Tokyo');
-- differs: date_trunc knows microsecond to year, in the singular, over timestamps and dates in UTC.
-- postgres: date_trunc interval | 1 day 03:00:00
-- tidemill: ERROR 42883
SELECT date_trunc('hour', interval '1 day 03:04:05');
SELECT date_trunc('nosuch', timestamp '2024-01-01');
SELECT date_bin('15 minutes', timestamp '2024-01-01 10:07:30', timestamp '2024-01-01'), date_bin(interval '1 hour', timestamp '2024-01-01 10:07:30', timestamp '2000-01-01 00:30:00'), date_bin('1 day', timestamptz '2024-01-01 10:07:30+00', timestamptz '2001-01-01 00:00:00+00');
-- differs: date_bin takes months too, and bins by the calendar.
-- postgres: ERROR 0A000
-- tidemill: date_bin timestamp | 2024-01-01 00:00:00
SELECT date_bin('1 month', timestamp '2024-01-01', timestamp '2000-01-01');
SELECT make_date(2024, 2, 29), make_time(10, 30, 15.5), make_timestamp(2024, 1, 2, 3, 4, 5.5), make_interval(days => 10), make_interval(1, 2, 3, 4, 5, 6, 7.5), make_timestamptz(2024, 1, 2, 3, 4, 5.5);
SELECT make_date(2024, 2, 30);
SELECT to_char(timestamp '2024-05-06 07:08:09.123456', 'YYYY-MM-DD HH24:MI:SS'), to_char(timestamp '2024-05-06 17:08:09', 'HH12:MI AM'), to_char(timestamp '2024-05-06 07:08:09', 'Day DD Month YYYY'), to_char(timestamp '2024-05-06 07:08:09', 'FMDay, FMDD FMMonth YYYY'), to_char(date '2024-05-06', 'Dy Mon D DDD IW Q'), to_char(timestamp '2024-05-06 07:08:09.123456', 'SS.MS US');
SELECT to_char(timestamptz '2024-05-06 07:08:09+00', 'YYYY-MM-DD"T"HH24:MI:SS'), to_char(date '2024-01-01', 'YY Y,YYY'), to_char(date '2024-05-06', 'DDth "of" MONTH'), to_char(timestamp '2024-05-06', 'J'), to_char(interval '15h 2m 12s', 'HH24:MI:SS');
SELECT to_char(125, '999'), to_char(125.8, '999D9'), to_char(-125.8, '999D99S'), to_char(1485, '9,999'), to_char(0.1, '0.99'), to_char(12, '00000'), to_char(485, 'RN'), to_char(-12, 'S999'), to_char(1234567.891, 'FM9,999,999.00'), to_char(5, 'FM09'), to_char(148.5, '999.999'), to_char(-5, '999PR');
SELECT to_date('05 Dec 2000', 'DD Mon YYYY'), to_date('2024-05-06', 'YYYY-MM-DD'), to_date('20240506', 'YYYYMMDD');
SELECT to_timestamp('2024-05-06 07:08:09', 'YYYY-MM-DD HH24:MI:SS'), to_timestamp(1700000000), to_timestamp(1700000000.5), to_timestamp('05 Dec 2000', 'DD Mon YYYY');
SELECT to_timestamp('x', 'YYYY');
SELECT to_number('12,454.8', '99G999D9'), to_number('-34,338,492', '99G999G999');
SELECT age(timestamp '2001-04-10', timestamp '1957-06-13'), age(date '2024-03-01', date '2024-02-01'), age(timestamp '2024-01-01', timestamp '2024-03-15 10:00');
SELECT timestamp '2024-01-01 12:00' AT TIME ZONE 'UTC', timestamp '2024-01-01 12:00' AT TIME ZONE 'America/New_York', timestamptz '2024-01-01 12:00+00' AT TIME ZONE 'America/New_York', timestamptz '2024-07-01 12:00+00' AT TIME ZONE 'Europe/Berlin', timezone('Asia/Tokyo', timestamptz '2024-01-01 00:00+00');
SELECT timestamp '2024-01-01 12:00' AT TIME ZONE 'Nowhere/Land';
SELECT timestamptz '2024-01-01 12:00+00' AT TIME ZONE '+02:00', timestamptz '2024-01-01 12:00+00' AT TIME ZONE interval '2 hours';
-- differs: the column of OVERLAPS has no name of its own.
-- postgres: overlaps bool | t
-- tidemill: ?column? bool | t
SELECT (timestamp '2024-01-01', timestamp '2024-01-10') OVERLAPS (timestamp '2024-01-05', timestamp '2024-01-15');
SELECT isfinite(date '2024-01-01'), isfinite(timestamp '2024-01-01'), isfinite(interval '1 day');
SELECT current_date = now()::date, current_timestamp = now(), localtime IS NOT NULL, clock_timestamp() IS NOT NULL, statement_timestamp() IS NOT NULL, transaction_timestamp() = now();
-- differs: pg_typeof, timeofday and pg_sleep are missing.
-- postgres: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | date, timestamp with time zone, timestamp without time zone, time with time zone
-- tidemill: ERROR 42883
SELECT pg_typeof(current_date), pg_typeof(current_timestamp), pg_typeof(localtimestamp), pg_typeof(current_time);
SELECT justify_hours(interval '27 hours'), justify_days(interval '35 days'), justify_interval(interval '1 mon -1 hour');
SELECT timestamp '2024-01-01 00:00:00' BETWEEN date '2024-01-01' AND date '2024-01-02', date '2024-01-01' BETWEEN '2023-12-31' AND '2024-01-01';
SELECT d, d + n FROM (VALUES (date '2024-01-30', 1), (date '2024-02-28', 2)) AS t (d, n) ORDER BY d;
SELECT min(d), max(d), count(DISTINCT d) FROM (VALUES (date '2024-01-30'), (date '2024-02-28'), (NULL)) AS t (d);
SELECT ts, ts - interval '1 month' FROM (VALUES (timestamp '2024-03-31 12:00'), (timestamp '2024-01-01')) AS t (ts) ORDER BY ts;
-- differs: avg of intervals is missing; average extract(epoch FROM …).
-- postgres: avg interval | 2 days
-- tidemill: ERROR 42883
SELECT avg(ts - timestamp '2024-01-01') FROM (VALUES (timestamp '2024-01-02'), (timestamp '2024-01-04')) AS t (ts);
SELECT date '2024-01-01' - timestamp '2023-12-31 12:00', timestamp '2024-01-02' - date '2024-01-01';
SELECT timestamp '2024-01-01' + 1;
SELECT date '9999-12-31' + 10000000;
SELECT timestamp '2024-01-01 00:00:00' + interval '1000000 years';
SELECT timestamp '2024-01-01 00:00:00.123456789';
-- differs: the precision of a timestamp is read and has no effect: all have microseconds.
-- postgres: timestamp timestamp | 2024-01-01 00:00:01
-- tidemill: timestamp timestamp | 2024-01-01 00:00:00.6
SELECT '2024-01-01 00:00:00.6'::timestamp(0);
SELECT extract(year FROM d), count(*) FROM (VALUES (date '2024-01-30'), (date '2023-02-28'), (date '2024-02-28')) AS t (d) GROUP BY extract(year FROM d) ORDER BY 1;
SELECT date_trunc('month', ts) AS m, sum(n) FROM (VALUES (timestamp '2024-01-30', 1), (timestamp '2024-01-02', 2), (timestamp '2024-02-28', 4)) AS t (ts, n) GROUP BY 1 ORDER BY 1;
-- differs: pg_typeof, timeofday and pg_sleep are missing.
-- postgres: ?column? bool, ?column? bool | t, f
-- tidemill: ERROR 42883
SELECT timeofday() IS NOT NULL, pg_sleep(0) IS NULL;
SELECT date '2024-01-01'::timestamptz, time '10:00'::text, '10:00'::time < '11:00'::time;
