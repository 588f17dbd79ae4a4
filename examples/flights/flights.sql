-- All flights that left New York City in 2013, as a stream, joined with the weather of their hour.
--
--   tidemill run examples/flights/flights.sql
--
-- Paths are seen from the server's working directory: start it in the repository's root.

CREATE SOURCE flights (
    dep_time INT,                 -- NULL when the flight was cancelled
    dep_delay INT,                -- minutes; early departures are negative
    arr_delay INT,
    carrier TEXT,
    flight INT,
    tailnum TEXT,
    origin TEXT,
    dest TEXT,
    distance INT,
    time_hour TIMESTAMP NOT NULL, -- the hour of the scheduled departure, UTC
    WATERMARK FOR time_hour AS time_hour - INTERVAL '1 day'
) WITH (connector = 'file', path = 'examples/flights/data/flights.csv.gz')
FORMAT PLAIN ENCODE CSV (header = 'true', null = 'NA');

CREATE SOURCE weather (
    origin TEXT,
    temp DOUBLE PRECISION,
    wind_speed DOUBLE PRECISION,
    precip DOUBLE PRECISION,
    visib DOUBLE PRECISION,
    time_hour TIMESTAMP NOT NULL
) WITH (connector = 'file', path = 'examples/flights/data/weather.csv.gz')
FORMAT PLAIN ENCODE CSV (header = 'true', null = 'NA');

CREATE SOURCE airlines (carrier TEXT, name TEXT)
WITH (connector = 'file', path = 'examples/flights/data/airlines.csv')
FORMAT PLAIN ENCODE CSV (header = 'true', null = 'NA');

CREATE SOURCE airports (faa TEXT, name TEXT)
WITH (connector = 'file', path = 'examples/flights/data/airports.csv')
FORMAT PLAIN ENCODE CSV (header = 'true', null = 'NA');

CREATE SOURCE planes (tailnum TEXT, year INT, manufacturer TEXT, seats INT)
WITH (connector = 'file', path = 'examples/flights/data/planes.csv')
FORMAT PLAIN ENCODE CSV (header = 'true', null = 'NA');

-- How late each carrier is, hour by hour.
CREATE PIPELINE delays AS
SELECT carrier, time_hour, count(*) AS flights, avg(dep_delay) AS avg_delay, max(dep_delay) AS max_delay
FROM flights
WHERE dep_delay IS NOT NULL
GROUP BY carrier, time_hour;

-- Flights that left more than two hours late, and the weather at that place in that hour.
CREATE PIPELINE late_in_weather AS
SELECT f.carrier, f.flight, f.origin, f.dest, f.time_hour, f.dep_delay, w.temp, w.wind_speed, w.visib
FROM flights AS f
JOIN weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE f.dep_delay > 120;

-- Does fog make flights late? All flights joined with the weather, by visibility in miles.
CREATE PIPELINE delay_by_visibility AS
SELECT floor(w.visib) AS miles, count(*) AS flights, avg(f.dep_delay) AS avg_delay,
    count(*) FILTER (WHERE f.dep_time IS NULL) AS cancelled
FROM flights AS f
JOIN weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
GROUP BY floor(w.visib);

-- The ten routes on which one arrives latest.
CREATE PIPELINE worst_routes AS
SELECT origin, dest, count(*) AS flights, avg(arr_delay) AS avg_delay
FROM flights
WHERE arr_delay IS NOT NULL
GROUP BY origin, dest
HAVING count(*) >= 100
ORDER BY avg_delay DESC, origin, dest
LIMIT 10;

-- The three longest delays of each carrier.
CREATE PIPELINE longest_delays AS
SELECT carrier, place, flight, dest, time_hour, dep_delay
FROM (
    SELECT carrier, flight, dest, time_hour, dep_delay,
        row_number() OVER (PARTITION BY carrier ORDER BY dep_delay DESC, time_hour, flight) AS place
    FROM flights
    WHERE dep_delay IS NOT NULL
) AS ranked
WHERE place <= 3;

-- Cancelled flights by the name of the airline.
CREATE PIPELINE cancelled AS
SELECT a.name, count(*) AS flights
FROM flights AS f
JOIN airlines AS a ON a.carrier = f.carrier
WHERE f.dep_time IS NULL
GROUP BY a.name;

-- Planes that fly and that nobody has registered.
CREATE PIPELINE unknown_planes AS
SELECT f.tailnum, count(*) AS flights
FROM flights AS f
LEFT JOIN planes AS p ON p.tailnum = f.tailnum
WHERE p.tailnum IS NULL
GROUP BY f.tailnum;

-- Destinations that are in no list of airports.
CREATE PIPELINE unknown_airports AS
SELECT f.dest, count(*) AS flights
FROM flights AS f
WHERE NOT EXISTS (SELECT 1 FROM airports AS a WHERE a.faa = f.dest)
GROUP BY f.dest;

-- One row for each day, once the day is complete: no flight is more than a day late.
CREATE PIPELINE daily AS
SELECT window_start AS day, count(*) AS flights, count(dep_time) AS departed, avg(dep_delay) AS avg_delay
FROM TUMBLE(flights, time_hour, INTERVAL '1 day')
GROUP BY window_start
EMIT ON WINDOW CLOSE;
