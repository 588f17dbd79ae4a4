-- The pipelines of flights.sql, over flights that are easy to follow.
--
--   tidemill test examples/flights

INCLUDE 'flights.sql';

TEST 'delays are those of flights that left';

GIVEN flights (carrier, flight, origin, dest, dep_time, dep_delay, time_hour) VALUES
    ('UA', 1, 'EWR', 'IAH', 517, 2, '2013-01-01 10:00:00'),
    ('UA', 2, 'EWR', 'ORD', 540, 40, '2013-01-01 10:00:00'),
    ('UA', 3, 'EWR', 'BOS', NULL, NULL, '2013-01-01 10:00:00'),
    ('B6', 4, 'JFK', 'BQN', 544, -1, '2013-01-01 10:00:00');

EXPECT delays VALUES
    ('UA', '2013-01-01 10:00:00', 2, 21, 40),
    ('B6', '2013-01-01 10:00:00', 1, -1, -1);

TEST 'a cancelled flight counts for its airline, whichever is known first';

GIVEN flights (carrier, time_hour) VALUES ('UA', '2013-01-01 10:00:00');

EXPECT cancelled EMPTY;

GIVEN airlines VALUES ('UA', 'United Air Lines Inc.');

EXPECT cancelled VALUES ('United Air Lines Inc.', 1);

GIVEN flights (carrier, time_hour) VALUES ('UA', '2013-01-01 11:00:00');

EXPECT CHANGES OF cancelled
    + ('United Air Lines Inc.', 1),
    - ('United Air Lines Inc.', 1), + ('United Air Lines Inc.', 2);

TEST 'weather is that of the hour and the place of departure';

GIVEN weather VALUES
    ('EWR', 39.0, 10.4, 0.0, 0.25, '2013-01-01 10:00:00'),
    ('EWR', 39.9, 8.1, 0.0, 10.0, '2013-01-01 11:00:00');

GIVEN flights (carrier, flight, origin, dest, dep_time, dep_delay, time_hour) VALUES
    ('UA', 1, 'EWR', 'IAH', 800, 121, '2013-01-01 10:00:00'),
    ('UA', 2, 'EWR', 'IAH', 801, 120, '2013-01-01 10:00:00'),
    ('UA', 3, 'JFK', 'IAH', 999, 300, '2013-01-01 10:00:00');

EXPECT late_in_weather (flight, dep_delay, temp, visib) VALUES (1, 121, 39.0, 0.25);

EXPECT delay_by_visibility VALUES (0, 2, 120.5, 0);

TEST 'a plane is unknown until somebody registers it';

GIVEN flights (tailnum, time_hour) VALUES ('N14228', '2013-01-01 10:00:00'), ('N14228', '2013-01-01 12:00:00');

EXPECT unknown_planes VALUES ('N14228', 2);

CRASH;

GIVEN planes VALUES ('N14228', 1999, 'BOEING', 149);

EXPECT unknown_planes EMPTY;

EXPECT CHANGES OF unknown_planes + ('N14228', 2), - ('N14228', 2);

TEST 'a day comes out once it is complete, and late flights do not change it';

GIVEN flights (dep_time, dep_delay, time_hour) VALUES
    (517, 2, '2013-01-01 10:00:00'),
    (NULL, NULL, '2013-01-01 23:00:00');

EXPECT daily EMPTY;

-- No flight is more than a day late.
GIVEN flights (dep_time, dep_delay, time_hour) VALUES (1, 0, '2013-01-03 00:00:00');

EXPECT daily VALUES ('2013-01-01', 2, 1, 2);

GIVEN flights (dep_time, dep_delay, time_hour) VALUES (1, 1000, '2013-01-01 12:00:00');

EXPECT daily VALUES ('2013-01-01', 2, 1, 2);

EXPECT 1 LATE ROW OF daily;

TEST 'the last day comes out when the file ends';

GIVEN flights (dep_time, dep_delay, time_hour) VALUES (517, 2, '2013-12-31 10:00:00');

FINISH flights;

EXPECT daily VALUES ('2013-12-31', 1, 1, 2);

TEST 'the three longest delays of a carrier follow its flights';

GIVEN flights (carrier, flight, dest, dep_delay, time_hour) VALUES
    ('HA', 51, 'HNL', 10, '2013-01-01 10:00:00'),
    ('HA', 52, 'HNL', 20, '2013-01-01 10:00:00'),
    ('HA', 53, 'HNL', 30, '2013-01-01 10:00:00');

RESTART;

GIVEN flights (carrier, flight, dest, dep_delay, time_hour) VALUES ('HA', 54, 'HNL', 25, '2013-01-01 10:00:00');

EXPECT (SELECT place, flight, dep_delay FROM longest_delays ORDER BY place) IN ORDER VALUES
    (1, 53, 30), (2, 54, 25), (3, 52, 20);
