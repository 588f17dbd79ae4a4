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
SELECT date_trunc('milliseconds', timestamp '2024-05-06 07:08:09.123456');
SELECT date_trunc('decade', timestamp '2024-05-06 07:08:09'), date_trunc('century', timestamp '2024-05-06'), date_trunc('millennium', timestamp '2024-05-06');
SELECT date_trunc('month', date '2024-05-06');
SELECT date_trunc('day', timestamptz '2024-05-06 07:08:09+00');
SELECT date_trunc('day', timestamptz '2024-05-06 20:00:00+00', 'Asia/Tokyo');
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
SELECT (timestamp '2024-01-01', timestamp '2024-01-10') OVERLAPS (timestamp '2024-01-05', timestamp '2024-01-15');
SELECT isfinite(date '2024-01-01'), isfinite(timestamp '2024-01-01'), isfinite(interval '1 day');
SELECT current_date = now()::date, current_timestamp = now(), localtime IS NOT NULL, clock_timestamp() IS NOT NULL, statement_timestamp() IS NOT NULL, transaction_timestamp() = now();
-- differs: time with time zone is missing.
-- postgres: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | date, timestamp with time zone, timestamp without time zone, time with time zone
-- tidemill: pg_typeof regtype, pg_typeof regtype, pg_typeof regtype, pg_typeof regtype | date, timestamp with time zone, timestamp without time zone, time without time zone
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
SELECT date_trunc('millennium', timestamp '2024-05-06'), date_trunc('century', timestamp '2024-05-06'), date_trunc('decade', timestamp '2024-05-06'), date_trunc('milliseconds', timestamp '2024-05-06 07:08:09.123456'), date_trunc('microseconds', timestamp '2024-05-06 07:08:09.123456'), date_trunc('hours', timestamp '2024-05-06 07:08:09');
SELECT date_trunc('day', timestamptz '2024-05-06 20:00+00', 'Australia/Sydney'), date_trunc('hour', interval '2 days 3:04:05'), date_trunc('month', interval '1 year 2 months 3 days'), date_trunc('month', date '2024-05-06');
SELECT date_bin('15 minutes', timestamp '2024-02-11 15:44:17', timestamp '2001-01-01'), date_bin('15 minutes', timestamp '1990-02-11 15:44:17', timestamp '2001-01-01 00:02:30');
-- differs: some errors of functions have a general SQLSTATE.
-- postgres: ERROR 22008
-- tidemill: ERROR 22000
SELECT date_bin('0 minutes', timestamp '2024-02-11 15:44:17', timestamp '2001-01-01');
SELECT extract(century FROM timestamp '2000-12-16'), extract(decade FROM timestamp '2001-02-16'), extract(millennium FROM timestamp '2001-02-16'), extract(julian FROM date '2006-01-01'), extract(timezone_hour FROM timestamptz '2024-01-01 00:00+00');
SELECT extract(day FROM interval '40 days 1 minute'), extract(hour FROM interval '26 hours'), extract(epoch FROM interval '5 days 3 hours'), extract(month FROM interval '2 years 3 months'), extract(year FROM interval '2 years 3 months'), extract(second FROM interval '1.5 seconds'), date_part('hour', interval '4 hours 3 minutes'), date_part('month', interval '2 years 3 months');
SELECT extract(quarter FROM interval '4 months'), extract(microseconds FROM time '17:12:28.5'), extract(epoch FROM timestamptz '2024-01-01 00:00:00+00');
SELECT age(timestamp '2024-05-06'), age(timestamp '2024-05-06') > interval '0' IS NOT NULL;
SELECT age('2024-03-31'::date, '2024-02-29'::date), age(timestamptz '2024-01-01 00:00+00', timestamptz '2023-12-31 12:00+00'), justify_days(interval '1 year 65 days'), justify_hours(interval '50 hours 10 minutes'), justify_interval(interval '1 mon -1 hour');
SELECT make_date(2013, 7, 15), make_date(-44, 3, 15), make_time(8, 15, 23.5), make_timestamp(2013, 7, 15, 8, 15, 23.5), make_timestamptz(2013, 7, 15, 8, 15, 23.5, 'America/New_York'), make_interval(hours => 2, mins => 5), make_interval(secs => 1.5);
SELECT make_time(25, 0, 0);
SELECT (date '2001-02-16', date '2001-12-21') OVERLAPS (date '2001-10-30', date '2002-10-30') AS o, (date '2001-02-16', interval '100 days') OVERLAPS (date '2001-10-30', date '2002-10-30') AS p;
-- differs: time with time zone is missing.
-- postgres: timezone timestamptz, timezone timestamp, ?column? bool | 2001-02-17 03:38:40+00, 2001-02-16 18:38:40, t
-- tidemill: ERROR 42883
SELECT timestamp '2001-02-16 20:38:40' AT TIME ZONE 'America/Denver', timestamptz '2001-02-16 20:38:40-05' AT TIME ZONE 'America/Denver', time '10:00' AT TIME ZONE 'UTC' IS NOT NULL;
SELECT timestamptz '2001-02-16 20:38:40-05' AT TIME ZONE 'Asia/Tokyo' AT TIME ZONE 'America/Chicago', timestamp '2024-01-01 12:00' AT TIME ZONE 'EST', timestamp '2024-01-01 12:00' AT TIME ZONE '-05', timestamp '2024-01-01 12:00' AT TIME ZONE interval '-05:00';
-- differs: the precision of a timestamp is read and has no effect: all have microseconds.
-- postgres: ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool, ?column? bool | t, t, t, t, t, t
-- tidemill: ERROR 42883
SELECT current_date IS NOT NULL, current_time IS NOT NULL, current_timestamp(0) IS NOT NULL, localtime(0) IS NOT NULL, localtimestamp(2) IS NOT NULL, timeofday() IS NOT NULL;
SELECT to_timestamp(0), to_timestamp(1284352323.5), to_timestamp('Infinity'::float8);
-- differs: dates are written in numbers, and times with 24 hours.
-- postgres: date date, date date, date date, date date, date date, date date, date date, date date, date date, date date | 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08, 1999-01-08
-- tidemill: ERROR 22007
SELECT 'Jan 8, 1999'::date, 'January 8, 1999'::date, '1/8/1999'::date, '1999-Jan-08'::date, '08-Jan-1999'::date, '19990108'::date, '990108'::date, '1999.008'::date, 'J2451187'::date, '8 Jan 1999'::date;
-- differs: dates are written in numbers, and times with 24 hours.
-- postgres: time time, time time, time time, time time, time time, time time | 04:05:06.789, 04:05:06, 04:05:00, 16:05:00, 16:05:06, 24:00:00
-- tidemill: ERROR 22007
SELECT '04:05:06.789'::time, '040506'::time, '04:05 AM'::time, '04:05 PM'::time, '04:05:06 PM'::time, '24:00:00'::time;
-- differs: dates are written in numbers, and times with 24 hours.
-- postgres: timestamp timestamp, timestamp timestamp, timestamptz timestamptz, timestamptz timestamptz, timestamptz timestamptz, timestamptz timestamptz, timestamptz timestamptz | 1999-01-08 16:05:06, 1999-01-08 04:05:06, 1999-01-08 04:05:06+00, 1999-01-08 12:05:06+00, 1999-01-08 09:05:06+00, 1999-01-08 12:05:06+00, 1970-01-01 00:00:00+00
-- tidemill: ERROR 22007
SELECT '1999-01-08 04:05:06 PM'::timestamp, 'Jan 8 1999 04:05:06'::timestamp, '1999-01-08T04:05:06Z'::timestamptz, '1999-01-08 04:05:06 -8:00'::timestamptz, '1999-01-08 04:05:06 America/New_York'::timestamptz, '1999-01-08 04:05:06 PST'::timestamptz, 'epoch'::timestamptz;
-- differs: the SQL standard's interval literals with a dash or with bare days are not read; write units.
-- postgres: interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval | 1 year 2 mons, 3 days 04:05:06, 1 year 2 mons 3 days 04:05:06, 1 year 2 mons 3 days 04:05:06, 1 year 2 mons 3 days 04:05:06, 1 year 2 mons 3 days 04:05:06, -00:01:00, -1 days +02:03:00, 1 day 12:00:00, 7 days, 20 years, 100 years
-- tidemill: ERROR 22007
SELECT '1-2'::interval, '3 4:05:06'::interval, '1 year 2 months 3 days 4 hours 5 minutes 6 seconds'::interval, 'P1Y2M3DT4H5M6S'::interval, 'P0001-02-03T04:05:06'::interval, '1y 2mon 3d 4h 5m 6s'::interval, '@ 1 minute ago'::interval, '-1 days +02:03'::interval, '1.5 days'::interval, '1 week'::interval, '2 decades'::interval, '1 century'::interval;
-- differs: the SQL standard's interval literals with a dash or with bare days are not read; write units.
-- postgres: interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, interval interval, ?column? interval | 1 year, 1 year 2 mons, 3 days 04:00:00, 00:01:30, 00:00:01.5, 2 mons, 00:00:02, 1 day 02:00:00
-- tidemill: ERROR 22007
SELECT interval '1' year, interval '1-2' year to month, interval '3 4' day to hour, interval '1:30' minute to second, interval '1.5' second, interval '2' month, interval(0) '1.6 seconds', interval '1' day + interval '2' hour;
SELECT interval '1 day' = interval '24 hours', interval '1 month' = interval '30 days', interval '1 day' < interval '25 hours', interval '1 hour' * 1.5, interval '1 day' / 2, 2 * interval '1 day', -interval '1 day', interval '1 day' - interval '1 hour';
SELECT '1 mon 1 day 01:02:03.5'::interval::text, '-1 day -01:00'::interval::text, interval '100 hours', interval '-1 month +1 day', interval '0';
SELECT timestamp '2024-01-31' + interval '1 month', timestamp '2024-03-31' - interval '1 month', date '2024-02-29' + interval '1 year', timestamptz '2024-03-10 00:00+00' + interval '1 day';
-- differs: the precision of a timestamp is read and has no effect: all have microseconds.
-- postgres: timestamp timestamp, time time, timestamp timestamp | 2024-01-01 00:00:01, 10:00:00.2, 2024-01-01 00:00:00.123
-- tidemill: timestamp timestamp, time time, timestamp timestamp | 2024-01-01 00:00:00.6, 10:00:00.16, 2024-01-01 00:00:00.123456
SELECT '2024-01-01 00:00:00.6'::timestamp(0), '10:00:00.16'::time(1), timestamp(3) '2024-01-01 00:00:00.123456';
-- differs: time and interval are not cast into each other.
-- postgres: interval interval, time time, time time, date date | 10:00:00, 02:00:00, 10:00:00, 2024-01-01
-- tidemill: ERROR 0A000
SELECT time '10:00'::interval, interval '26:00'::time, timestamptz '2024-01-01 10:00+00'::time, timestamp '2024-01-01 10:00'::date;
SELECT 'infinity'::timestamp, '-infinity'::date, 'infinity'::date > date '9999-01-01', isfinite('infinity'::timestamp);
-- differs: time with time zone is missing.
-- postgres: timetz timetz | 10:00:00+02
-- tidemill: ERROR 0A000
SELECT '10:00+02'::timetz;
SELECT date '2024-01-01' = '2024-01-01', timestamp '2024-01-01' > '2023-12-31', '2024-01-01' < date '2024-02-01', date '2024-01-01' IN ('2024-01-01', '2024-01-02'), date '2024-01-01' BETWEEN '2023-01-01' AND '2025-01-01';
SELECT d - 1, d + 1, d - date '2024-01-01', d + interval '1 day', d + time '10:00', extract(dow FROM d) FROM (VALUES (date '2024-03-01')) AS t (d);
SELECT date_part('day', timestamp '2024-03-05' - timestamp '2024-03-01'), extract(epoch FROM timestamp '2024-03-05' - timestamp '2024-03-01') / 3600, (date '2024-03-05' - date '2024-03-01') * 24;
SELECT clock_timestamp() >= statement_timestamp(), now() = transaction_timestamp(), pg_typeof(now());
SELECT date_add(timestamptz '2024-01-01 00:00+00', interval '1 day');
SELECT to_char(now(), 'YYYY') IS NOT NULL, to_char(interval '90 minutes', 'HH24:MI'), to_char(time '10:00', 'HH24:MI');
SELECT sum(i), min(i), max(i) FROM (VALUES (interval '1 day'), (interval '2 hours')) AS t (i);
-- differs: avg of intervals is missing; average extract(epoch FROM …).
-- postgres: avg interval | 13:00:00
-- tidemill: ERROR 42883
SELECT avg(i) FROM (VALUES (interval '1 day'), (interval '2 hours')) AS t (i);
-- differs: grouping, DISTINCT, greatest and least tell intervals apart by their fields: 1 day and 24 hours are two.
-- postgres: i interval, count int8 | 1 day, 2
-- tidemill: i interval, count int8 | 1 day, 1 | 24:00:00, 1
SELECT i, count(*) FROM (VALUES (interval '1 day'), (interval '24 hours')) AS t (i) GROUP BY i;
SELECT i FROM (VALUES (interval '1 day'), (interval '2 hours'), (interval '-1 month')) AS t (i) ORDER BY i;
SELECT pg_sleep(0);
SELECT extract(isodow FROM timestamp '2024-03-03'), extract(isoyear FROM date '2021-01-01'), extract(week FROM date '2021-01-01'), extract(doy FROM date '2024-12-31');
SELECT now() AT TIME ZONE 'UTC' IS NOT NULL, timezone('UTC', timestamp '2024-01-01 10:00'), timezone('America/New_York', timestamptz '2024-01-01 10:00+00');
